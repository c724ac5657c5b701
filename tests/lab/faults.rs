//! Faults on a real host: a power failure, or a service that kpull uses ends, hangs, is locked or runs out of something. Each
//! time kpull reports the fault and what to do, and the next run needs no manual step.

use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime};

use crate::support::alone::World;
use crate::support::lab::{H1, Host, Lab};

/// A unit that runs, in a role.
fn unit(name: &str, more: &str) -> String {
    format!(
        "[[unit]]\nname = {name:?}\ncontent = \"[Service]\\nExecStart=/bin/sleep infinity\\n\"\nstate = \"running\"\n{more}\n"
    )
}

/// Something that is done once, in the middle of a run.
fn once(name: &str, script: &str, more: &str) -> String {
    let mark = format!("/srv/{name}");
    format!(
        "[[command]]\nname = {name:?}\nrun = [\"sh\", \"-c\", {:?}]\ncreates = {mark:?}\n{more}\n",
        format!("{script}; touch {mark}")
    )
}

fn life(host: Host<'_>, unit: &str) -> String {
    host.run(&format!("systemctl show -p InvocationID --value {unit}")).ok()
}

fn state(host: Host<'_>, units: &str) -> String {
    host.run(&format!("systemctl is-active {units}")).stdout.trim_end().replace('\n', " ")
}

mod power {
    use super::*;

    const FILES: usize = 40;
    const LINES: usize = 2000;

    /// How long the run starts after the clock does: killing a host takes a moment too, and the first moments of a run count.
    const HEAD_START: Duration = Duration::from_millis(300);

    /// About as long as all files take.
    const WRITING: Duration = Duration::from_millis(250);

    /// How many releases there are until one brings the same changes again.
    const ROUND: usize = 4;

    /// Whether a release has the package: one run in two installs or removes it, and takes most of its time for that.
    fn has_package(number: usize) -> bool {
        number % ROUND >= 2
    }

    /// What is the same in every release is not here: each says its number in all of it, and has what its neighbours don't.
    fn role(number: usize) -> String {
        let is_even = number.is_multiple_of(2);
        let mut role = format!(
            r#"
{package}
[[user]]
name = "app"
system = true
shell = "{shell}"

[[file]]
for_each = "range({FILES})"
path = "/etc/app/{{{{ item }}}}"
content = "{content}"

[[sysctl]]
name = "net.ipv4.ip_nonlocal_bind"
value = {value}

[[firewall]]
zone = "public"
ports = ["{port}/tcp"]
allow = [{{ port = "{guarded}/tcp", from = ["192.168.1.0/24"] }}]

[[probe]]
name = "app"
command = ["grep", "-q", "{number:04}", "/run/app"]
within = "10s"
"#,
            package = if has_package(number) { "[[package]]\nname = \"hello\"\n" } else { "" },
            shell = if is_even { "/bin/sh" } else { "/bin/bash" },
            content = format!("{number:04}\\n").repeat(LINES),
            value = u8::from(is_even),
            port = 10_000 + number,
            guarded = 20_000 + number,
        );
        let _ = write!(
            role,
            "[[unit]]\nname = \"app.service\"\ncontent = '''\n{}'''\nenable = true\nrestart_when = [\"file:/etc/app/0\"]\n",
            unit(number)
        );
        role
    }

    fn unit(number: usize) -> String {
        format!(
            "[Service]\nEnvironment=RELEASE={number:04}\nExecStart=/bin/sh -c 'uniq /etc/app/0 > /run/app; exec sleep infinity'\n\
             [Install]\nWantedBy=multi-user.target\n"
        )
    }

    /// The managed files of a host without power that are neither old nor new, and how many are new.
    fn look(world: &World, number: usize) -> (Vec<String>, usize) {
        let root = "$LAB/hosts/h1/root";
        let (mut corrupt, mut fresh) = (Vec::new(), 0);
        let whole = |number: usize| format!("{LINES} {number:04}");
        let files = world.0.fabric(&format!("cd {root}/etc/app && for f in *; do echo $f $(uniq -c $f); done")).ok();
        for line in files.lines().filter(|line| !line.starts_with('.')) {
            let (name, content) = line.split_once(' ').unwrap_or((line, ""));
            if content == whole(number) {
                fresh += 1;
            } else if content != whole(number - 1) {
                corrupt.push(format!("/etc/app/{name}: {content}"));
            }
        }
        let text = world.0.fabric(&format!("cat {root}/etc/systemd/system/app.service")).ok();
        if ![unit(number), unit(number - 1)].contains(&format!("{text}\n")) {
            corrupt.push(format!("app.service: {text}"));
        }
        (corrupt, fresh)
    }

