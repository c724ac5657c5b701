//! Broken sites: each is reported with its place and with what to do, by `check` and by `apply`, and changes nothing.

use std::os::unix::fs::symlink;

use crate::support::site::{Site, Tree, kpull};

const SITE: &str = r#"name = "test"
vars.domain = "example"
groups.web.roles = ["base"]
"#;
const HOST: &str = r#"address = "10.0.0.1"
groups = ["web"]
"#;
/// Additions to its head begin in line 3, additions to its end in line 12.
const ROLE: &str = r#"summary = "Something"
vars.port = 80

[[file]]
path = "/etc/motd"
content = "{{ domain }}\n"

[[template]]
path = "/etc/base.conf"
template = "base.conf"

"#;
const TEMPLATE: &str = "port = {{ port }}\nhost = {{ host.name }}\n";

/// A site that is right.
fn good() -> Site {
    let site = Site::new("test");
    site.file("site.toml", SITE).host("h1", HOST).file("roles/base/role.toml", ROLE);
    site.file("roles/base/templates/base.conf", TEMPLATE);
    site
}

/// The role with one more resource.
fn role(more: &str) -> String {
    format!("{ROLE}{more}\n")
}

/// The role with a line more in its head.
fn head(more: &str) -> String {
    ROLE.replacen("\n\n", &format!("\n{more}\n"), 1)
}

/// Breaks the good site with `files`. `check` has to say `says` of `at` and advise `help`; so has `apply` on a host that
/// follows the good site, and nothing of that host may change.
#[track_caller]
fn refuse(files: &[(&str, &str)], at: &str, says: &str, help: &str) {
    let site = good();
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    let before = (tree.snapshot(), tree.times());
    for (path, content) in files {
        site.file(path, content);
    }
    let place = |error: &serde_json::Value| match error["file"].as_str() {
        Some(file) => format!("{file}:{}:{}", error["line"], error["column"]),
        None => String::new(),
    };
    let dir = site.path().to_str().unwrap();
    let checked = kpull(&["check", "--json", "--site", dir]).exits(1);
    let error = checked.error();
    let advice = error["help"].as_str().unwrap_or_default();
    assert_eq!((place(&error).as_str(), error["error"].as_str().unwrap(), advice), (at, says, help), "\n{checked:?}");

    let text = kpull(&["check", "--site", dir]).exits(1);
    assert!(text.stderr.contains(&format!("[{at}]")) || at.is_empty(), "{}", text.stderr);

    site.sign();
    let error = tree.kpull("apply --json").exits(1).error();
    assert_eq!((place(&error).as_str(), error["error"].as_str().unwrap()), (at, says));
    let stays = "the host stays converged on release 1";
    let stays = if help.is_empty() { stays.to_owned() } else { format!("{help}; {stays}") };
    assert_eq!(error["help"].as_str().unwrap(), stays);
    assert_eq!((tree.snapshot(), tree.times()), before);
}

macro_rules! refused {
    ($($name:ident: $files:expr, $at:expr, $says:expr, $help:expr;)*) => { $(
        #[test]
        fn $name() {
            refuse(&$files, $at, $says, $help);
        }
    )* };
}

#[test]
fn the_site_that_these_tests_start_from_is_valid() {
    let site = good();
    let checked = kpull(&["check", "--site", site.path().to_str().unwrap()]).exits(0);
    assert_eq!(checked.stdout, "✓ h1               2 resources of 1 role\n");
}

