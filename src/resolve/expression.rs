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

/// [`checked`] for each expression of a template. What stands in quotes counts too, so that nothing hides behind them.
pub(super) fn checked_template(text: &str) -> Result<&str, minijinja::Error> {
    for block in text.split("{{").flat_map(|part| part.split("{%")).skip(1) {
        let end = block.rfind("}}").max(block.rfind("%}"));
        checked(end.and_then(|end| block.get(..end)).unwrap_or_default())?;
    }
    Ok(text)
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
        let bad = "range(json) | map('string') | join | length > 'x' * 99999999999 | length";
        assert!(holds(bad, "9").is_err());
    }
}
