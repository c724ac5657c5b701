//! Lists and maps.

use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error};

use crate::template::filters::{Call, Filter, invalid, list};

pub(super) const FILTERS: &[Filter] = &[
    ("union", &["b"], |call| of_two(call, |a, b| [a, b].concat())),
    ("intersect", &["b"], |call| of_two(call, |a, b| kept(a, |one| b.contains(one)))),
    ("difference", &["b"], |call| of_two(call, |a, b| kept(a, |one| !b.contains(one)))),
    ("symmetric_difference", &["b"], |call| {
        of_two(call, |a, b| [kept(a, |one| !b.contains(one)), kept(b, |one| !a.contains(one))].concat())
    }),
    ("flatten", &["levels", "skip_nulls"], flatten),
    ("product", &["b"], product),
    ("zip_longest", &["b", "fillvalue"], zip_longest),
    ("extract", &["container", "morekeys"], extract),
    ("subelements", &["subelements", "skip_missing"], subelements),
    ("combine", &["*", "recursive", "list_merge"], combine),
    ("dict2items", &["key_name", "value_name"], to_items),
    ("items2dict", &["key_name", "value_name"], of_items),
];

/// `is contains`, `is subset`, `is superset`.
pub(super) fn add_tests(env: &mut Environment<'static>) {
    let has_all = |all: &Value, some: &Value| {
        let all = list(all)?;
        Ok::<_, Error>(list(some)?.iter().all(|one| all.contains(one)))
    };
    env.add_test("contains", |all: Value, one: Value| Ok::<_, Error>(list(&all)?.contains(&one)));
    env.add_test("superset", move |all: Value, some: Value| has_all(&all, &some));
    env.add_test("subset", move |some: Value, all: Value| has_all(&all, &some));
}

/// Each entry once, where it stands first.
fn distinct(entries: Vec<Value>) -> Vec<Value> {
    let mut seen = std::collections::HashSet::new();
    entries.into_iter().filter(|one| seen.insert(one.clone())).collect()
}

fn kept(entries: &[Value], keeps: impl Fn(&Value) -> bool) -> Vec<Value> {
    entries.iter().filter(|one| keeps(one)).cloned().collect()
}

fn of_two(call: &Call<'_>, join: fn(&[Value], &[Value]) -> Vec<Value>) -> Result<Value, Error> {
    let (a, b) = (list(&call.value)?, list(call.need("b")?)?);
    // each is compared with each
    call.charge(a.len().saturating_mul(b.len()))?;
    Ok(Value::from(distinct(join(&a, &b))))
}

fn flatten(call: &Call<'_>) -> Result<Value, Error> {
    const DEEPEST: i64 = 64;
    fn add(entries: Vec<Value>, levels: i64, skips: bool, out: &mut Vec<Value>) -> Result<(), Error> {
        for entry in entries {
            match entry.kind() {
                ValueKind::None if skips => {}
                ValueKind::Seq | ValueKind::Iterable if levels > 0 => add(list(&entry)?, levels - 1, skips, out)?,
                _ => out.push(entry),
            }
        }
        Ok(())
    }
    let mut out = Vec::new();
    let levels = call.number("levels")?.map_or(DEEPEST, |levels| levels.min(DEEPEST));
    let skips = call.given.get("skip_nulls").is_none_or(Value::is_true);
    add(list(&call.value)?, levels, skips, &mut out)?;
    Ok(Value::from(out))
}

fn product(call: &Call<'_>) -> Result<Value, Error> {
    let (a, b) = (list(&call.value)?, list(call.need("b")?)?);
    call.charge(a.len().saturating_mul(b.len()).saturating_mul(64))?;
    let pairs = a.iter().flat_map(|one| b.iter().map(|other| Value::from(vec![one.clone(), other.clone()])));
    Ok(pairs.collect())
}

fn zip_longest(call: &Call<'_>) -> Result<Value, Error> {
    let (a, b) = (list(&call.value)?, list(call.need("b")?)?);
    let fill = call.given.get("fillvalue").cloned().unwrap_or_else(|| Value::from(()));
    let at = |list: &[Value], index: usize| list.get(index).unwrap_or(&fill).clone();
    Ok((0..a.len().max(b.len())).map(|index| Value::from(vec![at(&a, index), at(&b, index)])).collect())
}

fn extract(call: &Call<'_>) -> Result<Value, Error> {
    let mut value = call.need("container")?.get_item(&call.value)?;
    let more = call.get("morekeys").cloned();
    let more = more.map_or_else(Vec::new, |more| list(&more).unwrap_or_else(|_| vec![more.clone()]));
    for key in more {
        value = value.get_item(&key)?;
    }
    Ok(value)
}

