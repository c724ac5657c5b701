//! `kpull demo`: a site of the program on hosts in directories, through the same code as on a real host.

mod setup;
mod site;

use std::cell::Cell;
use std::time::Instant;

use crate::author::pki::Completed;
use crate::cli::prelude::*;
use crate::cli::sign::about;
use crate::cli::{apply, graphical};
use crate::engine::{RunOptions, plan};
use crate::report::{Notes, Summary};
use crate::trust::{Signer, sign};
use setup::DemoSetup;
use site::{Edit, Which};

/// Arguments of `demo`.
#[derive(Args, Debug)]
pub struct Demo {
    /// The directory to use; each demo creates it again
    #[arg(long, value_name = "DIR", default_value = "kpull-demo")]
    dir: PathBuf,
    /// The site to demonstrate
    #[arg(long, value_name = "SITE", default_value = "cluster")]
    site: Which,
}

impl Run for Demo {
    fn run(&self) -> Result<Exit> {
        let start = Instant::now();
        let shown = self.site.shown();
        let setup = DemoSetup::make(&self.dir, shown)?;
        let steps = Steps::default();
        print(&format!(
            "A site, its signer, a server and {} hosts, all in {}. Nothing outside it changes.",
            shown.hosts.len(),
            self.dir.display()
        ));

        steps.next("The site", shown.about);
        for host in shown.hosts {
            print(&format!("   {host:<8} {}", setup.roles_of(host)?));
        }
        let (made, issued) = setup.issue()?;
        if made.is_empty() {
            steps.next("Secrets", "kpull encrypts each secret to the hosts that need it.");
        } else {
            steps.next(
                "Certificates and secrets",
                "kpull creates authorities and issues certificates, and encrypts each key and secret to the hosts that need it.",
            );
            let hosts =
                |done: &[Completed]| done.iter().filter_map(|done| done.host.as_ref()).collect::<BTreeSet<_>>().len();
            let names = |done: &[Completed]| done.iter().map(|done| done.name.as_str()).collect::<Vec<_>>().join(", ");
            print(&format!("   made      {}", names(&made)));
            print(&format!("   issued    {} certificates for {} hosts", issued.len(), hosts(&issued)));
        }
        setup.make_secrets()?;
        setup.pin_stand_ins()?;
        print(&format!("   secrets   {}", shown.secrets.join(", ")));
        steps.next(
            "Signed",
            "an OpenSSH key signs a list of all files with their sizes and SHA-256 digests; hosts trust only this key.",
        );
        print(&format!("   {}", setup.sign()?));
        steps.next(
            "Served",
            "over HTTPS on the loopback interface, with its own authority; any web server or git server works.",
        );
        print(&format!("   {}", setup.address()));
        steps.next(
            "Applied",
            "each host fetches, verifies, resolves and compares the release, downloads pinned artifacts if it has any, and changes what differs.",
        );
        for host in shown.hosts {
            setup.apply(host, &BRIEF)?;
        }
        steps.next("Again", "the server reports no new release, and nothing has drifted.");
        for host in shown.hosts {
            setup.apply(host, &BRIEF)?;
        }
        drift(&setup, &steps)?;
        tampered(&setup, &steps)?;
        setup.settle()?;
        print(&format!("\nDone in {:.1} s. Look around and continue on your own:", start.elapsed().as_secs_f64()));
        let (dir, kpull) = (self.dir.display(), program());
        let (host, (variable, role)) = (shown.hosts.first().copied().unwrap_or_default(), shown.look);
        print(&format!("   {kpull} status --root {dir}/hosts/{host}"));
        print(&format!("   {kpull} explain --site {dir}/site {host} {variable}"));
        if !made.is_empty() {
            print(&format!("   {kpull} pki list --site {dir}/site"));
        }
        print(&format!("   edit {dir}/site/roles/{role}/role.toml"));
        print(&format!("   {kpull} plan --site {dir}/site --root {dir}/hosts/{host} --host {host}"));
        print(&format!(
            "   {kpull} sign --site {dir}/site --key {dir}/signer && {kpull} apply --root {dir}/hosts/{host}"
        ));
        Ok(Exit::Done)
    }
}

/// Shows drift, and how a run corrects it.
fn drift(setup: &DemoSetup, steps: &Steps) -> Result<()> {
    let (host, edit) = &setup.shown.drift;
    steps.next(
        "Drift",
        &format!(
            "someone edits a file on {host}. `kpull plan` shows the drift, and `kpull apply` corrects it and nothing else."
        ),
    );
    edit_file(&setup.outside(host, edit.file), edit)?;
    setup.plan(host)?;
    setup.apply(host, &Text::new(false)).map(drop)
}

/// Shows a release that was tampered with, and then the genuine one.
fn tampered(setup: &DemoSetup, steps: &Steps) -> Result<()> {
    let (host, edit) = &setup.shown.change;
    steps.next(
        "Tampered with",
        "release 2 changes one template. Someone changes a byte of it in transit: the hosts refuse the release and stay as they are.",
    );
    edit_file(&setup.site().join(edit.file), edit)?;
    print(&format!("   {}", setup.sign()?));
    setup.tamper(true);
    match setup.apply(host, &Only(|_| false)) {
        Err(error) if error.exit_code() == Exit::Refused => {
            graphical(&error).lines().for_each(|line| print_as_is(&format!("   {line}")));
        }
        Err(error) => return Err(error),
        Ok(_) => return Err(error!(OTHER, "the tampered release was not refused")),
    }
    steps.next("Intact", "the release arrives as it was signed, and only the one file changes.");
    setup.tamper(false);
    for host in setup.shown.hosts {
        setup.apply(host, &Text::new(false))?;
    }
    Ok(())
}

fn edit_file(path: &Path, edit: &Edit) -> Result<()> {
    let text = std::fs::read_to_string(path).context(code::OTHER, || format!("can't read {}", path.display()))?;
    std::fs::write(path, text.replace(edit.from, edit.to))
        .context(code::OTHER, || format!("can't write {}", path.display()))
}

impl DemoSetup {
    fn sign(&self) -> Result<String> {
        let signed = sign(&self.site(), &Signer::of(&self.signer())?, SignedDuration::from_hours(24 * 30), false)?;
        Ok(about(&signed.manifest))
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

/// Reports only some events.
struct Only(fn(&Event<'_>) -> bool);

/// Reports the result of a run.
const BRIEF: Only = Only(|event| matches!(event, Event::Done(_)));

impl Report for Only {
    fn event(&self, event: &Event<'_>) {
        if (self.0)(event) {
            Text::new(false).event(event);
        }
    }
}

/// Numbers the steps.
#[derive(Default)]
struct Steps(Cell<usize>);

impl Steps {
    fn next(&self, title: &str, text: &str) {
        let number = self.0.get().saturating_add(1);
        self.0.set(number);
        print(&format!("\n{number}. {title}: {text}"));
    }
}

/// The name under which this program was called.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "kpull".to_owned())
}
