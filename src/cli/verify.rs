//! `kpull verify`: probes, failed units and certificates of this host, as a table.

use std::thread::Builder;
use std::time::Instant;

use serde::Serialize;

use crate::cli::prelude::*;
use crate::error::visible;
use crate::kind::certificate::Installed;
use crate::kind::probe::Probe;
use crate::kind::unit::Unit;
use crate::kind::{Item, ResourceId};
use crate::net::Options;
use crate::pki::Certificate;
use crate::sandbox::Web;
use crate::text::shortened;

/// How many characters of a message the table shows.
const MESSAGE: usize = 40;

/// How many characters of an error the table shows.
const ERROR: usize = 200;

/// The blanks between two columns.
const GAP: usize = 3;

/// Arguments of `verify`.
#[derive(Args, Debug)]
pub struct Verify {
    /// Check only these probes and certificates, by their name in the table or by id [default: all]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    host: HostArgs,
}

impl Run for Verify {
    fn run(&self) -> Result<Exit> {
        let start = Instant::now();
        let text = Text::new(false);
        let agent = self.host.agent(&text)?;
        // an error before the checks says nothing about a release
        let kept = agent
            .cached_catalog()
            .map_err(|error| error.exit(Exit::Failed))?
            .ok_or_else(|| error!(PROBE, "this host has no release yet").help("run `kpull apply`"))?;
        let catalog = kept.get();
        let subjects = choose(&catalog.items, &self.names)?;
        let is_live = agent.host.is_live();
        if let Some(probe) = subjects.iter().find(|subject| !self.names.is_empty() && !is_live && subject.is_probe()) {
            return Err(error!(PROBE, "{} can't run", probe.item.id)
                .because(format!("{} is a tree, in which nothing runs", self.host.root.display()))
                .help("omit the names, or run this on the host itself"));
        }
        let required = &agent.config.sandbox.require;
        let open = || {
            let mut host = Host::open(&self.host.root)?;
            host.web = Box::new(Web::new(Options::default(), required));
            Ok(host)
        };
        let mut rows = check(&subjects, &agent.host, &open, Timestamp::now())?;
        if self.names.is_empty() && is_live {
            rows.extend(failed_units(&catalog.items, &agent.host)?);
        }
        let count = |status: Status| rows.iter().filter(|row| row.status == status).count();
        let (expiring, unhealthy) = (count(Status::Expiring), count(Status::Unhealthy));
        let healthy = rows.len() - unhealthy;
        if self.host.json {
            rows.iter().for_each(|row| print_json(row.json()));
            let took = (start.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
            print_json(json!({
                "event": "done", "command": "verify", "host": catalog.host,
                "serial": kept.manifest().serial, "live": is_live,
                "healthy": healthy, "expiring": expiring, "unhealthy": unhealthy, "took": took,
            }));
        } else {
            if !is_live {
                print(&format!("{} is a tree, in which nothing runs: probes are skipped", self.host.root.display()));
            }
            table(&rows, &|code, word| text.paint(code, word)).iter().for_each(|line| print_as_is(line));
            let soon = if expiring == 0 { String::new() } else { format!(" ({expiring} expiring)") };
            print(&format!("{healthy} healthy{soon}, {unhealthy} not"));
        }
        Ok(if unhealthy == 0 { Exit::Done } else { Exit::Unhealthy })
    }
}

/// A probe or a certificate to check.
struct Subject<'a> {
    item: &'a Item,
    /// Its name in the table.
    name: String,
}

impl<'a> Subject<'a> {
    fn of(item: &'a Item) -> Option<Self> {
        let key = &item.about.key;
        let probe = item.as_kind::<Probe>().map(|_| key.clone());
        let name = probe.or_else(|| item.as_kind::<Installed>().map(|_| format!("certificate {key}")))?;
        Some(Self { item, name })
    }

    fn is_probe(&self) -> bool {
        self.item.as_kind::<Probe>().is_some()
    }
}

/// The probes and then the certificates of a catalog, in its order; those of `names` if there are any.
fn choose<'a>(items: &'a [Item], names: &[String]) -> Result<Vec<Subject<'a>>> {
    let (mut all, certificates): (Vec<_>, Vec<_>) = items.iter().filter_map(Subject::of).partition(Subject::is_probe);
    all.extend(certificates);
    let is_called = |subject: &Subject<'_>, name: &String| subject.name == *name || subject.item.id == **name;
    for name in names {
        if !all.iter().any(|subject| is_called(subject, name)) {
            let error = error!(PROBE, "this host has no probe and no certificate `{name}`");
            let known = all.iter().flat_map(|subject| [subject.name.as_str(), subject.item.id.as_str()]);
            return Err(error.help_nearest(name, known, "`kpull verify` without a name shows all"));
        }
    }
    all.retain(|subject| names.is_empty() || names.iter().any(|name| is_called(subject, name)));
    Ok(all)
}

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Status {
    Healthy,
    /// A valid certificate that is due for renewal.
    Expiring,
    Unhealthy,
}

