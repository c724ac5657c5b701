//! Edits of files that others own: what `[[line]]` and `[[setting]]` have in common. The rest of the file stays as it is.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::document::fields::AbsolutePath;
use crate::error::{Error, Result, code};
use crate::host::Host;
use crate::host::root::{Access, FileType, Meta};
use crate::kind::diff::Diff;
use crate::kind::file::{self, in_the_way};
use crate::kind::line::{FormerLines, LineEdit};
use crate::kind::prior_state::PriorState;
use crate::kind::setting::{FormerSetting, SettingEdit};
use crate::kind::validation::Validation;
use crate::kind::{About, Build, Change, Claim, Phase, Resource, Restorable, WatchedInput, Work};
use crate::secret::fits;

/// A larger file is not edited, in bytes.
const LARGEST: u64 = 1 << 20;
const BOM: &str = "\u{feff}";

/// Whether something is in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    /// It is.
    #[default]
    Present,
    /// It is not.
    Absent,
}

/// What an edit changes in the text of a file.
#[derive(Debug)]
pub enum Operation {
    /// One line, or its absence.
    Line(LineEdit),
    /// One value, or its absence.
    Setting(SettingEdit),
    /// What an orphan restores.
    Undo(Undo),
}

/// How to undo an edit: what was in its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "edit", rename_all = "kebab-case")]
pub enum Undo {
    /// Lines.
    Lines(FormerLines),
    /// A value.
    Setting(FormerSetting),
}

/// The edit of one part of a file.
#[derive(Debug)]
pub struct FileEdit {
    /// The name of its kind.
    pub(super) kind: &'static str,
    /// The file.
    pub(super) path: AbsolutePath,
    /// What distinguishes it from other edits of its kind in this file.
    pub(super) name: String,
    /// The part of the file that it decides about.
    pub(super) part: String,
    /// What it changes.
    pub(super) operation: Operation,
    /// Whether a missing file is created.
    pub(super) create: bool,
    /// Whether the file is removed when nothing is left in it.
    pub(super) no_file: bool,
    /// Whether the file is overwritten in place.
    pub(super) in_place: bool,
    /// Whether what it changes is kept out of diffs.
    pub(super) sensitive: bool,
    /// Whether it contains a secret.
    pub(super) is_secret: bool,
    /// What must accept the new content.
    pub(super) validate: Option<Validation>,
}

/// A file as an edit sees it.
struct Found {
    meta: Meta,
    has_bom: bool,
    has_crlf: bool,
    text: String,
}

impl Found {
    fn bytes(&self, text: &str) -> Vec<u8> {
        let text = if self.has_crlf { text.replace('\n', "\r\n") } else { text.to_owned() };
        [if self.has_bom { BOM } else { "" }, &text].concat().into_bytes()
    }
}

/// What a role decides about a file that it edits, whatever it changes there.
pub(super) struct EditOptions {
    /// See [`FileEdit::create`].
    pub(super) create: bool,
    /// See [`FileEdit::in_place`].
    pub(super) in_place: bool,
    /// Whether the role keeps the edit out of diffs; a secret in it does that too.
    pub(super) sensitive: bool,
    /// The program that must accept the new content.
    pub(super) validate: Option<Vec<String>>,
}

impl FileEdit {
    /// The edit of a role; `names` are its name and the part of the file that it decides about.
    pub(super) fn new(
        kind: &'static str,
        path: AbsolutePath,
        names: (String, String),
        operation: Operation,
        options: EditOptions,
        build: &dyn Build,
    ) -> Result<Self> {
        let (name, part) = names;
        let EditOptions { create, in_place, sensitive, validate } = options;
        let is_secret = build.is_secret();
        let sensitive = sensitive || is_secret;
        let validate = Validation::of(validate, sensitive, build)?;
        let no_file = false;
        Ok(Self { kind, path, name, part, operation, create, no_file, in_place, sensitive, is_secret, validate })
    }

    /// The resource that undoes an edit.
    pub(super) fn undo(path: AbsolutePath, undo: Undo, no_file: bool, in_place: bool) -> Self {
        let (name, part) = (String::new(), String::new());
        let operation = Operation::Undo(undo);
        let (create, sensitive, is_secret) = (false, true, false);
        Self {
            kind: "edit",
            path,
            name,
            part,
            operation,
            create,
            no_file,
            in_place,
            sensitive,
            is_secret,
            validate: None,
        }
    }

