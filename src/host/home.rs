//! Creates home directories with the content of `/etc/skel`.

use std::path::Path;

use crate::error::Result;
use crate::host::root::{Access, FileType, Root};

/// The directory that is copied into new homes.
const SKEL: &str = "/etc/skel";

/// Creates the home at `path` for a user, with a copy of `/etc/skel`.
pub fn make(root: &Root, path: &Path, access: Access) -> Result<()> {
    root.make_directory(path, access)?;
    copy(root, Path::new(SKEL), path, access)
}

/// Copies the content of a directory with its modes, owned as `access` says. Devices and pipes are skipped.
fn copy(root: &Root, from: &Path, to: &Path, access: Access) -> Result<()> {
    for name in root.names(from)? {
        let (from, to) = (from.join(&name), to.join(&name));
        let Some(meta) = root.meta(&from)? else { continue };
        let access = Access { mode: meta.mode, ..access };
        match meta.what {
            FileType::Directory => {
                root.make_directory(&to, access)?;
                copy(root, &from, &to, access)?;
            }
            FileType::File => {
                if let Some((_, content)) = root.read(&from)? {
                    root.write(&to, &content, access)?;
                }
            }
            FileType::Link => {
                if let Some(target) = root.link(&from)? {
                    root.make_link(&to, &target)?;
                }
            }
            FileType::Special => {}
        }
    }
    Ok(())
}
