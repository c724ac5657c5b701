//! Commits of git repositories, checked out into a directory: only the one that the role names, and nothing outside the directory.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use kpull::net::server::{Received, Server};

use crate::support::child;
use crate::support::git::{git, git_backend};
use crate::support::site::{Output, Site, Tree, kpull};
use crate::tree::artifacts;

/// A repository `app` with a program, a link and a directory, in a directory of its own; and its commit.
fn repository() -> (tempfile::TempDir, String) {
    let hub = tempfile::tempdir().unwrap();
    git(hub.path(), &["init", "-q", "-b", "main", "app"]);
    let commit = commit(hub.path(), &[("README", "read 1\n"), ("bin/run", "#!/bin/sh\n"), ("lib/a/deep", "deep\n")]);
    (hub, commit)
}

/// Commits these files and whatever else was changed.
fn commit(hub: &Path, files: &[(&str, &str)]) -> String {
    let app = hub.join("app");
    for (path, content) in files {
        fs::create_dir_all(app.join(path).parent().unwrap()).unwrap();
        fs::write(app.join(path), content).unwrap();
    }
    if app.join("bin/run").exists() {
        git(&app, &["update-index", "--add", "--chmod=+x", "bin/run"]);
    }
    git(&app, &["-c", "core.fileMode=false", "add", "-A"]);
    git(&app, &["commit", "-q", "-m", "a change"]);
    git(&app, &["rev-parse", "HEAD"])
}

fn role(url: &str, commit: &str, more: &str) -> String {
    format!("[[checkout]]\npath = \"/srv/app\"\nurl = \"{url}\"\ncommit = \"{commit}\"\n{more}")
}

fn site(role: &str) -> Site {
    let site = Site::new("test");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"web\"]\n").role("web", role);
    site
}

/// Everything in the directory on the host, with modes and contents.
fn below(tree: &Tree) -> Vec<(String, String, String)> {
    let all = tree.snapshot().into_iter();
    let all = all.filter_map(|(name, (mode, content))| {
        let name = name.strip_prefix("srv/app/")?.to_owned();
        Some((name, mode, String::from_utf8(content).unwrap()))
    });
    all.collect()
}

fn names(tree: &Tree) -> Vec<String> {
    below(tree).into_iter().map(|(name, ..)| name).collect()
}

const ID: &str = "checkout:/srv/app";

#[test]
fn a_commit_is_checked_out_corrected_updated_and_undone() {
    let (hub, first) = repository();
    let seen = std::sync::Arc::new(Mutex::new(None));
    let tree = Tree::new();
    let (kept, path, backend) = (seen.clone(), tree.path().display().to_string(), git_backend(hub.path().to_owned()));
    let server = Server::plain(move |request: &Received| {
        *kept.lock().unwrap() = child::status(&path);
        backend(request)
    })
    .unwrap();
    let url = server.url("app");
    let site = site(&role(&url, &first, ""));
    tree.configure(&format!("[[source]]\ndir = \"{}\"\n", site.sign().path().display()));
    tree.write("srv/app/README", "theirs\n").write("srv/app/mine", "mine\n");
    let before = below(&tree);

    let plan = tree.kpull("plan --json").exits(2);
    assert_eq!((plan.changed(), server.seen().len()), (vec![ID.to_owned()], 0));
    assert!(plan.stdout.contains(&format!("check out {}", &first[..12])), "{plan:?}");
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), [ID]);
    child::expect_none_of_roots_rights("a repository", &seen.lock().unwrap().take().unwrap());
    assert_eq!(names(&tree), ["README", "bin", "bin/run", "lib", "lib/a", "lib/a/deep", "mine"]);
    assert_eq!((tree.read("srv/app/README"), tree.read("srv/app/mine")), ("read 1\n".into(), "mine\n".into()));
    assert_eq!((tree.mode("srv/app/bin/run"), tree.mode("srv/app/README")), (0o755, 0o644));
    assert!(!tree.at("var/lib/kpull/cache/commit").exists(), "its packs are of no use any more");

    // an update is the only reason to ask the server again
    let asked = server.seen().len();
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), [""; 0]);
    tree.write("srv/app/lib/a/deep", "drift");
    fs::remove_file(tree.at("srv/app/bin/run")).unwrap();
    let plan = tree.kpull("plan --json").exits(2);
    assert!(plan.stdout.contains("extract 1 file, replace deep"), "{plan:?}");
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), [ID]);
    assert_eq!((tree.read("srv/app/lib/a/deep"), server.seen().len()), ("deep\n".into(), asked));

    fs::remove_dir_all(hub.path().join("app/lib")).unwrap();
    fs::remove_file(hub.path().join("app/README")).unwrap();
    symlink("run", hub.path().join("app/bin/go")).unwrap();
    let second = commit(hub.path(), &[("bin/run", "#!/bin/bash\n")]);
    site.role("web", &role(&url, &second, "")).sign();
    tree.kpull("apply").exits(0);
    assert_eq!(names(&tree), ["README", "bin", "bin/go", "bin/run", "mine"]);
    assert_eq!((tree.read("srv/app/README"), tree.read("srv/app/bin/go")), ("theirs\n".into(), "#!/bin/bash\n".into()));
    assert_eq!(tree.at("srv/app/bin/go").read_link().unwrap(), Path::new("run"));

    // the commit before is still stored
    let asked = server.seen().len();
    tree.kpull("rollback").exits(0);
    assert_eq!((tree.read("srv/app/README"), server.seen().len()), ("read 1\n".into(), asked));
    site.role("web", "").sign();
    tree.kpull("apply --retry").exits(0);
    assert_eq!(below(&tree), before);
}

