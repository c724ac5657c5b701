//! The line of `/etc/fstab` for the directory of a mount. `mount -a`, `findmnt --verify` and other boot environments read it, so it agrees
//! with the mount unit. systemd prefers the unit below `/etc` to the one that it generates from the line, but follows the generated links:
//! without `nofail`, a missing device would end the boot in emergency mode, as it does not with the unit alone.

use fancy_regex::escape;

use super::{MountFields, device};
use crate::kind::edit::lines::{InsertAt, LineEdit};
use crate::kind::edit::{EditedFile, FileEdit, Operation};
use crate::kind::prelude::*;
use crate::read::{escaped, unescaped};

const FSTAB: &str = "/etc/fstab";

/// The line for the directory of a mount, if the file has one.
#[derive(Debug)]
pub struct FstabLine {
    mount: MountFields,
    file: EditedFile,
    is_secret: bool,
}

impl FstabLine {
    pub(super) fn of(mount: MountFields, build: &dyn Build) -> Result<Self> {
        let path = AbsolutePath::try_from(FSTAB.to_owned()).map_err(|why| build.invalid("where", &why))?;
        let file = EditedFile::of_role(path, false, false, None, build)?;
        Ok(Self { mount, file, is_secret: build.is_secret() })
    }

    fn part(&self) -> Claim {
        Claim::part_of(&self.mount.place.to_string(), &Claim::path(FSTAB))
    }

    /// The number of the line, and its edit; `None` without a line.
    fn edit(&self, work: &Work<'_>) -> Result<Option<(usize, FileEdit)>> {
        let place = self.mount.place.to_string();
        let content = work.host.root.read(Path::new(FSTAB))?.map(|(_, content)| content).unwrap_or_default();
        let text = String::from_utf8_lossy(&content);
        let mut own = (1_usize..).zip(text.lines()).filter_map(|(number, line)| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let at = fields.get(1).filter(|_| !line.trim_start().starts_with('#'))?;
            (unescaped(at).trim_end_matches('/') == place).then_some((number, line, *at, fields))
        });
        let Some((number, line, at, fields)) = own.next() else { return Ok(None) };
        let refused = |what: String, help: &str| Err(Error::new(code::FILE, what).help(help));
        if let Some((second, ..)) = own.next() {
            let what = format!("lines {number} and {second} of {FSTAB} both mount a file system at {place}");
            return refused(what, "remove one of them: kpull keeps one line in step with the [[mount]]");
        }
        let options = match fields.get(2..).unwrap_or_default() {
            [] => {
                let what = format!("line {number} of {FSTAB} names no type of file system for {place}");
                return refused(what, "complete it (`DEVICE DIRECTORY TYPE OPTIONS`), or remove it");
            }
            ["swap", ..] => {
                let what = format!("line {number} of {FSTAB} is for swap, but names the directory {place}");
                return refused(what, "write `none` in place of the directory, or correct the type");
            }
            [_, rest @ ..] => rest.first().copied().unwrap_or_default(),
        };
        if self.is_secret {
            let what = format!("line {number} of {FSTAB} also mounts a file system at {place}");
            let error =
                Error::new(code::FILE, what).because("kpull writes no secret of a role into a file that all can read");
            return Err(error.help("remove the line, or name a file with the secret in `options` (`credentials=FILE`)"));
        }
        let new = self.mount.changed(line, fields.first().copied().unwrap_or_default(), options);
        let regex = format!(r"^\s*[^#\s]\S*\s+{}(\s|$)", escape(at));
        let regex = fancy_regex::Regex::new(&regex).map_err(|why| error!(FILE, "{FSTAB} can't be edited: {why}"))?;
        let edit =
            LineEdit { line: Some(new), regex: Some(regex), insert_at: InsertAt::End, presence: Presence::Present };
        // an older line may contain the password of a share
        let mut file = self.file.clone();
        file.sensitive = options.contains("pass");
        let (kind, name, part, operation) = (MountFields::NAME, String::new(), String::new(), Operation::Line(edit));
        Ok(Some((number, FileEdit { kind, file, name, part, operation, create: false })))
    }
}

