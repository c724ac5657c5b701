//! What a run writes outside the state directory, where another user can own the directory: `[metrics]` and `[status]`.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::attack::local::{
    self, NOBODY, SECRET, link_of_nobody, make_directory_of_nobody, need_root, uid_and_mode, write_closed,
};
use crate::support::site::{Output, Site, Tree};

/// What a run writes, and under which names it may be in the making.
const OUTPUTS: [(&str, &[&str]); 2] = [
    ("kpull.prom", &["kpull.prom", "kpull.prom.new", ".kpull.prom.kpull-new"]),
    ("h1.status", &["h1.status", "h1.status.new", ".h1.status.kpull-new"]),
];

/// A host that writes its metrics and its status to a directory of another user, and a file that only root can read.
struct World {
    _site: Site,
    tree: Tree,
}

impl World {
    fn new() -> Self {
        need_root();
        let site = Site::new("test");
        site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n")
            .role("base", "[[file]]\npath = \"/etc/a\"\ncontent = \"x\"\n");
        site.sign();
        let tree = site.enroll();
        let world = Self { tree, _site: site };
        fs::create_dir(world.tree.at("etc/ssh")).unwrap();
        let key = crate::support::site::key().to_openssh(ssh_key::LineEnding::LF).unwrap();
        fs::write(world.tree.at("etc/ssh/ssh_host_ed25519_key"), key).unwrap();
        world.restore();
        let (dir, source) = (world.dir(), world._site.path().to_owned());
        world.tree.configure(&format!(
            "[[source]]\ndir = {source:?}\n[metrics]\ndir = {dir:?}\n[status]\nevery = \"0s\"\ndir = {dir:?}\n"
        ));
        world
    }

    /// The directory of the outputs.
    fn dir(&self) -> PathBuf {
        self.tree.at("srv")
    }

    fn secret(&self) -> PathBuf {
        self.tree.at("shadow")
    }

    /// An empty directory of another user, and the unchanged file.
    fn restore(&self) {
        make_directory_of_nobody(&self.dir());
        write_closed(&self.secret(), SECRET);
    }

    fn run(&self) -> Output {
        local::kpull(&["apply", "--json", "--root", self.tree.path().to_str().unwrap()])
    }

    /// Runs it, and holds the file to what it was.
    fn apply(&self, attack: &str) -> Output {
        let output = self.run();
        self.is_untouched(attack);
        output.exits(0)
    }

    fn is_untouched(&self, attack: &str) {
        local::is_untouched(&self.secret(), attack);
    }

    /// Whether an output is a file of its own with something in it, for everybody to read.
    fn has(&self, output: &str) -> bool {
        let path = self.dir().join(output);
        let Ok(meta) = path.symlink_metadata() else { return false };
        meta.is_file() && meta.len() > 0 && meta.permissions().mode() & 0o7777 == 0o644
    }
}

