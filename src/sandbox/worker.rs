//! A child process, and the requests to it. Its answers are bounded in time and size.

use std::cell::Cell;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, ExitStatus, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use zeroize::Zeroizing;

use super::COMMAND;
use super::confine::Confinement;
use super::need::{Need, demand};
use super::user::user;
use super::wire::{self, Answer, Job, Request, Setup, Tag};
use crate::error::{Context, Error, Result, code, error, visible};
use crate::host::deadline;
use crate::host::process::{self, not_started};
use crate::net::{self, Options};

/// The size of the pipe from a child, in bytes.
const PIPE: i32 = 1 << 20;
/// How much of a child's standard error is read, in bytes.
const STDERR_MAX: u64 = 4 << 10;
/// How long it waits before it looks at the time of the run again.
const SLICE: Duration = Duration::from_secs(1);

/// Variables that a confined child gets: proxies, language, and certificate authorities.
const VARIABLES: &str = "http_proxy https_proxy all_proxy no_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY LANG TZ \
    SSL_CERT_FILE SSL_CERT_DIR";
/// Additional variables for ssh: its path, its user, and the agent that has the keys.
const SSH_VARIABLES: &str = "PATH HOME USER LOGNAME SSH_AUTH_SOCK";

/// A child and the pipes to it. When this is dropped, the child ends with all that it has started.
pub(super) struct Worker {
    /// What it is for: the source or the server.
    pub name: String,
    child: Child,
    to: Pipe<ChildStdin>,
    from: BufReader<Pipe<ChildStdout>>,
    stderr: Option<ChildStderr>,
    limit: Duration,
    until: Rc<Cell<Instant>>,
    pub ended: Option<ExitStatus>,
    /// Whether only its user protects files from it, because the kernel has no Landlock.
    pub is_open: bool,
}

impl Worker {
    /// Starts a child that may write no file, for no longer than `limit`, unless the sandbox lacks what is `required`.
    pub fn without_files(name: &str, options: &Options, required: &[Need], limit: Duration) -> Result<Self> {
        demand(required)?;
        let confinement = Some(Confinement { user: user()?, writable: Vec::new() });
        Self::start(name, &Setup { job: Job::Web, net: options.load()?, confinement }, Path::new("/"), limit)
    }

