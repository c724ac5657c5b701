//! `[[firewall]]`: what a firewalld zone lets in, now and after the next start; and zones, services and sets of a role's own.

mod own;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{self, Deserializer, IntoDeserializer, Visitor};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result, code, nearest};
use crate::host::firewalld::{UNKNOWN_SERVICE, UNKNOWN_ZONE, Zone};
use crate::host::os::Os;
use crate::host::rich_rule::{Part, RichRule};
use crate::host::root::{Access, Root};
use crate::host::zone::{Edit, Element, PortRange, Settings, Target, Traffic};
use crate::host::zone_file::ZoneFile;
use crate::host::{Host, address};
use crate::kind::origin::Origin;
use crate::kind::{Build, Change, Fields, Item, Phase, Resource, Trace, Wants, What, Work};

pub use own::{Definition, FormerTarget, NoZone, OwnZone};
use own::{IpSetFields, ServiceFields};

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
    zone: Option<String>,
    target: Option<Target>,
    listed: Settings,
    /// What is not to be in the zone.
    bars: Vec<Element>,
    exclusive: bool,
    /// Whether nothing of it may be kept.
    sensitive: bool,
    /// What it lets in by `ports` and `allow`.
    lets_in: Vec<Traffic>,
    /// What it lets in by services and rich rules, as far as that is known here.
    lets_in_otherwise: Vec<Traffic>,
    /// The services that it lets in.
    named: BTreeSet<String>,
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
        (false, true) => What::Added,
        (true, false) => What::Removed,
        _ => What::Changed,
    };
    Change::of(words).map(|change| Change { what, ..change })
}

impl Firewall {
    /// Its zone; `None` for firewalld's default one.
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// What it lets in by `ports` and `allow`.
    pub fn lets_in(&self) -> &[Traffic] {
        &self.lets_in
    }

    /// The services that it lets in, by name.
    pub fn services(&self) -> &BTreeSet<String> {
        &self.named
    }

    /// What it lets in by services and rich rules, as far as that can be told without asking firewalld.
    pub fn lets_in_otherwise(&self) -> &[Traffic] {
        &self.lets_in_otherwise
    }

    /// The name of its zone on this host.
    fn zone_name(&self, host: &Host) -> Result<String> {
        zone_name(self.zone.as_deref(), host)
    }

    /// All that it says, in words.
    fn words(&self) -> Vec<String> {
        let listed = self.listed.elements();
        let bars = self.bars.iter().map(|element| format!("no {element}"));
        let more = self.exclusive.then(|| "nothing else".to_owned());
        listed.iter().map(ToString::to_string).chain(bars).chain(more).collect()
    }

    /// All of the host's catalog with the same zone, itself among them.
    fn siblings<'a>(&self, host: &Host, catalog: &'a [Item], zone: &str) -> Result<Vec<&'a Firewall>> {
        let mut siblings = Vec::new();
        for other in firewalls(catalog) {
            if other.zone_name(host)? == zone {
                siblings.push(other);
            }
        }
        Ok(siblings)
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
        let siblings = self.siblings(host, catalog, zone)?;
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
            let file = format!("path:/etc/firewalld/services/{name}.xml");
            if known.contains(name) || catalog.iter().any(|item| item.resource.claims().contains(&file)) {
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
            let edits = self.edits(&file.settings(), &self.siblings(host, catalog, &zone)?);
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
                Ok(change(&edits))
            }
            None => Err(not_running()),
        }
    }

    /// Makes the host as it is to be.
    fn make(&self, host: &Host, catalog: &[Item]) -> Result<()> {
        let zone = self.zone_name(host)?;
        let siblings = self.siblings(host, catalog, &zone)?;
        edit(host, catalog, &zone, &|have| self.edits(have, &siblings))
    }
}

/// Makes the edits that a zone needs, in a tree or on the running host.
fn edit(host: &Host, catalog: &[Item], zone: &str, edits: &dyn Fn(&Settings) -> Vec<Edit>) -> Result<()> {
    if !host.is_live() {
        let file = zone_file(host, zone)?;
        let edits = edits(&file.settings());
        if edits.is_empty() {
            return Ok(());
        }
        for (other, element) in elsewhere(&host.root, zone, &edits)? {
            write_zone(host, &other, &zone_file(host, &other)?.edited(&[Edit::Remove(element)]))?;
        }
        return write_zone(host, zone, &file.edited(&edits));
    }
    let mut restarts = 0;
    loop {
        let before = host.firewalld()?.life();
        match edit_live(host, catalog, zone, edits) {
            // somebody has restarted it: what it had only in its memory is gone with it
            Err(error) if restarts < MOST_RESTARTS && host.firewalld()?.life() != before => {
                log::debug!("firewalld was restarted: {error}");
                restarts += 1;
            }
            // it can't read what it has on the disk, and takes no change until it can
            Err(error) if error.to_string().contains("RUNNING_BUT_FAILED") && mend_torn(host, zone)? => {
                log::warn!("the file of the zone {zone} was torn, and is as it was before now: {error}");
            }
            made => return made,
        }
    }
}

