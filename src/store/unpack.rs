//! Takes members out of an archive while the archive still comes in: one thread inflates, one writes and hashes.
//!
//! The files are written before anybody knows whether the archive is the right one. They have no names: what is not
//! asked for in the end is gone, however the process ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, Scope, ScopedJoinHandle};

use sha2::{Digest, Sha256};

use crate::error::{Context as _, Error, Result, code};
use crate::host::root::failed_io;
use crate::host::writeback::Writeback;
use crate::site::Format;
use crate::store::archive::{Limits, Member, extract, extract_stream};

/// Bytes that are handed on at once.
const CHUNK: usize = 256 << 10;
/// Chunks that may wait between two threads.
const WAITING: usize = 8;

/// A member that was taken out of an archive.
#[derive(Debug)]
pub struct Taken {
    /// Its content, on the disk, in the file that was given for it.
    pub file: Option<File>,
    /// Lower-case hex of its SHA-256.
    pub sha256: String,
}

/// What is to be taken out of which archive.
pub(super) struct Job {
    /// What messages call the archive.
    pub archive: String,
    pub format: Format,
    /// An empty file for each wanted member, or none to know its digest only.
    pub files: BTreeMap<String, Option<File>>,
}

/// What a thread comes to, if it could be started.
type Thread<'scope, T> = io::Result<ScopedJoinHandle<'scope, Result<T>>>;

/// An archive that is being unpacked.
pub(super) struct Unpacking<'scope> {
    to: Option<Sender>,
    reader: Thread<'scope, ()>,
    writer: Thread<'scope, Option<BTreeMap<String, Taken>>>,
}

impl<'scope> Unpacking<'scope> {
    /// Unpacks what it is [fed](Self::feed).
    pub fn stream(scope: &'scope Scope<'scope, '_>, job: Job) -> Self {
        let (to, stream) = pipe();
        Self::start(scope, job, Some(to), move |archive, format, wanted, sink| {
            extract_stream(archive, Stream::new(stream), format, wanted, &Limits::default(), sink)
        })
    }

    /// Unpacks a file, which can be of any format.
    pub fn file(scope: &'scope Scope<'scope, '_>, job: Job, file: File) -> Self {
        Self::start(scope, job, None, move |archive, format, wanted, sink| {
            extract(archive, file, format, wanted, &Limits::default(), sink)
        })
    }

    fn start(
        scope: &'scope Scope<'scope, '_>,
        job: Job,
        to: Option<Sender>,
        read: impl FnOnce(&str, Format, &BTreeSet<String>, Sink<'_>) -> Result<()> + Send + 'scope,
    ) -> Self {
        let Job { archive, format, files } = job;
        let wanted: BTreeSet<String> = files.keys().cloned().collect();
        let (mut pieces, members) = pipe();
        let reader = Builder::new().spawn_scoped(scope, move || {
            read(&archive, format, &wanted, &mut |member, content| pieces.member(&member.name, content))?;
            pieces.send(Piece::End);
            Ok(())
        });
        Self { to, reader, writer: Builder::new().spawn_scoped(scope, move || write(members, files)) }
    }

    /// Gives it the archive's next bytes; waits while it is behind.
    pub fn feed(&mut self, bytes: &[u8]) {
        if let Some(to) = &mut self.to {
            to.write(bytes);
        }
    }

    /// The members, once the archive is whole: an error that is in the archive, or one of writing.
    pub fn finish(self) -> Result<BTreeMap<String, Taken>> {
        if let Some(mut to) = self.to {
            to.send(Piece::End);
        }
        let no_thread = || "can't start a thread that unpacks".to_owned();
        let read = self.reader.context(code::ARTIFACT, no_thread)?.join().map_err(|_| stopped())?;
        // when writing fails, reading does too: this is why
        match self.writer.context(code::ARTIFACT, no_thread)?.join().map_err(|_| stopped())?? {
            Some(members) => read.map(|()| members),
            None => Err(read.err().unwrap_or_else(stopped)),
        }
    }
}

/// What [`extract`] hands members to.
type Sink<'a> = &'a mut dyn FnMut(&Member, &mut dyn Read) -> Result<()>;

fn stopped() -> Error {
    Error::new(code::ARTIFACT, "unpacking stopped by itself").help("this is a mistake in kpull: please report it")
}

/// What goes from one thread to another.
enum Piece {
    /// The next member begins.
    Member(String),
    Bytes(Vec<u8>),
    /// All was there. Without it, what came is worth nothing.
    End,
}

/// The one end of a bounded pipe, in which the same buffers go round.
struct Sender {
    to: SyncSender<Piece>,
    used: Receiver<Vec<u8>>,
    /// Bytes that wait for more.
    rest: Vec<u8>,
}

/// The other end.
struct Pieces {
    from: Receiver<Piece>,
    back: SyncSender<Vec<u8>>,
}

fn pipe() -> (Sender, Pieces) {
    let (to, from) = sync_channel(WAITING);
    let (back, used) = sync_channel(WAITING);
    (Sender { to, used, rest: Vec::new() }, Pieces { from, back })
}

impl Sender {
    /// Sends what waits, and this. Whether anybody is there to take it.
    fn send(&mut self, piece: Piece) -> bool {
        let rest = std::mem::take(&mut self.rest);
        (rest.is_empty() || self.to.send(Piece::Bytes(rest)).is_ok()) && self.to.send(piece).is_ok()
    }

