//! Users, groups and owners on a real host: made by its own programs, and looked up in all of NSS.

use crate::lab::software::offer_script;
use crate::support::lab::{H1, Host, Lab};

/// What the script of a package does: it makes a user and a group.
const SCRIPT: &str = r"groupadd --system labsock
useradd --system --no-create-home --user-group Lab-daemon";

/// Users that only a module of NSS has, like those of a directory service; and other cases of real hosts.
const NSS: &str = r#"
apt-get -q install -y libnss-extrausers
sed -i 's/^\(passwd\|group\|shadow\):.*/\1: files extrausers/' /etc/nsswitch.conf
mkdir -p /var/lib/extrausers
printf 'far.ann:x:20000:20000:Ann:/home/far.ann:/bin/bash\n' > /var/lib/extrausers/passwd
printf 'far-staff:x:20000:far.ann\n' > /var/lib/extrausers/group
printf 'far.ann:*:19000:0:99999:7:::\n' > /var/lib/extrausers/shadow
useradd --system --no-create-home Debian-exim
useradd --no-create-home first.last
useradd --system --no-create-home 'MACHINE$'
printf 'juergen:x:1500:1500:J\xfcrgen M\xfcller:/home/j\xfc:/bin/bash\n' >> /etc/passwd
printf 'juergen:x:1500:\nthree:x:1501\n' >> /etc/group
printf 'LABEL=gr\xfcn /gr\xfcn ext4 noauto 0 0\n/dev/gr\xfcn none swap sw 0 0\n' > /etc/fstab
echo 'set -o vi' > /etc/skel/.labrc
"#;

/// Writes down what NSS is asked by `getent`.
const GETENT: &str = "#!/bin/sh\necho \"$@\" >> /run/asked\nexec /usr/bin/getent \"$@\"\n";

const ROLE: &str = r#"
summary = "For a test"
[vars]
owned = [
    ["root", "root"], ["Debian-exim", "Debian-exim"], ["first.last", "first.last"], ["MACHINE$", "three"],
    ["juergen", "juergen"], ["far.ann", "far-staff"], ["Lab-daemon", "labsock"], ["ann", "ann"],
]
[[group]]
name = "web"
[[group]]
name = "far-staff"
[[user]]
name = "ann"
uid = 1600
comment = "Ann Ä"
groups = ["web", "labsock", "three"]
[[user]]
name = "app"
system = true
[[user]]
name = "ci"
group = "labsock"
home = "/srv/deep/er/ci"
[[user]]
name = "far.ann"
groups = ["web"]
[[package]]
name = "lab-daemon"
[[swap]]
enabled = false
[[file]]
for_each = "owned"
path = "/srv/owned/{{ item[0] }}:{{ item[1] }}"
content = "x"
owner = "{{ item[0] }}"
group = "{{ item[1] }}"
"#;

fn prepare(lab: &Lab) -> Host<'_> {
    let host = lab.host("h1");
    offer_script(host, "lab-daemon", SCRIPT);
    host.run(NSS).ok();
    host.write("/usr/local/sbin/getent", GETENT);
    host.run("chmod 755 /usr/local/sbin/getent").ok();
    host
}

/// A release with this role.
fn release(host: Host<'_>, role: &str) {
    host.write("/srv/site/roles/app/role.toml", role);
    host.run("kpull sign --site /srv/site --key /root/key").ok();
}

/// What NSS was asked since this was asked last, sorted, each question once.
fn asked(host: Host<'_>) -> String {
    host.run("sort -u /run/asked; rm -f /run/asked").stdout.replace('\n', ", ")
}

