//! What hosts of a site see of one another.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use minijinja::value::{Value, ValueKind};

use crate::template::depth::{any_in, is_looked_up};

/// A variable: the host, the role (or the site) and the name.
pub(super) type Var = (String, Option<String>, String);

/// Variables of hosts as other hosts see them: without facts and secrets, so they are the same for all.
#[derive(Default)]
pub struct Views(RwLock<HashMap<Var, Value>>);

impl Views {
    pub(super) fn get(&self, var: &Var) -> Option<Value> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(var).cloned()
    }

    /// Keeps a value, unless it refers to the context that it was rendered in.
    pub(super) fn keep(&self, var: &Var, value: &Value) {
        if is_plain(value) {
            self.0.write().unwrap_or_else(PoisonError::into_inner).insert(var.clone(), value.clone());
        }
    }
}

/// Whether a value is the same for every host that looks it up.
fn is_plain(value: &Value) -> bool {
    use ValueKind::{Bool, Map, None, Number, Seq, String};
    let is_other =
        |value: &Value| is_looked_up(value) || !matches!(value.kind(), None | Bool | Number | String | Seq | Map);
    !any_in(value, 16, &is_other)
}
