//! `[[tree]]`: a directory of the role's files, copied with everything in it; each of its files is a separate resource.

mod exclusive;

pub(super) use self::exclusive::{Exclusive, Several};
use crate::kind::directory::Directory;
use crate::kind::prelude::*;
use crate::text;

/// Fields of `[[tree]]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TreeFields {
    /// The directory on the host.
    path: AbsolutePath,
    /// The name of a directory in the role's `files/`.
    source: String,
    /// Suffixes, such as `.j2`: a file whose name ends in one is rendered with the host's variables, and loses the suffix.
    #[serde(default)]
    render: Vec<String>,
    /// The mode of files. Default: `0755` for programs and for scripts that begin with `#!`, `0644` for other files, and `0600` for a file
    /// with a secret in it.
    mode: Option<Mode>,
    /// Permissions of some files, by patterns of their paths in the tree: `*` stands for any text without `/`, and `?`
    /// for one character.
    #[serde(default)]
    modes: BTreeMap<String, Mode>,
    /// The mode of the directories. If this, `owner` and `group` are omitted, existing directories are not changed.
    directory_mode: Option<Mode>,
    /// The user that owns files and directories. Default: `root`.
    owner: Option<AccountName>,
    /// The group that owns them. Default: `root`.
    group: Option<AccountName>,
    /// Whether to remove everything else in the directory, except for what other resources manage. Default: false.
    #[serde(default)]
    exclusive: bool,
}

impl Fields for TreeFields {
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let is_suffix = |suffix: &String| suffix.len() > 1 && suffix.starts_with('.') && !suffix.contains('/');
        let why = "a suffix is a dot and at least one more character, like `.j2`";
        build.refuse_if(!self.render.iter().all(is_suffix), "render", why)?;
        let mut files: BTreeMap<String, Box<dyn Resource>> = BTreeMap::new();
        let mut used = BTreeSet::new();
        for name in build.files_below("source", &self.source)? {
            let source = format!("{}/{name}", self.source);
            let suffix = self.render.iter().filter_map(|suffix| name.strip_suffix(suffix.as_str())).min();
            let rendered = suffix.filter(|target| !target.is_empty() && !target.ends_with('/'));
            let (target, content, is_secret): (_, Arc<[u8]>, _) = match rendered {
                Some(target) => {
                    let (text, is_secret) = build.rendered("source", &source)?;
                    (target.to_owned(), text.into_bytes().into(), is_secret)
                }
                None => (name.clone(), build.file("source", &source)?, false),
            };
            let mode = self.mode_of(&target, &content, is_secret, &mut used, build)?;
            let wanted = Ownership::of_file(is_secret, Some(mode), self.owner.clone(), self.group.clone());
            let path = AbsolutePath::try_from(format!("{}/{target}", self.path));
            let path = path.map_err(|why| build.invalid("source", &why))?;
            let file = File { wanted, ..File::new(Self::NAME, path, content, is_secret) };
            if files.insert(target.clone(), Box::new(file)).is_some() {
                return Err(build.invalid("source", &format!("two of its files become `{target}`: rename one of them")));
            }
        }
        if let Some(pattern) = self.modes.keys().find(|pattern| !used.contains(*pattern)) {
            return Err(build.invalid("modes", &format!("`{pattern}` matches no file in `{}`", self.source)));
        }
        let mut resources: Vec<Box<dyn Resource>> = Vec::new();
        let below = directories(files.keys());
        if self.directory_mode.is_some() || self.owner.is_some() || self.group.is_some() {
            let wanted = Ownership::new(0o755, self.directory_mode, self.owner.clone(), self.group.clone());
            let paths = below.iter().map(|below| AbsolutePath::try_from(format!("{}/{below}", self.path)));
            for path in std::iter::once(Ok(self.path.clone())).chain(paths) {
                let path = path.map_err(|why| build.invalid("source", &why))?;
                resources.push(Box::new(Directory { path, wanted: wanted.clone() }));
            }
        }
        if self.exclusive {
            let known = files.keys().map(|name| self.path.join(name)).collect();
            resources.push(Box::new(Exclusive::new(&self.path, known, build)?));
        }
        resources.extend(files.into_values());
        Ok(resources)
    }
}

