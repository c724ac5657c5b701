//! Output for people: changes by role, diffs, progress on a terminal, and a summary that says what to do next.

use std::cell::RefCell;
use std::io::{IsTerminal as _, Write as _};

use indicatif::{ProgressBar, ProgressStyle};

use crate::error::advice::complete;
use crate::error::{counted, mask, one_line, visible};
use crate::kind::{Change, Effect, Item};
use crate::report::terminal::{self, Level};
use crate::report::{Event, Report, Summary};

/// How many lines of a new text are shown, unless `-v` asks for all.
const NEW_LINES: usize = 12;

/// Writes to standard output; progress goes to standard error, and only to a terminal.
#[derive(Debug)]
pub struct Text {
    diffs: bool,
    level: Level,
    hints: bool,
    color: bool,
    /// Columns, if lines are wrapped.
    width: Option<usize>,
    bar: RefCell<Option<(String, ProgressBar)>>,
    /// Changes that are shown by role, once all are known: each role with its lines.
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

    /// With this level of detail, and with hints about what to do next.
    #[must_use]
    pub fn at(self, level: Level) -> Self {
        Self { level, hints: true, ..self }
    }

    /// A text in a colour, by its terminal code. No text can control the terminal.
    pub fn paint(&self, code: &str, text: &str) -> String {
        let text = visible(text);
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text }
    }

    fn line(&self, text: &str) {
        if let Some((_, bar)) = self.bar.borrow_mut().take() {
            bar.finish_and_clear();
        }
        // a reader that has closed its end (`kpull plan | head`) is no error
        let _ = writeln!(std::io::stdout(), "{}", mask::hide(text).trim_end().replace('\n', "\n  | "));
    }

    /// A line that `--quiet` leaves out.
    fn news(&self, text: &str) {
        if self.level > Level::Quiet {
            self.line(text);
        }
    }

    /// Collects a change, to be shown with the others of its role by [`Text::show`].
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

    /// Shows the collected changes, role by role.
    pub fn show(&self) {
        for (role, lines) in self.groups.take() {
            self.news(&self.paint("1;36", &role));
            lines.iter().for_each(|line| self.news(line));
        }
    }

    /// Shows a change at once, with its role beside it.
    fn change(&self, sign: &str, code: &str, item: &Item, change: &Change) {
        let role = self.paint("2", &format!("{:<12}", item.role));
        let used = item.role.chars().count().max(12) + 3;
        for line in self.headline(&format!("{} {role} ", self.paint(code, sign)), used, item, change) {
            self.news(&line);
        }
        self.diff(change, 4).iter().for_each(|line| self.news(line));
    }

    /// The resource and its change, on two lines when they are too long for one. `used` is the width of `before` in columns.
    fn headline(&self, before: &str, used: usize, item: &Item, change: &Change) -> Vec<String> {
        let (id, summary) = (one_line(item.id.as_str()), self.paint("2", &change.summary));
        let place = match self.level {
            Level::Verbose => format!("  {}", self.paint("2", &format!("({})", item.place))),
            _ => String::new(),
        };
        let columns = used + id.chars().count() + 2 + visible(&change.summary).chars().count();
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
        let Summary { host, serial, only, changed, restarted, is_failed, .. } = summary;
        let (is_plan, probes) = (summary.command == "plan", summary.probes);
        let release = serial.map_or_else(|| "unsigned preview".to_owned(), |serial| format!("release {serial}"));
        let changes = match changed.len() {
            0 if *is_failed && is_plan => "nothing else to do".to_owned(),
            0 if *is_failed => "nothing was changed".to_owned(),
            0 if !is_plan && probes > 0 => "nothing to change".to_owned(),
            0 => "nothing to do".to_owned(),
            count => format!("{count} {}", if is_plan { "to change" } else { "changed" }),
        };
        let restarts =
            if restarted.is_empty() { String::new() } else { format!(", {} restarted or reloaded", restarted.len()) };
        let probed = if probes == 0 { String::new() } else { format!(", {} passed", counted(probes, "probe")) };
        let text = format!(
            "{host}: {changes} of {}{restarts}{probed} ({release}, {:.2} s)",
            counted(summary.resources, "resource"),
            summary.took.as_secs_f64()
        );
        self.news(&self.paint("1", &text));
        if !only.is_empty() {
            let rest = match is_plan {
                true => "the rest of the release was not compared",
                false => "the next run without `--only` applies the rest, and decides whether the host is converged",
            };
            self.news(&self.paint("2", &format!("only {}: {rest}", only.join(", "))));
        }
        if !summary.uncompared.is_empty() {
            let count = counted(summary.uncompared.len(), "more resource");
            let text = format!("{count} with secrets: a preview does not compare the secrets themselves");
            self.news(&self.paint("2", &text));
        }
        let next = match serial {
            Some(_) if !only.is_empty() => "`kpull apply` with the same `--only` makes these changes",
            Some(_) => "`kpull apply` makes these changes",
            None => "`kpull sign` makes it a release, `kpull publish` sends it; hosts do not use it until then",
        };
        if is_plan && !changed.is_empty() && !is_failed {
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

/// A resource's role and id.
fn named(item: &crate::kind::Item) -> String {
    one_line(&format!("{:<12} {}", item.role, item.id))
}

impl Report for Text {
    fn event(&self, event: &Event<'_>) {
        let message = event.message().unwrap_or_default();
        let signed = |code: &str, sign: &str| format!("{} {message}", self.paint(code, sign));
        match event {
            Event::Planned(item, change) => self.collect(item, change),
            Event::Changed(item, change) => self.change("✓", "32", item, change),
            Event::Keys(_) => self.line(&signed("36", "⚿")),
            Event::News(..) => self.news(&signed("36", "↓")),
            Event::RolloutWaiting(_) => self.line(&signed("36", "…")),
            Event::SlotTaken(item, ..) => {
                self.news(&format!("{} {}  {}", self.paint("2", "…"), named(item), self.paint("2", &message)));
            }
            Event::SlotUnknown(item, ..) | Event::SlotNotReturned(item, ..) => {
                self.line(&format!("{} {}  {message}", self.paint("33", "!"), named(item)));
            }
            Event::Waiting(item) => self.news(&format!("{} {}  waiting", self.paint("2", "…"), named(item))),
            Event::Passing(item) => self.news(&format!("{} {}", self.paint("32", "♥"), named(item))),
            Event::Download { name, done, total } => self.progress(name, *done, *total),
            Event::StaysOn(_) => {
                self.line(&signed("33", "!"));
                self.hint("`kpull apply --retry` applies it anyway");
            }
            Event::RolledBack(stay) => {
                self.line(&signed("31", "↶"));
                self.line(&format!("  {}", self.paint("2", &stay.why)));
            }
            Event::Ended(summary) if summary.changed.is_empty() => {}
            Event::Ended(_) => self.hint("`kpull verify` runs every probe; `kpull rollback` rolls back"),
            Event::Done(summary) => {
                self.show();
                self.summary(summary);
            }
            // a warning
            _ => self.line(&signed("33", "!")),
        }
    }
}