fn subelements(call: &Call<'_>) -> Result<Value, Error> {
    let wanted = call.text("subelements")?;
    let mut pairs = Vec::new();
    for entry in list(&call.value)? {
        let mut inner = entry.clone();
        for key in wanted.split('.') {
            inner = inner.get_item(&Value::from(key))?;
            if inner.is_undefined() {
                break;
            }
        }
        if inner.is_undefined() {
            if call.flag("skip_missing") {
                continue;
            }
            return Err(invalid(format!("an entry has no `{wanted}`: `skip_missing=true` leaves it out")));
        }
        pairs.extend(list(&inner)?.into_iter().map(|one| Value::from(vec![entry.clone(), one])));
    }
    Ok(Value::from(pairs))
}

/// The entries of a map, in their order.
fn entries(map: &Value) -> Result<Vec<(Value, Value)>, Error> {
    if map.kind() != ValueKind::Map {
        return Err(invalid(format!("this goes with maps, not with a {}", map.kind())));
    }
    map.try_iter()?.map(|key| Ok((key.clone(), map.get_item(&key)?))).collect()
}

fn combine(call: &Call<'_>) -> Result<Value, Error> {
    let first = match call.value.kind() {
        ValueKind::Seq | ValueKind::Iterable => list(&call.value)?,
        _ => vec![call.value.clone()],
    };
    let how = call.get("list_merge").map_or_else(|| Ok("replace".to_owned()), super::text)?;
    let mut maps = Vec::new();
    for one in first.into_iter().chain(call.rest.iter().cloned()) {
        match one.kind() {
            ValueKind::Seq | ValueKind::Iterable => maps.extend(list(&one)?),
            _ => maps.push(one),
        }
    }
    let mut maps = maps.into_iter();
    let mut all = maps.next().unwrap_or_else(|| Value::from_pairs([] as [(&str, Value); 0]));
    entries(&all)?;
    for map in maps {
        all = merged(&all, &map, call.flag("recursive"), &how)?;
    }
    Ok(all)
}

fn merged(below: &Value, above: &Value, is_recursive: bool, how: &str) -> Result<Value, Error> {
    let mut all = entries(below)?;
    for (key, value) in entries(above)? {
        let Some((_, old)) = all.iter_mut().find(|(known, _)| *known == key) else {
            all.push((key, value));
            continue;
        };
        let is_list = |value: &Value| matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable);
        *old = if is_recursive && old.kind() == ValueKind::Map && value.kind() == ValueKind::Map {
            merged(old, &value, is_recursive, how)?
        } else if is_list(old) && is_list(&value) {
            merged_list(&list(old)?, &list(&value)?, how)?
        } else {
            value
        };
    }
    Ok(Value::from_pairs(all))
}

fn merged_list(below: &[Value], above: &[Value], how: &str) -> Result<Value, Error> {
    Ok(Value::from(match how {
        "replace" => above.to_vec(),
        "keep" => below.to_vec(),
        "append" => [below, above].concat(),
        "prepend" => [above, below].concat(),
        "append_rp" => [kept(below, |one| !above.contains(one)), above.to_vec()].concat(),
        "prepend_rp" => [above.to_vec(), kept(below, |one| !above.contains(one))].concat(),
        other => {
            let known = "replace, keep, append, prepend, append_rp, prepend_rp";
            return Err(invalid(format!("`{other}` is not a `list_merge`: {known}")));
        }
    }))
}

/// What keys and values are called in a list of pairs.
fn pair_names(call: &Call<'_>) -> Result<[String; 2], Error> {
    let name = |name: &str, default: &str| call.get(name).map_or_else(|| Ok(default.to_owned()), super::text);
    Ok([name("key_name", "key")?, name("value_name", "value")?])
}

fn to_items(call: &Call<'_>) -> Result<Value, Error> {
    let [key_name, value_name] = pair_names(call)?;
    let pair = |(key, value)| Value::from_pairs([(key_name.clone(), key), (value_name.clone(), value)]);
    Ok(entries(&call.value)?.into_iter().map(pair).collect())
}

fn of_items(call: &Call<'_>) -> Result<Value, Error> {
    let [key_name, value_name] = pair_names(call)?;
    let mut pairs = Vec::new();
    for item in list(&call.value)? {
        let (key, value) = (item.get_item(&Value::from(&*key_name))?, item.get_item(&Value::from(&*value_name))?);
        if key.is_undefined() || value.is_undefined() {
            return Err(invalid(format!("each entry has to have `{key_name}` and `{value_name}`")));
        }
        pairs.push((key, value));
    }
    Ok(Value::from_pairs(pairs))
}
