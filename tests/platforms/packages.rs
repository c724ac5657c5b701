//! What `packaging/` makes, for the package managers of other systems.

#[path = "modules.rs"]
mod modules;
#[path = "provenance.rs"]
mod provenance;
#[path = "release.rs"]
mod release;
#[path = "repository.rs"]
mod repository;
#[path = "zypper.rs"]
mod zypper;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::lab::Output;

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");

/// What rpm 4.11 provides (lib/rpmds.c of later ones, whose entries carry the version that brought them), of what a package that any later rpm makes may need.
const RPM_4_11: [(&str, &str); 12] = [
    ("rpmlib(VersionedDependencies)", "3.0.3-1"),
    ("rpmlib(CompressedFileNames)", "3.0.4-1"),
    ("rpmlib(PayloadIsBzip2)", "3.0.5-1"),
    ("rpmlib(PayloadIsXz)", "5.2-1"),
    ("rpmlib(PayloadIsLzma)", "4.4.2-1"),
    ("rpmlib(PayloadFilesHavePrefix)", "4.0-1"),
    ("rpmlib(ExplicitPackageProvide)", "4.0-1"),
    ("rpmlib(ScriptletInterpreterArgs)", "4.0.3-1"),
    ("rpmlib(PartialHardlinkSets)", "4.0.4-1"),
    ("rpmlib(BuiltinLuaScripts)", "4.2.2-1"),
    ("rpmlib(FileDigests)", "4.6.0-1"),
    ("rpmlib(TildeInVersions)", "4.10.0-1"),
];

