//! What roles name otherwise on other systems: packages, programs and paths, by the os-release files of these systems.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use kpull::document::Files;
use kpull::host::Host;
use kpull::resolve::{Catalog, Facts, resolve};
use kpull::secret::SecretStore;
use kpull::site::Site as Loaded;

use crate::support::site::{Site, kpull};

/// The first master has Docker as the distribution has it.
static SITE: LazyLock<Arc<Loaded>> = LazyLock::new(|| {
    site("[vars.docker]\npackage = \"{{ docker.system.package }}\"\n[vars.kube-proxy.flags]\nproxy-mode = 'ipvs'\n")
});

/// The shipped site with nginx in place of HAProxy, and of its first master these variables.
fn site(vars: &str) -> Arc<Loaded> {
    let mut files = Files::in_directory(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
    let site = String::from_utf8(files.get("site.toml").unwrap().to_vec()).unwrap();
    let roles = site.replace("\"etcd\", \"haproxy\",", "\"etcd\", \"nginx\",");
    assert_ne!(roles, site, "the masters' roles are written otherwise now");
    let master = format!("address = '192.168.1.101'\ngroups = ['masters']\n[vars.etcd]\nname = 'e'\n{vars}");
    let authority = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let pki = ["kubernetes.pem", "etcd.pem", "front-proxy.pem", "service-account.pub"]
        .map(|name| (format!("pki/{name}"), authority));
    let own = [("site.toml".to_owned(), roles.as_str()), ("host_vars/master1.toml".to_owned(), master.as_str())];
    files.extend(own.into_iter().chain(pki).map(|(path, text)| (path, text.as_bytes().into())));
    Arc::new(Loaded::load(files).unwrap())
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/platforms/os-release")
}

/// The facts of a host with this os-release file.
fn facts(name: &str) -> Facts {
    let tree = tempfile::tempdir().unwrap();
    fs::create_dir_all(tree.path().join("etc")).unwrap();
    fs::copy(fixtures().join(name), tree.path().join("etc/os-release")).unwrap();
    let address = SITE.find_host("master1").unwrap().address;
    Facts::assumed("master1", address, Some(&Host::open(tree.path()).unwrap())).unwrap()
}

fn catalog(site: &Arc<Loaded>, facts: &Facts) -> Catalog {
    resolve(site, "master1", facts, &SecretStore::expected()).unwrap_or_else(|error| panic!("{}: {error}", facts.os.id))
}

/// The text of a file that the catalog has.
fn text(catalog: &Catalog, id: &str) -> String {
    let item = catalog.items.iter().find(|item| item.id == id).unwrap_or_else(|| panic!("no {id}"));
    String::from_utf8(item.resource.content().unwrap().into_owned()).unwrap()
}

/// What a system has otherwise than others.
struct System {
    /// Its file in `os-release/`.
    file: &'static str,
    /// Its id, version, variant and family, as facts.
    facts: [&'static str; 4],
    /// Packages of nginx, and the user that it runs as.
    nginx: (&'static [&'static str], &'static str),
    /// The directive that nginx loads its module for TCP by.
    load: &'static str,
    /// The distribution's own Docker, and its daemon.
    docker: [&'static str; 2],
    /// Packages of what kube-proxy and kubelet call.
    tools: &'static [&'static str],
}

const RHEL: System = System {
    file: "rhel-9",
    facts: ["rhel", "9.4", "", "rhel"],
    nginx: (&["nginx", "nginx-mod-stream"], "nginx"),
    load: "include /usr/share/nginx/modules/*.conf;",
    docker: ["docker", "/usr/bin/dockerd"],
    tools: &["conntrack-tools", "ipset", "socat"],
};
const RHEL_7: System = System { docker: ["docker", "/usr/bin/dockerd-current"], ..RHEL };
const FEDORA: System = System { docker: ["moby-engine", "/usr/bin/dockerd"], ..RHEL };
const SUSE: System =
    System { nginx: (&["nginx"], "nginx"), load: "load_module lib64/nginx/modules/ngx_stream_module.so;", ..RHEL };
const DEBIAN: System = System {
    file: "debian-12",
    facts: ["debian", "12", "", "debian"],
    nginx: (&["nginx", "libnginx-mod-stream"], "www-data"),
    load: "include /etc/nginx/modules-enabled/*.conf;",
    docker: ["docker.io", "/usr/sbin/dockerd"],
    tools: &["conntrack", "ipset", "socat"],
};
const UBUNTU: System = System { docker: ["docker.io", "/usr/bin/dockerd"], ..DEBIAN };

const SYSTEMS: &[System] = &[
    System { file: "alma-9", facts: ["almalinux", "9.4", "", "rhel"], ..RHEL },
    System { file: "amazon-2", facts: ["amzn", "2", "", "rhel"], ..RHEL },
    System { file: "amazon-2023", facts: ["amzn", "2023", "", "rhel"], ..RHEL },
    System { file: "centos-7", facts: ["centos", "7", "", "rhel"], ..RHEL_7 },
    System { file: "debian-11", facts: ["debian", "11", "", "debian"], ..DEBIAN },
    DEBIAN,
    System { file: "debian-13", facts: ["debian", "13", "", "debian"], ..DEBIAN },
    System { file: "debian-sid", facts: ["debian", "", "", "debian"], ..DEBIAN },
    System { file: "fedora-41", facts: ["fedora", "41", "server", "rhel"], ..FEDORA },
    System { file: "fedora-coreos-41", facts: ["fedora", "41", "coreos", "rhel"], ..FEDORA },
    System { file: "flatcar", facts: ["flatcar", "3975.2.2", "", "flatcar"], tools: &[], ..RHEL },
    System { file: "leap-15.6", facts: ["opensuse-leap", "15.6", "", "suse"], ..SUSE },
    System { file: "oracle-7", facts: ["ol", "7.9", "server", "rhel"], ..RHEL_7 },
    System { file: "rhel-10", facts: ["rhel", "10.0", "", "rhel"], ..RHEL },
    RHEL,
    System { file: "rocky-8", facts: ["rocky", "8.10", "", "rhel"], ..RHEL },
    System { file: "sles-15", facts: ["sles", "15.6", "", "suse"], ..SUSE },
    System { file: "tumbleweed", facts: ["opensuse-tumbleweed", "20241111", "", "suse"], ..SUSE },
    System { file: "ubuntu-18.04", facts: ["ubuntu", "18.04", "", "debian"], ..UBUNTU },
    System { file: "ubuntu-20.04", facts: ["ubuntu", "20.04", "", "debian"], ..UBUNTU },
    System { file: "ubuntu-22.04", facts: ["ubuntu", "22.04", "", "debian"], ..UBUNTU },
    System { file: "ubuntu-24.04", facts: ["ubuntu", "24.04", "", "debian"], ..UBUNTU },
];

#[test]
fn every_os_release_file_is_read_as_its_own_system() {
    let mut files: Vec<String> =
        fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    assert_eq!(files, SYSTEMS.iter().map(|system| system.file).collect::<Vec<_>>());
    for system in SYSTEMS {
        let os = facts(system.file).os;
        assert_eq!([os.id, os.version, os.variant, os.family], system.facts, "{}", system.file);
    }
}

#[test]
fn roles_name_packages_programs_and_paths_as_each_system_has_them() {
    for system in SYSTEMS {
        let catalog = catalog(&SITE, &facts(system.file));
        let packages = |role: &str| -> Vec<String> {
            let of_role = catalog.items.iter().filter(|item| &*item.role == role && item.about.kind == "package");
            of_role.map(|item| item.about.key.clone()).collect()
        };
        assert_eq!(packages("nginx"), system.nginx.0, "{}", system.file);
        assert_eq!(packages("keepalived"), ["keepalived"], "{}", system.file);
        assert!(packages("firewall").contains(&"firewalld".to_owned()), "{}", system.file);
        let conf = text(&catalog, "template:/etc/nginx/nginx.conf");
        assert!(conf.contains(&format!("\nuser {};\n", system.nginx.1)), "{}: {conf}", system.file);
        assert!(conf.contains(&format!("\n{}\n", system.load)), "{}: {conf}", system.file);
        let [docker, daemon] = system.docker;
        assert_eq!(packages("docker"), [docker], "{}", system.file);
        let unit = text(&catalog, "unit-file:/etc/systemd/system/docker.service");
        assert!(unit.contains(&format!("\nExecStart={daemon} $DOCKER_OPTS\n")), "{}: {unit}", system.file);
        let config = text(&catalog, "file:/etc/docker/daemon.json");
        let is_named = config.contains("/usr/libexec/docker/docker-runc-current");
        assert_eq!(is_named, daemon.ends_with("-current"), "{}: {config}", system.file);
        assert!(config.contains("\"live-restore\": true"), "{}: {config}", system.file);
        let mut tools = packages("kube-proxy");
        tools.extend(packages("kubelet"));
        assert_eq!(tools, system.tools, "{}", system.file);
    }
}

/// What the role hardening has on a system: the unit of sshd, the group of /etc/shadow, and the file with the settings of logins.
fn hardened(facts: &Facts) -> [String; 3] {
    let shipped = Files::in_directory(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
    let role = shipped.iter().filter(|(path, _)| path.starts_with("roles/hardening/"));
    let mut files: Files = role.map(|(path, bytes)| (path.to_owned(), bytes.clone())).collect();
    let own = [
        ("site.toml".to_owned(), "name = 'plain'\n"),
        ("host_vars/master1.toml".to_owned(), "address = '192.168.1.101'\nroles = ['hardening']\n"),
    ];
    files.extend(own.map(|(path, text)| (path, text.as_bytes().into())));
    let catalog = catalog(&Arc::new(Loaded::load(files).unwrap()), facts);
    let between = |start: &str, end: &str| {
        let mut ids = catalog.items.iter().filter_map(|item| item.id.as_str().strip_prefix(start)?.strip_suffix(end));
        ids.next().unwrap_or_default().to_owned()
    };
    let shadow = catalog.items.iter().filter(|item| item.id == "permissions:/etc/shadow");
    let group = shadow.flat_map(|item| &item.about.after).find_map(|id| id.as_str().strip_prefix("group:"));
    [between("unit:", ".service"), group.unwrap_or_default().to_owned(), between("line:", "#UMASK")]
}

#[test]
fn the_role_hardening_leaves_alone_what_a_system_has_elsewhere() {
    for system in SYSTEMS {
        let family = system.facts[3];
        let unit = match system.file {
            "amazon-2" | "centos-7" | "oracle-7" | "rocky-8" | "ubuntu-18.04" => "",
            _ => [("debian", "ssh"), ("rhel", "sshd")]
                .into_iter()
                .find(|(of, _)| *of == family)
                .map_or("", |(_, unit)| unit),
        };
        let group = match family {
            "rhel" => "root",
            "debian" | "suse" => "shadow",
            _ => "",
        };
        let logins = match system.file {
            "tumbleweed" => "/etc/login.defs.d/50-hardening.defs",
            _ => "/etc/login.defs",
        };
        assert_eq!(hardened(&facts(system.file)), [unit, group, logins], "{}", system.file);
    }
}

#[test]
fn nothing_of_the_shipped_roles_is_below_usr_where_programs_go_below_opt() {
    let below_usr = |vars: &str| -> Vec<String> {
        let catalog = catalog(&site(vars), &facts("flatcar"));
        let claims = catalog.items.iter().flat_map(|item| &item.about.claims).map(ToString::to_string);
        claims.filter(|claim| claim.contains("path:/usr")).collect()
    };
    assert!(below_usr("").iter().any(|claim| claim == "path:/usr/k8s/bin/etcd"));
    assert_eq!(below_usr("[vars.base]\nbin = '/opt/bin'\n"), Vec::<String>::new());
}

/// A site with a role that names, for each system, where its administrator's own authorities are put.
fn trusting(rows: &str) -> Site {
    let site = Site::new("test");
    site.role("trust", &format!("[vars]\nsystem = \"{{{{ systems | for_os }}}}\"\n[vars.systems]\n{rows}\n[[directory]]\npath = \"{{{{ system.dir }}}}\"\n"));
    site.host("h1", "address = \"192.0.2.1\"\nroles = [\"trust\"]\n");
    site
}

const ANCHORS: &str = "default = { dir = \"/etc/pki/ca-trust/source/anchors\", update = [\"update-ca-trust\"] }\ndebian = { dir = \"/usr/local/share/ca-certificates\", update = [\"update-ca-certificates\"] }\nsuse = { dir = \"/etc/pki/trust/anchors\", update = [\"update-ca-certificates\"] }";

/// Writes down the facts of `h1` as `kpull facts` prints them, with the system of an os-release file.
fn record(site: &Site, file: &str) {
    site.file("facts/h1.toml", toml::to_string(&Facts { live: true, ..facts(file) }).unwrap());
}

/// What a command says with the site's directory.
fn checked_output(site: &Site, words: &str) -> crate::support::site::Output {
    kpull(&words.split(' ').chain(["--site", site.path().to_str().unwrap()]).collect::<Vec<_>>())
}

#[test]
fn explain_and_graph_use_recorded_facts() {
    let site = trusting(ANCHORS);
    assert_eq!(
        checked_output(&site, "explain h1 trust.system.dir").exits(0).stdout.lines().next(),
        Some("trust.system.dir = \"/usr/local/share/ca-certificates\"")
    );
    for (file, dir, rows) in [
        ("centos-7", "/etc/pki/ca-trust/source/anchors", &["default"][..]),
        ("amazon-2023", "/etc/pki/ca-trust/source/anchors", &["default"][..]),
        ("sles-15", "/etc/pki/trust/anchors", &["default", "suse"]),
        ("ubuntu-20.04", "/usr/local/share/ca-certificates", &["default", "debian"]),
    ] {
        record(&site, file);
        let explained = checked_output(&site, "explain h1 trust.system.dir").exits(0).stdout;
        assert!(explained.starts_with(&format!("trust.system.dir = \"{dir}\"\n")), "{file}: {explained}");
        let end = format!("  rows                 {}\n  facts                facts/h1.toml\n", rows.join(", "));
        assert!(explained.ends_with(&end), "{file}: {explained}");
        let json = checked_output(&site, "explain h1 trust.system --json").exits(0).json().remove(0);
        assert_eq!((&json["value"]["dir"], &json["facts"]), (&dir.into(), &"facts/h1.toml".into()), "{file}");
        assert_eq!(json["rows"], serde_json::json!(rows), "{file}");
        let json = checked_output(&site, "explain h1 trust.systems --json").exits(0).json().remove(0);
        assert_eq!(json["rows"], serde_json::Value::Null, "{file}");
        let graph = checked_output(&site, "graph h1").exits(0).stdout;
        assert!(graph.contains(&format!("directory:{dir}")), "{file}: {graph}");
    }
    let unknown = checked_output(&site, "explain h1 trust.system.drr --json").exits(1).error();
    assert_eq!(unknown["error"], "nothing sets `trust.system.drr` for h1");
    assert_eq!(unknown["help"], "`trust.system` has no `drr`: it has `dir`, `update`");
    let unknown = checked_output(&site, "explain h1 trust.system.dir.a.b --json").exits(1).error();
    assert_eq!(unknown["help"], "\"/usr/local/share/ca-certificates\" has no entries");
    let unknown = checked_output(&site, "explain h1 trust.systems.suse.a.b --json").exits(1).error();
    assert_eq!(unknown["help"], "`trust.systems.suse` has no `a`: it has `dir`, `update`");
    // older versions of kpull recorded fewer facts
    let path = site.path().join("facts/h1.toml");
    let old = fs::read_to_string(&path).unwrap().replace("variant = \"\"\n", "");
    fs::write(&path, old).unwrap();
    checked_output(&site, "check").exits(0);
}

#[test]
fn a_table_without_a_row_for_a_system_names_its_rows_and_those_that_would_match() {
    let site = trusting("debian = { dir = \"/a\" }\nubuntu = { dir = \"/b\" }");
    record(&site, "centos-7");
    let error = checked_output(&site, "check --json").exits(1).error();
    assert_eq!((&error["file"], &error["line"]), (&"roles/trust/role.toml".into(), &3.into()), "{error}");
    assert_eq!(
        error["error"],
        "the value can't be computed: no row is for centos 7: there is `debian`, `ubuntu`, and none of `default`, `rhel`, `rhel-7`, `centos`, `centos-7`"
    );
    record(&site, "ubuntu-18.04");
    assert!(
        checked_output(&site, "explain h1 trust.system")
            .exits(0)
            .stdout
            .starts_with("trust.system = {\"dir\":\"/b\"}\n")
    );
    for (row, why) in [
        (
            "rehl-7 = { dir = \"/c\" }",
            "no system is called `rehl-7`: did you mean `rhel`? (a version follows after `-`: `rhel-7`)",
        ),
        ("ubuntu-22.04 = { dir = \"/c\" }", "a row with a dot in its name stands in quotes: write `\"ubuntu-22.04\"`"),
    ] {
        let error =
            checked_output(&trusting(&format!("default = {{ dir = \"/a\" }}\n{row}")), "check --json").exits(1).error();
        assert_eq!(error["error"], format!("the value can't be computed: {why}"), "{error}");
    }
    let quoted =
        trusting("default = { dir = \"/a\" }\n\"ubuntu-22.04\" = { dir = \"/c\" }\nmylinux = { dir = \"/d\" }");
    record(&quoted, "ubuntu-22.04");
    assert!(
        checked_output(&quoted, "explain h1 trust.system.dir")
            .exits(0)
            .stdout
            .starts_with("trust.system.dir = \"/c\"\n")
    );
    let site = trusting("debian = 1");
    site.role("trust", "[vars]\nsystem = \"{{ 'text' | for_os }}\"\n[[directory]]\npath = \"{{ system }}\"\n");
    let error = checked_output(&site, "check --json").exits(1).error();
    assert_eq!(
        error["error"], "the value can't be computed: `for_os` takes a table with a row for each system",
        "{error}"
    );
}

#[test]
fn check_judges_packages_on_images_as_the_host_does_and_warns_of_unused_facts() {
    let site = Site::new("test");
    let packages = "[[package]]\nwhen = \"facts.os.id != 'debian'\"\nnames = ['socat', 'jq']\n";
    site.role("tools", &format!("{packages}[[file]]\npath = '/srv/f'\ncontent = ''\n"));
    site.host("h1", "address = \"192.0.2.1\"\nroles = [\"tools\"]\n");
    assert!(!checked_output(&site, "check").exits(0).stdout.contains("facts/"));
    for (file, code) in [("rocky-8", 0), ("flatcar", 1), ("fedora-coreos-41", 1), ("debian-12", 0)] {
        record(&site, file);
        checked_output(&site, "check").exits(code);
    }
    record(&site, "flatcar");
    let checked_output = |words: &str| checked_output(&site, words);
    let errors = checked_output("check --json").exits(1).events("error");
    let whats: Vec<&str> = errors.iter().map(|error| error["error"].as_str().unwrap()).collect();
    let why = "/usr is read-only on this host: its system is an image";
    assert_eq!(whats, ["socat", "jq"].map(|name| format!("can't change the package {name}: {why}")));
    assert_eq!((&errors[0]["file"], &errors[0]["line"]), (&"roles/tools/role.toml".into(), &2.into()));
    record(&site, "debian-12");
    fs::rename(site.path().join("facts/h1.toml"), site.path().join("facts/h2.toml")).unwrap();
    let warned = checked_output("check").exits(0).stdout;
    assert!(warned.contains("! facts/h2.toml belongs to no host: did you mean facts/h1.toml?\n"), "{warned}");
}
