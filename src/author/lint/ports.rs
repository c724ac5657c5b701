//! Ports: the `listens` of units, what the firewall allows, and what command lines listen at.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use crate::author::lint::flags::{flag_of, has_tables, name_of};
use crate::author::lint::{Host, HostUnit, Subject, place};
use crate::author::prelude::*;
use crate::host::port_range::PortRange;
use crate::host::zone::{Ports, Target, Traffic};
use crate::kind::firewall::{Definition, Firewall, OwnZone};

/// The zone that allows everything.
const TRUSTED: &str = "trusted";

pub(super) fn lint(subject: &Subject<'_>) -> Vec<Error> {
    let of_host = |host| [shut(subject, host), open(subject, host), shared(subject, host)].concat();
    let unlisted = subject.units().flat_map(|(host, unit)| unlisted(subject, host, unit));
    subject.hosts.iter().flat_map(of_host).chain(unlisted).collect()
}

/// Zones of a host that allow everything; `None` is the default zone.
fn open_zones<'a>(host: &Host<'a>) -> HashSet<Option<&'a str>> {
    let own = host.all::<OwnZone>().map(|(_, own)| own).filter(|own| own.target == Some(Target::Accept));
    own.map(|own| own.zone.as_deref()).chain([Some(TRUSTED)]).collect()
}

/// A host's firewalls, except those of zones that allow everything.
fn firewalls<'a>(host: &Host<'a>) -> impl Iterator<Item = (&'a Item, &'a Firewall)> + use<'a> {
    let open = open_zones(host);
    host.all::<Firewall>().filter(move |(_, firewall)| !open.contains(&firewall.zone.as_deref()))
}

/// What a firewall allows by services that the host's roles define.
fn lets_in_by_own_services<'a>(host: &Host<'a>, firewall: &'a Firewall) -> impl Iterator<Item = &'a Traffic> + use<'a> {
    let own: HashMap<&str, &[Traffic]> =
        host.all::<Definition>().filter_map(|(_, definition)| definition.as_service()).collect();
    firewall.named.iter().filter_map(move |name| own.get(name.as_str()).copied()).flatten()
}

/// The units with what they listen at.
fn listened<'a>(host: &'a Host<'_>) -> impl Iterator<Item = (&'a HostUnit<'a>, &'a Traffic)> {
    host.units.iter().flat_map(|unit| unit.unit.listens.iter().map(move |listen| (unit, &listen.at)))
}

/// The part of some traffic that is not in others, as text.
fn rest(wanted: &Traffic, others: &[&Traffic]) -> Option<String> {
    match wanted {
        Traffic::Protocol(_) => (!others.contains(&wanted)).then(|| wanted.to_string()),
        Traffic::Ports(range) => {
            let ranges = others.iter().filter_map(|other| match other {
                Traffic::Ports(range) => Some(range.clone()),
                Traffic::Protocol(_) => None,
            });
            let rest = Ports::from_iter([range.clone()]).without(&Ports::from_iter(ranges));
            let rest: Vec<String> = rest.iter().map(ToString::to_string).collect();
            (!rest.is_empty()).then(|| rest.join(", "))
        }
    }
}

/// What units listen at, but the firewall blocks. Skips hosts without a `[[firewall]]`.
fn shut(subject: &Subject<'_>, host: &Host<'_>) -> Vec<Error> {
    if host.all::<Firewall>().next().is_none() || open_zones(host).contains(&None) {
        return Vec::new();
    }
    let mut lets_in: Vec<&Traffic> = Vec::new();
    for (_, firewall) in firewalls(host) {
        lets_in.extend(firewall.lets_in.iter().chain(&firewall.lets_in_otherwise));
        lets_in.extend(lets_in_by_own_services(host, firewall));
    }
    let shut = |(unit, at): (&HostUnit<'_>, &Traffic)| {
        let shut = rest(at, &lets_in)?;
        let field = if matches!(at, Traffic::Ports(_)) { "port" } else { "protocol" };
        Some(
            error!(LINT_PORT, "{} listens at {shut}, but no [[firewall]] allows it", unit.unit.name)
                .at(place_of(subject.site, unit.item, at, "listens"), "listed here")
                .help(format!(
                    "on {}: add `{{ {field} = \"{at}\", from = … }}` to the `allow` of a [[firewall]]",
                    host.name
                )),
        )
    };
    listened(host).filter_map(shut).collect()
}

