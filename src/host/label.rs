//! SELinux contexts for what is new on this host: the ones that its policy has for the paths.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::process::{self, argv};
use super::root::FileType;
use crate::error::{Error, Result, code};

/// The extended attribute that a context is kept in.
pub const ATTRIBUTE: &str = "security.selinux";

/// There wherever the kernel has SELinux switched on, enforcing or not.
const ENFORCE: &str = "/sys/fs/selinux/enforce";

/// How many paths one process is asked for: what it answers has to fit into what is kept of a program's output.
const AT_ONCE: usize = 500;

/// How long the policy may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the policy says of new paths. It is asked when the first one is made, then for all paths that the catalog
/// decides about: a process a type and not one a file.
#[derive(Debug, Default)]
pub struct Labels {
    is_on: OnceCell<bool>,
    expected: RefCell<BTreeSet<PathBuf>>,
    known: RefCell<HashMap<(FileType, PathBuf), Option<String>>>,
    has_failed: Cell<bool>,
    is_told: Cell<bool>,
    trouble: RefCell<Option<Error>>,
}

impl Labels {
    /// Whether SELinux is on here.
    pub fn is_on(&self) -> bool {
        *self.is_on.get_or_init(|| nix::sys::stat::stat(ENFORCE).is_ok())
    }

    /// The paths that may be asked for in this run, absolute.
    pub fn expect(&self, paths: BTreeSet<PathBuf>) {
        *self.expected.borrow_mut() = paths;
    }

    /// The policy may be another one, or there now: a package or a command can change it.
    pub fn forget(&self) {
        self.known.borrow_mut().clear();
        self.has_failed.set(false);
    }

    /// The context for something new at `path`, which no link leads to; `None` where SELinux is off, the policy has none for
    /// it, or can't be asked. Without one the kernel gives it that of its directory.
    pub fn of(&self, path: &Path, what: FileType) -> Option<String> {
        if !self.is_on() || self.has_failed.get() {
            return None;
        }
        let key = (what, path.to_owned());
        if !self.known.borrow().contains_key(&key)
            && let Err(error) = self.ask(path, what)
        {
            self.has_failed.set(true);
            if !self.is_told.replace(true) {
                *self.trouble.borrow_mut() = Some(error);
            }
        }
        self.known.borrow().get(&key).cloned().flatten()
    }

    /// Why new paths get no contexts of their own in this run; told once.
    pub fn take_trouble(&self) -> Option<Error> {
        self.trouble.take()
    }

    fn ask(&self, path: &Path, what: FileType) -> Result<()> {
        let mut paths = self.expected.borrow().clone();
        if what == FileType::Directory {
            // those above a path are made when they are missing
            let above: Vec<PathBuf> = paths.iter().flat_map(|path| path.ancestors().skip(1)).map(Into::into).collect();
            paths.extend(above);
        }
        let mut known = self.known.borrow_mut();
        paths.insert(path.to_owned());
        let paths: Vec<PathBuf> = paths.into_iter().filter(|path| !known.contains_key(&(what, path.clone()))).collect();
        for some in paths.chunks(AT_ONCE) {
            let contexts = contexts(some, what)?;
            known.extend(some.iter().map(|path| (what, path.clone())).zip(contexts));
        }
        Ok(())
    }
}

/// What the policy says of paths, in their order.
fn contexts(paths: &[PathBuf], what: FileType) -> Result<Vec<Option<String>>> {
    let failed = || Error::new(code::FILE, "SELinux is on, and its policy does not tell the contexts of new files");
    let kind = match what {
        FileType::Directory => "dir",
        FileType::Link => "lnk_file",
        FileType::File | FileType::Special => "file",
    };
    let mut argv = argv(["matchpathcon", "-n", "-N", "-m", kind]);
    for path in paths {
        // a path of the release is UTF-8; whatever else there may be is no text to look for in a policy
        argv.push(path.to_string_lossy().into_owned());
    }
    let Some(output) = process::run_if_there(&process::Command::new(&argv, PATIENCE))? else {
        return Err(failed()
            .because("there is no program matchpathcon")
            .help("install libselinux-utils (Debian: selinux-utils), then run `restorecon -R` on what was written meanwhile: it has the contexts of its directories"));
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let contexts: Vec<_> = text.lines().map(|line| (line != "<<none>>").then(|| line.to_owned())).collect();
    if !output.is_success() || contexts.len() != paths.len() {
        return Err(output
            .failure(failed().to_string())
            .help("see what `matchpathcon /etc` says; then run `restorecon -R` on what was written meanwhile: it has the contexts of its directories"));
    }
    Ok(contexts)
}
