//! `[[filesystem]]`: a file system on a device that is empty. What is on a device is never overwritten or removed.

use crate::host::process::{Command, run, run_if_there};
use crate::kind::prelude::*;
use crate::text::display_as_serialized;

/// How long blkid may take: a disk may have to start.
const PROBE: Duration = Duration::from_secs(60);

/// How long a file system may take to make: a large disk may first discard all that it has. A run has half an hour (kpull.service).
const MAKE: Duration = Duration::from_secs(1500);

/// The device on which mkfs has begun and not finished: what that leaves if power fails is made again.
const BEGUN: &str = "filesystem-begun.json";

/// Where an XFS has a byte that mkfs clears in the end.
const XFS_IN_PROGRESS: usize = 126;

/// Fields of `[[filesystem]]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilesystemFields {
    /// The device, by a persistent name: `/dev/disk/by-id/…`. It must be empty, or already have this file system.
    device: AbsolutePath,
    /// The type of the file system.
    #[serde(rename = "type")]
    kind: FsType,
    /// Its label. An existing file system may have any label if this is omitted. Default: none.
    label: Option<String>,
    /// Its UUID, in lower case. An existing file system may have any UUID if this is omitted. Default: random.
    uuid: Option<String>,
    /// Further arguments of the program that creates it. They have no effect on an existing file system.
    #[serde(default)]
    options: Vec<String>,
}

/// Types of file systems that can be made, as blkid calls them; the program for each is called `mkfs.NAME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum FsType {
    Ext4,
    Xfs,
    Vfat,
}

display_as_serialized!(FsType);

impl FsType {
    /// The package with the program that makes it.
    fn package(self) -> &'static str {
        match self {
            Self::Ext4 => "e2fsprogs",
            Self::Xfs => "xfsprogs",
            Self::Vfat => "dosfstools",
        }
    }

    /// How many characters a label has at most.
    fn longest_label(self) -> usize {
        match self {
            Self::Ext4 => 16,
            Self::Xfs => 12,
            Self::Vfat => 11,
        }
    }
}

impl Fields for FilesystemFields {
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let why = "a device is below `/dev`: `ls -l /dev/disk/by-id` shows persistent names";
        build.refuse_if(!self.device.starts_with("/dev"), "device", why)?;
        let (most, is_vfat) = (self.kind.longest_label(), self.kind == FsType::Vfat);
        let is_label = |label: &String| is_plain(label) && label.len() <= most;
        let why = format!("a label of {} is at most {most} letters, digits, `.`, `_` and `-`", self.kind);
        build.refuse_if(!self.label.as_ref().is_none_or(is_label), "label", &why)?;
        let is_small = |label: &String| label.contains(|c: char| c.is_ascii_lowercase());
        let why = "a label of vfat is in capitals";
        build.refuse_if(is_vfat && self.label.as_ref().is_some_and(is_small), "label", why)?;
        build.refuse_if(is_vfat && self.uuid.is_some(), "uuid", "vfat has no UUID: set `label`")?;
        let why = "write it as `uuidgen` does, in lower case";
        build.refuse_if(!self.uuid.as_deref().is_none_or(is_uuid), "uuid", why)?;
        let is_bad = |option: &String| option.is_empty() || option.contains(|c: char| c.is_control() || c == '/');
        let why = "each entry is one argument, like `-m` or `0`, and can't name another device or file";
        build.refuse_if(self.options.iter().any(is_bad), "options", why)?;
        Ok(vec![Box::new(Filesystem { fields: self })])
    }
}

fn is_uuid(text: &str) -> bool {
    let is_hex = |part: &str| part.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
    text.split('-').map(str::len).eq([8, 4, 4, 4, 12]) && text.split('-').all(is_hex)
}

/// The resource.
#[derive(Debug)]
pub struct Filesystem {
    fields: FilesystemFields,
}

/// What blkid finds on a device: `TYPE`, `LABEL`, `UUID` and more.
type Found = BTreeMap<String, String>;

/// What has a signature on a device; `None` if nothing has.
fn probe(device: &str) -> Result<Option<Found>> {
    let output = run(&Command::new(["blkid", "-p", "-o", "export", "--", device], PROBE))?;
    let field = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    match output.code() {
        // it prints none of several signatures
        Some(0 | 8) => Ok(Some(String::from_utf8_lossy(&output.stdout).lines().filter_map(field).collect())),
        Some(2) => Ok(None),
        _ => Err(output.failure(format!("can't determine the content of {device}"))),
    }
}

