//! One release, whichever way it comes: the tree is the same; and when nothing comes, the last good one still holds.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use kpull::net::server::{Answer, Received, Server};

use crate::support::child;
use crate::support::git::{git, git_backend};
use crate::support::site::{Site, Tree};

/// A site with a bit of everything that is in a release.
fn site() -> Site {
    let site = Site::new("test");
    site.role(
        "base",
        r#"
        vars.port = 80

        [[directory]]
        path = "/srv/data"
        mode = "0750"

        [[symlink]]
        path = "/srv/current"
        target = "data"

        [[file]]
        path = "/etc/binary"
        source = "deep/er/binary"
        mode = "0600"

        [[template]]
        path = "/etc/base.conf"
        template = "base.conf"
        "#,
    );
    site.file("roles/base/files/deep/er/binary", (0..=255).collect::<Vec<u8>>());
    site.file("roles/base/files/empty", "");
    site.file("roles/base/templates/base.conf", "port = {{ port }}\r\nname = {{ host.name }} é\n");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n");
    site.file("README.md", "Not a part of the release.\n");
    site
}

/// A tree with these sources.
fn enrolled(sources: &[&str]) -> Tree {
    let tree = Tree::new();
    let tables: Vec<String> = sources.iter().map(|source| format!("[[source]]\n{source}\n")).collect();
    tree.configure(&tables.concat());
    tree
}

/// What any web server does with a directory.
pub fn files(dir: &Path) -> Server {
    let dir = dir.to_owned();
    Server::plain(move |request: &Received| match fs::read(dir.join(request.path.trim_start_matches('/'))) {
        Ok(content) => Answer::new(200, content),
        Err(_) => Answer::new(404, ""),
    })
    .unwrap()
}

/// Commits the site as it is and pushes it into a bare repository `site.git` below `hub`.
fn push(site: &Site, hub: &Path) {
    if !hub.join("site.git").exists() {
        git(hub, &["init", "-q", "--bare", "-b", "main", "site.git"]);
        git(site.path(), &["init", "-q", "-b", "main"]);
    }
    git(site.path(), &["add", "-A"]);
    git(site.path(), &["commit", "-q", "-m", "a release"]);
    git(site.path(), &["push", "-q", hub.join("site.git").to_str().unwrap(), "main"]);
}

#[test]
fn a_directory_a_web_server_and_git_produce_the_same_tree_byte_for_byte() {
    let site = site();
    site.sign();
    let hub = tempfile::tempdir().unwrap();
    push(&site, hub.path());
    let (web, smart) = (files(site.path()), Server::plain(git_backend(hub.path().to_owned())).unwrap());
    let ways = [
        format!("dir = \"{}\"", site.path().display()),
        format!("http = \"{}\"", web.url("")),
        format!("git = \"file://{}/site.git\"", hub.path().display()),
        format!("git = \"{}\"\nbranch = \"main\"", smart.url("site.git")),
    ];
    let trees: Vec<Tree> = ways.iter().map(|way| enrolled(&[way])).collect();
    for round in 1..=2 {
        for (tree, way) in trees.iter().zip(&ways) {
            let apply = tree.kpull("apply --json").exits(0);
            assert_eq!(apply.events("release")[0]["serial"], round, "{way}");
            assert_eq!(apply.changed().len(), if round == 1 { 4 } else { 1 }, "{way}");
            assert_eq!(tree.snapshot(), trees[0].snapshot(), "{way}");
            let quiet = tree.kpull("apply --json").exits(0);
            assert_eq!((quiet.events("release").len(), quiet.changed().len()), (0, 0), "{way}");
        }
        site.file("roles/base/templates/base.conf", "port = {{ port + 1 }}\n").sign();
        push(&site, hub.path());
    }
    assert_eq!(trees[3].read("etc/base.conf"), "port = 81\n");
    assert_eq!(fs::read(trees[3].at("etc/binary")).unwrap(), (0..=255).collect::<Vec<u8>>());
}

