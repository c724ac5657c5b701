//! The classes of what can go wrong, each under a code that stays: what it means, why it comes, what to do.
//!
//! Every error names its code where it is made.

/// A class of errors.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    /// What it is looked for by: `trust.expired`.
    pub name: &'static str,
    /// What it means, in a sentence.
    pub means: &'static str,
    /// How it comes to that.
    pub why: &'static str,
    /// What to do.
    pub advice: &'static str,
    /// A message of this class, or a few lines that mend it.
    pub example: &'static str,
}

macro_rules! codes {
    ($($id:ident $name:literal $means:literal $why:literal $advice:literal $example:literal)*) => {
        $(
            #[doc = $means]
            pub const $id: &Code =
                &Code { name: $name, means: $means, why: $why, advice: $advice, example: $example };
        )*
        /// Every code, as the documentation lists them.
        pub static ALL: &[&Code] = &[$($id),*];
    };
}

codes! {
    CONFIG "host.config"
        "kpull.toml can't be used."
        "It is not there, is not TOML, or says two things that exclude each other."
        "Correct the file at the place that is named; `kpull enroll` writes one. `kpull self-test` reads it and changes nothing."
        "[trust] sets both `allowed_signers` and `keys`"
    ENROLL "host.enroll"
        "A host can't be enrolled in this way."
        "The source has no release, the keys that are named did not sign it, or the host is enrolled already."
        "Compare the address and the fingerprints with those of whoever signs; `--replace` writes a new kpull.toml, `--accept-serial` takes an older release on purpose."
        "kpull enroll https://releases.example --site k8s --fingerprint SHA256:…"
    NAME "host.name"
        "The host does not know what it is called in the site."
        "Neither kpull.toml nor the machine has a name."
        "Set `host` in kpull.toml, or say `--host NAME`."
        "host = \"master1\""
    RIGHTS "host.rights"
        "The operating system does not let kpull do this."
        "It runs as somebody else than root, or something (SELinux, a read-only unit setting) takes rights away even from root."
        "Run it as root, or work on a tree of your own with `--root DIR`."
        "can't look into the state directory /var/lib/kpull: Permission denied"
    SPACE "host.space"
        "The file system is full, or a quota is."
        "Space, inodes or a quota are used up where kpull writes."
        "Free some (`df -h`, `df -i`, `kpull gc`); the next run goes on from there. Nothing was written in half."
        "can't write /etc/app.conf: No space left on device"
    DISK "host.disk"
        "The disk or the file system fails."
        "It is mounted read-only, or it answers with I/O errors; the kernel mounts a failing disk read-only by itself."
        "`dmesg` says more; run again when that is mended."
        "can't write /etc/app.conf: Read-only file system"
    LIMIT "host.limit"
        "kpull may not use as much as it needs."
        "A limit on open files or on memory is too low for this host's release."
        "Raise `LimitNOFILE=` or `MemoryMax=` of kpull.service, or `ulimit -n`."
        "can't open /etc/app.conf: Too many open files"
    BUSY "host.busy"
        "Another kpull is at work on this host."
        "The timer's run, or somebody else's, holds the lock."
        "Wait for it (`systemctl status kpull`) and try again; exit code 75 says the same."
        "another kpull is at work on this host"
    STORE "host.state"
        "The state directory can't be read or written, or something in it is damaged."
        "Somebody edited or deleted files below /var/lib/kpull, or the disk lost them."
        "Do what the message says; what is lost is fetched again from the sources, and whom the host trusts is written in kpull.toml."
        "/var/lib/kpull/last-run.json is damaged"
    GENERATION "host.generation"
        "There is no such generation here, or its release is not kept any more."
        "Generations are kept as `[keep]` in kpull.toml says; the host may have had fewer."
        "`kpull history` lists what there is."
        "kpull history"
    HELD "host.held"
        "A resource can't be held, let go or disowned."
        "The host has no resource of this id, or it is not held."
        "`kpull graph` lists the ids of this host's resources; `kpull hold` alone lists what is held."
        "kpull hold file:/etc/app.conf --for 8h --reason 'ticket 4711'"
    FACTS "host.facts"
        "Something about this machine can't be found out."
        "A file of the system (os-release, /proc) is missing or not as it should be, or a tree is asked for what only a machine has."
        "Look at the file that is named; a site can ask for fewer facts."
        "/etc/os-release does not say which system this is: it has no ID"

    SITE "site.files"
        "The directory is no site, or one of its files is not where it should be."
        "A site is a directory with site.toml, roles/ and host_vars/; names there may be misspelt."
        "Say `--site DIR`, or correct the name at the place that is shown."
        "there is no site.toml"
    SYNTAX "site.syntax"
        "A file of the site can't be read as what it should be."
        "It is not TOML, has an unknown key, lacks a field, or a value has another type."
        "The place is shown; `kpull check` finds all of them at once."
        "unknown key `reload_wehn`"
    ROLE "site.role"
        "A role's own file does not hold together."
        "It lacks a summary, requires what it has a default for, or lists something that is no resource."
        "Compare with another role, and with the page on writing roles."
        "there is no roles/web/role.toml"
    FIELD "site.field"
        "A resource can't be made of the fields that the role gives it."
        "A value is not what the kind needs, two fields exclude each other, or a file that is named is missing."
        "The kind's page lists its fields; `kpull explain HOST VARIABLE` tells where a value comes from."
        "`path` of this file can't be used: it has to start with `/`"
    CLASH "site.clash"
        "Two resources decide about the same thing."
        "Two roles, or one role twice, want the same path, user, package or unit; only one can."
        "Keep one of them, or give a part to each with `[[block]]`."
        "two roles decide about `/etc/hosts`: base and dns"
    UNKNOWN "site.reference"
        "A resource waits for or watches another one that is not on this host, or they wait in a circle."
        "`after`, `before`, `restart_when`, `reload_when` and slots name ids; the id is misspelt, or the role that has it is not used here."
        "`kpull graph HOST` lists the ids."
        "`unit:etcd.service` watches `template:/etc/etcd/etcd.evn`, and there is no such resource on this host"
    VARIABLE "site.variable"
        "A variable is not set, needs itself, or is not what a role needs it to be."
        "Nobody gives it a value: neither the role, nor a group, nor host_vars; or `[types]` or an `[[assert]]` of a role refuses it."
        "Set it under `[vars.ROLE]` in host_vars/HOST.toml, or in a group; `kpull explain` shows the layers."
        "`prot` is not defined"
    TEMPLATE "site.template"
        "A template or an expression can't be rendered."
        "Its syntax is wrong, it calls a function that is not there, or it takes too long."
        "The place is shown; the page on writing roles lists functions and filters."
        "there is no template `web.cnf` in the role"
    PIN "site.pin"
        "artifacts.toml does not pin an upstream file as it should."
        "A digest, an address, a size or an architecture is missing or misspelt."
        "`kpull pin URL` writes it."
        "the artifact etcd is not pinned for any architecture"
    LINT_PROGRAM "check.program"
        "A unit starts a program that nothing installs."
        "No artifact, file, link or package of this host puts it there."
        "Add what installs it, or correct the path."
        "etcd.service runs /usr/k8s/bin/etdc, which nothing installs"
    LINT_FLAG "check.flag"
        "A program gets a flag that its pinned version does not have."
        "The version was changed and the role was not, or the flag is misspelt."
        "Correct the flag, or the role's table of flags."
        "etcd 3.2.9 has no flag `--client-cret-auth`"
    LINT_UNIT "check.unit"
        "A unit names another unit that there is not."
        "The name is misspelt, or what brings it is missing on this host."
        "Correct the name, or add the role or package."
        "etcd.service says After=netwrok-online.target, and there is no such unit"
    LINT_PORT "check.port"
        "The firewall and what listens do not fit."
        "A port is listened at and shut, or open and nobody listens."
        "Add a `[[firewall]]`, or correct `listens` of the unit."
        "etcd.service listens at 2379/tcp, and no [[firewall]] lets that in"
    LINT_CERTIFICATE "check.certificate"
        "A certificate is not for the name or address that it is asked by."
        "`dns` or `ip` of the `[[certificate]]` lack it."
        "Add it there, then `kpull pki issue`."
        "[[certificate]]\nname = \"kube-apiserver\"\nip = [\"10.0.0.9\"]"

    LINT_SECRET "check.secret"
        "A secret is where others than its readers can see it."
        "It is in a file that every user reads, in a unit, in a command's arguments, or in an object of a cluster that is no Secret."
        "Do what the message says: a mode without reading for others, a credential of the unit, the command's `env`."
        "the secret db is in `mode` of `file:/etc/app`, which every user of the host can read"
    LINT_HOST "check.host"
        "A host of the site can't be meant like this."
        "Two have one address or key, one has no role, or no host can be called so."
        "Correct its file in host_vars/, or rename that."
        "node2 and node1 have one address, 10.0.0.1"

    SIGNATURE "trust.signature"
        "A release is not signed by those whom this host believes."
        "The signature is missing or wrong, too few have signed, or the key is not allowed, not valid now, or revoked."
        "Have the right people sign (`kpull sign`); `kpull keys show` tells who they are. The host stays on its last good release."
        "no signature of the release is good: it is signed by a key that is not allowed"
    TAMPERED "trust.tampered"
        "A file is not the one that was signed."
        "It was changed after signing, on purpose or on its way, or the source is in the middle of an update."
        "Sign again if the change was yours; else find out who changed it. The host stays on its last good release."
        "roles/base/role.toml is not the file that was signed: its SHA-256 differs"
    EXPIRED "trust.expired"
        "A release is too old to be taken."
        "Nobody signed anew in time, or somebody holds newer releases back, or the clock is wrong."
        "`kpull sign --renew`, and publish; compare the host's clock."
        "the release (serial 5) expired at 2026-11-24T05:39:17Z"
    SERIAL "trust.serial"
        "A release is older than one that was seen here, or another one of the same number."
        "The source went back, by mistake or because somebody wants the host to; or two people signed at the same time."
        "Sign a newer one; `kpull enroll --accept-serial` takes an older one on purpose, `kpull rollback` goes back on the host."
        "the release has serial 3, and 4 was seen here before"
    CLOCK "trust.clock"
        "The host's clock can't be right."
        "It says a time before a release was signed that the host has seen or is to take."
        "Set the clock (`timedatectl`), then run again."
        "this host's clock says 2020-01-01T00:00:00Z, and a release was signed at 2026-11-24T05:39:17Z"
    KEYS "trust.keys"
        "A set of keys is not as it should be, or does not follow the one before it."
        "It is signed by too few of the old set, has another number, or was edited after signing."
        "`kpull keys show` tells what counts; `kpull keys new` and `kpull keys sign` make the next."
        "key set 2 is not signed: there is no keys/2.toml.sig"
    MANIFEST "trust.manifest"
        "release.toml can't be read."
        "It was not written by `kpull sign`, or by a newer kpull than this one."
        "Sign the site anew, or update kpull."
        "the release does not say which format it has"
    SIGN "trust.sign"
        "A site can't be signed."
        "The key can't be used, ssh-keygen failed, or the release would be one that hosts refuse."
        "Compare `--key` with the site's signers, and run `kpull check`."
        "/root/.ssh/release is not an OpenSSH key"
    MEMORY "trust.memory"
        "What this host remembers of releases and keys contradicts what it is told."
        "The state directory was deleted or put back from a backup, or `site`, `host` or the keys in kpull.toml were changed."
        "Put the configuration back, or enrol the host anew if you mean it: `kpull enroll`."
        "the state directory has forgotten what /etc/kpull/trust.toml remembers"

    SOURCE "source.config"
        "A source is not described as it should be, or has more than it may."
        "A `[[source]]` says two kinds at once or none, or a file in it is too large or has a bad path."
        "A source has one of `git`, `http` and `dir`."
        "a source says neither `git`, nor `http`, nor `dir`"
    GIT "source.git"
        "A git repository can't be asked, or what it has can't be used."
        "The address, the credentials or the host key are wrong, the server does not answer, or the branch or tag is not there."
        "Try `git ls-remote ADDRESS` as root on the host."
        "git ssh://git@example/site can't be reached over ssh"
    HTTP "source.http"
        "A web server does not have a release where it should be."
        "The address is that of something else, or what is there was not put there by `kpull publish`."
        "Look at ADDRESS/current.toml with curl; publish again."
        "there is neither https://releases.example/current.toml nor release.toml"
    DIR "source.dir"
        "A directory can't be used as a source."
        "It is not there, somebody else may write to it, or it changes while it is read."
        "It has to be root's, and so has everything above it."
        "/srv/site has no release.toml"
    NET "net.failed"
        "A server could not be asked."
        "Its name does not resolve, it does not answer, TLS fails, or it answers with an error or too slowly."
        "Try the address with curl on this host: DNS, route, firewall, proxy, authorities. The next run tries again."
        "GET https://releases.example: no connection"
    CHANGED "net.changed"
        "A file has changed on its server while it was downloaded."
        "Somebody has put another one in its place; parts of both would not be a file."
        "The next run asks again. A pinned file that is replaced belongs under another name."
        "GET https://releases.example/tool.tar.gz: the file has changed while it was downloaded"
    MISSING "net.missing"
        "A server has no such file."
        "The file was removed or renamed there, or a mirror has not been filled with it yet."
        "Fill the mirror (`kpull mirror`), or correct the address in artifacts.toml."
        "https://releases.example/tool.tar.gz is not there"
    SANDBOX "net.sandbox"
        "The process that talks to the network could not be started or was ended."
        "The kernel refused what keeps it apart or lacks what [sandbox] in kpull.toml requires, it was killed (memory), or it asked for something that it must not."
        "Look at `journalctl -k`; the page on the sandbox lists what it needs, and `kpull status` shows what this host lacks."
        "git https://example/site: the process that asks it failed"

    SECRET "secret.read"
        "A secret can't be read."
        "It is not in the site, is not encrypted to this host or to you, or the key or passphrase is wrong."
        "`kpull secret list` tells who reads it; `kpull secret rekey` encrypts it to those who use it."
        "the secret db-password is not for master2: it is encrypted to master1"
    DESK "secret.write"
        "A secret can't be written."
        "There is nobody to encrypt it to, it is empty or too large, or the editor failed."
        "Hosts and operators are who `recipient` in host_vars and `recipients` in site.toml say; `kpull secret set NAME` reads from a prompt or standard input."
        "kpull secret set db-password --generate"
    LITERAL "secret.literal"
        "Something that looks like a secret stands in the site as it is."
        "A password, token or private key was written into a role, a template or host_vars."
        "Move it with `kpull secret set NAME`, and write `{{ secret('NAME') }}`; it is known to everybody with the repository now, so change it."
        "password = \"hunter2\""
    PKI "pki.failed"
        "An authority, a key pair or a certificate can't be made, read or used."
        "It is missing in the site, is not what the roles want now, or its key can't be decrypted by you."
        "`kpull pki list` shows how all stand; `kpull pki init` and `kpull pki issue` make what is missing."
        "kpull pki issue"
    ARTIFACT "artifact.failed"
        "An upstream file can't be used."
        "No mirror has it, its digest is another one than pinned, it is damaged, or it lacks a member that a role installs."
        "`kpull check --artifacts` asks every address and looks for members. Never change a digest without knowing why it differs."
        "etcd-v3.2.9-linux-amd64.tar.gz: is damaged"
    SUPPLY "artifact.supply"
        "Files can't be pinned, mirrored or published."
        "The address does not answer, checksums differ, or the place to publish to has a newer release or refuses."
        "Do what the message says; nothing that hosts use was half replaced."
        "kpull publish /srv/releases"

    FILE "resource.file"
        "A file, directory or link can't be made as the role wants it."
        "Something else is in its place, a directory above it is missing, or the kernel refused."
        "Look at the path; what stands in the way can be moved, or removed with an `[[absent]]`."
        "/etc/app is a directory or a device, and the role wants a file there"
    ACCOUNT "resource.account"
        "A user or group can't be made or changed."
        "A number is taken, another service (LDAP, systemd-homed) has the account, or the files of accounts are locked or damaged."
        "Look at /etc/passwd and /etc/group, which `pwck` and `grpck` check; `getent passwd NAME` and `getent group NAME` show what the host knows."
        "the group etcd can't have the number 999: docker has it"
    PACKAGE "resource.package"
        "A package can't be installed or removed."
        "Its repository does not answer or does not have it, the package manager is at work for somebody else, or failed."
        "Run the package manager by hand; the next run goes on."
        "can't remove haproxy"
    UNIT "resource.unit"
        "systemd can't do what a unit is to do."
        "It does not start, is masked, its file has a mistake, or systemd does not answer."
        "`systemctl status UNIT` and `journalctl -u UNIT` tell more; the message ends with the unit's last lines."
        "unit etcd.service failed to start"
    FIREWALL "resource.firewall"
        "firewalld can't be made what the role says."
        "It does not answer, or its own files have a mistake."
        "`firewall-cmd --state` and `firewall-cmd --check-config` tell more."
        "firewalld is not running"
    COMMAND "resource.command"
        "A program failed that a role runs or that kpull needs."
        "It is not there, ended with an error, or took too long."
        "Run it by hand as root with the same arguments; its last lines are in the message."
        "can't run mkfs.xfs: there is no such program"
    KERNEL "resource.kernel"
        "A kernel setting, a module or swap can't be as the role wants it."
        "The kernel has no such setting or module, or refuses the value."
        "Try `sysctl -w` or `modprobe` by hand."
        "this kernel has no setting net.ipv4.ip_forwrad"
    CREDENTIAL "resource.secret"
        "A secret or certificate can't be put in its place."
        "Its fields do not fit together, systemd-creds failed, or the certificate is not for the host's key."
        "Do what the message says; for certificates, `kpull pki list` tells how they stand."
        "kpull pki list"
    KUBE "cluster.kubernetes"
        "An object of the cluster can't be what the role says."
        "The API server does not answer or refuses, a kind or a namespace is missing, or somebody else changes the object."
        "`kpull verify` tells which part of the cluster is not well; try `kubectl apply` by hand."
        "Deployment/web can't be applied: there is no namespace web"
    ETCD "cluster.etcd"
        "etcd can't be asked, or a member can't join."
        "No endpoint answers, the certificate has no rights, or the cluster refuses the member."
        "`etcdctl endpoint health` with the same certificates; a quorum has to be there before a member joins."
        "etcd refuses to handle the key /kubernetes/network/config"
    SLOT "cluster.slot"
        "The slot that is needed before a restart is another host's."
        "Only one host at a time restarts such a unit; the other one has not given it back."
        "The next run tries again; a slot whose host died ends by itself with its lease."
        "the slot etcd can't be had: master2 has had it since 2026-11-24T05:39:17Z"
    PROBE "health.probe"
        "A probe does not pass, or can't be asked."
        "What was applied does not work (yet): a service does not answer as it should."
        "`kpull verify NAME` asks again; then look at the unit's journal. The release stays applied, or the host is back on the last good one."
        "probe:etcd master1 does not pass"
    BACK "health.back"
        "A release was not good for this host, which is back on an earlier one."
        "A change could not be made, a unit or a probe was not well, or the host was cut off after it."
        "Read why in the message, mend the site, sign a newer release; `kpull apply --retry` tries this one again."
        "release 42 was not good for this host, which is back on release 41"
    EDIT "site.edit"
        "Something that is to be made, formatted, compared or tried out in a site can't be."
        "There is such a file already, a file is not TOML, or an example expects what is not there."
        "Look at the place that is named; nothing was written."
        "roles/web/role.toml is there already"
    VENDOR "site.vendor"
        "A role of another site can't be taken, or is not what was taken."
        "vendor.toml names what is not there, the release at that commit is of another site, or somebody edited a role that was taken."
        "Do what the message says at the place that is shown; nothing was written. `kpull vendor` takes roles anew."
        "roles/web/role.toml was edited: it is not what was taken"
    HOOK "fleet.hook"
        "A hook was not told, or can't be."
        "Its program fails or takes too long, the server it posts to does not take it, or the table says two things that exclude each other."
        "Run the program by hand, or look at the server; a run is not disturbed by it."
        "the hook notify failed: exit status: 1"
    ROLLOUT "fleet.rollout"
        "Nobody can tell whose turn it is with a new release."
        "The site has a [rollout] that names what is not there, or this host can't read how the others are."
        "Correct the table in site.toml at the place that is named; set [status] in kpull.toml. `kpull apply --now` takes the release all the same."
        "this site has a [rollout], and this host can't read how the others are"
    ADOPT "site.adopt"
        "What is on this host can't be made into a role as it is."
        "Something that was named is not there, is too large for a site, is not for everybody, or there is such a role already."
        "Leave it out, or do what the message says; nothing was written."
        "/etc/app/closed.conf is not for everybody here, and a site can be read by many"
    FLEET "fleet.failed"
        "The status of hosts can't be told or read."
        "The directory or etcd can't be reached, or a record is not signed by its host."
        "Compare `[status]` in kpull.toml with where `kpull fleet` looks."
        "[status] says nowhere to tell it"
    EXPLAIN "usage.name"
        "What was asked for is not there."
        "A name on the command line is misspelt."
        "Do as the message says: it names what is nearest."
        "nothing sets `etcd.client_prt` for master1"
    OTHER "kpull.other"
        "Something else went wrong."
        "It is of no class of its own."
        "The message says what is known."
        "kpull-demo is not a demo's directory"
}

