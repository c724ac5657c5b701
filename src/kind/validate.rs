//! `[[validate]]`: a program that must accept several files together before the first of them is changed.

use crate::host::process::{Command, run};
use crate::host::view;
use crate::kind::prelude::*;
use crate::store::{Pause, Store};

/// When the program is ended.
const PATIENCE: Duration = Duration::from_secs(60);

/// Fields of `[[validate]]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ValidateFields {
    /// Its name. Default: the program and its arguments.
    name: Option<String>,
    /// The program and its arguments. It sees the new files at their own paths.
    run: Vec<String>,
    /// Directories: kpull changes anything in them only after the program has accepted all changes.
    paths: Vec<AbsolutePath>,
}

impl Fields for ValidateFields {
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        build.refuse_if(!is_argv(&self.run), "run", "write a program and its arguments, like [\"nginx\", \"-t\"]")?;
        build.refuse_if(self.paths.is_empty(), "paths", "name a directory, like [\"/etc/nginx\"]")?;
        let is_pattern = |path: &AbsolutePath| path.to_string().contains(['*', '?', '[']);
        let why = "write the full path of a directory, without `*`, `?` or `[`; everything below it is checked";
        build.refuse_if(self.paths.iter().any(is_pattern), "paths", why)?;
        let sensitive = build.is_secret();
        let why = "its arguments are sensitive and can't be used as its name: set `name`";
        build.refuse_if(sensitive && self.name.is_none(), "run", why)?;
        let name = self.name.unwrap_or_else(|| self.run.join(" "));
        let outermost =
            |path: &&AbsolutePath| !self.paths.iter().any(|other| *path != other && path.starts_with(other));
        let paths = self.paths.iter().filter(outermost).map(|path| path.to_path_buf()).collect();
        Ok(vec![Box::new(Validate { name, run: self.run, paths, sensitive })])
    }
}

/// A program that checks directories.
#[derive(Debug)]
pub struct Validate {
    name: String,
    run: Vec<String>,
    /// None of them is in another.
    paths: Vec<PathBuf>,
    sensitive: bool,
}

impl Validate {
    /// What this run still has to change in the directories, each with its change.
    fn changes<'a>(&self, work: &Work<'a>) -> Result<Vec<(&'a Item, Change)>> {
        let (about, paused) = (self.about(), Pause::now(work.store)?);
        let covered = work.catalog.iter().filter(|item| item.about.is_covered_by(&about));
        let covered = covered.filter(|item| !paused.iter().any(|one| one.id == item.id));
        // what can't be observed fails in its own turn
        Ok(covered.filter_map(|item| Some((item, item.resource.observe(work).ok()??))).collect())
    }
}

impl Resource for Validate {
    fn about(&self) -> About {
        About {
            covers: self.paths.clone(),
            // what it covers is watched itself
            watched: Some(Vec::new()),
            is_discreet: true,
            ..About::new(ValidateFields::NAME, &self.name, Phase::Files)
        }
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        Ok((work.host.is_live() && !self.changes(work)?.is_empty()).then(|| Change::new("run")))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let changes = self.changes(work)?;
        if !work.host.is_live() || changes.is_empty() {
            return Ok(());
        }
        let sensitive = self.sensitive || changes.iter().any(|(item, _)| item.is_sensitive());
        let (state, leaving, catalog) = (work.store.dir().to_owned(), work.host.leaving(), work.catalog);
        let is_covered = |path: &&PathBuf| self.paths.iter().any(|directory| path.starts_with(directory));
        let output = view::of_copies(&self.paths, || {
            let (host, store) = (Host::open("/".as_ref())?, Store::open(&state)?);
            let work = Work { host: &host, store: &store, catalog };
            leaving.iter().filter(is_covered).try_for_each(|path| host.root.remove(path))?;
            changes.iter().try_for_each(|(item, change)| item.resource.apply(&work, change))?;
            run(&Command::new(&self.run, PATIENCE))
        })?;
        if output.is_success() {
            return Ok(());
        }
        let what = format!("`{}` refuses the new files, and the old ones stay", self.name);
        let error = output.failure_of(what, sensitive).with_code(code::VALIDATE);
        Err(error
            .or_help("correct the content in the role: the program has checked all files as the release defines them"))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::kind::testing::{Tree, one, refusal};

    #[test]
    fn a_program_names_itself_and_the_directories_that_it_checks() {
        assert!(refusal("validate", "run = []\npaths = ['/etc/nginx']").starts_with("`run`: "));
        assert!(refusal("validate", "run = ['nginx', '-t']\npaths = []").starts_with("`paths`: "));
        let why = refusal("validate", "run = ['nginx', '-t']\npaths = ['/etc/nginx', '/etc/nginx-*']");
        assert!(why.starts_with("`paths`: write the full path of a directory"), "{why}");
        let about = one("validate", "run = ['nginx', '-t']\npaths = ['/etc/nginx', '/etc/nginx/conf.d']").about();
        assert_eq!(
            (about.key.as_str(), about.covers.as_slice()),
            ("nginx -t", [Path::new("/etc/nginx").to_owned()].as_slice())
        );
    }

    #[test]
    fn it_covers_what_is_in_its_directories_as_a_whole() {
        let check = one("validate", "run = ['nginx', '-t']\npaths = ['/etc/nginx']").about();
        let is_covered = |kind: &str, fields: &str| one(kind, fields).about().is_covered_by(&check);
        assert!(is_covered("file", "path = '/etc/nginx/a/b'\ncontent = ''"));
        assert!(is_covered("block", "path = '/etc/nginx/a'\nname = 'n'\ncontent = ''"));
        assert!(is_covered("symlink", "path = '/etc/nginx/a'\ntarget = 'b'"));
        assert!(!is_covered("file", "path = '/etc/nginx2'\ncontent = ''"));
        assert!(!is_covered("directory", "path = '/etc/nginx/a'"));
        assert!(!is_covered("command", "run = ['x']\ncreates = '/etc/nginx/a'"));
    }

    #[test]
    fn in_a_tree_it_has_nothing_to_do() {
        assert_eq!(Tree::new().summary(&*one("validate", "run = ['false']\npaths = ['/etc/nginx']")), None);
    }
}
