//! Compares two states of a site on each host, for reviewing a change.

use std::fmt::Write as _;

use serde_json::Value;
use similar::TextDiff;

use crate::author::prelude::*;
use crate::error::{counted, one_line};
use crate::resolve::{Shown, Views, show};
use crate::secret::name::path_of;

/// One state of a site.
pub struct SiteState {
    site: Arc<Site>,
    facts: BTreeMap<String, Facts>,
    views: Arc<Views>,
}

impl SiteState {
    /// The site, with the facts recorded in `dir`.
    pub fn new(site: Site, dir: &Path) -> Result<Self> {
        let facts =
            site.hosts.iter().map(|(name, host)| Ok((name.clone(), Facts::recorded(Some(dir), name, host.address)?)));
        let facts = facts.collect::<Result<_>>()?;
        Ok(Self { site: Arc::new(site), facts, views: Arc::default() })
    }

    /// The parts of a host by name; `None` if the site has no such host.
    fn host(&self, name: &str) -> Option<Result<Parts>> {
        let facts = self.facts.get(name)?;
        Some(show(&self.site, name, facts, &SecretStore::expected(), &self.views).map(|(catalog, shown)| {
            let mut parts = Parts::new();
            for (name, part) in shown.into_iter().map(part) {
                // another role may have the same resource
                let role = part.role.clone().unwrap_or_default();
                parts
                    .entry(name)
                    .and_modify(|known| {
                        let _ = writeln!(known.text, "also in the role {role}:\n{}", part.text.trim_end());
                    })
                    .or_insert(part);
            }
            for secret in catalog.secrets {
                let encrypted = self.site.files.get(&path_of(&secret));
                let digest = encrypted.map(|bytes| crate::resolve::digest(bytes)).unwrap_or_default();
                parts.insert(format!("secret {secret}"), Part { role: None, text: format!("{digest}\n") });
            }
            parts
        }))
    }
}

/// The parts of a host by the ids of its resources.
type Parts = BTreeMap<String, Part>;

#[derive(PartialEq)]
struct Part {
    role: Option<String>,
    text: String,
}

/// An entry as lines of text: its fields, then its other parts.
fn part(shown: Shown) -> (String, Part) {
    let mut text = String::new();
    for (key, value) in shown.fields.as_object().into_iter().flatten() {
        let _ = match value {
            Value::String(long) if long.contains('\n') => writeln!(text, "{key} =\n{}", long.trim_end()),
            value => writeln!(text, "{key} = {value}"),
        };
    }
    for (name, content) in shown.parts {
        let _ = writeln!(text, "{name}:\n{}", content.trim_end());
    }
    // an entry without resources is identified by its fields
    let name = if shown.ids.is_empty() { format!("{} {}", shown.kind, shown.fields) } else { shown.ids.join(" ") };
    (name, Part { role: Some(shown.role), text })
}

/// The changes of all hosts.
pub struct Comparison {
    /// Groups of hosts with the same changes, in Markdown.
    pub groups: Vec<(Vec<String>, String)>,
    /// The number of unchanged hosts.
    pub same: usize,
}

/// Compares two states. Fails if a host of the new state can't be resolved; hosts of the old state may fail.
pub fn compare(old: &SiteState, new: &SiteState) -> Result<Comparison> {
    let mut groups: Vec<(Vec<String>, String)> = Vec::new();
    let mut same = 0;
    let names: BTreeSet<&String> = old.facts.keys().chain(new.facts.keys()).collect();
    for name in names {
        let text = match (old.host(name), new.host(name)) {
            (_, None) => "The host was removed from the site, and receives no more releases.\n".to_owned(),
            (None, Some(after)) => format!("A new host.\n\n{}", changes(&Parts::new(), &after?)),
            (Some(Err(before)), Some(after)) => {
                let why = code(&before.to_string());
                format!("Before, it could not be resolved ({why}).\n\n{}", changes(&Parts::new(), &after?))
            }
            (Some(Ok(before)), Some(after)) => changes(&before, &after?),
        };
        if text.is_empty() {
            same += 1;
        } else if let Some((hosts, _)) = groups.iter_mut().find(|(_, known)| *known == text) {
            hosts.push(name.clone());
        } else {
            groups.push((vec![name.clone()], text));
        }
    }
    Ok(Comparison { groups, same })
}

/// Additions, removals and changes in Markdown; empty if there are none.
fn changes(before: &Parts, after: &Parts) -> String {
    let mut text = String::new();
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for name in names {
        let (was, is) = (before.get(name), after.get(name));
        if was == is {
            continue;
        }
        let sign = match (was, is) {
            (None, _) => '+',
            (_, None) => '−',
            _ => '~',
        };
        let role = is.or(was).and_then(|part| part.role.as_ref()).map(|role| format!(" ({role})")).unwrap_or_default();
        let _ = writeln!(text, "{sign} {}{role}", code(name));
        let lines = |part: Option<&Part>| part.map(|part| part.text.clone()).unwrap_or_default();
        let (was, is) = (lines(was), lines(is));
        let diff = TextDiff::from_lines(&was, &is);
        let diff = diff.unified_diff().context_radius(2).to_string();
        let diff = diff.replace("\\ No newline at end of file\n", "");
        // a fence longer than any in the text
        let fence = "`".repeat(longest_ticks(&diff).max(2) + 1);
        let _ = writeln!(text, "\n{fence}diff\n{}\n{fence}\n", diff.trim_end());
    }
    text
}

/// A name as code in Markdown, safe for backticks and line breaks in it.
fn code(name: &str) -> String {
    let name = one_line(name);
    match longest_ticks(&name) {
        0 => format!("`{name}`"),
        ticks => {
            let fence = "`".repeat(ticks + 1);
            format!("{fence} {name} {fence}")
        }
    }
}

fn longest_ticks(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}

impl Comparison {
    /// The comparison in Markdown, with at most `most` bytes for each group.
    pub fn markdown(&self, most: usize) -> String {
        let changed: usize = self.groups.iter().map(|(hosts, _)| hosts.len()).sum();
        let mut text = format!("**{changed}** of {} hosts change.\n", changed + self.same);
        for (hosts, what) in &self.groups {
            let count = what.lines().filter(|line| line.starts_with(['+', '−', '~']) && line.contains('`')).count();
            let (names, count) = (hosts.join(", "), counted(count, "resource"));
            let _ = write!(text, "\n<details><summary><b>{names}</b>: {count}</summary>\n\n");
            match what.char_indices().map(|(at, _)| at).find(|at| *at > most) {
                None => text.push_str(what.trim_end()),
                Some(end) => {
                    let start = what.get(..end).unwrap_or_default();
                    // empty lines are only outside of fences: inside, every line starts with a sign
                    let whole = start.rsplit_once("\n\n").map_or("", |(whole, _)| whole);
                    let _ = write!(text, "{}\n\n… truncated: it is too long to show here.", whole.trim_end());
                }
            }
            text.push_str("\n\n</details>\n");
        }
        text
    }
}
