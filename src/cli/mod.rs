//! The commands, one file each; the only place that prints.

#[expect(clippy::disallowed_methods, reason = "an operator's own command")]
mod adopt;
mod apply;
mod check;
#[expect(clippy::disallowed_methods, reason = "an operator's own command")]
mod compare;
mod completions;
#[expect(clippy::disallowed_methods, reason = "an operator's own command")]
mod demo;
mod diff;
#[expect(clippy::disallowed_methods, reason = "an operator's own command")]
mod enroll;
mod explain;
mod facts;
mod fleet;
#[expect(clippy::disallowed_methods, reason = "an operator's own command")]
mod fmt;
mod gc;
mod graph;
mod help;
mod history;
mod hold;
mod keys;
#[expect(clippy::disallowed_methods, reason = "an operator's own command")]
mod man;
mod memory;
#[expect(clippy::disallowed_methods, reason = "an operator's own command")]
mod mirror;
#[expect(clippy::disallowed_methods, reason = "an operator's own command")]
mod new;
#[expect(clippy::disallowed_methods, reason = "an operator's own command")]
mod pin;
mod pki;
mod plan;
mod publish;
mod rollback;
mod schema;
#[expect(clippy::disallowed_methods, reason = "an operator's own command")]
mod secret;
mod self_test;
mod sign;
mod status;
mod test;
mod vendor;
mod verify;

use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use miette::{GraphicalReportHandler, GraphicalTheme};
use textwrap::WordSplitter;

use crate::document::Files;
use crate::engine::Agent;
use crate::error::{Error, Exit, Result, advice, code, mask};
use crate::host::launch;
use crate::host::process::keep_private;
use crate::net;
use crate::report::terminal::{self, Level};
use crate::report::{self, Report};
use crate::sandbox;
use crate::site::Site;

/// Pulls this host's signed manifest and makes the host what it says.
#[derive(Debug, Parser)]
#[command(
    name = "kpull",
    version,
    arg_required_else_help = true,
    infer_long_args = true,
    disable_help_subcommand = true
)]
#[command(after_help = "Exit codes: 0 nothing (left) to do · 1 an error, nothing lost · 2 `plan` found changes · \
                        3 not healthy · 4 the release was refused · 75 another run is at work")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make this host what its release says.
    Apply(apply::Apply),
    /// Show what `apply` would do, and do nothing.
    Plan(plan::Plan),
    /// Tell which release this host follows and how the last run went.
    Status(status::Status),
    /// Tell which releases were applied here, when, by whom they were signed, and what they changed.
    History(history::History),
    /// Show what differs between two generations of this host.
    Diff(diff::Diff),
    /// Go back to an earlier release, and stay there until a newer one comes.
    Rollback(rollback::Rollback),
    /// Leave a resource alone for a while.
    Hold(hold::Hold),
    /// Take care of a held resource again.
    Unhold(hold::Unhold),
    /// Leave what a resource has made on the host when its role is gone.
    Disown(hold::Disown),
    /// Delete old generations, their releases, and saved contents and artifacts that nothing needs.
    Gc(gc::Gc),
    /// Ask every probe of this host once, and tell how long its certificates live.
    Verify(verify::Verify),
    /// Tell whether this program can read this host's configuration and release; changes nothing.
    SelfTest(self_test::SelfTest),
    /// Tell how every host of a site is, from what they have signed.
    Fleet(fleet::Fleet),
    /// Make a site, or a role or host of one.
    New(new::New),
    /// Print the JSON Schema of a file, for editors.
    Schema(schema::Schema),
    /// Format the TOML files of a site.
    Fmt(fmt::Fmt),
    /// Check a site: every host of it, without touching any.
    Check(check::Check),
    /// Hold the roles of a site to their examples.
    Test(test::Test),
    /// Show what a change of a site becomes on each host, in Markdown.
    Compare(compare::Compare),
    /// Tell the facts of this machine, to be recorded beside a site.
    Facts(facts::FactsOf),
    /// Tell where the value of a variable comes from.
    Explain(explain::Explain),
    /// Show a host's resources in the order in which they have their turn.
    Graph(graph::Graph),
    /// Say what this host trusts from now on.
    Enroll(enroll::Enroll),
    /// Show, make and sign the sets of keys of a site.
    Keys(keys::Keys),
    /// Write, show and encrypt the secrets of a site.
    Secret(secret::Secret),
    /// Sign a site as a release.
    Sign(sign::Sign),
    /// Write a role out of what is on this host already.
    Adopt(adopt::Adopt),
    /// Keep a site's authorities and certificates.
    Pki(pki::Pki),
    /// Take roles of other sites into this one, pinned and signed.
    Vendor(vendor::Vendor),
    /// Download upstream files, and pin them in a site's artifacts.toml.
    Pin(pin::Pin),
    /// Copy every artifact of a site into a directory that hosts can use as a mirror.
    Mirror(mirror::Mirror),
    /// Put a signed release where hosts find it: a directory, or a web server that takes PUT.
    Publish(publish::Publish),
    /// Show all of it on three hosts in directories, offline.
    Demo(demo::Demo),
    /// Write what a shell needs to complete command lines to standard output.
    Completions(completions::Completions),
    /// Write the manual pages.
    Man(man::Man),
    /// Explain the code of an error, or a command.
    Help(help::Help),
}

