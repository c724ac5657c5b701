//! Details of a machine that only few roles use, each read on demand: routes, disks, mounts, virtualization, cloud.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::Result;
use crate::host::process::{Command, run_if_there};
use crate::host::root::Root;
use crate::host::settings::Setting;
use crate::host::unit_files::straight;
use crate::read::unescaped;

/// How long `systemd-detect-virt` may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The names of all details.
pub const NAMES: [&str; 9] =
    ["fqdn", "default_ipv4", "default_ipv6", "disks", "mounts", "virtualization", "cloud", "machine_id", "timezone"];

/// The way to other networks.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Route {
    /// The interface; empty if there is no default route.
    pub interface: String,
    /// The interface's first address of this kind.
    pub address: String,
    /// The address of the router.
    pub gateway: String,
}

/// A disk.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Its size in MiB.
    pub size: u64,
    /// Its model; empty if it names none.
    #[serde(default)]
    pub model: String,
    /// Whether it has rotating platters, as far as the kernel knows.
    pub rotational: bool,
}

/// A mounted file system.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// What is mounted: `/dev/sda1`, `server:/export`.
    pub device: String,
    /// The type of the file system.
    #[serde(rename = "type")]
    pub kind: String,
    /// The options, in the kernel's order.
    #[serde(default)]
    pub options: Vec<String>,
}

/// The addresses of a host, by interface.
type Addresses = BTreeMap<String, Vec<IpAddr>>;

/// A detail of the running machine, by its name.
pub fn of_machine(root: &Root, name: &str, hostname: &str, addresses: &Addresses) -> Result<Option<Value>> {
    let text = |path: &str| root.text(Path::new(path));
    Ok(Some(match name {
        "fqdn" => Value::from(fqdn(hostname, &text("/etc/hosts")?)),
        "default_ipv4" => json!(with_address(route(&text("/proc/net/route")?, route_v4), addresses, IpAddr::is_ipv4)),
        "default_ipv6" => {
            let is_global = |address: &IpAddr| matches!(address, IpAddr::V6(v6) if v6.segments()[0] & 0xffc0 != 0xfe80);
            json!(with_address(route(&text("/proc/net/ipv6_route")?, route_v6), addresses, is_global))
        }
        "disks" => json!(disks(root)?),
        "mounts" => json!(mounts(&text("/proc/self/mountinfo")?)),
        "virtualization" => Value::from(virtualization()?),
        "cloud" => Value::from(cloud(root)?),
        "machine_id" => Value::from(text("/etc/machine-id")?.trim()),
        "timezone" => Value::from(timezone(root)?),
        _ => return Ok(None),
    }))
}

/// The name with its domain: the host name if it has one, else the name of /etc/hosts for it. Nothing is asked over the network.
fn fqdn(hostname: &str, hosts: &str) -> String {
    if hostname.contains('.') {
        return hostname.to_owned();
    }
    let names = |line: &str| -> Vec<String> {
        let line = line.split('#').next().unwrap_or_default();
        line.split_whitespace().skip(1).map(str::to_owned).collect()
    };
    let found = hosts.lines().map(names).filter(|names| names.iter().any(|name| name == hostname));
    let long = found.flatten().find(|name| name.strip_prefix(hostname).is_some_and(|rest| rest.starts_with('.')));
    long.unwrap_or_else(|| hostname.to_owned())
}

fn with_address(route: Option<Route>, addresses: &Addresses, is_wanted: fn(&IpAddr) -> bool) -> Route {
    let Some(route) = route else { return Route::default() };
    let own = addresses.get(&route.interface).into_iter().flatten().find(|address| is_wanted(address));
    Route { address: own.map(ToString::to_string).unwrap_or_default(), ..route }
}

/// The interface, gateway and metric of a default route.
type DefaultRoute<'a> = (&'a str, IpAddr, u32);

/// A default route in a line of `/proc/net/route`.
fn route_v4<'a>(fields: &[&'a str]) -> Option<DefaultRoute<'a>> {
    let [interface, "00000000", gateway, _, _, _, metric, "00000000", ..] = fields else { return None };
    let gateway = Ipv4Addr::from(u32::from_str_radix(gateway, 16).ok()?.to_ne_bytes());
    Some((interface, gateway.into(), metric.parse().ok()?))
}

/// A default route in a line of `/proc/net/ipv6_route`.
fn route_v6<'a>(fields: &[&'a str]) -> Option<DefaultRoute<'a>> {
    let [_, "00", _, _, gateway, metric, _, _, _, interface] = fields else { return None };
    let gateway = Ipv6Addr::from(u128::from_str_radix(gateway, 16).ok()?);
    // the kernel's own entry, which refuses everything, has the loopback interface
    (*interface != "lo").then_some((*interface, gateway.into(), u32::from_str_radix(metric, 16).ok()?))
}