impl Filesystem {
    /// Whether the device has the file system; `None` if there is no such device. An error if the device has anything else.
    fn is_made(&self, work: &Work<'_>) -> Result<Option<bool>> {
        let root = &work.host.root;
        let Some(device) = root.device(&self.fields.device)? else { return Ok(None) };
        let (found, is_begun) = (probe(&device.to_string_lossy())?, self.is_begun(work)?);
        let is_wanted = found.as_ref().is_some_and(|found| self.is_wanted(found, is_begun));
        if is_wanted && self.is_finished(&device, is_begun, root)? {
            return Ok(Some(true));
        }
        let why = match found.filter(|_| !is_wanted) {
            Some(found) if found.is_empty() => "several signatures (`wipefs` lists them)".to_owned(),
            Some(found) => {
                let shown: Vec<String> = found.iter().map(|(name, value)| format!("{name}={value}")).collect();
                format!("what `blkid -p` shows as {}", shown.join(", "))
            }
            None if root.is_in_use(&device)? => "a mount or another user (`lsblk` shows it)".to_owned(),
            None if is_begun || root.beginning(&device)?.iter().all(|byte| *byte == 0) => return Ok(Some(false)),
            None => "nonzero bytes in its first MiB".to_owned(),
        };
        Err(self.refused(&device, &why))
    }

    /// Whether this is the file system, finished or not. A vfat gets its label in two places, the directory last.
    fn is_wanted(&self, found: &Found, is_begun: bool) -> bool {
        let FilesystemFields { kind, label, uuid, .. } = &self.fields;
        let found = |name: &str| found.get(name);
        let found_label = found("LABEL").or_else(|| found("LABEL_FATBOOT").filter(|_| is_begun));
        let is = |wanted: &Option<String>, found| wanted.is_none() || wanted.as_ref() == found;
        found("TYPE") == Some(&kind.to_string()) && is(label, found_label) && is(uuid, found("UUID"))
    }

    /// Whether mkfs has finished the file system that blkid finds. Only mkfs.ext4 writes the signature last.
    fn is_finished(&self, device: &Path, is_begun: bool, root: &Root) -> Result<bool> {
        Ok(match self.fields.kind {
            FsType::Xfs => root.beginning(device)?.get(XFS_IN_PROGRESS) != Some(&1),
            FsType::Vfat if is_begun => {
                let check = Command::new(["fsck.vfat", "-n", &device.to_string_lossy()], PROBE);
                run_if_there(&check)?.is_some_and(|output| output.is_success())
            }
            FsType::Ext4 | FsType::Vfat => true,
        })
    }

    /// What distinguishes the device from others, also after the next boot: its name, its size, and what its maker has called it.
    fn identity(&self, root: &Root) -> Result<Vec<String>> {
        let device = root.device(&self.fields.device)?.ok_or_else(|| self.missing())?;
        let known = Path::new("/sys/class/block").join(device.file_name().unwrap_or_default());
        let known = ["size", "serial", "wwid", "device/wwid"].map(|name| known.join(name));
        // most devices lack some of them, or can't be asked
        let texts = known.iter().map(|path| root.text(path).unwrap_or_default());
        Ok([self.fields.device.to_string()].into_iter().chain(texts).collect())
    }

    /// Whether mkfs has begun on the device and not finished, as far as is recorded.
    fn is_begun(&self, work: &Work<'_>) -> Result<bool> {
        let begun = work.store.read::<Vec<String>>(BEGUN)?;
        Ok(begun.is_some_and(|begun| self.identity(&work.host.root).is_ok_and(|identity| identity == begun)))
    }

    fn refused(&self, device: &Path, found: &str) -> Error {
        let (named, device) = (&self.fields.device, device.display());
        error!(FILE, "can't create {} on {named}: it is not empty", self.fields.kind).because(format!("it has {found}")).help(format!(
            "kpull never overwrites data on a device: name another device, or describe the existing content; if you don't need the content, clear the device by hand (`wipefs -a {device} && dd if=/dev/zero of={device} bs=1M count=1`), and run again"
        ))
    }

