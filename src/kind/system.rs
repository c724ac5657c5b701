//! `[[system]]`: the name of the host, its time zone, its locale and the keyboard of its console.
//!
//! The services of systemd (hostnamed, timedated, localed) write the files and notify other programs. If there is none, kpull writes the
//! files itself.

use crate::host::process::{Command, run};
use crate::host::settings::Setting;
use crate::kind::prelude::*;

const ZONES: &str = "/usr/share/zoneinfo/";
/// Debian's programs read the name of the zone here too.
const ZONE_NAME: &str = "/etc/timezone";
const KERNEL_NAME: &str = "/proc/sys/kernel/hostname";

/// Fields of `[[system]]`. Each is a separate resource.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SystemFields {
    /// The host's static name. Default: unchanged.
    hostname: Option<String>,
    /// Its time zone, like `Europe/Berlin`. Default: unchanged.
    timezone: Option<String>,
    /// The language of its programs (`LANG`), like `en_US.UTF-8`. Default: unchanged.
    locale: Option<String>,
    /// The keyboard of its console, like `de-latin1`. Default: unchanged.
    keymap: Option<String>,
}

impl Fields for SystemFields {
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let given = [
            (Setting::Hostname, self.hostname),
            (Setting::Timezone, self.timezone),
            (Setting::Locale, self.locale),
            (Setting::Keymap, self.keymap),
        ];
        let mut resources: Vec<Box<dyn Resource>> = Vec::new();
        for (setting, value) in given {
            let Some(value) = value else { continue };
            build.refuse_if(!is_valid(setting, &value), &setting.to_string(), why_not(setting))?;
            resources.push(Box::new(System { setting, value: Some(value) }));
        }
        let why = "set at least one of `hostname`, `timezone`, `locale` and `keymap`";
        build.refuse_if(resources.is_empty(), "hostname", why)?;
        Ok(resources)
    }
}

fn is_valid(setting: Setting, value: &str) -> bool {
    let is_of = |text: &str, more: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    match setting {
        Setting::Hostname => {
            value.len() <= 64
                && value.split('.').all(|label| label.len() <= 63 && is_of(label, "-") && !label.ends_with('-'))
        }
        Setting::Timezone => value.split('/').all(|part| is_of(part, "_+-")),
        Setting::Locale => is_of(value, "_.@-"),
        Setting::Keymap => is_of(value, "_.-"),
    }
}

fn why_not(setting: Setting) -> &'static str {
    match setting {
        Setting::Hostname => {
            "a host's name has at most 64 letters, digits, `-` and `.`, and each of its parts begins and ends with a letter or digit"
        }
        Setting::Timezone => "write a zone like `Europe/Berlin`; `timedatectl list-timezones` shows them",
        Setting::Locale => "write a locale like `en_US.UTF-8`; `locale -a` shows those of a host",
        Setting::Keymap => "write a keymap like `de-latin1`; `localectl list-keymaps` shows them",
    }
}

/// One setting of the system; without a value, it is not set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    pub(super) setting: Setting,
    pub(super) value: Option<String>,
}

impl System {
    /// Where the setting is stored.
    fn path(&self, host: &Host) -> Result<&'static str> {
        self.setting.path(&host.root)
    }

    /// The name of the running host, if that is what this is about and it runs.
    fn running(&self, host: &Host) -> Result<Option<String>> {
        if self.setting != Setting::Hostname || !host.is_live() {
            return Ok(None);
        }
        Ok(Some(host.root.text(Path::new(KERNEL_NAME))?.trim().to_owned()))
    }

    /// The zone in `/etc/timezone`, if there is such a file and it must have the zone of the role.
    fn named(&self, host: &Host) -> Result<Option<String>> {
        let meta = host.root.meta(Path::new(ZONE_NAME))?.filter(|meta| meta.what == FileType::File);
        if self.setting != Setting::Timezone || self.value.is_none() || meta.is_none() {
            return Ok(None);
        }
        Ok(Some(host.root.text(Path::new(ZONE_NAME))?.trim().to_owned()))
    }

    /// Writes the setting's file.
    fn write(&self, host: &Host) -> Result<()> {
        let (root, path) = (&host.root, Path::new(self.path(host)?));
        match (self.setting, &self.value) {
            (Setting::Timezone, Some(zone)) => {
                root.make_link(path, Path::new(&format!("..{ZONES}{zone}")))?;
                let named = root.meta(Path::new(ZONE_NAME))?.filter(|meta| meta.what == FileType::File);
                if let Some(meta) = named {
                    let access = meta.access();
                    root.write(Path::new(ZONE_NAME), format!("{zone}\n").as_bytes(), access)?;
                }
            }
            (Setting::Timezone, None) => root.remove(path)?,
            (setting, value) => {
                let old = root.read(path)?;
                let access = old.as_ref().map_or(Access::of_mode(0o644), |(meta, _)| meta.access());
                let text = old.map(|(_, content)| content).unwrap_or_default();
                match setting.with(&text, value.as_deref()) {
                    // nothing but the setting was in it
                    empty if empty.is_empty() => root.remove(path)?,
                    text => root.write(path, &text, access)?,
                }
            }
        }
        host.file_changed(path);
        Ok(())
    }
}

