//! The author of a role, or of the file of one host, tries to read secrets of others.

use ssh_key::PrivateKey;
use ssh_key::private::Ed25519Keypair;

use crate::support::site::{Site, key, kpull};

/// What `kpull check` says of a site with these two, on the host `node1`: the message, the file and what to do.
fn check(role: &str, host_vars: &str) -> Result<(), (String, String, String)> {
    let site = site(role, host_vars);
    let checked = kpull(&["check", "--json", "--site", site.path().to_str().unwrap()]);
    if checked.code == 0 {
        return Ok(());
    }
    let error = checked.exits(1).error();
    let text = |field: &str| error[field].as_str().unwrap_or_default().to_owned();
    Err((text("error"), text("file"), text("help")))
}

/// A site with an authority whose key is for `master1` alone, a key pair for no host, and the secret `db`.
fn site(role: &str, host_vars: &str) -> Site {
    let site = Site::new("test");
    let operator = key().public_key().to_openssh().unwrap();
    site.file(
        "site.toml",
        format!(
            "name = \"test\"\n[secrets]\nrecipients = [{operator:?}]\n[pki.etcd]\nkey_hosts = [\"master1\"]\n[pki.tokens]\nkind = \"key-pair\"\n"
        ),
    );
    let host = |last: u8, role: &str| {
        let own: PrivateKey = Ed25519Keypair::from_seed(&[last; 32]).into();
        let own = own.public_key().to_openssh().unwrap();
        format!("address = \"10.0.0.{last}\"\nrecipient = {own:?}\nroles = [{role:?}]\n")
    };
    site.host("master1", &host(1, "signer"));
    site.host("node1", &format!("{}{host_vars}", host(2, "app")));
    site.file("secrets/pki/etcd.key.age", "-----BEGIN AGE ENCRYPTED FILE-----\n");
    site.role("signer", "[[secret]]\nname = \"pki/etcd.key\"\npath = \"/etc/ca.key\"\n");
    site.role("app", &format!("vars.x = \"x\"\nvars.list = []\n{role}"));
    site
}

/// The same with the role of `node1` on `master1` too.
fn site_of_two(role: &str, host_vars: &str) -> Site {
    let site = site(role, host_vars);
    let path = site.path().join("host_vars/master1.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, text.replace("\"signer\"", "\"app\"")).unwrap();
    site
}

#[track_caller]
fn refused(role: &str, host_vars: &str, what: &str, file: &str) {
    let (error, at, help) = check(role, host_vars).unwrap_err();
    assert!(error.contains(what), "{role}{host_vars}: {error} at {at}");
    assert_eq!(at, file, "{role}{host_vars}: {error}");
    assert!(!help.is_empty() && !help.contains("rekey"), "{error}: {help}");
}

fn file(content: &str) -> String {
    format!("[[file]]\npath = \"/etc/x\"\ncontent = \"\"\"{content}\"\"\"\n")
}

#[test]
fn an_authoritys_key_is_only_for_hosts_that_site_toml_names() {
    let what = "the secret pki/etcd.key is a key of [pki.etcd] that node1 can't read";
    let role = "roles/app/role.toml";
    // as it is, computed, from facts, from a variable, from a list, as a file, as a credential
    for role_text in [
        file("{{ secret('pki/etcd.key') }}"),
        file("{{ secret('pki/' ~ 'etcd' ~ '.key') }}"),
        file("{{ secret(['pki', 'etcd.key'] | join('/')) }}"),
        file("{% set s = 'yek.dcte/ikp' | reverse %}{{ secret(s) }}"),
        file("{% macro m(n) %}{{ secret(n) }}{% endmacro %}{{ m('pki/etcd.key') }}"),
        file("{{ secret('pki/etcd.key') | length }}"),
        "[[secret]]\nname = \"pki/{{ 'etcd' }}.key\"\npath = \"/x\"\n".to_owned(),
        "[[secret]]\nname = \"pki/etcd.key\"\ncredential = \"c\"\nunit = \"app.service\"\n".to_owned(),
        "[[secret]]\nfor_each = \"['pki/etcd.key']\"\nname = \"{{ item }}\"\npath = \"/x\"\n".to_owned(),
        "[[file]]\nwhen = \"secret('pki/etcd.key') | length > 100\"\npath = \"/x\"\ncontent = \"\"\n".to_owned(),
    ] {
        refused(&role_text, "", what, role);
    }
    refused(&format!("vars.y = \"{{{{ secret('pki/etcd.key') }}}}\"\n{}", file("{{ y }}")), "", what, role);
    for rotated in ["pki/etcd.next.key", "pki/etcd.old.key", "pki/etcd.key.age", "pki/etcd"] {
        refused(
            &file(&format!("{{{{ secret('{rotated}') }}}}")),
            "",
            "is a key of [pki.etcd] that node1 can't read",
            role,
        );
    }
    refused(&file("{{ secret('pki/tokens.key') }}"), "", "is a key of [pki.tokens] that node1 can't read", role);
    refused(&file("{{ secret('pki/other.key') }}"), "", "is for no host: site.toml has no [pki.other]", role);
    // a name that a host's file gives to a role
    refused(&file("{{ secret(x) }}"), "vars.app.x = \"pki/etcd.key\"\n", what, role);
    refused(&file("{{ secret('pki/' ~ x ~ '.key') }}"), "vars.app.x = \"etcd\"\n", what, role);
}