refused! {
    an_unknown_key_in_site_toml: [("site.toml", &format!("{SITE}gruops.db.roles = []\n"))],
        "site.toml:4:1", "unknown key `gruops`", "did you mean `groups`?";

    an_unknown_key_in_a_group: [("site.toml", &format!("{SITE}groups.db.role = []\n"))],
        "site.toml:4:11", "unknown key `role`", "did you mean `roles`?";

    an_unknown_key_in_host_vars: [("host_vars/h1.toml", &format!("{HOST}adress = \"10.0.0.2\"\n"))],
        "host_vars/h1.toml:3:1", "unknown key `adress`", "did you mean `address`?";

    an_unknown_key_in_the_head_of_a_role: [("roles/base/role.toml", &head("requried = [\"x\"]"))],
        "roles/base/role.toml:3:1", "unknown key `requried`", "did you mean `required`?";

    an_unknown_key_in_a_resource: [("roles/base/role.toml", &role("[[file]]\npath = \"/x\"\ncontnet = \"x\""))],
        "roles/base/role.toml:14:1", "unknown key `contnet`", "did you mean `content`?";

    an_unknown_key_in_artifacts_toml: [("artifacts.toml", "[a]\nversion = \"1\"\namd64.url = \"x\"\namd64.sha265 = \"x\"\n")],
        "artifacts.toml:4:7", "unknown key `sha265`", "did you mean `sha256`?";

    an_unknown_kind: [("roles/base/role.toml", &role("[[templat]]\npath = \"/x\""))],
        "roles/base/role.toml:12:3", "unknown key `templat`", "did you mean `template`?";

    a_kind_with_one_bracket: [("roles/base/role.toml", "summary = \"x\"\n[file]\npath = \"/x\"\n")],
        "roles/base/role.toml:2:2", "`file` must be a list of resources", "write [[file]], with two brackets";

    a_role_without_a_summary: [("roles/base/role.toml", "vars.x = 1\n")],
        "roles/base/role.toml:1:1", "`roles/base/role.toml` lacks `summary`", "";

    a_site_without_a_name: [("site.toml", "vars.domain = \"example\"\n")],
        "site.toml:1:1", "`site.toml` lacks `name`", "";

    a_host_without_an_address: [("host_vars/h1.toml", "groups = [\"web\"]\n")],
        "host_vars/h1.toml:1:1", "`host_vars/h1.toml` lacks `address`", "";

    a_value_of_the_wrong_type: [("host_vars/h1.toml", "address = \"10.0.0.1\"\ngroups = \"web\"\n")],
        "host_vars/h1.toml:2:10", "`groups` can't be read: invalid type: string \"web\", expected a sequence", "";

    a_value_of_the_wrong_type_in_a_resource: [("roles/base/role.toml", &role("[[file]]\npath = \"/x\"\ncontent = 5"))],
        "roles/base/role.toml:14:11", "`file[1].content` can't be read: invalid type: integer `5`, expected a string", "write it in quotes; an expression as `{{ NAME | string }}`";

    a_variable_of_the_wrong_type_in_a_resource: [("roles/base/role.toml", &role("[[file]]\npath = \"/x\"\ncontent = \"{{ port }}\""))],
        "roles/base/role.toml:14:11", "`file[1].content` can't be read: invalid type: integer `80`, expected a string", "write it in quotes; an expression as `{{ NAME | string }}`";

    invalid_toml: [("host_vars/h1.toml", "address = 10.0.0.1\n")],
        "host_vars/h1.toml:1:15", "host_vars/h1.toml is not TOML: invalid float, expected nothing", "write text in double quotes, lists in brackets, and each key on its own line";

    a_duplicate_key: [("host_vars/h1.toml", &format!("{HOST}groups = []\n"))],
        "host_vars/h1.toml:3:1", "host_vars/h1.toml is not TOML: duplicate key", "the key is already set: keep one of them";

    a_variable_that_a_template_misspells: [("roles/base/templates/base.conf", "# é\nport = {{ prot }}\n")],
        "roles/base/templates/base.conf:2:11", "`prot` is not defined", "did you mean `port`?";

    a_variable_without_a_similar_name: [("roles/base/templates/base.conf", "\n\n{{ something_else }}\n")],
        "roles/base/templates/base.conf:3:4", "`something_else` is not defined",
        "a role declares its variables under [vars], or under `required` if a host must set them";

    a_variable_of_a_role_that_a_template_misspells: [("roles/base/templates/base.conf", "{{ base.prot }}\n")],
        "roles/base/templates/base.conf:1:4", "`base.prot` is not defined", "did you mean `base.port`?";

    a_variable_that_a_string_misspells: [("roles/base/role.toml", &role("[[file]]\npath = \"/x\"\ncontent = \"a {{ domian }}\""))],
        "roles/base/role.toml:14:17", "`domian` is not defined", "did you mean `domain`?";

    a_variable_that_a_condition_misspells: [("roles/base/role.toml", &role("[[file]]\nwhen = \"prot == 80\"\npath = \"/x\"\ncontent = \"\""))],
        "roles/base/role.toml:13:9", "`prot` is not defined", "did you mean `port`?";

    an_unknown_fact: [("roles/base/templates/base.conf", "{{ facts.acrh }}\n")],
        "roles/base/templates/base.conf:1:4", "`facts.acrh` is not defined", "did you mean `facts.arch`?";

    for_each_over_a_number: [("roles/base/role.toml", &role("[[file]]\nfor_each = \"port\"\npath = \"/x\"\ncontent = \"\""))],
        "roles/base/role.toml:13:12", "`for_each` needs a list, and `port` is a number", "";

    a_condition_that_is_a_number: [("roles/base/role.toml", &role("[[file]]\nwhen = \"port + 1\"\npath = \"/x\"\ncontent = \"\""))],
        "roles/base/role.toml:13:8", "`when` needs true or false, and `port + 1` is neither", "compare: `when = \"(port + 1) != 0\"`";

    an_invalid_condition: [("roles/base/role.toml", &role("[[file]]\nwhen = \"port =\"\npath = \"/x\"\ncontent = \"\""))],
        "roles/base/role.toml:13:14", "the value can't be computed: unexpected input after expression", "";

    circular_variables: [("site.toml", &format!("{SITE}vars.one = \"{{{{ two }}}}\"\nvars.two = \"{{{{ one }}}}\"\n")), ("roles/base/templates/base.conf", "{{ one }}")],
        "site.toml:4:12", "variables depend on each other in a circle: one → two → one", "set one of them to a value without variables";

    circular_roles: [("roles/base/role.toml", &head("requires = [\"other\"]")), ("roles/other/role.toml", "summary = \"x\"\nrequires = [\"base\"]\n")],
        "roles/other/role.toml:2:13", "roles require each other in a circle: base → other → base",
        "remove one `requires`, or move the common resources into a third role";

    a_role_that_requires_a_missing_role: [("roles/base/role.toml", &head("requires = [\"bse\"]"))],
        "roles/base/role.toml:3:13", "there is no role `bse`", "did you mean `base`?";

    circular_resources: [("roles/base/role.toml", &role("[[file]]\npath = \"/a\"\ncontent = \"\"\nafter = [\"file:/b\"]\n[[file]]\npath = \"/b\"\ncontent = \"\"\nafter = [\"file:/a\"]"))],
        "roles/base/role.toml:12:1", "resources wait for each other in a circle: file:/a → file:/b → file:/a", "remove one `after`, `before` or `needs`";

    after_a_missing_resource: [("roles/base/role.toml", &role("[[file]]\npath = \"/a\"\ncontent = \"\"\nafter = [\"file:/etc/mtd\"]"))],
        "roles/base/role.toml:12:1", "`file:/a` must come after `file:/etc/mtd`, but this host has no such resource", "did you mean `file:/etc/motd`?";

    files_that_are_checked_together_in_a_file: [("roles/base/role.toml", &role("[[validate]]\nrun = [\"true\"]\npaths = [\"/etc/motd\"]"))],
        "roles/base/role.toml:12:1", "`/etc/motd` in the `paths` of validate:true is not a directory: file:/etc/motd is at roles/base/role.toml:4:1",
        "name the directory that contains it; to check a single file, set its `validate`";

    one_path_twice_in_a_role: [("roles/base/role.toml", &role("[[file]]\npath = \"/etc/motd\"\ncontent = \"\""))],
        "roles/base/role.toml:12:1", "`/etc/motd` occurs twice in the role base",
        "the other one is at roles/base/role.toml:4:1; keep one of them";

    one_path_in_two_roles: [("roles/more/role.toml", "summary = \"x\"\n[[file]]\npath = \"/etc/motd\"\ncontent = \"\"\n"), ("host_vars/h1.toml", &format!("{HOST}roles = [\"more\"]\n"))],
        "roles/more/role.toml:2:1", "two roles manage `/etc/motd`: base and more, which differ in `content`",
        "the other one is at roles/base/role.toml:4:1; keep one of them, or make both identical";

    a_file_below_a_file: [("roles/base/role.toml", &role("[[file]]\npath = \"/etc/motd/x\"\ncontent = \"\""))],
        "roles/base/role.toml:12:1", "`/etc/motd/x` can't exist: `/etc/motd` is a file", "the file is at roles/base/role.toml:4:1; use another path for one of them";

    a_required_variable_that_is_not_set: [("roles/base/role.toml", &head("required = [\"name\"]"))],
        "roles/base/role.toml:3:13", "h1 must set `base.name`",
        "add `name = …` under [vars.base] in host_vars/h1.toml, or in a group";

    a_missing_role_of_a_host: [("host_vars/h1.toml", &format!("{HOST}roles = [\"bas\"]\n"))],
        "host_vars/h1.toml:3:10", "there is no role `bas`", "did you mean `base`?";

    a_missing_role_of_a_group: [("site.toml", &format!("{SITE}groups.db.roles = [\"etcd\"]\n"))],
        "site.toml:4:20", "there is no role `etcd`", "the site has these: base";

    a_missing_group: [("host_vars/h1.toml", "address = \"10.0.0.1\"\ngroups = [\"wbe\"]\n")],
        "host_vars/h1.toml:2:11", "there is no group `wbe`", "did you mean `web`?";

    a_misspelled_variable_of_a_role_in_host_vars: [("host_vars/h1.toml", &format!("{HOST}vars.base.prot = 81\n"))],
        "host_vars/h1.toml:3:11", "unknown key `prot`",
        "did you mean `port`?; the role `base` declares its variables in roles/base/role.toml";

    a_misspelled_variable_of_the_site_in_host_vars: [("host_vars/h1.toml", &format!("{HOST}vars.domian = \"x\"\n"))],
        "host_vars/h1.toml:3:6", "unknown key `domian`",
        "did you mean `domain`?; a variable of the whole site is declared under [vars] in site.toml";

    a_misspelled_variable_in_a_group: [("site.toml", &format!("{SITE}groups.web.vars.base.prot = 1\n"))],
        "site.toml:4:22", "unknown key `prot`",
        "did you mean `port`?; the role `base` declares its variables in roles/base/role.toml";

    variables_of_a_role_that_are_no_table: [("host_vars/h1.toml", &format!("{HOST}vars.base = 81\n"))],
        "host_vars/h1.toml:3:13", "`base` is a role, so its variables must be in a table", "write [vars.base]";

    a_variable_with_a_reserved_name: [("roles/base/role.toml", &head("vars.hosts = []"))],
        "roles/base/role.toml:3:6", "`hosts` is not a valid name for a variable",
        "templates reserve these names: host, hosts, facts, artifacts, item, loop, make_kubeconfig, pki_file, secret, self";

    an_address_with_five_parts: [("host_vars/h1.toml", "address = \"192.168.1.102.2\"\n")],
        "host_vars/h1.toml:1:11", "`address` can't be read: invalid IP address syntax", "";

    an_address_in_a_template_with_five_parts: [("roles/base/templates/base.conf", "x\n{{ '192.168.1.102.2' | address }}\n")],
        "roles/base/templates/base.conf:2:24", "the template can't be rendered: `192.168.1.102.2` is not an IP address", "";

    an_invalid_network: [("roles/base/templates/base.conf", "{{ '10.254.0.0/33' | cidr_host(1) }}\n")],
        "roles/base/templates/base.conf:1:22", "the template can't be rendered: `10.254.0.0/33` is not a network; write it like 10.0.0.0/16", "";

    an_invalid_mode: [("roles/base/role.toml", &role("[[file]]\npath = \"/x\"\ncontent = \"\"\nmode = \"0888\""))],
        "roles/base/role.toml:15:8", "`file[1].mode` can't be read: `0888` is not a mode; write it as three or four octal digits, like \"0644\"", "";

    a_path_with_a_parent_component: [("roles/base/role.toml", &role("[[file]]\npath = \"/etc/../x\"\ncontent = \"\""))],
        "roles/base/role.toml:13:8", "`file[1].path` can't be read: `/etc/../x` must be written without `.`, `..`, double slashes or a trailing slash", "";

    a_relative_path: [("roles/base/role.toml", &role("[[file]]\npath = \"etc/x\"\ncontent = \"\""))],
        "roles/base/role.toml:13:8", "`file[1].path` can't be read: `etc/x` is not an absolute path", "";

    a_parent_component_from_a_variable: [("site.toml", &format!("{SITE}vars.where = \"../x\"\n")), ("roles/base/role.toml", &role("[[file]]\npath = \"/etc/{{ where }}\"\ncontent = \"\""))],
        "roles/base/role.toml:13:8", "`file[1].path` can't be read: `/etc/../x` must be written without `.`, `..`, double slashes or a trailing slash", "";

    a_file_with_neither_content_nor_source: [("roles/base/role.toml", &role("[[file]]\npath = \"/x\""))],
        "roles/base/role.toml:13:8", "`path` of this file can't be used: set `content` or `source`", "";

    a_file_with_content_and_source: [("roles/base/role.toml", &role("[[file]]\npath = \"/x\"\ncontent = \"\"\nsource = \"x\""))],
        "roles/base/role.toml:15:10", "`source` of this file can't be used: set `content` or `source`, not both", "";

    a_file_that_the_role_does_not_have: [("roles/base/role.toml", &role("[[file]]\npath = \"/x\"\nsource = \"moto\"")), ("roles/base/files/motd", "")],
        "roles/base/role.toml:14:10", "there is no roles/base/files/moto", "did you mean `motd`?";

    a_key_that_the_role_does_not_have: [("roles/base/role.toml", &role("[[repository]]\nname = \"x\"\nformat = \"dnf\"\nurls = [\"https://h/x\"]\nkey = \"x.acs\"")), ("roles/base/files/x.asc", "")],
        "roles/base/role.toml:16:7", "there is no roles/base/files/x.acs", "did you mean `x.asc`?";

    a_template_that_the_role_does_not_have: [("roles/base/role.toml", &role("[[template]]\npath = \"/x\"\ntemplate = \"unit\""))],
        "roles/base/role.toml:14:12", "there is no roles/base/templates/unit", "put it into roles/base/templates/";

    a_list_in_a_text: [("site.toml", &format!("{SITE}vars.list = [1]\n")), ("roles/base/templates/base.conf", "a\n {{ list }}\n")],
        "roles/base/templates/base.conf:2:5", "the template can't be rendered: a sequence can't stand in a text; for a list there is `join`", "";

    an_unknown_filter: [("roles/base/templates/base.conf", "{{ '10.0.0.0/8' | cidr_hots(1) }}\n")],
        "roles/base/templates/base.conf:1:19", "the template can't be rendered: filter cidr_hots is unknown", "did you mean `cidr_host`?";

    a_filter_of_the_engine_that_is_misspelled: [("roles/base/templates/base.conf", "{{ port | defualt(1) }}\n")],
        "roles/base/templates/base.conf:1:11", "the template can't be rendered: filter defualt is unknown", "did you mean `default`?";

    a_missing_include: [("roles/base/templates/base.conf", "x\n{% include 'haed.conf' %}\n"), ("roles/base/templates/head.conf", "")],
        "roles/base/templates/base.conf:2:4", "the template can't be rendered: there is no template `haed.conf` in the role", "did you mean `head.conf`?";

    an_error_in_an_included_template: [("roles/base/templates/base.conf", "x\n{% include 'head.conf' %}\n"), ("roles/base/templates/head.conf", "\n{{ prot }}\n")],
        "roles/base/templates/head.conf:2:4", "`prot` is not defined", "did you mean `port`?";

    a_block_that_does_not_end: [("roles/base/templates/base.conf", "{% for x in hosts %}\nx\n")],
        "roles/base/templates/base.conf:2:1", "the template can't be rendered: unexpected end of input, expected end of block", "";

    an_artifact_that_is_not_pinned: [("artifacts.toml", "[etcd]\nversion = \"1\"\namd64 = { url = \"https://h/x\", sha256 = \"0000000000000000000000000000000000000000000000000000000000000000\" }\n"), ("roles/base/role.toml", &role("[[artifact]]\nname = \"etdc\"\ninstall = { a = \"/a\" }"))],
        "roles/base/role.toml:13:8", "the artifact `etdc` is not pinned", "did you mean `etcd`?";

    an_artifact_without_a_pin_for_the_processor: [("artifacts.toml", "[etcd]\nversion = \"1\"\narm64 = { url = \"https://h/x\", sha256 = \"0000000000000000000000000000000000000000000000000000000000000000\" }\n"), ("roles/base/role.toml", &role("[[artifact]]\nname = \"etcd\"\ninstall = { a = \"/a\" }"))],
        "roles/base/role.toml:13:8", "the artifact `etcd` has no pin for amd64", "add `amd64 = { url = \"…\", sha256 = \"…\" }` to [etcd] in artifacts.toml";

    an_artifact_with_half_a_digest: [("artifacts.toml", "[etcd]\nversion = \"1\"\namd64 = { url = \"https://h/x\", sha256 = \"0123\" }\n")],
        "artifacts.toml:3:41", "the digest of etcd (amd64) is not a SHA-256", "copy it from the publisher; then `sha256sum FILE` must print the same for the file";

    an_artifact_without_an_address: [("artifacts.toml", "[etcd]\nversion = \"1\"\namd64 = { sha256 = \"0000000000000000000000000000000000000000000000000000000000000000\" }\n")],
        "artifacts.toml:3:9", "etcd (amd64) has no address", "set `url`, or `urls` with mirrors in the order to try";

    an_artifact_with_an_unsupported_address: [("artifacts.toml", "[etcd]\nversion = \"1\"\namd64 = { url = \"ftp://h/x\", sha256 = \"0000000000000000000000000000000000000000000000000000000000000000\" }\n")],
        "artifacts.toml:3:17", "`ftp://h/x` is not an http:// or https:// address", "write the full address, such as https://HOST/DIRECTORY";

    an_artifact_for_no_processor: [("artifacts.toml", "[etcd]\nversion = \"1\"\n")],
        "artifacts.toml:1:1", "the artifact etcd is not pinned for any architecture", "add `amd64 = { url = \"…\", sha256 = \"…\" }`";

    an_artifact_that_installs_nothing: [("artifacts.toml", "[etcd]\nversion = \"1\"\namd64 = { url = \"https://h/x\", sha256 = \"0000000000000000000000000000000000000000000000000000000000000000\" }\n"), ("roles/base/role.toml", &role("[[artifact]]\nname = \"etcd\"\ninstall = {}"))],
        "roles/base/role.toml:13:8", "`name` of this artifact can't be used: set `install`, or `members` with `into`", "";

    host_vars_that_are_no_toml_file: [("host_vars/h2.yaml", "")],
        "", "host_vars/h2.yaml is not a TOML file", "host_vars/ has one NAME.toml for each host";

    a_required_variable_that_has_a_default_too: [("roles/base/role.toml", &head("required = [\"port\"]"))],
        "roles/base/role.toml:3:13", "`port` is required, but has a default", "remove it from `required` or from [vars]";
}

