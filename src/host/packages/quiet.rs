//! Keeps Debian's packages from starting their services while kpull installs them.

use std::path::Path;

use crate::error::Result;
use crate::host::root::{Access, Root};

const POLICY: &str = "/usr/sbin/policy-rc.d";
/// The environment variable by which the policy knows that kpull installs.
pub(super) const QUIET_MARK: &str = "KPULL_INSTALLS";

/// Prevents Debian's packages from starting services while they are installed, until this is dropped. An existing policy stays in
/// effect.
///
/// The policy applies only to kpull's own installation, which it recognizes by an environment variable: one that a killed run leaves
/// behind has no effect, and the next run removes it.
pub(super) struct NoServiceStart<'a> {
    root: &'a Root,
}

impl<'a> NoServiceStart<'a> {
    pub fn new(root: &'a Root) -> Result<Option<Self>> {
        let path = Path::new(POLICY);
        let script = format!(
            "#!/bin/sh\n# by kpull, while it installs packages; safe to remove\n\
             [ -z \"${QUIET_MARK}\" ] || exit 101\n"
        );
        match root.read(path)? {
            Some((_, content)) if content == script.as_bytes() => {}
            Some(_) => return Ok(None),
            None if root.meta(path)?.is_some() => return Ok(None),
            None => root.write(path, script.as_bytes(), Access::of_mode(0o755))?,
        }
        Ok(Some(Self { root }))
    }
}

impl Drop for NoServiceStart<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.root.remove(Path::new(POLICY)) {
            log::warn!("{error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::host::process::{Command, argv, run};

    #[test]
    fn the_policy_holds_for_our_own_installation_and_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let script = dir.path().join("usr/sbin/policy-rc.d").display().to_string();
        let quiet = NoServiceStart::new(&root).unwrap();
        let status = |env: &[(String, String)]| {
            // through sh: a test that forks just now may hold the file open, and a busy file can't be started
            let argv = argv(["sh", script.as_str(), "nginx", "start"]);
            let output = run(&Command { env: env.to_vec(), ..Command::new(&argv, Duration::from_secs(60)) }).unwrap();
            output.verdict()
        };
        assert_eq!(status(&[]), "exit status: 0");
        assert_eq!(status(&[(QUIET_MARK.to_owned(), "1".to_owned())]), "exit status: 101");
        drop(quiet);
        assert!(!dir.path().join("usr/sbin/policy-rc.d").exists());
    }

    #[test]
    fn the_policy_of_another_program_stays() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        std::fs::create_dir_all(dir.path().join("usr/sbin")).unwrap();
        std::fs::write(dir.path().join("usr/sbin/policy-rc.d"), "theirs").unwrap();
        assert!(NoServiceStart::new(&root).unwrap().is_none());
        assert_eq!(std::fs::read_to_string(dir.path().join("usr/sbin/policy-rc.d")).unwrap(), "theirs");
    }
}
