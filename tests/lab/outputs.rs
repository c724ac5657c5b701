//! Another user of a host, who races against every run of root in their own directories: outputs of `[metrics]` and `[status]`,
//! and a managed path.

use crate::support::lab::{H1, Host, Lab};

/// As many runs as the races may take.
const RUNS: usize = 200;
/// So many runs have to show that something came between two of their steps.
const HITS: usize = 5;

/// What bob does until he is stopped: `$how` says which names he swaps, and for what. `wins` has what he should never get.
const ATTACK: &str = r#"
use strict;
use Fcntl;
use POSIX ();
my ($how) = @ARGV;
my ($n, $at) = (0, '/srv/bob/x');
# what the kernel says when root opens a file with a lease on it
$SIG{IO} = 'IGNORE';

sub lookout {
    if (open my $file, '<', '/etc/shadow') { system 'echo read shadow >> /srv/bob/wins' }
    if (opendir my $dir, '/root/closed') { system 'echo opened closed >> /srv/bob/wins' }
}

# Something at $at that is to lead root astray, or keep root waiting.
sub bait {
    my $what = $n++ % @_;
    if ($_[$what] eq 'link') { symlink '/etc/shadow', $at }
    elsif ($_[$what] eq 'pipe') { POSIX::mkfifo($at, 0666) }
    elsif ($_[$what] eq 'second name') { link '/srv/ledger', $at }
    elsif ($_[$what] eq 'directory') { mkdir $at and mkdir "$at/full" }
    elsif ($_[$what] eq 'sparse') { open my $file, '>', $at; truncate $file, 1 << 42 }
    elsif ($_[$what] eq 'leased') {
        open my $file, '>', $at;
        fcntl $file, 1024, 1; # F_SETLEASE, F_WRLCK
        rename $at, $_[-1];
        select undef, undef, undef, 0.01;
    }
}

sub away { for my $path (@_) { rmdir "$path/full"; rmdir $path or unlink $path } }

if ($how eq 'names') {
    # what has one of these names may be root's own, in the making
    my @names = map { ("$_.new", ".$_.kpull-new") } 'kpull.prom', 'h1.status';
    for (;;) {
        for my $name (@names) {
            away($at);
            bait('link', 'pipe', 'second name');
            rename $at, "/srv/bob/out/$name";
        }
        lookout();
    }
}
if ($how eq 'directory') {
    # the directory of the outputs and a link to one of root's change places in one step
    symlink '/root/closed', '/srv/bob/link';
    my ($one, $other) = ('/srv/bob/out', '/srv/bob/link');
    for (;;) { syscall 316, -100, $one, -100, $other, 2; lookout() }
}
if ($how eq 'managed') {
    my $path = '/srv/bob/conf/app.conf';
    symlink '/root/closed', '/srv/bob/link';
    my ($one, $other) = ('/srv/bob/conf', '/srv/bob/link');
    for (;;) {
        # bob owns what is above: what root has made there is moved away, and a directory of his own comes in
        rename '/srv/bob/conf', "/srv/bob/old$n";
        mkdir '/srv/bob/conf';
        for (1 .. 7) {
            away($at);
            bait('link', 'pipe', 'second name', 'directory', 'sparse', 'leased', $path);
            away($path);
            rename $at, $path;
            syscall 316, -100, $one, -100, $other, 2 for 1 .. 2;
            lookout();
        }
        system "rm -rf /srv/bob/old*" if $n % 50 == 0;
    }
}
"#;

const ROLE: &str = r#"
summary = "For a test"
[[file]]
path = "/srv/bob/conf/app.conf"
content = "x\n"
[[file]]
path = "/etc/other"
content = "y\n"
"#;

const OUTPUTS: &str = "[metrics]\ndir = \"/srv/bob/out\"\n[status]\nevery = \"0s\"\ndir = \"/srv/bob/out\"\n";

