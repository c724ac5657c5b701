//! What `kpull check` finds in a site whose every host resolves: mistakes that a host would only notice when it is too late.
//! Each is one of a handbook that many have followed.

use std::fs;

use crate::support::site::{Site, kpull};

const PIN: &str = "[app]\nversion = \"1.9.2\"\namd64 = { url = \"https://h/x\", sha256 = \"0000000000000000000000000000000000000000000000000000000000000000\", size = 4 }\narm64 = { url = \"https://h/x\", sha256 = \"0000000000000000000000000000000000000000000000000000000000000000\", size = 4 }\n";
const ROLE: &str = r#"summary = "A program that listens"

[vars.flags]
name = "{{ host.name }}"
listen-peer-urls = "https://{{ host.address }}:2380"

[[artifact]]
name = "app"
install = { app = "/usr/k8s/bin/app" }

[[firewall]]
allow = [{ port = "2380/tcp", from = "10.0.0.0/8" }]

[[unit]]
name = "app.service"
template = "app.service"
listens = ["2380/tcp"]
"#;
const UNIT: &str = "[Unit]\nAfter=network-online.target firewalld.service\n\n[Service]\nExecStart={{ flags | exec(program=\"/usr/k8s/bin/app\") }}\n";
const FLAGS: &str = "name\nlisten-peer-urls\nallow-privileged\n";

/// A site that is right.
fn good() -> Site {
    let site = Site::new("test");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"app\"]\n");
    site.file("artifacts.toml", PIN).file("roles/app/role.toml", ROLE).file("roles/app/templates/app.service", UNIT);
    site.file("roles/app/flags/app/1.9.2.txt", FLAGS)
        .file("roles/app/flags/app/1.20.2.txt", "name\nlisten-peer-urls\n");
    site
}

/// Breaks the good site with `files`: `check` has to say `says` of `at`, and advise `help`.
#[track_caller]
fn finds(files: &[(&str, &str)], at: &str, says: &str, help: &str) {
    let site = good();
    for (path, content) in files {
        site.file(path, content);
    }
    let checked = kpull(&["check", "--json", "--site", site.path().to_str().unwrap()]).exits(1);
    let error = checked.error();
    let place = format!("{}:{}:{}", error["file"].as_str().unwrap_or_default(), error["line"], error["column"]);
    // which site it is goes with each command that is proposed
    let advice = error["help"].as_str().unwrap_or_default().replace(&format!(" --site {}", site.path().display()), "");
    assert_eq!((place.as_str(), error["error"].as_str().unwrap(), advice.as_str()), (at, says, help), "\n{checked:?}");
}

macro_rules! found {
    ($($name:ident: $files:expr, $at:expr, $says:expr, $help:expr;)*) => { $(
        #[test]
        fn $name() {
            finds(&$files, $at, $says, $help);
        }
    )* };
}

#[test]
fn the_site_that_these_tests_start_from_is_valid() {
    let site = good();
    let checked = kpull(&["check", "--site", site.path().to_str().unwrap()]).exits(0);
    assert_eq!(checked.stdout, "✓ h1               4 resources of 1 role\n");
}

#[test]
fn comments_in_any_language_and_a_byte_order_mark_are_valid() {
    let site = good();
    for comment in ["für alle", "für alle: x", "a — b = c", "x→=y", "日本語: 'x'"] {
        for (path, text) in
            [("roles/app/role.toml", ROLE), ("artifacts.toml", PIN), ("roles/app/templates/app.service", UNIT)]
        {
            let mark = if path.ends_with(".toml") { "\u{feff}" } else { "" };
            site.file(path, format!("{mark}{text}# {comment}\n"));
        }
        let checked = kpull(&["check", "--site", site.path().to_str().unwrap()]).exits(0);
        assert_eq!(checked.stdout, "✓ h1               4 resources of 1 role\n", "{comment}");
    }
}

