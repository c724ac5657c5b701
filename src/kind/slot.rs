//! `[[slot]]`: a lock that one host holds at a time. A host acquires it before it interrupts a unit, and releases it when
//! the unit is healthy again.

use crate::host::etcd::Cluster;
use crate::host::fleetlock::FleetLock;
use crate::kind::etcd_key::cluster;
use crate::kind::prelude::*;

/// Fields of `[[slot]]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SlotFields {
    /// Its name, the same on all hosts that share it.
    name: String,
    /// Client URLs of the cluster's members. Set either this, with `ca`, or `fleetlock`.
    #[serde(default)]
    endpoints: Vec<String>,
    /// PEM file with the authority of the members' certificates.
    ca: Option<AbsolutePath>,
    /// PEM file with a client certificate. Default: none.
    client_cert: Option<AbsolutePath>,
    /// PEM file with the key of `client_cert`.
    client_key: Option<AbsolutePath>,
    /// A server of the FleetLock protocol that manages the slots.
    fleetlock: Option<FleetLock>,
    /// In etcd: how long a host keeps the slot if it never releases it. Default: `5m`.
    ttl: Option<HumanDuration>,
    /// How long to wait for the slot. Default: `5m`.
    within: Option<HumanDuration>,
    /// Ids of probes that must pass before kpull releases the slot.
    #[serde(default)]
    until: Vec<String>,
}

impl Fields for SlotFields {
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        build.refuse_if(!is_plain(&self.name), "name", "a name consists of letters, digits, `.`, `_` and `-`")?;
        let ttl = self.ttl.map_or(Duration::from_secs(300), |duration| duration.0);
        // etcd makes shorter ones longer, by its election timeout
        build.refuse_if(ttl < Duration::from_secs(10), "ttl", "it must be at least 10s")?;
        let client = (self.client_cert, self.client_key);
        let at = match (self.fleetlock, &self.ca, self.endpoints.is_empty()) {
            (Some(server), None, true) => {
                server.check().map_err(|why| build.invalid("fleetlock", &why))?;
                At::Server(server)
            }
            (Some(_), ..) => return Err(build.invalid("fleetlock", "with `fleetlock`, remove `endpoints` and `ca`")),
            (None, Some(ca), false) => At::Etcd(cluster(build, &self.endpoints, ca, client)?),
            (None, None, false) => return Err(build.invalid("endpoints", "`endpoints` need `ca`")),
            (None, _, true) => return Err(build.invalid("endpoints", "name at least one, or set `fleetlock`")),
        };
        let within = self.within.map_or(Duration::from_secs(300), |duration| duration.0);
        Ok(vec![Box::new(Slot { at, name: self.name, ttl, within, until: self.until })])
    }
}

/// Where a slot is kept.
#[derive(Clone, Debug)]
pub enum At {
    /// A cluster of etcd.
    Etcd(Cluster),
    /// A server of the FleetLock protocol.
    Server(FleetLock),
}

/// A slot. It changes nothing by itself: [`crate::engine::slot`] acquires and releases it.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Where it is kept.
    pub at: At,
    /// How long a host keeps it that never releases it.
    pub ttl: Duration,
    /// How long to wait for it.
    pub within: Duration,
    /// Ids of probes that must pass before it is released.
    pub until: Vec<String>,
}

impl Resource for Slot {
    fn about(&self) -> About {
        // it is only used for a change
        About { watched: Some(Vec::new()), ..About::new(SlotFields::NAME, &self.name, Phase::Units) }
    }

    fn observe(&self, _: &Work<'_>) -> Result<Option<Change>> {
        Ok(None)
    }

    fn apply(&self, _: &Work<'_>, _: &Change) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::kind::testing::refusal;

    #[test]
    fn a_mistake_is_refused_with_its_field() {
        for (fields, why) in [
            (
                "name = 'a/b'\nendpoints = ['https://a:1']",
                "`name`: a name consists of letters, digits, `.`, `_` and `-`",
            ),
            ("name = 'a'\nendpoints = []", "`endpoints`: name at least one, or set `fleetlock`"),
            ("name = 'a'\nendpoints = ['https://a:1']\nttl = '2s'", "`ttl`: it must be at least 10s"),
        ] {
            assert_eq!(refusal("slot", &format!("{fields}\nca = '/ca'")), why);
        }
        for (fields, why) in [
            ("endpoints = ['https://a:1']", "`endpoints`: `endpoints` need `ca`"),
            (
                "fleetlock = { url = 'http://a' }\nca = '/ca'",
                "`fleetlock`: with `fleetlock`, remove `endpoints` and `ca`",
            ),
            ("fleetlock = { url = 'https://a' }", "`fleetlock`: https needs `ca`"),
            (
                "fleetlock = { url = 'http://a', group = 'a b' }",
                "`fleetlock`: `a b` is not a group: use letters, digits and `.`",
            ),
        ] {
            assert_eq!(refusal("slot", &format!("name = 'a'\n{fields}")), why);
        }
    }
}