#[test]
fn the_host_s_programs_create_accounts_and_owners_are_those_of_nss() {
    let lab = Lab::new(&[H1]);
    let host = prepare(&lab);
    let subuids = host.run("wc -l < /etc/subuid").ok();
    crate::lab::sign_on(host, ROLE, "");
    let plan = host.run("kpull plan");
    assert_eq!(plan.code(), 2, "{plan}");
    for line in ["user:ann", "members:ann", "user:ci", "members:far.ann", "package:lab-daemon"] {
        assert!(plan.stdout.contains(line), "{line}: {plan}");
    }
    assert!(!plan.stdout.contains("user:far.ann") && !plan.stdout.contains("group:far-staff"), "{plan}");
    asked(host);
    host.run("kpull apply").ok();

    // as useradd makes them
    assert_eq!(host.run("/usr/bin/getent passwd ann").ok(), "ann:x:1600:1600:Ann Ä:/home/ann:/bin/bash");
    assert_eq!(host.run("stat -c '%a %U:%G' /home/ann /home/ann/.labrc").ok(), "700 ann:ann\n644 ann:ann");
    assert_eq!(host.run("grep -c '^ann:[0-9]*:65536$' /etc/subuid /etc/subgid").ok(), "/etc/subuid:1\n/etc/subgid:1");
    assert_eq!(host.run("grep -c '^app:' /etc/subuid").stdout, "0\n");
    assert_eq!(host.run("passwd --status ann | cut -d' ' -f2; passwd --status app | cut -d' ' -f2").ok(), "L\nL");
    assert_eq!(host.run("id -nG ann | xargs -n1 | sort | xargs").ok(), "ann labsock three web");
    assert_eq!(
        host.run("id -ng ci; stat -c '%a %U:%G' /srv/deep /srv/deep/er/ci").ok(),
        "labsock\n755 root:root\n700 ci:labsock"
    );
    let app = host.run("/usr/bin/getent passwd app | cut -d: -f6,7; id -u app").ok();
    let (line, uid) = app.split_once('\n').unwrap();
    assert_eq!(line, "/nonexistent:/usr/sbin/nologin");
    assert!((100..1000).contains(&uid.parse::<u32>().unwrap()), "{uid}");
    assert_ne!(host.run("wc -l < /etc/subuid").ok(), subuids);

    // an existing user is not created, and can still be in a group of this host
    assert_eq!(host.run("grep -c far /etc/passwd; grep -c ^far /etc/group; ls -d /home/far*").stdout, "0\n0\n");
    assert_eq!(host.run("grep ^web: /etc/group | cut -d: -f4").ok(), "ann,far.ann");
    let owners =
        host.run("cd /srv/owned && for f in *; do [ \"$f\" = \"$(stat -c %U:%G \"$f\")\" ] || stat \"$f\"; done");
    assert_eq!(owners.ok(), "");
    assert_eq!(host.run("ls /srv/owned | wc -l").ok(), "8");

    // earlier content stays byte for byte
    host.run("grep -qaxF $'juergen:x:1500:1500:J\\xfcrgen M\\xfcller:/home/j\\xfc:/bin/bash' /etc/passwd").ok();
    host.run("grep -qax $'LABEL=gr\\xfcn /gr\\xfcn ext4 noauto 0 0' /etc/fstab").ok();
    host.run("grep -qax $'# kpull.*: /dev/gr\\xfcn none swap sw 0 0' /etc/fstab").ok();

    // files answer if they can, and a run with nothing to do starts no program
    let questions = asked(host);
    assert!(questions.contains("group far-staff, ") && questions.contains("passwd far.ann, "), "{questions}");
    for local in ["root", "Debian-exim", "first.last", "MACHINE", "juergen", "three"] {
        assert!(!questions.contains(local), "{local}: {questions}");
    }
    host.run("until kpull apply --json | grep -q '\"up_to_date\":true'; do sleep .3; done").ok();
    asked(host);
    let quiet = host.run("kpull apply --json").ok();
    assert!(quiet.contains("\"up_to_date\":true") && quiet.contains("\"changed\":[]"), "{quiet}");
    assert_eq!(asked(host), "");

    // a later release changes them
    let changed = ROLE.replace("comment = \"Ann Ä\"", "comment = \"Ann B\"\nshell = \"/bin/sh\"\nhome = \"/srv/ann\"");
    host.run("sed -i '/^ann:/d' /etc/shadow").ok();
    release(host, &changed);
    host.run("kpull apply").ok();
    assert_eq!(asked(host), "group far-staff, passwd far.ann, ");
    assert_eq!(host.run("/usr/bin/getent passwd ann").ok(), "ann:x:1600:1600:Ann B:/srv/ann:/bin/sh");
    assert_eq!(host.run("stat -c '%a %U:%G' /srv/ann /srv/ann/.labrc").ok(), "700 ann:ann\n644 ann:ann");
    assert_eq!(host.run("passwd --status ann | cut -d' ' -f2").ok(), "L");
    assert_eq!(host.run("kpull plan").code(), 0);
}

