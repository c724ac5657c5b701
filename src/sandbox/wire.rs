//! The protocol between parent and child: frames of a known kind and a bounded length. Both sides check every one.

use std::io::{self, Read, Write};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::confine::{Confined, Confinement};
use crate::error::{Error, Exit, code};
use crate::host::web;
use crate::net::{Kind, LoadedOptions};
use crate::source;

/// The most bytes of a body in one frame.
pub(super) const CHUNK: usize = 64 << 10;
/// The most bytes of a cursor, which is kept and sent back.
pub(super) const CURSOR_MAX: usize = 4 << 10;
/// The most characters of a failure's texts.
const TEXT_MAX: usize = 2000;

/// The kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// [`Setup`], once, and then [`Request`]s, only from the parent.
    Request,
    /// An [`Answer`].
    Answer,
    /// Bytes of a body; an empty frame ends it. A [`Tag::Answer`] in its place is the failure that cut it off.
    Body,
}

impl Tag {
    fn byte(self) -> u8 {
        match self {
            Self::Request => b'Q',
            Self::Answer => b'M',
            Self::Body => b'B',
        }
    }

    /// The most bytes of such a frame.
    fn limit(self) -> usize {
        match self {
            Self::Request => 16 << 20,
            Self::Answer => 64 << 10,
            Self::Body => CHUNK,
        }
    }
}

/// The child's job, and all that it needs from root.
#[derive(Deserialize, Serialize)]
pub(super) struct Setup {
    pub job: Job,
    pub net: LoadedOptions,
    /// Its confinement; none for ssh, which needs root's keys and programs of its own.
    pub confinement: Option<Confinement>,
}

/// The job of a child.
#[derive(Deserialize, Serialize)]
pub(super) enum Job {
    /// Polls a source, whose cache is the directory that the child was started in.
    Source(Box<source::Config>),
    /// Sends requests to web servers.
    Web,
}

/// A request of the parent.
#[derive(Deserialize, Serialize)]
pub(super) enum Request {
    /// [`source::Source::poll`].
    Poll { cursor: Option<String> },
    /// [`source::Tree::read`] of the last news.
    Read { path: String, max: u64 },
    /// [`source::Tree::list`] of the last news.
    List,
    /// [`source::Tree::object`] of the last news.
    Object { id: String, max: u64 },
    /// A download, see [`crate::net::Get`].
    Get { url: String, from: Option<u64>, state: Option<String> },
    /// A small file at an address, complete within this time.
    Fetch { url: String, max: u64, within: Duration },
    /// A POST of JSON, without an answer.
    Post { url: String, body: String },
    /// A PUT, without an answer.
    Put { url: String, body: String },
    /// See [`crate::host::web::Ask::ask`].
    Ask(Box<web::Question>),
    /// See [`crate::host::web::Ask::connect`].
    Connect { target: String, limit: Duration },
}

/// An answer of the child.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
pub(super) enum Answer {
    /// It is confined, and has not read anything from the network yet.
    Ready(Confined),
    Unchanged,
    News {
        cursor: String,
    },
    /// There is no such file, or the source doesn't know.
    Nothing,
    /// A body follows.
    Body {
        kind: Kind,
        length: Option<u64>,
        state: Option<String>,
    },
    /// What a web server answered; its body follows.
    Replied {
        status: u16,
        broken: Option<String>,
    },
    Failed(Fault),
}

/// A failure on its way from the child.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Fault {
    what: String,
    help: Option<String>,
    code: String,
    refused: bool,
}

impl From<&Error> for Fault {
    fn from(error: &Error) -> Self {
        Self {
            what: short(&error.to_string()),
            help: error.advice().map(short),
            code: error.code().name.to_owned(),
            refused: error.exit_code() == Exit::Refused,
        }
    }
}

impl From<Fault> for Error {
    /// Whatever the child wrote becomes one line, not too long, without control characters.
    fn from(fault: Fault) -> Self {
        let error = Error::new(code::find(&fault.code).unwrap_or(code::SANDBOX), short(&fault.what));
        let error = if fault.refused { error.exit(Exit::Refused) } else { error };
        match fault.help {
            Some(help) => error.help(short(&help)),
            None => error,
        }
    }
}

/// The text on one line, and not too long.
pub(super) fn short(text: &str) -> String {
    text.chars().take(TEXT_MAX).map(|c| if matches!(c, '\n' | '\t') { ' ' } else { c }).collect()
}

pub(super) fn write(to: &mut impl Write, tag: Tag, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= tag.limit());
    let length = length.ok_or_else(|| wrong("a frame is too long to be sent"))?;
    to.write_all(&[&[tag.byte()], &length.to_le_bytes()[..]].concat())?;
    to.write_all(payload)?;
    to.flush()
}

