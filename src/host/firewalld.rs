//! firewalld over D-Bus: a zone's settings, now and after the next start, and single edits of both.
//!
//! firewalld is never told to reload: that would drop what other programs have put into the packet filter.

use std::collections::HashMap;

use zbus::{OwnedObjectPath, OwnedVariant};

use crate::error::{Error, Result};
use crate::host::bus::{self, Bus, Object};
use crate::host::zone::{Edit, Element, PortRange, Settings};

const SERVICE: &str = "org.fedoraproject.FirewallD1";
const MAIN: Object<'static> = Object { service: SERVICE, path: "/org/fedoraproject/FirewallD1", interface: SERVICE };
const ZONE: Object<'static> = Object { interface: "org.fedoraproject.FirewallD1.zone", ..MAIN };
const CONFIG: Object<'static> = Object {
    service: SERVICE,
    path: "/org/fedoraproject/FirewallD1/config",
    interface: "org.fedoraproject.FirewallD1.config",
};
const BUS: Object<'static> =
    Object { service: "org.freedesktop.DBus", path: "/org/freedesktop/DBus", interface: "org.freedesktop.DBus" };

/// firewalld's daemon.
pub struct Firewalld {
    bus: Bus,
}

/// A zone's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    /// What holds now.
    pub runtime: Settings,
    /// What will hold after the next start.
    pub permanent: Settings,
}

impl Firewalld {
    /// Talks to the daemon on `bus`.
    pub fn new(bus: Bus) -> Self {
        Self { bus }
    }

    /// A zone's settings: two questions. `None` when firewalld isn't running; it is not started by asking.
    pub fn zone(&self, name: &str) -> Result<Option<Zone>> {
        let Some(runtime) = self.runtime(name)? else { return Ok(None) };
        let permanent: zbus::Result<HashMap<String, OwnedVariant>> =
            self.path(name).and_then(|path| self.bus.call(permanent(&path), "getSettings2", &()));
        match permanent {
            Ok(permanent) => Ok(Some(Zone { runtime, permanent: settings(&permanent) })),
            Err(error) if bus::is_gone(&error) => Ok(None),
            Err(error) => Err(failed("ask for", name, &error)),
        }
    }

    /// What holds in a zone now: one question. `None` as for [`Firewalld::zone`].
    pub fn runtime(&self, name: &str) -> Result<Option<Settings>> {
        match self.bus.call::<_, HashMap<String, OwnedVariant>>(ZONE, "getZoneSettings2", &(name,)) {
            Ok(runtime) => Ok(Some(settings(&runtime))),
            Err(error) if bus::is_gone(&error) => Ok(None),
            Err(error) => Err(failed("ask for", name, &error)),
        }
    }

    /// Which life of the daemon this is: another text after it was restarted, `None` when it isn't running.
    pub fn life(&self) -> Option<String> {
        self.bus.call(BUS, "GetNameOwner", &(SERVICE,)).ok()
    }

    /// The names of all services that the daemon knows.
    pub fn services(&self) -> Result<Vec<String>> {
        self.bus.call(MAIN, "listServices", &()).map_err(|error| failed("ask for the services of", "firewalld", &error))
    }

    /// Makes an edit that holds at once, until the next start.
    pub fn edit_runtime(&self, zone: &str, edit: &Edit) -> Result<()> {
        let forever = 0i32;
        let call = |method: &str, text: &str| self.bus.call::<_, String>(ZONE, method, &(zone, text));
        let made = match edit {
            Edit::Add(Element::Service(name)) => self.bus.call(ZONE, "addService", &(zone, name, forever)),
            Edit::Add(Element::Port(range)) => {
                self.bus.call(ZONE, "addPort", &(zone, range.ports(), &range.protocol, forever))
            }
            Edit::Add(Element::Rule(rule)) => self.bus.call(ZONE, "addRichRule", &(zone, rule, forever)),
            Edit::Add(Element::Masquerade) => self.bus.call(ZONE, "addMasquerade", &(zone, forever)),
            // these belong to one zone at a time: wherever they were, they move
            Edit::Add(Element::Source(source)) => call("changeZoneOfSource", source),
            Edit::Add(Element::Interface(name)) => call("changeZoneOfInterface", name),
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

    /// Makes an edit that holds from the next start on.
    pub fn edit_permanent(&self, zone: &str, edit: &Edit) -> Result<()> {
        match edit {
            Edit::Add(Element::Source(source)) => self.leave("getZoneOfSource", "removeSource", source)?,
            Edit::Add(Element::Interface(name)) => self.leave("getZoneOfInterface", "removeInterface", name)?,
            _ => {}
        }
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
            Element::Source(source) => call("Source", source),
            Element::Interface(name) => call("Interface", name),
        };
        settle(made, zone, edit)
    }

    /// Takes a source or interface out of the zone that it permanently belongs to, if any.
    fn leave(&self, ask: &str, remove: &str, what: &str) -> Result<()> {
        let zone: String =
            self.bus.call(CONFIG, ask, &(what,)).map_err(|error| failed("ask for the zone of", what, &error))?;
        if zone.is_empty() {
            return Ok(());
        }
        let path = self.path(&zone).map_err(|error| failed("ask for", &zone, &error))?;
        self.bus.call(permanent(&path), remove, &(what,)).map_err(|error| failed("change", &zone, &error))
    }

    /// The object of a zone's permanent settings.
    fn path(&self, zone: &str) -> zbus::Result<OwnedObjectPath> {
        self.bus.call(CONFIG, "getZoneByName", &(zone,))
    }
}

fn permanent(path: &OwnedObjectPath) -> Object<'_> {
    Object { service: SERVICE, path: path.as_str(), interface: "org.fedoraproject.FirewallD1.config.zone" }
}

