//! `[[firewall]]`: what a firewalld zone lets in, now and after the next start; and zones, services and sets of a role's own.

mod define;
mod former;
mod own;
mod zones;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{self, Deserializer, IntoDeserializer, Visitor};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result, code, nearest};
use crate::host::firewalld::UNKNOWN_SERVICE;
use crate::host::firewalld_age::Age;
use crate::host::rich_rule::{Part, RichRule};
use crate::host::zone::{Edit, Element, PortRange, Settings, Target, Traffic};
use crate::host::{Host, address};
use crate::kind::prior_state::PriorState;
use crate::kind::{
    About, Build, Change, Claim, Effect, Fields, Item, Phase, Queries, Resource, Restorable, WatchedInput, Work,
};

pub use define::Definition;
use define::{IpSetFields, ServiceFields};
pub use former::{Former, Setting};
pub use own::OwnZone;
pub(crate) use zones::{PACKAGED, kept_zone};
use zones::{edit, elsewhere, etc_file, is_bound, unknown_zone, zone_file, zone_name, zone_traces};

/// Fields of `[[firewall]]`. Without `exclusive`, what is listed is added and everything else is left alone.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FirewallFields {
    /// The zone; firewalld's default zone when left out. With `target`, `forward`, `sources` or `interfaces`, one that firewalld does not
    /// know is made.
    zone: Option<ZoneName>,
    /// What the zone does with what nothing in it speaks of; left as it is when this is left out.
    target: Option<Target>,
    /// Whether the zone passes on what goes from one of its interfaces or sources to another; left as it is when this is left out.
    forward: Option<bool>,
    /// Services that everybody may use, by firewalld's names.
    #[serde(default)]
    services: Vec<ServiceName>,
    /// Ports that everybody may use: `"443/tcp"`, `"30000-32767/tcp"`.
    #[serde(default)]
    ports: Vec<PortRange>,
    /// What only some may use.
    #[serde(default)]
    allow: Vec<Allow>,
    /// Rich rules as firewalld's manual has them.
    #[serde(default)]
    rich: Vec<String>,
    /// Whether what leaves by the zone gets its address; left as it is when this is left out.
    masquerade: Option<bool>,
    /// What belongs to the zone by where it comes from: addresses, networks, hardware addresses, `"ipset:NAME"`.
    #[serde(default)]
    sources: Vec<Source>,
    /// Network interfaces that belong to the zone.
    #[serde(default)]
    interfaces: Vec<InterfaceName>,
    /// Whether services, ports and rich rules that no [[firewall]] of this host lists for the zone are taken out.
    #[serde(default)]
    exclusive: bool,
    /// Services of one's own, by name. What is said here lets nothing in: that a zone does that lists the name.
    #[serde(default)]
    define_services: BTreeMap<ServiceName, ServiceFields>,
    /// Sets of addresses of one's own, by name, for `sources` and `from` as `"ipset:NAME"`.
    #[serde(default)]
    define_ipsets: BTreeMap<SetName, IpSetFields>,
}

/// One of a port, a service and a protocol, for some addresses.
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

/// Where packets come from: an address, a network, a hardware address, or a set of those; in the one form that is compared.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String")]
struct Source(String);

impl TryFrom<String> for Source {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
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
    }
}

impl Source {
    /// What a rich rule says of it.
    fn in_rule(&self) -> String {
        match (address::network(&self.0), self.0.strip_prefix("ipset:")) {
            (Some(IpNet::V4(_)), _) => format!("family=\"ipv4\" source address=\"{}\"", self.0),
            (Some(IpNet::V6(_)), _) => format!("family=\"ipv6\" source address=\"{}\"", self.0),
            (None, Some(name)) => format!("source ipset=\"{name}\""),
            (None, None) => format!("source mac=\"{}\"", self.0),
        }
    }
}

