//! `[[command]]`: a program that is run when its guards say so. Never a shell, and never without a guard.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::document::fields::{AbsolutePath, AccountName, HumanDuration, is_argv};
use crate::error::{Error, Result, code};
use crate::host::accounts::FILES;
use crate::host::process::{Command, Ended, Identity, Output, run, run_if_there};
use crate::kind::{About, Build, Change, Fields, Phase, Resource, WatchedInput, Work};
use crate::read;

/// Fields of `[[command]]`. At least one of `creates`, `unless` and `only_if` is set; with several, all of them have to
/// say that it is to run.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandFields {
    /// What it is called; the program and its arguments when left out.
    name: Option<String>,
    /// The program and its arguments.
    run: Vec<String>,
    /// It is run when nothing is at this path, and has to make something there.
    creates: Option<AbsolutePath>,
    /// It is run when this program fails or isn't there, and has to make it succeed.
    unless: Option<Vec<String>>,
    /// It is run when this program is there and succeeds.
    only_if: Option<Vec<String>>,
    /// The user that it and its guards run as, with its primary group and no others, and without `sudo` or anything else
    /// that would give them more rights; `root` when left out.
    user: Option<AccountName>,
    /// The directory that it and its guards run in; `/` when left out.
    cwd: Option<AbsolutePath>,
    /// Environment variables besides `PATH`, `LANG`, `HOME` and `USER`; nothing else is passed on.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// When it, or a guard, is ended together with everything that it started; `60s` when left out.
    timeout: Option<HumanDuration>,
    /// Whether its arguments and output are kept out of messages.
    #[serde(default)]
    sensitive: bool,
}

impl Fields for CommandFields {
    const NAME: &'static str = "command";

    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        for (field, argv) in
            [("run", Some(&self.run)), ("unless", self.unless.as_ref()), ("only_if", self.only_if.as_ref())]
        {
            if argv.is_some_and(|argv| !is_argv(argv)) {
                return Err(
                    build.invalid(field, "write a program and its arguments, like [\"mkfs.ext4\", \"/dev/sdb1\"]")
                );
            }
        }
        if self.creates.is_none() && self.unless.is_none() && self.only_if.is_none() {
            return Err(build.invalid("run", "say when it is to run: set `creates`, `unless` or `only_if`"));
        }
        if self.env.iter().any(|(name, value)| name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')) {
            return Err(build.invalid("env", "a variable has a name without `=`"));
        }
        let sensitive = self.sensitive || build.is_secret();
        let name = match self.name {
            Some(name) => name,
            None if sensitive => {
                return Err(build.invalid(
                    "run",
                    "what is in its arguments is not to be seen, so they can't be its name: set `name`",
                ));
            }
            None => self.run.join(" "),
        };
        Ok(vec![Box::new(Run {
            name,
            argv: self.run,
            creates: self.creates,
            unless: self.unless,
            only_if: self.only_if,
            user: self.user,
            cwd: self.cwd,
            env: self.env.into_iter().collect(),
            timeout: self.timeout.map_or(std::time::Duration::from_secs(60), |span| span.0),
            sensitive,
        })])
    }
}

/// A program with its guards.
#[derive(Debug)]
pub struct Run {
    name: String,
    argv: Vec<String>,
    /// What it has to make, if it says so.
    pub creates: Option<AbsolutePath>,
    unless: Option<Vec<String>>,
    only_if: Option<Vec<String>>,
    user: Option<AccountName>,
    cwd: Option<AbsolutePath>,
    env: Vec<(String, String)>,
    timeout: std::time::Duration,
    sensitive: bool,
}

impl Run {
    /// Whether there is no user yet that it could run as.
    fn lacks_user(&self, work: &Work<'_>) -> Result<bool> {
        let Some(user) = &self.user else { return Ok(false) };
        Ok(work.host.with_accounts(|accounts| accounts.login(user))?.is_none())
    }

    /// The user that it runs as; `None` for root.
    fn identity(&self, work: &Work<'_>) -> Result<Option<Identity>> {
        let Some(user) = &self.user else { return Ok(None) };
        let login = work.host.with_accounts(|accounts| accounts.login(user))?.ok_or_else(|| {
            Error::new(code::COMMAND, format!("`{}` can't run as {user}: there is no such user", self.name))
                .help("add a [[user]] to the role, or the package that makes it")
        })?;
        let home = login.home.to_string_lossy().into_owned();
        Ok(Some(Identity { name: user.to_string(), uid: login.uid, gid: login.gid, home }))
    }

