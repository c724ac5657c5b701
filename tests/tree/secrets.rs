//! Secrets, from the operator's machine to two hosts: each host decrypts its own, and no other one does.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::files::files;
use crate::support::site::{Output, Site, Tree, command, kpull};

const DB: &str = "correct horse battery staple";
const TOKEN: &str = "9f86d081884c7d65-of-h2";

const ROLE: &str = r#"
vars.password = "{{ secret('db') }}"

[[file]]
path = "/etc/app/env"
content = "DB_PASSWORD={{ password }}\n"

[[template]]
path = "/etc/app/app.conf"
template = "app.conf"

[[template]]
path = "/etc/app/shared.conf"
template = "app.conf"
mode = "0640"

[[file]]
path = "/etc/app/plain"
content = "nothing to hide\n"

[[block]]
path = "/etc/app/block"
name = "db"
content = "password {{ password }}"

[[line]]
path = "/etc/app/line"
name = "db"
regex = '^password\s'
line = "password {{ password }}"
create = true

[[setting]]
path = "/etc/app/setting.json"
key = "db.password"
value = "{{ password }}"
create = true

[[secret]]
name = "db"
path = "/etc/app/key"
owner = "root"

[[secret]]
name = "db"
credential = "db"
unit = "app.service"

[[unit]]
name = "app.service"
content = "[Service]\nExecStart=/bin/true\n"
restart_when = ["secret:db"]

[[command]]
name = "set the password"
run = ["true"]
env = { PASSWORD = "{{ password }}" }
unless = ["false"]
"#;

