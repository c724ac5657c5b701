//! `kpull hold`, `kpull unhold` and `kpull disown`: resources that kpull leaves alone, for a while or for good.

use crate::cli::prelude::*;
use crate::document::ResourceId;
use crate::document::fields::Lifetime;
use crate::engine::prior::PriorStates;
use crate::store::Pause;

/// Arguments of `hold`.
#[derive(Args, Debug)]
pub struct Hold {
    #[command(flatten)]
    host: HostArgs,
    /// The id of the resource, as in `plan` and `graph` [default: list held resources]
    #[arg(requires = "reason")]
    resource: Option<String>,
    /// The duration, such as 8h or 3d; at most 30 days
    #[arg(long = "for", value_name = "DURATION", default_value = "8h", value_parser = duration)]
    time: SignedDuration,
    /// The reason, which kpull records
    #[arg(long)]
    reason: Option<String>,
}

/// Arguments of `unhold`.
#[derive(Args, Debug)]
pub struct Unhold {
    #[command(flatten)]
    host: HostArgs,
    /// The id of the resource
    resource: String,
}

/// Arguments of `disown`.
#[derive(Args, Debug)]
pub struct Disown {
    #[command(flatten)]
    host: HostArgs,
    /// The id of the resource
    resource: String,
}

fn duration(text: &str) -> Result<SignedDuration, String> {
    let duration = text.parse::<Lifetime>().ok().map(|time| time.0);
    duration
        .filter(|duration| duration.is_positive() && *duration <= SignedDuration::from_hours(24 * 30))
        .ok_or_else(|| format!("`{text}` is not a time up to 30 days; write it like 90m, 8h or 3d"))
}

/// The resource of this host that an operator names.
fn find(agent: &Agent<'_>, id: &str) -> Result<ResourceId> {
    let resources = agent.store.generation()?.map(|last| last.resources).unwrap_or_default();
    if let Some(found) = resources.iter().find(|one| **one == *id) {
        return Ok(found.clone());
    }
    let otherwise = "`kpull history N` and `kpull plan` show the ids of resources";
    let known = resources.iter().map(ResourceId::as_str);
    Err(error!(HOLD, "this host has no resource `{id}`").help_nearest(id, known, otherwise))
}

impl Run for Hold {
    fn run(&self) -> Result<Exit> {
        let report = Text::new(false);
        let agent = self.host.agent(&report)?;
        if let (Some(id), Some(why)) = (&self.resource, &self.reason) {
            let id = find(&agent, id)?;
            let _lock = agent.store.lock()?;
            let since = Timestamp::now();
            Pause { id, since, until: since + self.time, why: why.clone() }.save(&agent.store)?;
        }
        for one in Pause::now(&agent.store)? {
            let object = json!({ "paused": one });
            print_result(self.host.json, object, &format!("{}  until {:.0}: {}", one.id, one.until, one.why));
        }
        Ok(Exit::Done)
    }
}

impl Run for Unhold {
    fn run(&self) -> Result<Exit> {
        let report = Text::new(false);
        let agent = self.host.agent(&report)?;
        let _lock = agent.store.lock()?;
        if !Pause::remove(&self.resource, &agent.store)? {
            return Err(error!(HOLD, "`{}` is not held", self.resource).help("`kpull hold` lists held resources"));
        }
        Ok(Exit::Done)
    }
}

impl Run for Disown {
    fn run(&self) -> Result<Exit> {
        let report = Text::new(false);
        let agent = self.host.agent(&report)?;
        let _lock = agent.store.lock()?;
        let mut before = PriorStates::load(&agent.store)?;
        if !before.disown(&self.resource, "manual `kpull disown`") {
            find(&agent, &self.resource)?;
            return Err(error!(HOLD, "`{}` has no prior state to restore", self.resource));
        }
        before.save(&agent.store)?;
        if !self.host.json {
            print(&format!("{} stays as it is when its role is removed", self.resource));
        }
        Ok(Exit::Done)
    }
}