    fn command<'a>(&'a self, argv: &'a [String], identity: Option<Identity>) -> Command<'a> {
        let command = Command::new(argv, self.timeout);
        let cwd = self.cwd.as_deref().unwrap_or(command.cwd);
        Command { env: &self.env, cwd, identity, ..command }
    }

    /// Whether every guard says that it is to run.
    fn is_due(&self, work: &Work<'_>) -> Result<bool> {
        if let Some(path) = &self.creates
            && work.host.root.meta(path)?.is_some()
        {
            return Ok(false);
        }
        // who or what is not there yet can't be asked; another resource is about to make it
        if self.lacks_user(work)? || self.cwd.as_ref().is_some_and(|cwd| !read::is_directory(cwd)) {
            return Ok(true);
        }
        let identity = self.identity(work)?;
        for (guard, due) in [(&self.unless, false), (&self.only_if, true)] {
            let Some(argv) = guard else { continue };
            let says_yes = match run_if_there(&self.command(argv, identity.clone()))? {
                Some(output) if matches!(output.ended, Ended::TimedOut(_)) => {
                    return Err(self.failure(&output, format!("a guard of `{}` never ended", self.name)));
                }
                Some(output) => output.is_success(),
                None => false,
            };
            if says_yes != due {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn failure(&self, output: &Output, what: String) -> Error {
        let error = output.failure_of(what, self.sensitive);
        match output.ended {
            Ended::TimedOut(_) => error.help("give it more time with `timeout`, or find out what it waits for"),
            Ended::Exited(_) => error,
        }
    }
}

impl Resource for Run {
    fn about(&self) -> About {
        About {
            after: self.user.iter().map(|user| format!("user:{user}")).collect(),
            is_discreet: true,
            ..About::new(CommandFields::NAME, &self.name, Phase::Commands)
        }
    }

    fn watched_inputs(&self, work: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        if !work.host.is_live() {
            return Ok(Some(Vec::new()));
        }
        let mut traces = Vec::new();
        if let Some(path) = &self.creates {
            traces.push(WatchedInput::Place(path.to_path_buf()));
            // while that is there, no guard is asked
            if work.host.root.meta(path)?.is_some() {
                return Ok(Some(traces));
            }
        }
        // their arguments are kept
        if self.sensitive || self.lacks_user(work)? {
            return Ok(None);
        }
        let identity = self.identity(work)?;
        if self.user.is_some() {
            traces.extend(FILES.iter().map(|path| WatchedInput::Path(path.into())));
        }
        let guards = [&self.unless, &self.only_if].into_iter().flatten();
        traces.extend(guards.map(|argv| WatchedInput::Program((&self.command(argv, identity.clone())).into())));
        Ok(Some(traces))
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        Ok((work.host.is_live() && self.is_due(work)?).then(|| Change::new("run")))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        // what came before it may have done its work
        if !work.host.is_live() || !self.is_due(work)? {
            return Ok(());
        }
        let output = run(&self.command(&self.argv, self.identity(work)?))?;
        // it may have changed the policy of SELinux, and made accounts
        work.host.root.labels().forget();
        work.host.forget_accounts();
        if !output.is_success() {
            return Err(self.failure(&output, format!("`{}` failed", self.name)));
        }
        if let Some(path) = self.creates.as_deref()
            && work.host.root.meta(path)?.is_none()
        {
            return Err(self
                .failure(&output, format!("`{}` succeeded, but {} isn't there", self.name, path.display()))
                .help("set `creates` to what it makes, or it is run each time"));
        }
        if self.unless.is_some() && self.only_if.is_none() && self.is_due(work)? {
            return Err(Error::new(code::COMMAND, format!("`{}` succeeded, but its `unless` still fails", self.name))
                .help("let `unless` ask for what the command does, or it is run each time"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Host;
    use crate::kind::testing::{Tree, one, refusal};
    use crate::store::Store;

    /// Works on the machine itself; the commands of these tests touch nothing but `dir`.
    fn live(dir: &std::path::Path, check: impl FnOnce(&Work<'_>)) {
        let (host, store) = (Host::open("/".as_ref()).unwrap(), Store::open(dir).unwrap());
        check(&Work { host: &host, store: &store, catalog: &[] });
    }

    #[test]
    fn a_command_is_run_until_it_has_made_what_it_creates() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a b").display().to_string();
        let command = one("command", &format!("run = ['touch', '{path}']\ncreates = '{path}'"));
        live(dir.path(), |work| {
            let change = command.observe(work).unwrap().unwrap();
            assert_eq!(change.summary, "run");
            command.apply(work, &change).unwrap();
            assert!(command.observe(work).unwrap().is_none());
        });
    }

    #[test]
    fn guards_that_are_programs_decide() {
        let dir = tempfile::tempdir().unwrap();
        for (guards, due) in [
            ("unless = ['true']", false),
            ("unless = ['false']", true),
            ("unless = ['no-such-program']", true),
            ("only_if = ['true']", true),
            ("only_if = ['false']", false),
            ("only_if = ['no-such-program']", false),
            ("only_if = ['true']\nunless = ['true']", false),
            ("only_if = ['true']\ncreates = '/nowhere/at/all'", true),
            ("only_if = ['true']\ncreates = '/proc/self'", false),
        ] {
            let command = one("command", &format!("run = ['false']\n{guards}"));
            live(dir.path(), |work| assert_eq!(command.observe(work).unwrap().is_some(), due, "{guards}"));
        }
    }

    #[test]
    fn its_traces_are_what_decides_and_nothing_sensitive() {
        let dir = tempfile::tempdir().unwrap();
        live(dir.path(), |work| {
            let watched_inputs = |fields: &str| {
                one("command", &format!("name = 'n'\nrun = ['false']\ntimeout = '1s'\n{fields}"))
                    .watched_inputs(work)
                    .unwrap()
            };
            let answers = |fields: &str| -> Vec<String> {
                let kept = serde_json::to_string(&watched_inputs(fields).unwrap()).unwrap();
                let again: Vec<WatchedInput> = serde_json::from_str(&kept).unwrap();
                let text = |trace: &WatchedInput| {
                    work.host.seen(trace).unwrap().and_then(|seen| seen.text).unwrap_or_default()
                };
                again.iter().map(|trace| String::from_utf8(text(trace)).unwrap()).collect()
            };
            assert_eq!(answers("unless = ['true']"), ["yes"]);
            assert_eq!(answers("only_if = ['false']"), ["no"]);
            assert_eq!(answers("only_if = ['no-such-program']"), ["no"]);
            assert_eq!(answers("only_if = ['sleep', '1000']"), ["none in time"]);
            assert_eq!(answers("unless = ['sh', '-c', 'test $X = 1']\nenv = { X = '1' }"), ["yes"]);
            assert_eq!(answers("creates = '/nowhere/at/all'\nonly_if = ['false']"), ["", "no"]);
            let place = |path: &str| WatchedInput::Place(path.into());
            assert_eq!(watched_inputs("creates = '/proc/self'\nonly_if = ['true']"), Some(vec![place("/proc/self")]));
            assert_eq!(watched_inputs("unless = ['true']\nsensitive = true"), None);
            assert_eq!(watched_inputs("unless = ['true']\nuser = 'nobody-here'"), None);
            let accounts = watched_inputs("unless = ['true']\nuser = 'root'").unwrap();
            assert!(accounts.contains(&WatchedInput::Path("/etc/passwd".into())), "{accounts:?}");
        });
    }

    #[test]
    fn a_failure_shows_the_exit_status_and_the_last_words_unless_they_are_sensitive() {
        let dir = tempfile::tempdir().unwrap();
        let fields = "name = 'n'\nrun = ['sh', '-c', 'echo hunter2 >&2; exit 3']\nunless = ['false']";
        live(dir.path(), |work| {
            let error = one("command", fields).apply(work, &Change::default()).unwrap_err();
            assert_eq!(error.to_string(), "`n` failed: exit status: 3\nhunter2");
            let error =
                one("command", &format!("{fields}\nsensitive = true")).apply(work, &Change::default()).unwrap_err();
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
            assert!(error.to_string().starts_with("`n` failed: exit status: 3"), "{error}");
        });
    }

    #[test]
    fn a_command_that_does_not_do_what_its_guard_asks_for_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        live(dir.path(), |work| {
            let error =
                one("command", "run = ['true']\nunless = ['false']").apply(work, &Change::default()).unwrap_err();
            assert_eq!(error.to_string(), "`true` succeeded, but its `unless` still fails");
        });
    }

    #[test]
    fn nothing_is_run_for_a_tree() {
        let tree = Tree::new();
        let command = one("command", "run = ['false']\nunless = ['false']");
        assert_eq!(tree.summary(&*command), None);
        command.apply(&tree.work(), &Change::default()).unwrap();
    }

    #[test]
    fn a_command_without_a_guard_or_a_program_is_refused() {
        assert!(refusal("command", "run = ['true']").contains("`creates`, `unless` or `only_if`"));
        assert!(refusal("command", "run = []\nunless = ['true']").starts_with("`run`: "));
        assert!(refusal("command", "run = ['x']\nunless = ['true']\nsensitive = true").contains("set `name`"));
    }
}
