//! A release that changes at random.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use kpull::trust::Listed;

use crate::soak::Random;
use crate::support::site::Site;

/// How many places of each kind there are.
const PLACES: usize = 8;
/// How many paths a release has at most.
pub const PATHS: usize = 5 * PLACES;
/// Bytes of the artifact.
pub const ARTIFACT: usize = 20_000;

/// What a release says, by number of the place.
#[derive(Default)]
pub struct Release {
    files: BTreeMap<usize, (usize, u32)>,
    templates: BTreeMap<usize, usize>,
    links: BTreeMap<usize, usize>,
    directories: BTreeMap<usize, u32>,
    block: Option<usize>,
    sysctl: Option<usize>,
    artifact: Option<usize>,
    /// Users are never removed, so their number only grows.
    users: usize,
}

impl Release {
    /// Adds, changes or takes out something.
    pub fn change(&mut self, random: &mut Random) {
        let (place, value) = (random.below(PLACES), random.below(1000));
        let mode = [0o644, 0o600, 0o755][random.below(3)];
        let goes = random.chance(35);
        match random.below(13) {
            0..3 => put(&mut self.files, place, (value, mode), goes),
            3 | 4 => put(&mut self.templates, place, value, goes),
            5 => put(&mut self.links, place, value, goes),
            6 => put(&mut self.directories, place, mode | 0o100, goes),
            7 => self.block = (!goes).then_some(value),
            8 => self.sysctl = (!goes).then_some(value),
            _ if self.users < PLACES && random.chance(20) => self.users += 1,
            _ => self.artifact = (!goes).then_some(value),
        }
    }

    /// The files and links that it has, from the top of a tree.
    pub fn paths(&self) -> Vec<String> {
        let files = self.files.keys().map(|place| format!("srv/f{place}"));
        let inner = self.directories.keys().map(|place| format!("srv/d{place}/in"));
        let templates = self.templates.keys().map(|place| format!("etc/t{place}.conf"));
        let links = self.links.keys().map(|place| format!("srv/l{place}"));
        files.chain(inner).chain(templates).chain(links).collect()
    }

    /// Writes it into the site, and signs that.
    pub fn publish(&self, site: &Site) {
        let mut role = String::new();
        for (place, (value, mode)) in &self.files {
            let _ = writeln!(
                role,
                "[[file]]\npath = \"/srv/f{place}\"\ncontent = \"file {value}\\n\"\nmode = \"0{mode:o}\""
            );
        }
        for (place, value) in &self.templates {
            role = format!("vars.t{place} = {value}\n{role}");
            let _ = writeln!(role, "[[template]]\npath = \"/etc/t{place}.conf\"\ntemplate = \"t{place}\"");
            site.file(&format!("roles/base/templates/t{place}"), format!("value = {{{{ t{place} }}}}\n"));
        }
        for (place, value) in &self.links {
            let _ = writeln!(role, "[[symlink]]\npath = \"/srv/l{place}\"\ntarget = \"f{value}\"");
        }
        for (place, mode) in &self.directories {
            let _ = writeln!(role, "[[directory]]\npath = \"/srv/d{place}\"\nmode = \"0{mode:o}\"");
            let _ = writeln!(role, "[[file]]\npath = \"/srv/d{place}/in\"\ncontent = \"inside\\n\"");
        }
        if let Some(value) = self.block {
            let _ =
                writeln!(role, "[[block]]\npath = \"/etc/hosts\"\nname = \"cluster\"\ncontent = \"10.0.0.1 h{value}\"");
        }
        if let Some(value) = self.sysctl {
            let _ = writeln!(role, "[[sysctl]]\nname = \"vm.swappiness\"\nvalue = {value}");
        }
        for user in 0..self.users {
            let _ = writeln!(role, "[[user]]\nname = \"u{user}\"\nuid = {}", 2000 + user);
        }
        let content: Vec<u8> = format!("tool {:?} ", self.artifact).bytes().cycle().take(ARTIFACT).collect();
        let Listed { sha256, size } = Listed::of(&content);
        site.file("published", &content);
        if self.artifact.is_some() {
            role += "[[artifact]]\nname = \"tool\"\ninstall = { tool = \"/usr/bin/tool\" }\n";
        }
        let pin =
            format!("{{ url = \"file://{}/published\", sha256 = \"{sha256}\", size = {size} }}", site.path().display());
        site.file("artifacts.toml", format!("[tool]\nversion = \"1\"\namd64 = {pin}\narm64 = {pin}\n"));
        site.role("base", &role).sign();
    }
}

fn put<T>(all: &mut BTreeMap<usize, T>, place: usize, value: T, goes: bool) {
    if goes {
        all.remove(&place);
    } else {
        all.insert(place, value);
    }
}
