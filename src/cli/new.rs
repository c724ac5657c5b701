//! `kpull new`.

use std::net::IpAddr;

use clap::ValueEnum;

use crate::author::cluster::{Cluster, Host};
use crate::author::example::as_if_made;
use crate::author::{schema, starts};
use crate::cli::prelude::*;
use crate::document::quoted;
use crate::resolve::resolve;
use crate::site::is_plain_name;

/// Arguments of `new`.
#[derive(Args, Debug)]
pub struct New {
    #[command(subcommand)]
    command: NewCommand,
    /// Write one JSON object
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum NewCommand {
    /// Create a site in a new directory
    Site {
        /// The directory
        dir: PathBuf,
        /// The name of the site [default: the name of the directory]
        #[arg(long)]
        name: Option<String>,
        /// Start with the roles and hosts of an example
        #[arg(long, value_name = "EXAMPLE")]
        example: Option<Example>,
    },
    /// Create the site of a Kubernetes cluster in a new directory, from the shipped roles
    Cluster {
        /// The directory
        dir: PathBuf,
        /// The name of the site [default: the name of the directory]
        #[arg(long)]
        name: Option<String>,
        /// The hosts of the control plane and of etcd: `NAME=ADDRESS`, separated by commas; one, three or five
        #[arg(long, value_name = "NAME=ADDRESS", value_delimiter = ',', required = true, value_parser = host_at)]
        masters: Vec<Host>,
        /// The other hosts: `NAME=ADDRESS`, separated by commas
        #[arg(long, value_name = "NAME=ADDRESS", value_delimiter = ',', value_parser = host_at)]
        workers: Vec<Host>,
        /// The virtual address of the API: an unused address of the masters' network, with the length of its prefix unless that is
        /// 24 (IPv4) or 64 (IPv6) [default: none, for one master only]
        #[arg(long, value_name = "ADDRESS[/PREFIX]", value_parser = address_with_prefix)]
        vip: Option<(IpAddr, u8)>,
    },
    /// Create a role, with a template and an example for `kpull test`
    Role {
        /// The name
        name: String,
        /// The site's directory
        #[arg(long, value_name = "DIR", default_value = ".")]
        site: PathBuf,
    },
    /// Create a host
    Host {
        /// The name
        name: String,
        /// The IP address at which other hosts reach it
        address: IpAddr,
        /// A group of the host; repeatable
        #[arg(long = "group", value_name = "NAME")]
        groups: Vec<String>,
        /// A role in addition to those of its groups; repeatable
        #[arg(long = "role", value_name = "NAME")]
        roles: Vec<String>,
        /// A variable: `ROLE.NAME=VALUE` or `NAME=VALUE`, with a TOML value or plain text; repeatable
        #[arg(long = "set", value_name = "VARIABLE=VALUE")]
        vars: Vec<String>,
        /// The site's directory
        #[arg(long, value_name = "DIR", default_value = ".")]
        site: PathBuf,
    },
}

/// An example site.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Example {
    /// Two plain hosts: a web server and its database
    Web,
}

impl Run for New {
    fn run(&self) -> Result<Exit> {
        let (dir, made) = match &self.command {
            NewCommand::Site { dir, name, example } => (dir, site(dir, name.as_deref(), *example)?),
            NewCommand::Cluster { dir, name, masters, workers, vip } => {
                let name = name_of_site(dir, name.as_deref())?;
                (dir, cluster(&Cluster { name: &name, masters, workers, vip: *vip })?)
            }
            NewCommand::Role { name, site } => (site, role(site, name)?),
            NewCommand::Host { name, address, groups, roles, vars, site } => {
                (site, host(site, name, &host_file(*address, groups, roles, vars)?)?)
            }
        };
        let made: Vec<(PathBuf, Vec<u8>)> = made.into_iter().map(|(path, content)| (dir.join(path), content)).collect();
        if let Some((path, _)) = made.iter().find(|(path, _)| path.symlink_metadata().is_ok()) {
            return Err(error!(EDIT, "{} already exists", path.display())
                .help("choose another name, or edit the existing file; nothing was written"));
        }
        replace(&made)?;
        for (path, _) in &made {
            print_result(self.json, json!({ "event": "made", "path": path }), &format!("+ {}", path.display()));
        }
        if !self.json
            && let Some(next) = self.command.next_steps()
        {
            print(&next);
        }
        Ok(Exit::Done)
    }
}

