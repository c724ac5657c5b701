//! For a person: changes by role, diffs, progress on a terminal, a summary that says what comes next.

use std::cell::RefCell;
use std::io::{IsTerminal as _, Write as _};

use indicatif::{ProgressBar, ProgressStyle};

use crate::error::advice::complete;
use crate::error::{counted, mask, one_line, visible};
use crate::kind::{Change, Effect, Item};
use crate::report::terminal::{self, Level};
use crate::report::{Event, Report, Summary};
use crate::store::StayOn;
use crate::trust::KeySet;

/// How many lines of a text that is new are shown unless more are asked for.
const NEW_LINES: usize = 12;

/// Writes to standard output; progress goes to standard error, and only to a terminal.
#[derive(Debug)]
pub struct Text {
    diffs: bool,
    level: Level,
    hints: bool,
    color: bool,
    /// Columns, if lines have an end.
    width: Option<usize>,
    bar: RefCell<Option<(String, ProgressBar)>>,
    /// Changes that are shown by role, once all are known: the role, and its lines.
    groups: RefCell<Vec<(String, Vec<String>)>>,
}

impl Text {
    /// `diffs` shows the change of each file. Colours are used as [`terminal::colors`] says.
    pub fn new(diffs: bool) -> Self {
        Self {
            diffs,
            level: Level::Normal,
            hints: false,
            color: terminal::colors(std::io::stdout().is_terminal()),
            width: terminal::width(std::io::stdout()),
            bar: RefCell::default(),
            groups: RefCell::default(),
        }
    }

    /// For somebody who has asked for as much as this, and is told what to do next.
    #[must_use]
    pub fn at(self, level: Level) -> Self {
        Self { level, hints: true, ..self }
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
        let _ = writeln!(std::io::stdout(), "{}", mask::hide(text).trim_end().replace('\n', "\n  | "));
    }

    /// Something that nobody needs who has asked to be left alone.
    fn news(&self, text: &str) {
        if self.level > Level::Quiet {
            self.line(text);
        }
    }

    /// Takes a change up, to be shown with the others of its role by [`Text::show`].
    pub fn collect(&self, item: &Item, change: &Change) {
        let (sign, code) = match change.what {
            Effect::Added => ("+", "32"),
            Effect::Removed => ("-", "31"),
            Effect::Changed => ("~", "33"),
        };
        let mut lines = self.headline(&format!("  {} ", self.paint(code, sign)), 4, item, change);
        lines.extend(self.diff(change, 6));
        let mut groups = self.groups.borrow_mut();
        match groups.iter_mut().find(|(role, _)| **role == *item.role) {
            Some((_, known)) => known.extend(lines),
            None => groups.push((item.role.to_string(), lines)),
        }
    }

    /// Shows what was collected, role by role.
    pub fn show(&self) {
        for (role, lines) in self.groups.take() {
            self.news(&self.paint("1;36", &role));
            lines.iter().for_each(|line| self.news(line));
        }
    }

    /// A change at once, with its role beside it.
    fn change(&self, sign: &str, code: &str, item: &Item, change: &Change) {
        let role = self.paint("2", &format!("{:<12}", item.role));
        let taken = item.role.chars().count().max(12) + 3;
        for line in self.headline(&format!("{} {role} ", self.paint(code, sign)), taken, item, change) {
            self.news(&line);
        }
        self.diff(change, 4).iter().for_each(|line| self.news(line));
    }

    /// What is changed, and how: on a line of its own when both are too long for one. `taken` columns are what stands before.
    fn headline(&self, before: &str, taken: usize, item: &Item, change: &Change) -> Vec<String> {
        let (id, summary) = (one_line(&item.id), self.paint("2", &change.summary));
        let place = match self.level {
            Level::Verbose => format!("  {}", self.paint("2", &format!("({})", item.place))),
            _ => String::new(),
        };
        let columns = taken + id.chars().count() + 2 + visible(&change.summary).chars().count();
        if self.width.is_some_and(|width| columns > width) {
            return vec![format!("{before}{id}{place}"), format!("      {summary}")];
        }
        vec![format!("{before}{id}  {summary}{place}")]
    }

