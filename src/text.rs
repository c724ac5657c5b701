//! Splits texts from outside. A text is never sliced by a number of bytes, which may be within a character: that would panic (the lint
//! `clippy::string_slice` enforces this in all code).

/// Displays an enum as serde writes its variants.
macro_rules! display_as_serialized {
    ($type:ty) => {
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                serde::Serialize::serialize(self, f)
            }
        }
    };
}
pub(crate) use display_as_serialized;

/// Reads a type from a text, for `#[serde(try_from = "String")]`; the error says what is wrong with the text.
macro_rules! from_text {
    ($type:ty, |$text:ident| $read:block) => {
        impl TryFrom<String> for $type {
            type Error = String;

            fn try_from($text: String) -> std::result::Result<Self, String> {
                $read
            }
        }
    };
}
pub(crate) use from_text;

/// The texts before and after each occurrence of a word.
pub fn around<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    text.match_indices(word).filter_map(move |(at, _)| Some((text.get(..at)?, text.get(at + word.len()..)?)))
}

/// The start of a text whose characters match `is_part`, and the rest.
pub fn leading(text: &str, is_part: impl Fn(char) -> bool) -> (&str, &str) {
    let end = text.find(|c| !is_part(c)).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

/// The rest of a text, and its end whose characters match `is_part`.
pub fn trailing(text: &str, is_part: impl Fn(char) -> bool) -> (&str, &str) {
    let start = text.char_indices().rev().take_while(|(_, c)| is_part(*c)).last().map_or(text.len(), |(at, _)| at);
    text.split_at_checked(start).unwrap_or((text, ""))
}

/// Whether a text fits a pattern, in which `*` stands for any text and `?` for one character.
pub fn fits(text: &str, pattern: &str) -> bool {
    let (text, pattern): (Vec<char>, Vec<char>) = (text.chars().collect(), pattern.chars().collect());
    let (mut at, mut next) = (0, 0);
    // the last `*`, and the position up to which it reaches: it grows by one with each failure
    let mut star: Option<(usize, usize)> = None;
    while let Some(c) = text.get(at) {
        match pattern.get(next) {
            Some('*') => {
                star = Some((next, at));
                next += 1;
            }
            Some(wanted) if *wanted == '?' || wanted == c => (at, next) = (at + 1, next + 1),
            _ => {
                let Some((before, reached)) = star else { return false };
                star = Some((before, reached + 1));
                (at, next) = (reached + 1, before + 1);
            }
        }
    }
    pattern.iter().skip(next).all(|c| *c == '*')
}

/// The text before the next block that starts with `begin` and ends with `end`, the block, and the text after it. `None` without a
/// `begin`; a block without an end is empty.
pub fn block<'a>(text: &'a str, begin: &str, end: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let (before, rest) = text.split_at_checked(text.find(begin)?)?;
    let length = rest.find(end).map_or(0, |at| at + end.len());
    let (block, behind) = rest.split_at_checked(length)?;
    Some((before, block, behind))
}

/// A text of at most `most` characters, with `…` for what is cut off.
pub fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// A text as one shell word.
pub fn quoted(text: &str) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./-_".contains(c);
    match !text.is_empty() && text.chars().all(is_safe) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\"'\"'")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_split_between_characters() {
        assert_eq!(around("ü=→=x", "=").collect::<Vec<_>>(), [("ü", "→=x"), ("ü=→", "x")]);
        assert_eq!(leading("abü→", |c| c != '→'), ("abü", "→"));
        assert_eq!(leading("abü", |_| true), ("abü", ""));
        assert_eq!(trailing("→abc", |c| c.is_ascii_alphanumeric()), ("→", "abc"));
        assert_eq!(trailing("→", |c| c.is_ascii_alphanumeric()), ("→", ""));
        assert_eq!(trailing("abc", |_| true), ("", "abc"));
    }

    #[test]
    fn a_block_has_its_beginning_and_its_end_and_is_empty_without_one() {
        assert_eq!(block("ü<a>ü<b>", "<", ">"), Some(("ü", "<a>", "ü<b>")));
        assert_eq!(block("ü<a", "<", ">"), Some(("ü", "", "<a")));
        assert_eq!(block("ü>", "<", ">"), None);
    }

    #[test]
    fn what_is_too_long_is_shortened_by_characters() {
        assert_eq!(shortened("für alle", 3), "für…");
        assert_eq!(shortened("für", 3), "für");
    }
}
