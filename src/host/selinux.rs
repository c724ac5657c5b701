//! SELinux's settings that an administrator changes without a policy of his own: booleans, and the types of ports and files.
//!
//! What is there is read from the kernel and from the files of libsemanage. Changes are made by `setsebool` and `semanage`, which compile
//! the policy anew.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::port_range::PortRange;
use super::process::{Command, Output, argv, run, run_if_there};
use super::root::Root;
use crate::error::{Error, Result, error};
use crate::text::leading;

/// Where the kernel has the booleans of its policy.
pub const BOOLEANS: &str = "/sys/fs/selinux/booleans";

/// How long a change may take: the policy is compiled.
const CHANGE: Duration = Duration::from_secs(600);

/// How long it may take to give the files below a directory their contexts: a run has half an hour (kpull.service).
pub const RESTORE: Duration = Duration::from_secs(1200);

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Setting {
    /// A boolean of the policy: `on` or `off`.
    Boolean(String),
    /// The type of ports.
    Ports(PortRange),
    /// The type of files whose paths fit an expression.
    Files(String),
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean(name) => f.write_str(name),
            Self::Ports(ports) => ports.fmt(f),
            Self::Files(expression) => f.write_str(expression),
        }
    }
}

/// What the host has of a setting.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Current {
    /// The value that applies now; `None` if the policy has none.
    pub value: Option<String>,
    /// The value that this host has set instead of the policy's.
    pub own: Option<String>,
    /// Whether the policy or this host names just these ports or this expression.
    is_named: bool,
}

/// The policy in use.
fn policy(root: &Root) -> Result<String> {
    let config = root.text(Path::new("/etc/selinux/config"))?;
    let name = config.lines().find_map(|line| line.trim().strip_prefix("SELINUXTYPE=")).unwrap_or("targeted").trim();
    Ok(name.to_owned())
}

/// A file of libsemanage with what this host has set; older releases have it elsewhere.
fn own_file(root: &Root, name: &str) -> Result<PathBuf> {
    let policy = policy(root)?;
    let at = |start: &str| PathBuf::from(format!("{start}/{policy}/active"));
    let is_there = root.meta(&at("/var/lib/selinux"))?.is_some();
    Ok(at(if is_there { "/var/lib/selinux" } else { "/etc/selinux" }).join(name))
}

/// A file with the contexts of files, of the policy or this host's own.
fn contexts_file(root: &Root, name: &str) -> Result<PathBuf> {
    Ok(PathBuf::from(format!("/etc/selinux/{}/contexts/files/{name}", policy(root)?)))
}

/// The type in a context: `system_u:object_r:http_port_t:s0`.
fn type_in(context: &str) -> Option<&str> {
    context.split(':').nth(2)
}

/// The type of ports that a host has set: `portcon tcp 8000 - 8010 CONTEXT`.
fn own_port(file: &str, ports: &PortRange) -> Option<String> {
    let of = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["portcon", protocol, range @ .., context] = &words[..] else { return None };
        let found = PortRange::parse(&range.concat(), protocol)?;
        type_in(context).filter(|_| found == *ports).map(str::to_owned)
    };
    file.lines().filter_map(of).next_back()
}

/// The type of ports in what `semanage port -l` prints, by the narrowest range that has all of them; and whether that is just these.
fn listed_port(listing: &str, ports: &PortRange) -> Option<(String, bool)> {
    let mut best: Option<(u16, String)> = None;
    for line in listing.lines() {
        let mut words = line.split_whitespace();
        let (Some(kind), Some(protocol)) = (words.next(), words.next()) else { continue };
        let ranges = words.flat_map(|words| words.split(',')).filter_map(|range| PortRange::parse(range, protocol));
        for range in ranges.filter(|range| range.protocol == ports.protocol) {
            let width = range.last.saturating_sub(range.first);
            let has = range.first <= ports.first && ports.last <= range.last;
            if has && best.as_ref().is_none_or(|(narrowest, _)| width < *narrowest) {
                best = Some((width, kind.to_owned()));
            }
        }
    }
    best.map(|(width, kind)| (kind, width == ports.last.saturating_sub(ports.first)))
}

/// The type that a file of contexts has for an expression, for files of any kind.
fn listed_files(file: &str, expression: &str) -> Option<String> {
    let of = |line: &str| {
        let mut words = line.split_whitespace();
        let (Some(found), Some(context), None) = (words.next(), words.next(), words.next()) else { return None };
        (found == expression).then(|| type_in(context).unwrap_or(context).to_owned())
    };
    file.lines().filter_map(of).next_back()
}

impl Setting {
    /// Whether it is a boolean that the policy does not have.
    pub fn is_missing(&self, root: &Root) -> Result<bool> {
        let Self::Boolean(name) = self else { return Ok(false) };
        Ok(root.meta(&Path::new(BOOLEANS).join(name))?.is_none())
    }

