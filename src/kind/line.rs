//! `[[line]]`: one line in a file that others write too, or its absence.

use fancy_regex::Regex;

use crate::kind::edit::lines::{InsertAt, LineEdit};
use crate::kind::edit::{EditedFile, FileEdit, Operation};
use crate::kind::prelude::*;

/// Fields of `[[line]]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LineFields {
    /// The file.
    path: AbsolutePath,
    /// The line, without a line break. With `state = "absent"`, every line that equals it is removed.
    line: Option<String>,
    /// A regular expression for the line to replace: the last line that matches. It must match `line` too. If omitted, the line that equals
    /// `line`. With `state = "absent"`, every line that matches is removed.
    regex: Option<String>,
    /// A regular expression: a new line goes after the last line that matches. Without a match, it goes to the end of the file.
    insert_after: Option<String>,
    /// A regular expression: a new line goes before the first line that matches. Without a match, it goes to the end of the file.
    insert_before: Option<String>,
    /// The end of the file that a new line goes to: the beginning or the end. Default: the end.
    insert_at: Option<Position>,
    /// Whether the line is in the file. Default: `present`.
    #[serde(default)]
    state: Presence,
    /// The end of the id, `line:PATH#NAME`: letters, digits, `.`, `_` and `-`. Default: `regex` or `line`.
    name: Option<String>,
    /// Whether to create a missing file (0644, or 0600 with a secret in it; root). Default: false, and a missing file is an error.
    #[serde(default)]
    create: bool,
    /// Whether to omit the line from diffs.
    #[serde(default)]
    sensitive: bool,
    /// Whether to write into the existing file instead of replacing it. Default: false.
    #[serde(default)]
    in_place: bool,
    /// A program with its arguments that must accept the new content before it replaces the old one, with `%s` for the path of a temporary
    /// file with that content. Default: no check.
    validate: Option<Vec<String>>,
}

/// An end of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Position {
    /// The first line.
    Begin,
    /// The last line.
    End,
}

impl Fields for LineFields {
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let is_present = self.state == Presence::Present;
        match (&self.line, &self.regex, is_present) {
            (None, _, true) => return Err(build.invalid("path", "set `line`")),
            (None, None, false) => return Err(build.invalid("path", "set `line` or `regex` to select what to remove")),
            (Some(_), Some(_), false) => return Err(build.invalid("line", "set `line` or `regex`, not both")),
            _ => {}
        }
        let line = self.line.as_deref().unwrap_or_default();
        build.refuse_if(self.line.is_some() && line.trim().is_empty(), "line", "a line can't be empty")?;
        let breaks = ['\n', '\r', '\0'];
        build.refuse_if(line.contains(breaks), "line", "it must be one line: for several lines, write a [[block]]")?;
        let compiled = |field: &str, text: &Option<String>| match text {
            None => Ok(None),
            Some(text) => Regex::new(text).map(Some).map_err(|error| build.invalid(field, &error.to_string())),
        };
        build.refuse_if(self.regex.as_deref() == Some(""), "regex", "an empty expression matches every line")?;
        let regex = compiled("regex", &self.regex)?;
        if let (Some(regex), true) = (&regex, is_present) {
            let matches = regex.is_match(line).map_err(|error| build.invalid("regex", &error.to_string()))?;
            let why = "it does not match `line`, so each run would add the line again: match the old and the new line";
            build.refuse_if(!matches, "regex", why)?;
        }
        let places = [self.insert_after.is_some(), self.insert_before.is_some(), self.insert_at.is_some()];
        let is_one = places.iter().filter(|is_set| **is_set).count() < 2;
        build.refuse_if(!is_one, "path", "set one of `insert_after`, `insert_before` and `insert_at`")?;
        let why = "only a present line has an insertion place: remove it";
        build.refuse_if(!is_present && places.contains(&true), "state", why)?;
        let insert_at =
            match (compiled("insert_after", &self.insert_after)?, compiled("insert_before", &self.insert_before)?) {
                (Some(regex), _) => InsertAt::After(regex),
                (_, Some(regex)) => InsertAt::Before(regex),
                _ if self.insert_at == Some(Position::Begin) => InsertAt::Begin,
                _ => InsertAt::End,
            };
        let is_bad = self.name.as_deref().is_some_and(|name| !is_plain(name));
        build.refuse_if(is_bad, "name", "a line's name consists of letters, digits, `.`, `_` and `-`")?;
        let why = "a line with a secret needs a `regex` that finds it again, without the secret";
        build.refuse_if(build.is_secret() && self.regex.is_none(), "line", why)?;
        let part = self.regex.clone().or_else(|| self.line.clone()).unwrap_or_default();
        let name = self.name.unwrap_or_else(|| part.clone());
        let operation = Operation::Line(LineEdit { line: self.line, regex, insert_at, presence: self.state });
        let file = EditedFile::of_role(self.path, self.in_place, self.sensitive, self.validate, build)?;
        let (part, create) = (format!("line:{part}"), self.create);
        Ok(vec![Box::new(FileEdit { kind: Self::NAME, file, name, part, operation, create })])
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::kind::prior_state::PriorState;
    use crate::kind::testing::{Tree, one, one_secret, refusal};

