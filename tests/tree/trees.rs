//! Directories of a role that are copied whole, and the permissions of what others make.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::support::git::git;
use crate::support::site::{Site, Tree, kpull};
use crate::tree::artifacts;

/// A site whose role has these files in `files/site`.
fn site(role: &str) -> Site {
    let site = Site::new("test");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"web\"]\n");
    site.file("roles/web/files/site/index.html", "<p>\n").file("roles/web/files/site/bin/run", "#!/bin/sh\n");
    site.file("roles/web/files/site/conf/app.conf.j2", "{% include 'head' %}host = {{ host.name }}\n");
    site.file("roles/web/templates/head", "# kpull's\n").role("web", role);
    site
}

const TREE: &str = "[[tree]]\npath = '/srv/site'\nsource = 'site'\nrender = ['.j2']\n";

/// The ids of what a run changes.
fn changed(tree: &Tree, command: &str, code: i32) -> Vec<String> {
    tree.kpull(command).exits(code).changed()
}

#[test]
fn a_directory_of_a_role_is_copied_rendered_corrected_and_undone() {
    let site = site(TREE);
    let tree = site.sign().enroll();
    tree.write("srv/site/index.html", "theirs").write("srv/site/other", "theirs");
    let before = tree.snapshot();
    let all = ["bin/run", "conf/app.conf", "index.html"].map(|name| format!("tree:/srv/site/{name}"));
    assert_eq!(changed(&tree, "apply --json", 0), all);
    assert_eq!(tree.read("srv/site/conf/app.conf"), "# kpull's\nhost = h1\n");
    assert_eq!((tree.mode("srv/site/bin/run"), tree.mode("srv/site/index.html")), (0o755, 0o644));
    assert_eq!(changed(&tree, "apply --json", 0), [""; 0]);
    tree.write("srv/site/conf/app.conf", "drift");
    assert_eq!(changed(&tree, "apply --json", 0), ["tree:/srv/site/conf/app.conf"]);
    // a file that the role no longer has goes, with the directory that it was in
    fs::remove_file(site.path().join("roles/web/files/site/bin/run")).unwrap();
    site.sign();
    assert_eq!(changed(&tree, "apply --json", 0).len(), 2);
    assert!(!tree.at("srv/site/bin").exists());
    site.role("web", "").sign();
    tree.kpull("apply").exits(0);
    let after = tree.snapshot();
    let below = |all: &std::collections::BTreeMap<String, (String, Vec<u8>)>| -> Vec<_> {
        all.iter().filter(|(name, _)| name.contains("srv/")).map(|(name, what)| (name.clone(), what.clone())).collect()
    };
    assert_eq!(below(&after), below(&before));
}

#[test]
fn an_exclusive_tree_removes_what_others_add_and_leaves_what_resources_manage() {
    let more = "exclusive = true\n[[file]]\npath = '/srv/site/own/kept'\ncontent = 'x'\n";
    let site = site(&format!("{TREE}{more}"));
    let tree = site.sign().enroll();
    tree.write("srv/site/first/a", "theirs");
    tree.kpull("apply").exits(0);
    assert!(!tree.at("srv/site/first").exists());
    tree.write("srv/site/own/added", "x").write("srv/site/bin/added", "x");
    let plan = tree.kpull("plan --json").exits(2);
    assert_eq!(plan.changed(), ["tree:/srv/site"]);
    assert_eq!(changed(&tree, "apply --json", 0), ["tree:/srv/site"]);
    assert!(!tree.at("srv/site/own/added").exists() && !tree.at("srv/site/bin/added").exists());
    assert_eq!(tree.read("srv/site/own/kept"), "x");
    site.role("web", "").sign();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("srv/site/first/a"), "theirs");
    assert!(!tree.at("srv/site/bin").exists() && !tree.at("srv/site/own").exists());
}

#[test]
fn check_asks_for_the_secret_of_a_rendered_file_of_a_tree() {
    let site = site(TREE);
    site.file("roles/web/files/site/a.key.j2", "{{ secret('token') }}\n");
    let error = kpull(&["check", "--json", "--site", site.path().to_str().unwrap()]).exits(1).error();
    assert_eq!((error["file"].as_str(), error["line"].as_u64()), (Some("roles/web/files/site/a.key.j2"), Some(1)));
    assert!(error["error"].as_str().unwrap().contains("there is no secret `token`"), "{error}");
}

#[test]
fn mistakes_in_trees_and_permissions_are_found_with_their_place() {
    for (role, place, why) in [
        ("[[tree]]\npath = '/srv/x'\nsource = 'sit'\n", "roles/web/role.toml:4:10", "did you mean `site`"),
        (
            "[[tree]]\npath = '/srv/x'\nsource = 'site'\nmodes = { 'x/*' = '0755' }\n",
            "roles/web/role.toml:5:9",
            "no file in `site`",
        ),
        ("[[permissions]]\npath = '/srv/x'\n", "roles/web/role.toml:3:8", "set at least one of `mode`"),
        ("[[permissions]]\npath = '/srv/x'\nmode = 'rw'\n", "roles/web/role.toml:4:8", "is not a mode"),
        (
            "[[permissions]]\npath = '/srv/x'\nacl = ['bob:rw']\n",
            "roles/web/role.toml:4:8",
            "is not an entry of an access list",
        ),
        (
            "[[permissions]]\npath = '/srv/x'\nmode = '0600'\n[[file]]\npath = '/srv/x'\ncontent = 'x'\n",
            "roles/web/role.toml:5:1",
            "`/srv/x` occurs twice in the role web",
        ),
    ] {
        let site = site(role);
        let error = kpull(&["check", "--json", "--site", site.path().to_str().unwrap()]).exits(1).error();
        let at = format!("{}:{}:{}", error["file"].as_str().unwrap(), error["line"], error["column"]);
        assert_eq!(at, place, "{error}");
        assert!(error.to_string().contains(why), "{role}: no {why} in {error}");
    }
}

