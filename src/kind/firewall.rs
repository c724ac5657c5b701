//! `[[firewall]]`: what a firewalld zone allows, at run time and permanently; and custom zones, services and IP sets.

mod define;
mod fields;
mod former;
mod names;
mod own;
mod zones;

use sha2::{Digest, Sha256};

use crate::error::nearest;
use crate::host::firewalld::UNKNOWN_SERVICE;
use crate::host::firewalld_age::Age;
use crate::host::port_range::PortRange;
use crate::host::rich_rule::Part;
use crate::host::zone::{Edit, Element, Settings, Target, Traffic};
use crate::kind::prelude::*;
use crate::kind::{Effect, Queries};

pub use define::Definition;
pub use fields::FirewallFields;
pub use former::{Former, Setting};
pub use own::OwnZone;
pub(crate) use zones::{PACKAGED, kept_zone};
use zones::{edit, elsewhere, etc_file, is_bound, unknown_zone, zone_file, zone_inputs, zone_name};

/// A part of what a zone allows. Several parts of a zone add up.
#[derive(Clone, Debug)]
pub struct Firewall {
    /// Its zone; `None` is firewalld's default zone.
    pub zone: Option<String>,
    target: Option<Target>,
    listed: Settings,
    /// What must not be in the zone.
    bars: Vec<Element>,
    exclusive: bool,
    /// Whether it must not be recorded.
    sensitive: bool,
    /// What it allows by `ports` and `allow`.
    pub lets_in: Vec<Traffic>,
    /// What it allows by services and rich rules, as far as that is known without firewalld.
    pub lets_in_otherwise: Vec<Traffic>,
    /// The services that it allows, by name.
    pub named: BTreeSet<String>,
}

/// The traffic that an element of a rich rule means.
fn traffic_of(part: &Part) -> Vec<Traffic> {
    let value = |name| part.get(name).unwrap_or_default();
    match part.name.as_str() {
        "port" => PortRange::parse(value("port"), value("protocol")).map(Traffic::Ports).into_iter().collect(),
        "protocol" => vec![Traffic::Protocol(value("value").to_ascii_lowercase())],
        "service" => traffic_of_service(value("name")),
        _ => Vec::new(),
    }
}

/// What firewalld's predefined services for clusters allow; others are not known here.
fn traffic_of_service(name: &str) -> Vec<Traffic> {
    let ports: &[(&str, &str)] = match name {
        "ssh" => &[("22", "tcp")],
        "http" => &[("80", "tcp")],
        "https" => &[("443", "tcp")],
        "dns" => &[("53", "tcp"), ("53", "udp")],
        "ntp" => &[("123", "udp")],
        "etcd-client" => &[("2379", "tcp")],
        "etcd-server" => &[("2380", "tcp")],
        "kube-apiserver" => &[("6443", "tcp")],
        "vrrp" => return vec![Traffic::Protocol("vrrp".to_owned())],
        _ => &[],
    };
    ports.iter().filter_map(|(port, protocol)| PortRange::parse(port, protocol)).map(Traffic::Ports).collect()
}

/// The edits of a zone's run-time and permanent settings.
#[derive(Debug, Default, PartialEq, Eq)]
struct Edits {
    runtime: Vec<Edit>,
    permanent: Vec<Edit>,
}

impl Edits {
    fn all(&self) -> impl Iterator<Item = &Edit> {
        self.runtime.iter().chain(&self.permanent)
    }

    /// In words; what is the same for both is listed once.
    fn words(&self) -> Vec<String> {
        let only = |mine: &[Edit], others: &[Edit], name: &str| -> Vec<String> {
            mine.iter().filter(|edit| !others.contains(edit)).map(|edit| format!("{name}: {edit}")).collect()
        };
        let both = self.runtime.iter().filter(|edit| self.permanent.contains(edit));
        both.map(ToString::to_string)
            .chain(only(&self.runtime, &self.permanent, "runtime"))
            .chain(only(&self.permanent, &self.runtime, "permanent"))
            .collect()
    }
}