impl Status {
    /// The word and its color.
    fn shown(self) -> (&'static str, &'static str) {
        match self {
            Self::Healthy => ("Healthy", "32"),
            Self::Expiring => ("Expiring", "33"),
            Self::Unhealthy => ("Unhealthy", "31"),
        }
    }
}

/// One line of the table.
#[derive(Debug)]
struct Row {
    id: ResourceId,
    name: String,
    status: Status,
    /// The answer; empty if unhealthy.
    message: String,
    /// The problem; empty if healthy.
    error: String,
    days_left: Option<i64>,
}

impl Row {
    fn json(&self) -> serde_json::Value {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        json!({
            "event": "verified", "id": self.id, "name": self.name, "status": self.status,
            "message": text(&self.message), "error": text(&self.error), "days_left": self.days_left,
        })
    }
}

/// Runs all checks. Each probe has a thread with its own `Host` from `open`, since the caches of a `Host` belong to one thread. In a
/// tree, only certificates are checked.
fn check(
    subjects: &[Subject<'_>],
    host: &Host,
    open: &(dyn Fn() -> Result<Host> + Sync),
    now: Timestamp,
) -> Result<Vec<Row>> {
    std::thread::scope(|scope| {
        let mut asked = Vec::new();
        for subject in subjects {
            let answer = match subject.item.as_kind::<Probe>() {
                Some(_) if !host.is_live() => continue,
                Some(probe) => {
                    let ask = || open().map_err(|error| error.to_string()).and_then(|host| probe.ask(&host));
                    Some(Builder::new().spawn_scoped(scope, ask).context(code::PROBE, || "can't start a thread")?)
                }
                None => None,
            };
            asked.push((subject, answer));
        }
        let rows = asked.into_iter().map(|(subject, answer)| {
            let (status, text, days_left) = match (answer, subject.item.as_kind::<Installed>()) {
                (None, Some(certificate)) => check_certificate(certificate, host, now),
                (answer, _) => {
                    let answer = answer.and_then(|thread| thread.join().ok());
                    match answer.unwrap_or_else(|| Err("the probe ended unexpectedly".to_owned())) {
                        Ok(answer) if answer.is_empty() => (Status::Healthy, "ok".to_owned(), None),
                        Ok(answer) => (Status::Healthy, answer, None),
                        Err(why) => (Status::Unhealthy, why, None),
                    }
                }
            };
            let (message, error) = match status {
                Status::Unhealthy => (String::new(), text),
                _ => (text, String::new()),
            };
            let (id, name) = (subject.item.id.clone(), subject.name.clone());
            Row { id, name, status, message, error, days_left }
        });
        Ok(rows.collect())
    })
}

/// Failed units, whether or not a probe checks them.
fn failed_units(items: &[Item], host: &Host) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for item in items {
        let Some(unit) = item.as_kind::<Unit>() else { continue };
        let Some(error) = unit.failure(host)? else { continue };
        let (id, name, message) = (item.id.clone(), unit.name.clone(), String::new());
        rows.push(Row { id, name, status: Status::Unhealthy, message, error, days_left: None });
    }
    Ok(rows)
}

/// The status of a certificate on the host, as a text too, and the days until it expires.
fn check_certificate(wanted: &Installed, host: &Host, now: Timestamp) -> (Status, String, Option<i64>) {
    let path = &wanted.cert;
    let read = match host.root.read(path) {
        Ok(Some((_, bytes))) => Certificate::one(&path.to_string(), &bytes),
        Ok(None) => return (Status::Unhealthy, format!("there is no {path}"), None),
        Err(error) => Err(error),
    };
    let certificate = match read {
        Ok(certificate) => certificate,
        Err(error) => return (Status::Unhealthy, error.to_string(), None),
    };
    let left = certificate.not_after.duration_since(now);
    let days = left.as_hours() / 24;
    let day = |time: Timestamp| time.strftime("%Y-%m-%d").to_string();
    let until = day(certificate.not_after);
    if left <= SignedDuration::ZERO {
        return (Status::Unhealthy, format!("{path} expired on {until}"), Some(days));
    }
    if certificate.not_before > now {
        let from = day(certificate.not_before);
        return (Status::Unhealthy, format!("{path} is not valid before {from}"), Some(days));
    }
    let status = if left <= wanted.renew_before { Status::Expiring } else { Status::Healthy };
    (status, format!("{days} days left ({until})"), Some(days))
}

