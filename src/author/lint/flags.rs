//! Command lines: the pinned version must support every flag.
//!
//! A role has tables of the flags of its programs: `roles/ROLE/flags/PROGRAM/VERSION.txt`, one flag on each line, without dashes. The
//! table `1.35` applies to all patches of 1.35 without their own table.

use crate::author::lint::systemd::Command;
use crate::author::lint::{Host, HostUnit, Subject, place};
use crate::author::prelude::*;

/// The first line of a table from a project's published reference instead of the program's own help.
const PUBLISHED: &str = "# by the published reference";

/// The table of a version.
struct Table<'a> {
    flags: BTreeSet<&'a str>,
    is_published: bool,
}

/// Tables by version.
type Tables<'a> = BTreeMap<Version<'a>, Table<'a>>;

/// A version, in the order of its numbers.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Version<'a> {
    numbers: Vec<u64>,
    text: &'a str,
}

impl<'a> Version<'a> {
    fn of(text: &'a str) -> Self {
        let digits = |part: &str| part.chars().take_while(char::is_ascii_digit).collect::<String>();
        let parts = text.trim_start_matches('v').split('.');
        Self { numbers: parts.map(|part| digits(part).parse().unwrap_or(0)).collect(), text }
    }

    /// The distance to another version, number by number.
    fn distance(&self, other: &Self) -> Vec<u64> {
        let number = |version: &Self, at: usize| version.numbers.get(at).copied().unwrap_or(0);
        let count = self.numbers.len().max(other.numbers.len());
        (0..count).map(|at| number(self, at).abs_diff(number(other, at))).collect()
    }
}

/// The table of a version or its minor version, with its key.
fn table_of<'t>(tables: &'t Tables<'t>, version: &'t str) -> Option<(&'t Version<'t>, &'t Table<'t>)> {
    let digits = version.trim_start_matches('v');
    let minor = digits.match_indices('.').nth(1).and_then(|(at, _)| digits.get(..at));
    [Some(version), Some(digits), minor].into_iter().flatten().find_map(|name| tables.get_key_value(&Version::of(name)))
}

pub(super) fn lint(subject: &Subject<'_>) -> Vec<Error> {
    let mut errors: Vec<Error> = subject.site.files.iter().filter_map(|(path, _)| misnamed(path)).collect();
    for (host, unit) in subject.units() {
        errors.extend(
            unit.text.commands("ExecStart").iter().flat_map(|command| check(subject.site, host, unit, command)),
        );
    }
    errors
}

/// The version of a table by its file name; `None` if it is not a version.
fn version_of(file: &str) -> Option<Version<'_>> {
    let version = file.strip_suffix(".txt")?;
    let is_plain = version.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+' | '_' | '~'));
    let digits = version.strip_prefix('v').unwrap_or(version);
    (is_plain && digits.starts_with(|c: char| c.is_ascii_digit())).then(|| Version::of(version))
}

/// The error for a table whose file name is not a version.
fn misnamed(path: &str) -> Option<Error> {
    let ["roles", role, "flags", program, file] = path.split('/').collect::<Vec<_>>()[..] else { return None };
    if version_of(file).is_some() {
        return None;
    }
    let dir = directory(role, program);
    Some(
        error!(LINT_FLAG, "{path} is not named after a version of {program}").help(format!(
            "name the table after its version: {dir}/1.35.2.txt, or {dir}/1.35.txt for all patches of 1.35"
        )),
    )
}