/// A site with its operators' key and the host keys of `h1` and `h2`; the one has the secret `db`, the other `token`.
struct World {
    site: Site,
    keys: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { site: Site::new("test"), keys: tempfile::tempdir().unwrap() };
        let operator = world.keygen("operator");
        world.site.file("site.toml", format!("name = \"test\"\n[secrets]\nrecipients = [\"{operator}\"]\n"));
        for (host, role, last) in [("h1", "app", 1), ("h2", "other", 2)] {
            let key = world.keygen(host);
            world
                .site
                .host(host, &format!("address = \"10.0.0.{last}\"\nrecipient = \"{key}\"\nroles = [\"{role}\"]\n"));
        }
        world.site.role("app", ROLE).file("roles/app/templates/app.conf", "password = {{ password }}\n");
        world.site.role("other", "[[file]]\npath = \"/etc/token\"\ncontent = \"{{ secret('token') }}\"\n");
        world.set("db", DB).exits(0);
        world.set("token", TOKEN).exits(0);
        world
    }

    /// Makes a key with ssh-keygen; gives the public one.
    fn keygen(&self, name: &str) -> String {
        let path = self.key(name);
        let status =
            Command::new("ssh-keygen").args(["-q", "-N", "", "-t", "ed25519", "-f"]).arg(&path).status().unwrap();
        assert!(status.success());
        fs::read_to_string(path.with_extension("pub")).unwrap().trim().to_owned()
    }

    fn key(&self, name: &str) -> PathBuf {
        self.keys.path().join(name)
    }

    /// What `ssh-keygen -l` says of a key.
    fn fingerprint(&self, name: &str) -> String {
        let output = Command::new("ssh-keygen").arg("-lf").arg(self.key(name).with_extension("pub")).output().unwrap();
        String::from_utf8(output.stdout).unwrap().split(' ').nth(1).unwrap().to_owned()
    }

    /// Runs `kpull secret …` in the site.
    fn secret(&self, arguments: &str) -> Output {
        let mut words = vec!["secret"];
        words.extend(arguments.split(' '));
        kpull(&[&words[..], &["--site", self.site.path().to_str().unwrap()]].concat())
    }

    /// The same, decrypting as the operator.
    fn operator(&self, arguments: &str) -> Output {
        self.secret(&format!("{arguments} --identity {}", self.key("operator").display()))
    }

    fn set(&self, name: &str, value: &str) -> Output {
        let mut command = command(&["secret", "set", name, "--site", self.site.path().to_str().unwrap()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // a refusal comes before the value is read
        let _ = child.stdin.take().unwrap().write_all(value.as_bytes());
        Output::of(child.wait_with_output().unwrap())
    }

    /// A tree of the host `name`, with its host key.
    fn host(&self, name: &str) -> Tree {
        let tree = self.site.sign().enroll();
        tree.write("etc/kpull/kpull.toml", tree.read("etc/kpull/kpull.toml").replace("\"h1\"", &format!("\"{name}\"")));
        tree.write("etc/ssh/ssh_host_ed25519_key", fs::read(self.key(name)).unwrap());
        tree
    }

    fn index(&self) -> String {
        fs::read_to_string(self.site.path().join("secrets/recipients.toml")).unwrap()
    }

    fn encrypted(&self, name: &str) -> Vec<u8> {
        fs::read(self.site.path().join(format!("secrets/{name}.age"))).unwrap()
    }
}

/// The files below `dir` that have `text` in them.
fn files_with(dir: &Path, text: &str) -> Vec<PathBuf> {
    let has = |path: &PathBuf| fs::read(path).unwrap().windows(text.len()).any(|window| window == text.as_bytes());
    files(dir, "").into_iter().filter(has).collect()
}

#[track_caller]
fn hides(output: &Output, secret: &str) {
    assert!(!output.stdout.contains(secret) && !output.stderr.contains(secret), "{output:?}");
}

#[test]
fn a_host_gets_its_secrets_for_the_owner_alone() {
    let world = World::new();
    let tree = world.host("h1");
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/app/env"), format!("DB_PASSWORD={DB}\n"));
    assert_eq!(tree.read("etc/app/app.conf"), format!("password = {DB}\n"));
    assert_eq!(tree.read("etc/app/key"), DB);
    assert_eq!(tree.read("etc/credstore/db"), DB);
    for (path, mode) in [
        ("env", 0o600),
        ("app.conf", 0o600),
        ("shared.conf", 0o640),
        ("plain", 0o644),
        ("block", 0o600),
        ("line", 0o600),
        ("setting.json", 0o600),
        ("key", 0o600),
    ] {
        assert_eq!(tree.mode(&format!("etc/app/{path}")), mode, "{path}");
    }
    let dropin = "etc/systemd/system/app.service.d/kpull-credential-db.conf";
    assert_eq!(tree.read(dropin), "[Service]\nLoadCredential=db:/etc/credstore/db\n");
    assert_eq!(tree.kpull("apply --json").exits(0).changed(), [""; 0]);
}

#[test]
fn no_output_and_no_record_contains_the_plaintext() {
    let world = World::new();
    let tree = world.host("h1");
    let site = world.site.path().to_str().unwrap();
    hides(&tree.kpull("plan").exits(2), DB);
    hides(&tree.kpull("plan --json").exits(2), DB);
    hides(&tree.kpull("apply --diff").exits(0), DB);
    // each file must change again, and its current content is the secret
    for path in ["env", "app.conf", "shared.conf", "block", "line", "setting.json", "key"] {
        tree.write(&format!("etc/app/{path}"), tree.read(&format!("etc/app/{path}")).replace("horse", "donkey"));
    }
    hides(&tree.kpull("plan --json").exits(2), "battery staple");
    hides(&tree.kpull("apply --diff").exits(0), "battery staple");
    hides(&tree.kpull("status --json").exits(0), DB);
    for arguments in
        [&["graph", "h1", "--site", site][..], &["graph", "h1", "--site", site, "--json"], &["check", "--site", site]]
    {
        hides(&kpull(arguments).exits(0), DB);
    }
    let explained = kpull(&["explain", "h1", "app.password", "--site", site]).exits(0);
    assert!(explained.stdout.starts_with("app.password = \"<secret db>\"\n"), "{}", explained.stdout);
    assert_eq!(files_with(&tree.at("var/lib/kpull"), "battery staple"), [""; 0].map(PathBuf::from));
    assert_eq!(files_with(world.site.path(), "battery staple"), [""; 0].map(PathBuf::from));
}

#[test]
fn the_old_value_of_a_secret_is_not_shown_when_a_role_stops_using_it() {
    let world = World::new();
    let tree = world.host("h1");
    tree.kpull("apply").exits(0);
    world.site.role("app", "[[file]]\npath = \"/etc/app/env\"\ncontent = \"nothing\"\n").sign();
    let output = tree.kpull("apply --diff").exits(0);
    hides(&output, "horse");
    assert_eq!(tree.read("etc/app/env"), "nothing");
}

#[test]
fn an_error_in_a_field_with_a_secret_does_not_show_it() {
    let world = World::new();
    world.site.role("app", "[[file]]\npath = \"{{ secret('db') }}\"\ncontent = \"\"\n");
    let tree = world.host("h1");
    let output = tree.kpull("apply").exits(1);
    hides(&output, DB);
    assert!(output.stderr.contains("‹secret db›"), "{}", output.stderr);
}

#[test]
fn a_host_can_not_read_the_secret_of_another() {
    let world = World::new();
    world
        .site
        .host("h1", &fs::read_to_string(world.site.path().join("host_vars/h1.toml")).unwrap().replace("app", "other"));
    let tree = world.host("h1");
    let error = tree.kpull("apply --json").exits(1).error();
    assert_eq!(error["error"], "the secret token is not for h1: it is encrypted to h2");
    assert_eq!(error["help"], "if this host needs it, run `kpull secret rekey` on the site and sign again");
    assert_eq!(error["file"], "roles/other/role.toml");
    assert!(!tree.at("etc/token").exists());
    // nor when the index is made to say so
    world.site.file("secrets/recipients.toml", world.index().replace("[\"h2\"]", "[\"h1\", \"h2\"]")).sign();
    let error = tree.kpull("apply --json").exits(1).error();
    let start = "can't read the secret token: it is not encrypted to ";
    assert!(error["error"].as_str().unwrap().starts_with(start), "{error}");
}

#[test]
fn a_missing_host_key_is_reported_with_the_paths_that_were_tried() {
    let world = World::new();
    let tree = world.host("h1");
    fs::remove_file(tree.at("etc/ssh/ssh_host_ed25519_key")).unwrap();
    // once for each resource that asks for it
    let errors = tree.kpull("apply --json").exits(1).events("error");
    assert_eq!(errors[0]["error"], "can't read the secret db: there is no key to decrypt it");
    assert!(errors[0]["help"].as_str().unwrap().contains("/etc/ssh/ssh_host_ed25519_key"), "{errors:?}");
    // a key of another place
    let config = tree.read("etc/kpull/kpull.toml");
    tree.write("etc/kpull/kpull.toml", format!("{config}[secrets]\nidentities = [\"h1.key\"]\n"));
    tree.write("etc/kpull/h1.key", fs::read(world.key("h1")).unwrap());
    tree.kpull("apply").exits(0);
}

#[test]
fn a_rotated_secret_changes_only_the_files_that_contain_it() {
    let world = World::new();
    let tree = world.host("h1");
    tree.kpull("apply").exits(0);
    world.set("db", "another horse").exits(0);
    world.site.sign();
    let changed = tree.kpull("apply --json").exits(0).changed();
    let expected = [
        "file:/etc/app/env",
        "template:/etc/app/app.conf",
        "template:/etc/app/shared.conf",
        "block:/etc/app/block#db",
        "line:/etc/app/line#db",
        "setting:/etc/app/setting.json#db.password",
        "secret:/etc/app/key",
        "secret:db",
    ];
    assert_eq!(changed, expected);
    assert_eq!(tree.read("etc/app/env"), "DB_PASSWORD=another horse\n");
    assert_eq!(tree.read("etc/credstore/db"), "another horse");
}

#[test]
fn the_index_lists_the_recipients_of_each_secret() {
    let world = World::new();
    let index = world.index();
    assert!(
        index.contains("[\"db\"]\nhosts = [\"h1\"]\n") && index.contains("[\"token\"]\nhosts = [\"h2\"]\n"),
        "{index}"
    );
    let listed: Vec<_> = world.secret("list --json").exits(0).json();
    assert_eq!(
        (&listed[0]["name"], &listed[0]["hosts"][0], &listed[0]["stale"]),
        (&"db".into(), &"h1".into(), &().into())
    );
    assert_eq!(world.operator("show db").exits(0).stdout, DB);
    let output = world.secret(&format!("show db --identity {}", world.key("h2").display())).exits(1);
    assert!(output.stderr.contains("can't read the secret db: it is not encrypted to"), "{}", output.stderr);
}

#[test]
fn rekey_follows_the_roles_and_the_keys() {
    let world = World::new();
    world.operator("rekey --check").exits(0);
    let (db, token) = (world.encrypted("db"), world.encrypted("token"));
    // h2 gets the role that uses `db`
    let host = fs::read_to_string(world.site.path().join("host_vars/h2.toml")).unwrap();
    world.site.host("h2", &host.replace("[\"other\"]", "[\"other\", \"app\"]"));
    let check = kpull(&["check", "--site", world.site.path().to_str().unwrap(), "--json"]).exits(1).error();
    let why = "the secret db is not encrypted to the right recipients: it is not encrypted to h2, where it is used";
    assert_eq!(
        (&check["error"], &check["help"]),
        (&why.into(), &format!("run `kpull secret rekey --site {}`", world.site.path().display()).into())
    );
    let output = world.operator("rekey --check").exits(2);
    let readers = |output: &Output| output.stdout.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(output.stdout.lines().next(), Some("~ db: it is not encrypted to h2, where it is used"));
    let new = format!("+ db: h2 ({}) gains access", world.fingerprint("h2"));
    assert_eq!(readers(&output), [new.as_str()]);
    assert_eq!(world.encrypted("db"), db, "--check changes nothing");
    world.operator("rekey --yes").exits(0);
    assert_ne!(world.encrypted("db"), db);
    assert_eq!(world.encrypted("token"), token, "what was right stays as it is");
    let tree = world.host("h2");
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/app/key"), DB);
    // and loses it again
    world.site.host("h2", &host);
    world.operator("rekey").exits(0);
    world.secret(&format!("show db --identity {}", world.key("h2").display())).fails(1, "it is not encrypted to ");
    // a host key that is another one
    fs::remove_file(world.key("h1")).unwrap();
    let (old, new) = (fs::read_to_string(world.site.path().join("host_vars/h1.toml")).unwrap(), world.keygen("h1"));
    let old_key = old.split('"').nth(3).unwrap();
    world.site.host("h1", &old.replace(old_key, &new));
    let output = world.operator("rekey --check").exits(2);
    assert_eq!(output.stdout.lines().next(), Some("~ db: the keys of its recipients have changed"));
    let new = format!("+ db: h1 ({}) gains access", world.fingerprint("h1"));
    assert_eq!(readers(&output), [new.as_str()]);
    world.operator("rekey --yes").exits(0);
    world.host("h1").kpull("apply").exits(0);
}

#[test]
fn no_recipient_gets_a_secret_that_an_operator_did_not_confirm() {
    let world = World::new();
    let db = world.encrypted("db");
    let host_file = |name: &str| world.site.path().join(format!("host_vars/{name}.toml"));
    let edit = |name: &str, from: &str, to: &str| {
        let text = fs::read_to_string(host_file(name)).unwrap();
        assert!(text.contains(from));
        fs::write(host_file(name), text.replace(from, to)).unwrap();
    };
    let refused = |output: Output, name: &str| {
        let new = format!("+ db: {name} ({}) gains access", world.fingerprint(name));
        assert!(output.stdout.lines().any(|line| line == new), "{output:?}");
        let reported =
            "1 secret would get new recipients, so nothing was written: there is no terminal for the confirmation";
        assert!(output.stderr.contains(reported) && output.stderr.contains("--yes"), "{output:?}");
        assert_eq!(world.encrypted("db"), db);
    };
    // a role that requests a secret of another role
    edit("h2", "[\"other\"]", "[\"other\", \"app\"]");
    refused(world.operator("rekey").exits(1), "h2");
    refused(world.set("db", "another horse").exits(1), "h2");
    refused(world.operator("edit db").exits(1), "h2");
    let json = world.operator("rekey --json").exits(1).events("secret_reader");
    assert_eq!((&json[0]["name"], &json[0]["host"]), (&"db".into(), &"h2".into()));
    assert_eq!(json[0]["key"], world.fingerprint("h2"));
    // an index that says that the other reads it already, and with which key
    let index = world.index();
    let keys = |name: &str| {
        let (_, rest) = index.split_once(&format!("[\"{name}\"]")).unwrap();
        rest.split_once("keys = \"").unwrap().1.split_once('"').unwrap().0.to_owned()
    };
    let both: std::collections::BTreeSet<String> = [keys("db"), keys("token")]
        .iter()
        .flat_map(|keys| keys.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let both = both.into_iter().collect::<Vec<_>>().join(" ");
    world.site.file(
        "secrets/recipients.toml",
        index.replace("hosts = [\"h1\"]", "hosts = [\"h1\", \"h2\"]").replace(&keys("db"), &both),
    );
    let output = world.operator("rekey").exits(0);
    assert_eq!(
        (output.stdout.as_str(), world.encrypted("db")),
        ("every secret is encrypted to the right recipients\n", db.clone())
    );
    let mallory = world.keygen("mallory");
    let site = fs::read_to_string(world.site.path().join("site.toml")).unwrap();
    world.site.file("site.toml", site.replace("recipients = [", &format!("recipients = [\"{mallory}\", ")));
    let output = world.operator("rekey").exits(1);
    assert!(output.stdout.contains(&format!("+ db: h2 ({})", world.fingerprint("h2"))), "{output:?}");
    assert!(output.stdout.contains(&format!("+ db: an operator ({})", world.fingerprint("mallory"))), "{output:?}");
    world.site.file("site.toml", site).file("secrets/recipients.toml", index);
    edit("h2", "[\"other\", \"app\"]", "[\"other\"]");
    // another key in the name of a host that reads it
    let own = fs::read_to_string(world.key("h1").with_extension("pub")).unwrap();
    edit("h1", own.trim(), &mallory);
    let output = world.operator("rekey").exits(1);
    assert!(output.stdout.contains(&format!("+ db: h1 ({})", world.fingerprint("mallory"))), "{output:?}");
    assert_eq!(world.encrypted("db"), db);
}

#[test]
fn an_operator_is_asked_and_a_no_changes_nothing() {
    let world = World::new();
    let db = world.encrypted("db");
    let text = fs::read_to_string(world.site.path().join("host_vars/h2.toml")).unwrap();
    world.site.host("h2", &text.replace("[\"other\"]", "[\"other\", \"app\"]"));
    let answer = |word: &str| {
        let run = format!(
            "{} secret rekey --site {} --identity {}",
            env!("CARGO_BIN_EXE_kpull"),
            world.site.path().display(),
            world.key("operator").display()
        );
        let mut script = Command::new("script");
        script.args(["-qec", &run, "/dev/null"]).env("NO_COLOR", "1").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = script.stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(word.as_bytes()).unwrap();
        Output::of(child.wait_with_output().unwrap())
    };
    for no in ["n\n", "\n", "x\n"] {
        let output = answer(no).exits(1);
        assert!(output.stdout.contains("Grant access to 1 secret? [y/N]"), "{output:?}");
        assert!(output.stdout.contains("you did not confirm"), "{output:?}");
        assert_eq!(world.encrypted("db"), db);
    }
    answer("y\n").exits(0);
    assert_ne!(world.encrypted("db"), db);
}

#[test]
fn a_facts_file_that_can_not_be_read_stops_no_secret_and_takes_none_away() {
    let world = World::new();
    world.site.role("other", "[[file]]\nfor_each = \"['/etc/token'] if facts.os.id == 'rocky' else []\"\npath = \"{{ item }}\"\ncontent = \"{{ secret('token') }}\"\n");
    let whole = "hostname = \"h2\"\narch = \"amd64\"\nmemory = 1\ncores = 1\nselinux = \"disabled\"\ninterfaces = {}\nos = { id = \"rocky\", version = \"9\", family = \"rhel\" }\n";
    world.site.file("facts/h2.toml", whole);
    world.operator("rekey --check").exits(0);
    world.site.file("facts/h2.toml", whole.replace("hostname = \"h2\"\n", ""));
    let warning = "! the recorded facts of h2 can't be read: `facts/h2.toml` lacks `hostname` (facts/h2.toml:1:1); \
                   besides its present secrets, assumed facts determine which secrets it can read";
    let set = |name: &str, hosts: &str| {
        let output = world.set(name, "a new value").exits(0);
        let lines: Vec<&str> = output.stdout.lines().collect();
        assert_eq!(lines, [warning, &format!("{name}: encrypted to {hosts} and the operators")]);
    };
    set("db", "h1");
    set("token", "h2");
    world.secret(&format!("show token --identity {}", world.key("h2").display())).exits(0);
    for command in ["rekey --yes", "rm token"] {
        let refused = world.secret(command).exits(1);
        assert!(refused.stderr.contains("`facts/h2.toml` lacks `hostname`"), "{}", refused.stderr);
    }
}

#[test]
fn rekey_does_all_or_nothing() {
    let world = World::new();
    for host in ["h1", "h2"] {
        let path = world.site.path().join(format!("host_vars/{host}.toml"));
        let text = fs::read_to_string(&path).unwrap().replace("roles = [", "roles = [\"both\", ");
        fs::write(path, text).unwrap();
    }
    let file = |name: &str| format!("[[secret]]\nname = \"{name}\"\npath = \"/etc/both/{name}\"\n");
    world.site.role("both", &(file("db") + &file("token")));
    world
        .site
        .file("secrets/token.age", "-----BEGIN AGE ENCRYPTED FILE-----\nbroken\n-----END AGE ENCRYPTED FILE-----\n");
    let (index, db) = (world.index(), world.encrypted("db"));
    let output = world.operator("rekey --yes").exits(1);
    assert!(output.stderr.contains("can't read the secret token"), "{}", output.stderr);
    assert_eq!((world.index(), world.encrypted("db")), (index, db));
}

#[test]
fn a_secret_that_can_not_be_encrypted_is_reported_with_its_place() {
    let world = World::new();
    let host = fs::read_to_string(world.site.path().join("host_vars/h1.toml")).unwrap();
    let without: String =
        host.lines().filter(|line| !line.starts_with("recipient")).map(|line| format!("{line}\n")).collect();
    world.site.host("h1", &without);
    let output = world.set("db", "x").exits(1);
    assert!(output.stderr.contains("h1 uses the secret db, but has no key to decrypt it"), "{}", output.stderr);
    assert!(output.stderr.contains("host_vars/h1.toml:1:1"), "{}", output.stderr);
    world.site.file("site.toml", "name = \"test\"\n");
    let output = world.set("db", "x").exits(1);
    assert!(output.stderr.contains("the site names no operators who can read secrets"), "{}", output.stderr);
    for name in ["../x", "/x", "a b", "a//b"] {
        assert!(world.set(name, "x").exits(1).stderr.contains("is not the name of a secret"), "{name}");
    }
}

#[test]
fn a_missing_secret_is_reported_with_the_nearest_name() {
    let world = World::new();
    world.site.role("other", "[[file]]\npath = \"/etc/token\"\ncontent = \"{{ secret('tokn') }}\"\n");
    let error = kpull(&["check", "--json", "--site", world.site.path().to_str().unwrap()]).exits(1).error();
    assert_eq!(error["error"], "there is no secret `tokn`: the site has no secrets/tokn.age");
    let dir = world.site.path().display();
    assert_eq!(
        error["help"],
        format!("did you mean `token`? Otherwise, write it with `kpull secret set tokn --site {dir}`")
    );
    assert_eq!((&error["file"], &error["line"]), (&"roles/other/role.toml".into(), &4.into()));
}

#[test]
fn a_resource_can_not_be_named_by_a_secret() {
    let world = World::new();
    world.site.role("app", "[[directory]]\npath = \"/srv/{{ secret('db') }}\"\n");
    let error = kpull(&["check", "--json", "--site", world.site.path().to_str().unwrap()]).exits(1).error();
    assert!(
        error["error"].as_str().unwrap().starts_with("the id of a directory can't contain the secret db"),
        "{error}"
    );
    hides(&world.host("h1").kpull("apply").exits(1), DB);
}

#[test]
fn a_resource_can_not_be_named_by_a_value_derived_from_a_secret() {
    let world = World::new();
    let encoded = [
        "secret('db') | b64encode",
        "('user:' ~ secret('db')) | b64encode",
        "secret('db') | urlencode",
        "secret('db') | b64encode | replace('=', '')",
    ];
    for expression in encoded {
        world.site.role("app", &format!("[[probe]]\nhttp = \"http://127.0.0.1:1/{{{{ {expression} }}}}\"\n"));
        let error = kpull(&["check", "--json", "--site", world.site.path().to_str().unwrap()]).exits(1).error();
        let why = error["error"].as_str().unwrap();
        assert!(why.starts_with("the id of a probe can't contain the secret db"), "{expression}: {error}");
        let refused = world.host("h1").kpull("apply").exits(1);
        for part in ["Y29ycmVjd", "IGJhdHRlcnkg", "%20horse", "horse"] {
            hides(&refused, part);
        }
    }
}

#[test]
fn set_generate_edit_and_rm() {
    let world = World::new();
    let output = world.secret("set fresh --generate").exits(0);
    assert!(output.stdout.starts_with("fresh: encrypted to the operators only"), "{}", output.stdout);
    let made = world.operator("show fresh").exits(0).stdout;
    assert_eq!((made.len(), made.chars().all(|c| c.is_ascii_hexdigit())), (64, true));
    assert!(!output.stdout.contains(&made));

    let edit = |editor: &str| {
        let script = world.keys.path().join("editor");
        fs::write(&script, format!("#!/bin/sh\n{editor}\n")).unwrap();
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let identity = world.key("operator");
        let arguments = [
            "secret",
            "edit",
            "fresh",
            "--site",
            world.site.path().to_str().unwrap(),
            "--identity",
            identity.to_str().unwrap(),
        ];
        Output::of(command(&arguments).env("VISUAL", &script).output().unwrap())
    };
    let seen = world.keys.path().join("seen");
    edit(&format!(
        "stat -c '%a %U' \"$1\" $(dirname \"$1\") > {0}; echo \"$1\" >> {0}; printf changed > \"$1\"",
        seen.display()
    ))
    .exits(0);
    assert_eq!(world.operator("show fresh").exits(0).stdout, "changed");
    let seen = fs::read_to_string(seen).unwrap();
    let lines: Vec<&str> = seen.lines().collect();
    assert!(lines[0].starts_with("600 ") && lines[1].starts_with("700 "), "{seen}");
    assert!(!Path::new(lines[2]).exists() && !Path::new(lines[2]).parent().unwrap().exists());
    let before = world.encrypted("fresh");
    assert!(edit("printf bad > \"$1\"; exit 1").exits(1).stderr.contains("nothing was written"));
    assert_eq!(edit("exit 0").exits(0).stdout, "fresh: nothing was changed\n");
    assert_eq!(world.encrypted("fresh"), before);

    assert!(world.secret("rm db").exits(1).stderr.contains("the secret db is used on h1"));
    world.secret("rm fresh").exits(0);
    assert!(!world.site.path().join("secrets/fresh.age").exists() && !world.index().contains("fresh"));
}

#[test]
fn a_literal_in_a_site_is_found_and_not_shown() {
    let world = World::new();
    world.site.file("roles/other/files/config", "db:\n  password: hunter2\n");
    let error = kpull(&["check", "--json", "--site", world.site.path().to_str().unwrap()]).exits(1).error();
    assert_eq!(error["error"], "the value of `password` is in the site, where anyone with access can read it");
    assert_eq!(
        (&error["file"], &error["line"], &error["column"]),
        (&"roles/other/files/config".into(), &2.into(), &13.into())
    );
    hides(&kpull(&["check", "--site", world.site.path().to_str().unwrap()]).exits(1), "hunter2");
    world.site.file("roles/other/files/config", "db:\n  password: hunter2 # kpull: not a secret\n");
    kpull(&["check", "--site", world.site.path().to_str().unwrap()]).exits(0);
    world.site.file("secrets/oops.txt", "hunter2");
    let error = kpull(&["check", "--json", "--site", world.site.path().to_str().unwrap()]).exits(1).error();
    assert!(error["error"].as_str().unwrap().starts_with("secrets/oops.txt is not a secret"), "{error}");
}

#[test]
fn no_core_is_dumped_of_a_process_that_can_have_a_secret() {
    let world = World::new();
    let mut child = command(&["secret", "set", "x", "--site", world.site.path().to_str().unwrap()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let limits = format!("/proc/{}/limits", child.id());
    // it waits for its input, and has set the limit long before
    let has_none = || {
        let text = fs::read_to_string(&limits).unwrap();
        let line = text.lines().find(|line| line.starts_with("Max core file size")).unwrap().to_owned();
        line.split_whitespace().skip(4).take(2).collect::<Vec<_>>() == ["0", "0"]
    };
    while !has_none() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let has_none = child.try_wait().unwrap().is_none() && has_none();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(has_none);
}

/// Runs age's own program, with `input` on its standard input.
fn age(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}");
    output.stdout
}

#[test]
fn age_decrypts_files_of_kpull_and_kpull_decrypts_files_of_age() {
    let world = World::new();
    let path = |name: &str| world.key(name).to_str().unwrap().to_owned();
    let native = String::from_utf8(age("age-keygen", &[], b"")).unwrap();
    fs::write(path("native"), &native).unwrap();
    let public = native.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap();
    let rsa = path("rsa");
    let made =
        Command::new("ssh-keygen").args(["-q", "-N", "", "-t", "rsa", "-b", "2048", "-f", &rsa]).status().unwrap();
    assert!(made.success());
    let rsa_public = fs::read_to_string(format!("{rsa}.pub")).unwrap();
    let operator = fs::read_to_string(world.key("operator.pub")).unwrap();
    let keys = [public, rsa_public.trim(), operator.trim()];
    world.site.file("site.toml", format!("name = \"test\"\n[secrets]\nrecipients = {keys:?}\n"));
    world.operator("rekey --yes").exits(0);
    let encrypted = world.site.path().join("secrets/db.age");
    for key in ["native", "rsa", "operator", "h1"] {
        let plain = age("age", &["--decrypt", "-i", &path(key), encrypted.to_str().unwrap()], b"");
        assert_eq!(plain, DB.as_bytes(), "{key}");
    }
    // armoured or not, to keys of each kind
    for (armor, key) in [("--armor", "native"), ("--armor", "rsa"), ("--encrypt", "operator")] {
        let recipient = match key {
            "native" => public,
            "rsa" => rsa_public.trim(),
            _ => operator.trim(),
        };
        let text = format!("by age to {key}\n");
        fs::write(&encrypted, age("age", &[armor, "-r", recipient], text.as_bytes())).unwrap();
        let shown = world.secret(&format!("show db --identity {}", path(key))).exits(0);
        assert_eq!(shown.stdout, text);
    }
}

#[test]
fn a_preview_shows_no_change_only_because_it_has_no_key_to_compare() {
    let world = World::new();
    world.site.role(
        "app",
        &format!("{ROLE}\n[[file]]\npath = \"/etc/app/coded\"\ncontent = \"{{{{ password | b64encode }}}}\"\n"),
    );
    world.site.sign();
    let tree = world.host("h1");
    tree.kpull("apply").exits(0);
    let preview = |code: i32| {
        let dir = world.site.path().to_str().unwrap();
        tree.kpull(&format!("plan --json --host h1 --site {dir}")).exits(code)
    };
    let same = preview(0);
    assert_eq!(same.changed(), [""; 0]);
    let uncompared = same.events("done")[0]["uncompared"].as_array().unwrap().clone();
    for id in [
        "file:/etc/app/env",
        "template:/etc/app/app.conf",
        "block:/etc/app/block#db",
        "line:/etc/app/line#db",
        "setting:/etc/app/setting.json#db.password",
        "secret:db",
        "file:/etc/app/coded",
    ] {
        assert!(uncompared.iter().any(|known| known == id), "{id}: {uncompared:?}");
    }
    // the text around a secret is compared, and so is text without one
    world.site.file("roles/app/templates/app.conf", "# new\npassword = {{ password }}\n");
    let role = fs::read_to_string(world.site.path().join("roles/app/role.toml")).unwrap();
    world.site.file(
        "roles/app/role.toml",
        role.replace("nothing to hide", "nothing more to hide").replace("\"0640\"", "\"0600\""),
    );
    let changed = preview(2).changed();
    assert_eq!(changed, ["template:/etc/app/app.conf", "template:/etc/app/shared.conf", "file:/etc/app/plain"]);
    // a host that lacks one gets it
    fs::remove_file(tree.at("etc/app/env")).unwrap();
    assert!(preview(2).changed().contains(&"file:/etc/app/env".to_owned()));
}
