//! `[[swap]]`: a file that the kernel swaps to, or no swap at all.
//!
//! A file is made with a swap unit of systemd. No swap holds now and after the next boot: lines of `/etc/fstab` are commented out, and swap
//! in use is turned off. Swap that systemd sets up by itself (zram, GPT partitions) is turned off too, but returns at the next boot.

mod file;

use crate::error::counted;
use crate::host::process::{Command, run};
use crate::kind::prelude::*;
use crate::read::unescaped;
use file::{Size, SwapFile};

const FSTAB: &str = "/etc/fstab";
const MARK: &str = "# kpull: this host has no swap: ";

/// Fields of `[[swap]]`: `enabled = false`, or `file` and `size`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SwapFields {
    /// `false` for a host without swap; no other value is allowed.
    enabled: Option<bool>,
    /// A file that the kernel swaps to.
    file: Option<AbsolutePath>,
    /// The size of that file, like `2G`.
    size: Option<Size>,
}

impl Fields for SwapFields {
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let why = "it can only be `false`; to have swap, set `file` and `size`";
        build.refuse_if(self.enabled == Some(true), "enabled", why)?;
        match (self.enabled, self.file, self.size) {
            (Some(_), None, None) => Ok(vec![Box::new(NoSwap)]),
            (None, Some(path), Some(size)) => SwapFile { path, size }.with_unit(build),
            (Some(_), ..) => Err(build.invalid("enabled", "a host without swap has no swap file: remove `enabled`")),
            (None, Some(_), None) => Err(build.invalid("file", "set `size` too, like \"2G\"")),
            (None, None, _) => Err(build.invalid("size", "set `file` and `size`, or `enabled = false`")),
        }
    }
}

/// That there is no swap.
#[derive(Debug)]
pub struct NoSwap;

/// The devices and files that the kernel swaps to.
fn in_use(host: &Host) -> Result<Vec<String>> {
    if !host.is_live() {
        return Ok(Vec::new());
    }
    Ok(devices(&host.root.text(Path::new("/proc/swaps"))?))
}

fn devices(proc_swaps: &str) -> Vec<String> {
    proc_swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next()).map(unescaped).collect()
}

/// The lines of `/etc/fstab` with their ends, as bytes: labels and mount points may be in any encoding.
fn lines(fstab: &[u8]) -> impl Iterator<Item = &[u8]> {
    fstab.split_inclusive(|byte| *byte == b'\n')
}

fn is_swap(line: &[u8]) -> bool {
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    words.next().is_some_and(|device| !device.starts_with(b"#")) && words.nth(1) == Some(b"swap")
}

/// The line, commented out.
fn marked(line: &[u8]) -> Vec<u8> {
    [MARK.as_bytes(), line].concat()
}

impl Resource for NoSwap {
    fn about(&self) -> About {
        About {
            claims: vec![Claim::thing(SwapFields::NAME, "off"), Claim::part("swap", FSTAB)],
            ..About::new(SwapFields::NAME, "off", Phase::Kernel)
        }
    }

    fn watched_inputs(&self, work: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        let fstab = WatchedInput::Path(FSTAB.into());
        let live = work.host.is_live().then(|| WatchedInput::Text("/proc/swaps".into()));
        Ok(Some([fstab].into_iter().chain(live).collect()))
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let fstab = work.host.root.read(Path::new(FSTAB))?.map(|(_, content)| content).unwrap_or_default();
        let old: Vec<&[u8]> = lines(&fstab).filter(|line| is_swap(line)).collect();
        let mut parts = Vec::new();
        let mut diff = None;
        if !old.is_empty() {
            parts.push(format!("comment out {} of {FSTAB}", counted(old.len(), "line")));
            // only these lines: others may contain passwords
            let new: Vec<Vec<u8>> = old.iter().map(|line| marked(line)).collect();
            diff = Diff::of(old.concat(), new.concat(), false);
        }
        parts.extend(in_use(work.host)?.iter().map(|device| format!("disable {device}")));
        Ok(Change::of(parts).map(|change| Change { diff, ..change }))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let root = &work.host.root;
        let path = Path::new(FSTAB);
        if let Some((meta, fstab)) = root.read(path)?.filter(|(_, fstab)| lines(fstab).any(is_swap)) {
            let sign = |line| if is_swap(line) { marked(line) } else { line.to_vec() };
            let new: Vec<Vec<u8>> = lines(&fstab).map(sign).collect();
            root.write(path, &new.concat(), meta.access())?;
            // systemd made units of the lines
            work.host.unit_files_changed();
        }
        for device in in_use(work.host)? {
            turn_off(&device, "the next boot has no swap")?;
        }
        Ok(())
    }
}