    /// Whether two edits of one file can't both be in effect, although they claim different parts.
    pub fn contradicts(&self, other: &Self) -> bool {
        match (&self.operation, &other.operation) {
            (Operation::Line(one), Operation::Line(other)) => one.contradicts(other) || other.contradicts(one),
            (Operation::Setting(one), Operation::Setting(other)) => one.contradicts(other),
            (Operation::Line(line), Operation::Setting(setting))
            | (Operation::Setting(setting), Operation::Line(line)) => {
                setting.as_line().is_some_and(|text| line.changes(&text))
            }
            _ => false,
        }
    }

    /// The path of the file.
    pub fn path(&self) -> &AbsolutePath {
        &self.path
    }

    fn is_absence(&self) -> bool {
        match &self.operation {
            Operation::Line(line) => line.presence == Presence::Absent,
            Operation::Setting(setting) => setting.value.is_none(),
            Operation::Undo(_) => true,
        }
    }

    fn fails(&self, why: impl fmt::Display) -> Error {
        Error::new(code::FILE, format!("{} can't be edited: {why}", self.path))
    }

    fn find(&self, host: &Host) -> Result<Option<Found>> {
        let Some(meta) = host.root.meta(&self.path)? else { return Ok(None) };
        let (found, help) = match meta.what {
            FileType::File => ("", ""),
            FileType::Link => ("a link", "name the file that it leads to"),
            FileType::Directory | FileType::Special => ("no file", "name a text file"),
        };
        if !found.is_empty() {
            return Err(in_the_way(&self.path, found, "to edit a file there").help(help));
        }
        if meta.size > LARGEST {
            return Err(self.fails("it is larger than 1 MiB").help("edits are for configuration files"));
        }
        let Some((meta, bytes)) = host.root.read(&self.path)? else { return Ok(None) };
        let text = String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
        let text = text.ok_or_else(|| {
            self.fails("it is not UTF-8 text").help(format!(
                "look at it with `file {}`; a [[block]] can be in a file with another encoding",
                self.path
            ))
        })?;
        let has_bom = text.starts_with(BOM);
        let text = text.strip_prefix(BOM).unwrap_or(&text);
        let has_crlf = text.contains('\n') && text.split('\n').rev().skip(1).all(|line| line.ends_with('\r'));
        let text = if has_crlf { text.replace("\r\n", "\n") } else { text.to_owned() };
        Ok(Some(Found { meta, has_bom, has_crlf, text }))
    }

    /// The new text of a file with this text.
    fn edited(&self, text: &str, work: &Work<'_>) -> Result<String> {
        let new = match &self.operation {
            Operation::Line(line) => line.edited(text),
            Operation::Setting(setting) => setting.edited(text),
            Operation::Undo(Undo::Setting(former)) => former.restored(text),
            Operation::Undo(Undo::Lines(former)) => {
                let edits = work.catalog.iter().filter_map(|item| item.as_kind::<Self>());
                let wanted: Vec<&str> = edits.filter(|edit| edit.path == self.path).filter_map(Self::line).collect();
                former.restored(text, &wanted)
            }
        };
        new.map_err(|why| self.fails(why))
    }

    fn line(&self) -> Option<&str> {
        match &self.operation {
            Operation::Line(edit) if edit.presence == Presence::Present => edit.line.as_deref(),
            _ => None,
        }
    }

    /// Whether a missing file may exist by the time it is needed.
    fn may_come(&self, work: &Work<'_>) -> bool {
        work.host.is_live()
            && work
                .catalog
                .iter()
                .any(|item| matches!(item.about.kind, "package" | "command" | "artifact" | "checkout"))
    }

    fn missing(&self) -> Error {
        self.fails("there is no such file on this host")
            .help("install what brings it with a [[package]], correct `path`, or create it with `create = true`")
    }
}

impl Resource for FileEdit {
    fn about(&self) -> About {
        About {
            claims: vec![Claim::part(&self.part.replace('%', "%25").replace('@', "%40"), &self.path)],
            is_discreet: true,
            is_sensitive: self.sensitive,
            ..About::new(self.kind, format!("{}#{}", self.path, self.name), Phase::Files)
        }
    }

    fn restorable(&self) -> Option<&dyn Restorable> {
        Some(self)
    }

