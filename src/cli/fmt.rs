//! `kpull fmt`.

use crate::author::fmt::format;
use crate::author::vendor;
use crate::cli::prelude::*;
use crate::document::{read_if_there, utf8};

/// Arguments of `fmt`.
#[derive(Args, Debug)]
pub struct Fmt {
    /// Format these TOML files [default: all hand-written files of the site]
    files: Vec<PathBuf>,
    /// Change nothing; exit with 1 if a file would change
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    options: SiteArgs,
}

impl Run for Fmt {
    fn run(&self) -> Result<Exit> {
        let (mut changed, mut errors) = (Vec::new(), Vec::new());
        for path in self.files()? {
            let name = path.display().to_string();
            let bytes = std::fs::read(&path).context(code::EDIT, || format!("can't read {name}"))?;
            let formatted = keep(&mut errors, utf8(&name, &bytes).and_then(|text| format(&name, text)));
            let formatted = formatted.map(String::into_bytes).filter(|formatted| *formatted != bytes);
            changed.extend(formatted.map(|formatted| (path, formatted)));
        }
        Error::check(errors)?;
        if !self.check {
            replace(&changed)?;
        }
        for (path, _) in &changed {
            let object = json!({ "event": "formatted", "path": path, "written": !self.check });
            print_result(self.options.json, object, &format!("~ {}", path.display()));
        }
        match changed.len() {
            left if left > 0 && self.check => {
                let files = if left == 1 { "1 file is".to_owned() } else { format!("{left} files are") };
                Err(error!(EDIT, "{files} not formatted").help("run `kpull fmt`"))
            }
            _ => Ok(Exit::Done),
        }
    }
}

impl Fmt {
    /// The named files, or those of the site except what `kpull` writes itself.
    fn files(&self) -> Result<Vec<PathBuf>> {
        if !self.files.is_empty() {
            return Ok(self.files.clone());
        }
        let is_ours = |path: &str| ["keys/", "pki/", "secrets/"].iter().any(|dir| path.starts_with(dir));
        let is_copied = |path: &str| path.starts_with("roles/") && !is_read(path);
        let files = Files::in_directory(&self.options.site)?;
        // vendored roles are signed as they are
        let is_theirs = |path: &str| {
            let role = path.strip_prefix("roles/").and_then(|path| path.split('/').next());
            role.is_some_and(|role| files.get(&format!("roles/{role}/{}", vendor::ORIGIN)).is_some())
        };
        let wanted = files.iter().map(|(path, _)| path).filter(|path| path.ends_with(".toml"));
        let wanted = wanted.filter(|path| !is_ours(path) && !is_copied(path) && !is_theirs(path));
        let listed = read_if_there(&self.options.site, vendor::FILE)?.map(|_| vendor::FILE);
        Ok(wanted.chain(listed).map(|path| self.options.site.join(path)).collect())
    }
}

/// Whether kpull reads a TOML file of a role, rather than writing it to hosts.
fn is_read(path: &str) -> bool {
    matches!(path.split('/').collect::<Vec<_>>()[..], [_, _, "role.toml"] | [_, _, "tests", _])
}
