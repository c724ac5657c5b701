//! Metrics as node_exporter reads them, and their alerts and dashboard. promtool is the judge.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kpull::agent::metrics::METRICS;
use serde_json::{Value, json};

use crate::support::site::{Site, Tree};
use crate::tree::pki::{WEB, World};

fn packaged(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(path)
}

/// Whether promtool is content, and everything that it says.
fn promtool(arguments: &[&str], input: Stdio) -> (bool, String) {
    let output =
        Command::new("promtool").args(arguments).stdin(input).output().expect("promtool: `tests/run` brings it");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// Holds metrics to Prometheus's rules for their form, names and help.
fn check(path: &Path) {
    let (good, message) = promtool(&["check", "metrics"], fs::File::open(path).unwrap().into());
    assert!(good && message.is_empty(), "{message}\n{}", fs::read_to_string(path).unwrap());
}

/// A host that writes its metrics beside its site.
fn host(site: &Site) -> Tree {
    let tree = site.enroll();
    fs::create_dir(tree.at("collected")).unwrap();
    configure(site, &tree);
    tree
}

fn configure(site: &Site, tree: &Tree) {
    let dir = tree.at("collected");
    tree.configure(&format!("[[source]]\ndir = {:?}\n[metrics]\ndir = {dir:?}\n", site.path()));
}

fn value(tree: &Tree, metric: &str) -> f64 {
    let text = tree.read("collected/kpull.prom");
    let found = text.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("{metric} in\n{text}")).parse().unwrap()
}

#[test]
fn a_host_writes_the_results_of_its_runs_world_readable() {
    let site = Site::new("test");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n");
    site.role(
        "base",
        "[[file]]\npath = \"/etc/a\"\ncontent = \"x\\n\"\n[[file]]\npath = \"/etc/b\"\ncontent = \"x\\n\"\n",
    );
    let tree = host(site.sign());
    tree.kpull("apply").exits(0);
    check(&tree.at("collected/kpull.prom"));
    assert_eq!((tree.mode("collected/kpull.prom"), fs::read_dir(tree.at("collected")).unwrap().count()), (0o644, 1));
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(value(&tree, &format!("kpull_info{{site=\"test\",host=\"h1\",version=\"{version}\"}}")), 1.0);
    let of = |tree: &Tree| {
        let names = [
            "last_run_changed_resources",
            "changed_resources_total",
            "last_run_drifted_resources",
            "drifted_resources_total",
        ];
        names.map(|name| value(tree, &format!("kpull_{name}")))
    };
    // what a release brings is no drift, what has moved away from it is
    assert_eq!(of(&tree), [2.0, 2.0, 0.0, 0.0]);
    tree.write("etc/a", "other\n").kpull("apply").exits(0);
    assert_eq!(of(&tree), [1.0, 3.0, 1.0, 1.0]);
    tree.kpull("apply").exits(0);
    assert_eq!(of(&tree), [0.0, 3.0, 0.0, 1.0]);
    assert_eq!((value(&tree, "kpull_release_serial"), value(&tree, "kpull_resources")), (1.0, 2.0));
    // a run that fails leaves when one was good last
    let good = value(&tree, "kpull_last_success_timestamp_seconds");
    fs::remove_file(site.path().join("release.toml.sig")).unwrap();
    let failed = tree.kpull("apply");
    assert_ne!(failed.code, 0);
    assert_eq!(value(&tree, "kpull_last_run_exit_code"), f64::from(failed.code));
    assert_eq!(value(&tree, "kpull_last_success_timestamp_seconds"), good);
    assert!(value(&tree, "kpull_last_run_timestamp_seconds") > good);
    check(&tree.at("collected/kpull.prom"));
}

#[test]
fn metrics_show_when_the_certificates_of_a_host_expire() {
    let world = World::issued(WEB);
    world.site.sign();
    fs::create_dir(world.tree.at("collected")).unwrap();
    configure(&world.site, &world.tree);
    world.tree.kpull("apply").exits(0);
    check(&world.tree.at("collected/kpull.prom"));
    let end = value(&world.tree, "kpull_certificate_expiry_timestamp_seconds{certificate=\"web\"}");
    let renew = value(&world.tree, "kpull_certificate_renewal_timestamp_seconds{certificate=\"web\"}");
    assert_eq!(end - renew, 60.0 * 86400.0);
    let days = (end - value(&world.tree, "kpull_last_run_timestamp_seconds")) / 86400.0;
    assert!((364.0..365.1).contains(&days), "{days}");
}