/// A command: what it does, and how it says that something failed.
trait Run {
    /// Does it.
    fn run(&self) -> Result<Exit>;

    /// Whether a program reads the output.
    fn json(&self) -> bool;
}

/// Which host, and how to talk.
#[derive(Args, Debug)]
struct HostArgs {
    /// Work in this directory as if it were `/`; units, firewall and kernel are left out
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Read this configuration [default: etc/kpull/kpull.toml of the root]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Be this host of the site
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Write one JSON object a line
    #[arg(long)]
    json: bool,
}

impl HostArgs {
    fn config(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| self.root.join("etc/kpull/kpull.toml"))
    }

    fn agent<'a>(&self, report: &'a dyn Report) -> Result<Agent<'a>> {
        keep_private();
        Agent::open(&self.root, &self.config(), self.host.as_deref(), report)
    }
}

/// How much is told.
#[derive(Args, Clone, Copy, Debug)]
struct TalkArgs {
    /// Tell only what somebody should look at
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
    /// Tell where each resource is written, and show whole texts
    #[arg(short, long)]
    verbose: bool,
}

impl TalkArgs {
    fn level(self) -> Level {
        match (self.quiet, self.verbose) {
            (true, _) => Level::Quiet,
            (_, true) => Level::Verbose,
            _ => Level::Normal,
        }
    }
}

/// Which site: a directory that somebody edits, or the release that this host has.
#[derive(Args, Debug)]
struct SiteArgs {
    /// The site's directory [default: here if there is a site.toml, else the release that this host has]
    #[arg(long, value_name = "DIR")]
    site: Option<PathBuf>,
}

impl SiteArgs {
    fn dir(&self) -> Option<PathBuf> {
        self.site.clone().or_else(|| nix::sys::stat::stat("site.toml").is_ok().then(|| PathBuf::from(".")))
    }

    fn load(&self) -> Result<Arc<Site>> {
        match self.dir() {
            Some(dir) => Ok(Arc::new(Site::load(Files::in_directory(&dir)?)?)),
            None => {
                let report = report::Text::new(false);
                let agent = Agent::open(Path::new("/"), Path::new("/etc/kpull/kpull.toml"), None, &report)?;
                agent.cached_site()?.ok_or_else(|| {
                    Error::new(code::SITE, "there is no site here, and this host has no release yet")
                        .help("say --site DIR")
                })
            }
        }
    }
}

/// Which site is worked on, and how to talk, for commands that have commands of their own.
#[derive(Args, Debug)]
struct DeskArgs {
    /// The site's directory
    #[arg(long, value_name = "DIR", default_value = ".", global = true)]
    site: PathBuf,
    /// Write one JSON object a line
    #[arg(long, global = true)]
    json: bool,
}

/// How to talk TLS with a server.
#[derive(Args, Debug)]
struct TlsArgs {
    /// Trust only the authorities in this PEM file
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Show the client certificate in this PEM file
    #[arg(long, value_name = "FILE", requires = "client_key")]
    client_cert: Option<PathBuf>,
    /// The key of the client certificate
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    client_key: Option<PathBuf>,
}

impl TlsArgs {
    fn options(&self) -> net::Options {
        net::Options {
            ca: self.ca.clone(),
            client_cert: self.client_cert.clone(),
            client_key: self.client_key.clone(),
            ..net::Options::default()
        }
    }
}

