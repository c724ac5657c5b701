//! firewalld over D-Bus: runtime and permanent settings of zones, edits of both, and sets of addresses.
//!
//! This supports every firewalld since 0.4: those without methods for named settings have older ones with tuples.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use sha2::{Digest, Sha256};
use zbus::{OwnedObjectPath, OwnedVariant, Variant};

use crate::error::{Error, Result, error};
use crate::host::address;
use crate::host::bus::{self, Bus, Object, Properties, Sent};
use crate::host::firewalld_age::Age;
use crate::host::port_range::PortRange;
use crate::host::rich_rule::newest_word;
use crate::host::zone::{Edit, Element, Settings, Target};

const SERVICE: &str = "org.fedoraproject.FirewallD1";
const MAIN: Object<'static> = Object::of(SERVICE, "/org/fedoraproject/FirewallD1");
const ZONE: Object<'static> = Object { interface: "org.fedoraproject.FirewallD1.zone", ..MAIN };
const IPSET: Object<'static> = Object { interface: "org.fedoraproject.FirewallD1.ipset", ..MAIN };
const CONFIG: Object<'static> =
    Object { path: "/org/fedoraproject/FirewallD1/config", interface: "org.fedoraproject.FirewallD1.config", ..MAIN };
const BUS: Object<'static> = Object::of("org.freedesktop.DBus", "/org/freedesktop/DBus");

/// firewalld's daemon.
pub struct Firewalld {
    bus: Bus,
    /// Whether the last query of a zone showed that it is older than 0.9.
    is_old: Cell<bool>,
}

/// A zone's settings; `None` if firewalld has no such zone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    /// Those in effect now.
    pub runtime: Option<Settings>,
    /// Those in effect after the next start.
    pub permanent: Option<Settings>,
}

/// The runtime state of a set of addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpSet {
    /// The type of its entries: `hash:net`.
    pub set_type: String,
    /// Its options: `family`, `maxelem`, …
    pub options: BTreeMap<String, String>,
    /// Its entries, as they are written.
    pub entries: BTreeSet<String>,
}

impl IpSet {
    /// SHA-256 of the whole set, in hex.
    pub fn digest(&self) -> String {
        hex::encode(Sha256::digest(format!("{self:?}")))
    }
}

/// The answer of firewalld about something by its name.
#[derive(Debug)]
pub enum Answer<T> {
    /// firewalld isn't running. A query does not start it.
    Away,
    /// firewalld has nothing of this name.
    Unknown,
    /// What firewalld has.
    Known(T),
}

impl<T> Answer<T> {
    /// What firewalld has, if anything.
    pub fn known(self) -> Option<T> {
        match self {
            Self::Known(known) => Some(known),
            Self::Away | Self::Unknown => None,
        }
    }

    /// `unknown` is firewalld's error code for an unknown name.
    fn of(reply: zbus::Result<T>, unknown: &str, name: &str) -> Result<Self> {
        match reply {
            Ok(known) => Ok(Self::Known(known)),
            Err(error) if bus::has_left(&error) => Ok(Self::Away),
            Err(error) if bus::reason(&error).starts_with(unknown) => Ok(Self::Unknown),
            Err(error) => Err(failed("ask for", name, &error)),
        }
    }
}

impl Firewalld {
    /// A client of the daemon on `bus`.
    pub fn new(bus: Bus) -> Self {
        Self { bus, is_old: Cell::new(false) }
    }

    /// A zone's settings, by two calls. `None` if firewalld isn't running.
    pub fn zone(&self, name: &str) -> Result<Option<Zone>> {
        let runtime = match self.runtime(name)? {
            Answer::Away => return Ok(None),
            answer => answer.known(),
        };
        let permanent = self.path(name).and_then(|path| self.settings(permanent(&path), "getSettings", &()));
        Ok(match Answer::of(permanent, "INVALID_ZONE", name)? {
            Answer::Away => None,
            answer => Some(Zone { runtime, permanent: answer.known() }),
        })
    }

