//! The secrets that a host's templates ask for, and which of them they may.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use minijinja::ErrorKind;
use minijinja::value::{Value, ValueKind};

use crate::error::mask::is_in;
use crate::error::{Error, Place, Result, code, nearest};
use crate::pki::{KeyOf, key_of};
use crate::secret::{Secret, SecretStore, lock, placeholder};
use crate::site::Site;
use crate::template::depth::is_looked_up;

/// Who wrote the text that is being rendered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Origin {
    /// A role, or site.toml.
    #[default]
    Site,
    /// The file of a host: of a value that is one line, or of one that may have several.
    HostVars {
        /// Whether it may have several lines.
        lines: bool,
    },
}

/// The secrets that a host's templates ask for.
pub(super) struct Asked {
    secrets: SecretStore,
    site: Arc<Site>,
    host: String,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    /// The names of those that were asked for.
    names: BTreeSet<String>,
    /// How often one was asked for, or a variable with one in it; what is rendered while this grows has a secret in it.
    times: usize,
    /// Why the last one could not be had; the template engine can't carry it.
    failed: Option<Error>,
    /// Who wrote what is being rendered: of a variable that needs another, the other.
    origin: Origin,
}

impl Asked {
    /// None so far.
    pub fn new(site: &Arc<Site>, host: &str, secrets: &SecretStore) -> Self {
        Self { secrets: secrets.clone(), site: site.clone(), host: host.to_owned(), log: Mutex::default() }
    }

    /// A secret of the host.
    pub fn get(&self, name: &str) -> Result<Secret> {
        // on a host it is too late to ask: what was not encrypted to it, it can't read
        if !self.is_open() {
            self.allow(name)?;
        }
        let secret = self.secrets.get(name, &self.site.files, &self.host)?;
        let mut log = lock(&self.log);
        log.names.insert(name.to_owned());
        log.times += 1;
        Ok(secret)
    }

    /// An error when this host, or who wrote what is being rendered, may not have a secret of this name.
    fn allow(&self, name: &str) -> Result<()> {
        if lock(&self.log).origin != Origin::Site {
            return Err(Error::new(code::SECRET, format!("host_vars can't ask for a secret, and this asks for {name}"))
                .because("which secrets a host reads is said by its roles and by site.toml")
                .help("ask for it in the role, or under [vars] in site.toml; there `host.name` can be a part of the secret's name"));
        }
        match key_of(name) {
            Some(KeyOf::Host(owner)) if owner != self.host => {
                Err(Error::new(code::SECRET, format!("the secret {name} is a key of {owner}, and not for {}", self.host))
                    .help(format!("a key stays on its host: give {} a [[certificate]] of its own", self.host)))
            }
            Some(KeyOf::Pki(owner)) => match self.site.pki.get(owner) {
                Some(fields) if fields.key_hosts.contains(&self.host) => Ok(()),
                Some(_) => Err(Error::new(code::SECRET, format!("the secret {name} is a key of [pki.{owner}], and not for {}", self.host))
                    .because("site.toml does not name this host in `key_hosts`")
                    .help(format!(
                        "whoever has this key can sign as `{owner}`. If {0} is to have it, add {0:?} to `key_hosts` of [pki.{owner}] in site.toml",
                        self.host
                    ))),
                None => Err(Error::new(code::SECRET, format!("the secret {name} is for no host: site.toml has no [pki.{owner}]"))
                    .because("secrets whose names start with `pki/` are the keys that `kpull pki` makes")
                    .help("write it under another name with `kpull secret set`, or add its table to site.toml")),
            },
            _ => Ok(()),
        }
    }

    /// An error when a value of a host's file has a line break in it that could begin a line of its own wherever a template puts it.
    pub fn check_line(&self, origin: Origin, value: &Value, place: impl FnOnce() -> Place) -> Result<()> {
        if origin != (Origin::HostVars { lines: false }) || self.is_open() || !has_control(value, 0) {
            return Ok(());
        }
        Err(Error::new(code::VARIABLE, "a value in host_vars has a line break, or another control character, in it")
            .because("a template that puts it into a line would write further lines")
            .at(place(), "more than one line")
            .help("write it in one line; a role whose templates expect several lines here says so: `NAME = \"lines\"` under [types]"))
    }

    /// Does `work`, which renders a text that `origin` wrote.
    pub fn within<T>(&self, origin: Origin, work: impl FnOnce() -> T) -> T {
        let before = std::mem::replace(&mut lock(&self.log).origin, origin);
        let done = work();
        lock(&self.log).origin = before;
        done
    }

