//! What a host knows of itself, for templates and conditions.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, TMPFS_MAGIC};
use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::document::{Doc, read_if_there};
use crate::error::{Context, Error, Result, code, nearest};
use crate::host::os::{Image, Os};
use crate::host::packages::Manager;
use crate::host::{Host, firewalld_age, meminfo};
use crate::site::HostVars;
use crate::template::merge;

/// What `selinux` can be.
const SELINUX: [&str; 3] = ["enforcing", "permissive", "disabled"];

/// What `cgroup` can be.
const CGROUP: [&str; 4] = ["v1", "hybrid", "v2", "unknown"];

/// What `package_manager` can be.
const PACKAGE_MANAGER: [&str; 7] = ["apt", "dnf", "yum", "microdnf", "zypper", NO_PACKAGE_MANAGER, ""];

/// The package manager of a host that has none.
pub const NO_PACKAGE_MANAGER: &str = "none";

/// Facts of a host; in a template `facts.NAME`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// The kernel's host name.
    pub hostname: String,
    /// The processor, as Go names it: `amd64`, `arm64`.
    #[serde(deserialize_with = "arch_of")]
    pub arch: String,
    /// The system, from os-release.
    pub os: Os,
    /// Addresses by network interface, without the loopback's.
    pub interfaces: BTreeMap<String, Vec<IpAddr>>,
    /// Memory in MiB.
    pub memory: u64,
    /// Processors.
    pub cores: usize,
    /// Another one after every boot; zeros where nobody has looked.
    #[serde(default = "no_boot")]
    pub boot_id: String,
    /// `enforcing`, `permissive` or `disabled`.
    #[serde(deserialize_with = "selinux_of")]
    #[schemars(extend("enum" = SELINUX))]
    pub selinux: String,
    /// The control groups: `v1`, `hybrid` (version 1, with systemd's own in version 2), `v2`; `unknown` where nobody has looked.
    #[serde(default = "unknown", deserialize_with = "cgroup_of")]
    #[schemars(extend("enum" = CGROUP))]
    pub cgroup: String,
    /// Whether the system is an image, into which nothing is installed: `ostree`, or `read-only` for any other sort; empty where it is none, or
    /// nobody has looked.
    #[serde(default)]
    pub image: Image,
    /// The program that packages are installed with: `apt`, `dnf`, `yum`, `microdnf` or `zypper`, or `none`; empty where nobody has looked.
    #[serde(default, deserialize_with = "package_manager_of")]
    #[schemars(extend("enum" = PACKAGE_MANAGER))]
    pub package_manager: String,
    /// The version of firewalld; empty where it is not installed, or nobody has looked.
    #[serde(default)]
    pub firewalld: String,
    /// Whether these were read from the running machine; false when they are assumed for a tree or for `check`.
    #[serde(default = "yes")]
    pub live: bool,
}

