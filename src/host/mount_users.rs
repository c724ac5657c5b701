//! Which processes keep a file system from being unmounted.

use std::path::{Path, PathBuf};

use crate::host::root::Root;
use crate::read;
use crate::text::shortened;

/// At most this many are named.
const NAMED: usize = 5;

/// The processes whose directories or open files are below a place: `process 4711 (bash)`. What can't be read is left out.
pub fn users(place: &Path) -> Vec<String> {
    let Ok(root) = Root::open(Path::new("/")) else { return Vec::new() };
    let processes = root.names(Path::new("/proc")).unwrap_or_default();
    let is_process = |name: &String| name.bytes().all(|byte| byte.is_ascii_digit());
    let uses = |pid: &String| {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let open = proc.join("fd");
        let files = root.names(&open).unwrap_or_default().into_iter().map(|name| open.join(name));
        let mut links = ["cwd", "root", "exe"].map(|name| proc.join(name)).into_iter().chain(files);
        links.any(|link| root.link(&link).is_ok_and(|to| to.is_some_and(|to| to.starts_with(place))))
    };
    let name = |pid: String| {
        let name = read::kernel(&format!("/proc/{pid}/comm")).unwrap_or_default();
        format!("process {pid} ({})", shortened(name.trim_end(), 40))
    };
    processes.into_iter().filter(is_process).filter(uses).take(NAMED).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_an_open_file_below_a_place_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().canonicalize().unwrap();
        assert_eq!(users(&place), [""; 0]);
        let _open = std::fs::File::create(place.join("file")).unwrap();
        let users = users(&place);
        assert!(users.len() == 1 && users[0].starts_with(&format!("process {} (", std::process::id())), "{users:?}");
    }
}
