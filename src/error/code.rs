//! The public codes of errors, which stay stable when messages change. The manual's page has a section for each, and is compiled in.

/// A class of errors.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    /// Its name, such as `trust.expired`.
    pub name: &'static str,
}

macro_rules! codes {
    ($($id:ident $name:literal)*) => {
        $(
            #[doc = concat!("`", $name, "`: its section of docs/src/usage/errors.md says what it means.")]
            pub const $id: &Code = &Code { name: $name };
        )*
        /// Every code, in the order of the manual.
        pub static ALL: &[&Code] = &[$($id),*];
    };
}

codes! {
    CONFIG "host.config"
    ENROLL "host.enroll"
    NAME "host.name"
    RIGHTS "host.rights"
    SPACE "host.space"
    DISK "host.disk"
    LIMIT "host.limit"
    BUSY "host.busy"
    STORE "host.state"
    GENERATION "host.generation"
    HOLD "host.held"
    FACTS "host.facts"
    SITE "site.files"
    SYNTAX "site.syntax"
    ROLE "site.role"
    FIELD "site.field"
    CLASH "site.clash"
    UNKNOWN "site.reference"
    VARIABLE "site.variable"
    TEMPLATE "site.template"
    PIN "site.pin"
    LINT_PROGRAM "check.program"
    LINT_FLAG "check.flag"
    LINT_UNIT "check.unit"
    LINT_PORT "check.port"
    LINT_CERTIFICATE "check.certificate"
    LINT_SECRET "check.secret"
    LINT_HOST "check.host"
    SIGNATURE "trust.signature"
    TAMPERED "trust.tampered"
    EXPIRED "trust.expired"
    SERIAL "trust.serial"
    CLOCK "trust.clock"
    KEYS "trust.keys"
    MANIFEST "trust.manifest"
    SIGN "trust.sign"
    TRUST_STATE "trust.memory"
    SOURCE "source.config"
    GIT "source.git"
    HTTP "source.http"
    DIR "source.dir"
    NET "net.failed"
    MISSING "net.missing"
    SANDBOX "net.sandbox"
    SECRET "secret.read"
    SECRET_WRITE "secret.write"
    LITERAL "secret.literal"
    PKI "pki.failed"
    ARTIFACT "artifact.failed"
    SUPPLY "artifact.supply"
    FILE "resource.file"
    VALIDATE "resource.validate"
    ACCOUNT "resource.account"
    PACKAGE "resource.package"
    UNIT "resource.unit"
    FIREWALL "resource.firewall"
    COMMAND "resource.command"
    KERNEL "resource.kernel"
    CREDENTIAL "resource.secret"
    KUBE "cluster.kubernetes"
    ETCD "cluster.etcd"
    SLOT "cluster.slot"
    PROBE "health.probe"
    BACK "health.back"
    EDIT "site.edit"
    VENDOR "site.vendor"
    HOOK "fleet.hook"
    ROLLOUT "fleet.rollout"
    ADOPT "site.adopt"
    FLEET "fleet.failed"
    EXPLAIN "usage.name"
    OTHER "kpull.other"
}

/// The manual's page: a section for each code.
const PAGE: &str = include_str!("../../docs/src/usage/errors.md");

/// The code of this name.
pub fn find(name: &str) -> Option<&'static Code> {
    ALL.iter().copied().find(|code| code.name == name)
}

/// A code's section of the manual.
pub struct Section {
    /// The meaning, in a sentence.
    pub means: &'static str,
    /// Why it occurs.
    pub why: &'static str,
    /// What to do.
    pub advice: &'static str,
    /// An example of the message or of a fix.
    pub example: &'static str,
}

impl Code {
    /// Its section of the manual; `None` only if the manual lacks it, which a test excludes.
    pub fn section(&self) -> Option<Section> {
        let mut sections = PAGE.split("\n## ").filter_map(|section| section.split_once("\n\n"));
        let (_, text) = sections.find(|(name, _)| *name == self.name)?;
        let (means, rest) = text.split_once("\n\n*Why.* ")?;
        let (why, rest) = rest.split_once("\n\n*What to do.* ")?;
        let (advice, rest) = rest.split_once("\n\n```text\n")?;
        let (example, _) = rest.split_once("\n```")?;
        Some(Section { means, why, advice, example })
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    /// The text of every file of this program.
    fn sources(dir: &Path) -> Vec<String> {
        let read = |path: PathBuf| match path.is_dir() {
            true => sources(&path),
            false => vec![std::fs::read_to_string(&path).unwrap()],
        };
        std::fs::read_dir(dir).unwrap().flat_map(|entry| read(entry.unwrap().path())).collect()
    }

    #[test]
    fn every_code_is_used() {
        let sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
        // a call can have several lines
        let sources: Vec<String> = sources.iter().map(|text| text.split_whitespace().collect()).collect();
        let own = include_str!("code.rs");
        for code in ALL {
            let (before, _) = own.split_once(&format!(" \"{}\"\n", code.name)).unwrap();
            let name = before.rsplit(char::is_whitespace).next().unwrap();
            let calls = ["code::X,", "code::X)", "error!(X,", "refused!(X,"];
            let ways = calls.map(|call| call.replace('X', name));
            let uses = |text: &String| ways.iter().any(|way| text.contains(way));
            assert!(sources.iter().any(uses), "{} is used nowhere: remove it", code.name);
        }
    }

    #[test]
    fn names_are_words_that_are_there_once() {
        let mut seen = std::collections::HashSet::new();
        for code in ALL {
            assert!(seen.insert(code.name), "{} is there twice", code.name);
            let (part, word) = code.name.split_once('.').unwrap();
            assert!([part, word].iter().all(|text| text.chars().all(|c| c.is_ascii_lowercase())), "{}", code.name);
            assert_eq!(find(code.name), Some(*code));
        }
    }

    #[test]
    fn the_manual_has_a_section_for_each_code_and_for_nothing_else() {
        let titles: Vec<&str> = PAGE.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        let names: Vec<&str> = ALL.iter().map(|code| code.name).collect();
        assert_eq!(titles, names);
        for code in ALL {
            let section = code.section().unwrap_or_else(|| panic!("the section {} lacks a part", code.name));
            for part in [section.means, section.why, section.advice] {
                assert!(
                    !part.is_empty() && !part.contains('\n'),
                    "{}: each part is one paragraph in one line",
                    code.name
                );
            }
            assert!(!section.example.is_empty(), "{}", code.name);
        }
    }

    #[test]
    fn an_error_has_the_code_that_it_names_unless_the_kernel_has_a_closer_one() {
        let own = crate::Error::new(SIGNATURE, "x");
        assert_eq!(own.code(), SIGNATURE);
        assert_eq!(own.with_code(EXPIRED).code(), EXPIRED);
        let full = std::io::Error::from_raw_os_error(nix::libc::ENOSPC);
        assert_eq!(crate::Error::of(FILE, "x", &full).code(), SPACE);
        let absent = std::io::Error::from_raw_os_error(nix::libc::ENOENT);
        assert_eq!(crate::Error::of(FILE, "x", &absent).code(), FILE);
    }
}
