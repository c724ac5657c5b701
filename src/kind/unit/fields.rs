//! The fields of `[[unit]]`.

use super::check::Check;
use super::listen::{Listen, TextOrTable};
use super::quadlet::{self, Quadlet};
use super::{ActiveState, Unit, starters_of};
use crate::error::nearest;
use crate::host::unit_files::{self, ETC, Flaw, Own, QUADLETS};
use crate::host::zone::Traffic;
use crate::kind::prelude::*;

/// Fields of `[[unit]]`. At most one of `content`, `template` and `source` is set; none if a package provides the unit.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnitFields {
    /// The name of the unit with its type: `etcd.service`, `backup@daily.timer`; or of a Quadlet file, `web.container`.
    name: UnitName,
    /// The whole text of the unit's file.
    content: Option<String>,
    /// The name of a template in the role's `templates/`.
    template: Option<String>,
    /// The name of a file in the role's `files/`.
    source: Option<String>,
    /// Drop-ins: file name (`10-limits.conf`) and text.
    #[serde(default)]
    dropins: BTreeMap<String, String>,
    /// Whether it starts at boot. Default: unchanged.
    enable: Option<bool>,
    /// Whether it runs now. Default: `running` for an enabled unit, otherwise `any`.
    state: Option<ActiveState>,
    /// Whether to prevent it from ever being started. It is stopped too, unless `state` is `any`.
    #[serde(default)]
    mask: bool,
    /// Ids of resources: a change of one of them, or of the unit's own files, restarts it.
    #[serde(default)]
    restart_when: Vec<String>,
    /// Ids of resources: a change of one of them reloads it.
    #[serde(default)]
    reload_when: Vec<String>,
    /// The ports at which other hosts reach it. `kpull check` compares them with the firewall and with certificates.
    #[serde(default)]
    #[schemars(with = "Vec<TextOrTable>")]
    listens: Vec<Listen>,
    /// The name of the `[[slot]]` that it waits for before it is restarted or stopped. Default: none.
    slot: Option<String>,
    /// A program, with its arguments, that succeeds while the effect of the unit is in place. If it fails while the unit is active, kpull
    /// restarts the unit.
    check: Option<Vec<String>>,
    /// How long the check may fail after a start or restart, also one that kpull did not cause. Default: `30s`.
    check_within: Option<HumanDuration>,
    /// For a Quadlet file: the file with the credentials of the registry, as `podman login` writes it.
    authfile: Option<AbsolutePath>,
    /// For a Quadlet file: how long the download of its image may take; `10m` when left out.
    pull_within: Option<HumanDuration>,
    /// Whether it goes on running when no role has it any more; it stops when kpull has started it or brought its file, when
    /// this is left out.
    #[serde(default)]
    keep_running: bool,
}

/// The name of a unit, or of a Quadlet file: a valid one, of a type that has files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
pub struct UnitName(pub(in crate::kind) String);

from_text!(UnitName, |text| {
    if text.ends_with(".build") {
        let advice = "build the image elsewhere, push it to a registry, and name it with its digest";
        return Err(format!("`{text}` is not supported: {advice}"));
    }
    let (stem, kind) = text.rsplit_once('.').unwrap_or((&text, ""));
    let types: Vec<&str> = unit_files::TYPES.into_iter().chain(quadlet::TYPES).collect();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ":_.\\-@".contains(c);
    let advice = if text.contains('/') {
        "write it without a directory; kpull manages units and containers of the system, and none of a user".to_owned()
    } else if !types.contains(&kind) {
        match nearest(kind, types.iter().copied()).filter(|_| !kind.is_empty()) {
            Some(near) => format!("did you mean `{stem}.{near}`?"),
            None => format!("it must end in one of .{}", types.join(", .")),
        }
    } else if stem.is_empty() || stem.starts_with('@') || text.len() > 255 || !text.chars().all(is_plain) {
        "it has at most 255 letters, digits and `:-_.\\@`".to_owned()
    } else {
        return Ok(Self(text));
    };
    Err(format!("`{text}` is not the name of a unit: {advice}"))
});

