//! One whole run: select a release, apply it, and roll back to the last good one if this host fails with it.
//!
//! Each intention is recorded before it is carried out, so that the next run continues a run that died: the stay-on says which release
//! this host stays on, and the pending contact until when a source has to be reached again.

use std::cell::OnceCell;

use crate::engine::apply::{Applied, apply};
use crate::engine::plan::plan_part;
use crate::engine::prelude::*;
use crate::engine::run::Stop;
use crate::engine::select::Selection;
use crate::engine::up_to_date::{check, record};
use crate::engine::{gc, lock};
use crate::host::deadline;
use crate::source::{self, Reach};
use crate::status::vitals::Vitals;

/// The pause between two attempts to reach a source.
const PAUSE: Duration = Duration::from_secs(2);

/// How long a source may take to answer after a run that died, even if its deadline has passed: the host may just have booted.
const LEAST: Duration = Duration::from_secs(10);

/// How long kpull waits before it polls a source after a change that can cut the host off: services of the network count as started before
/// their change is in effect.
const SETTLE: Duration = Duration::from_secs(3);

/// The options of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunOptions<'a> {
    /// Try a release again that was not good, and follow the newest again.
    pub retry: bool,
    /// Check everything, also what the up-to-date check covers.
    pub full: bool,
    /// Apply a new release at once, whichever hosts should go first.
    pub now: bool,
    /// The only resources and roles to change; empty for all.
    pub only: &'a [String],
}

/// Applies the newest release to this host, if that is good for it.
///
/// The error says what keeps the host from the newest release, or from being healthy; the host is converged on what it has
/// all the same.
pub fn converge(agent: &Agent<'_>, options: RunOptions<'_>) -> Result<Summary> {
    let (start, clock) = (Timestamp::now(), Instant::now());
    if options.retry {
        agent.store.set_stay_on(None)?;
    }
    // a partial run reports that it is one, even on a host that is up to date
    if options.only.is_empty()
        && let Some(summary) = check(agent, options.full, clock)?
    {
        agent.report.event(&Event::Done(&summary));
        return Ok(summary);
    }
    if options.full {
        agent.store.forget_stamps();
    }
    if let Some(lost) = regain_contact(agent)? {
        return give_up(agent, lost);
    }
    let selection = acquire_lock(agent, agent.select(options.now)?)?;
    let (digest, serial) = (selection.stamp.digest.clone(), selection.catalog.manifest().serial);
    let is_back = selection.stamp.back.is_some();
    let trouble = selection.trouble.clone();
    let was_begun = agent.store.pending()?.release.is_some();
    let mut applied = carry_out(agent, selection, options.only)?;
    let fault = Error::all(applied.fault.take().into_iter().chain(applied.unrestored.take()).collect());
    applied.summary.only = options.only.to_vec();
    applied.summary.waits.clone_from(&agent.waits.borrow());
    let changed = applied.summary.changed.len();
    let lost = match applied.outcome {
        Ok(()) => {
            let is_remote = |source: &source::Config| source.reach().is_ok_and(|reach| reach != Reach::Local);
            if agent.store.pending()?.contact.is_some() && agent.config.sources.iter().any(is_remote) {
                std::thread::sleep(SETTLE);
            }
            regain_contact(agent)?
        }
        // without time, what a release lacks is not its fault
        Err(stop) if matches!(stop, Stop::Waits(_)) || deadline::is_over() => {
            let errors = deadline::check().err().into_iter().chain([stop.into_error()]).chain(fault).chain(trouble);
            return Error::distinct(errors.collect()).map_or(Ok(applied.summary), Err);
        }
        Err(stop) if !options.only.is_empty() => {
            return Err(stop
                .into_error()
                .help_more("a partial run does not roll back: `kpull apply` continues with the whole release"));
        }
        Err(stop) => Some(stop.into_error()),
    };
    agent.report.event(&Event::Done(&applied.summary));
    if lost.is_none() && !options.only.is_empty() {
        return trouble.or(fault).map_or(Ok(applied.summary), Err);
    }
    let Some(why) = lost else {
        gc::collect_due(&agent.store, &agent.config.keep)?;
        if !is_back {
            for why in lock::release(&agent.host, &agent.store, &agent.name, |_| true)? {
                agent.report.event(&Event::LockNotReturned(&why));
            }
        }
        if let Some(trouble) = trouble {
            return Err(trouble.help_more(&format!("the host stays converged on release {serial}")));
        }
        if let Some(fault) = fault {
            return Err(fault);
        }
        let is_settled = !agent.store.pending()?.orphans
            && Pause::now(&agent.store)?.is_empty()
            && lock::held(&agent.store)?.is_empty();
        if changed == 0 && !is_back && is_settled {
            record(agent, start, &applied.manifest, &applied.catalog)?;
        }
        return Ok(applied.summary);
    };
    // a host that lacks something before anything is touched would lack it with any release
    let was_touched = was_begun || changed > 0 || !why.is_of_machine();
    // a release that was good here is not to blame
    let was_good = was_good(agent, &digest)?;
    match agent.last_good(&digest)? {
        Some(good) if was_touched && !is_back && !was_good => roll_back(agent, serial, good, why),
        _ => Err(trouble.unwrap_or(why)),
    }
}