/// The change that edits make.
fn change(edits: &[Edit]) -> Option<Change> {
    change_of(edits.iter().map(ToString::to_string).collect(), edits.iter())
}

/// [`change`], in these words.
fn change_of<'a>(words: Vec<String>, edits: impl Iterator<Item = &'a Edit>) -> Option<Change> {
    let (add, remove): (Vec<_>, Vec<_>) = edits.partition(|edit| matches!(edit, Edit::Add(_)));
    let what = match (add.is_empty(), remove.is_empty()) {
        (false, true) => Effect::Added,
        (true, false) => Effect::Removed,
        _ => Effect::Changed,
    };
    Change::of(words).map(|change| Change { what, ..change })
}

impl Firewall {
    /// The name of its zone on this host.
    fn zone_name(&self, host: &Host) -> Result<String> {
        zone_name(self.zone.as_deref(), host)
    }

    /// An error if firewalld is too old for what is listed.
    pub fn check_age(&self, age: &Age) -> Result<()> {
        self.listed.elements().iter().try_for_each(|element| age.check_element(element))
    }

    /// All its settings, in words.
    fn words(&self) -> Vec<String> {
        let listed = self.listed.elements();
        let bars = self.bars.iter().map(|element| format!("no {element}"));
        let more = self.exclusive.then(|| "nothing else".to_owned());
        listed.iter().map(ToString::to_string).chain(bars).chain(more).collect()
    }

    /// The zone, the first setting, the number of others, and a short digest that distinguishes similar ones.
    fn key(&self) -> String {
        let words = self.words();
        let digest = digest(&words.join("\n"));
        let first = match words.first() {
            Some(rule) if rule.starts_with("rule ") => "rule",
            Some(element) => element,
            None => "nothing",
        };
        let more = match words.len() {
            0 | 1 => String::new(),
            number => format!(" +{}", number - 1),
        };
        format!("{} {first}{more} {digest}", self.zone.as_deref().unwrap_or("default"))
    }

    /// An error if another [[firewall]] wants the opposite: each run would undo the last.
    fn check_conflicts(&self, host: &Host, catalog: &[Item], zone: &str) -> Result<()> {
        for other in firewalls(catalog) {
            let other_zone = other.zone_name(host)?;
            if other_zone == zone {
                if let Some(element) = self.bars.iter().find(|element| other.listed.find(element).is_some()) {
                    let what =
                        format!("one [[firewall]] sets `{element}` in the zone {zone}, and another one excludes it");
                    return Err(Error::new(code::FIREWALL, what).help(format!("remove `{element}` from one of them")));
                }
                continue;
            }
            let mine = self.listed.elements();
            if let Some(element) = mine.iter().find(|element| is_bound(element) && other.listed.find(element).is_some())
            {
                return Err(error!(FIREWALL, "the {element} belongs to two zones: {zone} and {other_zone}").help(
                    "an interface or source can belong to only one zone: remove it from the other [[firewall]]",
                ));
            }
        }
        Ok(())
    }

    /// The edits that turn `have` into the desired state.
    fn edits(&self, have: &Settings, siblings: &[&Firewall]) -> Vec<Edit> {
        let mut edits: Vec<Edit> = self.listed.without(have).into_iter().map(Edit::Add).collect();
        edits.extend(self.bars.iter().filter_map(|element| have.find(element)).map(Edit::Remove));
        if self.exclusive {
            let mut listed = self.listed.clone();
            siblings.iter().for_each(|other| listed.merge(&other.listed));
            let is_ours =
                |element: &Element| matches!(element, Element::Service(_) | Element::Port(_) | Element::Rule(_));
            edits.extend(have.without(&listed).into_iter().filter(is_ours).map(Edit::Remove));
        }
        edits
    }

