//! Errors that a person can act on: what failed, where, why, and what to do.

pub mod advice;
pub mod code;
pub mod mask;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::error::Error as StdError;
use std::fmt::{self, Write as _};
use std::io;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};
use nix::errno::Errno;

use crate::text::leading;
pub use code::Code;

/// The result of fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The exit codes of `kpull`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Nothing to do, or everything applied.
    Done = 0,
    /// An error; nothing is lost.
    Failed = 1,
    /// `plan` found changes.
    Changes = 2,
    /// Applied, but a unit or a probe did not become healthy.
    Unhealthy = 3,
    /// The release was refused.
    Refused = 4,
    /// Another run holds the lock.
    Busy = 75,
}

/// An error of a class, `error!(CODE, "text with {values}")`. More is added by the methods of [`Error`].
macro_rules! error {
    ($code:ident, $($what:tt)+) => {
        $crate::error::Error::new($crate::error::code::$code, format_args!($($what)+))
    };
}
pub(crate) use error;

/// A release that must not be applied, as [`Error::refused`]: `refused!(CODE, "text with {values}")`.
macro_rules! refused {
    ($code:ident, $($what:tt)+) => {
        $crate::error::Error::refused($crate::error::code::$code, format_args!($($what)+))
    };
}
pub(crate) use refused;

/// A place in a file that a person wrote.
#[derive(Clone, Debug)]
pub struct Place {
    /// The file's path in the site.
    pub file: String,
    /// The whole text of the file.
    pub text: Arc<str>,
    /// The range of bytes.
    pub span: Range<usize>,
}

impl Place {
    /// Line and column, both from 1; columns count characters.
    pub fn line_column(&self) -> (usize, usize) {
        let before = self.text.get(..self.span.start).unwrap_or(&self.text);
        let line = before.rsplit('\n').next().unwrap_or(before);
        (before.matches('\n').count() + 1, line.chars().count() + 1)
    }

    /// Whether the lines of the place and around it are short enough to show. The library that renders them panics at 65,536 columns.
    pub fn can_be_shown(&self) -> bool {
        const LONGEST: usize = 4000;
        let before = self.text.get(..self.span.start).unwrap_or_default().rsplit('\n').take(2);
        let behind = self.text.get(self.span.end..).unwrap_or_default().split('\n').take(2);
        let own = self.text.get(self.span.clone()).unwrap_or_default().split('\n');
        before.chain(own).chain(behind).all(|part| part.len() <= LONGEST)
    }

    /// The same place with `*` for every byte of it, for secrets.
    #[must_use]
    pub fn without_text(self) -> Self {
        Self { text: starred(&self.text, std::slice::from_ref(&self.span)).into(), ..self }
    }
}

/// The text with `*` for every byte of the characters in `pieces`, except line breaks. Its length stays the same.
pub fn starred(text: &str, pieces: &[Range<usize>]) -> String {
    let mut out = String::with_capacity(text.len());
    for (start, c) in text.char_indices() {
        let end = start + c.len_utf8();
        match c != '\n' && pieces.iter().any(|piece| piece.start < end && start < piece.end) {
            true => out.extend((start..end).map(|_| '*')),
            false => out.push(c),
        }
    }
    out
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.line_column();
        write!(f, "{}:{line}:{column}", self.file)
    }
}

/// An error: what happened, where in a file, why, and what to do.
#[derive(Clone, Debug)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    code: &'static Code,
    exit: Exit,
    what: String,
    cause: Option<String>,
    help: Option<String>,
    /// The first sentence of the help, which identifies the fix.
    remedy: Option<String>,
    label: Option<String>,
    place: Option<Place>,
    passes: bool,
    /// Whether a path on this host refuses any content.
    is_of_path: bool,
    /// Whether the host caused it, not the release.
    is_of_host: bool,
    /// The text of the place as shown, created on demand, since many errors can be in one long text.
    source: OnceLock<NamedSource<Arc<str>>>,
    others: Vec<Error>,
}