impl Facts {
    /// Reads the running machine's.
    pub fn of_machine(host: &Host) -> Result<Self> {
        let hostname = nix::unistd::gethostname().context(code::FACTS, || "can't ask for the host name".to_owned())?;
        let mut interfaces: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        for interface in
            nix::ifaddrs::getifaddrs().context(code::FACTS, || "can't ask for the network interfaces".to_owned())?
        {
            let Some(address) = interface.address else { continue };
            let address = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
                (Some(v4), _) => IpAddr::V4(v4.ip()),
                (_, Some(v6)) => IpAddr::V6(v6.ip()),
                _ => continue,
            };
            if !address.is_loopback() {
                interfaces.entry(interface.interface_name).or_default().push(address);
            }
        }
        let read = |path: &str| host.root.text(Path::new(path)).map(|text| text.trim().to_owned());
        let selinux = match read("/sys/fs/selinux/enforce")?.as_str() {
            "1" => "enforcing",
            "0" => "permissive",
            _ => "disabled",
        };
        let os = Os::of(&host.root)?;
        let package_manager = Manager::find(&host.root, &os)?.map_or(NO_PACKAGE_MANAGER, Manager::name).to_owned();
        Ok(Self {
            hostname: hostname.to_string_lossy().into_owned(),
            arch: arch(),
            os,
            interfaces,
            memory: meminfo::bytes(&read("/proc/meminfo")?, "MemTotal").unwrap_or(0) >> 20,
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            boot_id: read("/proc/sys/kernel/random/boot_id")?,
            selinux: selinux.to_owned(),
            cgroup: cgroup(host)?.to_owned(),
            image: Image::of(&host.root)?,
            package_manager,
            firewalld: firewalld_age::installed(&host.root)?,
            live: true,
        })
    }

    /// What is assumed of a host that can't be asked: its name and address, Debian 12 unless the tree says otherwise,
    /// this machine's processor. The same for the same site, so that a tree comes out the same everywhere.
    pub fn assumed(name: &str, address: IpAddr, tree: Option<&Host>) -> Result<Self> {
        let os = tree.map(|host| Os::of(&host.root)).transpose()?.filter(|os| !os.id.is_empty());
        let firewalld = tree.map(|host| firewalld_age::installed(&host.root)).transpose()?.unwrap_or_default();
        let os = os.unwrap_or_else(Os::assumed);
        Ok(Self {
            hostname: name.to_owned(),
            arch: arch(),
            image: Image::of_system(&os),
            os,
            interfaces: BTreeMap::from([("eth0".to_owned(), vec![address])]),
            memory: 4096,
            cores: 2,
            boot_id: no_boot(),
            selinux: "disabled".to_owned(),
            cgroup: unknown(),
            package_manager: String::new(),
            firewalld,
            live: false,
        })
    }
}

impl Facts {
    /// These, with some that `doc` has in the table at `at` in their place.
    pub fn with(self, doc: &Doc, at: &[String], some: &Map<String, Value>) -> Result<Self> {
        let mut some = some.clone();
        // of another system than the assumed one, nothing of that holds
        if let Some(Value::Object(os)) = some.get_mut("os")
            && (os.contains_key("id") || os.contains_key("family"))
        {
            let said = |key: &str| os.get(key).and_then(Value::as_str).map(str::to_owned);
            let id = said("id").or_else(|| said("family")).unwrap_or_default();
            let family = said("family").unwrap_or_else(|| Os::family_of(&id).to_owned());
            for (key, value) in [("id", id), ("family", family), ("version", String::new()), ("variant", String::new())]
            {
                os.entry(key).or_insert_with(|| value.into());
            }
        }
        let own = serde_json::to_value(self).context(code::FACTS, || "facts can't be told".to_owned())?;
        doc.read_at(at, merge(own, &Value::Object(some))).map(Self::completed)
    }

    /// These, with what follows from the system where nobody has looked.
    fn completed(self) -> Self {
        let image = if self.image == Image::None { Image::of_system(&self.os) } else { self.image };
        Self { image, ..self }
    }

    /// The file of a site that a host's facts are recorded in.
    pub fn file_of(name: &str) -> String {
        format!("facts/{name}.toml")
    }

    /// What `kpull facts` told on the host, in `facts/NAME.toml` beside the site; else what is assumed of it.
    pub fn recorded(site: Option<&Path>, name: &str, address: IpAddr) -> Result<Self> {
        let file = Self::file_of(name);
        match site.map(|dir| read_if_there(dir, &file)).transpose()?.flatten() {
            Some(bytes) => Doc::parse(&file, &bytes)?
                .read()
                .map(Self::completed)
                .map_err(|error: Error| error.or_help(format!("`kpull facts`, run on {name}, prints the whole file"))),
            None => Self::assumed(name, address, None),
        }
    }

