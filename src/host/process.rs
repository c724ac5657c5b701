//! Runs other programs: never through a shell, without the terminal and inherited files, with a clean environment, and with limits
//! on time and output. Except for [`at_terminal`], nothing else in kpull starts a program.

#![expect(clippy::disallowed_types, reason = "the one place")]

#[expect(clippy::disallowed_methods, reason = "the kernel's list of open files, and the terminal")]
pub mod launch;

use std::ffi::OsStr;
use std::fmt::Display;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result, code, error, mask};
use crate::host::deadline;
use crate::read;
use crate::text::shortened;

/// Where programs are looked for.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Bytes that are kept of the end of each of a program's two outputs.
const KEPT: usize = 64 * 1024;

/// How long a program may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

/// How many lines of output an error shows.
const SHOWN: usize = 20;

/// How many characters of each of these lines.
const LONGEST_LINE: usize = 1000;

/// The user and group that a program runs as, without supplementary groups. Unless that is root, it can't gain rights
/// (`no_new_privs`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub struct Identity {
    /// What `USER` is set to.
    pub name: String,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// What `HOME` is set to.
    pub home: String,
}

/// A program to run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub struct Command<'a> {
    /// The program, and its arguments as they are.
    pub argv: Vec<String>,
    /// Environment variables besides `PATH`, `LANG`, `HOME` and `USER`, which may be overridden.
    pub env: Vec<(String, String)>,
    /// The directory that it runs in.
    pub cwd: PathBuf,
    /// The user and group; kpull's own if `None`.
    pub identity: Option<Identity>,
    /// When it is killed.
    pub timeout: Duration,
    /// Its standard input, which is a pipe and never on a disk; empty if `None`.
    #[serde(skip)]
    pub input: Option<&'a [u8]>,
    /// Whether to discard its standard output. Its error output is kept all the same.
    #[serde(skip)]
    pub mute: bool,
}

impl Command<'_> {
    /// A program that runs in `/` as kpull's own user with only the usual environment.
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>, timeout: Duration) -> Self {
        let (argv, cwd) = (argv.into_iter().map(Into::into).collect(), PathBuf::from("/"));
        Self { argv, env: Vec::new(), cwd, identity: None, timeout, input: None, mute: false }
    }
}

/// Advice when a process was killed, and not by kpull.
pub const KILLED: &str = "it was killed: `journalctl -k` shows whether memory ran out; MemoryMax= of kpull.service limits the memory of the whole run";

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself.
    Exited(ExitStatus),
    /// Not in time: it was killed, with everything that it had started.
    TimedOut(Duration),
}

/// The result of a program.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub ended: Ended,
    /// The last 64 KiB of its output.
    pub stdout: Vec<u8>,
    /// The last 64 KiB of its error output.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Whether it exited with 0.
    pub fn is_success(&self) -> bool {
        matches!(self.ended, Ended::Exited(status) if status.success())
    }

    /// Itself if it is a success; otherwise the error of [`Output::failure`].
    pub fn or_failure(self, what: impl Display) -> Result<Self> {
        if self.is_success() { Ok(self) } else { Err(self.failure(what)) }
    }

    /// Its exit code; `None` if it did not end by itself.
    pub fn code(&self) -> Option<i32> {
        match self.ended {
            Ended::Exited(status) => status.code(),
            Ended::TimedOut(_) => None,
        }
    }

    /// How it ended, in words.
    pub fn verdict(&self) -> String {
        match self.ended {
            Ended::Exited(status) => status.to_string(),
            Ended::TimedOut(limit) => format!("it took longer than {limit:?} and was terminated"),
        }
    }

    /// The last lines of its error output, or of its output if that is empty.
    pub fn last_lines(&self) -> String {
        let output = if self.stderr.trim_ascii().is_empty() { &self.stdout } else { &self.stderr };
        let text = String::from_utf8_lossy(output);
        let text = match output.len() {
            ..KEPT => &*text,
            // its beginning may be the end of a secret, which would not be recognized
            _ => text.split_once('\n').or_else(|| text.split_once(' ')).map_or("", |(_, whole)| whole),
        };
        let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        let shown = lines.iter().skip(lines.len().saturating_sub(SHOWN));
        shown.map(|line| shortened(&mask::hide(line), LONGEST_LINE)).collect::<Vec<_>>().join("\n")
    }

    /// The error for its failure, with its last lines. `what` is what was being done.
    pub fn failure(&self, what: impl Display) -> Error {
        match self.last_lines() {
            lines if lines.is_empty() => self.failed(what, ", without any output"),
            lines => self.failed(what, &format!("\n{lines}")),
        }
    }

    fn failed(&self, what: impl Display, output: &str) -> Error {
        let error = Error::new(code::COMMAND, what).because(format!("{}{output}", self.verdict()));
        match self.ended {
            Ended::Exited(status) if status.signal() == Some(nix::libc::SIGKILL) => error.help(KILLED),
            _ => error,
        }
    }

    /// [`Output::failure`], without the last lines if they are sensitive.
    pub fn failure_of(&self, what: impl Display, is_sensitive: bool) -> Error {
        if is_sensitive { self.failed(what, " (its output is not shown: it is sensitive)") } else { self.failure(what) }
    }
}