/// The settings in a reply; what is empty may be left out of it.
fn settings(reply: &HashMap<String, OwnedVariant>) -> Settings {
    let texts = |key: &str| {
        let texts = reply.get(key).cloned().and_then(|value| Vec::<String>::try_from(value).ok());
        texts.unwrap_or_default().into_iter().collect()
    };
    let ports = reply.get("ports").cloned().and_then(|value| Vec::<(String, String)>::try_from(value).ok());
    Settings {
        services: texts("services"),
        ports: ports
            .unwrap_or_default()
            .iter()
            .filter_map(|(ports, protocol)| PortRange::parse(ports, protocol))
            .collect(),
        rules: texts("rules_str"),
        masquerade: reply.get("masquerade").and_then(|value| bool::try_from(value).ok()).unwrap_or(false),
        sources: texts("sources"),
        interfaces: texts("interfaces"),
    }
}

/// What somebody else has done in the same moment is done.
fn settle(made: zbus::Result<()>, zone: &str, edit: &Edit) -> Result<()> {
    match made {
        Err(error) if !is_done(&bus::reason(&error)) => Err(refused(zone, edit, &error)),
        _ => Ok(()),
    }
}

fn is_done(reason: &str) -> bool {
    ["ALREADY_ENABLED", "NOT_ENABLED", "ZONE_ALREADY_SET"].iter().any(|code| reason.starts_with(code))
}

/// The error for a zone that firewalld refuses to edit.
fn refused(zone: &str, edit: &Edit, error: &zbus::Error) -> Error {
    let reason = bus::reason(error);
    let message = Error::new(format!("firewalld refuses `{edit}` in the zone {zone}")).because(&reason);
    match reason.split(':').next().unwrap_or_default() {
        "INVALID_SERVICE" => message.help(UNKNOWN_SERVICE),
        "COMMAND_FAILED" => message.help("the kernel's packet filter refused it; `journalctl -u firewalld` says why"),
        "PANIC_MODE" | "NOT_RUNNING" => {
            message.help("firewalld is in panic mode or stopped; look at `firewall-cmd --state`")
        }
        "INVALID_ZONE" => message.help(UNKNOWN_ZONE),
        "ACCESS_DENIED" | "NOT_AUTHORIZED" => message.help("run as root; firewalld's lockdown keeps others out too"),
        _ => message.help("`journalctl -u firewalld` may say more"),
    }
}

/// What to do about a service that firewalld doesn't know.
pub const UNKNOWN_SERVICE: &str = "`firewall-cmd --get-services` lists those it knows; write `ports` instead, or give it \
    the service as a [[file]] in /etc/firewalld/services before it starts";

const UNKNOWN_ZONE: &str = "`firewall-cmd --get-zones` lists those it knows; a zone of your own is a [[file]] \
    in /etc/firewalld/zones, there before firewalld starts";

fn failed(doing: &str, what: &str, error: &zbus::Error) -> Error {
    let reason = bus::reason(error);
    let message = Error::new(format!("can't {doing} {what} in firewalld")).because(&reason);
    if bus::is_unknown_method(error) {
        return message.help("this firewalld is older than 0.9, which kpull can't talk to");
    }
    if reason.starts_with("INVALID_ZONE") {
        message.help(UNKNOWN_ZONE)
    } else {
        message.help("`journalctl -u firewalld` may say more")
    }
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
        ]);
        let settings = settings(&reply);
        assert_eq!(settings.services, ["ssh".to_owned()].into());
        assert_eq!(settings.ports.iter().map(ToString::to_string).collect::<Vec<_>>(), ["1-2/tcp"]);
        assert!(settings.masquerade && settings.rules.is_empty());
    }

    #[test]
    fn what_somebody_else_has_already_done_is_no_failure() {
        assert!(is_done("ALREADY_ENABLED: 'http' already in 'public'"));
        assert!(!is_done("INVALID_SERVICE: http"));
    }
}
