//! `[rollout]` in `site.toml`: which hosts get a new release first, and when the others follow.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Deserialize;

use crate::document::Doc;
use crate::document::fields::HumanDuration;
use crate::error::{Error, Result, error};
use crate::host::fleetlock::FleetLock;
use crate::site::HostVars;

/// `[rollout]`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rollout {
    /// How many hosts of a wave can apply a new release at the same time. Default: 1, or as many as `fleetlock` allows if it is set.
    at_once: Option<Share>,
    /// How many hosts can be unhealthy before no other host applies the release. Default: none.
    pub failures: usize,
    /// How long all hosts of a wave must be healthy before the next wave begins. Default: `0s`.
    soak: Option<HumanDuration>,
    /// A server that must also grant permission, host by host. Default: none.
    pub fleetlock: Option<FleetLock>,
    /// The waves, in order. Hosts that are in none of them are the last wave.
    #[serde(rename = "wave")]
    waves: Vec<WaveFields>,
}

/// `[[rollout.wave]]`: hosts by name and by group. If neither is set, every host.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct WaveFields {
    /// Hosts by name.
    hosts: Vec<String>,
    /// Groups: all their hosts belong to the wave.
    groups: Vec<String>,
    /// How many of those hosts. Default: all.
    size: Option<Share>,
    /// See [`Rollout::at_once`].
    at_once: Option<Share>,
    /// See [`Rollout::soak`].
    soak: Option<HumanDuration>,
}

/// A number of hosts, or a percentage of them, rounded up.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(try_from = "Written")]
pub enum Share {
    /// That many.
    Hosts(usize),
    /// Percent of them.
    Percent(usize),
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a number of hosts, or a percentage like \"25%\"")]
enum Written {
    Number(usize),
    Text(String),
}

impl TryFrom<Written> for Share {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Number(0) => Err("it must be at least one host".to_owned()),
            Written::Number(count) => Ok(Self::Hosts(count)),
            Written::Text(text) => match text.strip_suffix('%').and_then(|number| number.parse().ok()) {
                Some(percent @ 1..=100) => Ok(Self::Percent(percent)),
                _ => Err(format!("`{text}` is not a percentage of hosts; write it like \"25%\", from 1 to 100")),
            },
        }
    }
}

impl Share {
    /// The number of hosts out of `all`.
    pub fn of(self, all: usize) -> usize {
        match self {
            Self::Hosts(count) => count.min(all),
            Self::Percent(percent) => (all * percent).div_ceil(100),
        }
    }
}

/// A wave with its hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wave<'a> {
    /// Its hosts, in their order.
    pub hosts: Vec<&'a str>,
    /// How many of them may update at once.
    pub at_once: usize,
    /// How long they must be healthy before the next wave begins.
    pub soak: jiff::SignedDuration,
}

impl Rollout {
    /// Whether hosts must read the status of others before they update.
    pub fn needs_status(&self, hosts: &BTreeMap<String, HostVars>) -> bool {
        self.waves(hosts).first().is_none_or(|wave| wave.at_once != hosts.len())
    }

    /// The waves, without empty ones. Every host is in exactly one.
    pub fn waves<'a>(&self, hosts: &'a BTreeMap<String, HostVars>) -> Vec<Wave<'a>> {
        let rest = WaveFields::default();
        let mut taken = BTreeSet::new();
        let mut waves = Vec::new();
        for fields in self.waves.iter().chain([&rest]) {
            let named: Vec<&str> =
                hosts.iter().filter(|(name, host)| fields.means(name, host)).map(|(name, _)| name.as_str()).collect();
            let size = fields.size.map_or(named.len(), |size| size.of(named.len()));
            let own: Vec<&str> = named.into_iter().filter(|name| !taken.contains(name)).take(size).collect();
            if own.is_empty() {
                continue;
            }
            taken.extend(own.iter().copied());
            let one = if self.fleetlock.is_some() { Share::Percent(100) } else { Share::Hosts(1) };
            let at_once = fields.at_once.or(self.at_once).unwrap_or(one).of(own.len());
            let soak = fields.soak.or(self.soak).and_then(|soak| soak.0.try_into().ok()).unwrap_or_default();
            waves.push(Wave { hosts: own, at_once, soak });
        }
        waves
    }

    /// An error for each unknown host or group, and for an invalid address.
    pub fn check<'a>(
        &self,
        doc: &Doc,
        hosts: &'a BTreeMap<String, HostVars>,
        groups: impl Iterator<Item = &'a String> + Clone,
    ) -> Vec<Error> {
        let mut errors = Vec::new();
        for (index, wave) in self.waves.iter().enumerate() {
            let path = |list: &str, at: usize| {
                ["rollout", "wave", &index.to_string(), list, &at.to_string()].map(str::to_owned)
            };
            for (at, host) in wave.hosts.iter().enumerate().filter(|(_, host)| !hosts.contains_key(*host)) {
                errors.push(super::unknown_name("host", host, hosts.keys(), doc, &path("hosts", at)));
            }
            for (at, group) in wave.groups.iter().enumerate() {
                if !groups.clone().any(|known| known == group) {
                    errors.push(super::unknown_name("group", group, groups.clone(), doc, &path("groups", at)));
                }
            }
        }
        if let Some(Err(why)) = self.fleetlock.as_ref().map(FleetLock::check) {
            let place = doc.place(&["rollout".to_owned(), "fleetlock".to_owned()]);
            errors.push(error!(ROLLOUT, "`fleetlock`: {why}").at(place, "this server"));
        }
        errors
    }
}

