//! Content of others that an operator adds to a site: files of a host by `kpull adopt`, roles of another site by `kpull
//! vendor`.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::site::{Output, Site, Tree, key, kpull};

fn adopt(tree: &Tree, site: &Site, rest: &str) -> Output {
    tree.kpull(&format!("adopt {rest} --site {}", site.path().display()))
}

/// A place of a local user's.
fn home() -> (Tree, Site) {
    let tree = Tree::new();
    tree.write("home/u/good", "x\n");
    (tree, Site::new("test"))
}

#[test]
fn text_of_a_local_user_is_no_template_in_the_role_that_adopts_it() {
    for mark in ["{{ secret('db') }}", "{% if 1 %}", "a{# x #}"] {
        let (tree, site) = home();
        symlink(mark, tree.at("home/u/link")).unwrap();
        let output = adopt(&tree, &site, "mine /home/u").exits(1);
        assert!(output.stderr.contains("looks like a template"), "{}", output.stderr);
        assert!(!site.path().join("roles").exists());

        let (tree, site) = home();
        tree.write("etc/sysctl.d/x.conf", format!("net.ipv4.ip_forward = {mark}\n"));
        assert!(
            adopt(&tree, &site, "mine sysctl:net.ipv4.ip_forward").exits(1).stderr.contains("looks like a template")
        );
        let (tree, site) = home();
        tree.write("etc/systemd/system/a.service", "[Service]\nExecStart=/bin/true\n");
        tree.write("etc/systemd/system/a.service.d/x.conf", format!("[Service]\n# {mark}\n"));
        assert!(adopt(&tree, &site, "mine a.service").exits(1).stderr.contains("looks like a template"));
        let (tree, site) = home();
        let zone = format!("<?xml version=\"1.0\"?>\n<zone><service name=\"{mark}\"/></zone>\n");
        tree.write("etc/firewalld/zones/public.xml", zone);
        adopt(&tree, &site, "mine firewall:public").fails(1, "looks like a template");
        assert!(!site.path().join("roles").exists());
    }
    // the content of a file is not evaluated
    let (tree, site) = home();
    tree.write("home/u/text", "{{ x }}");
    adopt(&tree, &site, "mine /home/u/text").exits(0);
}

#[test]
fn no_repository_of_a_local_user_becomes_part_of_a_site() {
    for name in [".git", ".GIT", ".hg"] {
        let (tree, site) = home();
        tree.write(&format!("home/u/{name}/config"), "[core]\nfsmonitor = \"touch /ran\"\n");
        let output = adopt(&tree, &site, "mine /home/u").exits(1);
        assert!(output.stderr.contains("is part of a repository"), "{}", output.stderr);
        assert!(!site.path().join("roles").exists());
    }
}

#[test]
fn a_name_that_no_site_can_have_is_reported_in_one_line_and_not_adopted() {
    for (name, shown) in [("a\n/etc/shadow", r"a\n/etc/shadow"), ("a\\b", r"a\b"), ("a\u{1b}[2J", r"a\u{1b}[2J")] {
        let (tree, site) = home();
        tree.write(&format!("home/u/{name}"), "x");
        let output = adopt(&tree, &site, "mine /home/u").exits(1);
        assert!(
            output.stderr.contains(&format!("a site can't have a file with the name home/u/{shown}")),
            "{}",
            output.stderr
        );
        assert!(!site.path().join("roles").exists());
    }
    // neither is what has no name in letters taken for something else
    let (tree, site) = home();
    symlink(std::ffi::OsStr::from_bytes(b"\xff"), tree.at("home/u/link")).unwrap();
    let output = adopt(&tree, &site, "mine /home/u").exits(1);
    assert!(output.stderr.contains("which is not UTF-8"), "{}", output.stderr);
}

#[test]
fn a_local_users_file_below_etc_hides_no_other_and_injects_no_line() {
    let tree = Tree::new();
    tree.write("etc/app.conf", "x\n").write("etc/u/a\n/etc/shadow", "x\n");
    // deeper than any path can be long
    let mut deep =
        nix::fcntl::open(&tree.at("etc/u"), nix::fcntl::OFlag::O_DIRECTORY, nix::sys::stat::Mode::empty()).unwrap();
    for _ in 0..3000 {
        nix::sys::stat::mkdirat(&deep, "d", nix::sys::stat::Mode::S_IRWXU).unwrap();
        let below = nix::fcntl::openat(&deep, "d", nix::fcntl::OFlag::O_DIRECTORY, nix::sys::stat::Mode::empty());
        deep = below.unwrap();
    }
    let output = tree.kpull("adopt").exits(0).stdout;
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0], "/etc/app.conf");
    assert!(lines.contains(&r"/etc/u/a\n/etc/shadow") && !lines.contains(&"/etc/shadow"), "{output}");
    assert!(lines[2].starts_with("/etc/u/d/d/d") && lines.len() == 3 && output.len() < 1000, "{output}");
    // a directory so deep is removed one level at a time
    assert!(Command::new("rm").arg("-rf").arg(tree.at("etc/u")).status().unwrap().success());
}

