//! Creates home directories with the content of `/etc/skel`.

use std::path::Path;

use crate::error::Result;
use crate::host::root::{Access, Root};

/// The directory that is copied into new homes.
const SKEL: &str = "/etc/skel";

/// Creates the home at `path` for a user, with a copy of `/etc/skel`.
pub fn make(root: &Root, path: &Path, access: Access) -> Result<()> {
    root.make_directory(path, access)?;
    root.copy(path, (root, Path::new(SKEL)), &|meta| Access { mode: meta.mode, ..access })
}
