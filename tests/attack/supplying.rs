//! Web servers and archives that lie to an operator who pins, mirrors or publishes; and owners of the directories.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use kpull::net::server::{Answer, Server};

use crate::support::site::{Output, Site, kpull};

fn pin(site: &Site, arguments: &[&str]) -> Output {
    let whole =
        ["pin", "--name", "tool", "--version", "1.0", "--arch", "amd64", "--site", site.path().to_str().unwrap()];
    kpull(&[&whole[..], arguments].concat())
}

/// A zip archive with one member of this name, which is stored as it is.
fn zip(name: &str) -> Vec<u8> {
    let length = u16::try_from(name.len()).unwrap().to_le_bytes();
    // version, flags (the name is UTF-8), method, time, date; CRC-32 and sizes of `x`; lengths of the name and of nothing more
    let about =
        [&[10, 0, 0, 8, 0, 0, 0, 0, 0x21, 0, 0x83, 0x16, 0xdc, 0x8c, 1, 0, 0, 0, 1, 0, 0, 0][..], &length, &[0, 0]]
            .concat();
    let mut zip = [b"PK\x03\x04", &about[..], name.as_bytes(), b"x"].concat();
    let start = u32::try_from(zip.len()).unwrap();
    zip.extend([b"PK\x01\x02\x0a\x03", &about[..], &[0; 14], name.as_bytes()].concat());
    let size = u32::try_from(zip.len()).unwrap() - start;
    zip.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
    zip.extend([&size.to_le_bytes()[..], &start.to_le_bytes(), &[0, 0]].concat());
    zip
}

#[test]
fn a_members_name_injects_no_line_into_the_output_of_pin() {
    let archive = zip("tool\n  checked  it agrees with https://kernel.org/SHA256SUMS\u{1b}[2J\u{202e}");
    let server = Server::plain(move |request| match request.path.ends_with(".zip") {
        true => Answer::new(200, archive.clone()),
        false => Answer::new(404, ""),
    });
    let output = pin(&Site::new("test"), &[&server.unwrap().url("tool.zip")]).exits(0).stdout;
    let checked: Vec<&str> = output.lines().filter(|line| line.starts_with("  checked")).collect();
    assert_eq!(checked, ["  checked  no published digest was found: compare it yourself, or add --sums"]);
    assert!(output.contains(r"tool\n  checked  it agrees") && !output.contains(['\u{1b}', '\u{202e}']), "{output}");
}

#[test]
fn checksums_that_a_server_refuses_are_reported_and_do_not_count_as_absent() {
    let server = Server::plain(|request| match request.path.as_str() {
        "/tool" => Answer::new(200, "x"),
        "/SHA256SUMS" => Answer::new(403, ""),
        _ => Answer::new(404, ""),
    });
    let server = server.unwrap();
    let output = pin(&Site::new("test"), &["--format", "file", &server.url("tool")]).exits(0).stdout;
    let why = format!("(GET {}: the server answered 403 Forbidden)", server.url("SHA256SUMS"));
    assert!(output.contains(&format!("no published digest was found {why}: compare it")), "{output}");
}

#[test]
fn kpull_does_not_wait_for_a_pipe_or_a_device_in_place_of_a_file_to_pin() {
    let site = Site::new("test");
    let pipe = site.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::write(site.path().join("tool"), "x").unwrap();
    let tool = format!("file://{}/tool", site.path().display());
    for path in [pipe.to_str().unwrap(), "/dev/zero"] {
        let output = pin(&site, &["--format", "file", &format!("file://{path}")]).exits(1);
        assert!(output.stderr.contains("it is not a regular file"), "{}", output.stderr);
        let output = pin(&site, &["--format", "file", "--sums", path, &tool]).exits(1);
        assert!(output.stderr.contains("it is not a regular file"), "{}", output.stderr);
    }
    let endless = fs::File::create(site.path().join("endless")).unwrap();
    endless.set_len(1 << 40).unwrap();
    let output =
        pin(&site, &["--format", "file", "--sums", site.path().join("endless").to_str().unwrap(), &tool]).exits(1);
    assert!(output.stderr.contains("it has more than 1 MiB"), "{}", output.stderr);
    assert!(!site.path().join("artifacts.toml").exists());
}

