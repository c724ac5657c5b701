//! Random edits of the shipped site, as operators make them: `check` reports what is wrong with them and never aborts; a site
//! that it accepts applies once, leaves nothing to do for the second run, and is undone to the last byte.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::support::sample;
use crate::support::site::{Output, Snapshot, kpull, sign, snapshot};
use ssh_key::PrivateKey;

/// In all, over the hosts, without a sample.
const EDITS: usize = 200;
const HOSTS: [&str; 3] = ["master1", "master2", "master3"];
/// Accounts, with their homes, are never undone (docs/src/usage/back.md).
const ACCOUNTS: [&str; 7] =
    ["etc/group", "etc/gshadow", "etc/passwd", "etc/shadow", "etc/subgid", "etc/subuid", "home"];

/// Resources that somebody adds to a role. `N` is a number.
const ADDED: [&str; 14] = [
    "[[file]]\npath = \"/etc/edits/fileN\"\ncontent = \"N\\n\"\nmode = \"0640\"\n",
    "[[file]]\npath = \"/etc/hosts.N\"\ncontent = \"{{ vip }} {{ hosts | length }}\"\n",
    "[[symlink]]\npath = \"/etc/edits/linkN\"\ntarget = \"/etc/hosts\"\n",
    "[[directory]]\npath = \"/srv/edits/dirN\"\nmode = \"0750\"\n",
    "[[block]]\npath = \"/etc/hosts\"\nname = \"editN\"\ncontent = \"10.0.0.N hostN\\n\"\n",
    "[[sysctl]]\nname = \"vm.max_map_count\"\nvalue = 26214N\n",
    "[[unit]]\nname = \"editN.service\"\nenable = true\ncontent = \"[Service]\\nExecStart=/bin/true\\n[Install]\\nWantedBy=multi-user.target\\n\"\n",
    "[[unit]]\nname = \"docker.service\"\n[unit.dropins]\n\"N.conf\" = \"[Service]\\nNice=N\\n\"\n",
    "[[firewall]]\nzone = \"public\"\nports = [\"300N/tcp\"]\n",
    "[[package]]\nname = \"tree\"\n",
    "[[group]]\nname = \"editN\"\n\n[[user]]\nname = \"editN\"\ngroups = [\"editN\"]\n",
    "[[module]]\nname = \"dummyN\"\n",
    "[[command]]\nid = \"editN\"\nargv = [\"/bin/true\"]\ncreates = \"/run/editN\"\n",
    "[[probe]]\nname = \"editN\"\ntcp = \"127.0.0.1:300N\"\n",
];

/// Numbers that are the same each time.
struct Random(u32);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        usize::try_from(self.0).unwrap() % end
    }

    fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

#[test]
fn a_site_that_check_accepts_is_applied_once_and_undone_to_the_last_byte() {
    let dir = tempfile::tempdir().unwrap();
    let demo = dir.path().join("demo");
    kpull(&["demo", "--dir", demo.to_str().unwrap()]).exits(0);
    let key = PrivateKey::read_openssh_file(&demo.join("signer")).unwrap();
    let passed: usize = std::thread::scope(|scope| {
        let runs = HOSTS.map(|host| {
            let (demo, key) = (&demo, &key);
            scope.spawn(move || Edited::new(demo, host, key).run())
        });
        runs.map(|run| run.join().unwrap()).iter().sum()
    });
    // not `println`, which a passing test does not show
    let edits = EDITS / sample::one_in();
    writeln!(std::io::stderr(), "{passed} of {edits} edits passed check").unwrap();
    assert!(passed * 3 > edits, "{passed}: most are refused, and tell nothing of apply");
}

/// A host of the demo, and a site of its own that is edited.
struct Edited<'a> {
    demo: &'a Path,
    host: &'static str,
    key: &'a PrivateKey,
    /// The site as the demo left it.
    original: Vec<(PathBuf, Vec<u8>)>,
}

impl<'a> Edited<'a> {
    fn new(demo: &'a Path, host: &'static str, key: &'a PrivateKey) -> Self {
        let mut original = Vec::new();
        files(&demo.join("site"), Path::new(""), &mut original);
        let edited = Self { demo, host, key, original };
        let config = edited.root().join("etc/kpull/kpull.toml");
        let text = fs::read_to_string(&config).unwrap();
        let site = |of: &Path| of.display().to_string();
        let own = text.replace(&site(&demo.join("site")), &site(&edited.site()));
        assert_ne!(own, text, "the demo's source is another: {text}");
        fs::write(config, own).unwrap();
        edited
    }

    fn site(&self) -> PathBuf {
        self.demo.join(format!("site-{}", self.host))
    }

