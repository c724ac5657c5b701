//! Edits of shared files: what `[[line]]`, `[[setting]]` and `[[block]]` have in common. The rest of the file does not change.

mod ini;
mod json;
pub(super) mod lines;
mod toml;
pub(super) mod values;
mod yaml;

use self::lines::{FormerLines, LineEdit};
use self::values::{FormerSetting, SettingEdit};
use crate::kind::file::{self, in_the_way};
use crate::kind::prelude::*;
use crate::kind::validation::Validation;
use crate::secret::fits;

/// A larger file is not edited, in bytes.
const LARGEST: u64 = 1 << 20;
const BOM: &str = "\u{feff}";

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

/// A file that others own, as an edit of one part of it has it.
#[derive(Clone, Debug)]
pub struct EditedFile {
    /// The file.
    pub(crate) path: AbsolutePath,
    /// Whether the file is removed when nothing is left in it.
    no_file: bool,
    /// Whether the file is overwritten in place.
    pub(super) in_place: bool,
    /// Whether what the edit changes is kept out of diffs.
    pub(super) sensitive: bool,
    /// Whether the edit contains a secret.
    is_secret: bool,
    /// What must accept the new content.
    validate: Option<Validation>,
}

impl EditedFile {
    /// The file of a role; a secret in the edit keeps it out of diffs too.
    pub(super) fn of_role(
        path: AbsolutePath,
        in_place: bool,
        sensitive: bool,
        validate: Option<Vec<String>>,
        build: &dyn Build,
    ) -> Result<Self> {
        let is_secret = build.is_secret();
        let sensitive = sensitive || is_secret;
        let validate = Validation::of(validate, sensitive, build)?;
        Ok(Self { path, no_file: false, in_place, sensitive, is_secret, validate })
    }

    /// The file of an orphan, which undoes an edit.
    pub(super) fn to_undo(path: AbsolutePath, no_file: bool, in_place: bool) -> Self {
        Self { path, no_file, in_place, sensitive: true, is_secret: false, validate: None }
    }

    /// The `About` of an edit with this name, which manages a part of the file.
    pub(super) fn about(&self, kind: &'static str, name: &str, part: &str) -> About {
        About {
            claims: vec![Claim::part(part, &self.path)],
            is_discreet: true,
            is_sensitive: self.sensitive,
            watched: Some(vec![WatchedInput::Path(self.path.to_path_buf())]),
            ..About::new(kind, format!("{}#{name}", self.path), Phase::Files).recorded()
        }
    }

    /// The change of the part that an edit manages; the rest of the file belongs to others, and is not in the diff.
    pub(super) fn change(kind: &str, old: &[u8], new: &[u8], is_hidden: bool) -> Change {
        let change = match (old.is_empty(), new.is_empty()) {
            (true, _) => Change::addition(format!("add the {kind}")),
            (_, true) => Change::removal(format!("remove the {kind}")),
            _ => Change::new(format!("change the {kind}")),
        };
        let only_secrets = !old.is_empty() && fits(new, old);
        Change { diff: Diff::of(old, new, is_hidden), only_secrets, ..change }
    }

    /// Writes the new content, with the mode and owner that the file has. `is_void` returns whether it is empty then.
    pub(super) fn put(&self, work: &Work<'_>, meta: Option<&Meta>, new: &[u8], is_void: bool) -> Result<()> {
        if self.no_file && is_void {
            work.host.root.remove(&self.path)?;
        } else {
            let of_new = Access::of_mode(if self.is_secret { 0o600 } else { 0o644 });
            let access = meta.map_or(of_new, Meta::access);
            file::write(work, self.validate.as_ref(), (&self.path, new), access, self.in_place)?;
        }
        work.host.file_changed(&self.path);
        Ok(())
    }

    /// Records in a prior state how the file is written now; whether that is new.
    pub(super) fn refine(&self, in_place: &mut bool) -> bool {
        std::mem::replace(in_place, self.in_place) != self.in_place
    }
}

/// Refuses anything but a file; `wanted` says what the role wants there.
pub(super) fn check_is_file(path: &Path, what: FileType, wanted: &str) -> Result<()> {
    let (found, help) = match what {
        FileType::File => return Ok(()),
        FileType::Link => ("a link", "name the file that it points to"),
        FileType::Directory | FileType::Special => ("no file", "name a text file"),
    };
    Err(in_the_way(path, found, wanted).help(help))
}

