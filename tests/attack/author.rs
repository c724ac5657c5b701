//! What somebody who writes a role, or a host's variables, can do to whoever checks the site before anybody has signed it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Output;

use crate::host::{key, kpull};

/// What only the operator may read.
const PRIVATE: &str = "the operator's own words";

/// A site with a role of the author's, and a file of the operator's beside it.
struct Site(tempfile::TempDir);

impl Site {
    fn new(role: &str) -> Self {
        let site = Self(tempfile::tempdir().unwrap());
        for (path, text) in [
            ("site/site.toml", "name = \"lab\"\n"),
            ("site/host_vars/a.toml", "address = \"10.0.0.1\"\nroles = [\"base\"]\n"),
            ("site/roles/base/role.toml", &format!("summary = \"x\"\n{role}\n")),
            ("private", PRIVATE),
        ] {
            fs::create_dir_all(site.path(path).parent().unwrap()).unwrap();
            fs::write(site.path(path), text).unwrap();
        }
        site
    }

    /// With one file of this content.
    fn with(content: &str) -> Self {
        Self::new(&format!("[[file]]\npath = \"/etc/x\"\ncontent = '''{content}'''"))
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn kpull(&self, arguments: &[&str]) -> Output {
        let mut command = kpull();
        command.args(arguments).arg("--site").arg(self.path("site")).output().unwrap()
    }

    /// The error of `kpull check`, which ends by itself and says nothing that is the operator's.
    #[track_caller]
    fn refused(&self) -> String {
        let output = self.kpull(&["check"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{} {text}", output.status);
        assert!(!text.contains(PRIVATE) && !text.contains("panicked"), "{text}");
        text
    }
}

#[test]
fn a_link_or_a_pipe_in_a_site_takes_no_file_of_the_signer_along() {
    let link = |site: &Site, at: &str, to: &Path| symlink(to, site.path("site/roles/base").join(at)).unwrap();
    for what in 0..4 {
        let site = Site::new("[[file]]\npath = \"/etc/x\"\nsource = \"x\"\n");
        fs::create_dir(site.path("site/roles/base/files")).unwrap();
        match what {
            0 => link(&site, "files/x", &site.path("private")),
            1 => link(&site, "files/x", Path::new("../../../../private")),
            2 => {
                fs::remove_dir(site.path("site/roles/base/files")).unwrap();
                link(&site, "files", site.0.path());
            }
            _ => nix::unistd::mkfifo(&site.path("site/roles/base/files/x"), nix::sys::stat::Mode::S_IRWXU).unwrap(),
        }
        assert!(site.refused().contains("is neither a file nor a directory"), "{what}");
        let path = site.path("key");
        key(1).write_openssh_file(&path, ssh_key::LineEnding::LF).unwrap();
        let output = site.kpull(&["sign", "--key", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "{what}: {output:?}");
        assert!(!site.path("site/release.toml").exists(), "{what}");
    }
}

#[test]
fn a_role_reads_no_file_outside_of_the_site_and_asks_nothing_of_the_machine() {
    for content in [
        "{% include '../../../../private' %}",
        "{% include '/etc/passwd' %}",
        "{% import '../../../../private' as x %}{{ x }}",
        "{% extends '../../../../private' %}",
        "{{ lookup('file', '/etc/passwd') }}",
        "{{ lookup('pipe', 'id') }}",
        "{{ env('HOME') }}",
        "{{ pki_file('../../private') }}",
        "{{ secret('../../private') }}",
    ] {
        Site::with(content).refused();
    }
    for role in [
        "[[template]]\npath = \"/etc/x\"\ntemplate = \"../../../../private\"",
        "[[file]]\npath = \"/etc/x\"\nsource = \"../../../../private\"",
        "[[file]]\npath = \"/etc/x\"\nsource = \"/etc/passwd\"",
        "[[secret]]\nname = \"../../../private\"\npath = \"/etc/x\"",
    ] {
        Site::new(role).refused();
    }
}

#[test]
fn an_expression_without_end_is_an_error_and_no_crash() {
    const MANY: usize = 60_000;
    let chains = [
        "not ".repeat(MANY) + "1",
        "1".to_owned() + &"|string".repeat(MANY),
        "1".to_owned() + &"~1".repeat(MANY),
        "a".to_owned() + &".a".repeat(MANY),
        "a".to_owned() + &"[0]".repeat(MANY),
        "a".to_owned() + &"()".repeat(MANY),
        "-".repeat(MANY) + "1",
        "1 if 1 else ".repeat(MANY) + "1",
        "1".to_owned() + &" is string".repeat(MANY),
        "1".to_owned() + &" and 1".repeat(MANY),
        // behind what looks like the end, or the beginning, of a block
        "'}}' ~ 1".to_owned() + &"~1".repeat(MANY),
        "'{{' ~ 1".to_owned() + &"~1".repeat(MANY),
        "{'a': {'b': 1}}".to_owned() + &".a".repeat(MANY),
    ];
    for chain in &chains {
        let start: String = chain.chars().take(20).collect();
        for content in [format!("{{{{ {chain} }}}}"), format!("x {{% if {chain} %}}x{{% endif %}}")] {
            assert!(Site::with(&content).refused().contains("operators"), "{start}");
        }
    }
    let chain = &chains[3];
    for role in [
        format!("[[file]]\npath = \"/etc/x\"\ncontent = \"x\"\nwhen = \"{chain}\""),
        format!("[[file]]\npath = \"/etc/x\"\ncontent = \"x\"\nfor_each = \"{chain}\""),
        format!("[[probe]]\nhttp = \"http://127.0.0.1:1/\"\nexpect = \"{chain}\""),
        format!("[vars]\nx = \"{{{{ {chain} }}}}\"\n[[file]]\npath = \"/etc/x\"\ncontent = \"{{{{ x }}}}\""),
    ] {
        assert!(Site::new(&role).refused().contains("operators"));
    }
    let site = Site::new("[[template]]\npath = \"/etc/x\"\ntemplate = \"x\"");
    fs::create_dir(site.path("site/roles/base/templates")).unwrap();
    let put = |name: &str, text: String| fs::write(site.path("site/roles/base/templates").join(name), text).unwrap();
    put("y", format!("{{{{ {chain} }}}}"));
    put("x", "{% include 'y' %}".to_owned());
    assert!(site.refused().contains("operators"));
    put("x", format!("{{{{ {chain} }}}}"));
    assert!(site.refused().contains("operators"));
}

#[test]
fn text_and_data_that_grow_without_end_are_errors() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
                d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n";
    for content in [
        "{% set ns = namespace(s='xxxxxxxxxxxxxxxx') %}{% for i in range(40) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}".to_owned(),
        "{{ 'x'.center(2000000000) }}".to_owned(),
        "{{ '%2000000000d' | format(1) }}".to_owned(),
        "{% set a = 'x' * 10000 %}{{ a | replace('x', a) | replace('x', a) }}".to_owned(),
        "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}".to_owned(),
        "{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}".to_owned(),
        "{{ ('[' * 100000) | from_json }}".to_owned(),
        "{{ ('[' * 100000) | from_yaml }}".to_owned(),
        format!("{{% set t %}}{bomb}{{% endset %}}{{{{ t | from_yaml }}}}"),
    ] {
        Site::with(&content).refused();
    }
    for role in [
        format!("[vars]\na = {deep}"),
        format!("[vars]\n{}a = 1", "a.".repeat(50_000)),
        format!("[vars.{}a]\nb = 1", "a.".repeat(50_000)),
        "[[file]]\npath = \"/etc/{{ item }}\"\ncontent = \"x\"\nfor_each = \"range(10000000)\"".to_owned(),
        format!(
            "[[kube_object]]\nserver = \"https://x\"\nca = \"/a\"\nclient_cert = \"/b\"\nclient_key = \"/c\"\ncontent = '''\n{bomb}'''"
        ),
    ] {
        Site::new(&role).refused();
    }
}