/// The selection, once the lock that it needs is acquired; else what this host has.
fn acquire_lock(agent: &Agent<'_>, selection: Selection) -> Result<Selection> {
    let (Some(lock), Some(current)) = (&selection.lock, agent.store.generation()?) else { return Ok(selection) };
    match lock::acquire(&agent.host, &agent.store, &agent.name, lock) {
        Ok(_) => Ok(selection),
        Err(why) => {
            let serial = selection.catalog.manifest().serial;
            Ok(Selection { trouble: selection.trouble, ..agent.wait_on(&current, serial, &why)? })
        }
    }
}

/// Whether the release with this digest was good on this host once.
fn was_good(agent: &Agent<'_>, digest: &str) -> Result<bool> {
    Ok(agent.store.generations()?.iter().any(|one| one.good && one.release == digest))
}

/// Plans and applies what `only` names; everything if it is empty.
fn carry_out(agent: &Agent<'_>, selection: Selection, only: &[String]) -> Result<Applied> {
    let Selection { catalog, stamp, .. } = selection;
    // a release that was good here before is not to blame for any failure
    let was_good = was_good(agent, &stamp.digest)?;
    let last_good = if was_good { None } else { agent.store.last_good(&stamp.digest)? };
    let last_catalog = OnceCell::new();
    let is_old = |item: &Item, error: &Error| {
        let fails = |good: &Generation| failed_before(agent, good, &last_catalog, item, error);
        was_good || last_good.as_ref().is_some_and(fails)
    };
    let planned = catalog.then(|catalog| plan_part(&agent.host, &agent.store, catalog, &stamp.digest, only))?;
    let applied = apply(&agent.host, &agent.store, planned, &stamp, agent.report, &is_old)?;
    // the run goes on without them; a part says nothing about the host
    if only.is_empty()
        && let Err(error) = Vitals::keep(agent, &applied)
    {
        agent.report.event(&Event::NotReported(&error));
    }
    Ok(applied)
}

/// Whether a resource fails like this without the release that is applied too, as far as the last good release shows: because its
/// path or the host refuses any change, because that release has it in the same form, or because that form can't be observed either.
fn failed_before(
    agent: &Agent<'_>,
    last_good: &Generation,
    catalog: &OnceCell<Option<Catalog>>,
    item: &Item,
    error: &Error,
) -> bool {
    if !last_good.resources.contains(&item.id) {
        return false;
    }
    if error.is_of_path() || error.is_of_host() {
        return true;
    }
    let read = || agent.read_generation(last_good).ok().map(|(_, catalog)| catalog);
    let Some(catalog) = catalog.get_or_init(read) else { return false };
    let work = Work { host: &agent.host, store: &agent.store, catalog: &catalog.items };
    let Some(was) = catalog.items.iter().find(|was| was.id == item.id) else { return false };
    // an unchanged unit can fail because of another file of the release; what depends on its own paths alone can't
    let is_same = item.about.is_self_contained
        && (&was.fields, was.resource.content()) == (&item.fields, item.resource.content());
    is_same || was.resource.observe(&work).is_err()
}

/// The stay-on that keeps this host on a generation's release instead of those up to the serial `not`.
fn stay_on(on: &Generation, not: u64, why: String) -> StayOn {
    let since = Timestamp::now();
    StayOn { release: on.release.clone(), serial: on.serial, not, why, since, tries: 0, again: None }
}

