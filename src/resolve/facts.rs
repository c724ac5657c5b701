//! Facts of a host, for templates and conditions.

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
use crate::host::details::{self, Disk, Mount, Route};
use crate::host::os::{Image, Os};
use crate::host::packages::Manager;
use crate::host::root::Root;
use crate::host::{Host, firewalld_age, meminfo};
use crate::site::{HostVars, Site};
use crate::template::merge;

/// The values of `selinux`.
const SELINUX: [&str; 3] = ["enforcing", "permissive", "disabled"];

/// The values of `cgroup`.
const CGROUP: [&str; 4] = ["v1", "hybrid", "v2", "unknown"];

/// The values of `package_manager`.
const PACKAGE_MANAGER: [&str; 7] = ["apt", "dnf", "yum", "microdnf", "zypper", NO_PACKAGE_MANAGER, ""];

/// The value of `package_manager` on a host without one.
pub const NO_PACKAGE_MANAGER: &str = "none";

/// Facts of a host; in a template `facts.NAME`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
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
    /// The id of the current boot; zeros if the facts are assumed.
    #[serde(default = "no_boot")]
    pub boot_id: String,
    /// `enforcing`, `permissive` or `disabled`.
    #[serde(deserialize_with = "selinux_of")]
    #[schemars(extend("enum" = SELINUX))]
    pub selinux: String,
    /// The control groups: `v1`, `hybrid` (version 1, with systemd's own in version 2), `v2`; `unknown` if the facts are assumed.
    #[serde(default = "unknown", deserialize_with = "cgroup_of")]
    #[schemars(extend("enum" = CGROUP))]
    pub cgroup: String,
    /// Whether the system is an image, into which packages cannot be installed: `ostree`, or `read-only` for any other type; empty if it is
    /// not an image, or the facts are assumed.
    #[serde(default)]
    pub image: Image,
    /// The package manager: `apt`, `dnf`, `yum`, `microdnf` or `zypper`, or `none`; empty if the facts are assumed.
    #[serde(default, deserialize_with = "package_manager_of")]
    #[schemars(extend("enum" = PACKAGE_MANAGER))]
    pub package_manager: String,
    /// The version of firewalld; empty if it is not installed, or the facts are assumed.
    #[serde(default)]
    pub firewalld: String,
    /// The name with its domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fqdn: Option<String>,
    /// The default route of IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_ipv4: Option<Route>,
    /// The default route of IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_ipv6: Option<Route>,
    /// Disks by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disks: Option<BTreeMap<String, Disk>>,
    /// Mounted file systems by mount point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mounts: Option<BTreeMap<String, Mount>>,
    /// The virtual machine or container, as `systemd-detect-virt` names it, or `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtualization: Option<String>,
    /// `aws`, `azure`, `gcp`, …; empty outside of a cloud, or if the firmware does not name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud: Option<String>,
    /// The content of /etc/machine-id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<String>,
    /// The time zone: `UTC`, `Europe/Berlin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// Whether details that are missing here are read from this machine when a template asks for them.
    #[serde(skip)]
    pub on_demand: bool,
    /// The custom facts of the host, by name: see [`crate::resolve::custom`].
    #[serde(default)]
    pub custom: Map<String, Value>,
    /// Whether these were read from the running machine; false when they are assumed for a tree or for `check`.
    #[serde(default = "yes")]
    pub live: bool,
}

