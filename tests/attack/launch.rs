//! What a program that a run starts inherits from the process that started the run: nothing. The programs here are hooks, which
//! run in directories too; those of `[[command]]` with a user of their own are in `tests/lab/launch.rs`.

use std::fs;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::attack::host::{GOOD, Host, Tree, Via, allow};

/// A host whose first run changes something, and then starts this script of Perl, which writes what it finds to its standard
/// output, the file `found`.
struct Setup {
    host: Host,
    dir: tempfile::TempDir,
}

impl Setup {
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::new(Via::Dir, &allow(1, ""), 1);
        host.publish(&Tree::good(GOOD));
        let setup = Self { host, dir };
        let script = format!("open STDOUT, '>', '{}' or die; $| = 1;\n{script}", setup.path("part"));
        fs::write(setup.path("script"), script).unwrap();
        let argv = [
            "sh",
            "-c",
            "perl \"$0\" 2>&1; mv \"$1\" \"$2\"",
            &setup.path("script"),
            &setup.path("part"),
            &setup.path("found"),
        ];
        let hook = format!("[[hook]]\non = [\"change\"]\ntimeout = 120\ncommand = {argv:?}\n");
        let address = format!("dir = {:?}\n{hook}", setup.host.address());
        setup.host.configure(&allow(1, ""), 1, &address);
        fs::write(setup.path("secret"), "hunter2\n").unwrap();
        setup
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// What `kpull apply` is called in a shell.
    fn apply(&self) -> String {
        format!("'{}' apply --root '{}'", env!("CARGO_BIN_EXE_kpull"), self.host.root().display())
    }

    /// A shell that runs this at a terminal of its own, as after a login.
    fn at_terminal(&self, command: &str) -> Command {
        let mut script = Command::new("script");
        script.args(["-q", "-e", "-c"]).arg(command).arg(self.path("typescript"));
        script.env("SHELL", "/bin/bash").env("HUSH", "hunter2").stdin(Stdio::piped()).stdout(Stdio::piped());
        script
    }

    fn found(&self) -> String {
        fs::read_to_string(self.path("found")).unwrap_or_else(|why| panic!("the program was not run: {why}"))
    }
}

