//! The change of a text, rendered as a unified diff on demand.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use similar::TextDiff;

use crate::error::visible;

/// A larger text is not compared line by line.
const LARGEST: usize = 256 * 1024;

/// The change of one or more texts. Displays as a unified diff without secrets.
#[derive(Clone, Default)]
pub struct Diff(Vec<Texts>);

#[derive(Clone)]
enum Texts {
    /// Sensitive.
    Hidden,
    /// Before and after.
    Shown(Arc<[u8]>, Arc<[u8]>),
}

impl Diff {
    /// The change from `old` to `new`, without its content if it is `sensitive`. `None` if one of them is not text, or is too
    /// long.
    pub fn of(old: impl Into<Arc<[u8]>>, new: impl Into<Arc<[u8]>>, sensitive: bool) -> Option<Self> {
        if sensitive {
            return Some(Self(vec![Texts::Hidden]));
        }
        let (old, new) = (old.into(), new.into());
        let is_fit = |text: &[u8]| text.len() <= LARGEST && std::str::from_utf8(text).is_ok();
        (is_fit(&old) && is_fit(&new)).then(|| Self(vec![Texts::Shown(old, new)]))
    }

    /// Several diffs as one; `None` if there are none.
    pub fn together(diffs: impl IntoIterator<Item = Self>) -> Option<Self> {
        let all: Vec<Texts> = diffs.into_iter().flat_map(|diff| diff.0).collect();
        (!all.is_empty()).then_some(Self(all))
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|texts| match texts {
            Texts::Hidden => f.write_str("(the content is not shown: it is sensitive)\n"),
            Texts::Shown(old, new) => {
                let (old, new) = (String::from_utf8_lossy(old), String::from_utf8_lossy(new));
                let diff = TextDiff::from_lines(&*old, &*new);
                f.write_str(&visible(&diff.unified_diff().context_radius(3).to_string()))
            }
        })
    }
}

/// The texts may contain secrets that are not masked.
impl fmt::Debug for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Diff({})", self.0.len())
    }
}

impl Serialize for Diff {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(old: &str, new: &str, sensitive: bool) -> Option<String> {
        Diff::of(old.as_bytes(), new.as_bytes(), sensitive).map(|diff| diff.to_string())
    }

    #[test]
    fn a_diff_shows_lines_and_nothing_of_what_is_sensitive() {
        assert_eq!(shown("a\n", "b\n", false).unwrap(), "@@ -1 +1 @@\n-a\n+b\n");
        assert_eq!(shown("a\n", "b\n", true).unwrap(), "(the content is not shown: it is sensitive)\n");
        assert_eq!(format!("{:?}", Diff::of(*b"hunter2", *b"", false)), "Some(Diff(1))");
        assert_eq!(serde_json::to_string(&Diff::of(*b"", *b"x\n", false)).unwrap(), "\"@@ -0,0 +1 @@\\n+x\\n\"");
    }

    #[test]
    fn a_diff_has_three_lines_around_a_change_and_no_control_characters() {
        let text = |middle: &str| format!("1\n2\n3\n4\n{middle}\n6\n7\n8\n9\n");
        let all = shown(&text("5"), &text("\x1b[2J"), false).unwrap();
        assert_eq!(all, "@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+\\u{1b}[2J\n 6\n 7\n 8\n");
    }

    #[test]
    fn what_is_no_text_or_too_long_has_none() {
        assert!(Diff::of(*b"\xff", *b"", false).is_none());
        let (most, more) = (vec![b'x'; LARGEST], vec![b'x'; LARGEST + 1]);
        assert!(Diff::of(*b"", most, false).is_some());
        assert!(Diff::of(*b"", more, false).is_none());
    }

    #[test]
    fn several_are_shown_one_after_the_other_and_none_is_none() {
        let both = Diff::together(["b\n", "c\n"].iter().filter_map(|new| Diff::of(*b"", new.as_bytes(), false)));
        assert_eq!(both.unwrap().to_string(), "@@ -0,0 +1 @@\n+b\n@@ -0,0 +1 @@\n+c\n");
        assert!(Diff::together([]).is_none());
    }
}