    /// What the host is, of all that a release says.
    fn found(host: Host<'_>) -> String {
        host.run(
            "for f in /etc/app/*; do uniq -c $f; done | sort | uniq -c | xargs
            find / -xdev -name '*.kpull-new' | grep -v ^/proc
            cat /etc/systemd/system/app.service
            echo $(systemctl is-active app) $(systemctl is-enabled app)
            tr '\\0' '\\n' < /proc/$(systemctl show -p MainPID --value app)/environ | grep RELEASE
            cat /run/app
            echo $(sysctl -n net.ipv4.ip_nonlocal_bind) $(grep ^app: /etc/passwd | cut -d: -f7) $(dpkg-query -Wf '${Package} ${Status}\\n' hello 2>/dev/null | grep ' ok installed' | cut -d' ' -f1)
            for how in '' --permanent; do echo $(firewall-cmd $how --list-ports) $(firewall-cmd $how --list-rich-rules); done
            nft list ruleset | grep -oE 'dport [12][0-9]{4}' | sort -u | xargs
            dpkg --audit",
        )
        .stdout
        .trim_end()
        .to_owned()
    }

    fn expected(number: usize) -> String {
        let is_even = number.is_multiple_of(2);
        let (port, guarded) = (10_000 + number, 20_000 + number);
        let firewall = format!(
            "{port}/tcp rule family=\"ipv4\" source address=\"192.168.1.0/24\" port port=\"{guarded}\" protocol=\"tcp\" accept\n"
        );
        format!(
            "{FILES} {LINES} {number:04}\n{}active enabled\nRELEASE={number:04}\n{number:04}\n{} {}{}\n{firewall}{firewall}\
             dport {port} dport {guarded}",
            unit(number),
            u8::from(is_even),
            if is_even { "/bin/sh" } else { "/bin/bash" },
            if has_package(number) { " hello" } else { "" },
        )
    }

    /// Marsaglia's xorshift: what comes next is known from the seed alone.
    fn next(seed: &mut u64) -> u64 {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed
    }

    /// The host is killed, and its disk is as the kernel had it: data that was written but never synced is still there, which a
    /// real power failure can lose. That data is synced, in the right order, is not tested here.
    #[test]
    fn after_a_power_cut_at_any_moment_files_are_whole_and_the_next_run_finishes() {
        let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
        let cuts = number("KPULL_CUTS").unwrap_or(3);
        let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos().into();
        let mut seed = number("KPULL_SEED").unwrap_or_else(now).max(1);
        println!("KPULL_CUTS={cuts} KPULL_SEED={seed}");
        let world = World::new();
        let host = world.host();
        // as the timer does
        let run = "systemctl start kpull.service || { journalctl -u kpull -o cat -n 40 >&2; exit 1; }";
        let mut whole = [Duration::ZERO; ROUND];
        for number in 1..=ROUND + 1 {
            world.release(&role(number));
            let started = Instant::now();
            host.run(run).ok();
            whole[number % ROUND] = started.elapsed();
            assert_eq!(found(host), expected(number), "without a cut");
        }
        let (mut begun, mut ended) = (0, 0);
        for cut in 1..=cuts {
            let number = usize::try_from(cut).unwrap() + ROUND + 1;
            world.release(&role(number));
            // a run reads and compares most of its time: two in three cuts wait for what it writes first, or last
            let whole = whole[number % ROUND];
            let (from, file, longest) = match cut % 3 {
                0 => ("the last file", Some(FILES - 1), whole / 2),
                1 => ("the first file", Some(0), WRITING),
                _ => ("the start", None, HEAD_START + whole),
            };
            let moment = Duration::from_micros(next(&mut seed) % u64::try_from(longest.as_micros()).unwrap());
            let head_start = HEAD_START.as_secs_f64();
            host.run(&format!("systemd-run -q sh -c 'sleep {head_start}; systemctl start --no-block kpull.service'"))
                .ok();
            if let Some(file) = file {
                let is_new = format!("[ $(head -c4 /etc/app/{file}) = {number:04} ]");
                host.run(&format!("timeout 60 bash -c 'until {is_new}; do :; done'")).ok();
            }
            std::thread::sleep(moment);
            host.crash();
            let (corrupt, fresh) = look(&world, number);
            println!("cut {cut} {moment:.1?} after {from}, of {longest:.1?}: {fresh} of {FILES} files are new");
            assert!(corrupt.is_empty(), "cut {cut}: {corrupt:?}");
            host.boot();
            let ends = host.run("kpull apply");
            assert_eq!(ends.code(), 0, "cut {cut}: {ends}");
            assert_eq!(found(host), expected(number), "cut {cut}: {ends}");
            world.is_converged();
            begun += u32::from((1..FILES).contains(&fresh));
            ended += u32::from(fresh == FILES);
        }
        println!("{cuts} cuts: {begun} with some new files, {ended} with all new; 0 corrupt, 0 lost, 0 by hand");
    }
}

