//! `kpull sign`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::cli::{Run, print, print_json};
use crate::document::fields::Lifetime;
use crate::error::{Exit, Result};
use crate::trust::{Signer, sign};

/// Arguments of `sign`.
#[derive(Args, Debug)]
pub struct Sign {
    /// Sign with this OpenSSH key: a private key, or the .pub file of one that an agent or a hardware key holds
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The site's directory
    #[arg(long, value_name = "DIR", default_value = ".")]
    site: PathBuf,
    /// How long hosts take the release
    #[arg(long, value_name = "SPAN", default_value = "30d")]
    lifetime: Lifetime,
    /// Make a new release, with a new serial and expiry, even if no file has changed
    #[arg(long)]
    renew: bool,
    /// Write one JSON object
    #[arg(long)]
    json: bool,
}

impl Run for Sign {
    fn run(&self) -> Result<Exit> {
        let signed = sign(&self.site, &Signer::of(&self.key)?, self.lifetime.0, self.renew)?;
        let manifest = &signed.manifest;
        if self.json {
            print_json(
                &json!({ "version": crate::report::VERSION, "site": manifest.site, "serial": manifest.serial, "created": manifest.created,
                "expires": manifest.expires, "files": manifest.files.len(), "added": signed.added }),
            );
        } else {
            let note = if signed.added {
                " (no file has changed: the signature is added to the release that was there)"
            } else {
                ""
            };
            print(&format!(
                "signed release {} of {}: {} files, good until {:.0}{note}",
                manifest.serial,
                manifest.site,
                manifest.files.len(),
                manifest.expires
            ));
        }
        Ok(Exit::Done)
    }

    fn json(&self) -> bool {
        self.json
    }
}
