//! The secrets that a host's templates request, and whether they may.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use minijinja::ErrorKind;
use minijinja::value::{Value, ValueKind};

use crate::error::mask::is_in;
use crate::error::{Error, Place, Result, error, nearest};
use crate::pki::{KeyOf, key_of};
use crate::secret::{Secret, SecretStore, lock, placeholder};
use crate::site::Site;
use crate::template::depth::any_in;

/// The origin of the text that is being rendered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum TextLayer {
    /// A role, or site.toml.
    #[default]
    Site,
    /// A file in host_vars.
    HostVars {
        /// Whether the value may have several lines.
        lines: bool,
    },
}

/// The secrets of a host, and a log of which were requested.
pub(super) struct HostSecrets {
    /// The secrets themselves.
    pub store: SecretStore,
    site: Arc<Site>,
    host: String,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    /// The names of requested secrets.
    names: BTreeSet<String>,
    /// How often a secret, or a variable with one, was requested; a text whose rendering increases it contains a secret.
    times: usize,
    /// The error of the last request; the template engine can't carry it.
    failed: Option<Error>,
    /// The origin of the text that is being rendered.
    origin: TextLayer,
}

impl HostSecrets {
    /// Without requests.
    pub fn new(site: &Arc<Site>, host: &str, secrets: &SecretStore) -> Self {
        Self { store: secrets.clone(), site: site.clone(), host: host.to_owned(), log: Mutex::default() }
    }

    /// A secret of the host.
    pub fn get(&self, name: &str) -> Result<Secret> {
        // a host can only decrypt what is encrypted to it
        if !self.store.is_open() {
            self.allow(name)?;
        }
        let secret = self.store.get(name, &self.site.files, &self.host)?;
        let mut log = lock(&self.log);
        log.names.insert(name.to_owned());
        log.times += 1;
        Ok(secret)
    }

    /// An error if this host, or the origin of the text, must not read the secret.
    fn allow(&self, name: &str) -> Result<()> {
        if lock(&self.log).origin != TextLayer::Site {
            return Err(error!(SECRET, "host_vars can't use secrets, but this value uses {name}")
                .because("roles and site.toml define which secrets a host can read")
                .help(
                    "use it in the role, or under [vars] in site.toml; the secret's name can contain `host.name` there",
                ));
        }
        match key_of(name) {
            Some(KeyOf::Host(owner)) if owner != self.host => {
                Err(error!(SECRET, "the secret {name} is a key of {owner}, not of {}", self.host)
                    .help(format!("a key belongs to one host: define a separate [[certificate]] for {}", self.host)))
            }
            Some(KeyOf::Pki(owner)) => match self.site.pki.get(owner) {
                Some(fields) if fields.key_hosts.contains(&self.host) => Ok(()),
                Some(_) => Err(error!(SECRET, "the secret {name} is a key of [pki.{owner}] that {} can't read", self.host)
                    .because("site.toml does not name this host in `key_hosts`")
                    .help(format!(
                        "a host with this key can sign as `{owner}`. To give it to {0}, add {0:?} to `key_hosts` of [pki.{owner}] in site.toml",
                        self.host
                    ))),
                None => Err(error!(SECRET, "the secret {name} is for no host: site.toml has no [pki.{owner}]")
                    .because("secrets whose names start with `pki/` are keys that `kpull pki` creates")
                    .help("write it under another name with `kpull secret set`, or add its table to site.toml")),
            },
            _ => Ok(()),
        }
    }

    /// An error if a value in host_vars contains a line break, which could add a line to the file of a template.
    pub fn check_line(&self, origin: TextLayer, value: &Value, place: impl FnOnce() -> Place) -> Result<()> {
        if origin != (TextLayer::HostVars { lines: false }) || self.store.is_open() || !has_control(value) {
            return Ok(());
        }
        Err(error!(VARIABLE, "a value in host_vars contains a line break or another control character")
            .because("a template that inserts it into a line would write additional lines")
            .at(place(), "more than one line")
            .help("write it in one line; if the templates of a role expect several lines, the role must set `NAME = \"lines\"` under [types]"))
    }