/// The name of a program, as in its tables.
pub(super) fn name_of(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

/// Whether a role has tables for a program.
pub(super) fn has_tables(site: &Site, role: &str, program: &str) -> bool {
    !site.files.children(&directory(role, name_of(program))).is_empty()
}

/// The flag in an argument, without dashes, and its value after `=`.
pub(super) fn flag_of(argument: &str) -> Option<(&str, Option<&str>)> {
    let flag = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'))?;
    let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
    // `-1` is a value
    name.starts_with(|c: char| c.is_ascii_alphabetic()).then_some((name, value))
}

fn directory(role: &str, program: &str) -> String {
    format!("roles/{role}/flags/{program}")
}

fn tables<'a>(site: &'a Site, role: &str, program: &str) -> Tables<'a> {
    let prefix = format!("{}/", directory(role, program));
    let table = |(path, content): (&'a str, &'a std::sync::Arc<[u8]>)| {
        let version = version_of(path.strip_prefix(&prefix)?)?;
        let text = std::str::from_utf8(content).ok()?;
        let flags = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        Some((version, Table { flags, is_published: text.starts_with(PUBLISHED) }))
    };
    site.files.iter().filter_map(table).collect()
}

fn check(site: &Site, host: &Host<'_>, unit: &HostUnit<'_>, command: &Command) -> Vec<Error> {
    let (role, program) = (&*unit.item.role, name_of(&command.program));
    let artifact = host.artifact_of(&command.program);
    let Some((artifact, pinned)) = artifact.and_then(|name| site.artifacts.get_key_value(name)) else {
        return Vec::new();
    };
    let version = pinned.version.as_str();
    let tables = tables(site, role, program);
    let Some((table, Table { flags: known, is_published })) = table_of(&tables, version) else {
        return without_table(site, unit, artifact, program, version, &tables).into_iter().collect();
    };
    let flags =
        command.arguments.iter().take_while(|argument| *argument != "--").filter_map(|argument| flag_of(argument));
    let unknown = flags.map(|(flag, _)| flag).filter(|flag| !known.contains(flag));
    unknown
        .map(|flag| {
            let others: Vec<&str> = tables
                .iter()
                .filter(|(_, table)| table.flags.contains(flag))
                .map(|(version, _)| version.text)
                .collect();
            let help = match (others.is_empty(), nearest(flag, known.iter().copied())) {
                (false, _) => format!("{} {} it", others.join(", "), if others.len() == 1 { "has" } else { "have" }),
                (true, Some(near)) => format!("did you mean `--{near}`?"),
                (true, None) => format!("{}/{}.txt lists its flags", directory(role, program), table.text),
            };
            let what = format!("{program} {version} has no flag `--{flag}`");
            let what = if *is_published { format!("{what}: its published reference does not list it") } else { what };
            let more = "; the reference omits deprecated flags: add one that the program still accepts to the table";
            Error::new(code::LINT_FLAG, what)
                .at(place::of_flag(site, host.name, unit.item, flag), "this flag")
                .help(if *is_published { help + more } else { help })
        })
        .collect()
}

/// The error for a pinned version without a table, if other versions have tables.
fn without_table(
    site: &Site,
    unit: &HostUnit<'_>,
    artifact: &str,
    program: &str,
    version: &str,
    tables: &Tables<'_>,
) -> Option<Error> {
    if tables.is_empty() {
        return None;
    }
    let dir = directory(&unit.item.role, program);
    let known: Vec<&str> = tables.keys().map(|version| version.text).collect();
    let near = tables.keys().min_by_key(|known| known.distance(&Version::of(version)))?.text;
    Some(
        error!(LINT_FLAG, "there is no table of the flags of {program} {version}: {dir} has {}", known.join(", "))
            .at(version_place(site, artifact).unwrap_or_else(|| unit.item.place.clone()), "this version")
            .help(format!(
                "write them to {dir}/{version}.txt, one on each line, without dashes; `{program} --help` lists them, and the nearest \
                 known version is {near}"
            )),
    )
}

