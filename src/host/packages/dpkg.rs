//! dpkg's database.

use std::path::Path;

use crate::error::Result;
use crate::host::root::Root;

/// An entry of dpkg's database.
#[derive(Debug)]
pub(super) struct Status {
    pub name: String,
    pub arch: String,
    pub version: String,
    /// The last word of its status: `installed`, `config-files`, …
    pub state: String,
    /// Whether an operator or a role keeps it at its version.
    pub is_held: bool,
}

/// dpkg's database.
pub(super) struct Dpkg(pub Vec<Status>);

impl Dpkg {
    pub fn read(root: &Root) -> Result<Self> {
        let text = root.text(Path::new("/var/lib/dpkg/status"))?;
        Ok(Self(text.split("\n\n").map(Status::of).collect()))
    }

    /// The packages on the host, and whether each is completely installed.
    pub fn there(&self) -> impl Iterator<Item = (&Status, bool)> {
        self.0.iter().filter_map(|status| match &*status.state {
            "installed" | "triggers-awaited" | "triggers-pending" => Some((status, true)),
            "unpacked" | "half-configured" | "half-installed" => Some((status, false)),
            _ => None,
        })
    }

    /// The names of a package. The one without an architecture is only for the host's own architecture, which is that of dpkg itself.
    pub fn names(&self, status: &Status) -> Vec<String> {
        let native = self.0.iter().find(|one| one.name == "dpkg").map(|dpkg| &*dpkg.arch);
        let is_native = status.arch == "all" || native.is_none_or(|native| native == status.arch);
        let full = format!("{}:{}", status.name, status.arch);
        if is_native { vec![status.name.clone(), full] } else { vec![full] }
    }
}

impl Status {
    /// Parses a paragraph of the database.
    fn of(paragraph: &str) -> Self {
        let value = |field: &str| {
            let value = paragraph.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(": "));
            value.unwrap_or_default().trim_end().to_owned()
        };
        let status = value("Status");
        let state = status.rsplit(' ').next().unwrap_or_default().to_owned();
        let is_held = status.starts_with("hold ");
        Self { name: value("Package"), arch: value("Architecture"), version: value("Version"), state, is_held }
    }
}
