//! `kpull fleet`: the status of all hosts, as a table or a page.

mod page;

use std::io::IsTerminal as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::cli::prelude::*;
use crate::cli::status::ago;
use crate::config::{READING, cluster};
use crate::document::layout::MANIFEST;
use crate::document::read_if_there;
use crate::error::quoted;
use crate::host::etcd;
use crate::host::root::Root;
use crate::read;
use crate::status::{HostState, Record, RecordSource, Reported};
use crate::trust::Manifest;

/// Arguments of `fleet`.
#[derive(Args, Debug)]
pub struct Fleet {
    /// The place of the hosts' records: a directory, or its address on a web server
    #[arg(required_unless_present = "etcd", value_name = "DIR|URL")]
    from: Option<String>,
    /// Read the records from etcd at this client address; repeat for each member
    #[arg(long, value_name = "URL", conflicts_with = "from", requires = "ca")]
    etcd: Vec<String>,
    /// Write an HTML page to this file instead of printing a table
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Repeat at this interval in seconds until interrupted [default: 5]
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "5", conflicts_with = "json", value_parser = clap::value_parser!(u64).range(1..))]
    watch: Option<u64>,
    /// The total time in seconds for reading all records; later ones count as unread
    #[arg(long, value_name = "SECONDS", default_value_t = READING.as_secs(), value_parser = clap::value_parser!(u64).range(1..=86400))]
    within: u64,
    #[command(flatten)]
    tls: TlsArgs,
    #[command(flatten)]
    options: SiteArgs,
}

/// A host, its state and record, and the problem with the record.
struct Line<'a> {
    host: &'a str,
    state: HostState,
    record: Option<Record>,
    why: String,
}

impl Fleet {
    fn place(&self) -> Result<RecordSource> {
        let TlsArgs { ca, client_cert, client_key } = &self.tls;
        if let Some(cluster) = cluster(&self.etcd, ca.as_deref(), client_cert.as_deref(), client_key.as_deref())? {
            let loaded = cluster.load()?;
            return Ok(RecordSource::Etcd(Rc::new(etcd::Client::new(&cluster, loaded)?)));
        }
        let from = self.from.clone().unwrap_or_default();
        if from.starts_with("http://") || from.starts_with("https://") {
            return Ok(RecordSource::on_web(&from, &self.tls.options(), &[]));
        }
        let dir = PathBuf::from(from);
        if !read::is_directory(&dir) {
            return Err(error!(FLEET, "there is no directory {}", dir.display())
                .help("pass the `dir` under [status] in the hosts' kpull.toml, or its address"));
        }
        Ok(RecordSource::Dir(dir))
    }
}

impl Run for Fleet {
    fn run(&self) -> Result<Exit> {
        let place = self.place()?;
        let site = Site::load(Files::in_directory(&self.options.site)?)?;
        let Some(pause) = self.watch else { return self.show(&place, &site) };
        loop {
            if std::io::stdout().is_terminal() {
                print_as_is("\x1b[H\x1b[2J");
            }
            // the next attempt may succeed
            if let Err(error) = self.show(&place, &site) {
                print(&quoted(&error.to_string()));
            }
            std::thread::sleep(Duration::from_secs(pause));
        }
    }
}

