//! One line of a text, or its absence.

use fancy_regex::Regex;

use crate::kind::prelude::*;

/// Where a new line goes.
#[derive(Debug)]
pub enum InsertAt {
    /// After the last match, or to the end.
    After(Regex),
    /// Before the first match, or to the end.
    Before(Regex),
    /// To the beginning.
    Begin,
    /// To the end.
    End,
}

/// A line that is in a text, or is not.
#[derive(Debug)]
pub struct LineEdit {
    pub(in crate::kind) line: Option<String>,
    pub(in crate::kind) regex: Option<Regex>,
    pub(in crate::kind) insert_at: InsertAt,
    pub(in crate::kind) presence: Presence,
}

impl LineEdit {
    /// The text with the line, or without it.
    pub(super) fn edited(&self, text: &str) -> Result<String, String> {
        let mut lines = Lines::of(text);
        let found = lines.matching(self.regex.as_ref(), self.line.as_deref())?;
        match (&self.line, self.presence, found.last()) {
            (_, Presence::Absent, _) => lines.remove(&found),
            (Some(line), _, Some(at)) => lines.set(*at, line),
            (Some(line), _, None) => {
                let at = self.position(&lines)?;
                lines.insert(at, line);
                lines.is_ended |= at.saturating_add(1) == lines.all.len();
            }
            (None, ..) => {}
        }
        Ok(lines.to_string())
    }

    fn position(&self, lines: &Lines) -> Result<usize, String> {
        let end = lines.all.len();
        Ok(match &self.insert_at {
            InsertAt::After(regex) => lines.matching(Some(regex), None)?.last().map_or(end, |at| at.saturating_add(1)),
            InsertAt::Before(regex) => lines.matching(Some(regex), None)?.first().copied().unwrap_or(end),
            InsertAt::Begin => 0,
            InsertAt::End => end,
        })
    }

    /// What the edit will replace in a text; `None` if nothing needs to be restored.
    pub(super) fn former(&self, text: &str) -> Result<Option<FormerLines>, String> {
        let lines = Lines::of(text);
        let mut found = lines.matching(self.regex.as_ref(), self.line.as_deref())?;
        let all = self.presence == Presence::Absent;
        if !all {
            if self.regex.is_none() && !found.is_empty() {
                return Ok(None);
            }
            found = found.into_iter().last().into_iter().collect();
        }
        let is_last = match all {
            true => found.len() == lines.all.len(),
            false => found.is_empty() && self.position(&lines)? == lines.all.len(),
        };
        let unended = !lines.is_ended && is_last;
        let regex = self.regex.as_ref().map(ToString::to_string);
        let line = if regex.is_some() { None } else { self.line.clone() };
        Ok(Some(FormerLines { regex, line, all, unended, lines: lines.former(&found) }))
    }

    /// Whether this edit changes or removes the line of another.
    pub(super) fn contradicts(&self, other: &Self) -> bool {
        let Some(line) = other.line.as_deref().filter(|_| other.presence == Presence::Present) else { return false };
        let is_same = self.presence == Presence::Present && self.line.as_deref() == Some(line);
        !is_same && self.changes(line)
    }

    /// Whether this edit finds a line.
    pub(super) fn changes(&self, line: &str) -> bool {
        matches(self.regex.as_ref(), self.line.as_deref(), line).unwrap_or(false)
    }
}

fn matches(regex: Option<&Regex>, line: Option<&str>, text: &str) -> Result<bool, String> {
    let text = text.strip_suffix('\r').unwrap_or(text);
    match regex {
        Some(regex) => regex.is_match(text).map_err(|error| format!("the regular expression fails on a line: {error}")),
        None => Ok(line == Some(text)),
    }
}

/// The lines that an edit replaces or removes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerLines {
    /// What finds the line of the edit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    regex: Option<String>,
    /// The line of the edit, without a regular expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    line: Option<String>,
    /// Whether these are all lines that matched.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) all: bool,
    /// Whether the last line of the file had no line break, which the edit adds or removes with the line.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unended: bool,
    /// The lines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    lines: Vec<Former>,
}

