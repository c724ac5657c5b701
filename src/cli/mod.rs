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
mod prelude;
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
use std::fmt::{Debug, Write as _};
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args};
use miette::{GraphicalReportHandler, GraphicalTheme};
use textwrap::WordSplitter;

use crate::document::Files;
use crate::engine::Agent;
use crate::error::{Error, Exit, Result, advice, error, mask};
use crate::host::process::keep_private;
use crate::host::process::launch;
use crate::net;
use crate::report::terminal::{self, Level};
use crate::report::{self, Report};
use crate::sandbox;
use crate::site::Site;

/// What the program is for, in the first line of its help.
const ABOUT: &str = "Pull a signed release and apply it to this host";
const EXIT_CODES: &str = "Exit codes: 0 nothing to do, or everything applied · 1 error, nothing lost · 2 `plan` found changes · \
                          3 unhealthy · 4 release refused · 75 another run is in progress";

/// A command: parses into its arguments, and runs.
trait Run: Debug {
    /// Runs the command.
    fn run(&self) -> Result<Exit>;
}

/// How a command is called, described and parsed.
struct Entry {
    name: &'static str,
    about: &'static str,
    augment: fn(clap::Command) -> clap::Command,
    parse: fn(&ArgMatches) -> Result<Box<dyn Run>, clap::Error>,
}

const fn entry<T: Args + Run + 'static>(name: &'static str, about: &'static str) -> Entry {
    let parse = |matches: &ArgMatches| Ok(Box::new(T::from_arg_matches(matches)?) as Box<dyn Run>);
    Entry { name, about, augment: T::augment_args, parse }
}

/// Every command, by where you run it.
static COMMANDS: [(&str, &[Entry]); 4] = [
    (
        "On a host",
        &[
            entry::<apply::Apply>("apply", "Apply the current release to this host"),
            entry::<plan::Plan>("plan", "Show what `apply` changes, without changing the host"),
            entry::<status::Status>("status", "Show the release of this host and the result of its last run"),
            entry::<verify::Verify>("verify", "Run all probes once and show when certificates expire"),
            entry::<history::History>("history", "List applied releases, their signers and their changes"),
            entry::<diff::Diff>("diff", "Compare two generations of this host"),
            entry::<rollback::Rollback>("rollback", "Roll back to an earlier release until a newer one arrives"),
            entry::<hold::Hold>("hold", "Exclude a resource from changes for a while"),
            entry::<hold::Unhold>("unhold", "Manage a held resource again"),
            entry::<hold::Disown>("disown", "Keep a resource unchanged when its role is removed"),
            entry::<gc::Gc>("gc", "Delete old generations, and unused saved contents and artifacts"),
            entry::<enroll::Enroll>("enroll", "Set which site and which signers this host trusts"),
            entry::<self_test::SelfTest>("self-test", "Test whether this kpull can read the configuration and release"),
            entry::<facts::FactsOf>("facts", "Print the facts of this machine, to record them in a site"),
            entry::<adopt::Adopt>("adopt", "Write a role from existing files and settings of this host"),
        ],
    ),
    (
        "For a site",
        &[
            entry::<new::New>("new", "Create a site, a cluster, a role or a host"),
            entry::<check::Check>("check", "Check every host of a site, without contacting the hosts"),
            entry::<test::Test>("test", "Test roles against their examples"),
            entry::<compare::Compare>("compare", "Show the effect of a site's change on each host, in Markdown"),
            entry::<explain::Explain>("explain", "Show where the value of a variable comes from"),
            entry::<graph::Graph>("graph", "Show the resources of a host in order, with their dependencies"),
            entry::<fmt::Fmt>("fmt", "Format the TOML files of a site"),
            entry::<schema::Schema>("schema", "Print the JSON Schema of a file, for editors"),
            entry::<vendor::Vendor>("vendor", "Copy pinned, signed roles from other sites"),
            entry::<pin::Pin>("pin", "Download upstream files and pin them in artifacts.toml"),
            entry::<mirror::Mirror>("mirror", "Copy all artifacts of a site to a directory that serves as a mirror"),
            entry::<sign::Sign>("sign", "Sign a site as a release"),
            entry::<publish::Publish>("publish", "Publish a signed release to a directory or web server"),
            entry::<fleet::Fleet>("fleet", "Show the status of every host of a site"),
        ],
    ),
    (
        "Keys and certificates",
        &[
            entry::<keys::Keys>("keys", "Show, create and sign the key sets of a site"),
            entry::<secret::Secret>("secret", "Write, show and encrypt the secrets of a site"),
            entry::<pki::Pki>("pki", "Manage the authorities and certificates of a site"),
        ],
    ),
    (
        "For everybody",
        &[
            entry::<demo::Demo>("demo", "Demonstrate the whole flow on hosts in directories, offline"),
            entry::<help::Help>("help", "Explain an error code or a command"),
            entry::<completions::Completions>("completions", "Print the completion script of a shell"),
            entry::<man::Man>("man", "Write the manual pages"),
        ],
    ),
];

