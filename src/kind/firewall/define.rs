//! Custom services and IP sets: files, which a running firewalld loads when it reloads.

use std::fmt::Write as _;

use ipnet::IpNet;
use quick_xml::escape::escape;

use super::names::{HelperName, ProtocolName, ServiceName};
use super::{FirewallFields, traffic_of_service};
use crate::host::address;
use crate::host::firewalld::IpSet;
use crate::host::firewalld_age::Age;
use crate::host::port_range::PortRange;
use crate::host::rich_rule::attribute;
use crate::host::zone::Traffic;
use crate::kind::prelude::*;

/// A custom service: what a zone allows that lists its name.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ServiceFields {
    /// A description, in one line.
    description: Option<String>,
    /// Ports: `"8080/tcp"`, `"9000-9010/udp"`.
    ports: Vec<PortRange>,
    /// IP protocols by name or number.
    protocols: Vec<ProtocolName>,
    /// Ports that clients send from.
    source_ports: Vec<PortRange>,
    /// Other services that this one includes.
    includes: Vec<ServiceName>,
    /// Connection tracking helpers, such as `ftp`.
    helpers: Vec<HelperName>,
}

impl ServiceFields {
    fn file(&self, name: &str) -> Result<String, String> {
        let named = |tag: &str, name: &str, value: &str| format!("  <{tag}{}/>\n", attribute(name, value));
        let range = |tag: &str, range: &PortRange| {
            format!("  <{tag}{}{}/>\n", attribute("port", &range.ports()), attribute("protocol", &range.protocol))
        };
        let protocols = self.protocols.iter().map(|one| named("protocol", "value", &one.0.to_ascii_lowercase()));
        let ports = self.ports.iter().map(|one| range("port", one));
        let source_ports = self.source_ports.iter().map(|one| range("source-port", one));
        let includes = self.includes.iter().map(|one| named("include", "service", &one.0));
        let helpers = self.helpers.iter().map(|one| named("helper", "name", &one.0));
        let inner: String = ports.chain(protocols).chain(source_ports).chain(includes).chain(helpers).collect();
        if inner.is_empty() {
            return Err(format!("the service `{name}` is empty: set its `ports`, `protocols` or `includes`"));
        }
        let description = self.description.as_deref().unwrap_or_default();
        if description.chars().any(char::is_control) {
            return Err(format!("the `description` of `{name}` contains control characters; write it in one line"));
        }
        let description = match description {
            "" => String::new(),
            text => format!("  <description>{}</description>\n", escape(text)),
        };
        let short = escape(name);
        Ok(format!("{HEAD}<service>\n  <short>{short}</short>\n{description}{inner}</service>\n"))
    }

    /// Its newest feature, and the version of firewalld that added it.
    fn newest(&self) -> Option<(&'static str, &'static str)> {
        match (self.helpers.is_empty(), self.includes.is_empty()) {
            (false, _) => Some(("`helpers` in its services", "0.8")),
            (true, false) => Some(("`includes` in its services", "0.7")),
            (true, true) => None,
        }
    }

    fn traffic(&self) -> Vec<Traffic> {
        let ports = self.ports.iter().cloned().map(Traffic::Ports);
        let protocols = self.protocols.iter().map(|name| Traffic::Protocol(name.0.to_ascii_lowercase()));
        ports.chain(protocols).chain(self.includes.iter().flat_map(|name| traffic_of_service(&name.0))).collect()
    }
}

const HEAD: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n";

/// A custom IP set.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct IpSetFields {
    /// The type of the entries: `hash:mac`, `hash:ip,port`, … Default: `hash:net` (addresses and networks).
    #[serde(rename = "type", default = "hash_net")]
    set_type: SetType,
    /// The family of the addresses: `ipv4` or `ipv6`. Default: derived from the entries.
    family: Option<Family>,
    /// The entries. Networks that other entries contain are omitted.
    #[serde(default)]
    entries: Vec<String>,
    /// `hashsize`, `maxelem` and `timeout`, as ipset has them.
    #[serde(default)]
    options: SetOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Family {
    Ipv4,
    Ipv6,
}

/// Options of a set. Default: ipset's own values.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SetOptions {
    hashsize: Option<u32>,
    maxelem: Option<u32>,
    timeout: Option<u32>,
}

/// A type of IP set that firewalld supports.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
struct SetType(String);

from_text!(SetType, |text| {
    const KNOWN: &str = "hash:ip hash:ip,mark hash:ip,port hash:ip,port,ip hash:ip,port,net hash:mac hash:net hash:net,iface \
        hash:net,net hash:net,port hash:net,port,net";
    match KNOWN.split(' ').any(|known| known == text) {
        true => Ok(Self(text)),
        false => Err(format!("`{text}` is not a type of set in firewalld: {}", KNOWN.replace(' ', ", "))),
    }
});

