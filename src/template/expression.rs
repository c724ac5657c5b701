//! The template language with its limits, and expressions that are evaluated long after a host was resolved.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::LazyLock;

use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior};

use crate::error::nearest;
use crate::template::{depth, functions};

/// The most steps of a template or expression; 64 bytes of output count as one step.
const STEPS: u64 = 1 << 20;
/// How deep a template may include and call: about 15 templates or 25 macros. With the depth of variables it must fit
/// into a thread's stack.
const RECURSION: usize = 160;
/// The most operators of an expression: the engine parses `a.b.c` recursively, each with its part of the stack. Ten times as
/// many fit.
const OPERATORS: usize = 2000;
/// The most open brackets and filters of an expression, together: each can add a level of nesting.
pub(crate) const NESTING: usize = 64;
/// The most `elif` of a template: the engine parses each inside the one before.
const BRANCHES: usize = 500;

static LANGUAGE: LazyLock<Environment<'static>> = LazyLock::new(language);

/// An environment with the common rules, limits, functions and filters.
pub(crate) fn language() -> Environment<'static> {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_debug(true);
    env.set_fuel(Some(STEPS));
    env.set_recursion_limit(RECURSION);
    functions::add(&mut env);
    depth::add(&mut env);
    env
}

/// The reason for running out of steps.
pub(crate) fn too_long() -> String {
    format!("it takes more than {STEPS} steps, or makes more than {} MiB of text", STEPS >> 14)
}

/// The expression, if it is within the limits.
pub(crate) fn checked(expression: &str) -> Result<&str, minijinja::Error> {
    let signs = expression.matches(['|', '.', '~', '+', '-', '*', '/', '%', '(', '[', '<', '>', '=', '!']).count();
    let is_operator = |word: &&str| ["not", "and", "or", "in", "is", "if", "else"].contains(word);
    let words = expression.split(|c: char| !c.is_alphanumeric() && c != '_').filter(is_operator).count();
    let refused = |why: String| Err(minijinja::Error::new(ErrorKind::SyntaxError, why));
    if signs + words > OPERATORS {
        let count = signs + words;
        return refused(format!(
            "an expression has {count} operators, and may have {OPERATORS}: make variables of its parts"
        ));
    }
    match nesting(expression) {
        ..=NESTING => Ok(expression),
        count => refused(format!(
            "an expression has {count} brackets inside of one another and filters, and may have {NESTING}: make variables of its parts"
        )),
    }
}

/// The most open brackets of an expression plus the number of its filters.
fn nesting(expression: &str) -> usize {
    let (mut deepest, mut filters) = (0, 0);
    for (_, c, depth) in outside_quotes(expression) {
        deepest = deepest.max(depth + usize::from(matches!(c, '(' | '[' | '{')));
        filters += usize::from(c == '|');
    }
    deepest + filters
}

/// Each character outside quotes, its position, and the number of open brackets before it.
fn outside_quotes(text: &str) -> impl Iterator<Item = (usize, char, usize)> {
    let (mut depth, mut quote, mut is_escaped) = (0_usize, None, false);
    text.char_indices().filter_map(move |(at, c)| {
        let before = depth;
        match (quote, c) {
            (Some(_), _) if is_escaped => is_escaped = false,
            (Some(_), '\\') => is_escaped = true,
            (Some(open), _) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, c) => {
                match c {
                    '(' | '[' | '{' => depth += 1,
                    ')' | ']' | '}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                return Some((at, c, before));
            }
        }
        None
    })
}

/// A template for the engine: within the limits, and with a check of every `set`.
pub(crate) fn checked_template(text: &str) -> Result<Cow<'_, str>, minijinja::Error> {
    let added = additions(text)?;
    if added.is_empty() {
        return Ok(Cow::Borrowed(text));
    }
    let (mut out, mut done) = (String::with_capacity(text.len() + 64 * added.len()), 0);
    for (place, addition) in added {
        out.push_str(text.get(done..place).unwrap_or_default());
        out.push_str(&addition);
        done = place;
    }
    out.push_str(text.get(done..).unwrap_or_default());
    Ok(Cow::Owned(out))
}