#[test]
fn a_probe_that_the_host_no_longer_has_leaves_the_metrics() {
    let site = Site::new("test");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n");
    site.role(
        "base",
        "[[probe]]\nname = \"api\"\ntcp = \"127.0.0.1:1\"\n[[file]]\npath = \"/etc/a\"\ncontent = \"x\"\n",
    );
    let tree = host(site.sign());
    tree.write("var/lib/kpull/vitals.json", r#"{ "probes": { "probe:api": true, "probe:old": false } }"#);
    tree.kpull("apply").exits(0);
    assert_eq!(value(&tree, "kpull_probe_success{probe=\"api\"}"), 1.0);
    assert!(!tree.read("collected/kpull.prom").contains("probe=\"old\""));
}

#[test]
fn metrics_that_can_t_be_written_stop_nothing() {
    let site = Site::new("test");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n").role("base", "");
    let tree = host(site.sign());
    fs::remove_dir(tree.at("collected")).unwrap();
    let output = tree.kpull("apply --json").exits(0);
    let reported = &output.events("not_reported")[0];
    assert!(reported["error"].as_str().unwrap().starts_with("can't write the metrics: "), "{reported}");
}

#[test]
fn every_metric_has_a_name_that_prometheus_recommends() {
    let dir = tempfile::tempdir().unwrap();
    let mut text = String::new();
    for metric in METRICS {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("{label}=\"x\"")).collect();
        let (name, kind, help, labels) = (metric.name, metric.kind, metric.help, labels.join(","));
        text += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{{{labels}}} 1\n");
    }
    fs::write(dir.path().join("all"), text).unwrap();
    check(&dir.path().join("all"));
}

#[test]
fn every_alert_fires_when_it_should_and_not_before() {
    let (good, message) =
        promtool(&["check", "rules", packaged("prometheus/kpull.rules.yml").to_str().unwrap()], Stdio::null());
    assert!(good, "{message}");
    let tests = packaged("prometheus/kpull.rules.test.yml");
    let (good, message) = promtool(&["test", "rules", tests.to_str().unwrap()], Stdio::null());
    assert!(good, "{message}");
    // and each has a test
    let (rules, tests) =
        (fs::read_to_string(packaged("prometheus/kpull.rules.yml")).unwrap(), fs::read_to_string(tests).unwrap());
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(&format!("alertname: {alert}\n")), "{alert}");
    }
    known(&rules);
}

/// Holds a text to metrics that there are.
fn known(text: &str) {
    let words = text.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
    let named: BTreeSet<&str> = words.filter(|word| word.starts_with("kpull_")).collect();
    assert!(!named.is_empty());
    for name in named {
        assert!(METRICS.iter().any(|metric| metric.name == name), "kpull writes no {name}");
    }
}

/// Every `expr` in a dashboard.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        Value::Object(fields) => {
            found.extend(fields.get("expr").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| expressions(value, found));
        }
        _ => {}
    }
}

#[test]
fn the_dashboard_queries_existing_metrics_in_valid_promql() {
    let text = fs::read_to_string(packaged("grafana/kpull.json")).unwrap();
    let mut found = Vec::new();
    expressions(&serde_json::from_str(&text).unwrap(), &mut found);
    assert!(found.len() > 10, "{found:?}");
    found.iter().for_each(|expression| known(expression));
    // JSON is YAML; a dashboard's variables are inside of texts, where they may stay
    let rules: Vec<Value> =
        found.iter().enumerate().map(|(at, expr)| json!({ "record": format!("panel:{at}"), "expr": expr })).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("panels.yml");
    fs::write(&path, json!({ "groups": [{ "name": "panels", "rules": rules }] }).to_string()).unwrap();
    let (good, reported) = promtool(&["check", "rules", path.to_str().unwrap()], Stdio::null());
    assert!(good, "{reported}");
}

#[test]
fn the_documentation_has_every_metric() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src/usage/observing.md");
    let page = fs::read_to_string(page).unwrap();
    for metric in METRICS {
        let labels = metric.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        let line = format!("| `{}` | {} | {labels} | {} |", metric.name, metric.kind, metric.help);
        assert!(page.contains(&line.replace("|  |", "| |")), "{line}");
    }
    known(&page);
}
