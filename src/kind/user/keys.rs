//! The SSH keys that log in as a user: `.ssh/authorized_keys` in its home, where sshd reads them by default.

use crate::host::accounts::Login;
use crate::kind::block;
use crate::kind::directory::Directory;
use crate::kind::prelude::*;

/// The name of the block with the keys.
const BLOCK: &str = "keys";

/// Types of keys that OpenSSH supports, by their prefixes.
const TYPES: [&str; 5] = ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-sha2-", "<secret "];

/// The keys of a user.
#[derive(Debug)]
pub struct AuthorizedKeys {
    pub(super) user: String,
    /// Its home, if the role sets it.
    pub(super) home: Option<AbsolutePath>,
    /// The home of a new user.
    pub(super) new_home: String,
    /// The block with all keys, and its markers.
    pub(super) text: String,
    /// Whether the file has no other keys.
    pub(super) exclusive: bool,
    pub(super) sensitive: bool,
}

/// The block with these keys; the error says what is wrong with one.
pub(super) fn text(keys: &[String]) -> Result<String, String> {
    let mut text = format!("# BEGIN kpull {BLOCK}\n");
    for line in keys.iter().flat_map(|key| key.lines()).map(str::trim).filter(|line| !line.is_empty()) {
        let has_type = line.split_whitespace().any(|word| TYPES.iter().any(|name| word.starts_with(name)));
        if !has_type || line.chars().any(char::is_control) || line.starts_with('#') {
            // it may be a private key by mistake
            let beginning: String = line.chars().take(12).collect();
            return Err(format!(
                "`{beginning}…` is not a public key: write the line of a .pub file, like `ssh-ed25519 AAAA… ann@laptop`"
            ));
        }
        text.push_str(line);
        text.push('\n');
    }
    Ok(text + &format!("# END kpull {BLOCK}\n"))
}

impl AuthorizedKeys {
    fn login(&self, work: &Work<'_>) -> Result<Option<Login>> {
        work.host.with_accounts(|accounts| accounts.login(&self.user))
    }

    /// The directory and the file, in the home that the user has or will have.
    fn paths(&self, login: Option<&Login>) -> Result<[AbsolutePath; 2]> {
        let home = match (&self.home, login) {
            (Some(home), _) => home.to_string(),
            (None, Some(login)) => login.home.to_string_lossy().into_owned(),
            (None, None) => self.new_home.clone(),
        };
        let path = |path: String| {
            AbsolutePath::try_from(path).map_err(|why| {
                error!(ACCOUNT, "{} can't have SSH keys: its home is `{home}`", self.user)
                    .because(why)
                    .help("set the `home` of the user, or omit `authorized_keys`")
            })
        };
        Ok([path(format!("{home}/.ssh"))?, path(format!("{home}/.ssh/authorized_keys"))?])
    }

    fn directory(path: &AbsolutePath, login: &Login) -> Directory {
        Directory { path: path.clone(), wanted: Ownership::numeric(0o700, login.uid, login.gid) }
    }

    /// The file as it is and as it is to be.
    fn content(&self, path: &AbsolutePath, work: &Work<'_>) -> Result<(Vec<u8>, Vec<u8>)> {
        if self.exclusive {
            // a link is replaced
            let old = work.host.root.read(path)?.map(|(_, content)| content).unwrap_or_default();
            return Ok((old, self.text.clone().into_bytes()));
        }
        let (old, range) = block::find(work.host, path, "#", BLOCK)?;
        let new = block::replaced(&old, range, &self.text);
        Ok((old, new))
    }
}

impl Resource for AuthorizedKeys {
    fn about(&self) -> About {
        // a user that has another home owns the same paths there
        let paths = self.paths(None).into_iter().flatten().map(Claim::path);
        About {
            after: vec![ResourceId::new("user", &self.user)],
            is_discreet: true,
            is_sensitive: self.sensitive,
            ..About::new("authorized_keys", &*self.user, Phase::Files).claiming(paths)
        }
    }

    fn watched_inputs(&self, work: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        let [directory, file] = self.paths(self.login(work)?.as_ref())?;
        Ok(Some(vec![WatchedInput::Place(directory.to_path_buf()), WatchedInput::Path(file.to_path_buf())]))
    }

