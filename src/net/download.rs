//! Downloads into a file, with limits and a digest. A download continues where an earlier attempt ended, and a listener can process the
//! bytes meanwhile.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::libc;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Context, Error, Result, code, error};
use crate::net::writeback::Writeback;
use crate::net::{Conditions, Download, Get, Kind, from_io};
use crate::read;

const CHUNK: usize = 256 << 10;
/// Bytes at most of a file whose size is not known in advance.
const LARGEST: u64 = 4 << 30;
/// The same for a pinned file, whose pin can have the size.
pub const LARGEST_PINNED: u64 = 1 << 30;

/// Bytes at most of the record of a partial download.
const NOTE: u64 = 64 << 10;

/// Receives the progress of a download: its name, the bytes so far, and the total if that is known.
pub type Progress<'a> = &'a dyn Fn(&str, u64, Option<u64>);

/// A file to download.
#[derive(Clone, Copy, Debug)]
pub struct DownloadRequest<'a> {
    /// Its name in messages and progress.
    pub name: &'a str,
    /// Lower-case hex of its SHA-256, if that is known: no other file is accepted.
    pub sha256: Option<&'a str>,
    /// Its size in bytes, if that is known: no larger file is accepted.
    pub size: Option<u64>,
}

/// What a listener receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// The file starts with its first byte. Everything before is void.
    Start,
    /// The next bytes.
    Bytes(&'a [u8]),
}

/// Receives a file while it is read. Nothing may be used before the digest of the whole file is verified.
pub type Listener<'a> = &'a mut dyn FnMut(Piece<'_>);

/// A downloaded file.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Downloaded {
    /// Lower-case hex of its SHA-256.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
}

/// Downloads `url` (`https://`, `http://` or `file:///`) into the file `part`, and syncs it. If the digest is known, `part` may be the
/// complete file already, or is continued, whichever address it came from; if that results in another file, the download starts anew.
/// A wrong or too large file is removed, and is an error. Errors are [passing](Error::passes), unless this host causes them.
pub fn download(
    net: &dyn Get,
    url: &str,
    part: &Path,
    wanted: &DownloadRequest<'_>,
    progress: Progress<'_>,
) -> Result<Downloaded> {
    attempt(net, url, part, wanted, progress, &mut |_| {}, true)
}

/// [`download`] from the first address that has the wanted file. `listener` receives every byte that counts for the digest, in order.
/// `tried` receives each address, with the error if it failed. The error is why none has the file, and [passes](Error::passes); or why
/// nothing can be downloaded on this host.
pub fn download_any(
    net: &dyn Get,
    urls: &[String],
    part: &Path,
    wanted: &DownloadRequest<'_>,
    progress: Progress<'_>,
    listener: Listener<'_>,
    tried: &mut dyn FnMut(&str, Option<&Error>),
) -> Result<Downloaded> {
    let mut failures = Vec::new();
    for url in urls {
        match attempt(net, url, part, wanted, progress, listener, true) {
            Ok(got) => {
                tried(url, None);
                return Ok(got);
            }
            // another address would not help
            Err(error) if !error.passes() => return Err(error),
            Err(error) => {
                tried(url, Some(&error));
                failures.push(error.to_string());
            }
        }
    }
    Err(error!(NET, "the artifact {} can't be downloaded", wanted.name).because(failures.join("; ")).passing())
}

/// The origin of a partial download, in a file beside it: it is continued from the same address only if the server has the same state.
#[derive(Default, Deserialize, Serialize)]
struct PartialDownload {
    url: String,
    /// The server's state of the file, see [`Download::state`].
    state: Option<String>,
}

impl PartialDownload {
    /// The path of the record for `part`.
    fn path(part: &Path) -> PathBuf {
        part.with_extension("from")
    }

