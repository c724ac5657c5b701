//! The JSON Schemas that editors get, and the one way in which files are written.

use std::fs;
use std::path::{Path, PathBuf};

use boon::{Compiler, Schemas};
use kpull::author::schema::FILES;
use kpull::document::{Doc, Files};
use serde_json::Value;

use crate::support::site::{Site, kpull};

/// Whether a TOML text is right by the schema of `kind`; else why not.
fn judge(kind: &str, text: &str) -> Result<(), String> {
    let printed = kpull(&["schema", kind]).exits(0).stdout;
    let schema: Value = serde_json::from_str(&printed).unwrap();
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    compiler.add_resource("kpull.json", schema).unwrap();
    let index = compiler.compile("kpull.json", &mut schemas).unwrap();
    let doc = Doc::parse("x.toml", text.as_bytes()).unwrap();
    schemas.validate(doc.value(), index).map_err(|error| error.to_string())
}

/// What sort of file stands at a path of a site.
fn kind_of(path: &str) -> Option<&'static str> {
    Some(match path.split('/').collect::<Vec<_>>()[..] {
        ["site.toml"] => "site",
        ["artifacts.toml"] => "artifacts",
        ["host_vars", _] => "host",
        ["roles", _, "role.toml"] => "role",
        ["roles", _, "tests", _] => "test",
        _ => return None,
    })
}

/// The shipped site, and those of the cluster's tests that are sites of their own.
fn shipped() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sites = fs::read_dir(root.join("tests/cluster/sites")).unwrap().map(|entry| entry.unwrap().path());
    std::iter::once(root.to_owned()).chain(sites).collect()
}

/// A list of roles of another site.
const VENDOR: &str = "[common]\ngit = \"git@h:common\"\ncommit = \"0123456789012345678901234567890123456789\"\n\
    signers = [\"alice ssh-ed25519 AAAA\"]\nthreshold = 1\nroles = [\"web\", { name = \"db\", as = \"sql\" }]\n";

/// The facts of a host, as `kpull facts` prints them.
const FACTS: &str = "hostname = \"h\"\narch = \"amd64\"\nmemory = 1024\ncores = 2\nboot_id = \"0\"\nselinux = \"enforcing\"\n\
    cgroup = \"v2\"\nlive = true\n[os]\nid = \"rocky\"\nversion = \"9.3\"\nvariant = \"\"\nfamily = \"rhel\"\n\
    [interfaces]\neth0 = [\"10.0.0.1\", \"fe80::1\"]\n";

#[test]
fn every_shipped_file_is_valid_by_its_schema() {
    let mut seen = std::collections::BTreeSet::new();
    for dir in shipped() {
        for (path, bytes) in Files::in_directory(&dir).unwrap().iter() {
            let Some(kind) = kind_of(path) else { continue };
            seen.insert(kind);
            judge(kind, std::str::from_utf8(bytes).unwrap()).unwrap_or_else(|why| panic!("{path}: {why}"));
        }
    }
    // none of them has roles of another site
    judge("vendor", VENDOR).unwrap();
    // and none has facts of its hosts
    judge("facts", FACTS).unwrap();
    seen.extend(["vendor", "facts"]);
    let of_sites: std::collections::BTreeSet<_> =
        FILES.iter().filter(|kind| kind.glob.is_some()).map(|kind| kind.name).collect();
    assert_eq!(seen, of_sites, "each schema has met a file");
}

#[test]
fn the_configuration_of_the_tests_hosts_is_valid_by_its_schema() {
    let site = Site::new("test");
    let tree = site.enroll();
    judge("kpull", &tree.read("etc/kpull/kpull.toml")).unwrap();
    let more = "verify_every = \"0s\"\n[keep]\ngenerations = 3\n[status]\ndir = \"/srv/status\"\n";
    judge("kpull", &format!("{more}{}", "[trust]\nsite = \"x\"\nkeys = \"/k\"\n")).unwrap();
}

