//! Downloads into a file: gone on with where an earlier attempt ended, bounded, hashed on the way, and handed on meanwhile
//! to whoever has a use for the bytes once their digest is right.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{Context, Error, Result, code};
use crate::host::writeback::Writeback;
use crate::net::ranges::LARGE;
use crate::net::{Ask, Get, Kind, from_io};

const CHUNK: usize = 256 << 10;
/// Bytes of a file whose size is not known in advance.
const LARGEST: u64 = 4 << 30;

/// Hears of a download: what is downloaded, the bytes so far, and all of them if that is known.
pub type Progress<'a> = &'a dyn Fn(&str, u64, Option<u64>);

/// What is to be downloaded.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// What messages and progress call it.
    pub name: &'a str,
    /// Lower-case hex of its SHA-256, when that is known: no other file is taken.
    pub sha256: Option<&'a str>,
    /// Its size in bytes, when that is known: a download ends when it has more.
    pub size: Option<u64>,
}

/// What whoever listens to a file being read hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// It starts with its first byte. Whatever was heard before is void.
    Start,
    /// The next bytes.
    Bytes(&'a [u8]),
}

/// Listens to a file being read. Nothing that it hears may be used before the digest of the whole file is right.
pub type Listener<'a> = &'a mut dyn FnMut(Piece<'_>);

/// A file that was downloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// Lower-case hex of its SHA-256.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
}

/// [`download_heard`] by nobody, from one address.
pub fn download(net: &dyn Get, url: &str, part: &Path, wanted: &Wanted<'_>, progress: Progress<'_>) -> Result<Got> {
    download_heard(net, url, &[], part, wanted, progress, &mut |_| {})
}

/// [`download_heard`] from the first address that has the wanted file; those behind it in its own list may have a share in
/// that. Where it is not, `failed` hears of it, with the position of the address in all lists. The error is why none has it.
pub fn download_any(
    net: &dyn Get,
    lists: &[Vec<String>],
    part: &Path,
    wanted: &Wanted<'_>,
    progress: Progress<'_>,
    listener: Listener<'_>,
    failed: &mut dyn FnMut(usize, &Error),
) -> Result<Got> {
    let mut failures = Vec::new();
    let addresses = lists.iter().flat_map(|list| (0..list.len()).map(|at| (&list[at], &list[at + 1..])));
    for (index, (url, others)) in addresses.enumerate() {
        match download_heard(net, url, others, part, wanted, progress, listener) {
            Ok(got) => return Ok(got),
            Err(error) => {
                failed(index, &error);
                failures.push(error.to_string());
            }
        }
    }
    Err(Error::new(format!("the artifact {} can't be had", wanted.name)).because(failures.join("; ")))
}