impl Resource for System {
    fn about(&self) -> About {
        let claims = match self.setting {
            Setting::Hostname => vec![Claim::path("/etc/hostname")],
            Setting::Timezone => vec![Claim::path("/etc/localtime"), Claim::path(ZONE_NAME)],
            // which of them it is, depends on the system
            Setting::Locale => {
                ["/etc/locale.conf", "/etc/default/locale"].map(|path| Claim::part("LANG", path)).to_vec()
            }
            Setting::Keymap => vec![Claim::part("KEYMAP", "/etc/vconsole.conf")],
        };
        About { claims, ..About::new(SystemFields::NAME, self.setting.to_string(), Phase::Kernel) }
    }

    fn watched_inputs(&self, work: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        let file = WatchedInput::Path(self.path(work.host)?.into());
        let is_running = self.setting == Setting::Hostname && work.host.is_live();
        let running = is_running.then(|| WatchedInput::Text(KERNEL_NAME.into()));
        let named = (self.setting == Setting::Timezone).then(|| WatchedInput::Path(ZONE_NAME.into()));
        Ok(Some([file].into_iter().chain(running).chain(named).collect()))
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let old = self.setting.read(&work.host.root)?;
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
        let mut parts = Vec::new();
        parts.extend((old != self.value).then(|| format!("{} → {}", shown(&old), shown(&self.value))));
        let named = self.named(work.host)?;
        if old == self.value && named.is_some() && named != self.value {
            parts.push(format!("{ZONE_NAME}: {} → {}", shown(&named), shown(&self.value)));
        }
        let running = self.running(work.host)?;
        if running.is_some() && self.value.is_some() && running != self.value {
            parts.push(format!("running: {} → {}", shown(&running), shown(&self.value)));
        }
        Ok(Change::of(parts).map(|change| change.added_if(old.is_none())))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let host = work.host;
        if let (Setting::Timezone, Some(zone)) = (self.setting, &self.value)
            && host.root.meta(Path::new(&format!("{ZONES}{zone}")))?.is_none()
        {
            return Err(error!(FILE, "this host has no time zone {zone}")
                .help("check the name with `timedatectl list-timezones`, or install `tzdata` with a [[package]]"));
        }
        if let Some(value) = self.value.as_deref().filter(|_| host.is_live()) {
            host.change_setting(self.setting, value)?;
        }
        let named = self.named(host)?;
        if self.setting.read(&host.root)? != self.value || named.is_some() && named != self.value {
            self.write(host)?;
        }
        if let Some(name) = self.value.as_deref()
            && self.running(host)?.is_some_and(|running| running != name)
        {
            run(&Command::new(["hostname", name], Duration::from_secs(60)))?
                .or_failure(format!("can't set the name of the running host to {name}"))?;
        }
        Ok(())
    }

    fn owned(&self, _: &Work<'_>) -> Result<Vec<Claim>> {
        // it restores all of its files
        Ok(self.about().claims.into_iter().take(1).collect())
    }

