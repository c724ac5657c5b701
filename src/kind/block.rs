//! `[[block]]`: lines between two markers in a file that others write too; the rest of the file does not change.

use std::ops::Range;

use crate::kind::edit::{EditedFile, check_is_file};
use crate::kind::prelude::*;

/// Fields of `[[block]]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BlockFields {
    /// The file. A missing file is created (0644, or 0600 with a secret in it; root).
    path: AbsolutePath,
    /// A name that distinguishes the block from others in this file: letters, digits, `.`, `_` and `-`.
    name: String,
    /// The lines of the block.
    content: String,
    /// The characters that start a comment in this file. Default: `#`.
    comment: Option<String>,
    /// Whether to omit the content from diffs.
    #[serde(default)]
    sensitive: bool,
    /// Whether to write into the existing file instead of replacing it, for a file that is a mount, or that another program keeps open.
    /// Default: false.
    #[serde(default)]
    in_place: bool,
    /// A program with its arguments that must accept the new content before it replaces the old one, with `%s` for the path of a temporary
    /// file with that content. Default: no check.
    validate: Option<Vec<String>>,
}

impl Fields for BlockFields {
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let why = "a block's name consists of letters, digits, `.`, `_` and `-`";
        build.refuse_if(!is_plain(&self.name), "name", why)?;
        let comment = self.comment.unwrap_or_else(|| "#".to_owned());
        let is_bad = comment.trim().is_empty() || comment.contains(['\n', '\r', '\0']);
        let why = "write the characters that start a comment in this file, like `#` or `//`";
        build.refuse_if(is_bad, "comment", why)?;
        let markers = ["BEGIN", "END"].map(|word| format!("{comment} {word} kpull "));
        let has_marker = self.content.lines().any(|line| markers.iter().any(|marker| line.starts_with(marker)));
        build.refuse_if(has_marker, "content", "a block can't contain the markers of a block")?;
        let mut text = format!("{comment} BEGIN kpull {}\n{}", self.name, self.content);
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&format!("{comment} END kpull {}\n", self.name));
        let file = EditedFile::of_role(self.path, self.in_place, self.sensitive, self.validate, build)?;
        Ok(vec![Box::new(Block { file, name: self.name, comment, text, unended: false })])
    }
}

/// A block of a file.
#[derive(Debug)]
pub struct Block {
    pub(super) file: EditedFile,
    pub(super) name: String,
    pub(super) comment: String,
    /// With both markers; empty to remove the block.
    pub(super) text: String,
    /// Whether the line before it had no line break, which is restored if nothing follows.
    pub(super) unended: bool,
}

impl Block {
    fn find(&self, host: &Host) -> Result<(Vec<u8>, Range<usize>)> {
        find(host, &self.file.path, &self.comment, &self.name)
    }
}

/// The content of a file and the range of a block in it, empty without the block.
pub(super) fn find(host: &Host, path: &Path, comment: &str, name: &str) -> Result<(Vec<u8>, Range<usize>)> {
    let Some((_, content)) = host.root.read(path)? else {
        let found = host.root.meta(path)?;
        found.map_or(Ok(()), |meta| check_is_file(path, meta.what, "a block in it"))?;
        return Ok((Vec::new(), 0..0));
    };
    let [begin, end] = ["BEGIN", "END"].map(|word| format!("{comment} {word} kpull {name}"));
    let bad = |line: usize, why: &str| {
        error!(FILE, "the block {name} can't be found: {}:{line}: {why}", path.display())
            .help("remove the surplus markers from the file; the next run writes the block again")
    };
    let (mut start, mut found, mut at) = (None, None, 0);
    for (index, line) in content.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let text = line.trim_ascii_end();
        if text == begin.as_bytes() {
            match (start, &found) {
                (None, None) => start = Some((at, index + 1)),
                (Some(_), _) => return Err(bad(index + 1, "a second BEGIN before the END")),
                (None, Some(_)) => return Err(bad(index + 1, "a second block of this name")),
            }
        } else if text == end.as_bytes() {
            match start.take() {
                Some((from, _)) => found = Some(from..at + line.len()),
                None => return Err(bad(index + 1, "an END without a BEGIN")),
            }
        }
        at += line.len();
    }
    match (start, found) {
        (Some((_, line)), _) => Err(bad(line, "a BEGIN without an END")),
        (None, found) => Ok((content, found.unwrap_or(at..at))),
    }
}

/// The content of a file with this text in the place of a block.
pub(super) fn replaced(content: &[u8], range: Range<usize>, text: &str) -> Vec<u8> {
    let (before, after) = (&content[..range.start], &content[range.end..]);
    let is_ended = before.is_empty() || before.ends_with(b"\n") || text.is_empty();
    [before, if is_ended { &b""[..] } else { b"\n" }, text.as_bytes(), after].concat()
}

impl Resource for Block {
    fn about(&self) -> About {
        self.file.about(BlockFields::NAME, &self.name, &self.name)
    }

