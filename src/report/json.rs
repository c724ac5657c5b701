//! Output for programs: one JSON object a line, each with `event` and the version of the format.

use std::io::Write as _;

use serde_json::json;

use crate::error::{is_hidden, mask};
use crate::report::{Event, Occupied, Report};

/// The version of the format; grows when a field changes its meaning or goes away.
pub const VERSION: u32 = 2;

/// Writes to standard output.
#[derive(Clone, Copy, Debug)]
pub struct Json;

impl Report for Json {
    fn event(&self, event: &Event<'_>) {
        let change = |name: &str, item: &crate::kind::Item, change: &crate::kind::Change| json!({ "event": name, "id": item.id, "role": &*item.role, "what": change.what, "summary": change.summary, "diff": change.diff, "trigger": change.trigger });
        let mut value = match event {
            Event::Passed(source, error) => {
                json!({ "event": "source_passed", "source": source, "code": error.code().name, "error": error.to_string() })
            }
            Event::PassedMirror(mirror, error) => {
                json!({ "event": "mirror_passed", "mirror": mirror, "code": error.code().name, "error": error.to_string() })
            }
            Event::Keys(set) => json!({ "event": "keys", "number": set.number, "release": set.release,
                "rotate": set.rotate, "signers": set.signers.lines().collect::<Vec<_>>() }),
            Event::News(source, manifest) => {
                json!({ "event": "release", "source": source, "site": manifest.site, "serial": manifest.serial,
                        "created": manifest.created, "expires": manifest.expires })
            }
            Event::Planned(item, planned) => change("planned", item, planned),
            Event::Changed(item, changed) => change("changed", item, changed),
            Event::Unlabelled(error) => {
                json!({ "event": "unlabelled", "code": error.code().name, "error": error.to_string(), "help": error.advice() })
            }
            Event::Exposed(error) => {
                json!({ "event": "exposed", "code": error.code().name, "error": error.to_string(), "help": error.advice() })
            }
            Event::NotReported(error) => {
                json!({ "event": "not_reported", "code": error.code().name, "error": error.to_string(), "help": error.advice() })
            }
            Event::NoFact(name, error) => {
                json!({ "event": "fact_failed", "name": name, "code": error.code().name, "error": error.to_string(), "help": error.advice() })
            }
            Event::SlotTaken(item, slot, by) => {
                let (host, since) = match by {
                    Occupied::By(holder) => (Some(&holder.host), Some(holder.since)),
                    Occupied::Refused(_) => (None, None),
                };
                json!({ "event": "slot_taken", "id": item.id, "slot": slot, "host": host, "since": since, "why": by.to_string() })
            }
            Event::SlotUnknown(item, slot, why) => {
                json!({ "event": "slot_unknown", "id": item.id, "slot": slot, "error": why })
            }
            Event::SlotNotReturned(item, slot, why) => {
                json!({ "event": "slot_not_returned", "id": item.id, "slot": slot, "error": why })
            }
            Event::Waiting(item) => json!({ "event": "probe_waiting", "id": item.id }),
            Event::Passing(item) => json!({ "event": "probe_passed", "id": item.id }),
            Event::Download { .. } | Event::Ended(_) => return,
            Event::Lost(id, error) => {
                json!({ "event": "not_restored", "id": id, "code": error.code().name, "error": error.to_string() })
            }
            Event::Overruled(id, error) => {
                json!({ "event": "overruled", "id": id, "code": error.code().name, "error": error.to_string(), "help": error.advice() })
            }
            Event::RolloutWaiting(why) => json!({ "event": "rollout_waiting", "why": why }),
            Event::LockNotReturned(why) => json!({ "event": "lock_not_returned", "error": why }),
            Event::Saved(path) => json!({ "event": "saved", "path": path }),
            Event::StaysOn(stay) => json!({ "event": "stays_on", "release": stay.not, "stays_with": stay.serial,
                "why": stay.why, "again": stay.again }),
            Event::RolledBack(stay) => {
                json!({ "event": "rolled_back", "from": stay.not, "to": stay.serial, "why": stay.why,
                "tries": stay.tries, "again": stay.again })
            }
            Event::Done(summary) => {
                let mut value = serde_json::to_value(summary).unwrap_or_default();
                value["event"] = "done".into();
                value
            }
        };
        value["version"] = VERSION.into();
        let _ = writeln!(std::io::stdout(), "{}", line(value));
    }
}

/// A value on one line, without secrets and control characters.
pub fn line(mut value: serde_json::Value) -> String {
    mask::hide_json(&mut value);
    let mut line = String::new();
    // control characters occur in texts only, where JSON has an escape for them
    for c in value.to_string().chars() {
        match is_hidden(c) {
            true => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| line.push_str(&format!("\\u{unit:04x}"))),
            false => line.push(c),
        }
    }
    line
}