impl Fields for UnitFields {
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let (field, text) = self.text(build)?.unzip();
        self.check(build, text.is_some())?;
        let quadlet = self.quadlet(build, field.zip(text.as_deref()))?;
        let (name, dir) = match &quadlet {
            Some(quadlet) => (quadlet.service.clone(), QUADLETS),
            None => (self.name.0.clone(), ETC),
        };
        let mut files: Vec<Box<dyn Resource>> = Vec::new();
        let mut watches = Vec::new();
        let texts = text.iter().map(|text| (format!("{dir}/{}", self.name.0), text));
        let dropins = self.dropins.iter().map(|(file, text)| (format!("{ETC}/{name}.d/{file}"), text));
        for (path, text) in texts.chain(dropins) {
            let path = AbsolutePath::try_from(path).map_err(|why| build.invalid("name", &why))?;
            let file = File::new("unit-file", path, text.as_bytes(), build.is_secret());
            // restarting a target or slice stops everything in it, and podman keeps networks, volumes and images as they are
            if ![".target", ".slice", ".network", ".volume", ".image"].iter().any(|end| self.name.0.ends_with(end)) {
                watches.push((format!("{}:{}", file.kind, file.path), Trigger::Restart));
            }
            files.push(Box::new(file));
        }
        let mut after: Vec<ResourceId> = files.iter().map(|file| file.about().id()).collect();
        after.extend(starters_of(&name).map(|starter| ResourceId::new(Self::NAME, starter)));
        let image = quadlet.iter().filter_map(Quadlet::image_file);
        watches.extend(image.map(|file| (format!("unit-file:{QUADLETS}/{file}"), Trigger::Restart)));
        watches.extend(self.restart_when.into_iter().map(|id| (id, Trigger::Restart)));
        watches.extend(self.reload_when.into_iter().map(|id| (id, Trigger::Reload)));
        // an expression can yield an id that is already listed
        let mut seen = BTreeSet::new();
        watches.retain(|(id, trigger)| seen.insert((id.clone(), *trigger == Trigger::Restart)));
        let within = self.check_within.map_or(Duration::from_secs(30), |duration| duration.0);
        let check = self.check.map(|argv| Check { argv, within, sensitive: build.is_secret() });
        let default = match (self.mask, self.enable) {
            _ if unit_files::is_template(&name) => ActiveState::Any,
            (true, _) => ActiveState::Stopped,
            (false, Some(true)) => ActiveState::Running,
            (false, _) if quadlet.as_ref().is_some_and(|one| unit_files::is_wanted(&one.text)) => ActiveState::Running,
            (false, _) => ActiveState::Any,
        };
        let (own, made_from) = match &quadlet {
            Some(quadlet) => (Own::default(), Some(quadlet.text.clone())),
            None => (Own { text, dropins: self.dropins }, None),
        };
        if let Some(quadlet) = quadlet {
            files.insert(0, Box::new(quadlet));
        }
        files.push(Box::new(Unit {
            name,
            own,
            made_from,
            enable: self.enable,
            state: self.state.unwrap_or(default),
            mask: self.mask.then_some(true),
            after,
            watches,
            listens: self.listens,
            slot: self.slot,
            check,
            keep_running: self.keep_running,
            is_restored: false,
        }));
        Ok(files)
    }
}

impl UnitFields {
    /// A unit with this text, which another kind creates; without `enable`, something else starts it. The error says what is wrong with the
    /// name.
    pub(in crate::kind) fn of_text(name: String, text: String, enable: bool) -> Result<Self, String> {
        let (name, enable) = (UnitName::try_from(name)?, enable.then_some(true));
        Ok(Self { name, content: Some(text), enable, ..Self::default() })
    }

    /// The text of the unit's file, if the role has it, and the field that names it.
    fn text(&self, build: &dyn Build) -> Result<Option<(&'static str, String)>> {
        let (field, text) = match (&self.content, &self.template, &self.source) {
            (None, None, None) => return Ok(None),
            (Some(text), None, None) => ("content", text.clone()),
            (None, Some(name), None) => ("template", build.template(name)?),
            (None, None, Some(name)) => {
                let bytes = build.file("source", name)?.to_vec();
                ("source", String::from_utf8(bytes).map_err(|_| build.invalid("source", "it is not UTF-8 text"))?)
            }
            _ => return Err(build.invalid("name", "set at most one of `content`, `template` and `source`")),
        };
        unit_files::check(&text).map_err(|flaw| flawed(build, field, &self.name.0, &flaw))?;
        Ok(Some((field, text)))
    }

    /// What a Quadlet file needs; `None` for a unit.
    fn quadlet(&self, build: &dyn Build, text: Option<(&str, &str)>) -> Result<Option<Quadlet>> {
        let name = &self.name.0;
        let Some(service) = quadlet::service(name) else {
            let why = "only a Quadlet file, like `web.container`, has an image to pull";
            build.refuse_if(self.authfile.is_some(), "authfile", why)?;
            return build.refuse_if(self.pull_within.is_some(), "pull_within", why).map(|()| None);
        };
        let why = "kpull does not support templates of Quadlet files: write a file for each container, with `for_each`";
        build.refuse_if(name.contains('@'), "name", why)?;
        let why = "its `[Install]` section specifies when it starts, and kpull starts a container that starts at boot: remove this";
        build.refuse_if(self.enable.is_some(), "enable", why)?;
        build.refuse_if(!self.dropins.is_empty(), "dropins", "the role contains the whole file: write this there")?;
        let Some((field, text)) = text else {
            let why = format!(
                "set `content`, `template` or `source`; if a package provides the file, name the unit: `{service}`"
            );
            return Err(build.invalid("name", &why));
        };
        let image = quadlet::image(name, text).map_err(|flaw| flawed(build, field, name, &flaw))?;
        let (name, text, authfile) = (name.clone(), text.to_owned(), self.authfile.clone());
        let within = self.pull_within.map_or(quadlet::PULL, |duration| duration.0);
        Ok(Some(Quadlet { name, service, text, image, authfile, within }))
    }

