//! The fields of `[[firewall]]`.

use ipnet::IpNet;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{self, Deserializer, IntoDeserializer, Visitor};

use super::define::{Definition, IpSetFields, ServiceFields};
use super::names::{InterfaceName, ProtocolName, ServiceName, SetName, ZoneName};
use super::{Firewall, OwnZone, traffic_of, traffic_of_service};
use crate::host::address;
use crate::host::port_range::PortRange;
use crate::host::rich_rule::RichRule;
use crate::host::zone::{Element, Target, Traffic};
use crate::kind::prelude::*;

/// Fields of `[[firewall]]`. Without `exclusive`, kpull adds the listed entries and keeps all others.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FirewallFields {
    /// The zone. If firewalld does not have it, one with `target`, `forward`, `sources` or `interfaces` is created. Default: firewalld's
    /// default zone.
    zone: Option<ZoneName>,
    /// What the zone does with traffic that no entry matches. Default: unchanged.
    target: Option<Target>,
    /// Whether the zone forwards traffic between its interfaces or sources. Default: unchanged.
    forward: Option<bool>,
    /// Services open to all addresses, by firewalld's names.
    services: Vec<ServiceName>,
    /// Ports open to all addresses: `"443/tcp"`, `"30000-32767/tcp"`.
    ports: Vec<PortRange>,
    /// Ports, services and protocols that are open only to some addresses.
    allow: Vec<Allow>,
    /// Rich rules, in the syntax of firewalld's manual.
    rich: Vec<String>,
    /// Whether traffic that leaves through the zone gets the zone's address. Default: unchanged.
    masquerade: Option<bool>,
    /// Sources that belong to the zone: addresses, networks, hardware addresses, `"ipset:NAME"`.
    sources: Vec<Source>,
    /// Network interfaces that belong to the zone.
    interfaces: Vec<InterfaceName>,
    /// Whether to remove services, ports and rich rules that no [[firewall]] of this host lists for the zone.
    exclusive: bool,
    /// Services to define, by name. They open nothing until a zone lists the name.
    define_services: BTreeMap<ServiceName, ServiceFields>,
    /// Sets of addresses to define, by name, for `sources` and `from` as `"ipset:NAME"`.
    define_ipsets: BTreeMap<SetName, IpSetFields>,
}

/// A port, service or protocol, allowed for some sources.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Allow {
    port: Option<PortRange>,
    service: Option<ServiceName>,
    protocol: Option<ProtocolName>,
    /// An address, a network, a hardware address or `"ipset:NAME"`, or a list of them.
    #[serde(deserialize_with = "one_or_many")]
    #[schemars(with = "OneOrMany")]
    from: Vec<Source>,
}

/// The source of packets: an address, a network, a hardware address, or a set of those; normalized.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
struct Source(String);

from_text!(Source, |text| {
    if let Some(name) = text.strip_prefix("ipset:") {
        return SetName::try_from(name.to_owned()).map(|_| Self(text));
    }
    if address::network(&text).is_some() || address::mac(&text).is_some() {
        return Ok(Self(address::normal(&text)));
    }
    Err(format!(
        "`{text}` is neither an address (192.168.1.101), a network (192.168.1.0/24), a hardware address \
         (02:00:00:00:00:01) nor a set (ipset:NAME)"
    ))
});

impl Source {
    /// Its notation in a rich rule.
    fn in_rule(&self) -> String {
        match (address::network(&self.0), self.0.strip_prefix("ipset:")) {
            (Some(IpNet::V4(_)), _) => format!("family=\"ipv4\" source address=\"{}\"", self.0),
            (Some(IpNet::V6(_)), _) => format!("family=\"ipv6\" source address=\"{}\"", self.0),
            (None, Some(name)) => format!("source ipset=\"{name}\""),
            (None, None) => format!("source mac=\"{}\"", self.0),
        }
    }
}

/// One value or a list.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "it only describes the format")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// A list, or one value as a list of one.
fn one_or_many<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct OneOrMany<T>(std::marker::PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrMany<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text or a list of texts")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
            T::deserialize(text.into_deserializer()).map(|one| vec![one])
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<Vec<T>, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(list))
        }
    }

    deserializer.deserialize_any(OneOrMany(std::marker::PhantomData))
}