fn hash_net() -> SetType {
    SetType("hash:net".to_owned())
}

impl IpSetFields {
    /// The set in firewalld's form.
    fn set(self, name: &str) -> Result<IpSet, String> {
        let parts: Vec<&str> = self.set_type.0.strip_prefix("hash:").unwrap_or_default().split(',').collect();
        let mut family = self.family;
        let mut entries = BTreeSet::new();
        for entry in &self.entries {
            let written: Vec<&str> = entry.split(',').map(str::trim).collect();
            let why = |why: &str| format!("the entry `{entry}` of the set `{name}` {why}");
            if written.len() != parts.len() {
                return Err(why(&format!("is not of the type {}", self.set_type.0)));
            }
            for (part, text) in parts.iter().zip(&written) {
                match *part {
                    "ip" | "net" => {
                        // an address, a network, or a range
                        for text in text.split('-') {
                            let net = address::network(text).ok_or_else(|| {
                                why(&format!("has `{text}`, which is neither an address nor a network"))
                            })?;
                            if net.prefix_len() == 0 {
                                return Err(why(
                                    "contains all addresses, which a set can't; write `0.0.0.0/1` and `128.0.0.0/1`",
                                ));
                            }
                            let own = if matches!(net, IpNet::V4(_)) { Family::Ipv4 } else { Family::Ipv6 };
                            if *family.get_or_insert(own) != own {
                                let two = "is of the other family, but a set has only one: define another set for it";
                                return Err(why(two));
                            }
                        }
                    }
                    "mac" if address::mac(text).is_none() => return Err(why("is not a hardware address")),
                    _ if !is_word(text) => return Err(why("has an empty part or contains blanks")),
                    _ => {}
                }
            }
            entries.insert(normal_entry(entry));
        }
        if let [_] = parts[..] {
            // firewalld refuses a set with overlapping entries
            let nets: Vec<IpNet> = entries.iter().filter_map(|entry| address::network(entry)).collect();
            let is_held = |net: IpNet| nets.iter().any(|other| *other != net && other.contains(&net));
            entries.retain(|entry| address::network(entry).is_none_or(|net| !is_held(net)));
        }
        let is_timed = self.options.timeout.is_some_and(|seconds| seconds > 0);
        if is_timed && !entries.is_empty() {
            return Err(format!(
                "the set `{name}` has a `timeout`: entries are added at runtime, and can't be listed here"
            ));
        }
        let SetOptions { hashsize, maxelem, timeout } = self.options;
        let options = [("hashsize", hashsize), ("maxelem", maxelem), ("timeout", timeout)].into_iter();
        let options = options.filter_map(|(option, value)| Some((option.to_owned(), value?.to_string())));
        let mut options: BTreeMap<String, String> = options.collect();
        if family == Some(Family::Ipv6) && parts != ["mac"] {
            options.insert("family".to_owned(), "inet6".to_owned());
        }
        Ok(IpSet { set_type: self.set_type.0, options, entries })
    }
}

/// An entry, normalized for comparison.
fn normal_entry(entry: &str) -> String {
    entry.split(',').map(|part| address::normal(part.trim())).collect::<Vec<_>>().join(",")
}

fn set_file(name: &str, set: &IpSet) -> String {
    let mut text = format!("{HEAD}<ipset{}>\n  <short>{}</short>\n", attribute("type", &set.set_type), escape(name));
    for (option, value) in &set.options {
        let _ = writeln!(text, "  <option{}{}/>", attribute("name", option), attribute("value", value));
    }
    for entry in &set.entries {
        let _ = writeln!(text, "  <entry>{}</entry>", escape(entry));
    }
    text.push_str("</ipset>\n");
    text
}

/// A custom service or set: its file, and the changes that need no reload.
#[derive(Debug)]
pub struct Definition {
    key: String,
    file: File,
    name: String,
    /// What a service allows; nothing for a set.
    lets_in: Vec<Traffic>,
    /// The newest feature of a service, and the version of firewalld that added it.
    newest: Option<(&'static str, &'static str)>,
    /// The set, if it is one.
    set: Option<IpSet>,
}

impl Definition {
    /// A service.
    pub(super) fn service(name: &str, fields: &ServiceFields, sensitive: bool) -> Result<Self, String> {
        let (text, lets_in, newest) = (fields.file(name)?, fields.traffic(), fields.newest());
        Self::new("service", name, &text, sensitive).map(|definition| Self { lets_in, newest, ..definition })
    }

    /// A set of addresses.
    pub(super) fn ipset(name: &str, fields: IpSetFields, sensitive: bool) -> Result<Self, String> {
        let set = fields.set(name)?;
        let text = set_file(name, &set);
        Self::new("ipset", name, &text, sensitive).map(|definition| Self { set: Some(set), ..definition })
    }