/// Stops swapping to a device or file. `otherwise` says what a reboot leads to.
fn turn_off(device: &str, otherwise: &str) -> Result<()> {
    let output = run(&Command::new(["swapoff", "--", device], Duration::from_secs(600)))?;
    let help = format!("its content must fit into memory: stop a large process, or reboot; {otherwise}");
    output.or_failure(format!("can't disable the swap {device}")).map(drop).map_err(|error| error.help(help))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::testing::{Tree, one, refusal};

    #[test]
    fn swap_lines_are_commented_out_and_others_stay_as_they_are() {
        let tree = Tree::new();
        tree.put(
            "/etc/fstab",
            "UUID=1 / ext4 defaults 0 1\n#/old none swap sw 0 0\n/sw\tnone\tswap\tsw 0 0\n//h/s /m cifs password=p 0 0",
        );
        let change = tree.converge(&*one("swap", "enabled = false"));
        assert_eq!(change.summary, "comment out 1 line of /etc/fstab");
        assert!(!change.diff.unwrap().to_string().contains("password"));
        assert_eq!(
            tree.get("/etc/fstab"),
            "UUID=1 / ext4 defaults 0 1\n#/old none swap sw 0 0\n# kpull: this host has no swap: /sw\tnone\tswap\tsw 0 0\n\
             //h/s /m cifs password=p 0 0"
        );
    }

    #[test]
    fn a_file_in_any_encoding_stays_byte_for_byte_but_for_its_swap() {
        let tree = Tree::new();
        tree.put("/etc/fstab", "");
        let fstab = b"LABEL=gr\xfcn / ext4 rw 0 1\r\n\xff\n \t/d\xfc none swap sw 0 0\nswap #x swap";
        std::fs::write(tree.path("/etc/fstab"), fstab).unwrap();
        let change = tree.converge(&*one("swap", "enabled = false"));
        assert_eq!(change.summary, "comment out 2 lines of /etc/fstab");
        let marked =
            b"LABEL=gr\xfcn / ext4 rw 0 1\r\n\xff\n# kpull: this host has no swap:  \t/d\xfc none swap sw 0 0\n\
            # kpull: this host has no swap: swap #x swap";
        assert_eq!(std::fs::read(tree.path("/etc/fstab")).unwrap(), marked);
    }

    #[test]
    fn a_host_without_swap_has_nothing_to_do() {
        assert_eq!(Tree::new().summary(&*one("swap", "enabled = false")), None);
    }

    #[test]
    fn what_the_kernel_swaps_to_is_known_by_its_real_name() {
        let text = "Filename\tType\tSize\tUsed\tPriority\n/dev/sda2 partition 1 0 -2\n/my\\040swap file 1 0 -3\n";
        assert_eq!(devices(text), ["/dev/sda2", "/my swap"]);
    }

    #[test]
    fn a_host_has_no_swap_or_a_file_with_a_size() {
        for (fields, why) in [
            ("enabled = true", "`enabled`: it can only be `false`; to have swap, set `file` and `size`"),
            ("enabled = false\nfile = '/swap'\nsize = '1G'", "`enabled`: a host without swap has no swap file"),
            ("file = '/swap'", "`file`: set `size` too"),
            ("size = '1G'", "`size`: set `file` and `size`, or"),
            ("", "`size`: set `file` and `size`, or"),
        ] {
            let reported = refusal("swap", fields);
            assert!(reported.starts_with(why), "{fields}: {reported}");
        }
    }
}
