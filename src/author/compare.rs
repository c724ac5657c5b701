//! What two states of a site make of each host, and where they differ: for whoever reviews a change.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use similar::TextDiff;

use crate::error::{Result, counted, one_line};
use crate::resolve::{Facts, Shown, Views, show};
use crate::secret::SecretStore;
use crate::secret::name::path_of;
use crate::site::Site;

/// One state of a site.
pub struct SiteState {
    site: Arc<Site>,
    facts: BTreeMap<String, Facts>,
    views: Arc<Views>,
}

impl SiteState {
    /// The site, with the facts that are recorded in `dir`.
    pub fn new(site: Site, dir: &Path) -> Result<Self> {
        let facts =
            site.hosts.iter().map(|(name, host)| Ok((name.clone(), Facts::recorded(Some(dir), name, host.address)?)));
        let facts = facts.collect::<Result<_>>()?;
        Ok(Self { site: Arc::new(site), facts, views: Arc::default() })
    }

    /// What makes a host, by name; `None` when the site has no such host.
    fn host(&self, name: &str) -> Option<Result<Parts>> {
        let facts = self.facts.get(name)?;
        Some(show(&self.site, name, facts, &SecretStore::expected(), &self.views).map(|(catalog, shown)| {
            let mut parts: Parts = shown.into_iter().map(part).collect();
            for secret in catalog.secrets {
                let sealed = self.site.files.get(&path_of(&secret));
                let digest = sealed.map(|bytes| crate::resolve::digest(bytes)).unwrap_or_default();
                parts.insert(format!("secret {secret}"), Part { role: None, text: format!("{digest}\n") });
            }
            parts
        }))
    }
}

/// What makes a host: by the ids of its resources.
type Parts = BTreeMap<String, Part>;

#[derive(PartialEq)]
struct Part {
    role: Option<String>,
    text: String,
}

/// An entry as lines of text: its fields, then what else it is made of.
fn part(shown: Shown) -> (String, Part) {
    let mut text = String::new();
    for (key, value) in shown.fields.as_object().into_iter().flatten() {
        match value {
            Value::String(long) if long.contains('\n') => {
                let _ = writeln!(text, "{key} =\n{}", long.trim_end());
            }
            value => {
                let _ = writeln!(text, "{key} = {value}");
            }
        }
    }
    for (name, content) in shown.parts {
        let _ = writeln!(text, "{name}:\n{}", content.trim_end());
    }
    // what makes no resource is told apart by what it says
    let name = if shown.ids.is_empty() { format!("{} {}", shown.kind, shown.fields) } else { shown.ids.join(" ") };
    (name, Part { role: Some(shown.role), text })
}

/// What becomes of the hosts of `old` in `new`.
pub struct Comparison {
    /// Hosts with what changes on each, in Markdown; those with the same stand together.
    pub groups: Vec<(Vec<String>, String)>,
    /// Hosts that stay as they are.
    pub same: usize,
}

/// Compares two states. An error when a host of the new one can't be made; one of the old need not.
pub fn compare(old: &SiteState, new: &SiteState) -> Result<Comparison> {
    let mut groups: Vec<(Vec<String>, String)> = Vec::new();
    let mut same = 0;
    let mut names: Vec<&String> = old.facts.keys().chain(new.facts.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let text = match (old.host(name), new.host(name)) {
            (_, None) => "The host is gone from the site: it gets no more releases.\n".to_owned(),
            (None, Some(after)) => format!("A new host.\n\n{}", changes(&Parts::new(), &after?)),
            (Some(Err(before)), Some(after)) => {
                format!(
                    "Before, it could not be made ({}).\n\n{}",
                    code(&before.to_string()),
                    changes(&Parts::new(), &after?)
                )
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

/// What is added, removed and changed, in Markdown; empty when nothing is.
fn changes(before: &Parts, after: &Parts) -> String {
    let mut text = String::new();
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
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

/// A name as code in Markdown, from which nothing in it leads out: neither a backtick nor a line break.
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
    /// All of it, in Markdown; of each group at most `most` bytes.
    pub fn markdown(&self, most: usize) -> String {
        let changed: usize = self.groups.iter().map(|(hosts, _)| hosts.len()).sum();
        let mut text = format!("**{changed}** of {} hosts change.\n", changed + self.same);
        for (hosts, what) in &self.groups {
            let count = what.lines().filter(|line| line.starts_with(['+', '−', '~']) && line.contains('`')).count();
            let _ = write!(
                text,
                "\n<details><summary><b>{}</b>: {}</summary>\n\n",
                hosts.join(", "),
                counted(count, "resource")
            );
            match what.char_indices().map(|(at, _)| at).find(|at| *at > most) {
                None => text.push_str(what.trim_end()),
                Some(end) => {
                    let start = what.get(..end).unwrap_or_default();
                    // an empty line is before and behind a fence, and never within: there each line has a sign
                    let whole = start.rsplit_once("\n\n").map_or("", |(whole, _)| whole);
                    let _ = write!(text, "{}\n\n… and more: it is too long to be shown here.", whole.trim_end());
                }
            }
            text.push_str("\n\n</details>\n");
        }
        text
    }
}