    fn missing(&self) -> Error {
        error!(FILE, "there is no device {}", self.fields.device)
            .help("`lsblk -p` lists the devices of a host, and `ls -l /dev/disk/by-id` their persistent names")
    }

    /// The program that makes it, with its arguments.
    fn program(&self, device: &Path) -> Vec<String> {
        let FilesystemFields { kind, label, uuid, options, .. } = &self.fields;
        let mut words = vec![format!("mkfs.{kind}")];
        // -f: it asks about an XFS that it has not finished
        let (plain, label_option, uuid_option) = match kind {
            FsType::Vfat => (&[][..], "-n", ""),
            FsType::Xfs => (&["-q", "-f"][..], "-L", "-m"),
            FsType::Ext4 => (&["-q"][..], "-L", "-U"),
        };
        words.extend(plain.iter().map(|word| (*word).to_owned()));
        words.extend(label.iter().flat_map(|label| [label_option.to_owned(), label.clone()]));
        let uuid = uuid.as_ref().map(|uuid| if *kind == FsType::Xfs { format!("uuid={uuid}") } else { uuid.clone() });
        words.extend(uuid.into_iter().flat_map(|uuid| [uuid_option.to_owned(), uuid]));
        // the first name counts as the device, whatever is among the options
        words.push(device.to_string_lossy().into_owned());
        words.extend(options.iter().cloned());
        words
    }

    /// Makes the file system.
    fn make(&self, work: &Work<'_>) -> Result<()> {
        let root = &work.host.root;
        let Some(device) = root.device(&self.fields.device)? else { return Err(self.missing()) };
        let (name, program) = (self.fields.kind, self.program(&device));
        let failed = format!("can't create {name} on {}", self.fields.device);
        work.store.write(BEGUN, &self.identity(root)?)?;
        let Some(output) = run_if_there(&Command::new(&program, MAKE))? else {
            work.store.root().remove(&Path::new("/").join(BEGUN))?;
            let package = self.fields.kind.package();
            return Err(Error::new(code::COMMAND, failed)
                .because(format!("there is no program mkfs.{name}"))
                .help(format!("add a [[package]] with the name {package}")));
        };
        let output = output.or_failure(failed)?;
        match probe(&device.to_string_lossy())?.is_some_and(|found| self.is_wanted(&found, false)) {
            true => Ok(()),
            false => {
                Err(output.failure(format!("mkfs.{name} succeeded, but blkid finds no {name} on {}", device.display())))
            }
        }
    }
}

impl Resource for Filesystem {
    fn about(&self) -> About {
        About::new(FilesystemFields::NAME, self.fields.device.to_string(), Phase::Kernel).recorded()
    }

    fn watched_inputs(&self, work: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        if !work.host.is_live() {
            return Ok(Some(Vec::new()));
        }
        // a link of /dev/disk, and what it leads to
        let device = work.host.root.device(&self.fields.device)?;
        let paths = [self.fields.device.to_path_buf()].into_iter().chain(device);
        Ok(Some(paths.map(WatchedInput::Path).collect()))
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        if !work.host.is_live() {
            return Ok(None);
        }
        let label = self.fields.label.as_ref().map(|label| format!(" with the label {label}"));
        let make = format!("make {}{}", self.fields.kind, label.unwrap_or_default());
        match self.is_made(work)? {
            Some(true) if self.is_begun(work)? => Ok(Some(Change::new("record that the file system is complete"))),
            Some(true) => Ok(None),
            Some(false) => Ok(Some(Change::addition(make))),
            None if work.has_one_of(&["command", "module", "package", "unit"]) => {
                Ok(Some(Change::addition(format!("{make}, once the device exists"))))
            }
            None => Err(self.missing()),
        }
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        if !self.is_made(work)?.ok_or_else(|| self.missing())? {
            self.make(work)?;
        }
        work.store.root().remove(&Path::new("/").join(BEGUN))
    }

