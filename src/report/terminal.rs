//! What a terminal can, and how much somebody wants to read.

use std::io::stdout;

/// How much is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Only what somebody should look at.
    Quiet,
    /// Changes and a summary.
    #[default]
    Normal,
    /// Everything: where each resource is written, and whole texts.
    Verbose,
}

/// Whether a stream gets colours. `NO_COLOR` says no, `CLICOLOR_FORCE` says yes, `CLICOLOR=0` and a dumb terminal say no; else a
/// terminal gets them, and a pipe does not.
pub fn colors(is_terminal: bool) -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let is_zero = |name: &str| set(name).is_some_and(|value| value == "0");
    if set("NO_COLOR").is_some() {
        return false;
    }
    if set("CLICOLOR_FORCE").is_some() && !is_zero("CLICOLOR_FORCE") {
        return true;
    }
    is_terminal && !is_zero("CLICOLOR") && set("TERM").is_none_or(|term| term != "dumb")
}

/// The columns of standard output: as `COLUMNS` says, else as its terminal does; `None` for what is no terminal.
pub fn width() -> Option<usize> {
    let said = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let asked = || rustix::termios::tcgetwinsize(stdout()).ok().map(|size| usize::from(size.ws_col));
    said.or_else(asked).filter(|width| *width > 0)
}
