//! `kpull demo`: the shipped site on three hosts in directories, through the same code as on a real host.

mod setup;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use jiff::SignedDuration;

use crate::author::pki::Completed;
use crate::cli::{Run, apply, graphical, print, print_as_is};
use crate::engine::{Agent, RunOptions, plan};
use crate::error::{Context, Error, Exit, Result, code};
use crate::report::{Event, Notes, Report, Summary, Text};
use crate::trust::{Signer, sign};
use setup::DemoSetup;

/// Arguments of `demo`.
#[derive(Args, Debug)]
pub struct Demo {
    /// Where everything is put; made anew each time
    #[arg(long, value_name = "DIR", default_value = "kpull-demo")]
    dir: PathBuf,
}

impl Run for Demo {
    fn run(&self) -> Result<Exit> {
        let start = Instant::now();
        let world = DemoSetup::make(&self.dir)?;
        print(&format!(
            "A site, its signer, a server and three hosts, all in {}. Nothing outside it is touched.",
            self.dir.display()
        ));

        step(
            1,
            "The site",
            "roles and host_vars as they are shipped. Upstream's releases are not to be had offline: stand-ins with their names take their places, pinned by digest like the real ones.",
        );
        for host in world.hosts() {
            print(&format!("   {host:<8} {}", world.roles_of(host)?));
        }
        step(
            2,
            "Certificates and secrets",
            "authorities are made and certificates issued, each key and secret encrypted to the hosts that need it.",
        );
        let (made, issued) = world.issue()?;
        let hosts =
            |done: &[Completed]| done.iter().filter_map(|done| done.host.as_ref()).collect::<BTreeSet<_>>().len();
        let names = |done: &[Completed]| done.iter().map(|done| done.name.as_str()).collect::<Vec<_>>().join(", ");
        print(&format!("   made      {}", names(&made)));
        print(&format!("   issued    {} certificates for {} hosts", issued.len(), hosts(&issued)));
        print(&format!("   secrets   {}", world.make_secrets()?.join(", ")));
        step(
            3,
            "Signed",
            "an OpenSSH key signs a list of every file with its size and SHA-256; hosts believe this key and nothing else.",
        );
        print(&format!("   {}", world.sign()?));
        step(
            4,
            "Served",
            "over HTTPS on the loopback interface, with an authority made for it; any web server or git would do.",
        );
        print(&format!("   {}", world.address()));
        step(
            5,
            "Applied",
            "each host fetches, verifies, resolves, compares, downloads what is pinned, and changes what differs.",
        );
        for host in world.hosts() {
            world.apply(host, &Brief)?;
        }
        step(6, "Once more", "the server says that nothing is new, and nothing has drifted.");
        for host in world.hosts() {
            world.apply(host, &Brief)?;
        }
        self.drift(&world)?;
        self.tampered(&world)?;
        world.settle()?;
        print(&format!("\nDone in {:.1} s. Look around, and go on by yourself:", start.elapsed().as_secs_f64()));
        let (dir, kpull) = (self.dir.display(), program());
        print(&format!("   {kpull} status --root {dir}/hosts/master1"));
        print(&format!("   {kpull} explain --site {dir}/site master1 etcd.flags"));
        print(&format!("   {kpull} pki list --site {dir}/site"));
        print(&format!("   edit {dir}/site/roles/base/role.toml"));
        print(&format!("   {kpull} plan --site {dir}/site --root {dir}/hosts/master1 --host master1"));
        print(&format!(
            "   {kpull} sign --site {dir}/site --key {dir}/signer && {kpull} apply --root {dir}/hosts/master1"
        ));
        Ok(Exit::Done)
    }

    fn json(&self) -> bool {
        false
    }
}

impl Demo {
    fn drift(&self, world: &DemoSetup) -> Result<()> {
        const FILE: &str = "/etc/kubernetes/audit-policy.yaml";
        step(
            7,
            "Drift",
            "somebody edits a file on master2. `kpull plan` shows it, `kpull apply` mends it, and only it.",
        );
        let path = world.outside("master2", FILE);
        let text = std::fs::read_to_string(&path).context(code::OTHER, || format!("can't read {}", path.display()))?;
        write(&path, &text.replace("level: Metadata", "level: None"))?;
        world.plan("master2")?;
        world.apply("master2", &Text::new(false)).map(drop)
    }

    fn tampered(&self, world: &DemoSetup) -> Result<()> {
        step(
            8,
            "Tampered with",
            "release 2 changes one template. On its way, somebody changes a byte of it: it is refused, and the hosts stay as they are.",
        );
        let template = world.site().join("roles/kube-apiserver/templates/audit-policy.yaml");
        let text =
            std::fs::read_to_string(&template).context(code::OTHER, || format!("can't read {}", template.display()))?;
        write(&template, &text.replace("level: Metadata", "level: Request"))?;
        print(&format!("   {}", world.sign()?));
        world.tamper(true);
        match world.apply("master3", &Silent) {
            Err(error) if error.exit_code() == Exit::Refused => {
                graphical(&error).lines().for_each(|line| print_as_is(&format!("   {line}")));
            }
            Err(error) => return Err(error),
            Ok(_) => return Err(Error::new(code::OTHER, "the tampered release was not refused")),
        }
        step(9, "Honest again", "the release as it was signed arrives, and just the one file is changed.");
        world.tamper(false);
        for host in world.hosts() {
            world.apply(host, &Text::new(false))?;
        }
        Ok(())
    }
}

impl DemoSetup {
    fn sign(&self) -> Result<String> {
        let signed = sign(&self.site(), &Signer::of(&self.signer())?, SignedDuration::from_hours(24 * 30), false)?;
        Ok(format!(
            "release {} of {}: {} files, good until {:.0}",
            signed.manifest.serial,
            signed.manifest.site,
            signed.manifest.files.len(),
            signed.manifest.expires
        ))
    }

    fn agent<'a>(&self, host: &str, report: &'a dyn Report) -> Result<Agent<'a>> {
        let root = self.root(host);
        Agent::open(&root, &root.join("etc/kpull/kpull.toml"), None, report)
    }

    fn apply(&self, host: &str, report: &dyn Report) -> Result<Summary> {
        let notes = Notes::new(Box::new(report));
        apply::run(&self.agent(host, &notes)?, &notes, RunOptions::default())
    }

    fn plan(&self, host: &str) -> Result<()> {
        let report = Text::new(true);
        let agent = self.agent(host, &report)?;
        let _lock = agent.store.lock()?;
        let taken = agent.select(false)?;
        let planned = taken.catalog.then(|catalog| plan(&agent.host, &agent.store, catalog, &taken.stamp.digest))?;
        let serial = planned.manifest().serial;
        crate::cli::plan::tell(planned.into_inner(), Some(serial), Instant::now(), &report).map(drop)
    }
}

/// Tells only what a run came to.
struct Brief;

impl Report for Brief {
    fn event(&self, event: &Event<'_>) {
        if let Event::Done(_) = event {
            Text::new(false).event(event);
        }
    }
}

/// Tells nothing.
struct Silent;

impl Report for Silent {
    fn event(&self, _: &Event<'_>) {}
}

fn step(number: usize, title: &str, text: &str) {
    print(&format!("\n{number}. {title}: {text}"));
}

/// How this program was called.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "kpull".to_owned())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).context(code::OTHER, || format!("can't write {}", path.display()))
}
