//! Values in TOML.

use serde_json::Value;
use toml_edit::{Document, DocumentMut, InlineTable, Item, Table, TableLike};

pub(super) fn parse(text: &str) -> Result<Value, String> {
    // only the place: the text may contain a secret
    toml::from_str(text).map_err(|error| match error.span() {
        Some(span) => format!("it is not TOML, from line {}", line_of(text, span.start)),
        None => "it is not TOML".to_owned(),
    })
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count().saturating_add(1)
}

pub(super) fn write(text: &str, key: &[String], value: Option<&Value>) -> Result<String, String> {
    let Some((name, above)) = key.split_last() else { return Ok(text.to_owned()) };
    let Some(value) = value else { return remove(text, key) };
    let new: toml_edit::Value = toml::Value::try_from(value)
        .map_err(|error| error.to_string())
        .and_then(|value| value.to_string().parse().map_err(|_| "the value can't be written as TOML".to_owned()))?;
    let mut document: DocumentMut = text.parse().map_err(|_| "it is not TOML".to_owned())?;
    if let Some(old) =
        above.iter().try_fold(document.as_item_mut(), |item, part| inner(item, part)).and_then(|item| inner(item, name))
    {
        let Item::Value(old) = old else { return Err(format!("`{name}` is a table in the file: name the keys in it")) };
        let decor = old.decor().clone();
        *old = new;
        *old.decor_mut() = decor;
        return Ok(document.to_string());
    }
    let mut table: &mut dyn TableLike = document.as_table_mut();
    let mut is_inline = false;
    for part in above {
        let item = table.entry(part).or_insert_with(|| match is_inline {
            true => InlineTable::new().into(),
            false => {
                let mut table = Table::new();
                table.set_implicit(true);
                Item::Table(table)
            }
        });
        is_inline |= item.is_inline_table();
        table = item.as_table_like_mut().ok_or_else(|| format!("`{part}` is not a table in the file"))?;
    }
    table.insert(name, Item::Value(new));
    Ok(document.to_string())
}

fn inner<'a>(item: &'a mut Item, part: &str) -> Option<&'a mut Item> {
    // `Item::get_mut` would add what is missing
    if item.is_table_like() {
        item.as_table_like_mut()?.get_mut(part)
    } else {
        item.get_mut(part.parse::<usize>().ok()?)
    }
}

/// Without the lines of a value; comments above it stay.
fn remove(text: &str, key: &[String]) -> Result<String, String> {
    let Some((name, above)) = key.split_last() else { return Ok(text.to_owned()) };
    let document = Document::parse(text).map_err(|_| "it is not TOML".to_owned())?;
    let parent = above.iter().try_fold(document.as_item(), |item, part| item.get(part));
    let spans = parent.and_then(Item::as_table).and_then(|table| {
        let (key, item) = table.get_key_value(name)?;
        Some((key.span()?, item.as_value()?.span()?))
    });
    if let Some((key, value)) = spans {
        let start = text.get(..key.start).and_then(|head| head.rfind('\n')).map_or(0, |at| at.saturating_add(1));
        let end = text.get(value.end..).and_then(|tail| tail.find('\n'));
        let end = end.map_or(text.len(), |at| value.end.saturating_add(at).saturating_add(1));
        return Ok([text.get(..start), text.get(end..)].map(Option::unwrap_or_default).concat());
    }
    let mut document: DocumentMut = text.parse().map_err(|_| "it is not TOML".to_owned())?;
    let parent = above.iter().try_fold(document.as_item_mut(), |item, part| inner(item, part));
    match parent {
        Some(item) if item.is_inline_table() => drop(item.as_table_like_mut().and_then(|table| table.remove(name))),
        _ => return Err(format!("`{name}` is a table in the file: name the keys in it")),
    }
    Ok(document.to_string())
}