fn write_zone(host: &Host, zone: &str, text: &str) -> Result<()> {
    let access = Access { mode: 0o644, uid: None, gid: None };
    host.root.write(&etc_file(zone), text.as_bytes(), access)
}

/// Whether it belongs to one zone at a time.
fn is_bound(element: &Element) -> bool {
    matches!(element, Element::Source(_) | Element::Interface(_))
}

/// What is to be added to a zone, belongs to one zone at a time, and is in the files of others: as it is written there.
fn elsewhere(root: &Root, zone: &str, edits: &[Edit]) -> Result<Vec<(String, Element)>> {
    let added = edits.iter().filter_map(|edit| match edit {
        Edit::Add(element) if is_bound(element) => Some(element),
        _ => None,
    });
    let added: Vec<&Element> = added.collect();
    let mut found = Vec::new();
    if added.is_empty() {
        return Ok(found);
    }
    for other in kept_zones(root)?.into_iter().filter(|other| other != zone) {
        let Some((_, text)) = kept_zone(root, &other)? else { continue };
        // one that can't be read has nothing
        let settings = ZoneFile::parse(text).map(|file| file.settings()).unwrap_or_default();
        found.extend(added.iter().filter_map(|element| Some((other.clone(), settings.find(element)?))));
    }
    Ok(found)
}

/// Whether the file of a zone in `/etc` is no zone's any more. firewalld does not write it at once: when the power goes meanwhile, it is torn.
fn is_torn(host: &Host, zone: &str) -> Result<bool> {
    let path = etc_file(zone);
    Ok(host.root.meta(&path)?.is_some() && ZoneFile::parse(host.root.text(&path)?).is_err())
}

/// Gives back what a zone's torn file had before, and has firewalld read it. Whether it was torn.
fn mend_torn(host: &Host, zone: &str) -> Result<bool> {
    if !is_torn(host, zone)? {
        return Ok(false);
    }
    let path = etc_file(zone);
    // where firewalld puts it before it writes
    let earlier = path.with_extension("xml.old");
    match host.root.read(&earlier)? {
        Some((meta, content)) if ZoneFile::parse(host.root.text(&earlier)?).is_ok() => {
            let access = Access { mode: meta.mode, uid: None, gid: None };
            host.root.write(&path, &content, access)?;
        }
        // the package's own is taken
        _ => host.root.remove(&path)?,
    }
    host.systemd()?.restart("firewalld.service")?;
    host.forget_units();
    Ok(true)
}

/// How often firewalld may be restarted while one zone is edited.
const MOST_RESTARTS: usize = 3;

fn edit_live(host: &Host, catalog: &[Item], zone: &str, edits: &dyn Fn(&Settings) -> Vec<Edit>) -> Result<()> {
    host.settle_firewall()?;
    host.forget_zones();
    let mut known = host.zone(zone)?.ok_or_else(not_running)?;
    if known.runtime.is_none() && known.permanent.is_some() {
        // somebody has put its file there
        host.firewall_files_changed();
        host.settle_firewall()?;
        known = host.zone(zone)?.ok_or_else(not_running)?;
    }
    let Zone { runtime: Some(runtime), permanent: Some(permanent) } = known else {
        return Err(unknown_zone(host, zone)?);
    };
    let edits = Edits { runtime: edits(&runtime), permanent: edits(&permanent) };
    Firewall::check_added(host, catalog, zone, &edits)?;
    let firewalld = host.firewalld()?;
    for (other, element) in elsewhere(&host.root, zone, &edits.permanent)? {
        firewalld.edit_permanent(&other, &Edit::Remove(element))?;
    }
    // what is to come goes in before what is to go: nobody is locked out in between
    let made = edits
        .permanent
        .iter()
        .try_for_each(|edit| firewalld.edit_permanent(zone, edit))
        .and_then(|()| edits.runtime.iter().try_for_each(|edit| firewalld.edit_runtime(zone, edit)));
    host.forget_zones();
    made
}

