//! Waits for gates before a resource is changed, and for probes after all changes.

use crate::engine::plan::locate;
use crate::engine::prelude::*;
use crate::engine::run::Run;
use crate::kind::probe::Probe;

impl Run<'_> {
    /// Waits for a gate before `item` is changed. When it doesn't open, the run ends there: later resources may need
    /// what waits.
    pub(super) fn pass(&self, gate: &Item, item: &Item) -> Result<()> {
        if !self.work.host.is_live() {
            return Ok(());
        }
        self.wait(gate).map_err(|why| {
            let error = error!(PROBE, "{} waits for {}", item.id, gate.id).because(why).exit(Exit::Unhealthy);
            locate(error.help("another host may go first; the next run continues from here"), gate)
        })
    }

    fn wait(&self, item: &Item) -> Result<(), String> {
        self.report.event(&Event::Waiting(item));
        let passed = item.resource.wait(self.work);
        if item.as_kind::<Probe>().is_some() {
            self.probed.borrow_mut().insert(item.id.clone(), passed.is_ok());
        }
        passed?;
        self.report.event(&Event::Passing(item));
        Ok(())
    }

    /// Waits for the probes among the resources of a partial run. They stay pending, with everything else.
    pub(super) fn probe_part(&mut self) -> Result<Option<Error>> {
        let is_pending = self.pending.probes;
        let (_, unhealthy) = self.probe()?;
        self.pending.probes = is_pending;
        self.record_pending()?;
        Ok(unhealthy)
    }

    /// Waits for every probe that decides, if anything has changed since they last passed. The caller records what is pending then.
    pub(super) fn probe(&mut self) -> Result<(usize, Option<Error>)> {
        if !self.pending.probes || !self.work.host.is_live() {
            self.pending.probes = false;
            return Ok((0, None));
        }
        let mut passed = 0;
        for (at, item) in self.work.catalog.iter().enumerate() {
            if self.is_left_out(at) {
                continue;
            }
            if self.new_checks.contains(&at)
                && let Err(error) = self.slots.check(item)
            {
                return Ok((passed, Some(locate(error, item))));
            }
            if item.as_kind::<Probe>().is_none_or(|probe| !probe.decides) {
                continue;
            }
            if let Err(why) = self.wait(item) {
                let error = error!(PROBE, "{} does not pass", item.id)
                    .because(why)
                    .exit(Exit::Unhealthy)
                    .help("all changes stay applied; the next run tries the probe again");
                return Ok((passed, Some(locate(error, item))));
            }
            passed += 1;
        }
        self.pending.probes = false;
        Ok((passed, None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::plan::plan;
    use crate::engine::testing::{Machine, ids};
    use crate::host::Host;
    use crate::kind::Work;
    use crate::report::Report;
    use crate::resolve::testing::catalog;
    use crate::store::Store;

    const GATED: &str = r#"
        [[command]]
        name = "kubelet"
        run = ["touch", "DIR/kubelet"]
        creates = "DIR/kubelet"
        [[command]]
        name = "after it"
        run = ["touch", "DIR/more"]
        creates = "DIR/more"
        after = ["command:kubelet"]
        [[probe]]
        name = "api"
        command = ["test", "-e", "DIR/api"]
        before = ["command:kubelet"]
        within = "0s"
        [[command]]
        name = "proxy"
        run = ["touch", "DIR/proxy"]
        creates = "DIR/proxy"
    "#;

    #[test]
    fn what_waits_for_a_gate_comes_after_all_that_does_not() {
        let machine = Machine::new(GATED);
        assert_eq!(ids(&machine.catalog), ["command:proxy", "probe:api", "command:kubelet", "command:after it"]);
    }

    #[test]
    fn a_gate_that_stays_shut_ends_the_run_before_what_waits_and_the_next_run_continues() {
        let machine = Machine::new(GATED);
        let (changed, ended) = machine.run();
        assert_eq!(changed, ["command:proxy"]);
        let error = ended.unwrap_err();
        assert_eq!(
            error.to_string(),
            "command:kubelet waits for probe:api: test failed: exit status: 1, without any output"
        );
        assert_eq!((error.exit_code(), error.place().unwrap().file.as_str()), (Exit::Unhealthy, "roles/r/role.toml"));
        assert!(error.advice().unwrap().contains("the next run continues from here"));
        assert!(!machine.dir.path().join("kubelet").exists());

        machine.make("api");
        let (changed, ended) = machine.run();
        assert_eq!(changed, ["command:kubelet", "command:after it"]);
        assert_eq!(ended.unwrap(), 1, "the probe passes at the end too");
    }

    #[test]
    fn what_needs_a_probe_waits_as_behind_a_gate_and_other_needs_do_not_matter() {
        let role = GATED.replace("before = [\"command:kubelet\"]", "");
        let role = role.replace(
            "creates = \"DIR/kubelet\"",
            "creates = \"DIR/kubelet\"\nneeds = [\"probe:api\", \"etcd_key:/k\"]",
        );
        let machine = Machine::new(&role);
        assert_eq!(ids(&machine.catalog), ["command:proxy", "probe:api", "command:kubelet", "command:after it"]);
        let (changed, ended) = machine.run();
        assert_eq!(changed, ["command:proxy"]);
        assert!(ended.unwrap_err().to_string().starts_with("command:kubelet waits for probe:api: test failed"));
        machine.make("api");
        assert_eq!(machine.run().0, ["command:kubelet", "command:after it"]);
    }

    #[test]
    fn a_gate_is_not_waited_for_when_nothing_behind_it_changes() {
        let machine = Machine::new(&GATED.replace("within", "decides = false\n        within"));
        machine.make("api");
        machine.run().1.unwrap();
        machine.remove("api");
        machine.remove("proxy");
        let (changed, ended) = machine.run();
        assert_eq!(changed, ["command:proxy"]);
        assert_eq!(ended.unwrap(), 0, "nor is it one of those that decide");
        machine.remove("kubelet");
        assert_eq!(machine.run().1.unwrap_err().exit_code(), Exit::Unhealthy);
    }

    #[test]
    fn a_probe_that_decides_nothing_does_not_make_a_run_unhealthy() {
        let role =
            "[[command]]\nrun = ['touch', 'DIR/x']\ncreates = 'DIR/x'\n[[probe]]\ncommand = ['false']\nwithin = '0s'\n";
        assert_eq!(Machine::new(role).run().1.unwrap_err().exit_code(), Exit::Unhealthy);
        assert_eq!(Machine::new(&format!("{role}decides = false")).run().1.unwrap(), 0);
    }

    #[test]
    fn a_gate_for_what_the_host_does_not_have_is_an_error_with_the_name_that_was_meant() {
        let role = GATED.replace("before = [\"command:kubelet\"]", "before = [\"command:kublet\"]");
        let error = catalog(&role.replace("DIR", "/dir")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`probe:api` is a gate before `command:kublet`, but this host has no such resource"
        );
        assert_eq!(error.advice(), Some("did you mean `command:kubelet`?"));
    }

    #[test]
    fn a_gate_that_needs_what_waits_for_it_is_a_cycle() {
        let role = GATED.replace("within", "after = [\"command:after it\"]\n        within");
        let error = catalog(&role.replace("DIR", "/dir")).unwrap_err();
        assert!(
            error.to_string().contains("command:kubelet → probe:api → command:after it → command:kubelet"),
            "{error}"
        );
    }

    #[test]
    fn a_tree_has_no_gates() {
        let dir = tempfile::tempdir().unwrap();
        let role = "[[file]]\npath = '/etc/x'\ncontent = 'x'\n[[probe]]\ncommand = ['false']\nbefore = ['file:/etc/x']\nwithin = '0s'";
        let (host, store) = (Host::open(dir.path()).unwrap(), Store::open(&dir.path().join("state")).unwrap());
        let silent = Vec::<Box<dyn Report>>::new();
        let planned = plan(&host, &store, catalog(role).unwrap(), "").unwrap();
        let work = Work { host: &host, store: &store, catalog: &planned.catalog.items };
        let mut run = Run::new(&work, &silent, "h1", planned.pending);
        run.all(&[]).unwrap();
        assert_eq!(run.changes.len(), 1);
        assert!(run.pending.probes);
        let (passed, unhealthy) = run.probe().unwrap();
        assert!(passed == 0 && unhealthy.is_none() && run.probed.borrow().is_empty(), "{unhealthy:?}");
    }
}
