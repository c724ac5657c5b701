//! Units whose program nothing installs, which would fail to start on the host.

use crate::author::lint::flags::name_of;
use crate::author::lint::{Host, Subject};
use crate::author::prelude::*;
use crate::kind::command::Run;
use crate::kind::symlink::Symlink;

/// The directories of the distribution's programs.
const SYSTEM: [&str; 7] = ["/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/libexec", "/lib"];

/// The settings that run programs.
const KEYS: [&str; 6] = ["ExecStart", "ExecStartPre", "ExecStartPost", "ExecReload", "ExecStop", "ExecStopPost"];

pub(super) fn lint(subject: &Subject<'_>) -> Vec<Error> {
    let mut errors = Vec::new();
    for host in &subject.hosts {
        let installed = installed(host);
        for unit in &host.units {
            for key in KEYS {
                for command in unit.text.commands(key) {
                    let program = command.program.as_str();
                    // systemd searches its own directories for bare names, and expands `%`
                    let is_plain = program.starts_with('/') && !program.contains(['%', '$']);
                    if !is_plain || command.may_fail || is_there(host, &installed, program) {
                        continue;
                    }
                    let same_name = installed.iter().find(|path| name_of(path) == name_of(program));
                    let near = same_name
                        .map(String::as_str)
                        .or_else(|| nearest(program, installed.iter().map(String::as_str)));
                    let help = match near {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => "install it with an [[artifact]], a [[file]] or a [[template]]; packages install programs below /usr. With the prefix `-`, a program can be missing".to_owned(),
                    };
                    let place = subject.place_of_word(unit.item, program);
                    errors.push(
                        error!(LINT_PROGRAM, "{} runs {program}, which no resource installs", unit.unit.name)
                            .at(place, format!("{key}= runs it"))
                            .help(help),
                    );
                }
            }
        }
    }
    errors
}

/// The paths at which this host's resources install programs.
fn installed(host: &Host<'_>) -> BTreeSet<String> {
    let kinds = ["artifact", "file", "template", "symlink", "secret"];
    let items = host.items.iter().filter(|item| kinds.contains(&item.about.kind));
    let paths = items.flat_map(|item| item.about.paths()).map(|path| path.display().to_string());
    let made = host.all::<Run>().filter_map(|(_, command)| command.creates()).map(ToString::to_string);
    paths.chain(made).collect()
}

fn is_there(host: &Host<'_>, installed: &BTreeSet<String>, program: &str) -> bool {
    let path = Path::new(program);
    SYSTEM.iter().any(|dir| path.starts_with(dir))
        || installed.contains(program)
        // only the host knows the content of an archive
        || host.trees.iter().any(|(dir, _)| path.starts_with(dir))
        // only the host knows the content behind a link to a directory
        || host.all::<Symlink>().any(|(_, link)| path.starts_with(link.ends().0))
}

#[cfg(test)]
mod tests {
    use crate::author::lint::testing::{ARTIFACTS, found, reported};

    fn site(unit: &str, more: &str) -> Vec<(String, String, String)> {
        let role =
            format!("summary = \"x\"\n[[unit]]\nname = \"a.service\"\ncontent = '''\n[Service]\n{unit}\n'''\n{more}");
        found(&[("roles/r/role.toml", &role), ("artifacts.toml", ARTIFACTS)])
    }

    const ARTIFACT: &str = "[[artifact]]\nname = 'app'\ninstall = { app = '/usr/k8s/bin/app' }\n";

    #[test]
    fn what_is_installed_or_the_systems_own_is_fine() {
        let system = "ExecStart=/bin/sh -c 'x'\nExecStartPre=/usr/sbin/iptables -L\nExecReload=kill -HUP $MAINPID\nExecStop=/lib/x ; /usr/libexec/y";
        assert_eq!(site(system, ""), []);
        assert_eq!(site("ExecStart=-/opt/x/bin/maybe\nExecStartPost=/opt/%p/x", ""), []);
        assert_eq!(site("ExecStart=!/usr/k8s/bin/app", ARTIFACT), []);
        for resource in [
            "[[file]]\npath = '/opt/x/y'\ncontent = ''",
            "[[symlink]]\npath = '/opt/x/y'\ntarget = '/z'",
            "[[symlink]]\npath = '/opt/x'\ntarget = '/z'",
            "[[command]]\nrun = ['make']\ncreates = '/opt/x/y'",
            "[[artifact]]\nname = 'app'\ninstall = { '/' = '/opt/x' }",
            "[[checkout]]\npath = '/opt/x'\nurl = '/srv/x.git'\ncommit = '0123456789abcdef0123456789abcdef01234567'",
        ] {
            assert_eq!(site("ExecStart=/opt/x/y", resource), [], "{resource}");
        }
    }

    #[test]
    fn a_program_in_a_misspelled_directory_is_reported_with_the_right_one() {
        let wanted = reported(
            "a.service runs /user/k8s/bin/app, which no resource installs",
            "roles/r/role.toml:6:11",
            "did you mean `/usr/k8s/bin/app`?",
        );
        assert_eq!(site("ExecStart=/user/k8s/bin/app --x", ARTIFACT), [wanted]);
    }

    #[test]
    fn every_setting_that_runs_something_is_looked_at() {
        for key in ["ExecStartPre", "ExecStartPost", "ExecReload", "ExecStop"] {
            let errors = site(&format!("ExecStart=/bin/true\n{key}=/opt/bin/thing"), "");
            let column = key.len() + 2;
            let help = "install it with an [[artifact]], a [[file]] or a [[template]]; packages install programs below /usr. With the prefix `-`, a program can be missing";
            assert_eq!(
                errors,
                [reported(
                    "a.service runs /opt/bin/thing, which no resource installs",
                    &format!("roles/r/role.toml:7:{column}"),
                    help
                )]
            );
        }
    }
}