found! {
    a_nested_quote_in_a_command_line: [("roles/app/templates/app.service", "[Service]\nExecStart=/usr/k8s/bin/app \"--range=\"1-2\" x\n")],
        "roles/app/role.toml:16:12", "`template` of this unit can't be used: line 2 of app.service: a quote is opened and never closed: `ExecStart=/usr/k8s/bin/app \"--range=\"1-2\" x`", "";

    a_program_that_no_role_installs: [("roles/app/templates/app.service", &UNIT.replace("/usr/", "/user/"))],
        "roles/app/templates/app.service:5:36", "app.service runs /user/k8s/bin/app, which no resource installs", "did you mean `/usr/k8s/bin/app`?";

    a_port_that_the_firewall_shuts: [("roles/app/role.toml", &ROLE.replace("allow = [{ port = \"2380/tcp\", from = \"10.0.0.0/8\" }]", "services = [\"ssh\"]"))],
        "roles/app/role.toml:17:13", "app.service listens at 2380/tcp, but no [[firewall]] allows it", "on h1: add `{ port = \"2380/tcp\", from = … }` to the `allow` of a [[firewall]]";

    a_port_that_nobody_listens_at: [("roles/app/role.toml", &ROLE.replace("allow = [", "ports = [\"8080/tcp\"]\nallow = ["))],
        "roles/app/role.toml:12:11", "the firewall allows 8080/tcp, but no unit listens there", "on h1: close it, or add `listens = [\"8080/tcp\"]` to its [[unit]]";

    a_unit_that_does_not_exist: [("roles/app/templates/app.service", &UNIT.replace("firewalld.service", "firewalld.service ap.service"))],
        "roles/app/templates/app.service:2:47", "app.service has After=ap.service, but there is no such unit", "did you mean `app.service`?";

    a_password_that_everybody_can_read: [("roles/app/templates/keepalived.conf", "authentication {\n    auth_type PASS\n    auth_pass 1066\n}\n")],
        "roles/app/templates/keepalived.conf:3:15", "the value of `auth_pass` is in the site, where anyone with access can read it",
        "change the secret, because it may be compromised; then run `kpull secret set NAME`, and write {{ secret(\"NAME\") }} here. If it is not a secret, end the line with `# kpull: not a secret`";

    a_flag_that_the_pinned_version_does_not_have: [("roles/app/role.toml", &ROLE.replace("name = \"{{ host.name }}\"\n", "name = \"x\"\nallow-privilegd = true\n"))],
        "roles/app/role.toml:5:1", "app 1.9.2 has no flag `--allow-privilegd`", "did you mean `--allow-privileged`?";

    a_flag_that_went_with_a_new_version: [("artifacts.toml", &PIN.replace("1.9.2", "1.20.2")), ("host_vars/h1.toml", "address = \"10.0.0.1\"\nroles = [\"app\"]\n[vars.app.flags]\nallow-privileged = true\n")],
        "host_vars/h1.toml:4:1", "app 1.20.2 has no flag `--allow-privileged`", "1.9.2 has it";

    a_version_of_which_no_flags_are_known: [("artifacts.toml", &PIN.replace("1.9.2", "1.9.3"))],
        "artifacts.toml:2:11", "there is no table of the flags of app 1.9.3: roles/app/flags/app has 1.9.2, 1.20.2",
        "write them to roles/app/flags/app/1.9.3.txt, one on each line, without dashes; `app --help` lists them, and the nearest known version is 1.9.2";
}

#[test]
fn a_host_reads_nothing_that_it_does_not_use() {
    let site = good();
    site.file("roles/app/role.toml", "summary = \"Nothing\"\n");
    let tree = site.sign().enroll();
    fs::remove_dir_all(site.path().join("roles/app/flags")).unwrap();
    tree.kpull("apply").exits(0);
}