    /// The runtime settings of a zone, by one call.
    pub fn runtime(&self, name: &str) -> Result<Answer<Settings>> {
        Answer::of(self.settings(ZONE, "getZoneSettings", &(name,)), "INVALID_ZONE", name)
    }

    /// Gets settings by name, or as a tuple from a firewalld before 0.9.
    fn settings<B: Sent>(&self, object: Object<'_>, method: &str, arguments: &B) -> zbus::Result<Settings> {
        let reply = self.bus.call::<_, Properties>(object, &format!("{method}2"), arguments);
        self.is_old.set(reply.as_ref().is_err_and(bus::is_unknown_method));
        match reply {
            Err(error) if bus::is_unknown_method(&error) => {
                // the older method for runtime settings is in another interface
                let object = if object.interface == ZONE.interface { MAIN } else { object };
                self.bus.call::<_, OldSettings>(object, method, arguments).map(settings_of_old)
            }
            reply => reply.map(|reply| settings(&reply)),
        }
    }

    /// An error if firewalld is too old for an element of a zone, before anything is changed.
    pub fn check(&self, zone: &str, element: &Element) -> Result<()> {
        match element {
            Element::Forward if self.is_old.get() => Err(no_forward(zone)),
            Element::Rule(rule) if newest_word(rule).is_some() => {
                match self.bus.call::<_, bool>(ZONE, "queryRichRule", &(zone, rule)) {
                    Err(error) if bus::reason(&error).starts_with("INVALID_RULE") => {
                        Err(refused(zone, &Edit::Add(element.clone()), &error))
                    }
                    // other problems are reported when the rule is added
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// An error if the running daemon is older than `first`, the version that introduced `what`.
    pub fn require(&self, what: &str, first: &str) -> Result<()> {
        let interface = "org.freedesktop.DBus.Properties";
        let version = self.bus.call::<_, OwnedVariant>(Object { interface, ..MAIN }, "Get", &(SERVICE, "version"));
        // one that isn't running may be updated before it reads its files
        let Some(version) = version.ok().and_then(|version| String::try_from(version).ok()) else { return Ok(()) };
        Age::Is(version).check(what, first)
    }

    /// The names of all zones at runtime.
    pub fn zones(&self) -> Result<Vec<String>> {
        self.bus.call(ZONE, "getZones", &()).map_err(|error| failed("ask for the zones of", "firewalld", &error))
    }

    /// The runtime state of a set of addresses.
    pub fn ipset(&self, name: &str) -> Result<Answer<IpSet>> {
        type Reply = (String, String, String, String, BTreeMap<String, String>, Vec<String>);
        let reply = self.bus.call::<_, Reply>(IPSET, "getIPSetSettings", &(name,));
        let set = |(_, _, _, set_type, options, entries): Reply| {
            let entries = entries.into_iter().collect();
            IpSet { set_type, options, entries }
        };
        Answer::of(reply.map(set), "INVALID_IPSET", name)
    }

    /// Adds an entry to a set, or removes it, until the next start.
    pub fn edit_ipset(&self, name: &str, entry: &str, add: bool) -> Result<()> {
        let method = if add { "addEntry" } else { "removeEntry" };
        match self.bus.call::<_, ()>(IPSET, method, &(name, entry)) {
            Err(error) if !is_done(&bus::reason(&error)) => Err(failed("change the ipset", name, &error)),
            _ => Ok(()),
        }
    }

    /// Makes firewalld reload all its files, which is the only way to make a new zone, service or set known. This discards runtime
    /// settings that others have added (a VPN, containers, a test by hand), so they are restored, except in the zones in `rewritten`,
    /// whose files are complete.
    pub fn reload(&self, rewritten: &BTreeSet<String>) -> Result<()> {
        let mut before = Vec::new();
        for name in self.zones()? {
            if let Some(Zone { runtime: Some(runtime), permanent }) = self.zone(&name)? {
                before.push((name, runtime.without(&permanent.unwrap_or_default())));
            }
        }
        self.bus.call::<_, ()>(MAIN, "reload", &()).map_err(|error| {
            failed("reload", "files", &error).help("`firewall-cmd --check-config` shows which file is wrong")
        })?;
        let mut after: BTreeMap<String, Settings> = BTreeMap::new();
        for name in self.zones()? {
            if let Some(runtime) = self.runtime(&name)?.known() {
                after.insert(name, runtime);
            }
        }
        for (name, elements) in before.iter().filter(|(name, _)| after.contains_key(name) && !rewritten.contains(name))
        {
            for element in elements {
                // these belong to one zone at a time, which may be another one now
                let is_bound = matches!(element, Element::Source(_) | Element::Interface(_));
                let is_elsewhere = is_bound && after.values().any(|zone| zone.find(element).is_some());
                if !is_elsewhere && let Err(error) = self.edit_runtime(name, &Edit::Add(element.clone())) {
                    log::warn!(
                        "{element} was in the zone {name} until firewalld reloaded its files, and can't be restored: {error}"
                    );
                }
            }
        }
        Ok(())
    }

    /// A text that identifies this instance of the daemon, and changes when it is restarted; `None` if it isn't running.
    pub fn life(&self) -> Option<String> {
        self.bus.call(BUS, "GetNameOwner", &(SERVICE,)).ok()
    }

    /// The names of all known services.
    pub fn services(&self) -> Result<Vec<String>> {
        self.bus.call(MAIN, "listServices", &()).map_err(|error| failed("ask for the services of", "firewalld", &error))
    }

    /// Makes an edit that is in effect at once, until the next start.
    pub fn edit_runtime(&self, zone: &str, edit: &Edit) -> Result<()> {
        let forever = 0i32;
        let add = |what: &str, text: &str| self.bus.call(ZONE, &format!("add{what}"), &(zone, text, forever));
        let call = |method: &str, text: &str| self.bus.call::<_, String>(ZONE, method, &(zone, text));
        let made = match edit {
            Edit::Add(Element::Service(name)) => add("Service", name),
            Edit::Add(Element::Rule(rule)) => add("RichRule", rule),
            Edit::Add(Element::Port(range)) => {
                self.bus.call(ZONE, "addPort", &(zone, range.ports(), &range.protocol, forever))
            }
            Edit::Add(Element::Masquerade) => self.bus.call(ZONE, "addMasquerade", &(zone, forever)),
            // these belong to one zone at a time, so they are moved
            Edit::Add(Element::Source(source)) => {
                self.drop_other_spellings(source).and_then(|()| call("changeZoneOfSource", source))
            }
            Edit::Add(Element::Interface(name)) => call("changeZoneOfInterface", name),
            Edit::Add(Element::Forward) | Edit::Remove(Element::Forward) => {
                let settings = HashMap::from([("forward", Variant::from(matches!(edit, Edit::Add(_))))]);
                self.bus.call::<_, ()>(ZONE, "setZoneSettings2", &(zone, settings)).map(|()| String::new())
            }
            Edit::Remove(Element::Port(range)) => {
                self.bus.call(ZONE, "removePort", &(zone, range.ports(), &range.protocol))
            }
            Edit::Remove(Element::Masquerade) => self.bus.call(ZONE, "removeMasquerade", &(zone,)),
            Edit::Remove(Element::Service(name)) => call("removeService", name),
            Edit::Remove(Element::Rule(rule)) => call("removeRichRule", rule),
            Edit::Remove(Element::Source(source)) => call("removeSource", source),
            Edit::Remove(Element::Interface(name)) => call("removeInterface", name),
        };
        settle(made.map(|_| ()), zone, edit)
    }

    /// Removes other spellings of a source from all zones: firewalld compares texts, and would have it twice.
    fn drop_other_spellings(&self, source: &str) -> zbus::Result<()> {
        let active: HashMap<String, HashMap<String, Vec<String>>> = self.bus.call(ZONE, "getActiveZones", &())?;
        for (zone, bound) in &active {
            for other in bound.get("sources").into_iter().flatten() {
                if other != source && address::normal(other) == address::normal(source) {
                    self.bus.call::<_, String>(ZONE, "removeSource", &(zone, other))?;
                }
            }
        }
        Ok(())
    }

    /// Makes an edit that is in effect from the next start on. What belongs to one zone at a time has to be removed from the other first.
    pub fn edit_permanent(&self, zone: &str, edit: &Edit) -> Result<()> {
        let path = self.path(zone).map_err(|error| failed("ask for", zone, &error))?;
        let object = permanent(&path);
        let (verb, element) = match edit {
            Edit::Add(element) => ("add", element),
            Edit::Remove(element) => ("remove", element),
        };
        let call = |what: &str, text: &str| self.bus.call(object, &format!("{verb}{what}"), &(text,));
        let made = match element {
            Element::Service(name) => call("Service", name),
            Element::Port(range) => self.bus.call(object, &format!("{verb}Port"), &(range.ports(), &range.protocol)),
            Element::Rule(rule) => call("RichRule", rule),
            Element::Masquerade => self.bus.call(object, &format!("{verb}Masquerade"), &()),
            Element::Forward => {
                let settings = HashMap::from([("forward", Variant::from(verb == "add"))]);
                self.bus.call(object, "update2", &(settings,))
            }
            Element::Source(source) => call("Source", source),
            Element::Interface(name) => call("Interface", name),
        };
        settle(made, zone, edit)
    }

    /// The object path of a zone's permanent settings.
    fn path(&self, zone: &str) -> zbus::Result<OwnedObjectPath> {
        self.bus.call(CONFIG, "getZoneByName", &(zone,))
    }
}

fn permanent(path: &OwnedObjectPath) -> Object<'_> {
    Object { service: SERVICE, path: path.as_str(), interface: "org.fedoraproject.FirewallD1.config.zone" }
}

/// The settings in a reply, which may omit what is empty.
fn settings(reply: &Properties) -> Settings {
    let named = ["services", "rules_str", "sources", "interfaces"].map(|key| bus::get(reply, key));
    let ports: Vec<(String, String)> = bus::get(reply, "ports");
    let settings = settings_of(named, &ports, bus::get(reply, "masquerade"), bus::get(reply, "forward"));
    Settings { target: Target::parse(&bus::get::<String>(reply, "target")), ..settings }
}

/// A zone's settings before firewalld 0.9: version, short, description, (nothing), target, services, ports, ICMP blocks, masquerade,
/// forward ports, interfaces, sources, rich rules, protocols, source ports, ICMP block inversion.
type OldSettings =
    (String, String, String, bool, String, Texts, Pairs, Texts, bool, Quads, Texts, Texts, Texts, Texts, Pairs, bool);
type Texts = Vec<String>;
type Pairs = Vec<(String, String)>;
type Quads = Vec<(String, String, String, String)>;

fn settings_of_old(reply: OldSettings) -> Settings {
    let (_, _, _, _, target, services, ports, _, masquerade, _, interfaces, sources, rules, ..) = reply;
    let settings = settings_of([services, rules, sources, interfaces], &ports, masquerade, false);
    Settings { target: Target::parse(&target), ..settings }
}

/// Settings from services, rules, sources and interfaces, ports, masquerading and forwarding.
fn settings_of(named: [Vec<String>; 4], ports: &[(String, String)], masquerade: bool, forward: bool) -> Settings {
    const KINDS: [fn(String) -> Element; 4] = [Element::Service, Element::Rule, Element::Source, Element::Interface];
    let named = KINDS.into_iter().zip(named).flat_map(|(kind, names)| names.into_iter().map(kind));
    let ports = ports.iter().filter_map(|(ports, protocol)| PortRange::parse(ports, protocol)).map(Element::Port);
    let flags = [masquerade.then_some(Element::Masquerade), forward.then_some(Element::Forward)];
    named.chain(ports).chain(flags.into_iter().flatten()).collect()
}

/// It is no error if another program has made the same edit at the same moment.
fn settle(made: zbus::Result<()>, zone: &str, edit: &Edit) -> Result<()> {
    match made {
        Err(error) if !is_done(&bus::reason(&error)) => Err(refused(zone, edit, &error)),
        _ => Ok(()),
    }
}

fn is_done(reason: &str) -> bool {
    ["ALREADY_ENABLED", "NOT_ENABLED", "ZONE_ALREADY_SET"].iter().any(|code| reason.starts_with(code))
}

/// The error for an edit that firewalld refuses.
fn refused(zone: &str, edit: &Edit, error: &zbus::Error) -> Error {
    if bus::is_unknown_method(error) {
        return no_forward(zone);
    }
    let reason = bus::reason(error);
    let message = error!(FIREWALL, "firewalld refuses `{edit}` in the zone {zone}").because(&reason);
    let word = match edit {
        Edit::Add(Element::Rule(rule)) => newest_word(rule),
        _ => None,
    };
    match reason.split(':').next().unwrap_or_default() {
        "INVALID_RULE" if let Some((word, first)) = word => message.help(format!(
            "`{word}` needs firewalld {first} or newer, and `firewall-cmd --version` shows the version: omit the rule on \
             this host, for example with `when`"
        )),
        "INVALID_SERVICE" => message.help(UNKNOWN_SERVICE),
        "COMMAND_FAILED" => message.help("the kernel's packet filter refused it; `journalctl -u firewalld` shows why"),
        "PANIC_MODE" | "NOT_RUNNING" => {
            message.help("firewalld is in panic mode or stopped: check `firewall-cmd --state`")
        }
        "INVALID_ZONE" => message.help(UNKNOWN_ZONE),
        "ACCESS_DENIED" | "NOT_AUTHORIZED" => message.help("run as root; firewalld's lockdown may also deny this"),
        _ => message.help(MORE),
    }
}

/// The error for `forward` with an older firewalld: all others have the methods that set it.
fn no_forward(zone: &str) -> Error {
    error!(FIREWALL, "firewalld does not support `forward`, which the role sets for the zone {zone}")
        .because("it is older than 0.9")
        .help("omit `forward` on this host, for example with `when`")
}

/// Where to find more. If a policy denies the answer, there is no answer at all.
const MORE: &str =
    "`journalctl -u firewalld` may have more; if SELinux is on, `ausearch -m USER_AVC -ts recent` shows what it denied";

/// Advice about an unknown service.
pub const UNKNOWN_SERVICE: &str =
    "`firewall-cmd --get-services` lists the known ones; use `ports` instead, or define it in `define_services`";

/// Advice about an unknown zone.
pub const UNKNOWN_ZONE: &str = "`firewall-cmd --get-zones` lists the known ones; a [[firewall]] with `target = \"default\"`, \
    `sources` or `interfaces` creates a zone";

fn failed(doing: &str, what: &str, error: &zbus::Error) -> Error {
    let reason = bus::reason(error);
    let message = error!(FIREWALL, "can't {doing} {what} in firewalld").because(&reason);
    if bus::is_unknown_method(error) {
        return message.help("this firewalld is older than 0.4, which kpull does not support");
    }
    if reason.starts_with("INVALID_ZONE") { message.help(UNKNOWN_ZONE) } else { message.help(MORE) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_without_what_is_empty_is_read() {
        let reply = HashMap::from([
            ("services".to_owned(), OwnedVariant::try_from(zbus::Variant::new(vec!["ssh"])).unwrap()),
            ("ports".to_owned(), OwnedVariant::try_from(zbus::Variant::new(vec![("1-2", "tcp")])).unwrap()),
            ("masquerade".to_owned(), OwnedVariant::from(true)),
            ("target".to_owned(), OwnedVariant::try_from(zbus::Variant::new("%%REJECT%%")).unwrap()),
        ]);
        let settings = settings(&reply);
        let elements: Vec<_> = settings.elements().iter().map(ToString::to_string).collect();
        assert_eq!(elements, ["service ssh", "port 1-2/tcp", "masquerade"]);
        assert_eq!(settings.target, Target::Reject);
    }

    #[test]
    fn what_another_program_has_already_done_is_no_failure() {
        assert!(is_done("ALREADY_ENABLED: 'http' already in 'public'"));
        assert!(!is_done("INVALID_SERVICE: http"));
    }
}