#[test]
fn a_bus_that_is_restarted_or_killed_in_the_middle_of_a_run_is_found_again() {
    let world = World::new();
    let host = world.host();
    // firewalld ends with its bus
    let firewalld = "[[unit]]\nname = \"firewalld.service\"\nstate = \"running\"\n";
    let kill = "kill -9 $(systemctl show -p MainPID --value dbus)";
    world.release(&format!(
        "{firewalld}[[firewall]]\nzone = \"public\"\nports = [\"8080/tcp\"]\n{}{}{}{}{}{}",
        unit("one.service", ""),
        once("restart", "systemctl restart dbus", "after = [\"unit:one.service\"]"),
        unit("two.service", "after = [\"command:restart\"]"),
        once("kill", kill, "after = [\"unit:two.service\"]"),
        // while its job is waited for
        "[[unit]]\nname = \"three.service\"\nstate = \"running\"\nafter = [\"command:kill\"]\ncontent = \"[Service]\\n\
         Type=oneshot\\nRemainAfterExit=yes\\nExecStart=/bin/sh -c 'systemctl restart dbus; sleep 1'\\n\"\n",
        unit("four.service", "after = [\"unit:three.service\"]"),
    ));
    host.run("kpull apply").ok();
    assert_eq!(state(host, "one two three four dbus"), "active active active active active");
    // the firewall that the bus has taken along
    world.converges();
    assert_eq!(
        host.run("firewall-cmd --list-ports && firewall-cmd --permanent --list-ports").ok(),
        "8080/tcp\n8080/tcp"
    );

    // a bus that does not come back, and then does
    host.run("systemctl stop four; systemctl mask --runtime --now dbus.socket dbus.service").ok();
    let output = host.run("kpull apply").fails(1);
    for part in ["can't reach the D-Bus system bus", "systemctl start dbus.socket"] {
        assert!(output.contains(part), "{output}");
    }
    host.run("systemctl unmask --runtime dbus.socket dbus.service; systemctl start dbus.socket dbus.service").ok();
    world.converges();
    assert_eq!(state(host, "one two three four"), "active active active active");
}

