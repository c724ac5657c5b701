//! Users from a list, and what is left of one who is no longer in it.

use std::os::unix::fs::MetadataExt as _;

use crate::support::site::{Site, Tree};

const ANN: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIann ann@laptop";
const BOB: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIbob bob@laptop";

/// Two administrators from a list, and what becomes of one who is removed from it.
fn admins(list: &str, on_removal: &str) -> String {
    format!(
        r#"
[vars]
admins = {list}
[[group]]
name = "ops"
[[user]]
for_each = "admins"
name = "{{{{ item.key }}}}"
groups = ["ops"]
authorized_keys = ["{{{{ item.value }}}}"]
sudo = "ALL=(ALL) NOPASSWD: ALL"
expires = 2037-01-31
linger = true
{on_removal}
"#
    )
}

fn both() -> String {
    format!("{{ ann = '{ANN}', bob = '{BOB}' }}")
}

fn site(role: &str) -> (Site, Tree) {
    let site = Site::new("test");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n").role("base", role);
    let tree = site.sign().enroll();
    tree.write("etc/passwd", "root:x:0:0:root:/root:/bin/bash\nold:x:900:900::/home/old:/bin/sh\n");
    tree.write("etc/group", "root:x:0:\nold:x:900:\nweb:x:80:old\n");
    tree.write("etc/shadow", "root:*:1::::::\nold:$6$x$y:1::::::\n");
    (site, tree)
}

/// The next release has this role.
fn next(site: &Site, tree: &Tree, role: &str) {
    site.role("base", role).sign();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), [""; 0]);
}

/// The first field of each line.
fn names(tree: &Tree, path: &str) -> Vec<String> {
    tree.read(path).lines().map(|line| line.split(':').next().unwrap().to_owned()).collect()
}

/// What shows that somebody could still do something here: paths and lines with the name.
fn left_of(tree: &Tree, name: &str) -> Vec<String> {
    let paths = tree.snapshot().into_keys().filter(|path| !path.starts_with("var/lib/kpull") && path.contains(name));
    let tables = ["passwd", "group", "shadow", "gshadow"].into_iter().flat_map(|table| {
        let text = tree.read(&format!("etc/{table}"));
        let lines = text.lines().filter(|line| line.split([':', ',']).any(|word| word == name));
        lines.map(|line| format!("{table} {line}")).collect::<Vec<_>>()
    });
    paths.chain(tables).collect()
}

#[test]
fn an_offboarded_admin_leaves_no_account_group_key_or_sudo_rule_behind() {
    let (site, tree) = site(&admins(&both(), "on_removal = 'remove'"));
    tree.kpull("apply").exits(0);
    tree.write("home/ann/work", "ann's\n");
    assert_eq!(tree.read("home/ann/.ssh/authorized_keys"), format!("# BEGIN kpull keys\n{ANN}\n# END kpull keys\n"));
    assert!(tree.read("etc/group").contains("ops:x:1000:ann,bob\n"), "{}", tree.read("etc/group"));

    site.role("base", &admins(&format!("{{ bob = '{BOB}' }}"), "on_removal = 'remove'")).sign();
    let mut planned = tree.kpull("plan --json").exits(2).changed();
    planned.sort();
    let mut changed = tree.kpull("apply --json").exits(0).changed();
    changed.sort();
    assert_eq!(changed, planned);
    for id in ["user:ann", "members:ann", "linger:ann", ":/etc/sudoers.d/50-ann", ":/home/ann/.ssh/authorized_keys"] {
        assert!(changed.iter().any(|one| one.ends_with(id)), "{id}: {changed:?}");
    }
    // the home stays, with what is not kpull's
    assert_eq!(left_of(&tree, "ann"), ["home/ann", "home/ann/work"]);
    assert!(tree.read("etc/group").contains("ops:x:1000:bob\n"));
    assert!(tree.at("etc/sudoers.d/50-bob").exists() && tree.at("home/bob/.ssh/authorized_keys").exists());
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), [""; 0]);
}

#[test]
fn a_user_who_is_to_be_locked_stays_without_any_right() {
    let (site, tree) = site(&admins(&both(), "on_removal = 'lock'"));
    tree.kpull("apply").exits(0);
    tree.write("home/ann/work", "ann's\n");
    next(&site, &tree, &admins("{}", "on_removal = 'lock'"));
    let left = left_of(&tree, "ann");
    let shadow = left.iter().find(|line| line.starts_with("shadow ")).unwrap();
    assert!(shadow.starts_with("shadow ann:!") && shadow.ends_with(":1:"), "{shadow}");
    let mut left: Vec<&str> = left.iter().map(|line| line.split(':').next().unwrap()).collect();
    left.retain(|line| !line.starts_with("shadow"));
    assert_eq!(left, ["home/ann", "home/ann/work", "passwd ann", "group ann", "gshadow ann"]);
}