/// How to talk with one server, credentials too.
#[derive(Args, Debug)]
struct NetArgs {
    #[command(flatten)]
    tls: TlsArgs,
    /// Send the bearer token in this file
    #[arg(long, value_name = "FILE", conflicts_with = "basic")]
    bearer: Option<PathBuf>,
    /// Send USER:PASSWORD as it stands in this file
    #[arg(long, value_name = "FILE")]
    basic: Option<PathBuf>,
}

impl NetArgs {
    fn options(&self) -> net::Options {
        net::Options { bearer: self.bearer.clone(), basic: self.basic.clone(), ..self.tls.options() }
    }
}

/// Every command and its arguments, as the command line knows them: for manual pages, completions, and the manual's tests.
pub fn command() -> clap::Command {
    Cli::command()
}

/// The command that a host's timer runs, understood without all the others: only to make these known takes a tenth of a run with
/// nothing to do. `None` when it is another one, or can't be run.
fn apply_alone(mut words: impl Iterator<Item = OsString>) -> Option<(Command, Given)> {
    const NAME: &str = "apply";
    if words.next()? != NAME {
        return None;
    }
    let alone = clap::Command::new(NAME).infer_long_args(true).no_binary_name(true);
    let matches = apply::Apply::augment_args(alone).try_get_matches_from(words).ok()?;
    apply::Apply::from_arg_matches(&matches).ok().map(|apply| (Command::Apply(apply), given(NAME, &matches)))
}

/// A command line, with the program's name, that may have any command.
fn any(words: impl Iterator<Item = OsString>) -> Result<(Command, Given), clap::Error> {
    let mut matches = Cli::command().try_get_matches_from(words)?;
    let command = Cli::from_arg_matches(&matches)?.command;
    let name = matches.subcommand_name().unwrap_or_default().to_owned();
    // those of a command of a command
    while let Some((_, inner)) = matches.remove_subcommand() {
        matches = inner;
    }
    Ok((command, given(&name, &matches)))
}

/// `enroll` writes into kpull.toml which host of which site this is: later commands need no `--host`, and its `--site` is a name, where that of
/// all others is a directory.
const ENROLL: &str = "enroll";

/// Options and their values.
type Given = Vec<(&'static str, String)>;

/// The options that a command which this one proposes has to be given too: whose host, and which site.
fn given(command: &str, matches: &ArgMatches) -> Given {
    let said = |name: &'static str| {
        let mut values = matches.try_get_raw(name).ok().flatten()?;
        let is_said = matches.value_source(name) == Some(ValueSource::CommandLine);
        values.next_back().filter(|_| is_said).map(|value| (name, value.to_string_lossy().into_owned()))
    };
    let has = |name| matches.try_contains_id(name).is_ok();
    let is_enroll = command == ENROLL;
    // a host that is named beside a root is the one that it is; others are what the command is about
    let host = if has("root") && !is_enroll { said("host") } else { None };
    let site = if is_enroll { None } else { said("site") };
    [said("root"), said("config"), host, site].into_iter().flatten().collect()
}

/// Whether a command, by its words, has such an option for the same.
fn takes(words: &[&str], option: &str) -> bool {
    let mut command = &Cli::command();
    let mut options: Vec<&str> = Vec::new();
    for word in words {
        let Some(inner) = command.find_subcommand(word) else { break };
        command = inner;
        options.extend(command.get_arguments().filter_map(clap::Arg::get_long));
    }
    let means_it = match option {
        "host" => options.contains(&"root"),
        "site" => words.first() != Some(&ENROLL),
        _ => true,
    };
    means_it && options.contains(&option)
}