#[test]
fn a_run_ends_before_systemd_ends_it_whatever_it_waits_for_and_the_next_continues() {
    let world = World::new();
    let host = world.host();
    host.write("/etc/systemd/system/kpull.service.d/limit.conf", "[Service]\nTimeoutStartSec=20\n");
    // it accepts connections, and answers none
    host.run("systemctl daemon-reload; systemd-run -q socat TCP-LISTEN:5001,fork EXEC:'sleep 600'").ok();
    let hangs = |name: &str| {
        format!(
            "[[command]]\nname = \"{name}\"\nrun = [\"sh\", \"-c\", \"! test -e /srv/{name} || exec sleep 601\"]\n\
             only_if = [\"test\", \"-e\", \"/srv/{name}\"]\ntimeout = \"10m\"\n"
        )
    };
    let role = format!("{}{}{}", hangs("one"), hangs("two"), unit("app.service", ""));
    let ends_early = |parts: &[&str]| {
        let run = host
            .run("systemctl start kpull.service || { journalctl --sync; journalctl -t kpull -o cat -n 40; exit 1; }");
        assert_ne!(run.code(), 0, "{run}");
        assert_eq!(host.run("systemctl show -p Result -p ExecMainStatus --value kpull.service").ok(), "exit-code\n1");
        for part in parts {
            assert!(run.stdout.contains(part), "{part}: {run}");
        }
        host.run("test ! -e /var/lib/kpull/hold.json && ! pgrep -f '^sleep 601'").ok();
    };
    let early = "this run ends early: kpull.service has used 90 % of its 20s";
    world.release(&role);
    world.converges();

    // drift: the release was good here, so the run goes on after a failure
    host.run("touch /srv/one /srv/two; systemctl stop app").ok();
    ends_early(&[early, "`one` failed: it took longer than", "systemctl edit kpull.service"]);
    assert_eq!(state(host, "app"), "inactive", "nothing begins any more");
    let status = host.run("kpull status").stdout;
    assert!(status.contains(early), "{status}");
    host.run("rm /srv/one /srv/two").ok();
    world.converges();
    assert_eq!(state(host, "app"), "active");

    // a new release, which is not to blame
    host.run("touch /srv/one").ok();
    world.release(&format!("{role}[[file]]\npath = \"/srv/new\"\ncontent = \"new\"\n"));
    ends_early(&[early, "`one` failed: it took longer than"]);
    host.run("rm /srv/one && test -e /srv/new").ok();
    world.converges();
    world.release(&format!("{role}[[probe]]\nhttp = \"http://127.0.0.1:5001/\"\nwithin = \"10m\"\n"));
    ends_early(&[early, "does not pass"]);
    world.release(&role);
    world.converges();
    host.write(
        "/srv/site/artifacts.toml",
        format!(
            "[tool]\nversion = \"1\"\namd64 = {{ url = \"http://127.0.0.1:5001/tool\", sha256 = \"{}\", size = 1 }}\n",
            "0".repeat(64)
        ),
    );
    world.release(&format!("{role}[[artifact]]\nname = \"tool\"\ninstall = {{ \"tool\" = \"/opt/tool\" }}\n"));
    ends_early(&["the artifact tool can't be downloaded", "has used"]);
    world.release(&role);
    world.converges();

    // no source answers: the message names them, and what is known of the release is corrected in the other half of the time
    let hung = "http://127.0.0.1:5001/";
    let config = host.run("cat /etc/kpull/kpull.toml").stdout;
    host.write("/etc/kpull/kpull.toml", config.replace("dir = \"/srv/site\"", &format!("http = \"{hung}\"")));
    host.run("systemctl stop app").ok();
    ends_early(&[
        &format!("{hung} did not answer"),
        "this run downloads nothing more: kpull.service has used 50 % of its 20s",
        "check that its server runs",
        "the host stays converged on release",
    ]);
    assert_eq!(state(host, "app"), "active");
}

