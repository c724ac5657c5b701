//! The template language that roles and host variables are written in, with its functions and filters, and the expressions of probes.

pub mod depth;
pub mod expression;
pub mod filters;
pub mod functions;
pub mod os;

pub use depth::with_room;
pub use expression::Expression;

use serde_json::Value as Json;

/// Later wins; maps merge by key, everything else is replaced.
pub fn merge(below: Json, above: &Json) -> Json {
    match (below, above) {
        (Json::Object(mut below), Json::Object(above)) => {
            for (key, value) in above {
                // a key keeps its place among the others
                match below.get_mut(key) {
                    Some(old) => *old = merge(old.take(), value),
                    None => drop(below.insert(key.clone(), value.clone())),
                }
            }
            Json::Object(below)
        }
        (_, above) => above.clone(),
    }
}
