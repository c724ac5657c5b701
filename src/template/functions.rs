//! Functions and filters of templates: hosts, addresses and networks, quoting.

use std::net::IpAddr;

use ipnet::IpNet;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State};

use crate::template::filters::{self, invalid, ip::Net};
use crate::template::os::for_os;

/// All functions, for suggestions.
pub const FUNCTIONS: &[&str] =
    &["interface_of", "make_kubeconfig", "pki_file", "secret", "range", "dict", "namespace", "debug"];

/// All filters except those of [`filters`], for suggestions.
pub const FILTERS: &str = "with_role in_group exec for_os systemd_quote url_host urls to_map first_pem address cidr_host \
    cidr_network cidr_netmask cidr_prefix cidr_contains cidr_overlaps abs attr batch capitalize chain \
    count dictsort first float format groupby indent int items join last length lines list lower map max \
    min pprint reject rejectattr replace reverse round select selectattr slice sort split string sum \
    title tojson trim unique upper urlencode zip";

/// All tests, for suggestions.
pub const TESTS: &str = "undefined defined none boolean odd even divisibleby number integer float string sequence iterable \
    mapping startingwith endingwith lower upper sameas eq equalto ne lt lessthan le gt greaterthan ge in \
    true false filter test match search regex contains subset superset version";

/// Adds the functions and filters to an environment.
pub fn add(env: &mut Environment<'static>) {
    filters::add(env);
    env.set_formatter(write_plain);
    env.add_filter("systemd_quote", |text: Value| systemd_quote(&plain(&text)?));
    env.add_filter("exec", exec);
    env.add_filter("for_os", for_os);
    env.add_filter("url_host", |text: String| url_host(&text));
    env.add_filter("address", |text: String| address(&text).map(|address| address.to_string()));
    env.add_filter("urls", urls);
    env.add_filter("to_map", to_map);
    env.add_filter("first_pem", first_pem);
    env.add_filter("cidr_host", cidr_host);
    env.add_filter("cidr_network", |text: String| network(&text).map(|net| net.network().to_string()));
    env.add_filter("cidr_netmask", |text: String| network(&text).map(|net| net.netmask().to_string()));
    env.add_filter("cidr_prefix", |text: String| network(&text).map(|net| net.prefix_len()));
    env.add_filter("cidr_contains", |text: String, other: String| {
        Ok::<_, Error>(network(&text)?.contains(&address(&other)?))
    });
    env.add_filter("cidr_overlaps", |text: String, other: String| {
        let (one, other) = (network(&text)?, network(&other)?);
        Ok::<_, Error>(one.contains(&other.network()) || other.contains(&one.network()))
    });
    env.add_function("interface_of", interface_of);
    env.add_function("make_kubeconfig", make_kubeconfig);
}

fn address(text: &str) -> Result<IpAddr, Error> {
    text.parse().map_err(|_| invalid(format!("`{text}` is not an IP address")))
}

fn network(text: &str) -> Result<IpNet, Error> {
    text.parse().map_err(|_| invalid(format!("`{text}` is not a network; write it like 10.0.0.0/16")))
}

/// The notation of an address in a URL.
fn url_host(text: &str) -> Result<String, Error> {
    address(text).map(|address| if address.is_ipv6() { format!("[{address}]") } else { address.to_string() })
}

/// `https://ADDRESS:PORT` of each host of a list.
fn urls(hosts: Vec<Value>, port: u16) -> Result<Vec<String>, Error> {
    let url = |host: &Value| {
        let address = host.get_attr("address").ok().filter(|address| !address.is_undefined());
        let address = address.ok_or_else(|| invalid("this filter needs a list of hosts: `hosts | urls(2379)`"))?;
        Ok(format!("https://{}:{port}", url_host(&address.to_string())?))
    };
    hosts.iter().map(url).collect()
}

/// A map from a list of pairs, as `zip` makes them.
fn to_map(pairs: Vec<Value>) -> Result<Value, Error> {
    let pair = |pair: &Value| Ok((pair.get_item_by_index(0)?.to_string(), pair.get_item_by_index(1)?));
    Ok(Value::from_pairs(pairs.iter().map(pair).collect::<Result<Vec<_>, Error>>()?))
}

/// The first certificate of a PEM file: during a change of an authority, the one that signs.
fn first_pem(text: &str) -> Result<String, Error> {
    const END: &str = "-----END CERTIFICATE-----\n";
    let (first, _) = text.split_once(END).ok_or_else(|| invalid("there is no certificate in PEM"))?;
    Ok(format!("{first}{END}"))
}