    fn new(folder: &str, name: &str, text: &str, sensitive: bool) -> Result<Self, String> {
        let path = AbsolutePath::try_from(format!("/etc/firewalld/{folder}s/{name}.xml"))?;
        let file = File::new(FirewallFields::NAME, path, text.as_bytes(), sensitive);
        let (key, name) = (format!("{folder} {name}"), name.to_owned());
        Ok(Self { key, file, name, lets_in: Vec::new(), newest: None, set: None })
    }

    /// The service's name and what it allows; `None` for a set.
    pub fn as_service(&self) -> Option<(&str, &[Traffic])> {
        self.set.is_none().then_some((&self.name, &self.lets_in))
    }

    /// An error if firewalld is too old for it.
    pub fn check_age(&self, age: &Age) -> Result<()> {
        self.newest.map_or(Ok(()), |(what, first)| age.check(what, first))
    }

    /// The edits of the set at run time; none for a service, which changes with a reload.
    fn live_edits(&self, host: &Host) -> Result<LiveEdits> {
        let Some(wanted) = self.set.as_ref().filter(|_| host.is_live()) else { return Ok(LiveEdits::default()) };
        let Some(mut have) = host.firewalld()?.ipset(&self.name)?.known() else {
            return Ok(LiveEdits { is_unknown: host.firewalld()?.life().is_some(), ..LiveEdits::default() });
        };
        // the default
        if have.options.get("family").is_some_and(|family| family == "inet") {
            have.options.remove("family");
        }
        if (&have.set_type, &have.options) != (&wanted.set_type, &wanted.options) {
            return Ok(LiveEdits { is_unknown: true, ..LiveEdits::default() });
        }
        let written: BTreeMap<String, String> =
            have.entries.into_iter().map(|entry| (normal_entry(&entry), entry)).collect();
        let is_new = |entry: &&String| !written.contains_key(*entry);
        // entries of a set with a timeout come and go at run time
        let is_timed = wanted.options.get("timeout").is_some_and(|seconds| seconds != "0");
        let is_old = |entry: &str| !is_timed && !wanted.entries.contains(entry);
        Ok(LiveEdits {
            is_unknown: false,
            add: wanted.entries.iter().filter(is_new).cloned().collect(),
            remove: written.iter().filter(|(entry, _)| is_old(entry)).map(|(_, text)| text.clone()).collect(),
        })
    }
}

/// The run-time differences of a set.
#[derive(Debug, Default)]
struct LiveEdits {
    /// Whether firewalld does not know it, or knows it with another type: it must reload.
    is_unknown: bool,
    add: Vec<String>,
    remove: Vec<String>,
}

impl LiveEdits {
    fn words(&self) -> Vec<String> {
        let unknown = self.is_unknown.then(|| "create the set".to_owned());
        let added = self.add.iter().map(|entry| format!("+ {entry}"));
        unknown.into_iter().chain(added).chain(self.remove.iter().map(|entry| format!("− {entry}"))).collect()
    }
}

impl Resource for Definition {
    fn about(&self) -> About {
        About {
            claims: vec![Claim::path(&self.file.path)],
            cuts_off: true,
            is_sensitive: self.file.sensitive,
            ..About::new(FirewallFields::NAME, &self.key, Phase::Files)
        }
    }

    fn watched_inputs(&self, work: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        let is_live_set = self.set.is_some() && work.host.is_live();
        if is_live_set && self.file.sensitive {
            return Ok(None);
        }
        let path = WatchedInput::Path(PathBuf::from(&*self.file.path));
        Ok(Some([path].into_iter().chain(is_live_set.then(|| WatchedInput::IpSet(self.name.clone()))).collect()))
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let file = self.file.observe(work)?;
        if let Some((what, first)) = self.newest.filter(|_| file.is_some()) {
            match work.host.is_live() && work.host.firewalld()?.life().is_some() {
                true => work.host.firewalld()?.require(what, first)?,
                false => self.check_age(&Age::of(&work.host.root)?)?,
            }
        }
        let live = self.live_edits(work.host)?.words();
        Ok(match (file, live.is_empty()) {
            (None, true) => None,
            (None, false) => Change::of(live.iter().map(|word| format!("runtime: {word}")).collect()),
            (Some(file), is_same) => Some(Change { only_secrets: file.only_secrets && is_same, ..file }),
        })
    }

    fn apply(&self, work: &Work<'_>, change: &Change) -> Result<()> {
        let host = work.host;
        if self.file.observe(work)?.is_some() {
            // triggers a reload: otherwise the old entries stay permanent
            return self.file.apply(work, change);
        }
        let live = self.live_edits(host)?;
        if live.is_unknown {
            host.firewall_files_changed();
            return Ok(());
        }
        let firewalld = host.firewalld()?;
        live.remove.iter().try_for_each(|entry| firewalld.edit_ipset(&self.name, entry, false))?;
        live.add.iter().try_for_each(|entry| firewalld.edit_ipset(&self.name, entry, true))
    }
}
