//! `kpull plan`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;

use crate::cli::apply::tell_exposed;
use crate::cli::{HostArgs, Run, TalkArgs};
use crate::document::Files;
use crate::engine::{self, plan};
use crate::error::{Exit, Result};
use crate::host::Host;
use crate::report::{self, Event, Report, Summary, Text};
use crate::resolve::{Facts, resolve};
use crate::secret::SecretStore;
use crate::site::Site;
use crate::store::Store;

/// Arguments of `plan`.
#[derive(Args, Debug)]
pub struct Plan {
    #[command(flatten)]
    host: HostArgs,
    #[command(flatten)]
    talk: TalkArgs,
    /// Compare with this site as it is, signed or not, instead of the newest release; needs --host unless the machine
    /// is called what the site calls it
    #[arg(long, value_name = "DIR")]
    site: Option<PathBuf>,
    /// Leave the changes of files out
    #[arg(long)]
    no_diff: bool,
    /// Plan the newest release, also while it is not this host's turn
    #[arg(long, conflicts_with = "site")]
    now: bool,
}

impl Run for Plan {
    fn run(&self) -> Result<Exit> {
        let start = Instant::now();
        let report: Box<dyn Report> = if self.host.json {
            Box::new(report::Json)
        } else {
            Box::new(Text::new(!self.no_diff).at(self.talk.level()))
        };
        if let Some(dir) = &self.site {
            return tell(self.preview(dir)?, None, start, &*report);
        }
        let agent = self.host.agent(&*report)?;
        tell_exposed(&agent);
        let _lock = agent.store.lock()?;
        let taken = agent.select(self.now)?;
        let planned = taken.catalog.then(|catalog| plan(&agent.host, &agent.store, catalog, &taken.stamp.digest))?;
        let serial = planned.manifest().serial;
        let exit = tell(planned.into_inner(), Some(serial), start, &*report);
        match taken.trouble {
            Some(trouble) => Err(trouble),
            None => exit,
        }
    }

    fn json(&self) -> bool {
        self.host.json
    }
}

impl Plan {
    /// The plan of an unsigned site, which can be looked at and nothing else.
    fn preview(&self, dir: &std::path::Path) -> Result<engine::Plan> {
        let site = Arc::new(Site::load(Files::in_directory(dir)?)?);
        let host = Host::open(&self.host.root)?;
        let name = match &self.host.host {
            Some(name) => name.clone(),
            None => Facts::of_machine(&host)?.hostname,
        };
        let facts = match host.is_live() {
            true => Facts::of_machine(&host)?,
            false => Facts::assumed(&name, site.find_host(&name)?.address, Some(&host))?,
        };
        let store = Store::open(&host.root.outside(std::path::Path::new("/var/lib/kpull")))?;
        plan(&host, &store, resolve(&site, &name, &facts, &SecretStore::sealed())?, "")
    }
}

/// Reports a plan; the exit code that it means. What can't be observed is the error, after all that can.
pub(super) fn tell(plan: engine::Plan, serial: Option<u64>, start: Instant, report: &dyn Report) -> Result<Exit> {
    let items = &plan.catalog.items;
    for (at, change) in &plan.changes {
        report.event(&Event::Planned(&items[*at], change));
    }
    for (item, change) in plan.restored() {
        report.event(&Event::Planned(item, change));
    }
    for (id, error) in &plan.leftovers.lost {
        report.event(&Event::Lost(id, error));
    }
    for (id, error) in &plan.overruled {
        report.event(&Event::Overruled(id, error));
    }
    let ids = |restarts: bool| {
        let changes = plan.changes.iter().map(|(at, change)| (&items[*at], change));
        let wanted = changes.chain(plan.restored()).filter(|(_, change)| !restarts || change.trigger.is_some());
        wanted.map(|(item, _)| item.id.clone()).collect()
    };
    report.event(&Event::Done(&Summary {
        command: "plan",
        host: plan.catalog.host.clone(),
        serial,
        resources: items.len(),
        changed: ids(false),
        drifted: if plan.prior.is_none() { plan.changes.len() } else { 0 },
        restarted: ids(true),
        uncompared: plan.uncompared.clone(),
        is_failed: !plan.left_out.faults().is_empty(),
        took: start.elapsed(),
        ..Summary::default()
    }));
    let is_empty = plan.changes.is_empty() && plan.restored().next().is_none();
    match plan.left_out.into_error(items) {
        Some(error) => Err(error),
        None if is_empty => Ok(Exit::Done),
        None => Ok(Exit::Changes),
    }
}