impl Fleet {
    /// Reads every record once and shows them.
    fn show(&self, place: &RecordSource, site: &Site) -> Result<Exit> {
        let published = read_if_there(&self.options.site, MANIFEST)?;
        let published = published.map(|bytes| Manifest::parse(&bytes)).transpose()?.map(|manifest| manifest.serial);
        let until = Instant::now() + Duration::from_secs(self.within);
        let (mut lines, mut failures) = (Vec::new(), Vec::new());
        for (host, vars) in &site.hosts {
            let (state, record, why) = match place.record(&site.name, host, &vars.recipients, until) {
                Ok(Reported::Absent) => (HostState::Unknown, None, String::new()),
                Ok(Reported::Here(record)) => (HostState::Unknown, Some(record), String::new()),
                Ok(Reported::Refused(why)) => (HostState::Forged, None, why),
                Err(error) => {
                    let why = error.to_string();
                    failures.push(error);
                    (HostState::Unread, None, why)
                }
            };
            lines.push(Line { host, state, record, why });
        }
        // if no record can be read, one error is enough
        if failures.len() == lines.len()
            && let Some(error) = failures.into_iter().next()
        {
            return Err(error);
        }
        let now = Timestamp::now();
        let sets = KeySet::all(&site.files).collect::<Result<Vec<_>>>()?;
        let newest = newest(&lines, published, &sets, now);
        for line in &mut lines {
            if let Some(record) = &line.record {
                line.state = record.state(newest, now);
            }
        }
        if let Some(file) = &self.html {
            // a web server may own the directory
            let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let page = page::html(&site.name, &lines, newest, now)?;
            Root::write_output(dir, &name, page.as_bytes())?;
        }
        match (self.options.json, &self.html) {
            (true, _) => lines.iter().for_each(|Line { host, state, record, why }| {
                let why = Some(why).filter(|why| !why.is_empty());
                print_json(json!({ "host": host, "state": state, "record": record, "why": why }));
            }),
            (false, None) => table(&lines, newest, now),
            (false, Some(_)) => print(&counts(&lines, newest)),
        }
        if let Some(waves) = waves(site, &lines, newest).filter(|_| !self.options.json) {
            print(&waves);
        }
        // a host that waits for its turn in the rollout is healthy too
        Ok(if lines.iter().all(|line| line.state <= HostState::Behind) { Exit::Done } else { Exit::Unhealthy })
    }
}

/// The newest release: the one in the site's directory, or a newer one that two hosts (or the only reporting one) have seen. A single
/// host, a silent host, or a serial that a key set of the site has revoked must not make all other hosts look behind.
fn newest(lines: &[Line<'_>], published: Option<u64>, sets: &[KeySet], now: Timestamp) -> u64 {
    let counts = |serial: u64, keys: u64| {
        !sets.iter().any(|set| set.number > keys && set.last_serial.is_some_and(|last| serial > last))
    };
    let records = lines.iter().filter_map(|line| line.record.as_ref()).filter(|record| !record.is_silent(now));
    let mut seen: Vec<u64> =
        records.filter_map(|record| record.seen.filter(|seen| counts(*seen, record.keys_of_seen()))).collect();
    seen.sort_unstable_by(|one, other| other.cmp(one));
    seen.truncate(2);
    seen.last().copied().max(published).unwrap_or(0)
}

/// How many hosts are in which state.
fn counts(lines: &[Line<'_>], newest: u64) -> String {
    let mut counts: BTreeMap<HostState, usize> = BTreeMap::new();
    lines.iter().for_each(|line| *counts.entry(line.state).or_default() += 1);
    let counts: Vec<String> = counts.iter().map(|(state, count)| format!("{count} {state}")).collect();
    format!("{} hosts, release {newest}: {}", lines.len(), counts.join(", "))
}

/// How many hosts of each wave have the newest release; `None` without waves.
fn waves(site: &Site, lines: &[Line<'_>], newest: u64) -> Option<String> {
    let waves = site.rollout.as_ref()?.waves(&site.hosts);
    let has_newest = |host: &&&str| {
        let line = lines.iter().find(|line| line.host == **host);
        line.and_then(|line| line.record.as_ref()?.release).is_some_and(|release| release >= newest)
    };
    let lines = waves.iter().enumerate().map(|(at, wave)| {
        format!("wave {}: {} of {}", at + 1, wave.hosts.iter().filter(has_newest).count(), wave.hosts.len())
    });
    (waves.len() > 1).then(|| lines.collect::<Vec<_>>().join(", "))
}

fn table(lines: &[Line<'_>], newest: u64, now: Timestamp) {
    let wide = lines.iter().map(|line| line.host.len()).max().unwrap_or(0).max(4);
    print(&format!("{:<wide$}  RELEASE  STATE        LAST SEEN", "HOST"));
    for Line { host, state, record, why } in lines {
        let release =
            record.as_ref().and_then(|record| record.release).map_or("-".to_owned(), |serial| serial.to_string());
        let seen = record.as_ref().map_or("never".to_owned(), |record| ago(record.time));
        let says = record.as_ref().map_or_else(|| vec![why.clone()], |record| record.says(now));
        let says = says.join("; ").replace('\n', "; ");
        let line = format!("{host:<wide$}  {release:>7}  {state:<11}  {seen:<12}  {says}");
        print(line.trim_end());
    }
    print(&counts(lines, newest));
}