/// The additions to a template for the engine, with their byte positions. Finds expressions as the engine does: from an opening
/// delimiter to the closing one outside quotes and brackets, and not in comments or raw blocks.
fn additions(text: &str) -> Result<Vec<(usize, String)>, minijinja::Error> {
    let (mut rest, mut branches, mut added) = (text, 0, Vec::new());
    while let Some((delimiter, behind)) = marked(rest) {
        rest = match delimiter {
            '#' => behind.split_once("#}").map_or("", |(_, behind)| behind),
            '%' if let Some(raw) = behind_tag(behind, "raw") => behind_raw(raw),
            _ => {
                let start = text.len() - behind.len();
                let (inside, behind) = leading_expression(behind, if delimiter == '%' { "%}" } else { "}}" });
                checked(inside)?;
                if delimiter == '%' {
                    branches += usize::from(inside.trim_start_matches(['-', '+']).trim_start().starts_with("elif"));
                    added.extend(checks(inside).into_iter().map(|(at, text)| (start + at, text)));
                }
                behind
            }
        };
    }
    match branches {
        ..=BRANCHES => Ok(added),
        count => Err(minijinja::Error::new(
            ErrorKind::SyntaxError,
            format!("a template has {count} times `elif`, and may have it {BRANCHES} times: take a map or a loop"),
        )),
    }
}

/// The first delimiter in a text (`{`, `%` or `#` after a `{`), and the text after it.
fn marked(text: &str) -> Option<(char, &str)> {
    let mut rest = text;
    loop {
        rest = rest.split_once('{')?.1;
        for delimiter in ['{', '%', '#'] {
            if let Some(behind) = rest.strip_prefix(delimiter) {
                return Some((delimiter, behind));
            }
        }
    }
}

/// The text after a tag that is only this name; `None` if there is none.
fn behind_tag<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let sign = ['-', '+'];
    let name = text.strip_prefix(sign).unwrap_or(text).trim_ascii_start().strip_prefix(name)?.trim_ascii_start();
    name.strip_prefix(sign).unwrap_or(name).strip_prefix("%}")
}

/// The text after the end of a raw block.
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

/// The expression at the start of a text, and the text after it.
fn leading_expression<'a>(text: &'a str, end: &str) -> (&'a str, &'a str) {
    let is_end = |at: usize| text.get(at..).is_some_and(|rest| rest.starts_with(end));
    match outside_quotes(text).find(|(at, _, depth)| *depth == 0 && is_end(*at)) {
        Some((at, ..)) => (text.get(..at).unwrap_or_default(), text.get(at + end.len()..).unwrap_or_default()),
        None => (text, ""),
    }
}

/// The additions to a tag that check what it sets ([`depth`]), with their positions in it. None if it sets nothing, or a block
/// of text.
fn checks(inside: &str) -> Vec<(usize, String)> {
    let sign = ['-', '+'];
    let start = inside.strip_prefix(sign).unwrap_or(inside).trim_start();
    let Some(set) = start.strip_prefix("set").filter(|rest| rest.starts_with(|c: char| c.is_whitespace() || c == '('))
    else {
        return Vec::new();
    };
    let end = inside.strip_suffix(sign).unwrap_or(inside).trim_end().len();
    let offset = inside.len() - set.len();
    let Some((at, c, _)) = outside_quotes(set).find(|(_, c, depth)| *depth == 0 && matches!(c, '=' | '|')) else {
        return Vec::new();
    };
    let filter = match set.get(..at).is_some_and(|target| target.contains('.')) {
        true => depth::OF_NAMESPACE,
        false => depth::OF_VARIABLE,
    };
    match c {
        '=' if offset + at + 1 < end => vec![(offset + at + 1, "(".to_owned()), (end, format!(")|{filter}"))],
        '|' => vec![(end, format!("|{filter}"))],
        _ => Vec::new(),
    }
}

/// Converts a range in the result of [`checked_template`] to a range in its source.
pub(crate) fn range_as_written(source: &str, range: std::ops::Range<usize>) -> std::ops::Range<usize> {
    let added = additions(source).unwrap_or_default();
    let range_as_written = |at: usize| {
        let mut before = 0;
        for (place, text) in &added {
            let start = place + before;
            if at < start {
                break;
            }
            if at < start + text.len() {
                return *place;
            }
            before += text.len();
        }
        at - before
    };
    let (start, end) = (range_as_written(range.start), range_as_written(range.end));
    start..end.max(start)
}