    /// Starts a child in `directory` and confines it. `limit` is the time for all its requests.
    pub fn start(name: &str, setup: &Setup, directory: &Path, limit: Duration) -> Result<Self> {
        let mut command = process::ourselves(COMMAND);
        command.current_dir(directory).stdin(Stdio::piped()).stdout(Stdio::piped()).env_clear();
        let kept = |names: &'static str| names.split(' ').filter_map(|name| Some((name, std::env::var_os(name)?)));
        command.envs(kept(VARIABLES));
        match setup.confinement {
            Some(_) => command.stderr(Stdio::piped()),
            None => command.envs(kept(SSH_VARIABLES)),
        };
        let what = || format!("can't start the process that fetches from {name}");
        let mut child =
            command.spawn().map_err(|why| not_started(&what(), &why).or_help("check that /proc is mounted"))?;
        let until = Rc::new(Cell::new(Instant::now() + limit));
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::new(code::SANDBOX, what()));
        };
        let stderr = child.stderr.take();
        let to = Pipe { inner: to, until: until.clone() };
        let from = BufReader::new(Pipe { inner: from, until: until.clone() });
        let mut worker =
            Self { name: name.to_owned(), child, to, from, stderr, limit, until, ended: None, is_open: false };
        for pipe in [worker.to.inner.as_fd(), worker.from.get_ref().inner.as_fd()] {
            fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).context(code::SANDBOX, what)?;
        }
        // fewer rounds for a long body; the limit of large pipes may be reached
        let _ = fcntl(worker.from.get_ref().inner.as_fd(), FcntlArg::F_SETPIPE_SZ(PIPE));
        wire::write_json(&mut worker.to, Tag::Request, setup).map_err(|why| worker.failed(why))?;
        match worker.answer()? {
            Answer::Ready(confined) => {
                worker.is_open = setup.confinement.is_some() && !confined.files;
                Ok(worker)
            }
            _ => Err(worker.nonsense()),
        }
    }

    /// Sends a request and waits for the answer; the answer `Failed` is an error.
    pub fn ask(&mut self, request: &Request) -> Result<Answer> {
        wire::write_json(&mut self.to, Tag::Request, request).map_err(|why| self.failed(why))?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Answer> {
        match wire::read_json(&mut self.from, Tag::Answer).map_err(|why| self.failed(why))? {
            Answer::Failed(fault) => Err(fault.into()),
            answer => Ok(answer),
        }
    }

    /// The next bytes of a body; empty at its end.
    pub fn frame(&mut self) -> Result<Zeroizing<Vec<u8>>> {
        let (tag, payload) = wire::read(&mut self.from, &[Tag::Body, Tag::Answer]).map_err(|why| self.failed(why))?;
        if tag == Tag::Body {
            return Ok(payload);
        }
        match wire::parse(&payload).map_err(|why| self.failed(why))? {
            Answer::Failed(fault) => Err(fault.into()),
            _ => Err(self.nonsense()),
        }
    }

    /// All of a body; `None` when it has more than `max` bytes, which ends the child.
    pub fn body(&mut self, max: u64) -> Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        loop {
            let frame = self.frame()?;
            if frame.is_empty() {
                return Ok(Some(bytes));
            }
            if (bytes.len() + frame.len()) as u64 > max {
                self.end();
                return Ok(None);
            }
            self.allow_more(Duration::from_secs(frame.len() as u64) / u32::try_from(net::STEADY).unwrap_or(u32::MAX));
            bytes.extend_from_slice(&frame);
        }
    }

    /// Sets the time limit for the next answer.
    pub fn allow(&mut self, limit: Duration) {
        self.limit = limit;
        self.until.set(Instant::now() + limit);
    }

    /// Extends the time limit.
    pub fn allow_more(&mut self, time: Duration) {
        self.limit += time;
        self.until.set(self.until.get() + time);
    }

    /// The error for an answer that doesn't belong to the request.
    pub fn nonsense(&mut self) -> Error {
        self.failed(io::Error::new(io::ErrorKind::InvalidData, "an answer does not match the request"))
    }

    /// Ends the child because of `why`; the error says what happened.
    fn failed(&mut self, why: io::Error) -> Error {
        let name = self.name.clone();
        let has_ended = matches!(why.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe);
        if has_ended {
            self.wait_a_moment();
        }
        self.end();
        if why.kind() == io::ErrorKind::TimedOut {
            if let Err(over) = deadline::check() {
                let advice = "check that its server runs, and that this host can reach it";
                return over.wrapped(code::SANDBOX, format!("{name} did not answer")).help_more(advice).passing();
            }
            return error!(SANDBOX, "{name}: the fetch did not end within {:?}", self.limit)
                .help("the server may be stalling, or the connection may be too slow");
        }
        let error = error!(SANDBOX, "{name}: the process that fetches from it failed");
        if !has_ended {
            return error.because(why).help(
                "a hostile server may have taken it over; it had no privileges, and kpull does not trust anything that it returns",
            );
        }
        let ended = self.ended.map_or_else(|| "it closed its pipe".to_owned(), |status| status.to_string());
        let error = error.because(match self.last_line() {
            line if line.is_empty() => ended,
            line => format!("{ended}: {line}"),
        });
        match self.ended.and_then(|status| status.signal()) {
            Some(nix::libc::SIGSYS) => error.help(
                "it was killed because of a system call that it never needs: a hostile server may have taken it over; it had no privileges, and nothing was changed",
            ),
            Some(nix::libc::SIGKILL) => error.help(process::KILLED),
            _ => error,
        }
    }

    /// Lets a child that has closed its pipe end by itself, so that its exit status is known.
    fn wait_a_moment(&mut self) {
        for _ in 0..200 {
            if let Ok(Some(status)) = self.child.try_wait() {
                self.ended = Some(status);
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The last line of its standard error.
    fn last_line(&mut self) -> String {
        let Some(stderr) = self.stderr.take() else { return String::new() };
        let mut bytes = Vec::new();
        // another process may still hold the other end
        if fcntl(&stderr, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).is_ok() {
            let _ = stderr.take(STDERR_MAX).read_to_end(&mut bytes);
        }
        let text = String::from_utf8_lossy(&bytes);
        visible(text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default())
    }

    /// Kills it, and whatever it has started.
    pub fn end(&mut self) {
        if self.ended.is_none() {
            let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
            // a child that was just started has no group of its own yet
            let _ = self.child.kill();
            self.ended = self.child.wait().ok();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}

/// One end of a pipe that times out at a certain time.
struct Pipe<T> {
    inner: T,
    until: Rc<Cell<Instant>>,
}

impl<T: AsFd> Pipe<T> {
    /// Does `attempt` when the pipe is ready for it.
    fn when(&mut self, ready: PollFlags, mut attempt: impl FnMut(&mut T) -> io::Result<usize>) -> io::Result<usize> {
        loop {
            let left = self.until.get().saturating_duration_since(Instant::now());
            if left.is_zero() || deadline::is_over() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            // rounded up, so that it doesn't spin for the last millisecond
            let left = PollTimeout::try_from(left.min(SLICE) + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.inner.as_fd(), ready)], left) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => continue,
                Ok(_) => {}
                Err(errno) => return Err(errno.into()),
            }
            match attempt(&mut self.inner) {
                Err(why) if matches!(why.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                done => return done,
            }
        }
    }
}

impl<T: AsFd + Read> Read for Pipe<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.when(PollFlags::POLLIN, |inner| inner.read(buffer))
    }
}