refused! {
    a_restart_for_a_missing_resource: [("roles/base/role.toml", &role("[[unit]]\nname = \"a.service\"\ncontent = \"[Service]\\nExecStart=/bin/a\\n\"\nrestart_when = [\"template:/etc/bse.conf\"]"))],
        "roles/base/role.toml:12:1", "`unit:a.service` watches `template:/etc/bse.conf`, but this host has no such resource", "did you mean `template:/etc/base.conf`?";

    a_unit_of_no_type: [("roles/base/role.toml", &role("[[unit]]\nname = \"a.servcie\"\ncontent = \"\""))],
        "roles/base/role.toml:13:8", "`unit[0].name` can't be read: `a.servcie` is not the name of a unit: did you mean `a.service`?", "";

    a_firewall_for_an_invalid_network: [("roles/base/role.toml", &role("[[firewall]]\nallow = [{ port = \"80/tcp\", from = \"10.0.0.0/33\" }]"))],
        "roles/base/role.toml:13:36", "`firewall[0].allow[0].from` can't be read: `10.0.0.0/33` is neither an address (192.168.1.101), a network (192.168.1.0/24), a hardware address (02:00:00:00:00:01) nor a set (ipset:NAME)", "";

    a_firewall_for_an_invalid_port: [("roles/base/role.toml", &role("[[firewall]]\nports = [\"80/tpc\"]"))],
        "roles/base/role.toml:13:10", "`firewall[0].ports[0]` can't be read: `80/tpc` is not a port: write it like \"443/tcp\" or \"2379-2380/tcp\", with 1 to 65535 and tcp, udp, sctp or dccp", "";

    a_command_without_a_guard: [("roles/base/role.toml", &role("[[command]]\nrun = [\"touch\", \"/x\"]"))],
        "roles/base/role.toml:12:1", "nothing defines when to run `command:touch /x`",
        "set `creates`, `unless` or `only_if`; or `on_change_of` to ids of resources; or `notify = [\"run:touch /x\"]` in a resource";

    an_invalid_account_name: [("roles/base/role.toml", &role("[[user]]\nname = \"-etcd\""))],
        "roles/base/role.toml:13:8", "`user[0].name` can't be read: `-etcd` is not an account name: it begins with `-`, `+` or `~`", "";

    an_account_name_that_useradd_refuses: [("roles/base/role.toml", &role("[[user]]\nname = \"Etcd Two\""))],
        "roles/base/role.toml:13:8", "`name` of this user can't be used: `Etcd Two` can't be the name of a new account: it has at most 32 letters (a to z), digits, `_`, `.` and `-`, not only digits, optionally followed by `$`", "";

    an_owner_by_number: [("roles/base/role.toml", &role("[[file]]\npath = \"/x\"\ncontent = \"\"\nowner = \"1000\""))],
        "roles/base/role.toml:15:9", "`file[1].owner` can't be read: `1000` is not an account name: it is a number; write the name (`getent passwd NUMBER`, `getent group NUMBER`)", "";

    a_unit_that_watches_an_unrenderable_template_is_reported_once: [("roles/base/role.toml", &role("[[unit]]\nname = \"a.service\"\ncontent = \"[Service]\\nExecStart=/bin/a\\n\"\nrestart_when = [\"template:/etc/base.conf\"]")), ("roles/base/templates/base.conf", "{{ prot }}")],
        "roles/base/templates/base.conf:1:4", "`prot` is not defined", "did you mean `port`?";
}

