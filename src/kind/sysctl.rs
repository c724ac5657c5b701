//! `[[sysctl]]`: a kernel setting, in `/etc/sysctl.d` for the next boot and in `/proc/sys` for now.

use std::ffi::OsStr;

use crate::host::unit_files::straight;
use crate::kind::module::Module;
use crate::kind::prelude::*;

/// Fields of `[[sysctl]]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SysctlFields {
    /// Its name, like `net.ipv4.ip_forward` or, if a part contains a dot, `net/ipv4/conf/eth0.100/forwarding`.
    name: String,
    /// Its value, as the kernel shows it; separate several numbers with spaces.
    value: Value,
    /// Whether a kernel without this setting is acceptable. The file in `/etc/sysctl.d` is written anyway.
    #[serde(default)]
    ignore_missing: bool,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a string or an integer")]
enum Value {
    Integer(i64),
    Text(String),
}

impl Fields for SysctlFields {
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let Some(parts) = parts(&self.name) else {
            return Err(build.invalid("name", "write it like `net.ipv4.ip_forward`"));
        };
        let value = match self.value {
            Value::Integer(number) => number.to_string(),
            Value::Text(text) => text,
        };
        let is_bad = value.trim().is_empty() || value.contains(|c: char| c.is_control() && c != '\t');
        build.refuse_if(is_bad, "value", "it must be one line that is not empty")?;
        // with slashes where a part has a dot in it; both sysctl(8) and systemd read both spellings
        let separator = if parts.iter().any(|part| part.contains('.')) { "/" } else { "." };
        let name = parts.join(separator);
        let path = format!("/etc/sysctl.d/{}-kpull-{}.conf", 90 + reach(&parts), name.replace('/', "-"));
        let path = AbsolutePath::try_from(path).map_err(|why| build.invalid("name", &why))?;
        let text = format!("{name} = {value}\n");
        let file = Some(File::new(Self::NAME, path, text.into_bytes(), build.is_secret()));
        let live = live(&parts);
        let after = wider(&parts).into_iter().map(|name| ResourceId::new(Self::NAME, name)).collect();
        Ok(vec![Box::new(Sysctl { name, value, live, file, after, ignore_missing: self.ignore_missing })])
    }
}

/// The scope of a setting. A wider setting also sets the narrower ones, so files are read, and settings applied, in this order:
/// 0 for any interface and setting, 1 for one setting of all interfaces, 2 for a setting of one interface or of new ones.
fn reach(parts: &[String]) -> u8 {
    match parts.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["net", _, "conf", "all", "forwarding"] => 0,
        ["net", _, "conf", "all", _] => 1,
        ["net", _, "conf", _, _] => 2,
        _ => 0,
    }
}

/// The settings that also set this one.
fn wider(parts: &[String]) -> Vec<String> {
    let [net, family, conf, _, key] = parts else { return Vec::new() };
    let all = |key: &str| format!("{net}.{family}.{conf}.all.{key}");
    match reach(parts) {
        0 => Vec::new(),
        1 => vec!["net.ipv4.ip_forward".to_owned(), all("forwarding")],
        _ => vec!["net.ipv4.ip_forward".to_owned(), all("forwarding"), all(key)],
    }
}

/// Where the running kernel has it.
pub(crate) fn live(parts: &[String]) -> PathBuf {
    PathBuf::from(format!("/proc/sys/{}", parts.join("/")))
}

/// The parts of a name; the first separator in it says which one it is.
pub(crate) fn parts(name: &str) -> Option<Vec<String>> {
    let separator = name.chars().find(|c| matches!(c, '.' | '/'))?;
    let part = |part: &str| if separator == '.' { part.replace('/', ".") } else { part.to_owned() };
    let parts: Vec<String> = name.split(separator).map(part).collect();
    let plain = |part: &String| {
        !matches!(part.as_str(), "" | "." | "..")
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '@'))
    };
    parts.iter().all(plain).then_some(parts)
}

/// A kernel setting.
#[derive(Debug)]
pub struct Sysctl {
    name: String,
    value: String,
    live: PathBuf,
    /// For the next boot.
    file: Option<File>,
    /// Ids of settings that set this one too.
    after: Vec<ResourceId>,
    ignore_missing: bool,
}