/// Downloads `url` (`https://`, `http://` or `file:///`) into the file `part`, which is on the disk then. `others` have the
/// same file, and may be asked for parts of it. What is in `part` already is taken for the beginning, if the digest is known. A
/// file that is not the wanted one is removed, and is an error; so is one that has more than the wanted bytes. `listener` hears every
/// byte that counts for the digest, in order.
pub fn download_heard(
    net: &dyn Get,
    url: &str,
    others: &[String],
    part: &Path,
    wanted: &Wanted<'_>,
    progress: Progress<'_>,
    listener: Listener<'_>,
) -> Result<Got> {
    let what = || format!("can't write {}", part.display());
    let mut file = File::options().create(true).truncate(false).read(true).write(true).open(part).context(what)?;
    let (mut hasher, mut done) = (Sha256::new(), 0);
    let before = match wanted.sha256 {
        // what is too long can't be the beginning
        Some(_) => Some(file.metadata().context(what)?.len()).filter(|size| *size <= wanted.size.unwrap_or(LARGEST)),
        None => None,
    };
    let before = before.unwrap_or(0);
    let (mut body, total, from_start): (Box<dyn Read>, _, _) = match wanted.size {
        Some(size) if size == before && size > 0 => (Box::new(io::empty()), wanted.size, false),
        _ => body(net, url, others, before, wanted)?,
    };
    listener(Piece::Start);
    if from_start || before == 0 {
        file.set_len(0).context(what)?;
    } else {
        done = read_into(&mut (&mut file).take(before), &mut hasher, listener).context(what)?;
    }
    let resumed = done > 0;
    let limit = wanted.size.unwrap_or(LARGEST);
    let total = wanted.size.or(total);
    if let Some(total) = total {
        room_for(part, total.saturating_sub(done))?;
    }
    let mut writeback = Writeback::default();
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = body.read(&mut buffer).map_err(from_io).inspect_err(|error| {
            if error.code() == &code::CHANGED {
                drop(std::fs::remove_file(part));
            }
        })?;
        if count == 0 {
            break;
        }
        done += count as u64;
        if done > limit {
            drop(std::fs::remove_file(part));
            return Err(Error::new(format!("{url} has more than the {limit} bytes that are expected")));
        }
        let bytes = &buffer[..count];
        listener(Piece::Bytes(bytes));
        hasher.update(bytes);
        file.write_all(bytes).context(what)?;
        writeback.wrote(&file, count);
        progress(wanted.name, done, total);
    }
    let sha256 = hex::encode(hasher.finalize());
    if let Some(pinned) = wanted.sha256.filter(|pinned| *pinned != sha256) {
        drop(std::fs::remove_file(part));
        if resumed || (!others.is_empty() && done >= LARGE) {
            // what was there before, or what others gave, may have been what was wrong
            return download_heard(net, url, &[], part, wanted, progress, listener);
        }
        return Err(Error::new(format!(
            "{url} is not the file that is pinned: its SHA-256 is {sha256}, and artifacts.toml says {pinned}"
        )));
    }
    writeback.finish().and_then(|()| file.sync_all()).context(what)?;
    Ok(Got { sha256, size: done })
}

/// What a file has from here to its end: its digest, in hex, and its bytes.
pub fn hash(input: &mut dyn Read) -> io::Result<Got> {
    hash_heard(input, &mut |_| {})
}

/// [`hash`] of a file from its first byte on, with somebody who listens.
pub fn hash_heard(input: &mut dyn Read, listener: Listener<'_>) -> io::Result<Got> {
    let mut hasher = Sha256::new();
    listener(Piece::Start);
    let size = read_into(input, &mut hasher, listener)?;
    Ok(Got { sha256: hex::encode(hasher.finalize()), size })
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

/// The body at `url` from byte `from` on; its whole size; whether it starts at byte 0 after all.
fn body(
    net: &dyn Get,
    url: &str,
    others: &[String],
    from: u64,
    wanted: &Wanted<'_>,
) -> Result<(Box<dyn Read>, Option<u64>, bool)> {
    if let Some(path) = url.strip_prefix("file://") {
        let what = || format!("can't read {path}");
        let file = File::open(path).context(what)?;
        let size = file.metadata().context(what)?.len();
        return Ok((Box::new(file), Some(size), true));
    }
    let from = Some(from).filter(|from| *from > 0);
    let others: Vec<String> = others.iter().filter(|url| !url.starts_with("file://")).cloned().collect();
    let reply = net.get(&Ask { url, others: &others, from, is_pinned: wanted.sha256.is_some() })?;
    let (total, from_start) = match reply.kind {
        Kind::Ok => (reply.length, true),
        Kind::Partial => (reply.length.map(|rest| rest.saturating_add(from.unwrap_or(0))), false),
        _ => return Err(Error::new(format!("{url} is not there"))),
    };
    Ok((reply.body, total, from_start))
}

fn room_for(part: &Path, bytes: u64) -> Result<()> {
    let dir = part.parent().unwrap_or(part);
    let stat =
        nix::sys::statvfs::statvfs(dir).context(|| format!("can't ask for the free space at {}", dir.display()))?;
    let free = stat.blocks_available().saturating_mul(stat.fragment_size());
    if free < bytes {
        return Err(Error::new(format!(
            "{} has {} MiB free, and {} MiB are needed",
            dir.display(),
            free >> 20,
            bytes >> 20
        ))
        .help("free some space there; nothing was changed"));
    }
    Ok(())
}
