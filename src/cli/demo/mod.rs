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
    /// The directory to use; created anew each time
    #[arg(long, value_name = "DIR", default_value = "kpull-demo")]
    dir: PathBuf,
}

impl Run for Demo {
    fn run(&self) -> Result<Exit> {
        let start = Instant::now();
        let setup = DemoSetup::make(&self.dir)?;
        print(&format!(
            "A site, its signer, a server and three hosts, all in {}. Nothing outside it changes.",
            self.dir.display()
        ));

        step(
            1,
            "The site",
            "the shipped roles and host_vars. Upstream releases are replaced by stand-ins with the same names, since the demo runs offline; they are pinned by digest like the real ones.",
        );
        for host in setup.hosts() {
            print(&format!("   {host:<8} {}", setup.roles_of(host)?));
        }
        step(
            2,
            "Certificates and secrets",
            "kpull creates authorities and issues certificates, and encrypts each key and secret to the hosts that need it.",
        );
        let (made, issued) = setup.issue()?;
        let hosts =
            |done: &[Completed]| done.iter().filter_map(|done| done.host.as_ref()).collect::<BTreeSet<_>>().len();
        let names = |done: &[Completed]| done.iter().map(|done| done.name.as_str()).collect::<Vec<_>>().join(", ");
        print(&format!("   made      {}", names(&made)));
        print(&format!("   issued    {} certificates for {} hosts", issued.len(), hosts(&issued)));
        print(&format!("   secrets   {}", setup.make_secrets()?.join(", ")));
        step(
            3,
            "Signed",
            "an OpenSSH key signs a list of all files with their sizes and SHA-256 digests; hosts trust only this key.",
        );
        print(&format!("   {}", setup.sign()?));
        step(
            4,
            "Served",
            "over HTTPS on the loopback interface, with its own authority; any web server or git server works.",
        );
        print(&format!("   {}", setup.address()));
        step(
            5,
            "Applied",
            "each host fetches, verifies, resolves and compares the release, downloads pinned artifacts, and changes what differs.",
        );
        for host in setup.hosts() {
            setup.apply(host, &Brief)?;
        }
        step(6, "Again", "the server reports no new release, and nothing has drifted.");
        for host in setup.hosts() {
            setup.apply(host, &Brief)?;
        }
        self.drift(&setup)?;
        self.tampered(&setup)?;
        setup.settle()?;
        print(&format!("\nDone in {:.1} s. Look around and continue on your own:", start.elapsed().as_secs_f64()));
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
}

impl Demo {
    fn drift(&self, setup: &DemoSetup) -> Result<()> {
        const FILE: &str = "/etc/kubernetes/audit-policy.yaml";
        step(
            7,
            "Drift",
            "someone edits a file on master2. `kpull plan` shows the drift, and `kpull apply` corrects it and nothing else.",
        );
        let path = setup.outside("master2", FILE);
        let text = std::fs::read_to_string(&path).context(code::OTHER, || format!("can't read {}", path.display()))?;
        write(&path, &text.replace("level: Metadata", "level: None"))?;
        setup.plan("master2")?;
        setup.apply("master2", &Text::new(false)).map(drop)
    }

    fn tampered(&self, setup: &DemoSetup) -> Result<()> {
        step(
            8,
            "Tampered with",
            "release 2 changes one template. Someone changes a byte of it in transit: the hosts refuse the release and stay as they are.",
        );
        let template = setup.site().join("roles/kube-apiserver/templates/audit-policy.yaml");
        let text =
            std::fs::read_to_string(&template).context(code::OTHER, || format!("can't read {}", template.display()))?;
        write(&template, &text.replace("level: Metadata", "level: Request"))?;
        print(&format!("   {}", setup.sign()?));
        setup.tamper(true);
        match setup.apply("master3", &Silent) {
            Err(error) if error.exit_code() == Exit::Refused => {
                graphical(&error).lines().for_each(|line| print_as_is(&format!("   {line}")));
            }
            Err(error) => return Err(error),
            Ok(_) => return Err(Error::new(code::OTHER, "the tampered release was not refused")),
        }
        step(9, "Intact", "the release arrives as it was signed, and only the one file changes.");
        setup.tamper(false);
        for host in setup.hosts() {
            setup.apply(host, &Text::new(false))?;
        }
        Ok(())
    }
}

impl DemoSetup {
    fn sign(&self) -> Result<String> {
        let signed = sign(&self.site(), &Signer::of(&self.signer())?, SignedDuration::from_hours(24 * 30), false)?;
        Ok(format!(
            "release {} of {}: {} files, valid until {:.0}",
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
        let selection = agent.select(false)?;
        let planned =
            selection.catalog.then(|catalog| plan(&agent.host, &agent.store, catalog, &selection.stamp.digest))?;
        let serial = planned.manifest().serial;
        crate::cli::plan::report_plan(planned.into_inner(), Some(serial), &[], Instant::now(), &report).map(drop)
    }
}

/// Reports only the result of a run.
struct Brief;

impl Report for Brief {
    fn event(&self, event: &Event<'_>) {
        if let Event::Done(_) = event {
            Text::new(false).event(event);
        }
    }
}

/// Reports nothing.
struct Silent;

impl Report for Silent {
    fn event(&self, _: &Event<'_>) {}
}

fn step(number: usize, title: &str, text: &str) {
    print(&format!("\n{number}. {title}: {text}"));
}

/// The name under which this program was called.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "kpull".to_owned())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).context(code::OTHER, || format!("can't write {}", path.display()))
}
