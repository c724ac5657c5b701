//! The files of a site, as types that know file, line and column.

mod checked;
mod role;
mod rollout;

pub use checked::{Assert, CustomFact, Definition, Refusal, Type};
pub(crate) use role::{Common, Head};
pub use role::{Entry, Role};
pub use rollout::{Rollout, Share, Wave};

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::document::fields::names_of;
use crate::document::{Artifact, Doc, Files, dotted, pins};
use crate::error::{Error, Result, code, error, keep, nearest};
use crate::pki::{AuthorityFields, bad_authority};
use crate::secret::Recipient;

/// A site: all its files, parsed and checked as far as possible without a host.
#[derive(Debug)]
pub struct Site {
    /// Its name, which a host is enrolled to.
    pub name: String,
    /// `site.toml`.
    pub doc: Doc,
    /// Groups by name.
    pub groups: BTreeMap<String, Group>,
    /// Roles by name.
    pub roles: BTreeMap<String, Role>,
    /// Hosts by name.
    pub hosts: BTreeMap<String, HostVars>,
    /// Pinned artifacts by name.
    pub artifacts: BTreeMap<String, Artifact>,
    /// The operators' keys, which every secret is encrypted to.
    pub operators: Vec<Recipient>,
    /// Authorities and key pairs by name.
    pub pki: BTreeMap<String, AuthorityFields>,
    /// Which hosts get a new release first; all at once if left out.
    pub rollout: Option<Rollout>,
    /// The files themselves, for templates and contents.
    pub files: Files,
}

/// `[groups.NAME]` in `site.toml`: roles and variables for its hosts.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Group {
    /// Groups that its hosts also belong to; the variables of this group override theirs.
    pub groups: Vec<String>,
    /// Roles that every host of the group has, in order.
    pub roles: Vec<String>,
    /// Variables for the hosts of the group.
    pub vars: Map<String, Value>,
}

