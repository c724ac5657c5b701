//! Python's regular expressions.

use fancy_regex::{Captures, Regex, RegexBuilder};
use minijinja::value::Value;
use minijinja::{Environment, Error};

use crate::template::filters::{Call, Filter, invalid, text};

pub(super) const FILTERS: &[Filter] = &[
    ("regex_replace", &["pattern", "replacement", "ignorecase", "multiline", "count", "mandatory_count"], replace),
    ("regex_search", &["regex", "*", "ignorecase", "multiline"], search),
    ("regex_findall", &["regex", "multiline", "ignorecase"], find_all),
    ("regex_escape", &["re_type"], |call| Ok(Value::from(escape(&call.input()?)))),
];

/// `is match`, from the start of a text; `is search` and `is regex`, anywhere.
pub(super) fn add_tests(env: &mut Environment<'static>) {
    for (name, start) in [("match", r"\A"), ("search", ""), ("regex", "")] {
        env.add_test(name, move |value: Value, pattern: String| {
            let regex = compile(&format!("{start}(?:{pattern})"), false, false)?;
            regex.is_match(text(&value)?.as_str()).map_err(failed)
        });
    }
}

/// Compiles a regular expression of Python.
fn compile(pattern: &str, ignores_case: bool, is_multiline: bool) -> Result<Regex, Error> {
    let own = translated(pattern, is_multiline);
    let built = RegexBuilder::new(&own).case_insensitive(ignores_case).multi_line(is_multiline).build();
    built.map_err(|error| invalid(format!("`{pattern}` is not a regular expression: {error}")))
}

/// Translates the syntax that differs: the end of a text, and characters that are special only in Rust.
fn translated(pattern: &str, is_multiline: bool) -> String {
    let (mut out, mut rest, mut in_class) = (String::new(), pattern.chars(), false);
    let counts = |rest: &str| {
        let inner = rest.split_once('}').map(|(inner, _)| inner);
        inner.is_some_and(|inner| !inner.is_empty() && inner.chars().all(|c| c.is_ascii_digit() || c == ','))
    };
    while let Some(c) = rest.next() {
        match c {
            '\\' => match rest.next() {
                Some('Z') => out.push_str(r"\z"),
                Some(escaped @ ('<' | '>')) => out.push(escaped),
                escaped => out.extend(['\\'].into_iter().chain(escaped)),
            },
            '[' if !in_class => {
                in_class = true;
                out.push('[');
                if rest.as_str().starts_with('^') {
                    out.extend(rest.next());
                }
                // a closing bracket stands for itself if it comes first
                if rest.as_str().starts_with(']') {
                    out.push('\\');
                    out.extend(rest.next());
                }
            }
            ']' if in_class => {
                in_class = false;
                out.push(']');
            }
            '[' | '&' | '~' if in_class => out.extend(['\\', c]),
            '{' if !in_class && !counts(rest.as_str()) => out.push_str(r"\{"),
            '$' if !in_class && !is_multiline && !pattern.starts_with("(?m)") => out.push_str(r"(?=\n?\z)"),
            _ => out.push(c),
        }
    }
    out
}

/// Whether a regular expression matches a whole text; the error says what is wrong with the expression.
pub fn matches_whole(pattern: &str, text: &str) -> Result<bool, String> {
    let regex = compile(&format!(r"\A(?:{pattern})\Z"), false, false).map_err(|error| error.to_string())?;
    regex.is_match(text).map_err(|error| error.to_string())
}

fn failed(error: fancy_regex::Error) -> Error {
    invalid(error.to_string())
}