fn entries() -> impl Iterator<Item = &'static Entry> {
    COMMANDS.iter().flat_map(|(_, entries)| entries.iter())
}

/// Which host, and how to report.
#[derive(Args, Debug)]
struct HostArgs {
    /// Use this directory as if it were `/`, without units, firewall and kernel
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Read this configuration [default: etc/kpull/kpull.toml below --root]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Act as this host of the site
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Write one JSON object on each line
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

/// How much a command reports.
#[derive(Args, Clone, Copy, Debug)]
struct VerbosityArgs {
    /// Report only problems
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
    /// Show where each resource is defined, and show complete texts
    #[arg(short, long)]
    verbose: bool,
}

impl VerbosityArgs {
    fn level(self) -> Level {
        match (self.quiet, self.verbose) {
            (true, _) => Level::Quiet,
            (_, true) => Level::Verbose,
            _ => Level::Normal,
        }
    }
}

/// Which site: a directory, or the release of this host.
#[derive(Args, Debug)]
struct SiteSource {
    /// The site's directory [default: the current one if it has a site.toml, otherwise the release of this host]
    #[arg(long, value_name = "DIR")]
    site: Option<PathBuf>,
}

impl SiteSource {
    fn dir(&self) -> Option<PathBuf> {
        self.site.clone().or_else(|| nix::sys::stat::stat("site.toml").is_ok().then(|| PathBuf::from(".")))
    }

