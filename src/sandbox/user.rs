//! The user that the unprivileged process becomes.

use std::path::Path;

use nix::unistd::geteuid;

use crate::error::Result;
use crate::host::accounts::Accounts;
use crate::host::root::Root;
use crate::read;

/// The user that the child becomes if the host has it; else [`NOBODY`].
const USER: &str = "kpull";
const NOBODY: (u32, u32) = (65534, 65534);

/// The user that a child becomes; `None` when this isn't root, or root of a namespace without other users.
pub fn user() -> Result<Option<(u32, u32)>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let root = Root::open(Path::new("/"))?;
    let accounts = Accounts::read(&root)?;
    let own = accounts.local(USER).map(|login| (login.uid, login.gid)).filter(|(uid, gid)| *uid != 0 && *gid != 0);
    let (uid, gid) = own.unwrap_or(NOBODY);
    // root of a user namespace, for example while an image is built
    let map = |name: &str| read::kernel(&format!("/proc/self/{name}")).unwrap_or_default();
    let can = read::has_number(&map("uid_map"), uid)
        && read::has_number(&map("gid_map"), gid)
        && map("setgroups").trim() != "deny";
    Ok(can.then_some((uid, gid)))
}