/// The error for a zone that nobody has.
fn unknown_zone(host: &Host, zone: &str) -> Result<Error> {
    let known = kept_zones(&host.root)?;
    let error = Error::new(code::FIREWALL, format!("firewalld has no zone `{zone}`"));
    Ok(match nearest(zone, known.iter().map(String::as_str)) {
        Some(near) => error.help(format!("did you mean `{near}`? {UNKNOWN_ZONE}")),
        None => error.help(UNKNOWN_ZONE),
    })
}

/// What a zone did not have before a role spoke of it, and is to lose again; or had, and is to have again. As far as nothing in the catalog
/// says otherwise.
#[derive(Debug)]
pub struct Restored {
    pub(super) zone: String,
    pub(super) edit: Edit,
}

impl Restored {
    fn edits(&self, have: &Settings, host: &Host, catalog: &[Item]) -> Result<Vec<Edit>> {
        let mut wanted = Settings::default();
        for other in firewalls(catalog) {
            let is_here = other.zone_name(host)? == self.zone;
            match &self.edit {
                Edit::Add(element) => {
                    let is_barred = is_here && other.bars.contains(element);
                    if is_barred || is_bound(element) && other.listed.find(element).is_some() {
                        return Ok(Vec::new());
                    }
                }
                Edit::Remove(_) if is_here => wanted.merge(&other.listed),
                Edit::Remove(_) => {}
            }
        }
        Ok(match &self.edit {
            Edit::Add(element) => Settings::of(element).without(have).into_iter().map(Edit::Add).collect(),
            Edit::Remove(element) => {
                let unwanted = Settings::of(element).without(&wanted).into_iter();
                unwanted.filter_map(|one| have.find(&one)).map(Edit::Remove).collect()
            }
        })
    }
}

impl Resource for Restored {
    fn can_cut_off(&self) -> bool {
        true
    }

    fn kind(&self) -> &'static str {
        FirewallFields::NAME
    }

    fn key(&self) -> String {
        match &self.edit {
            Edit::Remove(element) => format!("{} {element}", self.zone),
            edit @ Edit::Add(_) => format!("{} {edit}", self.zone),
        }
    }

    fn phase(&self) -> Phase {
        Phase::Firewall
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let host = work.host;
        let edits = |have| self.edits(have, host, work.catalog);
        if !host.is_live() {
            let Some((_, text)) = kept_zone(&host.root, &self.zone)? else { return Ok(None) };
            let settings = parse(host, &etc_file(&self.zone), text)?.settings();
            return Ok(change(&edits(&settings)?));
        }
        // a zone that has gone has nothing
        match host.zone(&self.zone)? {
            Some(Zone { runtime: Some(runtime), permanent: Some(permanent) }) => {
                let edits = Edits { runtime: edits(&runtime)?, permanent: edits(&permanent)? };
                Ok(change_of(edits.words(), edits.all()))
            }
            _ => Ok(None),
        }
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let edits = |have: &Settings| self.edits(have, work.host, work.catalog).unwrap_or_default();
        edit(work.host, work.catalog, &self.zone, &edits)
    }
}

/// What makes firewalld run, if the catalog has it.
const FIREWALLD: [&str; 2] = ["package:firewalld", "unit:firewalld.service"];

fn not_running() -> Error {
    Error::new(code::FIREWALL, "firewalld is not running").help(
        "start it (`systemctl enable --now firewalld`), or add the [[package]] `firewalld` and a [[unit]] \
         `firewalld.service` with `enable = true` to the role",
    )
}

fn firewalls(catalog: &[Item]) -> impl Iterator<Item = &Firewall> {
    catalog.iter().filter_map(|item| item.resource.as_any().downcast_ref::<Firewall>())
}

/// Where firewalld's default zone is named.
const CONF: &str = "/etc/firewalld/firewalld.conf";

/// The name of a zone on this host; of the default one for `None`.
fn zone_name(zone: Option<&str>, host: &Host) -> Result<String> {
    zone.map_or_else(|| default_zone(host), |zone| Ok(zone.to_owned()))
}

/// The zone of everything that belongs to no other.
fn default_zone(host: &Host) -> Result<String> {
    let text = host.root.text(Path::new(CONF))?;
    let set = text.lines().filter_map(|line| line.trim().strip_prefix("DefaultZone=")).next_back();
    Ok(set.map(str::trim).filter(|zone| !zone.is_empty()).unwrap_or("public").to_owned())
}

