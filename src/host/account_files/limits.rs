//! The settings for new users in `/etc/login.defs`, and the numbers that are free for them.

use std::path::Path;

use super::failed;
use crate::error::Result;
use crate::host::account_table::{Table, fields, number};
use crate::host::root::Root;

/// The settings for new users in `/etc/login.defs`.
#[derive(Debug)]
pub(super) struct Limits {
    system: std::ops::RangeInclusive<u32>,
    pub(super) ordinary: std::ops::RangeInclusive<u32>,
    pub(super) subuid: SubIds,
    pub(super) subgid: SubIds,
    pub(super) home_mode: u32,
}

impl Limits {
    pub(super) fn read(root: &Root) -> Result<Self> {
        let text = root.text(Path::new("/etc/login.defs"))?;
        let word = |name: &str| {
            let words = text.lines().map(str::split_whitespace);
            words.filter_map(|mut words| (words.next() == Some(name)).then(|| words.next()).flatten()).next_back()
        };
        let number = |name: &str, default: u32| word(name).and_then(|word| word.parse().ok()).unwrap_or(default);
        let sub_ids = |name: &str| SubIds {
            min: number(&format!("SUB_{name}_MIN"), 100_000).into(),
            max: number(&format!("SUB_{name}_MAX"), 600_100_000).into(),
            count: number(&format!("SUB_{name}_COUNT"), 65_536).into(),
        };
        Ok(Self {
            system: number("SYS_UID_MIN", 100)..=number("SYS_UID_MAX", 999),
            ordinary: number("UID_MIN", 1000)..=number("UID_MAX", 60_000),
            subuid: sub_ids("UID"),
            subgid: sub_ids("GID"),
            home_mode: word("HOME_MODE").and_then(|mode| u32::from_str_radix(mode, 8).ok()).unwrap_or(0o700) & 0o7777,
        })
    }

    pub(super) fn holds(&self, system: bool, number: u32) -> bool {
        if system { self.system.contains(&number) } else { self.ordinary.contains(&number) }
    }

    /// The first free number: for the system from the top, otherwise from the bottom.
    pub(super) fn free(&self, system: bool, is_free: impl Fn(u32) -> bool) -> Result<u32> {
        let range = if system { &self.system } else { &self.ordinary };
        let found = match system {
            true => range.clone().rev().find(|&number| is_free(number)),
            false => range.clone().find(|&number| is_free(number)),
        };
        let none = || failed(format!("no number from {} to {} is free", range.start(), range.end()));
        found.ok_or_else(|| none().help("set one in the role, or widen the range in /etc/login.defs"))
    }
}

/// The range of subordinate numbers (user namespaces, rootless containers), and how many a user gets.
#[derive(Debug)]
pub(super) struct SubIds {
    min: u64,
    max: u64,
    count: u64,
}

impl SubIds {
    /// Assigns the first free ones to a new user, if the host has such a file.
    pub(super) fn give(&self, table: &mut Table, name: &[u8]) -> Result<()> {
        if !table.exists || self.count == 0 {
            return Ok(());
        }
        let taken = table.lines().filter_map(|(line, _)| {
            let fields = fields(line);
            Some((u64::from(number(&fields, 1)?), u64::from(number(&fields, 2)?)))
        });
        let mut taken: Vec<(u64, u64)> = taken.collect();
        taken.sort_unstable();
        let mut start = self.min;
        for (first, count) in taken {
            if first >= start.saturating_add(self.count) {
                break;
            }
            start = start.max(first.saturating_add(count));
        }
        if start.saturating_add(self.count) > self.max.saturating_add(1) {
            let (path, name) = (table.path.display(), String::from_utf8_lossy(name));
            return Err(failed(format!("{path} has no range of {} free numbers for {name}", self.count))
                .help("remove lines of deleted users from it, or set SUB_UID_MAX and SUB_GID_MAX in /etc/login.defs"));
        }
        table.set(&[name, start.to_string().as_bytes(), self.count.to_string().as_bytes()]);
        Ok(())
    }
}
