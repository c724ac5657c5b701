//! Files that a user moves, within their own directory, to a path that a role gives to them.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::PathBuf;

use crate::attack::local::{NOBODY as BOB, need_root, uid_and_mode, write_closed};
use crate::support::site::{Site, Tree};

const ROLE: &str = r#"
[[directory]]
path = "/srv/bob"
owner = "bob"
[[directory]]
path = "/srv/bob/pub"
owner = "bob"
[[directory]]
path = "/srv/bob/open"
[[file]]
path = "/srv/bob/file"
content = "hunter2\n"
owner = "bob"
[[file]]
path = "/srv/bob/in-place"
content = "x\n"
in_place = true
"#;

struct World {
    _site: Site,
    tree: Tree,
}

impl World {
    fn new() -> Self {
        need_root();
        let site = Site::new("test");
        site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n").role("base", ROLE);
        site.sign();
        let tree = site.enroll();
        tree.write("etc/passwd", format!("root:x:0:0::/root:/bin/sh\nbob:x:{BOB}:{BOB}::/:/bin/sh\n"));
        tree.write("etc/group", format!("root:x:0:\nbob:x:{BOB}:\n"));
        tree.kpull("apply").exits(0);
        Self { _site: site, tree }
    }

    fn bob(&self, name: &str) -> PathBuf {
        self.tree.at("srv/bob").join(name)
    }

    fn uid_and_mode(&self, name: &str) -> (u32, u32) {
        uid_and_mode(&self.bob(name))
    }

    /// A directory that root keeps to itself, with something in it, at one of bob's places.
    fn move_roots_directory_to(&self, name: &str) {
        fs::remove_dir_all(self.bob(name)).unwrap();
        fs::create_dir(self.bob("roots")).unwrap();
        fs::set_permissions(self.bob("roots"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(self.bob("roots/key"), "hunter2\n").unwrap();
        fs::rename(self.bob("roots"), self.bob(name)).unwrap();
    }
}

#[test]
fn a_directory_of_root_that_a_user_moved_into_theirs_is_opened_to_no_other_user() {
    let world = World::new();
    for (name, good) in [("pub", (BOB, 0o755)), ("open", (0, 0o755))] {
        world.move_roots_directory_to(name);
        let error = world.tree.kpull("apply --json").exits(1).error();
        let text = error["error"].as_str().unwrap();
        assert!(text.contains(&format!("/srv/bob/{name} and its content can't be given to another user")), "{error}");
        assert_eq!(world.uid_and_mode(name), (0, 0o700));
        // what has nothing in it is given as the role says
        fs::remove_file(world.bob(name).join("key")).unwrap();
        world.tree.kpull("apply").exits(0);
        assert_eq!(world.uid_and_mode(name), good);
    }
    // if only root can move it, it is root's mistake, and the role corrects it
    chown(world.tree.at("srv/bob"), Some(0), Some(0)).unwrap();
    world.move_roots_directory_to("pub");
    let role = ROLE.replacen("owner = \"bob\"\n", "", 1);
    world._site.role("base", &role).sign();
    world.tree.kpull("apply").exits(0);
    assert_eq!(world.uid_and_mode("pub"), (BOB, 0o755));
}

#[test]
fn a_file_of_root_that_a_user_moved_into_theirs_is_opened_to_no_other_user() {
    let world = World::new();
    let secret = |name: &str, content: &str| {
        write_closed(&world.bob(name), content);
        fs::File::open(world.bob(name)).unwrap()
    };
    // it has what the role says, as far as anybody has looked
    let file = secret("file", "hunter2\n");
    world.tree.kpull("apply").exits(0);
    assert_eq!(world.uid_and_mode("file"), (BOB, 0o644));
    let now = file.metadata().unwrap();
    assert_eq!((now.uid(), now.mode() & 0o7777, now.nlink()), (0, 0o600, 0), "another file has its place");
    // a file that is written in place would be open before its content changes
    secret("in-place", "another secret\n");
    let error = world.tree.kpull("apply --json").exits(1).error();
    assert!(
        error["error"].as_str().unwrap().contains("/srv/bob/in-place and its content can't be given to another user"),
        "{error}"
    );
    assert_eq!(world.uid_and_mode("in-place"), (0, 0o600));
}