    /// Reads the record; an unreadable one counts as empty, so that the download starts anew.
    fn read(part: &Path) -> Self {
        let text =
            open_own(&Self::path(part)).ok().and_then(|file| read::whole(&file, 0, NOTE).ok()).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    fn write(&self, part: &Path) -> Result<()> {
        let what = || format!("can't write {}", Self::path(part).display());
        let text = serde_json::to_vec(self).context(code::NET, what)?;
        let mut file = open_own(&Self::path(part)).context(code::NET, what)?;
        file.set_len(0).and_then(|()| file.write_all(&text)).context(code::NET, what)
    }
}

/// Removes a wrong file and its record.
fn discard(part: &Path) {
    drop(std::fs::remove_file(part));
    drop(std::fs::remove_file(PartialDownload::path(part)));
}

/// Opens a file for writing, and creates a missing one. Others may be able to write in its directory, such as a mirror's: anything that
/// is not a file of kpull's user with a single name is removed and not written to.
fn open_own(path: &Path) -> io::Result<File> {
    let open = |is_new: bool| {
        let mut options = File::options();
        options.read(true).write(true).create(true).create_new(is_new).truncate(false);
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
    };
    let is_ours = |file: &File| {
        let meta = file.metadata()?;
        io::Result::Ok(meta.is_file() && meta.nlink() == 1 && meta.uid() == nix::unistd::geteuid().as_raw())
    };
    if let Ok(file) = open(false)
        && is_ours(&file)?
    {
        return Ok(file);
    }
    drop(std::fs::remove_file(path));
    open(true)
}

/// [`download`], which continues `part` only if it `may_continue`.
fn attempt(
    net: &dyn Get,
    url: &str,
    part: &Path,
    wanted: &DownloadRequest<'_>,
    progress: Progress<'_>,
    listener: Listener<'_>,
    may_continue: bool,
) -> Result<Downloaded> {
    let what = || format!("can't write {}", part.display());
    let mut file = open_own(part).context(code::NET, what)?;
    let limit = wanted.size.unwrap_or(if wanted.sha256.is_some() { LARGEST_PINNED } else { LARGEST });
    let too_large = |announced: Option<u64>| {
        let bytes = announced.map_or_else(|| format!("more than {limit}"), |bytes| bytes.to_string());
        if wanted.size.is_some() {
            return error!(NET, "{url} has more than the expected {limit} bytes");
        }
        let what = format!("{url} has {bytes} bytes; the limit for a file of unknown size is {limit}");
        Error::new(code::NET, what).help("set `size = BYTES` beside its pin in artifacts.toml: `kpull pin` writes it")
    };
    let mut hasher = Sha256::new();
    let mut resumes = None;
    let there = file.metadata().context(code::NET, what)?.len();
    if let Some(pinned) = wanted.sha256.filter(|_| may_continue && there > 0 && there <= limit) {
        // states of another server are meaningless here
        let known = PartialDownload::read(part);
        let state = known.state.filter(|_| known.url == url);
        let partial = Some(PartialDownload { url: url.to_owned(), state }).filter(|_| wanted.size != Some(there));
        if partial.is_some() || wanted.size.is_none_or(|size| size == there) {
            listener(Piece::Start);
            read_into(&mut (&mut file).take(there), &mut hasher, listener).context(code::NET, what)?;
            if hex::encode(hasher.clone().finalize()) == pinned {
                file.sync_all().context(code::NET, what)?;
                drop(std::fs::remove_file(PartialDownload::path(part)));
                return Ok(Downloaded { sha256: pinned.to_owned(), size: there });
            }
            resumes = partial;
        }
    }
    let is_resuming = resumes.is_some();
    let Download { kind, mut body, length, state } = ask(net, url, resumes.map(|partial| (there, partial)))?;
    let continues = is_resuming && kind == Kind::Partial;
    let mut done = if continues { there } else { 0 };
    let fault = |error: Error, listener: Listener<'_>| {
        discard(part);
        if continues {
            // the earlier part may be wrong
            log::debug!("{error}; starting again");
            return attempt(net, url, part, wanted, progress, listener, false);
        }
        Err(error.passing())
    };
    let announced = length.map(|length| length.saturating_add(done));
    if let (Some(size), Some(announced)) = (wanted.size, announced)
        && size != announced
    {
        let error = error!(NET, "{url} has {announced} bytes, but the pin has {size}");
        return fault(error, listener);
    }
    if announced.is_some_and(|announced| announced > limit) {
        return fault(too_large(announced), listener);
    }
    if !continues {
        hasher = Sha256::new();
        file.set_len(0).and_then(|()| file.rewind()).context(code::NET, what)?;
        PartialDownload { url: url.to_owned(), state }.write(part)?;
        listener(Piece::Start);
    }
    let total = wanted.size.or(announced);
    if let Some(total) = total {
        room_for(part, total.saturating_sub(done))?;
    }
    let mut writeback = Writeback::default();
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = body.read(&mut buffer).map_err(|why| from_io(why).passing())?;
        if count == 0 {
            break;
        }
        done += count as u64;
        if done > limit {
            return fault(too_large(None), listener);
        }
        let bytes = &buffer[..count];
        listener(Piece::Bytes(bytes));
        hasher.update(bytes);
        file.write_all(bytes).context(code::NET, what)?;
        writeback.wrote(&file, count);
        progress(wanted.name, done, total);
    }
    if let Some(size) = wanted.size.filter(|size| done < *size) {
        // without an announced length, a complete body can't be distinguished from an aborted one: the next run continues
        return Err(error!(NET, "{url} ended after {done} of {size} bytes").passing());
    }
    let sha256 = hex::encode(hasher.finalize());
    if let Some(pinned) = wanted.sha256.filter(|pinned| *pinned != sha256) {
        let what = format!("{url} is not the pinned file: its SHA-256 is {sha256}, but artifacts.toml has {pinned}");
        return fault(Error::new(code::NET, what), listener);
    }
    writeback.finish().and_then(|()| file.sync_all()).context(code::NET, what)?;
    drop(std::fs::remove_file(PartialDownload::path(part)));
    Ok(Downloaded { sha256, size: done })
}