#[test]
fn an_error_in_a_role_is_reported_once_with_the_hosts_that_have_it() {
    let site = Site::new("test");
    site.role("web", "required = [\"domain\"]\n[[file]]\npath = \"/a\"\ncontent = \"{{ domain }}\"\n");
    site.role("db", "[[file]]\npath = \"/b\"\ncontent = \"{{ nope }}\"\n");
    for host in 1..=6 {
        site.host(&format!("h{host}"), &format!("address = \"10.0.0.{host}\"\nroles = [\"db\", \"web\"]\n"));
    }
    let checked = kpull(&["check", "--json", "--site", site.path().to_str().unwrap()]).exits(1);
    let reported: Vec<(String, String)> = checked
        .events("error")
        .iter()
        .map(|error| (error["error"].as_str().unwrap().to_owned(), error["help"].as_str().unwrap().to_owned()))
        .collect();
    assert_eq!(reported.len(), 2, "{reported:?}");
    assert_eq!(reported[0].0, "`nope` is not defined");
    assert_eq!(reported[1].0, "h1 must set `web.domain`");
    for (_, help) in &reported {
        assert!(help.ends_with("; the same on 5 more: h2, h3, h4 and 2 others"), "{help}");
    }
}

#[test]
fn hosts_see_of_one_another_what_each_defines_for_itself() {
    let site = Site::new("test");
    let role = "[vars]\nname = \"{{ host.name }}\"\nown = \"{{ facts.hostname }}\"\nfirst = \"{{ hosts | first }}\"\n[[file]]\npath = \"/a\"\ncontent = \"{{ hosts | map(attribute='vars.web.name') | join(' ') }} {{ own }}\"\n";
    site.role("web", role);
    for host in 1..=5 {
        let vars = if host == 3 { "[vars.web]\nname = \"three\"\n" } else { "" };
        site.host(&format!("h{host}"), &format!("address = \"10.0.0.{host}\"\nroles = [\"web\"]\n{vars}"));
    }
    let path = site.path().to_str().unwrap();
    kpull(&["check", "--site", path]).exits(0);
    // the facts of another host stay unknown even if that host's own check read them
    site.role("web", &role.replace("vars.web.name", "vars.web.own"));
    let checked = kpull(&["check", "--json", "--site", path]).exits(1);
    assert_eq!(checked.events("checked").len(), 0);
    for reported in checked.events("error") {
        assert!(reported["error"].as_str().unwrap().contains("the facts of another host"), "{reported}");
    }
    // nor what a variable leads to
    site.role("web", &role.replace("vars.web.name", "vars.web.first.vars.web.own"));
    assert_eq!(
        kpull(&["check", "--json", "--site", path]).exits(1).events("checked").len(),
        1,
        "on h1 itself the facts are known"
    );
}

/// What `check` says of a site with one host, in whose files these stand: the first error, its place and its advice.
fn reported(files: &[(&str, &str)]) -> [String; 3] {
    let site = Site::new("test");
    site.role("web", "");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"web\"]\n");
    for (path, content) in files {
        site.file(path, content);
    }
    let error = kpull(&["check", "--json", "--site", site.path().to_str().unwrap()]).exits(1).error();
    // which site it is goes with each command that is proposed
    let given = format!(" --site {}", site.path().display());
    let text = |name: &str| error[name].as_str().unwrap_or_default().replace(&given, "");
    [text("error"), format!("{}:{}:{}", text("file"), error["line"], error["column"]), text("help")]
}

