//! The state of a unit before a role decided about it, and how it is restored.

use super::{ActiveState, Unit, UnitStatus};
use crate::host::unit_files::{self, Found, Own};
use crate::kind::prelude::*;

/// The recorded state of a unit; `None` for what roles have not changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriorUnit {
    /// Whether it was enabled.
    pub enabled: Option<bool>,
    /// Whether it ran.
    pub running: Option<bool>,
    /// Whether it was masked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masked: Option<bool>,
    /// Whether it keeps running when no role has it any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keeps_running: bool,
}

impl PriorUnit {
    /// This state, completed by another.
    pub fn or(self, other: Self) -> Self {
        Self {
            enabled: self.enabled.or(other.enabled),
            running: self.running.or(other.running),
            masked: self.masked.or(other.masked),
            keeps_running: other.keeps_running,
        }
    }
}

impl Unit {
    /// Restores the prior state of a unit. A unit that ran is restarted, since its files are restored.
    pub(in crate::kind) fn restored(name: &str, was: PriorUnit) -> Self {
        let state = match was.running {
            Some(true) => ActiveState::Running,
            Some(false) if !was.keeps_running => ActiveState::Stopped,
            _ => ActiveState::Any,
        };
        let (enable, mask) = (was.enabled, was.masked);
        Self { name: name.to_owned(), enable, state, mask, is_restored: true, ..Self::default() }
    }

    /// Its current state, as far as the role decides about it.
    pub(super) fn prior_unit(&self, work: &Work<'_>) -> Result<PriorUnit> {
        let host = work.host;
        let found = unit_files::find(&host.root, &self.name, &Own::default())?;
        // a unit that kpull creates neither ran nor was enabled
        let is_ours = self.own.text.is_some() || self.made_from.is_some();
        let is_new = matches!(found, Found::Missing) && is_ours && !unit_files::is_generated(&host.root, &self.name)?;
        let is_enabled = || -> Result<bool> {
            let names = match &found {
                Found::File(file) => vec![&*self.name, &file.name],
                Found::Masked { .. } => vec![&*self.name],
                Found::Missing if !unit_files::script_links(&host.root, &self.name)?.is_empty() => return Ok(true),
                Found::Missing => vec![&*self.name],
            };
            Ok(!unit_files::links_to(&host.root, &names)?.is_empty())
        };
        let enabled = (is_new || self.enable.is_some()).then(is_enabled).transpose()?;
        let asks = host.is_live() && self.state != ActiveState::Any;
        let running = match is_new {
            true => Some(false),
            false => asks.then(|| Ok::<_, Error>(self.status(work)? == UnitStatus::Running)).transpose()?,
        };
        let is_masked = matches!(found, Found::Masked { .. });
        let masked = (self.mask.is_some() || (is_masked && self.must_unmask())).then_some(is_masked);
        Ok(PriorUnit { enabled, running, masked, keeps_running: self.keep_running })
    }
}
