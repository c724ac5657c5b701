//! `kpull mirror`.

use crate::author::supply::mirror::{Done, Filling, Mirror as Dir};
use crate::cli::prelude::*;
use crate::net;

/// Arguments of `mirror`.
#[derive(Args, Debug)]
pub struct Mirror {
    /// The mirror's directory
    dir: PathBuf,
    #[command(flatten)]
    site: SiteSource,
    /// Mirror only the files of this architecture
    #[arg(long, value_parser = ["amd64", "arm64"])]
    arch: Option<String>,
    /// Try this other mirror, a directory or address, before the files' own addresses; repeatable
    #[arg(long, value_name = "DIR|URL")]
    from: Vec<String>,
    /// Read existing files, and download those with a wrong digest again
    #[arg(long)]
    verify: bool,
    /// Remove files that no pin names
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    net: TlsArgs,
    /// Write one JSON object on each line
    #[arg(long)]
    json: bool,
}

impl Run for Mirror {
    fn run(&self) -> Result<Exit> {
        let site = self.site.load()?;
        let from = self.from.iter().map(|from| address(from)).collect::<Result<_>>()?;
        let filling = Filling { arch: self.arch.clone(), from, verify: self.verify, net: self.net.options() };
        let mirror = Dir::open(&self.dir)?;
        let report = Text::new(false);
        let progress = |name: &str, done, total| report.event(&Event::Download { name, done, total });
        let (mut files, mut bytes) = (0, 0u64);
        mirror.fill(&site.artifacts, &filling, &progress, &mut |entry, done| {
            (files, bytes) = (files + 1, bytes.saturating_add(entry.size));
            let (sign, word) = match done {
                Done::Kept => (" ", "kept"),
                Done::Fetched => ("↓", "fetched"),
                Done::Corrected => ("↓", "corrected"),
            };
            let name = format!("{} {}", entry.name, entry.version);
            print_result(
                self.json,
                json!({ "event": word, "name": entry.name, "artifact_version": entry.version,
                    "arch": entry.arch, "file": entry.file, "size": entry.size }),
                &format!("{sign} {name:<32} {:<6} {:>12}  {}", entry.arch, entry.size, entry.file),
            );
        })?;
        let removed = if self.prune { mirror.prune(&site.artifacts)? } else { 0 };
        let note = if removed == 0 { String::new() } else { format!(", {removed} removed") };
        let object = json!({ "event": "done", "files": files, "bytes": bytes, "removed": removed });
        print_result(self.json, object, &format!("{files} files, {bytes} bytes in {}{note}", self.dir.display()));
        Ok(Exit::Done)
    }
}

/// The address of another mirror.
fn address(from: &str) -> Result<String> {
    if from.starts_with("file:///") {
        return Ok(from.to_owned());
    }
    if from.contains("://") {
        return net::parse(from).map(|_| from.to_owned());
    }
    let path = std::fs::canonicalize(from).context(code::SUPPLY, || format!("there is no mirror in {from}"))?;
    Ok(format!("file://{}", path.display()))
}