    /// Runs `work`, which renders a text of `origin`.
    pub fn within<T>(&self, origin: TextLayer, work: impl FnOnce() -> T) -> T {
        let before = std::mem::replace(&mut lock(&self.log).origin, origin);
        let done = work();
        lock(&self.log).origin = before;
        done
    }

    /// The origin of a role's text that another text needs: for another host, it keeps the origin of that text. A role can request
    /// the secrets of its own host, but the file of a host can't request those of another.
    pub fn layer_for(&self, host: &str) -> TextLayer {
        match lock(&self.log).origin {
            TextLayer::HostVars { .. } if host != self.host => TextLayer::HostVars { lines: true },
            _ => TextLayer::Site,
        }
    }

    /// How often a secret, or a variable with one, was requested: a text whose rendering increases this contains a secret.
    pub fn times_requested(&self) -> usize {
        lock(&self.log).times
    }

    /// Logs another use of a rendered variable.
    pub fn request_again(&self, is_secret: bool) {
        lock(&self.log).times += usize::from(is_secret);
    }

    /// The names of all requested secrets.
    pub fn names(&self) -> BTreeSet<String> {
        lock(&self.log).names.clone()
    }

    /// Takes the error of the last request that failed.
    pub fn take_failure(&self) -> Option<Error> {
        lock(&self.log).failed.take()
    }

    /// The name of a requested secret that `text` contains, in plain text or as a placeholder.
    pub fn found_in(&self, text: &str) -> Option<String> {
        let is_shown = |name: &String| {
            is_in(text, placeholder(name).as_bytes())
                || self.store.is_open()
                    && self.store.get(name, &self.site.files, &self.host).is_ok_and(|secret| {
                        let plain = std::str::from_utf8(&secret.plain).unwrap_or_default().trim();
                        // a shorter text matches by accident
                        plain.len() >= 4 && text.contains(plain) || is_in(text, plain.as_bytes())
                    })
        };
        self.names().into_iter().find(is_shown)
    }

    /// The value of `secret("NAME")` in a template.
    pub fn text(&self, name: &str) -> Result<String, minijinja::Error> {
        let text = self.get(name).and_then(|secret| {
            // like `$(…)` in a shell, without the line break that editors add
            let text =
                std::str::from_utf8(&secret.plain).map(|text| text.strip_suffix('\n').unwrap_or(text).to_owned());
            text.map_err(|_| {
                error!(SECRET, "the secret {name} is not text, and can't be part of a text")
                    .help("write it to a file with a [[secret]]")
            })
        });
        self.pass(text)
    }

    /// The value of `pki_file("NAME")` in a template: a file below `pki/` in the site, like an authority's certificate.
    pub fn pki_file(&self, name: &str) -> Result<String, minijinja::Error> {
        let files = &self.site.files;
        let found = files.get(&format!("pki/{name}")).ok_or_else(|| {
            let make = if name.contains('/') { "run `kpull pki issue`" } else { "run `kpull pki init`" };
            let error = error!(SECRET, "the site has no pki/{name}").help(make);
            let known = files.iter().filter_map(|(path, _)| path.strip_prefix("pki/"));
            match nearest(name, known) {
                Some(near) => error.help_more(&format!("did you mean `{near}`?")),
                None => error,
            }
        });
        self.pass(found.and_then(|bytes| {
            String::from_utf8(bytes.to_vec()).map_err(|_| error!(SECRET, "pki/{name} is not a text"))
        }))
    }

    /// Keeps an error that the template engine can't carry.
    fn pass(&self, result: Result<String>) -> Result<String, minijinja::Error> {
        result.map_err(|error| {
            let words = error.to_string();
            lock(&self.log).failed.get_or_insert(error);
            minijinja::Error::new(ErrorKind::InvalidOperation, words)
        })
    }
}

/// Whether a text in a value contains a control character other than a tab, or lists are nested too deep to find out. The variables of a
/// host are checked where they are set.
fn has_control(value: &Value) -> bool {
    let is_control = |c: char| c.is_control() && c != '\t';
    any_in(value, 16, &|value| match value.kind() {
        ValueKind::String => value.as_str().is_some_and(|text| text.contains(is_control)),
        kind => kind == ValueKind::Bytes,
    })
}
