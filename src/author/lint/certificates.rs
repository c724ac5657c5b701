//! Certificates: each must be valid for the names and addresses at which clients connect.

use std::net::IpAddr;

use crate::author::lint::flags::flag_of;
use crate::author::lint::{Host, Subject};
use crate::author::prelude::*;
use crate::kind::certificate::Installed;
use crate::kind::file::File;
use crate::kind::probe::Probe;
use crate::resolve::once;
use crate::text::around;

/// An `https://` address to which a resource connects.
#[derive(Clone)]
struct Dial<'a> {
    /// The connecting host.
    from: &'a Host<'a>,
    /// The connecting resource.
    item: &'a Item,
    /// The name or address.
    name: String,
    port: u16,
    /// Whether it is certainly an address of the site: one in a command line can be external.
    is_ours: bool,
}

/// A certificate that a unit of a host presents.
struct Shown<'a> {
    host: &'a Host<'a>,
    item: &'a Item,
    certificate: &'a Installed,
}

/// Certificates of a host with the same authority and subject as another one there, which clients can't distinguish.
fn twins<'a>(host: &Host<'a>) -> impl Iterator<Item = Error> + use<'a> {
    let mut known = BTreeMap::new();
    host.all::<Installed>().filter_map(move |(item, certificate)| {
        let field = |name: &str| item.fields.get(name).map(|value| value.to_string());
        let common_name = field("common_name").unwrap_or_else(|| format!("{:?}", certificate.name));
        let subject = (field("authority"), common_name, field("organization"));
        let what = format!(
            "the certificate {} has the same subject as another one of the host, {}",
            certificate.name, subject.1
        );
        let other = known.insert(subject, &item.place)?;
        let error = Error::new(code::LINT_CERTIFICATE, what)
            .at(item.place.clone(), "the same `common_name` and `organization`");
        Some(error.help(format!("set another `common_name`, or use the other certificate: {other}")))
    })
}

/// A certificate that is not valid for an address: one mistake, however many hosts present it or connect to it.
struct Wrong<'a> {
    /// The hosts that present it.
    hosts: Vec<&'a str>,
    /// The first of them.
    shown: Shown<'a>,
    /// The first connection.
    dial: Dial<'a>,
}

pub(super) fn lint(subject: &Subject<'_>) -> Vec<Error> {
    let mut errors: Vec<Error> = subject.hosts.iter().flat_map(|host| missing(subject, host)).collect();
    errors.extend(once(subject.hosts.iter().flat_map(|host| twins(host).map(|error| (host.name, error))).collect()));
    // by address, and place of the certificate
    let mut found: BTreeMap<(String, String), Wrong<'_>> = BTreeMap::new();
    for dial in subject.hosts.iter().flat_map(dials) {
        for shown in targets(subject, &dial).into_iter().filter(|shown| !shown.certificate.is_for(&dial.name)) {
            let host = shown.host.name;
            let key = (dial.name.clone(), format!("{} {}", shown.item.place, shown.item.id));
            let wrong = found.entry(key).or_insert_with(|| Wrong { hosts: Vec::new(), shown, dial: dial.clone() });
            if !wrong.hosts.contains(&host) {
                wrong.hosts.push(host);
            }
        }
    }
    errors.extend(found.values().map(|wrong| wrong.error(subject)));
    errors
}

impl Wrong<'_> {
    fn error(&self, subject: &Subject<'_>) -> Error {
        let Self { hosts, shown, dial } = self;
        let (name, item) = (&dial.name, shown.item);
        let field = if name.parse::<IpAddr>().is_ok() { "ip" } else { "dns" };
        let (certificate, hosts) = (&shown.certificate.name, hosts.join(", "));
        let by = format!("{} on {} connects to (port {})", dial.item.id, dial.from.name, dial.port);
        let what = format!("the certificate {certificate} of {hosts} is not for {name}, which {by}");
        let place = subject.place(item, field);
        Error::new(code::LINT_CERTIFICATE, what).at(place, format!("{name} is missing")).help(format!(
            "add it to `{field}` of the certificate in the role {}, or connect to another name: {}",
            item.role, dial.item.place
        ))
    }
}

