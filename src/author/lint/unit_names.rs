//! Names of other units in units: systemd ignores a name without a unit.

use std::collections::BTreeSet;

use crate::author::lint::{Host, Subject};
use crate::error::{Error, error, nearest};
use crate::host::unit_files::instance_of;
use crate::kind::package::Package;

/// The settings with names of units, by section, and whether a unit of another host is allowed, for which ordering has no effect.
const KEYS: [(&str, &str, bool); 3] = [
    ("Unit", "After Before", true),
    ("Unit", "Wants Requires Requisite BindsTo PartOf Conflicts OnFailure", false),
    ("Install", "WantedBy RequiredBy Also", false),
];

/// Services of distributions that need no [[unit]].
const SERVICES: &str = "NetworkManager NetworkManager-wait-online apparmor auditd chrony chronyd cloud-config cloud-final \
    cloud-init cloud-init-local cron crond dbus dbus-broker ebtables emergency firewalld ip6tables \
    iptables ipset irqbalance kdump netfilter-persistent network networking nftables ntp ntpd polkit \
    rescue rpcbind rsyslog ssh sshd syslog tuned ufw wpa_supplicant apt-daily";

/// Template units of distributions.
const TEMPLATES: [&str; 4] = ["getty@", "serial-getty@", "user@", "user-runtime-dir@"];

pub(super) fn lint(subject: &Subject<'_>) -> Vec<Error> {
    let everywhere: BTreeSet<String> = subject.hosts.iter().flat_map(names).collect();
    let mut errors = Vec::new();
    for host in &subject.hosts {
        let here = names(host);
        for unit in &host.units {
            let keys = KEYS
                .iter()
                .flat_map(|(section, keys, elsewhere)| keys.split(' ').map(move |key| (section, key, elsewhere)));
            for (section, key, elsewhere) in keys {
                let known = if *elsewhere { &everywhere } else { &here };
                for name in unit.text.words(section, key).filter(|name| !is_known(name, known) && !is_systems(name)) {
                    let place = subject.place_of_word(unit.item, name);
                    let error = error!(LINT_UNIT, "{} has {key}={name}, but there is no such unit", unit.unit.name)
                        .at(place, "no such unit");
                    errors.push(match meant(name, known) {
                        Some(near) => error.help(format!("did you mean `{near}`?")),
                        None => error.help("add a [[unit]] for it; for a unit of a package, a `name` is enough"),
                    });
                }
            }
        }
    }
    errors
}

/// The nearest unit name, ignoring the common suffix.
fn meant(name: &str, known: &BTreeSet<String>) -> Option<String> {
    let (stem, kind) = name.rsplit_once('.')?;
    let stems = |known: &'_ str| known.strip_suffix(kind)?.strip_suffix('.').map(str::to_owned);
    let own: Vec<String> = known.iter().filter_map(|known| stems(known)).collect();
    let systems = SERVICES.split(' ').filter(|_| kind == "service");
    let near = nearest(stem, own.iter().map(String::as_str)).or_else(|| nearest(stem, systems));
    let near = near.map(|near| format!("{near}.{kind}"));
    near.or_else(|| {
        nearest(name, known.iter().map(String::as_str))
            .filter(|near| !near.ends_with(&format!(".{kind}")))
            .map(str::to_owned)
    })
}

/// The names of a host's units with their aliases, and likely units of its packages.
fn names(host: &Host<'_>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for unit in &host.units {
        names.insert(unit.unit.name.clone());
        names.extend(unit.text.words("Install", "Alias").map(str::to_owned));
    }
    for (item, _) in host.all::<Package>() {
        let package = item.about.key.clone();
        names.extend(["service", "socket"].map(|kind| format!("{package}.{kind}")));
    }
    names
}

/// Whether a name is one of these or an instance of a template among them.
fn is_known(name: &str, names: &BTreeSet<String>) -> bool {
    if names.contains(name) {
        return true;
    }
    let kind = name.rsplit('.').next().unwrap_or_default();
    match instance_of(name) {
        Some((prefix, instance)) if instance.contains('%') => {
            names.iter().any(|known| known.starts_with(&format!("{prefix}@")))
        }
        Some((prefix, _)) => names.contains(&format!("{prefix}@.{kind}")),
        // specifiers depend on the host
        None => name.contains('%'),
    }
}

