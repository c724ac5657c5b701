//! Commands with a user of their own, of a run that starts at a terminal.

use crate::support::lab::{H1, Lab};

const ROLE: &str = r#"
summary = "For a test"

[[user]]
name = "bob"

[[directory]]
path = "/srv/bob"
owner = "bob"

[[command]]
name = "by bob"
run = ["sh", "-c", "perl /srv/attack > /srv/bob/part 2>&1; mv /srv/bob/part /srv/bob/found"]
creates = "/srv/bob/found"
user = "bob"

[[command]]
name = "by root"
run = ["sh", "-c", "grep NoNewPrivs: /proc/self/status > /srv/root"]
creates = "/srv/root"
"#;

/// What root's shell does, which has files open.
const LOGIN: &str = r#"
exec 7</etc/shadow 300</etc/shadow
HUSH=hunter2 kpull apply || exit
read -r -t 2 line
eval "$line"
"#;

/// Looks for processes of its user that have a terminal, which another one of that user could take over.
const WATCHER: &str = r#"
for (;;) {
    for my $path (glob '/proc/[0-9]*') {
        next unless (stat $path)[4] == $>;
        open my $file, '<', "$path/stat" or next;
        my ($rest) = <$file> =~ /\)(.*)/ or next;
        if ((split ' ', $rest)[4]) { open my $out, '>>', '/srv/bob/watched'; print $out "$path $rest\n"; }
    }
}
"#;

/// What a user does to become root: types into root's terminal, writes to it, reads files that root's shell has open, debugs
/// root's process, starts a setuid program, looks for root's groups, variables and secrets.
const ATTACK: &str = r#"
$| = 1;
my $line = "touch /srv/pwned\n";
for my $path ('/dev/tty', glob('/dev/pts/*'), '/proc/self/fd/0', '/proc/self/fd/1', '/proc/self/fd/2', '/dev/console') {
    if (open my $tty, '+<', $path) {
        for my $key (split //, $line) { print "typed into $path\n" if ioctl($tty, 0x5412, $key); }
    }
}
open my $tty, '+<', '/dev/tty' or print "tty: $!\n";
for my $fd (3 .. 400) {
    next unless open my $f, '<&=', $fd;
    my $n = sysread $f, my $text, 100;
    print "read from $fd: $text\n" if $n;
}
print "setuid: ", `/srv/become -u`;
print "sudo: $?\n" if system("sudo -n true 2>/dev/null") == 0;
print "id: ", join(' ', $<, $>, $(, $)), "\n";
print "env: ", join(' ', map { "$_=$ENV{$_}" } grep { !/^(PWD|SHLVL|_|OLDPWD)$/ } sort keys %ENV), "\n";
open my $s, '<', '/proc/self/status'; print grep { /^(NoNewPrivs|Groups|CapEff):/ } <$s>;
print "parent's memory\n" if open my $m, '<', '/proc/' . getppid() . '/mem' and sysread $m, my $b, 1;
"#;

#[test]
fn a_command_of_a_user_gets_no_terminal_files_or_rights_of_root() {
    for (name, shell) in [
        // as a logged-in user who continues to type, and from a timer
        ("at a terminal", "script -qec 'bash /srv/login' /dev/null"),
        ("without one", "setsid bash /srv/login"),
    ] {
        let lab = Lab::new(&[H1]);
        let host = lab.host("h1");
        crate::lab::sign_on(host, ROLE, "");
        host.write("/srv/attack", ATTACK);
        host.write("/srv/login", LOGIN);
        host.run(
            "cp /usr/bin/id /srv/become && chmod 4755 /srv/become && groupadd -f secrets && usermod -aG secrets root",
        )
        .ok();
        host.write("/srv/watcher", WATCHER);
        host.run("useradd bob && install -d -o bob /srv/bob").ok();
        host.run("systemd-run --unit=watcher --uid=bob perl /srv/watcher").ok();
        host.run(&format!("{shell} < /dev/null")).ok();
        assert_eq!(host.run("systemctl is-active watcher && cat /srv/bob/watched").stdout, "active\n", "{name}");
        let found = host.run("cat /srv/bob/found").ok();
        let id = host.run("id -u bob").ok();
        let group = host.run("id -g bob").ok();
        let path = kpull::host::process::PATH;
        let wanted = format!(
            "tty: No such device or address\nsetuid: {id}\nid: {id} {id} {group} {group}\n\
             env: HOME=/home/bob LANG=C.UTF-8 PATH={path} USER=bob\nGroups:\t \nCapEff:\t0000000000000000\nNoNewPrivs:\t1"
        );
        let squeezed = |text: &str| text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
        assert_eq!(squeezed(&found), squeezed(&wanted), "{name}");
        assert_eq!(host.run("cat /srv/root").ok(), "NoNewPrivs:\t0", "{name}: packages and SELinux need it");
        assert!(!host.run("test -e /srv/pwned").status.success(), "{name}: it typed a command");
        host.run("kpull plan").ok();
    }
}
