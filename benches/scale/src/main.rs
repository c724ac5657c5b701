//! Simulates thousands of hosts that use one real nginx on the loopback interface, with recorded requests of kpull.
//!
//!   kpull-scale DIR KPULL HOSTS SPEED [http|https|http-limit|https-limit]…
//!
//! `benches/scale/run` creates DIR. The simulation takes about ten minutes, divided by SPEED.
#![allow(clippy::disallowed_types, reason = "tests start programs as anybody does")]

mod chance;
mod client;
mod fleet;
mod nginx;
mod record;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use client::{Server, Wire};
use fleet::{End, Fleet, Run};
use nginx::Nginx;
use record::{Forwarder, Traffic, addressed, path};

/// The shipped timer: `OnUnitInactiveSec` and `RandomizedDelaySec`, in milliseconds.
const PAUSE: u64 = 60_000;
const SPLAY: u64 = 15_000;

/// The requests of kpull: a poll without news, and the requests after a poll with news.
struct Recorded {
    quiet: String,
    news: Vec<String>,
}

/// Runs kpull for one host in a tree, through `forwarder`, and returns the traffic.
fn kpull(dir: &Path, program: &str, scheme: &str, forwarder: &Forwarder) -> Traffic {
    let etc = dir.join(scheme).join("etc/kpull");
    fs::create_dir_all(&etc).expect("a tree");
    fs::copy(dir.join("allowed_signers"), etc.join("allowed_signers")).expect("signers");
    let ca = if scheme == "https" { format!("ca = \"{}\"\n", dir.join("ca.pem").display()) } else { String::new() };
    let source = format!("[[source]]\nhttp = \"{scheme}://{}/\"\n{ca}", forwarder.at);
    let config =
        format!("host = \"h00001\"\n[trust]\nsite = \"bench\"\nallowed_signers = \"allowed_signers\"\n{source}");
    fs::write(etc.join("kpull.toml"), config).expect("kpull.toml");
    let began = Instant::now();
    let output = Command::new(program).args(["apply", "--root"]).arg(dir.join(scheme)).output().expect("kpull");
    assert!(output.status.success(), "kpull: {}", String::from_utf8_lossy(&output.stderr));
    // the forwarder counts the last bytes
    thread::sleep(Duration::from_millis(200));
    let traffic = forwarder.take();
    println!(
        "kpull over {scheme}: {} connections, {} bytes sent, {} received, {:.1} s",
        traffic.connections,
        traffic.sent.len(),
        traffic.got,
        began.elapsed().as_secs_f64()
    );
    traffic
}

/// Makes `serial` the newest release.
fn publish(dir: &Path, serial: u64) {
    let www = dir.join("www");
    fs::copy(www.join(format!("releases/{serial}.toml")), www.join("next")).expect("a pointer");
    fs::rename(www.join("next"), www.join("current.toml")).expect("a pointer");
}

fn record(dir: &Path, program: &str, nginx: &Nginx) -> Recorded {
    publish(dir, 1);
    let (plain, tls) = (Forwarder::start(nginx.plain), Forwarder::start(nginx.tls));
    let new = kpull(dir, program, "http", &plain).heads();
    println!("a new host sends {} requests", new.len());
    let quiet = kpull(dir, program, "http", &plain);
    let [quiet] = &quiet.heads()[..] else { panic!("a poll without news must be one request: {quiet:?}") };
    kpull(dir, program, "https", &tls);
    kpull(dir, program, "https", &tls);
    println!("a poll of kpull without news ({} bytes):\n{quiet}", quiet.len());
    publish(dir, 2);
    let news = kpull(dir, program, "http", &plain).heads();
    println!("a host that gets the new release sends {} requests", news.len());
    assert_eq!(path(&news[0]), path(quiet));
    publish(dir, 1);
    Recorded { quiet: quiet.clone(), news: news[1..].to_vec() }
}