/// Runs a program to its end. It is an error if it can't be started; the caller judges how it ends.
pub fn run(command: &Command<'_>) -> Result<Output> {
    match start(command)? {
        Some(child) => wait(child, command),
        None => Err(no_such_program(command)),
    }
}

/// [`run`], but `None` if there is no such program.
pub fn run_if_there(command: &Command<'_>) -> Result<Option<Output>> {
    start(command)?.map(|child| wait(child, command)).transpose()
}

fn no_such_program(command: &Command<'_>) -> Error {
    let program = command.argv.first().map_or("", String::as_str);
    error!(COMMAND, "can't run {program}: there is no such program").help(format!(
        "install the package that contains it, or write its full path; kpull searches for programs in {PATH}"
    ))
}

/// Starts a program; `None` if there is no such program.
fn start(command: &Command<'_>) -> Result<Option<Child>> {
    let Some((program, arguments)) = command.argv.split_first() else {
        return Err(error!(COMMAND, "there is no program to run"));
    };
    deadline::check()?;
    if !read::is_directory(&command.cwd) {
        return Err(error!(COMMAND, "can't run {program} in {}: there is no such directory", command.cwd.display()));
    }
    let given = |wanted: &str| command.env.iter().rfind(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let by_launcher = launch::is_needed();
    let mut process = if by_launcher {
        // the launcher could not report this itself
        if !is_there(program, given("PATH").unwrap_or(PATH), &command.cwd) {
            return Ok(None);
        }
        let mut process = ourselves(launch::COMMAND);
        process.args([&launch::identity_word(command.identity.as_ref()), program]);
        process
    } else {
        let mut process = new(program);
        process.process_group(0);
        process
    };
    let (home, user) = command.identity.as_ref().map_or(("/root", "root"), |identity| (&identity.home, &identity.name));
    process
        .args(arguments)
        .env_clear()
        .envs([("PATH", PATH), ("LANG", "C.UTF-8"), ("HOME", home), ("USER", user)])
        .envs(command.env.iter().cloned())
        .current_dir(&command.cwd)
        .stdin(if command.input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(if command.mute { Stdio::null() } else { Stdio::piped() })
        .stderr(Stdio::piped());
    let started = with_usual_umask(|| match &command.identity {
        Some(identity) if !by_launcher => spawn_as(process, identity),
        _ => process.spawn(),
    });
    match started {
        Ok(child) => Ok(Some(child)),
        Err(error) if by_launcher => Err(not_started(&format!("can't run {program}"), &error)
            .or_help("in a terminal, kpull starts programs through /proc: check that /proc is mounted")),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(not_started(&format!("can't run {program}"), &error)),
    }
}

/// A process that is not started yet.
pub(super) fn new(program: impl AsRef<OsStr>) -> std::process::Command {
    std::process::Command::new(program)
}

/// Another process of kpull, which serves this one. It leaves the terminal by itself ([`launch::leave_terminal`]).
pub fn ourselves(command: &str) -> std::process::Command {
    let mut process = new(launch::PROGRAM);
    process.arg(command);
    process
}

/// A program that an operator interacts with at a terminal, or that acts in the operator's name: an editor, git, `ssh-keygen`,
/// which asks for a passphrase. It inherits everything that the operator's shell has given to this process. Use this only for
/// what an operator has explicitly requested.
pub fn at_terminal(program: impl AsRef<OsStr>) -> std::process::Command {
    new(program)
}

/// Whether a process with this `PATH` that starts in `cwd` finds the program.
fn is_there(program: &str, path: &str, cwd: &Path) -> bool {
    match program.contains('/') {
        true => read::is_file(&cwd.join(program)),
        false => path.split(':').any(|directory| read::is_file(&cwd.join(directory).join(program))),
    }
}

/// Starts a process as another user.
fn spawn_as(mut process: std::process::Command, identity: &Identity) -> std::io::Result<Child> {
    process.uid(identity.uid).gid(identity.gid);
    if identity.uid == 0 {
        return process.spawn();
    }
    // applies to the thread and to all that it starts
    let spawn = move || {
        nix::sys::prctl::set_no_new_privs()?;
        process.spawn()
    };
    let thread = std::thread::Builder::new().spawn(spawn)?;
    thread.join().unwrap_or_else(|_| Err(std::io::Error::other("the thread that starts it has failed")))
}

/// The error for a process that could not be started.
pub fn not_started(what: &str, why: &std::io::Error) -> Error {
    let error = Error::of(code::COMMAND, what, why);
    match why.kind() {
        ErrorKind::WouldBlock => error.with_code(code::LIMIT).help(
            "there may be no more processes, of this host (kernel.pid_max), this user (`ulimit -u`) or kpull's unit \
             (TasksMax=): end some, or raise the limit; the next run continues from here",
        ),
        _ => error,
    }
}

/// Starts a program with the usual umask: what a package's script makes has to be readable for everybody. kpull's own is
/// stricter, see [`keep_private`]. The umask is one of the whole process, so it is restored at once, under a lock.
fn with_usual_umask<T>(start: impl FnOnce() -> T) -> T {
    static LOCK: Mutex<()> = Mutex::new(());
    let _lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    let ours = umask(Mode::from_bits_truncate(0o022));
    let started = start();
    umask(ours);
    started
}

/// Makes new files of this process private to its user, unless a mode is given.
pub fn keep_private() {
    umask(Mode::from_bits_truncate(0o077));
}

/// The rest of a program's input.
struct Feed<'a> {
    /// Its standard input, until all is written.
    to: Option<ChildStdin>,
    left: &'a [u8],
}

impl<'a> Feed<'a> {
    fn new(to: Option<ChildStdin>, left: &'a [u8]) -> Result<Self> {
        Ok(Self { to: nonblocking(to)?, left })
    }

    /// Writes what the pipe has room for. Closes it at the end, or when the program stops reading.
    fn give(&mut self) -> Result<()> {
        let Some(to) = &mut self.to else { return Ok(()) };
        while !self.left.is_empty() {
            match to.write(self.left) {
                Ok(length) => self.left = self.left.get(length..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
                Err(error) => return Err(error!(COMMAND, "can't write a program's input").because(error)),
            }
        }
        self.to = None;
        Ok(())
    }
}

/// Makes reads and writes return at once, so that neither a program that does not read nor a daemon that keeps a pipe open blocks kpull.
fn nonblocking<F: AsFd>(pipe: Option<F>) -> Result<Option<F>> {
    let set = pipe.as_ref().map(|pipe| fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))).transpose();
    set.context(code::COMMAND, || "can't set up a program's pipes").map(|_| pipe)
}