impl MountFields {
    /// The line with the device, the type and the options of this mount.
    fn changed(&self, line: &str, what: &str, options: &str) -> String {
        let is_bind = self.options.iter().any(|option| ["bind", "rbind"].contains(&option.as_str()));
        let kind = self.kind.as_deref().unwrap_or(if is_bind { "none" } else { "auto" });
        let is_same = device(&unescaped(what)) == device(&self.what);
        let what = (!is_same).then(|| escaped(&self.what));
        let mut fields = [what, None, Some(escaped(kind)), Some(escaped(&self.options(options)))].into_iter();
        let mut new = String::new();
        for piece in line.split_inclusive(char::is_whitespace) {
            let word = piece.trim_end();
            let field = if word.is_empty() { None } else { fields.next().flatten() };
            new.push_str(&field.map_or_else(|| piece.to_owned(), |field| piece.replace(word, &field)));
        }
        for missing in fields.flatten() {
            new = format!("{} {missing}", new.trim_end());
        }
        new
    }

    /// The options of the line. Those that only programs other than `mount` read, such as `x-initrd.mount`, stay.
    fn options(&self, old: &str) -> String {
        const AUTOMOUNT: &str = "x-systemd.automount";
        const IDLE: &str = "x-systemd.idle-timeout=";
        let is_kept = |option: &&str| {
            (option.starts_with("x-") || option.starts_with("X-")) && *option != AUTOMOUNT && !option.starts_with(IDLE)
        };
        let idle = self.idle.as_ref().map(|idle| format!("{IDLE}{}", idle.0.as_secs()));
        let automount = self.automount.then(|| AUTOMOUNT.to_owned());
        let mut all = self.options.clone();
        if all.is_empty() {
            all.push("defaults".to_owned());
        }
        let own = ["nofail".to_owned()].into_iter().chain(automount).chain(idle);
        for option in own.chain(old.split(',').filter(is_kept).map(str::to_owned)) {
            if !all.contains(&option) {
                all.push(option);
            }
        }
        all.join(",")
    }
}

impl Resource for FstabLine {
    fn about(&self) -> About {
        let about = About::new(MountFields::NAME, self.mount.place.to_string(), Phase::Kernel);
        About { watched: Some(vec![WatchedInput::Path(FSTAB.into())]), ..about.claiming([self.part()]) }
    }

    fn owned(&self, _: &Work<'_>) -> Result<Vec<Claim>> {
        Ok(vec![self.part()])
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let Some((number, edit)) = self.edit(work)? else { return Ok(None) };
        let summary = format!("change line {number} of {FSTAB}");
        Ok(edit.observe(work)?.map(|change| Change { summary, ..change }))
    }

    fn apply(&self, work: &Work<'_>, change: &Change) -> Result<()> {
        self.edit(work)?.map_or(Ok(()), |(_, edit)| edit.apply(work, change))
    }

    fn prior_state(&self, owned: &Claim, work: &Work<'_>) -> Result<PriorState> {
        self.edit(work)?.map_or(Ok(PriorState::Same), |(_, edit)| edit.prior_state(owned, work))
    }

