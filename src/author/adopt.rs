//! Writes a role from what exists on a host: files, links, directories, units, firewall zones, kernel settings, packages.
//! Applying the role to that host changes nothing.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::author::secret::scan::scan;
use crate::document::{Files, is_version_controls, quoted};
use crate::error::{Context, Error, Result, code, error, one_line};
use crate::host::accounts::{Accounts, Database};
use crate::host::packages::Manager;
use crate::host::process::{Command, argv, run_if_there};
use crate::host::root::{FileType, Meta, Root};
use crate::host::unit_files::{ETC, Found, Own, TYPES, find};
use crate::host::zone::{Element, Target};
use crate::host::zone_file::ZoneFile;
use crate::kind::firewall::{PACKAGED, kept_zone};
use crate::kind::sysctl;
use crate::read;
use crate::resolve::is_template;

/// The maximum size of a file in a site, in bytes. Larger files are artifacts.
const LARGEST: u64 = 1 << 20;
/// The maximum number of files in adopted directories.
const MOST: usize = 500;
/// The maximum depth of directories to search for candidates.
const DEEPEST: usize = 40;
/// The timeout for verifying all packages.
const VERIFY: Duration = Duration::from_secs(300);
/// What systems generate below /etc, or what is specific to one machine: paths with everything below them, or prefixes (`*`).
const NOISE: &str = "adjtime alternatives apparmor.d/cache ca-certificates.conf console-setup/cached fstab group group- \
    gshadow gshadow- hostname kpull ld.so.cache machine-id mtab os-release passwd passwd- \
    pki/ca-trust/extracted rc* resolv.conf rpc selinux shadow shadow- ssh/ssh_host_* ssl/certs subgid \
    subuid systemd/system/* udev/hwdb.bin";

/// Something to adopt in a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdoptTarget {
    /// A path; a directory with its contents.
    Path(PathBuf),
    /// A unit.
    Unit(String),
    /// The permanent configuration of a zone of firewalld.
    Zone(String),
    /// A kernel setting.
    Sysctl(String),
    /// A package.
    Package(String),
}

impl std::str::FromStr for AdoptTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_unit = |name: &str| name.rsplit_once('.').is_some_and(|(_, end)| TYPES.contains(&end));
        let own_unit = text.strip_prefix(ETC).and_then(|rest| rest.strip_prefix('/')).filter(|rest| is_unit(rest));
        if let Some(name) = own_unit.filter(|name| !name.contains('/')) {
            return Ok(Self::Unit(name.to_owned()));
        }
        if text.starts_with('/') && text.len() > 1 {
            return Ok(Self::Path(PathBuf::from(text.trim_end_matches('/'))));
        }
        match text.split_once(':') {
            Some(("firewall", zone)) if !zone.is_empty() && !zone.contains('/') => Ok(Self::Zone(zone.to_owned())),
            Some(("sysctl", name)) if !name.is_empty() && !name.contains("..") => Ok(Self::Sysctl(name.to_owned())),
            Some(("package", name)) if !name.is_empty() => Ok(Self::Package(name.to_owned())),
            None if is_unit(text) && !text.contains('/') => Ok(Self::Unit(text.to_owned())),
            _ => Err("write /PATH, NAME.service, firewall:ZONE, sysctl:NAME or package:NAME".to_owned()),
        }
    }
}

/// The role being written.
struct Adoption<'a> {
    root: &'a Root,
    name: &'a str,
    /// Whether to include files that not everyone on the host can read.
    private: bool,
    accounts: Accounts,
    toml: String,
    files: Files,
    count: usize,
}

/// The files of a role with these `things`, by their paths in a site.
pub fn role(root: &Root, name: &str, things: &[AdoptTarget], private: bool) -> Result<Files> {
    let toml = "summary = \"Adopted from a host by `kpull adopt`\"\n".to_owned();
    let mut adoption =
        Adoption { root, name, private, accounts: Accounts::read(root)?, toml, files: Files::default(), count: 0 };
    let errors: Vec<Error> = things.iter().filter_map(|thing| adoption.add(thing).err()).collect();
    Error::check(errors)?;
    let Adoption { toml, mut files, .. } = adoption;
    files.extend([(format!("roles/{name}/role.toml"), toml.into_bytes().into())]);
    Error::check(scan(&files))?;
    Ok(files)
}