impl NewCommand {
    /// What is left to do with a site that has hosts.
    fn next_steps(&self) -> Option<String> {
        let (dir, what, mut commands) = match self {
            Self::Site { dir, example: Some(_), .. } => {
                (dir, "address and key", vec!["secret set db-password --generate 16"])
            }
            Self::Cluster { dir, vip, .. } => {
                let mut commands = vec!["pki init", "secret set bootstrap-token --generate 8"];
                if vip.is_some() {
                    commands.extend(["secret set haproxy-stats --generate 16", "secret set keepalived --generate 8"]);
                }
                commands.extend(["pki issue --identity KEY", "secret rekey --identity KEY"]);
                (dir, "key", commands)
            }
            _ => return None,
        };
        commands.extend(["check", "sign --key KEY"]);
        let commands: String = commands.iter().map(|command| format!("  kpull {command}\n")).collect();
        Some(format!(
            "next, in {}:\n  site.toml: list your public key, `[secrets] recipients = [\"ssh-ed25519 …\"]`\n  \
             host_vars/NAME.toml: set each host's {what}, `recipient = \"ssh-ed25519 …\"`, from its /etc/ssh/ssh_host_ed25519_key.pub\n\
             {commands}  push it to a git server, or `kpull publish DIR` for a web server\n  \
             on each host: kpull enroll URL --site SITE --host NAME --fingerprint SHA256:…",
            dir.display()
        ))
    }
}

/// `NAME=ADDRESS`.
fn host_at(text: &str) -> Result<Host, String> {
    let (name, address) = text.split_once('=').ok_or("write it as NAME=ADDRESS, like master1=10.0.0.1")?;
    check_name("host", name).map_err(|error| error.to_string())?;
    Ok((name.to_owned(), address.parse().map_err(|_| format!("`{address}` is not an IP address"))?))
}

/// `ADDRESS[/PREFIX]`.
fn address_with_prefix(text: &str) -> Result<(IpAddr, u8), String> {
    let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let address: IpAddr = address.parse().map_err(|_| format!("`{address}` is not an IP address"))?;
    let (usual, longest) = if address.is_ipv4() { (24, 32) } else { (64, 128) };
    let prefix = prefix.map_or(Ok(usual), str::parse).ok().filter(|prefix| *prefix <= longest);
    Ok((address, prefix.ok_or_else(|| format!("a prefix is a number up to {longest}"))?))
}

/// Paths below the site's directory, with their content.
type Made = starts::SiteFiles;

fn name_of_site(dir: &Path, name: Option<&str>) -> Result<String> {
    let own = dir.file_name().map(|name| name.to_string_lossy().into_owned());
    let Some(name) = name.map(str::to_owned).or(own) else {
        return Err(error!(EDIT, "{} has no name", dir.display()).help("add --name NAME"));
    };
    check_name("site", &name)?;
    Ok(name)
}

/// The files of a new site: those of an example, or `site.toml` alone.
fn site(dir: &Path, name: Option<&str>, example: Option<Example>) -> Result<Made> {
    const EMPTY: &str = "# What hosts are enrolled to, and what they have in common. A host is `kpull new host`, a role `kpull new role`.\nname = \"web\"\n\n[vars] # variables of the whole site\n";
    let name = quoted(&name_of_site(dir, name)?);
    let mut made = match example {
        Some(Example::Web) => starts::web(),
        None => vec![("site.toml".to_owned(), EMPTY.into())],
    };
    for (_, content) in made.iter_mut().filter(|(path, _)| path == "site.toml") {
        *content = String::from_utf8_lossy(content).replacen("\"web\"", &name, 1).into_bytes();
    }
    loads(Files::default(), &made)?;
    Ok(with_schemas(made))
}

/// The files of a new site, and those for editors.
fn with_schemas(mut made: Made) -> Made {
    made.push((".taplo.toml".into(), schema::taplo().into()));
    made.extend(
        schema::FILES
            .iter()
            .filter(|kind| kind.glob.is_some())
            .map(|kind| (format!("schemas/{}.json", kind.name), schema::text(&kind.schema()).into())),
    );
    made
}

