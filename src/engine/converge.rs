//! One whole run: take a release, apply it, and go back to the last good one when it does not do this host good.
//!
//! What is meant is written down before it is done, so that a run that dies goes on at the next: the hold says which release this
//! host stays with, and the owed contact until when a source has to be reached again.

use std::cell::OnceCell;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::engine::apply::{Applied, Outcome, apply};
use crate::engine::plan::plan;
use crate::engine::select::{Agent, Selection};
use crate::engine::up_to_date::{CheckLevel, seal, unbroken};
use crate::engine::{gc, lock, rollout};
use crate::error::{Error, Exit, Result, code};
use crate::kind::{Item, Work};
use crate::report::{Event, Summary};
use crate::resolve::Catalog;
use crate::status::vitals::Vitals;
use crate::store::{Generation, Pause, PendingActions, StayOn};

/// The pause between two looks whether a source can be reached again.
const PAUSE: Duration = Duration::from_secs(2);

/// How a run is to go about it.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunOptions {
    /// Try a release again that was not good, and follow the newest again.
    pub retry: bool,
    /// Look into everything, whatever was seen before.
    pub full: bool,
    /// Take a new release at once, whosever turn it is.
    pub now: bool,
}

/// Makes the host what the newest release says, if that is good for it.
///
/// What keeps the host from the newest release, or from being healthy, is the error; the host is converged on what it has
/// all the same.
pub fn converge(agent: &Agent<'_>, how: RunOptions) -> Result<Summary> {
    let (start, clock) = (Timestamp::now(), Instant::now());
    if how.retry {
        agent.store.set_hold(None)?;
    }
    let look = if how.full { CheckLevel::Whole } else { CheckLevel::Short };
    if let Some(summary) = unbroken(agent, look, clock)? {
        agent.report.event(&Event::Done(&summary));
        return Ok(summary);
    }
    if how.full {
        agent.store.forget_stamps();
    }
    if let Some(lost) = regain_contact(agent)? {
        return give_up(agent, lost);
    }
    let taken = locked(agent, agent.take(how.now)?)?;
    let (digest, serial) = (taken.stamp.digest.clone(), taken.catalog.manifest().serial);
    let is_back = taken.stamp.back.is_some();
    let trouble = taken.trouble.clone();
    let was_begun = agent.store.owed()?.release.is_some();
    let mut applied = carry_out(agent, taken)?;
    let fault = applied.fault.take();
    applied.summary.waits.clone_from(&agent.waits.borrow());
    let changed = applied.summary.changed.len();
    let why = match applied.outcome {
        Outcome::Well => match regain_contact(agent)? {
            Some(lost) => lost,
            None => {
                agent.report.event(&Event::Done(&applied.summary));
                gc::collect_due(&agent.store, &agent.config.keep)?;
                if !is_back {
                    rollout::unlock(agent)?;
                }
                let is_settled = trouble.is_none()
                    && fault.is_none()
                    && !agent.store.owed()?.gone
                    && Pause::now(&agent.store)?.is_empty()
                    && !lock::has_any(&agent.store)?;
                if changed == 0 && !is_back && is_settled {
                    seal(agent, start, &applied.manifest, &applied.catalog.items)?;
                }
                return match (trouble, fault) {
                    (Some(trouble), _) => {
                        Err(trouble.help_more(&format!("the host stays converged on release {serial}")))
                    }
                    (None, Some(fault)) => Err(fault),
                    (None, None) => Ok(applied.summary),
                };
            }
        },
        Outcome::Waiting(error) => return Err(error),
        Outcome::Failed(error) => error,
    };
    agent.report.event(&Event::Done(&applied.summary));
    // a host that lacks something before anything is touched would lack it with any release
    let was_touched = was_begun || changed > 0 || !why.is_of_machine();
    // what was good here once has no fault of its own
    let was_good = agent.store.generations()?.iter().any(|one| one.good && one.release == digest);
    match agent.last_good(&digest)? {
        Some(good) if was_touched && !is_back && !was_good => back_from(agent, serial, good, why),
        _ => Err(trouble.unwrap_or(why)),
    }
}