fn etc_file(zone: &str) -> PathBuf {
    Path::new("/etc/firewalld/zones").join(format!("{zone}.xml"))
}

fn packaged_file(zone: &str) -> PathBuf {
    Path::new("/usr/lib/firewalld/zones").join(format!("{zone}.xml"))
}

/// Where a zone is kept, and its text: the administrator's, else the package's.
pub(crate) fn kept_zone(root: &Root, zone: &str) -> Result<Option<(PathBuf, String)>> {
    for path in [etc_file(zone), packaged_file(zone)] {
        if let Some((_, content)) = root.read(&path)?.filter(|(_, content)| !content.is_empty()) {
            // it is written back
            let text = String::from_utf8(content).map_err(|_| {
                Error::new(code::FIREWALL, format!("{} is not UTF-8 text", root.outside(&path).display()))
            })?;
            return Ok(Some((path, text)));
        }
    }
    Ok(None)
}

/// The names of all zones that are kept.
fn kept_zones(root: &Root) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for dir in ["/etc/firewalld/zones", "/usr/lib/firewalld/zones"] {
        let files = root.names(Path::new(dir))?;
        names.extend(files.iter().filter_map(|file| file.strip_suffix(".xml")).map(str::to_owned));
    }
    Ok(names)
}

/// A zone's file, or else an empty one.
fn zone_file(host: &Host, zone: &str) -> Result<ZoneFile> {
    let (path, text) = match kept_zone(&host.root, zone)? {
        Some(found) => found,
        None => (etc_file(zone), blank(zone, &host.root)?),
    };
    parse(host, &path, text)
}

fn parse(host: &Host, path: &Path, text: String) -> Result<ZoneFile> {
    ZoneFile::parse(text).map_err(|why| {
        Error::new(code::FIREWALL, format!("{} is not the file of a zone", host.root.outside(path).display()))
            .because(why)
            .help("repair it, or remove it so that the package's own is taken")
    })
}

/// The zones that come with firewalld.
pub(crate) const PACKAGED: [&str; 10] =
    ["block", "dmz", "drop", "external", "home", "internal", "nm-shared", "public", "trusted", "work"];

/// The file of a zone that a tree doesn't have, as the firewalld of the tree's system has it. A file in `/etc` hides the package's, so
/// what that holds has to be in it.
fn blank(zone: &str, root: &Root) -> Result<String> {
    let (target, content) = match zone {
        "public" => ("", "  <short>Public</short>\n  <service name=\"ssh\"/>\n  <service name=\"dhcpv6-client\"/>\n"),
        "trusted" => (" target=\"ACCEPT\"", "  <short>Trusted</short>\n"),
        _ if PACKAGED.contains(&zone) => {
            return Err(Error::new(
                code::FIREWALL,
                format!("the tree has no firewalld, so what its zone {zone} holds isn't known"),
            )
            .help("install firewalld into the tree first, or use a zone of your own, `public` or `trusted`"));
        }
        _ => ("", ""),
    };
    let forward = if content.is_empty() || forwards_nothing(&Os::of(root)?) { "" } else { "  <forward/>\n" };
    Ok(format!("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<zone{target}>\n{content}{forward}</zone>\n"))
}

/// Whether a system comes with a firewalld before 1.0, whose zones have no `<forward/>`; one before 0.9 can't read a zone that has it.
fn forwards_nothing(os: &Os) -> bool {
    let first: &[u32] = match (&*os.id, &*os.family) {
        ("ubuntu", _) => &[22],
        ("fedora", _) => &[35],
        ("amzn", _) => &[2023],
        (_, "debian") => &[12],
        (_, "rhel") => &[9],
        (_, "suse") => &[15, 6],
        _ => return false,
    };
    let version: Vec<u32> = os.version.split('.').map_while(|part| part.parse().ok()).collect();
    // what has no version is the newest
    !version.is_empty() && version.as_slice() < first
}

/// What tells whether somebody has touched a zone: what is permanent is in the files.
fn zone_traces(zone: String, is_live: bool) -> Vec<Trace> {
    let paths = [etc_file(&zone), packaged_file(&zone), CONF.into()].map(Trace::Path);
    paths.into_iter().chain(is_live.then_some(Trace::Zone(zone))).collect()
}

/// A part of a zone's file: no [[file]] can have the whole of it too. `owner` tells the parts apart.
fn part_of_file(zone: Option<&str>, owner: &str) -> Option<String> {
    zone.map(|zone| format!("part:{}@path:{}", digest(owner), etc_file(zone).display()))
}

