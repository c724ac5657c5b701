//! `kpull demo --site web`, the commands that it ends with, and the page that begins with it. Other suites begin with the demo of the cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::page;
use crate::support::site::{Output, kpull};

#[test]
fn the_demo_of_two_hosts_ends_with_commands_that_work() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("demo");
    let path = dir.to_str().unwrap();
    let shown = kpull(&["demo", "--site", "web", "--dir", path]).exits(0).stdout;
    let steps: Vec<&str> =
        shown.lines().filter_map(|line| line.split_once(". ")?.1.split_once(": ")).map(|step| step.0).collect();
    assert_eq!(
        steps,
        ["The site", "Secrets", "Signed", "Served", "Applied", "Again", "Drift", "Tampered with", "Intact"],
        "{shown}"
    );
    assert!(shown.contains("roles/web/templates/write-page") && shown.contains("trust.tampered"), "{shown}");
    assert!(shown.contains("web1: 1 changed of 20 resources (release 2,"), "{shown}");
    assert!(shown.contains("db1: nothing to do of 14 resources (release 2,"), "{shown}");
    let page = fs::read_to_string(dir.join("hosts/web1/usr/local/bin/write-page")).unwrap();
    assert!(page.contains("<p>Good day from web1</p>") && page.contains("host=db1 dbname=site user=web"), "{page}");
    let [client, server] = ["web1/etc/pgpass", "db1/etc/postgresql/site.sql"].map(|path| dir.join("hosts").join(path));
    let password = fs::read_to_string(client).unwrap().trim_end().rsplit(':').next().unwrap().to_owned();
    assert!(password.len() == 16 && fs::read_to_string(server).unwrap().contains(&format!("PASSWORD '{password}'")));

    let (_, commands) = shown.split_once("continue on your own:\n").unwrap();
    let commands: Vec<&str> = commands.lines().map(str::trim).collect();
    assert_eq!(commands.len(), 5, "{commands:?}");
    for command in commands {
        match command.strip_prefix("edit ") {
            Some(file) => {
                let role = fs::read_to_string(file).unwrap();
                fs::write(file, role.replace("ten seconds", "10 seconds")).unwrap();
            }
            None => {
                let output = Output::of(Command::new("bash").args(["-c", command]).output().unwrap());
                output.exits(if command.contains(" plan ") { 2 } else { 0 });
            }
        }
    }
    let timer = fs::read_to_string(dir.join("hosts/web1/etc/systemd/system/write-page.timer")).unwrap();
    assert!(timer.contains("10 seconds"), "{timer}");
}

/// A directory in which a page's commands run, one after the other.
struct World {
    dir: tempfile::TempDir,
    /// Where `cd` has led.
    at: PathBuf,
    real: Vec<(&'static str, String)>,
}

impl page::World for World {
    fn run(&mut self, _: &str, command: &str) -> String {
        if let Some(to) = command.strip_prefix("cd ") {
            self.at.push(to);
            return String::new();
        }
        let bin = Path::new(env!("CARGO_BIN_EXE_kpull")).parent().unwrap().display().to_string();
        let path = format!("{bin}:{}", std::env::var("PATH").unwrap());
        let mut bash = Command::new("bash");
        bash.args(["-c", &format!("{{ {command}\n}} 2>&1")]).current_dir(&self.at).env("PATH", path);
        Output::of(bash.output().unwrap()).stdout
    }

    fn write(&mut self, command: &str, _: &str) {
        // the one block that is no `console`: its output is long
        let output = self.run("$", command);
        assert!(output.contains("Done in"), "{output}");
    }

    fn real(&mut self) -> &mut Vec<(&'static str, String)> {
        &mut self.real
    }
}

#[test]
fn the_first_minutes_show_the_output_of_their_commands() {
    let dir = tempfile::tempdir().unwrap();
    let (at, shown) = (dir.path().to_owned(), dir.path().canonicalize().unwrap().display().to_string());
    let mut world = World { dir, at, real: vec![("/home/me", shown)] };
    let made = page::run("first-minutes.md", &["$"], &mut world);
    assert!(made.contains("1 changed of 14 resources (release 3,"), "{made}");
    world.dir.close().unwrap();
}