#[test]
fn an_unprivileged_process_talks_to_web_servers_and_git() {
    let site = site();
    let hub = tempfile::tempdir().unwrap();
    push(site.sign(), hub.path());
    for git in [false, true] {
        let tree = Tree::new();
        let seen = Arc::new(Mutex::new(None));
        let (files, backend) = (site.path().to_owned(), git_backend(hub.path().to_owned()));
        let (kept, name) = (seen.clone(), tree.path().to_str().unwrap().to_owned());
        let server = Server::plain(move |request: &Received| {
            *kept.lock().unwrap() = child::status(&name);
            if git {
                return backend(request);
            }
            fs::read(files.join(request.path.trim_start_matches('/')))
                .map_or_else(|_| Answer::new(404, ""), |content| Answer::new(200, content))
        })
        .unwrap();
        let address = if git {
            format!("git = \"{}\"", server.url("site.git"))
        } else {
            format!("http = \"{}\"", server.url(""))
        };
        tree.configure(&format!("[[source]]\n{address}\n"));
        tree.kpull("apply").exits(0);
        let status = seen.lock().unwrap().take().expect("a child while the server is asked");
        child::expect_none_of_roots_rights("a source", &status);
        assert_eq!(tree.mode("var/lib/kpull"), 0o700);
    }
}

#[test]
fn git_over_ssh_uses_the_systems_client() {
    let site = site();
    let hub = tempfile::tempdir().unwrap();
    push(site.sign(), hub.path());
    let bin = tempfile::tempdir().unwrap();
    let ssh = bin.path().join("ssh");
    // does here what it was configured to do there
    fs::write(&ssh, "#!/bin/sh\nwhile [ $# -gt 2 ]; do shift; done\neval \"git upload-pack $2\"\n").unwrap();
    fs::set_permissions(&ssh, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let tree = enrolled(&[&format!("git = \"ssh://host{}/site.git\"", hub.path().display())]);
    let path = format!("{}:{}", bin.path().display(), std::env::var("PATH").unwrap());
    let apply = || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_kpull"));
        command.args(["apply", "--root"]).arg(tree.path()).env("PATH", &path);
        crate::support::site::Output::of(command.output().unwrap())
    };
    apply().exits(0);
    assert_eq!(tree.read("etc/base.conf"), "port = 80\r\nname = h1 é\n");
    site.file("roles/base/templates/base.conf", "new\n").sign();
    push(&site, hub.path());
    apply().exits(0);
    assert_eq!(tree.read("etc/base.conf"), "new\n");
}

#[test]
fn if_no_source_answers_the_last_good_release_is_applied_and_the_run_says_so() {
    let site = site();
    let server = files(site.sign().path());
    let tree = enrolled(&[&format!("http = \"{}\"\nretries = 0", server.url(""))]);
    tree.kpull("apply").exits(0);
    let wanted = tree.snapshot();
    let address = server.address;
    drop(server);
    tree.write("etc/base.conf", "port = 666\n");
    let apply = tree.kpull("apply --json").exits(1);
    assert_eq!(apply.changed(), ["template:/etc/base.conf"]);
    assert_eq!(tree.snapshot(), wanted);
    let error = apply.error();
    assert!(error["error"].as_str().unwrap().contains(&address.to_string()), "{error}");
    assert!(error["help"].as_str().unwrap().ends_with("the host stays converged on release 1"), "{error}");
    assert!(apply.events("source_passed").is_empty(), "the only source's error is reported once: {apply:?}");
    assert!(tree.kpull("status").exits(0).stdout.contains(&address.to_string()));
    tree.kpull("plan").fails(1, &address.to_string());
}

#[test]
fn if_no_source_has_ever_answered_there_is_nothing_to_apply() {
    let tree = enrolled(&["dir = \"none\""]);
    let error = tree.kpull("apply --json").exits(1).error();
    let says =
        format!("the directory {} can't be opened: No such file or directory", tree.at("etc/kpull/none").display());
    assert_eq!(
        (error["error"].as_str(), error["help"].as_str()),
        (Some(says.as_str()), Some("mount or create it, or correct `dir`"))
    );
}

#[test]
fn sources_are_polled_in_order_until_one_answers() {
    let site = site();
    let (first, second) = (files(site.sign().path()), files(site.path()));
    let dead = "dir = \"none\"";
    let tables = [&first, &second].map(|server| format!("http = \"{}\"\nretries = 0", server.url("")));
    let tree = enrolled(&[dead, &tables[0], &tables[1]]);
    let apply = tree.kpull("apply --json").exits(0);
    assert_eq!(apply.events("source_passed").len(), 1);
    assert_eq!(apply.events("release")[0]["source"], format!("http {}", first.url("")));
    // all of them are asked once in a while, and first of all
    let asked = second.seen().len();
    let apply = tree.kpull("apply --json").exits(0);
    assert_eq!((apply.events("source_passed").len(), second.seen().len()), (0, asked), "the dead one comes last");

    drop(first);
    site.file("roles/base/templates/base.conf", "new\n").sign();
    let text = tree.kpull("apply").exits(0).stdout;
    assert_eq!(text.lines().filter(|line| line.starts_with("! ")).count(), 1, "{text}");
    assert_eq!(tree.read("etc/base.conf"), "new\n");
}

