//! Resources that a host waits for, but no host of the site creates: it would wait forever.

use std::collections::{BTreeSet, HashMap};

use crate::author::lint::{Host, Subject};
use crate::error::{Error, error, nearest};
use crate::kind::Item;
use crate::kind::etcd_key::EtcdKey;
use crate::resolve::once;
use crate::text::fits;

pub(super) fn lint(subject: &Subject<'_>) -> Vec<Error> {
    let mut made: HashMap<&str, Vec<&str>> = HashMap::new();
    for host in &subject.hosts {
        for item in host.items.iter().filter(|item| writers(item).is_none()) {
            made.entry(item.id.as_str()).or_default().push(host.name);
        }
    }
    let mut found = Vec::new();
    for host in &subject.hosts {
        let of_host = missing(subject, host, &made).into_iter().chain(misnamed(subject, host));
        found.extend(of_host.map(|error| (host.name, error)));
    }
    once(found)
}

/// The hosts that create this resource, if this host only waits for it.
fn writers(item: &Item) -> Option<&[String]> {
    item.as_kind::<EtcdKey>()?.writers.as_deref()
}

/// What the resources of a host need, but no host creates.
fn missing(subject: &Subject<'_>, host: &Host<'_>, made: &HashMap<&str, Vec<&str>>) -> Vec<Error> {
    let mut errors = Vec::new();
    // an entry of a role can be several resources with the same needs
    let mut known = BTreeSet::new();
    for item in host.items {
        let awaited = writers(item).map(|_| item.id.as_str());
        let is_made = |id: &str| made.contains_key(id) || made.keys().any(|made| id.contains('*') && fits(made, id));
        for id in item.needs.iter().map(String::as_str).chain(awaited).filter(|id| !is_made(id)) {
            if !known.insert(id) {
                continue;
            }
            let here = host.items.iter().find(|other| other.id == *id);
            let error = error!(UNKNOWN, "no host creates `{id}`, but the role {} of {} needs it", item.role, host.name)
                .at(subject.place(item, "needs"), "needed here");
            errors.push(match (here, nearest(id, made.keys().copied())) {
                (Some(here), _) => error.help(format!(
                    "`writers` at {} lists no host with this resource: list a host with the role {}",
                    here.place, here.role
                )),
                (None, Some(near)) => error.help(format!("did you mean `{near}`?")),
                (None, None) => error.help("add the role that creates it to a host, or remove it from `needs`"),
            });
        }
    }
    errors
}

/// Writers that are not hosts.
fn misnamed(subject: &Subject<'_>, host: &Host<'_>) -> Vec<Error> {
    let mut errors = Vec::new();
    for item in host.items {
        for name in writers(item).into_iter().flatten().filter(|name| !subject.site.hosts.contains_key(*name)) {
            let error = error!(UNKNOWN, "`writers` of `{}` names {name}, which is not a host of the site", item.id)
                .at(subject.place(item, "writers"), "named here");
            let known = subject.site.hosts.keys().map(String::as_str);
            errors.push(error.help_nearest(name, known, "use the names of hosts in host_vars/"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use crate::author::lint::testing::{found, reported};

    const KEY: &str = "[[etcd_key]]\nkey = '/k'\nvalue = 'v'\nendpoints = ['https://10.0.0.1:2379']\nca = '/ca'\n";

    /// Two hosts, the first with the role `a` and the second with the role `b`.
    fn site(a: &str, b: &str) -> Vec<(String, String, String)> {
        found(&[
            ("host_vars/h1.toml", "address = '10.0.0.1'\nroles = ['a']\n"),
            ("host_vars/h2.toml", "address = '10.0.0.2'\nroles = ['b']\n"),
            ("roles/a/role.toml", &format!("summary = 'x'\n{a}")),
            ("roles/b/role.toml", &format!("summary = 'x'\n{b}")),
        ])
    }

    fn unit(needs: &str) -> String {
        format!("[[unit]]\nname = 'b.service'\nneeds = ['{needs}']\n")
    }

    #[test]
    fn what_any_host_makes_may_be_needed_by_any() {
        assert_eq!(site(KEY, &unit("etcd_key:/k")), []);
        assert_eq!(site("", &format!("{KEY}{}", unit("etcd_key:/k"))), []);
        let (writer, waiter) = (format!("{KEY}writers = ['h1']\n"), format!("{KEY}writers = ['h1']\n"));
        assert_eq!(site(&writer, &format!("{waiter}{}", unit("etcd_key:/k"))), []);
        let slot = "[[slot]]\nname = 's'\nfleetlock = { url = 'http://10.0.0.9' }\n";
        assert_eq!(site(slot, &unit("slot:s")), []);
    }

    #[test]
    fn what_no_host_creates_is_reported_with_the_role_and_the_host_that_need_it() {
        let what = |id: &str| format!("no host creates `{id}`, but the role b of h2 needs it");
        let at = "roles/b/role.toml:4:1";
        let help = "add the role that creates it to a host, or remove it from `needs`";
        assert_eq!(site("", &unit("etcd_key:/k")), [reported(&what("etcd_key:/k"), at, help)]);
        assert_eq!(site("", &unit("kube_object:Secret/x/y")), [reported(&what("kube_object:Secret/x/y"), at, help)]);
        let near = "did you mean `etcd_key:/k`?";
        assert_eq!(site(KEY, &unit("etcd_key:/l")), [reported(&what("etcd_key:/l"), at, near)]);
    }

    #[test]
    fn a_key_that_hosts_wait_for_and_no_host_sets_is_reported() {
        let waiter = |writers: &str| format!("{KEY}writers = [{writers}]\n{}", unit("etcd_key:/k"));
        let what = "no host creates `etcd_key:/k`, but the role b of h2 needs it";
        let help = "`writers` at roles/b/role.toml:2:1 lists no host with this resource: list a host with the role b";
        for writers in ["", "'h1'"] {
            assert_eq!(site("", &waiter(writers)), [reported(what, "roles/b/role.toml:2:1", help)], "{writers}");
        }
        let errors = site("", &waiter("'h2', 'h3'"));
        assert_eq!(errors, [], "one that is there is enough, and it looks at no others");
        let errors = site(KEY, &waiter("'h1', 'h3'"));
        let wrong = "`writers` of `etcd_key:/k` names h3, which is not a host of the site";
        assert_eq!(errors, [reported(wrong, "roles/b/role.toml:7:1", "did you mean `h1`?")]);
    }
}
