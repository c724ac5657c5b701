//! `[[hook]]`: notifies when a run has failed, has changed something, has rolled back, or is healthy again: a program gets a JSON
//! object on its standard input, or a web server gets it by POST. Both have a short time limit, and their failure is none of the run's.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::config::{Hook, When, origin};
use crate::engine::Agent;
use crate::error::{Error, Result, error, mask};
use crate::host::process;
use crate::net;
use crate::report::{Note, VERSION};
use crate::sandbox;
use crate::store::LastRun;

/// Which failure was reported to which hook.
const REPORTED: &str = "hooks.json";
/// The most ids of changed resources in a notification.
const IDS: usize = 100;
/// The most characters of an id or of an error.
const TEXT: usize = 300;

/// What sends to a hook.
impl Hook {
    /// What identifies the hook, whatever else is set.
    fn key(&self) -> String {
        hex::encode(Sha256::digest(json!([self.command, self.post]).to_string()))
    }

    /// Sends a notification. The error names the hook, and never the whole address, which may be as good as a password.
    fn notify(&self, notification: &Value, required: &[sandbox::Need]) -> Result<()> {
        let text = notification.to_string();
        if let Some(url) = &self.post {
            let address = net::parse(url)?;
            mask::remember("hook's address", address.path().as_bytes());
            return sandbox::Web::new(self.net(), required).post(url, text).map_err(|why| {
                let error = error!(HOOK, "the hook at {} was not notified", origin(&address)).because(&why);
                why.advice().map_or(error.clone(), |help| error.help(help))
            });
        }
        let argv = self.command.as_deref().unwrap_or_default();
        let command = process::Command::new(argv, self.limit());
        let output = process::run(&process::Command { input: Some(text.as_bytes()), ..command })?;
        output.or_failure(format!("the hook {} failed", argv[0])).map(drop)
    }
}

/// A text that is not too long.
fn cut(text: &str) -> String {
    text.chars().take(TEXT).collect()
}

/// Notifies every hook of a run; returns what went wrong with that. A failure is reported once, and again when it becomes another
/// one or the hook failed.
pub fn fire(agent: &Agent<'_>, run: &LastRun, note: &Note, error: Option<&Error>) -> Vec<Error> {
    if agent.config.hooks.is_empty() {
        return Vec::new();
    }
    let before: BTreeMap<String, String> = agent.store.read(REPORTED).ok().flatten().unwrap_or_default();
    // to wait for another host is no failure
    let failure = error.filter(|error| !error.passes()).map(|error| hex::encode(Sha256::digest(error.to_string())));
    // a host that stays on an earlier release has not recovered
    let is_healthy = error.is_none() && agent.store.stay_on().ok().flatten().is_none();
    let mut errors = Vec::new();
    let mut reported = BTreeMap::new();
    for hook in &agent.config.hooks {
        let key = hook.key();
        let known = before.get(&key).cloned();
        let happened = |when: &When| match when {
            When::Back => note.back.is_some(),
            When::Failure => failure.is_some() && known != failure,
            When::Change => !note.changed.is_empty(),
            When::Recovery => is_healthy && known.is_some(),
        };
        let event = hook.on.iter().copied().filter(happened).min();
        let required = &agent.config.sandbox.require;
        let sent = event.map_or(Ok(()), |event| hook.notify(&describe(agent, event, run, note, error), required));
        let now = match (&sent, error) {
            (Err(_), _) => known,
            (Ok(()), Some(_)) => failure.clone().or(known),
            (Ok(()), None) => known.filter(|_| !is_healthy),
        };
        reported.extend(now.map(|now| (key, now)));
        errors.extend(sent.err());
    }
    if reported != before {
        errors.extend(agent.store.write_quickly(REPORTED, &reported).err());
    }
    errors
}

/// The notification of a run, without secrets.
fn describe(agent: &Agent<'_>, event: When, run: &LastRun, note: &Note, error: Option<&Error>) -> Value {
    let generation = agent.store.generation().ok().flatten();
    let mut notification = json!({
        "version": VERSION, "event": event, "site": agent.config.trust.site, "host": agent.name, "time": run.time,
        "release": generation.map(|one| one.serial), "exit": run.exit, "took": (run.took * 1000.0).round() / 1000.0,
        "error": error.map(|error| cut(&error.to_string())), "help": error.and_then(Error::advice).map(cut),
        "changes": note.changed.len(), "drifted": note.drifted,
        "changed": note.changed.iter().take(IDS).map(|id| cut(id.as_str())).collect::<Vec<_>>(),
        "back": note.back.as_ref().map(|stay| json!({ "from": stay.not, "to": stay.serial, "why": cut(&stay.why) })),
    });
    mask::hide_json(&mut notification);
    notification
}