    fn watched_inputs(&self, _: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        Ok(Some(vec![WatchedInput::Path(self.path.to_path_buf())]))
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let found = self.find(work.host)?;
        if found.is_none() && self.is_absence() {
            return Ok(None);
        }
        if found.is_none() && !self.create && !self.may_come(work) {
            return Err(self.missing());
        }
        let old = found.as_ref().map_or("", |found| &found.text);
        let new = self.edited(old, work)?;
        if new == old && found.is_some() {
            return Ok(None);
        }
        let hunk = Hunk::between(old, &new);
        let change = match (hunk.old.is_empty(), hunk.new.is_empty()) {
            (true, _) => Change::addition(format!("add the {}", self.kind)),
            (_, true) => Change::removal(format!("remove the {}", self.kind)),
            _ => Change::new(format!("change the {}", self.kind)),
        };
        // only of what changes: the rest of the file belongs to others; and what only its owner can read may have been a secret
        let is_hidden = self.sensitive || found.as_ref().is_some_and(|found| found.meta.mode & 0o077 == 0);
        let only_secrets = !hunk.old.is_empty() && fits(hunk.new.as_bytes(), hunk.old.as_bytes());
        let diff = Diff::of(hunk.old.as_bytes(), hunk.new.as_bytes(), is_hidden);
        Ok(Some(Change { diff, only_secrets, ..change }))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let found = self.find(work.host)?;
        if found.is_none() && !self.create {
            return if self.is_absence() { Ok(()) } else { Err(self.missing()) };
        }
        let new = self.edited(found.as_ref().map_or("", |found| &found.text), work)?;
        let (access, bytes) = match &found {
            Some(found) => {
                let Meta { mode, uid, gid, .. } = found.meta;
                (Access { mode, uid: Some(uid), gid: Some(gid) }, found.bytes(&new))
            }
            None => {
                let mode = if self.is_secret { 0o600 } else { 0o644 };
                (Access { mode, uid: None, gid: None }, new.clone().into_bytes())
            }
        };
        if self.no_file && self.is_void(&new) {
            work.host.root.remove(&self.path)?;
        } else {
            file::write(work, self.validate.as_ref(), (&self.path, &bytes), access, self.in_place)?;
        }
        work.host.file_changed(&self.path);
        Ok(())
    }
}

impl FileEdit {
    fn is_void(&self, text: &str) -> bool {
        match &self.operation {
            Operation::Undo(Undo::Setting(former)) => former.is_void(text),
            _ => text.trim().is_empty(),
        }
    }
}

impl Restorable for FileEdit {
    fn prior_state(&self, _: &Claim, work: &Work<'_>) -> Result<PriorState> {
        let found = self.find(work.host)?;
        let text = found.as_ref().map_or("", |found| &found.text);
        let undo = match &self.operation {
            Operation::Line(line) => line.former(text).map(|former| former.map(Undo::Lines)),
            Operation::Setting(setting) => {
                let others = work.catalog.iter().filter_map(|item| item.as_kind::<Self>());
                let is_secret = others.filter(|other| other.path == self.path).any(|other| other.is_secret);
                setting.former(text, !is_secret).map(|former| Some(Undo::Setting(former)))
            }
            Operation::Undo(_) => Ok(None),
        };
        let Some(undo) = undo.map_err(|why| self.fails(why))? else { return Ok(PriorState::Same) };
        let (path, no_file, in_place) = (self.path.to_string(), found.is_none(), self.in_place);
        Ok(PriorState::Edited { path, undo, no_file, in_place })
    }

    fn refine(&self, prior: &mut PriorState, work: &Work<'_>) -> Result<bool> {
        let PriorState::Edited { in_place, undo, .. } = prior else { return Ok(false) };
        let mut is_new = std::mem::replace(in_place, self.in_place) != self.in_place;
        if let (Operation::Line(line), Undo::Lines(former)) = (&self.operation, undo)
            && line.presence == Presence::Absent
            && !former.all
        {
            // an earlier release changed one line; this one removes every line that matches
            let found = self.find(work.host)?;
            let text = found.as_ref().map_or("", |found| &found.text);
            former.extend(text).map_err(|why| self.fails(why))?;
            is_new = true;
        }
        Ok(is_new)
    }
}

/// Where two texts differ: whole lines, with their line breaks.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hunk<'a> {
    /// How many lines come before it.
    pub(super) at: usize,
    /// Its lines in the first text.
    pub(super) old: &'a str,
    /// Its lines in the second text.
    pub(super) new: &'a str,
}

impl<'a> Hunk<'a> {
    pub(super) fn between(old: &'a str, new: &'a str) -> Self {
        let lines = |text: &'a str| text.split_inclusive('\n');
        let (mut at, mut head) = (0, 0);
        for (one, other) in lines(old).zip(lines(new)) {
            if one != other {
                break;
            }
            (at, head) = (at + 1, head + one.len());
        }
        let rest = |text: &'a str| text.get(head..).unwrap_or_default();
        let (old, new) = (rest(old), rest(new));
        let same = lines(old).rev().zip(lines(new).rev()).take_while(|(one, other)| one == other);
        let tail: usize = same.map(|(line, _)| line.len()).sum();
        let start = |text: &'a str| text.get(..text.len().saturating_sub(tail)).unwrap_or_default();
        Self { at, old: start(old), new: start(new) }
    }
}
