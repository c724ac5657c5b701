//! Situations that the tests of other tools have, and that no other test here has.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use crate::support::site::Site;

/// A site with this role.
fn site(role: &str) -> Site {
    let site = Site::new("test");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"web\"]\n").role("web", role);
    site
}

#[test]
fn unusual_and_non_ascii_names_are_written_and_found_unchanged() {
    let names = ["srv/ñandú/Ω ☃.conf", "srv/a b/it's \"x\" (1) $HOME;*?.conf"];
    let role = names.map(|name| format!("[[file]]\npath = '''/{name}'''\ncontent = 'x'\n")).concat();
    let site = site(&format!("{role}[[tree]]\npath = '/srv/tree'\nsource = 'ñ'\nrender = ['.j2']\n"));
    site.file("roles/web/files/ñ/é.txt.j2", "{{ host.name }}");
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    assert_eq!(names.map(|name| tree.read(name)), ["x", "x"]);
    assert_eq!(tree.read("srv/tree/é.txt"), "h1");
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), [""; 0]);
}

#[test]
fn a_second_name_of_a_file_gets_its_mode_and_keeps_its_old_content() {
    let file =
        |content: &str, mode: &str| format!("[[file]]\npath = '/srv/f'\ncontent = '{content}'\nmode = '{mode}'\n");
    let site = site(&file("one", "0644"));
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    fs::hard_link(tree.at("srv/f"), tree.at("srv/second")).unwrap();
    let inode = |name: &str| tree.at(name).metadata().unwrap().ino();
    tree.kpull("apply").exits(0);
    assert_eq!(inode("srv/f"), inode("srv/second"));
    site.role("web", &file("one", "0600")).sign();
    tree.kpull("apply").exits(0);
    assert_eq!((inode("srv/f"), tree.mode("srv/second")), (inode("srv/second"), 0o600));
    site.role("web", &file("two", "0600")).sign();
    tree.kpull("apply").exits(0);
    assert_eq!((tree.read("srv/f"), tree.read("srv/second")), ("two".to_owned(), "one".to_owned()));
}

#[test]
fn a_mode_that_a_role_omits_is_the_default_and_not_the_mode_of_the_old_file() {
    let site = site("[[template]]\npath = '/srv/f'\ntemplate = 'f'\n");
    site.file("roles/web/templates/f", "one\r\ntwo\n");
    let tree = site.sign().enroll();
    tree.write("srv/f", "old");
    fs::set_permissions(tree.at("srv/f"), fs::Permissions::from_mode(0o600)).unwrap();
    tree.kpull("apply").exits(0);
    assert_eq!((tree.read("srv/f"), tree.mode("srv/f")), ("one\r\ntwo\n".to_owned(), 0o644));
}