/// What the firewall allows, but no unit listens at. Skips hosts whose units have no `listens`.
fn open(subject: &Subject<'_>, host: &Host<'_>) -> Vec<Error> {
    let listened: Vec<&Traffic> = listened(host).map(|(_, at)| at).collect();
    if listened.is_empty() {
        return Vec::new();
    }
    let mut errors = Vec::new();
    for (item, firewall) in firewalls(host) {
        for traffic in &firewall.lets_in {
            let Some(open) = rest(traffic, &listened) else { continue };
            errors.push(
                error!(LINT_PORT, "the firewall allows {open}, but no unit listens there")
                    .at(place_of(subject.site, item, traffic, "allow"), "allowed here")
                    .help(format!("on {}: close it, or add `listens = [\"{open}\"]` to its [[unit]]", host.name)),
            );
        }
    }
    errors
}

/// What two units of a host both listen at, which only one can. A socket and its service count as one.
fn shared(subject: &Subject<'_>, host: &Host<'_>) -> Vec<Error> {
    let stem = |unit: &HostUnit<'_>| unit.unit.name.rsplit_once('.').map(|(stem, _)| stem.to_owned());
    let all: Vec<_> = listened(host).collect();
    let mut errors = Vec::new();
    for (index, (unit, at)) in all.iter().enumerate().filter(|(_, (_, at))| matches!(at, Traffic::Ports(_))) {
        let is_other = |other: &HostUnit<'_>| stem(other) != stem(unit);
        let is_at = |other: &Traffic| rest(at, &[other]) != rest(at, &[]);
        let Some((other, _)) = all.iter().take(index).find(|(other, also)| is_other(other) && is_at(also)) else {
            continue;
        };
        errors.push(
            error!(LINT_PORT, "{} and {} of {} both listen at {at}", unit.unit.name, other.unit.name, host.name)
                .at(place_of(subject.site, unit.item, at, "listens"), "already in use")
                .help(format!("use another port for one of them; the other one is at {}", other.item.place)),
        );
    }
    errors
}

/// The place of some traffic in its entry, else of the field, else of the entry.
fn place_of(site: &Site, item: &Item, traffic: &Traffic, field: &str) -> Place {
    let written = [traffic.to_string(), field.to_owned(), "ports".to_owned()];
    written.iter().find_map(|word| place::in_entry(site, item, word)).unwrap_or_else(|| item.place.clone())
}

/// Addresses that the flags of a program listen at, but the unit's `listens` lacks.
fn unlisted(subject: &Subject<'_>, host: &Host<'_>, unit: &HostUnit<'_>) -> Vec<Error> {
    let listed: Vec<&Traffic> = unit.unit.listens.iter().map(|listen| &listen.at).collect();
    let mut errors = Vec::new();
    for command in unit.text.commands("ExecStart") {
        if !has_tables(subject.site, &unit.item.role, &command.program) {
            continue;
        }
        for (flag, value) in command.arguments.iter().filter_map(|argument| flag_of(argument)) {
            let Some(value) = value.filter(|_| flag.starts_with("listen-")) else { continue };
            for port in value.split(',').filter_map(reachable_port) {
                let Some(range) = PortRange::parse(&port.to_string(), "tcp") else { continue };
                let Some(unlisted) = rest(&Traffic::Ports(range), &listed) else { continue };
                let (program, name) = (name_of(&command.program), &unit.unit.name);
                errors.push(
                    error!(LINT_PORT, "{program} listens at {unlisted} by `--{flag}`, but {name} does not list it")
                        .at(place::of_flag(subject.site, host.name, unit.item, flag), "listens here")
                        .help(format!("add \"{unlisted}\" to `listens` of the [[unit]] at {}", unit.item.place)),
                );
            }
        }
    }
    errors
}