    /// Checks that the fields fit together.
    fn check(&self, build: &dyn Build, has_text: bool) -> Result<()> {
        for (file, text) in &self.dropins {
            let is_name = file.ends_with(".conf") && !file.starts_with('.') && !file.contains(['/', '\0']);
            let why = format!("the name of a drop-in is like `10-limits.conf`, and `{file}` is not");
            build.refuse_if(!is_name, "dropins", &why)?;
            unit_files::check(text).map_err(|flaw| flawed(build, "dropins", file, &flaw))?;
        }
        for listen in &self.listens {
            let is_tcp = matches!(&listen.at, Traffic::Ports(range) if range.protocol == "tcp");
            match (&listen.certificate, listen.through) {
                (Some(_), Some(_)) => {
                    let why = "set `certificate` or `through`, not both: a unit that forwards connections presents no certificate";
                    return Err(build.invalid("listens", why));
                }
                (None, Some(0)) => return Err(build.invalid("listens", "`through` is a port from 1 to 65535")),
                (None, Some(_)) if !is_tcp => return Err(build.invalid("listens", "`through` is for TCP only")),
                _ => {}
            }
        }
        let is_used = has_text || self.enable == Some(true) || self.state == Some(ActiveState::Running);
        build.refuse_if(self.mask && is_used, "mask", "a masked unit can't have a file, be enabled or run")?;
        if let Some(argv) = &self.check {
            let why = "write a program and its arguments, like [\"test\", \"-e\", \"/run/web.ready\"]";
            build.refuse_if(!is_argv(argv), "check", why)?;
            let never_runs = self.mask || self.state == Some(ActiveState::Stopped);
            build.refuse_if(never_runs, "check", "a unit that does not run has no effect to check")?;
        }
        let lacks_check = self.check.is_none() && self.check_within.is_some();
        build.refuse_if(lacks_check, "check_within", "set `check` too")?;
        let has_state = matches!(self.state, Some(ActiveState::Running | ActiveState::Stopped));
        let is_running_template = unit_files::is_template(&self.name.0) && (self.enable.is_some() || has_state);
        let why = "a template unit does not run: add a [[unit]] for each instance, like `name@instance.service`";
        build.refuse_if(is_running_template, "name", why)
    }
}

