//! The tree gets the state that the host's release defines: that, no more, and again only if it has to.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use crate::support::site::{Site, Tree, kpull};

/// A site with one host `h1` that has the role `base`, and nothing in that role but `toml`.
pub fn base(toml: &str) -> Site {
    let site = Site::new("test");
    site.role("base", toml).host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n");
    site
}

/// A tree that was made from a site with this role.
fn applied(toml: &str) -> (Site, Tree) {
    let site = base(toml);
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    (site, tree)
}

const THREE: &str = r#"
vars.port = 80

[[file]]
path = "/etc/motd"
content = "welcome to {{ host.name }}\n"

[[file]]
path = "/etc/deep/down/secret.key"
source = "secret.key"
mode = "0600"

[[template]]
path = "/etc/base.conf"
template = "base.conf"
mode = "0640"
"#;

fn three() -> (Site, Tree) {
    let site = base(THREE);
    site.file("roles/base/files/secret.key", b"\x00\xff\x01")
        .file("roles/base/templates/base.conf", "port = {{ port }}\n");
    let tree = site.sign().enroll();
    (site, tree)
}

#[test]
fn the_first_apply_creates_and_the_second_touches_nothing() {
    let (_site, tree) = three();
    let first = tree.kpull("apply --json").exits(0);
    assert_eq!(first.changed(), ["file:/etc/motd", "file:/etc/deep/down/secret.key", "template:/etc/base.conf"]);
    assert_eq!(tree.read("etc/motd"), "welcome to h1\n");
    assert_eq!(fs::read(tree.at("etc/deep/down/secret.key")).unwrap(), b"\x00\xff\x01");
    assert_eq!(tree.read("etc/base.conf"), "port = 80\n");
    assert_eq!((tree.mode("etc/motd"), tree.mode("etc/base.conf")), (0o644, 0o640));
    assert_eq!((tree.mode("etc/deep/down/secret.key"), tree.mode("etc/deep")), (0o600, 0o755));
    assert_eq!((tree.mode("var/lib/kpull"), tree.mode("var/lib"), tree.mode("var")), (0o700, 0o755, 0o755));

    let kept = || {
        let inode = |name: &str| fs::metadata(tree.at(&format!("var/lib/kpull/{name}.json"))).unwrap().ino();
        (inode("before"), inode("generations/00000001"))
    };
    let (before, was_kept) = (tree.times(), kept());
    let second = tree.kpull("apply").exits(0);
    assert_eq!(kept(), was_kept, "nor is what is written down written again");
    assert!(second.stdout.starts_with("h1: nothing to do of 3 resources (release 1, "), "{}", second.stdout);
    assert_eq!(second.stdout.lines().count(), 1);
    assert_eq!(tree.times(), before);
    assert_eq!(tree.leftovers(), [""; 0]);
}

