//! Installs a filter for system calls.

use std::io;

use nix::libc::{PR_SET_SECCOMP, SECCOMP_MODE_FILTER, prctl, sock_fprog};
use seccompiler::BpfProgramRef;

/// Applies a filter to this thread and to all that it starts, irrevocably. Requires `no_new_privs`. All kernels with filters have
/// this call (Linux 3.5); `seccomp(2)`, which seccompiler itself uses, came with 3.17.
#[allow(unsafe_code, reason = "no crate at hand has a safe function for it")]
pub(super) fn apply(program: BpfProgramRef<'_>) -> io::Result<()> {
    let len = program.len().try_into().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let filter = sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: the kernel copies `len` instructions from `filter` during the call, and writes nothing there; both live until it returns.
    match unsafe { prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &raw const filter) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
