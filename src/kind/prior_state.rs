//! The state before a resource was applied, and the resource that restores it.

use crate::host::packages::Manager;
use crate::host::selinux;
use crate::host::zone::{Edit, Element, Target};
use crate::kind::absent::AbsentFields;
use crate::kind::block::Block;
use crate::kind::directory::Directory;
use crate::kind::edit::{EditedFile, FileEdit, Undo};
use crate::kind::file::PriorFile;
use crate::kind::firewall::{self, Setting};
use crate::kind::package::{OrphanPackage, PackageHold};
use crate::kind::permissions::{Former, Managed};
use crate::kind::prelude::*;
use crate::kind::selinux::Selinux;
use crate::kind::symlink::Symlink;
use crate::kind::sysctl::Sysctl;
use crate::kind::system::System;
use crate::kind::tree::Several;
use crate::kind::unit::{PriorUnit, Unit};
use crate::kind::user::{FormerKeys, Linger, Locked, Login, Members, Removal};
use crate::store::Store;

/// The recorded state of one thing. Owners are numbers: their names may no longer exist when it is restored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "was", rename_all = "kebab-case")]
pub enum PriorState {
    /// There was nothing at the path.
    Nothing {
        /// The path.
        path: String,
    },
    /// A file.
    File {
        /// Where.
        path: String,
        /// The file.
        #[serde(flatten)]
        file: PriorFile,
        /// Whether it is overwritten in place.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        in_place: bool,
    },
    /// A symbolic link.
    Link {
        /// Where.
        path: String,
        /// Its target.
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
        /// Whether the file is overwritten in place.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        in_place: bool,
        /// Whether its last line had no line break.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        unended: bool,
    },
    /// A file without this edit.
    Edited {
        /// The file.
        path: String,
        /// What was in its place.
        #[serde(flatten)]
        undo: Undo,
        /// Whether there was no file at all.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        no_file: bool,
        /// Whether the file is overwritten in place.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        in_place: bool,
    },
    /// A kernel setting, in the running kernel.
    Sysctl {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    },
    /// A zone without an element.
    Shut {
        /// The zone.
        zone: String,
        /// What it did not have.
        element: Element,
    },
    /// A zone with an element that a role forbids, or has moved to another zone.
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
    /// The target of a zone.
    Target {
        /// The zone.
        zone: String,
        /// The target.
        target: Target,
    },
    /// A host without a package.
    NoPackage {
        /// The package.
        name: String,
        /// The package manager; the host's own if `None`.
        manager: Option<Manager>,
        /// SHA-256 of the saved list of packages that were installed then, one name per line; `None` if it is unknown: then
        /// nothing that was installed with the package is removed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        beside: Option<String>,
        /// Whether the host had configuration left over from an earlier installation.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        residue: bool,
    },
    /// The hold of a package.
    #[serde(rename = "hold")]
    PackageHold(PackageHold),
    /// A setting of the system: its name, its time zone, …
    System(System),
    /// A setting of SELinux.
    Selinux {
        /// Which one.
        setting: selinux::Setting,
        /// What the host had set; `None` if the policy's value applied.
        value: Option<String>,
    },
    /// A unit.
    Unit {
        /// Its name.
        name: String,
        /// How it was.
        #[serde(flatten)]
        state: PriorUnit,
    },
    /// A user to lock or remove when no role defines it any more.
    User {
        /// Its name.
        name: String,
        /// Whether it was there before kpull.
        existed: bool,
        /// Whether it is locked, and not removed.
        lock: bool,
        /// Whether its home is removed with it.
        remove_home: bool,
        /// Whether its processes are ended.
        end_processes: bool,
    },
    /// A user who was not in a group.
    NotMember {
        /// The user.
        user: String,
        /// The group.
        group: String,
    },
    /// How a user logged in; `None` for what roles have not changed.
    Login {
        /// The user.
        user: String,
        /// SHA-256 of what `/etc/shadow` had as its password, which the store has saved under it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        password: Option<String>,
        /// Whether it was locked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        locked: Option<bool>,
        /// The day since 1970 on which it expired, or a negative number.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires: Option<i64>,
    },
    /// Whether a user lingered.
    Linger(Linger),
    /// A file with SSH keys, without those of kpull.
    AuthorizedKeys {
        /// The file.
        path: String,
        /// The file that was there, if any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file: Option<PriorFile>,
    },
    /// The permissions of a path that something else created.
    Permissions {
        /// Where.
        path: String,
        /// SHA-256 of the saved permissions, by path.
        saved: String,
        /// Which of them are restored.
        managed: Managed,
    },
    /// Several paths below one.
    Several {
        /// The directory.
        path: String,
        /// What was at each.
        states: Vec<PriorState>,
    },
    /// It already was like that, and stays.
    Same,
    /// It stays unchanged when no role defines it any more.
    Kept {
        /// Why.
        why: String,
    },
}