#[test]
fn mistakes_about_devices_swap_and_selinux_are_found_at_their_field() {
    for (entry, column, message) in [
        ("[[filesystem]]\ntype = \"ext4\"\ndevice = \"/srv/image\"", "4:10", "a device is below `/dev`"),
        ("[[filesystem]]\ndevice = \"/dev/x\"\ntype = \"zfs\"", "4:8", "zfs"),
        ("[[filesystem]]\ndevice = \"/dev/x\"\ntype = \"xfs\"\nlabel = \"a b\"", "5:9", "a label of xfs is at most 12"),
        ("[[swap]]\nfile = \"/swap\"\nsize = \"2 GB\"", "4:8", "`2 GB` is not a size"),
        ("[[swap]]\nenabled = true", "3:11", "set `file` and `size`"),
        ("[[selinux]]\ntype = \"a_t\"\nport = \"80\"", "4:8", "write it like `8443/tcp`"),
        ("[[selinux]]\nboolean = \"x\"", "3:11", "set `on` to true or false"),
        (
            "[[selinux]]\nport = \"80/tcp\"\ntype = \"a_t\"\nignore_missing = true",
            "5:18",
            "it does not apply to a port or file: remove it",
        ),
    ] {
        let [error, place, _] = reported(&[("roles/web/role.toml", &format!("summary = \"x\"\n{entry}\n"))]);
        assert!(error.contains(message), "{entry}: {error}");
        assert_eq!(place, format!("roles/web/role.toml:{column}"), "{entry}: {error}");
    }
    let both = "[[swap]]\nenabled = false\n[[swap]]\nfile = \"/swap\"\nsize = \"1G\"\n";
    let [error, ..] = reported(&[("roles/web/role.toml", &format!("summary = \"x\"\n{both}"))]);
    assert!(error.contains("swap:off"), "{error}");
}

#[test]
fn names_from_other_tools_get_advice_with_the_name_in_kpull() {
    let role = |entry: &str| format!("summary = \"x\"\n{entry}\n");
    for (entry, advice) in [
        (
            "[[service]]\nname = \"nginx\"",
            "a service is a [[unit]]: `name = \"NAME.service\"`, with `enable` and `state`",
        ),
        ("[[copy]]\npath = \"/a\"", "that is a [[file]]: `path`, and `content` or `source`"),
        (
            "[[cron]]\nname = \"x\"",
            "a scheduled job is a [[unit]] NAME.timer, with `OnCalendar=` in its [Timer], and the [[unit]] NAME.service that it starts",
        ),
        ("[[fstab]]\npath = \"/srv\"", "that is a [[mount]]: `where` and `what`"),
        (
            "[[docker_container]]\nname = \"web\"",
            "a container is a [[unit]]: `name = \"NAME.container\"`, with a Quadlet file as `content`",
        ),
        (
            "[[unit]]\nname = \"web.container\"\nuser = \"web\"",
            "`User=` in the file of the unit sets the user of its process; kpull manages no units and containers of a user's own systemd",
        ),
        ("[[mount]]\npath = \"/srv\"", "that is `where`"),
        ("[[mkfs]]\ndev = \"/dev/sdb\"", "that is a [[filesystem]]: `device` and `type`"),
        ("[[filesystem]]\ndevice = \"/dev/sdb\"\nfstype = \"ext4\"", "that is `type`"),
        ("[[seboolean]]\nname = \"x\"", "that is a [[selinux]]: `boolean`, or `port` or `fcontext` with its `type`"),
        ("[[timezone]]\nname = \"Etc/UTC\"", "that is a [[system]]: `hostname`, `timezone`, `locale` or `keymap`"),
        ("[[file]]\ndest = \"/a\"", "that is `path`"),
        ("[[template]]\npath = \"/a\"\nsrc = \"a.j2\"", "that is `template`, a file in the role's templates/"),
        ("[[fil]]\npath = \"/a\"", "did you mean `file`?"),
    ] {
        let [_, place, help] = reported(&[("roles/web/role.toml", &role(entry))]);
        assert_eq!(help, advice, "{entry}");
        assert!(place.starts_with("roles/web/role.toml:"), "{place}");
    }
    for (text, advice) in [
        ("{{ inventory_hostname }}", "the name of this host in the site is `host.name`"),
        (
            "{{ hostvars['x'].y }}",
            "each host is in `hosts`: `(hosts | selectattr(\"name\", \"eq\", \"NAME\") | first).vars`",
        ),
        (
            "{{ lookup('file', 'x') }}",
            "name a file of the role in `source` or `template`; a secret is `secret(\"NAME\")`, a file of pki/ is `pki_file(\"NAME\")`",
        ),
        ("{{ 'x' | password_hash }}", "store the hash as a secret: `kpull secret set NAME`, and `secret(\"NAME\")`"),
        ("{{ 'x' | urlencod }}", "did you mean `urlencode`?"),
        ("{{ 'x' is matsh('y') }}", "did you mean `match`?"),
        ("{{ 'x'.startwith('y') }}", "did you mean `startswith`?"),
    ] {
        let entry = format!("summary = \"x\"\n[[file]]\npath = \"/a\"\ncontent = \"\"\"{text}\"\"\"\n");
        let [_, place, help] = reported(&[("roles/web/role.toml", &entry)]);
        assert_eq!((help.as_str(), place.starts_with("roles/web/role.toml:4:")), (advice, true), "{text}: {place}");
    }
}