/// A condition on values that are known later. It sees only those, and no variable, host or fact.
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
    /// Parses an expression that uses only names in `known`, and at least one of them; the error is for people.
    pub fn parse(text: &str, known: &[&str]) -> Result<Self, String> {
        let compiled =
            checked(text).and_then(|text| LANGUAGE.compile_expression_owned(text.to_owned())).map_err(words)?;
        let this = Self { text: text.to_owned(), compiled };
        let names = this.names();
        if let Some(name) = names.iter().find(|name| !known.contains(&name.as_str())) {
            let advice = match nearest(name, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => {
                    format!("it sees `{}`; a variable is written as `{{{{ {name} }}}}`", known.join("`, `"))
                }
            };
            return Err(format!("`{name}` is not known in it: {advice}"));
        }
        if names.is_empty() { Err(format!("it asks for nothing: it sees `{}`", known.join("`, `"))) } else { Ok(this) }
    }

    /// Its text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it uses a name.
    pub fn uses(&self, name: &str) -> bool {
        self.names().contains(name)
    }

    /// Evaluates it for these values; the error is for people.
    pub fn holds(&self, values: impl IntoIterator<Item = (&'static str, Value)>) -> Result<bool, String> {
        let value = self.compiled.eval(Value::from_pairs(values)).map_err(words)?;
        bool::try_from(value.clone()).map_err(|_| format!("it is neither true nor false, but a {}", value.kind()))
    }

    fn names(&self) -> BTreeSet<String> {
        let is_global = |name: &String| LANGUAGE.globals().any(|(known, _)| known == name);
        self.compiled.undeclared_variables(false).into_iter().filter(|name| !is_global(name)).collect()
    }
}

/// The engine's error in one line.
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
    fn unknown_or_invalid_entries_are_reported() {
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

    #[test]
    fn what_a_template_sets_is_checked_and_every_place_in_it_stays_what_it_was() {
        for (text, given) in [
            ("{% set a = 1 %}x", "{% set a =( 1)|kept_in_a_variable %}x"),
            ("{%- set a=[1, '=', \"%}\"] -%}", "{%- set a=([1, '=', \"%}\"])|kept_in_a_variable -%}"),
            ("{%+set ns.v = a if b+%}", "{%+set ns.v =( a if b)|kept_in_a_namespace+%}"),
            ("{% set (a, b) = 1, 2 %}", "{% set (a, b) =( 1, 2)|kept_in_a_variable %}"),
            ("{% set a, ns.b = c %}", "{% set a, ns.b =( c)|kept_in_a_namespace %}"),
            ("{% set(a) = b == c %}", "{% set(a) =( b == c)|kept_in_a_variable %}"),
            ("{% set a | f(x='=') %}t{% endset %}", "{% set a | f(x='=')|kept_in_a_variable %}t{% endset %}"),
            ("{% set a %}t{% endset %}", "{% set a %}t{% endset %}"),
            ("{% settle = 1 %}{{ set }}{# {% set a = 1 %} #}", "{% settle = 1 %}{{ set }}{# {% set a = 1 %} #}"),
            ("{% raw %}{% set a = 1 %}{% endraw %}", "{% raw %}{% set a = 1 %}{% endraw %}"),
            ("{% set a = %}", "{% set a = %}"),
        ] {
            assert_eq!(checked_template(text).unwrap(), given);
            let whole = format!("é{text}{{{{ nope }}}}{text}{{{{ last }}}}");
            let prepared = checked_template(&whole).unwrap();
            for word in ["nope", "last"] {
                let (at, was) = (prepared.find(word).unwrap(), whole.find(word).unwrap());
                assert_eq!(
                    range_as_written(&whole, at..at + word.len()),
                    was..was + word.len(),
                    "{word} in {prepared}"
                );
            }
        }
    }

    #[test]
    fn brackets_and_filters_are_counted_outside_of_quotes() {
        assert_eq!(nesting("a | b([1], '((|', \"]|\\\"|\") | c"), 4);
        assert_eq!(nesting("[[1], [2]]"), 2);
        assert!(checked(&format!("{}1{}", "[".repeat(NESTING), "]".repeat(NESTING))).is_ok());
        let reported = checked(&format!("1{}", "|abs".repeat(NESTING + 1))).unwrap_err().to_string();
        assert!(reported.contains("65 brackets inside of one another and filters, and may have 64"), "{reported}");
    }
}