impl<T: AsFd + Write> Write for Pipe<T> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.when(PollFlags::POLLOUT, |inner| inner.write(buffer))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod testing {
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    use super::*;

    pub const LONG: Duration = Duration::from_secs(600);

    /// A shell script that is the child.
    pub fn worker(script: &str, limit: Duration) -> Worker {
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let until = Rc::new(Cell::new(Instant::now() + limit));
        let to = Pipe { inner: child.stdin.take().unwrap(), until: until.clone() };
        let from = BufReader::new(Pipe { inner: child.stdout.take().unwrap(), until: until.clone() });
        for pipe in [to.inner.as_fd(), from.get_ref().inner.as_fd()] {
            fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        }
        let stderr = child.stderr.take();
        Worker { name: "http x".into(), child, to, from, stderr, limit, until, ended: None, is_open: false }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{LONG, worker};
    use super::*;

    #[test]
    fn a_child_that_stalls_is_ended_with_what_it_started() {
        let mut worker = worker("sleep 1000 & echo $! >&2; wait", Duration::from_millis(500));
        let error = worker.ask(&Request::List).unwrap_err();
        assert_eq!(error.to_string(), "http x: the fetch did not end within 500ms");
        let sleeper: i32 = worker.last_line().parse().unwrap();
        crate::host::process::expect_end_of(sleeper);
    }

    #[test]
    fn a_child_that_does_not_listen_cannot_hold_its_parent() {
        let mut worker = worker("exec sleep 1000", Duration::from_millis(500));
        let path = "x".repeat(60_000);
        let error = (0..9).find_map(|_| {
            wire::write_json(&mut worker.to, Tag::Request, &Request::Read { path: path.clone(), max: 1 }).err()
        });
        assert_eq!(error.unwrap().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn the_end_of_a_child_is_reported_with_its_last_line_made_harmless() {
        let error = worker("echo 'thread panicked\n\u{1b}[2Jat x' >&2; exit 7", LONG).ask(&Request::List).unwrap_err();
        assert_eq!(
            error.to_string(),
            "http x: the process that fetches from it failed: exit status: 7: \\u{1b}[2Jat x"
        );
        let error = worker("kill -SYS $$", LONG).ask(&Request::List).unwrap_err();
        assert!(error.advice().unwrap().contains("never needs"), "{error}");
    }
}