fn tls(dir: &Path) -> Arc<ClientConfig> {
    let ca = CertificateDer::from_pem_file(dir.join("ca.pem")).expect("ca.pem");
    let mut roots = RootCertStore::empty();
    roots.add(ca).expect("an authority");
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    // each run of kpull is a new process without a stored session
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// The counters at the start of a phase.
struct Mark {
    at: Instant,
    seconds: Option<f64>,
    sent: u64,
    got: u64,
    failed: u64,
}

struct Simulation<'a> {
    nginx: &'a mut Nginx,
    fleet: Arc<Fleet>,
    hosts: Vec<Thread>,
}

fn share(of: &mut [f64], at: f64) -> f64 {
    of.sort_by(f64::total_cmp);
    of.get(((of.len() as f64 - 1.0) * at).round().max(0.0) as usize).copied().unwrap_or(0.0)
}

impl Simulation<'_> {
    fn mark(&self, is_up: bool) -> Mark {
        self.fleet.runs.lock().expect("a lock").clear();
        let Wire { sent, got, failed } = &self.fleet.wire;
        let seconds = is_up.then(|| self.nginx.seconds());
        Mark {
            at: Instant::now(),
            seconds,
            sent: sent.load(Relaxed),
            got: got.load(Relaxed),
            failed: failed.load(Relaxed),
        }
    }

    fn sleep(&self, seconds: u64) {
        thread::sleep(Duration::from_millis(seconds * 1000 / self.fleet.speed));
    }

    /// Prints the results since `mark`.
    fn print(&self, what: &str, mark: &Mark) {
        let elapsed = mark.at.elapsed().as_secs_f64();
        let runs: Vec<Run> = std::mem::take(&mut *self.fleet.runs.lock().expect("a lock"));
        let count = |end| runs.iter().filter(|run| run.end == end).count();
        let (quiet, news, failed) = (count(End::Quiet), count(End::News), count(End::Failed));
        let answered = || runs.iter().filter(|run| run.end != End::Failed);
        let mut busiest = vec![0_u64; elapsed as usize + 2];
        answered().for_each(|run| {
            let second = run.at.saturating_duration_since(mark.at).as_secs() as usize;
            if let Some(busiest) = busiest.get_mut(second) {
                *busiest += 1;
            }
        });
        let mut took: Vec<f64> = answered().map(|run| run.took.as_secs_f64() * 1e3).collect();
        let Wire { sent, got, failed: attempts } = &self.fleet.wire;
        let good = (quiet + news).max(1) as f64;
        println!(
            "{what}: {elapsed:.0} s, {quiet} quiet, {news} news, {failed} failed ({} attempts failed); {:.0}/s, busiest second {}; \
             p50 {:.2} ms, p99 {:.1} ms, longest {:.0} ms; {:.0} bytes sent, {:.0} received for each",
            attempts.load(Relaxed) - mark.failed,
            good / elapsed,
            busiest.iter().max().unwrap_or(&0),
            share(&mut took, 0.5),
            share(&mut took, 0.99),
            share(&mut took, 1.0),
            (sent.load(Relaxed) - mark.sent) as f64 / good,
            (got.load(Relaxed) - mark.got) as f64 / good,
        );
        if let Some(before) = mark.seconds {
            let spent = self.nginx.seconds() - before;
            println!(
                "    nginx: {spent:.2} s of one core ({:.1} %), {:.3} s for 1,000",
                spent / elapsed * 100.0,
                spent * 1e3 / good
            );
        }
        if news > 0 {
            let last = runs.iter().filter(|run| run.end == End::News).map(|run| run.at - mark.at).max();
            println!("    the last of {news} has the release after {:.1} s", last.unwrap_or_default().as_secs_f64());
        }
    }

    fn phase(&self, what: &str, seconds: u64) {
        let mark = self.mark(true);
        self.sleep(seconds);
        self.print(what, &mark);
    }

    fn all(&mut self, dir: &Path) {
        self.sleep(5);
        self.phase("steady", 68);

        self.nginx.stop();
        let mark = self.mark(false);
        self.sleep(80);
        self.print("stopped: connections refused", &mark);
        self.nginx.again();
        self.phase("started again: the first 5 s", 5);
        self.phase("started again: the minute after", 70);

        let mark = self.mark(true);
        self.nginx.hold();
        self.sleep(45);
        self.print("suspended: no answers", &mark);
        let mark = self.mark(true);
        self.nginx.release();
        self.sleep(5);
        self.print("resumed: the first 5 s", &mark);
        self.phase("resumed: the minute after", 75);

        let mark = self.mark(true);
        publish(dir, 2);
        self.sleep(85);
        self.print("a release for all hosts", &mark);

        let mark = self.mark(true);
        self.fleet.boots.fetch_add(1, Relaxed);
        self.hosts.iter().for_each(Thread::unpark);
        self.sleep(15);
        self.print("all hosts boot at once: the first 15 s", &mark);
        self.phase("all hosts boot at once: the minute after", 65);
    }

    /// Increases the rate of polls until nginx saturates its core.
    fn limit(&self) {
        self.fleet.splay.store(0, Relaxed);
        for rate in [500, 1000, 2000, 3000, 4000, 6000, 8000, 12000] {
            self.fleet.pause.store(self.hosts.len() as u64 * 1000 * self.fleet.speed / rate, Relaxed);
            // at a random time in the first interval again
            self.fleet.splay.store(self.fleet.pause.load(Relaxed), Relaxed);
            self.fleet.boots.fetch_add(1, Relaxed);
            self.hosts.iter().for_each(Thread::unpark);
            self.fleet.splay.store(0, Relaxed);
            thread::sleep(Duration::from_secs(2));
            let mark = self.mark(true);
            thread::sleep(Duration::from_secs(6));
            self.print(&format!("{rate}/s, the rate of {} hosts", rate as u64 * (PAUSE + SPLAY / 2) / 1000), &mark);
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, program, count, speed, schemes @ ..] = &arguments[..] else { panic!("see benches/scale/run") };
    let (dir, count, speed) = (Path::new(dir), count.parse().expect("HOSTS"), speed.parse().expect("SPEED"));
    rustls::crypto::ring::default_provider().install_default().expect("the only one");
    let mut nginx = Nginx::start(dir);
    let recorded = record(dir, program, &nginx);
    for way in schemes {
        let scheme = way.trim_end_matches("-limit");
        println!("\n{count} hosts over {scheme}");
        publish(dir, 1);
        let server = match scheme {
            "https" => Server { at: nginx.tls, tls: Some(tls(dir)) },
            _ => Server { at: nginx.plain, tls: None },
        };
        let etag = {
            let wire = Wire::default();
            let mut first = client::Connection::new(&server, &wire, std::net::Ipv4Addr::LOCALHOST);
            let request = addressed(&recorded.quiet, server.at, "\"none\"");
            first.ask(&request, &mut chance::Chance::of(count), 1).expect("nginx answers").etag
        };
        let news = recorded.news.iter().map(|head| addressed(head, server.at, "")).collect();
        let fleet = Arc::new(Fleet {
            server,
            poll: recorded.quiet.clone(),
            news,
            speed,
            pause: PAUSE.into(),
            splay: SPLAY.into(),
            boots: 0.into(),
            ended: false.into(),
            wire: Wire::default(),
            runs: Mutex::default(),
        });
        let hosts = fleet.start(count, &etag);
        let mut simulation = Simulation { nginx: &mut nginx, fleet: fleet.clone(), hosts };
        if way == scheme {
            simulation.all(dir);
        }
        simulation.limit();
        fleet.ended.store(true, Relaxed);
        simulation.hosts.iter().for_each(Thread::unpark);
    }
}
