//! `[[package]]`: packages of the distribution that are installed or removed. In a tree nothing is done: its packages
//! come with its base image.

mod orphan;

use serde::de::{Deserializer, Error as _, IntoDeserializer};

pub use self::orphan::{OrphanPackage, PackageHold, remove_together};
use crate::error::Context;
use crate::host::os::Image;
use crate::host::packages::{Installed, Manager, Requirement, check_changeable};
use crate::host::root::Fingerprint;
use crate::kind::Queries;
use crate::kind::prelude::*;
use crate::kind::repository::{KEYS, RepositoryFields};

/// What the claim on a package's hold is called; it is longer than that on the package, and so restored before.
const HOLD: &str = "package-hold";

/// The package sources at the last refresh of the package lists.
const SOURCES: &str = "package-sources.json";

/// Fields of `[[package]]`. Exactly one of `name` and `names` is set.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PackageFields {
    /// The package.
    name: Option<String>,
    /// Several packages, installed together; each is a separate resource.
    names: Option<Vec<String>>,
    /// Default: `present`.
    #[serde(default, deserialize_with = "state")]
    state: Presence,
    /// The exact version, or a minimum (`>=1.2`), for one package. Default: any version.
    version: Option<String>,
    /// Whether the package manager keeps it at its version (apt, dnf, zypper). Default: unchanged.
    hold: Option<bool>,
    /// With dnf of RHEL 8 and 9: the module and stream that contain it, like `nodejs:18`. Default: the host's choice.
    module: Option<String>,
    /// With apt: answers to its questions during installation, as question and `TYPE ANSWER`. kpull does not set them again later.
    #[serde(default)]
    debconf: BTreeMap<String, String>,
    /// `apt`, `dnf`, `yum`, `microdnf` or `zypper`. Default: the host's own.
    manager: Option<Manager>,
    /// Whether a package may start its services when it is installed (apt). Prefer a `[[unit]]`.
    #[serde(default)]
    start: bool,
}

/// The state; `latest` with the reason why it is none.
fn state<'de, D: Deserializer<'de>>(from: D) -> Result<Presence, D::Error> {
    let text = String::deserialize(from)?;
    if text == "latest" {
        return Err(D::Error::custom(
            "`latest` results in different versions on different days and hosts, and can't be rolled back: require a `version`, like \
             `\"1.2-3\"` or `\">=1.2\"`, and leave security updates to unattended-upgrades or dnf-automatic",
        ));
    }
    Presence::deserialize(text.into_deserializer())
}

impl Fields for PackageFields {
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let (field, names) = match (self.name, self.names) {
            (Some(name), None) => ("name", vec![name]),
            (None, Some(names)) => ("names", names),
            (None, None) => return Err(build.invalid("name", "set `name` or `names`")),
            (Some(_), Some(_)) => return Err(build.invalid("names", "set `name` or `names`, not both")),
        };
        if let Some(bad) = names.iter().find(|name| !is_name(name)) {
            return Err(build.invalid(field, &format!("`{bad}` is not the name of a package")));
        }
        let is_for_one = names.len() == 1 && self.state == Presence::Present;
        let why = "only a single package that is present can have a version";
        build.refuse_if(self.version.is_some() && !is_for_one, "version", why)?;
        let version = self.version.as_deref().map(Requirement::parse).transpose();
        let version = version.map_err(|why| build.invalid("version", &why))?;
        let is_absent = self.state == Presence::Absent;
        for (field, is_set) in
            [("hold", self.hold.is_some()), ("module", self.module.is_some()), ("debconf", !self.debconf.is_empty())]
        {
            build.refuse_if(is_set && is_absent, field, "only a package that is present can have this: remove it")?;
        }
        let why = "the answers are for one package: set `name`, and write a separate entry for each package";
        build.refuse_if(!self.debconf.is_empty() && names.len() != 1, "debconf", why)?;
        let why = "only dnf has modules: remove it, or set `manager = \"dnf\"`";
        build.refuse_if(self.module.is_some() && !matches!(self.manager, None | Some(Manager::Dnf)), "module", why)?;
        let module = self.module.as_deref().map(|module| module_file(module, build)).transpose()?;
        let answers = Answers {
            lines: answers(names.first().map_or("", String::as_str), &self.debconf, build)?,
            is_secret: build.is_secret(),
        };
        let (state, manager, start) = (self.state, self.manager, self.start);
        let set = Arc::new(Set { names, state, version, hold: self.hold, answers, manager, start });
        let packages = set.names.iter().map(|name| Box::new(Package { name: name.clone(), set: set.clone() }) as _);
        Ok(module.into_iter().map(|file| Box::new(file) as _).chain(packages).collect())
    }
}

