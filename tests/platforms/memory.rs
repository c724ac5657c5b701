//! kpull.service on a kernel that limits the memory of its control group (version 2): what takes more is killed, and nothing else.

use std::fs;

use crate::platforms::steps::{boot, with_program};

#[test]
fn a_program_that_is_killed_for_its_memory_fails_alone_and_the_run_continues() {
    let dir = with_program();
    fs::write(dir.path().join("role.toml"), ROLE).unwrap();
    // nothing that is not needed here has to start
    let results = boot(dir.path(), STEPS, "selinux=0 systemd.mask=firewalld.service systemd.mask=auditd.service");
    results.step("enrolled", 0);
    results.step("first", 0);

    // a program of the release
    let message = results.step("hungry", 1);
    assert!(message.contains("`eats` failed: signal: 9 (SIGKILL), without any output"), "{message}");
    assert!(message.contains("journalctl -k"), "{message}");
    assert!(message.contains("A process of this unit has been killed by the OOM killer."), "{message}");
    assert_eq!(results.read("hungry-result"), "exit-code\n1\n", "kpull has ended by itself");
    assert_eq!(results.read("hungry-other"), "y\n", "everything else was corrected");
    results.step("fed", 0);

    // the process without rights, which holds a whole file of the release
    let message = results.step("large", 1);
    assert!(message.contains("the process that fetches from it failed: signal: 9 (SIGKILL)"), "{message}");
    assert!(message.contains("MemoryMax= of kpull.service limits the memory of the whole run"), "{message}");
    assert_eq!(results.read("large-result"), "exit-code\n1\n", "kpull has ended by itself");
    assert_eq!(results.read("large-other"), "y\n", "the release that is kept is still applied");
    results.step("room", 0);
    assert!(results.step("room-status", 0).contains("release     2"), "{}", results.read("room-status"));
}

const ROLE: &str = r#"
summary = "For a test"
[[file]]
path = "/etc/other"
content = "y\n"
[[command]]
name = "eats"
run = ["tail", "/dev/zero"]
unless = ["test", "!", "-e", "/srv/hungry"]
"#;

const STEPS: &str = r#"
start() {
    local code=0
    systemctl start kpull.service || code=$?
    journalctl --sync
    journalctl --no-pager -q -o cat "_SYSTEMD_INVOCATION_ID=$(systemctl show -p InvocationID --value kpull.service)" \
        + "INVOCATION_ID=$(systemctl show -p InvocationID --value kpull.service)"
    systemctl show -p Result --value kpull.service > /mnt/result
    systemctl show -p ExecMainStatus --value kpull.service >> /mnt/result
    systemctl reset-failed kpull.service || true
    return $code
}
# A run that finds /etc/other changed.
drifted() { # NAME
    echo drifted > /etc/other
    step "$1" start
    mv /mnt/result "/mnt/$1-result"
    cat /etc/other > "/mnt/$1-other"
}
settings() { # LINE...
    mkdir -p /etc/systemd/system/kpull.service.d
    { echo '[Service]'; printf '%s\n' "$@"; } > /etc/systemd/system/kpull.service.d/test.conf
    systemctl daemon-reload
}
enrolled() {
    cp /mnt/kpull /usr/bin/ && cp /mnt/kpull.service /usr/lib/systemd/system/ || return 1
    settings MemoryMax=64M MemorySwapMax=0
    mkdir -p /srv/site/roles/app/files /srv/site/host_vars
    echo 'name = "lab"' > /srv/site/site.toml
    printf 'address = "10.0.2.15"\nroles = ["app"]\n' > /srv/site/host_vars/h1.toml
    cp /mnt/role.toml /srv/site/roles/app/
    systemd-run -q --unit=web python3 -m http.server 8000 --bind 127.0.0.1 -d /srv/site
    until python3 -c 'import socket; socket.create_connection(("127.0.0.1", 8000))' 2> /dev/null; do sleep 1; done
    ssh-keygen -q -t ed25519 -N '' -f /root/key && kpull sign --site /srv/site --key /root/key &&
        kpull enroll http://127.0.0.1:8000/ --site lab --host h1 --fingerprint "$(ssh-keygen -lf /root/key.pub | cut -d' ' -f2)"
}

step enrolled enrolled
step first start

touch /srv/hungry
drifted hungry
rm /srv/hungry
step fed start

head -c 80M /dev/zero > /srv/site/roles/app/files/large
step signed kpull sign --site /srv/site --key /root/key
drifted large
settings MemoryMax=1G
step room start
step room-status kpull status
"#;