#[test]
fn a_key_below_the_wrong_header_is_reported_with_the_right_one() {
    const BELOW: &str = "everything below a header is part of its table";
    let host = "address = \"10.0.0.1\"\nroles = [\"web\"]\n";
    let etcd = ("roles/etcd/role.toml", "summary = \"x\"\n[vars]\nname = \"a\"\n");
    for (path, content, place, help) in [
        (
            "host_vars/h1.toml",
            format!("{host}[vars.etcd]\nname = \"b\"\nrecipient = \"age1x\"\n"),
            "host_vars/h1.toml:5:1",
            format!("`recipient` belongs above `[vars.etcd]`: {BELOW}"),
        ),
        (
            "host_vars/h1.toml",
            format!("{host}[vars]\ngroups = [\"a\"]\n"),
            "host_vars/h1.toml:4:1",
            format!("`groups` belongs above `[vars]`: {BELOW}"),
        ),
        (
            "roles/web/role.toml",
            "summary = \"x\"\n[[file]]\npath = \"/a\"\ncontent = \"x\"\nrequires = [\"etcd\"]\n".to_owned(),
            "roles/web/role.toml:5:1",
            format!("`requires` belongs above `[[file]]`: {BELOW}"),
        ),
        (
            "roles/web/role.toml",
            "summary = \"x\"\n[vars]\na = 1\nrequires = [\"etcd\"]\n".to_owned(),
            "roles/web/role.toml:4:1",
            format!("`requires` belongs above `[vars]`: {BELOW}"),
        ),
        (
            "host_vars/h1.toml",
            "[vars.etcd]\nname = \"b\"\naddress = \"10.0.0.1\"\n".to_owned(),
            "host_vars/h1.toml:1:1",
            format!("`address` is at host_vars/h1.toml:3:1, below `[vars.etcd]`: {BELOW}"),
        ),
        (
            "site.toml",
            "name = \"test\"\n[groups.a.vars]\nroles = [\"web\"]\n".to_owned(),
            "site.toml:3:1",
            format!("`roles` belongs above `[groups.a.vars]`: {BELOW}"),
        ),
    ] {
        let [_, found, expected] = reported(&[etcd, (path, &content)]);
        assert!(expected.starts_with(&help), "{path}: {expected}");
        assert_eq!(found, place, "{expected}");
    }
}

#[test]
fn filters_and_methods_of_ansible_roles_work_in_a_role() {
    let site = Site::new("test");
    site.role(
        "web",
        "[vars]\nnet = \"10.1.0.0/16\"\nwords = \"{{ 'a b'.split() }}\"\n[[file]]\npath = \"/a\"\ncontent = \"\"\"{{ net | ansible.utils.ipaddr('netmask') }} {{ words | join('+') }} {{ 'a/b' | urlencode }} {{ 'x' | b64encode }} {{ 'a1' | regex_replace('[0-9]', '') }}\n\"\"\"\n",
    );
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"web\"]\n");
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    assert_eq!(fs::read_to_string(tree.path().join("a")).unwrap(), "255.255.0.0 a+b a/b eA== a\n");
}