/// A line and where it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Former {
    at: usize,
    /// The line before it; `None` for the first one.
    below: Option<String>,
    text: String,
}

impl FormerLines {
    fn found(&self, lines: &Lines) -> Result<Vec<usize>, String> {
        let regex = self.regex.as_deref().map(Regex::new).transpose().map_err(|error| error.to_string())?;
        lines.matching(regex.as_ref(), self.line.as_deref())
    }

    /// The text as it was before the edit, but for what others have changed. Lines that other edits want stay.
    pub(super) fn restored(&self, text: &str, wanted: &[&str]) -> Result<String, String> {
        let mut lines = Lines::of(text);
        let mut found = self.found(&lines)?;
        found.retain(|at| !lines.all.get(*at).is_some_and(|line| wanted.contains(&line.as_str())));
        match (self.all, found.last(), self.lines.first()) {
            (false, Some(at), Some(former)) => lines.set(*at, &former.text),
            (false, Some(at), None) => {
                lines.remove(&[*at]);
                lines.is_ended &= !(self.unended && *at == lines.all.len());
            }
            _ => {
                lines.remove(&found);
                lines.is_ended &= !(self.unended && lines.all.is_empty());
                self.lines.iter().for_each(|former| lines.put_back(former));
            }
        }
        Ok(lines.to_string())
    }

    /// Makes this the record of all lines that match in a text, which has the edit.
    pub(super) fn extend(&mut self, text: &str) -> Result<(), String> {
        let lines = Lines::of(text);
        let mut found = self.found(&lines)?;
        // the last one is the edit's own
        found.pop();
        let mut all = lines.former(&found);
        all.append(&mut self.lines);
        (self.lines, self.all) = (all, true);
        Ok(())
    }
}

/// A text as lines.
struct Lines {
    all: Vec<String>,
    /// Whether the last line has a line break.
    is_ended: bool,
}

impl Lines {
    fn of(text: &str) -> Self {
        let is_ended = text.is_empty() || text.ends_with('\n');
        let all = text.split_inclusive('\n').map(|line| line.strip_suffix('\n').unwrap_or(line).to_owned()).collect();
        Self { all, is_ended }
    }

    fn matching(&self, regex: Option<&Regex>, line: Option<&str>) -> Result<Vec<usize>, String> {
        let mut found = Vec::new();
        for (at, text) in self.all.iter().enumerate() {
            if matches(regex, line, text)? {
                found.push(at);
            }
        }
        Ok(found)
    }

    fn set(&mut self, at: usize, text: &str) {
        if let Some(line) = self.all.get_mut(at) {
            *line = text.to_owned();
        }
    }

    fn insert(&mut self, at: usize, text: &str) {
        self.all.insert(at.min(self.all.len()), text.to_owned());
    }

    fn remove(&mut self, which: &[usize]) {
        let mut at = 0;
        self.all.retain(|_| {
            at += 1;
            !which.contains(&(at - 1))
        });
    }

    fn former(&self, which: &[usize]) -> Vec<Former> {
        let line = |at: usize| self.all.get(at).cloned();
        let former = |at: &usize| Some(Former { at: *at, below: at.checked_sub(1).and_then(line), text: line(*at)? });
        which.iter().filter_map(former).collect()
    }

    /// Inserts a former line below the line that it was below, the nearest one if there are several.
    fn put_back(&mut self, former: &Former) {
        let is_below = |at: &usize| at.checked_sub(1).and_then(|at| self.all.get(at)) == former.below.as_ref();
        let at = (0..=self.all.len()).filter(is_below).min_by_key(|at| at.abs_diff(former.at));
        self.insert(at.unwrap_or(former.at), &former.text);
    }
}

impl fmt::Display for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.all.join("\n"))?;
        f.write_str(if self.is_ended && !self.all.is_empty() { "\n" } else { "" })
    }
}