    fn line(fields: &str) -> Box<dyn Resource> {
        one("line", &format!("path = '/etc/f'\n{fields}"))
    }

    const ROOT: &str = "regex = '^#?PermitRootLogin\\s'\nline = 'PermitRootLogin no'";

    /// Applies the line to a file with this text; returns the new text after its prior state came back from it too.
    fn there_and_back(fields: &str, text: &str) -> String {
        let (tree, line) = (Tree::new(), line(fields));
        tree.put("/etc/f", text);
        let prior = prior(&*line, &tree);
        tree.converge(&*line);
        let new = tree.get("/etc/f");
        undo(&prior, &tree);
        assert_eq!(tree.get("/etc/f"), text, "{fields}");
        undo(&prior, &tree);
        assert_eq!(tree.get("/etc/f"), text, "a second time: {fields}");
        new
    }

    fn prior(line: &dyn Resource, tree: &Tree) -> PriorState {
        let prior = line.prior_state(&line.about().claims[0], &tree.work()).unwrap();
        // as it is recorded
        serde_json::from_str(&serde_json::to_string(&prior).unwrap()).unwrap()
    }

    fn undo(prior: &PriorState, tree: &Tree) {
        let Some(undo) = prior.resource(tree.work().store).unwrap() else { return };
        if let Some(change) = undo.observe(&tree.work()).unwrap() {
            undo.apply(&tree.work(), &change).unwrap();
        }
        assert_eq!(tree.summary(&*undo), None);
    }

    #[test]
    fn the_last_line_that_matches_is_replaced_and_comes_back() {
        let text = "Port 22\n#PermitRootLogin yes\nPermitRootLogin yes\nX11Forwarding no\n";
        let new = there_and_back(ROOT, text);
        assert_eq!(new, "Port 22\n#PermitRootLogin yes\nPermitRootLogin no\nX11Forwarding no\n");
    }

    #[test]
    fn a_new_line_goes_where_the_role_says_and_to_the_end_if_nothing_matches() {
        let text = "a\nMatch User x\nb\nMatch User y\nc\n";
        for (place, new) in [
            ("", "a\nMatch User x\nb\nMatch User y\nc\nl\n"),
            ("insert_at = 'end'", "a\nMatch User x\nb\nMatch User y\nc\nl\n"),
            ("insert_at = 'begin'", "l\na\nMatch User x\nb\nMatch User y\nc\n"),
            ("insert_before = '^Match'", "a\nl\nMatch User x\nb\nMatch User y\nc\n"),
            ("insert_after = '^Match'", "a\nMatch User x\nb\nMatch User y\nl\nc\n"),
            ("insert_after = '^z'", "a\nMatch User x\nb\nMatch User y\nc\nl\n"),
            ("insert_before = '^z'", "a\nMatch User x\nb\nMatch User y\nc\nl\n"),
        ] {
            assert_eq!(there_and_back(&format!("line = 'l'\n{place}"), text), new, "{place}");
        }
    }

    #[test]
    fn absent_lines_are_all_removed_and_come_back_where_they_were() {
        let text = "x 1\na\nx 2\nx 3\nb\na\nx 4\n";
        assert_eq!(there_and_back("regex = '^x'\nstate = 'absent'", text), "a\nb\na\n");
        assert_eq!(there_and_back("line = 'a'\nstate = 'absent'", text), "x 1\nx 2\nx 3\nb\nx 4\n");
        assert_eq!(there_and_back("line = 'only'\nstate = 'absent'", "only"), "");
    }