    fn root(&self) -> PathBuf {
        self.demo.join("hosts").join(self.host)
    }

    fn kpull(&self, command: &str) -> Output {
        let root = self.root();
        let words = command.split(' ').chain(["--root", root.to_str().unwrap(), "--json"]);
        kpull(&words.collect::<Vec<_>>())
    }

    /// Writes the site as it was at first.
    fn reset(&self) {
        let site = self.site();
        for dir in ["roles", "host_vars"] {
            let _ = fs::remove_dir_all(site.join(dir));
        }
        for (path, content) in &self.original {
            let path = site.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
    }

    fn sign(&self, serial: u64) {
        sign(&self.site(), self.key, "k8s", serial);
    }

    /// How many edits `check` passes.
    fn run(&self) -> usize {
        let host = HOSTS.iter().position(|host| *host == self.host).unwrap();
        let seed = std::env::var("KPULL_SEED").map_or(1, |seed| seed.parse().unwrap());
        let mut random = Random(0x9e37_79b9_u32.wrapping_mul(seed) + u32::try_from(host).unwrap());
        let (mut serial, mut passed) = (10, 0);
        let mut next = || {
            serial += 1;
            serial
        };
        self.reset();
        let whole = self.snapshot();
        for number in 0..(EDITS / sample::one_in()).div_ceil(HOSTS.len()) {
            self.reset();
            let mut reported = String::new();
            for _ in 0..=random.below(3) {
                writeln!(reported, "{}", self.edit(number, &mut random)).unwrap();
            }
            let checked = kpull(&["check", "--site", self.site().to_str().unwrap()]);
            assert!([0, 1].contains(&checked.code), "check aborts after\n{reported}{checked:?}");
            if checked.code == 1 {
                assert!(checked.stderr.contains("error["), "check gives no reason after\n{reported}{checked:?}");
                continue;
            }
            self.sign(next());
            let first = self.kpull("apply");
            // only the archive shows that a role names a file that is not in it
            if first.code == 1 && first.error()["error"].as_str().unwrap().contains("has no member `") {
                assert!(first.error()["file"].as_str().unwrap().ends_with("role.toml"), "{}", first.stdout);
                same(&self.snapshot(), &whole, &reported);
                continue;
            }
            passed += 1;
            let ends = |what: &str, run: Output| {
                assert_eq!(
                    run.code, 0,
                    "{what} {} ends like this after\n{reported}{}{}",
                    self.host, run.stdout, run.stderr
                );
                run.changed()
            };
            let applies = |what| ends(what, self.kpull("apply"));
            ends("the first run on", first);
            let again = applies("the second run on");
            assert_eq!(again, [""; 0], "the second run on {} changes something after\n{reported}", self.host);
            self.reset();
            self.sign(next());
            applies("the way back on");
            same(&self.snapshot(), &whole, &reported);
        }
        // and without any role, the prior state of the tree, with kpull's state
        self.reset();
        let text = fs::read_to_string(self.site().join("site.toml")).unwrap();
        let (above, rest) = text.split_once("[groups.masters]").unwrap();
        let (_, below) = rest.split_once("[pki.etcd]").unwrap();
        let without_groups = format!("{above}[groups.masters]\n[groups.nodes]\n[pki.etcd]{below}");
        fs::write(self.site().join("site.toml"), without_groups).unwrap();
        self.sign(next());
        self.kpull("apply").exits(0);
        let left = self.snapshot();
        assert_eq!(
            left.keys().map(String::as_str).collect::<Vec<_>>(),
            ["etc", "etc/ssh", "etc/ssh/ssh_host_ed25519_key", "var", "var/lib"]
        );
        passed
    }

    fn snapshot(&self) -> Snapshot {
        let mut all = snapshot(&self.root());
        all.retain(|path, _| !ACCOUNTS.contains(&path.trim_end_matches('-')) && !path.starts_with("home/"));
        all
    }

    /// One edit, described in a line.
    fn edit(&self, number: usize, random: &mut Random) -> String {
        let site = self.site();
        let mut paths = Vec::new();
        files(&site, Path::new(""), &mut paths);
        let written = |path: &Path| {
            let name = path.to_str().unwrap();
            name == "site.toml" || name.starts_with("host_vars/") || name.starts_with("roles/")
        };
        let texts: Vec<(&Path, &str)> = paths
            .iter()
            .filter(|(path, _)| written(path))
            .filter_map(|(path, content)| Some((path.as_path(), std::str::from_utf8(content).ok()?)))
            .collect();
        let quoted: BTreeSet<&str> = texts
            .iter()
            .flat_map(|(_, text)| text.split('"').skip(1).step_by(2))
            .filter(|text| text.len() < 40)
            .collect();
        let quoted: Vec<&str> = quoted.into_iter().collect();
        let (path, text) = texts[random.below(texts.len())];
        let is_role = path.ends_with("role.toml");
        let (edited, what) = match random.below(8) {
            0..3 if is_role => {
                let added = random.of(&ADDED).replace('N', &(number % 100).to_string());
                (format!("{text}\n{added}"), format!("added: {added}"))
            }
            0..2 if path.extension().is_some_and(|end| end == "toml") => blocks(text, random),
            _ => lines(text, &quoted, random),
        };
        fs::write(site.join(path), edited).unwrap();
        format!("{}: {what}", path.display())
    }
}

/// A table of a TOML file goes, or is there twice.
fn blocks(text: &str, random: &mut Random) -> (String, String) {
    let mut blocks: Vec<String> = vec![String::new()];
    for line in text.split_inclusive('\n') {
        if line.starts_with('[') {
            blocks.push(String::new());
        }
        blocks.last_mut().unwrap().push_str(line);
    }
    let at = random.below(blocks.len());
    let block = blocks[at].clone();
    let what = match random.below(3) {
        0 => {
            blocks.insert(at, block.clone());
            "twice"
        }
        _ => {
            blocks.remove(at);
            "gone"
        }
    };
    (blocks.concat(), format!("{what}: {block}"))
}

/// A line of a file is another, goes, comes twice or changes places with the next.
fn lines(text: &str, quoted: &[&str], random: &mut Random) -> (String, String) {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let full: Vec<usize> = (0..lines.len()).filter(|at| !lines[*at].trim().is_empty()).collect();
    let Some(at) = (!full.is_empty()).then(|| full[random.below(full.len())]) else {
        return ("# nothing\n".to_owned(), "a comment".to_owned());
    };
    let old = lines[at].clone();
    match random.below(12) {
        0 => drop(lines.remove(at)),
        1 => lines.insert(at, old.clone()),
        2 if at + 1 < lines.len() => lines.swap(at, at + 1),
        3 => lines[at] = format!("# {old}"),
        4 => lines[at] = old.chars().skip(1).collect(),
        5 => lines[at] = format!("{old} # für später"),
        _ => lines[at] = value(&old, quoted, random),
    }
    let new = lines.get(at).cloned().unwrap_or_default();
    (lines.join("\n") + "\n", format!("{old:?} is {new:?}"))
}

/// The line with one of its values changed.
fn value(line: &str, quoted: &[&str], random: &mut Random) -> String {
    let texts: Vec<&str> = line.split('"').collect();
    let digits: Vec<&str> = line.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty()).collect();
    match random.below(4) {
        0 if line.contains("true") => line.replace("true", "false"),
        0 if line.contains("false") => line.replace("false", "true"),
        0..3 if !digits.is_empty() => {
            let old = random.of(&digits);
            let number: i64 = old.parse().unwrap_or(0);
            let new = [number + 1, number - 1, number * 2, 0, 65536][random.below(5)];
            line.replacen(old, &new.to_string(), 1)
        }
        _ if texts.len() > 2 => {
            let mut texts: Vec<String> = texts.into_iter().map(str::to_owned).collect();
            let at = 1 + 2 * random.below(texts.len() / 2);
            texts[at] = match random.below(5) {
                0 => format!("{}x", texts[at]),
                1 => texts[at].to_uppercase(),
                2 => String::new(),
                3 => format!("{} {{{{ vip }}}}", texts[at]),
                _ => random.of(quoted).to_owned(),
            };
            texts.join("\"")
        }
        _ => line.replacen(' ', "  ", 1),
    }
}

/// Compares a tree with its earlier state, and reports only differences.
#[track_caller]
fn same(now: &Snapshot, before: &Snapshot, expected: &str) {
    let mut different = String::new();
    for path in now.keys().chain(before.keys()).collect::<BTreeSet<_>>() {
        let shown = |all: &Snapshot| {
            all.get(path).map_or_else(
                || "nothing".to_owned(),
                |(mode, content)| format!("{mode} {:?}", String::from_utf8_lossy(content)),
            )
        };
        if now.get(path) != before.get(path) {
            writeln!(different, "{path}\n  was {}\n  is  {}", shown(before), shown(now)).unwrap();
        }
    }
    assert!(different.is_empty(), "the way back leaves something of\n{expected}{different}");
}

fn files(dir: &Path, below: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
    let mut entries: Vec<_> = fs::read_dir(dir.join(below)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    entries.sort();
    for name in entries {
        let path = below.join(name);
        match fs::metadata(dir.join(&path)).unwrap().is_dir() {
            true => files(dir, &path, found),
            false => found.push((path.clone(), fs::read(dir.join(path)).unwrap())),
        }
    }
}
