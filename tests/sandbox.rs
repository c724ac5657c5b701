//! The sandbox holds: what an attacker who has taken over the process that talks to the network can't do.
//!
//! Each attempt is made in a process of its own, this very program started again, which first confines itself with the
//! function that the real child uses. Run as root to see all of it; as another user the change of user is left out. All of it is
//! shown on older kernels too: those before 5.13 have no Landlock, and what that alone forbids is possible there.

#![allow(clippy::disallowed_types, reason = "tests start programs as anybody does")]

#[expect(dead_code, reason = "the other suites use more of it")]
#[path = "support/kernel.rs"]
mod kernel;

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitCode, Output, Stdio};

use kernel::{Version, like};
use kpull::sandbox::{Confinement, confine, has_landlock};
use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, Uid, geteuid, getgroups, getuid, mkfifo, setuid};

/// How an attempt has to end.
enum End {
    Works,
    /// The kernel says no, with one of these.
    Fails(&'static [i32]),
    /// The process is killed on the spot.
    Killed,
}

use End::{Fails, Killed, Works};

/// The kernel's answers to a path that is closed.
const CLOSED: End = Fails(&[libc::EACCES]);
const FORBIDDEN: End = Fails(&[libc::EPERM]);

/// Kernels that it is shown on; `None` is this machine's.
const KERNELS: [Option<Version>; 5] = [None, Some((5, 14)), Some((5, 4)), Some((4, 18)), Some((3, 10))];

struct Attempt {
    name: &'static str,
    end: End,
    /// Whether it is Landlock alone that keeps the process from it: without, it works.
    landlock: bool,
    act: fn(&Outside) -> io::Result<()>,
}

/// What there is outside of the sandbox.
struct Outside {
    /// The address of a server.
    address: String,
    /// A directory that anybody may write in.
    directory: String,
}

const ATTEMPTS: &[Attempt] = &[
    Attempt {
        name: "it is an unprivileged user, without a group and without a way to become root",
        end: Works,
        landlock: false,
        act: |_| {
            let groups = getgroups()?.iter().all(|group| group.as_raw() == 65534);
            let nobody = getuid().as_raw() == 65534 && geteuid().as_raw() == 65534 && groups;
            if nobody || std::env::args().any(|word| word == "unprivileged") {
                Ok(())
            } else {
                Err(io::Error::other("somebody"))
            }
        },
    },
    Attempt { name: "it reads how names are resolved", end: Works, landlock: false, act: |_| read("/etc/hosts") },
    Attempt { name: "it does not read secrets", end: CLOSED, landlock: false, act: |_| read("/etc/shadow") },
    Attempt {
        name: "it does not even read world-readable files",
        end: CLOSED,
        landlock: true,
        act: |_| read("/etc/passwd"),
    },
    Attempt {
        name: "it does not read about other processes",
        end: CLOSED,
        landlock: true,
        act: |_| read("/proc/1/status"),
    },
    Attempt { name: "it lists no directory", end: CLOSED, landlock: true, act: |_| std::fs::read_dir("/").map(drop) },
    Attempt {
        name: "it keeps files in its cache",
        end: Works,
        landlock: false,
        act: |_| {
            std::fs::create_dir("objects")?;
            File::create("objects/new")?.write_all(b"x")?;
            std::fs::rename("objects/new", "kept")?;
            read("kept")?;
            std::fs::remove_dir("objects")
        },
    },
    Attempt {
        name: "it writes nowhere else, not even to world-writable directories",
        end: CLOSED,
        landlock: true,
        act: |outside| File::create(Path::new(&outside.directory).join("x")).map(drop),
    },
    Attempt {
        name: "it moves nothing out of its cache",
        end: Fails(&[libc::EACCES, libc::EXDEV]),
        landlock: true,
        act: |outside| {
            File::create("x")?;
            std::fs::rename("x", Path::new(&outside.directory).join("x"))
        },
    },
    Attempt {
        name: "it makes no link for another user to follow",
        end: FORBIDDEN,
        landlock: false,
        act: |_| std::os::unix::fs::symlink("/etc/shadow", "link"),
    },
    Attempt {
        name: "it makes no pipe for another user to wait at",
        end: FORBIDDEN,
        landlock: false,
        act: |_| Ok(mkfifo("pipe", Mode::S_IRWXU)?),
    },
    Attempt {
        name: "it is killed when it starts a program",
        end: Killed,
        landlock: false,
        act: |_| Err(Command::new("/bin/true").exec()),
    },
    Attempt {
        name: "it starts no process",
        end: FORBIDDEN,
        landlock: false,
        act: |_| Command::new("/bin/true").spawn().map(drop),
    },
    Attempt {
        name: "it starts threads",
        end: Works,
        landlock: false,
        act: |_| std::thread::Builder::new().spawn(|| ())?.join().map_err(|_| io::Error::other("it panicked")),
    },
    Attempt {
        name: "it is killed when it tries to become root again",
        end: Killed,
        landlock: false,
        act: |_| Ok(setuid(Uid::from_raw(0))?),
    },
    Attempt {
        name: "it is killed when it mounts",
        end: Killed,
        landlock: false,
        act: |_| Ok(mount(None::<&str>, "/", Some("tmpfs"), MsFlags::empty(), None::<&str>)?),
    },
    Attempt {
        name: "it is killed when it makes a namespace",
        end: Killed,
        landlock: false,
        act: |_| Ok(unshare(CloneFlags::CLONE_NEWUSER)?),
    },
    Attempt {
        name: "it sends no signal",
        end: FORBIDDEN,
        landlock: false,
        act: |_| Ok(nix::sys::signal::kill(Pid::parent(), None)?),
    },
    Attempt {
        name: "it reaches a server by TCP",
        end: Works,
        landlock: false,
        act: |outside| TcpStream::connect(&outside.address)?.read_exact(&mut [0; 5]),
    },
    Attempt {
        name: "it asks a name server by UDP",
        end: Works,
        landlock: false,
        act: |outside| UdpSocket::bind("127.0.0.1:0")?.send_to(b"x", &outside.address).map(drop),
    },
    Attempt {
        name: "it accepts no connection",
        end: Fails(&[libc::EACCES, libc::EPERM]),
        landlock: false,
        act: |_| TcpListener::bind("127.0.0.1:0").map(drop),
    },
    Attempt {
        name: "it connects to no service of this host",
        end: FORBIDDEN,
        landlock: false,
        act: |_| UnixDatagram::unbound().map(drop),
    },
    Attempt {
        name: "it does not talk to the kernel's network by netlink",
        end: FORBIDDEN,
        landlock: false,
        act: |_| open(AddressFamily::Netlink, SockType::Raw),
    },
    Attempt {
        name: "it reads no packets of others",
        end: FORBIDDEN,
        landlock: false,
        act: |_| open(AddressFamily::Packet, SockType::Raw),
    },
    Attempt {
        name: "it makes no raw packets",
        end: FORBIDDEN,
        landlock: false,
        act: |_| open(AddressFamily::Inet, SockType::Raw),
    },
];

fn read(path: &str) -> io::Result<()> {
    File::open(path)?.read_exact(&mut [0])
}

fn open(family: AddressFamily, kind: SockType) -> io::Result<()> {
    Ok(socket(family, kind, SockFlag::empty(), None).map(drop)?)
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [inside, name, address, directory, ..] = &words[..]
        && inside == "inside"
    {
        return attempt(name, &Outside { address: address.clone(), directory: directory.clone() });
    }
    let server = TcpListener::bind("127.0.0.1:0").expect("a server");
    let address = server.local_addr().expect("its address").to_string();
    std::thread::spawn(move || {
        for client in server.incoming().flatten() {
            // a client that hangs up early is not tested here
            let _ = { client }.write_all(b"hello");
        }
    });
    let filter = words.iter().find(|word| !word.starts_with('-'));
    let mut failed = 0;
    for kernel in KERNELS {
        let on = kernel.map_or_else(String::new, |(major, minor)| format!(" on Linux {major}.{minor}"));
        let has_landlock = on_kernel(kernel, has_landlock);
        if kernel.is_none_or(|version| version >= (5, 13)) && !has_landlock {
            println!("this kernel has no Landlock, which this is shown with");
            failed += 1;
        }
        for attempt in ATTEMPTS {
            let name = format!("{}{on}", attempt.name);
            if filter.is_some_and(|filter| !name.contains(filter.as_str())) {
                continue;
            }
            let output = on_kernel(kernel, || start(attempt.name, &address));
            let verdict = match attempt.end {
                _ if attempt.landlock && !has_landlock => output.status.code() == Some(0),
                Works => output.status.code() == Some(0),
                Fails(numbers) => output.status.code().is_some_and(|code| numbers.contains(&code)),
                Killed => output.status.signal() == Some(libc::SIGSYS),
            };
            println!("test {name} ... {}", if verdict { "ok" } else { "FAILED" });
            if !verdict {
                failed += 1;
                println!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
            }
        }
    }
    println!("\n{failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Does `work` as on a kernel.
fn on_kernel<T: Send>(kernel: Option<Version>, work: impl FnOnce() -> T + Send) -> T {
    match kernel {
        Some(version) => like(version, work),
        None => work(),
    }
}

/// Makes an attempt in a process of its own, in a directory that is its cache.
fn start(name: &str, address: &str) -> Output {
    let (cache, outside) = (tempfile::tempdir().expect("a cache"), tempfile::tempdir().expect("a directory"));
    let everybodys = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(outside.path(), everybodys).expect("its mode");
    let mut command = Command::new("/proc/self/exe");
    command.args(["inside", name, address]).arg(outside.path()).current_dir(cache.path()).stdin(Stdio::null());
    if geteuid().is_root() {
        std::os::unix::fs::chown(cache.path(), Some(65534), Some(65534)).expect("its owner");
    } else {
        command.arg("unprivileged");
    }
    command.output().expect("start it")
}

/// Confines this process and makes the attempt; the exit code is the kernel's answer.
fn attempt(name: &str, outside: &Outside) -> ExitCode {
    let attempt = ATTEMPTS.iter().find(|attempt| attempt.name == name).expect("an attempt");
    let user = geteuid().is_root().then_some((65534, 65534));
    if let Err(error) = confine(&Confinement { user, writable: vec![".".into()] }) {
        eprintln!("{error}");
        return ExitCode::from(254);
    }
    match (attempt.act)(outside) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            let number = error.raw_os_error().unwrap_or(Errno::UnknownErrno as i32);
            ExitCode::from(u8::try_from(number).ok().filter(|number| *number > 0).unwrap_or(255))
        }
    }
}