fn succeeds(output: &Output) {
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Runs `command` to its end at a terminal without input.
fn run(mut command: Command) {
    let mut child = command.spawn().unwrap();
    // `script` ends when its own input does: that is held open meanwhile
    let _input = child.stdin.take();
    succeeds(&child.wait_with_output().unwrap());
}

#[test]
fn a_program_finds_no_terminal_to_read_from_or_to_type_into() {
    // TIOCSTI: input that is pushed there is typed by the user of the terminal
    let setup = Setup::new(
        "print open(my $tty, '+<', '/dev/tty') ? \"opened\\n\" : \"$!\\n\";
         for my $fd ($tty, *STDIN, *STDERR, map { open(my $f, '+<&=', $_) ? $f : () } 3 .. 63) {
             print \"typed\\n\" if defined $fd && ioctl($fd, 0x5412, my $key = 'x');
         }",
    );
    run(setup.at_terminal(&format!("exec 7<>/dev/tty; {}", setup.apply())));
    assert_eq!(setup.found(), "No such device or address\n");
}

#[test]
fn a_program_gets_no_file_that_the_shell_has_open() {
    // 300: a limit on open files that came later does not hide it
    for left in ["exec 7<'{}'", "exec 300<'{}'; ulimit -n 64"] {
        for terminal in [true, false] {
            let setup = Setup::new(
                "opendir D, '/proc/self/fd'; print map { \"$_\\n\" } grep { /^\\d/ && -e \"/proc/self/fd/$_\" } sort { $a <=> $b } readdir D;",
            );
            let command = format!("{}; {}", left.replace("{}", &setup.path("secret")), setup.apply());
            match terminal {
                true => run(setup.at_terminal(&command)),
                false => succeeds(&Command::new("bash").args(["-c", &command]).output().unwrap()),
            }
            // 3 is the script itself, 4 the directory; both are closed or seen by Perl alone
            let found = setup.found();
            let others: Vec<&str> = found.lines().filter(|fd| !["0", "1", "2", "3", "4"].contains(fd)).collect();
            assert!(found.starts_with("0\n1\n2\n") && others.is_empty(), "{left}, {terminal}: {found}");
        }
    }
}

#[test]
fn a_file_that_an_argument_names_is_read_and_not_passed_on() {
    let setup =
        Setup::new("print -e '/proc/self/fd/8' ? 'there' : 'closed'; print -e '/proc/self/fd/9' ? 'there' : 'closed';");
    let config = setup.host.root().join("etc/kpull/kpull.toml");
    let fixed = fs::read_to_string(&config)
        .unwrap()
        .replace("\"allowed_signers\"", &format!("{:?}", config.with_file_name("allowed_signers")));
    fs::write(&config, fixed).unwrap();
    let command =
        format!("exec 9<'{}' 8<'{}'; {} --config /dev/fd/8", setup.path("secret"), config.display(), setup.apply());
    succeeds(&Command::new("bash").args(["-c", &command]).output().unwrap());
    assert_eq!(setup.found(), "closedclosed");
}

#[test]
fn a_program_inherits_no_environment_variables() {
    let setup = Setup::new("print map { \"$_=$ENV{$_}\\n\" } grep { !/^(_|PWD|SHLVL|OLDPWD)$/ } sort keys %ENV;");
    let given =
        "export HUSH=hunter2 LD_PRELOAD= PERL5LIB=/tmp BASH_ENV=/tmp/x PATH=/tmp:$PATH USER=eve HOME=/tmp LANG=de_DE";
    let wanted = format!("HOME=/root\nLANG=C.UTF-8\nPATH={}\nUSER=root\n", kpull::host::process::PATH);
    run(setup.at_terminal(&format!("{given}; {}", setup.apply())));
    assert_eq!(setup.found(), wanted);
    let setup = Setup::new("print map { \"$_=$ENV{$_}\\n\" } grep { !/^(_|PWD|SHLVL|OLDPWD)$/ } sort keys %ENV;");
    succeeds(&Command::new("bash").args(["-c", &format!("{given}; {}", setup.apply())]).output().unwrap());
    assert_eq!(setup.found(), wanted);
}

#[test]
fn a_program_started_at_a_terminal_has_its_own_session_and_is_reported_as_usual() {
    let stat = "open S, '<', '/proc/' . getppid() . '/stat'; my @s = split ' ', <S>;";
    // its process leads its group and its session, and has no terminal
    let setup = Setup::new(&format!("{stat} print join ' ', $s[0] == $s[4], $s[0] == $s[5], $s[6];"));
    run(setup.at_terminal(&setup.apply()));
    assert_eq!(setup.found(), "1 1 0");

    for (argv, expected) in [
        ("[\"no-such-program\"]", "can't run no-such-program: there is no such program"),
        ("[\"/etc\"]", "can't run /etc: there is no such program"),
        ("[\"sh\", \"-c\", \"echo sick; exit 7\"]", "exit status: 7"),
        ("[\"/etc/passwd\"]", "can't run /etc/passwd: Permission denied"),
    ] {
        let setup = Setup::new("");
        let hook = format!("[[hook]]\non = [\"change\"]\ncommand = {argv}\n");
        setup.host.configure(&allow(1, ""), 1, &format!("dir = {:?}\n{hook}", setup.host.address()));
        let mut child = setup.at_terminal(&setup.apply()).spawn().unwrap();
        let _input = child.stdin.take();
        let shown = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap().replace("\r\n", "");
        let shown: String = shown.split_whitespace().collect::<Vec<_>>().join(" ").replace("│ ", "");
        assert!(shown.contains(expected), "{argv}: {shown}");
    }
}

fn wait_for(path: &Path) {
    let until = Instant::now() + Duration::from_secs(120);
    while !path.exists() {
        assert!(Instant::now() < until, "{} does not exist", path.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_interrupt_at_a_terminal_ends_a_run_at_once() {
    let setup = Setup::new("");
    let begun = PathBuf::from(setup.path("begun"));
    fs::write(setup.path("script"), format!("open B, '>', '{}'; close B; sleep 600", begun.display())).unwrap();
    // a shell that runs the tests in the background ignores interrupts
    let mut child = setup.at_terminal(&format!("exec env --default-signal=INT {}", setup.apply())).spawn().unwrap();
    let mut keyboard = child.stdin.take().unwrap();
    wait_for(&begun);
    keyboard.write_all(b"\x03").unwrap();
    let status = child.wait().unwrap();
    // `script` ends as what it ran: by an interrupt
    assert!(status.code() == Some(130) || status.signal() == Some(2), "{status}");
    // the lock is free again
    fs::write(setup.path("script"), "").unwrap();
    let again = Command::new("bash").args(["-c", &setup.apply()]).output().unwrap();
    succeeds(&again);
}

#[test]
fn no_process_of_the_same_user_inspects_one_that_may_have_a_secret() {
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::process::CommandExt as _;
    assert!(nix::unistd::geteuid().is_root(), "it becomes another user");
    let site = tempfile::tempdir().unwrap();
    fs::write(site.path().join("site.toml"), "name = \"test\"\n").unwrap();
    let nobody = Some(65534);
    // the program too, which may be in a directory that is root's alone
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("kpull");
    fs::copy(env!("CARGO_BIN_EXE_kpull"), &program).unwrap();
    for path in [site.path(), dir.path()] {
        std::os::unix::fs::chown(path, nobody, nobody).unwrap();
    }
    let mut command = Command::new(program);
    command.args(["secret", "set", "x", "--site"]).arg(site.path()).uid(65534).gid(65534);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // the kernel gives to root what no other process of the user may see
    let owner = |name: &str| fs::metadata(format!("/proc/{}/{name}", child.id())).map_or(u32::MAX, |meta| meta.uid());
    let until = Instant::now() + Duration::from_secs(60);
    while owner("environ") != 0 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    let owners = ["environ", "mem", "maps", "fd"].map(owner);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(owners, [0; 4]);
}
