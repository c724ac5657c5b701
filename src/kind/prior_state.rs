//! What stood on a host before a resource came there, and the resource that brings it back.

use serde::{Deserialize, Serialize};

use crate::document::fields::AbsolutePath;
use crate::error::{Error, Result, code};
use crate::host::packages::Manager;
use crate::host::root::FileType;
use crate::host::zone::{Edit, Element, Target};
use crate::kind::absent::Absent;
use crate::kind::block::Block;
use crate::kind::directory::Directory;
use crate::kind::file::{File, Ownership};
use crate::kind::firewall::{Former, Setting};
use crate::kind::package::Unwanted;
use crate::kind::symlink::Symlink;
use crate::kind::sysctl::Sysctl;
use crate::kind::unit::Unit;
use crate::kind::{Claim, Resource, Work};
use crate::store::Store;

/// One thing as it was. Owners are numbers: the names may be gone by the time that it comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "was", rename_all = "kebab-case")]
pub enum PriorState {
    /// Nothing stood at the path.
    Nothing {
        /// The path.
        path: String,
    },
    /// A file.
    File {
        /// Where.
        path: String,
        /// SHA-256 of its content, which the store has saved under it.
        saved: String,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Whether it is written into as it stands.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        in_place: bool,
    },
    /// A symbolic link.
    Link {
        /// Where.
        path: String,
        /// Where it led.
        target: String,
    },
    /// A directory.
    Directory {
        /// Where.
        path: String,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// A file without this block.
    NoBlock {
        /// The file.
        path: String,
        /// The block's name.
        name: String,
        /// What a comment starts with.
        comment: String,
        /// Whether there was no file at all.
        no_file: bool,
        /// Whether the file is written into as it stands.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        in_place: bool,
        /// Whether its last line had no end.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        unended: bool,
    },
    /// A kernel setting, in the running kernel.
    Sysctl {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    },
    /// A zone without something.
    Shut {
        /// The zone.
        zone: String,
        /// What it did not have.
        element: Element,
    },
    /// A zone with something that a role bars, or has put into another zone.
    Open {
        /// The zone.
        zone: String,
        /// What it had.
        element: Element,
    },
    /// A firewall without a zone.
    NoZone {
        /// The zone.
        zone: String,
    },
    /// What a zone did with what nothing in it speaks of.
    Target {
        /// The zone.
        zone: String,
        /// That.
        target: Target,
    },
    /// A host without a package.
    NoPackage {
        /// The package.
        name: String,
        /// Whose package; the host's own when it is `None`.
        manager: Option<Manager>,
        /// What was installed then, one name a line, in a content that the store has saved under this SHA-256; `None` when that is
        /// not known, so that what came with the package can't be told from it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        beside: Option<String>,
        /// Whether configuration of the package was left on the host from an earlier time.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        residue: bool,
    },
    /// A unit.
    Unit {
        /// Its name.
        name: String,
        /// How it was.
        #[serde(flatten)]
        state: PriorUnit,
    },
    /// It was like that before, and stays so.
    Same,
    /// What is left as it is when nobody wants it any more.
    Kept {
        /// Why.
        why: String,
    },
}

/// How a unit was; `None` for what roles have left alone until now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriorUnit {
    /// Whether it was enabled.
    pub enabled: Option<bool>,
    /// Whether it ran.
    pub running: Option<bool>,
    /// Whether it was masked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masked: Option<bool>,
    /// Whether the role says that it goes on running when no role has it any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keeps_running: bool,
}

impl PriorUnit {
    /// With what another knows of what this one does not.
    pub fn or(self, other: Self) -> Self {
        Self {
            enabled: self.enabled.or(other.enabled),
            running: self.running.or(other.running),
            masked: self.masked.or(other.masked),
            keeps_running: other.keeps_running,
        }
    }
}

impl PriorState {
    /// What stands at a path. A file's content is saved.
    pub fn of_path(owned: &Claim, work: &Work<'_>) -> Result<Self> {
        let Some(at) = owned.whole_path() else { return Ok(Self::Same) };
        let (root, path) = (&work.host.root, owned.subject());
        let Some(meta) = root.meta(at)? else { return Ok(Self::Nothing { path }) };
        Ok(match meta.what {
            FileType::File => {
                let Some((meta, content)) = root.read(at)? else { return Ok(Self::Nothing { path }) };
                let (saved, in_place) = (work.store.save(&content)?, false);
                Self::File { path, saved, mode: meta.mode, uid: meta.uid, gid: meta.gid, in_place }
            }
            FileType::Link => match root.link(at)?.map(|target| target.into_os_string().into_string()) {
                Some(Ok(target)) => Self::Link { path, target },
                _ => Self::Kept { why: "a link whose target is no text".to_owned() },
            },
            FileType::Directory => Self::Directory { path, mode: meta.mode, uid: meta.uid, gid: meta.gid },
            FileType::Special => Self::Kept { why: "a device, socket or pipe".to_owned() },
        })
    }