    fn content(&self) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Borrowed(self.text.as_bytes()))
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let login = self.login(work)?;
        let [directory, path] = self.paths(login.as_ref())?;
        let root = &work.host.root;
        let (old, new) = self.content(&path, work)?;
        let mut parts = Vec::new();
        let found = root.meta(&path)?;
        let Some(login) = login else {
            return Ok(Some(Change { diff: Diff::of(old, new, self.sensitive), ..Change::addition("create") }));
        };
        let wanted = Ownership::numeric(0o600, login.uid, login.gid);
        match &found {
            None => parts.push("create".to_owned()),
            Some(meta) if meta.what == FileType::Link => parts.push("replace the link with a file".to_owned()),
            Some(meta) => {
                parts.extend((old != new).then(|| "keys".to_owned()));
                parts.extend(wanted.differences(work, &path, meta)?);
            }
        }
        if let Some(change) = Self::directory(&directory, &login).observe(work)?
            && root.meta(&directory)?.is_some()
        {
            parts.push(format!("{directory}: {}", change.summary));
        }
        let diff = if old == new { None } else { Diff::of(old, new, self.sensitive) };
        Ok(Change::of(parts).map(|change| Change { diff, ..change.added_if(found.is_none()) }))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let Some(login) = self.login(work)? else {
            return Err(error!(ACCOUNT, "can't write SSH keys: there is no user {}", self.user)
                .help(format!("`getent passwd {}` must show the user", self.user)));
        };
        let [directory, path] = self.paths(Some(&login))?;
        let root = &work.host.root;
        Self::directory(&directory, &login).apply(work, &Change::default())?;
        let (old, new) = self.content(&path, work)?;
        let access = Ownership::numeric(0o600, login.uid, login.gid).access(work, &path)?;
        let is_file = root.meta(&path)?.is_some_and(|meta| meta.what == FileType::File);
        if !(is_file && old == new && root.give_access(&path, access)?) {
            root.write(&path, &new, access)?;
        }
        work.host.file_changed(&path);
        Ok(())
    }

    fn owned(&self, work: &Work<'_>) -> Result<Vec<Claim>> {
        Ok(self.paths(self.login(work)?.as_ref())?.map(Claim::path).to_vec())
    }

    fn prior_state(&self, owned: &Claim, work: &Work<'_>) -> Result<PriorState> {
        let [_, path] = self.paths(self.login(work)?.as_ref())?;
        let mut prior = PriorState::of_path(owned, work)?;
        if owned.whole_path() == Some(&*path) {
            self.refine(&mut prior, work)?;
        }
        Ok(prior)
    }

    /// Keys that others write survive the removal of these, so the whole file is restored only if nothing else is in it.
    fn refine(&self, prior: &mut PriorState, work: &Work<'_>) -> Result<bool> {
        let [_, own] = self.paths(self.login(work)?.as_ref())?;
        let is_own = |path: &String| **path == *own.to_string();
        let (path, file) = match prior {
            PriorState::Nothing { path } if is_own(path) => (path.clone(), None),
            PriorState::File { path, file, .. } if is_own(path) => (path.clone(), Some(file.clone())),
            _ => return Ok(false),
        };
        *prior = PriorState::AuthorizedKeys { path, file };
        Ok(true)
    }
}

/// The keys in a file, to be removed.
#[derive(Debug)]
pub struct FormerKeys {
    pub(in crate::kind) path: AbsolutePath,
    /// The earlier file: its content is restored if nothing else is in the file now.
    pub(in crate::kind) file: Option<(Vec<u8>, Access)>,
}

impl FormerKeys {
    /// The file as it is and as it is to be; `None` if there is nothing to remove.
    fn content(&self, work: &Work<'_>) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        let (old, range) = block::find(work.host, &self.path, "#", BLOCK)?;
        if range.is_empty() {
            return Ok(None);
        }
        let rest = [&old[..range.start], &old[range.end..]].concat();
        let new = match &self.file {
            Some((saved, _)) if rest.is_empty() => saved.clone(),
            _ => rest,
        };
        Ok(Some((old, new)))
    }
}

