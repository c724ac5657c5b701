//! `kpull pki`.

use crate::author::pki::{CertificateState, CertificateStatus, Completed, PkiAdmin, Step};
use crate::cli::prelude::*;
use crate::cli::secret::Identity;
use crate::document::fields::Lifetime;
use crate::pki::Reason;
use crate::secret::Keyring;

/// Arguments of `pki`.
#[derive(Args, Debug)]
pub struct Pki {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    options: SiteArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create missing authorities and key pairs of site.toml
    Init,
    /// Issue certificates that are missing or do not match the roles
    Issue(Identity),
    /// Renew certificates that are due
    Renew {
        #[command(flatten)]
        keys: Identity,
        /// Renew certificates that expire within this time [default: as each role defines]
        #[arg(long, value_name = "DURATION")]
        before: Option<Lifetime>,
        /// Renew only certificates of this host
        #[arg(long, value_name = "NAME")]
        host: Option<String>,
        /// Renew only certificates of this name; without --before, even if they are not due
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
    /// Show every certificate and its state
    List,
    /// Revoke a certificate and remove it from the site
    Revoke {
        #[command(flatten)]
        keys: Identity,
        /// The host
        host: String,
        /// The certificate
        name: String,
        /// The reason
        #[arg(long, value_enum, default_value_t)]
        reason: Reason,
    },
    /// Issue a certificate for a key that stays on its host
    SignRequest {
        #[command(flatten)]
        keys: Identity,
        /// The certificate request from the host
        file: PathBuf,
        /// The host
        #[arg(long, value_name = "NAME")]
        host: String,
        /// The certificate
        #[arg(long, value_name = "NAME")]
        name: String,
    },
    /// Replace an authority in three steps: trust a second one, then --switch, then --finish
    Rotate {
        #[command(flatten)]
        keys: Identity,
        /// The authority
        authority: String,
        /// Sign with the new authority from now on
        #[arg(long)]
        switch: bool,
        /// Remove the old authority
        #[arg(long, conflicts_with = "switch")]
        finish: bool,
    },
}

impl Run for Pki {
    fn run(&self) -> Result<Exit> {
        let admin = |keys: &Identity| PkiAdmin::open(&self.options.site, keys.keys()?);
        let without_keys = || PkiAdmin::open(&self.options.site, Keyring::load(&[], None)?);
        let done = match &self.command {
            Command::Init => without_keys()?.init()?,
            Command::Issue(keys) => admin(keys)?.issue()?,
            Command::Renew { keys, before, host, names } => {
                admin(keys)?.renew(before.map(|before| before.0), host.as_deref(), names)?
            }
            Command::List => return self.list(&without_keys()?.survey()?),
            Command::Revoke { keys, host, name, reason } => admin(keys)?.revoke(host, name, *reason)?,
            Command::SignRequest { keys, file, host, name } => admin(keys)?.sign_request(file, host, name)?,
            Command::Rotate { keys, authority, switch, finish } => {
                let step = match (switch, finish) {
                    (true, _) => Step::Switch,
                    (_, true) => Step::Finish,
                    _ => Step::Begin,
                };
                admin(keys)?.rotate(authority, step)?
            }
        };
        self.report(&done);
        Ok(Exit::Done)
    }
}

impl Pki {
    fn report(&self, done: &[Completed]) {
        if done.is_empty() && !self.options.json {
            print("nothing to do");
        }
        for Completed { operation, host, name, note } in done {
            let full_name = host.as_ref().map_or_else(|| name.clone(), |host| format!("{host}/{name}"));
            let object = json!({ "event": operation, "host": host, "name": name, "note": note });
            print_result(self.options.json, object, &format!("{operation:<8} {full_name:<24} {note}"));
        }
    }

    fn list(&self, statuses: &[CertificateStatus]) -> Result<Exit> {
        let now = Timestamp::now();
        if !self.options.json {
            print(&format!("{:<16} {:<16} {:<14} {:>5}  {:<40} STATE", "HOST", "NAME", "AUTHORITY", "DAYS", "FOR"));
        }
        for status in statuses {
            let CertificateStatus { host, name, request, certificate, state } = status;
            let days = status.left(now).map(|left| left.as_hours().div_euclid(24));
            let authority = request.as_ref().map(|(request, _)| request.authority.as_str());
            let own = certificate.as_ref().map(|certificate| (&certificate.dns, &certificate.ip));
            let names = own.or(request.as_ref().map(|(request, _)| (&request.dns, &request.ip)));
            let names: Vec<String> = names
                .map(|(dns, ip)| dns.iter().cloned().chain(ip.iter().map(ToString::to_string)).collect())
                .unwrap_or_default();
            if self.options.json {
                let how = if let CertificateState::Changed(how) = state { how.as_slice() } else { &[] };
                print_json(json!({ "event": "certificate", "host": host, "name": name, "authority": authority,
                    "for": names, "serial": certificate.as_ref().map(|certificate| &certificate.serial),
                    "expires": certificate.as_ref().map(|certificate| certificate.not_after), "days": days, "state": state.word(), "differences": how }));
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