impl Adoption<'_> {
    fn add(&mut self, thing: &AdoptTarget) -> Result<()> {
        match thing {
            AdoptTarget::Path(path) => self.path(path),
            AdoptTarget::Unit(name) => self.unit(name),
            AdoptTarget::Zone(zone) => self.zone(zone),
            AdoptTarget::Sysctl(name) => self.sysctl(name),
            AdoptTarget::Package(name) => self.package(name),
        }
    }

    fn table(&mut self, kind: &str, fields: &[(&str, String)]) -> Result<()> {
        for (_, value) in fields {
            no_template(value, value)?;
        }
        let _ = write!(self.toml, "\n[[{kind}]]\n");
        for (name, value) in fields {
            let _ = writeln!(self.toml, "{name} = {value}");
        }
        Ok(())
    }

    fn path(&mut self, path: &Path) -> Result<()> {
        self.count += 1;
        let shown = path.display().to_string();
        if self.count > MOST {
            return Err(error!(ADOPT, "the directories have more than {MOST} files")
                .help("name only the files that you edit; files that programs generate don't belong in a role"));
        }
        let Some(meta) = self.root.meta(path)? else {
            return Err(error!(ADOPT, "{shown} does not exist").help("omit it, or correct the path"));
        };
        let at = ("path", quoted(&shown));
        match meta.what {
            FileType::Link => {
                let target = self.root.link(path)?.unwrap_or_default();
                let target = target.to_str().ok_or_else(|| {
                    error!(ADOPT, "{shown} points to {}, which is not UTF-8", target.display())
                        .help("omit the link, or create it again")
                })?;
                self.table("symlink", &[at, ("target", quoted(target))])?;
            }
            FileType::Directory => {
                let mut fields = vec![at];
                fields.extend(self.access(&meta, 0o755, &shown)?);
                self.table("directory", &fields)?;
                for name in self.root.names(path)? {
                    self.path(&path.join(name))?;
                }
            }
            FileType::File => {
                let (source, meta) = self.source(path)?;
                let mut fields = vec![at, ("source", quoted(&source))];
                fields.extend(self.access(&meta, 0o644, &shown)?);
                self.table("file", &fields)?;
            }
            FileType::Special => {
                return Err(
                    error!(ADOPT, "{shown} is a device, a socket or a pipe").help("a role can't create it: omit it")
                );
            }
        }
        Ok(())
    }

    /// Mode and owners, unless they are the defaults of a kind.
    fn access(&self, meta: &Meta, default: u32, shown: &str) -> Result<Vec<(&'static str, String)>> {
        let mut fields = Vec::new();
        if meta.mode != default {
            fields.push(("mode", format!("\"{:04o}\"", meta.mode)));
        }
        for (field, number, database) in [("owner", meta.uid, Database::Passwd), ("group", meta.gid, Database::Group)] {
            match self.accounts.name_of(database, number)? {
                Some(name) if name == "root" => {}
                Some(name) => fields.push((field, quoted(&name))),
                None if !self.root.is_live() => {}
                None => {
                    return Err(error!(ADOPT, "{shown} belongs to {field} {number}, which has no name")
                        .help("change the owner to one with a name, or omit it"));
                }
            }
        }
        Ok(fields)
    }

    /// Copies a file of the host to the role's `files/`; returns its name there and its metadata.
    fn source(&mut self, path: &Path) -> Result<(String, Meta)> {
        let shown = path.display();
        let name = shown.to_string().trim_start_matches('/').to_owned();
        if is_version_controls(&name) {
            return Err(error!(ADOPT, "{shown} is part of a repository")
                .because("git would use its settings and hooks for the site")
                .help("name other files"));
        }
        if name.contains(|c: char| c.is_control() || c == '\\') {
            return Err(error!(ADOPT, "a site can't have a file with the name {}", one_line(&name))
                .help("omit it, or rename it"));
        }
        // check the open file, since the owner of the directory can replace it at any time
        let Some((meta, file)) = self.root.file(path)? else {
            return Err(error!(ADOPT, "{shown} can't be read").help("check its type with `ls -l`"));
        };
        if meta.size > LARGEST {
            return Err(error!(ADOPT, "{shown} has {} bytes, which is too large for a site", meta.size)
                .help("pin programs and archives in artifacts.toml: `kpull pin`"));
        }
        if meta.mode & 0o004 == 0 && !self.private {
            return Err(error!(ADOPT, "not everyone on the host can read {shown}, but many can read a site")
                .help("store secrets in it with `kpull secret`; if it contains no secrets, add --private"));
        }
        let content = read::whole(&file, meta.size, LARGEST).context(code::ADOPT, || format!("can't read {shown}"))?;
        self.files.extend([(format!("roles/{}/files/{name}", self.name), content.into())]);
        Ok((name, meta))
    }

    fn unit(&mut self, name: &str) -> Result<()> {
        let file = match find(self.root, name, &Own::default())? {
            Found::Masked { .. } => {
                return self.table("unit", &[("name", quoted(name)), ("mask", "true".to_owned())]);
            }
            Found::Missing => {
                return Err(error!(ADOPT, "there is no unit {name}").help("`systemctl list-unit-files` lists them"));
            }
            Found::File(file) => file,
        };
        let mut fields = vec![("name", quoted(&file.name))];
        if file.path.starts_with(ETC) && self.root.link(&file.path)?.is_none() && self.root.meta(&file.path)?.is_some()
        {
            fields.push(("source", quoted(&self.source(&file.path)?.0)));
        }
        let links = file.links(self.root)?;
        if !links.is_empty() {
            let there = links.iter().map(|link| link.is_there(self.root)).collect::<Result<Vec<_>>>()?;
            let is_enabled = !there.contains(&false);
            fields.push(("enable", is_enabled.to_string()));
            if is_enabled && self.root.is_live() && output_of(&["systemctl", "is-active", name])?.trim() != "active" {
                // it has finished, or waits for something
                fields.push(("state", quoted("any")));
            }
        }
        self.table("unit", &fields)?;
        let dropins = Path::new(ETC).join(format!("{}.d", file.name));
        let mut table = String::new();
        for dropin in self.root.names(&dropins)?.iter().filter(|dropin| dropin.ends_with(".conf")) {
            let text = self.root.text(&dropins.join(dropin))?;
            no_template(dropin, &format!("{dropin} of {name}"))?;
            no_template(&text, &format!("{dropin} of {name}"))?;
            let _ = writeln!(table, "{} = {}", quoted(dropin), quoted(&text));
        }
        if !table.is_empty() {
            let _ = write!(self.toml, "[unit.dropins]\n{table}");
        }
        Ok(())
    }

    fn zone(&mut self, zone: &str) -> Result<()> {
        let (path, text) = kept_zone(self.root, zone)?.ok_or_else(|| {
            error!(ADOPT, "firewalld has no zone {zone} here").help("`firewall-cmd --permanent --get-zones` lists them")
        })?;
        let settings = ZoneFile::parse(text)
            .map_err(|why| error!(ADOPT, "{} can't be read", path.display()).because(why))?
            .settings();
        let field_of = |element: &Element| match element {
            Element::Service(name) => ("services", quoted(name)),
            Element::Port(range) => ("ports", quoted(&range.to_string())),
            Element::Rule(rule) => ("rich", quoted(rule)),
            Element::Source(source) => ("sources", quoted(source)),
            Element::Interface(name) => ("interfaces", quoted(name)),
            Element::Masquerade => ("masquerade", "true".to_owned()),
            Element::Forward => ("forward", "true".to_owned()),
        };
        let elements: Vec<_> = settings.elements().iter().map(field_of).collect();
        let mut fields = vec![("zone", quoted(zone))];
        if settings.target != Target::Default || path.starts_with("/etc") && !PACKAGED.contains(&zone) {
            // other machines must create the zone
            fields.push(("target", quoted(&settings.target.to_string())));
        }
        for name in ["services", "ports", "rich", "sources", "interfaces"] {
            let texts: Vec<&str> =
                elements.iter().filter(|(field, _)| *field == name).map(|(_, text)| &**text).collect();
            if !texts.is_empty() {
                fields.push((name, format!("[{}]", texts.join(", "))));
            }
        }
        fields.extend(elements.into_iter().filter(|(field, _)| matches!(*field, "masquerade" | "forward")));
        self.table("firewall", &fields)
    }

    fn sysctl(&mut self, name: &str) -> Result<()> {
        let live = sysctl::parts(name).map(|parts| sysctl::live(&parts)).unwrap_or_default();
        let mut value = sysctl::folded(&self.root.text(&live)?);
        if value.is_empty() {
            value = self.kept_sysctl(name)?.unwrap_or_default();
        }
        if value.is_empty() || value.contains('\n') {
            return Err(error!(ADOPT, "there is no kernel setting {name} here").help("`sysctl -a` lists them"));
        }
        self.table("sysctl", &[("name", quoted(name)), ("value", quoted(&value))])
    }

    /// The value of a setting in the files for the next boot, where the last one applies.
    fn kept_sysctl(&self, name: &str) -> Result<Option<String>> {
        let dir = Path::new("/etc/sysctl.d");
        let mut paths: Vec<PathBuf> = self.root.names(dir)?.iter().map(|name| dir.join(name)).collect();
        paths.push(PathBuf::from("/etc/sysctl.conf"));
        let mut value = None;
        for path in paths {
            for line in self.root.text(&path)?.lines() {
                if let Some((key, text)) = line.split_once('=').filter(|(key, _)| key.trim().replace('/', ".") == name)
                {
                    value = (!key.is_empty()).then(|| text.trim().to_owned());
                }
            }
        }
        Ok(value)
    }

    fn package(&mut self, name: &str) -> Result<()> {
        let manager = Manager::detect(self.root)?;
        let known = manager.query(self.root, &BTreeSet::from([name.to_owned()]))?;
        if known.get(name).is_none_or(Vec::is_empty) {
            return Err(error!(ADOPT, "the package {name} is not installed here").help("omit it"));
        }
        self.table("package", &[("name", quoted(name))])
    }
}

