//! A file that the kernel swaps to, with the swap unit that turns it on.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;

use nix::unistd::{SysconfVar, sysconf};

use super::{SwapFields, in_use, turn_off};
use crate::host::root::failed_io;
use crate::host::unit_files;
use crate::kind::file::mode_change;
use crate::kind::prelude::*;
use crate::kind::unit::UnitFields;

/// What ends the first page of a swap area.
const SIGNATURE: &[u8] = b"SWAPSPACE2";

/// Where the first page says how large the area is, after the room for a boot loader.
const INFO: usize = 1024;

const MIB: u64 = 1 << 20;

/// The size of a file, written as `"512M"` or `"2G"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
pub(super) struct Size(u64);

from_text!(Size, |text| {
    let scaled = |unit: char, factor: u64| text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(factor);
    let is_number = text.starts_with(|c: char| c.is_ascii_digit());
    // a page of the area has a number of 32 bits
    let bytes = scaled('M', MIB).or_else(|| scaled('G', 1024 * MIB)).filter(|size| (MIB..1 << 44).contains(size));
    bytes.filter(|_| is_number).map(Self).ok_or_else(|| {
        format!("`{text}` is not a size; write it like \"512M\" or \"2G\", in units of 1024, up to 16383G")
    })
});

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        shown(self.0).fmt(f)
    }
}

fn shown(bytes: u64) -> String {
    match bytes {
        _ if bytes > 0 && bytes.is_multiple_of(1024 * MIB) => format!("{}G", bytes / (1024 * MIB)),
        _ if bytes > 0 && bytes.is_multiple_of(MIB) => format!("{}M", bytes / MIB),
        _ => format!("{bytes} bytes"),
    }
}

/// The file.
#[derive(Debug)]
pub struct SwapFile {
    pub(super) path: AbsolutePath,
    pub(super) size: Size,
}

/// Only root reads what was in memory.
const MODE: u32 = 0o600;

impl SwapFile {
    /// The file, and the unit that turns it on now and at each boot.
    pub(super) fn with_unit(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let name = format!("{}.swap", unit_files::escaped(&self.path.to_string()));
        let what = self.path.to_string().replace('%', "%%");
        let text = format!("[Swap]\nWhat={what}\n\n[Install]\nWantedBy=swap.target\n");
        let unit = UnitFields::of_text(name, text, true).map_err(|why| build.invalid("file", &why))?;
        let mut resources: Vec<Box<dyn Resource>> = vec![Box::new(self)];
        resources.extend(unit.build(build)?);
        Ok(resources)
    }

    /// The existing swap file; an error if anything else is at the path.
    fn present(&self, work: &Work<'_>) -> Result<Option<Meta>> {
        let root = &work.host.root;
        let refused = |what: &str| {
            Err(error!(KERNEL, "{} is {what}, so kpull does not turn it into a swap file", self.path)
                .help("name another path, or remove it by hand"))
        };
        match (root.meta(&self.path)?.map(|meta| meta.what), root.file(&self.path)?) {
            (None, _) => Ok(None),
            (Some(FileType::File), Some((meta, file))) if is_swap(&file) => Ok(Some(meta)),
            (Some(FileType::File), _) => refused("a file with other content"),
            (Some(_), _) => refused("not a file"),
        }
    }
}

/// The size of a page of memory.
fn page() -> usize {
    sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|size| usize::try_from(size).ok()).unwrap_or(4096)
}

/// Whether a file has the signature of a swap area.
fn is_swap(file: &File) -> bool {
    let mut found = [0; SIGNATURE.len()];
    let at = page().saturating_sub(SIGNATURE.len()) as u64;
    file.read_exact_at(&mut found, at).is_ok() && found == SIGNATURE
}

/// The first page of a swap area of so many bytes, as mkswap writes it.
fn header(size: u64) -> Vec<u8> {
    let page = page();
    let last = u32::try_from(size / page as u64).unwrap_or(u32::MAX).saturating_sub(1);
    let mut header = vec![0; INFO];
    // the version, the last page, and the number of bad ones
    header.extend([1, last, 0].iter().flat_map(|number: &u32| number.to_ne_bytes()));
    header.resize(page.saturating_sub(SIGNATURE.len()), 0);
    header.extend(SIGNATURE);
    header
}

/// Makes a swap area of a new file. All of its blocks have to be written: the kernel uses them without the file system, and an older XFS
/// takes blocks that are only reserved for holes.
fn fill(file: &mut File, size: u64, path: &Path) -> Result<()> {
    let failed = |error| failed_io("write", path, error);
    let header = header(size);
    file.write_all(&header).map_err(failed)?;
    let mut left = size.saturating_sub(header.len() as u64);
    let zeros = vec![0; 1 << 20];
    while left > 0 {
        let count = usize::try_from(left).map_or(zeros.len(), |left| left.min(zeros.len()));
        file.write_all(zeros.get(..count).unwrap_or_default()).map_err(failed)?;
        left = left.saturating_sub(count as u64);
    }
    Ok(())
}