    /// Files beside a site that hold facts of none of its hosts, each in a sentence.
    #[expect(clippy::disallowed_methods, reason = "an operator's own command")]
    pub fn stray(site: &Path, hosts: &BTreeMap<String, HostVars>) -> Result<Vec<String>> {
        let dir = site.join("facts");
        if dir.is_symlink() {
            return Ok(vec!["facts is a link, and not read: a site holds no links".to_owned()]);
        }
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).context(code::FACTS, || format!("can't read {}", dir.display())),
        };
        let mut stray = Vec::new();
        for entry in entries {
            let entry = entry.context(code::FACTS, || format!("can't read {}", dir.display()))?;
            let file = entry.file_name().to_string_lossy().into_owned();
            let host = file.strip_suffix(".toml");
            if file.starts_with('.') || host.is_some_and(|host| hosts.contains_key(host)) {
                continue;
            }
            let meant = nearest(host.unwrap_or(&file), hosts.keys().map(String::as_str));
            stray.push(match meant {
                Some(meant) => format!("facts/{file} is read for no host: did you mean {}?", Self::file_of(meant)),
                None => format!(
                    "facts/{file} is read for no host: a file there is called as a host, {}",
                    Self::file_of("NAME")
                ),
            });
        }
        stray.sort();
        Ok(stray)
    }
}

/// What a host's control groups are told as in facts that were recorded before there was this one.
fn unknown() -> String {
    "unknown".to_owned()
}

/// The boot that is told in facts that were recorded without one.
fn no_boot() -> String {
    "00000000-0000-0000-0000-000000000000".to_owned()
}

/// Facts in a file were read from a machine, unless it says otherwise.
fn yes() -> bool {
    true
}

fn selinux_of<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    one_of(deserializer, &SELINUX)
}

fn package_manager_of<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    one_of(deserializer, &PACKAGE_MANAGER)
}

fn cgroup_of<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    one_of(deserializer, &CGROUP)
}

/// A text that is one of these.
fn one_of<'de, D: Deserializer<'de>>(deserializer: D, known: &[&str]) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    match known.contains(&text.as_str()) {
        true => Ok(text),
        false => Err(D::Error::custom(format!("`{text}` is none of `{}`", known.join("`, `")))),
    }
}

/// A processor, by Go's name for it.
fn arch_of<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    match arch_by_go(&text) {
        same if same == text => Ok(text),
        other => Err(D::Error::custom(format!("`{text}` is called `{other}` here"))),
    }
}

/// Which control groups the host has. As container runtimes do, it asks for the file systems at the places that systemd mounts
/// them at.
fn cgroup(host: &Host) -> Result<&'static str> {
    let is = |path: &str, wanted| Ok::<_, Error>(host.root.file_system(Path::new(path))? == Some(wanted));
    Ok(match () {
        () if is("/sys/fs/cgroup", CGROUP2_SUPER_MAGIC)? => "v2",
        () if !is("/sys/fs/cgroup", TMPFS_MAGIC)? => "unknown",
        () if is("/sys/fs/cgroup/unified", CGROUP2_SUPER_MAGIC)? => "hybrid",
        () => "v1",
    })
}

fn arch() -> String {
    arch_by_go(std::env::consts::ARCH).to_owned()
}

