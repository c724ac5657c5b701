//! What `packaging/` makes, for the package managers of other systems.

#[path = "release.rs"]
mod release;
#[path = "repository.rs"]
mod repository;
#[path = "zypper.rs"]
mod zypper;

use std::path::{Path, PathBuf};
use std::process::Command;

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

/// A program that answers what `packaging/build` asks of kpull: what a package is made of does not depend on what is in it.
fn stand_in(path: &Path, words: &str) -> PathBuf {
    let script = format!("#!/bin/sh\ncase $1 in man) echo page > \"$2/kpull.1\" ;; *) echo {words} ;; esac\n");
    // written by another process: no thread that starts one just now holds it open for writing
    ran(Command::new("sh").args(["-c", "printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"", "sh", &script]).arg(path));
    path.to_owned()
}

/// Makes packages of the stand-in in a new directory.
fn built(options: &[&str]) -> tempfile::TempDir {
    let (dir, program) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut build = Command::new(format!("{REPOSITORY}/packaging/build"));
    build
        .arg("--binary")
        .arg(stand_in(&program.path().join("kpull"), "1"))
        .args(options)
        .env("SOURCE_DATE_EPOCH", "1700000000");
    ran(build.arg(dir.path()).args(["deb", "rpm", "tar"]));
    dir
}

/// The paths of what is in a directory with this ending.
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
    // of these, it knows the plain ones as data that it does not look at
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
fn requirements_of_the_rpm_are_those_that_rpm_of_centos_7_meets() {
    let dir = built(&[]);
    let packages = ending(dir.path(), ".rpm");
    assert!(!packages.is_empty());
    for package in packages {
        assert_eq!(too_new(&package), [""; 0], "{}", package.display());
    }
}