/// The edit of one part of a file.
#[derive(Debug)]
pub struct FileEdit {
    /// The name of its kind.
    pub(super) kind: &'static str,
    /// The file.
    pub(crate) file: EditedFile,
    /// What distinguishes it from other edits of its kind in this file.
    pub(super) name: String,
    /// The part of the file that it manages.
    pub(super) part: String,
    /// What it changes.
    pub(super) operation: Operation,
    /// Whether a missing file is created.
    pub(super) create: bool,
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

impl FileEdit {
    /// The resource that undoes an edit.
    pub(super) fn undo(file: EditedFile, undo: Undo) -> Self {
        let (name, part) = (String::new(), String::new());
        Self { kind: "edit", file, name, part, operation: Operation::Undo(undo), create: false }
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

    fn is_absence(&self) -> bool {
        match &self.operation {
            Operation::Line(line) => line.presence == Presence::Absent,
            Operation::Setting(setting) => setting.value.is_none(),
            Operation::Undo(_) => true,
        }
    }

    fn fails(&self, why: impl fmt::Display) -> Error {
        error!(FILE, "{} can't be edited: {why}", self.file.path)
    }

    fn find(&self, host: &Host) -> Result<Option<Found>> {
        let Some(meta) = host.root.meta(&self.file.path)? else { return Ok(None) };
        check_is_file(&self.file.path, meta.what, "a file to edit")?;
        if meta.size > LARGEST {
            return Err(self.fails("it is larger than 1 MiB").help("edits are for configuration files"));
        }
        let Some((meta, bytes)) = host.root.read(&self.file.path)? else { return Ok(None) };
        let text = String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
        let text = text.ok_or_else(|| {
            self.fails("it is not UTF-8 text").help(format!(
                "find out its encoding with `file {}`; a [[block]] works with other encodings",
                self.file.path
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
                let wanted: Vec<&str> =
                    edits.filter(|edit| edit.file.path == self.file.path).filter_map(Self::line).collect();
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

    fn is_void(&self, text: &str) -> bool {
        match &self.operation {
            Operation::Undo(Undo::Setting(former)) => former.is_void(text),
            _ => text.trim().is_empty(),
        }
    }

    /// Whether a missing file may exist by the time it is needed.
    fn may_come(&self, work: &Work<'_>) -> bool {
        work.host.is_live() && work.has_one_of(&["package", "command", "artifact", "checkout"])
    }

    fn missing(&self) -> Error {
        self.fails("there is no such file on this host")
            .help("install its [[package]], correct `path`, or create it with `create = true`")
    }
}

impl Resource for FileEdit {
    fn about(&self) -> About {
        self.file.about(self.kind, &self.name, &self.part.replace('%', "%25").replace('@', "%40"))
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
        // what only its owner can read may have been a secret
        let is_hidden = self.file.sensitive || found.as_ref().is_some_and(|found| found.meta.mode & 0o077 == 0);
        Ok(Some(EditedFile::change(self.kind, hunk.old.as_bytes(), hunk.new.as_bytes(), is_hidden)))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let found = self.find(work.host)?;
        if found.is_none() && !self.create {
            return if self.is_absence() { Ok(()) } else { Err(self.missing()) };
        }
        let new = self.edited(found.as_ref().map_or("", |found| &found.text), work)?;
        let bytes = found.as_ref().map_or_else(|| new.clone().into_bytes(), |found| found.bytes(&new));
        self.file.put(work, found.as_ref().map(|found| &found.meta), &bytes, self.is_void(&new))
    }

    fn prior_state(&self, _: &Claim, work: &Work<'_>) -> Result<PriorState> {
        let found = self.find(work.host)?;
        let text = found.as_ref().map_or("", |found| &found.text);
        let undo = match &self.operation {
            Operation::Line(line) => line.former(text).map(|former| former.map(Undo::Lines)),
            Operation::Setting(setting) => {
                let others = work.catalog.iter().filter_map(|item| item.as_kind::<Self>());
                let is_secret =
                    others.filter(|other| other.file.path == self.file.path).any(|other| other.file.is_secret);
                setting.former(text, !is_secret).map(|former| Some(Undo::Setting(former)))
            }
            Operation::Undo(_) => Ok(None),
        };
        let Some(undo) = undo.map_err(|why| self.fails(why))? else { return Ok(PriorState::Same) };
        let (path, no_file, in_place) = (self.file.path.to_string(), found.is_none(), self.file.in_place);
        Ok(PriorState::Edited { path, undo, no_file, in_place })
    }

    fn refine(&self, prior: &mut PriorState, work: &Work<'_>) -> Result<bool> {
        let PriorState::Edited { in_place, undo, .. } = prior else { return Ok(false) };
        let mut is_new = self.file.refine(in_place);
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
struct Hunk<'a> {
    /// How many lines come before it.
    at: usize,
    /// Its lines in the first text.
    old: &'a str,
    /// Its lines in the second text.
    new: &'a str,
}

impl<'a> Hunk<'a> {
    fn between(old: &'a str, new: &'a str) -> Self {
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
