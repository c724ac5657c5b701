//! Runs shadow's programs (`useradd` and others): they handle everything else that belongs to an account, such as subordinate numbers,
//! caches, SELinux users and the audit trail.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::{Error, Result, error};
use crate::host::account_files::{Login, WantedGroup, WantedUser};
use crate::host::process::{Command, Output, run, run_if_there};
use crate::host::root::Root;
use crate::read;

/// Timeout of a program: they wait for each other, and copy files.
const TIMEOUT: Duration = Duration::from_secs(120);
/// How long the processes of a removed user may take to end.
const GRACE: Duration = Duration::from_secs(10);
/// The pause between two looks at them.
const PAUSE: Duration = Duration::from_millis(100);

/// Creates a group.
pub fn add_group(wanted: &WantedGroup<'_>) -> Result<()> {
    let gid = wanted.gid.map(|gid| gid.to_string());
    let mut words = vec!["groupadd"];
    words.extend(wanted.system.then_some("--system"));
    words.extend(gid.iter().flat_map(|gid| ["--gid", gid]));
    words.push(wanted.name);
    call(&words, || format!("can't create the group {}", wanted.name))
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
    call(&words, || format!("can't create the user {}", wanted.name))
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

/// Adds a user, who may exist only in NSS, to a group, or takes it out.
pub fn set_member(user: &str, group: &str, is_in: bool) -> Result<()> {
    match is_in {
        true => call(&["gpasswd", "--add", user, group], || format!("can't add {user} to the group {group}")),
        false => call(&["gpasswd", "--delete", user, group], || format!("can't remove {user} of the group {group}")),
    }
}

/// Sets what decides whether a user can log in. The hash never is an argument: every user of the host sees those.
pub fn set_login(user: &str, old: &Login, new: &Login) -> Result<()> {
    // unlike a new password, these do not change how old the password is
    if new.password.strip_prefix('!') == Some(&*old.password) {
        call(&["usermod", "--lock", user], || format!("can't lock the password of {user}"))?;
    } else if old.password.strip_prefix('!') == Some(&*new.password) {
        call(&["usermod", "--unlock", user], || format!("can't unlock the password of {user}"))?;
    } else if old.password != new.password {
        let line = format!("{user}:{}\n", new.password);
        let command = Command::new(["chpasswd", "--encrypted"], TIMEOUT);
        let output = run(&Command { input: Some(line.as_bytes()), ..command })?;
        judge("chpasswd", &output, || format!("can't set the password of {user}"))?;
    }
    if old.expires == new.expires {
        return Ok(());
    }
    let day = new.expires.map_or_else(|| "-1".to_owned(), |day| day.to_string());
    call(&["chage", "--expiredate", &day, user], || format!("can't set the expiry of the account of {user}"))
}

/// Removes a user, with its own group if nobody else is in it. The home stays.
pub fn remove_user(user: &str) -> Result<()> {
    call(&["userdel", user], || format!("can't remove the user {user}"))
}

/// Removes a group.
pub fn remove_group(group: &str) -> Result<()> {
    call(&["groupdel", group], || format!("can't remove the group {group}"))
}

/// Switches on or off that the services of a user run without a session.
pub fn set_linger(user: &str, on: bool) -> Result<()> {
    let word = if on { "enable-linger" } else { "disable-linger" };
    call(&["loginctl", word, user], || format!("can't {} lingering of {user}", if on { "enable" } else { "disable" }))
}

/// The processes of a user, by its number.
pub fn processes(root: &Root, uid: u32) -> Result<Vec<i32>> {
    let processes = root.names(Path::new("/proc"))?.into_iter().filter_map(|name| name.parse::<i32>().ok());
    let is_own = |process: &i32| {
        let status = read::kernel(&format!("/proc/{process}/status")).unwrap_or_default();
        let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
        let is_zombie = status.lines().any(|line| line.starts_with("State:\tZ"));
        !is_zombie && uids.split_whitespace().any(|one| one.parse() == Ok(uid))
    };
    Ok(processes.filter(is_own).collect())
}

/// Ends the sessions and all processes of a user: first asks them to end, then kills them.
pub fn end_processes(root: &Root, user: &str, uid: u32) -> Result<()> {
    // a host without logind has no sessions to end, and a user without a session is none to it
    run_if_there(&Command::new(["loginctl", "terminate-user", user], TIMEOUT))?;
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let end = Instant::now() + GRACE;
        loop {
            let left = processes(root, uid)?;
            if left.is_empty() {
                return Ok(());
            }
            for process in left {
                // it may have ended by itself
                let _ = kill(Pid::from_raw(process), signal);
            }
            if Instant::now() >= end {
                break;
            }
            std::thread::sleep(PAUSE);
        }
    }
    refuse_busy(root, user, uid)
}

/// An error if processes of a user run.
pub fn refuse_busy(root: &Root, user: &str, uid: u32) -> Result<()> {
    let processes = processes(root, uid)?;
    let Some(first) = processes.first() else { return Ok(()) };
    let names = processes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let stop = stop_command(&first.to_string());
    Err(error!(ACCOUNT, "the user {user} can't be removed: it has running processes: {names}; `loginctl terminate-user {user}` ends sessions").help(format!(
        "end them with `loginctl terminate-user {user}` or {stop}, then run `kpull apply --retry`; or set `end_processes = true`"
    )))
}

fn call(words: &[&str], what: impl Fn() -> String) -> Result<()> {
    let output = run(&Command::new(words.iter().copied(), TIMEOUT))?;
    judge(words.first().copied().unwrap_or_default(), &output, what)
}

fn judge(program: &str, output: &Output, what: impl Fn() -> String) -> Result<()> {
    if output.is_success() { Ok(()) } else { Err(failure(program, output, what())) }
}

/// The error for a failed program, with advice from its messages.
fn failure(program: &str, output: &Output, what: String) -> Error {
    let error = output.failure(what);
    let message = String::from_utf8_lossy(&output.stderr);
    let file = message.split_once("cannot lock ").and_then(|(_, rest)| rest.split([';', '\n']).next());
    if let Some(file) = file {
        return error.passing().help(format!(
            "another program is changing accounts, or has left {file}.lock behind: `cat {file}.lock` shows the process; the next run continues when it has ended"
        ));
    }
    let process = message.split_once("used by process ").and_then(|(_, rest)| rest.split_whitespace().next());
    if let Some(process) = process {
        return error.help(format!(
            "end it with {}, then run `kpull apply --retry`; or do not change the home",
            stop_command(process)
        ));
    }
    error.help(format!("this is the message of `{program}`: correct the problem and run again, or change the role"))
}

/// The command that stops a process, or the unit that it is in.
fn stop_command(process: &str) -> String {
    let groups = read::kernel(&format!("/proc/{process}/cgroup")).unwrap_or_default();
    let mut names = groups.lines().filter_map(|line| line.rsplit('/').next());
    match names.find(|name| name.ends_with(".service") || name.ends_with(".scope")) {
        Some(unit) => format!("`systemctl stop {unit}`"),
        None => format!("`kill {process}`"),
    }
}
