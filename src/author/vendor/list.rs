//! `vendor.toml`: the roles to vendor from other sites, with the pinned commits and the trusted signers.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::author::prelude::*;
use crate::document::read_if_there;
use crate::site::{RESERVED, is_plain_name};
use crate::source::Config;
use crate::trust::{AllowedSigners, Purpose};

/// Its name in the directory of a site. It is not part of the site, and hosts don't get it.
pub const FILE: &str = "vendor.toml";

/// The parsed and checked file.
#[derive(Debug)]
pub struct List {
    /// The other sites, by name.
    pub upstreams: Vec<Upstream>,
}

/// `[NAME]` in `vendor.toml`: another site.
#[derive(Debug)]
pub struct Upstream {
    /// Its name, as in its `site.toml`.
    pub site: String,
    /// The address of its repository.
    pub git: String,
    /// The pinned commit, in lower case.
    pub commit: String,
    /// The trusted signers.
    pub signers: AllowedSigners,
    /// How many of them must have signed.
    pub threshold: usize,
    /// The roles to vendor.
    pub roles: Vec<RoleRequest>,
    /// The place of its table.
    pub place: Place,
    /// The place of its commit.
    pub commit_place: Place,
}

/// A role to vendor.
#[derive(Debug)]
pub struct RoleRequest {
    /// What it is called there.
    pub name: String,
    /// What it is called here.
    pub own: String,
    /// Where it is listed.
    pub place: Place,
}

/// Another site, whose roles are vendored.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpstreamFile {
    /// The address of its repository: `https://`, `ssh://`, `user@host:path`, `file://` or an absolute path.
    git: String,
    /// The commit to vendor from.
    #[schemars(regex(pattern = "^[0-9a-fA-F]{40}$"))]
    commit: String,
    /// The signers whose signatures count: lines as in OpenSSH's allowed_signers, `NAME KEYTYPE KEY`.
    signers: Vec<String>,
    /// How many of these keys must have signed. Default: 1.
    #[serde(default = "one")]
    threshold: usize,
    /// The roles to vendor.
    roles: Vec<RoleFile>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a role's name, or { name = \"NAME\", as = \"OWN NAME\" }")]
enum RoleFile {
    Same(String),
    Other(Renamed),
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Renamed {
    /// Its name in the other site.
    name: String,
    /// Its name in this site.
    #[serde(rename = "as")]
    own: String,
}

fn one() -> usize {
    1
}

impl List {
    /// Reads the list of the site in `dir`; `None` if it has none. Reports all errors together.
    pub fn load(dir: &Path) -> Result<Option<Self>> {
        read_if_there(dir, FILE)?.map(|bytes| Self::parse(&bytes)).transpose()
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let doc = Doc::parse(FILE, bytes)?;
        let read: BTreeMap<String, UpstreamFile> = doc.read()?;
        let (mut upstreams, mut errors, mut names) = (Vec::new(), Vec::new(), BTreeSet::new());
        for (site, file) in read {
            upstreams.extend(keep(&mut errors, upstream(&doc, &site, file)));
        }
        for wanted in upstreams.iter().flat_map(|upstream: &Upstream| &upstream.roles) {
            if !names.insert(&wanted.own) {
                errors.push(
                    error!(VENDOR, "two roles have the name `{}` here", wanted.own)
                        .at(wanted.place.clone(), "the second one")
                        .help("use another name for one of them: { name = \"NAME\", as = \"OWN NAME\" }"),
                );
            }
        }
        Error::check(errors)?;
        Ok(Self { upstreams })
    }

