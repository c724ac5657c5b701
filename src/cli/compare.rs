//! `kpull compare`.

use std::io::{Seek as _, Write as _};
use std::path::Component;
use std::process::Stdio;

use crate::author::compare::{SiteState, compare};
use crate::cli::prelude::*;
use crate::document::PARTS;
use crate::host::process::at_terminal;

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

    /// Writes the files of the site in a revision to `dir`, as git stores them. `git archive` and `git checkout` would run commands from
    /// the configuration of the repository, which may not be trustworthy.
    fn unpack(&self, revision: &str, dir: &Path) -> Result<()> {
        let listed = self.git(&["ls-tree", "-r", "-z", revision], Stdio::null())?;
        let listed = String::from_utf8(listed).context(code::EDIT, || "a name in it is not UTF-8")?;
        let (mut paths, mut wanted) = (Vec::new(), tempfile::tempfile().context(code::EDIT, || "no temporary file")?);
        for entry in listed.split_terminator('\0') {
            let (about, path) = entry.split_once('\t').unwrap_or_default();
            if !PARTS.iter().chain(&["facts"]).any(|part| path.split('/').next() == Some(part)) {
                continue;
            }
            let is_plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
            let mut about = about.split(' ');
            let (Some("100644" | "100755"), Some("blob"), Some(id), true) =
                (about.next(), about.next(), about.next(), is_plain)
            else {
                return Err(error!(EDIT, "{path} is not a regular file in it"));
            };
            writeln!(wanted, "{id}").context(code::EDIT, || "can't write a temporary file")?;
            paths.push(path);
        }
        wanted.rewind().context(code::EDIT, || "can't read a temporary file")?;
        let stored = self.git(&["cat-file", "--batch"], wanted.into())?;
        let mut rest = stored.as_slice();
        for path in paths {
            let cut = || error!(EDIT, "git has no content of {path}");
            let end = rest.iter().position(|byte| *byte == b'\n').ok_or_else(cut)?;
            let (head, behind) = rest.split_at_checked(end + 1).ok_or_else(cut)?;
            let size = std::str::from_utf8(head).ok().and_then(|head| head.trim_end().rsplit_once(" blob "));
            let size = size.and_then(|(_, size)| size.parse().ok()).ok_or_else(cut)?;
            let (content, behind) = behind.split_at_checked(size).ok_or_else(cut)?;
            rest = behind.strip_prefix(b"\n").ok_or_else(cut)?;
            let path = dir.join(path);
            let above = path.parent().map_or(Ok(()), std::fs::create_dir_all);
            above
                .and_then(|()| std::fs::write(&path, content))
                .context(code::EDIT, || format!("can't write {}", path.display()))?;
        }
        Ok(())
    }

    /// The output of git, which reads only the repository and fetches no missing objects.
    fn git(&self, arguments: &[&str], input: Stdio) -> Result<Vec<u8>> {
        let mut git = at_terminal("git");
        git.arg("-C").arg(&self.options.site).args(arguments).stdin(input);
        git.env("GIT_NO_LAZY_FETCH", "1").env("GIT_ALLOW_PROTOCOL", "none");
        let output = git.output().context(code::EDIT, || "can't run git")?;
        match output.status.success() {
            true => Ok(output.stdout),
            false => Err(Error::new(
                code::EDIT,
                String::from_utf8_lossy(&output.stderr).trim().trim_start_matches("fatal: "),
            )),
        }
    }
}

fn read(dir: &Path) -> Result<SiteState> {
    SiteState::new(Site::load(Files::in_directory(dir)?)?, dir)
}
