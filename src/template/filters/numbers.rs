//! Numbers, sizes and versions.

use std::cmp::Ordering;

use minijinja::value::Value;
use minijinja::{Environment, Error};

use crate::template::filters::{Call, Filter, invalid, text};
use crate::text::leading;

pub(super) const FILTERS: &[Filter] = &[
    ("human_readable", &["isbits", "unit"], readable),
    ("human_to_bytes", &["default_unit", "isbits"], bytes),
    ("log", &["base"], |call| {
        let number = float(&call.value)?;
        Ok(Value::from(match call.get("base") {
            Some(base) if *base == Value::from(10) => number.log10(),
            Some(base) if *base == Value::from(2) => number.log2(),
            Some(base) => number.ln() / float(base)?.ln(),
            None => number.ln(),
        }))
    }),
    ("pow", &["y"], |call| Ok(Value::from(float(&call.value)?.powf(float(call.need("y")?)?)))),
    ("root", &["base"], |call| {
        let number = float(&call.value)?;
        Ok(Value::from(match call.get("base") {
            Some(base) if *base != Value::from(2) => number.powf(1.0 / float(base)?),
            _ => number.sqrt(),
        }))
    }),
];

const UNITS: [(char, u32); 8] =
    [('Y', 80), ('Z', 70), ('E', 60), ('P', 50), ('T', 40), ('G', 30), ('M', 20), ('K', 10)];

/// `is version("1.2", ">=")`.
pub(super) fn add_tests(env: &mut Environment<'static>) {
    env.add_test("version", |value: Value, other: Value, how: Option<String>| {
        let order = compared(&text(&value)?, &text(&other)?);
        Ok::<_, Error>(match how.as_deref().unwrap_or("eq") {
            "==" | "=" | "eq" => order.is_eq(),
            "!=" | "<>" | "ne" => order.is_ne(),
            ">=" | "ge" => order.is_ge(),
            ">" | "gt" => order.is_gt(),
            "<=" | "le" => order.is_le(),
            "<" | "lt" => order.is_lt(),
            other => return Err(invalid(format!("`{other}` does not compare: ==, !=, >=, >, <=, <"))),
        })
    });
}

/// Versions by their parts: numbers as numbers, words as words.
fn compared(one: &str, other: &str) -> Ordering {
    let parts = |text: &str| {
        let mut parts: Vec<String> = vec![String::new()];
        for c in text.chars() {
            let is_other =
                |last: &String| last.chars().last().is_some_and(|l| l.is_ascii_digit() != c.is_ascii_digit());
            if c == '.' || parts.last().is_some_and(is_other) {
                parts.push(String::new());
            }
            parts.last_mut().filter(|_| c != '.').into_iter().for_each(|last| last.push(c));
        }
        parts.retain(|part| !part.is_empty());
        parts
    };
    let (one, other) = (parts(one), parts(other));
    for (one, other) in one.iter().zip(&other) {
        let order = match (one.parse::<u64>(), other.parse::<u64>()) {
            (Ok(one), Ok(other)) => one.cmp(&other),
            _ => one.cmp(other),
        };
        if order.is_ne() {
            return order;
        }
    }
    one.len().cmp(&other.len())
}

fn float(value: &Value) -> Result<f64, Error> {
    f64::try_from(value.clone()).map_err(|_| invalid(format!("this goes with a number, not with a {}", value.kind())))
}

fn readable(call: &Call<'_>) -> Result<Value, Error> {
    let (number, is_bits) = (float(&call.value)?, call.flag("isbits"));
    let unit = call.text("unit")?.to_uppercase();
    let size = |power: u32| 2_f64.powi(i32::try_from(power).unwrap_or_default());
    let fits = |(letter, power): &&(char, u32)| match unit.chars().next() {
        Some(wanted) => wanted == *letter,
        None => number >= size(*power),
    };
    let (prefix, power) =
        UNITS.iter().find(fits).map_or((String::new(), 0), |(letter, power)| (letter.to_string(), *power));
    let suffix = match (is_bits, prefix.is_empty()) {
        (true, true) => "bits",
        (true, false) => "b",
        (false, true) => "Bytes",
        (false, false) => "B",
    };
    Ok(Value::from(format!("{:.2} {prefix}{suffix}", number / size(power))))
}

fn bytes(call: &Call<'_>) -> Result<Value, Error> {
    let text = call.input()?;
    let text = text.trim();
    let wrong = || invalid(format!("`{text}` is not a size; write it like 10M or 1.5 GB"));
    let (number, unit) = leading(text, |c| c.is_ascii_digit() || c == '.');
    let unit = match unit.trim() {
        "" => call.text("default_unit")?,
        unit => unit.to_owned(),
    };
    let unit = unit.to_uppercase();
    let power = match unit.trim_end_matches("BYTES").trim_end_matches(['B', 'b']) {
        "" => 0,
        letter => UNITS.iter().find(|(known, _)| known.to_string() == letter).ok_or_else(wrong)?.1,
    };
    let size = number.parse::<f64>().map_err(|_| wrong())? * 2_f64.powi(i32::try_from(power).unwrap_or_default());
    match size.is_finite() && size < 2_f64.powi(63) {
        // what is checked above fits
        true => Ok(Value::from(size.round() as i64)),
        false => Err(wrong()),
    }
}