    /// The edits on the running host; `None` if firewalld is not running.
    fn live_edits(&self, host: &Host, catalog: &[Item], zone: &str) -> Result<Option<Edits>> {
        let Some(known) = host.zone(zone)? else { return Ok(None) };
        if known.permanent.is_none() && !OwnZone::is_in(host, catalog, zone)? && kept_zone(&host.root, zone)?.is_none()
        {
            return Err(unknown_zone(host, zone)?);
        }
        // an earlier resource creates a zone that firewalld does not know yet
        let (runtime, permanent) = (known.runtime.unwrap_or_default(), known.permanent.unwrap_or_default());
        let siblings = siblings(host, catalog, zone)?;
        Ok(Some(Edits { runtime: self.edits(&runtime, &siblings), permanent: self.edits(&permanent, &siblings) }))
    }

    /// An error, before any change, for additions that firewalld can't make: what its version does not support, and services that it
    /// does not know. Services that the catalog defines are known by then.
    fn check_added(host: &Host, catalog: &[Item], zone: &str, edits: &Edits) -> Result<()> {
        let firewalld = host.firewalld()?;
        let mut known: Option<Vec<String>> = None;
        for edit in edits.all() {
            let Edit::Add(element) = edit else { continue };
            firewalld.check(zone, element)?;
            let Element::Service(name) = element else { continue };
            let known = match &mut known {
                Some(known) => known,
                none => none.insert(firewalld.services()?),
            };
            let file = Path::new("/etc/firewalld/services").join(format!("{name}.xml"));
            if known.contains(name) || catalog.iter().any(|item| item.about.paths().any(|path| path == file)) {
                continue;
            }
            let error = error!(FIREWALL, "firewalld has no service `{name}`");
            return Err(error.help(did_you_mean(name, known.iter(), UNKNOWN_SERVICE)));
        }
        Ok(())
    }

    /// How the host differs.
    fn compare(&self, host: &Host, catalog: &[Item]) -> Result<Option<Change>> {
        let zone = self.zone_name(host)?;
        self.check_conflicts(host, catalog, &zone)?;
        if !host.is_live() {
            if kept_zone(&host.root, &zone)?.is_none()
                && !PACKAGED.contains(&zone.as_str())
                && !OwnZone::is_in(host, catalog, &zone)?
            {
                return Err(unknown_zone(host, &zone)?);
            }
            let file = zone_file(host, &zone)?;
            let edits = self.edits(&file.settings(), &siblings(host, catalog, &zone)?);
            check_age(host, &edits)?;
            return Ok(change(&edits));
        }
        match self.live_edits(host, catalog, &zone)? {
            Some(edits) => {
                Self::check_added(host, catalog, &zone, &edits)?;
                Ok(change_of(edits.words(), edits.all()))
            }
            // an earlier resource starts firewalld
            None if catalog.iter().any(|item| starters().contains(&item.id)) => {
                let edits = self.edits(&Settings::default(), &[]);
                check_age(host, &edits)?;
                Ok(change(&edits))
            }
            None => Err(not_running()),
        }
    }

    /// Applies it.
    fn make(&self, host: &Host, catalog: &[Item]) -> Result<()> {
        let zone = self.zone_name(host)?;
        let siblings = siblings(host, catalog, &zone)?;
        edit(host, catalog, &zone, &|have| self.edits(have, &siblings))
    }
}

/// An error for additions that the installed firewalld, which is not running, is too old for.
fn check_age(host: &Host, edits: &[Edit]) -> Result<()> {
    let age = Age::of(&host.root)?;
    edits.iter().try_for_each(|edit| match edit {
        Edit::Add(element) => age.check_element(element),
        Edit::Remove(_) => Ok(()),
    })
}

/// The resources that start firewalld.
fn starters() -> [ResourceId; 2] {
    [ResourceId::new("package", "firewalld"), ResourceId::new("unit", "firewalld.service")]
}

/// Advice for an unknown name: the nearest one that firewalld has, and how to define a new one.
fn did_you_mean<'a>(name: &str, known: impl Iterator<Item = &'a String>, define: &str) -> String {
    nearest(name, known.map(String::as_str))
        .map_or_else(|| define.to_owned(), |near| format!("did you mean `{near}`? {define}"))
}

fn not_running() -> Error {
    error!(FIREWALL, "firewalld is not running").help(
        "start it (`systemctl enable --now firewalld`), or add the [[package]] `firewalld` and a [[unit]] \
         `firewalld.service` with `enable = true` to the role",
    )
}