/// Whether systemd or a distribution probably has a unit of this name.
fn is_systems(name: &str) -> bool {
    let Some((stem, kind)) = name.rsplit_once('.') else { return false };
    match kind {
        "target" | "slice" | "mount" | "automount" | "device" | "swap" | "scope" => true,
        _ if stem.starts_with("systemd-") || TEMPLATES.iter().any(|template| stem.starts_with(template)) => true,
        "service" => SERVICES.split(' ').any(|service| service == stem),
        "socket" => matches!(stem, "dbus" | "rpcbind" | "syslog" | "ssh" | "sshd"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use crate::author::lint::testing::{found, reported};

    fn site(unit: &str, more: &str) -> Vec<(String, String, String)> {
        let role = format!("summary = \"x\"\n[[unit]]\nname = \"a.service\"\ntemplate = \"a.service\"\n{more}");
        found(&[("roles/r/role.toml", &role), ("roles/r/templates/a.service", unit)])
    }

    #[test]
    fn units_that_are_there_are_fine() {
        let unit = "[Unit]\nAfter=network-online.target firewalld.service \\\n  systemd-sysctl.service b@%i.service\nWants=b@1.service getty@tty1.service\nRequires=c.socket var-lib.mount also.service\nPartOf=%p.service\n[Install]\nAlso=c.socket\n";
        let more = "[[unit]]\nname = 'b@.service'\n[[unit]]\nname = 'c.socket'\ncontent = '''\n[Install]\nAlias=also.service\n'''\n[[package]]\nname = 'haproxy'\n";
        assert_eq!(site(unit, more), []);
        assert_eq!(site("[Unit]\nAfter=haproxy.service\n", more), []);
    }

    #[test]
    fn an_unknown_name_is_reported_with_the_nearest_one() {
        let more = "[[unit]]\nname = 'kube-apiserver.service'\n";
        for key in ["After", "Before", "Wants", "Requires", "Requisite", "BindsTo", "PartOf", "Conflicts"] {
            let errors =
                site(&format!("[Unit]\n{key}=network.target\n{key}=dbus.service kube-api-server.service\n"), more);
            let what = format!("a.service has {key}=kube-api-server.service, but there is no such unit");
            let place = format!("roles/r/templates/a.service:3:{}", key.len() + "=dbus.service ".len() + 1);
            assert_eq!(errors, [reported(&what, &place, "did you mean `kube-apiserver.service`?")]);
        }
        let help = "add a [[unit]] for it; for a unit of a package, a `name` is enough";
        let wanted = reported(
            "a.service has Also=x@y.timer, but there is no such unit",
            "roles/r/templates/a.service:2:6",
            help,
        );
        assert_eq!(site("[Install]\nAlso=x@y.timer\n", ""), [wanted]);
    }

    #[test]
    fn an_order_may_name_a_unit_that_only_another_host_has() {
        let two = |key: &str| {
            found(&[
                ("host_vars/h1.toml", "address = '10.0.0.1'\nroles = ['a', 'b']"),
                ("host_vars/h2.toml", "address = '10.0.0.2'\nroles = ['a']"),
                (
                    "roles/a/role.toml",
                    &format!(
                        "summary = 'x'\n[[unit]]\nname = 'a.service'\ncontent = '''\n[Unit]\n{key}=store.service\n'''"
                    ),
                ),
                ("roles/b/role.toml", "summary = 'x'\n[[unit]]\nname = 'store.service'\n"),
            ])
        };
        assert_eq!(two("After"), []);
        let wanted = reported(
            "a.service has Requires=store.service, but there is no such unit",
            "roles/a/role.toml:6:10",
            "add a [[unit]] for it; for a unit of a package, a `name` is enough",
        );
        assert_eq!(two("Requires"), [wanted]);
    }
}
