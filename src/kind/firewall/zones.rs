//! Zones in firewalld's files and in a running firewalld.

use super::{Edits, Firewall, did_you_mean, not_running};
use crate::host::firewalld::{UNKNOWN_ZONE, Zone};
use crate::host::firewalld_age::Age;
use crate::host::zone::{Edit, Element, Settings};
use crate::host::zone_file::ZoneFile;
use crate::kind::prelude::*;

/// Makes the edits that a zone needs, in a tree or on the running host.
pub(super) fn edit(host: &Host, catalog: &[Item], zone: &str, edits: &dyn Fn(&Settings) -> Vec<Edit>) -> Result<()> {
    if !host.is_live() {
        let file = zone_file(host, zone)?;
        let edits = edits(&file.settings());
        if edits.is_empty() {
            return Ok(());
        }
        for (other, element) in elsewhere(&host.root, zone, &edits)? {
            write_zone(host, &other, &zone_file(host, &other)?.edited(&[Edit::Remove(element)]))?;
        }
        return write_zone(host, zone, &file.edited(&edits));
    }
    let mut restarts = 0;
    loop {
        let before = host.firewalld()?.life();
        match edit_live(host, catalog, zone, edits) {
            // firewalld was restarted, and has lost its run-time settings
            Err(error) if restarts < MOST_RESTARTS && host.firewalld()?.life() != before => {
                log::debug!("firewalld was restarted: {error}");
                restarts += 1;
            }
            // firewalld can't read its files, and accepts no change until it can
            Err(error) if error.to_string().contains("RUNNING_BUT_FAILED") && repair_torn(host, zone)? => {
                log::warn!("the file of the zone {zone} was incomplete; its backup or the package's applies: {error}");
            }
            made => return made,
        }
    }
}

pub(super) fn write_zone(host: &Host, zone: &str, text: &str) -> Result<()> {
    let access = Access::of_mode(0o644);
    host.root.write(&etc_file(zone), text.as_bytes(), access)
}

/// Whether it can be in only one zone.
pub(super) fn is_bound(element: &Element) -> bool {
    matches!(element, Element::Source(_) | Element::Interface(_))
}

/// Additions to a zone that can be in only one zone, and are in the files of others: as written there.
pub(super) fn elsewhere(root: &Root, zone: &str, edits: &[Edit]) -> Result<Vec<(String, Element)>> {
    let added = edits.iter().filter_map(|edit| match edit {
        Edit::Add(element) if is_bound(element) => Some(element),
        _ => None,
    });
    let added: Vec<&Element> = added.collect();
    let mut found = Vec::new();
    if added.is_empty() {
        return Ok(found);
    }
    for other in kept_zones(root)?.into_iter().filter(|other| other != zone) {
        let Some((_, text)) = kept_zone(root, &other)? else { continue };
        // a zone that can't be read has no settings
        let settings = ZoneFile::parse(text).map(|file| file.settings()).unwrap_or_default();
        found.extend(added.iter().filter_map(|element| Some((other.clone(), settings.find(element)?))));
    }
    Ok(found)
}

/// Whether the file of a zone in `/etc` is incomplete. firewalld does not write it atomically: a power failure can truncate it.
pub(super) fn is_torn(host: &Host, zone: &str) -> Result<bool> {
    let path = etc_file(zone);
    Ok(host.root.meta(&path)?.is_some() && ZoneFile::parse(host.root.text(&path)?).is_err())
}

/// Replaces a zone's incomplete file by its backup, or removes it without a good one, and restarts firewalld. Returns whether it was
/// incomplete.
pub(super) fn repair_torn(host: &Host, zone: &str) -> Result<bool> {
    if !is_torn(host, zone)? {
        return Ok(false);
    }
    let path = etc_file(zone);
    // firewalld's backup before it writes
    let earlier = path.with_extension("xml.old");
    match host.root.read(&earlier)? {
        Some((meta, content)) if ZoneFile::parse(host.root.text(&earlier)?).is_ok() => {
            let access = Access::of_mode(meta.mode);
            host.root.write(&path, &content, access)?;
        }
        // the package's file applies
        _ => host.root.remove(&path)?,
    }
    host.systemd()?.restart("firewalld.service")?;
    host.forget_units();
    Ok(true)
}

/// How often firewalld may be restarted while one zone is edited.
const MOST_RESTARTS: usize = 3;

fn edit_live(host: &Host, catalog: &[Item], zone: &str, edits: &dyn Fn(&Settings) -> Vec<Edit>) -> Result<()> {
    host.settle_firewall()?;
    host.forget_zones();
    let mut known = host.zone(zone)?.ok_or_else(not_running)?;
    if known.runtime.is_none() && known.permanent.is_some() {
        // its file is new
        host.firewall_files_changed();
        host.settle_firewall()?;
        known = host.zone(zone)?.ok_or_else(not_running)?;
    }
    let Zone { runtime: Some(runtime), permanent: Some(permanent) } = known else {
        return Err(unknown_zone(host, zone)?);
    };
    let edits = Edits { runtime: edits(&runtime), permanent: edits(&permanent) };
    Firewall::check_added(host, catalog, zone, &edits)?;
    let firewalld = host.firewalld()?;
    for (other, element) in elsewhere(&host.root, zone, &edits.permanent)? {
        firewalld.edit_permanent(&other, &Edit::Remove(element))?;
    }
    // additions come before removals, so that no user is locked out in between
    let made = edits.permanent.iter().try_for_each(|edit| firewalld.edit_permanent(zone, edit));
    let made = made.and_then(|()| edits.runtime.iter().try_for_each(|edit| firewalld.edit_runtime(zone, edit)));
    host.forget_zones();
    made
}