/// The facts of h1, as an older kpull printed them, with the system's own and further ones.
fn facts(os: &str, more: &str) -> String {
    format!(
        "hostname = \"h1\"\narch = \"amd64\"\nmemory = 4096\ncores = 2\nselinux = \"disabled\"\n{more}[os]\n{os}[interfaces]\n\
         eth0 = [\"10.0.0.1\"]\n"
    )
}

const CENTOS_STREAM: &str = "id = \"centos\"\nversion = \"9\"\nfamily = \"rhel\"\n";

#[test]
fn what_a_host_would_refuse_is_an_error_of_check_if_its_facts_are_recorded() {
    let coreos = facts("id = \"fedora\"\nversion = \"41\"\nvariant = \"coreos\"\nfamily = \"rhel\"\n", "");
    let flatcar = facts("id = \"flatcar\"\nversion = \"3975.2.2\"\nfamily = \"flatcar\"\n", "");
    let bootc = facts(CENTOS_STREAM, "image = \"ostree\"\npackage_manager = \"dnf\"\n");
    let read_only = facts(CENTOS_STREAM, "image = \"read-only\"\npackage_manager = \"dnf\"\n");
    let alpine = facts("id = \"alpine\"\nversion = \"3.20\"\nfamily = \"alpine\"\n", "package_manager = \"none\"\n");
    let old = facts(CENTOS_STREAM, "firewalld = \"0.6.3\"\n");
    let centos_7 = facts("id = \"centos\"\nversion = \"7\"\nfamily = \"rhel\"\n", "");
    let ubuntu = facts("id = \"ubuntu\"\nversion = \"20.04\"\nfamily = \"debian\"\n", "");
    let package = "[[package]]\nnames = [\"socat\"]\n";
    let below_usr = "[[file]]\npath = \"/usr/share/app/x\"\ncontent = \"x\"\n";
    let linked = "[[directory]]\npath = \"/lib/app\"\n";
    let forward = "[[firewall]]\nzone = \"storage\"\nforward = true\n";
    let priority = "[[firewall]]\nrich = [\"rule priority=5 service name=ntp accept\"]\n";
    let helpers = "[[firewall]]\n[firewall.define_services.own]\nports = [\"1/tcp\"]\nhelpers = [\"ftp\"]\n";
    let ostree = "can't change the package socat: this host's system is an image of ostree";
    let image = "can't change the package socat: /usr is read-only on this host: its system is an image";
    let usr = "/usr/share/app/x can't be written: /usr is read-only on this host";
    let without = "omit it on this host, for example with `when`";
    for (facts, role, what, help) in [
        (&coreos, package, ostree, "layer it (`rpm-ostree install socat`, then reboot) or build it into the image"),
        (&bootc, package, ostree, "`when = \"not facts.image\"` excludes the package on this host"),
        (&flatcar, package, image, "add it as a system extension (systemd-sysext)"),
        (&read_only, package, image, "below /opt"),
        (
            &alpine,
            package,
            "this host has no package manager that kpull supports: for its system, none of apt, dnf, yum, microdnf and zypper is installed with a database of packages",
            "install the programs with an [[artifact]]",
        ),
        (&coreos, below_usr, usr, "use a path below /opt, /etc or /var"),
        (&read_only, below_usr, usr, "under `[vars.base]`"),
        (&flatcar, linked, "/lib/app can't be written: /lib is read-only on this host", "dmesg"),
        (&old, forward, "firewalld 0.6.3 has no `forward` in its zones", without),
        (&centos_7, forward, "the firewalld of centos 7 has no `forward` in its zones", "this needs 0.9 or newer"),
        (
            &centos_7,
            priority,
            "the firewalld of centos 7 has no `priority` in its rich rules",
            "this needs 0.7 or newer",
        ),
        (&old, helpers, "firewalld 0.6.3 has no `helpers` in its services", "this needs 0.8 or newer"),
        (&ubuntu, forward, "the firewalld of ubuntu 20.04 has no `forward` in its zones", without),
    ] {
        let site = Site::new("test");
        site.host("h1", "address = \"10.0.0.1\"\nroles = [\"app\"]\n");
        site.file("roles/app/role.toml", format!("summary = \"x\"\n\n{role}"));
        let check = || kpull(&["check", "--json", "--site", site.path().to_str().unwrap()]);
        check().exits(0);
        site.file("facts/h1.toml", facts);
        let errors = check().exits(1).events("error");
        assert_eq!(errors.len(), 1, "{errors:?}");
        let error = &errors[0];
        assert_eq!(error["error"], what, "{role}");
        assert!(error["help"].as_str().unwrap().contains(help), "{role}: {error}");
        let place = (&error["file"], &error["line"], &error["column"]);
        assert_eq!(place, (&"roles/app/role.toml".into(), &3.into(), &1.into()), "{role}");
    }
}

