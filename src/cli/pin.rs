//! `kpull pin`.

use std::fs::File;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;
use serde_json::json;

use crate::author::supply::pin::{ARTIFACTS, Checked, Done, Guess, NewPin, compare, write};
use crate::cli::{Run, TlsArgs, print, print_json, print_line};
use crate::document::{Format, READABLE, read_if_there, replace, utf8};
use crate::error::{Context, Error, Exit, Result, code};
use crate::net;
use crate::net::download::{DownloadRequest, download};
use crate::report::{Event, Report, Text, VERSION};
use crate::store::archive::Archive;

/// Arguments of `pin`.
#[derive(Args, Debug)]
pub struct Pin {
    /// Addresses of upstream files: one for each architecture, or several of the same file
    #[arg(value_name = "URL", required = true)]
    urls: Vec<String>,
    /// The artifact's name [default: as the file's name tells]
    #[arg(long)]
    name: Option<String>,
    /// Its version [default: as the address tells]
    #[arg(long)]
    version: Option<String>,
    /// The architecture, amd64 or arm64 [default: as the address tells]
    #[arg(long, value_parser = ["amd64", "arm64"])]
    arch: Option<String>,
    /// The publisher's checksums [default: URL.sha256, or SHA256SUMS, SHA256SUMS.txt, sha256sums.txt beside it]
    #[arg(long, value_name = "URL|FILE")]
    sums: Option<String>,
    /// What the file is, such as tar.gz; file for one that is installed as it is [default: as the end of the address tells]
    #[arg(long, value_parser = ["tar.gz", "tar.xz", "tar.zst", "tar", "zip", "gz", "xz", "zst", "file"])]
    format: Option<String>,
    /// Replace a pin of the same version that has another digest
    #[arg(long)]
    replace: bool,
    /// The site's directory
    #[arg(long, value_name = "DIR", default_value = ".")]
    site: PathBuf,
    #[command(flatten)]
    net: TlsArgs,
    /// Write one JSON object a line
    #[arg(long)]
    json: bool,
}

/// A file that was downloaded, with what else is to be told of it.
struct Fetched {
    pin: NewPin,
    checked: Checked,
    members: Vec<String>,
}

impl Run for Pin {
    fn run(&self) -> Result<Exit> {
        let named: Vec<NewPin> = self.urls.iter().map(|url| self.named(url)).collect::<Result<_>>()?;
        let path = self.site.join(ARTIFACTS);
        let old = match read_if_there(&self.site, ARTIFACTS)? {
            Some(bytes) => utf8(ARTIFACTS, &bytes)?.to_owned(),
            None if self.site.join("site.toml").exists() => String::new(),
            None => {
                return Err(Error::new(code::SUPPLY, format!("there is no {}", path.display()))
                    .help("say --site DIR, the directory with site.toml"));
            }
        };
        let scratch = tempfile::tempdir().context(code::SUPPLY, || "can't make a temporary directory".to_owned())?;
        let mut fetched: Vec<Fetched> = Vec::new();
        for pin in named {
            let new = self.fetch(pin, scratch.path())?;
            let same = |known: &&mut Fetched| known.pin.name == new.pin.name && known.pin.arch == new.pin.arch;
            match fetched.iter_mut().find(same) {
                Some(known) if known.pin.sha256 == new.pin.sha256 => known.pin.urls.extend(new.pin.urls),
                Some(known) => {
                    return Err(Error::new(
                        code::SUPPLY,
                        format!(
                            "two different files for {} ({}): {} has {}, and {} has {}",
                            new.pin.name,
                            new.pin.arch,
                            known.pin.urls[0],
                            known.pin.sha256,
                            new.pin.urls[0],
                            new.pin.sha256
                        ),
                    )
                    .help("several addresses of one artifact and architecture have to be mirrors of one file"));
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
            self.tell(fetched, done);
        }
        Ok(Exit::Done)
    }

    fn json(&self) -> bool {
        self.json
    }
}

impl Pin {
    /// What an address is of, as far as it and the options tell; all that is known before the download.
    fn named(&self, url: &str) -> Result<NewPin> {
        if !url.starts_with("file:///") {
            net::parse(url)?;
        }
        let guess = Guess::of(url);
        let found = |given: &Option<String>, guessed: Option<String>, what: &str| {
            given.clone().or(guessed).ok_or_else(|| {
                Error::new(code::SUPPLY, format!("the address {url} does not tell the {what}"))
                    .help(format!("say --{what}"))
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
        let format =
            match &pin.format {
                Some(format) => Format::deserialize(format.as_str().into_deserializer()).map_err(
                    |why: serde::de::value::Error| Error::new(code::SUPPLY, "`--format` can't be used").because(why),
                )?,
                None => Format::of(&url).map_err(|what| {
                    Error::new(code::SUPPLY, format!("{url} is {what}, which can't be unpacked")).help(READABLE)
                })?,
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

    fn tell(&self, fetched: &Fetched, done: &Done) {
        let Fetched { pin: NewPin { name, version, arch, urls, sha256, size, .. }, checked, members } = fetched;
        let (word, old) = match done {
            Done::Added => ("added", None),
            Done::Updated { old } => ("updated", Some(old)),
            Done::Replaced { old } => ("replaced", Some(old)),
            Done::MoreUrls => ("urls", None),
            Done::Size => ("size", None),
            Done::Nothing => ("nothing", None),
        };
        let published = match checked {
            Checked::Agrees { with } => Some(with),
            Checked::Nowhere { .. } => None,
        };
        if self.json {
            return print_json(
                &json!({ "event": "pinned", "version": VERSION, "name": name, "artifact_version": version,
                "arch": arch, "urls": urls, "sha256": sha256, "size": size, "published": published, "done": word,
                "old": old, "members": members }),
            );
        }
        print(&format!("{name} {version} ({arch})"));
        print(&format!("  sha256   {sha256}\n  size     {size}"));
        const NONE: &str = "no published digest was found to compare with";
        const THEN: &str = "compare it yourself, or say --sums";
        print_line(&match checked {
            Checked::Agrees { with } => format!("  checked  it agrees with {with}"),
            Checked::Nowhere { unread: Some(why) } => format!("  checked  {NONE} ({why}): {THEN}"),
            Checked::Nowhere { unread: None } => format!("  checked  {NONE}: {THEN}"),
        });
        for (index, member) in members.iter().enumerate() {
            print_line(&format!("  {:<8} {member}", if index == 0 { "members" } else { "" }));
        }
        print(&match done {
            Done::Added => format!("  pinned in {ARTIFACTS}"),
            Done::Updated { old } => format!("  pinned in {ARTIFACTS}, in place of version {old}"),
            Done::Replaced { old } => format!("  pinned in {ARTIFACTS}, in place of {old}"),
            Done::MoreUrls => format!("  pinned before; the address was added in {ARTIFACTS}"),
            Done::Size => format!("  pinned before; the size was added in {ARTIFACTS}"),
            Done::Nothing => "  nothing to do: it is pinned like this".to_owned(),
        });
    }
}