#[test]
fn a_hosts_certificate_key_is_for_no_other_host() {
    let what = "the secret pki/master1/etcd.key is a key of master1, not of node1";
    refused(&file("{{ secret('pki/master1/etcd.key') }}"), "", what, "roles/app/role.toml");
    refused(&file("{{ secret('pki/' ~ x ~ '/etcd.key') }}"), "vars.app.x = \"master1\"\n", what, "roles/app/role.toml");
}

#[test]
fn a_hosts_own_file_requests_no_secret() {
    let what = "host_vars can't use secrets, but this value uses db";
    let show = file("{{ x }}{{ list | join }}");
    for host_vars in [
        "vars.app.x = \"{{ secret('db') }}\"\n",
        "vars.app.x = \"{{ secret('d' ~ 'b') }}\"\n",
        "vars.app.x = \"a {% if true %}{{ secret('db') }}{% endif %}\"\n",
        "vars.app.x = \"{% set s = secret %}{{ s('db') }}\"\n",
        "vars.app.list = [\"a\", \"{{ secret('db') }}\"]\n",
        "vars.app.list = [[\"{{ secret('db') }}\"]]\n",
    ] {
        let site = site(&show, host_vars);
        let error = kpull(&["check", "--json", "--site", site.path().to_str().unwrap()]).exits(1).error();
        assert_eq!(error["error"].as_str().unwrap().split(": ").next(), Some(what), "{host_vars}");
        assert!(error["file"] == "host_vars/node1.toml", "{host_vars}: {error}");
    }
    // by a role's macro
    let site = site(&show, "vars.app.x = \"{% from 'roles/app/templates/m' import m %}{{ m('db') }}\"\n");
    site.file("roles/app/templates/m", "{% macro m(n) %}{{ secret(n) }}{% endmacro %}");
    let error = kpull(&["check", "--json", "--site", site.path().to_str().unwrap()]).exits(1).error();
    assert_eq!(error["error"].as_str().unwrap().split(": ").next(), Some(what), "{error}");
    // in a map that a role begins, and in the name of an entry
    let map = "vars.m.a = \"a\"\n[[file]]\npath = \"/etc/x\"\ncontent = \"{{ m | string }}\"\n";
    for host_vars in ["vars.app.m.a = \"{{ secret('db') }}\"\n", "vars.app.m.\"{{ secret('db') }}\" = \"b\"\n"] {
        refused(map, host_vars, what, "host_vars/node1.toml");
    }
    // another host's, which the role there asks for
    let role = format!("vars.password = \"{{{{ secret('db-' ~ host.name) }}}}\"\n{}", file("{{ x }}"));
    let other = "(hosts | selectattr('name', 'eq', 'master1') | first)";
    for value in [
        format!("{{{{ {other}.vars.app.password }}}}"),
        format!("{{{{ {other}.vars['app'].password | b64encode }}}}"),
        "{{ hosts | map(attribute='vars.app.password') | join }}".to_owned(),
        format!("{{% if {other}.vars.app.password %}}x{{% endif %}}"),
    ] {
        let site = site_of_two(&role, &format!("vars.app.x = \"{value}\"\n"));
        let error = kpull(&["check", "--json", "--site", site.path().to_str().unwrap()]).exits(1).error();
        let what = "host_vars can't use secrets, but this value uses db-master1";
        assert_eq!(error["error"].as_str().unwrap().split(": ").next(), Some(what), "{value}: {error}");
    }
    // through another host's eyes
    let role = file("{{ hosts | map(attribute='vars.app.x') | list }}");
    refused(&role, "vars.app.x = \"{{ secret('db') }}\"\n", what, "host_vars/node1.toml");
}