#[test]
fn after_a_source_with_a_broken_release_the_next_is_polled() {
    let (good, broken) = (site(), site());
    good.sign();
    broken.file("roles/base/templates/base.conf", "{{ prot }}").sign();
    let [broken, good] = [&broken, &good].map(|site| format!("dir = \"{}\"", site.path().display()));
    let tree = enrolled(&[&broken, &good]);
    let apply = tree.kpull("apply --json").exits(0);
    assert_eq!(apply.events("source_passed")[0]["error"], "`prot` is not defined");
    assert_eq!(tree.read("etc/base.conf"), "port = 80\r\nname = h1 é\n");
}

#[test]
fn a_source_that_returns_brings_the_release_that_was_missed() {
    let site = site();
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    let away = site.path().with_extension("away");
    fs::rename(site.path(), &away).unwrap();
    tree.kpull("apply").fails(1, &site.path().display().to_string());
    fs::rename(&away, site.path()).unwrap();
    site.file("roles/base/templates/base.conf", "new\n").sign();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/base.conf"), "new\n");
}

#[test]
fn a_refused_release_is_reported_rather_than_a_source_that_does_not_answer() {
    let site = site();
    site.sign().file("release.toml.sig", "");
    let (dead, bad) = ("dir = \"none\"", format!("dir = \"{}\"", site.path().display()));
    for sources in [[dead, &bad], [&bad, dead]] {
        let tree = enrolled(&sources);
        let error = tree.kpull("apply --json").exits(4).error();
        assert_eq!(error["error"], "the signatures of the release can't be read");
    }
}

#[test]
fn a_tree_is_never_cut_off_and_polls_its_source_once() {
    let site = Site::new("test");
    site.role("base", "[[firewall]]\nzone = \"public\"\nports = [\"443/tcp\"]\n");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n");
    let server = files(site.sign().path());
    let tree = enrolled(&[&format!("http = \"{}\"", server.url(""))]);
    assert_eq!(tree.kpull("apply --json").exits(0).changed().len(), 1);
    let asked: Vec<String> = server.seen().into_iter().map(|request| request.path).collect();
    assert_eq!(asked.iter().filter(|path| *path == "/release.toml").count(), 1, "{asked:?}");
}

/// A repository with two sites: one in `blue`, one in `more/green`.
fn two_in_one() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    git(dir.path(), &["init", "-q", "-b", "main", "repository"]);
    let top = dir.path().join("repository");
    for (at, text) in [("blue", "blue\n"), ("more/green", "green\n")] {
        let site = Site::new("test");
        site.role("base", &format!("[[file]]\npath = \"/etc/which\"\ncontent = \"{}\"\n", text.escape_default()));
        site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n").sign();
        fs::create_dir_all(top.join(at)).unwrap();
        let copied = std::process::Command::new("cp").arg("-rT").arg(site.path()).arg(top.join(at)).status().unwrap();
        assert!(copied.success());
    }
    git(&top, &["add", "-A"]);
    git(&top, &["commit", "-q", "-m", "two sites"]);
    dir
}

#[test]
fn two_sites_share_a_repository_and_each_host_has_its_own() {
    let dir = two_in_one();
    let top = dir.path().join("repository");
    let server = Server::plain(git_backend(dir.path().to_path_buf())).unwrap();
    for address in [top.to_str().unwrap().to_owned(), server.url("repository")] {
        for (path, text) in [("blue", "blue\n"), ("more/green", "green\n")] {
            let tree = enrolled(&[&format!("git = \"{address}\"\npath = \"{path}\"")]);
            tree.kpull("apply").exits(0);
            assert_eq!(tree.read("etc/which"), text);
        }
    }
    let tree = enrolled(&[&format!("git = \"{}\"\npath = \"more\"", top.display())]);
    let output = tree.kpull("apply").exits(4).stderr;
    assert!(output.contains("set `path` to its directory"), "{output}");

    let tree = Tree::new();
    let key = kpull::trust::fingerprint(crate::support::site::key().public_key().key_data());
    let enrol = format!("enroll {} --git --path more/green --site test --host h1 --fingerprint {key}", top.display());
    tree.kpull(&enrol).exits(0);
    assert!(tree.read("etc/kpull/kpull.toml").contains("\npath = \"more/green\"\n"));
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/which"), "green\n");
}