macro_rules! names {
    ($($(#[$about:meta])* $name:ident($what:literal, $longest:literal, $others:literal);)*) => {$(
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
        #[serde(try_from = "String")]
        #[schemars(with = "String")]
        struct $name(String);

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                let is_plain = |c: char| c.is_ascii_alphanumeric() || $others.contains(c);
                if text.is_empty() || text.len() > $longest || !text.chars().all(is_plain) {
                    return Err(format!(
                        concat!("`{}` is not ", $what, ": letters, digits and `{}`, at most {}"), text, $others, $longest
                    ));
                }
                Ok(Self(text))
            }
        }
    )*};
}

names! {
    /// A zone's name: firewalld makes chains of the packet filter from it.
    ZoneName("the name of a zone", 17, "-_");
    /// A service's name.
    ServiceName("the name of a service", 128, "-_.+");
    /// An IP protocol by name or number.
    ProtocolName("a protocol", 32, "-.");
    /// A network interface's name; a `+` at its end stands for whatever follows.
    InterfaceName("the name of a network interface", 15, "-_.:@+");
    /// A set's name.
    SetName("the name of a set", 31, "-_.:");
    /// The name of a helper for a protocol's connections.
    HelperName("the name of a helper", 64, "-_");
}

/// One, or a list.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "it is only described")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// A list, or one value for a list of one.
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
    /// One rich rule for each address.
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
    const NAME: &'static str = "firewall";

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

/// A part of what a zone lets in. Several of one zone add up.
#[derive(Clone, Debug)]
pub struct Firewall {
    /// Its zone; `None` for firewalld's default one.
    pub zone: Option<String>,
    target: Option<Target>,
    listed: Settings,
    /// What is not to be in the zone.
    bars: Vec<Element>,
    exclusive: bool,
    /// Whether nothing of it may be kept.
    sensitive: bool,
    /// What it lets in by `ports` and `allow`.
    pub lets_in: Vec<Traffic>,
    /// What it lets in by services and rich rules, as far as that can be told without asking firewalld.
    pub lets_in_otherwise: Vec<Traffic>,
    /// The services that it lets in, by name.
    pub named: BTreeSet<String>,
}

/// What the element of a rich rule stands for.
fn traffic_of(part: &Part) -> Vec<Traffic> {
    let value = |name| part.get(name).unwrap_or_default();
    match part.name.as_str() {
        "port" => PortRange::parse(value("port"), value("protocol")).map(Traffic::Ports).into_iter().collect(),
        "protocol" => vec![Traffic::Protocol(value("value").to_ascii_lowercase())],
        "service" => traffic_of_service(value("name")),
        _ => Vec::new(),
    }
}

/// What firewalld's own services of a cluster's neighbourhood let in; those of others are not known here.
fn traffic_of_service(name: &str) -> Vec<Traffic> {
    let ports: &[(&str, &str)] = match name {
        "ssh" => &[("22", "tcp")],
        "http" => &[("80", "tcp")],
        "https" => &[("443", "tcp")],
        "dns" => &[("53", "tcp"), ("53", "udp")],
        "ntp" => &[("123", "udp")],
        "etcd-client" => &[("2379", "tcp")],
        "etcd-server" => &[("2380", "tcp")],
        "kube-apiserver" => &[("6443", "tcp")],
        "vrrp" => return vec![Traffic::Protocol("vrrp".to_owned())],
        _ => &[],
    };
    ports.iter().filter_map(|(port, protocol)| PortRange::parse(port, protocol)).map(Traffic::Ports).collect()
}

/// What has to be edited in the two settings of a zone.
#[derive(Debug, Default, PartialEq, Eq)]
struct Edits {
    runtime: Vec<Edit>,
    permanent: Vec<Edit>,
}

impl Edits {
    fn all(&self) -> impl Iterator<Item = &Edit> {
        self.runtime.iter().chain(&self.permanent)
    }

    /// In words; what is the same for both is said once.
    fn words(&self) -> Vec<String> {
        let only = |mine: &[Edit], others: &[Edit], name: &str| -> Vec<String> {
            mine.iter().filter(|edit| !others.contains(edit)).map(|edit| format!("{name}: {edit}")).collect()
        };
        let both = self.runtime.iter().filter(|edit| self.permanent.contains(edit));
        both.map(ToString::to_string)
            .chain(only(&self.runtime, &self.permanent, "runtime"))
            .chain(only(&self.permanent, &self.runtime, "permanent"))
            .collect()
    }
}

