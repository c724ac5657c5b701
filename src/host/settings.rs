//! Settings of the system that systemd's services change: host name, time zone, locale, console keymap.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Result, error};
use crate::host::bus::{self, Bus, Object};
use crate::host::root::{FileType, Root};
use crate::text::display_as_serialized;

/// A setting of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Setting {
    /// The static host name.
    Hostname,
    /// The time zone.
    Timezone,
    /// `LANG` of the system.
    Locale,
    /// `KEYMAP` of the console.
    Keymap,
}

const LOCALTIME: &str = "/etc/localtime";
const LOCALE: &str = "/etc/locale.conf";
/// Where Debian has it up to release 12; later, it is a link to the other.
const DEBIAN_LOCALE: &str = "/etc/default/locale";

display_as_serialized!(Setting);

impl Setting {
    /// Where it is stored.
    pub fn path(self, root: &Root) -> Result<&'static str> {
        Ok(match self {
            Self::Hostname => "/etc/hostname",
            Self::Timezone => LOCALTIME,
            Self::Keymap => "/etc/vconsole.conf",
            Self::Locale => {
                let is_there = |path: &str| root.meta(Path::new(path)).map(|meta| meta.is_some());
                let old = root.meta(Path::new(DEBIAN_LOCALE))?;
                let is_old = match old {
                    Some(meta) => meta.what == FileType::File,
                    None => !is_there(LOCALE)? && is_there("/var/lib/dpkg/status")?,
                };
                if is_old { DEBIAN_LOCALE } else { LOCALE }
            }
        })
    }

    /// The variable in its file, if that has variables.
    fn variable(self) -> Option<&'static str> {
        match self {
            Self::Locale => Some("LANG"),
            Self::Keymap => Some("KEYMAP"),
            Self::Hostname | Self::Timezone => None,
        }
    }

    /// Its value for the next boot, if it is set.
    pub fn read(self, root: &Root) -> Result<Option<String>> {
        let path = Path::new(self.path(root)?);
        if self == Self::Timezone {
            let target = root.link(path)?;
            let zone = target.as_deref().and_then(Path::to_str).and_then(|target| target.split_once("zoneinfo/"));
            return Ok(zone.map(|(_, zone)| zone.to_owned()));
        }
        let text = root.text(path)?;
        let value = match self.variable() {
            Some(name) => text.lines().rev().find_map(|line| value_of(line, name)),
            None => text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#')),
        };
        Ok(value.map(str::to_owned).filter(|value| !value.is_empty()))
    }

    /// The content of its file with this value.
    pub fn with(self, content: &[u8], value: Option<&str>) -> Vec<u8> {
        let Some(name) = self.variable() else {
            return value.map(|value| format!("{value}\n")).unwrap_or_default().into();
        };
        let is_other = |line: &&[u8]| !std::str::from_utf8(line).is_ok_and(|line| value_of(line, name).is_some());
        let mut new = content.split_inclusive(|byte| *byte == b'\n').filter(is_other).collect::<Vec<_>>().concat();
        if new.last().is_some_and(|last| *last != b'\n') {
            new.push(b'\n');
        }
        new.extend(value.map(|value| format!("{name}={value}\n")).unwrap_or_default().into_bytes());
        new
    }

    /// Changes it with the service of systemd that has it, which writes the file and notifies others. Returns why that can't be done, if
    /// the service isn't there.
    pub(super) fn change(self, bus: &Bus, root: &Root, value: &str) -> Result<Option<String>> {
        let done: zbus::Result<()> = match self {
            Self::Hostname => {
                let named = bus.call_started(HOSTNAMED, "SetStaticHostname", &(value, false));
                named.and_then(|()| bus.call_started(HOSTNAMED, "SetHostname", &(value, false)))
            }
            Self::Timezone => bus.call_started(TIMEDATED, "SetTimezone", &(value, false)),
            Self::Locale => {
                // what is not in the list is unset
                let content = root.text(Path::new(self.path(root)?))?;
                let others = content.lines().filter(|line| line.starts_with("LC_") || line.starts_with("LANGUAGE="));
                let mut list = vec![format!("LANG={value}")];
                list.extend(others.map(|line| line.replace('"', "")));
                bus.call_started(LOCALED, "SetLocale", &(list, false))
            }
            Self::Keymap => bus.call_started(LOCALED, "SetVConsoleKeyboard", &(value, "", false, false)),
        };
        match done {
            Ok(()) => Ok(None),
            Err(error) if bus::is_invalid(&error) => {
                let error = error!(OTHER, "systemd refuses the {self} `{value}`").because(bus::reason(&error));
                Err(match self {
                    Self::Locale => error.help("generate the locale first: add it to /etc/locale.gen and run `locale-gen`, or install the package of the language"),
                    _ => error,
                })
            }
            Err(error) => Ok(Some(bus::reason(&error))),
        }
    }
}

const HOSTNAMED: Object<'static> = Object::of("org.freedesktop.hostname1", "/org/freedesktop/hostname1");
const TIMEDATED: Object<'static> = Object::of("org.freedesktop.timedate1", "/org/freedesktop/timedate1");
const LOCALED: Object<'static> = Object::of("org.freedesktop.locale1", "/org/freedesktop/locale1");

/// The value of a variable, if this line sets it.
fn value_of<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let value = line.trim().strip_prefix(name)?.strip_prefix('=')?.trim();
    Some(value.trim_matches(['"', '\'']))
}