/// All parts of a zone in a catalog.
fn siblings<'a>(host: &Host, catalog: &'a [Item], zone: &str) -> Result<Vec<&'a Firewall>> {
    of_zone(host, firewalls(catalog), zone, |one| &one.zone)
}

/// The ones of `all` whose zone has this name on the host.
fn of_zone<'a, T>(
    host: &Host,
    all: impl Iterator<Item = &'a T>,
    zone: &str,
    of: impl Fn(&'a T) -> &'a Option<String>,
) -> Result<Vec<&'a T>> {
    let named = all.map(|one| Ok((zone_name(of(one).as_deref(), host)?, one)));
    let named: Vec<(String, &T)> = named.collect::<Result<_>>()?;
    Ok(named.into_iter().filter(|(name, _)| name == zone).map(|(_, one)| one).collect())
}

fn firewalls(catalog: &[Item]) -> impl Iterator<Item = &Firewall> {
    catalog.iter().filter_map(Item::as_kind)
}

/// A part of a zone's file, so that no [[file]] can claim the whole. `owner` distinguishes the parts.
fn part_of_file(zone: Option<&str>, owner: &str) -> Option<Claim> {
    zone.map(|zone| Claim::part(&digest(owner), etc_file(zone)))
}

/// One setting of a zone.
fn in_zone(zone: &str, what: &str) -> Claim {
    Claim::thing(FirewallFields::NAME, format!("{zone} {what}"))
}

/// A short digest of a text.
fn digest(text: &str) -> String {
    hex::encode(Sha256::digest(text)).chars().take(6).collect()
}

impl Resource for Firewall {
    fn about(&self) -> About {
        let key = self.key();
        About {
            // only a part of the zone's file: two roles may open the same port
            claims: part_of_file(self.zone.as_deref(), &key).into_iter().collect(),
            after: starters().to_vec(),
            cuts_off: true,
            ..About::new(FirewallFields::NAME, key, Phase::Firewall)
        }
    }

    fn watched_inputs(&self, work: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        zone_inputs(self.zone.as_deref(), self.sensitive, work.host)
    }

    fn announce(&self, queries: &mut Queries) {
        queries.zones.insert(self.zone.clone().unwrap_or_default());
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        self.compare(work.host, work.catalog)
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        self.make(work.host, work.catalog)
    }

    fn owned(&self, work: &Work<'_>) -> Result<Vec<Claim>> {
        let zone = self.zone_name(work.host)?;
        let listed = self.listed.elements().into_iter().map(|element| in_zone(&zone, &element.to_string()));
        let bars = self.bars.iter().map(|element| in_zone(&zone, &format!("no {element}")));
        Ok(listed.chain(bars).chain([own::whole_zone(&zone)]).collect())
    }

