//! The tutorial, as it stands in the manual: every command is run on real hosts, and says what it says there. With `KPULL_BLESS=1` the page
//! is written anew.

use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

use crate::support::lab::{Lab, Running};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/src/usage/tutorial.md");
const HOSTS: [(&str, &str); 2] = [("h1", "192.168.1.11"), ("h2", "192.168.1.12")];

/// The operator's machine: a directory beside the hosts.
struct World {
    lab: Lab,
    operator: PathBuf,
    server: Option<Running>,
    /// What stands in the page in place of what is different each time.
    real: Vec<(&'static str, String)>,
}

impl World {
    fn new() -> Self {
        let lab = Lab::new(&HOSTS);
        let operator = lab.dir().join("desk");
        fs::create_dir_all(operator.join("www/fleet")).unwrap();
        let mut real = Vec::new();
        let package = crate::lab::packages::packages().join("kpull_0.1.0-1_amd64.deb");
        for (name, _) in HOSTS {
            let host = lab.host(name);
            host.copy(&package, "/root/kpull_0.1.0-1_amd64.deb", 0o644);
            let key = host.run("ssh-keygen -A > /dev/null; cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub").ok();
            real.push((if name == "h1" { "KEY OF h1" } else { "KEY OF h2" }, key));
            // the timer of the page would get in between its commands
            host.run("mkdir -p /etc/systemd/system/kpull.service.d").ok();
            host.write("/etc/systemd/system/kpull.service.d/test.conf", "[Unit]\nConditionPathExists=/run/never\n");
        }
        // the user of this test can be unknown to nginx
        lab.fabric(&format!("chmod -R a+rwX {0} && chmod a+x {0}/.. ", operator.display())).ok();
        Self { lab, operator, server: None, real }
    }

    /// Runs a command of the page; what it says, with what differs each time taken out.
    fn run(&mut self, prompt: &str, command: &str) -> String {
        let command = self.real.iter().fold(command.to_owned(), |text, (shown, real)| text.replace(shown, real));
        let output = match prompt.strip_suffix('#') {
            Some(host) => self.lab.host(host).run(&format!("cd /root && {{ {command}\n}} 2>&1")),
            None => {
                let bin = Path::new(env!("CARGO_BIN_EXE_kpull")).parent().unwrap().display().to_string();
                self.lab.fabric(&format!(
                    "cd {} && export PATH={bin}:$PATH && {{ {command}\n}} 2>&1",
                    self.operator.display()
                ))
            }
        };
        if command.contains("ssh-keygen -l") {
            let key = output.stdout.split(' ').nth(1).unwrap().to_owned();
            self.real.push(("SHA256:KEY", key));
        }
        let text = self.real.iter().fold(output.stdout, |text, (shown, real)| text.replace(real, shown));
        same_each_time(&text)
    }

    /// Writes a file of the page, and starts the web server when that is its configuration.
    fn write(&mut self, path: &str, text: &str) {
        let text = self.real.iter().fold(text.to_owned(), |text, (shown, real)| text.replace(shown, real));
        let to = self.operator.join(path);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(&to, text).unwrap();
        if path == "nginx.conf" {
            let operator = self.operator.display();
            let command = format!(
                "PATH=$PATH:/usr/sbin exec nginx -e error.log -p {operator} -c nginx.conf -g 'daemon off; user root;'"
            );
            self.server = Some(self.lab.spawn_fabric(&command));
            self.lab
                .fabric("curl -sS -o /dev/null --retry 20 --retry-delay 1 --retry-connrefused http://192.168.1.254/")
                .ok();
        }
    }
}

/// Removes what differs each time: times, durations and ages.
fn same_each_time(text: &str) -> String {
    let rules = [
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "2026-11-27T20:00:00Z"),
        // a process's number is longer or shorter, and the line broken elsewhere
        (
            r"(?s)\S+ \S+ \[emerg\] .{0,120}?shop\.conf:\d",
            "[emerg] unexpected end of file in /etc/nginx/conf.d/shop.conf:2",
        ),
        (r"\b\d+\.\d\d s\b", "0.05 s"),
        (r"\b\d+ s ago\b", "1 s ago"),
        (r"in \d+ (s|min)\b", "in 40 s"),
        (r"SHA256:[A-Za-z0-9+/]{43}", "SHA256:KEY"),
        (r"\(\d+ bytes\)", "(4000 bytes)"),
        (r"[ \t]+\n", "\n"),
    ];
    let text = rules
        .iter()
        .fold(text.to_owned(), |text, (rule, same)| Regex::new(rule).unwrap().replace_all(&text, *same).into_owned());
    text.trim_end().to_owned()
}

/// The prompt of a line, and what follows it.
fn prompt(line: &str) -> Option<(&str, &str)> {
    let (prompt, command) = line.split_once(' ')?;
    matches!(prompt, "desk$" | "h1#" | "h2#").then_some((prompt, command))
}

#[test]
fn the_tutorial_shows_the_output_of_its_commands() {
    let page = fs::read_to_string(PAGE).unwrap();
    let mut world = World::new();
    let mut made = String::new();
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        made.push_str(line);
        made.push('\n');
        let Some(kind) = line.strip_prefix("```").filter(|kind| !kind.is_empty()) else { continue };
        let mut block = Vec::new();
        while let Some(line) = lines.next_if(|line| *line != "```") {
            block.push(line);
        }
        if kind == "console" {
            for (prompt, command) in block.iter().filter_map(|line| prompt(line)) {
                let output = world.run(prompt, command);
                made.push_str(&format!("{prompt} {command}\n"));
                made.extend(output.lines().flat_map(|line| [line, "\n"]));
            }
        } else {
            let path = block[0].trim_start_matches(['#', '<', '!', '-', ' ']).trim_end_matches([' ', '-', '>']);
            let is_comment_of_page = block[0].starts_with("<!--");
            world.write(path, &format!("{}\n", block[usize::from(is_comment_of_page)..].join("\n")));
            made.extend(block.iter().flat_map(|line| [line, "\n"]));
        }
    }
    if std::env::var_os("KPULL_BLESS").is_some() {
        fs::write(PAGE, &made).unwrap();
    }
    assert!(page == made, "KPULL_BLESS=1 writes the page anew\n{}", differences(&page, &made));
    assert!(
        made.contains("release 3 failed on this host, which rolled back to release 2"),
        "the page shows a way back"
    );
}

/// Lines that only one of the two has.
fn differences(page: &str, made: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (page.lines().collect(), made.lines().collect());
    let gone = old.iter().filter(|line| !new.contains(line)).map(|line| format!("- {line}\n"));
    let came = new.iter().filter(|line| !old.contains(line)).map(|line| format!("+ {line}\n"));
    gone.chain(came).collect()
}
