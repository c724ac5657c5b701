//! `kpull pin`.

use std::fs::File;

use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;

use crate::author::supply::pin::{ARTIFACTS, Checked, Done, Guess, NewPin, compare, write};
use crate::cli::prelude::*;
use crate::document::{Format, READABLE, read_if_there, utf8};
use crate::net;
use crate::net::download::{DownloadRequest, download};
use crate::store::archive::Archive;

/// Arguments of `pin`.
#[derive(Args, Debug)]
pub struct Pin {
    /// Addresses of upstream files: one for each architecture, or several of the same file
    #[arg(value_name = "URL", required = true)]
    urls: Vec<String>,
    /// The artifact's name [default: derived from the file name]
    #[arg(long)]
    name: Option<String>,
    /// The version [default: derived from the address]
    #[arg(long)]
    version: Option<String>,
    /// The architecture, amd64 or arm64 [default: derived from the address]
    #[arg(long, value_parser = ["amd64", "arm64"])]
    arch: Option<String>,
    /// The publisher's checksums [default: URL.sha256, or SHA256SUMS, SHA256SUMS.txt, sha256sums.txt beside it]
    #[arg(long, value_name = "URL|FILE")]
    sums: Option<String>,
    /// The format, such as tar.gz, or file for a file to install unchanged [default: derived from the address]
    #[arg(long, value_parser = ["tar.gz", "tar.xz", "tar.zst", "tar", "zip", "gz", "xz", "zst", "file"])]
    format: Option<String>,
    /// Replace a pin of the same version that has another digest
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    net: TlsArgs,
    #[command(flatten)]
    options: SiteArgs,
}

/// A downloaded file, with the results of its checks.
struct Fetched {
    pin: NewPin,
    checked: Checked,
    members: Vec<String>,
}

impl Run for Pin {
    fn run(&self) -> Result<Exit> {
        let pins: Vec<NewPin> = self.urls.iter().map(|url| self.new_pin(url)).collect::<Result<_>>()?;
        let path = self.options.site.join(ARTIFACTS);
        let old = match read_if_there(&self.options.site, ARTIFACTS)? {
            Some(bytes) => utf8(ARTIFACTS, &bytes)?.to_owned(),
            None if self.options.site.join("site.toml").exists() => String::new(),
            None => {
                return Err(error!(SUPPLY, "there is no {}", path.display())
                    .help("add --site DIR: the directory with site.toml"));
            }
        };
        let scratch = tempfile::tempdir().context(code::SUPPLY, || "can't create a temporary directory")?;
        let mut fetched: Vec<Fetched> = Vec::new();
        for pin in pins {
            let new = self.fetch(pin, scratch.path())?;
            let same = |known: &&mut Fetched| known.pin.name == new.pin.name && known.pin.arch == new.pin.arch;
            match fetched.iter_mut().find(same) {
                Some(known) if known.pin.sha256 == new.pin.sha256 => known.pin.urls.extend(new.pin.urls),
                Some(known) => {
                    let has = |pin: &NewPin| format!("{} has {}", pin.urls[0], pin.sha256);
                    let (one, two, NewPin { name, arch, .. }) = (has(&known.pin), has(&new.pin), &new.pin);
                    return Err(error!(SUPPLY, "two different files for {name} ({arch}): {one}, and {two}")
                        .help("several addresses of one artifact and architecture must be mirrors of the same file"));
                }
                None => fetched.push(new),
            }
        }
        let pins: Vec<NewPin> = fetched.iter().map(|fetched| fetched.pin.clone()).collect();
        let (text, done) = write(&old, &pins, self.replace)?;
        if text != old {
            replace(&[(path, text.into_bytes())])?;
        }
        for (fetched, done) in fetched.iter().zip(&done) {
            self.report(fetched, done);
        }
        Ok(Exit::Done)
    }
}