#[test]
fn invalid_utf_8_is_reported_with_its_place() {
    let files = [
        ("roles/base/templates/base.conf", &b"a\n\xc3\xa9\xffb"[..], "roles/base/templates/base.conf", 2, 2),
        ("host_vars/h1.toml", b"address = \"\xff\"", "host_vars/h1.toml", 1, 12),
    ];
    for (path, content, file, line, column) in files {
        let site = good();
        site.file(path, content);
        let error = kpull(&["check", "--json", "--site", site.path().to_str().unwrap()]).exits(1).error();
        assert_eq!(error["error"], format!("{path} is not UTF-8 text"));
        assert_eq!((&error["file"], &error["line"], &error["column"]), (&file.into(), &line.into(), &column.into()));
        assert_eq!(error["help"], "save it as UTF-8; put binary files into the role's files/");
    }
}

#[test]
fn check_refuses_a_role_without_a_role_toml_and_no_host_reads_it() {
    let site = good();
    let tree = site.sign().file("roles/db/templates/x", "").sign().enroll();
    let error = kpull(&["check", "--json", "--site", site.path().to_str().unwrap()]).exits(1).error();
    assert_eq!(error["error"], "there is no roles/db/role.toml");
    assert_eq!(error["help"], "roles/db/ needs a role.toml with a `summary`");
    tree.kpull("apply --json").exits(0);
}