    /// The resource that makes the host as it was; `None` for what is left as it is.
    pub fn resource(&self, store: &Store) -> Result<Option<Box<dyn Resource>>> {
        let former = |zone: &String, setting| Box::new(Former { zone: zone.clone(), setting });
        Ok(Some(match self {
            Self::Nothing { path } => Box::new(Absent::unless_full(at(path)?)),
            Self::File { path, saved, mode, uid, gid, in_place } => {
                Box::new(file(path, store.saved(saved)?, Ownership::numeric(*mode, *uid, *gid), *in_place)?)
            }
            Self::Link { path, target } => Box::new(Symlink { path: at(path)?, target: target.into() }),
            Self::Directory { path, mode, uid, gid } => {
                Box::new(Directory { path: at(path)?, wanted: Ownership::numeric(*mode, *uid, *gid) })
            }
            Self::NoBlock { path, name, comment, no_file, in_place, unended } => {
                let mut block = Block::none(at(path)?, name.clone(), comment.clone());
                (block.no_file, block.in_place, block.unended) = (*no_file, *in_place, *unended);
                Box::new(block)
            }
            Self::Sysctl { name, value } => match Sysctl::for_now(name, value) {
                Some(sysctl) => Box::new(sysctl),
                None => return Ok(None),
            },
            Self::Shut { zone, element } => former(zone, Setting::Element(Edit::Remove(element.clone()))),
            Self::Open { zone, element } => former(zone, Setting::Element(Edit::Add(element.clone()))),
            Self::NoZone { zone } => former(zone, Setting::Missing),
            Self::Target { zone, target } => former(zone, Setting::Target(*target)),
            Self::NoPackage { name, manager, beside, residue } => {
                // without it, no more than the package itself is taken away
                let beside = beside.as_ref().and_then(|saved| store.saved(saved).ok());
                Box::new(Unwanted::new(name, *manager, beside.as_deref(), !residue))
            }
            Self::Unit { name, state } => Box::new(Unit::as_it_was(name, *state)),
            Self::Same | Self::Kept { .. } => return Ok(None),
        }))
    }

    /// Whether a resource brings it back.
    pub fn comes_back(&self) -> bool {
        !matches!(self, Self::Same | Self::Kept { .. })
    }

    /// Whether nothing stood there.
    pub fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing { .. })
    }

    /// SHA-256 of the content that it needs the store to keep.
    pub fn saved(&self) -> Option<&str> {
        match self {
            Self::File { saved, .. } => Some(saved),
            Self::NoPackage { beside, .. } => beside.as_deref(),
            _ => None,
        }
    }

    /// What this host is left with that a way back does not undo, in a few words; `None` when nothing is.
    pub fn leftover(&self) -> Option<&str> {
        match self {
            Self::Kept { why } => Some(why),
            _ => None,
        }
    }
}

/// The file at `path` as its package ships it now, if dpkg or rpm has laid that beside the file because somebody had changed it.
pub fn shipped_beside(path: &str, work: &Work<'_>) -> Result<Option<Box<dyn Resource>>> {
    for suffix in [".dpkg-dist", ".rpmnew"] {
        let beside = format!("{path}{suffix}");
        if let Some((meta, content)) = work.host.root.read(beside.as_ref())? {
            return Ok(Some(Box::new(file(path, content, Ownership::numeric(meta.mode, meta.uid, meta.gid), false)?)));
        }
    }
    Ok(None)
}

/// A file as it was; what only its owner could read is kept out of diffs.
fn file(path: &str, content: Vec<u8>, wanted: Ownership, in_place: bool) -> Result<File> {
    let sensitive = wanted.is_for_owner();
    Ok(File { kind: "file", path: at(path)?, content: content.into(), wanted, sensitive, in_place })
}

fn at(path: &str) -> Result<AbsolutePath> {
    AbsolutePath::try_from(path.to_owned())
        .map_err(|why| Error::new(code::FILE, "what is remembered of this host can't be read").because(why))
}