    /// An empty buffer.
    fn buffer(&self) -> Vec<u8> {
        let mut buffer = self.used.try_recv().unwrap_or_else(|_| Vec::with_capacity(CHUNK));
        buffer.clear();
        buffer
    }

    fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.rest.capacity() == 0 {
                self.rest = self.buffer();
            }
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - self.rest.len()));
            self.rest.extend_from_slice(now);
            bytes = later;
            if self.rest.len() == CHUNK {
                // nobody takes it when it could not be unpacked, which `finish` tells
                let _ = self.to.send(Piece::Bytes(std::mem::take(&mut self.rest)));
            }
        }
    }

    /// Sends a whole member.
    fn member(&mut self, name: &str, content: &mut dyn Read) -> Result<()> {
        let mut taken = self.send(Piece::Member(name.to_owned()));
        while taken {
            let mut buffer = self.buffer();
            content
                .take(CHUNK as u64)
                .read_to_end(&mut buffer)
                .map_err(|error| failed_io("read", Path::new(name), error))?;
            if buffer.is_empty() {
                return Ok(());
            }
            taken = self.to.send(Piece::Bytes(buffer)).is_ok();
        }
        Err(Error::new(code::ARTIFACT, format!("{name} can't be unpacked")))
    }
}

impl Pieces {
    fn give_back(&self, buffer: Vec<u8>) {
        if buffer.capacity() > 0 {
            // more of them than can wait are not needed
            let _ = self.back.try_send(buffer);
        }
    }
}

/// What comes out of a pipe, as a stream.
struct Stream {
    from: Pieces,
    buffer: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Stream {
    fn new(from: Pieces) -> Self {
        Self { from, buffer: Vec::new(), at: 0, ended: false }
    }
}

impl BufRead for Stream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.buffer.len() && !self.ended {
            match self.from.from.recv() {
                Ok(Piece::Bytes(bytes)) => {
                    self.from.give_back(std::mem::replace(&mut self.buffer, bytes));
                    self.at = 0;
                }
                Ok(_) => self.ended = true,
                Err(_) => return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the file broke off")),
            }
        }
        Ok(&self.buffer[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at = self.buffer.len().min(self.at + count);
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

/// Writes members into their files, and has them on the disk. `None` when they broke off.
fn write(from: Pieces, mut files: BTreeMap<String, Option<File>>) -> Result<Option<BTreeMap<String, Taken>>> {
    let mut taken = BTreeMap::new();
    let mut writeback = Writeback::default();
    let mut member: Option<(String, Option<File>, Sha256)> = None;
    while let Ok(piece) = from.from.recv() {
        let (next, is_end) = match piece {
            Piece::Bytes(bytes) => {
                if let Some((name, file, hasher)) = &mut member {
                    hasher.update(&bytes);
                    if let Some(file) = file {
                        file.write_all(&bytes).map_err(|error| failed_io("unpack", Path::new(name), error))?;
                        writeback.wrote(file, bytes.len());
                    }
                }
                from.give_back(bytes);
                continue;
            }
            Piece::Member(name) => (Some(name), false),
            Piece::End => (None, true),
        };
        if let Some((name, file, hasher)) = member.take() {
            if let Some(file) = &file {
                writeback.whole(file).map_err(|error| failed_io("unpack", Path::new(&name), error))?;
            }
            taken.insert(name, Taken { file, sha256: hex::encode(hasher.finalize()) });
        }
        if is_end {
            writeback
                .finish()
                .map_err(|error| Error::new(code::ARTIFACT, "can't write what is unpacked").because(error))?;
            return Ok(Some(taken));
        }
        member = next.map(|name| {
            let file = files.remove(&name).flatten();
            (name, file, Sha256::new())
        });
    }
    Ok(None)
}
