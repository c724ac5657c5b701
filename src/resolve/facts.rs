//! What a host knows of itself, for templates and conditions.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, TMPFS_MAGIC};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Context, Error, Result};
use crate::host::{Host, meminfo};
use crate::resolve::os::Os;
use crate::resolve::world::merge;
use crate::site::{Doc, read_if_there};

/// Facts of a host; in a template `facts.NAME`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// The kernel's host name.
    pub hostname: String,
    /// The processor, as Go names it: `amd64`, `arm64`.
    pub arch: String,
    /// The system, from os-release.
    pub os: Os,
    /// Addresses by network interface, without the loopback's.
    pub interfaces: BTreeMap<String, Vec<IpAddr>>,
    /// Memory in MiB.
    pub memory: u64,
    /// Processors.
    pub cores: usize,
    /// Another one after every boot.
    pub boot_id: String,
    /// `enforcing`, `permissive` or `disabled`.
    pub selinux: String,
    /// The control groups: `v1`, `hybrid` (version 1, with systemd's own in version 2), `v2`; `unknown` where nobody has looked.
    #[serde(default = "unknown")]
    pub cgroup: String,
    /// Whether these were read from the running machine; false when they are assumed for a tree or for `check`.
    pub live: bool,
}

impl Facts {
    /// Reads the running machine's.
    pub fn of_machine(host: &Host) -> Result<Self> {
        let hostname = nix::unistd::gethostname().context(|| "can't ask for the host name".to_owned())?;
        let mut interfaces: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        for interface in nix::ifaddrs::getifaddrs().context(|| "can't ask for the network interfaces".to_owned())? {
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
        Ok(Self {
            hostname: hostname.to_string_lossy().into_owned(),
            arch: arch(),
            os: Os::of(&host.root)?,
            interfaces,
            memory: meminfo::bytes(&read("/proc/meminfo")?, "MemTotal").unwrap_or(0) >> 20,
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            boot_id: read("/proc/sys/kernel/random/boot_id")?,
            selinux: selinux.to_owned(),
            cgroup: cgroup(host)?.to_owned(),
            live: true,
        })
    }

    /// What is assumed of a host that can't be asked: its name and address, Debian 12 unless the tree says otherwise,
    /// this machine's processor. The same for the same site, so that a tree comes out the same everywhere.
    pub fn assumed(name: &str, address: IpAddr, tree: Option<&Host>) -> Result<Self> {
        let os = tree.map(|host| Os::of(&host.root)).transpose()?.filter(|os| !os.id.is_empty());
        Ok(Self {
            hostname: name.to_owned(),
            arch: arch(),
            os: os.unwrap_or_else(Os::assumed),
            interfaces: BTreeMap::from([("eth0".to_owned(), vec![address])]),
            memory: 4096,
            cores: 2,
            boot_id: "00000000-0000-0000-0000-000000000000".to_owned(),
            selinux: "disabled".to_owned(),
            cgroup: unknown(),
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
        let own = serde_json::to_value(self).context(|| "facts can't be told".to_owned())?;
        doc.read_at(at, merge(own, &Value::Object(some)))
    }

    /// The file of a site that a host's facts are recorded in.
    pub fn file_of(name: &str) -> String {
        format!("facts/{name}.toml")
    }

    /// What `kpull facts` told on the host, in `facts/NAME.toml` beside the site; else what is assumed of it.
    pub fn recorded(site: Option<&Path>, name: &str, address: IpAddr) -> Result<Self> {
        let file = Self::file_of(name);
        match site.map(|dir| read_if_there(&dir.join(&file))).transpose()?.flatten() {
            Some(bytes) => Doc::parse(&file, &bytes)?.read(),
            None => Self::assumed(name, address, None),
        }
    }
}

/// What a host's control groups are told as in facts that were recorded before there was this one.
fn unknown() -> String {
    "unknown".to_owned()
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
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