#[test]
fn a_pipe_a_device_and_a_sparse_or_unreadable_file_are_not_adopted() {
    for what in 0..3 {
        let (tree, site) = home();
        let path = tree.at("home/u/x");
        match what {
            0 => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            1 => fs::File::create(&path).unwrap().set_len(1 << 40).unwrap(),
            _ => {
                fs::write(&path, "x").unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            }
        }
        let output = adopt(&tree, &site, "mine /home/u").exits(1);
        let words =
            ["is a device, a socket or a pipe", "which is too large for a site", "not everyone on the host can read"];
        assert!(output.stderr.contains(words[what]), "{}", output.stderr);
        assert!(!site.path().join("roles").exists());
    }
}

/// A commit of another site whose role `web` has a file at `path` below `files/`, which git itself would not write, and the
/// `vendor.toml` of a site that vendors that role.
fn vendoring(path: &str, content: &str) -> (Site, Site) {
    let common = Site::new("common");
    common.role("web", "[[file]]\npath = \"/etc/x\"\nsource = \"good\"\n");
    common.file("roles/web/files/good", "x").file(&format!("roles/web/files/{path}"), content).sign();
    let mut shell = Command::new("sh");
    shell.current_dir(common.path()).stdin(Stdio::null()).env("GIT_CONFIG_GLOBAL", "/dev/null").arg("-euc").arg(TREE);
    let output = shell.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let commit = String::from_utf8(output.stdout).unwrap();
    let site = Site::new("test");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"web\"]\n").file(
        "vendor.toml",
        format!(
            "[common]\ngit = \"file://{}\"\ncommit = \"{}\"\nsigners = [\"alice {}\"]\nroles = [\"web\"]\n",
            common.path().display(),
            commit.trim(),
            key().public_key().to_openssh().unwrap()
        ),
    );
    (common, site)
}

/// Commits the directory as it is, whatever names are in it; which commit that is.
const TREE: &str = r"
git init -q
tree() {
    ls -A $1 | while read name; do
        case $1/$name in
            ./.git) ;;
            *) if [ -d $1/$name ]
               then printf '040000 tree %s\t%s\n' $(tree $1/$name) $name
               else printf '100644 blob %s\t%s\n' $(git hash-object -w $1/$name) $name
               fi ;;
        esac
    done | git mktree
}
git -c user.name=t -c user.email=t@localhost commit-tree -m x $(tree .) > commit
git update-ref refs/heads/main $(cat commit)
cat commit
";

fn vendor(site: &Site) -> Output {
    kpull(&["vendor", "--site", site.path().to_str().unwrap()])
}

#[test]
fn a_role_of_another_site_writes_no_repository_whose_configuration_names_programs() {
    for path in [".git/config", "sub/.git/config", "sub/.GIT/config", ".hg/hgrc"] {
        let (_common, site) = vendoring(path, "[core]\nfsmonitor = \"touch /ran\"\n");
        let output = vendor(&site).exits(4);
        assert!(output.stderr.contains(&format!("common has `files/{path}` in its role `web`")), "{}", output.stderr);
        assert!(!site.path().join("roles").exists());
    }
    // a file that only has such a name is a file like any other
    let (_common, site) = vendoring(".gitignore", "*.o\n");
    vendor(&site).exits(0);
    assert_eq!(fs::read_to_string(site.path().join("roles/web/files/.gitignore")).unwrap(), "*.o\n");
}

#[test]
fn the_recorded_origin_of_a_role_is_not_what_the_role_claims() {
    let (common, site) = vendoring("x", "x");
    common.file("roles/web/origin.toml", "site = \"kernel.org\"\n").sign();
    assert!(Command::new("rm").arg("-rf").arg(common.path().join(".git")).status().unwrap().success());
    let mut shell = Command::new("sh");
    let output = shell.current_dir(common.path()).arg("-euc").arg(TREE).output().unwrap();
    let list = site.path().join("vendor.toml");
    let text = fs::read_to_string(&list).unwrap();
    let old = text.split('"').nth(3).unwrap().to_owned();
    fs::write(&list, text.replace(&old, String::from_utf8(output.stdout).unwrap().trim())).unwrap();
    vendor(&site).exits(0);
    let origin = fs::read_to_string(site.path().join("roles/web/origin.toml")).unwrap();
    assert!(origin.contains("site = \"common\"") && !origin.contains("kernel.org"), "{origin}");
    assert!(Path::new(&list).exists());
}
