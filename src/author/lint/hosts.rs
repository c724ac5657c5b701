//! Conflicting or invalid hosts: two with the same address or key, one without a role, one with an invalid name.

use crate::author::prelude::*;

/// The maximum length of a host name, and of a label in it.
const LONGEST: [usize; 2] = [253, 63];

/// Problems of hosts, whether or not they resolve, since these problems can be the cause.
pub fn lint(site: &Site) -> Vec<Error> {
    let hosts = &site.hosts;
    let mut addresses: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let mut keys: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    let mut errors = Vec::new();
    for (name, host) in hosts {
        if let Some(why) = bad_name(name) {
            let error = error!(LINT_HOST, "`{name}` can't be the name of a host: {why}")
                .at(host.doc.place(&[]), "named by this file");
            errors.push(error.help(format!(
                "rename host_vars/{name}.toml, and `host` in its kpull.toml; use letters a to z, digits and `-`, with `.` between labels"
            )));
        }
        if host.roles.is_empty() {
            errors.push(
                error!(LINT_HOST, "{name} has no role, so kpull would do nothing there")
                    .at(host.doc.place(&[]), "neither `groups` with roles nor `roles`")
                    .help("add `groups` or `roles`, or remove the file"),
            );
        }
        addresses.entry(host.address).or_default().push(name);
        for key in &host.recipients {
            keys.entry(key.to_string()).or_default().insert(name);
        }
    }
    for (address, names) in addresses {
        let what = format!("have the same address, {address}");
        errors.extend(shared(site, &names, "address", &what, "use a different one for each host"));
    }
    for names in keys.into_values().map(Vec::from_iter) {
        let what = "have the same `recipient`: each could read the others' secrets and sign as them";
        let help = "set it to the output of `cat /etc/ssh/ssh_host_ed25519_key.pub` on each host; on clones of a machine, remove the keys and run `ssh-keygen -A` first";
        errors.extend(shared(site, &names, "recipient", what, help));
    }
    errors
}

/// The error for a value that several hosts share, at the second of them.
fn shared(site: &Site, names: &[&String], key: &str, what: &str, help: &str) -> Option<Error> {
    let second = site.hosts.get(*names.get(1)?)?;
    let (last, others) = names.split_last()?;
    let others: Vec<&str> = others.iter().map(|name| name.as_str()).collect();
    let error = error!(LINT_HOST, "{} and {last} {what}", others.join(", "));
    Some(error.at(second.doc.place(&[key.to_owned()]), "the same").help(help))
}

/// Why a host can't have this name.
fn bad_name(name: &str) -> Option<&'static str> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_label = |label: &str| {
        !label.is_empty() && label.len() <= LONGEST[1] && !label.starts_with('-') && !label.ends_with('-')
    };
    if name.chars().any(|c| c.is_ascii_uppercase()) {
        return Some("it has upper-case letters, which some programs convert to lower case");
    }
    let is_good =
        name.len() <= LONGEST[0] && name.split('.').all(|label| is_label(label) && label.chars().all(is_plain));
    (!is_good).then_some("it is not a valid host name")
}

#[cfg(test)]
mod tests {
    use crate::author::lint::testing::{found, reported};

    const ROLE: (&str, &str) = ("roles/r/role.toml", "summary = 'x'\n");
    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEPQM1kio50Wt0JEdi5qBQQd3QLA5wL55VO4hQLBzIgo";

    fn two(one: &str, other: &str) -> Vec<(String, String, String)> {
        found(&[ROLE, ("host_vars/h1.toml", one), ("host_vars/h2.toml", other)])
    }

    #[test]
    fn two_hosts_with_one_address_or_one_key_are_reported_at_the_second() {
        let one = "roles = ['r']\naddress = '10.0.0.1'\n";
        let what = "h1 and h2 have the same address, 10.0.0.1";
        assert_eq!(two(one, one), [reported(what, "host_vars/h2.toml:2:11", "use a different one for each host")]);
        assert_eq!(two(one, "roles = ['r']\naddress = '::ffff:10.0.0.2'\n"), []);
        let with_key = |last: u8| format!("roles = ['r']\naddress = '10.0.0.{last}'\nrecipient = '{KEY}'\n");
        let errors = two(&with_key(1), &with_key(2));
        let what = "h1 and h2 have the same `recipient`: each could read the others' secrets and sign as them";
        assert_eq!((errors.len(), errors[0].0.as_str(), errors[0].1.as_str()), (1, what, "host_vars/h2.toml:3:13"));
    }

    #[test]
    fn a_host_without_a_role_is_reported_also_when_its_group_has_none() {
        let reported_of = |text: &str| {
            let site = ("site.toml", "name = 'x'\n[groups.empty]\nroles = []\n");
            found(&[ROLE, site, ("host_vars/h1.toml", text)])
        };
        let help = "add `groups` or `roles`, or remove the file";
        for more in ["", "roles = []\n", "groups = ['empty']\n"] {
            let errors = reported_of(&format!("address = '10.0.0.1'\n{more}"));
            assert_eq!(
                errors,
                [reported("h1 has no role, so kpull would do nothing there", "host_vars/h1.toml:1:1", help)]
            );
        }
    }

    #[test]
    fn a_name_that_no_host_can_have_is_reported() {
        let named = |name: &str| {
            let errors = found(&[ROLE, (&format!("host_vars/{name}.toml"), "address = '10.0.0.1'\nroles = ['r']\n")]);
            errors.into_iter().next().map(|(what, ..)| what)
        };
        for good in ["master1", "node-1.example.org", "1"] {
            assert_eq!(named(good), None, "{good}");
        }
        let upper = "`Master1` can't be the name of a host: it has upper-case letters, which some programs convert to lower case";
        assert_eq!(named("Master1").as_deref(), Some(upper));
        for bad in ["a_b", "a..b", "a-.b", &"a".repeat(64)] {
            let what = format!("`{bad}` can't be the name of a host: it is not a valid host name");
            assert_eq!(named(bad), Some(what), "{bad}");
        }
    }
}