    fn prior_state(&self, owned: &Claim, work: &Work<'_>) -> Result<PriorState> {
        let zone = self.zone_name(work.host)?;
        if *owned == own::whole_zone(&zone) {
            return own::prior_state(&zone, work.host);
        }
        let had = match work.host.is_live() {
            false => zone_file(work.host, &zone)?.settings(),
            // a firewalld that is not installed yet has its package's defaults
            true => work.host.zone(&zone)?.and_then(|zone| zone.permanent).unwrap_or_default(),
        };
        let is_it = |element: &Element, no: &str| *owned == in_zone(&zone, &format!("{no}{element}"));
        if let Some(element) = self.bars.iter().find(|element| is_it(element, "no ")) {
            let had = had.find(element);
            return Ok(had.map_or(PriorState::Same, |element| PriorState::Open { zone, element }));
        }
        let listed = self.listed.elements();
        let Some(element) = listed.iter().find(|element| is_it(element, "")) else { return Ok(PriorState::Same) };
        if had.find(element).is_some() {
            return Ok(PriorState::Same);
        }
        let other = elsewhere(&work.host.root, &zone, &[Edit::Add(element.clone())])?.pop();
        Ok(match other {
            Some((zone, element)) => PriorState::Open { zone, element },
            None => PriorState::Shut { zone, element: element.clone() },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Place;
    use crate::kind::testing::{RoleFiles, build_with, fails};

    fn firewall(toml: &str) -> Firewall {
        let built = build_with::<FirewallFields>(toml, &RoleFiles::default()).unwrap();
        built.last().unwrap().as_kind::<Firewall>().unwrap().clone()
    }

    fn item(toml: &str) -> Item {
        let resource = Box::new(firewall(toml));
        let place = Place { file: "role.toml".into(), text: toml.into(), span: 0..0 };
        Item::new(resource, "r".into(), place)
    }

    fn why(toml: &str) -> String {
        fails::<FirewallFields>(toml, &RoleFiles::default())
    }

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let host = Host::open(dir.path()).unwrap();
        (dir, host)
    }

    fn texts(settings: &Settings) -> Vec<String> {
        settings.elements().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_source_of_an_allowance_is_a_rich_rule_of_its_family() {
        let rules = firewall(
            "allow = [{ port = '2379-2380/tcp', from = ['192.168.1.101', '192.168.2.7/24', 'fd00::1/128'] },\n\
             { protocol = 'vrrp', from = '10.0.0.0/8' }, { service = 'http', from = [] }]",
        )
        .listed;
        let wanted = [
            "rule family=\"ipv4\" source address=\"10.0.0.0/8\" protocol value=\"vrrp\" accept",
            "rule family=\"ipv4\" source address=\"192.168.1.101\" port port=\"2379-2380\" protocol=\"tcp\" accept",
            "rule family=\"ipv4\" source address=\"192.168.2.0/24\" port port=\"2379-2380\" protocol=\"tcp\" accept",
            "rule family=\"ipv6\" source address=\"fd00::1\" port port=\"2379-2380\" protocol=\"tcp\" accept",
        ];
        assert_eq!(texts(&rules), wanted);
        let others =
            firewall("allow = [{ port = '1/tcp', from = ['02:00:00:00:00:ab', 'ipset:nodes', '10.1.2.3/255.0.0.0'] }]");
        let wanted = [
            "rule family=\"ipv4\" source address=\"10.0.0.0/8\" port port=\"1\" protocol=\"tcp\" accept",
            "rule source ipset=\"nodes\" port port=\"1\" protocol=\"tcp\" accept",
            "rule source mac=\"02:00:00:00:00:AB\" port port=\"1\" protocol=\"tcp\" accept",
        ];
        assert_eq!(texts(&others.listed), wanted);
    }

    #[test]
    fn what_is_no_address_port_or_name_is_refused_with_an_example() {
        assert!(
            why("allow = [{ port = '1/tcp', from = '192.168.1.102.2' }]")
                .contains("`192.168.1.102.2` is neither an address (192.168.1.101), a network (192.168.1.0/24)")
        );
        assert!(why("ports = ['443']").contains("`443` is not a port: write it like \"443/tcp\""));
        assert!(why("zone = 'a-very-long-zone-name'").contains("is not the name of a zone"));
        assert!(why("services = ['a b']").contains("is not the name of a service"));
        assert!(why("interfaces = ['eth0/1']").contains("is not the name of a network interface"));
        assert!(why("allow = [{ port = '1/tcp', service = 'a', from = '::1' }]").contains("each needs one of"));
        assert!(why("rich = ['rule accept']").contains("it has neither an address nor an element: `rule accept`"));
        assert!(why("allow = [{ port = '1/tcp' }]").contains("lacks `from`"));
    }

    #[test]
    fn several_of_one_zone_have_different_keys_that_can_be_read() {
        let first = firewall("zone = 'dmz'\nports = ['443/tcp', '80/tcp']").key();
        assert!(first.starts_with("dmz port 80/tcp +1 "), "{first}");
        assert_ne!(first, firewall("zone = 'dmz'\nports = ['80/tcp', '81/tcp']").key());
        assert!(firewall("").key().starts_with("default nothing "));
    }

    #[test]
    fn in_a_tree_without_firewalld_a_zone_fits_the_firewalld_of_the_tree_s_system() {
        let forwards = |release: &str, zone: &str| {
            let (_dir, host) = tree(&[("etc/os-release", release)]);
            zone_file(&host, zone).unwrap().settings().find(&Element::Forward).is_some()
        };
        for (release, wanted) in [
            ("ID=centos\nID_LIKE=\"rhel fedora\"\nVERSION_ID=\"7\"\n", false),
            ("ID=rocky\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=8.10\n", false),
            ("ID=rocky\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=9.3\n", true),
            ("ID=fedora\nVERSION_ID=41\n", true),
            ("ID=amzn\nID_LIKE=\"centos rhel fedora\"\nVERSION_ID=2\n", false),
            ("ID=amzn\nID_LIKE=fedora\nVERSION_ID=2023\n", true),
            ("ID=ubuntu\nID_LIKE=debian\nVERSION_ID=20.04\n", false),
            ("ID=ubuntu\nID_LIKE=debian\nVERSION_ID=22.04\n", true),
            ("ID=debian\nVERSION_ID=11\n", false),
            ("ID=debian\n", true),
            ("ID=opensuse-leap\nID_LIKE=\"suse opensuse\"\nVERSION_ID=15.5\n", false),
            ("ID=opensuse-leap\nID_LIKE=\"suse opensuse\"\nVERSION_ID=15.6\n", true),
            ("ID=arch\n", true),
        ] {
            assert_eq!(forwards(release, "public"), wanted, "{release}");
            assert_eq!(forwards(release, "trusted"), wanted, "{release}");
            assert!(!forwards(release, "own"), "{release}");
        }
    }

    #[test]
    fn in_a_tree_the_package_s_zone_is_edited_into_etc_once() {
        let packaged =
            "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<zone>\n  <service name=\"ssh\"/>\n  <forward/>\n</zone>\n";
        let (dir, host) = tree(&[
            ("usr/lib/firewalld/zones/home.xml", packaged),
            ("etc/firewalld/firewalld.conf", "# DefaultZone=public\nDefaultZone=home\n"),
        ]);
        let catalog =
            [item("ports = ['443/tcp']\nmasquerade = true\nallow = [{ service = 'http', from = '10.0.0.1' }]")];
        let ours = firewalls(&catalog).next().unwrap();
        let change = ours.compare(&host, &catalog).unwrap().unwrap();
        assert_eq!(
            change.summary,
            "+ port 443/tcp, + rule family=\"ipv4\" source address=\"10.0.0.1\" service name=\"http\" accept, + masquerade"
        );
        ours.make(&host, &catalog).unwrap();
        let written = std::fs::read_to_string(dir.path().join("etc/firewalld/zones/home.xml")).unwrap();
        assert_eq!(
            written,
            "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<zone>\n  <service name=\"ssh\"/>\n  <forward/>\n  \
             <port port=\"443\" protocol=\"tcp\"/>\n  <rule family=\"ipv4\">\n    <source address=\"10.0.0.1\"/>\n    \
             <service name=\"http\"/>\n    <accept/>\n  </rule>\n  <masquerade/>\n</zone>\n"
        );
        assert!(ours.compare(&host, &catalog).unwrap().is_none());
        assert_eq!(std::fs::read_to_string(dir.path().join("usr/lib/firewalld/zones/home.xml")).unwrap(), packaged);
    }

    #[test]
    fn an_exclusive_zone_keeps_what_any_of_the_host_s_lists_and_loses_the_rest() {
        let (dir, host) = tree(&[(
            "etc/firewalld/zones/public.xml",
            "<zone>\n  <service name=\"ssh\"/>\n  <service name=\"telnet\"/>\n  <port port=\"80-81\" protocol=\"tcp\"/>\n  \
             <interface name=\"eth0\"/>\n</zone>\n",
        )]);
        let catalog = [
            item("services = ['ssh']\nexclusive = true"),
            item("zone = 'public'\nports = ['80/tcp']"),
            item("zone = 'other'\nports = ['81/tcp']"),
        ];
        let ours = firewalls(&catalog).next().unwrap();
        assert_eq!(ours.compare(&host, &catalog).unwrap().unwrap().summary, "− service telnet, − port 81/tcp");
        ours.make(&host, &catalog).unwrap();
        assert_eq!(
            std::fs::read_to_string(dir.path().join("etc/firewalld/zones/public.xml")).unwrap(),
            "<zone>\n  <service name=\"ssh\"/>\n  <port port=\"80\" protocol=\"tcp\"/>\n  <interface name=\"eth0\"/>\n</zone>\n"
        );
        assert!(ours.compare(&host, &catalog).unwrap().is_none());
    }

    #[test]
    fn without_firewalld_in_a_tree_the_default_zone_keeps_ssh() {
        let (dir, host) = tree(&[]);
        let catalog = [item("ports = ['443/tcp']")];
        firewalls(&catalog).next().unwrap().make(&host, &catalog).unwrap();
        let written = std::fs::read_to_string(dir.path().join("etc/firewalld/zones/public.xml")).unwrap();
        assert!(written.contains("<service name=\"ssh\"/>") && written.contains("443"), "{written}");
        let catalog = [item("zone = 'internal'\nports = ['443/tcp']")];
        let error = firewalls(&catalog).next().unwrap().compare(&host, &catalog).unwrap_err();
        assert!(error.to_string().contains("the content of its zone internal is not known"), "{error}");
    }

    #[test]
    fn its_watched_inputs_are_the_runtime_settings_and_files_and_nothing_with_a_secret() {
        let dir = tempfile::tempdir().unwrap();
        let (host, store) = (Host::open("/".as_ref()).unwrap(), crate::store::Store::open(dir.path()).unwrap());
        let work = Work { host: &host, store: &store, catalog: &[] };
        let watched_inputs = |role: &RoleFiles| {
            let built = build_with::<FirewallFields>("zone = 'home'\nports = ['1/tcp']", role).unwrap();
            built[0].watched_inputs(&work).unwrap()
        };
        let paths =
            ["/etc/firewalld/zones/home.xml", "/usr/lib/firewalld/zones/home.xml", "/etc/firewalld/firewalld.conf"];
        let wanted = paths
            .map(|path| WatchedInput::Path(path.into()))
            .into_iter()
            .chain([WatchedInput::Zone("home".to_owned())]);
        assert_eq!(watched_inputs(&RoleFiles::default()), Some(wanted.collect()));
        assert_eq!(watched_inputs(&RoleFiles::default().secret()), None);
    }

    #[test]
    fn two_that_want_the_opposite_are_an_error() {
        let (_dir, host) = tree(&[]);
        let catalog = [
            item("masquerade = false"),
            item("masquerade = true"),
            item("zone = 'a'\ninterfaces = ['eth0']"),
            item("zone = 'b'\ninterfaces = ['eth0']"),
            item("zone = 'a'\nsources = ['10.0.0.0/16']"),
            item("zone = 'b'\nsources = ['10.0.9.9/255.255.0.0']"),
        ];
        let errors: Vec<String> = firewalls(&catalog)
            .filter_map(|one| one.compare(&host, &catalog).err())
            .map(|error| error.to_string())
            .collect();
        assert_eq!(
            errors,
            [
                "one [[firewall]] sets `masquerade` in the zone public, and another one excludes it",
                "the interface eth0 belongs to two zones: a and b",
                "the interface eth0 belongs to two zones: b and a",
                "the source 10.0.0.0/16 belongs to two zones: a and b",
                "the source 10.0.0.0/16 belongs to two zones: b and a",
            ]
        );
    }

    #[test]
    fn what_is_the_same_at_run_time_and_permanently_is_listed_once() {
        let port = |text: &str| Edit::Add(Element::Port(PortRange::try_from(text.to_owned()).unwrap()));
        let edits =
            Edits { runtime: vec![port("1/tcp"), port("2/tcp")], permanent: vec![port("2/tcp"), port("3/tcp")] };
        assert_eq!(edits.words(), ["+ port 2/tcp", "runtime: + port 1/tcp", "permanent: + port 3/tcp"]);
    }
}