    fn prior_state(&self, owned: &Claim, work: &Work<'_>) -> Result<PriorState> {
        let value = self.setting.read(&work.host.root)?;
        match (self.setting, &value) {
            // a file in place of the link, or nothing
            (Setting::Timezone, None) => PriorState::of_path(owned, work),
            (Setting::Hostname, None) => Ok(PriorState::Kept { why: "a host has a name".to_owned() }),
            _ => Ok(PriorState::System(Self { setting: self.setting, value })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::testing::{Tree, build, one, refusal};

    #[test]
    fn in_a_tree_each_setting_is_in_its_file_and_the_rest_of_the_file_stays() {
        let tree = Tree::new();
        tree.put("/etc/locale.conf", "# ours\nLANG=C\nLC_TIME=de_DE.UTF-8");
        tree.put("/usr/share/zoneinfo/Europe/Berlin", "");
        tree.put("/etc/timezone", "Etc/UTC\n");
        let fields = "hostname = 'web1'\ntimezone = 'Europe/Berlin'\nlocale = 'en_US.UTF-8'\nkeymap = 'de-latin1'";
        let changes: Vec<String> =
            build("system", fields).unwrap().iter().map(|one| tree.converge(&**one).summary).collect();
        assert_eq!(changes, ["none → web1", "none → Europe/Berlin", "C → en_US.UTF-8", "none → de-latin1"]);
        assert_eq!(tree.get("/etc/hostname"), "web1\n");
        assert_eq!(tree.get("/etc/locale.conf"), "# ours\nLC_TIME=de_DE.UTF-8\nLANG=en_US.UTF-8\n");
        assert_eq!(tree.get("/etc/vconsole.conf"), "KEYMAP=de-latin1\n");
        assert_eq!(tree.get("/etc/timezone"), "Europe/Berlin\n");
        let link = std::fs::read_link(tree.path("/etc/localtime")).unwrap();
        assert_eq!(link.to_str(), Some("../usr/share/zoneinfo/Europe/Berlin"));
        assert_eq!(tree.summary(&*one("system", "timezone = 'Etc/UTC'")).as_deref(), Some("Europe/Berlin → Etc/UTC"));
        // a run that was killed between the two, or somebody's edit
        tree.put("/etc/timezone", "Etc/UTC\n");
        let change = tree.converge(&*one("system", "timezone = 'Europe/Berlin'"));
        assert_eq!(change.summary, "/etc/timezone: Etc/UTC → Europe/Berlin");
        assert_eq!(tree.get("/etc/timezone"), "Europe/Berlin\n");
    }

    #[test]
    fn a_former_value_is_restored_and_one_that_was_not_set_is_removed() {
        let tree = Tree::new();
        tree.put("/etc/default/locale", "LANG=\"C.UTF-8\"\n");
        tree.put("/etc/vconsole.conf", "FONT=eurlatgr\n");
        for fields in ["locale = 'de_DE.UTF-8'", "keymap = 'fr'"] {
            let resource = one("system", fields);
            let claim = resource.about().claims.remove(0);
            let prior = resource.prior_state(&claim, &tree.work()).unwrap();
            tree.converge(&*resource);
            let former = prior.resource(tree.work().store).unwrap().unwrap();
            tree.converge(&*former);
        }
        assert_eq!(tree.get("/etc/default/locale"), "LANG=C.UTF-8\n");
        assert_eq!(tree.get("/etc/vconsole.conf"), "FONT=eurlatgr\n");
    }

    #[test]
    fn a_time_zone_that_the_host_lacks_is_an_error_and_changes_nothing() {
        let tree = Tree::new();
        let zone = one("system", "timezone = 'Europe/Atlantis'");
        let error = zone.apply(&tree.work(), &Change::default()).unwrap_err();
        assert_eq!(error.to_string(), "this host has no time zone Europe/Atlantis");
        assert!(!tree.path("/etc/localtime").exists());
    }

    #[test]
    fn invalid_values_are_refused_with_their_field() {
        for (fields, why) in [
            ("hostname = 'a b'", "`hostname`: a host's name has"),
            ("hostname = '-a'", "`hostname`: "),
            ("hostname = 'a-'", "`hostname`: "),
            ("hostname = 'a..b'", "`hostname`: "),
            ("timezone = '../../etc/passwd'", "`timezone`: write a zone like"),
            ("timezone = '/UTC'", "`timezone`: "),
            ("locale = \"C\\nX=1\"", "`locale`: write a locale"),
            ("keymap = 'a/b'", "`keymap`: write a keymap"),
            ("", "`hostname`: set at least one of"),
        ] {
            let reported = refusal("system", fields);
            assert!(reported.starts_with(why), "{fields}: {reported}");
        }
        assert!(build("system", "hostname = 'web-1.example.org'\ntimezone = 'Etc/GMT+5'").is_ok());
        assert_eq!(one("system", "hostname = 'a'").about().claims, [Claim::path("/etc/hostname")]);
    }
}
