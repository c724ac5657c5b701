//! One host and hundreds of runs, one after the other: releases, drift, nothing at all, runs that are killed, clocks that are wrong,
//! in an order that a seed decides. The host is always what a new one would be, and what kpull keeps and takes does not grow.
//!
//! `KPULL_SOAK` says how many runs, `KPULL_SEED` repeats those of a seed that was printed.

mod release;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::soak::release::Release;
use crate::support::site::{Site, Tree, command};
use crate::support::traced::{DAY, Traced, YEAR, traced};

/// The default number of runs.
const RUNS: usize = 200;
/// What `[keep]` says.
const GENERATIONS: usize = 3;
/// Edits that are kept at most, as the documentation says.
const EDITS: usize = 200;
/// How many files each run may have open.
const FILES: &str = "64";

/// Numbers that look like chance, and are the same for the same seed (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((bits ^ (bits >> 31)) % limit as u64).unwrap()
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        (!all.is_empty()).then(|| &all[self.below(all.len())])
    }
}

/// A tree that belongs to the site and has files of others.
fn enroll(site: &Site) -> Tree {
    let tree = Tree::new();
    tree.configure(&format!("[[source]]\ndir = \"{}\"\n[keep]\ngenerations = {GENERATIONS}\n", site.path().display()));
    for dir in ["srv", "etc/sysctl.d", "usr/bin", "home"] {
        fs::create_dir_all(tree.at(dir)).unwrap();
    }
    tree.write("srv/f1", "somebody's\n").write("srv/f3", "somebody's\n").write("etc/hosts", "127.0.0.1 localhost\n");
    symlink("somewhere", tree.at("srv/l1")).unwrap();
    tree
}

/// All that is in a tree, with owners; not the day that a password was made at.
fn everything(tree: &Tree) -> BTreeMap<String, String> {
    let describe = |(path, (mode, content)): (String, (String, Vec<u8>))| {
        let meta = fs::symlink_metadata(tree.at(&path)).unwrap();
        let text = String::from_utf8_lossy(&content);
        let text = match path.as_str() {
            "etc/shadow" => text.lines().map(|line| line.split(':').next().unwrap()).collect::<Vec<_>>().join("\n"),
            _ => text.chars().take(200).collect(),
        };
        let described = format!("{mode} {}:{} {} {text}", meta.uid(), meta.gid(), content.len());
        (path, described)
    };
    tree.snapshot().into_iter().map(describe).collect()
}

struct Soak {
    random: Random,
    site: Site,
    tree: Tree,
    release: Release,
    /// Files and links that every release has had since the last finished run: certainly kpull's.
    ours: Vec<String>,
    /// A path where a directory is in the way of a file.
    blocked: Option<String>,
    /// How many files of others there are.
    others: usize,
    /// How long a run takes that nothing happens to.
    usual: Duration,
    /// The most memory of each run that finished, in KiB.
    peaks: Vec<u64>,
    /// What has been done, by name.
    done: BTreeMap<&'static str, usize>,
    /// The largest release so far, in bytes.
    largest: u64,
}

impl Soak {
    fn new(seed: u64) -> Self {
        let site = Site::new("test");
        site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n");
        let mut release = Release::default();
        let mut random = Random(seed);
        for _ in 0..10 {
            release.change(&mut random);
        }
        release.publish(&site);
        let tree = enroll(&site);
        let (usual, peaks, done) = (Duration::from_millis(100), Vec::new(), BTreeMap::new());
        let ours = Vec::new();
        Self { random, site, tree, release, ours, blocked: None, others: 0, usual, peaks, done, largest: 0 }
    }

    fn count(&mut self, what: &'static str) {
        *self.done.entry(what).or_default() += 1;
    }