impl Pin {
    /// The pin of an address as far as it is known before the download, from the address and the options.
    fn new_pin(&self, url: &str) -> Result<NewPin> {
        if !url.starts_with("file:///") {
            net::parse(url)?;
        }
        let guess = Guess::of(url);
        let found = |given: &Option<String>, guessed: Option<String>, what: &str| {
            given.clone().or(guessed).ok_or_else(|| {
                error!(SUPPLY, "the {what} can't be derived from the address {url}").help(format!("add --{what}"))
            })
        };
        Ok(NewPin {
            name: found(&self.name, guess.name, "name")?,
            version: found(&self.version, guess.version, "version")?,
            arch: found(&self.arch, guess.arch, "arch")?,
            urls: vec![url.to_owned()],
            sha256: String::new(),
            size: 0,
            format: self.format.clone(),
        })
    }

    fn fetch(&self, mut pin: NewPin, scratch: &Path) -> Result<Fetched> {
        let url = pin.urls[0].clone();
        let format = match &pin.format {
            Some(format) => Format::deserialize(format.as_str().into_deserializer())
                .map_err(|why: serde::de::value::Error| error!(SUPPLY, "`--format` can't be used").because(why))?,
            None => Format::of(&url)
                .map_err(|what| error!(SUPPLY, "{url} is {what}, which can't be unpacked").help(READABLE))?,
        };
        let (options, report) = (self.net.options(), Text::new(false));
        let part = scratch.join("file");
        let wanted = DownloadRequest { name: &pin.name, sha256: None, size: None };
        let progress = |name: &str, done, total| report.event(&Event::Download { name, done, total });
        let got = download(&options, &url, &part, &wanted, &progress)?;
        (pin.sha256, pin.size) = (got.sha256, got.size);
        let checked = compare(&options, &url, &pin.sha256, self.sums.as_deref(), self.urls.len() == 1)?;
        let file = File::open(&part).context(code::SUPPLY, || format!("can't read {}", part.display()))?;
        let members = Archive::new(&url, format).list(file)?;
        Ok(Fetched { pin, checked, members })
    }

    fn report(&self, fetched: &Fetched, done: &Done) {
        let Fetched { pin: NewPin { name, version, arch, urls, sha256, size, .. }, checked, members } = fetched;
        let (word, old, line) = match done {
            Done::Added => ("added", None, format!("pinned in {ARTIFACTS}")),
            Done::Updated(old) => ("updated", Some(old), format!("pinned in {ARTIFACTS}, replacing version {old}")),
            Done::Replaced(old) => ("replaced", Some(old), format!("pinned in {ARTIFACTS}, replacing {old}")),
            Done::MoreUrls => ("urls", None, format!("already pinned; added the address to {ARTIFACTS}")),
            Done::Size => ("size", None, format!("already pinned; added the size to {ARTIFACTS}")),
            Done::Nothing => ("nothing", None, "nothing to do: already pinned".to_owned()),
        };
        let published = match checked {
            Checked::Agrees(with) => Some(with),
            Checked::Nowhere(_) => None,
        };
        if self.options.json {
            return print_json(json!({ "event": "pinned", "name": name, "artifact_version": version,
                "arch": arch, "urls": urls, "sha256": sha256, "size": size, "published": published, "done": word,
                "old": old, "members": members }));
        }
        print(&format!("{name} {version} ({arch})"));
        print(&format!("  sha256   {sha256}\n  size     {size}"));
        const NONE: &str = "no published digest was found";
        const THEN: &str = "compare it yourself, or add --sums";
        print_line(&match checked {
            Checked::Agrees(with) => format!("  checked  it matches {with}"),
            Checked::Nowhere(Some(why)) => format!("  checked  {NONE} ({why}): {THEN}"),
            Checked::Nowhere(None) => format!("  checked  {NONE}: {THEN}"),
        });
        for (index, member) in members.iter().enumerate() {
            print_line(&format!("  {:<8} {member}", if index == 0 { "members" } else { "" }));
        }
        print(&format!("  {line}"));
    }
}