impl Error {
    /// An error of a class, with exit code 1. Control characters in `what` are made visible, since names come from outside.
    pub fn new(code: &'static Code, what: impl fmt::Display) -> Self {
        Self(Box::new(Inner {
            code,
            exit: Exit::Failed,
            what: visible(&what.to_string()),
            cause: None,
            help: None,
            remedy: None,
            label: None,
            place: None,
            passes: false,
            is_of_path: false,
            is_of_host: false,
            source: OnceLock::new(),
            others: Vec::new(),
        }))
    }

    /// An error with an underlying one. An errno in that one (no space, no permission) overrides the class and sets the advice.
    pub fn of(code: &'static Code, what: impl fmt::Display, why: &(dyn StdError + 'static)) -> Self {
        let number = number(why);
        let error = Self::new(number.and_then(class).unwrap_or(code), what).because(causes(why));
        match number.and_then(advice) {
            Some(advice) => error.help(advice),
            None => error,
        }
    }

    /// A release that must not be applied: exit code 4.
    pub fn refused(code: &'static Code, what: impl fmt::Display) -> Self {
        Self::new(code, what).exit(Exit::Refused)
    }

    /// Wraps this error in another one, and keeps the advice.
    #[must_use]
    pub fn wrapped(self, code: &'static Code, what: impl fmt::Display) -> Self {
        let mut error = Self::new(code, what).because(&self);
        error.0.help.clone_from(&self.0.help);
        error.0.remedy = self.0.remedy;
        error
    }

    /// Sets a more specific class.
    #[must_use]
    pub fn with_code(mut self, code: &'static Code) -> Self {
        self.0.code = code;
        self
    }

    /// Its class, which `kpull help CODE` explains.
    pub fn code(&self) -> &'static Code {
        self.0.code
    }

    /// Sets the exit code.
    #[must_use]
    pub fn exit(mut self, exit: Exit) -> Self {
        self.0.exit = exit;
        self
    }

    /// Marks it as temporary and not caused by a release: the next run continues from here.
    #[must_use]
    pub fn passing(mut self) -> Self {
        self.0.passes = true;
        self
    }

    /// Whether it is temporary.
    pub fn passes(&self) -> bool {
        self.0.passes
    }

    /// Marks it as a path on this host that refuses any content: an immutable file, a directory in place of a file.
    #[must_use]
    pub fn of_path(mut self) -> Self {
        self.0.is_of_path = true;
        self
    }

    /// Whether a path on this host refuses any content, not because the host as a whole lacks something.
    pub fn is_of_path(&self) -> bool {
        self.0.is_of_path && !self.is_of_machine()
    }

    /// Whether the host as a whole lacks something: space, a disk that works, memory.
    pub fn is_of_machine(&self) -> bool {
        [code::SPACE, code::DISK, code::LIMIT].contains(&self.code())
    }

    /// Marks it as caused by the host, not by the release: the last good release fails in the same way.
    #[must_use]
    pub fn of_host(mut self) -> Self {
        self.0.is_of_host = true;
        self
    }

    /// Whether the host caused it, not the release.
    pub fn is_of_host(&self) -> bool {
        self.0.is_of_host
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, cause: impl fmt::Display) -> Self {
        self.0.cause = Some(visible(&cause.to_string()));
        self
    }

    /// Adds advice. Commands in it can be pasted, see [`advice::complete`].
    #[must_use]
    pub fn help(mut self, help: impl AsRef<str>) -> Self {
        self.0.help = Some(visible(&advice::complete(help.as_ref())));
        self.0.remedy.clone_from(&self.0.help);
        self
    }

    /// Adds advice, unless there is some already.
    #[must_use]
    pub fn or_help(self, help: impl AsRef<str>) -> Self {
        if self.0.help.is_some() { self } else { self.help(help) }
    }

    /// Adds the name in `known` nearest to `word` as advice, or `otherwise` if none is near.
    #[must_use]
    pub fn help_nearest<'a>(
        self,
        word: &str,
        known: impl IntoIterator<Item = &'a str>,
        otherwise: impl AsRef<str>,
    ) -> Self {
        match nearest(word, known) {
            Some(near) => self.help(format!("did you mean `{near}`?")),
            None => self.help(otherwise),
        }
    }

    /// Adds another sentence to the advice.
    #[must_use]
    pub fn help_more(mut self, more: &str) -> Self {
        let more = visible(&advice::complete(more));
        self.0.help = Some(self.0.help.take().map_or_else(|| more.clone(), |help| format!("{help}; {more}")));
        self
    }

    /// Adds the place in a file, with a label. Credentials in addresses near it are not shown.
    #[must_use]
    pub fn at(mut self, place: Place, label: impl AsRef<str>) -> Self {
        self.0.label = Some(visible(label.as_ref()));
        self.0.place = Some(place);
        self.0.source = OnceLock::new();
        self
    }

    /// Joins several errors into one; `None` if there are none.
    pub fn all(errors: Vec<Error>) -> Option<Self> {
        // some of them may be joined already
        let mut each = errors.into_iter().flat_map(Error::each);
        let mut first = each.next()?;
        first.0.others = each.collect();
        Some(first)
    }

    /// Fails with [`Error::all`] of these errors, if there are any.
    pub fn check(errors: Vec<Error>) -> Result<()> {
        Self::all(errors).map_or(Ok(()), Err)
    }

    /// [`Error::all`] without duplicates: a mistake in a role occurs on every host with the role.
    pub fn distinct(errors: Vec<Error>) -> Option<Self> {
        let mut seen = HashSet::new();
        let key = |error: &Error| (error.to_string(), error.place().map(ToString::to_string));
        Self::all(errors.into_iter().flat_map(Error::each).filter(|error| seen.insert(key(error))).collect())
    }

    /// The errors to show: of those with one root cause, the first, which names the others. Errors have one root cause if the same
    /// command fixes them, or if their cause and advice are the same.
    pub fn grouped(&self) -> Vec<Self> {
        let mut known: HashMap<String, usize> = HashMap::new();
        let mut groups: Vec<(&Self, Vec<&Self>)> = Vec::new();
        for error in std::iter::once(self).chain(self.others()) {
            let index = *known.entry(error.root()).or_insert(groups.len());
            match groups.get_mut(index) {
                Some((_, alike)) => alike.push(error),
                None => groups.push((error, Vec::new())),
            }
        }
        groups.into_iter().map(|(error, alike)| error.clone().naming(&alike)).collect()
    }

    /// What errors with one root cause have in common.
    fn root(&self) -> String {
        match (&self.0.remedy, &self.0.cause) {
            (Some(remedy), _) if remedy.contains(advice::MARK) => remedy.clone(),
            (Some(remedy), Some(cause)) => format!("{cause}\n{remedy}"),
            _ => self.to_string(),
        }
    }

    /// Adds the names of other errors with the same cause.
    fn naming(self, others: &[&Self]) -> Self {
        const SOME: usize = 3;
        let mut names: Vec<String> = Vec::new();
        for other in others {
            let name = other.place().map_or_else(|| other.0.what.clone(), ToString::to_string);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let (count, more) = (others.len(), names.len().saturating_sub(SOME));
        names.truncate(SOME);
        let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
        match count {
            0 => self,
            _ => self.help_more(&format!(
                "{} with the same cause: {}{rest}",
                counted(count, "more error"),
                names.join(", ")
            )),
        }
    }

    /// This error and those joined with it.
    pub fn each(mut self) -> impl Iterator<Item = Self> {
        let others = std::mem::take(&mut self.0.others);
        std::iter::once(self).chain(others)
    }

    /// The errors joined with this one.
    pub fn others(&self) -> &[Error] {
        &self.0.others
    }

    /// The exit code for this error.
    pub fn exit_code(&self) -> Exit {
        self.0.exit
    }

    /// The place in a file, if there is one.
    pub fn place(&self) -> Option<&Place> {
        self.0.place.as_ref()
    }

    /// The label of the place.
    pub fn label(&self) -> Option<&str> {
        self.0.label.as_deref()
    }

    /// The advice, if there is some.
    pub fn advice(&self) -> Option<&str> {
        self.0.help.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)?;
        match &self.0.cause {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

impl StdError for Error {}

impl Diagnostic for Error {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.0.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        let place = self.0.place.as_ref().filter(|place| place.can_be_shown())?;
        let shown = || NamedSource::new(visible(&place.file), without_credentials(&masked(&place.text)));
        Some(self.0.source.get_or_init(shown))
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let place = self.0.place.as_ref().filter(|place| place.can_be_shown())?;
        let label = LabeledSpan::new_with_span(self.0.label.clone(), place.span.clone());
        Some(Box::new(std::iter::once(label)))
    }
}

/// The value, or `None` after adding the error to `errors`.
pub fn keep<T>(errors: &mut Vec<Error>, result: Result<T>) -> Option<T> {
    result.map_err(|error| errors.push(error)).ok()
}

/// Adds what was being done to an underlying error.
pub trait Context<T> {
    /// Converts any error: `what` says what was being done, the error itself becomes the cause.
    fn context<M: fmt::Display>(self, code: &'static Code, what: impl FnOnce() -> M) -> Result<T>;
}

impl<T, E: StdError + 'static> Context<T> for Result<T, E> {
    fn context<M: fmt::Display>(self, code: &'static Code, what: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|error| Error::of(code, what(), &error))
    }
}

/// Advice for an errno that does not depend on what was being done.
pub fn advice(errno: Errno) -> Option<&'static str> {
    Some(match errno {
        Errno::ENOSPC => "free some space or inodes there (`df -h` and `df -i` show which), then run again",
        Errno::EDQUOT => {
            "the quota there is exhausted: raise it, or remove files that count towards it, then run again"
        }
        Errno::EROFS => "the file system is mounted read-only; the kernel does that too when its disk fails (`dmesg`)",
        Errno::EIO => "the disk or the file system there fails: see `dmesg`, and run again once it is repaired",
        Errno::EMFILE => "kpull can't open as many files as it needs: raise `ulimit -n`, or LimitNOFILE= of its unit",
        Errno::ENFILE => {
            "this host has reached its limit of open files: raise fs.file-max, or stop the processes that have them"
        }
        Errno::ENOMEM => {
            "there is not enough memory, for this host or for kpull's unit (MemoryMax=): run again with more"
        }
        _ => return None,
    })
}

