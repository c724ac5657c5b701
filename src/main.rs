//! Arguments → command → exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(kpull::cli::main() as u8)
}