#[test]
fn a_working_directory_that_was_removed_is_named_and_not_the_repository() {
    let (hub, commit) = repository();
    let site = site(&role(&hub.path().join("app").display().to_string(), &commit, ""));
    let (tree, removed) = (site.sign().enroll(), tempfile::tempdir().unwrap());
    let mut shell = Command::new("sh");
    shell.args(["-c", "rmdir \"$PWD\" && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_kpull"), "apply", "--root"]);
    let output = Output::of(shell.arg(tree.path()).current_dir(removed.path()).output().unwrap());
    output.fails(1, "in a working directory that no longer exists");
    tree.kpull("apply").exits(0);
}

#[test]
fn a_lost_archive_of_a_commit_is_fetched_again_and_an_unused_one_is_deleted() {
    let (hub, first) = repository();
    let url = hub.path().join("app").display().to_string();
    let site = site(&role(&url, &first.to_uppercase(), "from = \"lib\"\nmode = \"0750\"\n"));
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    assert_eq!(names(&tree), ["a", "a/deep"]);
    assert_eq!(tree.mode("srv/app/a/deep"), 0o640);
    let stored = || -> Vec<_> {
        let entries = fs::read_dir(tree.at("var/lib/kpull/artifacts")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let archive = || stored().into_iter().find(|path| path.extension().is_none()).unwrap();
    tree.write("srv/app/a/deep", "drift");
    fs::write(archive(), "damaged").unwrap();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("srv/app/a/deep"), "deep\n");
    tree.kpull("gc").exits(0);
    assert_eq!(stored().len(), 3, "an archive, what it has in it, and which commit it is: {:?}", stored());
    let config = fs::read_to_string(tree.at("etc/kpull/kpull.toml")).unwrap();
    tree.write("etc/kpull/kpull.toml", format!("{config}\n[keep]\ngenerations = 2\n"));
    for number in 1..=3 {
        site.role("web", &format!("[[file]]\npath = \"/etc/motd\"\ncontent = \"{number}\"\n")).sign();
        tree.kpull("apply").exits(0);
    }
    tree.kpull("gc").exits(0);
    assert_eq!(stored().len(), 0, "{:?}", stored());
}

#[test]
fn exclusive_checkouts_and_artifacts_have_nothing_else_in_their_directories() {
    let (hub, first) = repository();
    let url = hub.path().join("app").display().to_string();
    let archive = artifacts::tar_gz(&[("tool/bin/tool", b"tool"), ("tool/share/x", b"x")]);
    let (_publisher, address) = artifacts::published("tool.tar.gz", &archive);
    let site = artifacts::site(&[address], &archive, "\"tool/\" = \"/opt/tool\"");
    let artifact = fs::read_to_string(site.path().join("roles/base/role.toml")).unwrap();
    let (_, artifact) = artifact.split_once('\n').unwrap();
    let more = "exclusive = true\n[[file]]\npath = \"/srv/app/conf\"\ncontent = \"x\"\n";
    site.role("base", &format!("{artifact}exclusive = true\n{}", role(&url, &first, more)));
    let tree = site.sign().enroll();
    tree.write("srv/app/lib/theirs", "theirs").write("srv/app/README", "theirs").write("opt/tool/theirs", "theirs");
    // what is in them is not known yet
    assert!(!tree.kpull("plan --json").exits(2).changed().iter().any(|id| id.starts_with("tree:")));
    tree.kpull("apply").exits(0);
    assert_eq!(names(&tree), ["README", "bin", "bin/run", "conf", "lib", "lib/a", "lib/a/deep"]);
    assert!(!tree.at("opt/tool/theirs").exists() && tree.at("opt/tool/share/x").exists());
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), [""; 0]);
    tree.write("srv/app/bin/more", "x").write("opt/tool/bin/more", "x");
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), ["tree:/opt/tool", "tree:/srv/app"]);
    assert!(!tree.at("srv/app/bin/more").exists() && !tree.at("opt/tool/bin/more").exists());
    site.role("base", "").sign();
    tree.kpull("apply").exits(0);
    assert_eq!(names(&tree), ["README", "lib", "lib/theirs"]);
    assert_eq!((tree.read("srv/app/README"), tree.read("opt/tool/theirs")), ("theirs".into(), "theirs".into()));
}