/// Go's name for a processor that the kernel, or a distribution, has another one for.
fn arch_by_go(name: &str) -> &str {
    match name {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Files;

    #[test]
    fn a_tree_s_os_release_tells_the_family() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("etc")).unwrap();
        std::fs::write(
            dir.path().join("etc/os-release"),
            "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=\"9.3\"\n",
        )
        .unwrap();
        let host = Host::open(dir.path()).unwrap();
        let facts = Facts::assumed("h", IpAddr::from([10, 0, 0, 1]), Some(&host)).unwrap();
        assert_eq!(
            (facts.os.id.as_str(), facts.os.version.as_str(), facts.os.family.as_str()),
            ("rocky", "9.3", "rhel")
        );
    }

    #[test]
    fn the_machine_tells_its_memory_and_boot() {
        let facts = Facts::of_machine(&Host::open(Path::new("/")).unwrap()).unwrap();
        assert!(facts.memory > 0 && facts.cores > 0 && facts.boot_id.len() == 36, "{facts:?}");
    }

    #[test]
    fn facts_that_were_recorded_without_control_groups_say_that_nobody_has_looked() {
        let site = tempfile::tempdir().unwrap();
        let assumed =
            Facts { cgroup: "v2".to_owned(), ..Facts::assumed("h", IpAddr::from([10, 0, 0, 1]), None).unwrap() };
        let text = toml::to_string(&assumed).unwrap();
        let recorded = |text: &str| {
            std::fs::create_dir_all(site.path().join("facts")).unwrap();
            std::fs::write(site.path().join("facts/h.toml"), text).unwrap();
            Facts::recorded(Some(site.path()), "h", IpAddr::from([10, 0, 0, 1])).unwrap().cgroup
        };
        assert_eq!(recorded(&text), "v2");
        assert_eq!(recorded(&text.replace("cgroup = \"v2\"\n", "")), "unknown");
    }

    #[test]
    fn a_value_that_no_host_tells_is_an_error_at_its_place_and_files_of_no_host_are_named() {
        let site = tempfile::tempdir().unwrap();
        let text = toml::to_string(&Facts::assumed("h", IpAddr::from([10, 0, 0, 1]), None).unwrap()).unwrap();
        std::fs::create_dir_all(site.path().join("facts")).unwrap();
        let recorded = |old: &str, new: &str| {
            assert!(text.contains(old), "{text}");
            std::fs::write(site.path().join("facts/h.toml"), text.replace(old, new)).unwrap();
            Facts::recorded(Some(site.path()), "h", IpAddr::from([10, 0, 0, 1]))
        };
        for (old, new, wanted) in [
            (
                "cgroup = \"unknown\"",
                "cgroup = \"v3\"",
                "`cgroup` can't be read: `v3` is none of `v1`, `hybrid`, `v2`, `unknown`",
            ),
            (
                "selinux = \"disabled\"",
                "selinux = \"on\"",
                "`selinux` can't be read: `on` is none of `enforcing`, `permissive`, `disabled`",
            ),
            ("arch = \"amd64\"", "arch = \"x86_64\"", "`arch` can't be read: `x86_64` is called `amd64` here"),
            ("hostname = \"h\"\n", "", "`facts/h.toml` lacks `hostname`"),
        ] {
            let error = recorded(old, new).unwrap_err();
            assert_eq!(error.to_string(), wanted);
            assert_eq!(error.advice(), Some("`kpull facts`, run on h, prints the whole file"), "{wanted}");
            assert_eq!(error.place().unwrap().file, "facts/h.toml");
        }
        let without = recorded(&format!("boot_id = \"{}\"\n", no_boot()), "").unwrap();
        assert_eq!(without.boot_id, no_boot());

        let site = site.path();
        for name in ["h2.toml", "elsewhere.toml", "h.json", ".gitkeep"] {
            std::fs::write(site.join("facts").join(name), "").unwrap();
        }
        let hosts = Files::from_iter([
            ("site.toml".to_owned(), b"name = 's'".as_slice().into()),
            ("host_vars/h.toml".to_owned(), b"address = '10.0.0.1'".as_slice().into()),
        ]);
        let hosts = crate::site::Site::load(hosts).unwrap().hosts;
        assert_eq!(
            Facts::stray(site, &hosts).unwrap(),
            [
                "facts/elsewhere.toml is read for no host: a file there is called as a host, facts/NAME.toml",
                "facts/h.json is read for no host: a file there is called as a host, facts/NAME.toml",
                "facts/h2.toml is read for no host: did you mean facts/h.toml?",
            ]
        );
    }
}