    /// Who wrote a role's text that is rendered for `host` because another text needs it: whoever wrote that, if it is about another host.
    /// A role asks for the secrets of the host that has it, and no host's file for those of another.
    pub fn origin_for(&self, host: &str) -> Origin {
        match lock(&self.log).origin {
            Origin::HostVars { .. } if host != self.host => Origin::HostVars { lines: true },
            _ => Origin::Site,
        }
    }

    /// How often a secret was asked for, or a variable with one in it.
    pub fn times(&self) -> usize {
        lock(&self.log).times
    }

    /// A variable that was made before is asked for again; whether a secret is in it.
    pub fn again(&self, is_secret: bool) {
        lock(&self.log).times += usize::from(is_secret);
    }

    /// The names of all secrets that were asked for.
    pub fn names(&self) -> BTreeSet<String> {
        lock(&self.log).names.clone()
    }

    /// Whether secrets are read, and not only named.
    pub fn is_open(&self) -> bool {
        self.secrets.is_open()
    }

    /// Whether secrets, and certificates, may still be missing.
    pub fn may_lack(&self) -> bool {
        self.secrets.may_lack()
    }

    /// Why the last secret or file could not be had, if one could not.
    pub fn take_failure(&self) -> Option<Error> {
        lock(&self.log).failed.take()
    }

    /// The name of a secret that was asked for and can be read, or is named as such, in `text`.
    pub fn found_in(&self, text: &str) -> Option<String> {
        let is_told = |name: &String| {
            is_in(text, placeholder(name).as_bytes())
                || self.is_open()
                    && self.secrets.get(name, &self.site.files, &self.host).is_ok_and(|secret| {
                        let plain = std::str::from_utf8(&secret.plain).unwrap_or_default().trim();
                        // a shorter one is found where it is not
                        plain.len() >= 4 && text.contains(plain) || is_in(text, plain.as_bytes())
                    })
        };
        self.names().into_iter().find(is_told)
    }

    /// What `secret("NAME")` is in a template.
    pub fn text(&self, name: &str) -> Result<String, minijinja::Error> {
        let text = self.get(name).and_then(|secret| {
            // as `$(…)` in a shell: an editor's last line break is not a part of a password
            let text =
                std::str::from_utf8(&secret.plain).map(|text| text.strip_suffix('\n').unwrap_or(text).to_owned());
            text.map_err(|_| {
                Error::new(code::SECRET, format!("the secret {name} is not a text, and can't stand in one"))
                    .help("write it as a file with [[secret]]")
            })
        });
        self.pass(text)
    }

    /// What `pki_file("NAME")` is in a template: a file of the site below `pki/`, as an authority's public half is.
    pub fn pki_file(&self, name: &str) -> Result<String, minijinja::Error> {
        let files = &self.site.files;
        let found = files.get(&format!("pki/{name}")).ok_or_else(|| {
            let make = if name.contains('/') { "run `kpull pki issue`" } else { "run `kpull pki init`" };
            let error = Error::new(code::SECRET, format!("the site has no pki/{name}")).help(make);
            let known = files.iter().filter_map(|(path, _)| path.strip_prefix("pki/"));
            match nearest(name, known) {
                Some(near) => error.help_more(&format!("did you mean `{near}`?")),
                None => error,
            }
        });
        self.pass(found.and_then(|bytes| {
            String::from_utf8(bytes.to_vec()).map_err(|_| Error::new(code::SECRET, format!("pki/{name} is not a text")))
        }))
    }

    /// Keeps an error until the template engine, which can't carry it, has failed.
    fn pass(&self, result: Result<String>) -> Result<String, minijinja::Error> {
        result.map_err(|error| {
            let words = error.to_string();
            lock(&self.log).failed.get_or_insert(error);
            minijinja::Error::new(ErrorKind::InvalidOperation, words)
        })
    }
}

/// Whether a text in a value has control characters in it, a tab apart; or lists within lists may have one deeper than anybody looks.
fn has_control(value: &Value, depth: usize) -> bool {
    const DEEPEST: usize = 16;
    let in_item = |item: &Value| depth >= DEEPEST || has_control(item, depth + 1);
    match value.kind() {
        ValueKind::String => value.as_str().is_some_and(|text| text.chars().any(|c| c.is_control() && c != '\t')),
        ValueKind::Seq | ValueKind::Iterable => {
            value.try_iter().is_ok_and(|mut items| items.any(|item| in_item(&item)))
        }
        // a host's own variables are looked at where they are made
        ValueKind::Map if !is_looked_up(value) => value.try_iter().is_ok_and(|mut keys| {
            keys.any(|key| in_item(&key) || value.get_item(&key).is_ok_and(|item| in_item(&item)))
        }),
        ValueKind::Bytes => true,
        _ => false,
    }
}
