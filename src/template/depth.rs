//! Limits the depth of values in templates. The engine processes values recursively (to write, compare, or free them), so variables
//! must stay shallow: otherwise a loop over `{% set ns.v = [ns.v] %}`, or a namespace that contains itself, would overflow a
//! thread's stack.

use std::any::Any;
use std::cell::Cell;
use std::fmt::Debug;
use std::sync::Arc;
use std::thread;

use minijinja::value::{Enumerator, Object, Tuple, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};

/// The deepest nesting of lists and maps in a variable.
const DEEPEST: usize = 64;
/// The most entries in the value of an expression, at all levels.
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
    env.add_filter(OF_NAMESPACE, |state: &State<'_, '_>, value: Value| charged(state, &value));
}

/// The value of an expression as plain data, unless it is nested too deep.
pub(crate) fn checked(value: &Value) -> Result<Value, Error> {
    let left = Cell::new(ENTRIES);
    plain(value, 0, &|| {
        left.set(left.get().saturating_sub(1));
        if left.get() == 0 { Err(Error::from(ErrorKind::OutOfFuel)) } else { Ok(()) }
    })
}

/// What to do about an error of this module.
pub(crate) fn advice(detail: &str) -> Option<&'static str> {
    if detail.starts_with(TOO_DEEP) {
        return Some("keep what belongs to it beside it, in a list of its own, and not one inside of the other");
    }
    detail
        .starts_with(NO_DATA)
        .then_some("set a variable to it, or keep the data that is in it: texts, numbers, lists and maps")
}

/// Runs `work` in a thread with enough stack to resolve.
pub fn with_room<T: Send>(work: impl Fn() -> T + Sync) -> T {
    thread::scope(|scope| match thread::Builder::new().stack_size(STACK).spawn_scoped(scope, &work) {
        Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        Err(_) => work(),
    })
}

const TOO_DEEP: &str = "a value is nested more than";
const NO_DATA: &str = "a namespace, a macro or a loop";

/// The value of a variable; namespaces, macros and loops stay what they are.
fn kept(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    if is_of_the_engine(&value) { Ok(value) } else { charged(state, &value) }
}

fn charged(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    let count = Cell::new(0_u64);
    plain(value, 0, &|| {
        count.set(count.get() + 1);
        if count.get().is_multiple_of(A_STEP) { state.consume_fuel(1) } else { Ok(()) }
    })
}

/// The value as plain data, without anything lazy. `charge` is called for each entry.
fn plain(value: &Value, depth: usize, charge: &dyn Fn() -> Result<(), Error>) -> Result<Value, Error> {
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
    let inner = |item: Value| charge().and_then(|()| plain(&item, depth + 1, charge));
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

/// Whether `test` holds for a value or for one in it, or lists and maps in it are nested deeper than `depth`. What is looked up is not
/// opened.
pub(crate) fn any_in(value: &Value, depth: usize, test: &dyn Fn(&Value) -> bool) -> bool {
    let in_item = |item: &Value| depth == 0 || any_in(item, depth - 1, test);
    let is_map = value.kind() == ValueKind::Map && !is_looked_up(value);
    if test(value) {
        return true;
    }
    if !is_map && !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
        return false;
    }
    let mut items = value.try_iter().into_iter().flatten();
    items.any(|item| in_item(&item) || is_map && value.get_item(&item).is_ok_and(|value| in_item(&value)))
}

/// What a template sees as a map whose entries are looked up on demand: a host, a role, a scope.
pub(crate) trait Lookup: Any + Debug + Send + Sync {
    /// The entry of this name.
    fn get(&self, name: &str) -> Option<Value>;

    /// The names that a loop over it has.
    fn names(&self) -> Enumerator {
        Enumerator::Empty
    }
}

/// A [`Lookup`] as an object of the engine.
#[derive(Debug)]
struct LookedUp(Box<dyn Lookup>);

impl Object for LookedUp {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_str()?)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        self.0.names()
    }
}

/// A value that is looked up on demand.
pub(crate) fn looked_up(object: impl Lookup) -> Value {
    Value::from_object(LookedUp(Box::new(object)))
}

/// The object of a value that is looked up on demand, if it has this type.
pub(crate) fn as_lookup<T: Lookup>(value: &Value) -> Option<&T> {
    let object: &dyn Any = &*value.downcast_object_ref::<LookedUp>()?.0;
    object.downcast_ref()
}

/// Whether a value is looked up on demand.
pub(crate) fn is_looked_up(value: &Value) -> bool {
    value.downcast_object_ref::<LookedUp>().is_some()
}

/// Whether a value is an object of the engine and not data: its content can change, or is not accessible.
fn is_of_the_engine(value: &Value) -> bool {
    let is_engines = |name: &str| name.starts_with("minijinja::vm::") || name.ends_with("::Namespace");
    value.as_object().is_some_and(|object| is_engines(object.type_name()))
}