#[test]
fn an_account_that_can_t_be_created_is_reported_with_what_to_do() {
    let lab = Lab::new(&[H1]);
    let host = prepare(&lab);
    crate::lab::sign_on(host, "summary = \"For a test\"\n", "");
    for (role, message) in [
        ("[[file]]\npath = \"/srv/x\"\ncontent = \"x\"\nowner = \"ghost\"\n", "/srv/x can't belong to user ghost"),
        ("[[directory]]\npath = \"/srv/x\"\ngroup = \"ghost\"\n", "/srv/x can't belong to group ghost"),
        ("[[user]]\nname = \"x\"\ngroups = [\"ghost\"]\n", "x can't be in the group ghost: there is no such group"),
        ("[[user]]\nname = \"far.ann\"\nshell = \"/bin/sh\"\n", "the user far.ann can't be changed here"),
        ("[[user]]\nname = \"first.last\"\ngroups = [\"far-staff\"]\n", "can't be added to the group far-staff here"),
        ("[[user]]\nname = \"x\"\nuid = 20000\n", "the user x can't have the number 20000: far.ann has it"),
        ("[[group]]\nname = \"far-staff\"\ngid = 7\n", "the group far-staff has the number 20000, but the role sets 7"),
        ("[[user]]\nname = \"ann@corp.example\"\n", "there is no user ann@corp.example, and none can be created"),
    ] {
        release(host, &format!("summary = \"For a test\"\n{role}"));
        let before = host.run("cat /etc/passwd /etc/group | sha256sum").ok();
        let why = host.run("kpull plan").fails(1);
        let words = why.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
        assert!(words.contains(message) && words.contains("help:"), "{message}: {why}");
        host.run("kpull apply").fails(1);
        assert_eq!(host.run("cat /etc/passwd /etc/group | sha256sum").ok(), before, "{role}");
    }

    // another process has locked the files: the host's own message, and the next run makes the change
    release(host, "summary = \"For a test\"\n[[user]]\nname = \"late\"\n");
    host.run("echo 1 > /etc/passwd.lock").ok();
    let why = host.run("kpull apply").fails(1);
    assert!(why.contains("can't create the user late") && why.contains("/etc/passwd"), "{why}");
    host.run("rm /etc/passwd.lock && kpull apply && id late").ok();

    // what useradd refuses is in its own words
    release(host, "summary = \"For a test\"\n[[user]]\nname = \"busy\"\n");
    host.run("kpull apply && systemd-run --uid=busy sleep infinity").ok();
    host.run("until pgrep -u busy sleep; do sleep .1; done").ok();
    release(host, "summary = \"For a test\"\n[[user]]\nname = \"busy\"\nhome = \"/srv/busy\"\n");
    let why = host.run("kpull apply").stderr;
    assert!(why.contains("can't change the user busy") && why.contains("used by process"), "{why}");
}