impl PriorState {
    /// The state of a path. The content of a file is saved.
    pub fn of_path(owned: &Claim, work: &Work<'_>) -> Result<Self> {
        let Some(at) = owned.whole_path() else { return Ok(Self::Same) };
        let (root, path) = (&work.host.root, owned.subject());
        let Some(meta) = root.meta(at)? else { return Ok(Self::Nothing { path }) };
        Ok(match meta.what {
            FileType::File => {
                let Some((meta, content)) = root.read(at)? else { return Ok(Self::Nothing { path }) };
                let (saved, Meta { mode, uid, gid, .. }) = (work.store.save(&content)?, meta);
                Self::File { path, file: PriorFile { saved, mode, uid, gid }, in_place: false }
            }
            FileType::Link => match root.link(at)?.map(|target| target.into_os_string().into_string()) {
                Some(Ok(target)) => Self::Link { path, target },
                _ => Self::Kept { why: "a link whose target is not text".to_owned() },
            },
            FileType::Directory => Self::Directory { path, mode: meta.mode, uid: meta.uid, gid: meta.gid },
            FileType::Special => Self::Kept { why: "a device, socket or pipe".to_owned() },
        })
    }

    /// The resource that restores the state; `None` if it stays unchanged.
    pub fn resource(&self, store: &Store) -> Result<Option<Box<dyn Resource>>> {
        let former = |zone: &String, setting| Box::new(firewall::Former { zone: zone.clone(), setting });
        Ok(Some(match self {
            Self::Nothing { path } => Box::new(AbsentFields::unless_full(at(path)?)),
            Self::File { path, file: PriorFile { saved, mode, uid, gid }, in_place } => {
                Box::new(file(path, store.saved(saved)?, Ownership::numeric(*mode, *uid, *gid), *in_place)?)
            }
            Self::Link { path, target } => Box::new(Symlink { path: at(path)?, target: target.into() }),
            Self::Directory { path, mode, uid, gid } => {
                Box::new(Directory { path: at(path)?, wanted: Ownership::numeric(*mode, *uid, *gid) })
            }
            Self::NoBlock { path, name, comment, no_file, in_place, unended } => {
                let (name, comment, unended) = (name.clone(), comment.clone(), *unended);
                let file = EditedFile::to_undo(at(path)?, *no_file, *in_place);
                Box::new(Block { file, name, comment, text: String::new(), unended })
            }
            Self::Edited { path, undo, no_file, in_place } => {
                let file = EditedFile::to_undo(at(path)?, *no_file, *in_place);
                Box::new(FileEdit::undo(file, undo.clone()))
            }
            Self::Sysctl { name, value } => return Ok(Sysctl::for_now(name, value).map(|sysctl| Box::new(sysctl) as _)),
            Self::Shut { zone, element } => former(zone, Setting::Element(Edit::Remove(element.clone()))),
            Self::Open { zone, element } => former(zone, Setting::Element(Edit::Add(element.clone()))),
            Self::NoZone { zone } => former(zone, Setting::Missing),
            Self::Target { zone, target } => former(zone, Setting::Target(*target)),
            Self::NoPackage { name, manager, beside, residue } => {
                // without the list, only the package itself is removed
                let beside = beside.as_ref().and_then(|saved| store.saved(saved).ok());
                Box::new(OrphanPackage::new(name, *manager, beside.as_deref(), !residue))
            }
            Self::PackageHold(hold) => Box::new(hold.clone()),
            Self::System(system) => Box::new(system.clone()),
            Self::Selinux { setting, value } => {
                let (setting, value) = (setting.clone(), value.clone());
                Box::new(Selinux { setting, value, ignore_missing: true, is_former: true })
            }
            Self::Permissions { path, saved, managed } => {
                Box::new(Former::new(at(path)?, &store.saved(saved)?, *managed)?)
            }
            Self::Several { path, states } => {
                let resources = states.iter().filter_map(|state| state.resource(store).transpose());
                Box::new(Several { path: path.clone(), resources: resources.collect::<Result<_>>()? })
            }
            Self::Unit { name, state } => Box::new(Unit::restored(name, *state)),
            // a release that was never good here does not manage a user that existed before it
            Self::User { name, existed: true, .. } if !was_good(store, &ResourceId::new("user", name))? => {
                return Ok(None);
            }
            Self::User { name, lock: true, .. } => Box::new(Locked::new(name)),
            Self::User { name, remove_home, end_processes, .. } => {
                let (user, remove_home, end_processes) = (name.clone(), *remove_home, *end_processes);
                Box::new(Removal { user, remove_home, end_processes, is_orphan: true })
            }
            Self::NotMember { user, group } => {
                let (user, others) = (user.clone(), vec![group.clone()]);
                Box::new(Members { user, groups: Vec::new(), others, exclusive: false })
            }
            Self::Login { user, password, locked, expires } => {
                let password = password.as_ref().map(|saved| store.saved(saved)).transpose()?;
                Box::new(Login::restored(user, password, *locked, *expires))
            }
            Self::Linger(linger) => Box::new(linger.clone()),
            Self::AuthorizedKeys { path, file } => {
                let former = |file: &PriorFile| {
                    let access = Access { mode: file.mode, uid: Some(file.uid), gid: Some(file.gid) };
                    Ok::<_, Error>((store.saved(&file.saved)?, access))
                };
                Box::new(FormerKeys { path: at(path)?, file: file.as_ref().map(former).transpose()? })
            }
            Self::Same | Self::Kept { .. } => return Ok(None),
        }))
    }

