//! `packaging/release`: one script makes a release of a version.

use std::path::Path;
use std::process::Command;

use super::repository::{KEY, Releaser};
use super::{REPOSITORY, ran, stand_in};
use crate::support::lab::Output;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The source as it is, with a history of one commit, below `dir`.
fn source(dir: &Path) {
    let script = "mkdir \"$1\" && git ls-files -z | xargs -0 cp --parents --no-dereference -t \"$1\" && cd \"$1\" && git init -q &&
        git config user.name x && git config user.email x@example.org && git config commit.gpgsign false &&
        git add --all --force && git commit -q -m first";
    ran(Command::new("bash").args(["-euc", script, "bash"]).arg(dir).current_dir(REPOSITORY));
}

fn bash(dir: &Path, script: &str) -> String {
    ran(Command::new("bash").args(["-euc", script]).current_dir(dir)).trim_end().to_owned()
}

#[test]
fn one_script_makes_a_release_and_refuses_the_input_of_a_bad_one() {
    let releaser = Releaser::new();
    let (source_dir, out) = (releaser.path("source"), releaser.path("out"));
    source(&source_dir);
    let program = stand_in(&releaser.path("program"), "999.0.1", "1");
    let release = |arguments: &[&str]| {
        let mut release = Command::new(source_dir.join("packaging/release"));
        Output::of(releaser.with_key(release.args(arguments)))
    };
    let unreleased = "### Added\n\n- What is new.\n- More.\n\n### Fixed\n\n- What was wrong.";
    let changelog = |text: &str| {
        let write = format!(
            "cat > CHANGELOG.md <<'END'\n# Changelog\n\n## Unreleased\n\n{text}\n\n## 0.0.1 (2020-01-01)\n\n- Old.\nEND"
        );
        bash(&source_dir, &format!("{write}\ngit commit -qam changelog"));
    };
    changelog(unreleased);

    let head = bash(&source_dir, "git rev-parse HEAD");
    assert_eq!(release(&["--check", "--arch", "amd64", "999.0.1"]).ok(), unreleased);
    for (version, why) in
        [("1.0", "three numbers"), ("v1.0.0", "three numbers"), ("1.0.0-rc1", "three numbers"), ("0.0.9", "is below")]
    {
        let reported = release(&["--check", version]).fails(1);
        assert!(reported.contains(why), "{reported}");
    }
    bash(&source_dir, "git tag v999.0.0 && echo more >> README.md");
    let reported = release(&["--check", "999.0.0"]).fails(1);
    assert!(reported.contains("there is a tag v999.0.0 already"), "{reported}");
    let reported = release(&["--check", "999.0.1"]).fails(1);
    assert!(reported.contains("commit or stash") && reported.contains("README.md"), "{reported}");
    bash(&source_dir, "git checkout -q README.md");
    changelog("");
    let reported = release(&["--check", "999.0.1"]).fails(1);
    assert!(reported.contains("nothing under \"## Unreleased\""), "{reported}");
    bash(&source_dir, &format!("git reset -q --hard {head}"));
    let reported = release(&["--url", "http://x.example", "999.0.1", out.to_str().unwrap()]).fails(1);
    assert!(reported.contains("--sign"), "{reported}");
    let out_dir = out.to_str().unwrap();
    for (arguments, why) in [
        (&["--sign", KEY, "--url", "nonsense"][..], "--url takes the address of a web server"),
        (&["--sign", "nobody@example.org"], "gpg has no secret key nobody@example.org"),
        (&["--binary", "/nope"], "--binary /nope is not a file"),
        (&["--arch", "ppc64"], "--arch takes amd64 or arm64, and not ppc64"),
        (&["--sing", KEY], "unknown option --sing"),
    ] {
        for end in [&["--arch", "amd64", "--check", "999.0.1"][..], &["--arch", "amd64", "999.0.1", out_dir]] {
            let reported = release(&[arguments, end].concat()).fails(1);
            assert!(reported.contains(why), "{reported}");
        }
    }
    assert_eq!(bash(&source_dir, "git rev-parse HEAD && git status --porcelain"), head, "nothing was changed");
    assert!(!out.exists());

    // a failure after the commit reports how to continue and how to undo it
    bash(&source_dir, "mkdir -p ../full && touch ../full/repository");
    let full = releaser.path("full");
    let arguments = ["--arch", "amd64", "--fast", "--sign", KEY, "--url", "http://x.example", "--binary"];
    let reported =
        release(&[&arguments[..], &[program.to_str().unwrap(), "999.0.1", full.to_str().unwrap()]].concat()).fails(1);
    assert_eq!(bash(&source_dir, "git log -1 --format=%s"), "kpull 999.0.1");
    let commands: Vec<&str> = reported.lines().filter(|line| line.contains(" && ")).collect();
    assert!(reported.contains("is committed") && commands.len() == 2, "{reported}");
    let (go_on, tag) = commands[0].split_once("&& git tag").unwrap();
    let go_on = format!(
        "rm ../full/repository && GNUPGHOME={} && export GNUPGHOME && {go_on}",
        releaser.path("gnupg").display()
    );
    bash(&source_dir, &go_on);
    assert!(full.join("repository/kpull.repo").exists() && tag.contains(" v999.0.1 "), "{reported}");
    bash(&source_dir, commands[1]);
    assert_eq!(bash(&source_dir, "git rev-parse HEAD && git status --porcelain"), head);
    let output =
        release(&[&arguments[..], &[program.to_str().unwrap(), "999.0.1", out.to_str().unwrap()]].concat()).ok();
    let tag = output.lines().last().unwrap();
    assert!(tag.starts_with("git tag --sign ") && tag.contains(" v999.0.1 "), "{output}");
    assert_eq!(bash(&source_dir, "git status --porcelain; git log -1 --format=%s"), "kpull 999.0.1");
    // cargo takes both for one: nothing is fetched, and the lock is as it has to be
    let metadata = "cargo metadata --locked --offline --no-deps --format-version 1 | jq -r '.packages[] | select(.name == \"kpull\").version'";
    assert_eq!(bash(&source_dir, metadata), "999.0.1");
    let dated = bash(&source_dir, "grep -A4 '^## ' CHANGELOG.md | head -n7");
    assert!(
        dated.starts_with("## Unreleased\n\n## 999.0.1 (20") && dated.contains(")\n\n### Added\n\n- What is new."),
        "{dated}"
    );
    assert_eq!(
        bash(
            &source_dir,
            &format!("git grep -l 'kpull[-_]{}' -- docs/src/usage packaging || :", VERSION.replace('.', "\\."))
        ),
        ""
    );
    assert_eq!(std::fs::read_to_string(out.join("999.0.1/notes.md")).unwrap(), format!("{unreleased}\n"));
    for name in [
        "999.0.1/packages/kpull_999.0.1-1_amd64.deb",
        "repository/rpm/kpull-999.0.1-1.x86_64.rpm",
        "repository/kpull.repo",
    ] {
        assert!(out.join(name).exists(), "{name}");
    }
    // the tag has the notes, headings among them
    bash(&source_dir, &tag.replace("--sign ", "--annotate ").replace(" && git push origin HEAD v999.0.1", ""));
    assert_eq!(bash(&source_dir, "git tag -l --format='%(contents)' v999.0.1"), unreleased);
}