#[test]
fn a_name_in_a_progress_bar_injects_nothing_into_a_terminal() {
    let server = Server::plain(|_| Answer::new(200, vec![b'x'; 2 << 20])).unwrap();
    let site = Site::new("test");
    site.file(
        "artifacts.toml",
        format!(
            "[\"x\\u001b]0;evil\\u0007\\u202e\"]\nversion = \"1\"\namd64 = {{ url = \"{}\", size = 2097152, sha256 = \"{}\" }}\n",
            server.url("tool"),
            "a".repeat(64)
        ),
    );
    let command = format!(
        "'{}' mirror '{}' --site '{}'",
        env!("CARGO_BIN_EXE_kpull"),
        site.path().join("mirror").display(),
        site.path().display()
    );
    let mut script = Command::new("script");
    script.args(["-q", "-c"]).arg(command).arg("/dev/null").env("SHELL", "/bin/sh").env("TERM", "xterm");
    let output = script.stdin(std::process::Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let bars: Vec<&str> = text.split(['\r', '\n']).filter(|line| line.contains("MiB")).collect();
    assert!(bars.iter().any(|bar| bar.contains(r"x\u{1b}]0;evil\u{7}\u{202e}")), "{text:?}");
    assert!(!text.contains("\u{1b}]0;") && !text.contains('\u{202e}'), "{text:?}");
}

#[test]
fn an_endless_file_of_a_mirror_is_not_read_to_its_end() {
    let site = Site::new("test");
    let server = Server::plain(|_| Answer::new(200, "x")).unwrap();
    let sha256 = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
    site.file(
        "artifacts.toml",
        format!(
            "[tool]\nversion = \"1\"\namd64 = {{ url = \"{}\", size = \"unknown\", sha256 = \"{sha256}\" }}\n",
            server.url("t")
        ),
    );
    let mirror = site.path().join("mirror");
    fs::create_dir_all(mirror.join("sha256")).unwrap();
    let sparse = mirror.join("sha256").join(sha256);
    fs::File::create(&sparse).unwrap().set_len(1 << 42).unwrap();
    fs::write(mirror.join("index.json"), format!("{{\"version\":1,\"artifacts\":[{{\"name\":\"tool\",\"version\":\"1\",\"arch\":\"amd64\",\"upstream\":\"t\",\"file\":\"sha256/{sha256}\",\"size\":{}}}]}}", 1u64 << 42)).unwrap();
    let expected =
        kpull(&["mirror", mirror.to_str().unwrap(), "--site", site.path().to_str().unwrap(), "--verify", "--json"]);
    assert_eq!(expected.exits(0).events("corrected").len(), 1);
    assert_eq!(fs::read(sparse).unwrap(), b"x");
}

#[test]
fn a_redirect_of_a_publishing_server_passes_no_token_on() {
    let site = Site::new("test");
    site.sign();
    fs::write(site.path().join("token"), "hunter2-hunter2\n").unwrap();
    let other = Server::plain(|_| Answer::new(404, "")).unwrap();
    let to = other.url("x");
    for status in [302, 307, 308] {
        let to = to.clone();
        let first = Server::plain(move |request| match request.method.as_str() {
            // requests are redirected elsewhere, and so are uploads
            "PUT" if request.path.contains("blobs") => Answer::new(status, "").with("Location", &to),
            "PUT" => Answer::new(201, ""),
            _ => Answer::new(status, "").with("Location", &to),
        });
        let first = first.unwrap();
        let token = site.path().join("token").display().to_string();
        let dir = site.path().to_str().unwrap();
        let output = kpull(&["publish", &first.url(""), "--bearer", &token, "--site", dir]).exits(1);
        assert!(output.stderr.contains(&format!("the server answered {status}")), "{}", output.stderr);
        assert!(first.seen().iter().any(|seen| seen.header("authorization") == Some("Bearer hunter2-hunter2")));
    }
    assert!(!other.seen().is_empty());
    for seen in other.seen() {
        assert_eq!((seen.header("authorization"), seen.method == "PUT"), (None, false));
    }
}

#[test]
fn an_invalid_pointer_at_a_publishing_place_is_reported_and_not_read_to_its_end() {
    let digests = format!("manifest = \"{0}\"\nsignatures = \"{0}\"\n", "a".repeat(64));
    for (pointer, why) in [
        (format!("a = {}", "[".repeat(4000)), "recursion"),
        ("x".repeat(20 << 20), "has more than 4096 bytes"),
        (format!("format = 1\nsite = \"x\\u001b[2J\\nerror[fake]\"\nserial = 1\n{digests}"), r"`x\u{1b}[2J"),
    ] {
        let site = Site::new("test");
        site.sign();
        let server = Server::plain(move |_| Answer::new(200, pointer.clone())).unwrap();
        let output = kpull(&["publish", &server.url(""), "--site", site.path().to_str().unwrap()]).exits(1);
        assert!(output.stderr.contains(why) && !output.stderr.contains("\u{1b}[2J"), "{}", output.stderr);
        assert!(server.seen().iter().all(|seen| seen.method != "PUT"));
    }
}

#[test]
fn a_user_who_can_only_read_a_published_directory_or_a_mirror_cannot_lock_it() {
    let site = Site::new("test");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n").role("base", "").sign();
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (releases, mirror) = (dir.path().join("releases"), dir.path().join("mirror"));
    let (from, releases, mirror) =
        (site.path().to_str().unwrap(), releases.to_str().unwrap(), mirror.to_str().unwrap());
    let works: [&[&str]; 2] = [&["publish", releases, "--site", from], &["mirror", mirror, "--site", from]];
    for command in works {
        kpull(command).exits(0);
        let is_open = |path: &str| as_nobody(&format!("exec 9< {path}")).status().unwrap().success();
        assert!(is_open(command[1]), "everybody reads what is published");
        assert!(!is_open(&format!("{}/.lock", command[1])), "nobody else opens what is locked");
        let mut holder = as_nobody(&format!("exec 9< {} && flock 9 && echo held && read -r _", command[1]));
        let mut holder = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        kpull(command).exits(0);
        drop(holder.stdin.take());
        holder.wait().unwrap();
        // one at a time works in it all the same
        let own = fs::File::options().write(true).open(format!("{}/.lock", command[1])).unwrap();
        own.lock().unwrap();
        let busy = kpull(command).exits(75).stderr;
        assert!(busy.contains(&format!("another kpull is running in {}", command[1])), "{busy}");
    }
}

#[test]
fn users_who_can_write_a_published_directory_share_its_lock() {
    let site = Site::new("test");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n").role("base", "").sign();
    let dir = tempfile::tempdir().unwrap();
    let lock = dir.path().join(".lock");
    for (mode, gid, locks) in [(0o755, 0, 0o600), (0o775, 1234, 0o660), (0o777, 0, 0o666), (0o700, 1234, 0o600)] {
        chown(dir.path(), None, Some(gid)).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
        kpull(&["publish", dir.path().to_str().unwrap(), "--site", site.path().to_str().unwrap()]).exits(0);
        let found = fs::metadata(&lock).unwrap();
        assert_eq!((found.permissions().mode() & 0o7777, found.gid()), (locks, gid), "{mode:o}");
    }
}

#[test]
fn a_file_of_root_in_place_of_a_lock_is_not_opened_for_others() {
    let site = Site::new("test");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n").role("base", "").sign();
    let dir = tempfile::tempdir().unwrap();
    let (secret, releases) = (dir.path().join("secret"), dir.path().join("releases"));
    fs::create_dir(&releases).unwrap();
    chown(&releases, None, Some(1234)).unwrap();
    fs::set_permissions(&releases, fs::Permissions::from_mode(0o775)).unwrap();
    fs::write(&secret, "secret").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let lock = releases.join(".lock");
    let publish = || kpull(&["publish", releases.to_str().unwrap(), "--site", site.path().to_str().unwrap()]);
    let access = || fs::metadata(&lock).map(|found| (found.permissions().mode() & 0o7777, found.gid())).unwrap();
    // by a second name
    fs::hard_link(&secret, &lock).unwrap();
    let output = publish().exits(1);
    assert!(output.stderr.contains(".lock is the same file as another path"), "{}", output.stderr);
    assert_eq!(access(), (0o600, 0));
    // moved there from a directory of their own
    fs::rename(&secret, releases.join("moved")).unwrap();
    fs::remove_file(&lock).unwrap();
    fs::rename(releases.join("moved"), &lock).unwrap();
    publish().exits(0);
    assert_eq!(access(), (0o600, 0));
}

/// A shell command of a user who owns nothing here.
fn as_nobody(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]).uid(65534).gid(65534).stderr(Stdio::null());
    command
}
