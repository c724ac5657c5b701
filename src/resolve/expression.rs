//! The template language with its limits, and expressions that are asked long after a host was resolved.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior};

use crate::error::nearest;
use crate::resolve::functions;

/// Steps that one template or expression may take; text that it makes counts too, 64 bytes a step.
const STEPS: u64 = 1 << 20;
/// How deep a template may include and call: about 15 templates or 25 macros. Together with the depth of variables it has
/// to fit into a thread's stack.
const RECURSION: usize = 160;
/// Operators that one expression may have: the engine reads `a.b.c` as one inside the other, each with its part of the stack. Ten
/// times as many fit.
const OPERATORS: usize = 2000;
/// How often a template may say `elif`: the engine reads each as inside of the one before.
const BRANCHES: usize = 500;

static LANGUAGE: LazyLock<Environment<'static>> = LazyLock::new(language);

/// An environment with the rules, limits, functions and filters that hold everywhere.
pub(super) fn language() -> Environment<'static> {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_debug(true);
    env.set_fuel(Some(STEPS));
    env.set_recursion_limit(RECURSION);
    functions::add(&mut env);
    env
}

/// Why something took too long, in words.
pub(super) fn too_long() -> String {
    format!("it takes more than {STEPS} steps, or makes more than {} MiB of text", STEPS >> 14)
}

/// The expression, if the engine can be asked to read it.
pub(super) fn checked(expression: &str) -> Result<&str, minijinja::Error> {
    let signs = expression.matches(['|', '.', '~', '+', '-', '*', '/', '%', '(', '[', '<', '>', '=', '!']).count();
    let is_operator = |word: &&str| ["not", "and", "or", "in", "is", "if", "else"].contains(word);
    let words = expression.split(|c: char| !c.is_alphanumeric() && c != '_').filter(is_operator).count();
    match signs + words {
        ..=OPERATORS => Ok(expression),
        count => Err(minijinja::Error::new(
            ErrorKind::SyntaxError,
            format!("an expression has {count} operators, and may have {OPERATORS}: make variables of its parts"),
        )),
    }
}

/// [`checked`] for each expression of a template, where the engine finds them: behind what begins one, up to what ends it outside of
/// quotes and brackets, and not in a comment or a raw block. What stands in quotes counts too.
pub(super) fn checked_template(text: &str) -> Result<&str, minijinja::Error> {
    let (mut rest, mut branches) = (text, 0);
    while let Some((mark, behind)) = marked(rest) {
        rest = match mark {
            '#' => behind.split_once("#}").map_or("", |(_, behind)| behind),
            '%' if let Some(raw) = behind_tag(behind, "raw") => behind_raw(raw),
            _ => {
                let (inside, behind) = leading_expression(behind, if mark == '%' { "%}" } else { "}}" });
                checked(inside)?;
                branches += usize::from(inside.trim_start_matches(['-', '+']).trim_start().starts_with("elif"));
                behind
            }
        };
    }
    match branches {
        ..=BRANCHES => Ok(text),
        count => Err(minijinja::Error::new(
            ErrorKind::SyntaxError,
            format!("a template has {count} times `elif`, and may have it {BRANCHES} times: take a map or a loop"),
        )),
    }
}

/// What the first mark in a text is (`{`, `%` or `#` behind a `{`), and what is behind it.
fn marked(text: &str) -> Option<(char, &str)> {
    let mut rest = text;
    loop {
        rest = rest.split_once('{')?.1;
        for mark in ['{', '%', '#'] {
            if let Some(behind) = rest.strip_prefix(mark) {
                return Some((mark, behind));
            }
        }
    }
}

/// What is behind a tag with nothing but this name; `None` when there is none.
fn behind_tag<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let sign = ['-', '+'];
    let name = text.strip_prefix(sign).unwrap_or(text).trim_ascii_start().strip_prefix(name)?.trim_ascii_start();
    name.strip_prefix(sign).unwrap_or(name).strip_prefix("%}")
}

/// What is behind the end of a raw block.
fn behind_raw(text: &str) -> &str {
    let mut rest = text;
    while let Some((_, behind)) = rest.split_once("{%") {
        if let Some(behind) = behind_tag(behind, "endraw") {
            return behind;
        }
        rest = behind;
    }
    ""
}

/// A text up to the end of the expression that it begins with, and what is behind that.
fn leading_expression<'a>(text: &'a str, end: &str) -> (&'a str, &'a str) {
    let (mut depth, mut quote, mut is_escaped) = (0_usize, None, false);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(_), _) if is_escaped => is_escaped = false,
            (Some(_), '\\') => is_escaped = true,
            (Some(open), _) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, _) if depth == 0 && text.get(at..).is_some_and(|rest| rest.starts_with(end)) => {
                return (text.get(..at).unwrap_or_default(), text.get(at + end.len()..).unwrap_or_default());
            }
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')' | ']' | '}') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
    }
    (text, "")
}

