//! Arguments → command → exit code.

use std::process::ExitCode;

/// musl's own gives memory back to the kernel after each use, which costs a short run most of its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ExitCode::from(kpull::cli::main() as u8)
}