impl Resource for SwapFile {
    fn about(&self) -> About {
        let off = Claim::part_of(&self.path.to_string(), &Claim::thing(SwapFields::NAME, "off"));
        // no copy of it is saved
        About { is_sensitive: true, ..About::at(SwapFields::NAME, &self.path, Phase::Kernel).claiming([off]) }
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let Some(meta) = self.present(work)? else {
            return Ok(Some(Change::addition(format!("create, {}", self.size))));
        };
        let mut parts = Vec::new();
        parts.extend((meta.size != self.size.0).then(|| format!("size {} → {}", shown(meta.size), self.size)));
        parts.extend(mode_change(meta.mode, MODE));
        parts.extend((work.host.is_live() && (meta.uid, meta.gid) != (0, 0)).then(|| "owner → root".to_owned()));
        Ok(Change::of(parts))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let root = &work.host.root;
        let owner = work.host.is_live().then_some(0);
        let access = Access { mode: MODE, uid: owner, gid: owner };
        match self.present(work)? {
            Some(meta) if meta.size == self.size.0 => root.set_access(&self.path, access),
            old => {
                let path = self.path.to_string();
                if old.is_some() && in_use(work.host)?.contains(&path) {
                    turn_off(&path, "the next run continues from here")?;
                    // its unit has stopped
                    work.host.forget_units();
                }
                root.write_with(&self.path, access, |file| fill(file, self.size.0, &self.path))
            }
        }
    }

    fn prior_state(&self, owned: &Claim, work: &Work<'_>) -> Result<PriorState> {
        Ok(match self.present(work)? {
            None => PriorState::Nothing { path: owned.subject() },
            // it holds nothing that is worth a copy
            Some(_) => PriorState::Same,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::testing::{Tree, build};

    const FIELDS: &str = "file = '/var/swap-1'\nsize = '2M'";

    #[test]
    fn a_swap_file_is_what_mkswap_makes_and_has_a_unit() {
        let tree = Tree::new();
        let made = build("swap", FIELDS).unwrap();
        let ids: Vec<String> = made.iter().map(|one| one.about().id().to_string()).collect();
        let unit = "/etc/systemd/system/var-swap\\x2d1.swap";
        assert_eq!(ids, ["swap:/var/swap-1", &format!("unit-file:{unit}"), "unit:var-swap\\x2d1.swap"]);
        assert_eq!(tree.converge(&*made[0]).summary, "create, 2M");
        tree.converge(&*made[1]);
        assert_eq!(tree.get(unit), "[Swap]\nWhat=/var/swap-1\n\n[Install]\nWantedBy=swap.target\n");

        let ours = std::fs::read(tree.path("/var/swap-1")).unwrap();
        let theirs = tree.path("/theirs");
        std::fs::write(&theirs, vec![0; 2 << 20]).unwrap();
        let mkswap = std::process::Command::new("/sbin/mkswap").arg(&theirs).output().unwrap();
        assert!(mkswap.status.success(), "{mkswap:?}");
        let mut theirs = std::fs::read(&theirs).unwrap();
        // each has a UUID of its own
        theirs[INFO + 12..INFO + 28].fill(0);
        assert!(ours == theirs, "the files differ");
    }

    #[test]
    fn another_size_and_mode_are_corrected() {
        let tree = Tree::new();
        tree.converge(&*build("swap", FIELDS).unwrap()[0]);
        let path = tree.path("/var/swap-1");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        let larger = build("swap", "file = '/var/swap-1'\nsize = '3M'").unwrap();
        assert_eq!(tree.converge(&*larger[0]).summary, "size 2M → 3M, mode 0644 → 0600");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 3 << 20);
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        assert_eq!(tree.converge(&*larger[0]).summary, "mode 0640 → 0600");
    }

    #[test]
    fn anything_else_at_its_path_is_left_alone() {
        let tree = Tree::new();
        let swap = &build("swap", FIELDS).unwrap()[0];
        let reported = || swap.observe(&tree.work()).unwrap_err().to_string();
        tree.put("/var/swap-1", "theirs");
        assert_eq!(reported(), "/var/swap-1 is a file with other content, so kpull does not turn it into a swap file");
        swap.apply(&tree.work(), &Change::default()).unwrap_err();
        assert_eq!(tree.get("/var/swap-1"), "theirs");
        std::fs::remove_file(tree.path("/var/swap-1")).unwrap();
        std::fs::create_dir(tree.path("/var/swap-1")).unwrap();
        assert_eq!(reported(), "/var/swap-1 is not a file, so kpull does not turn it into a swap file");
    }

    #[test]
    fn a_size_is_a_number_with_its_unit() {
        let size = |text: &str| Size::try_from(text.to_owned());
        assert_eq!((size("512M"), size("2G")), (Ok(Size(512 << 20)), Ok(Size(2 << 30))));
        assert_eq!((shown(2 << 30), shown(1536 << 20), shown(5)), ("2G".into(), "1536M".into(), "5 bytes".into()));
        for bad in ["", "2", "G", "2g", "-1G", "+1G", "0M", "1.5G", "16384G", "99999999999999999G", "2 G"] {
            assert!(size(bad).unwrap_err().contains("is not a size; write it like"), "{bad}");
        }
    }
}