/// Passes each match to `each`, until it returns false. An empty match may follow a non-empty one.
fn matches(
    regex: &Regex,
    text: &str,
    each: &mut dyn FnMut(&Captures<'_, str>) -> Result<bool, Error>,
) -> Result<(), Error> {
    let mut at = 0;
    while let Some(found) = regex.captures_from_pos(text, at).map_err(failed)? {
        let Some(whole) = found.get(0) else { break };
        at = whole.end();
        if whole.start() == whole.end() {
            let Some(next) = text.get(at..).and_then(|rest| rest.chars().next()) else {
                each(&found)?;
                break;
            };
            at += next.len_utf8();
        }
        if !each(&found)? {
            break;
        }
    }
    Ok(())
}

fn replace(call: &Call<'_>) -> Result<Value, Error> {
    let text = call.input()?;
    let regex = compile(&call.text("pattern")?, call.flag("ignorecase"), call.flag("multiline"))?;
    let (by, most) = (call.text("replacement")?, call.number("count")?.unwrap_or(0));
    let (mut out, mut end, mut done) = (String::new(), 0, 0);
    matches(&regex, &text, &mut |found| {
        let Some(whole) = found.get(0) else { return Ok(false) };
        let before = out.len();
        out.push_str(text.get(end..whole.start()).unwrap_or_default());
        expand(&by, found, &mut out)?;
        call.charge(out.len() - before)?;
        end = whole.end();
        done += 1;
        Ok(most == 0 || done < most)
    })?;
    out.push_str(text.get(end..).unwrap_or_default());
    match call.number("mandatory_count")? {
        Some(wanted) if wanted != 0 && wanted != done => {
            Err(invalid(format!("it should match {wanted} times, and matches {done} times")))
        }
        _ => Ok(Value::from(out)),
    }
}

/// Appends the replacement of a match: `\1`, `\g<1>`, `\g<name>` and `\n` mean the same as in Python.
fn expand(by: &str, found: &Captures<'_, str>, out: &mut String) -> Result<(), Error> {
    let mut rest = by;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        out.push_str(plain);
        let digits = escaped.len() - escaped.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if let Some((name, behind)) = escaped.strip_prefix("g<").and_then(|name| name.split_once('>')) {
            out.push_str(group(found, name)?);
            rest = behind;
        } else if digits > 0 && !escaped.starts_with('0') {
            let (number, behind) = escaped.split_at_checked(digits.min(2)).unwrap_or((escaped, ""));
            out.push_str(group(found, number)?);
            rest = behind;
        } else {
            let c = escaped.chars().next().unwrap_or('\\');
            match c {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                'r' => out.push('\r'),
                '\\' => out.push('\\'),
                _ => out.extend(['\\', c]),
            }
            rest = escaped.get(c.len_utf8()..).unwrap_or_default();
        }
    }
    out.push_str(rest);
    Ok(())
}

/// A group of a match, by its number or name; empty if it did not participate.
fn group<'a>(found: &Captures<'a, str>, name: &str) -> Result<&'a str, Error> {
    let missing = || invalid(format!("there is no group {name} in the regular expression"));
    let one = match name.parse::<usize>() {
        Ok(number) if number < found.len() => found.get(number),
        Ok(_) => return Err(missing()),
        Err(_) => Some(found.name(name).ok_or_else(missing)?),
    };
    Ok(one.map_or("", |one| one.as_str()))
}

fn search(call: &Call<'_>) -> Result<Value, Error> {
    let text = call.input()?;
    let regex = compile(&call.text("regex")?, call.flag("ignorecase"), call.flag("multiline"))?;
    let Some(found) = regex.captures(text.as_str()).map_err(failed)? else { return Ok(Value::from(())) };
    if call.rest.is_empty() {
        return Ok(Value::from(group(&found, "0")?));
    }
    let wanted = |one: &Value| {
        let one = one.as_str().unwrap_or_default();
        let name = one.strip_prefix(r"\g<").and_then(|name| name.strip_suffix('>')).or_else(|| one.strip_prefix('\\'));
        let name = name.ok_or_else(|| invalid(r"a group is named `\\1` or `\\g<name>`"))?;
        group(&found, name).map(Value::from)
    };
    call.rest.iter().map(wanted).collect::<Result<Vec<_>, _>>().map(Value::from)
}

fn find_all(call: &Call<'_>) -> Result<Value, Error> {
    let text = call.input()?;
    let regex = compile(&call.text("regex")?, call.flag("ignorecase"), call.flag("multiline"))?;
    let mut all = Vec::new();
    matches(&regex, &text, &mut |found| {
        let part = |number: usize| Value::from(found.get(number).map_or("", |one| one.as_str()));
        all.push(match found.len() {
            1 => part(0),
            2 => part(1),
            count => (1..count).map(part).collect(),
        });
        call.charge(64)?;
        Ok(true)
    })?;
    Ok(Value::from(all))
}

/// The regular expression that matches a text.
fn escape(text: &str) -> String {
    let is_special = |c: char| "()[]{}?*+-|^$\\.&~# \t\n\r\u{b}\u{c}".contains(c);
    text.chars().flat_map(|c| is_special(c).then_some('\\').into_iter().chain([c])).collect()
}
