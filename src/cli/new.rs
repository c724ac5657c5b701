//! `kpull new`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::author::schema;
use crate::cli::{Run, print_result};
use crate::document::{Files, quoted, replace};
use crate::error::{Context, Error, Exit, Result, code};
use crate::resolve::{Facts, resolve};
use crate::secret::SecretStore;
use crate::site::{Site, is_plain_name};

/// Arguments of `new`.
#[derive(Args, Debug)]
pub struct New {
    #[command(subcommand)]
    what: What,
    /// Write one JSON object
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Create a site in a new directory
    Site {
        /// The directory
        dir: PathBuf,
        /// The name of the site [default: the name of the directory]
        #[arg(long)]
        name: Option<String>,
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
        /// A role besides those of its groups; repeatable
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

impl Run for New {
    fn run(&self) -> Result<Exit> {
        let (dir, made) = match &self.what {
            What::Site { dir, name } => (dir, site(dir, name.as_deref())?),
            What::Role { name, site } => (site, role(site, name)?),
            What::Host { name, address, groups, roles, vars, site } => {
                (site, host(site, name, &host_file(*address, groups, roles, vars)?)?)
            }
        };
        let made: Vec<(PathBuf, Vec<u8>)> =
            made.into_iter().map(|(path, text)| (dir.join(path), text.into_bytes())).collect();
        if let Some((path, _)) = made.iter().find(|(path, _)| path.symlink_metadata().is_ok()) {
            return Err(Error::new(code::EDIT, format!("{} is there already", path.display()))
                .help("choose another name, or edit the existing file; nothing was written"));
        }
        replace(&made)?;
        for (path, _) in &made {
            print_result(self.json, json!({ "event": "made", "path": path }), &format!("+ {}", path.display()));
        }
        Ok(Exit::Done)
    }
}

/// Paths below the site's directory, with their content.
type Made = Vec<(String, String)>;

fn site(dir: &Path, name: Option<&str>) -> Result<Made> {
    let own = dir.file_name().map(|name| name.to_string_lossy().into_owned());
    let Some(name) = name.map(str::to_owned).or(own) else {
        return Err(Error::new(code::EDIT, format!("{} has no name", dir.display())).help("add --name NAME"));
    };
    check_name("site", &name)?;
    let text = format!(
        "# What hosts are enrolled to, and what they have in common. A host is `kpull new host`, a role `kpull new role`.\nname = {}\n\n[vars] # variables of the whole site\n",
        quoted(&name)
    );
    let mut made = vec![("site.toml".to_owned(), text)];
    loads(Files::default(), &made)?;
    made.push((".taplo.toml".into(), schema::taplo()));
    made.extend(
        schema::FILES
            .iter()
            .filter(|kind| kind.glob.is_some())
            .map(|kind| (format!("schemas/{}.json", kind.name), schema::text(&kind.schema()))),
    );
    Ok(made)
}

fn role(dir: &Path, name: &str) -> Result<Made> {
    check_name("role", name)?;
    if crate::site::RESERVED.contains(&name) {
        return Err(
            Error::new(code::EDIT, format!("a role can't be called `{name}`")).help("templates already use this name")
        );
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
        (format!("roles/{name}/role.toml"), role),
        (format!("roles/{name}/templates/{name}.conf"), "greeting = {{ greeting }}\nhost = {{ host.name }}\n".into()),
        (format!("roles/{name}/tests/greeting.toml"), example),
    ];
    loads(Files::in_directory(dir)?, &made)?;
    Ok(made)
}

/// `host_vars/NAME.toml`, if all resources of the host can be resolved.
fn host(dir: &Path, name: &str, text: &str) -> Result<Made> {
    check_name("host", name)?;
    let made = vec![(format!("host_vars/{name}.toml"), text.to_owned())];
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
            return Err(Error::new(code::EDIT, format!("`{var}` sets no variable"))
                .help("write it like `--set etcd.name=etcd4`"));
        };
        let value = value.parse::<toml::Value>().unwrap_or_else(|_| value.into());
        let path: Vec<&str> = std::iter::once("vars").chain(path.split('.')).collect();
        let mut table = &mut file;
        for name in &path[..path.len() - 1] {
            let entry = table.entry((*name).to_owned()).or_insert_with(|| toml::Table::new().into());
            table = entry.as_table_mut().ok_or_else(|| {
                Error::new(code::EDIT, format!("`{var}` sets a part of `{name}`, which is set already"))
            })?;
        }
        table.insert(path[path.len() - 1].to_owned(), value);
    }
    toml::to_string(&file).context(code::EDIT, || "the host's file can't be written".to_owned())
}

/// Loads the site with the new files, before they are written.
fn loads(mut files: Files, made: &Made) -> Result<Site> {
    files.extend(made.iter().map(|(path, text)| (path.clone(), text.as_bytes().into())));
    Site::load(files)
}

/// Refuses a name that can't be a file name, or would need quotes in templates.
fn check_name(what: &str, name: &str) -> Result<()> {
    if is_plain_name(name) {
        return Ok(());
    }
    Err(Error::new(code::EDIT, format!("a {what} can't be called `{name}`"))
        .help("use letters, digits, `-`, `_` and `.`"))
}