impl Resource for FormerKeys {
    fn about(&self) -> About {
        About { is_discreet: true, ..About::at("authorized_keys", &self.path, Phase::Files) }
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let Some((old, new)) = self.content(work)? else { return Ok(None) };
        let change = match new.is_empty() && self.file.is_none() {
            true => Change::removal("remove the file"),
            false => Change::removal("remove the keys"),
        };
        Ok(Some(Change { diff: Diff::of(old, new, false), ..change }))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let root = &work.host.root;
        let Some((_, new)) = self.content(work)? else { return Ok(()) };
        match (root.meta(&self.path)?, &self.file) {
            (Some(_), None) if new.is_empty() => root.remove(&self.path)?,
            (Some(meta), None) => root.write(&self.path, &new, meta.access())?,
            (Some(_), Some((_, access))) => root.write(&self.path, &new, *access)?,
            (None, _) => {}
        }
        work.host.file_changed(&self.path);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::kind::testing::{Tree, build, refusal};

    const ANN: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIann ann@laptop";
    const BOB: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIbob bob@laptop";
    const FILE: &str = "/home/ann/.ssh/authorized_keys";

    fn tree() -> Tree {
        let tree = Tree::new();
        tree.put("/etc/passwd", "ann:x:1000:1000::/home/ann:/bin/sh\n");
        tree
    }

    fn keys(fields: &str) -> Box<dyn Resource> {
        build("user", &format!("name = 'ann'\n{fields}")).unwrap().remove(1)
    }

    fn mode(tree: &Tree, path: &str) -> u32 {
        tree.path(path).metadata().unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn keys_are_a_block_beside_those_that_others_have_added() {
        let tree = tree();
        let change = tree.converge(&*keys(&format!("authorized_keys = ['{ANN}']")));
        assert_eq!(change.summary, "create");
        assert_eq!(tree.get(FILE), format!("# BEGIN kpull keys\n{ANN}\n# END kpull keys\n"));
        assert_eq!((mode(&tree, "/home/ann/.ssh"), mode(&tree, FILE)), (0o700, 0o600));
        tree.put(FILE, &format!("# mine\n{BOB}\n{}", tree.get(FILE)));
        std::fs::set_permissions(tree.path(FILE), PermissionsExt::from_mode(0o664)).unwrap();
        std::fs::set_permissions(tree.path("/home/ann/.ssh"), PermissionsExt::from_mode(0o775)).unwrap();
        let change = tree.converge(&*keys(&format!("authorized_keys = ['{ANN}']")));
        assert_eq!(change.summary, "mode 0664 → 0600, /home/ann/.ssh: mode 0775 → 0700");
        let change = tree.converge(&*keys("authorized_keys = []"));
        assert_eq!(change.summary, "keys");
        assert_eq!(tree.get(FILE), format!("# mine\n{BOB}\n# BEGIN kpull keys\n# END kpull keys\n"));
    }

    #[test]
    fn exclusive_keys_are_the_whole_file_and_go_back_to_a_block() {
        let tree = tree();
        tree.put(FILE, &format!("{BOB}\n"));
        let exclusive = format!("authorized_keys = ['{ANN}']\nexclusive_keys = true");
        let change = tree.converge(&*keys(&exclusive));
        assert!(change.diff.unwrap().to_string().contains(&format!("-{BOB}")));
        assert_eq!(tree.get(FILE), format!("# BEGIN kpull keys\n{ANN}\n# END kpull keys\n"));
        // a key of the role does not stay when it is no longer listed
        tree.converge(&*keys(&format!("authorized_keys = ['{BOB}']")));
        assert!(!tree.get(FILE).contains(ANN));
    }

    #[test]
    fn no_link_of_the_user_is_followed() {
        let tree = tree();
        tree.put("/etc/target", "root's\n");
        std::fs::create_dir_all(tree.path("/home/ann/.ssh")).unwrap();
        symlink("/etc/target", tree.path(FILE)).unwrap();
        let error = keys(&format!("authorized_keys = ['{ANN}']")).observe(&tree.work()).unwrap_err();
        assert_eq!(error.to_string(), format!("{FILE} is a link, but the role requires a block in it"));
        let change = tree.converge(&*keys(&format!("authorized_keys = ['{ANN}']\nexclusive_keys = true")));
        assert!(change.summary.contains("replace the link with a file"), "{}", change.summary);
        assert_eq!(tree.get("/etc/target"), "root's\n");
        std::fs::remove_dir_all(tree.path("/home/ann/.ssh")).unwrap();
        tree.put("/etc/dir/x", "");
        symlink("/etc/dir", tree.path("/home/ann/.ssh")).unwrap();
        let error = keys(&format!("authorized_keys = ['{ANN}']")).observe(&tree.work()).unwrap_err();
        assert!(error.to_string().contains("/home/ann/.ssh is a link"), "{error}");
    }

    #[test]
    fn keys_are_in_the_home_that_the_user_has() {
        let tree = Tree::new();
        tree.put("/etc/passwd", "ann:x:1000:1000::/srv/ann:/bin/sh\n");
        tree.converge(&*keys(&format!("authorized_keys = ['{ANN}']")));
        assert!(tree.path("/srv/ann/.ssh/authorized_keys").exists());
        let paths = |fields: &str| {
            let about = build("user", fields).unwrap().remove(1).about();
            about.paths().last().unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(paths("name = 'root'\nauthorized_keys = []"), "/root/.ssh/authorized_keys");
        let system = "name = 's'\nsystem = true\nhome = '/var/lib/s'\nauthorized_keys = []";
        assert_eq!(paths(system), "/var/lib/s/.ssh/authorized_keys");
    }

    #[test]
    fn what_is_no_public_key_is_refused_without_being_shown() {
        let refused = |keys: &str| refusal("user", &format!("name = 'ann'\nauthorized_keys = {keys}"));
        for key in ["-----BEGIN OPENSSH PRIVATE KEY-----", "AAAAC3NzaC1lZDI1NTE5AAAAIann", "# a comment"] {
            let why = refused(&format!("['{key}']"));
            assert!(why.starts_with("`authorized_keys`: ") && why.contains("is not a public key"), "{why}");
            assert!(!why.contains(key) || key.len() < 13, "{why}");
        }
        for key in [
            "restrict,command=\"/bin/x y\" ssh-rsa AAAA",
            "ecdsa-sha2-nistp256 AAAA",
            "sk-ssh-ed25519@openssh.com AAAA x",
        ] {
            assert!(build("user", &format!("name = 'ann'\nauthorized_keys = ['{key}']")).is_ok());
        }
        assert!(refusal("user", "name = 'ann'\nexclusive_keys = true").starts_with("`exclusive_keys`: "));
        assert!(refusal("user", "name = 's'\nsystem = true\nauthorized_keys = []").starts_with("`authorized_keys`: "));
    }
}