impl WaveFields {
    fn means(&self, name: &str, host: &HostVars) -> bool {
        let is_everybody = self.hosts.is_empty() && self.groups.is_empty();
        is_everybody
            || self.hosts.iter().any(|host| host == name)
            || host.groups.iter().any(|group| self.groups.contains(group))
    }
}

#[cfg(test)]
mod tests {
    use crate::document::Files;
    use crate::site::Site;

    fn site(rollout: &str) -> crate::Result<Site> {
        let text = format!("name = \"x\"\n[groups.web]\n[groups.db]\n{rollout}");
        let mut files = Files::default();
        files.extend([("site.toml".to_owned(), text.into_bytes().into())]);
        for (name, group) in [("a1", "web"), ("a2", "web"), ("a3", "web"), ("a4", "web"), ("b1", "db"), ("c1", "")] {
            let groups = if group.is_empty() { String::new() } else { format!("{group:?}") };
            let text = format!("address = \"10.0.0.1\"\ngroups = [{groups}]\n");
            files.extend([(format!("host_vars/{name}.toml"), text.into_bytes().into())]);
        }
        Site::load(files)
    }

    fn waves(rollout: &str) -> Vec<(String, usize, i64)> {
        let site = site(rollout).unwrap();
        let waves = site.rollout.as_ref().unwrap().waves(&site.hosts);
        waves.iter().map(|wave| (wave.hosts.join(" "), wave.at_once, wave.soak.as_secs())).collect()
    }

    fn refusal(rollout: &str) -> String {
        site(rollout).unwrap_err().to_string()
    }

    #[test]
    fn every_host_is_in_one_wave_and_the_rest_in_the_last() {
        assert_eq!(waves("[rollout]\n"), [("a1 a2 a3 a4 b1 c1".to_owned(), 1, 0)]);
        let named = "[rollout]\nsoak = \"10m\"\nat_once = \"50%\"\n[[rollout.wave]]\nhosts = [\"a2\"]\n\
            [[rollout.wave]]\ngroups = [\"web\"]\nat_once = 3\nsoak = \"1h\"\n";
        let expected = [("a2".to_owned(), 1, 600), ("a1 a3 a4".to_owned(), 3, 3600), ("b1 c1".to_owned(), 1, 600)];
        assert_eq!(waves(named), expected);
    }

    #[test]
    fn a_share_is_rounded_up_and_not_of_those_that_were_there_before() {
        let shares = "[rollout]\n[[rollout.wave]]\nsize = \"1%\"\n[[rollout.wave]]\ngroups = [\"web\"]\nsize = 2\n\
            [[rollout.wave]]\nsize = \"50%\"\n[[rollout.wave]]\nhosts = [\"a1\"]\n";
        let names: Vec<String> = waves(shares).into_iter().map(|(names, ..)| names).collect();
        assert_eq!(names, ["a1", "a2 a3", "a4 b1 c1"]);
    }

    #[test]
    fn an_error_has_its_place() {
        for (text, why) in [
            ("[rollout]\n[[rollout.wave]]\nhosts = [\"a9\"]\n", "there is no host `a9`"),
            ("[rollout]\n[[rollout.wave]]\ngroups = [\"wep\"]\n", "there is no group `wep`"),
            ("[rollout]\nat_once = 0\n", "at least one host"),
            ("[rollout]\nat_once = \"0%\"\n", "`0%` is not a percentage of hosts"),
            ("[rollout]\nat_once = true\n", "a number of hosts, or a percentage"),
            ("[rollout]\nsoek = \"1m\"\n", "soek"),
            ("[rollout]\nfleetlock = { url = \"ftp://x\" }\n", "is not an http:// or https:// address"),
            ("[rollout]\nfleetlock = { url = \"https://x\" }\n", "`fleetlock`: https needs `ca`"),
            ("[rollout]\nfleetlock = { url = \"http://x\", group = \"a b\" }\n", "`a b` is not a group"),
        ] {
            let reported = refusal(text);
            assert!(reported.contains(why), "{text}: {reported}");
        }
    }
}
