//! The tutorial, as it stands in the manual: every command is run on real hosts, and says what it says there. With `KPULL_BLESS=1` the page
//! is written anew.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::lab::{Lab, Running};
use crate::support::page;

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
}

impl page::World for World {
    fn run(&mut self, prompt: &str, command: &str) -> String {
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
        output.stdout
    }

    /// Also starts the web server, if the file is its configuration.
    fn write(&mut self, path: &str, text: &str) {
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

    fn real(&mut self) -> &mut Vec<(&'static str, String)> {
        &mut self.real
    }
}

#[test]
fn the_tutorial_shows_the_output_of_its_commands() {
    let made = page::run("tutorial.md", &["desk$", "h1#", "h2#"], &mut World::new());
    assert!(
        made.contains("release 3 failed on this host, which rolled back to release 2"),
        "the page shows a way back"
    );
}
