//! Access lists (acl(5)) in the kernel's format.

use std::collections::BTreeMap;

/// Tags of entries in an access list.
pub(super) const ACL_OWNER: u16 = 0x01;
const ACL_USER: u16 = 0x02;
pub(super) const ACL_GROUP: u16 = 0x04;
const ACL_NAMED_GROUP: u16 = 0x08;
pub(super) const ACL_MASK: u16 = 0x10;
pub(super) const ACL_OTHER: u16 = 0x20;

/// The version of the format, at its beginning.
const VERSION: [u8; 4] = [2, 0, 0, 0];

/// The id of entries that have none.
const NO_ID: u32 = u32::MAX;

/// Whom an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// The owner of the file.
    Owner,
    /// A user, by number.
    User(u32),
    /// The group of the file.
    OwningGroup,
    /// A group, by number.
    Group(u32),
    /// The most that users and groups get.
    Mask,
    /// Everybody else.
    Other,
}

impl Who {
    fn tag(self) -> (u16, u32) {
        match self {
            Self::Owner => (ACL_OWNER, NO_ID),
            Self::User(id) => (ACL_USER, id),
            Self::OwningGroup => (ACL_GROUP, NO_ID),
            Self::Group(id) => (ACL_NAMED_GROUP, id),
            Self::Mask => (ACL_MASK, NO_ID),
            Self::Other => (ACL_OTHER, NO_ID),
        }
    }
}

/// Who has which rights: three bits, as in a mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessList(BTreeMap<Who, u32>);

impl AccessList {
    /// The list that says the same as the mode.
    pub fn of_mode(mode: u32) -> Self {
        let bits = [(Who::Owner, mode >> 6), (Who::OwningGroup, mode >> 3), (Who::Other, mode)];
        Self(bits.map(|(who, rights)| (who, rights & 0o7)).into())
    }

    /// Sets the rights of one.
    pub fn set(&mut self, who: Who, rights: u32) {
        self.0.insert(who, rights & 0o7);
    }

    /// Adds the mask that takes nothing away, if a list with these entries has to have one and has none.
    pub fn complete(&mut self) {
        let is_named = |who: &Who| matches!(who, Who::User(_) | Who::Group(_));
        if self.0.keys().any(is_named) && !self.0.contains_key(&Who::Mask) {
            let in_mask = |who: &Who| is_named(who) || *who == Who::OwningGroup;
            let rights = self.0.iter().filter(|(who, _)| in_mask(who)).fold(0, |all, (_, rights)| all | rights);
            self.0.insert(Who::Mask, rights);
        }
    }

    /// The mode of a file with this list: the bits of the group are the mask.
    pub fn mode(&self) -> u32 {
        let of = |who: Who| self.0.get(&who).copied();
        let group = of(Who::Mask).or_else(|| of(Who::OwningGroup));
        of(Who::Owner).unwrap_or(0) << 6 | group.unwrap_or(0) << 3 | of(Who::Other).unwrap_or(0)
    }

    /// In the kernel's format.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_vec();
        for (who, rights) in &self.0 {
            let (tag, id) = who.tag();
            bytes.extend(tag.to_le_bytes());
            bytes.extend((*rights as u16).to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    /// [`AccessList::encode`]; `None` if a mode says the same.
    pub fn beyond_mode(&self) -> Option<Vec<u8>> {
        (self.0.len() > 3).then(|| self.encode())
    }

    /// The rights of the owning group in a list in the kernel's format.
    pub fn owning_group(bytes: &[u8]) -> Option<u32> {
        let entries = bytes.get(4..)?.chunks_exact(8);
        let mut of_group = entries.filter(|entry| entry.starts_with(&ACL_GROUP.to_le_bytes()));
        of_group.next()?.get(2).map(|rights| u32::from(*rights) & 0o7)
    }
}