#[test]
fn no_link_or_pipe_in_place_of_an_output_is_followed() {
    let world = World::new();
    let secret = world.secret();
    type Place<'a> = &'a dyn Fn(&Path);
    let attacks: [(&str, Place<'_>); 4] = [
        ("link", &|path| link_of_nobody(&secret, path)),
        ("pipe", &|path| mkfifo(path, Mode::S_IRWXU).unwrap()),
        ("second name", &|path| fs::hard_link(&secret, path).unwrap()),
        ("device", &|path| {
            let null = nix::sys::stat::makedev(1, 3);
            nix::sys::stat::mknod(path, nix::sys::stat::SFlag::S_IFCHR, Mode::S_IRWXU, null).unwrap();
        }),
    ];
    for (output, names) in OUTPUTS {
        for name in names {
            for (attack, place) in attacks {
                world.restore();
                place(&world.dir().join(name));
                let reported = world.apply(&format!("{attack} at {name}")).events("not_reported");
                assert!(reported.is_empty() && world.has(output), "{attack} at {name}: {reported:?}");
            }
        }
    }
}

#[test]
fn an_output_that_can_t_be_written_is_reported_and_ends_no_run() {
    let world = World::new();
    let dir = world.dir();
    type Place<'a> = &'a dyn Fn();
    let outside = world.tree.at("outside");
    fs::create_dir(&outside).unwrap();
    let attacks: [(&str, &str, Place<'_>); 5] = [
        ("a directory in its place", "can't replace", &|| {
            OUTPUTS.iter().for_each(|(output, _)| fs::create_dir_all(dir.join(output).join("x")).unwrap());
        }),
        ("a directory where it is made", "kpull-new", &|| {
            OUTPUTS.iter().for_each(|(_, names)| fs::create_dir_all(dir.join(names[2]).join("x")).unwrap());
        }),
        ("a link in the place of the directory", "goes through a link that belongs to user 65534", &|| {
            fs::remove_dir(&dir).unwrap();
            link_of_nobody(&outside, &dir);
        }),
        ("a file in the place of the directory", "", &|| {
            fs::remove_dir(&dir).unwrap();
            fs::write(&dir, "x").unwrap();
        }),
        ("a link in a circle", "", &|| {
            fs::remove_dir(&dir).unwrap();
            symlink(&dir, &dir).unwrap();
        }),
    ];
    for (attack, expected, place) in attacks {
        world.restore();
        place();
        let reported = world.apply(attack).events("not_reported");
        let error = |event: &serde_json::Value| event["error"].as_str().unwrap().to_owned();
        assert!(
            reported.len() == 2 && reported.iter().all(|event| error(event).contains(expected)),
            "{attack}: {reported:?}"
        );
        assert!(reported.iter().all(|event| !event["help"].is_null()), "{attack}: {reported:?}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{attack}");
    }
}

#[test]
fn swapping_a_path_while_an_output_is_written_opens_no_file_of_root() {
    let world = World::new();
    let (dir, secret) = (world.dir(), world.secret());
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (link, mut swaps) = (dir.join("link"), 0u32);
            while !is_over.load(Ordering::SeqCst) {
                for name in OUTPUTS.iter().flat_map(|(_, names)| &names[1..]) {
                    // a second name of an existing file stays in place
                    let _ = fs::remove_file(&link);
                    match swaps.is_multiple_of(2) {
                        true => link_of_nobody(&secret, &link),
                        false => fs::hard_link(&secret, &link).unwrap(),
                    }
                    fs::rename(&link, dir.join(name)).unwrap();
                    swaps += 1;
                }
            }
        });
        // the swapped path has replaced the output, or has prevented it
        let mut hits = 0;
        for _ in 0..300 {
            let reported = world.apply("swap").events("not_reported");
            hits += u32::from(!reported.is_empty() || OUTPUTS.iter().any(|(output, _)| !world.has(output)));
            if hits == 5 {
                break;
            }
        }
        is_over.store(true, Ordering::SeqCst);
        assert!(hits == 5, "{hits} of what was swapped came between two steps of a run: that was no race");
    });
}

#[test]
fn outputs_are_written_through_links_of_root_and_by_relative_paths() {
    let world = World::new();
    symlink("srv", world.tree.at("view")).unwrap();
    let source = world._site.path().to_owned();
    // relative to kpull.toml
    world.tree.configure(&format!("[[source]]\ndir = {source:?}\n[metrics]\ndir = \"../../view\"\n"));
    let reported = world.apply("a link of root's").events("not_reported");
    assert!(reported.is_empty() && world.has("kpull.prom"), "{reported:?}");
}

#[test]
fn a_state_directory_open_to_others_is_refused_or_if_only_readable_closed() {
    let world = World::new();
    let state = world.tree.at("var/lib/kpull");
    let planted = || {
        fs::create_dir_all(&state).unwrap();
        symlink(world.secret(), state.join("lock")).unwrap();
    };
    let attacks: [(&str, u32, Option<u32>, &str); 4] = [
        ("owner", 0o700, Some(NOBODY), "it belongs to user 65534"),
        ("owner and mode", 0o777, Some(NOBODY), "it belongs to user 65534"),
        ("mode", 0o777, None, "other users can write to it (its mode is 0777)"),
        ("group", 0o1770, None, "other users can write to it (its mode is 1770)"),
    ];
    for (attack, mode, owner, why) in attacks {
        planted();
        fs::set_permissions(&state, fs::Permissions::from_mode(mode)).unwrap();
        chown(&state, owner.or(Some(0)), None).unwrap();
        for command in ["apply", "plan", "status"] {
            let error = world.tree.kpull(&format!("{command} --json")).exits(1).error();
            assert_eq!(
                error["error"],
                format!("the content of {} can't be trusted: {why}", state.display()),
                "{attack}"
            );
            assert!(error["help"].as_str().unwrap().contains(&format!("chmod 0700 {}`", state.display())), "{error}");
        }
        world.is_untouched(attack);
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1, "{attack}");
        fs::remove_dir_all(&state).unwrap();
    }
    // a link of another user that leads to one
    let elsewhere = world.tree.at("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    link_of_nobody(&elsewhere, &state);
    let error = world.tree.kpull("apply --json").exits(1).error();
    assert!(error["error"].as_str().unwrap().contains("goes through a link that belongs to user 65534"), "{error}");
    fs::remove_file(&state).unwrap();
    symlink(&elsewhere, &state).unwrap();
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o755)).unwrap();
    world.tree.kpull("apply").exits(0);
    assert_eq!(world.tree.mode("elsewhere"), 0o700);
}