    /// The files that show a change of it.
    pub fn files(&self, root: &Root) -> Result<Vec<PathBuf>> {
        Ok(match self {
            Self::Boolean(_) => vec![own_file(root, "booleans.local")?],
            Self::Ports(_) => vec![own_file(root, "ports.local")?, own_file(root, "policy.kern")?],
            Self::Files(_) => vec![contexts_file(root, "file_contexts.local")?, contexts_file(root, "file_contexts")?],
        })
    }

    /// What the host has.
    pub fn current(&self, root: &Root) -> Result<Current> {
        match self {
            Self::Boolean(name) => current_boolean(root, name),
            Self::Ports(ports) => {
                let own = own_port(&root.text(&own_file(root, "ports.local")?)?, ports);
                if own.is_some() {
                    return Ok(Current { value: own.clone(), own, is_named: true });
                }
                let found = listed_port(&root.labels.ports(list_ports)?, ports);
                let (value, is_named) = found.map_or((None, false), |(value, is_named)| (Some(value), is_named));
                Ok(Current { value, own, is_named })
            }
            Self::Files(expression) => {
                let of = |name| Ok::<_, Error>(listed_files(&root.text(&contexts_file(root, name)?)?, expression));
                let own = of("file_contexts.local")?;
                let value = if own.is_some() { own.clone() } else { of("file_contexts")? };
                Ok(Current { is_named: value.is_some(), value, own })
            }
        }
    }

    /// Sets it. Without a value, the policy's applies again.
    pub fn set(&self, root: &Root, value: Option<&str>) -> Result<()> {
        let failed = || match value {
            Some(value) => format!("can't set {self} to {value} in SELinux's policy"),
            None => format!("can't remove {self} from SELinux's policy"),
        };
        let ports;
        let (kind, words): (_, Vec<&str>) = match self {
            Self::Boolean(name) => {
                let output = run(&Command::new(["setsebool", "-P", name, value.unwrap_or("off")], CHANGE))?;
                return output.or_failure(failed()).map(drop);
            }
            Self::Ports(range) => {
                ports = range.ports();
                ("port", vec!["-p", &range.protocol, &ports])
            }
            Self::Files(expression) => ("fcontext", vec![expression]),
        };
        let current = self.current(root)?;
        let verb = match value {
            None if current.own.is_none() => return Ok(()),
            None => "-d",
            Some(_) if current.is_named => "-m",
            Some(_) => "-a",
        };
        let kept = value.map_or_else(Vec::new, |value| vec!["-t", value]);
        semanage(&[vec![kind, verb], kept, words].concat())?.or_failure(failed()).map(drop)
    }
}

fn current_boolean(root: &Root, name: &str) -> Result<Current> {
    let Some((_, content)) = root.read(&Path::new(BOOLEANS).join(name))? else {
        let known = root.names(Path::new(BOOLEANS))?;
        let error = error!(KERNEL, "SELinux's policy has no boolean {name}");
        let advice = "`getsebool -a` lists them; if some hosts may lack it, set `ignore_missing = true`";
        return Err(error.help_nearest(name, known.iter().map(String::as_str), advice));
    };
    let shown = |is_on: bool| Some(if is_on { "on" } else { "off" }.to_owned());
    let own = root.text(&own_file(root, "booleans.local")?)?;
    let own = own.lines().filter_map(|line| line.split_once('=')).rfind(|(own, _)| own.trim() == name);
    Ok(Current {
        // the value that applies, and one that waits for its commit
        value: shown(content.first() == Some(&b'1')),
        own: own.and_then(|(_, value)| shown(value.trim() == "1")),
        is_named: true,
    })
}