/// The default route with the lowest metric in a table.
fn route(table: &str, of_line: for<'a> fn(&[&'a str]) -> Option<DefaultRoute<'a>>) -> Option<Route> {
    let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let routes = lines.filter_map(|fields| of_line(&fields));
    let (interface, gateway, _) = routes.min_by_key(|(.., metric)| *metric)?;
    let gateway = if gateway.is_unspecified() { String::new() } else { gateway.to_string() };
    Some(Route { interface: interface.to_owned(), gateway, ..Route::default() })
}

/// Disks of the machine, without partitions and what the kernel makes itself, such as loop devices.
fn disks(root: &Root) -> Result<BTreeMap<String, Disk>> {
    let mut disks = BTreeMap::new();
    for name in root.names(Path::new("/sys/class/block"))? {
        // the entry is a link to the device; a partition has its number there
        let Some(target) = root.link(&Path::new("/sys/class/block").join(&name))? else { continue };
        let device = straight(&Path::new("/sys/class/block").join(target));
        let text = |file: &str| root.text(&device.join(file)).map(|text| text.trim().to_owned());
        let is_made =
            ["sr", "fd"].iter().any(|made| name.starts_with(made)) || device.starts_with("/sys/devices/virtual");
        if is_made || root.meta(&device.join("partition"))?.is_some() {
            continue;
        }
        // sectors of 512 bytes, whatever the disk's own are
        let size = text("size")?.parse::<u64>().unwrap_or(0) >> 11;
        let model = text("device/model")?.split_whitespace().collect::<Vec<_>>().join(" ");
        disks.insert(name, Disk { size, model, rotational: text("queue/rotational")? == "1" });
    }
    Ok(disks)
}

/// File systems on devices and servers, by mount point, and what is mounted at `/`.
fn mounts(mountinfo: &str) -> BTreeMap<String, Mount> {
    let of = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let before: Vec<&str> = before.split(' ').collect();
        let (at, options) = (unescaped(before.get(4)?), before.get(5)?);
        let mut after = after.split(' ');
        let (kind, device) = (after.next()?, unescaped(after.next()?));
        let is_kept = at == "/" || device.starts_with('/') || device.contains(":/") || kind == "zfs";
        let options = options.split(',').map(str::to_owned).collect();
        is_kept.then(|| (at, Mount { device, kind: kind.to_owned(), options }))
    };
    mountinfo.lines().filter_map(of).collect()
}

/// The container or virtual machine that this is, as systemd names it; `none` for a machine of its own.
fn virtualization() -> Result<String> {
    // without one, it prints `none` and exits with 1
    let output = run_if_there(&Command::new(["systemd-detect-virt"], PATIENCE))?;
    let name = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    Ok(name.filter(|name| !name.is_empty()).unwrap_or_else(|| "none".to_owned()))
}

/// The cloud that the machine is in, by its firmware; empty if it is in none, or in one that its firmware does not name.
fn cloud(root: &Root) -> Result<&'static str> {
    const CLOUDS: [(&str, &str); 13] = [
        ("Amazon EC2", "aws"),
        ("Google", "gcp"),
        ("Alibaba Cloud", "alibaba"),
        ("DigitalOcean", "digitalocean"),
        ("Hetzner", "hetzner"),
        ("Scaleway", "scaleway"),
        ("Vultr", "vultr"),
        ("Akamai", "akamai"),
        ("Linode", "akamai"),
        ("UpCloud", "upcloud"),
        ("Exoscale", "exoscale"),
        ("Huawei Cloud", "huawei"),
        ("OpenStack", "openstack"),
    ];
    let text =
        |name: &str| root.text(&Path::new("/sys/devices/virtual/dmi/id").join(name)).map(|text| text.trim().to_owned());
    let names = ["sys_vendor", "product_name", "board_vendor", "bios_vendor"].map(text);
    let names = names.into_iter().collect::<Result<Vec<_>>>()?;
    let is_in = |word: &str| names.iter().any(|name| name.starts_with(word));
    Ok(match text("chassis_asset_tag")?.as_str() {
        "7783-7084-3265-9085-8269-3286-77" => "azure",
        "OracleCloud.com" => "oracle",
        _ => CLOUDS.iter().find(|(word, _)| is_in(word)).map_or("", |(_, name)| name),
    })
}