#[test]
fn plan_names_drift_and_apply_corrects_it_and_touches_nothing_else() {
    let (_site, tree) = three();
    tree.kpull("apply").exits(0);
    let wanted = tree.snapshot();
    let motd_before = tree.times()["etc/motd"];
    tree.write("etc/base.conf", "port = 81\n");
    fs::set_permissions(tree.at("etc/deep/down/secret.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let drifted = tree.snapshot();

    let plan = tree.kpull("plan --json").exits(2);
    assert_eq!(plan.changed(), ["file:/etc/deep/down/secret.key", "template:/etc/base.conf"]);
    let planned = plan.events("planned");
    let summaries: Vec<_> = planned.iter().map(|event| event["summary"].as_str().unwrap()).collect();
    assert_eq!(summaries, ["mode 0644 → 0600", "content"]);
    assert_eq!(planned[1]["diff"], "@@ -1 +1 @@\n-port = 81\n+port = 80\n");
    assert_eq!(planned[0]["role"], "base");
    assert_eq!(tree.snapshot(), drifted, "a plan changes nothing");

    let text = tree.kpull("plan").exits(2).stdout;
    assert!(text.contains("\n  ~ template:/etc/base.conf  content\n      @@ -1 +1 @@\n      -port = 81\n"), "{text}");
    assert!(!tree.kpull("plan --no-diff").exits(2).stdout.contains("@@"));

    assert_eq!(tree.kpull("apply --json").exits(0).changed(), plan.changed());
    assert_eq!(tree.snapshot(), wanted);
    assert_eq!(tree.times()["etc/motd"], motd_before);
    tree.kpull("plan").exits(0);
}

#[test]
fn a_removed_file_is_written_again() {
    let (_site, tree) = three();
    tree.kpull("apply").exits(0);
    let wanted = tree.snapshot();
    fs::remove_dir_all(tree.at("etc/deep")).unwrap();
    let apply = tree.kpull("apply --json").exits(0);
    assert_eq!(apply.changed(), ["file:/etc/deep/down/secret.key"]);
    assert_eq!(tree.snapshot(), wanted);
}

#[test]
fn the_next_release_changes_only_what_it_defines_differently() {
    let (site, tree) = three();
    tree.kpull("apply").exits(0);
    site.file("roles/base/templates/base.conf", "port = {{ port + 1 }}\n").sign();
    let apply = tree.kpull("apply --json --diff").exits(0);
    assert_eq!(apply.events("release")[0]["serial"], 2);
    assert_eq!(apply.changed(), ["template:/etc/base.conf"]);
    assert_eq!(apply.events("changed")[0]["diff"], "@@ -1 +1 @@\n-port = 80\n+port = 81\n");
    assert_eq!(tree.read("etc/base.conf"), "port = 81\n");
}

#[test]
fn sensitive_content_is_only_in_the_file_and_in_the_release() {
    let secret = "hunter2-hunter2";
    let site = base(
        "[[file]]\npath = \"/etc/password\"\ncontent = \"hunter2-hunter2\\n\"\nmode = \"0600\"\nsensitive = true\n\
         [[template]]\npath = \"/etc/token\"\ntemplate = \"token\"\nsensitive = true\n\
         [[block]]\npath = \"/etc/shared\"\nname = \"x\"\ncontent = \"hunter2-hunter2\"\nsensitive = true\n",
    );
    site.file("roles/base/templates/token", "token = hunter2-hunter2\n");
    let tree = site.sign().enroll();
    let mut message = String::new();
    for command in ["plan", "plan --json", "apply --diff", "status --json"] {
        message += &format!("{:?}", tree.kpull(command));
    }
    assert_eq!(tree.read("etc/password"), "hunter2-hunter2\n");
    for path in ["etc/password", "etc/token", "etc/shared"] {
        tree.write(path, "old-hunter2-hunter2\n");
    }
    for command in ["plan", "plan --json", "apply --json --diff", "status", "status --json"] {
        message += &format!("{:?}", tree.kpull(command));
    }
    assert!(message.contains("the content is not shown"), "{message}");
    assert!(!message.contains("hunter2"), "{message}");

    let mut pending = vec![tree.at("var/lib/kpull")];
    let mut seen = 0;
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_none_or(|extension| extension != "tar") {
            seen += 1;
            let content = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            assert!(!content.contains(secret), "{}", path.display());
        } else {
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
    assert!(seen >= 3, "the state directory was looked at");
}

#[test]
fn a_link_in_place_of_a_file_is_replaced_and_not_followed() {
    let site = base("[[file]]\npath = \"/etc/motd\"\ncontent = \"new\\n\"\n");
    let tree = site.sign().enroll();
    tree.write("etc/victim", "keep\n");
    symlink("victim", tree.at("etc/motd")).unwrap();
    let plan = tree.kpull("plan --json").exits(2);
    assert_eq!(plan.events("planned")[0]["summary"], "replace the link with a file");
    tree.kpull("apply").exits(0);
    assert_eq!((tree.read("etc/victim").as_str(), tree.read("etc/motd").as_str()), ("keep\n", "new\n"));
    assert!(fs::symlink_metadata(tree.at("etc/motd")).unwrap().is_file());
}

#[test]
fn a_link_to_a_directory_outside_the_tree_leads_into_the_tree() {
    let outside = tempfile::tempdir().unwrap();
    let site = base("[[file]]\npath = \"/etc/motd\"\ncontent = \"x\"\n");
    let tree = site.sign().enroll();
    tree.kpull("plan").fails(2, "file:/etc/motd");
    symlink(outside.path(), tree.at("srv")).unwrap();
    site.role("base", "[[file]]\npath = \"/srv/x\"\ncontent = \"x\"\n").sign();
    tree.kpull("apply");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn a_directory_in_place_of_a_file_is_an_error_and_nothing_is_lost() {
    let site = base(
        "[[file]]\npath = \"/etc/first\"\ncontent = \"x\"\n[[file]]\npath = \"/etc/motd\"\ncontent = \"new\\n\"\n",
    );
    let tree = site.sign().enroll();
    tree.write("etc/motd/keep", "keep\n");
    let before = tree.snapshot();
    for command in ["plan --json", "apply --json"] {
        let error = tree.kpull(command).exits(1).error();
        assert_eq!(error["error"], "/etc/motd is a directory or a device, but the role requires a file there");
        assert_eq!(error["help"], "move it away, or remove it with an [[absent]]");
        assert_eq!((&error["file"], &error["line"]), (&"roles/base/role.toml".into(), &5.into()));
        assert_eq!(tree.snapshot().get("etc/motd/keep"), before.get("etc/motd/keep"));
        assert!(!tree.at("etc/first").exists(), "looked at before anything is changed");
    }
    fs::remove_dir_all(tree.at("etc/motd")).unwrap();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/motd"), "new\n");
}

#[test]
fn templates_can_include_loop_and_use_the_other_hosts() {
    let site = Site::new("test");
    site.file("site.toml", "name = \"test\"\nvars.domain = \"example\"\ngroups.masters.roles = [\"etcd\"]\n");
    site.role("etcd", "requires = [\"base\"]\nvars.port = 2379\n");
    site.role("base", "[[template]]\npath = \"/etc/all\"\ntemplate = \"all\"\n");
    site.file(
        "roles/base/templates/all",
        "{% include 'head' %}\n\
         {% for peer in hosts | with_role('etcd') %}\n\
         {{ peer.name }}=https://{{ peer.address }}:{{ peer.vars.etcd.port }}\n\
         {% endfor %}\n\
         masters: {{ hosts | in_group('masters') | map(attribute='name') | join(',') }}\n\
         all: {{ hosts | map(attribute='name') | join(',') }}\n\
         me: {{ host.name }} {{ host.address }} {{ host.roles | join(' ') }} {{ facts.hostname }} {{ facts.os.id }}\n",
    );
    site.file("roles/base/templates/head", "# {{ domain }}\n");
    site.host("h1", "address = \"10.0.0.1\"\ngroups = [\"masters\"]\n");
    site.host("h2", "address = \"10.0.0.2\"\ngroups = [\"masters\"]\nvars.etcd.port = 3379\n");
    site.host("h3", "address = \"10.0.0.3\"\nroles = [\"base\"]\n");
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    assert_eq!(
        tree.read("etc/all"),
        "# example\n\
         h1=https://10.0.0.1:2379\n\
         h2=https://10.0.0.2:3379\n\
         masters: h1,h2\n\
         all: h1,h2,h3\n\
         me: h1 10.0.0.1 base etcd h1 debian\n"
    );
}

#[test]
fn for_each_makes_a_resource_of_each_item_and_when_omits_some() {
    let (_site, tree) = applied(
        r#"
        vars.names = ["a", "b", "c"]
        vars.ports = { web = 80, db = 5432 }
        vars.enabled = false

        [[file]]
        for_each = "names"
        when = "item != 'b'"
        path = "/etc/list/{{ item }}"
        content = "{{ item }}\n"

        [[file]]
        for_each = "ports"
        path = "/etc/map/{{ item.key }}"
        content = "{{ item.value }}\n"

        [[file]]
        when = "enabled"
        path = "/etc/no"
        content = ""

        [[file]]
        when = "not enabled and facts.arch in ['amd64', 'arm64']"
        path = "/etc/yes"
        content = ""
        "#,
    );
    let files: Vec<String> =
        tree.snapshot().into_iter().filter(|(_, (mode, _))| mode.starts_with("100")).map(|(name, _)| name).collect();
    assert_eq!(files, ["etc/list/a", "etc/list/c", "etc/map/db", "etc/map/web", "etc/yes"]);
    assert_eq!((tree.read("etc/list/c").as_str(), tree.read("etc/map/db").as_str()), ("c\n", "5432\n"));
}

/// A site in which every layer says something.
fn layered() -> Site {
    let site = Site::new("test");
    site.file(
        "site.toml",
        r#"name = "test"
vars.domain = "example"
vars.web = { two = "site", list = ["site"], map = { site = 1, all = "site" } }

[groups.g]
roles = ["web"]
vars.domain = "group.example"
vars.web = { three = "group", map = { group = 1, all = "group" } }
"#,
    );
    site.role(
        "web",
        r#"
        required = ["must"]
        vars = { one = "role", two = "role", three = "role", four = "role", list = ["role", "more"], map = { role = 1, all = "role" } }

        [[file]]
        path = "/etc/out"
        content = "{{ one }} {{ two }} {{ three }} {{ four }} {{ must }} {{ list | join(',') }} {{ map | tojson }} {{ domain }}"
        "#,
    );
    site.host(
        "h1",
        "address = \"10.0.0.1\"\ngroups = [\"g\"]\n[vars.web]\nfour = \"host of {{ domain }}\"\nmust = \"yes\"\nmap.all = \"host\"\n",
    );
    site
}

#[test]
fn later_layers_win_maps_merge_and_lists_replace() {
    let site = layered();
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    assert_eq!(
        tree.read("etc/out"),
        r#"role site group host of group.example yes site {"role": 1, "all": "host", "site": 1, "group": 1} group.example"#
    );
}

#[test]
fn explain_shows_the_value_and_every_layer_that_sets_it() {
    let site = layered();
    let dir = site.path().to_str().unwrap();
    let explain = |arguments: &[&str]| kpull(&[&["explain", "--site", dir], arguments].concat());
    assert_eq!(
        explain(&["h1", "web.four"]).exits(0).stdout,
        "web.four = \"host of group.example\"\n  host h1              host_vars/h1.toml:4:8\n\
         \x20 role web             roles/web/role.toml:4:69   (overruled)\n"
    );
    let json = explain(&["h1", "web.map.all", "--json"]).exits(0).json().remove(0);
    assert_eq!(
        (&json["value"], &json["variable"], &json["host"]),
        (&"host".into(), &"web.map.all".into(), &"h1".into())
    );
    let layers: Vec<_> =
        json["layers"].as_array().unwrap().iter().map(|layer| layer["layer"].as_str().unwrap()).collect();
    assert_eq!(layers, ["role web", "site", "group g", "host h1"]);
    assert_eq!(json["layers"][1]["place"], "site.toml:3:69");
    assert!(explain(&["h1", "domain"]).exits(0).stdout.starts_with("domain = \"group.example\"\n"));

    let unknown = explain(&["h1", "web.fuor", "--json"]).exits(1).error();
    assert_eq!(unknown["error"], "nothing sets `web.fuor` for h1");
    assert_eq!(unknown["help"], "did you mean `web.four`?");
    let unknown = explain(&["h9", "web.four", "--json"]).exits(1).error();
    assert_eq!(unknown["error"], "the site `test` has no host `h9`: there is no host_vars/h9.toml");
}

#[test]
fn graph_shows_the_order_as_text_dot_mermaid_and_json() {
    let site = base(
        "[[file]]\npath = \"/b\"\ncontent = \"\"\nafter = [\"file:/c\"]\n[[file]]\npath = \"/c\"\ncontent = \"\"\n",
    );
    let dir = site.path().to_str().unwrap();
    let graph = |more: &[&str]| kpull(&[&["graph", "--site", dir, "h1"], more].concat()).exits(0);
    assert_eq!(graph(&[]).stdout, "base         file:/c\nbase         file:/b\n               after file:/c\n");
    let dot = graph(&["--format", "dot"]).stdout;
    assert!(dot.starts_with("digraph kpull {\n") && dot.ends_with("}\n"), "{dot}");
    assert!(dot.contains("  \"file:/c\" -> \"file:/b\" [color"), "{dot}");
    let mermaid = graph(&["--format", "mermaid"]).stdout;
    assert!(mermaid.starts_with("flowchart LR\n") && mermaid.ends_with("  n0 --> n1\n"), "{mermaid}");
    let svg = kpull(&["graph", "--site", dir, "h1", "--format", "svg"]).exits(1).stderr;
    assert!(svg.contains("`--format svg` was removed") && svg.contains("dot -Tsvg"), "{svg}");
    let json = graph(&["--json"]).json();
    assert_eq!((&json[0]["id"], &json[1]["id"]), (&"file:/c".into(), &"file:/b".into()));
    assert_eq!((&json[1]["after"][0], &json[1]["place"]), (&"file:/c".into(), &"roles/base/role.toml:2:1".into()));
}

#[test]
fn graph_on_a_host_shows_the_release_that_it_has() {
    let (site, tree) = applied("[[file]]\npath = \"/a\"\ncontent = \"\"\n");
    site.role("base", "");
    assert_eq!(tree.kpull("graph").exits(0).stdout, "base         file:/a\n");
    let error = site.enroll().kpull("graph --json").exits(1).error();
    assert_eq!(error["error"], "there is no site here, and this host has no release yet");
}

#[test]
fn status_shows_the_host_before_and_after_an_apply() {
    let (site, tree) = three();
    assert_eq!(
        tree.kpull("status").exits(0).stdout,
        "h1 of the site test\n  generation  none yet: nothing has been applied here\n  last run    never\n"
    );
    let before = tree.kpull("status --json").exits(0).json().remove(0);
    assert!(before["generation"].is_null() && before["seen"].is_null() && before["last_run"].is_null(), "{before}");

    tree.kpull("apply").exits(0);
    let text = tree.kpull("status").exits(0).stdout;
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[1].starts_with("  generation  1 (3 resources), "), "{text}");
    assert!(lines[2].starts_with("  release     1, signed by tester "), "{text}");
    assert!(lines[3].starts_with("  last run    ") && lines[3].ends_with(": 3 changed"), "{text}");
    let after = tree.kpull("status --json").exits(0).json().remove(0);
    assert_eq!((&after["generation"]["serial"], &after["seen"]["serial"]), (&1.into(), &1.into()));
    assert_eq!((&after["last_run"]["exit"], &after["last_run"]["changed"]), (&0.into(), &3.into()));
    assert_eq!(after["generation"]["changes"].as_object().unwrap().len(), 3);

    tree.kpull("apply").exits(0);
    let quiet = tree.kpull("status --json").exits(0).json().remove(0);
    assert_eq!(quiet["generation"], after["generation"], "a run without a change is no generation");
    site.file("roles/base/templates/base.conf", "{{ prot }}").sign();
    tree.kpull("apply").fails(1, "`prot` is not defined");
    let failed = tree.kpull("status --json").exits(0).json().remove(0);
    assert_eq!(
        (&failed["last_run"]["exit"], &failed["last_run"]["error"]),
        (&1.into(), &"`prot` is not defined".into())
    );
    assert_eq!((&quiet["health"], &quiet["next_run"]), (&"healthy".into(), &serde_json::Value::Null));
    assert_eq!(failed["last_error"]["error"], "`prot` is not defined");
    site.file("roles/base/templates/base.conf", "again").sign();
    tree.kpull("apply").exits(0);
    let status = tree.kpull("status").exits(0).stdout;
    assert!(status.contains("\n  last error  ") && status.contains(" ago: `prot` is not defined\n"), "{status}");
    assert!(status.contains("\n  health      healthy\n"), "{status}");
}

#[test]
fn plan_of_an_unsigned_site_shows_the_changes_and_makes_none() {
    let site = base("[[file]]\npath = \"/etc/motd\"\ncontent = \"x\\n\"\n");
    let tree = Tree::new();
    let dir = site.path().to_str().unwrap();
    let plan = tree.kpull(&format!("plan --host h1 --site {dir}")).exits(2);
    assert!(plan.stdout.contains("file:/etc/motd  create\n      @@ -0,0 +1 @@\n      +x\n"), "{}", plan.stdout);
    assert!(plan.stdout.contains("(unsigned preview, "), "{}", plan.stdout);
    assert!(!tree.at("etc").exists());
}

#[test]
fn every_line_of_json_is_an_object_with_the_version() {
    let (site, tree) = three();
    for command in ["plan --json", "apply --json", "apply --json", "plan --json", "status --json"] {
        assert!(!tree.kpull(command).json().is_empty(), "{command}");
    }
    let dir = site.path().to_str().unwrap();
    let check = kpull(&["check", "--json", "--site", dir]).exits(0).json();
    assert_eq!(
        (&check[0]["event"], &check[0]["host"], &check[0]["resources"]),
        (&"checked".into(), &"h1".into(), &3.into())
    );
    let signed = kpull(&["sign", "--json", "--site", dir, "--key", &tree.key()]).exits(0).json();
    assert_eq!((&signed[0]["site"], &signed[0]["serial"]), (&"test".into(), &1.into()));
}

#[test]
fn a_release_of_kpull_sign_is_applied() {
    let site = base("[[file]]\npath = \"/etc/motd\"\ncontent = \"x\\n\"\n");
    let tree = site.enroll();
    let key = Tree::new();
    let dir = site.path().to_str().unwrap();
    let text = kpull(&["sign", "--site", dir, "--key", &key.key()]).exits(0).stdout;
    assert!(text.starts_with("signed release 1 of test: 3 files, valid until "), "{text}");
    tree.kpull("apply").exits(0);
    site.role("base", "[[file]]\npath = \"/etc/motd\"\ncontent = \"y\\n\"\n");
    kpull(&["sign", "--site", dir, "--key", &key.key()]).exits(0);
    assert_eq!(tree.kpull("apply --json").exits(0).events("done")[0]["serial"], 2);
    assert_eq!(tree.read("etc/motd"), "y\n");
}

/// The same tree on every machine, with all kinds that leave something in one.
#[test]
fn every_kind_applies_its_part_in_a_tree_and_then_changes_nothing() {
    let site = base(
        r#"
        [[directory]]
        path = "/srv/data"
        mode = "0750"

        [[symlink]]
        path = "/srv/current"
        target = "data"

        [[absent]]
        path = "/etc/old"

        [[absent]]
        path = "/var/old"
        recursive = true

        [[block]]
        path = "/etc/hosts"
        name = "cluster"
        content = "10.0.0.1 h1"

        [[group]]
        name = "etcd"
        gid = 400

        [[user]]
        name = "etcd"
        uid = 400
        group = "etcd"
        system = true

        [[file]]
        path = "/srv/data/own"
        content = "x"
        owner = "etcd"
        group = "etcd"

        [[sysctl]]
        name = "net.ipv4.ip_forward"
        value = 1

        [[module]]
        name = "br_netfilter"

        [[swap]]
        enabled = false
        "#,
    );
    let tree = site.sign().enroll();
    tree.write("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n").write("etc/group", "root:x:0:\n");
    tree.write("etc/shadow", "root:*:19000:0:99999:7:::\n");
    tree.write("etc/hosts", "127.0.0.1 localhost\n").write("etc/old", "").write("var/old/deep/file", "");
    tree.write("etc/fstab", "/dev/sda1 / ext4 defaults 0 1\n/dev/sda2 none swap sw 0 0\n");
    let plan = tree.kpull("plan --json").exits(2).changed();
    let apply = tree.kpull("apply --json").exits(0);
    assert_eq!(apply.changed(), plan);
    assert_eq!(plan.len(), 11);

    let snapshot = tree.snapshot();
    assert_eq!(snapshot["srv/data"].0, "40750");
    assert_eq!(snapshot["srv/current"].1, b"data");
    assert!(!snapshot.contains_key("etc/old") && !snapshot.contains_key("var/old"));
    assert_eq!(
        tree.read("etc/hosts"),
        "127.0.0.1 localhost\n# BEGIN kpull cluster\n10.0.0.1 h1\n# END kpull cluster\n"
    );
    assert!(tree.read("etc/passwd").contains("\netcd:x:400:400:"), "{}", tree.read("etc/passwd"));
    assert!(tree.read("etc/group").contains("\netcd:x:400:"), "{}", tree.read("etc/group"));
    assert_eq!(tree.read("etc/fstab").lines().filter(|line| !line.starts_with('#')).count(), 1);
    assert!(tree.read("etc/sysctl.d/90-kpull-net.ipv4.ip_forward.conf").contains("net.ipv4.ip_forward = 1"));
    assert!(tree.read("etc/modules-load.d/kpull-br_netfilter.conf").ends_with("br_netfilter\n"));

    let before = tree.times();
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), [""; 0]);
    assert_eq!(tree.times(), before);

    tree.write("etc/hosts", "127.0.0.1 localhost\n# BEGIN kpull cluster\n10.0.0.9 h9\n# END kpull cluster\n# mine\n");
    fs::remove_file(tree.at("srv/current")).unwrap();
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), ["symlink:/srv/current", "block:/etc/hosts#cluster"]);
    assert!(tree.read("etc/hosts").ends_with("# BEGIN kpull cluster\n10.0.0.1 h1\n# END kpull cluster\n# mine\n"));
}