/// The port of a URL or `HOST:PORT`, if other hosts can reach it.
fn reachable_port(address: &str) -> Option<u16> {
    let address = address.trim();
    let address = match address.split_once("://") {
        Some(("http" | "https" | "tcp", rest)) => rest,
        Some(_) => return None,
        None => address,
    };
    let authority = address.split('/').next().unwrap_or(address);
    let (host, port) = authority.rsplit_once(':')?;
    let host = host.trim_matches(['[', ']']);
    let is_loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    port.parse().ok().filter(|_| !is_loopback)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::author::lint::testing::{found, reported};

    /// A role with a unit that says this, and a firewall.
    fn site(unit: &str, firewall: &str) -> Vec<(String, String, String)> {
        found(&[(
            "roles/r/role.toml",
            &format!("summary = \"x\"\n[[unit]]\nname = \"a.service\"\n{unit}\n[[firewall]]\n{firewall}\n"),
        )])
    }

    #[test]
    fn what_is_listened_at_and_let_in_is_fine() {
        for (listens, firewall) in [
            ("['2379/tcp', { port = '2380/tcp', certificate = 'c' }]", "ports = ['2379-2380/tcp']"),
            (
                "['1-100/tcp', '101-200/tcp']",
                "ports = ['50-150/tcp']\nallow = [{ port = '1-60/tcp', from = '10.0.0.0/8' }, { port = '151-200/tcp', from = '10.0.0.0/8' }]",
            ),
            ("['vrrp']", "allow = [{ protocol = 'VRRP', from = '10.0.0.2' }]"),
            ("['vrrp']", "rich = ['rule protocol value=vrrp accept']"),
            ("['22/tcp', '80/tcp', '443/tcp']", "services = ['ssh', 'http', 'https']"),
            ("['443/tcp']", "allow = [{ service = 'https', from = '10.0.0.2' }]"),
            (
                "['8080/tcp', 'ah']",
                "services = ['app']\ndefine_services.app = { ports = ['8080/tcp'], protocols = ['AH'] }",
            ),
            (
                "['8443/tcp']",
                "rich = ['rule service name=app accept']\n[[firewall]]\ndefine_services.app = { ports = ['8443/tcp'] }",
            ),
            ("['9/tcp']", "target = 'ACCEPT'\nservices = ['ssh']"),
            ("['6443/tcp']", "rich = ['rule family=ipv4 source address=10.0.0.2 port port=6443 protocol=tcp accept']"),
        ] {
            let certificate = "[[certificate]]\nname = 'c'\nauthority = 'ca'\ncert = '/c'\nkey = '/k'";
            assert_eq!(site(&format!("listens = {listens}\n{certificate}"), firewall), [], "{listens}");
        }
    }

    #[test]
    fn what_services_and_rich_rules_let_in_need_no_unit() {
        let firewall = "services = ['ssh', 'gopher']\nrich = ['rule protocol value=ah accept']\nports = ['80/tcp']";
        assert_eq!(site("listens = ['80/tcp']", firewall), []);
    }

    #[test]
    fn a_site_that_says_only_one_of_both_is_fine() {
        assert_eq!(site("", "ports = ['80/tcp']"), [], "no unit says where it listens");
        assert_eq!(
            found(&[("roles/r/role.toml", "summary = 'x'\n[[unit]]\nname = 'a.service'\nlistens = ['80/tcp']")]),
            [],
            "no [[firewall]]"
        );
    }

    #[test]
    fn two_units_at_one_port_are_reported_and_a_socket_with_its_service_is_not() {
        let unit = |name: &str, at: &str| format!("[[unit]]\nname = '{name}'\nlistens = ['{at}']\n");
        let two = |one: &str, other: &str| found(&[("roles/r/role.toml", &format!("summary = 'x'\n{one}{other}"))]);
        let help = "use another port for one of them; the other one is at roles/r/role.toml:2:1";
        let reported_of = |one: &str, other: &str| {
            reported(
                &format!("b.service and a.service of h1 both listen at {other}"),
                &format!("roles/r/role.toml:7:{one}"),
                help,
            )
        };
        assert_eq!(two(&unit("a.service", "80/tcp"), &unit("b.service", "80/tcp")), [reported_of("13", "80/tcp")]);
        assert_eq!(two(&unit("a.service", "80-90/tcp"), &unit("b.service", "85/tcp")), [reported_of("13", "85/tcp")]);
        assert_eq!(
            two(&unit("a.service", "85/tcp"), &unit("b.service", "80-90/tcp")),
            [reported_of("13", "80-90/tcp")]
        );
        assert_eq!(two(&unit("a.service", "80/tcp"), &unit("b.service", "80/udp")), []);
        assert_eq!(two(&unit("a.service", "80/tcp"), &unit("b.service", "81/tcp")), []);
        assert_eq!(two(&unit("a.socket", "80/tcp"), &unit("a.service", "80/tcp")), []);
    }

    #[test]
    fn a_port_with_a_listener_that_the_firewall_closes_is_reported() {
        for (firewall, shut, field) in [
            ("services = ['ssh']", "6443/tcp", "port"),
            ("rich = ['rule port port=6443 protocol=tcp drop']", "6443/tcp", "port"),
            ("rich = ['rule port port=6443 protocol=udp accept']", "6443/tcp", "port"),
            ("zone = 'trusted'\nsources = ['10.0.0.0/8']", "6443/tcp", "port"),
            ("zone = 'pods'\ntarget = 'ACCEPT'\nports = ['6443/tcp']", "6443/tcp", "port"),
            ("services = ['ssh']\ndefine_services.app = { ports = ['6443/tcp'] }", "6443/tcp", "port"),
            ("services = ['ssh']", "vrrp", "protocol"),
        ] {
            let what = format!("a.service listens at {shut}, but no [[firewall]] allows it");
            let help = format!("on h1: add `{{ {field} = \"{shut}\", from = … }}` to the `allow` of a [[firewall]]");
            let errors = site(&format!("listens = ['{shut}']"), firewall);
            assert_eq!(errors, [reported(&what, "roles/r/role.toml:4:13", &help)], "{firewall}");
        }
        let errors = site("listens = ['10-20/tcp']", "ports = ['12-18/tcp']");
        assert_eq!(errors[0].0, "a.service listens at 10-11/tcp, 19-20/tcp, but no [[firewall]] allows it");
    }

    #[test]
    fn an_open_port_without_a_listener_is_reported() {
        for (firewall, open, place) in [
            ("ports = ['80/tcp', '8080/tcp']", "8080/tcp", "6:21"),
            ("allow = [{ port = '9-10/udp', from = '10.0.0.2' }]", "9-10/udp", "6:20"),
            ("allow = [{ protocol = 'vrrp', from = '10.0.0.2' }]", "vrrp", "6:24"),
            ("ports = ['80-81/tcp']", "81/tcp", "6:11"),
        ] {
            let what = format!("the firewall allows {open}, but no unit listens there");
            let help = format!("on h1: close it, or add `listens = [\"{open}\"]` to its [[unit]]");
            let firewall = format!("{firewall}\nservices = ['http']");
            assert_eq!(
                site("listens = ['80/tcp']", &firewall),
                [reported(&what, &format!("roles/r/role.toml:{place}"), &help)]
            );
        }
    }

    #[test]
    fn an_address_that_a_flag_listens_at_must_be_listed() {
        let role = |listens: &str| {
            let role = format!(
                "summary = 'x'\n[vars.flags]\nlisten-client-urls = 'https://{{{{ host.address }}}}:2379,https://127.0.0.1:2381'\nlisten-x = 'unix:///x'\n[[unit]]\nname = 'etcd.service'\ncontent = '''\n[Service]\nExecStart={{{{ flags | exec(program='/usr/bin/etcd') }}}}\n'''\n{listens}\n"
            );
            found(&[("roles/r/role.toml", &role), ("roles/r/flags/etcd/1.txt", "listen-client-urls\n")])
        };
        assert_eq!(role("listens = ['2379/tcp']"), []);
        let help = "add \"2379/tcp\" to `listens` of the [[unit]] at roles/r/role.toml:5:1";
        let what = "etcd listens at 2379/tcp by `--listen-client-urls`, but etcd.service does not list it";
        assert_eq!(role("listens = ['2380/tcp']"), [reported(what, "roles/r/role.toml:3:1", help)]);
    }

    #[test]
    fn only_what_others_can_reach_has_a_port() {
        for (address, port) in [
            ("https://10.0.0.1:2379", Some(2379)),
            ("http://0.0.0.0:80/x", Some(80)),
            ("[fd00::1]:9", Some(9)),
            (":9000", Some(9000)),
            ("http://[::1]:80", None),
            ("localhost:80", None),
            ("unix:///run/x:80", None),
            ("10.0.0.1", None),
        ] {
            assert_eq!(reachable_port(address), port, "{address}");
        }
    }
}
