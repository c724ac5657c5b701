//! SELinux contexts of new paths, from the policy of the host.

use std::borrow::Cow;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::FileType;
use crate::error::{Error, Result, error};
use crate::host::process;

/// The extended attribute that holds a context.
pub const ATTRIBUTE: &str = "security.selinux";

/// Exists if the kernel has SELinux enabled, enforcing or not.
const ENFORCE: &str = "/sys/fs/selinux/enforce";

/// Paths per query: the answer has to fit into what is kept of a program's output.
const AT_ONCE: usize = 500;

/// Timeout of a query.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The policy's contexts for new paths, and its types of ports. The first query for contexts is for all paths of the catalog, so that it
/// takes one process for each type and not one for each file.
#[derive(Debug, Default)]
pub struct Labels {
    is_on: OnceCell<bool>,
    expected: RefCell<BTreeSet<PathBuf>>,
    known: RefCell<HashMap<(FileType, PathBuf), Option<String>>>,
    has_failed: Cell<bool>,
    is_reported: Cell<bool>,
    trouble: RefCell<Option<Error>>,
    ports: RefCell<Option<Rc<str>>>,
}

impl Labels {
    /// Whether SELinux is enabled on this host.
    pub fn is_on(&self) -> bool {
        *self.is_on.get_or_init(|| nix::sys::stat::stat(ENFORCE).is_ok())
    }

    /// Sets the absolute paths that may be queried in this run.
    pub fn expect(&self, paths: BTreeSet<PathBuf>) {
        *self.expected.borrow_mut() = paths;
    }

    /// The types of ports as `list` prints them; it is called once, until something may have changed the policy.
    pub(in crate::host) fn ports(&self, list: impl FnOnce() -> Result<String>) -> Result<Rc<str>> {
        if let Some(ports) = &*self.ports.borrow() {
            return Ok(ports.clone());
        }
        let listed: Rc<str> = list()?.into();
        *self.ports.borrow_mut() = Some(listed.clone());
        Ok(listed)
    }

    /// Discards all answers: a package or a command may have changed or installed the policy.
    pub fn forget(&self) {
        self.known.borrow_mut().clear();
        self.ports.take();
        self.has_failed.set(false);
    }

    /// The context for something new at `path`, in which no link is; `None` if SELinux is off, the policy has none for it, or can't be
    /// queried. The kernel then assigns the context of the directory.
    pub fn of(&self, path: &Path, what: FileType) -> Option<String> {
        if !self.is_on() || self.has_failed.get() {
            return None;
        }
        let key = (what, path.to_owned());
        if !self.known.borrow().contains_key(&key)
            && let Err(error) = self.ask(path, what)
        {
            self.has_failed.set(true);
            if !self.is_reported.replace(true) {
                *self.trouble.borrow_mut() = Some(error);
            }
        }
        self.known.borrow().get(&key).cloned().flatten()
    }

    /// Why new paths get no contexts of their own in this run; returned once.
    pub fn take_trouble(&self) -> Option<Error> {
        self.trouble.take()
    }

    fn ask(&self, path: &Path, what: FileType) -> Result<()> {
        let mut paths = self.expected.borrow().clone();
        if what == FileType::Directory {
            // missing directories above a path are created
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

/// The policy's contexts of paths, in their order.
fn contexts(paths: &[PathBuf], what: FileType) -> Result<Vec<Option<String>>> {
    let failed = || error!(FILE, "SELinux is on, and its policy can't be queried for the contexts of new files");
    let kind = match what {
        FileType::Directory => "dir",
        FileType::Link => "lnk_file",
        FileType::File | FileType::Special => "file",
    };
    // paths of a release are UTF-8; other paths have no entry in a policy
    let names = paths.iter().map(|path| path.to_string_lossy());
    let argv = ["matchpathcon", "-n", "-N", "-m", kind].into_iter().map(Cow::from).chain(names);
    let Some(output) = process::run_if_there(&process::Command::new(argv, TIMEOUT))? else {
        return Err(failed()
            .because("there is no program matchpathcon")
            .help("install libselinux-utils (Debian: selinux-utils), then run `restorecon -R` on the files that kpull has written meanwhile: they have the contexts of their directories"));
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let contexts: Vec<_> = text.lines().map(|line| (line != "<<none>>").then(|| line.to_owned())).collect();
    if !output.is_success() || contexts.len() != paths.len() {
        return Err(output
            .failure(failed().to_string())
            .help("run `matchpathcon /etc` to see the problem; then run `restorecon -R` on the files that kpull has written meanwhile: they have the contexts of their directories"));
    }
    Ok(contexts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_types_of_ports_are_listed_once_until_something_may_have_changed_the_policy() {
        let (labels, count) = (Labels::default(), Cell::new(0));
        let list = || {
            count.set(count.get() + 1);
            match count.get() {
                1 => Err(error!(COMMAND, "no semanage")),
                number => Ok(number.to_string()),
            }
        };
        let listed = || labels.ports(list).map(|ports| ports.to_string()).ok();
        assert_eq!([listed(), listed(), listed()], [None, Some("2".to_owned()), Some("2".to_owned())]);
        labels.forget();
        assert_eq!([listed(), listed()].map(Option::unwrap), ["3", "3"]);
    }
}
