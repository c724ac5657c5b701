//! The keys that a host trusts now, and what it must not forget of releases.

use crate::document::Tree;
use crate::engine::prelude::*;
use crate::error::refused;
use crate::store::ENROLL;
use crate::trust::{KeySet, LastSeen, Policy, Signed, TrustState};

/// The keys that a host trusts, and what it remembers.
pub struct HostTrust {
    /// Whose signatures count now.
    pub policy: Policy,
    /// What the host must not forget.
    pub state: TrustState,
    /// The keys that it was enrolled with.
    pub(super) start: KeySet,
    /// The state, when one of its two copies is lost.
    pub(super) to_restore: Option<TrustState>,
    /// Whether this run has adopted a newer key set.
    pub(super) is_rotated: bool,
}

impl HostTrust {
    /// Whether no later key set has withdrawn the release with this serial, signed by the key set with this number.
    pub fn accepts(&self, store: &Store, serial: u64, keys: u64) -> Result<bool> {
        let newest = &self.policy.keys;
        for number in keys.max(self.start.number).saturating_add(1)..=newest.number {
            let last =
                if number == newest.number { newest.last_serial } else { KeySet::kept(store, number)?.last_serial };
            if last.is_some_and(|last| serial > last) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Agent<'_> {
    /// The keys that this host trusts. Refused when its state and its configuration contradict each other.
    pub fn trust(&self) -> Result<HostTrust> {
        let mut trust = self.first_trust(self.config.trust.start()?);
        let Some((known, is_whole)) = TrustState::load(self.store.root(), &self.host.root)? else { return Ok(trust) };
        trust.to_restore = (!is_whole).then(|| known.clone());
        let state = &mut trust.state;
        for (what, enrolled, now) in [("site", &known.site, &state.site), ("host", &known.host, &state.host)] {
            if enrolled != now {
                return Err(refused!(TRUST_STATE, "this host is enrolled as the {what} `{enrolled}`, not as `{now}`")
                    .help(format!("check `{what}` in kpull.toml; {ENROLL}")));
            }
        }
        if known.keys <= state.keys {
            // only local root chose these keys, and may choose others
            state.release = known.release;
            return Ok(trust);
        }
        if known.start != state.start {
            let other = "this host was enrolled with other keys than those in kpull.toml";
            return Err(refused!(TRUST_STATE, "{other}, and now follows key set {}", known.keys)
                .help(format!("restore them, or, to start from other keys, {ENROLL}")));
        }
        trust.policy.keys = KeySet::kept(&self.store, known.keys)?;
        trust.state = known;
        Ok(trust)
    }

    /// The trust of a host that starts from these keys.
    pub fn first_trust(&self, start: KeySet) -> HostTrust {
        let site = self.config.trust.site.clone();
        let (host, keys) = (self.name.clone(), start.number);
        let state = TrustState { site: site.clone(), host, start: start.digest(), keys, release: None };
        HostTrust { policy: Policy { site, keys: start.clone() }, state, start, to_restore: None, is_rotated: false }
    }

    /// Follows the chain of key sets in `tree`, and adopts them.
    pub fn rotate(&self, trust: &mut HostTrust, tree: &dyn Tree, now: Timestamp) -> Result<()> {
        let chain = trust.policy.keys.follow(tree, now, trust.state.release.as_ref())?;
        self.adopt(trust, chain)
    }

    /// Adopts the last of these key sets, which follow the present one. That is final, whatever happens to the release.
    pub fn adopt(&self, trust: &mut HostTrust, chain: Vec<Signed>) -> Result<()> {
        for Signed { set, bytes } in chain {
            self.store.add_key_set(set.number, &bytes)?;
            trust.state.keys = set.number;
            // a release that was seen under this set is none of those before it
            if let Some(last) = set.last_serial
                && let Some(seen) =
                    trust.state.release.as_mut().filter(|seen| seen.serial > last && seen.keys < set.number)
            {
                *seen = LastSeen { serial: last, digest: String::new(), ..seen.clone() };
                // a withdrawn release that this host rolled back from must not hold back the releases after it
                if let Some(stay) = self.store.stay_on()?.filter(|stay| stay.not > last) {
                    self.store.set_stay_on(Some(&StayOn { not: last, ..stay }))?;
                }
            }
            trust.state.save(self.store.root(), &self.host.root)?;
            self.report.event(&Event::Keys(&set));
            trust.policy.keys = set;
            trust.is_rotated = true;
        }
        Ok(())
    }

    /// Records that a release was seen, before anything of it is applied.
    pub fn remember(&self, state: &mut TrustState, seen: LastSeen) -> Result<()> {
        state.release = Some(seen);
        state.save(self.store.root(), &self.host.root)
    }
}
