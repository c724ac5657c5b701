//! Advice that can be pasted: commands that a message suggests get the `--root`, `--site`, `--config` and `--host` of this command.

use std::borrow::Cow;
use std::sync::OnceLock;

use crate::text::quoted;

/// How a suggested command starts, in backticks.
pub(super) const MARK: &str = "`kpull ";

/// The options of this process, and which commands accept them.
struct Given {
    /// Options and their values.
    options: Vec<(&'static str, String)>,
    /// Whether a command, by its words without `kpull`, accepts an option.
    accepts: fn(&[&str], &str) -> bool,
}

static GIVEN: OnceLock<Given> = OnceLock::new();

/// Stores the options of this process for the commands that it suggests.
pub fn remember(options: Vec<(&'static str, String)>, accepts: fn(&[&str], &str) -> bool) {
    // set once, since there is one command line
    let _ = GIVEN.set(Given { options, accepts });
}

/// The text with these options added to every suggested command that accepts them and lacks them.
pub fn complete(text: &str) -> Cow<'_, str> {
    match GIVEN.get().filter(|given| !given.options.is_empty() && text.contains(MARK)) {
        Some(given) => add_options(given, text).into(),
        None => text.into(),
    }
}

fn add_options(given: &Given, text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, command, behind)) = rest.split_once(MARK).and_then(|(before, rest)| {
        let (command, behind) = rest.split_once('`')?;
        Some((before, command, behind))
    }) {
        let words: Vec<&str> = command.split_whitespace().collect();
        out.extend([before, MARK, command]);
        for (option, value) in &given.options {
            let is_there = words.iter().any(|word| word.strip_prefix("--") == Some(option));
            if !is_there && (given.accepts)(&words, option) {
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
        let accepts = |words: &[&str], option: &str| match words.first() {
            Some(&"apply") => option != "site",
            Some(&"sign") => option == "site",
            _ => false,
        };
        let options = vec![("root", "/t r".to_owned()), ("site", "s".to_owned())];
        add_options(&Given { options, accepts }, text)
    }

    #[test]
    fn suggested_commands_get_options_that_they_accept_and_lack() {
        assert_eq!(
            completed("`kpull apply` does it; `kpull sign --key K`, `kpull help x`"),
            "`kpull apply --root '/t r'` does it; `kpull sign --key K --site s`, `kpull help x`"
        );
        assert_eq!(completed("`kpull apply --root /other`"), "`kpull apply --root /other`");
        assert_eq!(completed("`kpull sign --site x` für `kpull"), "`kpull sign --site x` für `kpull");
        assert_eq!(completed("no command"), "no command");
    }
}