#[test]
fn a_host_that_the_site_does_not_have_is_reported_with_the_nearest_name() {
    let site = good();
    let tree = site.sign().enroll();
    for (host, help) in [
        ("h2", "did you mean `h1`? `--host`, or `host` in kpull.toml, sets the name of the host"),
        ("master1", "add host_vars/master1.toml, with `address` and `groups`, and sign again"),
    ] {
        let error = tree.kpull(&format!("apply --json --host {host}")).exits(4).error();
        assert_eq!(error["error"], format!("the site `test` has no host `{host}`: there is no host_vars/{host}.toml"));
        assert_eq!(error["help"], help);
    }
    let names: Vec<String> = tree.snapshot().into_keys().collect();
    assert_eq!(names, ["etc", "var", "var/lib"]);
}

#[test]
fn check_and_sign_refuse_a_link_in_a_site() {
    let site = good();
    let tree = Tree::new();
    symlink("base.conf", site.path().join("roles/base/templates/link")).unwrap();
    let key = tree.key();
    let dir = site.path().to_str().unwrap();
    for arguments in [&["check", "--json", "--site", dir][..], &["sign", "--json", "--site", dir, "--key", &key]] {
        let error = kpull(arguments).exits(1).error();
        assert_eq!(error["error"], format!("{dir}/roles/base/templates/link is neither a file nor a directory"));
        assert_eq!(error["help"], "a site can't contain links: copy the file itself");
    }
    assert!(!site.path().join("release.toml").exists());
}

