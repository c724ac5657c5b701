//! `[[selinux]]`: a boolean of SELinux's policy, or the type of ports or files.

use serde_json::json;

use crate::host::port_range::PortRange;
use crate::host::selinux::{self, BOOLEANS, RESTORE, Setting};
use crate::kind::command::CommandFields;
use crate::kind::prelude::*;

/// Fields of `[[selinux]]`: `boolean` with `on`, or `port` or `fcontext` with `type`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SelinuxFields {
    /// A boolean of the policy, like `httpd_can_network_connect`.
    boolean: Option<String>,
    /// Whether the boolean is on, now and after the next boot.
    on: Option<bool>,
    /// Whether a policy without this boolean is fine.
    #[serde(default)]
    ignore_missing: bool,
    /// A port or range with its protocol: `8443/tcp`, `8000-8010/udp`.
    port: Option<String>,
    /// A regular expression for complete paths: `/srv/www(/.*)?`. Existing files get their new contexts too.
    fcontext: Option<String>,
    /// The type of the port or of the files, like `http_port_t`.
    #[serde(rename = "type")]
    kind: Option<String>,
}

impl Fields for SelinuxFields {
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let is_type = |kind: &String| is_name(kind) || kind == "<<none>>";
        build.refuse_if(!self.kind.as_ref().is_none_or(is_type), "type", "a type is one word, like `http_port_t`")?;
        let without = |field: &str, is_set: bool, with: &str| {
            build.refuse_if(is_set, field, &format!("it does not apply to a {with}: remove it"))
        };
        let (setting, value) = match (self.boolean, self.port, self.fcontext) {
            (Some(name), None, None) => {
                without("type", self.kind.is_some(), "boolean")?;
                build.refuse_if(!is_name(&name), "boolean", "a boolean's name consists of letters, digits and `_`")?;
                let Some(on) = self.on else { return Err(build.invalid("boolean", "set `on` to true or false")) };
                (Setting::Boolean(name), if on { "on" } else { "off" }.to_owned())
            }
            (None, Some(port), None) => {
                without("on", self.on.is_some(), "port")?;
                let Ok(ports) = PortRange::try_from(port) else {
                    return Err(build.invalid("port", "write it like `8443/tcp` or `8000-8010/udp`"));
                };
                let Some(kind) = self.kind else { return Err(build.invalid("port", "set `type` too")) };
                (Setting::Ports(ports), kind)
            }
            (None, None, Some(expression)) => {
                without("on", self.on.is_some(), "file")?;
                let is_path = expression.starts_with('/') && is_word(&expression);
                let why = "an expression for complete paths begins with `/` and contains no white space (use `\\s`)";
                build.refuse_if(!is_path, "fcontext", why)?;
                let Some(kind) = self.kind else { return Err(build.invalid("fcontext", "set `type` too")) };
                (Setting::Files(expression), kind)
            }
            _ => return Err(build.invalid("boolean", "set one of `boolean`, `port` and `fcontext`")),
        };
        let mut resources: Vec<Box<dyn Resource>> = vec![];
        let is_boolean = matches!(setting, Setting::Boolean(_));
        without("ignore_missing", self.ignore_missing && !is_boolean, "port or file")?;
        let resource = Selinux { setting, value: Some(value), ignore_missing: self.ignore_missing, is_former: false };
        let command = resource.restoration().map(|command| command.build(build)).transpose()?;
        resources.push(Box::new(resource));
        resources.extend(command.into_iter().flatten());
        Ok(resources)
    }
}

/// Whether a text is a name of the policy's.
fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'))
}

/// One setting.
#[derive(Debug)]
pub struct Selinux {
    pub(super) setting: Setting,
    /// Without one, the policy's applies.
    pub(super) value: Option<String>,
    /// Whether a policy without the boolean is fine.
    pub(super) ignore_missing: bool,
    /// Whether it restores what the host had set before.
    pub(super) is_former: bool,
}

impl Selinux {
    /// Whether SELinux is on: only then it has settings.
    fn is_on(work: &Work<'_>) -> bool {
        work.host.is_live() && work.host.root.labels.is_on()
    }