/// The file with which dnf records that a stream of a module is enabled.
fn module_file(module: &str, build: &dyn Build) -> Result<File> {
    let is_name = |text: &str| is_plain(text) && text.starts_with(|c: char| c.is_ascii_alphanumeric());
    let (name, stream) =
        module.split_once(':').filter(|(name, stream)| is_name(name) && is_name(stream)).ok_or_else(|| {
            build.invalid("module", "write the name and the stream, like `nodejs:18`; `dnf module list` shows them")
        })?;
    let path = AbsolutePath::try_from(format!("/etc/dnf/modules.d/{name}.module"))
        .map_err(|why| build.invalid("module", &why))?;
    let content = format!("[{name}]\nname={name}\nstream={stream}\nprofiles=\nstate=enabled\n");
    Ok(File::new(PackageFields::NAME, path, content.into_bytes(), build.is_secret()))
}

/// The answers for debconf-set-selections(1), a line each.
fn answers(package: &str, given: &BTreeMap<String, String>, build: &dyn Build) -> Result<String> {
    const TYPES: [&str; 7] = ["string", "boolean", "select", "multiselect", "note", "text", "password"];
    let owner = package.split(':').next().unwrap_or(package);
    let mut lines = String::new();
    for (question, answer) in given {
        let is_typed = TYPES.contains(&answer.split(' ').next().unwrap_or_default());
        let is_bad =
            !is_word(question) || question.starts_with('#') || !is_typed || answer.chars().any(char::is_control);
        let why = "write each entry as a question, and a type with the answer in one line, like `\"postfix/main_mailer_type\" = \"select \
                   Local only\"`; `debconf-show PACKAGE` and `debconf-get-selections` show them";
        build.refuse_if(is_bad, "debconf", why)?;
        lines.push_str(&format!("{owner} {question} {answer}\n"));
    }
    Ok(lines)
}

/// Whether it is the name of a package, and not something else for a package manager.
fn is_name(name: &str) -> bool {
    let (stem, arch) = name.split_once(':').unwrap_or((name, "any"));
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '_' | '-');
    // apt reads `NAME-` as: remove NAME
    stem.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !stem.ends_with('-')
        && stem.chars().all(plain)
        && !arch.is_empty()
        && arch.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// The versions of what is installed, in one line.
fn versions(installed: &[Installed]) -> String {
    installed.iter().map(|one| one.version.as_str()).collect::<Vec<_>>().join(", ")
}

/// What one entry of a role says about its packages.
#[derive(Debug)]
struct Set {
    names: Vec<String>,
    state: Presence,
    version: Option<Requirement>,
    hold: Option<bool>,
    answers: Answers,
    manager: Option<Manager>,
    start: bool,
}

/// Answers to the questions of a package.
struct Answers {
    lines: String,
    is_secret: bool,
}

impl std::fmt::Debug for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Answers")
    }
}

impl Set {
    /// The change of one of the packages, with its hold.
    fn difference(&self, host: &Host, name: &str) -> Result<Option<Change>> {
        let change = self.package_difference(host, name)?;
        // a hold is ended for a change, and set again
        let hold = match self.hold {
            Some(wanted) if change.is_some() => wanted.then_some("hold"),
            Some(wanted) if is_held(host, self.manager, name)? != wanted => {
                Some(if wanted { "hold" } else { "release the hold" })
            }
            _ => None,
        };
        Ok(match (change, hold) {
            (Some(change), Some(hold)) => Some(Change { summary: format!("{}, {hold}", change.summary), ..change }),
            (None, Some(hold)) => Some(Change::new(hold)),
            (change, None) => change,
        })
    }