#[test]
fn permissions_of_what_others_made_are_set_corrected_and_restored() {
    let role = "[[permissions]]\npath = '/srv/data'\nrecursive = true\nmode = 'u=rwX,g=rX,o='\nacl = ['group:web:rX', 'default:group:web:rX']\n\
                [[permissions]]\npath = '/srv/one'\nmode = 'go-rwx'\n[[file]]\npath = '/srv/data/own'\ncontent = 'x'\nmode = '0604'\n";
    let site = site(role);
    let tree = site.sign().enroll();
    tree.write("etc/group", "web:x:1234:\n").write("etc/passwd", "root:x:0:0::/:/bin/sh\n");
    tree.write("srv/data/sub/a", "theirs").write("srv/one", "theirs");
    for (path, mode) in [("srv/data", 0o755), ("srv/data/sub", 0o711), ("srv/data/sub/a", 0o666), ("srv/one", 0o664)] {
        fs::set_permissions(tree.at(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    let plan = tree.kpull("plan --json").exits(2).changed();
    assert_eq!(plan, ["file:/srv/data/own", "permissions:/srv/data", "permissions:/srv/one"]);
    assert_eq!(changed(&tree, "apply --json", 0), plan);
    let modes =
        || ["srv/data", "srv/data/sub", "srv/data/sub/a", "srv/one", "srv/data/own"].map(|path| tree.mode(path));
    assert_eq!(modes(), [0o750, 0o750, 0o640, 0o600, 0o604]);
    let list = |path: &str, name: &str| {
        let mut value = vec![0; 256];
        rustix::fs::lgetxattr(tree.at(path), name, &mut value).ok().map(|size| hex::encode(&value[..size]))
    };
    // owner, group, web (1234), mask, others
    let wanted = [
        "02000000",
        "01000600ffffffff",
        "04000400ffffffff",
        "08000400d2040000",
        "10000400ffffffff",
        "20000000ffffffff",
    ];
    assert_eq!(list("srv/data/sub/a", "system.posix_acl_access").unwrap(), wanted.concat());
    assert!(list("srv/data/sub", "system.posix_acl_default").is_some());
    assert_eq!(changed(&tree, "apply --json", 0), [""; 0]);
    // a new file of theirs, and a mode that someone changed
    tree.write("srv/data/sub/b", "theirs");
    fs::set_permissions(tree.at("srv/data/sub/b"), fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(tree.at("srv/one"), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(changed(&tree, "apply --json", 0), ["permissions:/srv/data", "permissions:/srv/one"]);
    assert_eq!((tree.mode("srv/data/sub/b"), tree.mode("srv/one")), (0o750, 0o600));
    site.role("web", "").sign();
    tree.kpull("apply").exits(0);
    let modes = ["srv/data", "srv/data/sub", "srv/data/sub/a", "srv/one", "srv/data/sub/b"].map(|path| tree.mode(path));
    assert_eq!(modes, [0o755, 0o711, 0o666, 0o664, 0o777]);
    assert!(
        list("srv/data/sub", "system.posix_acl_default").is_none()
            && list("srv/data/sub/a", "system.posix_acl_access").is_none()
    );
}

#[test]
fn a_commit_is_installed_from_its_archive_and_the_next_one_replaces_it() {
    let repository = tempfile::tempdir().unwrap();
    let at = repository.path();
    git(at, &["init", "-q"]);
    let commit = |name: &str, text: &str| {
        fs::write(at.join(name), text).unwrap();
        git(at, &["add", "-A"]);
        git(at, &["commit", "-q", "-m", name]);
        let id = git(at, &["rev-parse", "HEAD"]);
        let out = at.join("..").join(format!("{id}.tar.gz"));
        git(at, &["archive", &format!("--prefix=tools-{id}/"), "--output", out.to_str().unwrap(), &id]);
        let archive = fs::read(&out).unwrap();
        fs::remove_file(out).unwrap();
        (archive, format!("\"tools-{id}/\" = \"/opt/tools\""))
    };
    let (first, install) = commit("old", "one\n");
    let (_publisher, url) = artifacts::published("tools.tar.gz", &first);
    let site = artifacts::site(&[url], &first, &install);
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("opt/tools/old"), "one\n");
    git(at, &["mv", "old", "new"]);
    let (second, install) = commit("new", "two\n");
    let (_publisher, url) = artifacts::published("tools.tar.gz", &second);
    let next = artifacts::site(&[url], &second, &install);
    for path in ["artifacts.toml", "roles/base/role.toml"] {
        site.file(path, fs::read(next.path().join(path)).unwrap());
    }
    site.sign();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("opt/tools/new"), "two\n");
    assert!(!tree.at("opt/tools/old").exists());
}