#[test]
fn a_broken_site_is_not_signed() {
    let site = good();
    site.host("h1", "address = \"10.0.0.1\"\ngroups = [\"wbe\"]\n");
    let tree = Tree::new();
    let output = kpull(&["sign", "--json", "--site", site.path().to_str().unwrap(), "--key", &tree.key()]).exits(1);
    assert_eq!(output.error()["error"], "there is no group `wbe`");
    assert!(!site.path().join("release.toml").exists() && !site.path().join("release.toml.sig").exists());
}

#[test]
fn all_errors_are_reported_at_once_and_each_once() {
    let site = good();
    site.host("h1", &format!("{HOST}vars.domian = 1\nvars.base.prot = 2\n"));
    site.host("h2", "address = \"10.0.0.2\"\ngroups = [\"wbe\"]\nroles = [\"bsae\"]\n");
    let dir = site.path().to_str().unwrap().to_owned();
    let reported = |output: crate::support::site::Output| -> Vec<String> {
        let text = |error: &serde_json::Value| error["error"].as_str().unwrap().to_owned();
        output.exits(1).events("error").iter().map(text).collect()
    };
    assert_eq!(
        reported(kpull(&["check", "--json", "--site", &dir])),
        ["unknown key `domian`", "unknown key `prot`", "there is no group `wbe`", "there is no role `bsae`"]
    );
    // in a role that both hosts have: once, and beside the other mistakes of the role
    site.host("h1", HOST).host("h2", &HOST.replace("10.0.0.1", "10.0.0.2"));
    site.file("roles/base/templates/base.conf", "{{ prot }}");
    site.file("roles/base/role.toml", role("[[file]]\npath = \"/x\"\nsource = \"none\""));
    assert_eq!(
        reported(kpull(&["check", "--json", "--site", &dir])),
        ["`prot` is not defined", "there is no roles/base/files/none"]
    );
    // and an error of the second host alone is reported although they share one
    site.role("more", "[[file]]\npath = \"/y\"\nsource = \"nothing\"\n");
    site.host("h2", &format!("{}roles = [\"more\"]\n", HOST.replace("10.0.0.1", "10.0.0.2")));
    assert_eq!(
        reported(kpull(&["check", "--json", "--site", &dir])),
        ["`prot` is not defined", "there is no roles/base/files/none", "there is no roles/more/files/nothing"]
    );
    let text = kpull(&["check", "--site", &dir]).exits(1).stderr;
    assert_eq!(text.matches('×').count(), 3, "{text}");
}