#[test]
fn a_secret_that_site_toml_allows_is_still_allowed() {
    // a role's own, also where a host's file names a role's variable, or a part of the secret's name
    let site = site(
        &format!("vars.password = \"{{{{ secret('db') }}}}\"\n{}", file("{{ x }}")),
        "vars.app.x = \"the password is {{ password }}\"\n",
    );
    let path = site.path().to_str().unwrap();
    std::fs::remove_file(site.path().join("secrets/pki/etcd.key.age")).unwrap();
    kpull(&["pki", "init", "--site", path]).exits(0);
    let listed = kpull(&["secret", "rekey", "--check", "--site", path]).exits(2);
    assert!(listed.stdout.contains("pki/etcd.key: it is not encrypted to master1, where it is used"), "{listed:?}");
    assert!(!listed.stdout.contains("node1"), "{listed:?}");
}

#[test]
fn a_line_break_in_a_hosts_own_file_injects_no_line() {
    let what = "a value in host_vars contains a line break or another control character";
    let unit = "[[unit]]\nname = \"x.service\"\ncontent = \"\"\"[Service]\nDescription={{ x }} {{ list | join(' ') }}\n\"\"\"\n";
    for host_vars in [
        r#"vars.app.x = "x\nExecStartPre=/bin/sh -c id""#,
        r#"vars.app.x = "x\r[Service]""#,
        r#"vars.app.x = "x\u001b[2J""#,
        r#"vars.app.x = "{{ 'x' ~ '\n' ~ 'ExecStartPre=/bin/id' }}""#,
        r#"vars.app.x = "{{ ['a', 'b'] | join('\n') }}""#,
        r#"vars.app.x = "{% for a in [1, 2] %}{{ a }}\n{% endfor %}""#,
        r#"vars.app.list = ["a", "b\nExecStartPre=/bin/id"]"#,
        r#"vars.app.list = "{{ ['b\nExecStartPre=/bin/id'] }}""#,
        r#"vars.app.list = [{ a = "b", "c\nd" = "e" }]"#,
        // in a value that is no list yet, and deeper than a reader would search
        r#"vars.app.list = "{{ ['b\nExecStartPre=/bin/id'] | reverse }}""#,
        r#"vars.app.list = "{{ ['b\nExecStartPre=/bin/id', 'c'][0:1] }}""#,
        r#"vars.app.list = "{{ ['b'] + ['b\nExecStartPre=/bin/id'] }}""#,
        r#"vars.app.list = "{{ ['b\nExecStartPre=/bin/id'] * 2 }}""#,
        r#"vars.app.list = "{{ ['b\nExecStartPre=/bin/id'] | zip(['c']) }}""#,
        r#"vars.app.list = "{{ {'a': 'b\nExecStartPre=/bin/id'}.values() }}""#,
        r#"vars.app.list = "{{ {'a': 'b\nExecStartPre=/bin/id'} | items }}""#,
        r#"vars.app.list = "{{ [[[[[[[[[[[[[[[[[[[['b\nExecStartPre=/bin/id']]]]]]]]]]]]]]]]]]]] }}""#,
    ] {
        refused(unit, &format!("{host_vars}\n"), what, "host_vars/node1.toml");
    }
    // a tab is none, and a role may expect several lines
    let lines = format!("types.x = \"lines\"\n{unit}");
    for (role, host_vars) in [(unit, r#"vars.app.x = "a\tb""#), (&lines, r#"vars.app.x = "a\nb""#)] {
        let site = site(role, &format!("{host_vars}\n"));
        let checked = kpull(&["check", "--site", site.path().to_str().unwrap()]);
        assert!(!checked.stderr.contains(what), "{host_vars}: {checked:?}");
    }
}