    fn load(&self) -> Result<Arc<Site>> {
        match self.dir() {
            Some(dir) => load_site(&dir),
            None => {
                let report = report::Text::new(false);
                let agent = Agent::open(Path::new("/"), Path::new("/etc/kpull/kpull.toml"), None, &report)?;
                kept_site(&agent)
            }
        }
    }
}

fn load_site(dir: &Path) -> Result<Arc<Site>> {
    Ok(Arc::new(Site::load(Files::in_directory(dir)?)?))
}

fn kept_site(agent: &Agent<'_>) -> Result<Arc<Site>> {
    agent
        .cached_site()?
        .ok_or_else(|| error!(SITE, "there is no site here, and this host has no release yet").help("add --site DIR"))
}

/// Which site, and how to report, for commands that work on a site's directory.
#[derive(Args, Debug)]
struct SiteArgs {
    /// The site's directory
    #[arg(long, value_name = "DIR", default_value = ".", global = true)]
    site: PathBuf,
    /// Write one JSON object on each line
    #[arg(long, global = true)]
    json: bool,
}

/// How to connect to a TLS server.
#[derive(Args, Clone, Debug)]
struct TlsArgs {
    /// Trust only the authorities in this PEM file
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Present the client certificate in this PEM file
    #[arg(long, value_name = "FILE", requires = "client_key")]
    client_cert: Option<PathBuf>,
    /// The key of the client certificate
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    client_key: Option<PathBuf>,
}

impl TlsArgs {
    fn options(&self) -> net::Options {
        let Self { ca, client_cert, client_key } = self.clone();
        net::Options { ca, client_cert, client_key, ..net::Options::default() }
    }
}

/// Every command and its arguments: for parsing, manual pages, completions, and the manual's tests.
pub fn command() -> clap::Command {
    let header = *clap::builder::Styles::default().get_header();
    let mut list = String::new();
    for (group, entries) in &COMMANDS {
        let _ = write!(list, "\n{header}{group}:{header:#}\n");
        for Entry { name, about, .. } in *entries {
            let _ = writeln!(list, "  {name:<12} {about}");
        }
    }
    let template = format!(
        "{{about}}\n\n{{usage-heading}} {{usage}}\n{list}\n{header}Options:{header:#}\n{{options}}{{after-help}}"
    );
    let subcommands =
        entries().map(|entry| (entry.augment)(clap::Command::new(entry.name)).about(entry.about).long_about(None));
    clap::Command::new("kpull")
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .after_help(EXIT_CODES)
        .help_template(template)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .infer_long_args(true)
        .disable_help_subcommand(true)
        .subcommands(subcommands)
}

/// A parsed command line.
#[derive(Debug)]
struct Parsed {
    command: Box<dyn Run>,
    is_apply: bool,
    json: bool,
    given: Given,
}

impl Parsed {
    fn new(entry: &Entry, matches: ArgMatches) -> Result<Self, clap::Error> {
        let command = (entry.parse)(&matches)?;
        let mut innermost = matches;
        while let Some((_, inner)) = innermost.remove_subcommand() {
            innermost = inner;
        }
        let json = innermost.try_get_one("json").ok().flatten().copied().unwrap_or(false);
        Ok(Self { command, is_apply: entry.name == APPLY.name, json, given: given(entry.name, &innermost) })
    }
}

/// The command that a host's timer runs.
const APPLY: &Entry = &COMMANDS[0].1[0];

/// Parses `apply` without the other commands: to build them all takes a tenth of a run with nothing to do. `None` for another
/// command, or one that can't be parsed.
fn parse_apply(mut words: impl Iterator<Item = OsString>) -> Option<Parsed> {
    if words.next()? != APPLY.name {
        return None;
    }
    let alone = clap::Command::new(APPLY.name).infer_long_args(true).no_binary_name(true);
    Parsed::new(APPLY, (APPLY.augment)(alone).try_get_matches_from(words).ok()?).ok()
}

/// Parses a command line that starts with the program's name.
fn parse(words: impl Iterator<Item = OsString>) -> Result<Parsed, clap::Error> {
    let mut matches = command().try_get_matches_from(words)?;
    let called = matches.remove_subcommand();
    let found = called.and_then(|(name, inner)| Some((entries().find(|entry| entry.name == name)?, inner)));
    let (entry, inner) = found.ok_or_else(|| clap::Error::new(ErrorKind::InvalidSubcommand))?;
    Parsed::new(entry, inner)
}

/// `enroll` writes the host and site to kpull.toml, so later commands need no `--host`. Its `--site` is a name; for all others it is a
/// directory.
const ENROLL: &str = "enroll";

/// Options and their values.
type Given = Vec<(&'static str, String)>;

/// The options of this command that the commands it suggests need too: which host, and which site.
fn given(command: &str, matches: &ArgMatches) -> Given {
    let value_of = |name: &'static str| {
        let mut values = matches.try_get_raw(name).ok().flatten()?;
        let is_given = matches.value_source(name) == Some(ValueSource::CommandLine);
        values.next_back().filter(|_| is_given).map(|value| (name, value.to_string_lossy().into_owned()))
    };
    let has = |name| matches.try_contains_id(name).is_ok();
    let is_enroll = command == ENROLL;
    // with `--root`, `--host` is the host to act as; elsewhere it is the object of the command
    let host = if has("root") && !is_enroll { value_of("host") } else { None };
    let site = if is_enroll { None } else { value_of("site") };
    [value_of("root"), value_of("config"), host, site].into_iter().flatten().collect()
}

/// Whether a command, given by its words, has this option with the same meaning.
fn accepts(words: &[&str], option: &str) -> bool {
    let mut command = &command();
    let mut options: Vec<&str> = Vec::new();
    for word in words {
        let Some(inner) = command.find_subcommand(word) else { break };
        command = inner;
        options.extend(command.get_arguments().filter_map(clap::Arg::get_long));
    }
    let has_same_meaning = match option {
        "host" => options.contains(&"root"),
        "site" => words.first() != Some(&ENROLL),
        _ => true,
    };
    has_same_meaning && options.contains(&option)
}

/// Runs the command line of this process; the result is its exit code.
pub fn main() -> Exit {
    // processes that kpull starts itself, with arguments that are not for people
    let mut words = std::env::args_os().skip(1);
    match words.next() {
        Some(word) if word == launch::COMMAND => std::process::exit(launch::main(words)),
        Some(word) if word == sandbox::COMMAND && words.len() == 0 => return sandbox::main(),
        _ => launch::prepare(std::env::args_os()),
    }
    // keep memory private: no core dumps, and no access for other processes of this user. If this fails, the command still runs
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
    let _ = nix::sys::prctl::set_dumpable(false);
    let parsed = parse_apply(std::env::args_os().skip(1)).map_or_else(|| parse(std::env::args_os()), Ok);
    let Parsed { command, is_apply, json, given } = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            let _ = error.print();
            // not clap's own 2, which means that `plan` found changes
            return if error.use_stderr() { Exit::Failed } else { Exit::Done };
        }
    };
    advice::remember(given, accepts);
    if !is_apply {
        memory::watch(move |error| show(error, json));
    }
    let exit = command.run().unwrap_or_else(|error| {
        show(&error, json);
        error.exit_code()
    });
    mask::forget();
    exit
}