/// The files of a cluster's site, if all its hosts can be resolved.
fn cluster(cluster: &Cluster<'_>) -> Result<Made> {
    let made = cluster.files()?;
    let authorities = loads(Files::default(), &made)?.pki;
    let mut files = Files::default();
    files.extend(authorities.keys().flat_map(|name| as_if_made(name)));
    let site = Arc::new(loads(files, &made)?);
    for (name, address) in cluster.masters.iter().chain(cluster.workers) {
        let facts = Facts::recorded(None, name, *address)?;
        resolve(&site, name, &facts, &SecretStore::expected())?;
    }
    Ok(with_schemas(made))
}

fn role(dir: &Path, name: &str) -> Result<Made> {
    check_name("role", name)?;
    if crate::site::RESERVED.contains(&name) {
        return Err(error!(EDIT, "`{name}` is not a valid name for a role").help("templates already use this name"));
    }
    let role = format!(
        r#"summary = "What {name} is for, in a sentence"

[vars] # variables with a default; what a host has to set is listed in `required`
greeting = "hello"

[[template]]
path = "/etc/{name}.conf"
template = "{name}.conf"
"#
    );
    let example = format!(
        r#"summary = "The greeting is in the file, for whichever host it is"

[vars.{name}]
greeting = "moin"

[[expect.template]]
path = "/etc/{name}.conf"
contains = ["greeting = moin\n", "host = h1\n"]
"#
    );
    let made = vec![
        (format!("roles/{name}/role.toml"), role.into_bytes()),
        (format!("roles/{name}/templates/{name}.conf"), "greeting = {{ greeting }}\nhost = {{ host.name }}\n".into()),
        (format!("roles/{name}/tests/greeting.toml"), example.into_bytes()),
    ];
    loads(Files::in_directory(dir)?, &made)?;
    Ok(made)
}

/// `host_vars/NAME.toml`, if all resources of the host can be resolved.
fn host(dir: &Path, name: &str, text: &str) -> Result<Made> {
    check_name("host", name)?;
    let made = vec![(format!("host_vars/{name}.toml"), text.into())];
    let site = Arc::new(loads(Files::in_directory(dir)?, &made)?);
    let facts = Facts::recorded(Some(dir), name, site.find_host(name)?.address)?;
    // certificates and secrets can only be created once the host exists
    resolve(&site, name, &facts, &SecretStore::expected())?;
    Ok(made)
}

fn host_file(address: IpAddr, groups: &[String], roles: &[String], vars: &[String]) -> Result<String> {
    let mut file = toml::Table::from_iter([("address".to_owned(), address.to_string().into())]);
    for (key, names) in [("groups", groups), ("roles", roles)] {
        if !names.is_empty() {
            file.insert(key.to_owned(), names.to_vec().into());
        }
    }
    for var in vars {
        let Some((path, value)) = var.split_once('=') else {
            return Err(error!(EDIT, "`{var}` sets no variable").help("write it like `--set etcd.name=etcd4`"));
        };
        let value = value.parse::<toml::Value>().unwrap_or_else(|_| value.into());
        let path: Vec<&str> = std::iter::once("vars").chain(path.split('.')).collect();
        let mut table = &mut file;
        for name in &path[..path.len() - 1] {
            let entry = table.entry((*name).to_owned()).or_insert_with(|| toml::Table::new().into());
            table = entry
                .as_table_mut()
                .ok_or_else(|| error!(EDIT, "`{var}` sets a part of `{name}`, which is set already"))?;
        }
        table.insert(path[path.len() - 1].to_owned(), value);
    }
    toml::to_string(&file).context(code::EDIT, || "the host's file can't be written")
}

/// Loads the site with the new files, before they are written.
fn loads(mut files: Files, made: &Made) -> Result<Site> {
    files.extend(made.iter().map(|(path, content)| (path.clone(), content.as_slice().into())));
    Site::load(files)
}

/// Refuses a name that can't be a file name, or would need quotes in templates.
fn check_name(what: &str, name: &str) -> Result<()> {
    if is_plain_name(name) {
        return Ok(());
    }
    Err(error!(EDIT, "a {what} can't be called `{name}`").help("use letters, digits, `-`, `_` and `.`"))
}