/// Certificates that units name, but their host lacks.
fn missing(subject: &Subject<'_>, host: &Host<'_>) -> Vec<Error> {
    let mut errors = Vec::new();
    let known: Vec<&str> = host.all::<Installed>().map(|(_, certificate)| certificate.name.as_str()).collect();
    for unit in &host.units {
        let names = unit.unit.listens.iter().filter_map(|listen| listen.certificate.as_deref());
        for name in names.filter(|name| !known.contains(name)) {
            let (by, host) = (&unit.unit.name, host.name);
            let error =
                error!(LINT_CERTIFICATE, "{by} presents the certificate {name}, but {host} has no such certificate")
                    .at(subject.place(unit.item, name), "no such [[certificate]]");
            let otherwise = "add a [[certificate]] of that name to the role";
            errors.push(error.help_nearest(name, known.iter().copied(), otherwise));
        }
    }
    errors
}

/// All addresses to which a host's resources connect.
fn dials<'a>(host: &'a Host<'a>) -> Vec<Dial<'a>> {
    let mut dials = Vec::new();
    let mut add = |item, text: &str, is_ours| {
        dials.extend(addresses(text).map(|(name, port)| {
            let is_ours = is_ours || port.is_some();
            Dial { from: host, item, name, port: port.unwrap_or(443), is_ours }
        }));
    };
    for unit in &host.units {
        for command in unit.text.commands("ExecStart") {
            let dialled = |argument: &&String| flag_of(argument).is_none_or(|(flag, _)| is_dialled(flag));
            command.arguments.iter().filter(dialled).for_each(|argument| add(unit.item, argument, false));
        }
    }
    for (item, file) in host.all::<File>() {
        let Ok(text) = std::str::from_utf8(&file.content) else { continue };
        servers(text).for_each(|server| add(item, server, true));
    }
    for (item, probe) in host.all::<Probe>() {
        probe.https().into_iter().for_each(|url| add(item, url.as_str(), true));
    }
    dials
}

/// Whether the address in a flag is one that clients connect to, and not one to listen at.
fn is_dialled(flag: &str) -> bool {
    let announced = ["advertise-client-urls", "initial-advertise-peer-urls", "initial-cluster"];
    announced.contains(&flag) || !["listen-", "advertise-", "initial-"].iter().any(|start| flag.starts_with(start))
}

/// The servers of a kubeconfig; none for other files.
fn servers(text: &str) -> impl Iterator<Item = &str> {
    let is_kubeconfig = text.contains("clusters") && text.contains("https://");
    text.lines()
        .filter(move |_| is_kubeconfig)
        .flat_map(|line| around(line, "server").map(|(_, behind)| behind))
        .filter_map(|rest| {
            let value = rest.trim_start_matches(['"', '\'']).trim_start().strip_prefix(':')?;
            Some(value.trim_start().trim_start_matches(['"', '\''])).filter(|value| value.starts_with("https://"))
        })
        .map(|value| value.split([' ', '"', '\'', ',']).next().unwrap_or(value))
}

/// The names and ports of the `https://` addresses in a text.
fn addresses(text: &str) -> impl Iterator<Item = (String, Option<u16>)> {
    around(text, "https://").filter_map(|(_, rest)| {
        let authority = rest.split(|c: char| c.is_whitespace() || "/,;?#\"'<>\\".contains(c)).next()?;
        let authority = authority.rsplit('@').next()?;
        let (name, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, rest)) => (address, rest.strip_prefix(':')),
            None => authority.split_once(':').map_or((authority, None), |(name, port)| (name, Some(port))),
        };
        let port = port.map(str::parse).transpose().ok()?;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        (!name.is_empty() && name.chars().all(is_plain)).then(|| (name.to_ascii_lowercase(), port))
    })
}

/// The certificates that are presented to a connection.
fn targets<'a>(subject: &'a Subject<'a>, dial: &Dial<'a>) -> Vec<Shown<'a>> {
    let address = dial.name.parse::<IpAddr>().ok();
    if dial.name == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        return shown(subject, vec![dial.from], dial.port);
    }
    let is_meant = |host: &&Host<'_>| match address {
        Some(address) => subject.site.hosts.get(host.name).is_some_and(|vars| vars.address == address),
        None => host.name.eq_ignore_ascii_case(&dial.name),
    };
    match subject.hosts.iter().find(is_meant) {
        Some(host) => shown(subject, vec![host], dial.port),
        None if !dial.is_ours => Vec::new(),
        // a virtual address of the load balancers
        None => {
            let passes_on = |host: &&Host<'_>| listens(host, dial.port).any(|listen| listen.through.is_some());
            shown(subject, subject.hosts.iter().filter(passes_on).collect(), dial.port)
        }
    }
}

