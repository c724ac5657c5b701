//! `[[module]]`: a kernel module, loaded now and at each boot.

use crate::error::Context;
use crate::host::process::{Command, run};
use crate::kind::prelude::*;

/// Fields of `[[module]]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModuleFields {
    /// Its name, not an alias; `-` and `_` are equivalent.
    name: String,
}

impl Fields for ModuleFields {
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let starts_plainly = self.name.starts_with(|c: char| c.is_ascii_alphanumeric());
        let is_name = starts_plainly && is_plain(&self.name) && !self.name.contains('.');
        build.refuse_if(!is_name, "name", "a module's name consists of letters, digits, `_` and `-`")?;
        let path = format!("/etc/modules-load.d/kpull-{}.conf", self.name);
        let path = AbsolutePath::try_from(path).map_err(|why| build.invalid("name", &why))?;
        let file = File::new(Self::NAME, path, format!("{}\n", self.name).into_bytes(), false);
        Ok(vec![Box::new(Module { name: self.name, file })])
    }
}

/// A kernel module.
#[derive(Debug)]
pub struct Module {
    name: String,
    file: File,
}

impl Module {
    /// Whether `item` is a module that the running kernel doesn't have yet.
    pub fn is_pending(item: &Item, work: &Work<'_>) -> bool {
        item.as_kind::<Self>().is_some_and(|module| !module.is_loaded(work.host).unwrap_or(false))
    }

    /// Whether the running kernel has it, loaded or built in.
    fn is_loaded(&self, host: &Host) -> Result<bool> {
        let wanted = self.name.replace('-', "_");
        if host.root.meta(Path::new(&format!("/sys/module/{wanted}")))?.is_some() {
            return Ok(true);
        }
        let loaded = host.root.text(Path::new("/proc/modules"))?;
        if loaded.lines().any(|line| line.split(' ').next() == Some(&wanted)) {
            return Ok(true);
        }
        // one that is built in and has no parameters shows nowhere else
        let kernel = nix::sys::utsname::uname().context(code::KERNEL, || "can't ask the kernel for its version")?;
        let path = format!("/lib/modules/{}/modules.builtin", kernel.release().to_string_lossy());
        let built_in = host.root.text(Path::new(&path))?;
        Ok(built_in.lines().any(|line| {
            let name = line.rsplit('/').next().and_then(|file| file.strip_suffix(".ko"));
            name.is_some_and(|name| name.replace('-', "_") == wanted)
        }))
    }
}

impl Resource for Module {
    fn about(&self) -> About {
        let module = Claim::thing(ModuleFields::NAME, self.name.replace('-', "_"));
        let claims = vec![module, Claim::path(&self.file.path)];
        About { claims, ..About::new(ModuleFields::NAME, &self.name, Phase::Kernel) }
    }

    fn watched_inputs(&self, work: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        let file = WatchedInput::Path(self.file.path.to_path_buf());
        if !work.host.is_live() {
            return Ok(Some(vec![file]));
        }
        let loaded = PathBuf::from(format!("/sys/module/{}", self.name.replace('-', "_")));
        let shows = work.host.root.meta(&loaded)?.is_some();
        Ok(shows.then(|| vec![file, WatchedInput::Place(loaded)]))
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let load = work.host.is_live() && !self.is_loaded(work.host)?;
        Ok(Change::of_parts(self.file.as_part(work)?, load.then(|| "load".to_owned()).into_iter().collect()))
    }

    fn apply(&self, work: &Work<'_>, change: &Change) -> Result<()> {
        self.file.apply(work, change)?;
        if !work.host.is_live() || self.is_loaded(work.host)? {
            return Ok(());
        }
        let output = run(&Command::new(["modprobe", "--", &self.name], Duration::from_secs(60)))?;
        output.or_failure(format!("can't load the kernel module {}", self.name)).map_err(|error| {
            error.help(
                "check whether the running kernel has it (`modinfo`), and install the package with additional modules; after an update of the kernel, reboot; a container can't load modules",
            )
        })?;
        if !self.is_loaded(work.host)? {
            return Err(error!(KERNEL, "modprobe found {}, but no module of this name is loaded", self.name)
                .help("it is an alias: write the name that `modprobe --resolve-alias` shows"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::testing::{Tree, one, refusal};

    #[test]
    fn a_module_is_kept_for_the_next_boot() {
        let tree = Tree::new();
        tree.converge(&*one("module", "name = 'br_netfilter'"));
        assert_eq!(tree.get("/etc/modules-load.d/kpull-br_netfilter.conf"), "br_netfilter\n");
    }

    #[test]
    fn a_module_is_found_loaded_or_built_in_with_either_spelling() {
        let module = |name: &str| one("module", &format!("name = '{name}'"));
        let is_loaded =
            |name: &str, tree: &Tree| module(name).as_kind::<Module>().unwrap().is_loaded(&tree.host).unwrap();
        let tree = Tree::new();
        let release = nix::sys::utsname::uname().unwrap().release().to_string_lossy().into_owned();
        tree.put("/proc/modules", "nf_conntrack 1 2 - Live 0x0\n");
        tree.put("/sys/module/vxlan/refcnt", "0");
        tree.put(&format!("/lib/modules/{release}/modules.builtin"), "kernel/net/8021q/ip-vs.ko\n");
        for name in ["nf_conntrack", "nf-conntrack", "vxlan", "ip_vs"] {
            assert!(is_loaded(name, &tree), "{name}");
        }
        assert!(!is_loaded("nf", &tree));
    }

    #[test]
    fn a_name_that_could_be_an_option_is_refused() {
        for bad in ["-r", "a b", "../x", ""] {
            assert!(refusal("module", &format!("name = '{bad}'")).starts_with("`name`: "), "{bad}");
        }
    }
}
