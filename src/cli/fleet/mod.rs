//! `kpull fleet`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use crate::cli::status::ago;
use crate::cli::{DeskArgs, Run, TlsArgs, print, print_json};
use crate::error::{Error, Exit, Result};
use crate::fleet::{Place, Record, State, cluster, verify};
use crate::host::etcd;
use crate::net;
use crate::report::VERSION;
use crate::site::{Files, Site, read_if_there};
use crate::trust::{MANIFEST, Manifest};

/// Arguments of `fleet`.
#[derive(Args, Debug)]
pub struct Fleet {
    /// Where the hosts' records are: a directory, or the address of a web server that hands it out
    #[arg(required_unless_present = "etcd", value_name = "DIR|URL")]
    from: Option<String>,
    /// Read the records from etcd, at this client address; once for each member
    #[arg(long, value_name = "URL", conflicts_with = "from", requires = "ca")]
    etcd: Vec<String>,
    #[command(flatten)]
    tls: TlsArgs,
    #[command(flatten)]
    desk: DeskArgs,
}

/// A host, what it is like, what it said, and what is wrong with that.
struct Line<'a> {
    host: &'a str,
    state: State,
    record: Option<Record>,
    why: String,
}

impl Fleet {
    fn place(&self) -> Result<Place> {
        let TlsArgs { ca, client_cert, client_key } = &self.tls;
        if let Some(cluster) = cluster(&self.etcd, ca.as_deref(), client_cert.as_deref(), client_key.as_deref())? {
            let loaded = cluster.load()?;
            return Ok(Place::Etcd(Box::new(etcd::Client::new(&cluster, loaded)?)));
        }
        let from = self.from.clone().unwrap_or_default();
        if from.starts_with("http://") || from.starts_with("https://") {
            let client = net::Client::new(&self.tls.options())?;
            return Ok(Place::Web(Box::new(client), from.trim_end_matches('/').to_owned()));
        }
        let dir = PathBuf::from(from);
        if !dir.is_dir() {
            return Err(Error::new(format!("there is no directory {}", dir.display()))
                .help("name the `dir` under [status] in the hosts' kpull.toml, or an address of it"));
        }
        Ok(Place::Dir(dir))
    }
}

impl Run for Fleet {
    fn run(&self) -> Result<Exit> {
        let place = self.place()?;
        let site = Site::load(Files::in_directory(&self.desk.site)?)?;
        let published = read_if_there(&self.desk.site.join(MANIFEST))?;
        let published = published.map(|bytes| Manifest::parse(&bytes)).transpose()?.map(|manifest| manifest.serial);
        let mut lines = Vec::new();
        for (host, vars) in &site.hosts {
            let found = place.read(host)?.map(|bytes| verify(&bytes, &site.name, host, &vars.recipients));
            let (record, why) = match found {
                None => (None, String::new()),
                Some(Ok(record)) => (Some(record), String::new()),
                Some(Err(why)) => (None, why),
            };
            lines.push(Line { host, state: State::Unknown, record, why });
        }
        let seen = lines.iter().filter_map(|line| line.record.as_ref()?.seen);
        let newest = seen.chain(published).max().unwrap_or(0);
        let now = Timestamp::now();
        for line in &mut lines {
            line.state = match &line.record {
                Some(record) => record.state(newest, now),
                None if line.why.is_empty() => State::Unknown,
                None => State::Forged,
            };
        }
        if self.desk.json {
            for Line { host, state, record, why } in &lines {
                let why = Some(why).filter(|why| !why.is_empty());
                print_json(&json!({ "version": VERSION, "host": host, "state": state, "record": record, "why": why }));
            }
        } else {
            table(&lines, newest);
        }
        // one that only has not had its turn yet is well too
        Ok(if lines.iter().all(|line| line.state <= State::Behind) { Exit::Done } else { Exit::Unhealthy })
    }

    fn json(&self) -> bool {
        self.desk.json
    }
}

fn table(lines: &[Line<'_>], newest: u64) {
    let wide = lines.iter().map(|line| line.host.len()).max().unwrap_or(0).max(4);
    print(&format!("{:<wide$}  RELEASE  STATE    HEARD", "HOST"));
    let mut counts: BTreeMap<State, usize> = BTreeMap::new();
    for Line { host, state, record, why } in lines {
        *counts.entry(*state).or_default() += 1;
        let release =
            record.as_ref().and_then(|record| record.release).map_or("-".to_owned(), |serial| serial.to_string());
        let heard = record.as_ref().map_or("never".to_owned(), |record| ago(record.time));
        let says = record.as_ref().map_or_else(|| why.clone(), Record::says);
        let line = format!("{host:<wide$}  {release:>7}  {:<7}  {heard:<12}  {says}", state.word());
        print(line.trim_end());
    }
    let counts: Vec<String> = counts.iter().map(|(state, count)| format!("{count} {}", state.word())).collect();
    print(&format!("{} hosts, release {newest}: {}", lines.len(), counts.join(", ")));
}