#[test]
fn a_pipe_device_or_endless_file_as_configuration_ends_a_run_at_once() {
    let world = World::new();
    let source = world._site.path().to_owned();
    let rest = format!("[[source]]\ndir = {source:?}\n");
    let (ca, key) = (world.tree.at("ca.pem"), world.tree.at("etc/ssh/ssh_host_ed25519_key"));
    let status = format!("[status]\nevery = \"0s\"\nhttp = \"https://127.0.0.1:1/\"\nca = {ca:?}\n");
    type Place<'a> = &'a dyn Fn(&Path);
    let places: [(&str, Place<'_>); 4] = [
        ("it is not a regular file", &|path| mkfifo(path, Mode::S_IRWXU).unwrap()),
        ("it is not a regular file", &|path| symlink("/dev/zero", path).unwrap()),
        ("it has more than 8 MiB", &|path| fs::File::create(path).unwrap().set_len(8 << 40).unwrap()),
        ("Is a directory", &|path| fs::create_dir(path).unwrap()),
    ];
    let kept = fs::read(&key).unwrap();
    for path in ["etc/kpull/kpull.toml", "etc/kpull/allowed_signers", "ca.pem", "etc/ssh/ssh_host_ed25519_key"] {
        for (why, place) in places {
            world.tree.configure(&format!("{rest}{status}"));
            fs::write(&key, &kept).unwrap();
            fs::write(&ca, "").unwrap();
            let path = world.tree.at(path);
            fs::remove_file(&path).unwrap();
            place(&path);
            let output = world.run();
            let message = format!("{}: {output:?}", path.display());
            assert!([0, 1].contains(&output.code) && output.stdout.contains(why), "{message}");
            assert!(output.stdout.contains(path.file_name().unwrap().to_str().unwrap()), "{message}");
            fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)).unwrap();
        }
    }
}

#[test]
fn a_directory_of_root_that_a_user_moves_stays_owned_by_root() {
    let world = World::new();
    let home = world.tree.at("home/u");
    fs::create_dir_all(&home).unwrap();
    chown(&home, Some(NOBODY), Some(NOBODY)).unwrap();
    world.tree.write("etc/passwd", "u:x:65534:65534::/home/u:/bin/sh\n").write("etc/group", "u:x:65534:\n");
    let role = |role: &str| {
        world._site.role("base", role).sign();
    };
    let refused = |path: &str, mode: u32, code: i32| {
        let output = world.tree.kpull("apply --json").exits(code);
        let why = format!("/home/u/{path} and its content can't be given to another user");
        assert!(output.stdout.contains(&why), "{output:?}");
        assert_eq!(uid_and_mode(&home.join(path)), (0, mode), "{path}");
    };
    let owner = |path: &str| uid_and_mode(&home.join(path)).0;

    let (kept, data) = (home.join("kept"), home.join("data"));
    fs::create_dir(&kept).unwrap();
    fs::write(kept.join("key"), SECRET).unwrap();
    fs::set_permissions(&kept, fs::Permissions::from_mode(0o700)).unwrap();
    fs::rename(&kept, &data).unwrap();
    role("[[directory]]\npath = \"/home/u/data\"\nowner = \"u\"\ngroup = \"u\"\n");
    refused("data", 0o700, 1);
    // an empty file reveals nothing, and a missing one is created again
    fs::rename(&data, &kept).unwrap();
    world.tree.kpull("apply").exits(0);
    assert_eq!(owner("data"), NOBODY);
    chown(&data, Some(0), Some(0)).unwrap();
    world.tree.kpull("apply").exits(0);
    assert_eq!((owner("data"), owner("kept")), (NOBODY, 0));

    // a file that is written into would be readable before it has its new content
    write_closed(&home.join("conf"), SECRET);
    role("[[file]]\npath = \"/home/u/conf\"\nowner = \"u\"\ngroup = \"u\"\ncontent = \"x\"\nin_place = true\n");
    // a release that requires this after a good one is rolled back
    refused("conf", 0o600, 3);
    assert_eq!(fs::read_to_string(home.join("conf")).unwrap(), SECRET);
}
