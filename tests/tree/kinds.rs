//! Every kind: what `check` says about a mistake, and where the mistake is.

use std::collections::BTreeSet;

use kpull::kind::KINDS;

use crate::support::site::{Site, kpull};

/// What `check` says of a role with these entries: the first error and its place in the role's file.
fn reported(entries: &str) -> [String; 2] {
    let site = Site::new("test");
    site.role("web", entries).file("roles/web/templates/t", "").file("roles/web/files/d/f", "");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"web\"]\n");
    let error = kpull(&["check", "--json", "--site", site.path().to_str().unwrap()]).exits(1).events("error").remove(0);
    let place = format!("{}:{}:{}", error["file"].as_str().unwrap_or_default(), error["line"], error["column"]);
    [error["error"].as_str().unwrap().to_owned(), place.replace("roles/web/role.toml:", "")]
}

/// An entry of each kind with one mistake; the entry begins in line 2.
const MISTAKES: &[(&str, &str, &str)] = &[
    ("[[absent]]\npath = \"/a/../b\"", "3:8", "must be written without `.`, `..`"),
    ("[[artifact]]\nname = \"tool\"\ninstall = { \"a/\" = \"/opt/a\" }\nexclusive = 1", "5:13", "expected a boolean"),
    ("[[artifact]]\nname = \"tool\"\ninstall = { \"a/\" = \"/opt/a\" }", "3:8", "the artifact `tool` is not pinned"),
    ("[[block]]\npath = \"/a\"\nname = \"n\"\ncontent = \"x\"\nvalidate = [\"true\"]", "6:12", "with %s for the path"),
    ("[[certificate]]\nname = \"etcd\"\ndns = \"h\"", "4:7", "expected a sequence"),
    ("[[checkout]]\npath = \"/srv/a\"\nurl = \"https://h/a\"\ncommit = \"main\"", "5:10", "`main` is not a commit"),
    ("[[command]]\nname = \"c\"\nrun = [\"true\"]\non_change_of = \"file:/a\"", "5:16", "expected a sequence"),
    (
        "[[command]]\nname = \"c\"\nrun = [\"true\"]\non_change_of = [\"file:/a\"]",
        "2:1",
        "`command:c` watches `file:/a`, but this host has no such resource",
    ),
    ("[[directory]]\npath = \"/a\"\nmode = \"rwx\"", "4:8", "`rwx` is not a mode"),
    ("[[etcd_key]]\nkey = \"/a\"\nvalue = 1", "4:9", "expected a string"),
    ("[[etcd_member]]\nname = 1", "3:8", "expected a string"),
    ("[[file]]\npath = \"/a\"\ncontent = \"x\"\nvalidate = [\"visudo\", \"-c\"]", "5:12", "with %s for the path"),
    ("[[filesystem]]\ndevice = \"/dev/x\"\ntype = \"xfs\"\nuuid = \"X\"", "5:8", "write it as `uuidgen` does"),
    ("[[firewall]]\nports = [\"80\"]", "3:10", "`80` is not a port"),
    ("[[group]]\nname = \"ops\"\nmembers = [\"-a\"]", "4:12", "`-a` is not an account name"),
    ("[[group]]\nname = \"root\"\nstate = \"absent\"", "4:9", "the group root can't be removed"),
    ("[[kube_object]]\nserver = 1", "3:10", "expected a string"),
    ("[[line]]\npath = \"/a\"\nline = \"a\"\nregex = \"^b\"", "5:9", "it does not match `line`"),
    ("[[line]]\npath = \"/a\"\nline = \"a\"\nvalidate = []", "5:12", "with %s for the path"),
    ("[[module]]\nname = \"a b\"", "3:8", "a module's name consists of letters"),
    ("[[mount]]\nwhere = \"/a\"\nwhat = \"tmpfs\"\noptions = [\"a b\"]", "5:11", "each option is one word"),
    ("[[mount]]\nwhere = \"/a\"\nwhat = \"tmpfs\"\nidle = \"1m\"", "5:8", "set `automount` too"),
    ("[[nftables]]\nname = \"a-b\"\ncontent = \"\"", "3:8", "a table's name has at most 64 letters"),
    ("[[nftables]]\nname = \"a\"\nfamily = \"inet4\"\ncontent = \"\"", "4:10", "unknown variant `inet4`"),
    ("[[package]]\nname = \"a\"\nstate = \"latest\"", "4:9", "require a `version`"),
    ("[[package]]\nname = \"a\"\nversion = \"-1\"", "4:11", "version"),
    ("[[package]]\nname = \"a\"\nstate = \"absent\"\nhold = true", "5:8", "only a package that is present"),
    ("[[package]]\nname = \"a\"\ndebconf = { \"a/b\" = \"true\" }", "4:11", "`debconf-show PACKAGE`"),
    ("[[package]]\nname = \"a\"\nmodule = \"nodejs\"", "4:10", "write the name and the stream"),
    ("[[permissions]]\npath = \"/a\"\ncapabilities = \"cap_none=ep\"", "4:16", "`cap_none` is not a capability"),
    ("[[probe]]\nname = \"p\"\nhttp = \"x\"", "4:8", "relative URL"),
    (
        "[[repository]]\nname = \"r\"\nformat = \"apt\"\nurls = [\"https://h/\"]\nsuites = [\"s\"]\nkey_text = \"x\"",
        "7:12",
        "this is not an OpenPGP public key",
    ),
    (
        "[[repository]]\nname = \"r\"\nformat = \"dnf\"\nurls = [\"h/\"]\nkey_text = \"x\"",
        "5:8",
        "`h/` is not an address",
    ),
    (
        "[[repository]]\nname = \"r\"\nformat = \"zypper\"\nurls = [\"https://h/\"]\nsuites = [\"s\"]\nkey_text = \"x\"",
        "6:10",
        "only repositories of apt have this",
    ),
    ("[[secret]]\nname = \"none\"\npath = \"/a\"", "3:8", "there is no secret `none`"),
    ("[[selinux]]\nport = \"80\"\ntype = \"a_t\"", "3:8", "write it like `8443/tcp`"),
    ("[[selinux]]\nfcontext = \"srv\"\ntype = \"a_t\"", "3:12", "an expression for complete paths"),
    ("[[selinux]]\nboolean = \"a\"\non = true\ntype = \"a_t\"", "5:8", "it does not apply to a boolean"),
    ("[[setting]]\npath = \"/a.conf\"\nkey = \"a\"\nvalue = 1", "3:8", "set `format`"),
    ("[[setting]]\npath = \"/a.json\"\nkey = \"a b\"\nvalue = 1", "4:7", "a key is written as in TOML"),
    ("[[setting]]\npath = \"/etc/default/a\"\nkey = \"a.b\"\nvalue = 1", "4:7", "has no sections"),
    ("[[setting]]\npath = \"/a.ini\"\nkey = \"a\"\nvalue = [1]", "5:9", "in this format, a value is a text"),
    ("[[setting]]\npath = \"/a.yaml\"\nkey = \"a\"\nvalue = 1\nvalidate = [\"%s\"]", "6:12", "with %s for the path"),
    ("[[setting]]\npath = \"/a.toml\"\nkey = \"a\"", "4:7", "set `value`"),
    ("[[slot]]\nname = 1", "3:8", "expected a string"),
    ("[[swap]]\nfile = \"/swap\"\nsize = \"2T\"", "4:8", "`2T` is not a size"),
    ("[[symlink]]\npath = \"a\"\ntarget = \"b\"", "3:8", "`a` is not an absolute path"),
    ("[[sysctl]]\nname = \"a b\"\nvalue = 1", "3:8", "write it like `net.ipv4.ip_forward`"),
    ("[[system]]\nhostname = \"a_b\"", "3:12", "a host's name has at most 64"),
    ("[[system]]\ntimezone = \"../UTC\"", "3:12", "write a zone like `Europe/Berlin`"),
    ("[[system]]\nlocale = \"C X\"", "3:10", "write a locale like"),
    ("[[system]]\nkeymap = \"/de\"", "3:10", "write a keymap like"),
    ("[[template]]\npath = \"/a\"\ntemplate = \"t\"\nvalidate = [\"true\"]", "5:12", "with %s for the path"),
    ("[[tree]]\npath = \"/a\"\nsource = \"e\"", "4:10", "roles/web/files/e/ is empty or does not exist"),
    ("[[unit]]\nname = \"a.container\"\ncontent = \"[Container]\\nImage=h/a:1\"", "4:11", "the image has no digest"),
    ("[[unit]]\nname = \"a.image\"\ncontent = \"[Image]\"", "4:11", "the file names no image"),
    ("[[user]]\nname = \"ann\"\nauthorized_keys = [\"x\"]", "4:19", "is not a public key"),
    ("[[user]]\nname = \"ann\"\nexpires = \"soon\"", "4:11", "`soon` is not a date"),
    ("[[user]]\nname = \"ann\"\npassword_hash = \"x\"", "4:17", "anyone who reads the site"),
    ("[[user]]\nname = \"ann\"\nsudo = \"\"", "4:8", "write each rule as in sudoers(5)"),
    ("[[user]]\nname = \"ann\"\non_removal = \"delete\"", "4:14", "unknown variant `delete`"),
    ("[[user]]\nname = \"root\"\nstate = \"absent\"", "4:9", "root can't be removed or locked"),
    ("[[validate]]\nrun = [\"nginx\"]\npaths = [\"/etc/nginx/*\"]", "4:9", "write the full path of a directory"),
    (
        "[[file]]\npath = \"/a\"\ncontent = \"x\"\nnotify = [\"restart:none.service\"]",
        "2:1",
        "but this host has no such resource",
    ),
    (
        "[[file]]\nfor_each = 1\npath = \"/a\"\ncontent = \"x\"",
        "3:12",
        "write a list, a table, or a text with an expression",
    ),
    ("[types.a]\ntype = \"sting\"\n[vars]\na = 1", "3:8", "sting"),
    ("[facts.a]\ntype = { type = \"text\", min = \"1\" }\ndefault = \"x\"", "3:31", "min"),
];

#[test]
fn a_mistake_in_each_kind_is_found_by_check_at_its_field() {
    let mut kinds: BTreeSet<&str> = KINDS.iter().map(|kind| kind.name).collect();
    let mut wrong = Vec::new();
    for (entry, place, words) in MISTAKES {
        let [error, found] = reported(&format!("{entry}\n"));
        if found != *place || !error.contains(words) {
            wrong.push(format!("{entry}\n  expected at {place}: {words}\n  found at {found}: {error}"));
        }
        kinds.retain(|kind| !entry.starts_with(&format!("[[{kind}]]")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(kinds, BTreeSet::new(), "each has a mistake here");
}