#[test]
fn a_run_waits_for_a_firewalld_that_restarts_and_reports_one_that_stops() {
    let world = World::new();
    let host = world.host();
    // not side by side: those would be one edit
    let ports = |from: usize| (from..from + 40).step_by(2).map(|port| format!("{port}/tcp")).collect::<Vec<_>>();
    let firewall = |from: usize, after: &str| {
        format!("[[firewall]]\nzone = \"public\"\nports = {:?}\nafter = [\"command:{after}\"]\n", ports(from))
    };
    let listed = |how: &str| {
        let mut listed: Vec<String> =
            host.run(&format!("firewall-cmd {how} --list-ports")).ok().split(' ').map(str::to_owned).collect();
        listed.sort();
        listed
    };
    let before = life(host, "firewalld");
    // a zone's file is written with each of its ports
    let later = "systemd-run -q --unit=later sh -c \
        'until grep -q 2010 /etc/firewalld/zones/public.xml; do sleep .01; done; systemctl restart firewalld'";
    world.release(&format!(
        "{}{}{}{}",
        once("now", "systemctl restart --no-block firewalld", ""),
        firewall(1000, "now"),
        once("later", later, ""),
        firewall(2000, "later").replace("after = [", "after = [\"command:now\", "),
    ));
    host.run("kpull apply").ok();
    host.run("timeout 60 sh -c 'while systemctl is-active -q later; do sleep .05; done'").ok();
    assert_ne!(life(host, "firewalld"), before);
    let all: Vec<String> = ports(1000).into_iter().chain(ports(2000)).collect();
    assert_eq!((listed(""), listed("--permanent")), (all.clone(), all));
    world.is_converged();

    let stop = once("stop", "systemctl stop firewalld", "");
    world.release(&format!("{stop}{}", firewall(3000, "stop")));
    let output = host.run("kpull apply").fails(3);
    for part in
        ["firewalld is not running", "roles/app/role.toml", "systemctl enable --now firewalld", "firewalld.service"]
    {
        assert!(output.contains(part), "{output}");
    }
    // as the message says
    let runs = "[[unit]]\nname = \"firewalld.service\"\nenable = true\n";
    world.release(&format!("{runs}{stop}{}", firewall(3000, "stop")));
    world.converges();
    assert_eq!((listed(""), listed("--permanent")), (ports(3000), ports(3000)));
}

#[test]
fn a_zone_that_a_power_cut_left_half_written_is_restored_and_then_changed() {
    let world = World::new();
    let host = world.host();
    let file = "/etc/firewalld/zones/public.xml";
    let firewall = |port: u32| format!("[[firewall]]\nzone = \"public\"\nports = [\"{port}/tcp\"]\n");
    world.release(&firewall(1000));
    world.converges();
    for (port, earlier) in [(1001, format!("cp {file} {file}.old")), (1002, format!("rm -f {file}.old"))] {
        host.run(&format!("{earlier}; head -c 60 {file} > /tmp/torn; cat /tmp/torn > {file}")).ok();
        host.run("systemctl restart firewalld").ok();
        assert_eq!(host.run("firewall-cmd --state 2>&1; true").ok(), "failed");
        world.release(&firewall(port));
        world.converges();
        let listed = host.run("firewall-cmd --list-ports && firewall-cmd --permanent --list-ports").ok();
        assert_eq!(listed, format!("{port}/tcp\n{port}/tcp"));
    }
}

#[test]
fn a_unit_that_never_starts_and_a_job_that_never_begins_roll_the_release_back() {
    let world = World::new();
    let host = world.host();
    let good = unit("app.service", "");
    world.release(&good);
    world.converges();
    // a job that hangs in the queue behind another one
    host.write("/etc/systemd/system/slow.service", "[Service]\nType=oneshot\nExecStart=/bin/sleep infinity\n");
    host.run("systemctl daemon-reload && systemctl start --no-block slow").ok();
    for (text, parts) in [
        (
            "[Service]\\nType=notify\\nTimeoutStartSec=2\\nExecStart=/bin/sleep infinity\\n",
            ["unit app.service failed to restart", "timeout", "raise TimeoutStartSec="],
        ),
        (
            "[Unit]\\nAfter=slow.service\\nJobTimeoutSec=2\\n[Service]\\nExecStart=/bin/sleep infinity\\n",
            ["unit app.service failed to restart", "timeout", "systemctl list-jobs"],
        ),
    ] {
        let bad = format!("[[unit]]\nname = \"app.service\"\ncontent = \"{text}\"\nstate = \"running\"\n");
        world.release(&bad);
        let output = host.run("kpull apply").fails(3);
        for part in parts {
            assert!(output.contains(part), "{part}: {output}");
        }
        assert!(output.contains("which rolled back to release"), "{output}");
        assert_eq!(state(host, "app"), "active");
        assert_eq!(host.run("cat /etc/systemd/system/app.service").ok(), "[Service]\nExecStart=/bin/sleep infinity");
        world.converges();
        world.release(&format!("{good}# once more\n"));
        world.converges();
    }
}

/// Holds a lock like dpkg's until it is killed; dpkg's is one of `fcntl`.
const HOLDER: &str = "
import fcntl, struct, time
file = open('/var/lib/dpkg/lock-frontend', 'w')
fcntl.lockf(file, fcntl.LOCK_EX)
open('/run/holds', 'w').close()
time.sleep(3600)
";