/// Runs the command line of this process; the result is its exit code.
pub fn main() -> Exit {
    // started by ourselves: no commands for people
    let mut words = std::env::args_os().skip(1);
    match words.next() {
        Some(word) if word == launch::COMMAND => std::process::exit(launch::main(words)),
        Some(word) if word == sandbox::COMMAND && words.len() == 0 => return sandbox::main(),
        _ => launch::prepare(std::env::args_os()),
    }
    // what is in memory stays there: no core file, and nobody else of this user may look in. Neither is worth failing for
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
    let _ = nix::sys::prctl::set_dumpable(false);
    let understood = apply_alone(std::env::args_os().skip(1));
    let command = match understood.map_or_else(|| any(std::env::args_os()), Ok) {
        Ok((command, given)) => {
            advice::remember(given, takes);
            command
        }
        Err(error) => {
            let _ = error.print();
            // not clap's own 2, which means that `plan` found changes
            return if error.use_stderr() { Exit::Failed } else { Exit::Done };
        }
    };
    let is_apply = matches!(command, Command::Apply(_));
    let command: &dyn Run = match &command {
        Command::Apply(command) => command,
        Command::Plan(command) => command,
        Command::Status(command) => command,
        Command::History(command) => command,
        Command::Diff(command) => command,
        Command::Rollback(command) => command,
        Command::Hold(command) => command,
        Command::Unhold(command) => command,
        Command::Disown(command) => command,
        Command::Gc(command) => command,
        Command::Verify(command) => command,
        Command::SelfTest(command) => command,
        Command::Fleet(command) => command,
        Command::New(command) => command,
        Command::Schema(command) => command,
        Command::Fmt(command) => command,
        Command::Check(command) => command,
        Command::Test(command) => command,
        Command::Compare(command) => command,
        Command::Facts(command) => command,
        Command::Explain(command) => command,
        Command::Graph(command) => command,
        Command::Enroll(command) => command,
        Command::Keys(command) => command,
        Command::Secret(command) => command,
        Command::Sign(command) => command,
        Command::Adopt(command) => command,
        Command::Pki(command) => command,
        Command::Vendor(command) => command,
        Command::Pin(command) => command,
        Command::Mirror(command) => command,
        Command::Publish(command) => command,
        Command::Demo(command) => command,
        Command::Completions(command) => command,
        Command::Man(command) => command,
        Command::Help(command) => command,
    };
    if !is_apply {
        let json = command.json();
        memory::watch(move |error| show(error, json));
    }
    let exit = command.run().unwrap_or_else(|error| {
        show(&error, command.json());
        error.exit_code()
    });
    mask::forget();
    exit
}

/// Writes an error, and those that were found with it: to standard error for a person, to standard output as JSON.
fn show(error: &Error, json: bool) {
    if json {
        std::iter::once(error).chain(error.others()).for_each(|error| print_json(&describe(error)));
        return;
    }
    for error in error.told().iter().filter(|error| !report::failed(error)) {
        eprint!("{}", mask::hide(&graphical(error)));
    }
}

fn describe(error: &Error) -> serde_json::Value {
    let (line, column) = error.place().map(crate::error::Place::line_column).unzip();
    serde_json::json!({
        "event": "error", "version": report::VERSION, "code": error.code().name, "error": error.to_string(), "help": error.advice(),
        "file": error.place().map(|place| &place.file), "line": line, "column": column, "label": error.label(), "exit": error.exit_code() as u8,
    })
}

fn graphical(error: &Error) -> String {
    let stream = std::io::stderr();
    drawn(error, terminal::colors(stream.is_terminal()), terminal::width(stream))
}

/// An error with its place, for a terminal of this width; without one each of its texts is a line, for journals and pipes.
fn drawn(error: &Error, is_coloured: bool, width: Option<usize>) -> String {
    let theme = match is_coloured {
        true => GraphicalTheme::unicode(),
        false => GraphicalTheme::unicode_nocolor(),
    };
    let handler = GraphicalReportHandler::new_themed(theme)
        .with_wrap_lines(width.is_some())
        .with_width(width.unwrap_or_default().max(40))
        .with_break_words(false)
        .with_word_separator(terminal::SEPARATOR)
        .with_word_splitter(WordSplitter::NoHyphenation);
    let mut text = String::new();
    if handler.render_report(&mut text, error).is_err() {
        text = format!("{error}\n");
    }
    if let Some(place) = error.place().filter(|place| !place.can_be_shown()) {
        text.push_str(&format!("  at: {}\n", crate::error::one_line(&place.to_string())));
    }
    let code = format!("error[{}]", error.code().name);
    match is_coloured {
        true => format!("\x1b[1;31m{code}\x1b[0m\n{text}"),
        false => format!("{code}\n{text}"),
    }
}

/// Writes a line for a person to standard output; no name in it can do something to the terminal.
fn print(line: &str) {
    print_as_is(&crate::error::visible(line));
}