#[test]
fn mistakes_in_a_checkout_are_reported_with_place_and_the_command_for_the_id() {
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let url = "https://git.example.org/app.git";
    for (role, place, why, help) in [
        (
            role(url, "main", ""),
            "5:10",
            "`main` is not a commit",
            "`git rev-parse 'main^{commit}'` in a clone prints it",
        ),
        (role(url, &commit[..7], ""), "5:10", "`0123456` is not a commit", "`git rev-parse '0123456^{commit}'`"),
        (role("git.example.org/app", commit, ""), "4:7", "is not the address of a git repository", "user@host:path"),
        (role("https://me:hunter2@h/app", commit, ""), "4:7", "credentials", "use ssh"),
        (role(url, commit, "from = \"../x\"\n"), "6:8", "is written like `dir/sub`", ""),
        (
            role(url, commit, "[[file]]\npath = \"/srv/app\"\ncontent = \"\"\n"),
            "6:1",
            "`/srv/app` occurs twice in the role web",
            "",
        ),
    ] {
        let checked = kpull(&["check", "--json", "--site", site(&role).path().to_str().unwrap()]).exits(1);
        let error = checked.events("error").remove(0);
        let at = format!("{}:{}:{}", error["file"].as_str().unwrap(), error["line"], error["column"]);
        assert_eq!(at, format!("roles/web/role.toml:{place}"), "{error}");
        assert!(error["error"].as_str().unwrap().contains(why), "{error}");
        assert!(error["help"].as_str().unwrap_or_default().contains(help), "{error}");
        assert!(!checked.stdout.contains("hunter2"), "{error}");
    }
}

/// The error of a run that must change nothing.
fn refused(url: &str, commit: &str) -> String {
    let site = site(&format!("{}[[file]]\npath = \"/etc/motd\"\ncontent = \"x\"\n", role(url, commit, "")));
    let tree = site.sign().enroll();
    let error = tree.kpull("apply --json").exits(1).error();
    assert!(!tree.at("srv").exists() && !tree.at("etc/motd").exists(), "{error}");
    error["error"].as_str().unwrap().to_owned()
}

#[test]
fn a_server_can_not_pass_another_commit_off_as_the_one_that_the_role_names() {
    let (hub, first) = repository();
    let second = commit(hub.path(), &[("README", "hostile\n")]);
    // says that it has the commit, and sends the other one
    let (wanted, given) = ("1".repeat(40), second.clone());
    let backend = git_backend(hub.path().to_owned());
    let replace = |bytes: &[u8], from: &str, to: &str| {
        let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
        text.replace(from, to).chars().map(|c| c as u8).collect::<Vec<u8>>()
    };
    let server = Server::plain(move |request: &Received| {
        let body = replace(&request.body, &wanted, &given);
        let mut answer = backend(&Received { body, ..request.clone() });
        if request.path.ends_with("info/refs") {
            answer.body = replace(&answer.body, &given, &wanted);
        }
        answer
    })
    .unwrap();
    let error = refused(&server.url("app"), &"1".repeat(40));
    assert!(error.contains(&format!("has no commit {}", "1".repeat(40))), "{error}");
    // a repository without it
    let error = refused(&hub.path().join("app").display().to_string(), &first.replace(|c: char| c != '0', "2"));
    assert!(error.contains("has no commit"), "{error}");
}

#[test]
fn links_that_lead_out_are_refused_and_submodules_are_left_out() {
    let (hub, first) = repository();
    let app = hub.path().join("app");
    let url = app.display().to_string();
    let module = format!("160000,{first},module");
    git(&app, &["update-index", "--add", "--cacheinfo", &module]);
    git(&app, &["commit", "-q", "-m", "a submodule"]);
    let with_module = git(&app, &["rev-parse", "HEAD"]);
    // another checkout can be where the submodule is
    let more =
        format!("[[checkout]]\npath = \"/srv/app/module\"\nurl = \"{url}\"\ncommit = \"{first}\"\nfrom = \"bin\"\n");
    let site = site(&role(&url, &with_module, &more));
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    assert_eq!(names(&tree), ["README", "bin", "bin/run", "lib", "lib/a", "lib/a/deep", "module", "module/run"]);
    for target in ["/etc/passwd", "../../etc/passwd", "../lib/../../../etc"] {
        symlink(target, app.join("bin/out")).unwrap();
        let commit = commit(hub.path(), &[]);
        let error = refused(&url, &commit);
        assert!(error.contains("`bin/out` is a symbolic link to") && error.contains("can point out"), "{error}");
        fs::remove_file(app.join("bin/out")).unwrap();
    }
}
