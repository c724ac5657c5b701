//! `kpull publish`.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::author::supply::publish::{Dir, Pruned, Pruning, Published, Signed, Web, publish};
use crate::cli::prelude::*;
use crate::document::fields::HumanDuration;
use crate::net::Options;
use crate::trust::Shortfall;

/// Arguments of `publish`.
#[derive(Args, Debug)]
pub struct Publish {
    /// A directory, or the https:// or http:// address of a server that accepts PUT
    #[arg(value_name = "DIR|URL")]
    target: String,
    /// How many releases to keep in a directory [default: 10]
    #[arg(long, value_name = "N")]
    keep: Option<NonZeroUsize>,
    /// How long to keep a release after it was replaced, and a blob after it was written [default: 1h]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    grace: Option<Duration>,
    /// Replace a newer release, or one of another site
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    tls: TlsArgs,
    /// Send the bearer token in this file
    #[arg(long, value_name = "FILE", conflicts_with = "basic")]
    bearer: Option<PathBuf>,
    /// Send the USER:PASSWORD in this file
    #[arg(long, value_name = "FILE")]
    basic: Option<PathBuf>,
    #[command(flatten)]
    options: SiteArgs,
}

fn duration(text: &str) -> std::result::Result<Duration, String> {
    HumanDuration::try_from(text.to_owned()).map(|duration| duration.0)
}

impl Run for Publish {
    fn run(&self) -> Result<Exit> {
        let signed = Signed::open(&self.options.site)?;
        let (published, pruned) = if self.target.contains("://") {
            if self.keep.is_some() || self.grace.is_some() {
                return Err(error!(SUPPLY, "kpull removes nothing from a web server")
                    .help("omit --keep and --grace; prune with the server's own tools, or publish to a directory"));
            }
            let (bearer, basic) = (self.bearer.clone(), self.basic.clone());
            let web = Web::open(&self.target, &Options { bearer, basic, ..self.tls.options() })?;
            (publish(&signed, &web, self.force)?, Pruned::default())
        } else {
            let dir = Dir::open(Path::new(&self.target))?;
            let published = publish(&signed, &dir, self.force)?;
            let keep = self.keep.map_or(10, NonZeroUsize::get);
            (published, dir.prune(&Pruning { keep, grace: self.grace.unwrap_or(Duration::from_secs(3600)) })?)
        };
        self.report(&signed, &published, &pruned);
        Ok(Exit::Done)
    }
}

impl Publish {
    fn report(&self, signed: &Signed, published: &Published, pruned: &Pruned) {
        let (pointer, Published { sent, bytes, known, unchanged }) = (&signed.pointer, published);
        let Pruned { releases, blobs } = pruned;
        let shortfalls: Vec<String> = signed.shortfalls.iter().map(Shortfall::warning).collect();
        if self.options.json {
            return print_json(json!({ "site": pointer.site, "serial": pointer.serial,
                "manifest": pointer.manifest, "sent": sent, "bytes": bytes, "known": known, "unchanged": unchanged,
                "pruned_releases": releases, "pruned_blobs": blobs, "shortfalls": shortfalls }));
        }
        shortfalls.iter().for_each(|shortfall| print(&format!("! {shortfall}")));
        let what = format!("release {} of {}", pointer.serial, pointer.site);
        print(&match unchanged {
            true if *sent == 0 => format!("nothing to do: {what} is published"),
            true => format!("{what} was published: {sent} missing blobs ({bytes} bytes) written again"),
            false => format!("published {what}: {sent} blobs ({bytes} bytes) written, {known} already there"),
        });
        if *releases + *blobs > 0 {
            print(&format!("removed {releases} older releases and {blobs} blobs"));
        }
    }
}
