//! `kpull plan`.

use std::time::Instant;

use crate::cli::apply::report_exposed;
use crate::cli::prelude::*;
use crate::engine::{self, plan_part};
use crate::report::{self, Summary};
use crate::resolve::custom::Custom;
use crate::resolve::resolve;
use crate::store::Store;

/// Arguments of `plan`.
#[derive(Args, Debug)]
pub struct Plan {
    #[command(flatten)]
    host: HostArgs,
    #[command(flatten)]
    verbosity: VerbosityArgs,
    /// Compare with this site, signed or not, instead of the newest release; requires --host unless the machine's host name
    /// is its name in the site
    #[arg(long, value_name = "DIR")]
    site: Option<PathBuf>,
    /// Omit the changes of files
    #[arg(long)]
    no_diff: bool,
    /// Plan the newest release, even before it has reached this host in the rollout
    #[arg(long, conflicts_with = "site")]
    now: bool,
    /// Compare only this role, or the resource with this id, and the resources that it needs; repeatable; `*` matches any text
    #[arg(long, value_name = "ROLE|ID")]
    only: Vec<String>,
}

impl Run for Plan {
    fn run(&self) -> Result<Exit> {
        let start = Instant::now();
        let report: Box<dyn Report> = if self.host.json {
            Box::new(report::Json)
        } else {
            Box::new(Text::new(!self.no_diff).at(self.verbosity.level()))
        };
        if let Some(dir) = &self.site {
            return report_plan(self.preview(dir)?, None, &self.only, start, &*report);
        }
        let agent = self.host.agent(&*report)?;
        report_exposed(&agent);
        let _lock = agent.store.lock()?;
        let selection = agent.select(self.now)?;
        let digest = &selection.stamp.digest;
        let planned =
            selection.catalog.then(|catalog| plan_part(&agent.host, &agent.store, catalog, digest, &self.only))?;
        let serial = planned.manifest().serial;
        let exit = report_plan(planned.into_inner(), Some(serial), &self.only, start, &*report);
        selection.trouble.map_or(exit, Err)
    }
}

impl Plan {
    /// The plan of an unsigned site, which can only be shown.
    fn preview(&self, dir: &Path) -> Result<engine::Plan> {
        let site = load_site(dir)?;
        let host = Host::open(&self.host.root)?;
        let name = match &self.host.host {
            Some(name) => name.clone(),
            None => Facts::of_machine(&host)?.hostname,
        };
        let facts = match host.is_live() {
            true => Facts::of_machine(&host)?,
            false => Facts::assumed(&name, site.find_host(&name)?.address, Some(&host))?,
        };
        let Custom { values: custom, failed } = Custom::read(&host)?;
        Error::check(failed.into_values().collect())?;
        let facts = Facts { custom, ..facts };
        let store = Store::open(&host.root.outside(Path::new("/var/lib/kpull")))?;
        let catalog = resolve(&site, &name, &facts, &SecretStore::encrypted())?;
        plan_part(&host, &store, catalog, "", &self.only)
    }
}

/// Reports a plan and returns its exit code. Resources that can't be observed become the error, after the others are reported.
pub(super) fn report_plan(
    plan: engine::Plan,
    serial: Option<u64>,
    only: &[String],
    start: Instant,
    report: &dyn Report,
) -> Result<Exit> {
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
        only: only.to_vec(),
        resources: items.len(),
        changed: ids(false),
        drifted: if plan.prior.is_none() && !plan.is_new { plan.changes.len() } else { 0 },
        restarted: ids(true),
        uncompared: plan.uncompared.clone(),
        is_failed: !plan.left_out.faults.is_empty(),
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