/// The change that edits come to.
fn change(edits: &[Edit]) -> Option<Change> {
    change_of(edits.iter().map(ToString::to_string).collect(), edits.iter())
}

/// [`change`], in these words.
fn change_of<'a>(words: Vec<String>, edits: impl Iterator<Item = &'a Edit>) -> Option<Change> {
    let (add, remove): (Vec<_>, Vec<_>) = edits.partition(|edit| matches!(edit, Edit::Add(_)));
    let what = match (add.is_empty(), remove.is_empty()) {
        (false, true) => Effect::Added,
        (true, false) => Effect::Removed,
        _ => Effect::Changed,
    };
    Change::of(words).map(|change| Change { what, ..change })
}

impl Firewall {
    /// The name of its zone on this host.
    fn zone_name(&self, host: &Host) -> Result<String> {
        zone_name(self.zone.as_deref(), host)
    }

    /// An error when a firewalld is too old for what is listed.
    pub fn check_age(&self, age: &Age) -> Result<()> {
        self.listed.elements().iter().try_for_each(|element| age.check_element(element))
    }

    /// All that it says, in words.
    fn words(&self) -> Vec<String> {
        let listed = self.listed.elements();
        let bars = self.bars.iter().map(|element| format!("no {element}"));
        let more = self.exclusive.then(|| "nothing else".to_owned());
        listed.iter().map(ToString::to_string).chain(bars).chain(more).collect()
    }

    /// The zone, the first thing listed, how many more, and a few digits that tell it from others that start alike.
    fn key(&self) -> String {
        let words = self.words();
        let digest = digest(&words.join("\n"));
        let first = match words.first() {
            Some(rule) if rule.starts_with("rule ") => "rule",
            Some(element) => element,
            None => "nothing",
        };
        let more = match words.len() {
            0 | 1 => String::new(),
            number => format!(" +{}", number - 1),
        };
        format!("{} {first}{more} {digest}", self.zone.as_deref().unwrap_or("default"))
    }

    /// An error when another [[firewall]] wants the opposite: each run would undo what the last has done.
    fn agree(&self, host: &Host, catalog: &[Item], zone: &str) -> Result<()> {
        for other in firewalls(catalog) {
            let other_zone = other.zone_name(host)?;
            if other_zone == zone {
                if let Some(element) = self.bars.iter().find(|element| other.listed.find(element).is_some()) {
                    return Err(Error::new(
                        code::FIREWALL,
                        format!("one [[firewall]] wants `{element}` in the zone {zone}, another bars it"),
                    )
                    .help(format!("leave `{element}` out of one of them")));
                }
                continue;
            }
            let mine = self.listed.elements();
            if let Some(element) = mine.iter().find(|element| is_bound(element) && other.listed.find(element).is_some())
            {
                return Err(Error::new(
                    code::FIREWALL,
                    format!("the {element} is to belong to two zones: {zone} and {other_zone}"),
                )
                .help("an interface or source belongs to one zone: take it out of the other [[firewall]]"));
            }
        }
        Ok(())
    }

    /// What leads from `have` to what is wanted.
    fn edits(&self, have: &Settings, siblings: &[&Firewall]) -> Vec<Edit> {
        let mut edits: Vec<Edit> = self.listed.without(have).into_iter().map(Edit::Add).collect();
        edits.extend(self.bars.iter().filter_map(|element| have.find(element)).map(Edit::Remove));
        if self.exclusive {
            let mut listed = self.listed.clone();
            siblings.iter().for_each(|other| listed.merge(&other.listed));
            let is_ours =
                |element: &Element| matches!(element, Element::Service(_) | Element::Port(_) | Element::Rule(_));
            edits.extend(have.without(&listed).into_iter().filter(is_ours).map(Edit::Remove));
        }
        edits
    }