/// A kubeconfig: the server, and a certificate with its key or a token.
fn make_kubeconfig(options: Kwargs) -> Result<String, Error> {
    let (server, ca): (String, String) = (options.get("server")?, options.get("ca")?);
    let (cert, key, token): (Option<String>, Option<String>, Option<String>) =
        (options.get("cert")?, options.get("key")?, options.get("token")?);
    options.assert_all_used()?;
    let user = match (cert, key, token) {
        (Some(cert), Some(key), None) => serde_json::json!({ "client-certificate": cert, "client-key": key }),
        (None, None, Some(token)) => serde_json::json!({ "token": token }),
        _ => return Err(invalid("a kubeconfig has a `cert` and its `key`, or a `token`")),
    };
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "default", "cluster": { "server": server, "certificate-authority": ca } }],
        "users": [{ "name": "default", "user": user }],
        "contexts": [{ "name": "default", "context": { "cluster": "default", "user": "default" } }],
        "current-context": "default",
    });
    // JSON is YAML too
    serde_json::to_string_pretty(&config).map(|text| text + "\n").map_err(|error| invalid(error.to_string()))
}

/// The `n`th address of a network, the network itself being 0; a negative `n` counts from the end.
fn cidr_host(text: String, n: i64) -> Result<Value, Error> {
    let net = network(&text)?;
    let found = Net::parse(&net.to_string()).and_then(|net| net.nth(n));
    found.map(Net::ip).ok_or_else(|| invalid(format!("{text} has no address number {n}")))
}

/// The text of a plain value; an error for lists, maps and `none`, whose notation is never meant.
fn plain(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Bool => Ok(value.is_true().to_string()),
        ValueKind::String | ValueKind::Number => Ok(value.to_string()),
        kind => Err(invalid(format!("a {kind} can't stand in a text; for a list there is `join`"))),
    }
}

/// Writes a value to the output of a template.
fn write_plain(out: &mut Output<'_>, _: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if value.is_undefined() {
        return Err(Error::from(ErrorKind::UndefinedError));
    }
    out.write_str(&plain(value)?).map_err(|_| Error::from(ErrorKind::WriteFailure))
}

/// An argument for `ExecStart=`: quoted if necessary, `%` and `$` doubled.
fn systemd_quote(text: &str) -> Result<String, Error> {
    if text.chars().any(char::is_control) {
        return Err(invalid("an argument of a unit can't have line breaks or control characters"));
    }
    let escaped = text.replace('\\', "\\\\").replace('%', "%%").replace('$', "$$");
    let simple = !text.is_empty() && !text.contains([' ', '"', '\'', ';', '\\']);
    Ok(if simple { escaped } else { format!("\"{}\"", escaped.replace('"', "\\\"")) })
}

/// A command line for `ExecStart=`: a program and its quoted arguments, one per line. Takes a list; or a map, whose entries
/// become `--name=value`, repeated for a list as value, and left out for `none` and an empty list.
fn exec(arguments: Value, options: Kwargs) -> Result<String, Error> {
    let program: Option<String> = options.get("program")?;
    options.assert_all_used()?;
    let mut words = Vec::from_iter(program);
    for argument in arguments.try_iter()? {
        if arguments.kind() != ValueKind::Map {
            words.push(plain(&argument)?);
            continue;
        }
        let value = arguments.get_item(&argument)?;
        let values = match value.kind() {
            ValueKind::None => Vec::new(),
            ValueKind::Seq | ValueKind::Iterable => value.try_iter()?.collect(),
            _ => vec![value],
        };
        for value in &values {
            words.push(format!("--{argument}={}", plain(value)?));
        }
    }
    let quoted = words.iter().map(|word| systemd_quote(word));
    Ok(quoted.collect::<Result<Vec<_>, _>>()?.join(" \\\n  "))
}