/// The digest and size of a file from its current position to its end.
pub fn hash(input: &mut dyn Read) -> io::Result<Downloaded> {
    hash_with(input, &mut |_| {})
}

/// [`hash`] of a file from its first byte, with a listener.
pub fn hash_with(input: &mut dyn Read, listener: Listener<'_>) -> io::Result<Downloaded> {
    let mut hasher = Sha256::new();
    listener(Piece::Start);
    let size = read_into(input, &mut hasher, listener)?;
    Ok(Downloaded { sha256: hex::encode(hasher.finalize()), size })
}

fn read_into(input: &mut dyn Read, hasher: &mut Sha256, listener: Listener<'_>) -> io::Result<u64> {
    let (mut buffer, mut size) = (vec![0; CHUNK], 0);
    loop {
        match input.read(&mut buffer)? {
            0 => return Ok(size),
            count => {
                listener(Piece::Bytes(&buffer[..count]));
                hasher.update(&buffer[..count]);
                size += count as u64;
            }
        }
    }
}

/// Requests `url`, from the end of the partial download if the server still has the same state.
fn ask(net: &dyn Get, url: &str, resumes: Option<(u64, PartialDownload)>) -> Result<Download> {
    if let Some(path) = url.strip_prefix("file://") {
        let what = || format!("can't read {path}");
        let file = read::open_named(Path::new(path)).context(code::NET, what).map_err(Error::passing)?;
        let length = Some(file.metadata().context(code::NET, what)?.len());
        return Ok(Download { kind: Kind::Ok, length, state: None, body: Box::new(file) });
    }
    let (from, state) = resumes.map(|(from, partial)| (from, partial.state)).unzip();
    let state = state.flatten();
    let conditions = Conditions { etag: None, from, state: state.as_deref() };
    let answer = net.get(url, &conditions).map_err(Error::passing)?;
    match answer.kind {
        Kind::Ok | Kind::Partial => Ok(answer),
        _ => Err(error!(MISSING, "{url} does not exist").passing()),
    }
}

fn room_for(part: &Path, bytes: u64) -> Result<()> {
    let dir = part.parent().unwrap_or(part);
    let stat = nix::sys::statvfs::statvfs(dir)
        .context(code::NET, || format!("can't determine the free space at {}", dir.display()))?;
    let free = stat.blocks_available().saturating_mul(stat.fragment_size());
    if free < bytes {
        return Err(error!(NET, "{} has {} MiB free, but {} MiB are needed", dir.display(), free >> 20, bytes >> 20)
            .help("free some space there; nothing was changed"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Says of whatever it hands out that it goes on with what is there.
    #[derive(Debug, Default)]
    struct GoesOn(Cell<usize>);

    impl Get for GoesOn {
        fn get(&self, _: &str, _: &Conditions<'_>) -> Result<Download> {
            self.0.set(self.0.get() + 1);
            Ok(Download { kind: Kind::Partial, length: None, state: None, body: Box::new(&b"other"[..]) })
        }
    }

    #[test]
    fn a_wrong_file_is_downloaded_again_once() {
        let dir = tempfile::tempdir().unwrap();
        let (part, net) = (dir.path().join("part"), GoesOn::default());
        std::fs::write(&part, "begun").unwrap();
        let pinned = hash(&mut &b"wanted"[..]).unwrap().sha256;
        let wanted = DownloadRequest { name: "it", sha256: Some(&pinned), size: None };
        let error = download(&net, "https://host/it", &part, &wanted, &|_, _, _| {}).unwrap_err();
        assert!(error.to_string().starts_with("https://host/it is not the pinned file: "), "{error}");
        assert_eq!((net.0.get(), part.exists()), (2, false));
    }
}