    /// The change of one of the packages, but for its hold.
    fn package_difference(&self, host: &Host, name: &str) -> Result<Option<Change>> {
        let manager = host
            .package_manager(self.manager)
            .or_else(|none| check_changeable(Image::of(&host.root)?, name).and(Err(none)))?;
        let mut installed = host.package(manager, name)?;
        if self.state == Presence::Present {
            installed.retain(|one| one.is_whole);
        }
        let versions = || versions(&installed);
        let change = match (self.state, &self.version) {
            (Presence::Absent, _) => (!installed.is_empty()).then(|| {
                let version = versions();
                Change::removal(match manager {
                    Manager::Apt => format!("remove {version}, not its configuration"),
                    _ => format!("remove {version}"),
                })
            }),
            (Presence::Present, None) => installed.is_empty().then(|| Change::addition("install")),
            (Presence::Present, Some(wanted)) if installed.is_empty() => {
                Some(Change::addition(format!("install {wanted}")))
            }
            (Presence::Present, Some(wanted)) => {
                let mut is_met = false;
                for one in &installed {
                    is_met |= wanted.is_met(one, manager)?;
                }
                (!is_met).then(|| Change::new(format!("version {} → {wanted}", versions())))
            }
        };
        if change.is_some() {
            check_changeable(Image::of(&host.root)?, name)?;
        }
        Ok(change)
    }

    /// Installs packages, or other versions of them.
    fn install(&self, work: &Work<'_>, manager: Manager, due: &[&str]) -> Result<()> {
        let host = work.host;
        if due.is_empty() {
            return Ok(());
        }
        for name in due {
            if self.hold.is_some() && is_held(host, self.manager, name)? {
                manager.hold(name, &[], false)?;
            }
        }
        let is_fresh = refresh(work, manager)?;
        manager.answer(&self.answers.lines, self.answers.is_secret)?;
        let packages: Vec<_> = due.iter().map(|name| (*name, self.version.as_ref())).collect();
        manager.install(&host.root, &packages, self.start, is_fresh)
    }
}

fn is_held(host: &Host, manager: Option<Manager>, name: &str) -> Result<bool> {
    let manager = host.package_manager(manager)?;
    manager.is_held(&host.root, name, &host.package(manager, name)?)
}

/// Holds a package or ends that, if it isn't so already.
fn set_hold(host: &Host, manager: Option<Manager>, name: &str, wanted: bool) -> Result<()> {
    if is_held(host, manager, name)? == wanted {
        return Ok(());
    }
    let manager = host.package_manager(manager)?;
    let done = manager.hold(name, &host.package(manager, name)?, wanted);
    host.forget_packages();
    done
}

/// One package.
#[derive(Debug)]
pub struct Package {
    name: String,
    set: Arc<Set>,
}

impl Package {
    /// The package manager that the role names.
    pub fn manager(&self) -> Option<Manager> {
        self.set.manager
    }

    /// Whether it must be installed.
    pub fn is_wanted(&self) -> bool {
        self.set.state == Presence::Present
    }
}

impl Resource for Package {
    fn about(&self) -> About {
        let hold = self.set.hold.map(|_| Claim::thing(HOLD, &self.name));
        About::new(PackageFields::NAME, &self.name, Phase::Packages).claiming(hold)
    }

    fn definition(&self) -> String {
        let Set { names: _, state, version, hold, answers, manager, start } = &*self.set;
        format!("{:?}", (state, version, hold, &answers.lines, manager, start))
    }

    fn watched_inputs(&self, work: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        let Some(host) = work.live() else { return Ok(Some(Vec::new())) };
        let manager = host.package_manager(self.set.manager)?;
        let hold_file = manager.hold_file().filter(|_| self.set.hold.is_some());
        let files = manager.database().iter().copied().chain(hold_file);
        Ok(Some(files.map(|path| WatchedInput::Path(path.into())).collect()))
    }