    /// Whether there is nothing to set: SELinux is off, or its policy may lack the boolean and does.
    fn is_skipped(&self, work: &Work<'_>) -> Result<bool> {
        Ok(!Self::is_on(work) || self.ignore_missing && self.setting.is_missing(&work.host.root)?)
    }

    /// What the host has now, to be restored later.
    fn former(&self, work: &Work<'_>) -> Result<PriorState> {
        if self.is_skipped(work)? {
            return Ok(PriorState::Same);
        }
        let current = self.setting.current(&work.host.root)?;
        // a boolean is not taken back to the policy's value, which only the policy's sources show
        let value = if matches!(self.setting, Setting::Boolean(_)) { current.value } else { current.own };
        Ok(PriorState::Selinux { setting: self.setting.clone(), value })
    }

    /// The path whose files have to get their former contexts with the former setting.
    fn former_files(&self) -> Option<PathBuf> {
        let Setting::Files(expression) = &self.setting else { return None };
        selinux::beginning(expression).filter(|_| self.is_former)
    }

    /// The command that gives files that exist their new contexts, once the setting has changed. It stays pending if a run is killed.
    fn restoration(&self) -> Option<CommandFields> {
        let Setting::Files(expression) = &self.setting else { return None };
        let path = selinux::beginning(expression)?;
        let command = json!({
            "name": format!("restorecon for {expression}"),
            "run": selinux::restoration(&path),
            "on_change_of": [self.about().id()],
            "timeout": format!("{}s", RESTORE.as_secs()),
        });
        serde_json::from_value(command).ok()
    }
}

impl Resource for Selinux {
    fn about(&self) -> About {
        About::new(SelinuxFields::NAME, self.setting.to_string(), Phase::Kernel).recorded()
    }

