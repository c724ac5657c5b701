//! How deep the values of templates may be. The engine goes through a value by calling itself for what is in it (to write, compare, or
//! free it), so what a variable is set to stays shallow: else a loop over `{% set ns.v = [ns.v] %}`, or a namespace that has itself in it, would take all of a
//! thread's stack.

use std::cell::Cell;
use std::thread;

use minijinja::value::{Tuple, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};

/// Lists and maps inside of one another that a variable may have.
const DEEPEST: usize = 64;
/// Entries of the value of one expression, with all that are in them.
const ENTRIES: u64 = 1 << 21;
/// Entries that cost one step.
const A_STEP: u64 = 16;

/// Stack of a thread that resolves. What one expression makes of a variable is deeper than that, by [`super::expression::NESTING`], and what a loop or macro that
/// calls itself makes is so at each call: that fits in here.
pub(crate) const STACK: usize = 64 << 20;

/// The filters that each `set` of a template goes through: of a variable, and of a namespace's attribute.
pub(crate) const OF_VARIABLE: &str = "kept_in_a_variable";
pub(crate) const OF_NAMESPACE: &str = "kept_in_a_namespace";

/// Adds those filters.
pub(crate) fn add(env: &mut Environment<'static>) {
    env.add_filter(OF_VARIABLE, |state: &State<'_, '_>, value: Value| kept(state, value));
    env.add_filter(OF_NAMESPACE, |state: &State<'_, '_>, value: Value| paid(state, &value));
}

/// What the value of an expression is as data, if it is not deeper than it may be.
pub(crate) fn checked(value: &Value) -> Result<Value, Error> {
    let left = Cell::new(ENTRIES);
    plain(value, 0, &|| {
        left.set(left.get().saturating_sub(1));
        if left.get() == 0 { Err(Error::from(ErrorKind::OutOfFuel)) } else { Ok(()) }
    })
}

/// What to do about an error of these.
pub(crate) fn advice(detail: &str) -> Option<&'static str> {
    if detail.starts_with(TOO_DEEP) {
        return Some("keep what belongs to it beside it, in a list of its own, and not one inside of the other");
    }
    detail
        .starts_with(NO_DATA)
        .then_some("set a variable to it, or keep the data that is in it: texts, numbers, lists and maps")
}

/// Does something that resolves, with as much stack as that may need.
pub fn with_room<T: Send>(work: impl Fn() -> T + Sync) -> T {
    thread::scope(|scope| match thread::Builder::new().stack_size(STACK).spawn_scoped(scope, &work) {
        Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        Err(_) => work(),
    })
}

const TOO_DEEP: &str = "a value is nested more than";
const NO_DATA: &str = "a namespace, a macro or a loop";

/// A namespace, macro or loop is kept as it is, so that it goes on being one.
fn kept(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    if is_of_the_engine(&value) { Ok(value) } else { paid(state, &value) }
}

fn paid(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    let count = Cell::new(0_u64);
    plain(value, 0, &|| {
        count.set(count.get() + 1);
        if count.get().is_multiple_of(A_STEP) { state.consume_fuel(1) } else { Ok(()) }
    })
}

/// The same value with nothing behind it that is looked up or made later. `pay` is called for each entry.
fn plain(value: &Value, depth: usize, pay: &dyn Fn() -> Result<(), Error>) -> Result<Value, Error> {
    let is_list = match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => true,
        ValueKind::Map if is_looked_up(value) => return Ok(value.clone()),
        _ if is_of_the_engine(value) => {
            let why = format!("{NO_DATA} can't be in a list, a map or a namespace");
            return Err(Error::new(ErrorKind::InvalidOperation, why));
        }
        ValueKind::Map => false,
        _ => return Ok(value.clone()),
    };
    if depth >= DEEPEST {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("{TOO_DEEP} {DEEPEST} times in lists and maps")));
    }
    let inner = |item: Value| pay().and_then(|()| plain(&item, depth + 1, pay));
    if !is_list {
        let entry = |key: Value| Ok((key.clone(), inner(value.get_item(&key)?)?));
        return Ok(Value::from_pairs(value.try_iter()?.map(entry).collect::<Result<Vec<_>, Error>>()?));
    }
    let items = value.try_iter()?.map(inner).collect::<Result<Vec<_>, Error>>()?;
    Ok(match value.downcast_object_ref::<Tuple>() {
        Some(_) => Value::from_object(Tuple::new(items)),
        None => Value::from(items),
    })
}

/// Whether a value is an object of this program, which is looked up when it is asked for: a host, a role, what a template sees by name.
pub(crate) fn is_looked_up(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().starts_with(concat!(env!("CARGO_PKG_NAME"), "::")))
}

/// Whether a value is something that the engine works with and no data: what is in it can change, or is not seen from outside.
fn is_of_the_engine(value: &Value) -> bool {
    let is_engines = |name: &str| name.starts_with("minijinja::vm::") || name.ends_with("::Namespace");
    value.as_object().is_some_and(|object| is_engines(object.type_name()))
}
