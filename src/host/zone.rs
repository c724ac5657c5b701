//! The settings of a firewall zone, and the edits that lead from one state to another.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;
use serde::de::value::{Error, StrDeserializer};
use sha2::{Digest, Sha256};

use crate::host::address;
use crate::host::port_range::PortRange;
use crate::host::rich_rule::normal_rule;
use crate::text::display_as_serialized;

/// An element of a zone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Element {
    /// A service by its name.
    Service(String),
    /// A port or range of ports.
    Port(PortRange),
    /// A rich rule in firewalld's own form.
    Rule(String),
    /// Masquerading.
    Masquerade,
    /// Forwarding between interfaces and sources of the zone.
    Forward,
    /// A source that belongs to the zone: an address, a network, a hardware address, or `ipset:NAME`.
    Source(String),
    /// A network interface that belongs to the zone.
    Interface(String),
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => write!(f, "service {name}"),
            Self::Port(range) => write!(f, "port {range}"),
            Self::Rule(rule) => f.write_str(rule),
            Self::Masquerade => f.write_str("masquerade"),
            Self::Forward => f.write_str("forward"),
            Self::Source(source) => write!(f, "source {source}"),
            Self::Interface(name) => write!(f, "interface {name}"),
        }
    }
}

impl Element {
    /// Its normal form, for comparison.
    pub fn normal(&self) -> Self {
        match self {
            Self::Rule(rule) => Self::Rule(normal_rule(rule)),
            Self::Source(source) => Self::Source(address::normal(source)),
            other => other.clone(),
        }
    }
}

/// What happens to packets that no element of the zone matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub enum Target {
    /// They are rejected, except for ICMP.
    #[default]
    #[serde(rename = "default")]
    Default,
    /// They are accepted.
    #[serde(rename = "ACCEPT")]
    Accept,
    /// They are dropped without an answer.
    #[serde(rename = "DROP")]
    Drop,
    /// They are rejected.
    #[serde(rename = "REJECT", alias = "%%REJECT%%")]
    Reject,
}

display_as_serialized!(Target);

impl Target {
    /// Parses firewalld's text; an unknown one counts as the default.
    pub fn parse(text: &str) -> Self {
        let name: StrDeserializer<'_, Error> = text.trim_matches('%').into_deserializer();
        Self::deserialize(name).unwrap_or_default()
    }

    /// firewalld's text for it in a zone's file; `None` for the default.
    pub fn in_file(self) -> Option<String> {
        match self {
            Self::Default => None,
            Self::Reject => Some("%%REJECT%%".to_owned()),
            other => Some(other.to_string()),
        }
    }
}

/// A single change of a zone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Edit {
    /// Adds it.
    Add(Element),
    /// Removes it.
    Remove(Element),
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add(element) => write!(f, "+ {element}"),
            Self::Remove(element) => write!(f, "− {element}"),
        }
    }
}

/// Traffic to accept: ports of a transport protocol, or an IP protocol without ports.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub enum Traffic {
    /// Ports.
    Ports(PortRange),
    /// A protocol by its name in lower case: `vrrp`.
    Protocol(String),
}

impl TryFrom<String> for Traffic {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        if text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(is_plain) {
            return Ok(Self::Protocol(text.to_ascii_lowercase()));
        }
        let range = PortRange::try_from(text).map(Self::Ports);
        range.map_err(|why| format!("{why}; or the name of an IP protocol, like \"vrrp\""))
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ports(range) => range.fmt(f),
            Self::Protocol(name) => f.write_str(name),
        }
    }
}

/// A set of ports. firewalld joins adjacent ranges, so the ports themselves have to be compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports(BTreeSet<PortRange>);

impl Ports {
    /// Removes and returns a range of the protocol that has a port from `first` to `last`.
    fn take(&mut self, protocol: &str, first: u16, last: u16) -> Option<PortRange> {
        let up_to = PortRange { protocol: protocol.to_owned(), first: last, last: u16::MAX };
        let found = self.0.range(..=up_to).next_back()?;
        let found = (found.protocol == protocol && found.last >= first).then(|| found.clone())?;
        self.0.take(&found)
    }

    /// Adds a range, joined with adjacent ones.
    pub fn insert(&mut self, range: &PortRange) {
        let mut whole = range.clone();
        let (before, behind) = (range.first.saturating_sub(1), range.last.saturating_add(1));
        while let Some(known) = self.take(&range.protocol, before, behind) {
            whole.first = whole.first.min(known.first);
            whole.last = whole.last.max(known.last);
        }
        self.0.insert(whole);
    }

    /// Removes a range; the other ports stay.
    pub fn remove(&mut self, range: &PortRange) {
        while let Some(known) = self.take(&range.protocol, range.first, range.last) {
            if known.last > range.last {
                self.0.insert(PortRange { first: range.last + 1, ..known.clone() });
            }
            if known.first < range.first {
                self.0.insert(PortRange { last: range.first - 1, ..known });
            }
        }
    }

    /// The ranges, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &PortRange> {
        self.0.iter()
    }

    /// The ports that are not in `other`.
    pub fn without(&self, other: &Self) -> Self {
        let mut rest = self.clone();
        for range in other.iter() {
            rest.remove(range);
        }
        rest
    }
}

impl FromIterator<PortRange> for Ports {
    fn from_iter<I: IntoIterator<Item = PortRange>>(ranges: I) -> Self {
        let mut ports = Self::default();
        for range in ranges {
            ports.insert(&range);
        }
        ports
    }
}