    /// Whether a resource restores it.
    pub fn comes_back(&self) -> bool {
        !matches!(self, Self::Same | Self::Kept { .. })
    }

    /// Whether there was nothing.
    pub fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing { .. })
    }

    /// SHA-256 of each saved content that it refers to.
    pub fn saved(&self) -> Vec<&str> {
        match self {
            Self::File { file: PriorFile { saved, .. }, .. } | Self::Permissions { saved, .. } => vec![saved],
            Self::NoPackage { beside: saved, .. } | Self::Login { password: saved, .. } => {
                saved.as_deref().into_iter().collect()
            }
            Self::AuthorizedKeys { file, .. } => file.iter().map(|file| &*file.saved).collect(),
            Self::Several { states, .. } => states.iter().flat_map(Self::saved).collect(),
            _ => Vec::new(),
        }
    }

    /// What a rollback leaves on the host, in a few words; `None` if nothing.
    pub fn leftover(&self) -> Option<&str> {
        match self {
            Self::Kept { why } => Some(why),
            _ => None,
        }
    }
}

/// Whether a good release had a resource.
fn was_good(store: &Store, id: &ResourceId) -> Result<bool> {
    let generations = store.generations()?;
    Ok(generations.iter().any(|one| one.good && one.resources.contains(id)))
}

/// The file at `path` as its package now ships it, if dpkg or rpm put it beside the file because the file had been changed.
pub fn shipped_beside(path: &str, work: &Work<'_>) -> Result<Option<Box<dyn Resource>>> {
    for suffix in [".dpkg-dist", ".rpmnew"] {
        let beside = format!("{path}{suffix}");
        if let Some((meta, content)) = work.host.root.read(beside.as_ref())? {
            return Ok(Some(Box::new(file(path, content, Ownership::numeric(meta.mode, meta.uid, meta.gid), false)?)));
        }
    }
    Ok(None)
}

/// A file to restore; what only its owner could read is kept out of diffs.
fn file(path: &str, content: Vec<u8>, wanted: Ownership, in_place: bool) -> Result<File> {
    let sensitive = wanted.is_for_owner();
    Ok(File { wanted, in_place, ..File::new("file", at(path)?, content, sensitive) })
}

fn at(path: &str) -> Result<AbsolutePath> {
    AbsolutePath::try_from(path.to_owned())
        .map_err(|why| error!(FILE, "the recorded prior state can't be read").because(why))
}