/// The end of one output of a program.
struct Tail<R> {
    from: Option<R>,
    kept: Vec<u8>,
}

impl<R: Read + AsFd> Tail<R> {
    fn new(from: Option<R>) -> Result<Self> {
        Ok(Self { from: nonblocking(from)?, kept: Vec::new() })
    }

    /// Reads what is available.
    fn take(&mut self) -> Result<()> {
        let Some(from) = &mut self.from else { return Ok(()) };
        let mut buffer = [0; 8192];
        // a program that never stops writing must not delay the timeout
        for _ in 0..64 {
            match from.read(&mut buffer) {
                Ok(0) => {
                    self.from = None;
                    break;
                }
                Ok(length) => {
                    self.kept.extend_from_slice(&buffer[..length]);
                    if self.kept.len() > 2 * KEPT {
                        self.kept.drain(..self.kept.len() - KEPT);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error!(COMMAND, "can't read a program's output").because(error)),
            }
        }
        Ok(())
    }

    fn into_kept(mut self) -> Vec<u8> {
        self.kept.drain(..self.kept.len().saturating_sub(KEPT));
        self.kept
    }
}

fn wait(mut child: Child, command: &Command<'_>) -> Result<Output> {
    let outcome = watch(&mut child, command.input.unwrap_or_default(), command.timeout);
    if outcome.is_err() {
        // leave nothing running; a process that was just started has no group of its own yet
        let _ = killpg(group(&child), Signal::SIGKILL);
        let _ = child.kill();
        let _ = child.wait();
    }
    outcome
}

fn group(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

fn watch(child: &mut Child, input: &[u8], mut limit: Duration) -> Result<Output> {
    let started = Instant::now();
    let mut stdin = Feed::new(child.stdin.take(), input)?;
    let mut stdout = Tail::new(child.stdout.take())?;
    let mut stderr = Tail::new(child.stderr.take())?;
    let group = group(child);
    let mut pause = 1;
    let (mut asked, mut timed_out) = (false, false);
    loop {
        stdin.give()?;
        listen(&stdin, &stdout, &stderr, pause)?;
        pause = (pause * 2).min(20);
        stdout.take()?;
        stderr.take()?;
        // not reaped yet, so that the group's number still belongs to it when the group is killed
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let state = waitid(Id::Pid(group), flags).context(code::COMMAND, || "can't wait for a program")?;
        let ended = state != WaitStatus::StillAlive;
        let late = started.elapsed() >= limit.saturating_add(GRACE);
        if (ended && asked) || late {
            let _ = killpg(group, Signal::SIGKILL);
            let _ = child.kill();
            timed_out = true;
        }
        if ended || late {
            break;
        }
        if !asked && (started.elapsed() >= limit || deadline::is_over()) {
            limit = limit.min(Duration::from_secs(started.elapsed().as_secs().saturating_add(1)));
            let _ = killpg(group, Signal::SIGTERM);
            asked = true;
        }
    }
    let status = child.wait().context(code::COMMAND, || "can't wait for a program")?;
    stdout.take()?;
    stderr.take()?;
    let ended = if timed_out { Ended::TimedOut(limit) } else { Ended::Exited(status) };
    Ok(Output { ended, stdout: stdout.into_kept(), stderr: stderr.into_kept() })
}

/// Waits until a program reads or writes something, or closes its output, but at most `pause` milliseconds.
fn listen<A: AsFd, B: AsFd>(input: &Feed<'_>, one: &Tail<A>, other: &Tail<B>, pause: u8) -> Result<()> {
    let fds = [
        (input.to.as_ref().map(AsFd::as_fd), PollFlags::POLLOUT),
        (one.from.as_ref().map(AsFd::as_fd), PollFlags::POLLIN),
        (other.from.as_ref().map(AsFd::as_fd), PollFlags::POLLIN),
    ];
    let mut fds: Vec<PollFd<'_>> = fds.into_iter().filter_map(|(fd, what)| Some(PollFd::new(fd?, what))).collect();
    match poll(&mut fds, PollTimeout::from(pause)) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(errno) => Err(error!(COMMAND, "can't read a program's output").because(errno.desc())),
    }
}

/// An argument vector.
pub fn argv<'a>(words: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    words.into_iter().map(str::to_owned).collect()
}

