//! `kpull test`.

use crate::author::example::{Example, paths};
use crate::cli::prelude::*;

/// Arguments of `test`.
#[derive(Args, Debug)]
pub struct Test {
    /// Test these roles [default: all with examples]
    roles: Vec<String>,
    #[command(flatten)]
    options: SiteArgs,
}

impl Run for Test {
    fn run(&self) -> Result<Exit> {
        let files = Files::in_directory(&self.options.site)?;
        let known = files.children("roles");
        let mut errors: Vec<Error> = Vec::new();
        for name in self.roles.iter().filter(|name| !known.contains(name)) {
            let (error, known) = (error!(EDIT, "there is no role `{name}`"), known.iter().map(String::as_str));
            errors.push(error.help_nearest(name, known, "a role is a directory below roles/"));
        }
        for role in known.iter().filter(|role| self.roles.is_empty() || self.roles.contains(role)) {
            let paths = paths(&files, role);
            if paths.is_empty() && !self.roles.is_empty() {
                errors.push(
                    error!(EDIT, "the role `{role}` has no examples").help(format!("add roles/{role}/tests/NAME.toml")),
                );
            }
            for path in paths {
                let met = Example::load(&files, role, &path).and_then(|example| example.run(&files));
                if let Some(met) = keep(&mut errors, met) {
                    let object = json!({ "event": "example", "path": path, "met": met });
                    print_result(self.options.json, object, &format!("✓ {path:<40} {met} as expected"));
                }
            }
        }
        Error::check(errors).map(|()| Exit::Done)
    }
}
