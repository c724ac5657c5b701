//! `kpull check`.

use crate::author::lint::{lint, lint_facts, lint_hosts, unknown_sizes, unmatched_patterns};
use crate::author::pki::{CertificateStatus, survey};
use crate::author::secret::admin::{SecretAdmin, Users};
use crate::author::secret::scan::scan;
use crate::author::supply::check::{Asked, Checking, check, installed};
use crate::author::vendor;
use crate::cli::keys;
use crate::cli::prelude::*;
use crate::document::layout;
use crate::error::quoted;
use crate::resolve::{once, resolve_all};
use crate::site::HostVars;

/// Arguments of `check`.
#[derive(Args, Debug)]
pub struct Check {
    #[command(flatten)]
    site: SiteSource,
    /// Also query every address in artifacts.toml, and check local files for the members that roles install
    #[arg(long)]
    artifacts: bool,
    /// Download all artifacts and compare their digests
    #[arg(long, requires = "artifacts")]
    download: bool,
    /// Also look for artifacts in this mirror, in addition to the state directory of this host
    #[arg(long, value_name = "DIR", requires = "artifacts")]
    mirror: Option<PathBuf>,
    #[command(flatten)]
    net: TlsArgs,
    /// Write one JSON object on each line
    #[arg(long)]
    json: bool,
}

impl Run for Check {
    fn run(&self) -> Result<Exit> {
        let (site, dir) = (self.site.load()?, self.site.dir());
        let mut errors: Vec<Error> = Vec::new();
        let literals = scan(&site.files);
        let (mut users, mut catalogs) = (Users::default(), Vec::new());
        let mut found: Vec<(&str, Error)> = Vec::new();
        let facts = |name: &str, host: &HostVars| Facts::recorded(dir.as_deref(), name, host.address);
        for (name, resolved) in resolve_all(&site, &facts, &SecretStore::encrypted()) {
            let (catalog, facts) = match resolved {
                Ok(resolved) => resolved,
                Err(error) => {
                    found.push((name, error));
                    continue;
                }
            };
            let (resources, roles) = (catalog.items.len(), site.hosts.get(name).map_or(0, |host| host.roles.len()));
            print_result(
                self.json,
                json!({ "event": "checked", "host": name, "resources": resources }),
                &format!("✓ {name:<16} {} of {}", counted(resources, "resource"), counted(roles, "role")),
            );
            found.extend(lint_facts(&catalog, &facts).map(|error| (name, error)));
            users.add(&catalog);
            catalogs.push(catalog);
        }
        errors.extend(once(found));
        // without all catalogs, it is unknown who uses what
        let is_resolved = errors.is_empty();
        errors.extend(lint_hosts(&site));
        let is_unused = |role: &&String| !self.json && !site.hosts.values().any(|host| host.roles.contains(role));
        for role in site.roles.keys().filter(is_unused) {
            print_line(&format!("! the role {role} is used by no host, so its templates were not checked"));
        }
        errors.extend(self.keys(&site));
        if let Some(warning) = unknown_sizes(&site) {
            self.warn(None, &warning);
        }
        let lost = if self.artifacts { self.check_artifacts(&site).err() } else { None };
        unmatched_patterns(&catalogs).iter().for_each(|warning| self.warn(None, warning));
        if is_resolved {
            errors.extend(lint(&site, &catalogs));
            errors.extend(self.certificates(&site)?);
            errors.extend(SecretAdmin::of(Path::new("."), site.clone(), users)?.complaints());
        }
        if let Some(dir) = &dir {
            Facts::stray(dir, &site.hosts)?.iter().for_each(|warning| self.warn(None, warning));
            match vendor::List::load(dir) {
                Ok(list) => errors.extend(vendor::complaints(&site.files, list.as_ref())),
                Err(error) => errors.push(error),
            }
        }
        errors.extend(literals);
        errors.extend(lost);
        Error::distinct(errors).map_or(Ok(Exit::Done), Err)
    }
}

impl Check {
    /// Warns about certificates that need attention; those that are no longer valid are errors.
    fn certificates(&self, site: &Arc<Site>) -> Result<Vec<Error>> {
        let now = Timestamp::now();
        let statuses = survey(site, self.site.dir().as_deref(), now)?;
        // one command renews all of them, so one warning is enough
        let is_due = |status: &&CertificateStatus| status.is_due();
        let first = statuses.iter().filter(is_due).min_by_key(|status| status.left(now));
        let more = statuses.iter().filter(is_due).count().saturating_sub(1);
        for status in &statuses {
            let Some(mut warning) = status.warning(now) else { continue };
            if status.is_due() && !self.json {
                if first.is_none_or(|first| !std::ptr::eq(first, status)) {
                    continue;
                }
                if more > 0 {
                    warning.push_str(&format!("; {more} more are due"));
                }
            }
            self.warn(Some(&status.host), &warning);
        }
        Ok(statuses.iter().filter_map(CertificateStatus::error).collect())
    }

    /// Warns about thresholds of the newest key set that its keys will soon not reach; those that they don't reach now are errors.
    fn keys(&self, site: &Site) -> Vec<Error> {
        let now = Timestamp::now();
        let newest = match KeySet::newest(&site.files) {
            Ok(newest) => newest,
            Err(error) => return vec![error],
        };
        let found = newest.map(|set| set.shortfalls(now, now + keys::SOON)).unwrap_or_default();
        let (errors, warnings): (Vec<_>, Vec<_>) = found.into_iter().partition(|found| found.is_now);
        warnings.iter().for_each(|found| self.warn(None, &found.warning()));
        errors.into_iter().map(|found| found.error).collect()
    }

    /// Prints a warning about a host or the site.
    fn warn(&self, host: Option<&str>, warning: &str) {
        let warning = complete(warning);
        let object = json!({ "event": "warning", "host": host, "warning": warning });
        print_result(self.json, object, &format!("! {warning}"));
    }

    fn check_artifacts(&self, site: &Arc<Site>) -> Result<()> {
        let mirror = self.mirror.iter().map(|dir| dir.join(layout::ARTIFACTS));
        let stores = mirror.chain([PathBuf::from("/var/lib/kpull/artifacts")]).collect();
        let checking = Checking {
            net: self.net.options(),
            download: self.download,
            stores,
            members: installed(site, self.site.dir().as_deref()),
        };
        let report = Text::new(false);
        let progress = |name: &str, done, total| report.event(&Event::Download { name, done, total });
        check(&site.files, &site.artifacts, &checking, &progress, &mut |asked| {
            let Asked { pin, arch, url, place, answer } = asked;
            let error = answer.as_ref().err().map(ToString::to_string);
            let size = answer.as_ref().ok().copied().flatten();
            if self.json {
                print_json(json!({ "event": "artifact", "name": pin.name, "arch": arch,
                    "url": url, "place": place.to_string(), "ok": error.is_none(), "size": size, "error": error }));
            } else {
                print(&match error {
                    None => format!("✓ {:<16} {arch} {url}", pin.name),
                    Some(error) => format!("! {:<16} {arch} {} ({place})", pin.name, quoted(&error)),
                });
            }
        })
    }
}
