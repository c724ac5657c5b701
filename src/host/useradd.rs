//! Runs shadow's programs (`useradd` and others): they handle everything else that belongs to an account, such as subordinate numbers,
//! caches, SELinux users and the audit trail.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::host::account_files::{WantedGroup, WantedUser};
use crate::host::process::{Command, Output, argv, run};
use crate::read;

/// Timeout of a program: they wait for each other, and copy files.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Creates a group.
pub fn add_group(wanted: &WantedGroup<'_>) -> Result<()> {
    let gid = wanted.gid.map(|gid| gid.to_string());
    let mut words = vec!["groupadd"];
    words.extend(wanted.system.then_some("--system"));
    words.extend(gid.iter().flat_map(|gid| ["--gid", gid]));
    words.push(wanted.name);
    call(&words, || format!("can't make the group {}", wanted.name))
}

/// Creates a user without a password. Its primary group is the wanted one, or else one of its own name, which is created if it is
/// missing. `with_home` creates a missing home.
pub fn add_user(wanted: &WantedUser<'_>, has_own_group: bool, with_home: bool) -> Result<()> {
    let (uid, home) = (wanted.uid.map(|uid| uid.to_string()), wanted.new_home());
    let mut words = vec!["useradd"];
    words.extend(wanted.system.then_some("--system"));
    words.extend(uid.iter().flat_map(|uid| ["--uid", uid]));
    match wanted.group.or(has_own_group.then_some(wanted.name)) {
        Some(group) => words.extend(["--gid", group]),
        None => words.push("--user-group"),
    }
    // UMASK works in every version of useradd; HOME_MODE of this host overrides it
    words.extend(["--home-dir", &home, "--shell", wanted.new_shell(), "--key", "UMASK=0077"]);
    words.push(if with_home { "--create-home" } else { "--no-create-home" });
    words.extend(wanted.comment.iter().flat_map(|comment| ["--comment", comment]));
    words.push(wanted.name);
    call(&words, || format!("can't make the user {}", wanted.name))
}

/// Sets the wanted fields of a user. With `lacks_shadow`, this adds the missing line in `/etc/shadow`.
pub fn change_user(wanted: &WantedUser<'_>, lacks_shadow: bool) -> Result<()> {
    let mut words = vec!["usermod"];
    let fields =
        [("--comment", wanted.comment), ("--home", wanted.home), ("--shell", wanted.shell), ("--gid", wanted.group)];
    words.extend(fields.iter().filter_map(|(option, value)| Some([*option, (*value)?])).flatten());
    words.extend(lacks_shadow.then_some(["--password", "!*"]).into_iter().flatten());
    words.push(wanted.name);
    call(&words, || format!("can't change the user {}", wanted.name))
}

/// Adds a user, who may exist only in NSS, to the members of a group.
pub fn add_member(user: &str, group: &str) -> Result<()> {
    call(&["gpasswd", "--add", user, group], || format!("can't add {user} to the group {group}"))
}

fn call(words: &[&str], what: impl Fn() -> String) -> Result<()> {
    let output = run(&Command::new(&argv(words.iter().copied()), TIMEOUT))?;
    match output.is_success() {
        true => Ok(()),
        false => Err(failure(words.first().copied().unwrap_or_default(), &output, what())),
    }
}

/// The error for a failed program, with advice from its messages.
fn failure(program: &str, output: &Output, what: String) -> Error {
    let error = output.failure(what);
    let message = String::from_utf8_lossy(&output.stderr);
    let file = message.split_once("cannot lock ").and_then(|(_, rest)| rest.split([';', '\n']).next());
    if let Some(file) = file {
        return error.passing().help(format!(
            "another program changes accounts, or has left {file}.lock behind: `cat {file}.lock` shows the process; the next run \
             continues when it has ended"
        ));
    }
    let process = message.split_once("used by process ").and_then(|(_, rest)| rest.split_whitespace().next());
    if let Some(process) = process {
        let stop = match unit_of(process) {
            Some(unit) => format!("`systemctl stop {unit}`"),
            None => format!("`kill {process}`"),
        };
        return error.help(format!("end it with {stop}, then run `kpull apply --retry`; or leave the home as it is"));
    }
    error.help(format!("this is the message of `{program}`; fix what it names and run again, or change the role"))
}

/// The unit of a process, if it can be stopped.
fn unit_of(process: &str) -> Option<String> {
    let groups = read::kernel(&format!("/proc/{process}/cgroup")).ok()?;
    let names = groups.lines().filter_map(|line| line.rsplit('/').next());
    names.map(str::to_owned).find(|name| name.ends_with(".service") || name.ends_with(".scope"))
}
