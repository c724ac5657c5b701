//! One of the account files, as lines of fields.

use std::path::Path;

use crate::error::Result;
use crate::host::root::{Access, Root};

/// The users.
pub const PASSWD: &str = "/etc/passwd";
/// The groups.
pub const GROUP: &str = "/etc/group";
/// The passwords of groups.
pub(super) const GSHADOW: &str = "/etc/gshadow";

/// The fields of a line.
pub(super) fn fields(line: &[u8]) -> Vec<&[u8]> {
    line.split(|byte| *byte == b':').collect()
}

/// A number among the fields of a line.
pub(super) fn number(fields: &[&[u8]], at: usize) -> Option<u32> {
    std::str::from_utf8(fields.get(at)?).ok()?.parse().ok()
}

/// The members among the fields of a group's line.
pub(super) fn members<'a>(fields: &[&'a [u8]]) -> Vec<&'a [u8]> {
    let list = fields.get(3).copied().unwrap_or_default();
    list.split(|byte| *byte == b',').filter(|member| !member.is_empty()).collect()
}

/// One of the account files. Only changed lines are written anew: they are bytes, since they can have any encoding and too few
/// fields.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) path: &'static Path,
    pub(super) lines: Vec<Vec<u8>>,
    /// Further lines from NSS, which are never written.
    pub(super) others: Vec<Vec<u8>>,
    access: Access,
    pub(super) exists: bool,
    changed: bool,
}

impl Table {
    /// Reads a file; a missing one counts as empty and will be created with `mode`.
    pub(super) fn read(root: &Root, path: &'static str, mode: u32) -> Result<Self> {
        let path = Path::new(path);
        let found = root.read(path)?;
        let access = match &found {
            Some((meta, _)) => meta.access(),
            None => Access::of_mode(mode),
        };
        let (exists, content) = (found.is_some(), found.map(|(_, content)| content).unwrap_or_default());
        let mut lines: Vec<Vec<u8>> = content.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        lines.pop_if(|last| last.is_empty());
        Ok(Self { path, lines, others: Vec::new(), access, exists, changed: false })
    }

    /// All lines, also those from NSS, each with its name.
    pub(super) fn lines(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let name = |line| fields(line).first().copied().unwrap_or_default();
        self.lines.iter().chain(&self.others).map(move |line| (line.as_slice(), name(line)))
    }

    /// The fields of the line of a name.
    pub(super) fn find(&self, name: &str) -> Option<Vec<&[u8]>> {
        self.lines().find(|(_, known)| *known == name.as_bytes()).map(|(line, _)| fields(line))
    }

    /// The index of a name in the file itself.
    fn position(&self, name: &[u8]) -> Option<usize> {
        self.lines.iter().position(|line| fields(line).first() == Some(&name))
    }

    /// Whether a name is in the file itself.
    pub(super) fn has(&self, name: &str) -> bool {
        self.position(name.as_bytes()).is_some()
    }

    /// All names with their numbers.
    pub(super) fn numbers(&self) -> impl Iterator<Item = (&[u8], u32)> {
        self.lines().filter_map(|(line, name)| Some((name, number(&fields(line), 2)?)))
    }

    /// Replaces or adds the line of the name `fields[0]`.
    pub(super) fn set(&mut self, fields: &[&[u8]]) {
        let line = fields.join(&b':');
        match self.position(fields.first().copied().unwrap_or_default()) {
            Some(at) if self.lines[at] == line => return,
            Some(at) => self.lines[at] = line,
            // lines of NIS with `+` and `-` apply to all lines after them, so they stay last
            None => {
                let is_of_nis = |old: &Vec<u8>| matches!(old.first(), Some(b'+' | b'-'));
                let at = self.lines.iter().position(is_of_nis).unwrap_or(self.lines.len());
                self.lines.insert(at, line);
            }
        }
        self.changed = true;
    }

    /// Removes the lines of a name.
    pub(super) fn remove(&mut self, name: &str) {
        let count = self.lines.len();
        self.lines.retain(|line| fields(line).first() != Some(&name.as_bytes()));
        self.changed |= self.lines.len() != count;
    }

    /// Changes the members in the last of a group's four fields; an empty list may be missing together with its colon.
    pub(super) fn change_members(&mut self, group: &str, change: impl FnOnce(&mut Vec<Vec<u8>>)) {
        // programs ignore an incomplete line
        let is_group = |line: &Vec<u8>| {
            let fields = fields(line);
            fields.first() == Some(&group.as_bytes())
                && (self.path == Path::new(GSHADOW) || number(&fields, 2).is_some())
        };
        let Some(at) = self.lines.iter().position(is_group) else { return };
        let mut line = fields(&self.lines[at]);
        line.resize(line.len().max(4), b"");
        let old: Vec<Vec<u8>> = members(&line).into_iter().map(<[u8]>::to_vec).collect();
        let mut new = old.clone();
        change(&mut new);
        if new != old {
            let new = new.join(&b',');
            line[3] = &new;
            self.lines[at] = line.join(&b':');
            self.changed = true;
        }
    }

    /// Writes the file if it has changed.
    pub(super) fn write(&self, root: &Root) -> Result<()> {
        if !self.changed {
            return Ok(());
        }
        let mut text = self.lines.join(&b'\n');
        text.push(b'\n');
        root.write(self.path, &text, self.access)
    }
}
