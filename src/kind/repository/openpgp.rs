//! The fingerprints of OpenPGP keys (RFC 9580).

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest as _, Sha256};

const BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
const END: &str = "-----END PGP PUBLIC KEY BLOCK-----";

/// Whether a key is armored, and not binary.
pub fn is_armored(key: &[u8]) -> bool {
    key.trim_ascii_start().starts_with(BEGIN.as_bytes())
}

/// Refuses a key file with other keys than those with these fingerprints, or without one of them.
pub fn check_fingerprints(pinned: &[String], file: &[u8]) -> Result<(), String> {
    let plain = |text: &String| text.split_whitespace().collect::<String>().to_ascii_uppercase();
    let pinned: BTreeSet<String> = pinned.iter().map(plain).collect();
    let is_whole = |text: &String| matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if let Some(other) = pinned.iter().find(|text| !is_whole(text)) {
        return Err(format!("`{other}` is not a whole fingerprint, which has 40 or 64 hexadecimal digits"));
    }
    let found = fingerprints(file).map_err(|why| format!("the key file can't be read: {why}"))?;
    let found: BTreeSet<String> = found.into_iter().collect();
    if let Some(other) = found.difference(&pinned).next() {
        return Err(format!("the key file has the key {other}: compare it with what the publisher states"));
    }
    match pinned.difference(&found).next() {
        Some(missing) => Err(format!("no key in the key file is {missing}: remove it, or add its key")),
        None => Ok(()),
    }
}

/// The fingerprints of the primary keys in a file, as upper-case hexadecimal digits, in their order.
fn fingerprints(file: &[u8]) -> Result<Vec<String>, String> {
    if !is_armored(file) {
        return of_packets(file);
    }
    let text = std::str::from_utf8(file).map_err(|_| "it is not text")?;
    let mut all = Vec::new();
    for block in text.split(BEGIN).skip(1) {
        let (block, _) = block.split_once(END).ok_or("its last line is missing")?;
        // headers, an empty line, the packets, and a checksum that begins with `=` (6.2)
        let lines = block.trim_start_matches([' ', '\t', '\r']).lines().skip(1).map(str::trim);
        let lines = lines.skip_while(|line| line.contains(": ")).filter(|line| !line.starts_with('='));
        let packets = BASE64_STANDARD.decode(lines.collect::<String>()).map_err(|why| why.to_string())?;
        all.extend(of_packets(&packets)?);
    }
    Ok(all)
}

fn of_packets(mut rest: &[u8]) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    while !rest.is_empty() {
        let (tag, body, after) = packet(rest).ok_or("it ends in the middle of a packet, or is not a key")?;
        rest = after;
        // the primary key: subkeys are signed by it (5.5.1)
        if tag == 6 {
            all.push(fingerprint(body)?);
        }
    }
    Ok(all)
}

/// The type and body of the first packet, and what follows it (4.2). Keys have no packets in parts.
fn packet(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let number = |bytes: &[u8]| bytes.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
    let (tag, (length, rest)) = if first & 0x40 == 0 {
        let size = [1, 2, 4].get(usize::from(first & 3)).copied()?;
        let (length, rest) = rest.split_at_checked(size)?;
        (first >> 2 & 0xf, (number(length), rest))
    } else {
        let (&size, rest) = rest.split_first()?;
        let length = match size {
            0..=191 => (usize::from(size), rest),
            192..=223 => {
                let (&low, rest) = rest.split_first()?;
                (((usize::from(size) - 192) << 8) + usize::from(low) + 192, rest)
            }
            255 => rest.split_at_checked(4).map(|(length, rest)| (number(length), rest))?,
            224..=254 => return None,
        };
        (first & 0x3f, length)
    };
    let (body, rest) = rest.split_at_checked(length).filter(|_| first & 0x80 != 0)?;
    Some((tag, body, rest))
}

/// The fingerprint of a key (5.5.4).
fn fingerprint(body: &[u8]) -> Result<String, String> {
    let digest = match body.first() {
        Some(4) => {
            let length = u16::try_from(body.len()).map_err(|_| "a key in it is too large")?;
            let mut hash = gix_hash::hasher(gix_hash::Kind::Sha1);
            for part in [&[0x99][..], &length.to_be_bytes(), body] {
                hash.update(part);
            }
            hash.try_finalize().map_err(|why| why.to_string())?.as_slice().to_vec()
        }
        Some(6) => {
            let length = u32::try_from(body.len()).map_err(|_| "a key in it is too large")?;
            let hash = Sha256::new().chain_update([0x9b]).chain_update(length.to_be_bytes()).chain_update(body);
            hash.finalize().to_vec()
        }
        _ => return Err("a key in it has a version other than 4 and 6".to_owned()),
    };
    Ok(hex::encode_upper(digest))
}