/// Runs a command of this machine; what it printed.
#[track_caller]
fn ran(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A program that answers the calls of `packaging/build` to kpull: the steps do not depend on the program's content.
const STAND_IN: &str = r#"
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int main(int count, char **arguments) {
    if (count > 1 && !strcmp(arguments[1], "--version")) return puts("kpull " VERSION) < 0;
    if (count < 3 || strcmp(arguments[1], "man")) return puts(WORDS) < 0;
    FILE *page = chdir(arguments[2]) ? NULL : fopen("kpull.1", "w");
    return !page || fputs("page\n", page) < 0 || fclose(page);
}
"#;

/// Makes [`STAND_IN`] of a version, with these words for completions.
fn stand_in(path: &Path, version: &str, words: &str) -> PathBuf {
    let source = path.with_extension("c");
    std::fs::write(&source, STAND_IN).unwrap();
    let mut compile = Command::new("cc");
    compile.args(["-static", &format!("-DVERSION={version:?}"), &format!("-DWORDS={words:?}"), "-o"]);
    ran(compile.arg(path).arg(source));
    path.to_owned()
}

/// Makes packages of the stand-in in a new directory.
fn built(options: &[&str]) -> tempfile::TempDir {
    let (dir, program) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut build = Command::new(format!("{REPOSITORY}/packaging/build"));
    build
        .arg("--binary")
        .arg(stand_in(&program.path().join("kpull"), VERSION, "1"))
        .args(options)
        .env("SOURCE_DATE_EPOCH", "1700000000");
    ran(build.arg(dir.path()).args(["deb", "rpm", "tar"]));
    dir
}

/// The paths in a directory with this extension.
fn ending(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = paths.filter(|path| path.to_str().unwrap().ends_with(ending)).collect();
    found.sort();
    found
}

/// What an rpm says of itself, a line each.
fn rpm(package: &Path, query: &[&str]) -> Vec<String> {
    let answer = ran(Command::new("rpm").args(["-qp", "--nosignature"]).args(query).arg(package));
    answer.lines().map(str::to_owned).collect()
}

/// What of an rpm rpm 4.11 could not install.
fn too_new(package: &Path) -> Vec<String> {
    let mut bad = Vec::new();
    for required in rpm(package, &["--requires"]) {
        let words: Vec<&str> = required.split(' ').collect();
        let is_known = match words[..] {
            ["/bin/sh"] => true,
            [name, "<=", version] => RPM_4_11.contains(&(name, version)),
            _ => false,
        };
        if !is_known {
            bad.push(required);
        }
    }
    // of these, it treats the plain ones as data that it does not read
    for query in ["--recommends", "--suggests", "--supplements", "--enhances", "--conflicts", "--obsoletes"] {
        bad.extend(rpm(package, &[query]).into_iter().filter(|line| line.contains(['(', '<', '>', '='])));
    }
    // 8 is SHA-256; with --fast there is no compression
    let format = "%{PAYLOADCOMPRESSOR} %{PAYLOADFORMAT} %{FILEDIGESTALGO}";
    bad.extend(
        rpm(package, &["--qf", format]).into_iter().filter(|line| !["xz cpio 8", "(none) cpio 8"].contains(&&**line)),
    );
    bad
}

#[test]
fn rpm_of_centos_7_meets_the_requirements_of_the_rpm() {
    let dir = built(&[]);
    let packages = ending(dir.path(), ".rpm");
    assert!(!packages.is_empty());
    for package in packages {
        assert_eq!(too_new(&package), [""; 0], "{}", package.display());
    }
}

#[test]
fn wrong_arguments_and_programs_are_refused_with_the_reason_before_any_step() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let good = stand_in(&dir.path().join("good"), VERSION, "1");
    let old = stand_in(&dir.path().join("old"), "0.0.1", "1");
    let mut bytes = std::fs::read(&good).unwrap();
    bytes[18..20].copy_from_slice(&[0xb7, 0]);
    std::fs::write(path("arm64"), &bytes).unwrap();
    bytes[18..20].copy_from_slice(&[0x15, 0]);
    std::fs::write(path("ppc64"), &bytes).unwrap();
    std::fs::write(path("script"), format!("touch {}\n", path("run"))).unwrap();
    let out = path("out");
    let build = |arguments: &[&str], revision: &str| {
        let mut build = Command::new(format!("{REPOSITORY}/packaging/build"));
        build.args(arguments).env("REVISION", revision).env("SOURCE_DATE_EPOCH", "1700000000");
        Output::of(&mut build)
    };
    let usage = "packaging/build [OPTION]... DIR";
    for (arguments, why) in [
        (&["--sing", "x", &out][..], "unknown option --sing"),
        (&["-x", &out], "unknown option -x"),
        (&["--arch", "ppc64", &out], "--arch takes amd64 or arm64, and not ppc64"),
        (&["--arch"], "--arch takes amd64 or arm64"),
        (&["--binary"], "--binary takes a file"),
        (&["--signer"], "--signer takes a key"),
        (&[&out, "zip"], "no format zip: there are deb, rpm, tar and sbom"),
        (&[], "name the directory for the packages"),
    ] {
        let message = build(arguments, "1").fails(1);
        assert_eq!(message.lines().next().unwrap(), format!("packaging/build: {why}"));
        assert!(message.contains(usage), "{message}");
    }
    for help in ["-h", "--help"] {
        assert!(build(&[help], "1").ok().contains(usage));
    }
    let (old, good) = (old.to_str().unwrap(), good.to_str().unwrap());
    for (program, revision, why) in [
        ("/nope", "1", "--binary /nope is not a file that can be read".to_owned()),
        (&path("script"), "1", format!("--binary {} is not a program (ELF)", path("script"))),
        (&path("arm64"), "1", format!("--binary {} is for arm64, and not for amd64", path("arm64"))),
        (&path("ppc64"), "1", format!("--binary {} is for another machine, and not for amd64", path("ppc64"))),
        (old, "1", format!("--binary {old} is not kpull {VERSION}: --version says \"kpull 0.0.1\"")),
        (good, "x y", "REVISION takes letters, digits and .+~, as in 2, and not \"x y\"".to_owned()),
    ] {
        let message = build(&["--arch", "amd64", "--binary", program, &out, "tar"], revision).fails(1);
        assert_eq!(message.trim_end(), format!("packaging/build: {why}"));
    }
    assert!(!dir.path().join("run").exists() && !dir.path().join("out").exists());
    build(&["--arch", "amd64", "--fast", "--binary", good, &out, "tar"], "1").ok();
}
