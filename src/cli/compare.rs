//! `kpull compare`.

use crate::author::compare::{SiteState, compare};
use crate::cli::prelude::*;
use crate::document::PARTS;
use crate::host::process::at_terminal;
use crate::source::{self, Config};

/// Arguments of `compare`.
#[derive(Args, Debug)]
pub struct Compare {
    /// The old state: a directory with a site, or a revision in the git repository of the site
    old: String,
    /// The new state, a directory or a revision [default: the site's directory]
    new: Option<String>,
    /// Show at most this many bytes of each difference
    #[arg(long, value_name = "BYTES", default_value_t = 20_000)]
    most: usize,
    #[command(flatten)]
    options: SiteArgs,
}

impl Run for Compare {
    fn run(&self) -> Result<Exit> {
        let old = self.state(&self.old)?;
        let new = match &self.new {
            Some(new) => self.state(new)?,
            None => read(&self.options.site)?,
        };
        let found = compare(&old, &new)?;
        if self.options.json {
            for (hosts, what) in &found.groups {
                print_json(json!({ "event": "compared", "hosts": hosts, "markdown": what }));
            }
            print_json(json!({ "event": "done", "command": "compare", "same": found.same,
                "changed": found.groups.iter().map(|(hosts, _)| hosts.len()).sum::<usize>() }));
        } else {
            for line in found.markdown(self.most).lines() {
                match line.is_empty() {
                    true => print_as_is(""),
                    false => print(line),
                }
            }
        }
        Ok(Exit::Done)
    }
}

impl Compare {
    fn state(&self, name: &str) -> Result<SiteState> {
        let dir = Path::new(name);
        if dir.is_dir() {
            return read(dir);
        }
        let what = || format!("can't get the revision `{name}`");
        if name.starts_with('-') {
            return Err(Error::new(code::EDIT, what()).because("it begins with a dash"));
        }
        let unpacked = tempfile::tempdir().context(code::EDIT, what)?;
        self.unpack(name, unpacked.path()).map_err(|error| {
            Error::new(code::EDIT, what()).because(error).help(
                "name a directory, or a revision of the git repository that contains the site; a shallow clone has few",
            )
        })?;
        read(unpacked.path()).map_err(|error| error.help_more(&format!("this is the state at `{name}`")))
    }

    /// Writes the files of the site in a revision to `dir`, read as from a repository that is a source: git itself would run commands from
    /// the configuration of the repository, which may not be trustworthy.
    fn unpack(&self, revision: &str, dir: &Path) -> Result<()> {
        let named = self.rev_parse(&["--show-toplevel", "--show-prefix", &format!("{revision}^{{commit}}"), "--"])?;
        let mut lines = named.lines().map(str::to_owned);
        let (git, prefix, commit) = (lines.next(), lines.next().unwrap_or_default(), lines.next());
        let path = prefix.strip_suffix('/').map(str::to_owned);
        let tree = source::state(&mut *source::open(&Config { git, commit, path, ..Config::default() }, dir)?)?;
        let is_part = |path: &&String| PARTS.iter().chain(&["facts"]).any(|part| path.split('/').next() == Some(part));
        for path in tree.list()?.unwrap_or_default().iter().filter(is_part) {
            let content = tree.read(path, u64::MAX)?.unwrap_or_default();
            let path = dir.join(path);
            let above = path.parent().map_or(Ok(()), std::fs::create_dir_all);
            above
                .and_then(|()| std::fs::write(&path, content))
                .context(code::EDIT, || format!("can't write {}", path.display()))?;
        }
        Ok(())
    }

    /// The output of `git rev-parse`, which fetches no missing objects.
    fn rev_parse(&self, arguments: &[&str]) -> Result<String> {
        let mut git = at_terminal("git");
        git.arg("-C").arg(&self.options.site).arg("rev-parse").args(arguments);
        git.env("GIT_NO_LAZY_FETCH", "1").env("GIT_ALLOW_PROTOCOL", "none");
        let output = git.output().context(code::EDIT, || "can't run git")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(Error::new(code::EDIT, text(&output.stderr).trim().trim_start_matches("fatal: "))),
        }
    }
}

fn read(dir: &Path) -> Result<SiteState> {
    SiteState::new(Site::load(Files::in_directory(dir)?)?, dir)
}