impl Sysctl {
    /// For the running kernel only, if it has it; `None` for what is no setting's name.
    pub(super) fn for_now(name: &str, value: &str) -> Option<Self> {
        let (live, name, value) = (live(&parts(name)?), name.to_owned(), value.to_owned());
        Some(Self { name, value, live, file: None, after: Vec::new(), ignore_missing: true })
    }

    /// How little it reaches, see [`reach`].
    pub fn reach(&self) -> u8 {
        parts(&self.name).map_or(0, |parts| reach(&parts))
    }

    /// The value that the kernel has; `None` when it has no such setting.
    fn current(&self, work: &Work<'_>) -> Result<Option<String>> {
        let help = "some settings can't be read, and some are not visible in a container: set these with a [[command]]";
        let content = work.host.root.read(&self.live).map_err(|error| error.or_help(help))?;
        Ok(content.map(|(_, bytes)| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Sets it in the running kernel, unless it is set.
    fn set(&self, work: &Work<'_>) -> Result<()> {
        match self.current(work)? {
            Some(now) if folded(&now) == folded(&self.value) => return Ok(()),
            Some(_) => {}
            None if self.ignore_missing => return Ok(()),
            None => return Err(self.unknown()),
        }
        work.host.root.overwrite(&self.live, format!("{}\n", self.value).as_bytes()).map_err(|error| {
            error!(KERNEL, "the kernel does not accept `{}` for {}", self.value, self.name)
                .because(error)
                .help("check the allowed values; in a container, many settings belong to the host")
        })?;
        match self.current(work)? {
            Some(now) if folded(&now) != folded(&self.value) => {
                let what =
                    format!("the kernel stored `{}` instead of `{}` for {}", folded(&now), self.value, self.name);
                Err(Error::new(code::KERNEL, what).help("write the value as the kernel shows it"))
            }
            _ => Ok(()),
        }
    }

    fn unknown(&self) -> Error {
        error!(KERNEL, "this kernel has no setting {}", self.name).help(
            "check the spelling (`sysctl -a` lists them); if a module provides it, add a [[module]] before it; if some hosts lack it, set `ignore_missing = true`",
        )
    }
}

/// Where systemd-sysctl looks for files. A file hides those of the same name in later directories.
const DIRECTORIES: [&str; 5] =
    ["/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d"];

/// A line that applies a setting at boot.
struct Line {
    /// The file as systemd finds it.
    listed: PathBuf,
    /// The file that this leads to.
    file: PathBuf,
    /// From 1.
    line: usize,
    value: String,
}

/// The last line that sets `name` in a file that is read after `own` at boot. A pattern does not count: one overrules no
/// setting that is named.
fn later(root: &Root, own: &Path, name: &str) -> Result<Option<Line>> {
    let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
    for dir in DIRECTORIES.map(Path::new) {
        for file in root.names(dir)?.into_iter().filter(|file| file.ends_with(".conf")) {
            let path = dir.join(&file);
            files.entry(file).or_insert(path);
        }
    }
    let (own, name) = (own.file_name().unwrap_or_default(), parts(name));
    let mut found = None;
    for (_, listed) in files.into_iter().filter(|(file, _)| OsStr::new(file) > own) {
        let file = match root.link(&listed)? {
            Some(target) => straight(&listed.parent().unwrap_or(Path::new("/")).join(target)),
            None => listed.clone(),
        };
        for (number, line) in root.text(&file)?.lines().enumerate() {
            let line = line.trim().trim_start_matches('-');
            let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with(['#', ';'])) else { continue };
            if parts(key.trim()) == name {
                let value = value.trim().to_owned();
                found = Some(Line { listed: listed.clone(), file: file.clone(), line: number + 1, value });
            }
        }
    }
    Ok(found)
}

/// A value with every run of white space as one space, as the kernel compares them.
pub(crate) fn folded(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Resource for Sysctl {
    fn about(&self) -> About {
        // the two that everybody who needs them loads for these settings
        let module = match &self.name {
            name if name.starts_with("net.bridge.") => Some("br_netfilter"),
            name if name.starts_with("net.netfilter.") || name.starts_with("net.nf_conntrack") => Some("nf_conntrack"),
            _ => None,
        };
        let modules = module.map(|module| ResourceId::new("module", module));
        let file = self.file.iter().map(|file| Claim::path(&file.path));
        let about = About::new(SysctlFields::NAME, &self.name, Phase::Kernel).claiming(file).recorded();
        About { after: modules.into_iter().chain(self.after.iter().cloned()).collect(), ..about }
    }

    fn watched_inputs(&self, work: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        let file = self.file.iter().map(|file| WatchedInput::Path(file.path.to_path_buf()));
        let live = work.host.is_live().then(|| WatchedInput::Text(self.live.clone()));
        Ok(Some(file.chain(live).collect()))
    }

    fn overruled(&self, work: &Work<'_>) -> Result<Option<Error>> {
        let Some(own) = &self.file else { return Ok(None) };
        let Some(later) = later(&work.host.root, &own.path, &self.name)? else { return Ok(None) };
        let is_to_go = |item: &Item| item.about.kind == "absent" && Path::new(&item.about.key) == later.listed;
        if folded(&later.value) == folded(&self.value) || work.catalog.iter().any(is_to_go) {
            return Ok(None);
        }
        let (file, line) = (later.file.display(), later.line);
        let through = match later.file == later.listed {
            true => String::new(),
            false => format!(", through the link {}", later.listed.display()),
        };
        let error = error!(KERNEL, "the next boot sets it to `{}`, not `{}`", folded(&later.value), self.value)
            .because(format!("line {line} of {file} is read after {}{through}", own.path))
            .help(format!("remove the line: `sed -i {line}d {file}`"));
        Ok(Some(error))
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let file = self.file.as_ref().map(|file| file.as_part(work)).transpose()?.flatten();
        let mut parts = Vec::new();
        if work.host.is_live() {
            match self.current(work)? {
                Some(now) if folded(&now) == folded(&self.value) => {}
                Some(now) => parts.push(format!("value {} → {}", folded(&now), self.value)),
                None if self.ignore_missing => {}
                // a module that is not loaded yet may provide it
                None if work.catalog.iter().any(|item| Module::is_pending(item, work)) => {
                    parts.push(format!("value (does not exist yet) → {}", self.value));
                }
                None => return Err(self.unknown()),
            }
        }
        Ok(Change::of_parts(file, parts))
    }

    fn apply(&self, work: &Work<'_>, change: &Change) -> Result<()> {
        // first the running kernel, then the next boot: a value that the kernel refuses is not kept
        if work.host.is_live() {
            self.set(work)?;
        }
        self.file.as_ref().map_or(Ok(()), |file| file.apply(work, change))
    }

    fn prior_state(&self, owned: &Claim, work: &Work<'_>) -> Result<PriorState> {
        if owned.whole_path().is_some() {
            return PriorState::of_path(owned, work);
        }
        Ok(match self.current(work)?.filter(|_| work.host.is_live()) {
            Some(value) => PriorState::Sysctl { name: self.name.clone(), value: folded(&value) },
            None => PriorState::Same,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::testing::{Tree, one, refusal};

    #[test]
    fn a_setting_is_kept_for_the_next_boot() {
        let tree = Tree::new();
        let change = tree.converge(&*one("sysctl", "name = 'net.ipv4.ip_forward'\nvalue = 1"));
        assert_eq!(change.summary, "create /etc/sysctl.d/90-kpull-net.ipv4.ip_forward.conf");
        assert_eq!(tree.get("/etc/sysctl.d/90-kpull-net.ipv4.ip_forward.conf"), "net.ipv4.ip_forward = 1\n");
    }

    #[test]
    fn the_first_separator_of_a_name_says_which_one_it_is() {
        let name = |name: &str| one("sysctl", &format!("name = '{name}'\nvalue = 1")).about().key;
        assert_eq!(name("net/ipv4/ip_forward"), "net.ipv4.ip_forward");
        assert_eq!(name("net/ipv4/conf/eth0.100/forwarding"), "net/ipv4/conf/eth0.100/forwarding");
        assert_eq!(name("net.ipv4.conf.eth0/100.forwarding"), "net/ipv4/conf/eth0.100/forwarding");
    }

    #[test]
    fn a_name_with_dots_in_a_part_has_a_file_too() {
        let tree = Tree::new();
        tree.converge(&*one("sysctl", "name = 'net/ipv4/conf/eth0.100/forwarding'\nvalue = '1'"));
        assert_eq!(
            tree.get("/etc/sysctl.d/92-kpull-net-ipv4-conf-eth0.100-forwarding.conf"),
            "net/ipv4/conf/eth0.100/forwarding = 1\n"
        );
    }

    #[test]
    fn white_space_makes_no_difference() {
        assert_eq!(folded("32768\t60999\n"), folded("32768 60999"));
    }

    #[test]
    fn names_that_lead_elsewhere_and_values_of_two_lines_are_refused() {
        for bad in ["x", "../etc/passwd", "net/../../etc/passwd", "net..x", "/net/x", "net.x;y"] {
            assert!(refusal("sysctl", &format!("name = '{bad}'\nvalue = 1")).starts_with("`name`: "), "{bad}");
        }
        assert!(refusal("sysctl", "name = 'a.b'\nvalue = \"1\\nc.d = 2\"").starts_with("`value`: "));
    }

    #[test]
    fn bridge_settings_come_after_the_module_that_brings_them() {
        let sysctl = one("sysctl", "name = 'net.bridge.bridge-nf-call-iptables'\nvalue = 1");
        assert_eq!(sysctl.about().after, ["module:br_netfilter"]);
    }

    #[test]
    fn a_line_that_overrules_a_setting_at_boot_is_named() {
        let tree = Tree::new();
        let sysctl = one("sysctl", "name = 'net.core.somaxconn'\nvalue = 4096");
        let overruled_by = || {
            let error = sysctl.overruled(&tree.work()).unwrap()?;
            Some(format!("{error}; {}", error.advice().unwrap()))
        };
        assert_eq!(overruled_by(), None);
        tree.put("/etc/sysctl.conf", "# net.core.somaxconn = 1\nvm.swappiness = 1\n net/core/somaxconn=128\n");
        assert_eq!(overruled_by(), None, "systemd reads it by a link only");
        std::fs::create_dir_all(tree.path("/etc/sysctl.d")).unwrap();
        std::os::unix::fs::symlink("../sysctl.conf", tree.path("/etc/sysctl.d/99-sysctl.conf")).unwrap();
        let own = "/etc/sysctl.d/90-kpull-net.core.somaxconn.conf";
        let through = "the next boot sets it to `128`, not `4096`: line 3 of /etc/sysctl.conf is read after";
        let link = "through the link /etc/sysctl.d/99-sysctl.conf; remove the line: `sed -i 3d /etc/sysctl.conf`";
        assert_eq!(overruled_by().unwrap(), format!("{through} {own}, {link}"));

        // the last line of the last file counts, in whichever directory that is
        tree.put("/usr/lib/sysctl.d/99-z.conf", "net.core.somaxconn = 64\n-net.core.somaxconn = 32\n");
        let last = overruled_by().unwrap();
        assert!(
            last.contains("`32`") && last.contains("line 2 of /usr/lib/sysctl.d/99-z.conf is read after"),
            "{last}"
        );
        tree.put("/usr/lib/sysctl.d/99-z.conf", "net.core.somaxconn =   4096\n");
        assert_eq!(overruled_by(), None, "it says the same");
        tree.put("/etc/sysctl.d/99-z.conf", "net.core.* = 1\n");
        assert!(overruled_by().unwrap().contains("line 3 of /etc/sysctl.conf"), "it hides the other of its name");
        std::fs::remove_file(tree.path("/etc/sysctl.d/99-sysctl.conf")).unwrap();
        for earlier in ["/etc/sysctl.d/10-a.conf", "/usr/lib/sysctl.d/90-a.conf", "/etc/sysctl.d/99-z.conf.bak"] {
            tree.put(earlier, "net.core.somaxconn = 1\n");
        }
        assert_eq!(overruled_by(), None);
    }
}