impl TreeFields {
    /// The mode of a file by its path in the tree. Adds the patterns that fit to `used`.
    fn mode_of(
        &self,
        target: &str,
        content: &[u8],
        is_secret: bool,
        used: &mut BTreeSet<String>,
        build: &dyn Build,
    ) -> Result<Mode> {
        let mut found: Option<(&String, Mode)> = None;
        for (pattern, mode) in self.modes.iter().filter(|(pattern, _)| fits(target, pattern)) {
            used.insert(pattern.clone());
            if let Some((other, _)) = found.filter(|(_, other)| other != mode) {
                let why = format!("`{target}` fits `{other}` and `{pattern}`, which have different modes");
                return Err(build.invalid("modes", &why));
            }
            found = Some((pattern, *mode));
        }
        let is_program = content.starts_with(b"#!") || content.starts_with(b"\x7fELF");
        let usual = match (is_secret, is_program) {
            (true, false) => 0o600,
            (true, true) => 0o700,
            (false, true) => 0o755,
            (false, false) => 0o644,
        };
        Ok(found.map(|(_, mode)| mode).or(self.mode).unwrap_or(Mode(usual)))
    }
}

/// The directories that these paths are in.
fn directories<'a>(paths: impl Iterator<Item = &'a String>) -> BTreeSet<String> {
    let above = |path: &'a String| path.match_indices('/').filter_map(|(end, _)| path.get(..end)).map(str::to_owned);
    paths.flat_map(above).collect()
}

