//! `kpull test`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::author::example::{Example, paths};
use crate::cli::{Run, print_json, print_line};
use crate::document::Files;
use crate::error::{Error, Exit, Result, code};

/// Arguments of `test`.
#[derive(Args, Debug)]
pub struct Test {
    /// Roles [default: all that have examples]
    roles: Vec<String>,
    /// The site's directory
    #[arg(long, value_name = "DIR", default_value = ".")]
    site: PathBuf,
    /// Write one JSON object a line
    #[arg(long)]
    json: bool,
}

impl Run for Test {
    fn run(&self) -> Result<Exit> {
        let files = Files::in_directory(&self.site)?;
        let known = files.children("roles");
        let mut errors: Vec<Error> = Vec::new();
        for name in self.roles.iter().filter(|name| !known.contains(name)) {
            let error = Error::new(code::EDIT, format!("there is no role `{name}`"));
            errors.push(error.help_nearest(
                name,
                known.iter().map(String::as_str),
                "a role is a directory below roles/",
            ));
        }
        for role in known.iter().filter(|role| self.roles.is_empty() || self.roles.contains(role)) {
            let paths = paths(&files, role);
            if paths.is_empty() && !self.roles.is_empty() {
                errors.push(
                    Error::new(code::EDIT, format!("the role `{role}` has no examples"))
                        .help(format!("add roles/{role}/tests/NAME.toml")),
                );
            }
            for path in paths {
                match Example::load(&files, role, &path).and_then(|example| example.run(&files)) {
                    Ok(met) if self.json => {
                        print_json(
                            &json!({ "event": "example", "version": crate::report::VERSION, "path": path, "met": met }),
                        );
                    }
                    Ok(met) => print_line(&format!("✓ {path:<40} {met} as expected")),
                    Err(error) => errors.push(error),
                }
            }
        }
        Error::check(errors)?;
        Ok(Exit::Done)
    }

    fn json(&self) -> bool {
        self.json
    }
}