#[test]
fn the_schema_refuses_what_the_program_refuses() {
    let unit = |fields: &str| format!("summary = \"x\"\n[[unit]]\nname = \"a.service\"\n{fields}\n");
    judge("role", &unit("enable = true\nstate = \"running\"")).unwrap();
    judge("role", &unit("enable = \"{{ on }}\"\nstate = \"{{ on }}\"\nlistens = [\"1/tcp\", { port = \"{{ p }}\" }]"))
        .unwrap();
    for (kind, broken, why) in [
        ("role", unit("reload_wehn = []"), "at '/unit/0': additionalProperties 'reload_wehn' not allowed"),
        ("role", unit("enable = \"yes\""), "at '/unit/0/enable': want boolean, but got string"),
        ("role", unit("state = \"runing\""), "at '/unit/0/state': value must be 'running'"),
        (
            "role",
            unit("listens = [{ prot = \"1/tcp\" }]"),
            "at '/unit/0/listens/0': additionalProperties 'prot' not allowed",
        ),
        ("role", unit("when = true"), "at '/unit/0/when': want string, but got boolean"),
        ("role", "summary = \"x\"\n[[unti]]\nname = \"a\"\n".into(), "at '': additionalProperties 'unti' not allowed"),
        (
            "role",
            "summary = \"x\"\n[[package]]\nnames = [1]\n".into(),
            "at '/package/0/names/0': want string, but got number",
        ),
        ("role", "[vars]\na = 1\n".into(), "at '': missing properties 'summary'"),
        ("site", "name = \"x\"\n[group.a]\n".into(), "at '': additionalProperties 'group' not allowed"),
        ("site", "name = \"x\"\n[pki.a]\nkind = \"authorty\"\n".into(), "at '/pki/a/kind': value must be 'authority'"),
        ("host", "groups = []\n".into(), "at '': missing properties 'address'"),
        ("host", "address = \"10.0.0.1\"\nrole = []\n".into(), "at '': additionalProperties 'role' not allowed"),
        (
            "artifacts",
            "[a]\nversion = \"1\"\namd64 = { url = \"https://h/\", sha256 = \"abc\" }\n".into(),
            "at '/a/amd64/sha256': 'abc' does not match pattern '^[0-9a-f]{64}$'",
        ),
        ("artifacts", "[a]\nversion = 1\n".into(), "at '/a/version': want string, but got number"),
        (
            "test",
            "summary = \"x\"\n[[expect.unit]]\nenabel = true\n".into(),
            "at '/expect/unit/0': additionalProperties 'enabel' not allowed",
        ),
        ("test", "summary = \"x\"\n[[expect.unti]]\n".into(), "at '/expect': additionalProperties 'unti' not allowed"),
        (
            "facts",
            FACTS.replace("\"v2\"", "\"v3\""),
            "at '/cgroup': value must be one of 'v1', 'hybrid', 'v2', 'unknown'",
        ),
        (
            "facts",
            FACTS.replace("enforcing", "on"),
            "at '/selinux': value must be one of 'enforcing', 'permissive', 'disabled'",
        ),
        ("facts", FACTS.replace("cores = 2", "cores = \"2\""), "at '/cores': want integer, but got string"),
        ("vendor", VENDOR.replace("0123", "main"), "does not match pattern '^[0-9a-fA-F]{40}$'"),
        ("vendor", VENDOR.replace("as =", "to ="), "at '/common/roles/1': additionalProperties 'to' not allowed"),
        ("vendor", VENDOR.replace("signers", "singers"), "at '/common': additionalProperties 'singers' not allowed"),
        (
            "kpull",
            "[trust]\nsite = \"x\"\n[keep]\nyears = 1\n".into(),
            "at '/keep': additionalProperties 'years' not allowed",
        ),
    ] {
        let error = judge(kind, &broken).unwrap_err();
        assert!(error.contains(why), "{kind}: {broken}: {error}");
    }
}

#[test]
fn a_new_site_shows_editors_where_its_schemas_are() {
    let dir = tempfile::tempdir().unwrap();
    let site = dir.path().join("prod");
    kpull(&["new", "site", site.to_str().unwrap()]).exits(0);
    let rules: toml::Table = fs::read_to_string(site.join(".taplo.toml")).unwrap().parse().unwrap();
    let rules = rules["rule"].as_array().unwrap();
    assert_eq!(rules.len(), FILES.iter().filter(|kind| kind.glob.is_some()).count());
    for rule in rules {
        let path = site.join(rule["schema"]["path"].as_str().unwrap());
        let schema: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(schema["type"], "object", "{}", path.display());
    }
    // and the same again with a newer kpull that has more
    let schemas = site.join("schemas");
    let before = fs::read(schemas.join("role.json")).unwrap();
    fs::write(schemas.join("role.json"), "{}").unwrap();
    kpull(&["schema", "--write", schemas.to_str().unwrap()]).exits(0);
    assert_eq!(fs::read(schemas.join("role.json")).unwrap(), before);
}
