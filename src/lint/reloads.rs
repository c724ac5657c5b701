//! Units that are to be reloaded and can't be: systemd restarts them then, which somebody who writes `reload_when` does not expect.

use crate::error::Error;
use crate::kind::{Kick, Resource};
use crate::lint::{HostUnit, Subject, place};

pub(super) fn lint(subject: &Subject<'_>) -> Vec<Error> {
    let mut errors = Vec::new();
    for unit in subject.hosts.iter().flat_map(|host| &host.units) {
        let watches = unit.unit.watches();
        let Some((watched, _)) = watches.iter().find(|(_, kick)| *kick == Kick::Reload) else { continue };
        let Some(why) = why_not(unit) else { continue };
        let place = place::in_entry(subject.site, unit.item, watched).unwrap_or_else(|| unit.item.place.clone());
        let name = unit.unit.name();
        errors.push(
            Error::new(format!("{name} is restarted where `reload_when` says reload: {why}"))
                .at(place, "reloads nothing")
                .help("say `restart_when`, or let the unit have an ExecReload="),
        );
    }
    errors
}

/// Why a unit can't be reloaded, as far as the role says; of one whose file a package brings nothing is known.
fn why_not(unit: &HostUnit<'_>) -> Option<String> {
    let (_, kind) = unit.unit.name().rsplit_once('.')?;
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
    use crate::lint::testing::{found, told};

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
    fn a_unit_that_can_t_be_reloaded_is_told_where_the_role_says_so() {
        let wanted = |name: &str, why: &str| {
            let what = format!("{name} is restarted where `reload_when` says reload: {why}");
            told(&what, "roles/r/role.toml:7:17", "say `restart_when`, or let the unit have an ExecReload=")
        };
        let service = "content = \"[Service]\\nExecStart=/bin/a\\nExecReload=/bin/b\\nExecReload=\\n\"";
        assert_eq!(site("a.service", service), [wanted("a.service", "it has no ExecReload=")]);
        assert_eq!(site("a.timer", ""), [wanted("a.timer", "a timer can't be reloaded")]);
        let socket = "content = \"[Socket]\\nListenStream=/run/a\\n\"";
        assert_eq!(site("a.socket", socket), [wanted("a.socket", "a socket can't be reloaded")]);
    }
}