impl Allow {
    /// One rich rule for each source.
    fn rules(&self) -> Result<Vec<String>, String> {
        let what = match (&self.port, &self.service, &self.protocol) {
            (Some(range), None, None) => {
                format!("port port=\"{}\" protocol=\"{}\"", range.ports(), range.protocol)
            }
            (None, Some(service), None) => format!("service name=\"{}\"", service.0),
            (None, None, Some(protocol)) => format!("protocol value=\"{}\"", protocol.0),
            _ => return Err("each needs one of `port`, `service` and `protocol`".to_owned()),
        };
        let rule = |source: &Source| RichRule::parse(&format!("rule {} {what} accept", source.in_rule()));
        self.from.iter().map(|source| rule(source).map(|rule| rule.to_string())).collect()
    }
}

impl Fields for FirewallFields {
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let (mut elements, mut lets_in_otherwise) = (Vec::new(), Vec::new());
        let mut lets_in: Vec<Traffic> = self.ports.iter().cloned().map(Traffic::Ports).collect();
        let mut named: BTreeSet<String> = self.services.iter().map(|name| name.0.clone()).collect();
        for allow in &self.allow {
            lets_in.extend(allow.port.clone().map(Traffic::Ports));
            lets_in.extend(allow.protocol.as_ref().map(|name| Traffic::Protocol(name.0.to_ascii_lowercase())));
            named.extend(allow.service.as_ref().map(|name| name.0.clone()));
            elements.extend(allow.rules().map_err(|why| build.invalid("allow", &why))?.into_iter().map(Element::Rule));
        }
        for rule in &self.rich {
            let rule = RichRule::parse(rule).map_err(|why| build.invalid("rich", &format!("{why}: `{rule}`")))?;
            let accepted = rule.accepted().filter(|part| part.name == "service").and_then(|part| part.get("name"));
            named.extend(accepted.map(str::to_owned));
            lets_in_otherwise.extend(rule.accepted().into_iter().flat_map(traffic_of));
            elements.push(Element::Rule(rule.to_string()));
        }
        lets_in_otherwise.extend(named.iter().flat_map(|name| traffic_of_service(name)));
        let describes =
            self.target.is_some() || self.forward.is_some() || !self.sources.is_empty() || !self.interfaces.is_empty();
        elements.extend(self.services.into_iter().map(|name| Element::Service(name.0)));
        elements.extend(self.ports.into_iter().map(Element::Port));
        elements.extend(self.sources.into_iter().map(|source| Element::Source(source.0)));
        elements.extend(self.interfaces.into_iter().map(|name| Element::Interface(name.0)));
        let mut bars = Vec::new();
        for (wanted, element) in [(self.masquerade, Element::Masquerade), (self.forward, Element::Forward)] {
            match wanted {
                Some(true) => elements.push(element),
                Some(false) => bars.push(element),
                None => {}
            }
        }
        let sensitive = build.is_secret();
        let mut built: Vec<Box<dyn Resource>> = Vec::new();
        for (name, fields) in self.define_services {
            let definition = Definition::service(&name.0, &fields, sensitive);
            built.push(Box::new(definition.map_err(|why| build.invalid("define_services", &why))?));
        }
        for (name, fields) in self.define_ipsets {
            let definition = Definition::ipset(&name.0, fields, sensitive);
            built.push(Box::new(definition.map_err(|why| build.invalid("define_ipsets", &why))?));
        }
        let firewall = Firewall {
            zone: self.zone.map(|zone| zone.0),
            target: self.target,
            listed: elements.into_iter().collect(),
            bars,
            exclusive: self.exclusive,
            sensitive,
            lets_in,
            lets_in_otherwise,
            named,
        };
        if describes && (firewall.zone.is_some() || firewall.target.is_some()) {
            built.push(Box::new(OwnZone::of(&firewall)));
        }
        if built.is_empty() || !firewall.words().is_empty() {
            built.push(Box::new(firewall));
        }
        Ok(built)
    }
}
