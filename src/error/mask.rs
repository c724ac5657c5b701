//! Redaction of decrypted secrets in everything that the process prints or logs.
//!
//! This is the second line of defense, for the output of programs and errors of libraries. The first is that resources with secrets show
//! no content.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use zeroize::Zeroizing;

/// Shorter secrets are not redacted, since they would match unrelated text.
const SHORTEST: usize = 8;
/// The same for one line of a secret that has several.
const SHORTEST_LINE: usize = 16;

struct Opened {
    text: Zeroizing<String>,
    name: String,
}

/// Longest first, so that a whole key matches before one of its lines.
static OPENED: RwLock<Vec<Opened>> = RwLock::new(Vec::new());
static ANY: AtomicBool = AtomicBool::new(false);

/// The characters that addresses escape: by the most lenient encoders, and by filters of templates.
const IN_ADDRESS: [&AsciiSet; 2] = [
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~'),
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'/'),
];

/// The forms in which a plaintext can occur in a text: plain, base64 at any offset, hex, percent-encoded, JSON.
pub fn forms(plain: &[u8]) -> Vec<Zeroizing<String>> {
    let mut forms = BTreeSet::new();
    // surrounding bytes change the first and last characters of the base64
    for before in 0..3 {
        let padded = Zeroizing::new([&[0; 2][..before], plain].concat());
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            let code = Zeroizing::new(engine.encode(&*padded));
            let end = code.len() - usize::from(padded.len() % 3 != 0);
            forms.insert(code.get([0, 2, 3][before]..end).unwrap_or_default().to_owned());
        }
    }
    let hex = hex::encode(plain);
    forms.extend([hex.to_uppercase(), hex]);
    forms.extend(IN_ADDRESS.map(|set| percent_encode(plain, set).to_string()));
    if let Ok(text) = std::str::from_utf8(plain) {
        let json = serde_json::Value::from(text).to_string();
        forms.insert(json.strip_prefix('"').and_then(|json| json.strip_suffix('"')).unwrap_or_default().to_owned());
        forms.insert(text.to_owned());
    }
    forms.into_iter().map(Zeroizing::new).collect()
}

/// The lines of a plaintext's base64, wrapped as by openssl and PEM or by base64(1).
fn wrapped(plain: &[u8]) -> Vec<Zeroizing<String>> {
    let code = Zeroizing::new(STANDARD_NO_PAD.encode(plain));
    let lines =
        [64, 76].into_iter().filter(|width| code.len() > *width).flat_map(|width| code.as_bytes().chunks(width));
    let lines = lines.filter(|line| line.len() >= SHORTEST_LINE);
    lines.map(|line| Zeroizing::new(String::from_utf8_lossy(line).into_owned())).collect()
}

/// Stores a plaintext of the secret `name`, to redact it from now on.
pub fn remember(name: &str, plain: &[u8]) {
    let whole = plain.trim_ascii();
    let lines = std::str::from_utf8(whole).unwrap_or_default().lines().map(str::trim);
    let lines = lines.filter(|line| line.len() >= SHORTEST_LINE && !line.starts_with("-----"));
    let mut texts = if whole.len() >= SHORTEST { forms(whole) } else { Vec::new() };
    texts.extend(wrapped(plain));
    texts.extend(lines.map(|line| Zeroizing::new(line.to_owned())));
    let mut opened = OPENED.write().unwrap_or_else(PoisonError::into_inner);
    for text in texts {
        if opened.iter().all(|known| known.text != text) {
            opened.push(Opened { text, name: name.to_owned() });
        }
    }
    opened.sort_by_key(|known| std::cmp::Reverse(known.text.len()));
    ANY.store(!opened.is_empty(), Ordering::Release);
}

/// Whether a text contains a plaintext of sufficient length, in one of its [`forms`].
pub fn is_in(text: &str, plain: &[u8]) -> bool {
    let is_form = |form: &Zeroizing<String>| form.len() >= SHORTEST && text.contains(form.as_str());
    plain.len() >= SHORTEST && forms(plain).iter().any(is_form)
}

/// Forgets all plaintexts, and wipes them.
pub fn forget() {
    OPENED.write().unwrap_or_else(PoisonError::into_inner).clear();
    ANY.store(false, Ordering::Release);
}

/// The text with `‹secret NAME›` in place of each stored plaintext.
pub fn hide(text: &str) -> Cow<'_, str> {
    replace(text, |known| format!("‹secret {}›", known.name))
}

/// [`hide`] for a text with spans: its length stays the same.
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

/// [`hide`] in every string of a JSON value, before it is escaped.
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
        remember("wide", "mask/tést \"w\u{1f}\"".as_bytes());
        for form in [
            "bWFzay90w6lzdCAidx8i",            // base64
            "eDptYXNrL3TDqXN0ICJ3HyI=",        // behind two bytes
            "dXNlcjptYXNrL3TDqXN0ICJ3HyI=",    // user:
            "6d61736b2f74c3a97374202277 1f22", // replaced below
            "6D61736B2F74C3A9737420227 71F22",
            "mask%2Ft%C3%A9st%20%22w%1F%22",
            "mask/t%C3%A9st%20%22w%1F%22",
            r#"mask/tést \"w\u001f\""#,
        ] {
            let form = form.replace(' ', if form.contains("tést") { " " } else { "" });
            let hidden = hide(&form).into_owned();
            assert!(hidden.contains("‹secret wide›") && hidden.len() < "‹secret wide›".len() + 12, "{form}: {hidden}");
            assert!(is_in(&form, "mask/tést \"w\u{1f}\"".as_bytes()), "{form}");
        }
        let long = format!("mask-test-{}", "wrapped ".repeat(20));
        remember("long", long.as_bytes());
        let code = STANDARD_NO_PAD.encode(long.as_bytes());
        for width in [64, 76] {
            let broken: Vec<&str> =
                code.as_bytes().chunks(width).map(|line| std::str::from_utf8(line).unwrap()).collect();
            let hidden = hide(&broken.join("\n")).into_owned();
            assert!(hidden.lines().all(|line| line.starts_with("‹secret long›") || line.len() < 16), "{hidden}");
        }
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
        let error = crate::Error::new(crate::error::code::SECRET, "what mask-test-error")
            .because("mask-test-error")
            .help("mask-test-error");
        assert_eq!(error.to_string(), "what ‹secret error›: ‹secret error›");
        let text = "a = \"mask-test-error\"\n";
        let place = crate::error::Place { file: "f".into(), text: text.into(), span: 0..1 };
        let report = format!("{:?}", miette::Report::new(error.at(place, "mask-test-error")));
        assert!(!report.contains("mask-test-error"), "{report}");
    }
}
