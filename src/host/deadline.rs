//! The time that a run has: systemd kills a service whose start takes too long, whatever it is doing. kpull ends before that, and reports
//! why.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use jiff::SignedDuration;

use crate::error::{Result, error};
use crate::host::bus::{Bus, get, monotonic};

/// How much of its time a run may use, in percent: until no download and no poll of a source goes on, so that one that hangs leaves time
/// for everything else…
const DOWNLOADS: u32 = 50;
/// …until nothing goes on but reports…
const CHANGES: u32 = 90;
/// …and until these end too.
const REPORTS: u32 = 98;

/// A run that is shorter does not ask for its limit.
const UNASKED: Duration = Duration::from_secs(10);

/// The share that applies now.
static SHARE: AtomicU32 = AtomicU32::new(CHANGES);

/// The limit for the start of the unit that this process belongs to.
struct Limit {
    unit: String,
    whole: Duration,
    began: Instant,
}

impl Limit {
    fn ask() -> Option<Self> {
        let own = Bus::connect().ok()?.own_unit().ok()?;
        let past = u64::try_from(monotonic()).ok()?.checked_sub(get(&own, "ExecMainStartTimestampMonotonic"))?;
        let limit: u64 = get(&own, "TimeoutStartUSec");
        // the largest value means none; what has started has no limit either
        let is_limited = get::<String>(&own, "ActiveState") == "activating" && ![0, u64::MAX].contains(&limit);
        let began = Instant::now().checked_sub(Duration::from_micros(past)).filter(|_| is_limited)?;
        Some(Self { unit: get(&own, "Id"), whole: Duration::from_micros(limit), began })
    }

    fn left(&self, share: u32) -> Duration {
        (self.whole / 100).saturating_mul(share).saturating_sub(self.began.elapsed())
    }
}

/// Makes attempts with a pause between them, until one succeeds, the next one would begin later than `within`, or the time of the run is
/// over.
pub fn retry<T, E>(within: Duration, pause: Duration, attempt: impl Fn() -> Result<T, E>) -> Result<T, E> {
    let started = Instant::now();
    loop {
        match attempt() {
            Err(_) if started.elapsed().saturating_add(pause) <= within && !is_over() => std::thread::sleep(pause),
            ended => return ended,
        }
    }
}

/// The limit, which is asked for once.
fn limit() -> Option<&'static Limit> {
    static LIMIT: OnceLock<Option<Limit>> = OnceLock::new();
    LIMIT.get_or_init(Limit::ask).as_ref()
}

/// The limit, if this share of it is used up.
fn used_up(share: u32) -> Option<&'static Limit> {
    static START: OnceLock<Instant> = OnceLock::new();
    let is_short = START.get_or_init(Instant::now).elapsed() < UNASKED;
    if is_short { None } else { limit().filter(|limit| limit.left(share).is_zero()) }
}

/// An error if this share of the limit is used up.
fn check_share(share: u32) -> Result<()> {
    let Some(Limit { unit, whole, .. }) = used_up(share) else { return Ok(()) };
    let whole = SignedDuration::try_from(*whole).unwrap_or(SignedDuration::MAX);
    let what = if share == DOWNLOADS { "this run downloads nothing more" } else { "this run ends early" };
    let error = error!(LIMIT, "{what}: {unit} has used {share} % of its {whole:#}");
    Err(error.passing().help(format!(
        "the next run continues; `journalctl -u {unit}` shows what takes long; if it needs the time, raise TimeoutStartSec= with \
         `systemctl edit {unit}`"
    )))
}

/// How long something may take that can't ask [`is_over`] meanwhile.
pub fn left() -> Duration {
    limit().map_or(Duration::MAX, |limit| limit.left(SHARE.load(Ordering::Relaxed)))
}

/// Whether this run has to end. Whatever waits asks this again and again.
pub fn is_over() -> bool {
    used_up(SHARE.load(Ordering::Relaxed)).is_some()
}

/// An error if this run has to end.
pub fn check() -> Result<()> {
    check_share(SHARE.load(Ordering::Relaxed))
}

/// How long downloads may take.
pub fn left_for_downloads() -> Duration {
    limit().map_or(Duration::MAX, |limit| limit.left(DOWNLOADS))
}

/// An error if downloads have used all of their time.
pub fn check_downloads() -> Result<()> {
    check_share(DOWNLOADS)
}

/// While this exists, whatever waits has only the time of downloads.
pub struct OnlyDownloads(u32);

impl OnlyDownloads {
    /// Begins now.
    pub fn begin() -> Self {
        Self(SHARE.swap(DOWNLOADS, Ordering::Relaxed))
    }
}

impl Drop for OnlyDownloads {
    fn drop(&mut self) {
        SHARE.store(self.0, Ordering::Relaxed);
    }
}

/// Leaves the rest of the time to reports.
pub fn begin_reports() {
    SHARE.store(REPORTS, Ordering::Relaxed);
}
