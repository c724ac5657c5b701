//! What enables a unit or keeps it from starting: links, masks and System V scripts.

use super::{Unit, units};
use crate::host::process::{self, Command, run_if_there};
use crate::host::unit_files::{self, Found, Link};
use crate::kind::prelude::*;

/// How long enabling or disabling a System V script may take.
const ONE_SCRIPT: Duration = Duration::from_secs(60);

/// The links of a unit that differ.
#[derive(Debug, Default)]
pub(super) struct Links {
    missing: Vec<Link>,
    pub(super) stale: Vec<PathBuf>,
}

impl Unit {
    /// The links that are missing or stale; `None` if there are none, or they are not known.
    pub(super) fn wrong_links(&self, work: &Work<'_>, found: &Found) -> Result<Option<Links>> {
        let (root, Some(enable)) = (&work.host.root, self.enable) else { return Ok(None) };
        let file = match found {
            Found::File(file) => Some(file),
            Found::Missing | Found::Masked { .. } => None,
        };
        let of_install = file.map(|file| file.links(root)).transpose()?.unwrap_or_default();
        if enable && of_install.is_empty() {
            if file.is_none() || self.is_restored {
                return Ok(None);
            }
            return Err(error!(UNIT, "{} can't be enabled: its file does not specify when to start it", self.name)
                .help("add `WantedBy=multi-user.target` under `[Install]`, with a drop-in if a package provides the unit; or omit `enable`"));
        }
        let names: Vec<&str> = std::iter::once(self.name.as_str()).chain(file.map(|file| file.name.as_str())).collect();
        let mut links = Links { stale: unit_files::links_to(root, &names)?, missing: Vec::new() };
        // units that are enabled along with it may have settings of their own
        let is_ours = |link: &Link| names.contains(&link.unit.as_str()) || !decides(work.catalog, &link.unit);
        for link in of_install.into_iter().filter(is_ours) {
            let is_there = link.is_there(root)?;
            links.stale.retain(|at| *at != link.at);
            match enable {
                true if !is_there => links.missing.push(link),
                false if is_there => links.stale.push(link.at),
                // a run that died between the two leaves an empty directory
                false => links.stale.extend(unit_files::emptied(root, &link.at)?),
                _ => {}
            }
        }
        links.stale.retain(|at| !is_claimed(work.catalog, at));
        Ok(Some(links).filter(|links| !links.missing.is_empty() || !links.stale.is_empty()))
    }

    /// The System V script to enable or disable, if that differs.
    pub(super) fn wrong_script(&self, host: &Host, found: &Found) -> Result<Option<PathBuf>> {
        let (Some(enable), Found::Missing, None) = (self.enable, found, self.mask) else { return Ok(None) };
        let Some(script) = unit_files::script(&host.root, &self.name)? else { return Ok(None) };
        let is_enabled = !unit_files::script_links(&host.root, &self.name)?.is_empty();
        Ok((is_enabled != enable).then_some(script))
    }

    pub(super) fn change_mask(&self, host: &Host) -> Result<()> {
        let root = &host.root;
        if host.is_live() {
            host.systemd()?.mask(&self.name)?;
        } else if root.file(&self.link())?.is_some() {
            return Err(error!(UNIT, "{} can't be masked: its file is at the path of the mask", self.name)
                .help(format!("remove {} with an [[absent]]", self.link().display())));
        } else {
            root.make_link(&self.link(), Path::new("/dev/null"))?;
        }
        host.unit_files_changed();
        Ok(())
    }

    pub(super) fn unmask(&self, host: &Host, runtime: bool) -> Result<()> {
        if host.is_live() {
            host.systemd()?.unmask(&self.name, runtime)?;
        } else {
            host.root.remove(&self.link())?;
        }
        host.unit_files_changed();
        Ok(())
    }

    pub(super) fn change_links(&self, host: &Host, links: &Links) -> Result<()> {
        for at in &links.stale {
            unit_files::unlink(&host.root, at)?;
        }
        for link in &links.missing {
            link.make(&host.root)?;
        }
        host.unit_links_changed();
        Ok(())
    }

    /// Enables or disables a System V script with the distribution's helper.
    pub(super) fn change_script(&self, host: &Host, script: &Path, enable: bool) -> Result<()> {
        const HELPERS: [&str; 2] = ["/usr/lib/systemd/systemd-sysv-install", "/lib/systemd/systemd-sysv-install"];
        let word = if enable { "enable" } else { "disable" };
        let what = || format!("{} can't be {word}d: it is a System V script, {}", self.name, script.display());
        let own = format!(
            "replace it with a unit: a [[unit]] with `content`, whose ExecStart= is `{} start`",
            script.display()
        );
        if !host.is_live() {
            return Err(Error::new(code::UNIT, what()).because("this needs a running host").help(own));
        }
        let stem = script.file_name().unwrap_or_default().to_string_lossy();
        for helper in HELPERS {
            let argv = process::argv([helper, word, &stem]);
            let Some(output) = run_if_there(&Command::new(&argv, ONE_SCRIPT))? else { continue };
            return match output.is_success() {
                true => {
                    host.unit_files_changed();
                    Ok(())
                }
                false => Err(output.failure(what()).help(own)),
            };
        }
        Err(Error::new(code::UNIT, what()).because("this host has no systemd-sysv-install").help(own))
    }
}

/// Whether the catalog decides whether this unit is enabled.
fn decides(catalog: &[Item], name: &str) -> bool {
    units(catalog).any(|unit| unit.name == name && unit.enable.is_some())
}

/// Whether another resource of the catalog claims this path.
fn is_claimed(catalog: &[Item], path: &Path) -> bool {
    catalog.iter().any(|item| item.about.paths().any(|claimed| claimed == path))
}