/// What a wrong `kpull.toml` is answered with, by every command that reads it.
#[track_caller]
fn misconfigured(config: &str, signers: Option<&str>, says: &str, line: Option<u64>, help: &str) {
    let tree = Tree::new();
    let own = tree.configure("").read("etc/kpull/allowed_signers");
    tree.write("etc/kpull/kpull.toml", config).write("etc/kpull/allowed_signers", signers.unwrap_or(&own));
    let dir = tree.at("etc/kpull");
    for command in ["apply --json", "plan --json"] {
        let error = tree.kpull(command).exits(1).error();
        assert_eq!(error["error"], says.replace("DIR", dir.to_str().unwrap()));
        assert_eq!(error["help"].as_str().unwrap_or_default(), help);
        assert_eq!((error["line"].as_u64(), error["file"].is_string()), (line, line.is_some()));
    }
    assert!(tree.snapshot().keys().all(|name| ["etc", "var", "var/lib"].contains(&name.as_str())));
}

const TRUST: &str = "[trust]\nsite = \"test\"\nallowed_signers = \"allowed_signers\"\n";

#[test]
fn an_unknown_key_of_kpull_toml_is_named() {
    let config = format!("hots = \"h1\"\nsource = [{{ dir = \"/x\" }}]\n{TRUST}");
    misconfigured(&config, None, "unknown key `hots`", Some(1), "did you mean `host`?");
    let config = format!("{TRUST}[[source]]\ndri = \"/x\"\n");
    misconfigured(&config, None, "unknown key `dri`", Some(5), "did you mean `dir`?");
}