/// `host_vars/NAME.toml`.
#[derive(Debug)]
pub struct HostVars {
    /// The file.
    pub doc: Doc,
    /// The address by which the other hosts reach it.
    pub address: IpAddr,
    /// All its groups: `all` first, if the site has it, and each after the groups that it is in; variables of a later one win.
    pub groups: Vec<String>,
    /// All its roles: those of its groups, its own, and what these require; what is required comes first.
    pub roles: Vec<String>,
    /// Its own keys, which its secrets are encrypted to; none when it has no secrets.
    pub recipients: Vec<Recipient>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SiteFile {
    /// The site's name, which hosts are enrolled to.
    name: String,
    /// The recipients of every secret.
    #[serde(default)]
    secrets: SecretsTable,
    /// Authorities and key pairs by name.
    #[serde(default)]
    pki: BTreeMap<String, AuthorityFields>,
    /// Variables of the whole site, and tables of variables of roles.
    #[serde(default)]
    vars: Map<String, Value>,
    /// Groups by name: roles and variables for their hosts.
    #[serde(default)]
    groups: BTreeMap<String, Group>,
    /// The order in which hosts apply a new release.
    rollout: Option<Rollout>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SecretsTable {
    /// Public keys of the operators.
    recipients: Vec<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a public key, or a list of them")]
pub(crate) enum Keys {
    One(String),
    Some(Vec<String>),
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HostFile {
    /// The address at which the other hosts reach this host.
    address: IpAddr,
    /// The host's public key, or several, to which its secrets are encrypted.
    recipient: Option<Keys>,
    /// Its groups, in order; variables of a later one override those of an earlier one.
    #[serde(default)]
    groups: Vec<String>,
    /// Roles in addition to those of its groups.
    #[serde(default)]
    roles: Vec<String>,
    /// Variables of this host, and tables of variables of roles.
    #[serde(default)]
    vars: Map<String, Value>,
}

/// The group that every host is in.
pub const ALL: &str = "all";

/// Names that templates define, so that no variable can have them.
pub const RESERVED: &[&str] =
    &["host", "hosts", "facts", "artifacts", "item", "loop", "make_kubeconfig", "pki_file", "secret", "self"];

/// Whether it is a valid name in a site: a file name that needs no quotes in templates.
pub fn is_plain_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !name.is_empty() && name.len() <= 200 && name.chars().all(is_plain) && !name.starts_with(['.', '-'])
}

impl Site {
    /// Reads a whole site. All errors are reported together.
    pub fn load(files: Files) -> Result<Self> {
        let doc = files.doc("site.toml")?.ok_or_else(|| {
            error!(SITE, "there is no site.toml").help("a site is a directory with site.toml, roles/ and host_vars/")
        })?;
        doc.describe(tables_of_site);
        let SiteFile { name, secrets, pki, vars, groups, rollout } = doc.read()?;
        let mut errors = Vec::new();
        let at = ["secrets".to_owned(), "recipients".to_owned()];
        let operators = recipients(&doc, &at, &secrets.recipients, &mut errors);
        let artifacts = keep(&mut errors, pins(&files)).unwrap_or_default();
        let mut roles = BTreeMap::new();
        for name in files.children("roles") {
            if let Some(role) = keep(&mut errors, Role::load(&files, &name)) {
                roles.insert(name, role);
            }
        }
        let hosts = BTreeMap::new();
        let mut site = Self { name, doc, groups, roles, hosts, artifacts, operators, pki, rollout, files };
        for name in site.roles.keys() {
            errors.extend(site.check_requires(name));
        }
        for name in site.pki.keys() {
            errors.extend(bad_authority(name).map(|why| {
                let place = site.doc.key_place(&["pki".to_owned(), name.clone()]);
                error!(SITE, "`{name}` is not a valid name for an authority").because(why).at(place, "this name")
            }));
        }
        errors.extend(site.check_groups());
        errors.extend(site.check_names(&site.doc, &["vars".to_owned()], &vars, true));
        let mut hosts = BTreeMap::new();
        if errors.is_empty() {
            for file in site.files.children("host_vars") {
                if let (Some(name), Some(host)) = (file.strip_suffix(".toml"), keep(&mut errors, site.host(&file))) {
                    hosts.insert(name.to_owned(), host);
                }
            }
        }
        if let Some(rollout) = site.rollout.as_ref().filter(|_| errors.is_empty()) {
            errors.extend(rollout.check(&site.doc, &hosts, site.groups.keys()));
        }
        if errors.is_empty() {
            errors.extend(site.check_key_hosts(&hosts));
        }
        site.hosts = hosts;
        Error::check(errors)?;
        Ok(site)
    }

    /// An error for each unknown host in `key_hosts`.
    fn check_key_hosts(&self, hosts: &BTreeMap<String, HostVars>) -> Vec<Error> {
        let mut errors = Vec::new();
        for (name, fields) in &self.pki {
            for host in fields.key_hosts.iter().filter(|host| !hosts.contains_key(*host)) {
                let path = ["pki".to_owned(), name.clone(), "key_hosts".to_owned()];
                errors.push(unknown_name("host", host, hosts.keys(), &self.doc, &path));
            }
        }
        errors
    }

    /// The names of the variables of the whole site.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        let vars = self.doc.value().get("vars").and_then(Value::as_object);
        vars.into_iter().flatten().map(|(name, _)| name.as_str())
    }

    /// A host; an error with the nearest name if the site has no such host.
    pub fn find_host(&self, name: &str) -> Result<&HostVars> {
        self.hosts.get(name).ok_or_else(|| {
            let what = format!("the site `{}` has no host `{name}`: there is no host_vars/{name}.toml", self.name);
            let error = Error::new(code::SITE, what);
            match nearest(name, self.hosts.keys().map(String::as_str)) {
                Some(near) => error.help(format!(
                    "did you mean `{near}`? `--host`, or `host` in kpull.toml, sets the name of the host"
                )),
                None => error.help(format!("add host_vars/{name}.toml, with `address` and `groups`, and sign again")),
            }
        })
    }

    fn host(&self, file: &str) -> Result<HostVars> {
        let path = format!("host_vars/{file}");
        if !file.ends_with(".toml") {
            return Err(error!(SITE, "{path} is not a TOML file").help("host_vars/ has one NAME.toml for each host"));
        }
        let doc = self.files.doc(&path)?.ok_or_else(|| error!(SITE, "{path} can't be read"))?;
        let read: HostFile = doc.read()?;
        let mut errors = self.check_names(&doc, &["vars".to_owned()], &read.vars, false);
        let at = vec!["recipient".to_owned()];
        let recipients = match &read.recipient {
            Some(Keys::Some(keys)) => recipients(&doc, &at, keys, &mut errors),
            Some(Keys::One(key)) => recipient(&doc, &at, key, &mut errors).into_iter().collect(),
            None => Vec::new(),
        };
        for (index, group) in read.groups.iter().enumerate().filter(|(_, group)| !self.groups.contains_key(*group)) {
            let path = ["groups".to_owned(), index.to_string()];
            errors.push(unknown_name("group", group, self.groups.keys(), &doc, &path));
        }
        for (index, role) in read.roles.iter().enumerate().filter(|(_, role)| !self.roles.contains_key(*role)) {
            let path = ["roles".to_owned(), index.to_string()];
            errors.push(unknown_name("role", role, self.roles.keys(), &doc, &path));
        }
        Error::check(errors)?;
        let (mut groups, mut roles) = (Vec::new(), Vec::new());
        // a host that lists `all` has it in that place
        let all = (!read.groups.iter().any(|group| group == ALL) && self.groups.contains_key(ALL)).then_some(ALL);
        for group in all.into_iter().chain(read.groups.iter().map(String::as_str)) {
            add_after(group, &|group| self.outer(group), &mut groups);
        }
        let of_groups = groups.iter().filter_map(|group| self.groups.get(group)).flat_map(|group| &group.roles);
        for role in of_groups.chain(&read.roles) {
            add_after(role, &|role| self.required(role), &mut roles);
        }
        Ok(HostVars { doc, address: read.address, groups, roles, recipients })
    }

    /// The roles that a role requires.
    fn required(&self, role: &str) -> &[String] {
        self.roles.get(role).map(|found| found.requires.as_slice()).unwrap_or_default()
    }

    /// The groups that a group is in.
    fn outer(&self, group: &str) -> &[String] {
        self.groups.get(group).map(|found| found.groups.as_slice()).unwrap_or_default()
    }

    /// Whether the role exists, even if it can't be read: that is already reported.
    fn has_role(&self, name: &str) -> bool {
        self.roles.contains_key(name) || !self.files.children(&format!("roles/{name}")).is_empty()
    }

    fn check_groups(&self) -> Vec<Error> {
        let mut errors = Vec::new();
        for (name, group) in &self.groups {
            let table = vec!["groups".to_owned(), name.clone()];
            let path = |index: usize| [table.as_slice(), &["groups".to_owned(), index.to_string()]].concat();
            for (index, outer) in group.groups.iter().enumerate().filter(|(_, outer)| !self.groups.contains_key(*outer))
            {
                errors.push(unknown_name("group", outer, self.groups.keys(), &self.doc, &path(index)));
            }
            if let Some((names, index)) = circle(name, &|group| self.outer(group)) {
                let last = names.iter().rev().nth(1).copied().unwrap_or(name);
                let at = ["groups", last, "groups"].map(str::to_owned);
                errors.push(
                    error!(SITE, "groups list each other in a circle: {}", names.join(" → "))
                        .at(self.doc.place(&[&at[..], &[index.to_string()]].concat()), "this closes the circle")
                        .help("remove one of these `groups`: a group lists the wider groups that its hosts also belong to"),
                );
            }
            for (index, role) in group.roles.iter().enumerate() {
                if !self.has_role(role) {
                    let path = [table.clone(), vec!["roles".to_owned(), index.to_string()]].concat();
                    errors.push(unknown_name("role", role, self.roles.keys(), &self.doc, &path));
                }
            }
            let path = [table, vec!["vars".to_owned()]].concat();
            errors.extend(self.check_names(&self.doc, &path, &group.vars, false));
        }
        errors
    }

    /// An unknown role that `name` requires, or a circle.
    fn check_requires(&self, name: &str) -> Option<Error> {
        let role = self.roles.get(name)?;
        let path = |index: usize| ["requires".to_owned(), index.to_string()];
        if let Some((index, missing)) = role.requires.iter().enumerate().find(|(_, required)| !self.has_role(required))
        {
            return Some(unknown_name("role", missing, self.roles.keys(), &role.doc, &path(index)));
        }
        let (names, index) = circle(name, &|role| self.required(role))?;
        let last = self.roles.get(*names.iter().rev().nth(1)?)?;
        Some(
            error!(SITE, "roles require each other in a circle: {}", names.join(" → "))
                .at(last.doc.place(&path(index)), "this closes the circle")
                .help("remove one `requires`, or move the common resources into a third role"),
        )
    }

    /// Refuses variables that nothing reads: a table named like a role contains variables that the role declares;
    /// anything else is a variable of the site, which `site.toml` declares.
    fn check_names(&self, doc: &Doc, at: &[String], vars: &Map<String, Value>, declares: bool) -> Vec<Error> {
        let mut errors = Vec::new();
        let globals: Vec<&str> = self.variables().collect();
        for (name, value) in vars {
            let path = [at, std::slice::from_ref(name)].concat();
            if RESERVED.contains(&name.as_str()) {
                errors.push(reserved(doc, &path));
            } else if let Some(role) = self.roles.get(name) {
                let Some(table) = value.as_object() else {
                    let error = error!(SITE, "`{name}` is a role, so its variables must be in a table")
                        .at(doc.place(&path), "not a table")
                        .help(format!("write [{}]", dotted(&path)));
                    errors.push(error);
                    continue;
                };
                for key in table.keys().filter(|key| !role.declares(key)) {
                    let error = doc.unknown(&[path.as_slice(), std::slice::from_ref(key)].concat(), role.names());
                    errors.push(
                        error.help_more(&format!("the role `{name}` declares its variables in roles/{name}/role.toml")),
                    );
                }
            } else if !declares && !globals.contains(&name.as_str()) && !self.has_role(name) {
                let known = globals.iter().copied().chain(self.roles.keys().map(String::as_str));
                errors.push(
                    doc.unknown(&path, known)
                        .help_more("a variable of the whole site is declared under [vars] in site.toml"),
                );
            }
        }
        errors
    }
}

/// Adds `name` to a list after everything that comes before it, each once. Circles are already refused.
fn add_after<'a>(name: &'a str, before: &dyn Fn(&str) -> &'a [String], list: &mut Vec<String>) {
    let mut stack = vec![(name, 0)];
    while let Some((name, next)) = stack.last_mut() {
        if list.iter().any(|known| known == *name) {
            stack.pop();
        } else if let Some(first) = before(name).get(*next) {
            *next += 1;
            stack.push((first, 0));
        } else {
            list.push((*name).to_owned());
            stack.pop();
        }
    }
}

/// The circle through `name`, and the position in the last list that closes it. A circle is found once, from the first of its names.
fn circle<'a>(name: &'a str, before: &dyn Fn(&str) -> &'a [String]) -> Option<(Vec<&'a str>, usize)> {
    // every name is visited once, without recursion: there may be many
    let mut seen = BTreeSet::new();
    let mut stack = vec![(name, 0)];
    while let Some((at, next)) = stack.last_mut() {
        let index = *next;
        let Some(other) = before(at).get(index) else {
            stack.pop();
            continue;
        };
        *next += 1;
        if other == name {
            return Some((stack.iter().map(|(one, _)| *one).chain([name]).collect(), index));
        }
        if other.as_str() > name && seen.insert(other) {
            stack.push((other, 0));
        }
    }
    None
}