    fn watched_inputs(&self, work: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        if !Self::is_on(work) {
            return Ok(Some(Vec::new()));
        }
        let mut inputs: Vec<_> = self.setting.files(&work.host.root)?.into_iter().map(WatchedInput::Path).collect();
        if let Setting::Boolean(name) = &self.setting {
            inputs.push(WatchedInput::Text(format!("{BOOLEANS}/{name}").into()));
        }
        Ok(Some(inputs))
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        if self.is_skipped(work)? {
            return Ok(None);
        }
        let current = self.setting.current(&work.host.root)?;
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "the policy's".to_owned());
        let now =
            if self.is_former && !matches!(self.setting, Setting::Boolean(_)) { &current.own } else { &current.value };
        let mut parts = Vec::new();
        if *now != self.value {
            parts.push(format!("{} → {}", shown(now), shown(&self.value)));
        } else if current.own.is_some() && current.own != self.value {
            parts.push(format!("at the next boot: {} → {}", shown(&current.own), shown(&self.value)));
        } else if let Some(path) = self.former_files()
            && selinux::is_unrestored(&path)?
        {
            // a run was killed in between
            parts.push(format!("restorecon for {}", path.display()));
        }
        Ok(Change::of(parts))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        if self.is_skipped(work)? {
            return Ok(());
        }
        let set = self.setting.set(&work.host.root, self.value.as_deref());
        // files that this run still makes get the new ones
        work.host.root.labels.forget();
        set?;
        self.former_files().map_or(Ok(()), |path| selinux::restore(&path))
    }

    fn overruled(&self, work: &Work<'_>) -> Result<Option<Error>> {
        let is_off = work.host.is_live() && !Self::is_on(work);
        Ok(is_off.then(|| {
            error!(KERNEL, "SELinux is off on this host, so the setting has no effect")
                .help("exclude the resource on such hosts: `when = \"facts.selinux != 'disabled'\"`")
        }))
    }

    fn prior_state(&self, _: &Claim, work: &Work<'_>) -> Result<PriorState> {
        self.former(work)
    }

    /// What has come since, with a policy or because SELinux was turned on, is recorded as it is now.
    fn refine(&self, prior: &mut PriorState, work: &Work<'_>) -> Result<bool> {
        if *prior == PriorState::Same {
            *prior = self.former(work)?;
            return Ok(*prior != PriorState::Same);
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Host;
    use crate::kind::testing::{Tree, build, one, refusal};
    use crate::store::Store;

    #[test]
    fn each_setting_is_a_resource_and_files_have_a_command_too() {
        let ids = |fields: &str| -> Vec<String> {
            build("selinux", fields).unwrap().iter().map(|one| one.about().id().to_string()).collect()
        };
        assert_eq!(ids("boolean = 'httpd_can_network_connect'\non = true"), ["selinux:httpd_can_network_connect"]);
        assert_eq!(ids("port = '8000-8010/tcp'\ntype = 'http_port_t'"), ["selinux:8000-8010/tcp"]);
        let files = "fcontext = '/srv/www(/.*)?'\ntype = 'httpd_sys_content_t'";
        assert_eq!(ids(files), ["selinux:/srv/www(/.*)?", "command:restorecon for /srv/www(/.*)?"]);
        assert_eq!(ids("fcontext = '/.*'\ntype = 'a_t'"), ["selinux:/.*"], "not all files of a host");
        let command = build("selinux", files).unwrap().remove(1);
        assert!(command.about().watches[0].0 == "selinux:/srv/www(/.*)?" && command.definition().contains("\"-R\""));
    }

    #[test]
    fn in_a_tree_there_is_nothing_to_do() {
        let tree = Tree::new();
        let resource = one("selinux", "boolean = 'x'\non = true");
        assert_eq!(tree.summary(&*resource), None);
        resource.apply(&tree.work(), &Change::default()).unwrap();
        assert!(resource.overruled(&tree.work()).unwrap().is_none());
    }

    #[test]
    fn where_selinux_is_off_nothing_is_done_and_that_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let (host, store) = (Host::open("/".as_ref()).unwrap(), Store::open(dir.path()).unwrap());
        let work = Work { host: &host, store: &store, catalog: &[] };
        assert!(!host.root.labels.is_on(), "this test needs a machine without SELinux");
        let resource = one("selinux", "port = '1/tcp'\ntype = 'a_t'");
        assert!(resource.observe(&work).unwrap().is_none());
        resource.apply(&work, &Change::default()).unwrap();
        let reported = resource.overruled(&work).unwrap().unwrap();
        assert_eq!(reported.to_string(), "SELinux is off on this host, so the setting has no effect");
        let prior = resource.prior_state(&resource.about().claims[0], &work).unwrap();
        assert_eq!(prior, PriorState::Same);
    }

    #[test]
    fn invalid_settings_are_refused_with_their_field() {
        for (fields, why) in [
            ("", "`boolean`: set one of"),
            ("boolean = 'a'\non = true\nport = '1/tcp'", "`boolean`: set one of"),
            ("boolean = 'a'", "`boolean`: set `on`"),
            ("boolean = '-a'\non = true", "`boolean`: a boolean's name"),
            ("boolean = 'a'\non = true\ntype = 'a_t'", "`type`: it does not apply to a boolean"),
            ("port = '8443'\ntype = 'a_t'", "`port`: write it like"),
            ("port = '0/tcp'\ntype = 'a_t'", "`port`: write it like"),
            ("port = '1/icmp'\ntype = 'a_t'", "`port`: write it like"),
            ("port = '1/tcp'", "`port`: set `type` too"),
            ("port = '1/tcp'\ntype = 'a t'", "`type`: a type is one word"),
            ("port = '1/tcp'\ntype = 'a_t'\non = true", "`on`: it does not apply to a port"),
            ("fcontext = 'srv'\ntype = 'a_t'", "`fcontext`: an expression"),
            ("fcontext = '/a b'\ntype = 'a_t'", "`fcontext`: an expression"),
            ("fcontext = '/a'", "`fcontext`: set `type` too"),
            (
                "fcontext = '/a'\ntype = 'a_t'\nignore_missing = true",
                "`ignore_missing`: it does not apply to a port or file",
            ),
        ] {
            let reported = refusal("selinux", fields);
            assert!(reported.starts_with(why), "{fields}: {reported}");
        }
    }
}