/// The time zone, from the link or Debian's file; UTC if there is neither.
fn timezone(root: &Root) -> Result<String> {
    if let Some(zone) = Setting::Timezone.read(root)? {
        return Ok(zone);
    }
    let file = root.text(Path::new("/etc/timezone"))?;
    Ok(if file.trim().is_empty() { "UTC" } else { file.trim() }.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_with_its_domain_is_that_of_etc_hosts() {
        let hosts = "127.0.0.1 localhost\n# 10.0.0.9 web.old.example web\n10.0.0.1 web.example.org web # us\n";
        assert_eq!(fqdn("web", hosts), "web.example.org");
        assert_eq!((fqdn("web.x", hosts), fqdn("db", hosts)), ("web.x".to_owned(), "db".to_owned()));
        assert_eq!(fqdn("we", "10.0.0.1 web.example.org we\n"), "we");
    }

    #[test]
    fn the_default_route_is_the_one_with_the_lowest_metric() {
        let table = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
                     wlan0 00000000 0101A8C0 0003 0 0 600 00000000 0 0 0\n\
                     eth0 00000000 FE01A8C0 0003 0 0 100 00000000 0 0 0\n\
                     eth0 0001A8C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n";
        let addresses =
            BTreeMap::from([("eth0".to_owned(), vec!["fe80::1".parse().unwrap(), "192.168.1.5".parse().unwrap()])]);
        let found = with_address(route(table, route_v4), &addresses, IpAddr::is_ipv4);
        let wanted = Route { interface: "eth0".into(), address: "192.168.1.5".into(), gateway: "192.168.1.254".into() };
        assert_eq!(found, wanted);
        assert_eq!(with_address(route("Iface\n", route_v4), &addresses, IpAddr::is_ipv4), Route::default());
        let zeros = "0".repeat(32);
        let table = format!(
            "{zeros} 00 {zeros} 00 {zeros} ffffffff 00000001 00000000 00200200 lo\n\
             {zeros} 00 {zeros} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003 eth0\n"
        );
        let route = route(&table, route_v6).unwrap();
        assert_eq!((route.interface.as_str(), route.gateway.as_str()), ("eth0", "fe80::1"));
    }

    #[test]
    fn mounts_are_those_of_devices_and_servers() {
        let found = mounts(
            "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
             23 22 0:5 / /proc rw - proc proc rw\n\
             24 22 0:9 / /srv/a\\040b ro,nosuid - nfs4 nas:/export rw\n",
        );
        assert_eq!(found.keys().collect::<Vec<_>>(), ["/", "/srv/a b"]);
        let wanted =
            Mount { device: "nas:/export".into(), kind: "nfs4".into(), options: vec!["ro".into(), "nosuid".into()] };
        assert_eq!(found["/srv/a b"], wanted);
    }

    #[test]
    fn the_cloud_is_what_the_firmware_says() {
        for (vendor, product, named) in [
            ("Amazon EC2", "t3.micro", "aws"),
            ("Google", "Google Compute Engine", "gcp"),
            ("Hetzner", "vServer", "hetzner"),
            ("QEMU", "Standard PC", ""),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let firmware = dir.path().join("sys/devices/virtual/dmi/id");
            std::fs::create_dir_all(&firmware).unwrap();
            std::fs::write(firmware.join("sys_vendor"), format!("{vendor}\n")).unwrap();
            std::fs::write(firmware.join("product_name"), format!("{product}\n")).unwrap();
            assert_eq!(cloud(&Root::open(dir.path()).unwrap()).unwrap(), named, "{vendor} {product}");
        }
    }

    #[test]
    fn the_time_zone_is_the_target_of_the_link() {
        let zone = |link: Option<&str>, file: &str| {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join("etc")).unwrap();
            std::fs::write(dir.path().join("etc/timezone"), file).unwrap();
            if let Some(target) = link {
                std::os::unix::fs::symlink(target, dir.path().join("etc/localtime")).unwrap();
            }
            timezone(&Root::open(dir.path()).unwrap()).unwrap()
        };
        assert_eq!(zone(Some("/usr/share/zoneinfo/Europe/Berlin"), "x"), "Europe/Berlin");
        assert_eq!(zone(Some("../usr/share/zoneinfo/UTC"), ""), "UTC");
        assert_eq!((zone(None, "Asia/Tokyo\n").as_str(), zone(None, "").as_str()), ("Asia/Tokyo", "UTC"));
    }

    #[test]
    fn every_detail_of_this_machine_can_be_read() {
        let root = Root::open(Path::new("/")).unwrap();
        for name in NAMES {
            assert!(of_machine(&root, name, "h", &BTreeMap::new()).unwrap().is_some(), "{name}");
        }
        assert_eq!(of_machine(&root, "nope", "h", &BTreeMap::new()).unwrap(), None);
    }
}