/// The keys of the tables of `site.toml`.
fn tables_of_site(path: &[String]) -> &'static [&'static str] {
    match path {
        [] => names_of::<SiteFile>(),
        [groups, _] if groups == "groups" => names_of::<Group>(),
        _ => &[],
    }
}

/// The keys in the list at `at`; adds an error for each invalid one.
fn recipients(doc: &Doc, at: &[String], keys: &[String], errors: &mut Vec<Error>) -> Vec<Recipient> {
    let path = |index: usize| [at, &[index.to_string()]].concat();
    keys.iter().enumerate().filter_map(|(index, key)| recipient(doc, &path(index), key, errors)).collect()
}

fn recipient(doc: &Doc, at: &[String], key: &str, errors: &mut Vec<Error>) -> Option<Recipient> {
    let read = key.parse().map_err(|why: String| {
        error!(SITE, "secrets can't be encrypted to this")
            .because(why)
            .at(doc.place(at).without_text(), "not a public key of a supported type")
            .help("a host's public key is in /etc/ssh/ssh_host_ed25519_key.pub; `age-keygen` creates age1… keys")
    });
    keep(errors, read)
}

fn reserved(doc: &Doc, path: &[String]) -> Error {
    let name = path.last().map_or("", String::as_str);
    error!(SITE, "`{name}` is not a valid name for a variable")
        .at(doc.key_place(path), "this name is reserved")
        .help(format!("templates reserve these names: {}", RESERVED.join(", ")))
}

