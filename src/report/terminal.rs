//! What a terminal supports, and the level of detail.

use std::os::fd::AsFd;

use textwrap::core::Word;
use textwrap::{Options, WordSeparator, WordSplitter};

/// The level of detail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Only what needs attention.
    Quiet,
    /// Changes and a summary.
    #[default]
    Normal,
    /// Everything: the place of each resource, and whole texts.
    Verbose,
}

/// Whether a stream gets colours: not with `NO_COLOR`, always with `CLICOLOR_FORCE`, not with `CLICOLOR=0` or on a dumb terminal; else a
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

/// The columns of a stream, from `COLUMNS` or else from its terminal; `None` without a terminal.
pub fn width(stream: impl AsFd) -> Option<usize> {
    let configured = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let asked = || rustix::termios::tcgetwinsize(stream).ok().map(|size| usize::from(size.ws_col));
    configured.or_else(asked).filter(|width| *width > 0)
}

/// Where a text may be wrapped: after spaces, but not inside a command in backquotes, which is there to be pasted.
pub const SEPARATOR: WordSeparator = WordSeparator::Custom(words);

/// Wraps a text to `width` columns, as far as its words allow; one line when there is no width.
pub fn fill(text: &str, width: Option<usize>, first: &str, others: &str) -> String {
    let Some(width) = width else { return format!("{first}{text}") };
    let options = Options::new(width).word_separator(SEPARATOR).word_splitter(WordSplitter::NoHyphenation);
    textwrap::fill(text, options.break_words(false).initial_indent(first).subsequent_indent(others))
}

/// The pieces of a line that stay whole, each with the spaces after it.
fn words(line: &str) -> Box<dyn Iterator<Item = Word<'_>> + '_> {
    let (mut is_quoted, mut start) = (false, 0);
    let mut pieces = Vec::new();
    for (at, one) in line.char_indices() {
        let (before, behind) = line.split_at_checked(at).unwrap_or((line, ""));
        if !is_quoted && one != ' ' && before.ends_with(' ') {
            pieces.extend(line.get(start..at));
            start = at;
        }
        if one == '`' {
            is_quoted = !is_quoted && behind.get(1..).is_some_and(|rest| rest.contains('`'));
        }
    }
    pieces.extend(line.get(start..));
    Box::new(pieces.into_iter().map(Word::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(line: &str) -> Vec<String> {
        words(line).map(|word| word.word.to_owned()).collect()
    }

    #[test]
    fn a_command_in_backquotes_is_one_piece_and_a_lone_backquote_is_none() {
        assert_eq!(pieces("run `kpull plan --root /t`, then"), ["run", "`kpull plan --root /t`,", "then"]);
        assert_eq!(pieces("`a b` or (`c  d`) é `e f`"), ["`a b`", "or", "(`c  d`)", "é", "`e f`"]);
        assert_eq!(pieces("it's ` and more"), ["it's", "`", "and", "more"]);
        assert_eq!(pieces(" x"), ["", "x"]);
        assert_eq!(pieces(""), [""]);
    }

    #[test]
    fn lines_are_broken_for_a_width_alone_and_never_in_a_command_or_a_word() {
        let text = "say `apt-mark unhold a-long-name` and run again";
        let lines = |width| fill(text, width, "> ", "  ");
        assert_eq!(lines(None), format!("> {text}"));
        assert_eq!(lines(Some(20)), "> say\n  `apt-mark unhold a-long-name`\n  and run again");
        assert_eq!(lines(Some(80)), format!("> {text}"));
    }
}