/// A host on which bob has `/srv/bob`, root has secrets, and everything is as its release says.
fn world(role: &str, more: &str) -> Lab {
    let lab = Lab::new(&[H1]);
    let host = lab.host("h1");
    host.run(
        "useradd bob && install -d -o bob -g bob /srv/bob /srv/bob/out && install -d -m 700 /root/closed &&
         mkdir -p /etc/ssh && ssh-keygen -A > /dev/null &&
         printf 'ours\\n' > /srv/ledger && chown root:bob /srv/ledger && chmod 660 /srv/ledger",
    )
    .ok();
    crate::lab::sign_on(host, role, more);
    host.write("/srv/attack", ATTACK);
    host.run("kpull apply").ok();
    lab
}

/// All that is root's, and that bob must not have changed, opened or read.
fn roots(host: Host<'_>) -> String {
    host.run(
        "for f in /etc/shadow /root/closed /srv/ledger; do stat -c '%n %a %U %G' $f; done; sha256sum /etc/shadow /srv/ledger; ls -A /root/closed;
         cat /srv/bob/wins 2> /dev/null || true",
    )
    .ok()
}

/// Runs `kpull apply` while bob attacks, until he got between the steps of some of them, which the shell command `met` reports.
/// Returns what the runs reported. Each has to end on its own, with one of these exit codes, and to correct /etc/other.
fn race(host: Host<'_>, how: &str, met: &str, codes: &str) -> String {
    let known = roots(host);
    host.run(&format!("systemd-run --quiet --unit=attack --uid=bob perl /srv/attack {how}")).ok();
    let runs = format!(
        "until systemctl -q is-active attack && [ -e /srv/bob/x -o -L /srv/bob/link ]; do sleep 0.1; done
        hits=0
        for run in {{1..{RUNS}}}; do
            echo drifted > /etc/other
            timeout 60 kpull apply --json > /srv/run 2>&1; code=$?
            case \" {codes} \" in *\" $code \"*) ;; *) echo \"run $run ended with $code\"; cat /srv/run; exit 1 ;; esac
            [ \"$(cat /etc/other)\" = y ] || {{ echo \"run $run has not corrected /etc/other\"; cat /srv/run; exit 1; }}
            cat /srv/run >> /srv/runs
            if {met}; then hits=$((hits + 1)); fi
            [ $hits -lt {HITS} ] || exit 0
        done
        echo \"$hits of what was swapped came between two steps of a run: that was no race\"; exit 1"
    );
    host.run(&runs).ok();
    assert_eq!(host.run("systemctl is-active attack").stdout, "active\n", "bob was there all the time");
    host.run("systemctl stop attack").ok();
    assert_eq!(roots(host), known, "{how}");
    host.run("cat /srv/runs").ok()
}

#[test]
fn no_name_that_another_user_swaps_during_a_write_opens_a_file_of_root() {
    let lab = world(ROLE, OUTPUTS);
    let host = lab.host("h1");
    let written = "stat -c '%F %a %U' /srv/bob/out/kpull.prom /srv/bob/out/h1.status | uniq";
    // what bob has put there was renamed to the place of an output, or kept it from being made
    let met =
        format!("grep -q '\"event\":\"not_reported\"' /srv/run || [ \"$({written})\" != 'regular file 644 root' ]");
    race(host, "names", &met, "0");
    // once bob rests, both outputs are written again
    host.run("kpull apply").ok();
    assert_eq!(host.run(written).ok(), "regular file 644 root");
}

#[test]
fn no_directory_that_another_user_swaps_for_a_link_receives_outputs() {
    let lab = world(ROLE, OUTPUTS);
    let host = lab.host("h1");
    let runs = race(host, "directory", "grep -q '\"event\":\"not_reported\"' /srv/run", "0");
    let bob = host.run("id -u bob").ok();
    assert!(runs.contains(&format!("goes through a link that belongs to user {bob}")), "{runs}");
}

#[test]
fn a_user_who_swaps_a_managed_path_opens_nothing_of_root_and_stops_no_correction() {
    let lab = world(ROLE, "");
    let host = lab.host("h1");
    race(host, "managed", "[ $code = 1 ]", "0 1");
    host.run("rm -rf /srv/bob/conf /srv/bob/link && kpull apply").ok();
    assert_eq!(host.run("cat /srv/bob/conf/app.conf").ok(), "x");
}