/// The network interface of this host that has `address`.
fn interface_of(state: &State<'_, '_>, wanted: String) -> Result<String, Error> {
    let wanted = address(&wanted)?;
    let facts = state.lookup("facts").ok_or_else(|| invalid("facts are not known here"))?;
    let interfaces = facts.get_attr("interfaces")?;
    for name in interfaces.try_iter()? {
        let addresses = interfaces.get_item(&name)?;
        if addresses.try_iter()?.any(|entry| entry.to_string() == wanted.to_string()) {
            return Ok(name.to_string());
        }
    }
    Err(invalid(format!("no network interface of this host has the address {wanted}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str) -> Result<String, String> {
        let mut env = Environment::new();
        add(&mut env);
        env.render_str(template, ()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_suggested_is_there() {
        let mut env = Environment::new();
        add(&mut env);
        // what belongs to a host, or to hosts, is added where they are known
        let filter =
            |name: &&str| env.compile_expression(&format!("'{name}' is filter")).unwrap().eval(()).unwrap().is_true();
        let missing: Vec<_> = FILTERS.split(' ').chain(filters::names()).filter(|name| !filter(name)).collect();
        assert_eq!(missing, ["with_role", "in_group"]);
        for name in TESTS.split(' ') {
            assert!(
                env.compile_expression(&format!("'{name}' is test")).unwrap().eval(()).unwrap().is_true(),
                "{name}"
            );
        }
        let known = |name: &&str| env.globals().any(|(known, _)| known == *name);
        let missing: Vec<_> = FUNCTIONS.iter().copied().filter(|name| !known(name)).collect();
        assert_eq!(missing, ["pki_file", "secret"]);
    }

    #[test]
    fn an_argument_with_quotes_blanks_and_percents_reaches_systemd_whole() {
        assert_eq!(render(r#"{{ 'a b"c%d$e' | systemd_quote }}"#).unwrap(), r#""a b\"c%%d$$e""#);
        assert_eq!(render("{{ '--x=30000-32766' | systemd_quote }}").unwrap(), "--x=30000-32766");
    }

    #[test]
    fn a_list_or_nothing_in_a_text_is_a_mistake() {
        assert_eq!(render("{{ true }} {{ 5 }} {{ 1.5 }}").unwrap(), "true 5 1.5");
        assert!(render("{{ [1] }}").unwrap_err().contains("can't stand in a text"));
        assert!(render("{{ none }}").unwrap_err().contains("can't stand in a text"));
    }

    #[test]
    fn a_map_of_flags_becomes_a_command_line() {
        let line =
            render(r#"{{ {"name": "a", "v": 2, "off": none, "url": ["x", "y"]} | exec(program="/bin/p") }}"#).unwrap();
        assert_eq!(line, "/bin/p \\\n  --name=a \\\n  --v=2 \\\n  --url=x \\\n  --url=y");
    }

    #[test]
    fn addresses_and_networks_have_a_type() {
        assert!(render("{{ '192.168.1.102.2' | address }}").unwrap_err().contains("is not an IP address"));
        assert_eq!(
            render("{{ '10.254.0.0/16' | cidr_host(1) }} {{ '10.0.0.0/30' | cidr_host(-1) }}").unwrap(),
            "10.254.0.1 10.0.0.3"
        );
        assert!(render("{{ '10.0.0.0/30' | cidr_host(4) }}").unwrap_err().contains("has no address number 4"));
        assert_eq!(render("{{ 'fd00::1' | url_host }}").unwrap(), "[fd00::1]");
        assert_eq!(render("{{ '10.0.0.0/8' | cidr_contains('10.1.2.3') }}").unwrap(), "true");
    }

    #[test]
    fn lists_of_hosts_become_addresses_and_maps() {
        let hosts = "[{'address': '10.0.0.1'}, {'address': 'fd00::1'}] | urls(2379)";
        assert_eq!(
            render(&format!("{{{{ {hosts} | join(',') }}}}")).unwrap(),
            "https://10.0.0.1:2379,https://[fd00::1]:2379"
        );
        assert_eq!(
            render(&format!("{{{{ (['a', 'b'] | zip({hosts}) | to_map).b }}}}")).unwrap(),
            "https://[fd00::1]:2379"
        );
        let two = r"-----BEGIN CERTIFICATE-----\na\n-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\nb";
        assert!(
            render(&format!("{{{{ \"{two}\" | first_pem }}}}")).unwrap().ends_with("\na\n-----END CERTIFICATE-----\n")
        );
        assert!(render("{{ 'x' | first_pem }}").unwrap_err().contains("no certificate"));
        assert!(render("{{ ['x'] | urls(1) }}").unwrap_err().contains("a list of hosts"));
        assert!(render("{{ [{'address': 'x'}] | urls(1) | join }}").unwrap_err().contains("is not an IP address"));
    }

    #[test]
    fn a_kubeconfig_names_the_server_and_one_identity() {
        let text =
            render("{{ make_kubeconfig(server='https://a:443', ca='/ca.pem', cert='/c.pem', key='/k.pem') }}").unwrap();
        let config: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(config["clusters"][0]["cluster"]["certificate-authority"], "/ca.pem");
        assert_eq!(config["users"][0]["user"]["client-key"], "/k.pem");
        assert!(render("{{ make_kubeconfig(server='s', ca='c', cert='x') }}").unwrap_err().contains("or a `token`"));
        assert!(render("{{ make_kubeconfig(server='s', ca='c', token='t', oops=1) }}").unwrap_err().contains("oops"));
    }
}
