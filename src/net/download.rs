//! Downloads into a file: gone on with where an earlier attempt ended, bounded, and hashed on the way.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{Context, Error, Result};
use crate::net::{Get, Kind, from_io};

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

/// A file that was downloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// Lower-case hex of its SHA-256.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
}

/// Downloads `url` (`https://`, `http://` or `file:///`) into the file `part`, which is on the disk then. What is in
/// `part` already is taken for the beginning, if the digest is known. A file that is not the wanted one is removed, and is
/// an error; so is one that has more than the wanted bytes.
pub fn download(net: &dyn Get, url: &str, part: &Path, wanted: &Wanted<'_>, progress: Progress<'_>) -> Result<Got> {
    let what = || format!("can't write {}", part.display());
    let mut file = File::options().create(true).truncate(false).read(true).write(true).open(part).context(what)?;
    let (mut hasher, mut done) = (Sha256::new(), 0);
    if wanted.sha256.is_some() {
        done = read_into(&mut file, &mut hasher).context(what)?;
    }
    let resumed = done > 0;
    let (mut body, total, from_start) = body(net, url, done)?;
    if from_start {
        (hasher, done) = (Sha256::new(), 0);
        file.set_len(0).and_then(|()| file.rewind()).context(what)?;
    }
    let limit = wanted.size.unwrap_or(LARGEST);
    let total = wanted.size.or(total);
    if let Some(total) = total {
        room_for(part, total.saturating_sub(done))?;
    }
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = body.read(&mut buffer).map_err(from_io)?;
        if count == 0 {
            break;
        }
        done += count as u64;
        if done > limit {
            drop(std::fs::remove_file(part));
            return Err(Error::new(format!("{url} has more than the {limit} bytes that are expected")));
        }
        hasher.update(&buffer[..count]);
        file.write_all(&buffer[..count]).context(what)?;
        progress(wanted.name, done, total);
    }
    let sha256 = hex::encode(hasher.finalize());
    if let Some(pinned) = wanted.sha256.filter(|pinned| *pinned != sha256) {
        drop(std::fs::remove_file(part));
        if resumed && !from_start {
            // what was there before may have been the wrong half
            return download(net, url, part, wanted, progress);
        }
        return Err(Error::new(format!(
            "{url} is not the file that is pinned: its SHA-256 is {sha256}, and artifacts.toml says {pinned}"
        )));
    }
    file.sync_all().context(what)?;
    Ok(Got { sha256, size: done })
}

/// What a file has from here to its end: its digest, in hex, and its bytes.
pub fn hash(input: &mut dyn Read) -> io::Result<Got> {
    let mut hasher = Sha256::new();
    let size = read_into(input, &mut hasher)?;
    Ok(Got { sha256: hex::encode(hasher.finalize()), size })
}

fn read_into(input: &mut dyn Read, hasher: &mut Sha256) -> io::Result<u64> {
    let (mut buffer, mut size) = (vec![0; CHUNK], 0);
    loop {
        match input.read(&mut buffer)? {
            0 => return Ok(size),
            count => {
                hasher.update(&buffer[..count]);
                size += count as u64;
            }
        }
    }
}

/// The body at `url` from byte `from` on; its whole size; whether it starts at byte 0 after all.
fn body(net: &dyn Get, url: &str, from: u64) -> Result<(Box<dyn Read>, Option<u64>, bool)> {
    if let Some(path) = url.strip_prefix("file://") {
        let what = || format!("can't read {path}");
        let file = File::open(path).context(what)?;
        let size = file.metadata().context(what)?.len();
        return Ok((Box::new(file), Some(size), true));
    }
    let from = Some(from).filter(|from| *from > 0);
    let reply = net.get(url, from)?;
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
