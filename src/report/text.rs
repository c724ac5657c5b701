//! For a person: one line a change, diffs, progress on a terminal, a summary.

use std::cell::RefCell;
use std::io::{IsTerminal as _, Write as _};

use indicatif::{ProgressBar, ProgressStyle};

use crate::error::visible;
use crate::report::{Event, Report, Summary};
use crate::secret::mask;
use crate::trust::KeySet;

/// Writes to standard output; progress goes to standard error, and only to a terminal.
#[derive(Debug)]
pub struct Text {
    diffs: bool,
    color: bool,
    bar: RefCell<Option<(String, ProgressBar)>>,
}

impl Text {
    /// `diffs` shows the change of each file. Colours are used on a terminal unless `NO_COLOR` is set.
    pub fn new(diffs: bool) -> Self {
        let color =
            std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { diffs, color, bar: RefCell::default() }
    }

    /// A text in a colour, by its number as terminals have it; no text can do something to the terminal.
    pub fn paint(&self, code: &str, text: &str) -> String {
        let text = visible(text);
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text }
    }

    fn line(&self, text: &str) {
        if let Some((_, bar)) = self.bar.borrow_mut().take() {
            bar.finish_and_clear();
        }
        // a reader that has gone away (`kpull plan | head`) ends nothing here
        let _ = writeln!(std::io::stdout(), "{}", mask::hide(text));
    }

    /// Writes a change, with its diff if those are shown.
    pub fn change(&self, sign: &str, code: &str, item: &crate::kind::Item, change: &crate::kind::Change) {
        let role = self.paint("2", &format!("{:<12}", item.role));
        let (sign, summary) = (self.paint(code, sign), self.paint("2", &change.summary));
        self.line(&format!("{sign} {role} {}  {summary}", visible(&item.id)));
        for line in change.diff.iter().filter(|_| self.diffs).flat_map(|diff| diff.lines()) {
            let code = match line.as_bytes().first() {
                Some(b'+') => "32",
                Some(b'-') => "31",
                Some(b'@') => "36",
                _ => "2",
            };
            self.line(&format!("    {}", self.paint(code, line)));
        }
    }

    fn summary(&self, summary: &Summary) {
        let Summary { command, host, serial, resources, changed, kicked, probes, took, .. } = summary;
        let release = serial.map_or_else(|| "unsigned preview".to_owned(), |serial| format!("release {serial}"));
        let changes = match (changed.len(), *command) {
            (0, _) => "nothing to do".to_owned(),
            (count, "plan") => format!("{count} to change"),
            (count, _) => format!("{count} changed"),
        };
        let restarts =
            if kicked.is_empty() { String::new() } else { format!(", {} restarted or reloaded", kicked.len()) };
        let probed = if *probes == 0 { String::new() } else { format!(", {probes} probes passed") };
        let text = format!(
            "{host}: {changes} of {resources} resources{restarts}{probed} ({release}, {:.2} s)",
            took.as_secs_f64()
        );
        self.line(&self.paint("1", &text));
    }
}

/// Whose keys a set has.
fn names(set: &KeySet) -> String {
    set.signers.iter().map(|signer| signer.principal.as_str()).collect::<Vec<_>>().join(", ")
}

/// A resource's role and id.
fn named(item: &crate::kind::Item) -> String {
    visible(&format!("{:<12} {}", item.role, item.id))
}

impl Report for Text {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Passed { source, error } => {
                self.line(&format!("{} {}", self.paint("33", "!"), visible(&format!("{source}: {error}"))))
            }
            Event::PassedMirror { mirror, error } => {
                self.line(&format!("{} {}", self.paint("33", "!"), visible(&format!("mirror {mirror}: {error}"))))
            }
            Event::Keys(set) => {
                let text = format!("key set {} counts from now on: {}", set.number, names(set));
                self.line(&format!("{} {}", self.paint("36", "⚿"), visible(&text)));
            }
            Event::News { source, manifest } => {
                let text = format!("release {} of {} from {source}", manifest.serial, manifest.site);
                self.line(&format!("{} {}", self.paint("36", "↓"), visible(&text)));
            }
            Event::Planned(item, change) => self.change("~", "33", item, change),
            Event::Changed(item, change) => self.change("✓", "32", item, change),
            Event::Unlabelled(error) | Event::Untold(error) => {
                let text = format!("{error}; {}", error.advice().unwrap_or_default());
                self.line(&format!("{} {}", self.paint("33", "!"), visible(&text)));
            }
            Event::SlotTaken { item, slot, holder } => {
                let text = format!("waits for the slot {slot}: {} has had it since {}", holder.host, holder.since);
                self.line(&format!("{} {}  {}", self.paint("2", "…"), named(item), self.paint("2", &text)));
            }
            Event::SlotUnknown { item, slot, why } => {
                let text = format!("goes on without the slot {slot}, since etcd is down: {why}");
                self.line(&format!("{} {}  {}", self.paint("33", "!"), named(item), visible(&text)));
            }
            Event::SlotKept { item, slot, why } => {
                let text = format!("the slot {slot} could not be given back, and ends by itself: {why}");
                self.line(&format!("{} {}  {}", self.paint("33", "!"), named(item), visible(&text)));
            }
            Event::Waiting(item) => {
                self.line(&format!("{} {}  waiting", self.paint("2", "…"), named(item)));
            }
            Event::Passing(item) => self.line(&format!("{} {}", self.paint("32", "♥"), named(item))),
            Event::Download { name, done, total } => {
                if !std::io::stderr().is_terminal() {
                    return;
                }
                let mut bar = self.bar.borrow_mut();
                if bar.as_ref().is_none_or(|(known, _)| known != name) {
                    let style =
                        ProgressStyle::with_template("  {msg} {bar:24} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
                    let fresh = ProgressBar::new(total.unwrap_or(0)).with_message((*name).to_owned());
                    fresh.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                    *bar = Some(((*name).to_owned(), fresh));
                }
                if let Some((_, bar)) = bar.as_ref() {
                    bar.set_position(*done);
                    if Some(*done) == *total {
                        bar.finish_and_clear();
                    }
                }
            }
            Event::Saved { path } => {
                let text = format!("{path} was edited by hand: saved, see `kpull history --edits`");
                self.line(&format!("{} {}", self.paint("33", "!"), visible(&text)));
            }
            Event::Waits { why } => {
                self.line(&format!("{} {}", self.paint("36", "…"), visible(&format!("waits for its turn with {why}"))));
            }
            Event::LockKept { why } => {
                let text = format!("the lock could not be given back, which the next run tries again: {why}");
                self.line(&format!("{} {}", self.paint("33", "!"), visible(&text)));
            }
            Event::Back { hold } => {
                let text = format!("release {} is not good for this host: back to release {}", hold.not, hold.serial);
                self.line(&format!("{} {}", self.paint("31", "↶"), visible(&text)));
                self.line(&format!("  {}", self.paint("2", &hold.why)));
            }
            Event::Done(summary) => self.summary(summary),
        }
    }
}
