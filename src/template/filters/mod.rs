//! Filters, tests and methods of Ansible and Python, with the same results.

pub(super) mod ip;
mod json;
mod lists;
mod methods;
mod numbers;
mod regex;
mod texts;
mod yaml;

pub use regex::matches_whole;

use std::collections::BTreeMap;

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};

pub use methods::METHODS;

/// A filter: its name, the names of its arguments, and its function. The argument `*` takes all that are left.
type Filter = (&'static str, &'static [&'static str], fn(&Call<'_>) -> Result<Value, Error>);

/// All filters.
const LISTS: &[&[Filter]] =
    &[ip::FILTERS, json::FILTERS, lists::FILTERS, numbers::FILTERS, regex::FILTERS, texts::FILTERS, yaml::FILTERS];

/// The names of all filters, for suggestions.
pub fn names() -> impl Iterator<Item = &'static str> {
    LISTS.iter().flat_map(|list| list.iter().map(|(name, ..)| *name))
}

/// Adds them to an environment. Ansible's long names (`ansible.builtin.to_json`) mean the same.
pub fn add(env: &mut Environment<'static>) {
    for (name, parameters, run) in LISTS.iter().copied().flatten().copied() {
        let filter = move |state: &State<'_, '_>, value: Value, given: Rest<Value>, named: Kwargs| {
            run(&Call::bind(state, value, &given, &named, parameters)?)
        };
        for collection in ["", "ansible.builtin.", "ansible.utils."] {
            env.add_filter(format!("{collection}{name}"), filter);
        }
    }
    regex::add_tests(env);
    lists::add_tests(env);
    numbers::add_tests(env);
    env.set_unknown_method_callback(methods::call);
}

/// A call of a filter, with positional arguments under their names.
struct Call<'a> {
    state: &'a State<'a, 'a>,
    value: Value,
    given: BTreeMap<&'static str, Value>,
    rest: Vec<Value>,
}

impl<'a> Call<'a> {
    fn bind(
        state: &'a State<'_, '_>,
        value: Value,
        given: &[Value],
        named: &Kwargs,
        parameters: &'static [&'static str],
    ) -> Result<Self, Error> {
        if value.is_undefined() && !parameters.contains(&"default_value") {
            return Err(Error::from(ErrorKind::UndefinedError));
        }
        let mut call = Self { state, value, given: BTreeMap::new(), rest: Vec::new() };
        let mut free = parameters.iter().copied();
        for one in given {
            match free.next() {
                Some("*") => {
                    call.rest.push(one.clone());
                    free = ["*"].iter().copied();
                }
                Some(name) => drop(call.given.insert(name, one.clone())),
                None => return Err(Error::from(ErrorKind::TooManyArguments)),
            }
        }
        for name in parameters.iter().copied().filter(|name| named.has(name)) {
            call.given.insert(name, named.get(name)?);
        }
        named.assert_all_used()?;
        Ok(call)
    }

    /// An argument; `None` if it is left out or `none`.
    fn get(&self, name: &str) -> Option<&Value> {
        self.given.get(name).filter(|value| !value.is_none())
    }

    fn need(&self, name: &str) -> Result<&Value, Error> {
        self.given.get(name).ok_or_else(|| Error::new(ErrorKind::MissingArgument, format!("`{name}` has to be given")))
    }

    fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(Value::is_true)
    }

    fn number(&self, name: &str) -> Result<Option<i64>, Error> {
        let number = |value: &Value| match value.as_str() {
            Some(text) => text.parse().ok(),
            None => i64::try_from(value.clone()).ok(),
        };
        let wrong = || invalid(format!("`{name}` has to be a whole number"));
        self.get(name).map(|value| number(value).ok_or_else(wrong)).transpose()
    }

    fn text(&self, name: &str) -> Result<String, Error> {
        self.get(name).map_or_else(|| Ok(String::new()), text)
    }

    /// The input as text.
    fn input(&self) -> Result<String, Error> {
        text(&self.value)
    }

    /// Charges fuel for output that is larger than its input.
    fn charge(&self, bytes: usize) -> Result<(), Error> {
        self.state.consume_fuel(u64::try_from(bytes / 64).unwrap_or(u64::MAX))
    }
}

/// The error for an input or an argument that a filter or function does not accept.
pub(crate) fn invalid(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, why.into())
}

/// The text of a plain value.
fn text(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Undefined => Err(Error::from(ErrorKind::UndefinedError)),
        ValueKind::None => Ok(String::new()),
        ValueKind::String | ValueKind::Number | ValueKind::Bool => Ok(value.to_string()),
        kind => Err(invalid(format!("this goes with a text, not with a {kind}"))),
    }
}