    fn announce(&self, queries: &mut Queries) {
        queries.packages.insert(self.name.clone());
    }

    fn along(&self, _: &Work<'_>) -> Vec<ResourceId> {
        self.set.names.iter().map(|name| ResourceId::new(PackageFields::NAME, name)).collect()
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        work.live().map_or(Ok(None), |host| self.set.difference(host, &self.name))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let (host, set) = (work.host, &self.set);
        // the first package of an entry installs the others too
        if !host.is_live() || set.difference(host, &self.name)?.is_none() {
            return Ok(());
        }
        let mut due = Vec::new();
        for name in &set.names {
            if set.package_difference(host, name)?.is_some() {
                due.push(name.as_str());
            }
        }
        let manager = host.package_manager(set.manager)?;
        let done = match set.state {
            Presence::Present => set.install(work, manager, &due),
            Presence::Absent => match manager.needed_by(&due)? {
                others if others.is_empty() => manager.remove(&due, &[]),
                others => Err(error!(PACKAGE, "can't remove {}", due.join(", "))
                    .because(format!("{} would be removed too", others.join(", ")))
                    .help("to remove them as well, list them in the [[package]] with `state = \"absent\"`")),
            },
        };
        // even a failed run may have changed something; packages install units and create accounts
        host.forget_packages();
        host.unit_files_changed();
        done?;
        for name in &set.names {
            if let Some(wanted) = set.hold {
                set_hold(host, set.manager, name, wanted)?;
            }
            if let Some(left) = set.difference(host, name)? {
                return Err(error!(PACKAGE, "the package manager succeeded, but {name} still differs: {}", left.summary).help(
                    "write the package's own name, not a name that it provides; a source of this host must have the version; to lower a version with yum or microdnf, run `downgrade` by hand",
                ));
            }
        }
        Ok(())
    }

    fn owned(&self, work: &Work<'_>) -> Result<Vec<Claim>> {
        Ok(if work.host.is_live() { self.about().claims } else { Vec::new() })
    }

    fn prior_state(&self, owned: &Claim, work: &Work<'_>) -> Result<PriorState> {
        let (host, manager) = (work.host, work.host.package_manager(self.set.manager)?);
        if *owned == Claim::thing(HOLD, &self.name) {
            let held = is_held(host, self.set.manager, &self.name)?;
            let (name, manager) = (self.name.clone(), self.set.manager);
            return Ok(PriorState::PackageHold(PackageHold { name, manager, held }));
        }
        if !host.package(manager, &self.name)?.is_empty() {
            return Ok(PriorState::Same);
        }
        let residue = manager.is_left(&host.root, &self.name)?;
        let beside = manager.all(&host.root)?.map(|names| work.store.save(names.join("\n").as_bytes())).transpose()?;
        Ok(PriorState::NoPackage { name: self.name.clone(), manager: self.set.manager, beside, residue })
    }
}

