//! `[[mount]]`: a file system that is mounted, now and at each boot: a mount unit of systemd, with an automount unit if asked for. A line
//! of `/etc/fstab` for the same directory is kept in step.

mod fstab;

use std::fmt::Write as _;

use self::fstab::FstabLine;
use crate::host::unit_files;
use crate::kind::prelude::*;
use crate::kind::unit::UnitFields;

/// Types of file systems that need the network.
const REMOTE: [&str; 8] = ["9p", "ceph", "cifs", "fuse.sshfs", "glusterfs", "nfs", "nfs4", "smb3"];

/// Fields of `[[mount]]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MountFields {
    /// The directory to mount it at. systemd creates it if it is missing.
    #[serde(rename = "where")]
    place: AbsolutePath,
    /// What to mount: a device, `UUID=…` or `LABEL=…`, `HOST:/PATH`, a directory (with the option `bind`), `tmpfs`.
    what: String,
    /// The type of the file system, like `ext4`, `nfs` or `tmpfs`. Default: detected.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Options of the mount, like `noatime`.
    #[serde(default)]
    options: Vec<String>,
    /// Whether systemd mounts it only when a program accesses the directory. Default: false.
    #[serde(default)]
    automount: bool,
    /// With `automount`: the time without use after which it is unmounted. Default: never.
    idle: Option<HumanDuration>,
}

impl Fields for MountFields {
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let is_line = !self.what.trim().is_empty() && !self.what.chars().any(char::is_control);
        build.refuse_if(!is_line, "what", "name what to mount, in one line")?;
        let is_bad = self.kind.as_deref().is_some_and(|kind| !is_word(kind));
        build.refuse_if(is_bad, "type", "a type is one word, like `ext4`")?;
        let is_bad = !self.options.iter().all(|option| is_word(option));
        build.refuse_if(is_bad, "options", "each option is one word, like `noatime`")?;
        build.refuse_if(self.idle.is_some() && !self.automount, "idle", "set `automount` too")?;
        let stem = unit_files::escaped(&self.place.to_string());
        let mut units = vec![(format!("{stem}.mount"), self.mount(), !self.automount)];
        units.extend(self.automount.then(|| (format!("{stem}.automount"), self.automount(), true)));
        let mut resources: Vec<Box<dyn Resource>> = vec![Box::new(FstabLine::of(self, build)?)];
        for (name, text, enable) in units {
            let unit = UnitFields::of_text(name, text, enable).map_err(|why| build.invalid("where", &why))?;
            resources.extend(unit.build(build)?);
        }
        Ok(resources)
    }
}

impl MountFields {
    /// The mount unit's file.
    fn mount(&self) -> String {
        let mut text =
            format!("[Mount]\nWhat={}\nWhere={}\n", plain(&device(&self.what)), plain(&self.place.to_string()));
        if let Some(kind) = &self.kind {
            let _ = writeln!(text, "Type={}", plain(kind));
        }
        if !self.options.is_empty() {
            let _ = writeln!(text, "Options={}", plain(&self.options.join(",")));
        }
        if !self.automount {
            text.push_str(&self.install());
        }
        text
    }

    /// The automount unit's file.
    fn automount(&self) -> String {
        let mut text = format!("[Automount]\nWhere={}\n", plain(&self.place.to_string()));
        if let Some(idle) = &self.idle {
            let _ = writeln!(text, "TimeoutIdleSec={}", idle.0.as_secs());
        }
        text + &self.install()
    }

    fn install(&self) -> String {
        let is_remote = self.kind.as_deref().is_some_and(|kind| REMOTE.contains(&kind))
            || self.options.iter().any(|option| option == "_netdev");
        format!("\n[Install]\nWantedBy={}-fs.target\n", if is_remote { "remote" } else { "local" })
    }
}

/// A value of a unit's file, in which `%` begins a specifier.
fn plain(value: &str) -> String {
    value.replace('%', "%%")
}

/// A device of `/dev` for a tag, as older systemd has no tags here.
fn device(what: &str) -> String {
    for (tag, dir) in
        [("UUID", "by-uuid"), ("LABEL", "by-label"), ("PARTUUID", "by-partuuid"), ("PARTLABEL", "by-partlabel")]
    {
        if let Some(value) = what.strip_prefix(tag).and_then(|rest| rest.strip_prefix('=')) {
            let value = value.trim_matches('"');
            let value = if tag.ends_with("UUID") { value.to_lowercase() } else { value.replace(' ', "\\x20") };
            return format!("/dev/disk/{dir}/{value}");
        }
    }
    what.to_owned()
}

#[cfg(test)]
mod tests {
    use crate::kind::testing::{Tree, build, refusal};

    fn made(fields: &str) -> (Tree, Vec<String>) {
        let tree = Tree::new();
        let made = build("mount", fields).unwrap();
        let ids = made.iter().map(|one| one.about().id().to_string()).collect();
        for resource in &made {
            if tree.summary(&**resource).is_some() {
                tree.converge(&**resource);
            }
        }
        (tree, ids)
    }

    #[test]
    fn a_mount_is_a_unit_that_is_named_after_its_place() {
        let fields = "where = '/srv/my-data'\nwhat = 'UUID=ABCD-12'\ntype = 'ext4'\noptions = ['noatime', 'x=50%']";
        let (tree, ids) = made(fields);
        let file = "/etc/systemd/system/srv-my\\x2ddata.mount";
        let unit = "unit:srv-my\\x2ddata.mount";
        assert_eq!(ids, ["mount:/srv/my-data", &format!("unit-file:{file}"), unit]);
        assert_eq!(
            tree.get(file),
            "[Mount]\nWhat=/dev/disk/by-uuid/abcd-12\nWhere=/srv/my-data\nType=ext4\nOptions=noatime,x=50%%\n\n\
             [Install]\nWantedBy=local-fs.target\n"
        );
        assert!(tree.path("/etc/systemd/system/local-fs.target.wants/srv-my\\x2ddata.mount").is_symlink());
    }

    #[test]
    fn an_automount_is_enabled_in_place_of_its_mount() {
        let (tree, _) = made("where = '/net'\nwhat = 'nas:/x'\ntype = 'nfs4'\nautomount = true\nidle = '10m'");
        assert_eq!(tree.get("/etc/systemd/system/net.mount"), "[Mount]\nWhat=nas:/x\nWhere=/net\nType=nfs4\n");
        assert_eq!(
            tree.get("/etc/systemd/system/net.automount"),
            "[Automount]\nWhere=/net\nTimeoutIdleSec=600\n\n[Install]\nWantedBy=remote-fs.target\n"
        );
        assert!(tree.path("/etc/systemd/system/remote-fs.target.wants/net.automount").is_symlink());
        assert!(!tree.path("/etc/systemd/system/remote-fs.target.wants/net.mount").is_symlink());
    }

    #[test]
    fn invalid_mounts_are_refused_with_their_field() {
        let mount = "where = '/a'\nwhat = 'tmpfs'\n";
        for (fields, why) in [
            ("where = '/a'\nwhat = \"x\\nWhere=/b\"\n".to_owned(), "`what`: "),
            ("where = '/a'\nwhat = ''\n".to_owned(), "`what`: "),
            (format!("{mount}type = 'a b'\n"), "`type`: "),
            (format!("{mount}options = ['a b']\n"), "`options`: "),
            (format!("{mount}idle = '1m'\n"), "`idle`: set `automount` too"),
        ] {
            assert!(refusal("mount", &fields).starts_with(why), "{fields}");
        }
    }
}
