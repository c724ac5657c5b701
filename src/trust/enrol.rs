//! Enrolling with fingerprints: finds the keys that they belong to in a source.

use std::collections::BTreeSet;

use jiff::Timestamp;
use ssh_key::PublicKey;

use crate::document::Tree;
use crate::document::layout::{LARGEST_SIGNATURES, SIGNATURES};
use crate::error::{Context, Result, code, refused};
use crate::trust::{AllowedSigners, KeySet, claimed, fingerprint};

/// The initial trust of a host.
#[derive(Debug)]
pub enum Enrolment {
    /// The site's first key set, as signed.
    Set(Vec<u8>),
    /// The keys, for a site without key sets.
    Keys {
        /// In OpenSSH's allowed_signers format.
        lines: String,
        /// How many of them must sign a release: all, so that hiding the key sets of a site does not make one key sufficient.
        threshold: usize,
    },
}

/// The keys with these fingerprints: the first key set in `tree`, if each of them signed it, or, without key sets, the keys from the
/// signatures of the release. Nothing is parsed before the signatures are verified. The caller follows later sets.
pub fn enrol(tree: &dyn Tree, site: &str, fingerprints: &BTreeSet<&str>, now: Timestamp) -> Result<Enrolment> {
    let first = KeySet::read(tree, 1)?;
    let (name, signatures) = match &first {
        Some((_, signatures)) => ("key set 1", signatures.clone()),
        None => {
            let missing =
                || refused!(ENROLL, "the source has no signatures").help("publish a signed release there first");
            ("the release", tree.read(SIGNATURES, LARGEST_SIGNATURES)?.ok_or_else(missing)?)
        }
    };
    let claimed = claimed(name, &signatures)?;
    let mut lines = String::new();
    for wanted in fingerprints {
        let key = claimed.iter().find(|key| fingerprint(key) == *wanted).ok_or_else(|| {
            let there: Vec<String> = claimed.iter().map(fingerprint).collect();
            refused!(ENROLL, "no signature of {name} is of {wanted}")
                .because(format!("the signatures are of {}", there.join(", ")))
                .help(
                    "get the fingerprints from the signers: `kpull keys show`, in their copy of the site, lists those of each key \
                     set, and `ssh-keygen -l -f KEY.pub` prints that of a key; to start from a later set, add --signers keys/N.toml, \
                     from such a copy",
                )
        })?;
        let line =
            PublicKey::from(key.clone()).to_openssh().context(code::ENROLL, || format!("{wanted} can't be written"))?;
        lines.push_str(&format!("signer {line}\n"));
    }
    let given = fingerprints.len();
    let Some((bytes, signatures)) = first else { return Ok(Enrolment::Keys { lines, threshold: given }) };
    let start = KeySet::start(site, AllowedSigners::parse("--fingerprint", &lines)?, given, given);
    let set = start.next(&bytes, &signatures, now, None)?;
    if given < set.rotate {
        let are = if given == 1 { "is" } else { "are" };
        return Err(refused!(ENROLL, "key set 1 needs {} fingerprints, and {given} {are} given", set.rotate)
            .because("fewer keys than that can't authorize the next set")
            .help(format!(
                "add --fingerprint for {} keys that signed it: `kpull keys show`, in a copy of the site that you trust, lists \
                 them; or add --signers keys/1.toml, from such a copy",
                set.rotate
            )));
    }
    Ok(Enrolment::Set(bytes))
}