/// Refuses a text that a role would render as a template.
fn no_template(text: &str, what: &str) -> Result<()> {
    match is_template(text) {
        true => Err(error!(ADOPT, "{what} looks like a template").help("write this resource by hand")),
        false => Ok(()),
    }
}

/// What was created or changed below /etc, by the package manager: files of no package, and files that differ from their package.
pub fn candidates(root: &Root) -> Result<Vec<PathBuf>> {
    let is_dpkg = matches!(Manager::detect(root), Ok(Manager::Apt));
    let dir = root.dir().display().to_string();
    let mut owned = BTreeSet::new();
    let verify = if is_dpkg {
        let info = Path::new("/var/lib/dpkg/info");
        for name in root.names(info)?.iter().filter(|name| name.ends_with(".list")) {
            owned.extend(root.text(&info.join(name))?.lines().map(PathBuf::from));
        }
        vec!["dpkg", "--root", &dir, "--verify"]
    } else {
        owned.extend(output_of(&["rpm", "--root", &dir, "-qal"])?.lines().map(PathBuf::from));
        // a package can have a verification script, and the tree may be untrusted
        vec!["rpm", "--root", &dir, "-Va", "--nomtime", "--noscripts"]
    };
    let mut found = BTreeSet::new();
    walk(root, Path::new("/etc"), DEEPEST, &owned, &mut found)?;
    // `??5?????? c /etc/file`: the third character is about the digest
    let verified = output_of(&verify)?;
    let changed = verified.lines().filter(|line| line.as_bytes().get(2) == Some(&b'5'));
    found.extend(changed.filter_map(|line| Some(PathBuf::from(format!("/etc/{}", line.split_once(" /etc/")?.1)))));
    Ok(found.into_iter().filter(|path| !is_noise(path)).collect())
}