#[test]
fn a_kpull_toml_without_a_required_key_names_the_key() {
    let help = "add [[source]] with `git`, `http` or `dir`";
    for config in [TRUST.to_owned(), format!("source = []\n{TRUST}")] {
        misconfigured(&config, None, "DIR/kpull.toml names no source", None, help);
    }
    misconfigured("[[source]]\ndir = \"/x\"\n", None, "`DIR/kpull.toml` lacks `trust`", Some(1), "");
    let none = format!("{TRUST}[[source]]\n");
    let help = "set one address for the source, such as git = \"https://HOST/site.git\"";
    misconfigured(&none, None, "a source sets none of `git`, `http` and `dir`", Some(4), help);
}

#[test]
fn a_source_of_two_kinds_is_refused() {
    let config = format!("{TRUST}[[source]]\ndir = \"/x\"\ngit = \"/y\"\n");
    let help = "write one [[source]] table for each address";
    misconfigured(&config, None, "a source sets git and dir together", Some(4), help);
}

#[test]
fn a_threshold_of_zero_or_above_the_number_of_keys_is_refused() {
    let help = "set `threshold` under [trust] in kpull.toml to between 1 and the number of keys whose `namespaces` has release@kpull";
    for threshold in [0, 2] {
        let config = format!("{TRUST}threshold = {threshold}\n[[source]]\ndir = \"/x\"\n");
        let says = format!("`threshold` is {threshold}, and DIR/allowed_signers has 1 key");
        misconfigured(&config, None, &says, None, help);
    }
}

#[test]
fn unreadable_signers_are_reported_with_their_line() {
    let config = format!("{TRUST}[[source]]\ndir = \"/x\"\n");
    let help = "add a line like: alice namespaces=\"release@kpull\" ssh-ed25519 AAAA…";
    misconfigured(&config, Some("# none\n"), "DIR/allowed_signers names no key that can sign releases", None, help);
    let says =
        "DIR/allowed_signers:2: can't read this allowed signer: the key is cut short, or something else than a key";
    let help = "a line is `NAME [OPTIONS] KEYTYPE KEY`, as in ssh-keygen(1) under ALLOWED SIGNERS";
    misconfigured(&config, Some("\ntester ssh-ed25519 nonsense\n"), says, None, help);

    let says = "can't read the allowed signers DIR/none: No such file or directory (os error 2)";
    let help = "`allowed_signers` under [trust] in kpull.toml names the file with the trusted keys";
    misconfigured(&config.replace("allowed_signers\"", "none\""), None, says, None, help);
}

#[test]
fn credentials_in_an_address_appear_in_no_message_and_no_excerpt() {
    let tree = Tree::new();
    tree.configure("[[source]]\nhttp = \"https://me:hunter2@h/\"\ndri = \"/x\"\n");
    for command in ["apply", "apply --json", "status"] {
        let output = tree.kpull(command).exits(1);
        assert!(!format!("{output:?}").contains("hunter2"), "{output:?}");
    }
    tree.configure("[[source]]\nhttp = \"https://me:hunter2@h/\"\n");
    let error = tree.kpull("apply --json").exits(1).error();
    assert_eq!((error["error"].as_str(), error["line"].as_u64()), (Some("`https://h/` contains credentials"), Some(2)));
    assert!(!tree.kpull("apply").stderr.contains("hunter2"));
}

#[test]
fn an_unenrolled_host_reports_that_it_is_not_enrolled() {
    let tree = Tree::new();
    let error = tree.kpull("apply --json").exits(1).error();
    let path = tree.at("etc/kpull/kpull.toml");
    let says = format!("can't read the configuration {}: No such file or directory (os error 2)", path.display());
    assert_eq!(error["error"], says);
    let help = format!("run `kpull enroll URL --site NAME --root {}` to write it", tree.path().display());
    assert!(error["help"].as_str().unwrap().starts_with(&help), "{error}");
    assert!(tree.snapshot().is_empty());
}