fn version_place(site: &Site, artifact: &str) -> Option<Place> {
    let doc = site.files.doc("artifacts.toml").ok()??;
    Some(doc.place(&[artifact.to_owned(), "version".to_owned()]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::author::lint::testing::{ARTIFACTS, found, reported};

    const ROLE: &str = r#"summary = "x"
[vars.flags]
name = "a b"
data-dir = "/d"
[[artifact]]
name = "app"
install = { "app" = "/opt/bin/app" }
[[unit]]
name = "app.service"
template = "app.service"
"#;
    const UNIT: &str = "[Service]\nExecStart={{ flags | exec(program='/opt/bin/app') }} -v 2 --offset -1 $OPTIONS\n";

    fn site(role: &str, unit: &str, tables: &[(&str, &str)]) -> Vec<(String, String, String)> {
        let tables =
            tables.iter().map(|(version, flags)| (format!("roles/r/flags/app/{version}.txt"), (*flags).to_owned()));
        let mut files =
            vec![("roles/r/role.toml", role), ("roles/r/templates/app.service", unit), ("artifacts.toml", ARTIFACTS)];
        let tables: Vec<(String, String)> = tables.collect();
        files.extend(tables.iter().map(|(path, text)| (path.as_str(), text.as_str())));
        found(&files)
    }

    const V1: (&str, &str) = ("1.0", "# shown by --help\nname\ndata-dir\nv\noffset\n");

    #[test]
    fn flags_that_the_pinned_version_has_are_fine() {
        assert_eq!(site(ROLE, UNIT, &[V1]), []);
        assert_eq!(site(ROLE, UNIT, &[]), [], "a role without tables says nothing");
        let package = ROLE.replace(
            "[[artifact]]\nname = \"app\"\ninstall = { \"app\" = \"/opt/bin/app\" }",
            "[[file]]\npath = '/opt/bin/app'\ncontent = ''",
        );
        assert_eq!(site(&package, UNIT, &[("9", "")]), [], "what no artifact installs has no version");
    }

    #[test]
    fn a_misspelled_flag_is_reported_where_it_is_set_with_the_nearest_one() {
        let role = ROLE.replace("data-dir", "data-dri");
        let wanted =
            reported("app 1.0 has no flag `--data-dri`", "roles/r/role.toml:4:1", "did you mean `--data-dir`?");
        assert_eq!(site(&role, UNIT, &[V1]), [wanted]);
    }

    #[test]
    fn programs_of_an_archive_that_is_extracted_are_of_its_version() {
        let role = ROLE.replace("data-dir", "data-dri").replace("\"app\" = \"/opt/bin/app\"", "\"/\" = \"/opt\"");
        assert_eq!(site(&role, UNIT, &[V1])[0].0, "app 1.0 has no flag `--data-dri`");
    }

    #[test]
    fn a_flag_of_another_version_is_reported_with_that_version() {
        let unit = UNIT.replace("-v 2", "-v 2 -new-one=x");
        let wanted = reported("app 1.0 has no flag `--new-one`", "roles/r/templates/app.service:2:59", "2.0 has it");
        assert_eq!(site(ROLE, &unit, &[V1, ("2.0", "name\nnew-one\n")]), [wanted]);
    }

    #[test]
    fn a_version_without_a_table_is_reported_where_it_is_pinned() {
        let wanted = reported(
            "there is no table of the flags of app 1.0: roles/r/flags/app has 0.9",
            "artifacts.toml:2:11",
            "write them to roles/r/flags/app/1.0.txt, one on each line, without dashes; `app --help` lists them, and the nearest known version is 0.9",
        );
        assert_eq!(site(ROLE, UNIT, &[("0.9", "name\n")]), [wanted]);
    }

    #[test]
    fn the_nearest_version_is_that_by_numbers() {
        let near = |version: &str, tables: &[&str]| {
            let none =
                tables.iter().map(|table| (Version::of(table), Table { flags: BTreeSet::new(), is_published: false }));
            let tables: Tables<'_> = none.collect();
            let names: Vec<&str> = tables.keys().map(|version| version.text).collect();
            (
                names.join(" "),
                tables.keys().min_by_key(|known| known.distance(&Version::of(version))).unwrap().text.to_owned(),
            )
        };
        let known = ["1.34", "1.20.2", "1.9.2", "1.32"];
        for (version, wanted) in
            [("1.33.1", "1.32"), ("v1.40.0", "1.34"), ("1.10.0", "1.9.2"), ("0.1", "1.9.2"), ("1.20.15", "1.20.2")]
        {
            assert_eq!(near(version, &known), ("1.9.2 1.20.2 1.32 1.34".to_owned(), wanted.to_owned()), "{version}");
        }
        assert_eq!(near("x", &["y"]).1, "y");
    }

    #[test]
    fn a_table_of_a_minor_version_applies_to_its_patches_and_says_what_it_lacks() {
        let minor = |version: &str| {
            let artifacts = ARTIFACTS.replace("1.0", version);
            let table = format!("{PUBLISHED}, and more\nname\nv\noffset\n");
            found(&[
                ("roles/r/role.toml", ROLE),
                ("roles/r/templates/app.service", UNIT),
                ("roles/r/flags/app/1.35.txt", &table),
                ("artifacts.toml", &artifacts),
            ])
        };
        let lacks = |version: &str| {
            reported(
                &format!("app {version} has no flag `--data-dir`: its published reference does not list it"),
                "roles/r/role.toml:4:1",
                "roles/r/flags/app/1.35.txt lists its flags; the reference omits deprecated flags: add one that the program still accepts to the table",
            )
        };
        assert_eq!(minor("1.35.0"), [lacks("1.35.0")]);
        assert_eq!(minor("v1.35")[0].0, lacks("v1.35").0);
        assert_eq!(minor("1.350.1")[0].0, "there is no table of the flags of app 1.350.1: roles/r/flags/app has 1.35");
    }

    #[test]
    fn each_flag_that_a_version_lacks_is_reported_with_its_own_place() {
        let role = ROLE.replace("name = \"a b\"", "nmae = 1\ndaat = 2");
        let unit = UNIT.replace(" -v 2", "").replace(" --offset -1", "");
        let artifacts = ARTIFACTS.replace("1.0", "1.35.0");
        let table = format!("{PUBLISHED}, and more\nzzzzzzzzz\n");
        let site = [
            ("roles/r/role.toml", role.as_str()),
            ("roles/r/templates/app.service", unit.as_str()),
            ("roles/r/flags/app/1.35.txt", table.as_str()),
            ("artifacts.toml", artifacts.as_str()),
        ];
        let errors = crate::author::lint::testing::errors(&site);
        let reported = Error::all(errors).unwrap().grouped();
        let places: BTreeSet<String> = reported.iter().map(|error| error.place().unwrap().to_string()).collect();
        let all = ["3", "4", "5"].map(|line| format!("roles/r/role.toml:{line}:1"));
        assert_eq!(places, all.into());
    }

    #[test]
    fn a_table_that_is_called_as_no_version_is_an_error_and_no_version_that_is_known() {
        for name in ["latest", "README", "1.9,2", "v", "1.0.txt"] {
            let found = site(ROLE, UNIT, &[V1, (name, "")]);
            let what = format!("roles/r/flags/app/{name}.txt is not named after a version of app");
            let wanted = if name == "1.0.txt" { None } else { Some(what) };
            assert_eq!(found.first().map(|one| one.0.clone()), wanted, "{name}");
        }
        assert_eq!(site(ROLE, UNIT, &[V1, ("v1.1", ""), ("1.2.0-rc.1+k3s1", "")]), []);
    }

    #[test]
    fn a_link_to_a_program_and_a_drop_in_are_looked_at_too() {
        let role = format!(
            "{}[unit.dropins]\n\"10-x.conf\" = '''\n[Service]\nExecStart=\nExecStart=/usr/local/bin/app --nmae=x\n'''\n[[symlink]]\npath = '/usr/local/bin/app'\ntarget = '../../../opt/bin/app'\n",
            ROLE
        );
        let wanted = reported("app 1.0 has no flag `--nmae`", "roles/r/role.toml:15:30", "did you mean `--name`?");
        assert_eq!(site(&role, UNIT, &[V1]), [wanted]);
    }
}