    /// What has to be edited on the running host; `None` when firewalld isn't running.
    fn live_edits(&self, host: &Host, catalog: &[Item], zone: &str) -> Result<Option<Edits>> {
        let Some(known) = host.zone(zone)? else { return Ok(None) };
        if known.permanent.is_none() && !OwnZone::is_in(host, catalog, zone)? && kept_zone(&host.root, zone)?.is_none()
        {
            return Err(unknown_zone(host, zone)?);
        }
        // by the time that this has its turn, firewalld knows a zone that is yet to be made
        let (runtime, permanent) = (known.runtime.unwrap_or_default(), known.permanent.unwrap_or_default());
        let siblings = siblings(host, catalog, zone)?;
        Ok(Some(Edits { runtime: self.edits(&runtime, &siblings), permanent: self.edits(&permanent, &siblings) }))
    }

    /// An error for what is to be added and firewalld can't take, before anything is changed: what its version does not have, and services
    /// that it doesn't know. Those of the catalog's own it knows by the time that this has its turn.
    fn check_added(host: &Host, catalog: &[Item], zone: &str, edits: &Edits) -> Result<()> {
        let firewalld = host.firewalld()?;
        let mut known: Option<Vec<String>> = None;
        for edit in edits.all() {
            let Edit::Add(element) = edit else { continue };
            firewalld.check(zone, element)?;
            let Element::Service(name) = element else { continue };
            let known = match &mut known {
                Some(known) => known,
                none => none.insert(firewalld.services()?),
            };
            let file = Path::new("/etc/firewalld/services").join(format!("{name}.xml"));
            if known.contains(name) || catalog.iter().any(|item| item.about.paths().any(|path| path == file)) {
                continue;
            }
            let error = Error::new(code::FIREWALL, format!("firewalld knows no service `{name}`"));
            return Err(match nearest(name, known.iter().map(String::as_str)) {
                Some(near) => error.help(format!("did you mean `{near}`? {UNKNOWN_SERVICE}")),
                None => error.help(UNKNOWN_SERVICE),
            });
        }
        Ok(())
    }

    /// How the host differs from it.
    fn compare(&self, host: &Host, catalog: &[Item]) -> Result<Option<Change>> {
        let zone = self.zone_name(host)?;
        self.agree(host, catalog, &zone)?;
        if !host.is_live() {
            if kept_zone(&host.root, &zone)?.is_none()
                && !PACKAGED.contains(&zone.as_str())
                && !OwnZone::is_in(host, catalog, &zone)?
            {
                return Err(unknown_zone(host, &zone)?);
            }
            let file = zone_file(host, &zone)?;
            let edits = self.edits(&file.settings(), &siblings(host, catalog, &zone)?);
            check_age(host, &edits)?;
            return Ok(change(&edits));
        }
        match self.live_edits(host, catalog, &zone)? {
            Some(edits) => {
                Self::check_added(host, catalog, &zone, &edits)?;
                Ok(change_of(edits.words(), edits.all()))
            }
            // it will run by the time that this has its turn
            None if catalog.iter().any(|item| FIREWALLD.contains(&item.id.as_str())) => {
                let edits = self.edits(&Settings::default(), &[]);
                check_age(host, &edits)?;
                Ok(change(&edits))
            }
            None => Err(not_running()),
        }
    }

    /// Makes the host as it is to be.
    fn make(&self, host: &Host, catalog: &[Item]) -> Result<()> {
        let zone = self.zone_name(host)?;
        let siblings = siblings(host, catalog, &zone)?;
        edit(host, catalog, &zone, &|have| self.edits(have, &siblings))
    }
}

/// An error for what is to be added where no firewalld runs that could be asked, and the one that will is too old for it.
fn check_age(host: &Host, edits: &[Edit]) -> Result<()> {
    let age = Age::of(&host.root)?;
    edits.iter().try_for_each(|edit| match edit {
        Edit::Add(element) => age.check_element(element),
        Edit::Remove(_) => Ok(()),
    })
}

/// What makes firewalld run, if the catalog has it.
const FIREWALLD: [&str; 2] = ["package:firewalld", "unit:firewalld.service"];

fn not_running() -> Error {
    Error::new(code::FIREWALL, "firewalld is not running").help(
        "start it (`systemctl enable --now firewalld`), or add the [[package]] `firewalld` and a [[unit]] \
         `firewalld.service` with `enable = true` to the role",
    )
}