/// A site of which one file has the line ends of Windows, and one is binary.
fn mixed() -> Site {
    let site = site();
    site.file("roles/base/templates/base.conf", "port = {{ port }}\n");
    site.file("roles/base/files/unix", "one\ntwo\n").file("roles/base/files/dos", "one\r\ntwo\r\n");
    site
}

/// What a host says of a repository into which a site was pushed, after `change`.
fn error_after_git(site: &Site, change: impl Fn(&Site)) -> String {
    site.sign();
    change(site);
    let hub = tempfile::tempdir().unwrap();
    push(site, hub.path());
    let tree = enrolled(&[&format!("git = {:?}", hub.path().join("site.git"))]);
    let error = tree.kpull("apply --json").exits(4).error();
    format!("{}; {}", error["error"].as_str().unwrap(), error["help"].as_str().unwrap_or_default())
}

#[test]
fn a_file_that_git_changed_is_reported_as_such_and_not_as_changed_after_signing() {
    // signed as it lies there, and normalised by git when it is added
    let message = error_after_git(&mixed(), |site| {
        site.file(".gitattributes", "* text=auto\n");
    });
    assert!(
        message.contains("roles/base/files/dos is not the file that was signed: a filter changed its line ends; "),
        "{message}"
    );
    assert!(message.contains("`* -text` in .gitattributes"), "{message}");
    // the other way round: it gets longer
    let message = error_after_git(&mixed(), |site| {
        site.file("roles/base/files/unix", "one\r\ntwo\r\n");
    });
    assert!(
        message.contains("roles/base/files/unix is not the file that was signed: a filter changed its line ends; "),
        "{message}"
    );
    let message = error_after_git(&mixed(), |site| {
        let release = fs::read_to_string(site.path().join("release.toml")).unwrap();
        site.file("release.toml", release.replace('\n', "\r\n"));
    });
    assert!(message.contains("a filter changed its line ends; "), "{message}");
    let message = error_after_git(&mixed(), |site| {
        let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 8\n", "0".repeat(64));
        site.file("roles/base/files/unix", pointer);
    });
    assert!(
        message.contains(
            "roles/base/files/unix is not the file that was signed: git has a pointer of Git LFS in its place"
        ),
        "{message}"
    );
    let message = error_after_git(&mixed(), |site| {
        let inner = site.path().join("roles/base/files");
        git(&inner, &["init", "-q", "-b", "main"]);
        git(&inner, &["add", "-A"]);
        git(&inner, &["commit", "-q", "-m", "a repository of its own"]);
    });
    assert!(message.contains("roles/base/files/deep/er/binary is in a submodule: "), "{message}");
    // a file that was changed by hand is still reported as such
    let message = error_after_git(&mixed(), |site| {
        site.file("roles/base/files/unix", "one\ntwa\n");
    });
    assert!(message.contains("its SHA-256 differs; the file was changed after signing"), "{message}");
}

#[test]
fn a_web_page_or_gzip_in_place_of_a_file_is_reported_as_such() {
    for (answer, says) in [
        (Answer::new(200, "<html><body>Please log in</body></html>"), "the server sends a web page in its place"),
        (gzipped(b"one\ntwo\n").with("Content-Encoding", "gzip"), "the server has compressed it with gzip"),
    ] {
        let site = mixed();
        site.sign();
        let dir = site.path().to_owned();
        let server = Server::plain(move |request: &Received| match request.path.trim_start_matches('/') {
            "roles/base/files/unix" => answer.clone(),
            path => fs::read(dir.join(path)).map_or_else(|_| Answer::new(404, ""), |content| Answer::new(200, content)),
        })
        .unwrap();
        let tree = enrolled(&[&format!("http = {:?}\nretries = 0", server.url(""))]);
        let error = tree.kpull("apply --json").exits(4).error();
        let message = format!("roles/base/files/unix is not the file that was signed: {says}");
        assert!(error["error"].as_str().unwrap().contains(&message), "{error}");
    }
}

fn gzipped(content: &[u8]) -> Answer {
    let mut child = Command::new("gzip").arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(content).unwrap();
    Answer::new(200, child.wait_with_output().unwrap().stdout)
}
