//! Formats TOML files: spaces, indents and commas. Comments, order and line breaks stay.

use toml_edit::{Array, Decor, DocumentMut, InlineTable, Item, Table, Value};

use crate::document::Doc;
use crate::error::{Result, error};

/// One level of indentation.
const STEP: &str = "  ";

/// Formats the text of a TOML file. Its values stay the same, and formatting it again changes nothing. `file` is its name in
/// messages.
pub fn format(file: &str, text: &str) -> Result<String> {
    let before = Doc::parse(file, text.as_bytes())?;
    let mut doc: DocumentMut =
        text.parse().map_err(|error| error!(EDIT, "{file} can't be formatted").because(error))?;
    table(doc.as_table_mut());
    // the last line has no line break
    let trailing = above(&format!("{}\n", doc.trailing().as_str().unwrap_or_default()), "");
    doc.set_trailing(trailing);
    let formatted = format!("{}\n", doc.to_string().trim());
    let after = Doc::parse(file, formatted.as_bytes())?;
    if before.value() != after.value() {
        return Err(
            error!(EDIT, "formatting {file} would change its meaning").help("this is a bug in kpull: please report it")
        );
    }
    Ok(formatted)
}

fn table(table: &mut Table) {
    decorate(table.decor_mut(), |prefix| above(prefix, ""), beside);
    for (mut key, item) in table.iter_mut() {
        key.dotted_decor_mut().clear();
        match item {
            Item::Value(one) => {
                decorate(key.leaf_decor_mut(), |prefix| above(prefix, ""), |_| " ".into());
                value(one, 1);
                decorate(one.decor_mut(), |_| " ".into(), beside);
            }
            Item::Table(below) => {
                key.leaf_decor_mut().clear();
                self::table(below);
            }
            Item::ArrayOfTables(list) => {
                key.leaf_decor_mut().clear();
                list.iter_mut().for_each(self::table);
            }
            Item::None => {}
        }
    }
}

fn value(value: &mut Value, depth: usize) {
    match value {
        Value::Array(list) => array(list, depth),
        Value::InlineTable(table) => inline(table, depth),
        _ => {}
    }
}

fn array(list: &mut Array, depth: usize) {
    let inner = STEP.repeat(depth);
    let text = |raw: Option<&toml_edit::RawString>| raw.and_then(|raw| raw.as_str()).unwrap_or_default().to_owned();
    let trailing = text(Some(list.trailing()));
    let breaks = |decor: &Decor| text(decor.prefix()).contains('\n') || text(decor.suffix()).contains('\n');
    let is_long = trailing.contains('\n') || list.iter().any(|item| breaks(item.decor()));
    for (index, item) in list.iter_mut().enumerate() {
        value(item, depth + 1);
        let blank = if index == 0 { "" } else { " " };
        decorate(
            item.decor_mut(),
            |prefix| if prefix.contains('\n') { broken(prefix, &inner) } else { blank.into() },
            |suffix| if suffix.contains('#') { broken(suffix, &inner) } else { String::new() },
        );
    }
    list.set_trailing_comma(is_long && !list.is_empty());
    if !is_long {
        list.set_trailing("");
        return;
    }
    let outer = STEP.repeat(depth - 1);
    let kept = broken(&trailing, &inner);
    list.set_trailing(if kept.contains('#') { format!("{}\n{outer}", kept.trim_end()) } else { format!("\n{outer}") });
}

fn inline(table: &mut InlineTable, depth: usize) {
    if table.to_string().contains('\n') {
        return;
    }
    let last = table.len().saturating_sub(1);
    for (index, (mut key, one)) in table.iter_mut().enumerate() {
        value(one, depth);
        decorate(key.leaf_decor_mut(), |_| " ".into(), |_| " ".into());
        decorate(one.decor_mut(), |_| " ".into(), |_| if index == last { " ".into() } else { String::new() });
    }
    table.set_trailing("");
}

fn decorate(decor: &mut Decor, prefix: impl Fn(&str) -> String, suffix: impl Fn(&str) -> String) {
    let new = |raw: Option<&toml_edit::RawString>, by: &dyn Fn(&str) -> String| {
        by(raw.and_then(|raw| raw.as_str()).unwrap_or_default())
    };
    let (before, behind) = (new(decor.prefix(), &prefix), new(decor.suffix(), &suffix));
    decor.set_prefix(before);
    decor.set_suffix(behind);
}

/// The lines above an item: indented comments, and at most one empty line in a row.
fn above(text: &str, indent: &str) -> String {
    let mut out = String::new();
    let mut lines = text.split('\n').map(str::trim).peekable();
    let mut was_empty = false;
    while let Some(line) = lines.next() {
        if lines.peek().is_none() && line.is_empty() {
            // the indentation of the item itself
            out.push_str(indent);
        } else if !line.is_empty() {
            out.push_str(&format!("{indent}{line}\n"));
            was_empty = false;
        } else if !was_empty {
            out.push('\n');
            was_empty = true;
        }
    }
    out
}

/// [`above`] for text that starts on the line of the previous item: a comment there stays there.
fn broken(text: &str, indent: &str) -> String {
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    format!("{}\n{}", beside(first), above(rest, indent))
}

/// The text after an item on its line: a comment stays there, with a space before it.
fn beside(text: &str) -> String {
    let text = text.trim_end();
    if text.starts_with('#') { format!(" {text}") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::format;

    #[test]
    fn blanks_commas_and_indents_are_one_way_and_comments_stay() {
        let text = "\n\n# what\n   # this is\na=1# one\n\n\n\nb   = [ 1,2 , 3, ]   # aligned\nc=[\n1, # first\n      # about two\n   2,\n  [3,\n 4]\n]\nd={x=1,y = {z=[1,2]}}\n  [ t . u ]   # a table\n 'k' . l= \"v\"   \n\n\n# the end\n\n";
        let wanted = "# what\n# this is\na = 1 # one\n\nb = [1, 2, 3]   # aligned\nc = [\n  1, # first\n  # about two\n  2,\n  [3,\n    4,\n  ],\n]\nd = { x = 1, y = { z = [1, 2] } }\n[t.u]   # a table\n'k'.l = \"v\"\n\n# the end\n";
        let formatted = format("x.toml", text).unwrap();
        assert_eq!(formatted, wanted);
        assert_eq!(format("x.toml", wanted).unwrap(), wanted);
    }

    #[test]
    fn whatever_is_formatted_says_the_same_and_stays() {
        for text in [
            "",
            "#",
            "a = []",
            "a = [ ]",
            "a = [\n]",
            "a = [ # x\n]",
            "a = {}",
            "a = '''\n  x\n\n\n y'''",
            "[a]\n[[a.b]]\n[[a.b]]\nx.y.z = 1\nx.y.w = 2",
            "a = [1\n,2\n,\n# end\n]",
            "x = [ {a = 1}, # one\n{a = 2} ]",
            "a = 1\r\nb = [\r\n1]\r\n",
        ] {
            let once = format("x.toml", text).unwrap();
            assert_eq!(format("x.toml", &once).unwrap(), once, "{text:?}");
            assert_eq!(text.matches('#').count(), once.matches('#').count(), "{text:?} {once:?}");
        }
    }
}