/// The class of an errno that does not depend on what was being done.
fn class(errno: Errno) -> Option<&'static Code> {
    Some(match errno {
        Errno::ENOSPC | Errno::EDQUOT => code::SPACE,
        Errno::EROFS | Errno::EIO => code::DISK,
        Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM => code::LIMIT,
        Errno::EACCES | Errno::EPERM => code::RIGHTS,
        _ => return None,
    })
}

/// An error and all its sources, including the one inside an [`io::Error`].
pub fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(hidden) => Some(hidden as &(dyn StdError + 'static)),
        None => error.source(),
    })
}

/// The errno in an error or its sources.
fn number(error: &(dyn StdError + 'static)) -> Option<Errno> {
    chain(error).find_map(|error| match error.downcast_ref::<Errno>() {
        Some(errno) => Some(*errno),
        None => error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error).map(Errno::from_raw),
    })
}

/// An error and its sources, joined with colons, without repetition.
fn causes(error: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    for cause in chain(error) {
        let words = cause.downcast_ref::<Errno>().map_or_else(|| cause.to_string(), |errno| errno.desc().to_owned());
        if text.is_empty() {
            text = words;
        } else if !text.contains(&words) {
            let _ = write!(text, ": {words}");
        }
    }
    text
}

/// How many things a summary lists; more are only counted.
pub const LISTED: usize = 3;