/// The error for an unknown zone.
pub(super) fn unknown_zone(host: &Host, zone: &str) -> Result<Error> {
    let known = kept_zones(&host.root)?;
    let error = error!(FIREWALL, "firewalld has no zone `{zone}`");
    Ok(error.help(did_you_mean(zone, known.iter(), UNKNOWN_ZONE)))
}

/// The file that sets firewalld's default zone.
const CONF: &str = "/etc/firewalld/firewalld.conf";

/// The name of a zone on this host; the default zone for `None`.
pub(super) fn zone_name(zone: Option<&str>, host: &Host) -> Result<String> {
    zone.map_or_else(|| default_zone(host), |zone| Ok(zone.to_owned()))
}

/// firewalld's default zone.
fn default_zone(host: &Host) -> Result<String> {
    let text = host.root.text(Path::new(CONF))?;
    let set = text.lines().filter_map(|line| line.trim().strip_prefix("DefaultZone=")).next_back();
    Ok(set.map(str::trim).filter(|zone| !zone.is_empty()).unwrap_or("public").to_owned())
}

pub(super) fn etc_file(zone: &str) -> PathBuf {
    Path::new("/etc/firewalld/zones").join(format!("{zone}.xml"))
}

fn packaged_file(zone: &str) -> PathBuf {
    Path::new("/usr/lib/firewalld/zones").join(format!("{zone}.xml"))
}

/// The file of a zone and its text: the administrator's, or else the package's.
pub(crate) fn kept_zone(root: &Root, zone: &str) -> Result<Option<(PathBuf, String)>> {
    for path in [etc_file(zone), packaged_file(zone)] {
        if let Some((_, content)) = root.read(&path)?.filter(|(_, content)| !content.is_empty()) {
            // since it is written back
            let text = String::from_utf8(content)
                .map_err(|_| error!(FIREWALL, "{} is not UTF-8 text", root.outside(&path).display()))?;
            return Ok(Some((path, text)));
        }
    }
    Ok(None)
}

/// The names of all zones with a file.
fn kept_zones(root: &Root) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for dir in ["/etc/firewalld/zones", "/usr/lib/firewalld/zones"] {
        let files = root.names(Path::new(dir))?;
        names.extend(files.iter().filter_map(|file| file.strip_suffix(".xml")).map(str::to_owned));
    }
    Ok(names)
}

/// The file of a zone, or an empty one.
pub(super) fn zone_file(host: &Host, zone: &str) -> Result<ZoneFile> {
    let (path, text) = match kept_zone(&host.root, zone)? {
        Some(found) => found,
        None => (etc_file(zone), blank(zone, &host.root)?),
    };
    parse(host, &path, text)
}

pub(super) fn parse(host: &Host, path: &Path, text: String) -> Result<ZoneFile> {
    ZoneFile::parse(text).map_err(|why| {
        error!(FIREWALL, "{} is not the file of a zone", host.root.outside(path).display())
            .because(why)
            .help("repair it, or remove it so that firewalld uses the file of its package")
    })
}

/// The zones that come with firewalld.
pub(crate) const PACKAGED: [&str; 10] =
    ["block", "dmz", "drop", "external", "home", "internal", "nm-shared", "public", "trusted", "work"];

/// The file of a zone that a tree does not have, as the tree's firewalld would ship it. A file in `/etc` hides the package's, so it
/// must contain the same.
fn blank(zone: &str, root: &Root) -> Result<String> {
    let (target, content) = match zone {
        "public" => ("", "  <short>Public</short>\n  <service name=\"ssh\"/>\n  <service name=\"dhcpv6-client\"/>\n"),
        "trusted" => (" target=\"ACCEPT\"", "  <short>Trusted</short>\n"),
        _ if PACKAGED.contains(&zone) => {
            return Err(error!(FIREWALL, "the tree has no firewalld, so the content of its zone {zone} is not known")
                .help("install firewalld into the tree first, or use `public`, `trusted` or a zone that you define"));
        }
        _ => ("", ""),
    };
    // since 1.0 these zones have it, and before 0.9 firewalld can't read it
    let forward = if content.is_empty() || Age::of(root)?.is_before("1.0") { "" } else { "  <forward/>\n" };
    Ok(format!("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<zone{target}>\n{content}{forward}</zone>\n"))
}

/// The inputs of a zone; permanent settings are in its files. `None` if firewalld's answer contains a secret.
pub(super) fn zone_inputs(zone: Option<&str>, sensitive: bool, host: &Host) -> Result<Option<Vec<WatchedInput>>> {
    let is_live = host.is_live();
    if is_live && sensitive {
        return Ok(None);
    }
    let zone = zone_name(zone, host)?;
    let paths = [etc_file(&zone), packaged_file(&zone), CONF.into()].map(WatchedInput::Path);
    Ok(Some(paths.into_iter().chain(is_live.then_some(WatchedInput::Zone(zone))).collect()))
}
