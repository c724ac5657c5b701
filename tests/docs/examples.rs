//! The manual's examples of resources: `kpull check` accepts each, in a site that has what it refers to, and a tree becomes what the
//! examples of common tasks say.

use crate::docs::tables::page;
use crate::support::site::{Site, kpull};

/// What an example refers to, and another role of the host has.
const OTHERS: [(&str, &str); 6] = [
    ("block:/etc/aliases#site", "[[block]]\npath = '/etc/aliases'\nname = 'site'\ncontent = 'root: ann'\n"),
    (
        "file:/etc/ssh/sshd_config.d/60-bastion.conf",
        "[[file]]\npath = '/etc/ssh/sshd_config.d/60-bastion.conf'\ncontent = ''\n",
    ),
    ("file:/etc/web.env", "[[file]]\npath = '/etc/web.env'\ncontent = ''\n"),
    ("template:/etc/web.conf", "[[template]]\npath = '/etc/web.conf'\ntemplate = 'web.conf'\n"),
    ("unit:kubelet.service", "[[unit]]\nname = 'kubelet.service'\n"),
    ("\"probe:etcd\"", "[[probe]]\nname = 'etcd'\ncommand = ['true']\n"),
];

/// What examples with secrets and certificates have in them, which only operators can encrypt and issue.
const ENCRYPTED: [&str; 3] =
    ["[[secret]]\nname = \"db-password\"", "[[certificate]]\nname = \"etcd\"", "certificate = \"web\""];

const KEY: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nkey\n-----END PGP PUBLIC KEY BLOCK-----\n";
const OBJECT: &str = "apiVersion: v1\nkind: Namespace\nmetadata: { name: x }\n";
const UNIT: &str = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n";

/// The examples of a page, each with the number of its first line.
fn examples(path: &str) -> Vec<(usize, String)> {
    let text = page(path);
    let starts = text.match_indices("\n```toml\n").map(|(at, fence)| (at, at + fence.len()));
    starts
        .map(|(at, start)| (text[..at].lines().count() + 2, text[start..].split("```").next().unwrap().to_owned()))
        .collect()
}

/// A site whose host has this example, with the files, pins, variables and other resources that it refers to.
fn site(example: &str) -> Site {
    let site = Site::new("test");
    let host = "address = \"192.168.1.11\"\ngroups = [\"web\"]\nroles = [\"others\", \"app\"]\n";
    site.host("h1", host)
        .role("nginx", "[vars]\nworker_connections = 1024\n")
        .file("roles/others/templates/web.conf", "");
    if example.starts_with("# site.toml") {
        site.file("site.toml", format!("name = \"test\"\n{example}")).role("others", "").role("app", "");
        return site;
    }
    site.file("site.toml", "name = \"test\"\n[groups.web]\n[vars]\nhost_key = \"ssh-ed25519 AAAA\"\n");
    let others = OTHERS.iter().filter(|(id, _)| example.contains(id) && !example.contains("[[template]]"));
    site.role("others", &others.map(|(_, resource)| *resource).collect::<String>());
    let vars = if example.contains("for_each = \"tools\"") { "[vars]\ntools = [\"jq\"]\n" } else { "" };
    // less swap than anybody needs
    site.role("app", &format!("{vars}{}", example.replace("size = \"2G\"", "size = \"1M\"")));
    let mut pins = String::new();
    for (kind, resources) in example.parse::<toml::Table>().unwrap() {
        for resource in resources.as_array().into_iter().flatten() {
            let text = |field: &str| resource.get(field).and_then(toml::Value::as_str);
            if let Some(name) = text("template") {
                site.file(&format!("roles/app/templates/{name}"), if kind == "kube_object" { OBJECT } else { UNIT });
            }
            if let Some(name) = text("source") {
                let below = if kind == "tree" { "/bin/program.j2" } else { "" };
                site.file(&format!("roles/app/files/{name}{below}"), "x\n");
            }
            if let (Some(name), "repository") = (text("key"), kind.as_str()) {
                site.file(&format!("roles/app/files/{name}"), KEY);
            }
            if let (Some(name), "artifact") = (text("name"), kind.as_str()) {
                let (url, sha256) = ("https://example.org/a.tar.gz", "0".repeat(64));
                pins += &format!(
                    "[{name}]\nversion = \"1\"\n[{name}.amd64]\nurl = \"{url}\"\nsha256 = \"{sha256}\"\nsize = 1\n"
                );
            }
        }
    }
    site.file("artifacts.toml", pins);
    site
}

#[test]
fn each_example_of_a_kind_or_of_a_common_task_passes_check() {
    let mut wrong = Vec::new();
    for (path, least) in [("usage/kinds.md", 40), ("usage/same-here.md", 25)] {
        let all = examples(path);
        assert!(all.len() >= least, "{} examples of {path}", all.len());
        for (line, example) in all.iter().filter(|(_, text)| !ENCRYPTED.iter().any(|part| text.contains(part))) {
            let site = site(example);
            let checked = kpull(&["check", "--site", site.path().to_str().unwrap()]);
            if checked.code != 0 {
                wrong.push(format!("{path}:{line}: {}{}", checked.stdout, checked.stderr));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_example_of_a_common_task_makes_a_tree_and_leaves_nothing_to_do() {
    let mut wrong = Vec::new();
    // a tree gets no archive and no commit from the network
    let is_local = |text: &str| !text.starts_with("[[artifact]]") && !text.starts_with("[[checkout]]");
    for (line, example) in examples("usage/same-here.md").iter().filter(|(_, text)| is_local(text)) {
        let site = site(example);
        let tree = site.sign().enroll();
        tree.write("etc/passwd", "root:x:0:0:root:/root:/bin/bash\napp:x:900:900::/srv:/bin/sh\n");
        tree.write("etc/group", "root:x:0:\nadm:x:4:\nsudo:x:27:\napp:x:900:\n").write("etc/login.defs", "UMASK 022\n");
        tree.write("etc/systemd/journald.conf", "[Journal]\n");
        tree.write("usr/share/zoneinfo/Europe/Berlin", "");
        let first = tree.kpull("apply --json");
        if first.code != 0 {
            wrong.push(format!("line {line}: {}{}", first.stdout, first.stderr));
            continue;
        }
        let second = tree.kpull("apply --json").exits(0);
        if !second.changed().is_empty() {
            wrong.push(format!("line {line}: {:?} are changed again", second.changed()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