/// Prints one line, whatever names are in it: none begins a line that nobody has written.
fn print_line(line: &str) {
    print_as_is(&crate::error::one_line(line));
}

/// Writes one JSON object to standard output.
fn print_json(value: &serde_json::Value) {
    print_as_is(&report::json_line(value.clone()));
}

/// Writes a line, colours and all. A reader that has gone away (`| head`) is no failure.
fn print_as_is(line: &str) {
    let _ = writeln!(std::io::stdout(), "{}", mask::hide(line));
}

/// Writes what is for a program as it is.
fn print_bytes(bytes: &[u8]) {
    let _ = std::io::stdout().write_all(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alone(line: &str) -> Option<String> {
        apply_alone(line.split(' ').map(OsString::from)).map(|(command, _)| format!("{command:?}"))
    }

    fn given_by(line: &str) -> Vec<(&'static str, String)> {
        let words = || line.split(' ').map(OsString::from);
        let understood = apply_alone(words());
        understood.unwrap_or_else(|| any([OsString::from("kpull")].into_iter().chain(words())).unwrap()).1
    }

    #[test]
    fn what_was_said_of_the_host_and_the_site_goes_with_each_command_that_understands_it() {
        let one = |name: &'static str, value: &str| (name, value.to_owned());
        assert_eq!(given_by("apply -v"), []);
        assert_eq!(given_by("apply --root /t --host h"), [one("root", "/t"), one("host", "h")]);
        assert_eq!(given_by("enroll https://x --root /t --site s --host h --fingerprint f"), [one("root", "/t")]);
        assert_eq!(given_by("plan --site s --root /t"), [one("root", "/t"), one("site", "s")]);
        assert_eq!(given_by("pki --site s list"), [one("site", "s")]);
        assert_eq!(given_by("pki renew --site s --host h"), [one("site", "s")]);
        for (command, options) in [
            ("apply --retry", ["root", "config", "host"].as_slice()),
            ("plan", &["root", "config", "host", "site"]),
            ("sign", &["site"]),
            ("pki renew", &["site"]),
            ("secret set NAME", &["site"]),
            ("enroll", &["root", "config", "host"]),
            ("help plan", &[]),
            ("nothing", &[]),
        ] {
            let words: Vec<&str> = command.split(' ').collect();
            let all = ["root", "config", "host", "site"];
            assert_eq!(
                all.into_iter().filter(|option| takes(&words, option)).collect::<Vec<_>>(),
                options,
                "{command}"
            );
        }
    }

    #[test]
    fn an_error_is_broken_into_lines_for_a_terminal_alone_and_never_in_a_command() {
        let command = "`kpull keys sign --site /srv/a-long-name --key /root/.ssh/id_ed25519`";
        let error =
            Error::new(code::SITE, "the keys of this site are signed by too few of those who are to sign them, by far")
                .because("one of the two signatures that count is missing there")
                .help(format!("somebody else has to sign them, with a key that counts: {command}, then run again"));
        let one_line = drawn(&error, false, None);
        assert_eq!(one_line.lines().count(), 3, "{one_line}");
        for width in [1, 40, 60, 100, 200] {
            let text = drawn(&error, false, Some(width));
            let is_whole = |line: &&str| line.contains(command);
            assert_eq!(text.lines().filter(is_whole).count(), 1, "{width}: {text}");
            let widest = text.lines().filter(|line| !is_whole(line)).map(|line| line.chars().count()).max();
            assert!(widest <= Some(width.max(40)), "{width}: {text}");
        }
        assert_eq!(drawn(&error, false, Some(300)), one_line);
    }

    #[test]
    fn the_timers_command_is_understood_alone_as_among_the_others() {
        for line in ["apply", "apply --full", "apply --ful -v", "apply --root /x --json", "apply --root=/x --diff -q"] {
            let among = Cli::try_parse_from(["kpull"].into_iter().chain(line.split(' '))).unwrap();
            assert_eq!(alone(line), Some(format!("{:?}", among.command)), "{line}");
        }
    }

    #[test]
    fn what_is_another_command_or_none_is_left_to_those_who_know_all() {
        for line in ["plan", "apply --help", "apply -V", "apply --nothing", "apply more", "--json apply", ""] {
            assert_eq!(alone(line), None, "{line}");
        }
    }
}