/// Two administrators from a list, with all that one can have.
fn admins(list: &str, more: &str) -> String {
    format!(
        r#"
summary = "For a test"
[vars]
admins = {{ {list} }}
[[group]]
name = "ops"
[[user]]
for_each = "admins"
name = "{{{{ item.key }}}}"
groups = ["ops"]
exclusive_groups = true
password_hash = "{{{{ secret('db') }}}}"
authorized_keys = ["{{{{ item.value }}}}"]
exclusive_keys = true
sudo = "ALL=(ALL) NOPASSWD: /usr/bin/id"
linger = true
expires = 2037-01-31
on_removal = "remove"
{more}
"#
    )
}

#[test]
fn an_offboarded_admin_can_do_nothing_on_the_host_any_more() {
    const HASH: &str = "$6$saltsalt$of-the-admins.of-the-lab";
    let lab = Lab::new(&[H1]);
    let host = lab.host("h1");
    crate::lab::secrets::prepare(host, &admins("", ""));
    let release = |role: &str| {
        host.write("/srv/site/roles/app/role.toml", role);
        crate::lab::secrets::release(host, HASH);
    };
    let both = "ann = \"ssh-ed25519 AAAAann ann@laptop\", bob = \"ssh-ed25519 AAAAbob bob@laptop\"";
    let bob = "bob = \"ssh-ed25519 AAAAbob bob@laptop\"";
    // no program gets the hash as an argument, and all of them are recorded
    host.write(
        "/usr/local/sbin/chpasswd",
        "#!/bin/sh\necho \"$@\" >> /run/arguments\nexec /usr/sbin/chpasswd \"$@\"\n",
    );
    host.run("chmod 755 /usr/local/sbin/chpasswd").ok();

    release(&admins(both, "end_processes = true"));
    let applied = host.run("kpull apply --diff").ok();
    assert!(!applied.contains("of-the-admins"), "{applied}");
    assert_eq!(host.run("cat /run/arguments").ok(), "--encrypted\n--encrypted");
    host.run("! grep -r of-the-admins /var/lib/kpull").ok();
    assert_eq!(host.run("getent shadow ann | cut -d: -f2,8").ok(), format!("{HASH}:24502"));
    assert_eq!(host.run("id -nG ann").ok(), "ann ops");
    assert_eq!(
        host.run("stat -c '%a %U:%G' /home/ann/.ssh /home/ann/.ssh/authorized_keys").ok(),
        "700 ann:ann\n600 ann:ann"
    );
    assert_eq!(host.run("grep ^ssh- /home/ann/.ssh/authorized_keys").ok(), "ssh-ed25519 AAAAann ann@laptop");
    assert_eq!(host.run("runuser -u ann -- sudo -n id -u").ok(), "0");
    host.run("visudo -cf /etc/sudoers.d/50-ann && loginctl show-user ann -p Linger | grep -q yes").ok();
    host.run("until kpull apply --json | grep -q '\"up_to_date\":true'; do sleep .3; done").ok();

    // all of this is corrected
    host.run(
        "gpasswd --add ann sudo; usermod --lock --expiredate '' ann; echo more >> /home/ann/.ssh/authorized_keys
        chmod 777 /home/ann/.ssh; rm /etc/sudoers.d/50-ann; loginctl disable-linger ann",
    )
    .ok();
    host.run("kpull apply").ok();
    assert_eq!(host.run("kpull plan").code(), 0);
    assert_eq!(host.run("id -nG ann; getent shadow ann | cut -d: -f8").ok(), "ann ops\n24502");
    assert_eq!(host.run("stat -c %a /home/ann/.ssh; grep -c more /home/ann/.ssh/authorized_keys").stdout, "700\n0\n");

    // ann works, by a session and by a service, when she is taken off the list; first without `end_processes`
    host.run("usermod --unlock ann; echo hers > /home/ann/work; systemd-run --uid=ann --unit=anns sleep infinity").ok();
    host.run("until pgrep -u ann sleep; do sleep .1; done").ok();
    release(&admins(both, ""));
    host.run("kpull apply").ok();
    release(&admins(bob, ""));
    let why = host.run("kpull apply");
    let words = format!("{why}").split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
    assert!(words.contains("the user ann can't be removed: it has running processes"), "{words}");
    assert!(words.contains("loginctl terminate-user ann"), "{words}");
    host.run("id ann").ok();
    assert_eq!(host.run("ls -A /home/ann/.ssh/authorized_keys /etc/sudoers.d/50-ann").stdout, "");
    host.run("loginctl terminate-user ann; systemctl stop anns; until ! pgrep -u ann; do sleep .1; done").ok();
    host.run("kpull apply").ok();
    assert_eq!(host.run("kpull plan").code(), 0);
    let nothing = "id ann || grep -rlw ann /etc/passwd /etc/group /etc/shadow /etc/gshadow /etc/subuid /etc/sudoers.d";
    assert_eq!(host.run(nothing).stdout, "");
    assert_eq!(host.run("ls /var/lib/systemd/linger; cat /home/ann/work; ls -A /home/ann/.ssh").stdout, "bob\nhers\n");
    assert_eq!(host.run("id -nG bob; runuser -u bob -- sudo -n id -u").ok(), "bob ops\n0");

    // and bob by name, with all that runs and with the home
    host.run("systemd-run --uid=bob --unit=bobs sh -c 'trap \"\" TERM; while :; do sleep 1; done'").ok();
    host.run("until pgrep -u bob; do sleep .1; done").ok();
    release(
        "summary = \"For a test\"\n[[user]]\nname = \"bob\"\nstate = \"absent\"\nremove_home = true\nend_processes = true\n\
         [[group]]\nname = \"ops\"\nstate = \"absent\"\n",
    );
    host.run("kpull apply").ok();
    assert_eq!(host.run("kpull plan").code(), 0);
    assert_eq!(host.run("id bob; getent group ops; ls -d /home/bob; pgrep -u 1001").stdout, "");
}