/// Reads a frame of one of the kinds in `expected`. Of a frame of another kind, or that is too long, it reads no
/// byte of the payload.
pub(super) fn read(from: &mut impl Read, expected: &[Tag]) -> io::Result<(Tag, Zeroizing<Vec<u8>>)> {
    let mut head = [0; 5];
    from.read_exact(&mut head)?;
    let [tag, length @ ..] = head;
    let tag = expected.iter().copied().find(|known| known.byte() == tag);
    let tag = tag.ok_or_else(|| wrong("a frame is not of the kind that is expected"))?;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > tag.limit() {
        return Err(wrong("a frame is too long"));
    }
    let mut payload = Zeroizing::new(vec![0; length]);
    from.read_exact(&mut payload)?;
    Ok((tag, payload))
}

pub(super) fn write_json(to: &mut impl Write, tag: Tag, value: &impl Serialize) -> io::Result<()> {
    write(to, tag, &Zeroizing::new(serde_json::to_vec(value)?))
}

pub(super) fn read_json<T: DeserializeOwned>(from: &mut impl Read, tag: Tag) -> io::Result<T> {
    parse(&read(from, &[tag])?.1)
}

pub(super) fn parse<T: DeserializeOwned>(payload: &[u8]) -> io::Result<T> {
    // serde's own message would quote the input
    serde_json::from_slice(payload).map_err(|_| wrong("a message can't be parsed"))
}

fn wrong(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(tag: u8, length: u32, payload: &[u8]) -> Vec<u8> {
        [&[tag], &length.to_le_bytes()[..], payload].concat()
    }

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = Vec::new();
        let request = Request::Read { path: "site.toml".into(), max: u64::MAX };
        write_json(&mut bytes, Tag::Request, &request).unwrap();
        write(&mut bytes, Tag::Body, b"").unwrap();
        let mut from = bytes.as_slice();
        let read_again = read_json::<Request>(&mut from, Tag::Request).unwrap();
        assert!(matches!(read_again, Request::Read { path, max: u64::MAX } if path == "site.toml"));
        assert_eq!(*read(&mut from, &[Tag::Answer, Tag::Body]).unwrap().1, b"");
        assert!(from.is_empty());
    }

    #[test]
    fn a_huge_length_is_refused_before_anything_is_read_or_allocated() {
        for (tag, length) in [(b'M', 65_537), (b'B', 65_537), (b'M', u32::MAX), (b'B', u32::MAX)] {
            let bytes = frame(tag, length, b"rest");
            let mut from = bytes.as_slice();
            let error = read(&mut from, &[Tag::Answer, Tag::Body]).unwrap_err();
            assert_eq!(error.to_string(), "a frame is too long");
            assert_eq!(from, b"rest");
        }
    }

    #[test]
    fn a_frame_of_another_kind_is_refused() {
        for tag in [b'S', b'B', b'm', 0, 255] {
            let error = read(&mut frame(tag, 0, b"").as_slice(), &[Tag::Answer]).unwrap_err();
            assert_eq!(error.to_string(), "a frame is not of the kind that is expected");
        }
    }

    #[test]
    fn an_early_end_is_an_error_wherever_it_comes() {
        let whole = frame(b'M', 4, b"null");
        for end in 0..whole.len() {
            let error = read(&mut &whole[..end], &[Tag::Answer]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{end}");
        }
    }

    #[test]
    fn messages_that_are_none_are_refused_and_not_repeated() {
        let deep = "[".repeat(60_000);
        for text in ["", "{", "\"Ready", "{\"Secret\":\"hunter2\"}", "{\"News\":{}}", "\u{0}", &deep] {
            let bytes = frame(b'M', u32::try_from(text.len()).unwrap(), text.as_bytes());
            let error = read_json::<Answer>(&mut bytes.as_slice(), Tag::Answer).unwrap_err();
            assert_eq!(error.to_string(), "a message can't be parsed");
        }
    }

    #[test]
    fn nothing_longer_than_may_be_read_is_sent() {
        assert!(write(&mut Vec::new(), Tag::Body, &vec![0; CHUNK]).is_ok());
        let error = write(&mut Vec::new(), Tag::Body, &vec![0; CHUNK + 1]).unwrap_err();
        assert_eq!(error.to_string(), "a frame is too long to be sent");
    }

    #[test]
    fn the_text_of_a_failure_is_one_short_line_without_control_characters() {
        let what = format!("bad\u{1b}[2J\nmaster1: nothing to do{}", "!".repeat(100_000));
        let error =
            Error::from(Fault { what, help: Some("a\nb\u{202e}".into()), code: "no such".into(), refused: true });
        let text = error.to_string();
        assert!(text.starts_with("bad\\u{1b}[2J master1: nothing to do!!"), "{text}");
        assert!(text.len() < 2 * TEXT_MAX && !text.contains('\n'));
        assert_eq!((error.advice(), error.exit_code()), (Some("a b\\u{202e}"), Exit::Refused));
    }

    #[test]
    fn a_failure_arrives_as_it_was() {
        let error = Error::refused(code::SANDBOX, "x").because("y").help("z");
        let crossed = Error::from(Fault::from(&error));
        assert_eq!((crossed.to_string(), crossed.advice()), ("x: y".into(), Some("z")));
        assert_eq!(crossed.exit_code(), Exit::Refused);
    }
}
