//! The hosts: a thread for each, which waits like the shipped timer and polls like kpull.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::chance::Chance;
use crate::client::{Connection, Server, Wire};
use crate::record::addressed;

/// The result of a run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Status 304.
    Quiet,
    /// The host has received the new release.
    News,
    /// All attempts failed.
    Failed,
}

/// One run.
#[derive(Clone, Copy)]
pub struct Run {
    /// When it ended.
    pub at: Instant,
    /// How long it took.
    pub took: Duration,
    /// The result.
    pub end: End,
}

/// The state that all hosts share.
pub struct Fleet {
    /// The server that they poll.
    pub server: Server,
    /// A recorded poll of kpull without news.
    pub poll: String,
    /// The recorded requests of kpull after a poll with news.
    pub news: Vec<String>,
    /// The factor by which all pauses are shorter.
    pub speed: u64,
    /// Milliseconds between the end of a run and the next.
    pub pause: AtomicU64,
    /// The maximum of the random delay in milliseconds.
    pub splay: AtomicU64,
    /// How often all hosts have booted at once.
    pub boots: AtomicU64,
    /// Whether the simulation has ended.
    pub ended: AtomicBool,
    /// Counters of bytes and failed attempts.
    pub wire: Wire,
    /// The runs of the current phase.
    pub runs: Mutex<Vec<Run>>,
}

impl Fleet {
    fn run(&self, from: Ipv4Addr, etag: &mut String, chance: &mut Chance) -> End {
        let mut connection = Connection::new(&self.server, &self.wire, from);
        let poll = addressed(&self.poll, self.server.at, etag);
        let Some(answer) = connection.ask(&poll, chance, self.speed) else { return End::Failed };
        if answer.status == 304 {
            return End::Quiet;
        }
        for request in &self.news {
            if connection.ask(request, chance, self.speed).is_none_or(|answer| answer.status != 200) {
                return End::Failed;
            }
        }
        *etag = answer.etag;
        End::News
    }

    fn live(&self, host: usize, mut etag: String) {
        let mut chance = Chance::of(host);
        let from = Ipv4Addr::new(127, 1, (host / 250) as u8, (host % 250) as u8 + 1);
        let wait =
            |chance: &mut Chance| (self.pause.load(Relaxed) + chance.up_to(self.splay.load(Relaxed))) / self.speed;
        // at a random time in the first interval
        let first = wait(&mut chance);
        let mut due = Instant::now() + Duration::from_millis(chance.up_to(first));
        let mut boots = 0;
        while !self.ended.load(Relaxed) {
            let booted = self.boots.load(Relaxed);
            if booted > boots {
                boots = booted;
                due = Instant::now() + Duration::from_millis(chance.up_to(self.splay.load(Relaxed)) / self.speed);
            }
            let now = Instant::now();
            if due > now {
                thread::park_timeout(due - now);
                continue;
            }
            let end = self.run(from, &mut etag, &mut chance);
            let at = Instant::now();
            self.runs.lock().expect("a lock").push(Run { at, took: at - due, end });
            due = at + Duration::from_millis(wait(&mut chance));
        }
    }

    /// Starts `count` hosts that have seen `etag`.
    pub fn start(self: &Arc<Self>, count: usize, etag: &str) -> Vec<Thread> {
        let host = |host| {
            let (fleet, etag) = (self.clone(), etag.to_owned());
            let body = move || fleet.live(host, etag);
            thread::Builder::new().stack_size(256 << 10).spawn(body).expect("a thread for each host").thread().clone()
        };
        (0..count).map(host).collect()
    }
}