#[test]
fn a_user_has_its_former_password_again_and_a_plan_hides_only_the_hash() {
    const FORMER: &str = "$6$former$of-carol";
    const HASH: &str = "$6$saltsalt$new-of-carol";
    let lab = Lab::new(&[H1]);
    let host = lab.host("h1");
    host.run(&format!("useradd -m -s /bin/sh carol && echo 'carol:{FORMER}' | chpasswd -e")).ok();
    let role = |more: &str| {
        format!(
            "summary = \"For a test\"\n[[user]]\nname = \"carol\"\nshell = \"/bin/bash\"\ngroups = [\"audio\"]\nlinger = true\n{more}\n"
        )
    };
    let hash = "password_hash = \"{{ secret('db') }}\"";
    crate::lab::secrets::prepare(host, &role(hash));
    crate::lab::secrets::release(host, HASH);
    let plan = host.run("kpull plan").stdout;
    for words in ["shell /bin/sh → /bin/bash", "set the password", "add to the group audio", "linger:carol  enable"] {
        assert!(plan.contains(words), "no {words} in {plan}");
    }
    assert!(!plan.contains("of-carol"), "{plan}");
    let password = || host.run("getent shadow carol | cut -d: -f2").ok();
    let apply = |words: &str| {
        let run = host.run("kpull apply --diff --json").ok();
        assert!(run.contains(words) && !run.contains("of-carol"), "{run}");
        assert_eq!(host.run("kpull plan").code(), 0);
    };
    apply("set the password");
    assert_eq!(password(), HASH);
    host.run("! grep -rq new-of-carol /var/lib/kpull && ! grep -rl of-carol /var/lib/kpull | grep -v /saved/").ok();
    assert_eq!(host.run("stat -c '%a %U' $(grep -rl of-carol /var/lib/kpull)").ok(), "600 root");

    host.write("/srv/site/roles/app/role.toml", role(""));
    crate::lab::secrets::release(host, HASH);
    apply("restore the password");
    assert_eq!(password(), FORMER);
    host.run("kpull gc && ! grep -r of-carol /var/lib/kpull").ok();
}