#[test]
fn a_user_stays_by_default_and_loses_what_kpull_gave_it() {
    let (site, tree) = site(&admins(&both(), ""));
    tree.kpull("apply").exits(0);
    next(&site, &tree, &admins("{}", ""));
    assert!(names(&tree, "etc/passwd").contains(&"ann".to_owned()));
    let shadow = tree.read("etc/shadow");
    let line = shadow.lines().find(|line| line.starts_with("ann:")).unwrap();
    assert!(line.ends_with("::"), "it expires as before: {line}");
    assert!(tree.read("etc/group").contains("ops:x:1000:\n"));
    assert!(!tree.at("etc/sudoers.d/50-ann").exists() && !tree.at("home/ann/.ssh").exists());
    assert!(!tree.at("var/lib/systemd/linger/ann").exists());
}

#[test]
fn a_user_who_was_there_before_gets_its_keys_groups_and_expiry_back() {
    let role = format!(
        "[[user]]\nname = 'old'\ngroups = ['web', 'root']\nlocked = true\nauthorized_keys = ['{ANN}']\nexclusive_keys = true\n"
    );
    let (site, tree) = site(&role);
    tree.write("home/old/.ssh/authorized_keys", "somebody's\n");
    let before = tree.snapshot();
    tree.kpull("apply").exits(0);
    assert!(!tree.read("home/old/.ssh/authorized_keys").contains("somebody's"));
    assert!(tree.read("etc/shadow").contains("old:!$6$x$y:1:::::1:\n"));
    next(&site, &tree, "");
    let mut after = tree.snapshot();
    after.retain(|path, _| before.contains_key(path) && !["var", "var/lib"].contains(&path.as_str()));
    for (path, now) in &after {
        assert_eq!(Some(now), before.get(path), "{path}");
    }
    assert_eq!(tree.read("etc/group"), "root:x:0:\nold:x:900:\nweb:x:80:old\n");
}

#[test]
fn a_user_that_a_role_defines_as_absent_is_removed_whatever_earlier_releases_had() {
    let (site, tree) = site("[[user]]\nname = 'ann'\non_removal = 'lock'\n");
    tree.kpull("apply").exits(0);
    site.role("base", "[[user]]\nname = 'ann'\nstate = 'absent'\nremove_home = true\n").sign();
    assert_eq!(tree.kpull("plan --json").exits(2).changed(), ["user:ann"]);
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), ["user:ann"]);
    assert_eq!(left_of(&tree, "ann"), [""; 0]);
    next(&site, &tree, "");
}

#[test]
fn a_shorter_list_of_groups_takes_a_user_out_of_those_it_was_added_to() {
    let role = |groups: &str| format!("[[group]]\nname = 'ops'\n[[user]]\nname = 'old'\ngroups = [{groups}]\n");
    let (site, tree) = site(&role("'ops', 'web'"));
    tree.kpull("apply").exits(0);
    assert!(tree.read("etc/group").contains("ops:x:1000:old\n"));
    next(&site, &tree, &role(""));
    // it was in `web` before
    assert_eq!(tree.read("etc/group"), "root:x:0:\nold:x:900:\nweb:x:80:old\nops:x:1000:\n");
}

#[test]
fn a_release_that_never_was_good_does_not_remove_a_user_who_was_there_before_it() {
    let (site, tree) = site("");
    tree.kpull("apply").exits(0);
    let user =
        "[[user]]\nname = 'old'\nuid = 900\non_removal = 'remove'\n[[user]]\nname = 'new'\non_removal = 'remove'\n";
    // this fails after the accounts are changed: it is the primary group of a user
    site.role("base", &format!("{user}[[group]]\nname = 'old'\nstate = 'absent'\n")).sign();
    let failed = tree.kpull("apply");
    assert!(failed.code != 0 && failed.stderr.contains("the group old can't be removed"), "{}", failed.stderr);
    assert_eq!(names(&tree, "etc/passwd"), ["root", "old"]);

    next(&site, &tree, user);
    next(&site, &tree, "");
    assert_eq!(names(&tree, "etc/passwd"), ["root"], "it was kpull's, and the role says so");
}