/// A condition on values that are known later: it sees those, and no variable, host or fact.
pub struct Expression {
    text: String,
    compiled: minijinja::Expression<'static, 'static>,
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}`", self.text)
    }
}

impl Expression {
    /// Reads an expression that may use the names in `known` and has to use one of them; the error is what is wrong
    /// with it, for people.
    pub fn parse(text: &str, known: &[&str]) -> Result<Self, String> {
        let compiled =
            checked(text).and_then(|text| LANGUAGE.compile_expression_owned(text.to_owned())).map_err(words)?;
        let this = Self { text: text.to_owned(), compiled };
        let names = this.names();
        if let Some(name) = names.iter().find(|name| !known.contains(&name.as_str())) {
            let advice = match nearest(name, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("it sees `{}`; a variable is written as `{{{{ {name} }}}}`", known.join("`, `")),
            };
            return Err(format!("`{name}` is not known in it: {advice}"));
        }
        match names.is_empty() {
            false => Ok(this),
            true => Err(format!("it asks for nothing: it sees `{}`", known.join("`, `"))),
        }
    }

    /// As it is written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it uses this name.
    pub fn uses(&self, name: &str) -> bool {
        self.names().contains(name)
    }

    /// Whether it holds for these values; the error is why that can't be told, for people.
    pub fn holds(&self, values: impl IntoIterator<Item = (&'static str, Value)>) -> Result<bool, String> {
        let value = self.compiled.eval(Value::from_pairs(values)).map_err(words)?;
        bool::try_from(value.clone()).map_err(|_| format!("it is neither true nor false, but a {}", value.kind()))
    }

    fn names(&self) -> BTreeSet<String> {
        let is_global = |name: &String| LANGUAGE.globals().any(|(known, _)| known == name);
        self.compiled.undeclared_variables(false).into_iter().filter(|name| !is_global(name)).collect()
    }
}

/// What the engine says, without the pages that it prints around it.
fn words(error: minijinja::Error) -> String {
    match error.kind() {
        ErrorKind::OutOfFuel => too_long(),
        kind => error.detail().map_or_else(|| kind.to_string(), |detail| format!("{kind}: {detail}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["json", "lines"];

    fn holds(text: &str, json: &str) -> Result<bool, String> {
        let json: serde_json::Value = serde_json::from_str(json).unwrap();
        Expression::parse(text, KNOWN)?.holds([("json", Value::from(minijinja::value::Serde(json)))])
    }

    #[test]
    fn it_is_true_or_false_of_values_that_come_later() {
        assert_eq!(holds("json.health == 'true'", r#"{"health": "true"}"#), Ok(true));
        assert_eq!(holds("json.health == 'true'", r#"{"health": "false"}"#), Ok(false));
        let ready = "json.c | selectattr('type', 'eq', 'Ready') | map(attribute='status') | first == 'True'";
        let node = |status: &str| {
            format!(r#"{{"c": [{{"type": "Disk", "status": "True"}}, {{"type": "Ready", "status": "{status}"}}]}}"#)
        };
        assert_eq!(holds(ready, &node("True")), Ok(true));
        assert_eq!(holds(ready, &node("Unknown")), Ok(false));
    }

    #[test]
    fn what_it_can_not_mean_is_refused_before_it_is_asked() {
        let why = |text: &str| Expression::parse(text, KNOWN).unwrap_err();
        assert!(why("json.health ==").starts_with("syntax error: "), "{}", why("json.health =="));
        assert_eq!(why("jsn.health"), "`jsn` is not known in it: did you mean `json`?");
        assert_eq!(
            why("port == 1"),
            "`port` is not known in it: it sees `json`, `lines`; a variable is written as `{{ port }}`"
        );
        assert_eq!(why("1 == 1"), "it asks for nothing: it sees `json`, `lines`");
    }

    #[test]
    fn what_is_neither_or_not_there_is_told() {
        assert_eq!(holds("json | length", "[1]"), Err("it is neither true nor false, but a number".to_owned()));
        assert!(holds("lines | length == 1", "1").unwrap_err().starts_with("undefined value"));
        assert!(holds("json.a.b == 1", "{}").unwrap_err().starts_with("undefined value"));
    }

    #[test]
    fn it_comes_to_an_end() {
        assert_eq!(holds("json == 9 and ('x' * 99999999999) == 'y'", "9"), Err(too_long()));
        let why = holds("json == 9 and range(99999999999) | length == 1", "9").unwrap_err();
        assert!(why.contains("too many elements"), "{why}");
    }
}
