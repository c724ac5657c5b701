//! `[[command]]`: a program that runs when its guards say so, or when another resource has changed. Never in a shell, and never without
//! a reason.

use crate::host::accounts;
use crate::host::process::{Command, Ended, Identity, Output, run, run_if_there};
use crate::kind::prelude::*;
use crate::read;

/// Fields of `[[command]]`. At least one of `creates`, `unless`, `only_if` and `on_change_of` is set, unless another resource notifies it.
/// If there are several guards, all must allow the program to run.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandFields {
    /// Its name. Default: the program and its arguments.
    name: Option<String>,
    /// The program and its arguments.
    run: Vec<String>,
    /// A path: the program runs if the path does not exist, and must create it.
    creates: Option<AbsolutePath>,
    /// A program: `run` runs if this program fails or does not exist, and must make it succeed.
    unless: Option<Vec<String>>,
    /// A program: `run` runs if this program exists and succeeds.
    only_if: Option<Vec<String>>,
    /// Ids of resources: the program runs only if one of them has changed, or another resource notifies it. Without guards, this alone
    /// decides. If omitted, a command with guards runs whenever they allow it, and a command without guards when another resource notifies
    /// it.
    on_change_of: Option<Vec<String>>,
    /// The user that the program and its guards run as, with the primary group and no others. They cannot gain privileges, for example with
    /// `sudo`, unless the user is root. Default: `root`.
    user: Option<AccountName>,
    /// The working directory of the program and its guards. Default: `/`.
    cwd: Option<AbsolutePath>,
    /// Environment variables in addition to `PATH`, `LANG`, `HOME` and `USER`. No others are passed on.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// The time after which the program or guard is terminated, with all processes that it started. Default: `60s`.
    timeout: Option<HumanDuration>,
    /// Whether to omit its arguments and output from messages.
    #[serde(default)]
    sensitive: bool,
}

impl Fields for CommandFields {
    fn build(mut self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let programs = [("run", Some(&self.run)), ("unless", self.unless.as_ref()), ("only_if", self.only_if.as_ref())];
        for (field, argv) in programs {
            let why = "write a program and its arguments, like [\"mkfs.ext4\", \"/dev/sdb1\"]";
            build.refuse_if(argv.is_some_and(|argv| !is_argv(argv)), field, why)?;
        }
        let is_bad =
            |(name, value): (&String, &String)| name.is_empty() || name.contains(['=', '\0']) || value.contains('\0');
        build.refuse_if(self.env.iter().any(is_bad), "env", "a variable has a name without `=`")?;
        let sensitive = self.sensitive || build.is_secret();
        let why = "its arguments are sensitive and can't be used as its name: set `name`";
        build.refuse_if(sensitive && self.name.is_none(), "run", why)?;
        let name = self.name.clone().unwrap_or_else(|| self.run.join(" "));
        let env = self.env.clone().into_iter().collect();
        let on_change_of = self.on_change_of.take();
        Ok(vec![Box::new(Run { name, env, sensitive, on_change_of, fields: self })])
    }
}

/// A program with its guards.
#[derive(Debug)]
pub struct Run {
    name: String,
    env: Vec<(String, String)>,
    sensitive: bool,
    on_change_of: Option<Vec<String>>,
    fields: CommandFields,
}

impl Run {
    /// The path that it must create, if it has one.
    pub fn creates(&self) -> Option<&AbsolutePath> {
        self.fields.creates.as_ref()
    }

    /// Whether only the change of another resource can be a reason to run it.
    fn is_triggered(&self) -> bool {
        self.on_change_of.is_some() || self.has_no_guard()
    }

    fn has_no_guard(&self) -> bool {
        self.fields.creates.is_none() && self.fields.unless.is_none() && self.fields.only_if.is_none()
    }

    /// Whether nothing in its fields defines when it runs, so that another resource must notify it.
    pub fn lacks_reason(&self) -> bool {
        self.on_change_of.is_none() && self.has_no_guard()
    }

    /// Whether the user that it runs as does not exist yet.
    fn lacks_user(&self, work: &Work<'_>) -> Result<bool> {
        let Some(user) = &self.fields.user else { return Ok(false) };
        Ok(work.host.with_accounts(|accounts| accounts.login(user))?.is_none())
    }

    /// The user that it runs as; `None` is root.
    fn identity(&self, work: &Work<'_>) -> Result<Option<Identity>> {
        let Some(user) = &self.fields.user else { return Ok(None) };
        let login = work.host.with_accounts(|accounts| accounts.login(user))?.ok_or_else(|| {
            error!(COMMAND, "`{}` can't run as {user}: there is no such user", self.name)
                .help("add a [[user]] to the role, or the [[package]] that creates the user")
        })?;
        let home = login.home.to_string_lossy().into_owned();
        Ok(Some(Identity { name: user.to_string(), uid: login.uid, gid: login.gid, home }))
    }

