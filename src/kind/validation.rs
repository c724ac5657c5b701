//! `validate`: the program that must accept a file before the file replaces the old one.

use crate::host::process::{Command, Ended, Output, run};
use crate::kind::prelude::*;

/// The placeholder for the path of the temporary file among a program's arguments.
const NEW: &str = "%s";

/// When the program is ended.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program that checks new content of a file.
#[derive(Clone, Debug)]
pub struct Validation {
    argv: Vec<String>,
    /// Whether its output is kept out of messages.
    sensitive: bool,
}

impl Validation {
    /// The program that the field `validate` names, if it is set. With `sensitive`, messages omit its output.
    pub fn of(argv: Option<Vec<String>>, sensitive: bool, build: &dyn Build) -> Result<Option<Self>> {
        let Some(argv) = argv else { return Ok(None) };
        let is_wrong = !is_argv(&argv) || !argv.iter().skip(1).any(|word| word.contains(NEW));
        let why = "write a program and its arguments, with %s for the path of the new file, like [\"visudo\", \"-cf\", \"%s\"]";
        build.refuse_if(is_wrong, "validate", why)?;
        Ok(Some(Self { argv, sensitive }))
    }

    /// Runs the program on a temporary file beside `path`, which has the new content, mode, owner and SELinux context. An error if the
    /// program fails: don't write the file then. In a tree, no program runs.
    pub fn check(&self, work: &Work<'_>, path: &Path, content: &[u8], access: Access) -> Result<()> {
        let Some(host) = work.live() else { return Ok(()) };
        host.root.beside(path, content, access, &|temporary| {
            let temporary = temporary.to_string_lossy();
            let argv: Vec<String> = self.argv.iter().map(|word| word.replace(NEW, &temporary)).collect();
            let output = run(&Command::new(&argv, PATIENCE))?;
            if output.is_success() {
                return Ok(());
            }
            // the temporary file does not exist any more when someone reads this
            let named =
                |text: &[u8]| String::from_utf8_lossy(text).replace(&*temporary, &path.to_string_lossy()).into_bytes();
            let output = Output { stdout: named(&output.stdout), stderr: named(&output.stderr), ..output };
            let program = self.argv.first().map_or("", String::as_str);
            let what = format!("{program} refuses the new {}, and the old one stays", path.display());
            let error = output.failure_of(what, self.sensitive).with_code(code::VALIDATE);
            Err(match output.ended {
                Ended::TimedOut(_) => error.help("find out what it waits for; the program gets no input"),
                Ended::Exited(_) => {
                    error.or_help("correct the content in the role: line numbers are those of the new file")
                }
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use crate::host::Host;
    use crate::kind::testing::{Tree, one, one_secret, refusal};
    use crate::kind::{Change, Resource, Work};
    use crate::store::Store;

    /// The message of a file at `DIR/f` with the content "new" that a script refuses, and what is in the directory then. The script runs
    /// on the machine itself.
    fn applied(kind: &str, fields: &str, script: &str) -> (Result<(), String>, Vec<String>, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "old").unwrap();
        let fields = format!("path = {path:?}\n{fields}\nvalidate = ['sh', '-c', '{script}', 'sh', '%s']");
        let resource: Box<dyn Resource> = match kind {
            "secret" => one_secret("file", &fields),
            kind => one(kind, &fields),
        };
        let state = tempfile::tempdir().unwrap();
        let (host, store) = (Host::open("/".as_ref()).unwrap(), Store::open(state.path()).unwrap());
        let work = Work { host: &host, store: &store, catalog: &[] };
        let done = resource
            .apply(&work, &Change::default())
            .map_err(|error| error.to_string().replace(dir.path().to_str().unwrap(), "DIR"));
        let mut names: Vec<String> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        (done, names, std::fs::read_to_string(&path).unwrap())
    }

    #[test]
    fn a_file_that_its_program_refuses_stays_as_it_was() {
        let script = r#"echo "$1:1: $(cat "$1") is wrong" >&2; exit 3"#;
        for (kind, fields) in [("file", "content = 'new'"), ("file", "content = 'new'\nin_place = true")] {
            let (done, names, content) = applied(kind, fields, script);
            let why = "sh refuses the new DIR/f, and the old one stays: exit status: 3\nDIR/f:1: new is wrong";
            assert_eq!((done.unwrap_err().as_str(), content.as_str()), (why, "old"));
            assert_eq!(names, ["f"], "no temporary file remains");
        }
        let (done, names, content) = applied("block", "name = 'n'\ncontent = 'new'", script);
        assert!(done.unwrap_err().ends_with("DIR/f:1: old\n# BEGIN kpull n\nnew\n# END kpull n is wrong"));
        assert_eq!((names, content.as_str()), (vec!["f".to_owned()], "old"));
    }

    #[test]
    fn a_file_that_its_program_accepts_is_written() {
        for fields in ["content = 'new'", "content = 'new'\nin_place = true"] {
            let script = r#"test "$(cat "$1")" = new && test "$(cat "${1%/*}/f")" = old"#;
            let (done, names, content) = applied("file", fields, script);
            assert_eq!((done, names, content.as_str()), (Ok(()), vec!["f".to_owned()], "new"));
        }
    }

    #[test]
    fn a_program_finds_the_new_file_with_its_mode() {
        let script = r#"test "$(stat -c %a "$1")" = 440"#;
        assert_eq!(applied("file", "content = 'new'\nmode = '0440'", script).0, Ok(()));
        let refused = applied("file", "content = 'new'\nmode = '0400'", script).0.unwrap_err();
        assert_eq!(refused, "sh refuses the new DIR/f, and the old one stays: exit status: 1, without any output");
    }

    #[test]
    fn the_output_of_a_program_that_reads_a_secret_is_not_shown() {
        let (done, ..) = applied("secret", "content = 'hunter2'", r#"cat "$1"; exit 1"#);
        let why = done.unwrap_err();
        assert!(why.contains("its output is not shown") && !why.contains("hunter2"), "{why}");
    }

    #[test]
    fn a_validation_names_a_program_and_the_place_of_the_new_file() {
        for argv in ["[]", "['']", "['visudo', '-c']", "['%s']"] {
            let why = refusal("file", &format!("path = '/f'\ncontent = ''\nvalidate = {argv}"));
            assert!(why.starts_with("`validate`: write a program and its arguments, with %s"), "{why}");
        }
    }

    #[test]
    fn nothing_is_validated_in_a_tree() {
        let tree = Tree::new();
        tree.converge(&*one("file", "path = '/f'\ncontent = 'x'\nvalidate = ['false', '%s']"));
        assert_eq!(tree.get("/f"), "x");
        assert_eq!(tree.path("/f").metadata().unwrap().permissions().mode() & 0o7777, 0o644);
    }
}