#[test]
fn a_locked_package_manager_is_waited_for_then_named_and_fails_no_release() {
    let world = World::new();
    let host = world.host();
    world.release(&unit("app.service", ""));
    world.converges();
    host.write("/srv/holder", HOLDER);
    let hold = "systemd-run -q --unit=holder /usr/bin/python3 /srv/holder; until [ -e /run/holds ]; do sleep .05; done";
    host.run(hold).ok();
    world.release(&format!("{}[[package]]\nname = \"hello\"\n", unit("app.service", "")));

    // it ends in time
    host.run("systemd-run -q sh -c 'sleep 2; systemctl stop holder'").ok();
    host.run("kpull apply").ok();
    assert_eq!(host.run("hello").ok(), "Hello, world!");
    world.is_converged();

    // it does not: the host's own limit counts
    host.write("/etc/apt/apt.conf.d/lock", "DPkg::Lock::Timeout \"2\";\n");
    host.run(&format!("rm /run/holds; {hold}")).ok();
    world.release(&format!("{}[[package]]\nname = \"hello\"\nstate = \"absent\"\n", unit("app.service", "")));
    let output = host.run("kpull apply").fails(1);
    let pid = host.run("systemctl show -p MainPID --value holder").ok();
    let holder = format!("process {pid} (python3) has the package manager's lock");
    let wanted =
        ["can't remove hello", "/var/lib/dpkg/lock-frontend", &holder, "roles/app/role.toml", "the next run continues"];
    for part in wanted {
        assert!(output.contains(part), "{part}: {output}");
    }
    assert!(!host.run("kpull status").ok().contains("stays"), "the release is not to blame");
    host.run("systemctl stop holder").ok();
    world.converges();
    host.run("hello").fails(127);
}

#[test]
fn a_run_without_enough_memory_or_processes_is_finished_by_one_with_enough() {
    // where memory and processes can be counted
    let world = World::on(Lab::for_containers(&[H1], "1"));
    let host = world.host();
    // it has looked for the memory's control groups before they could be written to
    host.run("systemctl daemon-reexec").ok();
    let limit = |setting: &str| {
        host.write("/etc/systemd/system/kpull.service.d/limit.conf", format!("[Service]\n{setting}\n"));
        host.run("systemctl daemon-reload").ok();
    };
    world.release(&unit("one.service", ""));
    world.converges();

    // killed by the kernel: it can't say a word itself
    world.release(&unit("two.service", ""));
    limit("MemoryMax=2M\nMemorySwapMax=0");
    host.run("systemctl start kpull.service").fails(1);
    let result = host.run("systemctl show -p Result --value kpull.service").ok();
    assert!(["oom-kill", "signal"].contains(&&*result), "{result}");
    let status = host.run("kpull status").ok();
    assert!(status.contains("cut short   a later run"), "{status}");
    assert!(status.contains("memory"), "{status}");
    limit("");
    host.run("systemctl start kpull.service").ok();
    let status = host.run("kpull status").ok();
    assert!(!status.contains("cut short"), "{status}");
    world.is_converged();
    assert_eq!(state(host, "one two"), "inactive active");

    // no process, no thread
    for tasks in [1, 3] {
        let (old, new) = if tasks == 1 { ("two", "one") } else { ("one", "two") };
        world.release(&unit(&format!("{new}.service"), ""));
        limit(&format!("TasksMax={tasks}"));
        let started = host.run("systemctl start kpull.service");
        let journal = host.run("journalctl --sync; journalctl -u kpull --no-pager -o cat -n 30 --since -1min").ok();
        assert!(!journal.contains("panicked"), "{tasks} tasks: {journal}");
        assert!(started.code() == 1 || tasks > 1, "nothing can be done with one: {started}");
        if started.code() != 0 {
            let status = host.run("kpull status").ok();
            assert!(
                status.contains("Resource temporarily unavailable") && !status.contains("nothing to do"),
                "{tasks} tasks: {status}"
            );
        }
        limit("");
        host.run("systemctl start kpull.service").ok();
        world.is_converged();
        assert_eq!(state(host, &format!("{old} {new}")), "inactive active");
    }
}