/// What was taken, once whoever has to be asked for it has agreed; else what this host has.
fn locked(agent: &Agent<'_>, taken: Selection) -> Result<Selection> {
    let (Some(lock), Some(current)) = (&taken.lock, agent.store.generation()?) else { return Ok(taken) };
    match rollout::lock(agent, lock) {
        None => Ok(taken),
        Some(why) => {
            let serial = taken.catalog.manifest().serial;
            Ok(Selection { trouble: taken.trouble, ..agent.stay(&current, serial, &why)? })
        }
    }
}

/// Plans and applies.
fn carry_out(agent: &Agent<'_>, taken: Selection) -> Result<Applied> {
    let Selection { catalog, stamp, .. } = taken;
    let earlier = LastGood::of(agent, &stamp.digest)?;
    let planned = catalog.then(|catalog| plan(&agent.host, &agent.store, catalog, &stamp.digest))?;
    let is_old = |item: &Item, error: &Error| earlier.fails(item, error);
    let applied = apply(&agent.host, &agent.store, planned, &stamp, agent.report, &is_old)?;
    // what can't be written down now is told late, and keeps nothing from going on
    if let Err(error) = Vitals::keep(agent, &applied) {
        agent.report.event(&Event::NotReported(&error));
    }
    Ok(applied)
}

/// The last good release of this host, with which it is found out whether a fault is older than the release that is applied.
enum LastGood<'a> {
    /// There is none: whatever fails is the first release's.
    None,
    /// The release itself was good here: whatever fails has changed on this host.
    Same,
    /// Another one.
    Other { agent: &'a Agent<'a>, good: Box<Generation>, catalog: OnceCell<Option<Catalog>> },
}

impl<'a> LastGood<'a> {
    fn of(agent: &'a Agent<'a>, digest: &str) -> Result<Self> {
        if agent.store.generations()?.iter().any(|one| one.good && one.release == digest) {
            return Ok(Self::Same);
        }
        let good = agent.store.last_good(digest)?;
        Ok(good.map_or(Self::None, |good| Self::Other { agent, good: Box::new(good), catalog: OnceCell::new() }))
    }

    /// Whether a resource fails like this without the release that is applied too: where its path or the host refuses anything at all, where
    /// the earlier release says the same of it, or what that says can't be observed either.
    fn fails(&self, item: &Item, error: &Error) -> bool {
        match self {
            Self::None => false,
            Self::Same => true,
            Self::Other { good, .. } if !good.resources.contains(&item.id) => false,
            Self::Other { .. } if error.is_of_path() || error.is_of_host() => true,
            Self::Other { agent, good, catalog } => {
                let read = || agent.look_back(good).ok().map(|(_, catalog)| catalog);
                let Some(catalog) = catalog.get_or_init(read) else { return false };
                let work = Work { host: &agent.host, store: &agent.store, catalog: &catalog.items };
                let Some(was) = catalog.items.iter().find(|was| was.id == item.id) else { return false };
                // a unit that is the same may fail because of another file of the release; what goes by its own paths alone can't
                let is_same = item.about.is_self_contained
                    && (&was.fields, was.resource.content()) == (&item.fields, item.resource.content());
                is_same || was.resource.observe(&work).is_err()
            }
        }
    }
}

