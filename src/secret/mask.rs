//! The second wall: what was decrypted is known to the whole process, and taken out of whatever it prints or writes down.
//!
//! The first wall is that a resource with a secret in it shows no content. This one is for what nobody thought of: the
//! output of a program, an error of a library.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use zeroize::Zeroizing;

/// Shorter secrets are not looked for: they would be found where they are not.
const SHORTEST: usize = 8;
/// The same for one line of a secret that has several.
const SHORTEST_LINE: usize = 16;

struct Opened {
    text: Zeroizing<String>,
    name: String,
}

/// Longest first, so that a whole key is found before a line of it.
static OPENED: RwLock<Vec<Opened>> = RwLock::new(Vec::new());
static ANY: AtomicBool = AtomicBool::new(false);

/// Remembers a plaintext of the secret `name`, to be hidden from now on.
pub fn remember(name: &str, plain: &[u8]) {
    let Ok(text) = std::str::from_utf8(plain) else { return };
    let whole = text.trim();
    let lines = whole.lines().map(str::trim).filter(|line| line.len() >= SHORTEST_LINE && !line.starts_with("-----"));
    let mut opened = OPENED.write().unwrap_or_else(PoisonError::into_inner);
    for text in std::iter::once(whole).filter(|whole| whole.len() >= SHORTEST).chain(lines) {
        if opened.iter().all(|known| known.text.as_str() != text) {
            opened.push(Opened { text: Zeroizing::new(text.to_owned()), name: name.to_owned() });
        }
    }
    opened.sort_by_key(|known| std::cmp::Reverse(known.text.len()));
    ANY.store(!opened.is_empty(), Ordering::Release);
}

/// Forgets all plaintexts, and wipes them.
pub fn forget() {
    OPENED.write().unwrap_or_else(PoisonError::into_inner).clear();
    ANY.store(false, Ordering::Release);
}

/// The text with `‹secret NAME›` in place of each plaintext that was remembered.
pub fn hide(text: &str) -> Cow<'_, str> {
    replace(text, |known| format!("‹secret {}›", known.name))
}

/// [`hide`] for a text that spans point into: it stays as long as it is.
pub fn hide_in_place(text: &str) -> Cow<'_, str> {
    replace(text, |known| "*".repeat(known.text.len()))
}

fn replace<'a>(text: &'a str, with: impl Fn(&Opened) -> String) -> Cow<'a, str> {
    if !ANY.load(Ordering::Acquire) {
        return text.into();
    }
    let mut text: Cow<'a, str> = text.into();
    for known in OPENED.read().unwrap_or_else(PoisonError::into_inner).iter() {
        if text.contains(known.text.as_str()) {
            text = text.replace(known.text.as_str(), &with(known)).into();
        }
    }
    text
}

/// [`hide`] in every text of a JSON value, before it is written with escapes.
pub fn hide_json(value: &mut serde_json::Value) {
    use serde_json::Value;
    if !ANY.load(Ordering::Acquire) {
        return;
    }
    match value {
        Value::String(text) => {
            if let Cow::Owned(hidden) = hide(text) {
                *text = hidden;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide_json),
        Value::Object(map) => {
            let entries: Vec<_> = std::mem::take(map).into_iter().collect();
            map.extend(entries.into_iter().map(|(key, mut value)| {
                hide_json(&mut value);
                (hide(&key).into_owned(), value)
            }));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // the registry is the process's, so the texts here are of this test alone
    #[test]
    fn a_plaintext_is_hidden_whole_and_line_by_line() {
        assert_eq!(hide("a mask-test-one b"), "a mask-test-one b");
        remember("one", b"mask-test-one\n");
        assert_eq!(hide("a mask-test-one b"), "a ‹secret one› b");
        assert_eq!(hide_in_place("a mask-test-one b"), "a ************* b");
        remember("key", b"-----BEGIN X-----\nmask-test-line-1\nshort\n-----END X-----\n");
        assert_eq!(hide("x mask-test-line-1\nshort -----BEGIN X-----"), "x ‹secret key›\nshort -----BEGIN X-----");
        assert_eq!(hide("-----BEGIN X-----\nmask-test-line-1\nshort\n-----END X-----"), "‹secret key›");
        remember("tiny", b"mtest");
        assert_eq!(hide("mtest"), "mtest", "too short to be looked for");
    }

    #[test]
    fn json_is_hidden_before_it_is_escaped() {
        remember("quoted", b"mask\"test\"quoted");
        let mut value = serde_json::json!({ "a mask\"test\"quoted": ["x mask\"test\"quoted", 1] });
        hide_json(&mut value);
        assert_eq!(value.to_string(), r#"{"a ‹secret quoted›":["x ‹secret quoted›",1]}"#);
    }

    #[test]
    fn an_error_hides_it_in_its_words_and_in_the_text_around_its_place() {
        remember("error", b"mask-test-error");
        let error = crate::Error::new("what mask-test-error").because("mask-test-error").help("mask-test-error");
        assert_eq!(error.to_string(), "what ‹secret error›: ‹secret error›");
        let text = "a = \"mask-test-error\"\n";
        let place = crate::error::Place { file: "f".into(), text: text.into(), span: 0..1 };
        let report = format!("{:?}", miette::Report::new(error.at(place, "mask-test-error")));
        assert!(!report.contains("mask-test-error"), "{report}");
    }
}
