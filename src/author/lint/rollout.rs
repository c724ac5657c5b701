//! A rollout that a host can't follow: a role writes its `kpull.toml` without `[status]`.

use crate::author::lint::{Host, Subject};
use crate::author::prelude::*;
use crate::resolve::once;
use crate::status::written;

/// The default path of a host's configuration.
const CONFIG: &str = "/etc/kpull/kpull.toml";

pub(super) fn lint(subject: &Subject<'_>) -> Vec<Error> {
    let Some(rollout) = &subject.site.rollout else { return Vec::new() };
    if !rollout.needs_status(&subject.site.hosts) {
        return Vec::new();
    }
    once(subject.hosts.iter().filter_map(|host| Some((host.name, unseeing(host)?))).collect())
}

fn unseeing(host: &Host<'_>) -> Option<Error> {
    let is_written = |item: &&Item| item.about.paths().any(|path| path == Path::new(CONFIG));
    let item = host.items.iter().find(is_written)?;
    let None = written(host.items, Path::new(CONFIG))? else { return None };
    let what = "the site has a [rollout], but a host with this kpull.toml can't determine its position in it, and would never apply a new release";
    let error = Error::new(code::ROLLOUT, what).at(item.place.clone(), "has no [status]");
    Some(error.help("add `[status]` with `dir`, `http` or `etcd`, or remove [rollout] from site.toml"))
}

#[cfg(test)]
mod tests {
    use crate::author::lint::testing::{found, reported};

    const HOSTS: [(&str, &str); 2] = [
        ("host_vars/h1.toml", "address = '10.0.0.1'\nroles = ['r']\n"),
        ("host_vars/h2.toml", "address = '10.0.0.2'\nroles = ['r']\n"),
    ];

    fn with(rollout: &str, resource: &str) -> Vec<(String, String, String)> {
        let (site, role) = (format!("name = 'test'\n{rollout}"), format!("summary = 'x'\n{resource}"));
        found(&[&HOSTS[..], &[("site.toml", &site), ("roles/r/role.toml", &role)]].concat())
    }

    #[test]
    fn a_role_that_removes_the_status_of_hosts_in_a_rollout_is_reported() {
        let file = |text: &str| format!("[[file]]\npath = '/etc/kpull/kpull.toml'\ncontent = \"\"\"{text}\"\"\"\n");
        let what = "the site has a [rollout], but a host with this kpull.toml can't determine its position in it, and would never apply a new release";
        let help =
            "add `[status]` with `dir`, `http` or `etcd`, or remove [rollout] from site.toml; the same on 1 more: h2";
        let all = [reported(what, "roles/r/role.toml:2:1", help)];
        assert_eq!(with("[rollout]\n", &file("host = 'x'\n")), all);
        // what kpull refuses to read reports nothing
        assert_eq!(with("[rollout]\n", &file("[status]\n")), all);
        assert_eq!(with("[rollout]\n", &file("[status]\ndir = '/srv/fleet'\n")), []);
        assert_eq!(with("", &file("host = 'x'\n")), []);
        assert_eq!(with("[rollout]\nat_once = 2\n", &file("host = 'x'\n")), []);
        // a part of a file that somebody else writes the rest of
        let part =
            "[[block]]\npath = '/etc/kpull/kpull.toml'\nname = 'more'\ncontent = \"[metrics]\\ndir = '/srv'\\n\"\n";
        assert_eq!(with("[rollout]\n", part), []);
    }
}