/// A few digits that tell one text from another.
fn digest(text: &str) -> String {
    hex::encode(Sha256::digest(text)).chars().take(6).collect()
}

impl Resource for Firewall {
    fn traces(&self, work: &Work<'_>) -> Result<Option<Vec<Trace>>> {
        let is_live = work.host.is_live();
        if is_live && self.sensitive {
            return Ok(None);
        }
        Ok(Some(zone_traces(self.zone_name(work.host)?, is_live)))
    }

    fn can_cut_off(&self) -> bool {
        true
    }

    fn kind(&self) -> &'static str {
        FirewallFields::NAME
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

    fn phase(&self) -> Phase {
        Phase::Firewall
    }

    /// Nothing but a part of the zone's file: two roles may open the same port.
    fn claims(&self) -> Vec<String> {
        part_of_file(self.zone.as_deref(), &self.key()).into_iter().collect()
    }

    fn footprint(&self, work: &Work<'_>) -> Result<Vec<String>> {
        let zone = self.zone_name(work.host)?;
        let listed = self.listed.elements().into_iter().map(|element| format!("firewall:{zone} {element}"));
        let bars = self.bars.iter().map(|element| format!("firewall:{zone} no {element}"));
        Ok(listed.chain(bars).chain([own::mark(&zone)]).collect())
    }

    fn origin(&self, mark: &str, work: &Work<'_>) -> Result<Origin> {
        let zone = self.zone_name(work.host)?;
        if mark == own::mark(&zone) {
            return own::origin(&zone, work.host);
        }
        let had = match work.host.is_live() {
            false => zone_file(work.host, &zone)?.settings(),
            // a firewall that is yet to come lets in what its package says
            true => work.host.zone(&zone)?.and_then(|zone| zone.permanent).unwrap_or_default(),
        };
        let is_marked = |element: &&Element, no: &str| mark == format!("firewall:{zone} {no}{element}");
        if let Some(element) = self.bars.iter().find(|element| is_marked(element, "no ")) {
            let had = had.find(element);
            return Ok(had.map_or(Origin::Same, |element| Origin::Open { zone, element }));
        }
        let listed = self.listed.elements();
        let Some(element) = listed.iter().find(|element| is_marked(element, "")) else { return Ok(Origin::Same) };
        if had.find(element).is_some() {
            return Ok(Origin::Same);
        }
        let other = elsewhere(&work.host.root, &zone, &[Edit::Add(element.clone())])?.pop();
        Ok(match other {
            Some((zone, element)) => Origin::Open { zone, element },
            None => Origin::Shut { zone, element: element.clone() },
        })
    }

    fn after(&self) -> Vec<String> {
        FIREWALLD.map(str::to_owned).to_vec()
    }

    fn announce(&self, wants: &mut Wants) {
        wants.zones.insert(self.zone.clone().unwrap_or_default());
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        self.compare(work.host, work.catalog)
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        self.make(work.host, work.catalog)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Place;
    use crate::kind::testing::{RoleFiles, build_with, fails};

    fn firewall(toml: &str) -> Firewall {
        let built = build_with::<FirewallFields>(toml, &RoleFiles::default()).unwrap();
        built.last().unwrap().as_any().downcast_ref::<Firewall>().unwrap().clone()
    }

    fn item(toml: &str) -> Item {
        let resource = Box::new(firewall(toml));
        let place = Place { file: "role.toml".into(), text: toml.into(), span: 0..0 };
        Item {
            id: format!("firewall:{}", resource.key()),
            role: "r".into(),
            place,
            after: Vec::new(),
            needs: Vec::new(),
            resource,
            is_secret: false,
            fields: serde_json::Value::Null,
        }
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
        let traces = |role: &RoleFiles| {
            let built = build_with::<FirewallFields>("zone = 'home'\nports = ['1/tcp']", role).unwrap();
            built[0].traces(&work).unwrap()
        };
        let paths =
            ["/etc/firewalld/zones/home.xml", "/usr/lib/firewalld/zones/home.xml", "/etc/firewalld/firewalld.conf"];
        let wanted = paths.map(|path| Trace::Path(path.into())).into_iter().chain([Trace::Zone("home".to_owned())]);
        assert_eq!(traces(&RoleFiles::default()), Some(wanted.collect()));
        assert_eq!(traces(&RoleFiles::default().secret()), None);
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
