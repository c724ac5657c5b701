//! Extracts members from an archive while it is downloaded: one thread inflates, one writes and hashes.
//!
//! The files are written before the digest of the archive is verified. They have no names, so the kernel discards what is not wanted
//! in the end, however the process ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, PipeWriter, Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, Scope, ScopedJoinHandle};

use nix::fcntl::{FcntlArg, fcntl};
use sha2::{Digest, Sha256};

use crate::error::{Context as _, Result, code, error};
use crate::host::root::failed_io;
use crate::net::writeback::Writeback;
use crate::store::archive::{Archive, Sink};

/// Bytes that are passed on at once.
const CHUNK: usize = 256 << 10;
/// Chunks that may wait between two threads.
const WAITING: usize = 8;
/// Bytes of the archive that may wait, where the kernel allows that many.
const PIPE: i32 = 1 << 20;

/// A member that was extracted from an archive.
#[derive(Debug)]
pub struct Extracted {
    /// The file that was given for it, with its content on the disk.
    pub file: Option<File>,
    /// Lower-case hex of its SHA-256.
    pub sha256: String,
}

/// Extracted members by their names.
pub type Unpacked = BTreeMap<String, Extracted>;

/// An empty file for each wanted member, or none if only its digest is wanted.
pub type Targets = BTreeMap<String, Option<File>>;

/// Bytes of a member by its name; none at its end.
type Chunk = (String, Vec<u8>);

/// A thread, if it could be started.
type Thread<'scope, T> = io::Result<ScopedJoinHandle<'scope, Result<T>>>;

/// An archive that is being unpacked.
pub(super) struct Unpacking<'scope> {
    /// Where its bytes go, while they are read there.
    to: Option<PipeWriter>,
    reader: Thread<'scope, ()>,
    writer: Thread<'scope, Unpacked>,
}

impl<'scope> Unpacking<'scope> {
    /// Unpacks what it is [fed](Self::feed).
    pub fn stream(scope: &'scope Scope<'scope, '_>, archive: Archive<'scope>, targets: Targets) -> Result<Self> {
        let (stream, to) = io::pipe().context(code::ARTIFACT, || "can't create a pipe to unpack from")?;
        // a smaller one is only slower
        let _ = fcntl(&to, FcntlArg::F_SETPIPE_SZ(PIPE));
        Ok(Self::start(scope, targets, Some(to), move |wanted, sink| {
            archive.extract_stream(BufReader::with_capacity(CHUNK, stream), wanted, sink)
        }))
    }

    /// Unpacks a file, which can have any format.
    pub fn file(scope: &'scope Scope<'scope, '_>, archive: Archive<'scope>, targets: Targets, file: File) -> Self {
        Self::start(scope, targets, None, move |wanted, sink| archive.extract(file, wanted, sink))
    }

    fn start(
        scope: &'scope Scope<'scope, '_>,
        targets: Targets,
        to: Option<PipeWriter>,
        extract: impl FnOnce(&BTreeSet<String>, Sink<'_>) -> Result<()> + Send + 'scope,
    ) -> Self {
        let wanted: BTreeSet<String> = targets.keys().cloned().collect();
        let (sender, chunks) = sync_channel(WAITING);
        let read = move || extract(&wanted, &mut |member, content| send(&sender, &member.name, content));
        let reader = Builder::new().spawn_scoped(scope, read);
        Self { to, reader, writer: Builder::new().spawn_scoped(scope, move || write(&chunks, targets)) }
    }

    /// Passes on the archive's next bytes; blocks while the reader is behind.
    pub fn feed(&mut self, bytes: &[u8]) {
        // the pipe breaks when the archive can't be unpacked, which `finish` reports
        self.to.take_if(|to| to.write_all(bytes).is_err());
    }

    /// The members, once the archive is complete; an error of the archive, or of writing.
    pub fn finish(self) -> Result<Unpacked> {
        drop(self.to);
        let (read, written) = (join(self.reader), join(self.writer));
        // when writing fails, reading does too: the first is the cause
        let members = written?;
        read.map(|()| members)
    }
}

fn join<T>(thread: Thread<'_, T>) -> Result<T> {
    let thread = thread.context(code::ARTIFACT, || "can't start a thread to unpack")?;
    thread.join().unwrap_or_else(|_| {
        Err(error!(ARTIFACT, "unpacking stopped unexpectedly").help("this is a bug in kpull: please report it"))
    })
}

/// Sends a whole member.
fn send(to: &SyncSender<Chunk>, name: &str, content: &mut dyn Read) -> Result<()> {
    loop {
        let mut bytes = Vec::with_capacity(CHUNK);
        let read = content.take(CHUNK as u64).read_to_end(&mut bytes);
        read.map_err(|error| failed_io("read", Path::new(name), error))?;
        let is_end = bytes.is_empty();
        if to.send((name.to_owned(), bytes)).is_err() {
            return Err(error!(ARTIFACT, "{name} can't be unpacked"));
        }
        if is_end {
            return Ok(());
        }
    }
}

/// Writes members into their files and syncs them. They are valid only if the whole archive could be read.
fn write(chunks: &Receiver<Chunk>, targets: Targets) -> Result<Unpacked> {
    let mut members: BTreeMap<_, _> = targets.into_iter().map(|(name, file)| (name, (file, Sha256::new()))).collect();
    let mut writeback = Writeback::default();
    for (name, bytes) in chunks {
        let Some((file, hasher)) = members.get_mut(&name) else { continue };
        hasher.update(&bytes);
        let Some(file) = file else { continue };
        let written = if bytes.is_empty() { writeback.whole(file) } else { file.write_all(&bytes) };
        written.map_err(|error| failed_io("unpack", Path::new(&name), error))?;
        writeback.wrote(file, bytes.len());
    }
    writeback.finish().map_err(|error| error!(ARTIFACT, "can't write the unpacked files").because(error))?;
    let extracted = |(file, hasher): (_, Sha256)| Extracted { file, sha256: hex::encode(hasher.finalize()) };
    Ok(members.into_iter().map(|(name, member)| (name, extracted(member))).collect())
}
