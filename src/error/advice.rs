//! Advice that can be pasted: a command that a message proposes gets the `--root`, `--site`, `--config` and `--host` that this one
//! was given.

use std::borrow::Cow;
use std::sync::OnceLock;

use crate::text::quoted;

/// What a command that is proposed starts with, in backticks.
pub(super) const MARK: &str = "`kpull ";

/// What this process was given, and which commands understand it.
struct Given {
    /// Options and their values.
    options: Vec<(&'static str, String)>,
    /// Whether a command has an option: its words without `kpull`, and the option's name.
    takes: fn(&[&str], &str) -> bool,
}

static GIVEN: OnceLock<Given> = OnceLock::new();

/// Remembers the options that this process was given, for every command that it proposes from now on.
pub fn remember(options: Vec<(&'static str, String)>, takes: fn(&[&str], &str) -> bool) {
    // there is one command line
    let _ = GIVEN.set(Given { options, takes });
}

/// The text with what was given in every command that it proposes, where that command has such an option and does not say it.
pub fn complete(text: &str) -> Cow<'_, str> {
    match GIVEN.get().filter(|given| !given.options.is_empty() && text.contains(MARK)) {
        Some(given) => with(given, text).into(),
        None => text.into(),
    }
}

fn with(given: &Given, text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, command, behind)) = rest.split_once(MARK).and_then(|(before, rest)| {
        let (command, behind) = rest.split_once('`')?;
        Some((before, command, behind))
    }) {
        let words: Vec<&str> = command.split_whitespace().collect();
        out.extend([before, MARK, command]);
        for (option, value) in &given.options {
            let is_said = words.iter().any(|word| word.strip_prefix("--") == Some(option));
            if !is_said && (given.takes)(&words, option) {
                out.push_str(&format!(" --{option} {}", quoted(value)));
            }
        }
        out.push('`');
        rest = behind;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(text: &str) -> String {
        let takes = |words: &[&str], option: &str| match words.first() {
            Some(&"apply") => option != "site",
            Some(&"sign") => option == "site",
            _ => false,
        };
        let options = vec![("root", "/t r".to_owned()), ("site", "s".to_owned())];
        with(&Given { options, takes }, text)
    }

    #[test]
    fn a_command_gets_what_it_understands_and_does_not_say() {
        assert_eq!(
            completed("`kpull apply` does it; `kpull sign --key K`, `kpull help x`"),
            "`kpull apply --root '/t r'` does it; `kpull sign --key K --site s`, `kpull help x`"
        );
        assert_eq!(completed("`kpull apply --root /other`"), "`kpull apply --root /other`");
        assert_eq!(completed("`kpull sign --site x` für `kpull"), "`kpull sign --site x` für `kpull");
        assert_eq!(completed("no command"), "no command");
    }
}