/// Waits until a process is over, and panics if it goes on.
#[cfg(test)]
pub(crate) fn expect_end_of(process: i32) {
    // the signal may be on its way, and whoever adopts the process may not have reaped it yet
    let is_over = || {
        let state = std::fs::read_to_string(format!("/proc/{process}/stat"));
        state.is_err() || state.is_ok_and(|stat| stat.contains(") Z ") || stat.contains(") X "))
    };
    let until = Instant::now() + Duration::from_secs(60);
    while !is_over() {
        assert!(Instant::now() < until, "it is still running");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_program_is_searched_for_in_its_own_path() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("bin")).unwrap();
        std::fs::write(dir.path().join("bin/here"), "").unwrap();
        let is_there = |program, path: &str| is_there(program, path, dir.path());
        assert!(is_there("here", "/nowhere:bin") && is_there("bin/here", "") && is_there("sh", PATH));
        assert!(!is_there("here", PATH) && !is_there("bin", "/:.") && !is_there("./here", "bin"));
    }

    fn output(words: &[&str], timeout: Duration) -> Output {
        run(&Command::new(words.iter().copied(), timeout)).unwrap()
    }

    #[test]
    fn arguments_reach_a_program_as_they_are() {
        let output = output(&["printf", "%s|", "$HOME", "a b", "*", "; false"], MINUTE);
        assert!(output.is_success());
        assert_eq!(output.stdout, b"$HOME|a b|*|; false|");
    }

    #[test]
    fn the_environment_is_a_clean_one() {
        let argv = argv(["env"]);
        let env = vec![("GIVEN".to_owned(), "1".to_owned())];
        let output = run(&Command { env, ..Command::new(&argv, MINUTE) }).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut names: Vec<&str> = text.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        names.sort_unstable();
        assert_eq!(names, ["GIVEN", "HOME", "LANG", "PATH", "USER"]);
    }

    #[test]
    fn a_program_reads_what_it_is_given() {
        let argv = argv(["cat"]);
        let output = run(&Command { input: Some(b"a\0b"), ..Command::new(&argv, MINUTE) }).unwrap();
        assert_eq!(output.stdout, b"a\0b");
    }

    #[test]
    fn a_program_can_read_and_write_more_than_a_pipe_holds() {
        let input: Vec<u8> = (0..3 << 20).map(|at: u32| at.to_le_bytes()[1]).collect();
        let argv = argv(["sh", "-c", "cat; echo end"]);
        let output = run(&Command { input: Some(&input), ..Command::new(&argv, MINUTE) }).unwrap();
        let kept = KEPT - b"end\n".len();
        assert!(output.is_success() && output.stdout.len() == KEPT);
        assert_eq!(output.stdout[..kept], input[input.len() - kept..]);
    }

    #[test]
    fn a_program_need_not_read_what_it_is_given() {
        let input = vec![b'x'; 1 << 20];
        let ended = |script: &str, timeout| {
            let argv = argv(["sh", "-c", script]);
            run(&Command { input: Some(&input), ..Command::new(&argv, timeout) }).unwrap().ended
        };
        assert!(matches!(ended("exit 7", MINUTE), Ended::Exited(status) if status.code() == Some(7)));
        // closed long before the end, and never read
        assert!(matches!(ended("exec <&-; sleep .2; exit 0", MINUTE), Ended::Exited(status) if status.success()));
        let limit = Duration::from_secs(1);
        assert_eq!(ended("sleep 1000", limit), Ended::TimedOut(limit));
    }

    #[test]
    fn a_daemon_that_keeps_the_input_open_reads_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let received = dir.path().join("heard");
        let script = r#"exec 3<&0; (cat <&3 > "$0"; mv "$0" "$1") >/dev/null 2>&1 & exit 0"#;
        let part = dir.path().join("part");
        let argv = argv(["sh", "-c", script, part.to_str().unwrap(), received.to_str().unwrap()]);
        assert!(run(&Command { input: Some(b"all"), ..Command::new(&argv, MINUTE) }).unwrap().is_success());
        let until = Instant::now() + MINUTE;
        while !received.exists() {
            assert!(Instant::now() < until, "it still reads");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(std::fs::read(&received).unwrap(), b"all");
    }

    #[test]
    fn a_program_gets_the_usual_umask_and_ours_stays() {
        let ours = || {
            std::fs::read_to_string("/proc/self/status")
                .unwrap()
                .lines()
                .find(|l| l.starts_with("Umask:"))
                .map(str::to_owned)
        };
        let before = ours();
        assert_eq!(output(&["sh", "-c", "umask"], MINUTE).stdout.trim_ascii(), b"0022");
        assert_eq!(ours(), before);
    }

    #[test]
    fn a_program_gets_the_usual_umask_from_a_process_that_keeps_everything_private() {
        // the umask is that of a whole process, and other tests run in this one
        let test = concat!(module_path!(), "::a_program_gets_the_usual_umask_and_ours_stays");
        let test = test.split_once("::").unwrap().1;
        let script = r#"umask 077; exec "$0" --exact "$1""#;
        let program = std::env::current_exe().unwrap();
        let output = output(&["sh", "-c", script, program.to_str().unwrap(), test], MINUTE);
        assert!(output.is_success() && String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
    }

    #[test]
    fn only_the_end_of_a_long_output_is_kept() {
        let output = output(&["seq", "1", "300000"], MINUTE);
        assert!(output.is_success());
        assert_eq!(output.stdout.len(), KEPT);
        assert!(output.stdout.ends_with(b"299999\n300000\n"));
        assert!(output.last_lines().ends_with("299999\n300000"));
        assert_eq!(output.last_lines().lines().count(), SHOWN);
    }

    #[test]
    fn no_secret_is_cut_before_it_is_hidden() {
        mask::remember("long", "process-test-".repeat(20).as_bytes());
        let secret = "process-test-".repeat(20);
        let shown = |script: String| output(&["sh", "-c", &script], MINUTE).last_lines();
        // in the middle of it is the beginning of what is kept, and the end of what is shown of a line
        let kept = shown(format!("printf %s {secret}; head -c {} /dev/zero | tr '\\0' x; echo; echo end", KEPT - 100));
        assert_eq!(kept, "end");
        let line = shown(format!("head -c {} /dev/zero | tr '\\0' x; printf %s {secret}", LONGEST_LINE - 100));
        assert_eq!(line, "x".repeat(LONGEST_LINE - 100) + "‹secret long›");
        let alone = shown(format!("printf %s {secret}; head -c {KEPT} /dev/zero | tr '\\0' x"));
        assert_eq!(alone, "");
        let words = shown(format!("printf %s {secret}; head -c {} /dev/zero | tr '\\0' x; printf ' end'", KEPT - 100));
        assert_eq!(words, "end");
    }

    #[test]
    fn a_program_that_takes_too_long_is_killed_with_its_children() {
        let output = output(&["sh", "-c", "sleep 1000 & echo $!; wait"], Duration::from_secs(3));
        assert_eq!(output.ended, Ended::TimedOut(Duration::from_secs(3)));
        let child: i32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
        expect_end_of(child);
    }

    #[test]
    fn a_daemon_that_keeps_the_output_open_does_not_hold_the_run() {
        let output = output(&["sh", "-c", "sleep 1000 & echo $!"], MINUTE);
        assert!(output.is_success());
        let daemon: i32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
        nix::sys::signal::kill(Pid::from_raw(daemon), Signal::SIGKILL).unwrap();
    }

    #[test]
    fn a_failure_shows_how_it_ended_and_the_last_words_without_control_characters() {
        let output = output(&["sh", "-c", "echo out; printf 'no \\033[2Jroom\\n' >&2; exit 7"], MINUTE);
        assert_eq!(output.failure("x failed").to_string(), "x failed: exit status: 7\nno \\u{1b}[2Jroom");
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error_with_advice() {
        let argv = argv(["no-such-program"]);
        let error = run(&Command::new(&argv, MINUTE)).unwrap_err();
        assert_eq!(error.to_string(), "can't run no-such-program: there is no such program");
        assert!(error.advice().unwrap().contains("/usr/sbin"));
        assert!(run_if_there(&Command::new(&argv, MINUTE)).unwrap().is_none());
    }
}