/// The output of a program; empty if the program is missing.
fn output_of(words: &[&str]) -> Result<String> {
    let argv = argv(words.iter().copied());
    let output = run_if_there(&Command::new(&argv, VERIFY))?;
    Ok(output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default())
}

fn is_noise(path: &Path) -> bool {
    let Ok(rest) = path.strip_prefix("/etc") else { return true };
    let rest = rest.to_string_lossy();
    // among the administrator's units, only regular unit files count
    let is_own_unit = rest.starts_with("systemd/system/") && rest.matches('/').count() == 2;
    !is_own_unit
        && NOISE.split(' ').any(|noise| match noise.strip_suffix('*') {
            Some(start) => rest.starts_with(start),
            None => rest.strip_prefix(noise).is_some_and(|more| more.is_empty() || more.starts_with('/')),
        })
}

/// Files and links below a directory that belong to no package. A directory that is too deep is listed itself.
fn walk(
    root: &Root,
    dir: &Path,
    levels: usize,
    owned: &BTreeSet<PathBuf>,
    found: &mut BTreeSet<PathBuf>,
) -> Result<()> {
    if levels == 0 {
        found.insert(dir.to_owned());
        return Ok(());
    }
    for name in root.names(dir)? {
        let path = dir.join(name);
        if is_noise(&path) {
            continue;
        }
        match root.meta(&path)?.map(|meta| meta.what) {
            Some(FileType::Directory) => walk(root, &path, levels - 1, owned, found)?,
            Some(FileType::File) if !owned.contains(&path) => drop(found.insert(path)),
            _ => {}
        }
    }
    Ok(())
}