/// The lines of the table, none without rows. `paint` colors a word.
fn table(rows: &[Row], paint: &dyn Fn(&str, &str) -> String) -> Vec<String> {
    if rows.is_empty() {
        return Vec::new();
    }
    let cells: Vec<_> = rows
        .iter()
        .map(|row| (cell(&row.name, usize::MAX), row.status, cell(&row.message, MESSAGE), cell(&row.error, ERROR)))
        .collect();
    let width = |header: &str, lengths: &mut dyn Iterator<Item = usize>| lengths.fold(header.len(), usize::max) + GAP;
    let name = width("NAME", &mut cells.iter().map(|cell| cell.0.chars().count()));
    let status = width("STATUS", &mut cells.iter().map(|cell| cell.1.shown().0.len()));
    let message = width("MESSAGE", &mut cells.iter().map(|cell| cell.2.chars().count()));
    let mut lines = vec![format!("{:name$}{:status$}{:message$}ERROR", "NAME", "STATUS", "MESSAGE")];
    for (label, result, answer, error) in &cells {
        let (word, color) = result.shown();
        let rest = format!("{:1$}{answer:message$}{error}", "", status - word.len());
        lines.push(format!("{label:name$}{}{}", paint(color, word), rest.trim_end()));
    }
    lines
}

/// A text on one line, truncated, without control characters.
fn cell(text: &str, longest: usize) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    shortened(&visible(&lines.join("; ").replace('\t', " ")), longest)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::net::testing::{Answer, Received, Server};
    use crate::resolve::testing::catalog;

    /// The table of a role on this machine, without colours.
    fn verify(role: &str, names: &[&str]) -> Vec<String> {
        let catalog = catalog(role).unwrap();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let subjects = choose(&catalog.items, &names).unwrap();
        let open = || Host::open(Path::new("/"));
        let rows = check(&subjects, &open().unwrap(), &open, Timestamp::now()).unwrap();
        table(&rows, &|_, word| word.to_owned())
    }

    #[test]
    fn every_probe_runs_and_is_reported_in_the_order_of_the_catalog() {
        let server = Server::plain(|request: &Received| match request.path.as_str() {
            "/health" => Answer::new(200, "{\"health\": \"true\"}\nmore"),
            _ => Answer::new(500, ""),
        });
        let url = server.url("");
        let url = url.trim_end_matches('/');
        let role = format!(
            r#"
            [[probe]]
            name = "scheduler"
            command = ["true"]
            decides = false
            [[probe]]
            name = "etcd-0"
            http = "{url}/health"
            [[probe]]
            name = "controller-manager"
            http = "{url}/healthz"
            "#
        );
        assert_eq!(
            verify(&role, &[]),
            [
                "NAME                 STATUS      MESSAGE              ERROR".to_owned(),
                "scheduler            Healthy     ok".to_owned(),
                "etcd-0               Healthy     {\"health\": \"true\"}".to_owned(),
                format!(
                    "controller-manager   Unhealthy                        {url}/healthz answered 500 instead of 200 to 399"
                ),
            ]
        );
        assert_eq!(verify(&role, &["probe:scheduler"])[1..], ["scheduler   Healthy   ok"]);
    }

    #[test]
    fn a_name_that_no_probe_has_is_an_error_with_the_one_that_was_meant() {
        let catalog = catalog("[[probe]]\nname = 'etcd-0'\ncommand = ['true']").unwrap();
        let why = |name: &str| choose(&catalog.items, &[name.to_owned()]).err().unwrap();
        assert_eq!(why("etcd-1").to_string(), "this host has no probe and no certificate `etcd-1`");
        assert_eq!(why("etcd-1").advice(), Some("did you mean `etcd-0`?"));
        assert_eq!(why("probe:etcd-1").advice(), Some("did you mean `probe:etcd-0`?"));
    }

    #[test]
    fn long_and_many_lines_are_cut_to_one_and_control_characters_are_seen() {
        let row = |message: &str, error: &str| Row {
            id: ResourceId::new("probe", "x"),
            name: "\u{1b}[2J".to_owned(),
            status: Status::Healthy,
            message: message.to_owned(),
            error: error.to_owned(),
            days_left: None,
        };
        let rows = [row(&"é".repeat(41), ""), row("", "sh failed: exit status: 1\n\n  no\troom\n")];
        let lines = table(&rows, &|code, word| format!("<{code}{word}>"));
        assert_eq!(lines[1], format!("\\u{{1b}}[2J   <32Healthy>   {}…", "é".repeat(40)));
        assert_eq!(lines[2], format!("\\u{{1b}}[2J   <32Healthy>   {:44}sh failed: exit status: 1; no room", ""));
        assert!(table(&[], &|_, word| word.to_owned()).is_empty());
    }
}