/// The error for a flaw in the text of the file `name`.
fn flawed(build: &dyn Build, field: &str, name: &str, flaw: &Flaw) -> Error {
    build.invalid(field, &format!("line {} of {name}: {}: `{}`", flaw.line, flaw.why, flaw.text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::testing::{RoleFiles, build_with, fails};

    fn unit(toml: &str) -> Unit {
        let built = build_with::<UnitFields>(toml, &RoleFiles::default()).unwrap();
        built.last().and_then(|last| last.as_kind::<Unit>()).unwrap().clone()
    }

    #[test]
    fn what_it_listens_at_is_a_text_or_a_table() {
        let listens = |toml: &str| unit(&format!("name = 'a.service'\nlistens = [{toml}]")).listens;
        let at = |text: &str| Traffic::try_from(text.to_owned()).unwrap();
        let plain = |text| Listen { at: at(text), certificate: None, through: None };
        assert_eq!(
            listens("'2379/tcp', '30000-32766/udp', 'VRRP'"),
            [plain("2379/tcp"), plain("30000-32766/udp"), plain("vrrp")]
        );
        let shown = Listen { certificate: Some("c".to_owned()), ..plain("6443/tcp") };
        let passed = Listen { through: Some(6443), ..plain("443/tcp") };
        let tables = "{ port = '6443/tcp', certificate = 'c' }, { port = '443/tcp', through = 6443 }";
        assert_eq!(listens(tables), [shown, passed]);
        assert!(plain("1-5/tcp").is_at(3) && !plain("1-5/tcp").is_at(6) && !plain("1-5/udp").is_at(3));
    }

    #[test]
    fn an_impossible_port_to_listen_on_is_refused() {
        for (listens, why) in [
            ("'443'", "`443` is not a port"),
            ("'70000/tcp'", "`70000/tcp` is not a port"),
            ("443", "expected a text like \"2379/tcp\", or a table with `port`"),
            ("{ certificate = 'c' }", "lacks `port`"),
            ("{ port = '1/tcp', thruogh = 2 }", "unknown key `thruogh`"),
            ("{ port = '1/tcp', certificate = 'c', through = 2 }", "not both"),
            ("{ port = '1/udp', through = 2 }", "TCP only"),
            ("{ port = '1/tcp', through = 0 }", "from 1 to 65535"),
        ] {
            let error =
                fails::<UnitFields>(&format!("name = 'a.service'\nlistens = [{listens}]"), &RoleFiles::default());
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn its_file_and_drop_ins_are_resources_that_it_is_restarted_for() {
        let toml = "name = 'a.service'\ncontent = '[Service]'\ndropins = { '10-x.conf' = '[Unit]' }\n\
                    restart_when = ['file:/etc/a']\nreload_when = ['file:/etc/b']";
        let built = build_with::<UnitFields>(toml, &RoleFiles::default()).unwrap();
        let ids: Vec<ResourceId> = built.iter().map(|made| made.about().id()).collect();
        let own = ["unit-file:/etc/systemd/system/a.service", "unit-file:/etc/systemd/system/a.service.d/10-x.conf"];
        assert_eq!(ids, [own[0], own[1], "unit:a.service"]);
        let watched = [
            (own[0].to_owned(), Trigger::Restart),
            (own[1].to_owned(), Trigger::Restart),
            ("file:/etc/a".to_owned(), Trigger::Restart),
            ("file:/etc/b".to_owned(), Trigger::Reload),
        ];
        assert_eq!(unit(toml).about().watches, watched);
    }

    #[test]
    fn an_enabled_unit_runs_and_another_may_unless_it_is_masked() {
        assert_eq!(unit("name = 'a.service'\nenable = true").state, ActiveState::Running);
        assert_eq!(unit("name = 'a.timer'\nenable = false").state, ActiveState::Any);
        assert_eq!(unit("name = 'a.service'\nmask = true").state, ActiveState::Stopped);
        assert_eq!(unit("name = 'a.service'\nenable = true\nstate = 'stopped'").state, ActiveState::Stopped);
    }

    #[test]
    fn an_invalid_unit_name_is_refused_with_a_suggestion() {
        let why = |name: &str| fails::<UnitFields>(&format!("name = '{name}'"), &RoleFiles::default());
        assert!(why("a.servce").contains("did you mean `a.service`?"));
        assert!(why("a").contains("it must end in one of .service, .socket"));
        for bad in ["../a.service", ".service", "a b.service", "@x.service"] {
            assert!(why(bad).contains("is not the name of a unit"), "{bad}");
        }
        for good in ["a.service", "a@b.service", "dev-disk-by\\x2dlabel.mount", "user@.service"] {
            assert!(UnitName::try_from(good.to_owned()).is_ok(), "{good}");
        }
    }

    #[test]
    fn an_invalid_unit_file_is_refused_with_its_line() {
        let role = RoleFiles::default().with("a.service", "[Service]\nExecStart=/bin/a 'b\n");
        assert_eq!(
            fails::<UnitFields>("name = 'a.service'\ntemplate = 'a.service'", &role),
            "`template`: line 2 of a.service: a quote is opened and never closed: `ExecStart=/bin/a 'b`"
        );
        assert_eq!(
            fails::<UnitFields>("name = 'a.service'\ndropins = { '1.conf' = 'Nice=5' }", &role),
            "`dropins`: line 1 of 1.conf: it is before any `[Section]`: `Nice=5`"
        );
    }

    #[test]
    fn fields_that_do_not_go_together_are_refused() {
        let why = |toml: &str| fails::<UnitFields>(toml, &RoleFiles::default());
        assert!(why("name = 'a.service'\nmask = true\nenable = true").contains("a masked unit"));
        assert!(why("name = 'a.service'\ncontent = '[Unit]'\nsource = 'x'").contains("at most one"));
        assert!(why("name = 'a@.service'\nenable = true").contains("for each instance"));
        assert!(why("name = 'a.service'\ncheck = []").starts_with("`check`: write a program"));
        assert!(why("name = 'a.service'\nmask = true\ncheck = ['true']").contains("a unit that does not run"));
        assert!(why("name = 'a.service'\ncheck_within = '5s'").starts_with("`check_within`: "));
        assert!(
            why("name = 'a.service'\ndropins = { '../x.conf' = '[Unit]' }").contains("the name of a drop-in is like")
        );
    }
}