    fn content(&self) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Borrowed(self.text.as_bytes()))
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let (content, range) = self.find(work.host)?;
        let old = &content[range];
        let new = self.text.as_bytes();
        Ok((old != new).then(|| EditedFile::change(BlockFields::NAME, old, new, self.file.sensitive)))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let (content, range) = self.find(work.host)?;
        let is_last = range.end == content.len();
        let mut new = replaced(&content, range, &self.text);
        if self.unended && is_last && new.ends_with(b"\n") {
            new.pop();
        }
        self.file.put(work, work.host.root.meta(&self.file.path)?.as_ref(), &new, new.is_empty())
    }

    fn prior_state(&self, _: &Claim, work: &Work<'_>) -> Result<PriorState> {
        let (content, block) = self.find(work.host)?;
        Ok(PriorState::NoBlock {
            path: self.file.path.to_string(),
            name: self.name.clone(),
            comment: self.comment.clone(),
            no_file: work.host.root.meta(&self.file.path)?.is_none(),
            in_place: self.file.in_place,
            unended: block.is_empty() && content.last().is_some_and(|last| *last != b'\n'),
        })
    }

    fn refine(&self, prior: &mut PriorState, _: &Work<'_>) -> Result<bool> {
        let PriorState::NoBlock { in_place, .. } = prior else { return Ok(false) };
        Ok(self.file.refine(in_place))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::kind::testing::{Tree, one, refusal};

    fn block(content: &str) -> Box<dyn Resource> {
        one("block", &format!("path = '/etc/hosts'\nname = 'n'\ncontent = \"{content}\""))
    }

    #[test]
    fn a_missing_block_is_added_at_the_end_and_the_file_keeps_its_mode() {
        let tree = Tree::new();
        tree.put("/etc/hosts", "127.0.0.1 localhost");
        std::fs::set_permissions(tree.path("/etc/hosts"), PermissionsExt::from_mode(0o600)).unwrap();
        let change = tree.converge(&*block("10.0.0.1 a"));
        assert_eq!(change.summary, "add the block");
        let diff = change.diff.unwrap().to_string();
        assert!(diff.contains("+10.0.0.1 a") && !diff.contains("localhost"), "{diff}");
        assert_eq!(tree.get("/etc/hosts"), "127.0.0.1 localhost\n# BEGIN kpull n\n10.0.0.1 a\n# END kpull n\n");
        assert_eq!(tree.path("/etc/hosts").metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    }

    #[test]
    fn a_block_is_changed_in_its_place_and_the_rest_stays_byte_for_byte() {
        let tree = Tree::new();
        std::fs::create_dir(tree.path("/etc")).unwrap();
        let around = |block: &str| [b"\xff odd\r\n\n", block.as_bytes(), b"\n\nno newline at the end"].concat();
        std::fs::write(tree.path("/etc/hosts"), around("# BEGIN kpull n\nold\n# END kpull n\n")).unwrap();
        assert_eq!(tree.converge(&*block("new\\n")).summary, "change the block");
        assert_eq!(std::fs::read(tree.path("/etc/hosts")).unwrap(), around("# BEGIN kpull n\nnew\n# END kpull n\n"));
    }

    #[test]
    fn two_blocks_of_one_file_get_along() {
        let tree = Tree::new();
        let other = one("block", "path = '/etc/hosts'\nname = 'm'\ncontent = 'x'");
        tree.converge(&*block("a"));
        tree.converge(&*other);
        assert_eq!(tree.summary(&*block("a")), None);
        assert_eq!(tree.path("/etc/hosts").metadata().unwrap().permissions().mode() & 0o7777, 0o644);
        assert_ne!(block("a").about().claims, other.about().claims);
    }

    #[test]
    fn a_block_claims_a_part_of_the_file() {
        assert_eq!(block("a").about().claims, [Claim::part("n", "/etc/hosts")]);
        assert_eq!(Claim::part("n", "/etc/h@sts").whole(), Some(&Claim::path("/etc/h@sts")));
    }

    #[test]
    fn unpaired_markers_are_an_error_with_their_line() {
        for (text, why) in [
            ("a\n# BEGIN kpull n\nb\n", "/etc/hosts:2: a BEGIN without an END"),
            ("# END kpull n\n", "/etc/hosts:1: an END without a BEGIN"),
            ("# BEGIN kpull n\n# BEGIN kpull n\n# END kpull n\n", "/etc/hosts:2: a second BEGIN before the END"),
            (
                "# BEGIN kpull n\n# END kpull n\n# BEGIN kpull n\n# END kpull n\n",
                "/etc/hosts:3: a second block of this name",
            ),
        ] {
            let tree = Tree::new();
            tree.put("/etc/hosts", text);
            let error = block("x").observe(&tree.work()).unwrap_err();
            assert_eq!(error.to_string(), format!("the block n can't be found: {why}"));
        }
    }

    #[test]
    fn a_link_is_not_followed() {
        let tree = Tree::new();
        std::fs::create_dir(tree.path("/etc")).unwrap();
        std::os::unix::fs::symlink("other", tree.path("/etc/hosts")).unwrap();
        let error = block("x").observe(&tree.work()).unwrap_err();
        assert_eq!(error.to_string(), "/etc/hosts is a link, but the role requires a block in it");
    }

    #[test]
    fn markers_inside_a_block_and_odd_names_are_refused() {
        let fields = |name: &str, content: &str| format!("path = '/f'\nname = '{name}'\ncontent = '{content}'");
        assert!(refusal("block", &fields("n", "# END kpull m")).contains("markers of a block"));
        assert!(refusal("block", &fields("a@b", "x")).starts_with("`name`: "));
    }

    #[test]
    fn the_lines_of_a_sensitive_block_are_not_shown() {
        let block = one("block", "path = '/f'\nname = 'n'\ncontent = 'hunter2'\nsensitive = true");
        assert!(!Tree::new().converge(&*block).diff.unwrap().to_string().contains("hunter2"));
    }
}