fn unknown_name<'a>(
    what: &str,
    name: &str,
    known: impl IntoIterator<Item = &'a String>,
    doc: &Doc,
    path: &[String],
) -> Error {
    let known: Vec<&str> = known.into_iter().map(String::as_str).collect();
    let error = error!(SITE, "there is no {what} `{name}`").at(doc.place(path), format!("no such {what}"));
    let otherwise = match known.is_empty() {
        true => format!("the site has no {what}"),
        false => format!("the site has these: {}", known.join(", ")),
    };
    error.help_nearest(name, known, otherwise)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A site with roles of these names, each with what it requires.
    fn roles(roles: impl IntoIterator<Item = (String, Vec<String>)>) -> Result<Site> {
        let role = |(name, requires): (String, Vec<String>)| {
            let text = format!("summary = \"x\"\nrequires = {requires:?}");
            (format!("roles/{name}/role.toml"), text.into_bytes().into())
        };
        let own = [
            ("site.toml", "name = \"x\"".to_owned()),
            ("host_vars/h.toml", "address = \"10.0.0.1\"\nroles = [\"r00000\"]".to_owned()),
        ];
        let own = own.map(|(path, text)| (path.to_owned(), text.into_bytes().into()));
        Site::load(own.into_iter().chain(roles.into_iter().map(role)).collect())
    }

    fn name(number: usize) -> String {
        format!("r{number:05}")
    }

    #[test]
    fn roles_that_all_require_all_after_them_are_visited_once() {
        let site = roles((0..60).map(|at| (name(at), (at + 1..60).map(name).collect()))).unwrap();
        assert_eq!(site.hosts["h"].roles, (0..60).rev().map(name).collect::<Vec<_>>());
    }

    #[test]
    fn a_long_row_of_roles_does_not_fill_the_stack() {
        let row = |last: Vec<String>| {
            roles((0..1000).map(|at| (name(at), if at < 999 { vec![name(at + 1)] } else { last.clone() })))
        };
        assert_eq!(row(vec![]).unwrap().hosts["h"].roles.len(), 1000);
        let error = row(vec![name(0)]).unwrap_err();
        assert!(error.to_string().starts_with("roles require each other in a circle: r00000 → r00001 → "), "{error}");
        assert_eq!(error.others().len(), 0, "a circle is reported once");
    }

    /// What loading a site says, or the groups and roles of its host.
    fn grouped(site: &str, host: &str) -> Result<(Vec<String>, Vec<String>), String> {
        let role = |name: &str| (format!("roles/{name}/role.toml"), b"summary = 'x'".as_slice().into());
        let own = [
            ("site.toml", format!("name = 'x'\n{site}")),
            ("host_vars/h.toml", format!("address = '10.0.0.1'\n{host}")),
        ];
        let own = own.map(|(path, text)| (path.to_owned(), text.into_bytes().into()));
        let mut loaded = Site::load(own.into_iter().chain(["a", "b", "c", "d"].map(role)).collect())
            .map_err(|error| format!("{error} at {}", error.place().map(ToString::to_string).unwrap_or_default()))?;
        let host = loaded.hosts.remove("h").unwrap();
        Ok((host.groups, host.roles))
    }

    #[test]
    fn a_host_is_in_the_groups_of_its_groups_and_the_wider_ones_come_first() {
        let site = "[groups]\nall.roles = ['a']\nweb = { groups = ['eu', 'prod'], roles = ['d'] }\neu.roles = ['b']\nprod = { groups = ['eu'], roles = ['c'] }\n";
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let roles = names(&["a", "b", "c", "d"]);
        assert_eq!(grouped(site, "groups = ['web']"), Ok((names(&["all", "eu", "prod", "web"]), roles.clone())));
        assert_eq!(grouped(site, "groups = ['web', 'all', 'eu']").unwrap().0, names(&["eu", "prod", "web", "all"]));
        assert_eq!(grouped(site, ""), Ok((names(&["all"]), names(&["a"]))));
        let without = site.replace("all.roles = ['a']\n", "");
        assert_eq!(grouped(&without, "groups = ['prod']").unwrap().0, names(&["eu", "prod"]));
    }

    #[test]
    fn groups_that_are_in_each_other_and_unknown_ones_are_reported_with_their_place() {
        let site = "[groups]\na.groups = ['b']\nb.groups = ['c', 'a']\nc = {}\n";
        let wanted = "groups list each other in a circle: a → b → a at site.toml:4:18";
        assert_eq!(grouped(site, "").unwrap_err(), wanted);
        assert_eq!(
            grouped("[groups]\na.groups = ['a']\n", "").unwrap_err(),
            "groups list each other in a circle: a → a at site.toml:3:13"
        );
        assert_eq!(
            grouped("[groups]\na.groups = ['bb']\n", "").unwrap_err(),
            "there is no group `bb` at site.toml:3:13"
        );
    }

    const AGE: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

    fn load(site: &str, host: &str) -> Result<Site> {
        let files = [("site.toml", site), ("host_vars/h1.toml", host)];
        Site::load(files.into_iter().map(|(path, text)| (path.to_owned(), text.as_bytes().into())).collect())
    }

    #[test]
    fn the_keys_of_operators_and_hosts_are_read() {
        let site = format!("name = \"s\"\n[secrets]\nrecipients = [\"{AGE}\"]\n");
        let loaded = load(&site, &format!("address = \"10.0.0.1\"\nrecipient = [\"{AGE}\", \"{AGE}\"]\n")).unwrap();
        assert_eq!((loaded.operators.len(), loaded.hosts["h1"].recipients.len()), (1, 2));
        let loaded = load(&site, &format!("address = \"10.0.0.1\"\nrecipient = \"{AGE}\"\n")).unwrap();
        assert_eq!(loaded.hosts["h1"].recipients[0].to_string(), AGE);
        assert!(load(&site, "address = \"10.0.0.1\"\n").unwrap().hosts["h1"].recipients.is_empty());
    }

    #[test]
    fn an_invalid_key_is_reported_with_its_place() {
        let host = "address = \"10.0.0.1\"\nrecipient = \"ssh-dss AAAA\"\n";
        let error = load("name = \"s\"\n", host).unwrap_err();
        assert_eq!(error.place().unwrap().to_string(), "host_vars/h1.toml:2:13");
        assert!(
            error.to_string().starts_with("secrets can't be encrypted to this: it is not an ssh-ed25519"),
            "{error}"
        );
        let error =
            load(&format!("name = \"s\"\n[secrets]\nrecipients = [\"{AGE}\",\n  \"age1x\"]\n"), host).unwrap_err();
        assert_eq!(error.place().unwrap().to_string(), "site.toml:4:3");
        let error = load("name = \"s\"\n", "address = \"10.0.0.1\"\nrecipient = 5\n").unwrap_err();
        assert_eq!(error.to_string(), "`recipient` can't be read: a public key, or a list of them");
        let error = load("name = \"s\"\n", &host.replace("ssh-dss", "AGE-SECRET-KEY-1")).unwrap_err();
        assert!(!format!("{:?}", miette::Report::new(error)).contains("SECRET-KEY"), "a private key is not repeated");
    }
}