/// Leaves a release that was not good for this host, for the last one that was.
fn back_from(agent: &Agent<'_>, bad: u64, good: Generation, why: Error) -> Result<Summary> {
    let policy = agent.config.rollback;
    let earlier = agent.store.hold()?.filter(|hold| hold.not == bad).map_or(0, |hold| hold.tries);
    let tries = earlier + 1;
    let pause = SignedDuration::from_mins(1) * 2_i32.pow(earlier.min(6));
    let hold = StayOn {
        release: good.release.clone(),
        serial: good.serial,
        not: bad,
        why: why.to_string(),
        since: Timestamp::now(),
        tries,
        again: (tries < policy.tries).then(|| Timestamp::now() + pause),
    };
    agent.store.set_hold(Some(&hold))?;
    agent.report.event(&Event::RolledBack { hold: &hold });
    let outcome = match carry_out(agent, agent.take_back(&good, &hold.why)?) {
        Ok(applied) => {
            agent.report.event(&Event::Done(&applied.summary));
            match (applied.outcome, applied.fault) {
                (Outcome::Well, Some(fault)) => Outcome::Failed(fault),
                (outcome, _) => outcome,
            }
        }
        Err(error) => Outcome::Failed(error),
    };
    let what = format!("release {bad} was not good for this host, which is back on release {}", good.serial);
    let (told, cause) = match outcome {
        Outcome::Well => {
            let help = match hold.again {
                Some(again) => format!("it is tried once more after {again:.0}; a newer release is taken at once"),
                None => "a newer release is taken at once; `kpull apply --retry` tries this one again".to_owned(),
            };
            (Error::new(code::BACK, what).because(&why).help(help), why)
        }
        // what fails with the old release too is not the new one's fault
        Outcome::Failed(error) | Outcome::Waiting(error) => {
            let hold = StayOn { tries: earlier, again: Some(Timestamp::now() + pause), ..hold };
            agent.store.set_hold(Some(&hold))?;
            let help = format!("that may not be the release's fault ({why}): it is tried again after {pause:#}");
            (Error::new(code::BACK, format!("{what}, and that is not well either")).because(&error).help(help), error)
        }
    };
    let mut told = told.exit(Exit::Unhealthy);
    if let Some(place) = cause.place() {
        told = told.at(place.clone(), cause.label().unwrap_or_default());
    }
    // a journal may be at its end
    if let Some(advice) = cause.advice() {
        told = told.help_more(advice);
    }
    Err(told)
}

/// Goes back to an earlier generation because somebody said so. The host stays there until a newer release comes.
pub fn go_back(agent: &Agent<'_>, to: &Generation, why: &str) -> Result<Summary> {
    let newest = agent.trust()?.memory.release.map_or(to.serial, |seen| seen.serial);
    let hold = StayOn {
        release: to.release.clone(),
        serial: to.serial,
        not: newest,
        why: why.to_owned(),
        since: Timestamp::now(),
        tries: 0,
        again: None,
    };
    // verified before anything is said
    let taken = agent.take_back(to, why)?;
    agent.store.set_hold(Some(&hold))?;
    let applied = carry_out(agent, taken)?;
    agent.report.event(&Event::Done(&applied.summary));
    match (applied.outcome, applied.fault) {
        (Outcome::Well, None) => Ok(applied.summary),
        (Outcome::Well, Some(error)) | (Outcome::Waiting(error) | Outcome::Failed(error), _) => Err(error),
    }
}

/// Waits until a source answers, if that is owed; an error to go back for when none does in time.
fn regain_contact(agent: &Agent<'_>) -> Result<Option<Error>> {
    let owed = agent.store.owed()?;
    let Some(deadline) = owed.contact else { return Ok(None) };
    let clock = Instant::now();
    let mut why;
    loop {
        match agent.reaches_source() {
            Ok(()) => {
                agent.store.set_owed(&PendingActions { contact: None, ..owed })?;
                return Ok(None);
            }
            Err(error) => why = error,
        }
        // a clock that is set back meanwhile gives no more time
        if Timestamp::now() >= deadline || clock.elapsed() >= agent.config.rollback.contact_within() {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    // it was well otherwise, and is to blame unless a run has begun with another release since
    let is_to_blame = |last: &Generation| owed.release.as_ref().is_none_or(|begun| *begun == last.release);
    if let Some(last) = agent.store.generation()?.filter(|last| last.good && is_to_blame(last)) {
        agent.store.set_generation(&Generation { good: false, ..last })?;
    }
    agent.store.set_owed(&PendingActions { contact: None, ..owed })?;
    Ok(Some(
        Error::new(code::BACK, "no source can be reached since this host's network, firewall or SSH was changed")
            .because(why)
            .exit(Exit::Unhealthy),
    ))
}

/// Goes back after a run that died before it knew whether it had cut this host off, and that had.
fn give_up(agent: &Agent<'_>, lost: Error) -> Result<Summary> {
    let Some(memory) = agent.trust()?.memory.release else { return Err(lost) };
    // one that was only seen, and not begun here, has cut nothing off
    let is_own = agent.store.owed()?.release.as_ref() == Some(&memory.digest)
        || agent.store.generation()?.is_some_and(|last| last.release == memory.digest);
    match (agent.last_good(&memory.digest)?, agent.store.hold()?) {
        (Some(good), None) if is_own => back_from(agent, memory.serial, good, lost),
        _ => Err(lost),
    }
}