#[test]
fn what_a_host_accepts_whatever_its_system_is_no_error() {
    let site = Site::new("test");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"app\"]\n");
    let check = || kpull(&["check", "--json", "--site", site.path().to_str().unwrap()]);
    let image = facts(CENTOS_STREAM, "image = \"ostree\"\npackage_manager = \"dnf\"\n");
    let newer = facts("id = \"centos\"\nversion = \"7\"\nfamily = \"rhel\"\n", "firewalld = \"1.3.3\"\n");
    for (facts, role) in [
        (&image, "[[package]]\nwhen = \"not facts.image\"\nname = \"socat\"\n"),
        (&image, "[[package]]\nname = \"socat\"\nstate = \"absent\"\n"),
        (&image, "[[file]]\npath = \"/usr/local/bin/x\"\ncontent = \"x\"\n"),
        (&image, "[[file]]\npath = \"/opt/x\"\ncontent = \"x\"\n[[absent]]\npath = \"/usr/share/x\"\n"),
        (&newer, "[[firewall]]\nzone = \"storage\"\nforward = true\n"),
        (&newer, "[[firewall]]\nzone = \"storage\"\ntarget = \"ACCEPT\"\nforward = false\n"),
    ] {
        site.file("roles/app/role.toml", format!("summary = \"x\"\n{role}"));
        site.file("facts/h1.toml", facts);
        check().exits(0);
    }
}

#[test]
fn a_value_that_its_type_refuses_is_reported_where_the_host_sets_it() {
    let site = Site::new("test");
    site.role("web", "[vars]\nlog_level = \"info\"\n[types.log_level]\ntype = \"string\"\ndescription = \"what is logged\"\none_of = [\"debug\", \"info\"]\n");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"web\"]\n[vars.web]\nlog_level = \"inof\"\n");
    let dir = site.path().to_str().unwrap();
    let error = kpull(&["check", "--json", "--site", dir]).exits(1).error();
    assert_eq!(error["error"], "`log_level` is not one of the allowed values: \"inof\"");
    assert_eq!(
        (&error["file"], &error["line"], &error["column"]),
        (&"host_vars/h1.toml".into(), &4.into(), &13.into())
    );
    let help = error["help"].as_str().unwrap();
    assert!(help.starts_with("did you mean \"info\"? expected one of \"debug\", \"info\""), "{help}");
    let shown = kpull(&["explain", "h1", "web.log_level", "--site", dir]).exits(0).stdout;
    assert!(shown.ends_with("  type                 text, one of \"debug\", \"info\": what is logged\n"), "{shown}");
    site.role("web", "[vars]\nlog_level = \"info\"\n[types.log_level]\ntype = \"sting\"\n");
    let error = kpull(&["check", "--json", "--site", dir]).exits(1).error();
    assert_eq!((&error["file"], &error["line"]), (&"roles/web/role.toml".into(), &5.into()));
}
