//! What the author of a role, or of a host's variables, can do to an operator who checks the site before it is signed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use crate::attack::host::{key, kpull};

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

    /// The error of `kpull check`, which ends without help and quotes nothing of the operator's.
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
fn a_link_or_a_pipe_in_a_site_puts_no_file_of_the_signer_into_a_release() {
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
fn a_role_reads_no_file_outside_of_the_site_and_nothing_of_the_machine() {
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
fn an_endless_expression_is_an_error_and_no_crash() {
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
fn text_and_data_that_grow_endlessly_are_errors() {
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

#[test]
fn quotes_comments_and_raw_text_hide_no_endless_expression() {
    let chain = "~1".repeat(60_000);
    let part = "~1".repeat(1_900);
    for content in [
        format!("{{{{ 1{chain} ~ '{{{{' }}}}"),
        format!("{{{{ 1{chain} ~ '{{%' }}}}"),
        format!("{{{{- 1{chain} ~ '{{#' -}}}}"),
        format!("{{% set a = 1{chain} ~ '{{{{' %}}{{{{ a }}}}"),
        // what looks like many short ones
        format!("{{{{ 1{} }}}}", format!("{part} ~ '}}}}' ~ '{{{{'").repeat(30)),
        format!("{{{{ 1{} }}}}", format!("{part} ~ \"%}}\" ~ \"\\\"{{%\"").repeat(30)),
        format!("{{{{ 1{} }}}}", format!("{part} ~ {{'a': {{}}}}.a ~ '{{{{'").repeat(30)),
        // what looks like the inside of quotes, of a comment or of raw text
        format!("{{% raw %}}{{{{ ' {{% endraw %}}{{{{ 1{chain} }}}}{{{{ ' ' }}}}"),
        format!("{{%- raw -%}}{{# {{%+ endraw +%}}{{{{ 1{chain} }}}}{{# #}}"),
        format!("{{# ' {{{{ #}}{{{{ 1{chain} }}}}{{# ' #}}"),
        format!("{{#-}} {{% raw %}} #}}{{{{ 1{chain} }}}}{{% raw %}}{{% endraw %}}"),
        format!("{{% rawx %}}{{{{ 1{chain} }}}}"),
        format!("{{% raw x %}}{{{{ 1{chain} }}}}{{% endraw %}}"),
    ] {
        let start: String = content.chars().take(20).collect();
        let message = Site::with(&content).refused();
        assert!(message.contains("operators") || message.contains("raw"), "{start}: {message}");
    }
    let branches = format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(60_000));
    assert!(Site::with(&branches).refused().contains("times `elif`"));
    let branches = format!("{{% if 0 %}}{}{{% endif %}}", "{%- elif 0 -%}".repeat(60_000));
    assert!(Site::with(&branches).refused().contains("times `elif`"));
    // and invalid ones cost nothing
    for content in [
        format!("{{% raw %}}{{{{ 1{chain} }}}}{{% endraw %}}"),
        format!("{{# {{{{ 1{chain} }}}} #}}"),
        format!("{{{{ '}}}}' }}}}{}", "a=b/c.d-e".repeat(10_000)),
        format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(400)),
    ] {
        let output = Site::with(&content).kpull(&["check"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
}

#[test]
fn an_error_in_an_overlong_line_is_reported_without_the_line() {
    for (line, place) in [
        (format!("file = [{{ path = '/etc/x', content = '{}', nope = 1 }}]", "x".repeat(70_000)), "role.toml:2:70042"),
        (format!("vars = {{ a = '{}', b = }}", "\t".repeat(20_000)), "role.toml:2:20022"),
        (
            format!(
                "vars = {{ a = '{}', b = '{{{{ nope }}}}' }}\n[[file]]\npath = '/{{{{ b }}}}'",
                "\u{3000}".repeat(40_000)
            ),
            "role.toml:2:40",
        ),
    ] {
        let message = Site::new(&line).refused();
        assert!(message.contains(&format!("  at: roles/base/{place}")) && message.len() < 1000, "{message}");
    }
}

#[test]
fn the_memory_that_a_role_can_use_is_limited() {
    let grown =
        "{% set ns = namespace(v=['x' * 1000]) %}{% for i in range(40) %}{% set ns.v = [ns.v, ns.v] %}{% endfor %}";
    for content in [
        format!("{grown}{{{{ ns.v | tojson | length }}}}"),
        format!("{grown}{{{{ ns.v | string | length }}}}"),
        format!("{grown}{{{{ (ns.v ~ '') | length }}}}"),
    ] {
        let site = Site::with(&content);
        let mut shell = Command::new("sh");
        shell.arg("-c").arg("ulimit -v 2097152; exec \"$0\" check --site \"$1\"");
        let output = shell.arg(env!("CARGO_BIN_EXE_kpull")).arg(site.path("site")).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{} {text}", output.status);
        assert!(text.contains("this needs more than 512 MiB of memory"), "{text}");
    }
}

#[test]
fn files_beside_a_site_lead_to_no_file_and_no_pipe_either() {
    let pipe = |path: &Path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for name in ["facts/a.toml", "vendor.toml", "artifacts.toml"] {
        for what in 0..3 {
            let site = Site::new("");
            let path = site.path("site").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match what {
                0 => symlink(site.path("private"), &path).unwrap(),
                1 => symlink("/dev/zero", &path).unwrap(),
                _ => pipe(&path),
            }
            assert!(site.refused().contains("is neither a file nor a directory"), "{name}");
        }
    }
    let site = Site::new("");
    fs::create_dir(site.path("elsewhere")).unwrap();
    fs::write(site.path("elsewhere/a.toml"), PRIVATE).unwrap();
    symlink(site.path("elsewhere"), site.path("site/facts")).unwrap();
    assert!(site.refused().contains("facts is neither a file nor a directory"));
    // a release whose second signer would publish what a link leads to
    let site = Site::new("");
    let sign = |number: u8| {
        let path = site.path(&format!("key{number}"));
        key(number).write_openssh_file(&path, ssh_key::LineEnding::LF).unwrap();
        site.kpull(&["sign", "--key", path.to_str().unwrap()])
    };
    assert_eq!(sign(1).status.code(), Some(0));
    for name in ["release.toml.sig", "release.toml"] {
        fs::remove_file(site.path("site").join(name)).unwrap();
        symlink(site.path("private"), site.path("site").join(name)).unwrap();
        let output = sign(2);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(site.path("site").join(name).is_symlink(), "{output:?}");
        assert!(!String::from_utf8_lossy(&output.stderr).contains(PRIVATE), "{output:?}");
    }
}

#[test]
fn comparing_an_untrusted_repository_runs_none_of_its_programs() {
    let site = Site::new("");
    let dir = site.path("site");
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=t", "-c", "user.email=t@example.org", "-C"]).arg(&dir).args(arguments);
        let output = git.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    git(&["init", "-q"]);
    fs::write(dir.join(".gitattributes"), "* filter=x\nsite.toml export-subst\n").unwrap();
    git(&["add", "."]);
    git(&["commit", "-qm", "x"]);
    let run = |name: &str| format!("touch {0}; echo x > {0}; exit 1", site.path(name).display());
    let configured = fs::read_to_string(dir.join(".git/config")).unwrap();
    let hostile = format!(
        "{configured}[filter \"x\"]\nsmudge = {0:?}\nprocess = {0:?}\nrequired = true\n[core]\nfsmonitor = {0:?}\nsshCommand = {0:?}\n\
         pager = {0:?}\n[pager]\nls-tree = {0:?}\ncat-file = {0:?}\n[alias]\nls-tree = {1:?}\ncat-file = {1:?}\n",
        run("ran"),
        format!("!{}", run("ran")),
    );
    fs::write(dir.join(".git/config"), &hostile).unwrap();
    let output = site.kpull(&["compare", "HEAD"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "**0** of 1 hosts change.\n", "{output:?}");
    assert!(!site.path("ran").exists());
    // an object that does not exist, and a place to get it from
    let object = git(&["rev-parse", "HEAD:roles/base/role.toml"]);
    let (start, end) = object.trim().split_at_checked(2).unwrap();
    fs::remove_file(dir.join(".git/objects").join(start).join(end)).unwrap();
    for url in [format!("ext::sh -c {:?}", run("ran")), "ssh://127.0.0.1:1/x".to_owned()] {
        let promised = "[remote \"origin\"]\npromisor = true\npartialclonefilter = blob:none\n";
        let partial = format!(
            "{hostile}repositoryformatversion = 1\n[extensions]\npartialClone = origin\n{promised}url = {url:?}\n\
             [protocol \"ext\"]\nallow = always\n[core]\nrepositoryformatversion = 1\n"
        );
        fs::write(dir.join(".git/config"), partial).unwrap();
        let output = site.kpull(&["compare", "HEAD"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("can't get the revision `HEAD`"), "{output:?}");
        assert!(!site.path("ran").exists(), "{url}");
    }
}

#[test]
fn a_name_in_a_comparison_injects_no_markdown() {
    let name = "x`` </details>\\n\\n# Approved by @everybody\\n\\n```";
    let role = format!(
        "[[command]]\nname = \"{name}\"\nrun = [\"/bin/true\"]\ncreates = \"/x\"\n\
         [[file]]\npath = \"/etc/x\"\ncontent = \"```\\n</details>\\n\\n# Approved\\n{}\"\n",
        "line\\n".repeat(100)
    );
    let (old, new) = (Site::new(""), Site::new(&role));
    for most in ["20000", "400", "200", "100", "50", "10"] {
        let old = old.path("site");
        let output = new.kpull(&["compare", old.to_str().unwrap(), "--most", most]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        // text outside of blocks of code
        let (mut fence, mut outside) = (None::<&str>, Vec::new());
        for line in text.lines() {
            let ticks = line.split(|c| c != '`').next().unwrap();
            match fence {
                Some(open) if line == open => fence = None,
                Some(_) => {}
                None if ticks.len() >= 3 => fence = Some(ticks),
                None => outside.push(line),
            }
        }
        assert_eq!(fence, None, "{text}");
        assert!(!outside.iter().any(|line| line.starts_with('#')), "{text}");
        assert_eq!(
            outside.iter().filter(|line| line.contains("</details>") && !line.contains("x`` ")).count(),
            1,
            "{text}"
        );
    }
}

/// A loop in a loop, of 90,000 turns.
fn turns(body: &str) -> String {
    let each = |name: &str, inner: &str| format!("{{% for {name} in range(300) %}}{inner}{{% endfor %}}");
    format!("{{% set ns = namespace(v=0) %}}{}", each("a", &each("b", body)))
}

#[test]
fn a_circular_or_deeply_nested_value_is_an_error_and_no_crash() {
    const DEEP: &str = "a value is nested more than 64 times";
    const CIRCLE: &str = "a namespace, a macro or a loop can't be in";
    let own = "{% set ns = namespace() %}";
    for (content, why) in [
        (format!("{own}{{% set ns.v = ns %}}{{{{ ns | tojson }}}}"), CIRCLE),
        (format!("{own}{{% set ns.v = [ns] %}}{{{{ ns | string }}}}"), CIRCLE),
        (format!("{own}{{% set ns.v = {{'a': ns}} %}}{{{{ ns | to_nice_yaml }}}}"), CIRCLE),
        (format!("{own}{{% set a, ns.v = 1, ns %}}{{{{ ns | pprint }}}}"), CIRCLE),
        (format!("{own}{{% set x = [ns] %}}{{% set ns.v = x %}}{{{{ ns == ns.v }}}}"), CIRCLE),
        (format!("{own}{{% set b = namespace() %}}{{% set ns.v = b %}}{{% set b.v = ns %}}{{{{ ns == b }}}}"), CIRCLE),
        (format!("{own}{{% set ns.v = namespace(v=ns) %}}{{{{ ns | to_json }}}}"), CIRCLE),
        (format!("{own}{{% macro m() %}}{{% endmacro %}}{{% set ns.v = m %}}"), CIRCLE),
        (turns("{% for x in [ns.v] %}{% set ns.v = loop %}{% endfor %}"), CIRCLE),
        (turns("{% set ns.v = [ns.v] %}"), DEEP),
        (turns("{% set ns.v = [ns.v] %}") + "{{ ns.v | tojson }}", DEEP),
        (turns("{% set ns.v = {'a': ns.v} %}") + "{{ ns.v | to_nice_json }}", DEEP),
        (turns("{% set ns.v = (ns.v, 1) %}") + "{{ ns.v == 1 }}", DEEP),
        (turns("{% set ns.v = [ns.v] | reverse %}") + "{{ ns.v | list }}", DEEP),
        (turns("{% set ns.v | zip([ns.v]) | list %}a{% endset %}"), DEEP),
        (turns("{% set ns.v, ns.w = [ns.v], 1 %}"), DEEP),
        ("{% set x = 0 %}".to_owned() + &"{% set x = [x] %}".repeat(100_000) + "{{ x | tojson }}", DEEP),
        ("{% set x = [0] %}".to_owned() + &"{%- set x = x | batch(1) | list -%}".repeat(1000), DEEP),
        (format!("{{{{ {}{} | tojson }}}}", "[".repeat(100), "]".repeat(100)), "brackets inside of one another"),
        (format!("{{% set x = 1{} %}}", " | batch(1)".repeat(100)), "brackets inside of one another"),
        ("{% set x = ('[' * 1900 ~ ']' * 1900) | from_yaml %}".to_owned(), "this is not YAML"),
    ] {
        let message = Site::with(&content).refused();
        let start: String = content.chars().take(120).collect();
        assert!(message.contains(why), "{start}: {message:.2000}");
        let has_advice = message.contains("help: ") || message.contains("make variables of its parts");
        let has_advice = has_advice || why == "this is not YAML";
        assert!(message.contains("roles/base/role.toml:") && has_advice, "{start}: {message:.2000}");
    }
    // variables that stand in one another
    let chain: String = (1..30).map(|number| format!("v{number} = '{{{{ [[[v{}]]] }}}}'\n", number + 1)).collect();
    let message =
        Site::new(&format!("[[file]]\npath = '/etc/x'\ncontent = '{{{{ v1 | to_json }}}}'\n[vars]\n{chain}v30 = 1\n"))
            .refused();
    assert!(message.contains(DEEP), "{message}");
}

#[test]
fn recursion_with_deeper_and_deeper_values_ends_before_the_stack_does() {
    let deeper = format!("{}x{}", "[".repeat(50), "]".repeat(50));
    let uses = "{{ x | tojson | length }}{{ [x, [x]] | unique | list | length }}{{ x == [x] }}{{ (x ~ '') | length }}{{ x | to_nice_yaml | length }}";
    for content in [
        format!("{{% for x in [0] recursive %}}{uses}{{{{ loop({deeper}) }}}}{{% endfor %}}"),
        format!("{{% for x in [0] recursive %}}{{{{ loop({deeper}) }}}}{uses}{{% endfor %}}"),
        format!("{{% macro m(x) %}}{uses}{{{{ m({deeper}) }}}}{{% endmacro %}}{{{{ m(0) }}}}"),
        format!(
            "{{% macro m(x) %}}{{% with x = {deeper} %}}{{% with x = {deeper} %}}{uses}{{{{ m(x) }}}}{{% endwith %}}{{% endwith %}}{{% endmacro %}}{{{{ m(0) }}}}"
        ),
    ] {
        let message = Site::with(&content).refused();
        assert!(message.contains("recursion limit exceeded") || message.contains("steps"), "{message:.2000}");
    }
}

#[test]
fn variables_and_namespaces_of_templates_keep_their_values() {
    let checks = |condition: &str| format!("{{% if not ({condition}) %}}{{{{ nope }}}}{{% endif %}}");
    for content in [
        "{% set ns = namespace(n=0, found=false, list=[]) %}{% for i in range(5) %}{% set ns.n = ns.n + i %}\
         {% set ns.list = ns.list + [i] %}{% if i == 3 %}{% set ns.found = true %}{% endif %}{% endfor %}"
            .to_owned()
            + &checks("ns.n == 10 and ns.found and ns.list == [0, 1, 2, 3, 4]"),
        "{% set ns = namespace(m={}) %}{% set ns.m = dict(ns.m, a={'b': [1]}) %}".to_owned() + &checks("ns.m.a.b == [1]"),
        "{% for i in [1, 2] %}{% set outer = loop %}{% for j in [1] %}{% if outer.index != i %}{{ nope }}{% endif %}{% endfor %}{% endfor %}"
            .to_owned(),
        "{% macro m(x) %}<{{ x }}>{% endmacro %}{% set other = m %}".to_owned() + &checks("other(1) == '<1>'"),
        "{% set a, b = 1, 2 %}{% set (c, d) = (b, a) %}".to_owned() + &checks("[a, b, c, d] == [1, 2, 2, 1]"),
        "{% set t %}text{% endset %}{% set u | upper %}text{% endset %}".to_owned() + &checks("t == 'text' and u == 'TEXT'"),
        "{% set all = hosts %}{% set one = {'h': hosts | first} %}".to_owned()
            + &checks("all | length == 1 and one.h.name == 'a' and (all | in_group('x') | list) == []"),
        "{% set r = range(3) %}{% set m = [1, 2] | map('string') %}".to_owned()
            + &checks("(r | list) == [0, 1, 2] and (m | join('')) == '12'"),
        "{% set x = nope | default('d') %}{% set y = none %}".to_owned() + &checks("x == 'd' and y is none"),
    ] {
        let output = Site::with(&content).kpull(&["check"]);
        assert_eq!(output.status.code(), Some(0), "{content}: {output:?}");
    }
    // each place is what it is in the file
    for (line, why, column) in [
        ("{% set a = 1 %}{% set b = [a] %}{{ nope }}", "`nope` is not defined", 36),
        ("{% set a = nope + 1 %}", "`nope` is undefined", 12),
    ] {
        let message = Site::with(&format!("x\n{line}")).refused();
        assert!(message.contains(why), "{message}");
        assert!(message.contains(&format!("roles/base/role.toml:5:{column}]")), "{message}");
    }
}