/// The settings of a zone that kpull manages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// What happens to everything else.
    pub target: Target,
    /// Ports.
    pub ports: Ports,
    /// All other elements as they are written, by their normal forms.
    pub(super) others: BTreeMap<Element, Element>,
}

impl Settings {
    /// SHA-256 of all settings, in hex.
    pub fn digest(&self) -> String {
        let elements: Vec<String> = self.elements().iter().map(ToString::to_string).collect();
        hex::encode(Sha256::digest(format!("{}\n{}", self.target, elements.join("\n"))))
    }

    /// Makes one edit.
    pub fn make(&mut self, edit: &Edit) {
        match edit {
            Edit::Add(Element::Port(range)) => self.ports.insert(range),
            Edit::Remove(Element::Port(range)) => self.ports.remove(range),
            Edit::Add(element) => drop(self.others.insert(element.normal(), element.clone())),
            Edit::Remove(element) => drop(self.others.remove(&element.normal())),
        }
    }

    /// Settings with one element only.
    pub fn of(element: &Element) -> Self {
        [element.clone()].into_iter().collect()
    }

    /// Adds all elements of `other`.
    pub fn merge(&mut self, other: &Self) {
        other.elements().into_iter().for_each(|element| self.make(&Edit::Add(element)));
    }

    /// All elements, in a fixed order.
    pub fn elements(&self) -> Vec<Element> {
        self.without(&Self::default())
    }

    /// An element as it is written here; `None` if it is not, or only in part.
    pub fn find(&self, element: &Element) -> Option<Element> {
        match element {
            Element::Port(_) => Self::of(element).without(self).is_empty().then(|| element.clone()),
            other => self.others.get(&other.normal()).cloned(),
        }
    }

    /// The elements that are not in `other`, in a fixed order.
    pub fn without(&self, other: &Self) -> Vec<Element> {
        let ports = self.ports.without(&other.ports);
        let ports = ports.iter().cloned().map(Element::Port).map(|port| (port.clone(), port));
        let mut rest = self.others.clone();
        rest.retain(|normal, _| !other.others.contains_key(normal));
        rest.extend(ports);
        rest.into_values().collect()
    }
}

impl FromIterator<Element> for Settings {
    fn from_iter<I: IntoIterator<Item = Element>>(elements: I) -> Self {
        let mut settings = Self::default();
        elements.into_iter().for_each(|element| settings.make(&Edit::Add(element)));
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> PortRange {
        PortRange::try_from(text.to_owned()).unwrap()
    }

    fn ports(texts: &[&str]) -> Ports {
        texts.iter().map(|text| range(text)).collect()
    }

    fn texts(ports: &Ports) -> Vec<String> {
        ports.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn adjacent_ranges_are_joined_and_removed_ports_split_them() {
        let mut all = ports(&["1-2/tcp", "4/tcp", "3/tcp", "3/udp", "65535/tcp"]);
        assert_eq!(texts(&all), ["1-4/tcp", "65535/tcp", "3/udp"]);
        all.remove(&range("2-3/tcp"));
        assert_eq!(texts(&all), ["1/tcp", "4/tcp", "65535/tcp", "3/udp"]);
        all.remove(&range("1-65535/tcp"));
        assert_eq!(texts(&all), ["3/udp"]);
    }

    #[test]
    fn a_range_that_a_larger_one_holds_is_not_missing() {
        let want = Settings::of(&Element::Port(range("2380/tcp")));
        let have = Settings::of(&Element::Port(range("2379-2381/tcp")));
        assert_eq!(want.without(&have), []);
        let rest: Vec<String> = have.without(&want).iter().map(ToString::to_string).collect();
        assert_eq!(rest, ["port 2379/tcp", "port 2381/tcp"]);
    }

    #[test]
    fn edits_lead_from_one_state_to_the_other() {
        let service = |name: &str| Element::Service(name.to_owned());
        let port = |text: &str| Element::Port(range(text));
        let mut have: Settings = [service("ssh"), port("1-10/tcp"), Element::Masquerade].into_iter().collect();
        let interface = Element::Interface("eth0".to_owned());
        let want: Settings = [service("http"), port("5/tcp"), interface].into_iter().collect();
        let edits: Vec<Edit> = have
            .without(&want)
            .into_iter()
            .map(Edit::Remove)
            .chain(want.without(&have).into_iter().map(Edit::Add))
            .collect();
        edits.iter().for_each(|edit| have.make(edit));
        assert_eq!(have, want);
    }

    #[test]
    fn an_address_is_the_same_however_it_is_written_and_goes_as_it_is_written() {
        let element = |text: &str| Element::Source(text.to_owned());
        let rule = |text: &str| Element::Rule(format!("rule family=\"ipv4\" source address=\"{text}\" accept"));
        let have: Settings =
            [element("10.0.0.0/255.255.0.0"), element("FD00::0:1"), rule("10.1.0.0/255.255.0.0")].into_iter().collect();
        let want: Settings = [element("10.0.0.0/16"), element("fd00::1"), rule("10.1.0.0/16")].into_iter().collect();
        assert_eq!((want.without(&have), have.without(&want)), (Vec::new(), Vec::new()));
        assert_eq!(have.find(&element("10.0.0.0/16")), Some(element("10.0.0.0/255.255.0.0")));
        assert_eq!(have.find(&rule("10.1.0.0/16")), Some(rule("10.1.0.0/255.255.0.0")));
        assert_eq!(have.find(&element("10.0.0.0/17")), None);
        let mut rest = have.clone();
        want.elements().into_iter().for_each(|element| rest.make(&Edit::Remove(element)));
        assert_eq!(rest, Settings::default());
    }
}