impl Facts {
    /// Reads the facts of the running machine.
    pub fn of_machine(host: &Host) -> Result<Self> {
        let hostname = nix::unistd::gethostname().context(code::FACTS, || "can't read the host name")?;
        let mut interfaces: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        for interface in nix::ifaddrs::getifaddrs().context(code::FACTS, || "can't list the network interfaces")? {
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
            on_demand: true,
            live: true,
            ..Self::default()
        })
    }

    /// A detail of the running machine, which [`Facts::of_machine`] leaves out; `None` if there is no such detail, or these facts are not
    /// those of the running machine.
    pub fn detail(&self, name: &str) -> Result<Option<Value>> {
        if !self.on_demand {
            return Ok(None);
        }
        details::of_machine(&Root::open(Path::new("/"))?, name, &self.hostname, &self.interfaces)
    }

    /// These facts with all details, as they are recorded.
    pub fn with_details(&self) -> Result<Self> {
        let mut all = Map::new();
        for name in details::NAMES {
            all.extend(self.detail(name)?.map(|value| (name.to_owned(), value)));
        }
        self.or(Value::Object(all))
    }

    /// These facts with what others have besides.
    fn or(&self, mut others: Value) -> Result<Self> {
        let failed = || "the facts can't be converted";
        let own = serde_json::to_value(self).context(code::FACTS, failed)?;
        if let (Some(others), Value::Object(own)) = (others.as_object_mut(), own) {
            others.extend(own);
        }
        serde_json::from_value(others).context(code::FACTS, failed)
    }

    /// These facts with custom ones, and with the defaults that roles have for others.
    pub(super) fn with_defaults(&self, site: &Site, host: &str) -> Self {
        let mut facts = self.clone();
        let roles = site.hosts.get(host).into_iter().flat_map(|host| &host.roles);
        for (name, fact) in roles.filter_map(|role| site.roles.get(role)).flat_map(|role| &role.facts) {
            if let Some(default) = &fact.default {
                facts.custom.entry(name.clone()).or_insert_with(|| default.clone());
            }
        }
        facts
    }

    /// Assumed facts of a host: its name and address, Debian 12 unless the tree says otherwise, this machine's
    /// processor. They depend only on the site, so that a tree is the same everywhere.
    pub fn assumed(name: &str, address: IpAddr, tree: Option<&Host>) -> Result<Self> {
        let os = tree.map(|host| Os::of(&host.root)).transpose()?.filter(|os| !os.id.is_empty());
        let firewalld = tree.map(|host| firewalld_age::installed(&host.root)).transpose()?.unwrap_or_default();
        let os = os.unwrap_or_else(Os::assumed);
        let route = |is_of_kind: fn(&IpAddr) -> bool| match is_of_kind(&address) {
            true => Route { interface: "eth0".to_owned(), address: address.to_string(), gateway: String::new() },
            false => Route::default(),
        };
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
            firewalld,
            fqdn: Some(name.to_owned()),
            default_ipv4: Some(route(IpAddr::is_ipv4)),
            default_ipv6: Some(route(IpAddr::is_ipv6)),
            disks: Some(BTreeMap::new()),
            mounts: Some(BTreeMap::new()),
            virtualization: Some("none".to_owned()),
            cloud: Some(String::new()),
            machine_id: Some("0".repeat(32)),
            timezone: Some("UTC".to_owned()),
            ..Self::default()
        })
    }

    /// Replaces some facts by those in the table at `at` in `doc`.
    pub fn with(self, doc: &Doc, at: &[String], some: &Map<String, Value>) -> Result<Self> {
        let mut some = some.clone();
        // for another system, none of the assumed details apply
        if let Some(Value::Object(os)) = some.get_mut("os")
            && (os.contains_key("id") || os.contains_key("family"))
        {
            let text_of = |key: &str| os.get(key).and_then(Value::as_str).map(str::to_owned);
            let id = text_of("id").or_else(|| text_of("family")).unwrap_or_default();
            let family = text_of("family").unwrap_or_else(|| Os::family_of(&id).to_owned());
            let none = String::new;
            for (key, value) in
                [("id", id), ("family", family), ("version", none()), ("variant", none()), ("codename", none())]
            {
                os.entry(key).or_insert_with(|| value.into());
            }
        }
        let own = serde_json::to_value(self).context(code::FACTS, || "the facts can't be converted")?;
        doc.read_at(at, merge(own, &Value::Object(some))).map(Self::completed)
    }

    /// Adds what follows from the system.
    fn completed(self) -> Self {
        let image = if self.image == Image::None { Image::of_system(&self.os) } else { self.image };
        Self { image, ..self }
    }

    /// The file in a site with the recorded facts of a host.
    pub fn file_of(name: &str) -> String {
        format!("facts/{name}.toml")
    }

    /// The recorded facts of a host, in `facts/NAME.toml` in the site; assumed facts if there are none.
    pub fn recorded(site: Option<&Path>, name: &str, address: IpAddr) -> Result<Self> {
        let file = Self::file_of(name);
        match site.map(|dir| read_if_there(dir, &file)).transpose()?.flatten() {
            Some(bytes) => Doc::parse(&file, &bytes)?
                .read()
                .map(Self::completed)
                .and_then(|facts| {
                    facts.or(serde_json::to_value(Self::assumed(name, address, None)?).unwrap_or_default())
                })
                .map_err(|error: Error| {
                    error.or_help(format!("`kpull facts`, run on {name}, prints the complete file"))
                }),
            None => Self::assumed(name, address, None),
        }
    }

    /// Files in `facts/` that belong to no host, each in a sentence.
    #[expect(clippy::disallowed_methods, reason = "an operator's own command")]
    pub fn stray(site: &Path, hosts: &BTreeMap<String, HostVars>) -> Result<Vec<String>> {
        let dir = site.join("facts");
        if dir.is_symlink() {
            return Ok(vec!["facts is a link and is ignored: a site can't contain links".to_owned()]);
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
                Some(meant) => format!("facts/{file} belongs to no host: did you mean {}?", Self::file_of(meant)),
                None => format!(
                    "facts/{file} belongs to no host: the name of a facts file is that of its host, {}",
                    Self::file_of("NAME")
                ),
            });
        }
        stray.sort();
        Ok(stray)
    }
}

/// The value of `cgroup` in recorded facts without it.
fn unknown() -> String {
    "unknown".to_owned()
}

/// The value of `boot_id` in recorded facts without it.
fn no_boot() -> String {
    "00000000-0000-0000-0000-000000000000".to_owned()
}

/// Recorded facts are from a running machine, unless they say otherwise.
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
        other => Err(D::Error::custom(format!("use `{other}` instead of `{text}`"))),
    }
}

/// The version of control groups, from the file systems at the paths where systemd mounts them, as container runtimes do.
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

/// Go's name for a processor.
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
    fn the_family_comes_from_the_os_release_of_a_tree() {
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
    fn facts_of_the_machine_have_its_memory_and_boot() {
        let facts = Facts::of_machine(&Host::open(Path::new("/")).unwrap()).unwrap();
        assert!(facts.memory > 0 && facts.cores > 0 && facts.boot_id.len() == 36, "{facts:?}");
    }

    #[test]
    fn facts_that_were_recorded_without_control_groups_say_unknown() {
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
    fn an_impossible_fact_is_an_error_at_its_place_and_files_of_no_host_are_named() {
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
            ("arch = \"amd64\"", "arch = \"x86_64\"", "`arch` can't be read: use `amd64` instead of `x86_64`"),
            ("hostname = \"h\"\n", "", "`facts/h.toml` lacks `hostname`"),
        ] {
            let error = recorded(old, new).unwrap_err();
            assert_eq!(error.to_string(), wanted);
            assert_eq!(error.advice(), Some("`kpull facts`, run on h, prints the complete file"), "{wanted}");
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
                "facts/elsewhere.toml belongs to no host: the name of a facts file is that of its host, facts/NAME.toml",
                "facts/h.json belongs to no host: the name of a facts file is that of its host, facts/NAME.toml",
                "facts/h2.toml belongs to no host: did you mean facts/h.toml?",
            ]
        );
    }
}