    #[test]
    fn the_end_of_a_file_its_line_breaks_and_its_byte_order_mark_stay() {
        assert_eq!(there_and_back("line = 'b'", "a"), "a\nb\n");
        assert_eq!(there_and_back("line = 'b'", ""), "b\n");
        assert_eq!(there_and_back("line = 'b'\nregex = '^[ab]$'", "x\na"), "x\nb");
        assert_eq!(there_and_back("line = 'b'\nregex = '^[ab]$'", "x\r\na\r\ny\r\n"), "x\r\nb\r\ny\r\n");
        assert_eq!(there_and_back("line = 'b'\nregex = '^[ab]$'", "\u{feff}a\nc\n"), "\u{feff}b\nc\n");
    }

    #[test]
    fn what_others_changed_meanwhile_stays_when_the_line_goes() {
        let (tree, line) = (Tree::new(), line(ROOT));
        tree.put("/etc/f", "a\n#PermitRootLogin yes\nb\n");
        let was = prior(&*line, &tree);
        tree.converge(&*line);
        tree.put("/etc/f", "new\na\nPermitRootLogin maybe\nB\n");
        assert_eq!(tree.summary(&*line).unwrap(), "change the line");
        undo(&was, &tree);
        assert_eq!(tree.get("/etc/f"), "new\na\n#PermitRootLogin yes\nB\n");
        tree.put("/etc/f", "new\na\nB\n");
        undo(&was, &tree);
        assert_eq!(tree.get("/etc/f"), "new\na\n#PermitRootLogin yes\nB\n", "it was removed");
    }

    #[test]
    fn a_line_that_was_there_already_stays() {
        let (tree, line) = (Tree::new(), line("line = 'a'"));
        tree.put("/etc/f", "a\n");
        assert_eq!((prior(&*line, &tree), tree.summary(&*line)), (PriorState::Same, None));
    }

    #[test]
    fn a_line_that_a_later_release_removes_brings_all_lines_back() {
        let (tree, line) = (Tree::new(), line("regex = '^x'\nline = 'x new'"));
        tree.put("/etc/f", "x 1\na\nx 2\nb\n");
        let mut was = prior(&*line, &tree);
        tree.converge(&*line);
        let absent = super::tests::line("regex = '^x'\nstate = 'absent'");
        assert_eq!(absent.about().claims, line.about().claims);
        let refine = |was: &mut PriorState| absent.refine(was, &tree.work()).unwrap();
        assert!(refine(&mut was));
        assert!(!refine(&mut was));
        tree.converge(&*absent);
        assert_eq!(tree.get("/etc/f"), "a\nb\n");
        undo(&was, &tree);
        assert_eq!(tree.get("/etc/f"), "x 1\na\nx 2\nb\n");
    }

    #[test]
    fn a_missing_file_is_an_error_unless_the_role_creates_it_and_goes_again() {
        let tree = Tree::new();
        let error = line("line = 'a'").observe(&tree.work()).unwrap_err();
        assert_eq!(error.to_string(), "/etc/f can't be edited: there is no such file on this host");
        assert_eq!(tree.summary(&*line("line = 'a'\nstate = 'absent'")), None);
        let line = line("line = 'a'\ncreate = true");
        let was = prior(&*line, &tree);
        assert_eq!(tree.converge(&*line).summary, "add the line");
        assert_eq!(tree.get("/etc/f"), "a\n");
        undo(&was, &tree);
        assert!(!tree.path("/etc/f").exists());
    }

    #[test]
    fn what_is_no_text_file_is_refused() {
        let why = |bytes: &[u8]| {
            let tree = Tree::new();
            tree.put("/etc/f", "");
            std::fs::write(tree.path("/etc/f"), bytes).unwrap();
            line("line = 'a'").observe(&tree.work()).unwrap_err().to_string()
        };
        assert_eq!(why(b"\xff"), "/etc/f can't be edited: it is not UTF-8 text");
        assert_eq!(why(b"a\0b"), "/etc/f can't be edited: it is not UTF-8 text");
        assert_eq!(why(&vec![b'x'; (1 << 20) + 1]), "/etc/f can't be edited: it is larger than 1 MiB");
        let tree = Tree::new();
        tree.put("/etc/g", "");
        symlink("g", tree.path("/etc/f")).unwrap();
        let error = line("line = 'a'").observe(&tree.work()).unwrap_err();
        assert_eq!(error.to_string(), "/etc/f is a link, but the role requires a file to edit");
    }

