//! Takes members out of an archive while the archive still comes in: one thread inflates, one writes and hashes.
//!
//! The files are written before anybody knows whether the archive is the right one. They have no names: what is not
//! asked for in the end is gone, however the process ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, PipeWriter, Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, Scope, ScopedJoinHandle};

use nix::fcntl::{FcntlArg, fcntl};
use sha2::{Digest, Sha256};

use crate::document::Format;
use crate::error::{Context as _, Error, Result, code};
use crate::host::root::failed_io;
use crate::net::writeback::Writeback;
use crate::store::archive::{Limits, Member, extract, extract_stream};

/// Bytes that are handed on at once.
const CHUNK: usize = 256 << 10;
/// Chunks that may wait between two threads.
const WAITING: usize = 8;
/// Bytes of the archive that may wait, where the kernel allows that many.
const PIPE: i32 = 1 << 20;

/// A member that was taken out of an archive.
#[derive(Debug)]
pub struct Extracted {
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

/// What [`extract`] hands members to.
type Sink<'a> = &'a mut dyn FnMut(&Member, &mut dyn Read) -> Result<()>;

/// An archive that is being unpacked.
pub(super) struct Unpacking<'scope> {
    /// Where its bytes go, while somebody reads them.
    to: Option<PipeWriter>,
    reader: Thread<'scope, ()>,
    writer: Thread<'scope, Option<BTreeMap<String, Extracted>>>,
}

impl<'scope> Unpacking<'scope> {
    /// Unpacks what it is [fed](Self::feed).
    pub fn stream(scope: &'scope Scope<'scope, '_>, job: Job) -> Result<Self> {
        let (stream, to) = io::pipe().context(code::ARTIFACT, || "can't make a pipe to unpack from".to_owned())?;
        // a smaller one is slower, no more
        let _ = fcntl(&to, FcntlArg::F_SETPIPE_SZ(PIPE));
        Ok(Self::start(scope, job, Some(to), move |archive, format, wanted, sink| {
            let stream = BufReader::with_capacity(CHUNK, stream);
            extract_stream(archive, stream, format, wanted, &Limits::default(), sink)
        }))
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
        to: Option<PipeWriter>,
        read: impl FnOnce(&str, Format, &BTreeSet<String>, Sink<'_>) -> Result<()> + Send + 'scope,
    ) -> Self {
        let Job { archive, format, files } = job;
        let wanted: BTreeSet<String> = files.keys().cloned().collect();
        let (pieces, members) = sync_channel(WAITING);
        let reader = Builder::new().spawn_scoped(scope, move || {
            read(&archive, format, &wanted, &mut |member, content| send(&pieces, &member.name, content))?;
            // nobody takes it when writing has failed, which `finish` tells
            let _ = pieces.send(Piece::End);
            Ok(())
        });
        Self { to, reader, writer: Builder::new().spawn_scoped(scope, move || write(&members, files)) }
    }

    /// Gives it the archive's next bytes; waits while it is behind.
    pub fn feed(&mut self, bytes: &[u8]) {
        // nobody reads them when they could not be unpacked, which `finish` tells
        self.to.take_if(|to| to.write_all(bytes).is_err());
    }

    /// The members, once the archive is whole: an error that is in the archive, or one of writing.
    pub fn finish(self) -> Result<BTreeMap<String, Extracted>> {
        drop(self.to);
        let no_thread = || "can't start a thread that unpacks".to_owned();
        let read = self.reader.context(code::ARTIFACT, no_thread)?.join().map_err(|_| stopped())?;
        // when writing fails, reading does too: this is why
        match self.writer.context(code::ARTIFACT, no_thread)?.join().map_err(|_| stopped())?? {
            Some(members) => read.map(|()| members),
            None => Err(read.err().unwrap_or_else(stopped)),
        }
    }
}

fn stopped() -> Error {
    Error::new(code::ARTIFACT, "unpacking stopped by itself").help("this is a mistake in kpull: please report it")
}

/// What goes from the thread that inflates to the one that writes.
enum Piece {
    /// The next member begins.
    Member(String),
    Bytes(Vec<u8>),
    /// All was there. Without it, what came is worth nothing.
    End,
}

/// Sends a whole member.
fn send(to: &SyncSender<Piece>, name: &str, content: &mut dyn Read) -> Result<()> {
    let mut is_taken = to.send(Piece::Member(name.to_owned())).is_ok();
    while is_taken {
        let mut bytes = Vec::with_capacity(CHUNK);
        let read = content.take(CHUNK as u64).read_to_end(&mut bytes);
        read.map_err(|error| failed_io("read", Path::new(name), error))?;
        if bytes.is_empty() {
            return Ok(());
        }
        is_taken = to.send(Piece::Bytes(bytes)).is_ok();
    }
    Err(Error::new(code::ARTIFACT, format!("{name} can't be unpacked")))
}

/// Writes members into their files, and has them on the disk. `None` when they broke off.
fn write(
    from: &Receiver<Piece>,
    mut files: BTreeMap<String, Option<File>>,
) -> Result<Option<BTreeMap<String, Extracted>>> {
    let mut taken = BTreeMap::new();
    let mut writeback = Writeback::default();
    let mut member: Option<(String, Option<File>, Sha256)> = None;
    while let Ok(piece) = from.recv() {
        if let Piece::Bytes(bytes) = &piece {
            if let Some((name, file, hasher)) = &mut member {
                hasher.update(bytes);
                if let Some(file) = file {
                    file.write_all(bytes).map_err(|error| failed_io("unpack", Path::new(name), error))?;
                    writeback.wrote(file, bytes.len());
                }
            }
            continue;
        }
        if let Some((name, file, hasher)) = member.take() {
            if let Some(file) = &file {
                writeback.whole(file).map_err(|error| failed_io("unpack", Path::new(&name), error))?;
            }
            taken.insert(name, Extracted { file, sha256: hex::encode(hasher.finalize()) });
        }
        let Piece::Member(name) = piece else {
            writeback
                .finish()
                .map_err(|error| Error::new(code::ARTIFACT, "can't write what is unpacked").because(error))?;
            return Ok(Some(taken));
        };
        let file = files.remove(&name).flatten();
        member = Some((name, file, Sha256::new()));
    }
    Ok(None)
}