    /// Something that happens to the host between two runs.
    fn drift(&mut self) {
        let (links, files): (Vec<_>, Vec<_>) = self.ours.iter().cloned().partition(|path| path.starts_with("srv/l"));
        let Some(path) = self.random.one_of(&files).cloned() else { return };
        let at = self.tree.at(&path);
        let is_file = at.symlink_metadata().is_ok_and(|meta| meta.is_file());
        match self.random.below(8) {
            0 | 1 if is_file => {
                // of every file: edits are kept, and must be enough to reach their limit
                for path in files.iter().map(|path| self.tree.at(path)) {
                    if path.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
                        fs::write(&path, format!("an edit {}\n", self.random.below(1_000_000))).unwrap();
                    }
                }
            }
            2 if is_file => fs::set_permissions(&at, fs::Permissions::from_mode(0o666)).unwrap(),
            3 if is_file => fs::remove_file(&at).unwrap(),
            4 if is_file => {
                fs::remove_file(&at).unwrap();
                symlink("/nowhere", &at).unwrap();
            }
            5 if is_file && self.blocked.is_none() => {
                fs::remove_file(&at).unwrap();
                fs::create_dir(&at).unwrap();
                self.blocked = Some(path);
            }
            6 => {
                self.others += 1;
                self.tree.write(&format!("srv/others/{}", self.others), "not kpull's\n");
            }
            _ => {
                for link in links {
                    let _ = fs::remove_file(self.tree.at(&link));
                }
            }
        }
        self.count("drifts");
    }

    /// A run that is killed at any moment of it.
    fn killed(&mut self) {
        let mut run = command(&["apply", "--root", self.tree.path().to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(self.usual * u32::try_from(self.random.below(100)).unwrap() / 90);
        run.kill().unwrap();
        run.wait().unwrap();
        self.count("kills");
    }

    /// A run with a clock that is wrong: its release may be refused, and nothing worse.
    fn at_another_time(&mut self) {
        // not so far ahead that all edits and generations are too old: that would hide what grows
        let offset = [-YEAR, -DAY / 2, DAY / 2, 20 * DAY][self.random.below(4)];
        let Traced { output, .. } = traced(&self.tree, "apply", FILES, Some(&|_| offset));
        let blocked = self.blocked.is_some();
        assert!(matches!(output.code, 0 | 4) || blocked, "{offset}: {output:?}");
        self.count("clocks");
    }

    /// A run that comes to its end. When something is in its way, it has to say so, and a second one finishes the work.
    fn whole(&mut self) {
        if let Some(path) = self.blocked.take() {
            let Traced { output, .. } = traced(&self.tree, "apply", FILES, None);
            if self.release.paths().contains(&path) {
                assert_ne!(output.code, 0, "{path}: {output:?}");
                assert!(output.error()["help"].is_string(), "{output:?}");
                self.count("blocked");
            }
            if self.tree.at(&path).is_dir() {
                fs::remove_dir(self.tree.at(&path)).unwrap();
            }
            self.tree.kpull("apply --retry").exits(0);
        }
        let start = Instant::now();
        let Traced { output, peak, .. } = traced(&self.tree, "apply", FILES, None);
        self.usual = start.elapsed();
        output.exits(0);
        self.ours = self.release.paths();
        self.peaks.push(peak);
        self.largest = self.largest.max(fs::metadata(self.state().join("release.tar")).unwrap().len());
    }

    fn step(&mut self) {
        if self.random.chance(25) {
            self.release.change(&mut self.random);
            self.release.publish(&self.site);
            let wanted = self.release.paths();
            self.ours.retain(|path| wanted.contains(path));
            self.count("releases");
        }
        if self.random.chance(40) {
            self.drift();
        }
        match self.random.below(100) {
            0..15 => self.killed(),
            15..20 => self.at_another_time(),
            _ => self.whole(),
        }
    }

    fn state(&self) -> std::path::PathBuf {
        self.tree.at("var/lib/kpull")
    }

    /// Holds the host to what a new one is, and what kpull keeps to its limits.
    fn check(&mut self) {
        self.whole();
        self.tree.kpull("plan").exits(0);
        assert_eq!(self.tree.leftovers(), [""; 0]);
        for number in 1..=self.others {
            assert_eq!(self.tree.read(&format!("srv/others/{number}")), "not kpull's\n");
        }
        let new = enroll(&self.site);
        new.kpull("apply").exits(0);
        let (mut is, wanted) = (everything(&self.tree), everything(&new));
        is.retain(|path, _| path != "srv/others" && !path.starts_with("srv/others/"));
        let differs = |path: &&String| is.get(*path) != wanted.get(*path);
        let paths: Vec<_> =
            is.keys().chain(wanted.keys()).filter(differs).map(|p| (p, is.get(p), wanted.get(p))).collect();
        assert!(paths.is_empty(), "path, what it is, what it is to be: {paths:#?}");

        let most = GENERATIONS + 2;
        let state = self.state();
        let count = |dir: &str| fs::read_dir(state.join(dir)).map_or(0, Iterator::count);
        assert!(count("generations") <= most, "{} generations", count("generations"));
        assert!(count("releases") <= most, "{} releases", count("releases"));
        // each with its content
        assert!(count("artifacts") <= 2 * most, "{} artifacts", count("artifacts"));
        let origins = release::PATHS;
        assert!(count("saved") <= EDITS + origins, "{} saved contents", count("saved"));
        let (files, bytes) = size(&state);
        assert!(files <= count("saved") + 4 * most + 30, "{files} files");
        let each = self.largest + release::ARTIFACT as u64 + 8 * 1024;
        let limit = (most as u64 + 2) * each + 1024 * (EDITS + origins) as u64;
        assert!(bytes <= limit, "{bytes} bytes, and {limit} are the limit");
    }
}

/// How many files are in a directory, and how many bytes in them.
fn size(dir: &Path) -> (usize, u64) {
    let mut sum = (0, 0);
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let meta = entry.metadata().unwrap();
        let (files, bytes) = if meta.is_dir() { size(&entry.path()) } else { (1, meta.len()) };
        sum = (sum.0 + files, sum.1 + bytes);
    }
    sum
}

#[test]
fn after_hundreds_of_runs_a_host_equals_a_new_one_and_nothing_has_grown() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().unwrap());
    let runs = number("KPULL_SOAK").map_or(RUNS, |runs| usize::try_from(runs).unwrap());
    let seed = number("KPULL_SEED").unwrap_or_else(|| jiff::Timestamp::now().as_microsecond().cast_unsigned());
    eprintln!("KPULL_SOAK={runs} KPULL_SEED={seed}");
    let start = Instant::now();
    let mut soak = Soak::new(seed);
    soak.whole();
    for run in 1..=runs {
        eprintln!("run {run}: {:?}", soak.done);
        soak.step();
        if run % 100 == 0 || run == runs {
            soak.check();
        }
    }
    let (files, bytes) = size(&soak.state());
    let quarter = (soak.peaks.len() / 4).max(1);
    let most = |peaks: &[u64]| *peaks.iter().max().unwrap();
    let (first, last) = (most(&soak.peaks[..quarter]), most(&soak.peaks[soak.peaks.len() - quarter..]));
    eprintln!("{:?} in {:?}", soak.done, start.elapsed());
    eprintln!(
        "{files} files with {bytes} bytes kept; at most {first} KiB of memory in the first quarter, {last} in the last"
    );
    assert!(last * 10 <= first * 12, "memory grew from {first} KiB to {last} KiB");
}