#[test]
fn units_and_firewalls_are_files_and_links_in_a_tree() {
    let (_site, tree) = applied(
        r#"
        [[unit]]
        name = "etcd.service"
        content = "[Unit]\nDescription=etcd\n[Service]\nExecStart=/usr/bin/etcd\n[Install]\nWantedBy=multi-user.target\n"
        dropins."10-limits.conf" = "[Service]\nLimitNOFILE=65536\n"
        enable = true

        [[unit]]
        name = "ufw.service"
        mask = true

        [[firewall]]
        zone = "public"
        ports = ["443/tcp"]
        allow = [{ port = "2379-2380/tcp", from = "10.0.0.0/24" }]
        "#,
    );
    let link = |path: &str| fs::read_link(tree.at(path)).unwrap().to_str().unwrap().to_owned();
    assert!(tree.read("etc/systemd/system/etcd.service").contains("ExecStart=/usr/bin/etcd\n"));
    assert!(tree.read("etc/systemd/system/etcd.service.d/10-limits.conf").contains("LimitNOFILE=65536\n"));
    assert_eq!(link("etc/systemd/system/multi-user.target.wants/etcd.service"), "/etc/systemd/system/etcd.service");
    assert_eq!(link("etc/systemd/system/ufw.service"), "/dev/null");
    let zone = tree.read("etc/firewalld/zones/public.xml");
    for part in ["port=\"443\"", "2379-2380", "10.0.0.0/24"] {
        assert!(zone.contains(part), "{zone}");
    }
    let wanted = tree.snapshot();
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), [""; 0]);

    fs::remove_file(tree.at("etc/systemd/system/multi-user.target.wants/etcd.service")).unwrap();
    fs::remove_file(tree.at("etc/firewalld/zones/public.xml")).unwrap();
    let changed = tree.kpull("apply --json").exits(0).changed();
    assert!(changed[0].starts_with("firewall:public ") && changed[1..] == ["unit:etcd.service"], "{changed:?}");
    assert_eq!(tree.snapshot(), wanted);
}

#[test]
fn kinds_that_need_a_running_machine_such_as_commands_do_nothing_in_a_tree() {
    let made = tempfile::tempdir().unwrap();
    let marker = made.path().join("marker");
    let (_site, tree) = applied(&format!(
        "[[command]]\nname = \"mark\"\nrun = [\"touch\", \"{0}\"]\ncreates = \"{0}\"\n[[package]]\nname = \"sl\"\n",
        marker.display()
    ));
    assert!(!marker.exists());
    tree.kpull("plan").exits(0);
}