#[test]
fn drift_of_a_login_of_keys_and_of_groups_is_corrected() {
    let (_site, tree) = site(&format!(
        "[[user]]\nname = 'old'\ngroups = ['web']\nexclusive_groups = true\nexpires = 2037-01-31\nlinger = true\n\
         authorized_keys = ['{ANN}']\nsudo = 'ALL=(ALL) ALL'\n"
    ));
    tree.kpull("apply").exits(0);
    let whole = tree.snapshot();
    let drifts: [(&str, &dyn Fn()); 6] = [
        ("login:old", &|| {
            tree.write("etc/shadow", "root:*:1::::::\nold:$6$x$y:1::::::\n");
        }),
        ("members:old", &|| {
            tree.write("etc/group", "root:x:0:old\nold:x:900:\nweb:x:80:old\n");
        }),
        ("members:old", &|| {
            tree.write("etc/group", "root:x:0:\nold:x:900:\nweb:x:80:\n");
        }),
        ("linger:old", &|| std::fs::remove_file(tree.at("var/lib/systemd/linger/old")).unwrap()),
        ("authorized_keys:old", &|| std::fs::remove_dir_all(tree.at("home/old/.ssh")).unwrap()),
        ("user:/etc/sudoers.d/50-old", &|| {
            tree.write("etc/sudoers.d/50-old", "old ALL=(ALL) NOPASSWD: ALL\n");
        }),
    ];
    for (id, drift) in drifts {
        drift();
        assert_eq!(tree.kpull("apply --json").exits(0).changed(), [id]);
    }
    let mut now = tree.snapshot();
    now.retain(|path, _| !path.starts_with("var/lib/kpull"));
    for (path, state) in now {
        assert_eq!(Some(&state), whole.get(&path), "{path}");
    }
}

#[test]
fn two_resources_that_decide_about_one_group_or_one_file_are_found_by_check() {
    let key = format!("[[user]]\nname = 'ann'\nauthorized_keys = ['{ANN}']\n");
    for (role, what) in [
        (
            "[[group]]\nname = 'ops'\nmembers = ['bob']\n[[user]]\nname = 'ann'\ngroups = ['ops']\n".to_owned(),
            "members-of:ops",
        ),
        (
            "[[group]]\nname = 'ops'\nmembers = ['ann']\n[[user]]\nname = 'ann'\nexclusive_groups = true\n".to_owned(),
            "groups-of:ann",
        ),
        (
            format!("{key}[[file]]\npath = '/home/ann/.ssh/authorized_keys'\ncontent = ''\n"),
            "/home/ann/.ssh/authorized_keys",
        ),
        ("[[user]]\nname = 'ann'\n[[user]]\nname = 'ann'\nstate = 'absent'\n".to_owned(), "user:ann"),
    ] {
        let (site, _) = site("");
        site.role("base", &role);
        let checked = crate::support::site::kpull(&["check", "--site", site.path().to_str().unwrap()]);
        assert_ne!(checked.code, 0, "{role}");
        let text = format!("{}{}", checked.stdout, checked.stderr);
        assert!(text.contains(what) && text.contains("roles/base/role.toml:"), "{what}: {text}");
    }
}

/// Situations of Ansible's own tests of `user`, `group` and `authorized_key`, by what the tree has afterwards.
#[test]
fn situations_of_ansible_s_own_tests_end_in_the_same_state() {
    let key = |words: &str| format!("{words} ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIann c");
    let quoted = key("command=\"/bin/foo \\\\\\\"arg\\\\\\\" /bin/bar\",from=\"10.0.0.*\"");
    let (site, tree) = site("");
    tree.kpull("apply").exits(0);
    let passwd = tree.read("etc/passwd");
    tree.write("etc/passwd", format!("{passwd}noshadow:x:901:900::/home/noshadow:/bin/sh\n"));
    tree.write("srv/existing/.ssh/authorized_keys", "# I like cheese\nssh-rsa AAAA one\n\nssh-rsa BBBB two\n# 🧀\n");
    next(
        &site,
        &tree,
        &format!(
            r#"
[[user]]
name = "noshadow"
expires = "never"
[[user]]
name = "parents"
home = "/srv/deep/er/parents"
[[user]]
name = "homeless"
home = "/srv/none/homeless"
create_home = false
[[user]]
name = "numbered"
uid = 1777
system = true
[[group]]
name = "numbered"
gid = 1778
[[user]]
name = "existing"
home = "/srv/existing"
authorized_keys = ['{quoted}', "ssh-rsa CCCC three\nssh-rsa DDDD four\n"]
[[user]]
name = "nobody"
state = "absent"
[[group]]
name = "nogroup"
state = "absent"
"#
        ),
    );
    let line = |path: &str, name: &str| {
        let text = tree.read(path);
        text.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap_or_default().to_owned()
    };
    assert!(line("etc/shadow", "noshadow").starts_with("noshadow:!*:"));
    assert!(tree.at("srv/deep/er/parents").is_dir() && !tree.at("srv/none").exists());
    assert_eq!(line("etc/passwd", "numbered"), "numbered:x:1777:1778::/nonexistent:/usr/sbin/nologin");
    assert_eq!(
        tree.read("srv/existing/.ssh/authorized_keys"),
        format!(
            "# I like cheese\nssh-rsa AAAA one\n\nssh-rsa BBBB two\n# 🧀\n# BEGIN kpull keys\n{quoted}\nssh-rsa CCCC three\n\
             ssh-rsa DDDD four\n# END kpull keys\n"
        )
    );
}