/// The code of this name.
pub fn find(name: &str) -> Option<&'static Code> {
    ALL.iter().copied().find(|code| code.name == name)
}

impl Code {
    /// All that is known of it, as Markdown.
    pub fn to_markdown(&self) -> String {
        format!(
            "{}\n\n*Why.* {}\n\n*What to do.* {}\n\n```text\n{}\n```\n",
            self.means, self.why, self.advice, self.example
        )
    }
}

/// The page of the documentation that lists every code.
pub fn page() -> String {
    let mut page = "# Errors\n\nEvery error has a code that stays when its words change: look for it here, or ask `kpull help CODE`. With \
                    `--json` it is\n`code`, in the journal `KPULL_CODE`.\n"
        .to_owned();
    for code in ALL {
        page.push_str(&format!("\n## {}\n\n{}", code.name, code.to_markdown()));
    }
    page
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    /// The text of every file of this program.
    fn sources(dir: &Path) -> Vec<String> {
        let read = |path: PathBuf| match path.is_dir() {
            true => sources(&path),
            false => vec![std::fs::read_to_string(&path).unwrap()],
        };
        std::fs::read_dir(dir).unwrap().flat_map(|entry| read(entry.unwrap().path())).collect()
    }

    #[test]
    fn every_code_is_used() {
        let sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
        let own = include_str!("code.rs");
        for code in ALL {
            let (before, _) = own.split_once(&format!(" \"{}\"\n", code.name)).unwrap();
            let name = before.rsplit(char::is_whitespace).next().unwrap();
            let uses =
                |text: &String| text.contains(&format!("code::{name},")) || text.contains(&format!("code::{name})"));
            assert!(sources.iter().any(uses), "{} is used nowhere: remove it", code.name);
        }
    }

    #[test]
    fn names_are_words_that_are_there_once() {
        let mut seen = std::collections::HashSet::new();
        for code in ALL {
            assert!(seen.insert(code.name), "{} is there twice", code.name);
            let (part, word) = code.name.split_once('.').unwrap();
            assert!([part, word].iter().all(|text| text.chars().all(|c| c.is_ascii_lowercase())), "{}", code.name);
            assert_eq!(find(code.name), Some(*code));
        }
    }

    #[test]
    fn the_page_is_what_the_program_says() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src/usage/errors.md");
        if std::env::var_os("KPULL_BLESS").is_some() {
            std::fs::write(&path, page()).unwrap();
        }
        assert!(
            std::fs::read_to_string(&path).unwrap() == page(),
            "KPULL_BLESS=1 writes docs/src/usage/errors.md anew"
        );
    }

    #[test]
    fn an_error_has_the_code_that_it_names_unless_the_kernel_tells_a_closer_one() {
        let own = crate::Error::new(SIGNATURE, "x");
        assert_eq!(own.code(), SIGNATURE);
        assert_eq!(own.with_code(EXPIRED).code(), EXPIRED);
        let full = std::io::Error::from_raw_os_error(nix::libc::ENOSPC);
        assert_eq!(crate::Error::of(FILE, "x", &full).code(), SPACE);
        let absent = std::io::Error::from_raw_os_error(nix::libc::ENOENT);
        assert_eq!(crate::Error::of(FILE, "x", &absent).code(), FILE);
    }
}
