//! `[[nftables]]`: a table of the packet filter that a role owns, for hosts without firewalld.

use serde_json::json;

use crate::kind::prelude::*;
use crate::kind::unit::UnitFields;
use crate::kind::validation::Validation;
use crate::text::display_as_serialized;

/// Fields of `[[nftables]]`. Exactly one of `content` and `template` is set.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NftablesFields {
    /// The name of the table: letters, digits and `_`; it starts with a letter.
    name: String,
    /// The family of packets that the table sees. Default: IPv4 and IPv6.
    #[serde(default)]
    family: Family,
    /// The content of the table, without the braces around it: chains with rules, sets, maps.
    content: Option<String>,
    /// The name of a file in the role's `templates/` with the content.
    template: Option<String>,
}

/// A family of tables.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Family {
    /// IPv4 and IPv6.
    #[default]
    Inet,
    Ip,
    Ip6,
    Arp,
    Bridge,
    Netdev,
}

display_as_serialized!(Family);

impl Fields for NftablesFields {
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let is_name = self.name.starts_with(|c: char| c.is_ascii_alphabetic())
            && self.name.len() <= 64
            && self.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let why = "a table's name has at most 64 letters, digits and `_`, and starts with a letter";
        build.refuse_if(!is_name, "name", why)?;
        build.refuse_if(self.name == "firewalld", "name", "this table belongs to firewalld: write a [[firewall]]")?;
        let content = match (self.content, &self.template) {
            (Some(text), None) => text,
            (None, Some(name)) => build.template(name)?,
            (None, None) => return Err(build.invalid("name", "set `content` or `template`")),
            (Some(_), Some(_)) => return Err(build.invalid("template", "set `content` or `template`, not both")),
        };
        let table = format!("{} {}", self.family, self.name);
        // one transaction: there is always the old table or the new one
        let text = format!("table {table}\ndelete table {table}\ntable {table} {{\n{}\n}}\n", content.trim_end());
        let key = format!("{}-{}", self.family, self.name);
        let path = format!("/etc/nftables.d/kpull-{key}.nft");
        let place = AbsolutePath::try_from(path.clone()).map_err(|why| build.invalid("name", &why))?;
        let accepts = Some(["nft", "-c", "-f", "%s"].map(str::to_owned).to_vec());
        let sensitive = build.is_secret();
        let file = File {
            validate: Validation::of(accepts, sensitive, build)?,
            ..File::new(Self::NAME, place, text.into_bytes(), sensitive)
        };
        let (listing, loaded) = (listing(&content), loaded(&key));
        let check = format!("test -s {loaded} && test \"$(nft {listing} list table {table})\" = \"$(cat {loaded})\"");
        let load = format!("/bin/sh -ec 'nft -f {path}; nft {listing} list table {table} > {loaded}'");
        let unit = json!({
            "name": format!("kpull-nftables-{key}.service"),
            "content": unit_file(&table, &key, &load),
            "enable": true,
            "reload_when": [format!("{}:{path}", Self::NAME)],
            "check": ["sh", "-c", check],
            "check_within": "1s",
        });
        let unit: UnitFields =
            serde_json::from_value(unit).map_err(|error| build.invalid("name", &error.to_string()))?;
        let mut resources: Vec<Box<dyn Resource>> = vec![Box::new(file)];
        resources.extend(unit.build(build)?);
        Ok(resources)
    }
}

/// The options for a listing that stays the same until the table is changed: without counters, and without elements if packets add some.
fn listing(content: &str) -> &'static str {
    if ["dynamic", "timeout"].iter().any(|word| content.contains(word)) { "-s -t" } else { "-s" }
}

/// Where the listing is after the table was loaded.
fn loaded(key: &str) -> String {
    format!("/run/kpull-nftables-{key}/loaded")
}

/// The unit that loads the table, also at boot, before there is a network.
fn unit_file(table: &str, key: &str, load: &str) -> String {
    format!(
        "\
[Unit]
Description=The nftables table {table}
DefaultDependencies=no
Wants=network-pre.target
After=local-fs.target nftables.service
Before=network-pre.target shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
RuntimeDirectory=kpull-nftables-{key}
ExecStart={load}
ExecReload={load}
ExecStop=/bin/sh -c 'nft delete table {table} || true'

[Install]
WantedBy=sysinit.target
"
    )
}

#[cfg(test)]
mod tests {
    use crate::kind::testing::{build, refusal};

    #[test]
    fn a_table_is_a_file_that_is_checked_and_a_unit_that_loads_it() {
        let resources = build("nftables", "name = 'site'\ncontent = 'chain in { }'").unwrap();
        let ids: Vec<String> = resources.iter().map(|one| one.about().id().to_string()).collect();
        let unit = "kpull-nftables-inet-site.service";
        assert_eq!(
            ids,
            [
                "nftables:/etc/nftables.d/kpull-inet-site.nft".to_owned(),
                format!("unit-file:/etc/systemd/system/{unit}"),
                format!("unit:{unit}")
            ]
        );
        let text = String::from_utf8(resources[0].content().unwrap().into_owned()).unwrap();
        assert_eq!(text, "table inet site\ndelete table inet site\ntable inet site {\nchain in { }\n}\n");
        assert!(resources[0].about().can_cut_off());
    }

    #[test]
    fn elements_that_packets_add_are_no_drift() {
        let unit = |content: &str| {
            let resources = build("nftables", &format!("name = 'site'\ncontent = '{content}'")).unwrap();
            String::from_utf8(resources[1].content().unwrap().into_owned()).unwrap()
        };
        assert!(unit("set s { type ipv4_addr; flags dynamic; }").contains("nft -s -t list table"));
        assert!(unit("set s { type ipv4_addr; }").contains("nft -s list table"));
    }

    #[test]
    fn the_table_of_firewalld_and_odd_names_are_refused() {
        for name in ["", "1a", "a b", "a;b", "é"] {
            let why = refusal("nftables", &format!("name = '{name}'\ncontent = ''"));
            assert!(why.starts_with("`name`: a table's name has"), "{why}");
        }
        assert!(refusal("nftables", "name = 'firewalld'\ncontent = ''").contains("[[firewall]]"));
        assert!(refusal("nftables", "name = 'x'").contains("set `content` or `template`"));
    }
}
