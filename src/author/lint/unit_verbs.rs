//! Units that can't do what a role requests: to be enabled without an [Install] section, which fails on the host; or to be reloaded
//! without support for it, so that systemd restarts them.

use crate::author::lint::{HostUnit, Subject};
use crate::error::{Error, error};
use crate::kind::Trigger;

pub(super) fn lint(subject: &Subject<'_>) -> Vec<Error> {
    subject.units().flat_map(|(_, unit)| enabled(subject, unit).into_iter().chain(reloaded(subject, unit))).collect()
}

fn enabled(subject: &Subject<'_>, unit: &HostUnit<'_>) -> Option<Error> {
    const STARTS: [&str; 5] = ["WantedBy", "RequiredBy", "UpheldBy", "Alias", "Also"];
    let has_start = || STARTS.iter().any(|key| unit.text.words("Install", key).next().is_some());
    if !unit.unit.has_file() || unit.unit.enable != Some(true) || has_start() {
        return None;
    }
    let place = subject.place(unit.item, "enable");
    let error = error!(LINT_UNIT, "{} can't be enabled: its file does not specify when to start it", unit.unit.name);
    Some(
        error.at(place, "enables nothing").help("add `WantedBy=multi-user.target` under `[Install]`, or omit `enable`"),
    )
}

fn reloaded(subject: &Subject<'_>, unit: &HostUnit<'_>) -> Option<Error> {
    let (watched, _) = unit.item.about.watches.iter().find(|(_, trigger)| *trigger == Trigger::Reload)?;
    let why = why_not(unit)?;
    let place = subject.place(unit.item, watched);
    let name = &unit.unit.name;
    let error = error!(LINT_UNIT, "`reload_when` restarts {name}: {why}");
    Some(error.at(place, "reloads nothing").help("use `restart_when`, or add an ExecReload= to the unit"))
}

/// Why a unit can't be reloaded, by its role; `None` for a unit file of a package.
fn why_not(unit: &HostUnit<'_>) -> Option<String> {
    let (_, kind) = unit.unit.name.rsplit_once('.')?;
    match kind {
        "mount" => None,
        "service" => {
            let can = !unit.text.commands("ExecReload").is_empty()
                || unit.text.words("Service", "Type").any(|kind| kind == "notify-reload");
            (unit.unit.has_file() && !can).then(|| "it has no ExecReload=".to_owned())
        }
        kind => Some(format!("a {kind} can't be reloaded")),
    }
}

#[cfg(test)]
mod tests {
    use crate::author::lint::testing::{found, reported};

    #[test]
    fn a_unit_that_says_nothing_of_when_to_start_is_not_enabled() {
        let site = |enable: &str, unit: &str| {
            let role = format!("summary = \"x\"\n[[unit]]\nname = 'a.service'\n{enable}\n{unit}");
            found(&[("roles/r/role.toml", &role)])
        };
        let what = "a.service can't be enabled: its file does not specify when to start it";
        let help = "add `WantedBy=multi-user.target` under `[Install]`, or omit `enable`";
        let wanted = [reported(what, "roles/r/role.toml:4:1", help)];
        let content = |install: &str| format!("content = \"[Service]\\nExecStart=/bin/a\\n[Install]\\n{install}\\n\"");
        assert_eq!(site("enable = true", &content("")), wanted);
        assert_eq!(site("enable = true", &content("WantedBy=a.target\\nWantedBy=")), wanted);
        assert_eq!(site("enable = false", &content("")), []);
        assert_eq!(site("enable = true", ""), [], "its package knows");
        for install in ["WantedBy=multi-user.target", "Alias=b.service", "RequiredBy=multi-user.target"] {
            assert_eq!(site("enable = true", &content(install)), [], "{install}");
        }
        let dropin = "[unit.dropins]\n'x.conf' = \"[Install]\\nWantedBy=multi-user.target\\n\"";
        assert_eq!(site("enable = true", &format!("{}\n{dropin}", content(""))), []);
    }

    fn site(name: &str, unit: &str) -> Vec<(String, String, String)> {
        let role = format!(
            "summary = \"x\"\n[[file]]\npath = '/etc/x'\ncontent = ''\n[[unit]]\nname = {name:?}\nreload_when = ['file:/etc/x']\n{unit}"
        );
        found(&[("roles/r/role.toml", &role)])
    }

    #[test]
    fn a_unit_that_can_be_reloaded_or_that_is_not_known_is_fine() {
        assert_eq!(site("a.service", ""), []);
        assert_eq!(
            site("a.service", "content = \"[Service]\\nExecStart=/bin/a\\nExecReload=/bin/kill -HUP $MAINPID\\n\""),
            []
        );
        assert_eq!(site("a.service", "content = \"[Service]\\nType=notify-reload\\nExecStart=/bin/a\\n\""), []);
        assert_eq!(
            site(
                "a.service",
                "content = \"[Service]\\nExecStart=/bin/a\\n\"\n[unit.dropins]\n'x.conf' = \"[Service]\\nExecReload=/bin/b\\n\""
            ),
            []
        );
        assert_eq!(site("a.mount", "content = \"[Mount]\\nWhat=x\\nWhere=/a\\n\""), []);
    }

    #[test]
    fn a_unit_that_can_t_be_reloaded_is_reported_where_the_role_reloads_it() {
        let wanted = |name: &str, why: &str| {
            let what = format!("`reload_when` restarts {name}: {why}");
            reported(&what, "roles/r/role.toml:7:17", "use `restart_when`, or add an ExecReload= to the unit")
        };
        let service = "content = \"[Service]\\nExecStart=/bin/a\\nExecReload=/bin/b\\nExecReload=\\n\"";
        assert_eq!(site("a.service", service), [wanted("a.service", "it has no ExecReload=")]);
        assert_eq!(site("a.timer", ""), [wanted("a.timer", "a timer can't be reloaded")]);
        let socket = "content = \"[Socket]\\nListenStream=/run/a\\n\"";
        assert_eq!(site("a.socket", socket), [wanted("a.socket", "a socket can't be reloaded")]);
    }
}