    fn diff(&self, change: &Change, indent: usize) -> Vec<String> {
        let Some(diff) = change.diff.as_ref().filter(|_| self.diffs).map(ToString::to_string) else {
            return Vec::new();
        };
        let shown = |line: &str| {
            let code = match line.as_bytes().first() {
                Some(b'+') => "32",
                Some(b'-') => "31",
                Some(b'@') => "36",
                _ => "2",
            };
            format!("{:indent$}{}", "", self.paint(code, line))
        };
        let mut lines: Vec<String> = diff.lines().map(shown).collect();
        let is_new = diff.starts_with("@@ -0,0 ") && diff.matches("\n@@ ").count() == 0;
        if is_new && self.level < Level::Verbose && lines.len() > NEW_LINES + 3 {
            let rest = lines.len() - 1 - NEW_LINES;
            lines.truncate(1 + NEW_LINES);
            lines.push(format!("{:indent$}{}", "", self.paint("2", &format!("… {rest} lines more (-v shows them)"))));
        }
        lines
    }

    fn summary(&self, summary: &Summary) {
        let Summary {
            command, host, serial, resources, changed, restarted, probes, uncompared, is_failed, took, ..
        } = summary;
        let release = serial.map_or_else(|| "unsigned preview".to_owned(), |serial| format!("release {serial}"));
        let changes = match (changed.len(), *command) {
            (0, "apply") if *is_failed => "nothing was changed".to_owned(),
            (0, _) if *is_failed => "nothing else to do".to_owned(),
            (0, "apply") if *probes > 0 => "nothing to change".to_owned(),
            (0, _) => "nothing to do".to_owned(),
            (count, "plan") => format!("{count} to change"),
            (count, _) => format!("{count} changed"),
        };
        let restarts =
            if restarted.is_empty() { String::new() } else { format!(", {} restarted or reloaded", restarted.len()) };
        let probed = if *probes == 0 { String::new() } else { format!(", {} passed", counted(*probes, "probe")) };
        let text = format!(
            "{host}: {changes} of {}{restarts}{probed} ({release}, {:.2} s)",
            counted(*resources, "resource"),
            took.as_secs_f64()
        );
        self.news(&self.paint("1", &text));
        if !uncompared.is_empty() {
            let text = format!(
                "{} with secrets in them: a preview compares only what is around these",
                counted(uncompared.len(), "more resource")
            );
            self.news(&self.paint("2", &text));
        }
        let next = match serial {
            Some(_) => "`kpull apply` makes these changes",
            None => "`kpull sign` makes it a release, `kpull publish` sends it; hosts see nothing until then",
        };
        if *command == "plan" && !changed.is_empty() && !is_failed {
            self.hint(next);
        }
    }

    fn hint(&self, next: &str) {
        if self.hints {
            self.news(&self.paint("2", &complete(&format!("next: {next}"))));
        }
    }

    fn progress(&self, name: &str, done: u64, total: Option<u64>) {
        if self.level == Level::Quiet || !std::io::stderr().is_terminal() {
            return;
        }
        let mut bar = self.bar.borrow_mut();
        if bar.as_ref().is_none_or(|(known, _)| known != name) {
            let template = match total {
                Some(_) => "  {msg} {bar:24} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left",
                None => "  {msg} {spinner} {bytes}  {bytes_per_sec}",
            };
            let fresh = ProgressBar::new(total.unwrap_or(0)).with_message(one_line(name));
            fresh.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
            *bar = Some((name.to_owned(), fresh));
        }
        if let Some((_, bar)) = bar.as_ref() {
            bar.set_position(done);
            if Some(done) == total {
                bar.finish_and_clear();
            }
        }
    }
}

/// Whose keys a set has.
fn names(set: &KeySet) -> String {
    set.signers.iter().map(|signer| signer.principal.as_str()).collect::<Vec<_>>().join(", ")
}