    #[test]
    fn a_file_keeps_its_mode_and_a_private_one_is_not_shown() {
        let tree = Tree::new();
        tree.put("/etc/f", "password = old\nuser = x\n");
        let line = line("regex = '^password'\nline = 'password = new'");
        let diff = line.observe(&tree.work()).unwrap().unwrap().diff.unwrap().to_string();
        assert_eq!(diff, "@@ -1 +1 @@\n-password = old\n+password = new\n");
        std::fs::set_permissions(tree.path("/etc/f"), PermissionsExt::from_mode(0o600)).unwrap();
        assert!(!tree.converge(&*line).diff.unwrap().to_string().contains("old"));
        assert_eq!(tree.path("/etc/f").metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    }

    #[test]
    fn a_secret_is_neither_in_the_diff_nor_in_the_record() {
        let tree = Tree::new();
        tree.put("/etc/f", "a\n");
        let line = one_secret("line", "path = '/etc/f'\nregex = '^password'\nline = 'password = hunter2'");
        assert!(!format!("{:?}", prior(&*line, &tree)).contains("hunter2"));
        assert!(!tree.converge(&*line).diff.unwrap().to_string().contains("hunter2"));
    }

    #[test]
    fn each_mistake_in_a_line_has_its_field_and_reason() {
        let why = |fields: &str| refusal("line", &format!("path = '/etc/f'\n{fields}"));
        for (fields, reason) in [
            ("", "`path`: set `line`"),
            ("state = 'absent'", "`path`: set `line` or `regex` to select what to remove"),
            ("state = 'absent'\nline = 'a'\nregex = 'a'", "`line`: set `line` or `regex`, not both"),
            ("line = ' '", "`line`: a line can't be empty"),
            ("line = \"a\\nb\"", "`line`: it must be one line: for several lines, write a [[block]]"),
            ("line = 'a'\nregex = '^b'", "`regex`: it does not match `line`"),
            ("line = 'a'\nregex = '('", "`regex`: "),
            ("line = 'a'\nregex = ''", "`regex`: an empty expression matches every line"),
            ("line = 'a'\ninsert_after = '('", "`insert_after`: "),
            ("line = 'a'\ninsert_after = 'a'\ninsert_at = 'end'", "`path`: set one of"),
            (
                "line = 'a'\nstate = 'absent'\ninsert_at = 'end'",
                "`state`: only a present line has an insertion place: remove it",
            ),
            ("line = 'a'\nname = 'a b'", "`name`: "),
        ] {
            assert!(why(fields).starts_with(reason), "{fields}: {}", why(fields));
        }
        let role = crate::kind::testing::RoleFiles::default().secret();
        let secret = crate::kind::testing::fails::<LineFields>("path = '/etc/f'\nline = 'a'", &role);
        assert!(secret.starts_with("`line`: a line with a secret needs a `regex`"), "{secret}");
    }

    #[test]
    fn two_lines_that_change_one_another_are_found() {
        let errors = |role: &str| match crate::resolve::testing::catalog(role) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        let line = |fields: &str| format!("[[line]]\npath = '/etc/f'\n{fields}\n");
        let port = line("regex = '^Port'\nline = 'Port 22'");
        assert_eq!(errors(&format!("{port}{}", line("line = 'a'"))), "");
        for other in ["regex = '^#?Port'\nline = 'Port 23'", "line = 'Port 22'\nstate = 'absent'"] {
            let error = errors(&format!("{port}{}", line(other)));
            assert!(error.contains("change the same part of `/etc/f`"), "{other}: {error}");
        }
        let whole = format!("{port}[[file]]\npath = '/etc/f'\ncontent = ''\n");
        assert!(errors(&whole).contains("`/etc/f` occurs twice in the role r"), "{}", errors(&whole));
        let block = format!("{port}[[block]]\npath = '/etc/f'\nname = 'n'\ncontent = 'x'\n");
        assert_eq!(errors(&block), "");
    }
}
