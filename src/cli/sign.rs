//! `kpull sign`.

use crate::cli::prelude::*;
use crate::document::fields::Lifetime;
use crate::trust::{Manifest, Signer, sign};

/// Arguments of `sign`.
#[derive(Args, Debug)]
pub struct Sign {
    /// Sign with this OpenSSH key: a private key, or the .pub file of a key in an agent or a hardware key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// How long hosts accept the release
    #[arg(long, value_name = "DURATION", default_value = "30d")]
    lifetime: Lifetime,
    /// Create a new release, with a new serial and expiry, even if no file has changed
    #[arg(long)]
    renew: bool,
    #[command(flatten)]
    options: SiteArgs,
}

impl Run for Sign {
    fn run(&self) -> Result<Exit> {
        let signed = sign(&self.options.site, &Signer::of(&self.key)?, self.lifetime.0, self.renew)?;
        let manifest = &signed.manifest;
        if self.options.json {
            print_json(json!({ "site": manifest.site, "serial": manifest.serial, "created": manifest.created,
                "expires": manifest.expires, "files": manifest.files.len(), "added": signed.added }));
        } else {
            let added = " (no file has changed: the signature is added to the existing release)";
            let note = if signed.added { added } else { "" };
            print(&format!("signed {}{note}", about(manifest)));
        }
        Ok(Exit::Done)
    }
}

/// A signed release in words.
pub(super) fn about(Manifest { serial, site, files, expires, .. }: &Manifest) -> String {
    format!("release {serial} of {site}: {} files, valid until {expires:.0}", files.len())
}