    fn command(&self, argv: &[String], identity: Option<Identity>) -> Command<'static> {
        let command = Command::new(argv, self.fields.timeout.map_or(Duration::from_secs(60), |timeout| timeout.0));
        let cwd = self.fields.cwd.as_deref().unwrap_or(&command.cwd).to_owned();
        Command { env: self.env.clone(), cwd, identity, ..command }
    }

    /// Whether every guard says to run it.
    fn is_due(&self, work: &Work<'_>) -> Result<bool> {
        if let Some(path) = &self.fields.creates
            && work.host.root.meta(path)?.is_some()
        {
            return Ok(false);
        }
        // without the user or the directory the guards can't run; another resource creates them
        if self.lacks_user(work)? || self.fields.cwd.as_ref().is_some_and(|cwd| !read::is_directory(cwd)) {
            return Ok(true);
        }
        let identity = self.identity(work)?;
        for (guard, due) in [(&self.fields.unless, false), (&self.fields.only_if, true)] {
            let Some(argv) = guard else { continue };
            let says_yes = match run_if_there(&self.command(argv, identity.clone()))? {
                Some(output) if matches!(output.ended, Ended::TimedOut(_)) => {
                    return Err(self.failure(&output, format!("a guard of `{}` did not end in time", self.name)));
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
            Ended::TimedOut(_) => error.help("raise its `timeout`, or find out what it waits for"),
            Ended::Exited(_) => error,
        }
    }
}

impl Resource for Run {
    fn about(&self) -> About {
        About {
            after: self.fields.user.iter().map(|user| ResourceId::new("user", user)).collect(),
            watches: self.on_change_of.iter().flatten().map(|id| (id.clone(), Trigger::Run)).collect(),
            is_discreet: true,
            ..About::new(CommandFields::NAME, &self.name, Phase::Commands)
        }
    }

    fn definition(&self) -> String {
        format!("{:?}", (&self.fields, &self.name, self.on_change_of.is_some()))
    }

    fn watched_inputs(&self, work: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        // what changes is watched by itself
        if !work.host.is_live() || self.is_triggered() {
            return Ok(Some(Vec::new()));
        }
        let mut inputs = Vec::new();
        if let Some(path) = &self.fields.creates {
            inputs.push(WatchedInput::Place(path.to_path_buf()));
            // while the path exists, no guard runs
            if work.host.root.meta(path)?.is_some() {
                return Ok(Some(inputs));
            }
        }
        // the arguments of guards are recorded
        if self.sensitive || self.lacks_user(work)? {
            return Ok(None);
        }
        let identity = self.identity(work)?;
        if self.fields.user.is_some() {
            inputs.extend(accounts::watched());
        }
        let guards = [&self.fields.unless, &self.fields.only_if].into_iter().flatten();
        inputs.extend(guards.map(|argv| WatchedInput::Program(self.command(argv, identity.clone()))));
        Ok(Some(inputs))
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        Ok((work.host.is_live() && !self.is_triggered() && self.is_due(work)?).then(|| Change::new("run")))
    }

    fn answer(&self, work: &Work<'_>, trigger: Trigger) -> Result<Option<Trigger>> {
        Ok((work.host.is_live() && self.is_due(work)?).then_some(trigger))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        // an earlier resource may have done its work
        if !work.host.is_live() || !self.is_due(work)? {
            return Ok(());
        }
        let output = run(&self.command(&self.fields.run, self.identity(work)?))?;
        // it may have changed the SELinux policy, or created accounts
        work.host.root.labels.forget();
        work.host.forget_accounts();
        if !output.is_success() {
            return Err(self.failure(&output, format!("`{}` failed", self.name)));
        }
        if let Some(path) = self.fields.creates.as_deref()
            && work.host.root.meta(path)?.is_none()
        {
            return Err(self
                .failure(&output, format!("`{}` succeeded, but {} does not exist", self.name, path.display()))
                .help("set `creates` to a path that the command creates; otherwise, each run repeats it"));
        }
        if self.fields.unless.is_some() && self.fields.only_if.is_none() && self.is_due(work)? {
            return Err(error!(COMMAND, "`{}` succeeded, but its `unless` still fails", self.name)
                .help("let `unless` check the effect of the command; otherwise, each run repeats it"));
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
    fn its_watched_inputs_are_what_decides_and_nothing_sensitive() {
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
                let text = |input: &WatchedInput| {
                    work.host.seen(input).unwrap().and_then(|seen| seen.text).unwrap_or_default()
                };
                again.iter().map(|input| String::from_utf8(text(input)).unwrap()).collect()
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
    fn only_a_change_is_a_reason_to_run_a_command_with_on_change_of_or_without_a_guard() {
        let dir = tempfile::tempdir().unwrap();
        for (fields, due) in [
            ("on_change_of = ['file:/x']", true),
            ("on_change_of = []\nunless = ['false']", true),
            ("on_change_of = ['file:/x']\nunless = ['true']", false),
            ("", true),
        ] {
            let command = one("command", &format!("run = ['true']\n{fields}"));
            live(dir.path(), |work| {
                assert!(command.observe(work).unwrap().is_none(), "{fields}");
                assert_eq!(command.answer(work, Trigger::Run).unwrap().is_some(), due, "{fields}");
                assert_eq!(command.watched_inputs(work).unwrap(), Some(Vec::new()), "{fields}");
            });
        }
    }

    #[test]
    fn nothing_is_run_for_a_tree() {
        let tree = Tree::new();
        let command = one("command", "run = ['false']\nunless = ['false']");
        assert_eq!(tree.summary(&*command), None);
        command.apply(&tree.work(), &Change::default()).unwrap();
    }

    #[test]
    fn a_command_without_a_reason_or_a_program_is_refused() {
        let error = crate::resolve::testing::catalog("[[command]]\nrun = ['true']\n").unwrap_err();
        assert_eq!(error.to_string(), "nothing defines when to run `command:true`");
        assert!(error.advice().unwrap().contains("`creates`, `unless` or `only_if`"));
        assert!(refusal("command", "run = []\nunless = ['true']").starts_with("`run`: "));
        assert!(refusal("command", "run = ['x']\nunless = ['true']\nsensitive = true").contains("set `name`"));
    }
}