/// Refreshes the package lists if the catalog's package sources have changed since the last refresh. Returns whether it
/// did.
fn refresh(work: &Work<'_>, manager: Manager) -> Result<bool> {
    let mut sources: BTreeMap<&Path, Option<Fingerprint>> = BTreeMap::new();
    let described = work.catalog.iter().map(|item| &item.about).filter(|about| about.is_of_source());
    let claims = described.filter(|about| about.phase != Phase::Directories).flat_map(|about| &about.claims);
    for path in claims.filter_map(Claim::any_path) {
        sources.insert(path, work.host.root.seen(path)?);
    }
    let sources = serde_json::to_value(sources).context(code::PACKAGE, || "can't record the sources of packages")?;
    let known = work.store.read::<serde_json::Value>(SOURCES)?.unwrap_or_else(|| serde_json::json!({}));
    if sources == known {
        return Ok(false);
    }
    let repositories = work.catalog.iter().filter(|item| item.about.kind == RepositoryFields::NAME);
    let files = repositories.flat_map(|item| item.about.claims.iter().filter_map(Claim::whole_path));
    manager.trust(files.filter(|path| path.starts_with(KEYS)))?;
    manager.refresh()?;
    work.store.write(SOURCES, &sources)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::testing::{Tree, build, one, refusal};

    #[test]
    fn each_package_of_an_entry_is_a_resource_of_its_own() {
        let packages = build("package", "names = ['haproxy', 'libc6:i386']").unwrap();
        let keys: Vec<String> = packages.iter().map(|package| package.about().key).collect();
        assert_eq!(keys, ["haproxy", "libc6:i386"]);
        let mut wants = Queries::default();
        packages.iter().for_each(|package| package.announce(&mut wants));
        assert_eq!(wants.packages.len(), 2);
    }

    #[test]
    fn what_an_image_lacks_is_refused_with_what_to_do_and_what_it_has_is_fine() {
        let tree = Tree::new();
        let difference = |name: &str| {
            let package = one("package", &format!("name = '{name}'"));
            let package = package.as_kind::<Package>().unwrap();
            package.set.difference(&tree.host, &package.name)
        };
        let none = difference("socat").unwrap_err();
        assert!(none.to_string().starts_with("this host has no package manager that kpull supports: "), "{none}");
        tree.put("/run/ostree-booted", "");
        let refused = |name: &str| {
            let error = difference(name).unwrap_err();
            (error.to_string(), error.advice().unwrap_or_default().to_owned())
        };
        let (what, help) = refused("socat");
        assert_eq!(what, "can't change the package socat: this host's system is an image of ostree");
        assert!(help.starts_with("layer it (`rpm-ostree install socat`, then reboot)"), "{help}");
        tree.put("/var/lib/dpkg/status", "Package: a\nStatus: install ok installed\nArchitecture: all\nVersion: 1-1\n");
        tree.put("/usr/bin/apt-get", "");
        tree.host.forget_packages();
        assert_eq!(difference("a").unwrap().map(|change| change.summary), None);
        assert!(refused("b").1.contains("`rpm-ostree install b`"));
    }

    #[test]
    fn what_is_to_do_is_seen_in_dpkg_s_status() {
        let tree = Tree::new();
        tree.put("/var/lib/dpkg/status", "Package: a\nStatus: install ok installed\nArchitecture: all\nVersion: 1-1\n");
        tree.put("/usr/bin/apt-get", "");
        let difference = |fields: &str| {
            let package = one("package", fields);
            let package = package.as_kind::<Package>().unwrap();
            package.set.difference(&tree.host, &package.name).unwrap().map(|change| change.summary)
        };
        assert_eq!(difference("name = 'a'"), None);
        assert_eq!(difference("name = 'a'\nversion = '1-1'"), None);
        assert_eq!(difference("name = 'a'\nversion = '1-2'").as_deref(), Some("version 1-1 → 1-2"));
        assert_eq!(difference("name = 'a'\nstate = 'absent'").as_deref(), Some("remove 1-1, not its configuration"));
        assert_eq!(difference("name = 'b'").as_deref(), Some("install"));
        assert_eq!(difference("name = 'b'\nstate = 'absent'"), None);
    }

    #[test]
    fn a_tree_has_no_packages_to_change() {
        let tree = Tree::new();
        let package = one("package", "name = 'a'");
        assert_eq!(tree.summary(&*package), None);
        package.apply(&tree.work(), &Change::default()).unwrap();
    }

    #[test]
    fn a_name_that_a_package_manager_reads_as_something_else_is_refused() {
        for bad in ["-y", "a b", "a-", "a=1", "./a.deb", "a/stable", "a*", "^a", "a:", ""] {
            assert!(refusal("package", &format!("name = '{bad}'")).starts_with("`name`: "), "{bad}");
        }
        for good in ["g++", "libstdc++6", "python3.11", "NetworkManager"] {
            assert!(build("package", &format!("name = '{good}'")).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_package_is_held_and_a_module_is_the_file_of_dnf() {
        let tree = Tree::new();
        let status = "Package: a\nStatus: install ok installed\nArchitecture: all\nVersion: 1-1\n";
        tree.put("/var/lib/dpkg/status", status);
        tree.put("/usr/bin/apt-get", "");
        let difference = |fields: &str| {
            let package = one("package", fields);
            let package = package.as_kind::<Package>().unwrap();
            package.set.difference(&tree.host, &package.name).unwrap().map(|change| change.summary)
        };
        assert_eq!(difference("name = 'a'\nhold = true").as_deref(), Some("hold"));
        assert_eq!(difference("name = 'a'\nhold = false"), None);
        assert_eq!(difference("name = 'a'\nversion = '2'\nhold = true").as_deref(), Some("version 1-1 → 2, hold"));
        assert_eq!(difference("name = 'a'\nversion = '>=0.9'"), None);
        assert_eq!(difference("name = 'a'\nversion = '>=1.1'").as_deref(), Some("version 1-1 → at least 1.1"));
        assert_eq!(difference("name = 'b'\nversion = '>=1.1'").as_deref(), Some("install at least 1.1"));

        let made = build("package", "names = ['nodejs', 'npm']\nmodule = 'nodejs:18'").unwrap();
        assert_eq!(made.len(), 3);
        assert!(made[0].about().is_of_source(), "it has its turn before the packages");
        tree.converge(&*made[0]);
        let content = "[nodejs]\nname=nodejs\nstream=18\nprofiles=\nstate=enabled\n";
        assert_eq!(tree.get("/etc/dnf/modules.d/nodejs.module"), content);
    }

    #[test]
    fn the_answers_of_a_package_are_lines_of_type_and_answer_that_nothing_shows() {
        let made = one("package", "name = 'p:i386'\ndebconf = { 'p/b' = 'password a b', 'p/a' = 'boolean true' }");
        let package = made.as_kind::<Package>().unwrap();
        assert_eq!(package.set.answers.lines, "p p/a boolean true\np p/b password a b\n");
        assert!(!format!("{package:?}").contains("a b"));
        for bad in ["'p/b' = 'true'", "'p b' = 'string x'", "'' = 'string x'", "'#' = 'string x'"] {
            assert!(
                refusal("package", &format!("name = 'p'\ndebconf = {{ {bad} }}")).contains("`debconf-show PACKAGE`")
            );
        }
        assert!(
            refusal("package", "name = 'p'\ndebconf = { 'p/b' = \"string x\\np q/c\" }").starts_with("`debconf`: ")
        );
    }

    #[test]
    fn the_latest_version_and_what_an_absent_package_lacks_are_refused() {
        let why = refusal("package", "name = 'a'\nstate = 'latest'");
        assert!(why.contains("can't be rolled back: require a `version`"), "{why}");
        assert!(refusal("package", "name = 'a'\nstate = 'installed'").contains("`present`"));
        for (field, value) in [("hold", "true"), ("module", "'a:1'"), ("debconf", "{ 'a/b' = 'string c' }")] {
            let why = refusal("package", &format!("name = 'a'\nstate = 'absent'\n{field} = {value}"));
            assert!(why.starts_with(&format!("`{field}`: only a package that is present")), "{why}");
        }
        for module in ["nodejs", "nodejs:", ":18", "../x:1", "a:1\\n"] {
            assert!(refusal("package", &format!("name = 'a'\nmodule = \"{module}\"")).starts_with("`module`: write"));
        }
        assert!(refusal("package", "name = 'a'\nmodule = 'a:1'\nmanager = 'apt'").starts_with("`module`: only dnf"));
        assert!(refusal("package", "names = ['a', 'b']\ndebconf = { 'a/b' = 'string c' }").starts_with("`debconf`: "));
    }

    #[test]
    fn a_version_goes_with_one_package() {
        assert!(refusal("package", "names = ['a', 'b']\nversion = '1'").starts_with("`version`: "));
        assert!(refusal("package", "name = 'a'\nversion = '-1'").starts_with("`version`: "));
    }
}
