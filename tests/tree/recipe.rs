//! The recipe for CI in the documentation: its scripts do what it says, and both services' files run the same lines.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::site::{Output, Tree, kpull};

/// The blocks of the documentation in this language.
fn blocks(language: &str) -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src/usage/editing.md");
    let page = fs::read_to_string(page).unwrap();
    let start = format!("```{language}\n");
    page.split(&start).skip(1).map(|rest| rest.split("```\n").next().unwrap().to_owned()).collect()
}

/// Runs a script in a clone, with kpull on PATH.
fn sh(dir: &Path, script: &str, key: &str, to: &Path) -> Output {
    let kpull = Path::new(env!("CARGO_BIN_EXE_kpull")).parent().unwrap();
    let path = format!("{}:{}", kpull.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("sh");
    command.args(["-eu", "-c", script]).current_dir(dir).env("PATH", path).env("NO_COLOR", "1");
    command.env("KPULL_KEY", key).env("KPULL_TO", to).env("GIT_CONFIG_GLOBAL", "/dev/null");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "t").env(format!("GIT_{who}_EMAIL"), "t@example.org");
    }
    Output::of(command.output().unwrap())
}

#[test]
fn the_recipe_checks_compares_signs_and_publishes() {
    let [check, compare, release] = <[String; 3]>::try_from(blocks("sh")).unwrap();
    let (dir, tree) = (tempfile::tempdir().unwrap(), Tree::new());
    let (site, to) = (dir.path().join("prod"), dir.path().join("published"));
    let key = tree.key();
    let run = |script: &str| sh(&site, script, &key, &to);
    kpull(&["new", "site", site.to_str().unwrap()]).exits(0);
    run("git init -q -b main && git init -q --bare ../origin && git remote add origin ../origin").exits(0);
    run("kpull new role web && kpull new host h1 10.0.0.1 --role web && kpull new host h2 10.0.0.2 --role web")
        .exits(0);
    run("git add . && git commit -qm one && git push -q origin main && git checkout -q -b change").exits(0);
    run(&check).exits(0);

    fs::write(site.join("roles/web/templates/web.conf"), "hello {{ greeting }}\n").unwrap();
    run(&check).fails(1, "roles/web/tests/"); // its example expects another text
    fs::remove_dir_all(site.join("roles/web/tests")).unwrap();
    run(&check).exits(0);
    run(&compare).exits(0);
    let changes = fs::read_to_string(site.join("changes.md")).unwrap();
    assert!(changes.starts_with("**2** of 2 hosts change.\n"), "{changes}");
    assert!(changes.contains("+hello hello\n"), "{changes}");

    fs::remove_file(site.join("changes.md")).unwrap();
    run("git add -A && git commit -qm two").exits(0);
    for serial in 1..=2 {
        run(&release).exits(0);
        let pushed = run("git fetch -q origin && git show origin/main:release.toml").exits(0).stdout;
        assert!(pushed.contains(&format!("serial = {serial}\n")), "{pushed}");
        assert!(fs::read_dir(&to).unwrap().count() > 0, "nothing was published");
        fs::write(site.join("roles/web/templates/web.conf"), format!("{serial} {{{{ greeting }}}}\n")).unwrap();
    }
}

#[test]
fn both_ci_services_run_the_tested_commands() {
    let lines: Vec<String> = blocks("sh").concat().lines().map(str::to_owned).collect();
    let files = blocks("yaml");
    assert_eq!((lines.len(), files.len()), (10, 2));
    for file in files {
        let read: serde_json::Value = serde_saphyr::from_str(&file).unwrap();
        assert!(read.is_object(), "{file}");
        for line in &lines {
            assert!(file.lines().any(|has| has.trim().trim_start_matches("- ") == line), "{line} is not in\n{file}");
        }
    }
}
