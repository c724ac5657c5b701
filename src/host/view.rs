//! Directories as they will be, for one program: in a mount namespace of its own, copies lie over the real ones. They end with the
//! namespace, even if kpull is killed.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::root::{FileType, Meta, Root, label};
use crate::error::{Result, error};

/// The most that the copies of one directory may take.
const MOST: &str = "size=256m";

/// Calls `work` where each of the directories is a copy that it can change: nothing outside of `work`, and of the programs that it
/// starts, sees the changes. Errors are those of the kernel, if this host does not let kpull create a mount namespace, and those of `work`.
pub fn of_copies<T: Send>(directories: &[PathBuf], work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let failed = |why: String| error!(VALIDATE, "can't copy directories for a program to check").because(why);
    std::thread::scope(|scope| {
        // only this thread enters the namespace, with what it starts
        let thread = std::thread::Builder::new().spawn_scoped(scope, || {
            enter(directories)?;
            work()
        });
        let thread = thread.map_err(|error| failed(error.to_string()))?;
        thread.join().unwrap_or_else(|_| Err(failed("the thread that copies them has failed".to_owned())))
    })
}

fn enter(directories: &[PathBuf]) -> Result<()> {
    let failed = |errno: Errno| {
        error!(VALIDATE, "can't create a mount namespace").because(errno.desc()).help(
            "in a container, kpull needs CAP_SYS_ADMIN for [[validate]]; the `validate` of a [[file]] does not need it",
        )
    };
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed)?;
    let none = None::<&Path>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(failed)?;
    directories.iter().try_for_each(|directory| cover(directory))
}

/// Lays a copy over a directory.
fn cover(directory: &Path) -> Result<()> {
    let failed = |why: &str| error!(VALIDATE, "can't copy {} for a program to check", directory.display()).because(why);
    let old = Root::open(directory)?;
    let Some(meta) = Root::open(Path::new("/"))?.meta(directory)?.filter(|meta| meta.what == FileType::Directory)
    else {
        return Err(failed("it is not a directory").help("name the directory that the link points to"));
    };
    let mut options = format!("{MOST},mode={:o},uid={},gid={}", meta.mode, meta.uid, meta.gid);
    let mut context = [0; 4096];
    if let Ok(length) = rustix::fs::getxattr(directory, label::ATTRIBUTE, &mut context)
        && let Some(Ok(context)) = context.get(..length).map(|bytes| std::str::from_utf8(bytes))
    {
        options.push_str(&format!(",context=\"{}\"", context.trim_end_matches('\0')));
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("kpull"), directory, Some("tmpfs"), flags, Some(options.as_str()))
        .map_err(|errno| failed(errno.desc()))?;
    Root::open(directory)?
        .copy(Path::new("/"), (&old, Path::new("/")), &Meta::access)
        .map_err(|error| error.or_help("`paths` is for directories with configuration files, with at most 256 MiB"))
}