fn listens<'a>(host: &'a Host<'_>, port: u16) -> impl Iterator<Item = &'a crate::kind::unit::Listen> {
    host.units.iter().flat_map(|unit| &unit.unit.listens).filter(move |listen| listen.is_at(port))
}

/// The certificates that these hosts present at a port, directly or through it.
fn shown<'a>(subject: &'a Subject<'a>, hosts: Vec<&'a Host<'a>>, port: u16) -> Vec<Shown<'a>> {
    let mut shown = Vec::new();
    let (mut waiting, mut seen) = (vec![(hosts, port)], Vec::new());
    while let Some((hosts, port)) = waiting.pop() {
        for host in hosts {
            for listen in listens(host, port) {
                if let Some(name) = &listen.certificate {
                    let found = host.all::<Installed>().find(|(_, certificate)| certificate.name == *name);
                    shown.extend(found.map(|(item, certificate)| Shown { host, item, certificate }));
                }
                if let Some(behind) = listen.through.filter(|behind| !seen.contains(behind)) {
                    seen.push(behind);
                    waiting.push((subject.hosts.iter().collect(), behind));
                }
            }
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::author::lint::testing::{found, reported};

    const API: &str = r#"summary = "x"
[[certificate]]
name = "api"
authority = "ca"
dns = ["localhost", "h1", "h2", "api.local"]
ip = ["127.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.9"]
cert = "/c"
key = "/k"
[[unit]]
name = "api.service"
listens = [{ port = "6443/tcp", certificate = "api" }]
"#;
    const BALANCER: &str =
        "summary = 'x'\n[[unit]]\nname = 'lb.service'\nlistens = [{ port = '443/tcp', through = 6443 }]\n";

    /// Two hosts with an API server and a load balancer, and another one with what asks.
    fn site(api: &str, client: &str) -> Vec<(String, String, String)> {
        found(&[
            ("host_vars/h1.toml", "address = '10.0.0.1'\nroles = ['api', 'lb']"),
            ("host_vars/h2.toml", "address = '10.0.0.2'\nroles = ['api', 'lb']"),
            ("host_vars/h3.toml", "address = '10.0.0.3'\nroles = ['client']"),
            ("roles/api/role.toml", api),
            ("roles/lb/role.toml", BALANCER),
            ("roles/client/role.toml", &format!("summary = 'x'\n{client}")),
        ])
    }

    fn probe(url: &str) -> String {
        format!("[[probe]]\nname = 'p'\nhttps = '{url}'\n")
    }

    fn command(argument: &str) -> String {
        format!("[[unit]]\nname = 'x.service'\ncontent = '''\n[Service]\nExecStart=/bin/x {argument}\n'''\n")
    }

    fn kubeconfig(server: &str) -> String {
        format!("[[file]]\npath = '/x'\ncontent = '''\n{server}\n'''\n")
    }

    #[test]
    fn certificates_that_are_for_what_is_dialled_are_fine() {
        for client in [
            probe("https://h1:6443/healthz"),
            probe("https://10.0.0.9/"),
            probe("https://api.local:443"),
            probe("https://127.0.0.1:6443/"),
            command("--servers=https://10.0.0.1:6443,https://10.0.0.2:6443"),
            kubeconfig("clusters: [{ cluster: { server: 'https://api.local' } }]"),
            kubeconfig("\"clusters\": [{ \"cluster\": {\n  \"server\": \"https://10.0.0.2:6443\" }}]"),
        ] {
            assert_eq!(site(API, &client), [], "{client}");
        }
    }

    #[test]
    fn what_is_no_host_of_the_site_and_no_load_balancer_is_left_alone() {
        for client in [
            command("--mirror=https://registry.example.org/"),
            command("--mirror=https://registry.example.org:5000/"),
            command(
                "--listen-x=https://10.9.9.9:443 --advertise-x=https://10.9.9.9:443 --initial-x=https://10.9.9.9:443",
            ),
            command("--x=https://$HOST:443"),
            kubeconfig("server: https://10.9.9.9"),
            probe("https://10.0.0.3:6443/"),
        ] {
            assert_eq!(site(API, &client), [], "{client}");
        }
    }

    #[test]
    fn an_address_that_a_certificate_lacks_is_reported_at_the_certificate() {
        let errors = site(
            &API.replace(", \"10.0.0.9\"", ""),
            &kubeconfig("clusters:\n- cluster:\n    server: https://10.0.0.9"),
        );
        let what = "the certificate api of h1, h2 is not for 10.0.0.9, which file:/x on h3 connects to (port 443)";
        let help =
            "add it to `ip` of the certificate in the role api, or connect to another name: roles/client/role.toml:2:1";
        assert_eq!(errors, [reported(what, "roles/api/role.toml:6:1", help)]);
    }

    #[test]
    fn a_name_that_a_certificate_lacks_is_reported_however_it_is_dialed() {
        let api = API.replace(", \"api.local\"", "").replace("\"h1\", ", "");
        for (client, name, id, port) in [
            (probe("https://h1:6443/healthz"), "h1", "probe:p", 6443),
            (probe("https://api.local/"), "api.local", "probe:p", 443),
            (command("--server=https://api.local:443"), "api.local", "unit:x.service", 443),
            (command("--advertise-client-urls=https://h1:6443"), "h1", "unit:x.service", 6443),
            (command("--initial-advertise-peer-urls=https://h1:6443"), "h1", "unit:x.service", 6443),
            (command("--initial-cluster=one=https://h1:6443,two=https://h2:6443"), "h1", "unit:x.service", 6443),
        ] {
            let errors = site(&api, &client);
            let hosts = if name == "h1" { "h1" } else { "h1, h2" };
            let what =
                format!("the certificate api of {hosts} is not for {name}, which {id} on h3 connects to (port {port})");
            let help = "add it to `dns` of the certificate in the role api, or connect to another name: roles/client/role.toml:2:1";
            assert_eq!(errors, [reported(&what, "roles/api/role.toml:5:1", help)], "{client}");
        }
    }

    #[test]
    fn the_loopback_is_the_host_that_asks() {
        let api = API.replace("\"127.0.0.1\", ", "");
        let errors = site(&format!("{api}{}", probe("https://127.0.0.1:6443/")), "");
        assert_eq!(
            errors[0].0,
            "the certificate api of h1, h2 is not for 127.0.0.1, which probe:p on h1 connects to (port 6443)"
        );
        assert_eq!(errors.len(), 1);
    }

    #[test]
    fn a_certificate_that_a_unit_uses_and_no_role_defines_is_reported() {
        let errors = site(&API.replace("certificate = \"api\"", "certificate = \"apo\""), "");
        let wanted = |host: &str| {
            reported(
                &format!("api.service presents the certificate apo, but {host} has no such certificate"),
                "roles/api/role.toml:11:48",
                "did you mean `api`?",
            )
        };
        assert_eq!(errors, [wanted("h1"), wanted("h2")]);
    }

    #[test]
    fn two_certificates_of_one_subject_on_a_host_are_reported() {
        let certificate = |name: &str, more: &str| {
            let files = format!("cert = '/etc/{name}.pem'\nkey = '/etc/{name}.key'\n");
            format!("[[certificate]]\nname = '{name}'\nauthority = 'ca'\n{files}{more}")
        };
        let two = |one: &str, other: &str| {
            let role = format!("summary = 'x'\n{}{}", certificate("a", one), certificate("b", other));
            found(&[("roles/r/role.toml", &role)])
        };
        let help = "set another `common_name`, or use the other certificate: roles/r/role.toml:2:1";
        let what =
            |subject: &str| format!("the certificate b has the same subject as another one of the host, \"{subject}\"");
        let same = "common_name = 'web'\n";
        assert_eq!(two(same, same), [reported(&what("web"), "roles/r/role.toml:8:1", help)]);
        assert_eq!(two("", "common_name = 'a'\n"), [reported(&what("a"), "roles/r/role.toml:7:1", help)]);
        assert_eq!(two("", ""), []);
        assert_eq!(two(same, &format!("{same}organization = ['x']\n")), []);
    }

    #[test]
    fn addresses_are_found_with_their_ports() {
        let text =
            "a=https://10.0.0.1:2379,https://[fd00::1]:80/x \"https://me:pw@Name.example/?x\" https://h:port http://no";
        let found: Vec<_> = addresses(text).collect();
        let wanted = [("10.0.0.1", Some(2379)), ("fd00::1", Some(80)), ("name.example", None)];
        assert_eq!(found, wanted.map(|(name, port)| (name.to_owned(), port)));
    }
}