/// What `semanage` prints about the types of ports.
fn list_ports() -> Result<String> {
    let output = semanage(&["port", "-l", "-n"])?.or_failure("can't list the types of ports")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn semanage(words: &[&str]) -> Result<Output> {
    run_if_there(&Command::new([&["semanage"], words].concat(), CHANGE))?.ok_or_else(|| {
        error!(COMMAND, "SELinux's types of ports and files can't be changed: there is no program semanage")
            .help("add a [[package]] with the name policycoreutils-python-utils (RHEL 7: policycoreutils-python)")
    })
}

/// The directory or file that all paths which fit an expression are in, `None` if that is all of `/`.
pub fn beginning(expression: &str) -> Option<PathBuf> {
    let mut path = String::new();
    let mut rest = expression;
    loop {
        let (plain, next) = leading(rest, |c| !".\\^$?*+|[](){}".contains(c));
        path.push_str(plain);
        match next.strip_prefix('\\').and_then(|next| next.chars().next().map(|c| (c, next))) {
            Some((c, next)) if !c.is_alphanumeric() => {
                path.push(c);
                rest = next.strip_prefix(c).unwrap_or_default();
            }
            _ => {
                rest = next;
                break;
            }
        }
    }
    // what follows belongs to the last name, unless it begins one of its own
    let is_whole = rest.is_empty() || rest.starts_with("(/");
    let path = Path::new(&path);
    let path = if is_whole || path.to_string_lossy().ends_with('/') { Some(path) } else { path.parent() };
    path.filter(|path| path.components().count() > 1).map(|path| path.components().collect())
}

/// Gives the files below a path the contexts of the policy.
pub fn restore(path: &Path) -> Result<()> {
    let what = format!("can't set the SELinux contexts of the files in {}", path.display());
    run(&Command::new(restoration(path), RESTORE))?.or_failure(what).map(drop)
}

/// Whether files below a path have contexts that [`restore`] changes.
pub fn is_unrestored(path: &Path) -> Result<bool> {
    let what = format!("can't read the SELinux contexts of the files in {}", path.display());
    let command = Command::new([restoration(path), argv(["-n", "-v"])].concat(), RESTORE);
    Ok(!run(&command)?.or_failure(what)?.stdout.is_empty())
}

/// The program of [`restore`]; it succeeds if there is no such path.
pub fn restoration(path: &Path) -> Vec<String> {
    argv(["restorecon", "-R", "-i", &path.to_string_lossy()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(range: &str) -> PortRange {
        PortRange::parse(range, "tcp").unwrap()
    }

    #[test]
    fn the_type_of_ports_is_that_of_the_narrowest_range() {
        let listing = "http_port_t                    tcp      80, 443, 8000-8010\n\
                       unreserved_port_t              tcp      1024-32767\n\
                       dns_port_t                     udp      53\n\
                       odd\n";
        let of = |range: &str| listed_port(listing, &ports(range));
        let found = |kind: &str, is_named| Some((kind.to_owned(), is_named));
        assert_eq!(of("443"), found("http_port_t", true));
        assert_eq!(of("8000-8010"), found("http_port_t", true));
        assert_eq!(of("8001"), found("http_port_t", false));
        assert_eq!(of("8005-8011"), found("unreserved_port_t", false));
        assert_eq!((of("53"), of("40000")), (None, None));
    }

    #[test]
    fn what_a_host_has_set_is_read_from_its_files() {
        let local = "# made by libsemanage\nportcon tcp 8443 system_u:object_r:http_port_t:s0\n\
                     portcon tcp 9000 - 9010 system_u:object_r:ssh_port_t:s0\n";
        let of = |range: &str| own_port(local, &ports(range));
        assert_eq!(of("8443").as_deref(), Some("http_port_t"));
        assert_eq!(of("9000-9010").as_deref(), Some("ssh_port_t"));
        assert_eq!(of("9000"), None);
        let local = "/srv/a(/.*)?    system_u:object_r:old_t:s0\n/srv/b -- system_u:object_r:b_t:s0\n\
                     /srv/a(/.*)?    system_u:object_r:a_t:s0\n/srv/c <<none>>\n";
        let of = |expression: &str| listed_files(local, expression);
        assert_eq!(of("/srv/a(/.*)?").as_deref(), Some("a_t"));
        assert_eq!((of("/srv/b"), of("/srv/c").as_deref()), (None, Some("<<none>>")));
    }

    #[test]
    fn a_boolean_is_read_from_the_kernel_and_a_misspelled_one_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("etc/selinux/config", "SELINUX=enforcing\nSELINUXTYPE=default\n");
        put("sys/fs/selinux/booleans/httpd_can_connect", "1 1");
        put("var/lib/selinux/default/active/booleans.local", "# comment\nhttpd_can_connect=0\n");
        let root = Root::open(dir.path()).unwrap();
        let of = |name: &str| Setting::Boolean(name.to_owned()).current(&root);
        let (on, off) = (Some("on".to_owned()), Some("off".to_owned()));
        assert_eq!(of("httpd_can_connect").unwrap(), Current { value: on, own: off, is_named: true });
        let error = of("httpd_can_conect").unwrap_err();
        assert_eq!(error.to_string(), "SELinux's policy has no boolean httpd_can_conect");
        assert_eq!(error.advice(), Some("did you mean `httpd_can_connect`?"));
        let is_missing = |name: &str| Setting::Boolean(name.to_owned()).is_missing(&root).unwrap();
        assert!(is_missing("httpd_can_conect") && !is_missing("httpd_can_connect"));
    }

    #[test]
    fn the_beginning_of_an_expression_is_where_its_files_are() {
        let of = |expression: &str| beginning(expression).map(|path| path.display().to_string());
        for (expression, path) in [
            ("/srv/www(/.*)?", "/srv/www"),
            ("/srv/www", "/srv/www"),
            ("/srv/www/.*", "/srv/www"),
            ("/srv/my\\.app(/.*)?", "/srv/my.app"),
            ("/srv/app-[0-9]+/run", "/srv"),
            ("/srv/(a|b)/x", "/srv"),
            ("/srv/a\\d", "/srv"),
        ] {
            assert_eq!(of(expression).as_deref(), Some(path), "{expression}");
        }
        assert_eq!((of("/.*"), of("/"), of("/x.*"), of(".*")), (None, None, None, None));
    }
}