    fn prior_state(&self, _: &Claim, work: &Work<'_>) -> Result<PriorState> {
        Ok(match work.host.is_live() && self.is_made(work)? != Some(true) {
            true => PriorState::Kept { why: "kpull does not remove file systems".to_owned() },
            false => PriorState::Same,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::testing::{Tree, one, refusal};

    const ID: &str = "device = '/dev/disk/by-id/x'\n";

    #[test]
    fn each_program_gets_its_own_options() {
        let words = |fields: &str| {
            let made = one("filesystem", &format!("{ID}{fields}"));
            made.as_kind::<Filesystem>().unwrap().program(Path::new("/dev/sdb")).join(" ")
        };
        let uuid = "0b8ad34c-3c9b-4c5e-8a0f-000000000001";
        assert_eq!(words("type = 'ext4'"), "mkfs.ext4 -q /dev/sdb");
        assert_eq!(
            words(&format!("type = 'ext4'\nlabel = 'data'\nuuid = '{uuid}'\noptions = ['-m', '0']")),
            format!("mkfs.ext4 -q -L data -U {uuid} /dev/sdb -m 0")
        );
        assert_eq!(
            words(&format!("type = 'xfs'\nlabel = 'data'\nuuid = '{uuid}'")),
            format!("mkfs.xfs -q -f -L data -m uuid={uuid} /dev/sdb")
        );
        assert_eq!(words("type = 'vfat'\nlabel = 'EFI'"), "mkfs.vfat -n EFI /dev/sdb");
    }

    #[test]
    fn what_mkfs_has_not_finished_is_not_taken_for_a_file_system() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let is_finished = |kind: &str, byte, is_begun| {
            let mut beginning = vec![0; 512];
            beginning[XFS_IN_PROGRESS] = byte;
            std::fs::write(dir.path().join("device"), beginning).unwrap();
            let made = one("filesystem", &format!("{ID}type = '{kind}'"));
            made.as_kind::<Filesystem>().unwrap().is_finished(Path::new("/device"), is_begun, &root).unwrap()
        };
        assert!(is_finished("xfs", 0, true) && !is_finished("xfs", 1, false));
        assert!(is_finished("ext4", 1, true) && is_finished("vfat", 1, false));
        assert!(!is_finished("vfat", 0, true), "nothing of it is there");
    }

    #[test]
    fn a_label_that_only_the_boot_sector_has_is_that_of_a_vfat_that_mkfs_has_begun() {
        let made = one("filesystem", &format!("{ID}type = 'vfat'\nlabel = 'EFI'"));
        let is_wanted = |found: &[(&str, &str)], is_begun| {
            let found = found.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            made.as_kind::<Filesystem>().unwrap().is_wanted(&found, is_begun)
        };
        let (kind, boot) = (("TYPE", "vfat"), ("LABEL_FATBOOT", "EFI"));
        assert!(is_wanted(&[kind, boot], true) && !is_wanted(&[kind, boot], false));
        assert!(is_wanted(&[kind, ("LABEL", "EFI")], false) && !is_wanted(&[kind, boot, ("LABEL", "B")], true));
        assert!(!is_wanted(&[("TYPE", "xfs"), ("LABEL", "EFI")], true));
    }

    #[test]
    fn in_a_tree_there_is_nothing_to_do() {
        let tree = Tree::new();
        let resource = one("filesystem", &format!("{ID}type = 'xfs'"));
        assert_eq!(tree.summary(&*resource), None);
    }

    #[test]
    fn invalid_fields_are_refused_with_their_names() {
        for (fields, why) in [
            ("device = '/srv/image'\ntype = 'ext4'".to_owned(), "`device`: a device is below `/dev`"),
            (format!("{ID}type = 'xfs'\nlabel = 'a-long-label1'"), "`label`: a label of xfs is at most 12"),
            (format!("{ID}type = 'ext4'\nlabel = 'a b'"), "`label`: a label of ext4 is at most 16"),
            (format!("{ID}type = 'vfat'\nlabel = 'efi'"), "`label`: a label of vfat is in capitals"),
            (format!("{ID}type = 'vfat'\nuuid = '1'"), "`uuid`: vfat has no UUID"),
            (format!("{ID}type = 'xfs'\nuuid = '0B8AD34C-3C9B-4C5E-8A0F-000000000001'"), "`uuid`: write it"),
            (format!("{ID}type = 'ext4'\noptions = ['']"), "`options`: each entry is one argument"),
            (
                format!("{ID}type = 'ext4'\noptions = ['-J', 'device=/dev/sda']"),
                "`options`: each entry is one argument",
            ),
        ] {
            let reported = refusal("filesystem", &fields);
            assert!(reported.starts_with(why), "{fields}: {reported}");
        }
        assert!(refusal("filesystem", &format!("{ID}type = 'zfs'")).contains("ext4"));
    }
}
