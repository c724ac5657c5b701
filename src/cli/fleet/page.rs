//! The fleet as one HTML page: no scripts, no external resources, problems first.

use jiff::{SignedDuration, Timestamp};
use minijinja::{Environment, Value, context, escape_formatter};

use super::{Line, counts};
use crate::cli::status::ago;
use crate::error::{Context as _, Result, code, counted, visible};
use crate::status::vitals::Ending;
use crate::status::{HostState, Record};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");

/// The page of a site.
pub fn html(site: &str, lines: &[Line<'_>], newest: u64, now: Timestamp) -> Result<String> {
    let mut rows: Vec<&Line<'_>> = lines.iter().collect();
    rows.sort_by_key(|line| (rank(line, now), line.host));
    let rows: Vec<Value> = rows.iter().map(|line| row(line, now)).collect();
    let mut page = Environment::new();
    // what hosts report is untrusted: it is escaped for HTML, and has no control characters
    page.set_formatter(|out, state, value| match value.as_str().filter(|_| !value.is_safe()) {
        Some(text) => escape_formatter(out, state, &visible(text).into()),
        None => escape_formatter(out, state, value),
    });
    let (as_of, time) = (format!("{now:.0}"), now.strftime("%Y-%m-%d %H:%M:%S UTC").to_string());
    let values = context! { site, newest, as_of, time, rows, summary => counts(lines, newest), style => STYLE };
    let page = page.render_named_str("page.html", PAGE, values).context(code::FLEET, || "the page can't be written")?;
    Ok(page + "\n")
}

/// The urgency of a host's state; 0 is the most urgent.
fn rank(line: &Line<'_>, now: Timestamp) -> u8 {
    let ending = line.record.as_ref().and_then(first).map(|(_, ending)| ending);
    let due = ending.is_some_and(|ending| ending.renew <= now);
    match line.state {
        HostState::Failed => 0,
        HostState::RolledBack => 1,
        HostState::Forged | HostState::Unread => 2,
        HostState::Silent => 3,
        HostState::Unknown => 4,
        HostState::Unhealthy => 5,
        _ if due => 6,
        HostState::Behind => 7,
        HostState::Healthy => 8,
    }
}

/// The certificate that expires first.
fn first(record: &Record) -> Option<(&str, &Ending)> {
    let certificates = record.certificates.iter();
    certificates.map(|(name, ending)| (name.as_str(), ending)).min_by_key(|(_, ending)| ending.end)
}

/// What the page shows of a host.
fn row(line: &Line<'_>, now: Timestamp) -> Value {
    let Line { host, state, record, why } = line;
    let mut says = record.as_ref().map_or_else(|| vec![why.clone()], |record| record.says(now));
    says.retain(|text| !text.is_empty());
    let record = record.as_ref().map(|record| {
        context! {
            release => record.release,
            program => &record.program,
            artifacts => &record.artifacts,
            count => counted(record.artifacts.len(), "artifact"),
            drift => record.drift.map(|(time, count)| format!("{count} corrected, {}", ago(time))),
            certificate => first(record).map(|(name, ending)| certificate(name, ending, now)),
            time => format!("{:.0}", record.time),
            seen => ago(record.time),
        }
    });
    context! { host => *host, state => state.to_string(), record, says }
}

fn certificate(name: &str, ending: &Ending, now: Timestamp) -> Value {
    let left = ending.end.duration_since(now);
    let days = left.as_hours() / 24;
    let (class, words) = match left {
        _ if left <= SignedDuration::ZERO => ("failed", "expired".to_owned()),
        _ if ending.renew <= now => ("behind", format!("{days} days left, due for renewal")),
        _ => ("none", format!("{days} days left")),
    };
    context! { class, words, name }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(host: &str) -> Record {
        serde_json::from_value(serde_json::json!({
            "version": 1, "site": "s", "host": host, "time": Timestamp::now(), "every": 600, "program": "0.1.0",
            "release": 7, "seen": 7, "generation": 1, "good": true, "bad": null, "exit": 0, "error": null, "held": 0,
        }))
        .unwrap()
    }

    #[test]
    fn what_a_host_reports_is_escaped() {
        let evil = "<script>alert(1)</script>\"'&\u{1b}";
        let mut record = record("h1");
        record.program = evil.to_owned();
        record.error = Some(evil.to_owned());
        record.failing = vec![evil.to_owned()];
        record.artifacts.insert(evil.to_owned(), evil.to_owned());
        record.certificates = vec![(evil.to_owned(), Ending { renew: record.time, end: record.time })];
        let lines = [
            Line { host: "h1", state: HostState::Failed, record: Some(record), why: String::new() },
            Line { host: "h2", state: HostState::Forged, record: None, why: evil.to_owned() },
        ];
        let page = html(evil, &lines, 7, Timestamp::now()).unwrap();
        assert!(!page.contains("<script") && !page.contains("\u{1b}") && !page.contains("\"'"), "{page}");
        // title, heading; version, error, probe, artifact twice, certificate twice; what is forged
        assert_eq!(page.matches("&lt;script&gt;alert(1)&lt;&#x2f;script&gt;&quot;&#x27;&amp;").count(), 10);
    }

    #[test]
    fn nothing_is_green_beside_a_failing_probe_or_an_expired_certificate() {
        let now = Timestamp::now();
        let hour = SignedDuration::from_hours(1);
        let mut failing = record("failing");
        failing.failing = vec!["api".to_owned()];
        let mut expired = record("expired");
        expired.certificates = vec![("etcd".to_owned(), Ending { renew: now - hour, end: now - hour })];
        for (record, says) in [(failing, "the probe api does not pass"), (expired, "the certificate etcd has expired")]
        {
            let lines = [Line { host: "h", state: record.state(7, now), record: Some(record), why: String::new() }];
            let page = html("s", &lines, 7, now).unwrap();
            assert!(page.contains(says) && page.contains("class=\"state unhealthy\">unhealthy<"), "{page}");
            assert!(!page.contains(">healthy<") && page.contains("1 hosts, release 7: 1 unhealthy"), "{page}");
        }
    }

    #[test]
    fn every_state_has_its_colors() {
        let has = |selector: String, property: &str| {
            let mut rules = STYLE.lines().filter_map(|line| line.split_once('{'));
            rules.any(|(names, rule)| names.split(',').any(|name| name.trim() == selector) && rule.contains(property))
        };
        for state in [
            HostState::Healthy,
            HostState::Behind,
            HostState::Unhealthy,
            HostState::RolledBack,
            HostState::Failed,
            HostState::Silent,
            HostState::Forged,
            HostState::Unread,
            HostState::Unknown,
        ] {
            assert!(has(format!(".{state}"), " color:"), "{state}");
            assert!(has(format!(".state.{state}"), " background:"), "{state}");
        }
    }

    #[test]
    fn problems_come_first_and_are_in_words() {
        let now = Timestamp::now();
        let day = SignedDuration::from_hours(24);
        let mut due = record("due");
        due.certificates = vec![("etcd".to_owned(), Ending { renew: now - day, end: now + day * 5 })];
        let mut behind = record("behind");
        behind.release = Some(6);
        let line = |host, state, record| Line { host, state, record, why: String::new() };
        let lines = [
            line("a-healthy", HostState::Healthy, Some(record("a-healthy"))),
            line("behind", HostState::Behind, Some(behind)),
            line("due", HostState::Healthy, Some(due)),
            line("unknown", HostState::Unknown, None),
            line("back", HostState::RolledBack, Some(record("back"))),
            line("failed", HostState::Failed, Some(record("failed"))),
        ];
        let page = html("s", &lines, 7, now).unwrap();
        let order: Vec<&str> = page
            .match_indices("scope=\"row\">")
            .map(|(at, found)| page[at + found.len()..].split('<').next().unwrap())
            .collect();
        assert_eq!(order, ["failed", "back", "unknown", "due", "behind", "a-healthy"]);
        for words in [
            "5 days left, due for renewal",
            "6 <span class=\"note\">of 7</span>",
            ">never<",
            "6 hosts, release 7: 2 healthy",
        ] {
            assert!(page.contains(words), "{words} in\n{page}");
        }
    }
}