/// All of a catalog with this zone.
fn siblings<'a>(host: &Host, catalog: &'a [Item], zone: &str) -> Result<Vec<&'a Firewall>> {
    of_zone(host, firewalls(catalog), zone, |one| &one.zone)
}

/// Those of `all` whose zone has this name on the host.
fn of_zone<'a, T>(
    host: &Host,
    all: impl Iterator<Item = &'a T>,
    zone: &str,
    of: impl Fn(&'a T) -> &'a Option<String>,
) -> Result<Vec<&'a T>> {
    let named = all.map(|one| Ok((zone_name(of(one).as_deref(), host)?, one)));
    let named: Vec<(String, &T)> = named.collect::<Result<_>>()?;
    Ok(named.into_iter().filter(|(name, _)| name == zone).map(|(_, one)| one).collect())
}

fn firewalls(catalog: &[Item]) -> impl Iterator<Item = &Firewall> {
    catalog.iter().filter_map(Item::as_kind)
}

/// A part of a zone's file: no [[file]] can have the whole of it too. `owner` tells the parts apart.
fn part_of_file(zone: Option<&str>, owner: &str) -> Option<Claim> {
    zone.map(|zone| Claim::part(&digest(owner), etc_file(zone)))
}

/// One thing that a zone has or has not.
fn in_zone(zone: &str, what: &str) -> Claim {
    Claim::thing(FirewallFields::NAME, format!("{zone} {what}"))
}

/// A few digits that tell one text from another.
fn digest(text: &str) -> String {
    hex::encode(Sha256::digest(text)).chars().take(6).collect()
}

impl Resource for Firewall {
    fn about(&self) -> About {
        let key = self.key();
        About {
            // nothing but a part of the zone's file: two roles may open the same port
            claims: part_of_file(self.zone.as_deref(), &key).into_iter().collect(),
            after: FIREWALLD.map(str::to_owned).to_vec(),
            cuts_off: true,
            ..About::new(FirewallFields::NAME, key, Phase::Firewall)
        }
    }

    fn restorable(&self) -> Option<&dyn Restorable> {
        Some(self)
    }

    fn watched_inputs(&self, work: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        zone_traces(self.zone.as_deref(), self.sensitive, work.host)
    }

    fn announce(&self, wants: &mut Queries) {
        wants.zones.insert(self.zone.clone().unwrap_or_default());
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        self.compare(work.host, work.catalog)
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        self.make(work.host, work.catalog)
    }
}

impl Restorable for Firewall {
    fn owned(&self, work: &Work<'_>) -> Result<Vec<Claim>> {
        let zone = self.zone_name(work.host)?;
        let listed = self.listed.elements().into_iter().map(|element| in_zone(&zone, &element.to_string()));
        let bars = self.bars.iter().map(|element| in_zone(&zone, &format!("no {element}")));
        Ok(listed.chain(bars).chain([own::whole_zone(&zone)]).collect())
    }

