//! Methods of Python's strings and lists that minijinja-contrib lacks.

use minijinja::value::{Value, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat;

use crate::template::filters::invalid;
use crate::text::leading;

/// All methods, for suggestions.
pub const METHODS: &str = "capitalize casefold center count endswith find format get index isalnum isalpha isascii isdigit \
    islower isnumeric isspace isupper items join keys ljust lower lstrip partition removeprefix \
    removesuffix replace rfind rjust rpartition rsplit rstrip split splitlines startswith strip swapcase \
    title upper values zfill";

/// Calls a method of a value that the engine does not know.
pub(super) fn call(state: &mut State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match pycompat::unknown_method_callback(state, value, method, args) {
        Err(error) if error.kind() == ErrorKind::UnknownMethod => {}
        called => return called,
    }
    let unknown = || Err(Error::from(ErrorKind::UnknownMethod));
    let Some(text) = value.as_str() else {
        return match (method, value.try_iter()) {
            ("index", Ok(mut entries)) => {
                let (wanted,): (Value,) = from_args(args)?;
                let at = entries.position(|entry| entry == wanted);
                at.map(Value::from).ok_or_else(|| invalid(format!("{wanted} is not in the list")))
            }
            _ => unknown(),
        };
    };
    Ok(match method {
        "removeprefix" | "removesuffix" => {
            let (part,): (&str,) = from_args(args)?;
            let rest = if method == "removeprefix" { text.strip_prefix(part) } else { text.strip_suffix(part) };
            Value::from(rest.unwrap_or(text))
        }
        "partition" | "rpartition" => {
            let (by,): (&str,) = from_args(args)?;
            let parts = if method == "partition" { text.split_once(by) } else { text.rsplit_once(by) };
            let parts = match (parts, method) {
                (Some((before, behind)), _) => [before, by, behind],
                (None, "partition") => [text, "", ""],
                (None, _) => ["", "", text],
            };
            parts.into_iter().map(Value::from).collect()
        }
        "rsplit" => {
            let (by, most): (&str, Option<usize>) = from_args(args)?;
            let mut parts: Vec<&str> =
                text.rsplitn(most.map_or(usize::MAX, |most| most.saturating_add(1)), by).collect();
            parts.reverse();
            parts.into_iter().map(Value::from).collect()
        }
        "index" => {
            let (part,): (&str,) = from_args(args)?;
            let at = text.split_once(part).ok_or_else(|| invalid(format!("`{part}` is not in the text")))?;
            Value::from(at.0.chars().count())
        }
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            let (sign, digits) = leading(text, |c| matches!(c, '-' | '+'));
            let missing = blanks(state, text, width)?;
            Value::from(format!("{sign}{}{digits}", "0".repeat(missing)))
        }
        "ljust" | "rjust" | "center" => {
            let (width, fill): (usize, Option<char>) = from_args(args)?;
            let missing = blanks(state, text, width)?;
            let left = match method {
                "ljust" => 0,
                "rjust" => missing,
                // where it can't be the middle, Python's choice
                _ => missing / 2 + (missing & width & 1),
            };
            let fill = fill.unwrap_or(' ').to_string();
            Value::from(format!("{}{text}{}", fill.repeat(left), fill.repeat(missing - left)))
        }
        "swapcase" => {
            let swapped = |c: char| -> String {
                if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
            };
            let () = from_args(args)?;
            Value::from(text.chars().map(swapped).collect::<String>())
        }
        "casefold" => {
            let () = from_args(args)?;
            Value::from(text.to_lowercase())
        }
        _ => return unknown(),
    })
}

/// How many characters a text lacks to reach a width; charges fuel for them.
fn blanks(state: &State<'_, '_>, text: &str, width: usize) -> Result<usize, Error> {
    let missing = width.saturating_sub(text.chars().count());
    state.consume_fuel(u64::try_from(missing / 64).unwrap_or(u64::MAX))?;
    Ok(missing)
}