/// The shipped role hardening, and what belongs to accounts that packages create.
const OF_PACKAGES: &str = r#"
[[package]]
name = "nginx"
[[user]]
name = "ann"
groups = ["sudo"]
[[group]]
name = "web"
gid = 700
members = ["ann", "www-data"]
[[file]]
path = "/srv/page"
content = "x"
mode = "0640"
owner = "www-data"
group = "www-data"
[[directory]]
path = "/srv/logs"
group = "adm"
[[permissions]]
path = "/srv/page.conf"
acl = ["user:www-data:r"]
"#;

#[test]
fn in_a_tree_without_the_accounts_of_packages_root_stands_for_them() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let site = Site::new("test");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"hardening\", \"base\"]\n").role("base", OF_PACKAGES);
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/roles/hardening");
    for file in ["role.toml", "templates/sshd.conf", "templates/ssh.conf"] {
        site.file(&format!("roles/hardening/{file}"), std::fs::read_to_string(format!("{shipped}/{file}")).unwrap());
    }
    let tree = site.sign().enroll();
    tree.write("etc/os-release", "ID=debian\nVERSION_ID=12\n").write("srv/page.conf", "");
    let owners = || {
        ["etc/shadow", "srv/page", "srv/logs"].map(|path| {
            let meta = std::fs::metadata(tree.at(path)).unwrap();
            (meta.uid(), meta.gid(), meta.mode() & 0o7777)
        })
    };
    tree.kpull("apply").exits(0);
    assert_eq!(owners(), [(0, 0, 0o600), (0, 0, 0o640), (0, 0, 0o755)]);
    assert!(tree.read("etc/group").contains("web:x:700:ann\n"));
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), [""; 0]);

    // as soon as it has them
    let add = |path: &str, lines: &str| tree.write(path, format!("{}{lines}", tree.read(path)));
    add("etc/group", "shadow:x:42:\nwww-data:x:33:\nsudo:x:27:\nadm:x:4:\n");
    add("etc/passwd", "www-data:x:33:33::/var/www:/usr/sbin/nologin\n");
    tree.kpull("apply").exits(0);
    assert_eq!(owners(), [(0, 42, 0o640), (33, 33, 0o640), (0, 4, 0o755)]);
    assert!(tree.read("etc/group").contains("sudo:x:27:ann\n"));
    assert!(tree.read("etc/group").contains("web:x:700:ann,www-data\n"));
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), [""; 0]);

    // no file becomes setuid root, and a name that nothing can create is a mistake
    for role in [
        "[[package]]\nname = \"x\"\n[[file]]\npath = \"/srv/x\"\ncontent = \"x\"\nowner = \"ghost\"\nmode = \"4755\"\n",
        "[[file]]\npath = \"/srv/x\"\ncontent = \"x\"\nowner = \"ghost\"\n",
    ] {
        site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n").role("base", role).sign();
        let run = tree.kpull("apply").exits(3);
        assert!(run.stderr.contains("/srv/x can't belong to user ghost, which does not exist"), "{}", run.stderr);
        assert!(!tree.at("srv/x").exists());
    }
    site.role("base", "[[group]]\nname = \"web\"\nmembers = [\"ghost\"]\n").sign();
    let run = tree.kpull("apply").exits(3);
    assert!(run.stderr.contains("ghost can't be in the group web: there is no such user"), "{}", run.stderr);
}