    fn prior_state(&self, owned: &Claim, work: &Work<'_>) -> Result<PriorState> {
        let zone = self.zone_name(work.host)?;
        if *owned == own::whole_zone(&zone) {
            return own::prior_state(&zone, work.host);
        }
        let had = match work.host.is_live() {
            false => zone_file(work.host, &zone)?.settings(),
            // a firewall that is yet to come lets in what its package says
            true => work.host.zone(&zone)?.and_then(|zone| zone.permanent).unwrap_or_default(),
        };
        let is_it = |element: &Element, no: &str| *owned == in_zone(&zone, &format!("{no}{element}"));
        if let Some(element) = self.bars.iter().find(|element| is_it(element, "no ")) {
            let had = had.find(element);
            return Ok(had.map_or(PriorState::Same, |element| PriorState::Open { zone, element }));
        }
        let listed = self.listed.elements();
        let Some(element) = listed.iter().find(|element| is_it(element, "")) else { return Ok(PriorState::Same) };
        if had.find(element).is_some() {
            return Ok(PriorState::Same);
        }
        let other = elsewhere(&work.host.root, &zone, &[Edit::Add(element.clone())])?.pop();
        Ok(match other {
            Some((zone, element)) => PriorState::Open { zone, element },
            None => PriorState::Shut { zone, element: element.clone() },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Place;
    use crate::kind::testing::{RoleFiles, build_with, fails};

    fn firewall(toml: &str) -> Firewall {
        let built = build_with::<FirewallFields>(toml, &RoleFiles::default()).unwrap();
        built.last().unwrap().as_kind::<Firewall>().unwrap().clone()
    }

    fn item(toml: &str) -> Item {
        let resource = Box::new(firewall(toml));
        let place = Place { file: "role.toml".into(), text: toml.into(), span: 0..0 };
        Item::new(resource, "r".into(), place)
    }

    fn why(toml: &str) -> String {
        fails::<FirewallFields>(toml, &RoleFiles::default())
    }

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let host = Host::open(dir.path()).unwrap();
        (dir, host)
    }

    fn texts(settings: &Settings) -> Vec<String> {
        settings.elements().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_source_of_an_allowance_is_a_rich_rule_of_its_family() {
        let rules = firewall(
            "allow = [{ port = '2379-2380/tcp', from = ['192.168.1.101', '192.168.2.7/24', 'fd00::1/128'] },\n\
             { protocol = 'vrrp', from = '10.0.0.0/8' }, { service = 'http', from = [] }]",
        )
        .listed;
        let wanted = [
            "rule family=\"ipv4\" source address=\"10.0.0.0/8\" protocol value=\"vrrp\" accept",
            "rule family=\"ipv4\" source address=\"192.168.1.101\" port port=\"2379-2380\" protocol=\"tcp\" accept",
            "rule family=\"ipv4\" source address=\"192.168.2.0/24\" port port=\"2379-2380\" protocol=\"tcp\" accept",
            "rule family=\"ipv6\" source address=\"fd00::1\" port port=\"2379-2380\" protocol=\"tcp\" accept",
        ];
        assert_eq!(texts(&rules), wanted);
        let others =
            firewall("allow = [{ port = '1/tcp', from = ['02:00:00:00:00:ab', 'ipset:nodes', '10.1.2.3/255.0.0.0'] }]");
        let wanted = [
            "rule family=\"ipv4\" source address=\"10.0.0.0/8\" port port=\"1\" protocol=\"tcp\" accept",
            "rule source ipset=\"nodes\" port port=\"1\" protocol=\"tcp\" accept",
            "rule source mac=\"02:00:00:00:00:AB\" port port=\"1\" protocol=\"tcp\" accept",
        ];
        assert_eq!(texts(&others.listed), wanted);
    }

    #[test]
    fn what_is_no_address_port_or_name_is_refused_with_an_example() {
        assert!(
            why("allow = [{ port = '1/tcp', from = '192.168.1.102.2' }]")
                .contains("`192.168.1.102.2` is neither an address (192.168.1.101), a network (192.168.1.0/24)")
        );
        assert!(why("ports = ['443']").contains("`443` is not a port: write it like \"443/tcp\""));
        assert!(why("zone = 'a-very-long-zone-name'").contains("is not the name of a zone"));
        assert!(why("services = ['a b']").contains("is not the name of a service"));
        assert!(why("interfaces = ['eth0/1']").contains("is not the name of a network interface"));
        assert!(why("allow = [{ port = '1/tcp', service = 'a', from = '::1' }]").contains("each needs one of"));
        assert!(why("rich = ['rule accept']").contains("it says neither what nor whom it is about: `rule accept`"));
        assert!(why("allow = [{ port = '1/tcp' }]").contains("lacks `from`"));
    }

    #[test]
    fn several_of_one_zone_have_different_keys_that_can_be_read() {
        let first = firewall("zone = 'dmz'\nports = ['443/tcp', '80/tcp']").key();
        assert!(first.starts_with("dmz port 80/tcp +1 "), "{first}");
        assert_ne!(first, firewall("zone = 'dmz'\nports = ['80/tcp', '81/tcp']").key());
        assert!(firewall("").key().starts_with("default nothing "));
    }

    #[test]
    fn in_a_tree_without_firewalld_a_zone_has_what_the_firewalld_of_the_tree_s_system_reads() {
        let forwards = |release: &str, zone: &str| {
            let (_dir, host) = tree(&[("etc/os-release", release)]);
            zone_file(&host, zone).unwrap().settings().find(&Element::Forward).is_some()
        };
        for (release, wanted) in [
            ("ID=centos\nID_LIKE=\"rhel fedora\"\nVERSION_ID=\"7\"\n", false),
            ("ID=rocky\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=8.10\n", false),
            ("ID=rocky\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=9.3\n", true),
            ("ID=fedora\nVERSION_ID=41\n", true),
            ("ID=amzn\nID_LIKE=\"centos rhel fedora\"\nVERSION_ID=2\n", false),
            ("ID=amzn\nID_LIKE=fedora\nVERSION_ID=2023\n", true),
            ("ID=ubuntu\nID_LIKE=debian\nVERSION_ID=20.04\n", false),
            ("ID=ubuntu\nID_LIKE=debian\nVERSION_ID=22.04\n", true),
            ("ID=debian\nVERSION_ID=11\n", false),
            ("ID=debian\n", true),
            ("ID=opensuse-leap\nID_LIKE=\"suse opensuse\"\nVERSION_ID=15.5\n", false),
            ("ID=opensuse-leap\nID_LIKE=\"suse opensuse\"\nVERSION_ID=15.6\n", true),
            ("ID=arch\n", true),
        ] {
            assert_eq!(forwards(release, "public"), wanted, "{release}");
            assert_eq!(forwards(release, "trusted"), wanted, "{release}");
            assert!(!forwards(release, "own"), "{release}");
        }
    }

    #[test]
    fn in_a_tree_the_package_s_zone_is_edited_into_etc_once() {
        let packaged =
            "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<zone>\n  <service name=\"ssh\"/>\n  <forward/>\n</zone>\n";
        let (dir, host) = tree(&[
            ("usr/lib/firewalld/zones/home.xml", packaged),
            ("etc/firewalld/firewalld.conf", "# DefaultZone=public\nDefaultZone=home\n"),
        ]);
        let catalog =
            [item("ports = ['443/tcp']\nmasquerade = true\nallow = [{ service = 'http', from = '10.0.0.1' }]")];
        let ours = firewalls(&catalog).next().unwrap();
        let change = ours.compare(&host, &catalog).unwrap().unwrap();
        assert_eq!(
            change.summary,
            "+ port 443/tcp, + rule family=\"ipv4\" source address=\"10.0.0.1\" service name=\"http\" accept, + masquerade"
        );
        ours.make(&host, &catalog).unwrap();
        let written = std::fs::read_to_string(dir.path().join("etc/firewalld/zones/home.xml")).unwrap();
        assert_eq!(
            written,
            "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<zone>\n  <service name=\"ssh\"/>\n  <forward/>\n  \
             <port port=\"443\" protocol=\"tcp\"/>\n  <rule family=\"ipv4\">\n    <source address=\"10.0.0.1\"/>\n    \
             <service name=\"http\"/>\n    <accept/>\n  </rule>\n  <masquerade/>\n</zone>\n"
        );
        assert!(ours.compare(&host, &catalog).unwrap().is_none());
        assert_eq!(std::fs::read_to_string(dir.path().join("usr/lib/firewalld/zones/home.xml")).unwrap(), packaged);
    }

    #[test]
    fn an_exclusive_zone_keeps_what_any_of_the_host_s_lists_and_loses_the_rest() {
        let (dir, host) = tree(&[(
            "etc/firewalld/zones/public.xml",
            "<zone>\n  <service name=\"ssh\"/>\n  <service name=\"telnet\"/>\n  <port port=\"80-81\" protocol=\"tcp\"/>\n  \
             <interface name=\"eth0\"/>\n</zone>\n",
        )]);
        let catalog = [
            item("services = ['ssh']\nexclusive = true"),
            item("zone = 'public'\nports = ['80/tcp']"),
            item("zone = 'other'\nports = ['81/tcp']"),
        ];
        let ours = firewalls(&catalog).next().unwrap();
        assert_eq!(ours.compare(&host, &catalog).unwrap().unwrap().summary, "− service telnet, − port 81/tcp");
        ours.make(&host, &catalog).unwrap();
        assert_eq!(
            std::fs::read_to_string(dir.path().join("etc/firewalld/zones/public.xml")).unwrap(),
            "<zone>\n  <service name=\"ssh\"/>\n  <port port=\"80\" protocol=\"tcp\"/>\n  <interface name=\"eth0\"/>\n</zone>\n"
        );
        assert!(ours.compare(&host, &catalog).unwrap().is_none());
    }

    #[test]
    fn without_firewalld_in_a_tree_the_default_zone_keeps_ssh() {
        let (dir, host) = tree(&[]);
        let catalog = [item("ports = ['443/tcp']")];
        firewalls(&catalog).next().unwrap().make(&host, &catalog).unwrap();
        let written = std::fs::read_to_string(dir.path().join("etc/firewalld/zones/public.xml")).unwrap();
        assert!(written.contains("<service name=\"ssh\"/>") && written.contains("443"), "{written}");
        let catalog = [item("zone = 'internal'\nports = ['443/tcp']")];
        let error = firewalls(&catalog).next().unwrap().compare(&host, &catalog).unwrap_err();
        assert!(error.to_string().contains("what its zone internal holds isn't known"), "{error}");
    }

    #[test]
    fn its_traces_are_what_firewalld_has_now_and_its_files_and_nothing_with_a_secret() {
        let dir = tempfile::tempdir().unwrap();
        let (host, store) = (Host::open("/".as_ref()).unwrap(), crate::store::Store::open(dir.path()).unwrap());
        let work = Work { host: &host, store: &store, catalog: &[] };
        let watched_inputs = |role: &RoleFiles| {
            let built = build_with::<FirewallFields>("zone = 'home'\nports = ['1/tcp']", role).unwrap();
            built[0].watched_inputs(&work).unwrap()
        };
        let paths =
            ["/etc/firewalld/zones/home.xml", "/usr/lib/firewalld/zones/home.xml", "/etc/firewalld/firewalld.conf"];
        let wanted = paths
            .map(|path| WatchedInput::Path(path.into()))
            .into_iter()
            .chain([WatchedInput::Zone("home".to_owned())]);
        assert_eq!(watched_inputs(&RoleFiles::default()), Some(wanted.collect()));
        assert_eq!(watched_inputs(&RoleFiles::default().secret()), None);
    }

    #[test]
    fn two_that_want_the_opposite_are_an_error() {
        let (_dir, host) = tree(&[]);
        let catalog = [
            item("masquerade = false"),
            item("masquerade = true"),
            item("zone = 'a'\ninterfaces = ['eth0']"),
            item("zone = 'b'\ninterfaces = ['eth0']"),
            item("zone = 'a'\nsources = ['10.0.0.0/16']"),
            item("zone = 'b'\nsources = ['10.0.9.9/255.255.0.0']"),
        ];
        let errors: Vec<String> = firewalls(&catalog)
            .filter_map(|one| one.compare(&host, &catalog).err())
            .map(|error| error.to_string())
            .collect();
        assert_eq!(
            errors,
            [
                "one [[firewall]] wants `masquerade` in the zone public, another bars it",
                "the interface eth0 is to belong to two zones: a and b",
                "the interface eth0 is to belong to two zones: b and a",
                "the source 10.0.0.0/16 is to belong to two zones: a and b",
                "the source 10.0.0.0/16 is to belong to two zones: b and a",
            ]
        );
    }

    #[test]
    fn what_is_the_same_now_and_after_the_next_start_is_said_once() {
        let port = |text: &str| Edit::Add(Element::Port(PortRange::try_from(text.to_owned()).unwrap()));
        let edits =
            Edits { runtime: vec![port("1/tcp"), port("2/tcp")], permanent: vec![port("2/tcp"), port("3/tcp")] };
        assert_eq!(edits.words(), ["+ port 2/tcp", "runtime: + port 1/tcp", "permanent: + port 3/tcp"]);
    }
}
