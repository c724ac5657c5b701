//! Command lines: the version that is pinned has to know each flag.
//!
//! A role carries tables of what the versions of its programs take: `roles/ROLE/flags/PROGRAM/VERSION.txt`, one flag a line,
//! without dashes.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Place, nearest};
use crate::lint::systemd::Command;
use crate::lint::{Host, HostUnit, Subject, place};
use crate::site::Site;

/// Flags by version.
type Tables<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

pub(super) fn lint(subject: &Subject<'_>) -> Vec<Error> {
    let mut errors = Vec::new();
    for host in &subject.hosts {
        for unit in &host.units {
            for command in unit.text.commands("ExecStart") {
                errors.extend(check(subject.site, host, unit, &command));
            }
        }
    }
    errors
}

/// The name of a program, which its tables have too.
pub(super) fn name_of(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

/// Whether a role has tables for a program.
pub(super) fn has_tables(site: &Site, role: &str, program: &str) -> bool {
    !site.files.children(&directory(role, name_of(program))).is_empty()
}

/// The flag that an argument is, without dashes, and the value that stands behind a `=`.
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
        let version = path.strip_prefix(&prefix)?.strip_suffix(".txt")?;
        let lines = std::str::from_utf8(content).ok()?.lines().map(str::trim);
        Some((version, lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect()))
    };
    site.files.iter().filter_map(table).collect()
}

fn check(site: &Site, host: &Host<'_>, unit: &HostUnit<'_>, command: &Command) -> Vec<Error> {
    let (role, program) = (&*unit.item.role, name_of(&command.program));
    let Some(artifact) = host.artifact_of(&command.program) else { return Vec::new() };
    let Some(version) = site.artifacts.get(artifact).map(|artifact| artifact.version.as_str()) else {
        return Vec::new();
    };
    let tables = tables(site, role, program);
    let Some(known) = tables.get(version).or_else(|| tables.get(version.trim_start_matches('v'))) else {
        return without_table(site, unit, artifact, program, version, &tables).into_iter().collect();
    };
    let flags =
        command.arguments.iter().take_while(|argument| *argument != "--").filter_map(|argument| flag_of(argument));
    let unknown = flags.map(|(flag, _)| flag).filter(|flag| !known.contains(flag));
    unknown
        .map(|flag| {
            let others: Vec<&str> =
                tables.iter().filter(|(_, flags)| flags.contains(flag)).map(|(version, _)| *version).collect();
            let help = match (others.is_empty(), nearest(flag, known.iter().copied())) {
                (false, _) => format!("{} {} it", others.join(", "), if others.len() == 1 { "has" } else { "have" }),
                (true, Some(near)) => format!("did you mean `--{near}`?"),
                (true, None) => format!("{}/{version}.txt says which flags it has", directory(role, program)),
            };
            Error::new(format!("{program} {version} has no flag `--{flag}`"))
                .at(place::of_flag(site, host.name, unit.item, flag), "this flag")
                .help(help)
        })
        .collect()
}

/// The error for a pinned version that no table is for, when there are tables for others.
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
    let known: Vec<&str> = tables.keys().copied().collect();
    Some(
        Error::new(format!("nothing tells which flags {program} {version} has: {dir} is about {}", known.join(", ")))
            .at(version_place(site, artifact).unwrap_or_else(|| unit.item.place.clone()), "this version")
            .help(format!(
                "write them into {dir}/{version}.txt, one a line and without dashes; `{program} --help` lists them"
            )),
    )
}

fn version_place(site: &Site, artifact: &str) -> Option<Place> {
    let doc = site.files.doc("artifacts.toml").ok()??;
    Some(doc.place(&[artifact.to_owned(), "version".to_owned()]))
}

#[cfg(test)]
mod tests {
    use crate::lint::testing::{ARTIFACTS, found, told};

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
    fn a_flag_that_is_misspelled_is_told_where_it_is_set_with_the_nearest_one() {
        let role = ROLE.replace("data-dir", "data-dri");
        let wanted = told("app 1.0 has no flag `--data-dri`", "roles/r/role.toml:4:1", "did you mean `--data-dir`?");
        assert_eq!(site(&role, UNIT, &[V1]), [wanted]);
    }

    #[test]
    fn programs_of_an_archive_that_is_extracted_are_of_its_version() {
        let role = ROLE.replace("data-dir", "data-dri").replace("\"app\" = \"/opt/bin/app\"", "\"/\" = \"/opt\"");
        assert_eq!(site(&role, UNIT, &[V1])[0].0, "app 1.0 has no flag `--data-dri`");
    }

    #[test]
    fn a_flag_of_another_version_is_told_with_that_version() {
        let unit = UNIT.replace("-v 2", "-v 2 -new-one=x");
        let wanted = told("app 1.0 has no flag `--new-one`", "roles/r/templates/app.service:2:59", "2.0 has it");
        assert_eq!(site(ROLE, &unit, &[V1, ("2.0", "name\nnew-one\n")]), [wanted]);
    }

    #[test]
    fn a_version_without_a_table_is_told_where_it_is_pinned() {
        let wanted = told(
            "nothing tells which flags app 1.0 has: roles/r/flags/app is about 0.9",
            "artifacts.toml:2:11",
            "write them into roles/r/flags/app/1.0.txt, one a line and without dashes; `app --help` lists them",
        );
        assert_eq!(site(ROLE, UNIT, &[("0.9", "name\n")]), [wanted]);
    }

    #[test]
    fn a_link_to_a_program_and_a_drop_in_are_looked_at_too() {
        let role = format!(
            "{}[unit.dropins]\n\"10-x.conf\" = '''\n[Service]\nExecStart=\nExecStart=/usr/local/bin/app --nmae=x\n'''\n[[symlink]]\npath = '/usr/local/bin/app'\ntarget = '../../../opt/bin/app'\n",
            ROLE
        );
        let wanted = told("app 1.0 has no flag `--nmae`", "roles/r/role.toml:15:30", "did you mean `--name`?");
        assert_eq!(site(&role, UNIT, &[V1]), [wanted]);
    }
}