/// Rolls back from a release that this host failed with to the last good one.
fn roll_back(agent: &Agent<'_>, bad: u64, good: Generation, why: Error) -> Result<Summary> {
    let policy = agent.config.rollback;
    let earlier = agent.store.stay_on()?.filter(|stay| stay.not == bad).map_or(0, |stay| stay.tries);
    let tries = earlier + 1;
    let pause = SignedDuration::from_mins(1) * 2_i32.pow(earlier.min(6));
    let stay = stay_on(&good, bad, why.to_string());
    let again = (tries < policy.tries).then(|| stay.since + pause);
    let stay = StayOn { tries, again, ..stay };
    agent.store.set_stay_on(Some(&stay))?;
    agent.report.event(&Event::RolledBack(&stay));
    let outcome = match carry_out(agent, agent.select_generation(&good, &stay.why)?, &[]) {
        Ok(applied) => {
            agent.report.event(&Event::Done(&applied.summary));
            applied.into_error()
        }
        Err(error) => Some(error),
    };
    let what = format!("release {bad} failed on this host, which rolled back to release {}", good.serial);
    let (error, cause) = match outcome {
        None => {
            let help = match stay.again {
                Some(again) => {
                    format!("kpull tries it once more after {again:.0}; kpull applies a newer release at once")
                }
                None => "kpull applies a newer release at once; `kpull apply --retry` tries this one again".to_owned(),
            };
            (Error::new(code::BACK, what).because(&why).help(help), why)
        }
        // the new release is not the cause of a failure that the old one has too
        Some(error) => {
            let stay = StayOn { tries: earlier, again: Some(Timestamp::now() + pause), ..stay };
            agent.store.set_stay_on(Some(&stay))?;
            let help = format!("the release may not be the cause ({why}): kpull tries it again after {pause:#}");
            (error!(BACK, "{what}, which is unhealthy too").because(&error).help(help), error)
        }
    };
    let mut error = error.exit(Exit::Unhealthy);
    if let Some(place) = cause.place() {
        error = error.at(place.clone(), cause.label().unwrap_or_default());
    }
    // the excerpt of a unit's journal, for one
    if let Some(advice) = cause.advice() {
        error = error.help_more(advice);
    }
    Err(error)
}

/// Rolls back to an earlier generation at an operator's request. The host stays there until a newer release arrives.
pub fn go_back(agent: &Agent<'_>, to: &Generation, why: &str) -> Result<Summary> {
    let newest = agent.trust()?.state.release.map_or(to.serial, |seen| seen.serial);
    // verified before anything is recorded
    let selection = agent.select_generation(to, why)?;
    agent.store.set_stay_on(Some(&stay_on(to, newest, why.to_owned())))?;
    let mut applied = carry_out(agent, selection, &[])?;
    agent.report.event(&Event::Done(&applied.summary));
    let (summary, unrestored) = (applied.summary.clone(), applied.unrestored.take());
    applied.into_error().or(unrestored).map_or(Ok(summary), Err)
}

/// Waits until a source answers, if that is pending; an error to roll back for when none does in time.
fn regain_contact(agent: &Agent<'_>) -> Result<Option<Error>> {
    let pending = agent.store.pending()?;
    let Some(deadline) = pending.contact else { return Ok(None) };
    // a clock that is set back meanwhile gives no more time
    let left = Duration::try_from(deadline.duration_since(Timestamp::now())).unwrap_or_default();
    let until = Instant::now() + left.max(LEAST).min(agent.config.rollback.contact_within());
    let why = loop {
        let Err(error) = agent.reaches_source(until.saturating_duration_since(Instant::now())) else {
            agent.store.set_pending(&PendingActions { contact: None, ..pending })?;
            return Ok(None);
        };
        deadline::check()?;
        if Instant::now() >= until {
            break error;
        }
        std::thread::sleep(PAUSE);
    };
    // the last generation is the cause unless a run has begun with another release since
    let is_to_blame = |last: &Generation| pending.release.as_ref().is_none_or(|begun| *begun == last.release);
    if let Some(last) = agent.store.generation()?.filter(|last| last.good && is_to_blame(last)) {
        agent.store.set_generation(&Generation { good: false, ..last })?;
    }
    agent.store.set_pending(&PendingActions { contact: None, ..pending })?;
    Ok(Some(
        error!(BACK, "no source can be reached since this host's network, firewall or SSH was changed")
            .because(why)
            .exit(Exit::Unhealthy),
    ))
}

/// Rolls back after a run that cut this host off and died before it noticed.
fn give_up(agent: &Agent<'_>, lost: Error) -> Result<Summary> {
    let Some(seen) = agent.trust()?.state.release else { return Err(lost) };
    // a release that was seen and not begun here has cut nothing off
    let is_own = agent.store.pending()?.release.as_ref() == Some(&seen.digest)
        || agent.store.generation()?.is_some_and(|last| last.release == seen.digest);
    match (agent.last_good(&seen.digest)?, agent.store.stay_on()?) {
        (Some(good), None) if is_own => roll_back(agent, seen.serial, good, lost),
        _ => Err(lost),
    }
}