/// The entries of a list.
fn list(value: &Value) -> Result<Vec<Value>, Error> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => Ok(value.try_iter()?.collect()),
        kind => Err(invalid(format!("this goes with a list, not with a {kind}"))),
    }
}

/// The input as plain data. Maps are sorted by their keys if `sort_keys` is set, which is `sorts` by default.
fn data(call: &Call<'_>, sorts: bool) -> Result<serde_json::Value, Error> {
    let mut data = serde_json::to_value(&call.value).map_err(|error| invalid(error.to_string()))?;
    if call.given.get("sort_keys").map_or(sorts, Value::is_true) {
        data.sort_all_objects();
    }
    Ok(data)
}

/// A number with a point, as Python writes it.
fn python_float(number: f64) -> String {
    let size = number.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) && number.is_finite() {
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    format!("{number:?}")
}

#[cfg(test)]
mod tests {
    use minijinja::Environment;

    use crate::template::functions;

    /// What an expression is here.
    fn value_of(env: &Environment<'_>, expression: &str) -> Result<serde_json::Value, String> {
        let value = env.compile_expression(expression).and_then(|compiled| compiled.eval(()));
        value.map_err(|error| error.to_string()).map(|value| serde_json::to_value(value).unwrap())
    }

    #[test]
    fn every_filter_test_and_method_returns_what_ansible_returns() {
        let mut env = Environment::new();
        functions::add(&mut env);
        let lines = include_str!("ansible.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let mut differ = Vec::new();
        let mut count = 0;
        for line in lines {
            let (expression, value) = line.split_once(" ⇒ ").unwrap();
            let expected: serde_json::Value = serde_json::from_str(value).unwrap();
            let found = value_of(&env, expression);
            if found.as_ref() != Ok(&expected) {
                differ.push(format!("{expression}\n  Ansible: {expected}\n  here:    {found:?}"));
            }
            count += 1;
        }
        assert!(differ.is_empty(), "{} of {count} differ:\n{}", differ.len(), differ.join("\n"));
        assert!(count > 250, "{count}");
    }

    #[test]
    fn every_filter_has_an_example_that_ansible_has_answered() {
        let examples = include_str!("ansible.txt");
        let without: Vec<&str> = super::names()
            .filter(|name| {
                let uses = |before: &str| {
                    examples
                        .match_indices(&format!("{before}{name}"))
                        .any(|(at, found)| examples[at + found.len()..].starts_with([' ', '(', '\n']))
                };
                !uses("| ") && !uses("| ansible.utils.") && !examples.contains(&format!("map(\"{name}\""))
            })
            .collect();
        assert_eq!(without, [""; 0]);
    }

    #[test]
    fn nonsense_is_refused_and_text_does_not_grow_without_end() {
        let mut env = Environment::new();
        env.set_fuel(Some(1 << 20));
        functions::add(&mut env);
        for (expression, why) in [
            ("'a' | regex_replace('(', 'b')", "`(` is not a regular expression"),
            ("'a' | regex_replace('a', '\\\\2')", "there is no group 2"),
            ("'a' | regex_replace('a', 'b', 'c', 'd', 'e', 'f', 'g')", "too many arguments"),
            ("'a' | regex_replace('a', nope='b')", "nope"),
            ("'a' | hash('crc')", "`crc` is not a digest"),
            ("'!' | b64decode", "not base64"),
            ("'{\"a\": hunter2}' | from_json", "not JSON, from line 1, column 7"),
            ("'a: [' | from_yaml", "not YAML"),
            ("'10.0.0.1' | ipaddr('nope')", "`nope`"),
            ("[1] | combine({})", "goes with maps"),
            ("'a' | intersect([1])", "goes with a list"),
            ("nothing | to_json", "undefined"),
            ("('x' * 100000) | regex_replace('', 'y' * 100000)", "out of fuel"),
            ("range(9999) | list | product(range(9999) | list)", "out of fuel"),
            ("'x'.ljust(9999999999)", "out of fuel"),
            ("'x'.nope()", "no method named nope"),
        ] {
            let reported = value_of(&env, expression).unwrap_err();
            assert!(reported.contains(why), "{expression}: {reported}");
            assert!(!reported.contains("hunter2"), "{reported}");
        }
        let at_the_end = value_of(&env, "'a\na\na' | regex_replace('$', ';')");
        assert_eq!(at_the_end, Ok("a\na\na;".into()), "lines have no end of their own unless that is asked for");
    }
}