    fn refine(&self, prior: &mut PriorState, work: &Work<'_>) -> Result<bool> {
        // somebody may have added a line since
        let is_due = *prior == PriorState::Same;
        if is_due {
            *prior = self.prior_state(&self.part(), work)?;
        }
        Ok(is_due && *prior != PriorState::Same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::testing::{RoleFiles, Tree, build, build_with};

    const MOUNT: &str = "where = '/srv/a b'\nwhat = 'LABEL=my data'\n";

    fn line(fields: &str) -> Box<dyn Resource> {
        build("mount", &format!("{MOUNT}{fields}")).unwrap().remove(0)
    }

    #[test]
    fn the_line_of_a_mount_is_kept_in_step_and_comes_back() {
        let before = "# /x /srv/a\\040b ext4\n/dev/y / ext4 defaults 0 1\r\n \t";
        for (fields, old, new) in [
            ("", "/dev/x /srv/a\\040b ext4", "LABEL=my\\040data /srv/a\\040b auto defaults,nofail"),
            (
                "type = 'xfs'\noptions = ['noatime', 'ro']",
                "LABEL=\"my\\040data\"\t/srv/a\\040b/  ext4 \tacl,nofail\t0  2 # data",
                "LABEL=\"my\\040data\"\t/srv/a\\040b/  xfs \tnoatime,ro,nofail\t0  2 # data",
            ),
            (
                "automount = true\nidle = '1m'\noptions = ['bind', 'x-own']",
                "/y /srv/a\\040b none x-initrd.mount,bind,x-systemd.idle-timeout=5,X-mine,x-own,xattr 0 0",
                "LABEL=my\\040data /srv/a\\040b none bind,x-own,nofail,x-systemd.automount,x-systemd.idle-timeout=60,\
                 x-initrd.mount,X-mine 0 0",
            ),
            (
                "type = 'ext4'",
                "LABEL=my\\040data /srv/a\\040b ext4 x-systemd.automount,noauto",
                "LABEL=my\\040data /srv/a\\040b ext4 defaults,nofail",
            ),
        ] {
            let (tree, line) = (Tree::new(), line(fields));
            let around = |line: &str| format!("{before}{line}\nswap none swap");
            tree.put("/etc/fstab", &around(old));
            let prior = line.prior_state(&line.owned(&tree.work()).unwrap()[0], &tree.work()).unwrap();
            let change = tree.converge(&*line);
            assert_eq!(change.summary, "change line 3 of /etc/fstab");
            assert_eq!(change.diff.unwrap().to_string().lines().count(), 3, "only this line is shown");
            assert_eq!(tree.get("/etc/fstab"), around(new));
            tree.converge(&*prior.resource(&tree.store).unwrap().unwrap());
            assert_eq!(tree.get("/etc/fstab"), around(old));
        }
    }

    #[test]
    fn a_line_that_somebody_adds_later_comes_back_too() {
        let (tree, line) = (Tree::new(), line(""));
        assert_eq!(tree.summary(&*line), None, "there is no file");
        let mut prior = line.prior_state(&Claim::path("/"), &tree.work()).unwrap();
        assert_eq!((&prior, line.refine(&mut prior.clone(), &tree.work()).unwrap()), (&PriorState::Same, false));
        let theirs = "/dev/x /srv/a\\040b ext4 noatime 0 0\n";
        tree.put("/etc/fstab", theirs);
        assert!(line.refine(&mut prior, &tree.work()).unwrap());
        tree.converge(&*line);
        assert!(!line.refine(&mut prior, &tree.work()).unwrap(), "this one is kpull's");
        tree.converge(&*prior.resource(&tree.store).unwrap().unwrap());
        assert_eq!(tree.get("/etc/fstab"), theirs);
    }

    #[test]
    fn a_password_of_an_older_line_is_not_shown() {
        let (tree, line) = (Tree::new(), line(""));
        tree.put("/etc/fstab", "//nas/x /srv/a\\040b cifs user=u,password=hunter2 0 0\n");
        assert!(!tree.converge(&*line).diff.unwrap().to_string().contains("hunter2"));
    }

    #[test]
    fn lines_that_no_one_can_keep_in_step_are_errors_that_name_them() {
        let of = |line: &dyn Resource, fstab: &str| {
            let tree = Tree::new();
            tree.put("/etc/fstab", &format!("/dev/y / ext4\n{fstab}"));
            line.observe(&tree.work()).unwrap_err().to_string()
        };
        let one = "/dev/x /srv/a\\040b ext4\n";
        for (fstab, why) in [
            (&*one.repeat(2), "lines 2 and 3 of /etc/fstab both mount a file system at /srv/a b"),
            ("/dev/x\t/srv/a\\040b", "line 2 of /etc/fstab names no type of file system for /srv/a b"),
            ("/dev/x /srv/a\\040b swap", "line 2 of /etc/fstab is for swap, but names the directory /srv/a b"),
        ] {
            assert_eq!(of(&*line(""), fstab), why);
        }
        let made = build_with::<MountFields>(MOUNT, &RoleFiles::default().secret()).unwrap();
        let why = "line 2 of /etc/fstab also mounts a file system at /srv/a b: kpull writes no secret of a role into a \
                   file that all can read";
        assert_eq!(of(&*made[0], one), why);
    }
}