/// Whether each name of a path fits that of a pattern.
fn fits(path: &str, pattern: &str) -> bool {
    let (path, pattern): (Vec<&str>, Vec<&str>) = (path.split('/').collect(), pattern.split('/').collect());
    path.len() == pattern.len() && path.iter().zip(pattern).all(|(name, pattern)| text::fits(name, pattern))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::{TreeFields, fits};
    use crate::kind::Resource;
    use crate::kind::prior_state::PriorState;
    use crate::kind::testing::{RoleFiles, Tree, build_with, fails};

    fn role() -> RoleFiles {
        RoleFiles::default()
            .with("site/index.html", "<p>\n")
            .with("site/bin/run", "#!/bin/sh\n")
            .with("site/bin/tool", b"\x7fELF\x02")
            .with("site/conf/app.conf.j2", "name = h1\n")
            .with("other/x", "x")
    }

    fn built(fields: &str) -> Vec<Box<dyn Resource>> {
        build_with::<TreeFields>(&format!("path = '/srv/site'\nsource = 'site'\n{fields}"), &role()).unwrap()
    }

    fn mode(tree: &Tree, path: &str) -> u32 {
        tree.path(path).metadata().unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_tree_has_a_resource_for_each_file_and_renders_those_with_the_suffix() {
        let tree = Tree::new();
        let ids: Vec<String> = built("render = ['.j2']").iter().map(|one| one.about().id().to_string()).collect();
        assert_eq!(
            ids,
            ["bin/run", "bin/tool", "conf/app.conf", "index.html"].map(|name| format!("tree:/srv/site/{name}"))
        );
        built("render = ['.j2']").iter().for_each(|one| drop(tree.converge(&**one)));
        assert_eq!(tree.get("/srv/site/conf/app.conf"), "name = h1\n");
        let modes = ["bin/run", "bin/tool", "conf/app.conf", "index.html"]
            .map(|name| mode(&tree, &format!("/srv/site/{name}")));
        assert_eq!(modes, [0o755, 0o755, 0o644, 0o644]);
        built("")
            .iter()
            .for_each(|one| drop(one.observe(&tree.work()).unwrap().map(|change| one.apply(&tree.work(), &change))));
        assert_eq!(tree.get("/srv/site/conf/app.conf.j2"), "name = h1\n");
    }

    #[test]
    fn modes_follow_patterns_and_directories_are_made_only_with_an_owner_or_a_mode() {
        let tree = Tree::new();
        let fields = "mode = '0640'\ndirectory_mode = '0750'\n[modes]\n'bin/*' = '0700'\n'*.html' = '0604'";
        built(fields).iter().for_each(|one| drop(tree.converge(&**one)));
        let paths = ["", "/bin", "/bin/run", "/bin/tool", "/conf/app.conf.j2", "/index.html"];
        let modes = paths.map(|name| mode(&tree, &format!("/srv/site{name}")));
        assert_eq!(modes, [0o750, 0o750, 0o700, 0o700, 0o640, 0o604]);
        let kinds = |fields: &str| built(fields).iter().filter(|one| one.about().kind == "directory").count();
        assert_eq!((kinds(""), kinds("owner = 'web'"), kinds("group = 'web'")), (0, 3, 3));
    }

    #[test]
    fn only_an_exclusive_tree_removes_other_files_and_their_record_restores_them() {
        let tree = Tree::new();
        tree.put("/srv/site/old/a", "theirs");
        tree.put("/srv/site/bin/b", "theirs");
        std::os::unix::fs::symlink("b", tree.path("/srv/site/bin/link")).unwrap();
        built("").iter().for_each(|one| drop(tree.converge(&**one)));
        assert_eq!(tree.get("/srv/site/old/a"), "theirs");
        let exclusive = built("exclusive = true").remove(0);
        assert_eq!(exclusive.about().id(), "tree:/srv/site");
        let owned = exclusive.owned(&tree.work()).unwrap().remove(0);
        let prior = exclusive.prior_state(&owned, &tree.work()).unwrap();
        assert_eq!(prior.saved().len(), 2);
        let change = tree.converge(&*exclusive);
        assert_eq!(change.summary, "remove b, link, old");
        assert_eq!(tree.get("/srv/site/bin/run"), "#!/bin/sh\n");
        assert!(!tree.path("/srv/site/old").exists() && !tree.path("/srv/site/bin/link").is_symlink());
        let read: PriorState = serde_json::from_str(&serde_json::to_string(&prior).unwrap()).unwrap();
        let restored = read.resource(tree.work().store).unwrap().unwrap();
        assert_eq!(tree.converge(&*restored).summary, "restore 4 paths");
        assert_eq!(tree.get("/srv/site/old/a"), "theirs");
        assert_eq!(tree.path("/srv/site/bin/link").read_link().unwrap().to_str(), Some("b"));
    }

    #[test]
    fn only_the_file_of_a_tree_that_has_a_secret_is_private() {
        let tree = Tree::new();
        let fields = "path = '/srv/site'\nsource = 'site'\nrender = ['.j2']";
        for one in build_with::<TreeFields>(fields, &role().secret()).unwrap() {
            let change = tree.converge(&*one);
            let is_shown = change.diff.is_some_and(|diff| diff.to_string().contains("name = h1"));
            assert!(!is_shown, "{}", one.about().key);
        }
        assert_eq!((mode(&tree, "/srv/site/conf/app.conf"), mode(&tree, "/srv/site/index.html")), (0o600, 0o644));
    }

    #[test]
    fn mistakes_in_a_tree_name_their_field() {
        let twice = role().with("site/index.html.j2", "x");
        for (fields, why) in [
            ("source = 'none'", "`source`: there is no none/"),
            ("source = 'site'\nrender = ['j2']", "`render`: a suffix is a dot and at least one more character"),
            ("source = 'site'\nrender = ['.j2']", "`source`: two of its files become `index.html`"),
            ("source = 'site'\nmodes = { 'sbin/*' = '0755' }", "`modes`: `sbin/*` matches no file in `site`"),
            (
                "source = 'site'\nmodes = { 'bin/*' = '0755', 'bin/r*' = '0700' }",
                "`modes`: `bin/run` fits `bin/*` and `bin/r*`",
            ),
        ] {
            let reported = fails::<TreeFields>(&format!("path = '/srv/site'\n{fields}"), &twice);
            assert!(reported.contains(why), "{reported} does not say {why}");
        }
        let reported = fails::<TreeFields>("path = '/srv'\nsource = 'site'\nexclusive = true", &role());
        assert!(reported.starts_with("`exclusive`: kpull does not remove anything"), "{reported}");
    }

    #[test]
    fn a_star_stands_for_any_text_within_one_name() {
        for (pattern, path, is_fit) in [
            ("bin/*", "bin/a", true),
            ("bin/*", "bin/a/b", false),
            ("*.sh", "a.sh", true),
            ("*.sh", "x/a.sh", false),
            ("*/*.sh", "x/a.sh", true),
            ("a*b*c", "aXbYbZc", true),
            ("a", "ab", false),
            ("a?", "ab", true),
            ("a?b", "a/b", false),
        ] {
            assert_eq!(fits(path, pattern), is_fit, "{pattern} {path}");
        }
    }
}