/// Writes an error and those found with it: to standard error as text, or to standard output as JSON.
fn show(error: &Error, json: bool) {
    if json {
        std::iter::once(error).chain(error.others()).for_each(|error| print_json(describe(error)));
        return;
    }
    for error in error.grouped().iter().filter(|error| !report::failed(error)) {
        eprint!("{}", mask::hide(&graphical(error)));
    }
}

fn describe(error: &Error) -> serde_json::Value {
    let (line, column) = error.place().map(crate::error::Place::line_column).unzip();
    serde_json::json!({
        "event": "error", "code": error.code().name, "error": error.to_string(), "help": error.advice(),
        "file": error.place().map(|place| &place.file), "line": line, "column": column, "label": error.label(), "exit": error.exit_code() as u8,
    })
}

fn graphical(error: &Error) -> String {
    let stream = std::io::stderr();
    render(error, terminal::colors(stream.is_terminal()), terminal::width(stream))
}

/// An error with its place, for a terminal of this width. Without a width, each text is one line, for journals and pipes.
fn render(error: &Error, is_coloured: bool, width: Option<usize>) -> String {
    let theme = if is_coloured { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
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
    if is_coloured { format!("\x1b[1;31m{code}\x1b[0m\n{text}") } else { format!("{code}\n{text}") }
}

/// Prints lines for a person, with control characters made visible.
fn print(line: &str) {
    print_as_is(&crate::error::visible(line));
}

/// Prints one line, whatever names it contains.
fn print_line(line: &str) {
    print_as_is(&crate::error::one_line(line));
}

/// Prints one JSON object, with the version of the output format.
fn print_json(mut object: serde_json::Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert("version".to_owned(), report::VERSION.into());
    }
    print_as_is(&report::json_line(object));
}

/// Prints a result: a JSON object, or one line for a person.
fn print_result(json: bool, object: serde_json::Value, line: &str) {
    if json { print_json(object) } else { print_line(line) }
}

/// Prints a line with its colors. A reader that has ended (`| head`) is no failure.
fn print_as_is(line: &str) {
    let _ = writeln!(std::io::stdout(), "{}", mask::hide(line));
}

/// Prints output for a program, unchanged.
fn print_bytes(bytes: &[u8]) {
    let _ = std::io::stdout().write_all(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alone(line: &str) -> Option<String> {
        parse_apply(line.split(' ').map(OsString::from)).map(|parsed| format!("{parsed:?}"))
    }

    fn among_all(words: impl Iterator<Item = OsString>) -> Parsed {
        parse([OsString::from("kpull")].into_iter().chain(words)).unwrap()
    }

    fn given_by(line: &str) -> Vec<(&'static str, String)> {
        let words = || line.split(' ').map(OsString::from);
        parse_apply(words()).unwrap_or_else(|| among_all(words())).given
    }

    #[test]
    fn suggested_commands_get_the_options_for_host_and_site_that_they_accept() {
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
                all.into_iter().filter(|option| accepts(&words, option)).collect::<Vec<_>>(),
                options,
                "{command}"
            );
        }
    }

    #[test]
    fn errors_wrap_on_terminals_only_and_never_inside_a_command() {
        let command = "`kpull keys sign --site /srv/a-long-name --key /root/.ssh/id_ed25519`";
        let error = error!(SITE, "the key set has far too few signatures")
            .because("one of the two signatures that count is missing there")
            .help(format!("another signer must sign it: run {command}, then run this command again"));
        let one_line = render(&error, false, None);
        assert_eq!(one_line.lines().count(), 3, "{one_line}");
        for width in [1, 40, 60, 100, 200] {
            let text = render(&error, false, Some(width));
            let is_whole = |line: &&str| line.contains(command);
            assert_eq!(text.lines().filter(is_whole).count(), 1, "{width}: {text}");
            let widest = text.lines().filter(|line| !is_whole(line)).map(|line| line.chars().count()).max();
            assert!(widest <= Some(width.max(40)), "{width}: {text}");
        }
        assert_eq!(render(&error, false, Some(300)), one_line);
    }

    #[test]
    fn the_timers_command_parses_alone_as_among_the_others() {
        for line in ["apply", "apply --full", "apply --ful -v", "apply --root /x --json", "apply --root=/x --diff -q"] {
            let among = among_all(line.split(' ').map(OsString::from));
            assert_eq!(alone(line), Some(format!("{among:?}")), "{line}");
        }
    }

    #[test]
    fn other_commands_and_mistakes_are_left_to_the_full_parser() {
        for line in ["plan", "apply --help", "apply -V", "apply --nothing", "apply more", "--json apply", ""] {
            assert_eq!(alone(line), None, "{line}");
        }
    }
}
