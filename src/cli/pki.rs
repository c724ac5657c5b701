//! `kpull pki`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::json;

use crate::author::pki::{CertificateState, CertificateStatus, Completed, PkiAdmin, Step};
use crate::cli::secret::Identity;
use crate::cli::{DeskArgs, Run, print, print_json, print_line};
use crate::document::fields::Lifetime;
use crate::error::{Exit, Result};
use crate::pki::Reason;
use crate::secret::Keyring;

/// Arguments of `pki`.
#[derive(Args, Debug)]
pub struct Pki {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    desk: DeskArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the authorities and key pairs of site.toml that are missing.
    Init,
    /// Issue the certificates that are missing, and those that are not as the roles want them now.
    Issue(Identity),
    /// Renew certificates that are due.
    Renew {
        #[command(flatten)]
        keys: Identity,
        /// Renew what ends within this time [default: what each role says]
        #[arg(long, value_name = "SPAN")]
        before: Option<Lifetime>,
        /// Only this host's
        #[arg(long, value_name = "NAME")]
        host: Option<String>,
        /// Only certificates of this name; without --before, also when they are not due
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
    /// Show every certificate and how it stands.
    List,
    /// Revoke a certificate, and take it out of the site.
    Revoke {
        #[command(flatten)]
        keys: Identity,
        /// The host
        host: String,
        /// The certificate
        name: String,
        /// Why
        #[arg(long, value_enum, default_value_t)]
        reason: Reason,
    },
    /// Issue a certificate for a key that its host keeps to itself.
    SignRequest {
        #[command(flatten)]
        keys: Identity,
        /// The request that the host wrote
        file: PathBuf,
        /// The host
        #[arg(long, value_name = "NAME")]
        host: String,
        /// The certificate
        #[arg(long, value_name = "NAME")]
        name: String,
    },
    /// Change an authority: a second one to trust, then --switch to it, then --finish the first.
    Rotate {
        #[command(flatten)]
        keys: Identity,
        /// The authority
        authority: String,
        /// Sign with the new one from now on
        #[arg(long)]
        switch: bool,
        /// Drop the old one
        #[arg(long, conflicts_with = "switch")]
        finish: bool,
    },
}

impl Run for Pki {
    fn run(&self) -> Result<Exit> {
        let office = |keys: &Identity| PkiAdmin::open(&self.desk.site, keys.keys()?);
        let without_keys = || PkiAdmin::open(&self.desk.site, Keyring::load(&[], None)?);
        let done = match &self.command {
            Command::Init => without_keys()?.init()?,
            Command::Issue(keys) => office(keys)?.issue()?,
            Command::Renew { keys, before, host, names } => {
                office(keys)?.renew(before.map(|before| before.0), host.as_deref(), names)?
            }
            Command::List => return self.list(&without_keys()?.survey()?),
            Command::Revoke { keys, host, name, reason } => office(keys)?.revoke(host, name, *reason)?,
            Command::SignRequest { keys, file, host, name } => office(keys)?.sign_request(file, host, name)?,
            Command::Rotate { keys, authority, switch, finish } => {
                let step = match (switch, finish) {
                    (true, _) => Step::Switch,
                    (_, true) => Step::Finish,
                    _ => Step::Begin,
                };
                office(keys)?.rotate(authority, step)?
            }
        };
        self.tell(&done);
        Ok(Exit::Done)
    }

    fn json(&self) -> bool {
        self.desk.json
    }
}

impl Pki {
    fn tell(&self, done: &[Completed]) {
        if done.is_empty() && !self.desk.json {
            print("nothing to do");
        }
        for Completed { deed, host, name, note } in done {
            if self.desk.json {
                print_json(
                    &json!({ "event": deed.word(), "version": crate::report::VERSION, "host": host, "name": name, "note": note }),
                );
                continue;
            }
            let what = host.as_ref().map_or_else(|| name.clone(), |host| format!("{host}/{name}"));
            print_line(&format!("{:<8} {what:<24} {note}", deed.word()));
        }
    }

    fn list(&self, standings: &[CertificateStatus]) -> Result<Exit> {
        let now = Timestamp::now();
        if !self.desk.json {
            print(&format!("{:<16} {:<16} {:<14} {:>5}  {:<40} STATE", "HOST", "NAME", "AUTHORITY", "DAYS", "FOR"));
        }
        for standing in standings {
            let CertificateStatus { host, name, wish, certificate, state } = standing;
            let days = standing.left(now).map(|left| left.as_hours().div_euclid(24));
            let authority = wish.as_ref().map(|(wish, _)| wish.authority.as_str());
            let names: Vec<String> = match (certificate, wish) {
                (Some(certificate), _) => {
                    certificate.dns.iter().cloned().chain(certificate.ip.iter().map(ToString::to_string)).collect()
                }
                (None, Some((wish, _))) => {
                    wish.dns.iter().cloned().chain(wish.ip.iter().map(ToString::to_string)).collect()
                }
                _ => Vec::new(),
            };
            if self.desk.json {
                let how = match state {
                    CertificateState::Changed(how) => how.clone(),
                    _ => Vec::new(),
                };
                print_json(
                    &json!({ "event": "certificate", "version": crate::report::VERSION, "host": host, "name": name, "authority": authority,
                    "for": names, "serial": certificate.as_ref().map(|certificate| &certificate.serial),
                    "expires": certificate.as_ref().map(|certificate| certificate.not_after), "days": days, "state": state.word(), "differences": how }),
                );
                continue;
            }
            let days = days.map_or_else(|| "-".to_owned(), |days| days.to_string());
            print_line(&format!(
                "{host:<16} {name:<16} {:<14} {days:>5}  {:<40} {state}",
                authority.unwrap_or("-"),
                names.join(" ")
            ));
        }
        Ok(Exit::Done)
    }
}
