//! The shipped cluster for the hosts of its reader.

use std::net::IpAddr;

use toml_edit::{Array, DocumentMut, Item, Value};

use crate::author::starts::{self, SiteFiles};
use crate::error::{Context, Error, Result, code};

/// A host: its name and address.
pub type Host = (String, IpAddr);

/// The roles of a load balancer, which one master alone does not need.
const BALANCERS: [&str; 2] = ["haproxy", "keepalived"];
/// The port of the API servers.
const API_PORT: i64 = 6443;

/// What differs between clusters.
#[derive(Debug)]
pub struct Cluster<'a> {
    /// The site's name.
    pub name: &'a str,
    /// The hosts of the control plane, which are the members of etcd: an odd number.
    pub masters: &'a [Host],
    /// The other hosts.
    pub workers: &'a [Host],
    /// The virtual address of the load balancers, and the length of its network's prefix. `None`: clients connect to the only
    /// master.
    pub vip: Option<(IpAddr, u8)>,
}

impl Cluster<'_> {
    /// The files of its site.
    pub fn files(&self) -> Result<SiteFiles> {
        self.check()?;
        let mut files = starts::cluster();
        files.retain(|(path, _)| !path.starts_with("host_vars/"));
        for (path, content) in &mut files {
            if path == "site.toml" {
                *content = self.site(&String::from_utf8_lossy(content))?.into_bytes();
            }
        }
        for (number, (name, address)) in (1..).zip(self.masters) {
            let text =
                format!("address = \"{address}\"\ngroups = [\"masters\"]\n\n[vars.etcd]\nname = \"etcd{number}\"\n");
            files.push((host_file(name), text.into_bytes()));
        }
        for (name, address) in self.workers {
            files.push((host_file(name), format!("address = \"{address}\"\ngroups = [\"nodes\"]\n").into_bytes()));
        }
        Ok(files)
    }

    fn check(&self) -> Result<()> {
        let count = self.masters.len();
        let error = |message: String, help: &str| Err(Error::new(code::EDIT, message).help(help));
        if count.is_multiple_of(2) {
            return error(
                format!("{count} masters tolerate no more failures than {}", count.saturating_sub(1)),
                "name one, three or five of them: etcd needs more than half of its members",
            );
        }
        if count > 1 && self.vip.is_none() {
            return error(
                format!("{count} masters need a virtual address"),
                "add `--vip ADDRESS/PREFIX`, an unused address of the masters' network",
            );
        }
        let hosts: Vec<&Host> = self.masters.iter().chain(self.workers).collect();
        for (index, (name, address)) in hosts.iter().enumerate() {
            let earlier = hosts.iter().take(index);
            if let Some((other, _)) = earlier.clone().find(|(other, at)| other == name || at == address) {
                return error(
                    format!("{name}={address} has the name or the address of the host {other}"),
                    "use a different name and address for each host",
                );
            }
            if self.vip.is_some_and(|(vip, _)| vip == *address) {
                return error(
                    format!("the virtual address {address} is the address of the host {name}"),
                    "choose an unused address for `--vip`",
                );
            }
        }
        Ok(())
    }

    /// `site.toml` with the values of this cluster, and the comments of the shipped one.
    fn site(&self, shipped: &str) -> Result<String> {
        let (_, rest) = shipped.split_once('\n').unwrap_or_default();
        let mut doc: DocumentMut = rest.parse().context(code::EDIT, || "the site of the cluster can't be read")?;
        let masters: Array = self.masters.iter().map(|(name, _)| name.as_str()).collect();
        set(&mut doc["name"], self.name.into());
        for pair in ["kubernetes", "service-account"] {
            set(&mut doc["pki"][pair]["key_hosts"], masters.clone().into());
        }
        if let Some((vip, prefix)) = self.vip {
            set(&mut doc["vars"]["vip"], vip.to_string().into());
            set(&mut doc["vars"]["vip_prefix"], i64::from(prefix).into());
        } else if let Some((_, address)) = self.masters.first() {
            set(&mut doc["vars"]["vip"], address.to_string().into());
            set(&mut doc["vars"]["api_port"], API_PORT.into());
            if let Some(roles) = doc["groups"]["masters"]["roles"].as_array_mut() {
                roles.retain(|role| role.as_str().is_none_or(|role| !BALANCERS.contains(&role)));
            }
        }
        Ok(format!("# A highly available Kubernetes cluster of plain binaries, with TLS everywhere.\n{doc}"))
    }
}

fn host_file(name: &str) -> String {
    format!("host_vars/{name}.toml")
}

/// Replaces a value that is there; the comment beside it stays in its column.
fn set(item: &mut Item, new: Value) {
    let Some(old) = item.as_value_mut() else { return };
    let width = |value: &Value| value.clone().decorated("", "").to_string().len();
    let after = old.decor().suffix().and_then(|raw| raw.as_str()).unwrap_or_default();
    let comment = after.trim_start();
    let column = width(old).saturating_add(after.len()).saturating_sub(comment.len());
    let gap = if comment.is_empty() { 0 } else { column.saturating_sub(width(&new)).max(1) };
    *old = new.decorated(" ", format!("{}{comment}", " ".repeat(gap)));
}