    /// The role with the name `own` here, and its site.
    pub fn find(&self, own: &str) -> Option<(&Upstream, &RoleRequest)> {
        let all =
            self.upstreams.iter().flat_map(|upstream| upstream.roles.iter().map(move |wanted| (upstream, wanted)));
        all.into_iter().find(|(_, wanted)| wanted.own == own)
    }
}

fn upstream(doc: &Doc, site: &str, file: UpstreamFile) -> Result<Upstream> {
    let at = |keys: &[&str]| -> Vec<String> {
        std::iter::once(site).chain(keys.iter().copied()).map(str::to_owned).collect()
    };
    let commit_place = doc.place(&at(&["commit"]));
    let config = Config { git: Some(file.git.clone()), ..Config::default() };
    config.check().map_err(|error| error.at(doc.place(&at(&["git"])), "this address"))?;
    Config { commit: Some(file.commit.clone()), ..config }
        .check()
        .map_err(|error| error.at(commit_place.clone(), "this commit"))?;
    for (index, line) in file.signers.iter().enumerate() {
        if let Err(why) = AllowedSigners::check_line(line) {
            return Err(error!(VENDOR, "this allowed signer can't be read")
                .because(why)
                .at(doc.place(&at(&["signers", &index.to_string()])), "this line")
                .help("a line is `NAME [OPTIONS] KEYTYPE KEY`, as in ssh-keygen(1) under ALLOWED SIGNERS"));
        }
    }
    let signers = AllowedSigners::parse(FILE, &file.signers.join("\n"))
        .map_err(|error| error.at(doc.place(&at(&["signers"])), "these keys"))?;
    let keys = signers.count(Purpose::Release);
    if file.threshold == 0 || file.threshold > keys {
        return Err(error!(
            VENDOR,
            "`threshold` is {}, but only {keys} of these keys can sign releases", file.threshold
        )
        .at(doc.place(&at(&["threshold"])), "out of reach")
        .help("list more signers, or lower `threshold`"));
    }
    let mut roles = Vec::new();
    for (index, role) in file.roles.into_iter().enumerate() {
        let place = doc.place(&at(&["roles", &index.to_string()]));
        let (name, own) = match role {
            RoleFile::Same(name) => (name.clone(), name),
            RoleFile::Other(Renamed { name, own }) => (name, own),
        };
        let bad = [&name, &own].into_iter().find(|name| !is_plain_name(name));
        let bad = bad.map(|bad| (bad, "use letters, digits, `-`, `_` and `.`"));
        let reserved = "this name is reserved in templates: use { name = \"NAME\", as = \"OWN NAME\" }";
        if let Some((bad, help)) = bad.or(RESERVED.contains(&own.as_str()).then_some((&own, reserved))) {
            let error = error!(VENDOR, "`{bad}` is not a valid name for a role").at(place, "this name");
            return Err(error.help(help));
        }
        roles.push(RoleRequest { name, own, place });
    }
    let place = doc.key_place(&at(&[]));
    let (site, commit) = (site.to_owned(), file.commit.to_ascii_lowercase());
    Ok(Upstream { site, git: file.git, commit, signers, threshold: file.threshold, roles, place, commit_place })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7WdyyIIATNMb77RXDOTfBs1JqJbFbEtxgqF4HZ/Z9z";

    fn text() -> String {
        let commit = "AB".repeat(20);
        format!(
            "[common]\ngit = \"/r\"\ncommit = \"{commit}\"\nsigners = [\"a {KEY}\"]\nroles = [\"web\", {{ name = \"db\", as = \"sql\" }}]\n"
        )
    }

    /// The message and the place of each mistake.
    fn problems(text: &str) -> Vec<(String, String)> {
        let error = List::parse(text.as_bytes()).unwrap_err();
        error.each().map(|error| (error.to_string(), error.place().unwrap().to_string())).collect()
    }

    #[test]
    fn a_list_says_where_from_what_and_by_whom() {
        let list = List::parse(text().as_bytes()).unwrap();
        let (upstream, wanted) = list.find("sql").unwrap();
        assert_eq!((upstream.site.as_str(), upstream.threshold, wanted.name.as_str()), ("common", 1, "db"));
        assert_eq!(upstream.commit, "ab".repeat(20));
        assert!(list.find("db").is_none());
    }

    #[test]
    fn each_mistake_is_reported_at_its_place() {
        let long = "AB".repeat(20);
        for (from, to, what, place) in [
            (long.as_str(), "main", "`main` is not a commit", "3:10"),
            ("\"/r\"", "\"git://h/r\"", "`git://h/r` is not the address of a git repository", "2:7"),
            (
                "AAAAC3",
                "AAAA",
                "this allowed signer can't be read: the key is cut short, or something else than a key",
                "4:12",
            ),
            ("a ssh", "a namespaces=\\\"keys@kpull\\\" ssh", "vendor.toml names no key that can sign releases", "4:11"),
            ("roles", "threshold = 2\nroles", "`threshold` is 2, but only 1 of these keys can sign releases", "5:13"),
            ("roles", "threshold = 0\nroles", "`threshold` is 0, but only 1 of these keys can sign releases", "5:13"),
            ("\"web\"", "\"../web\"", "`../web` is not a valid name for a role", "5:10"),
            ("\"sql\"", "\"a/b\"", "`a/b` is not a valid name for a role", "5:17"),
            ("\"sql\"", "\"hosts\"", "`hosts` is not a valid name for a role", "5:17"),
            ("\"sql\"", "\"web\"", "two roles have the name `web` here", "5:17"),
            ("git =", "gti =", "unknown key `gti`", "2:1"),
        ] {
            let expected = vec![(what.to_owned(), format!("vendor.toml:{place}"))];
            assert_eq!(problems(&text().replacen(from, to, 1)), expected);
        }
    }

    #[test]
    fn a_signer_is_one_line() {
        let two = text().replace("[\"a ", &format!("[\"a {KEY}\\nb "));
        assert_eq!(problems(&two)[0].0, "this allowed signer can't be read: it is more than one line");
    }
}
