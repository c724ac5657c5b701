//! The quickstart with git, as it stands in the manual: from an empty repository to two hosts that follow it over ssh, with the example
//! site `web`.

use crate::support::lab::{Host, Lab, Output};
use crate::support::page;

const HOSTS: [(&str, &str); 3] = [("git", "192.168.1.10"), ("web1", "192.168.1.11"), ("db1", "192.168.1.12")];
const PROMPTS: [&str; 4] = ["desk$", "git#", "web1#", "db1#"];
const KEYS: [&str; 4] = ["KEY OF you", "KEY OF git", "KEY OF web1", "KEY OF db1"];
/// Those of the SSH servers that run on both hosts.
const HOST_KEYS: [&str; 4] = ["", "KEY OF git", "HOST KEY web1", "HOST KEY db1"];

/// A git server, on which the operator has an account too, and two hosts.
struct World {
    lab: Lab,
    real: Vec<(&'static str, String)>,
}

impl World {
    fn new() -> Self {
        let lab = Lab::new(&HOSTS);
        let package = crate::lab::packages::packages().join("kpull_0.1.0-1_amd64.deb");
        for (name, _) in HOSTS {
            let host = lab.host(name);
            host.copy(&package, "/root/kpull_0.1.0-1_amd64.deb", 0o644);
            host.run("echo 192.168.1.10 git.example.org >> /etc/hosts").ok();
            // PostgreSQL is large, and no power cut follows
            host.write("/etc/dpkg/dpkg.cfg.d/lab", "force-unsafe-io\n");
            host.run("ssh-keygen -A").ok();
        }
        lab.host("git")
            .run(
                "DEBIAN_FRONTEND=noninteractive apt-get install -qq -y openssh-server && dpkg -i /root/kpull_0.1.0-1_amd64.deb && \
                 useradd -m -s /bin/bash you && \
                 runuser -l you -c 'git config --global user.name you && git config --global user.email you@example.org'",
            )
            .ok();
        Self { lab, real: Vec::new() }
    }
}

impl page::World for World {
    fn run(&mut self, prompt: &str, command: &str) -> String {
        let host = self.lab.host(prompt.strip_suffix('#').unwrap_or("git"));
        host.write("/run/command", format!("{{ {command}\n}} 2>&1\n"));
        let output =
            host.run(if prompt == "desk$" { "runuser -l you /run/command" } else { "cd /root && bash /run/command" });
        // a plan has changes
        assert!([0, 2].contains(&output.code()), "{prompt} {command}\n{output}");
        let words = output.stdout.trim_end();
        if command.starts_with("cut ") {
            let index = PROMPTS.iter().position(|one| *one == prompt).unwrap();
            let names = if command.contains("ssh_host") { HOST_KEYS } else { KEYS };
            self.real.push((names[index], words.to_owned()));
        } else if command.contains("ssh-keygen -l") {
            self.real.push(("SHA256:KEY", words.split(' ').nth(1).unwrap().to_owned()));
        }
        output.stdout
    }

    fn write(&mut self, path: &str, text: &str) {
        let (host, path) = path.split_once(':').unwrap();
        self.lab.host(host).write(path, text);
    }

    fn real(&mut self) -> &mut Vec<(&'static str, String)> {
        &mut self.real
    }
}

/// Runs a command of kpull on a host whose timer may run kpull at this moment, and again after that.
fn beside_timer(host: Host, command: &str) -> Output {
    host.run(&format!(
        "for _ in {{1..600}}; do {command}; code=$?; [ $code = 75 ] || break; sleep .1; done; exit $code"
    ))
}

#[test]
fn the_quickstart_leads_from_an_empty_repository_to_two_hosts() {
    let mut world = World::new();
    let made = page::run("quickstart.md", &PROMPTS, &mut world);
    assert!(made.contains("<p>good day from web1</p>\n<p>the database is up</p>"), "{made}");
    for name in ["web1", "db1"] {
        let host = world.lab.host(name);
        let plan = beside_timer(host, "kpull plan");
        assert_eq!(plan.code(), 0, "{plan}");
        assert!(host.run("kpull verify").ok().contains("database"));
    }
    // the page shows what is in the database now, or that there is none
    let page = || {
        world.lab.host("web1").run("systemctl start write-page.service").ok();
        world.lab.host("git").run("curl -sS http://192.168.1.11/").ok()
    };
    let db1 = world.lab.host("db1");
    db1.run("runuser -u postgres -- psql -qd site -c \"UPDATE messages SET message = 'a new row'\"").ok();
    assert!(page().contains("<p>a new row</p>"), "{}", page());
    db1.run("systemctl stop postgresql").ok();
    assert!(page().contains("<p>the database does not answer</p>"), "{}", page());
    db1.run("systemctl start postgresql").ok();
    // who reads can't write
    let write = "psql 'host=db1 dbname=site user=web passfile=/etc/pgpass' -c 'DELETE FROM messages'";
    assert!(world.lab.host("web1").run(write).stderr.contains("permission denied"));
    // who has no password, or another, does not even read
    let read = "psql --no-password 'host=db1 dbname=site user=web' -c 'SELECT message FROM messages'";
    for (password, why) in
        [("''", "no password supplied"), ("wrong", "password authentication failed for user \"web\"")]
    {
        let message = world.lab.host("web1").run(&format!("PGPASSWORD={password} {read}")).fails(2);
        assert!(message.contains(why), "{message}");
    }
    assert_eq!(world.lab.host("web1").run("stat -c %a /etc/pgpass").ok(), "600");
    assert_eq!(db1.run("stat -c %a /etc/postgresql/site.sql").ok(), "600");
    // a new password reaches both hosts
    let former = world.lab.host("web1").run("cat /etc/pgpass").ok();
    world.lab.host("git").write(
        "/run/command",
        "kpull secret set db-password --generate 16 --site shop && kpull sign --key ~/.ssh/release --site shop &&
         git -C shop add --all && git -C shop commit --quiet --message 'A new password' && git -C shop push --quiet\n",
    );
    world.lab.host("git").run("runuser -l you /run/command").ok();
    for name in ["db1", "web1"] {
        beside_timer(world.lab.host(name), "kpull apply").ok();
    }
    assert_ne!(world.lab.host("web1").run("cat /etc/pgpass").ok(), former);
    assert!(page().contains("<p>the database is up</p>"), "{}", page());
    // only the web server reaches the database
    world.lab.host("git").run("timeout 5 bash -c '</dev/tcp/192.168.1.12/5432'").fails(1);
    // a host can read the site with its key, and not write it
    let web1 = world.lab.host("web1");
    web1.run("git clone -q git@git.example.org:shop.git /tmp/shop").ok();
    let push = "cd /tmp/shop && git -c user.name=x -c user.email=x commit -q --allow-empty -m x && git push -q";
    assert_ne!(web1.run(push).code(), 0, "a host pushed");
}
