//! The fleet as one HTML page: no scripts, no external resources, problems first.

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};

use super::{Line, counts};
use crate::cli::status::ago;
use crate::error::{counted, visible};
use crate::status::vitals::Ending;
use crate::status::{HostState, Record};

const STYLE: &str = include_str!("page.css");

/// The columns, after that with the host.
const COLUMNS: [&str; 6] = ["State", "Release", "kpull", "Drift", "Certificates", "Last seen"];

/// The page of a site.
pub fn html(site: &str, lines: &[Line<'_>], newest: u64, now: Timestamp) -> String {
    let mut rows: Vec<&Line<'_>> = lines.iter().collect();
    rows.sort_by_key(|line| (rank(line, now), line.host));
    let site = safe(site);
    let head: String =
        COLUMNS.iter().map(|name| format!("<th role=\"columnheader\" scope=\"col\">{name}</th>")).collect();
    let body: String = rows.iter().map(|line| row(line, newest, now)).collect();
    let time = now.strftime("%Y-%m-%d %H:%M:%S UTC");
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{site}: {summary}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>{site}</h1>\n<p class=\"summary\">{summary}</p>\n\
         <table role=\"table\">\n<caption>As of <time datetime=\"{now:.0}\">{time}</time>, problems first</caption>\n\
         <thead role=\"rowgroup\"><tr role=\"row\"><th role=\"columnheader\" scope=\"col\">Host</th>{head}</tr></thead>\n\
         <tbody role=\"rowgroup\">\n{body}</tbody>\n</table>\n</main>\n</body>\n</html>\n",
        summary = safe(&counts(lines, newest)),
    )
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

fn row(line: &Line<'_>, newest: u64, now: Timestamp) -> String {
    let Line { host, state, record, why } = line;
    let word = state.to_string();
    let none = || "<span class=\"none\">–</span>".to_owned();
    let [release, program, drift, certificates, seen] = match record {
        None => [none(), none(), none(), none(), "never".to_owned()],
        Some(record) => [
            release(record, newest),
            program(record),
            record.drift.map_or_else(none, |(time, count)| format!("{count} corrected, {}", ago(time))),
            first(record).map_or_else(none, |(name, ending)| certificate(name, ending, now)),
            format!("<time datetime=\"{:.0}\">{}</time>", record.time, ago(record.time)),
        ],
    };
    let state = format!("<span class=\"state {word}\">{word}</span>");
    let cells = COLUMNS.iter().zip([state, release, program, drift, certificates, seen]);
    let mut text = format!("<tr role=\"row\"><th role=\"rowheader\" scope=\"row\">{}</th>", safe(host));
    for (name, cell) in cells {
        let _ = write!(text, "<td role=\"cell\" data-label=\"{name}\"><div>{cell}</div></td>");
    }
    text.push_str("</tr>\n");
    let mut says = record.as_ref().map_or_else(|| vec![why.clone()], |record| record.says(now));
    says.retain(|text| !text.is_empty());
    if !says.is_empty() {
        let says: Vec<String> = says.iter().map(|text| safe(text)).collect();
        let span = COLUMNS.len() + 1;
        let _ = writeln!(
            text,
            "<tr role=\"row\" class=\"says\"><td role=\"cell\" colspan=\"{span}\">{}</td></tr>",
            says.join("<br>")
        );
    }
    text
}

fn release(record: &Record, newest: u64) -> String {
    match record.release {
        Some(serial) if serial < newest => format!("{serial} <span class=\"note\">of {newest}</span>"),
        Some(serial) => serial.to_string(),
        None => "none yet".to_owned(),
    }
}

/// The version of kpull, and those of artifacts to unfold.
fn program(record: &Record) -> String {
    let program = safe(&record.program);
    if record.artifacts.is_empty() {
        return program;
    }
    let versions = record.artifacts.iter();
    let items: String = versions.map(|(name, version)| format!("<li>{} {}</li>", safe(name), safe(version))).collect();
    let count = counted(record.artifacts.len(), "artifact");
    format!("{program}<details><summary>{count}</summary><ul>{items}</ul></details>")
}

fn certificate(name: &str, ending: &Ending, now: Timestamp) -> String {
    let left = ending.end.duration_since(now);
    let days = left.as_hours() / 24;
    let (class, words) = match left {
        _ if left <= SignedDuration::ZERO => ("failed", "expired".to_owned()),
        _ if ending.renew <= now => ("behind", format!("{days} days left, due for renewal")),
        _ => ("none", format!("{days} days left")),
    };
    format!("<span class=\"{class}\">{words}</span> <span class=\"note\">{}</span>", safe(name))
}

/// Untrusted text, escaped for HTML.
fn safe(text: &str) -> String {
    const ESCAPES: [(char, &str); 5] = [('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('"', "&quot;"), ('\'', "&#39;")];
    ESCAPES.iter().fold(visible(text), |text, (char, escape)| text.replace(*char, escape))
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
        let page = html(evil, &lines, 7, Timestamp::now());
        assert!(!page.contains("<script") && !page.contains("\u{1b}") && !page.contains("\"'"), "{page}");
        // title, heading; version, error, probe, artifact twice, certificate twice; what is forged
        assert_eq!(page.matches("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&amp;").count(), 10);
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
            let page = html("s", &lines, 7, now);
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
        let page = html("s", &lines, 7, now);
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