/// That a newer release is held back, why, and until when.
pub(super) fn held_back(hold: &StayOn) -> String {
    let until = hold.again.map_or_else(String::new, |again| format!(" until {again:.0}"));
    format!("release {} is held back{until}, this host stays with release {}: {}", hold.not, hold.serial, hold.why)
}

/// A resource's role and id.
fn named(item: &crate::kind::Item) -> String {
    one_line(&format!("{:<12} {}", item.role, item.id))
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
                self.news(&format!("{} {}", self.paint("36", "↓"), visible(&text)));
            }
            Event::Planned(item, change) => self.collect(item, change),
            Event::Changed(item, change) => self.change("✓", "32", item, change),
            Event::Unlabelled(error) | Event::NotReported(error) | Event::Exposed(error) => {
                let text = format!("{error}; {}", error.advice().unwrap_or_default());
                self.line(&format!("{} {}", self.paint("33", "!"), visible(&text)));
            }
            Event::SlotTaken { item, slot, by } => {
                let text = format!("waits for the slot {slot}: {}", visible(&by.to_string()));
                self.news(&format!("{} {}  {}", self.paint("2", "…"), named(item), self.paint("2", &text)));
            }
            Event::SlotUnknown { item, slot, why } => {
                let text = format!("goes on without the slot {slot}, since etcd is down: {why}");
                self.line(&format!("{} {}  {}", self.paint("33", "!"), named(item), visible(&text)));
            }
            Event::SlotNotReturned { item, slot, why } => {
                let text = format!("the slot {slot} could not be given back, and ends by itself: {why}");
                self.line(&format!("{} {}  {}", self.paint("33", "!"), named(item), visible(&text)));
            }
            Event::Waiting(item) => {
                self.news(&format!("{} {}  waiting", self.paint("2", "…"), named(item)));
            }
            Event::Passing(item) => self.news(&format!("{} {}", self.paint("32", "♥"), named(item))),
            Event::Download { name, done, total } => self.progress(name, *done, *total),
            Event::Saved { path } => {
                let text = format!("{} was edited by hand: saved, see `kpull history --edits`", one_line(path));
                self.line(&format!("{} {}", self.paint("33", "!"), visible(&complete(&text))));
            }
            Event::Lost { id, error } => {
                let id = one_line(id);
                let text = format!("{id}: can't be restored: {error}; `kpull disown {id}` leaves it as it is");
                self.line(&format!("{} {}", self.paint("33", "!"), visible(&complete(&text))));
            }
            Event::Overruled { id, error } => {
                let text = format!("{}: {error}; {}", one_line(id), error.advice().unwrap_or_default());
                self.line(&format!("{} {}", self.paint("33", "!"), visible(&text)));
            }
            Event::RolloutWaiting { why } => {
                self.line(&format!("{} {}", self.paint("36", "…"), visible(&format!("waits for its turn with {why}"))));
            }
            Event::LockNotReturned { why } => {
                let text = format!("the lock could not be given back, which the next run tries again: {why}");
                self.line(&format!("{} {}", self.paint("33", "!"), visible(&text)));
            }
            Event::StaysOn { hold } => {
                self.line(&format!("{} {}", self.paint("33", "!"), visible(&held_back(hold))));
                self.hint("`kpull apply --retry` takes it all the same");
            }
            Event::RolledBack { hold } => {
                let text = format!("release {} is not good for this host: back to release {}", hold.not, hold.serial);
                self.line(&format!("{} {}", self.paint("31", "↶"), visible(&text)));
                self.line(&format!("  {}", self.paint("2", &hold.why)));
            }
            Event::Ended(summary) if summary.changed.is_empty() => {}
            Event::Ended(_) => self.hint("`kpull verify` asks every probe; `kpull rollback` goes back"),
            Event::Done(summary) => {
                self.show();
                self.summary(summary);
            }
        }
    }
}