/// A number of things, with an `s` for the plural.
pub fn counted(count: usize, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// A few things by name; more are only counted.
pub fn listed(names: &[String], thing: &str) -> String {
    if names.len() <= LISTED { names.join(", ") } else { counted(names.len(), thing) }
}

/// Makes control characters visible, so that names from outside can't control the terminal, and hides secrets.
pub fn visible(text: &str) -> String {
    let text = &*mask::hide(text);
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// [`visible`] for a text whose later lines may come from a program or server: they are marked, so that none looks like a line of
/// kpull.
pub fn quoted(text: &str) -> String {
    visible(text.trim_end()).replace('\n', "\n  | ")
}

/// [`visible`] for one line: line breaks are made visible too.
pub fn one_line(text: &str) -> String {
    visible(text).replace('\n', "\\n").replace('\t', "\\t")
}

/// [`visible`] for a text with spans: each character keeps its length in bytes.
fn masked(text: &Arc<str>) -> Arc<str> {
    let text = &match mask::hide_in_place(text) {
        Cow::Borrowed(_) => text.clone(),
        Cow::Owned(hidden) => hidden.into(),
    };
    if !text.contains(is_hidden) {
        return text.clone();
    }
    let mask = |c: char| match c.len_utf8() {
        _ if !is_hidden(c) => c,
        1 => '?',
        2 => '¿',
        3 => char::REPLACEMENT_CHARACTER,
        _ => '\u{1f6c7}',
    };
    text.chars().map(mask).collect::<String>().into()
}

/// Whether a character controls the terminal, changes the direction of the text, or is invisible, so that two names can look the same:
/// characters that Unicode lists as ignorable, and blanks other than spaces. Joiners, which change how letters look, are allowed.
pub fn is_hidden(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}');
    let is_nothing = matches!(c, '\u{ad}' | '\u{34f}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{200b}' | '\u{2060}'..='\u{2065}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}');
    let is_blank = matches!(c, '\u{115f}' | '\u{1160}' | '\u{2800}' | '\u{3164}' | '\u{ffa0}');
    turns || is_nothing || is_blank || c.is_control() && c != '\n' && c != '\t'
}

/// The text with `*` for credentials and queries in addresses. Its length in bytes stays the same.
fn without_credentials(text: &Arc<str>) -> Arc<str> {
    if !text.contains("://") {
        return text.clone();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = &**text;
    while let Some((before, behind)) = rest.split_once("://") {
        out.extend([before, "://"]);
        let address;
        (address, rest) = leading(behind, |c| !c.is_whitespace() && !matches!(c, '"' | '\'' | '{'));
        let authority = address.split(['/', '?', '#']).next().unwrap_or(address);
        let secret = authority.rsplit_once('@').map_or("", |(secret, _)| secret);
        let (plain, query) = leading(address.strip_prefix(secret).unwrap_or(address), |c| c != '?');
        out.push_str(&"*".repeat(secret.len()));
        out.push_str(plain);
        if let Some(query) = query.strip_prefix('?') {
            out.push('?');
            out.push_str(&"*".repeat(query.len()));
        }
    }
    out.push_str(rest);
    out.into()
}

/// The name in `known` nearest to `word`, but never `word` itself.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // comparing takes time and memory proportional to the product of both lengths
    const LONGEST: usize = 256;
    known
        .into_iter()
        .filter(|name| *name != word && word.len().max(name.len()) <= LONGEST)
        .map(|name| (strsim::damerau_levenshtein(word, name), name))
        .filter(|(distance, name)| *distance <= name.len().max(word.len()) / 3 + 1)
        .min()
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_of_which_a_part_is_meant_is_hidden_as_a_whole() {
        assert_eq!(starred("aéb\nc", &[2..3, 4..6]), "a**b\n*");
        assert_eq!(starred("aéb", &[1..1, 9..12]), "aéb");
    }

    #[test]
    fn of_failures_with_one_cause_the_first_is_reported_and_names_the_others() {
        let at = |line: usize| Place { file: "r.toml".into(), text: "\n".repeat(9).into(), span: line - 1..line - 1 };
        let lacks = |file: &str, line| {
            Error::new(code::OTHER, "it can't be used")
                .because(format!("the site has no {file}"))
                .help("run `kpull pki init`")
                .at(at(line), "")
        };
        let unread = |name: &str| {
            Error::new(code::OTHER, format!("can't read {name}")).because("there is no key").help("name one")
        };
        let errors = vec![
            lacks("a.pem", 1),
            unread("a"),
            lacks("b.pem", 2).help_more("the same on 2 more: x, y"),
            Error::new(code::OTHER, "of its own").help("name one"),
            unread("b"),
            lacks("c.pem", 3),
            lacks("c.pem", 3),
            lacks("d.pem", 4),
            lacks("d.pem", 5),
            // without advice only what is the same has the same cause
            Error::new(code::OTHER, "x").because("there is no key"),
            Error::new(code::OTHER, "y").because("there is no key"),
            Error::new(code::OTHER, "y").because("there is no key"),
        ];
        let reported = Error::all(errors).unwrap().grouped();
        let shown: Vec<_> =
            reported.iter().map(|error| (error.to_string(), error.advice().unwrap_or_default().to_owned())).collect();
        let shown: Vec<_> = shown.iter().map(|(what, help)| (what.as_str(), help.as_str())).collect();
        assert_eq!(
            shown,
            [
                (
                    "it can't be used: the site has no a.pem",
                    "run `kpull pki init`; 5 more errors with the same cause: r.toml:2:1, r.toml:3:1, r.toml:4:1 and 1 more"
                ),
                ("can't read a: there is no key", "name one; 1 more error with the same cause: can't read b"),
                ("of its own", "name one"),
                ("x: there is no key", ""),
                ("y: there is no key", "1 more error with the same cause: y"),
            ]
        );
    }

    #[test]
    fn a_place_counts_lines_and_columns_from_one() {
        let place = Place { file: "a.toml".into(), text: "x = 1\ny = é2\n".into(), span: 12..13 };
        assert_eq!(place.to_string(), "a.toml:2:6");
    }

    #[test]
    fn a_name_from_outside_cannot_write_to_the_terminal() {
        assert_eq!(Error::new(code::OTHER, "file \u{1b}[2J").to_string(), "file \\u{1b}[2J");
    }

    #[test]
    fn a_text_that_is_shown_around_a_place_is_masked_and_keeps_its_length() {
        let text: Arc<str> = "a\u{1b}[2J\u{9b}1m\u{202e}é\tz\n".into();
        assert_eq!(&*masked(&text), "a?[2J¿1m\u{fffd}é\tz\n");
        assert_eq!(masked(&text).len(), text.len());
    }

    #[test]
    fn an_excerpt_has_no_credentials_and_its_places_stay() {
        let text: Arc<str> =
            "a = \"https://mé:pw@h/p@q?token=x\"\nb = 'http://h/p' # x@y\nc = \"http://{{ u }}@h\"".into();
        let shown = without_credentials(&text);
        assert_eq!(&*shown, "a = \"https://******@h/p@q?*******\"\nb = 'http://h/p' # x@y\nc = \"http://{{ u }}@h\"");
        assert_eq!(shown.len(), text.len());
    }

    #[test]
    fn the_nearest_name_is_found_and_a_far_one_is_not() {
        assert_eq!(nearest("enabel", ["enable", "state"]), Some("enable"));
        assert_eq!(nearest("zzz", ["enable", "state"]), None);
        assert_eq!(nearest("enable", ["enable"]), None, "nobody meant what already exists");
    }

    #[test]
    fn a_word_of_no_human_length_has_no_nearest() {
        assert_eq!(nearest(&"a".repeat(257), [&*"a".repeat(256)]), None);
        assert_eq!(nearest(&"a".repeat(256), [&*"a".repeat(255)]), Some(&*"a".repeat(255)));
    }
}
