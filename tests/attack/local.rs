//! The setup of attacks by a local user: a user who is not root, and a file that only root can read.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown, symlink};
use std::path::Path;

use crate::support::site::Output;

/// A user who is not root.
pub const NOBODY: u32 = 65534;
/// What root alone may read.
pub const SECRET: &str = "root:$6$salt$hash:19000:0:99999:7:::\n";

/// These attacks are on root, and would show nothing without it.
pub fn need_root() {
    assert!(nix::unistd::geteuid().is_root(), "these attacks are on root");
}

/// Creates the directory at `path` again, owned by another user, whatever was there.
pub fn make_directory_of_nobody(path: &Path) {
    let _ = fs::remove_dir_all(path).or_else(|_| fs::remove_file(path));
    fs::create_dir(path).unwrap();
    chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
}

/// Creates a link of another user at a path, and the directories that it needs.
pub fn link_of_nobody(target: &Path, path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    symlink(target, path).unwrap();
    lchown(path, Some(NOBODY), Some(NOBODY)).unwrap();
}

/// Puts a file there that root keeps to itself.
pub fn write_closed(path: &Path, content: &str) {
    let _ = fs::remove_file(path);
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// The owner and the mode of a path.
pub fn uid_and_mode(path: &Path) -> (u32, u32) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.uid(), meta.mode() & 0o7777)
}

/// Whether [`SECRET`], which was [written](write_closed) there, is as it was.
#[track_caller]
pub fn is_untouched(path: &Path, attack: &str) {
    assert_eq!(fs::read_to_string(path).ok().as_deref(), Some(SECRET), "{attack}");
    assert_eq!(uid_and_mode(path), (0, 0o600), "{attack}");
}

/// Runs the program. What would never end is ended, and fails the test.
pub fn kpull(arguments: &[&str]) -> Output {
    let mut command = std::process::Command::new("timeout");
    Output::of(command.args(["60", env!("CARGO_BIN_EXE_kpull")]).args(arguments).output().unwrap())
}
