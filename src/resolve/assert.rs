//! Checks the types and assertions of a role for a host's variables.

use std::sync::Arc;

use minijinja::value::{Value, ValueKind};

use crate::document::dotted;
use crate::error::{Error, Place, Result, code, error};
use crate::resolve::{TemplateContext, layers};
use crate::site::{Assert, Refusal, Role};

/// The failed types and assertions of a role on this host. Assertions are only checked if all types are right.
pub(super) fn errors(context: &Arc<TemplateContext>, role: &Role) -> Vec<Error> {
    let mut errors: Vec<Error> = role.types.keys().filter_map(|name| mistyped(context, role, name)).collect();
    errors.extend(role.facts.keys().filter_map(|name| mistyped_fact(context, role, name)));
    if errors.is_empty() {
        for (index, assert) in role.asserts.iter().enumerate() {
            errors.extend(asserted(context, role, assert, index).err());
        }
    }
    errors
}

/// The role that declares `name`; none for a variable of the site.
fn owner<'a>(role: &'a Role, name: &str) -> Option<&'a str> {
    role.declares(name).then_some(role.name.as_str())
}

fn place_of(context: &TemplateContext, role: &Role, name: &str) -> Option<Place> {
    context.layered(&context.host, owner(role, name), name).map(|(_, place)| place)
}

fn mistyped(context: &Arc<TemplateContext>, role: &Role, name: &str) -> Option<Error> {
    let Some(place) = place_of(context, role, name) else {
        return Some(unknown(context, role, &["types", name], name));
    };
    let before = context.secrets.times_requested();
    let value = context.variable(&context.host, owner(role, name), name)?;
    if let Some(error) = context.take_failure() {
        return Some(error);
    }
    let value = serde_json::to_value(&value).ok()?;
    let Refusal { path, what, help } = role.types.get(name)?.refuse(&value)?;
    let wrong = path.iter().try_fold(&value, |value, key| match value {
        serde_json::Value::Array(list) => list.get(key.parse::<usize>().ok()?),
        other => other.get(key),
    });
    let keys = [&[name.to_owned()], path.as_slice()].concat();
    // a part of an expression's value is set where the expression is
    let layers = layers(&context.site, &context.host, owner(role, name));
    let sets = |parts: usize| layers.iter().rev().find(|layer| layer.place(&keys[..parts]).is_some());
    let layer = (1..=keys.len()).rev().find_map(sets);
    let place = layer.map_or(place, |layer| layer.doc.place(&[&layer.path, keys.as_slice()].concat()));
    // the value, unless it contains a secret
    let is_plain = context.secrets.times_requested() == before;
    let shown = wrong.filter(|_| is_plain).map(|value| format!(": {value}")).unwrap_or_default();
    let error = error!(VARIABLE, "`{}` is {what}{shown}", dotted(&keys)).at(place, "set here");
    Some(error.help(format!("{help}; the role {} requires this", role.name)))
}

/// The error of a custom fact that the host has, and that is not what the role needs.
fn mistyped_fact(context: &Arc<TemplateContext>, role: &Role, name: &str) -> Option<Error> {
    let value = context.facts.get_attr("custom").and_then(|custom| custom.get_attr(name)).ok()?;
    let value = serde_json::to_value(&value).ok()?;
    let Refusal { path, what, help } = role.facts.get(name)?.kind.as_ref()?.refuse(&value)?;
    let name_of = dotted(&[&["facts".to_owned(), "custom".to_owned(), name.to_owned()], path.as_slice()].concat());
    let place = role.doc.key_place(&["facts".to_owned(), name.to_owned()]);
    let error = error!(VARIABLE, "`{name_of}` of {} is {what}", context.host);
    Some(error.at(place, "declared here").help(format!("{help}; `kpull facts` on the host prints the value")))
}

fn asserted(context: &Arc<TemplateContext>, role: &Role, assert: &Assert, index: usize) -> Result<()> {
    let keys = ["assert".to_owned(), index.to_string()];
    let at = |field: &str| role.doc.place(&[&keys[..], &[field.to_owned()]].concat());
    let scope = context.scope(&context.host, Some(&role.name), None);
    let items: Vec<Option<Value>> = match &assert.for_each {
        None => vec![None],
        Some(expression) => {
            let list = context.expression(expression, &scope, || at("for_each"))?;
            if !matches!(list.kind(), ValueKind::Seq | ValueKind::Iterable) {
                return Err(
                    error!(VARIABLE, "`for_each` of an assertion needs a list").at(at("for_each"), "not a list")
                );
            }
            list.try_iter().into_iter().flatten().map(Some).collect()
        }
    };
    for item in items {
        let scope = context.scope(&context.host, Some(&role.name), item);
        if context.expression(&assert.that, &scope, || at("that"))?.is_true() {
            continue;
        }
        let render = |field: &str, text: &str| -> Result<String> {
            let before = context.secrets.times_requested();
            let rendered = context.value(&text.into(), &scope, &|_| at(field))?.to_string();
            // a text with a secret is shown unrendered
            Ok(if context.secrets.times_requested() == before { rendered } else { text.to_owned() })
        };
        let place = match &assert.about {
            Some(name) => place_of(context, role, name)
                .ok_or_else(|| unknown(context, role, &["assert", &keys[1], "about"], name))?,
            None => at("that"),
        };
        let error = Error::new(code::VARIABLE, render("message", &assert.message)?);
        let error = error.at(place, format!("the role {} does not work with this", role.name));
        return Err(match &assert.help {
            Some(help) => error.help(render("help", help)?),
            None => error.help(format!("see `assert` in roles/{}/role.toml", role.name)),
        });
    }
    Ok(())
}

/// The error for a variable that is not set.
fn unknown(context: &TemplateContext, role: &Role, keys: &[&str], name: &str) -> Error {
    let keys: Vec<String> = keys.iter().map(|part| (*part).to_owned()).collect();
    let error = error!(VARIABLE, "there is no variable `{name}`");
    let error = error.at(role.doc.place(&keys), format!("named by the role {}", role.name));
    let known = role.names().chain(context.site.variables());
    error.help_nearest(name, known, "set it under [vars] in site.toml, or remove it from the role")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::document::Files;
    use crate::resolve::{Facts, resolve};
    use crate::secret::SecretStore;
    use crate::site::Site;

    /// What is wrong with a site with these variables and this role: message, place and help of each.
    fn errors_of(vars: &str, role: &str) -> Vec<[String; 3]> {
        let mut files = Files::default();
        for (path, text) in [
            ("site.toml", format!("name = 'x'\n[vars]\n{vars}\n")),
            ("host_vars/h1.toml", "address = '10.0.0.1'\nroles = ['r']\n".to_owned()),
            ("roles/r/role.toml", format!("summary = 'x'\n{role}\n")),
        ] {
            files.extend([(path.to_owned(), text.into_bytes().into())]);
        }
        let site = Arc::new(Site::load(files).unwrap());
        let facts = Facts::assumed("h1", "10.0.0.1".parse().unwrap(), None).unwrap();
        let errors =
            resolve(&site, "h1", &facts, &SecretStore::expected()).err().into_iter().flat_map(|error| error.each());
        let parts_of = |error: crate::error::Error| {
            let place = error.place().map(ToString::to_string).unwrap_or_default();
            [error.to_string(), place, error.advice().unwrap_or_default().to_owned()]
        };
        errors.map(parts_of).collect()
    }

    fn wanted(what: &str, place: &str, help: &str) -> Vec<[String; 3]> {
        vec![[what.to_owned(), place.to_owned(), help.to_owned()]]
    }

    #[test]
    fn a_variable_of_the_wrong_type_is_reported_where_it_is_set() {
        let role = "[types]\npods = 'network'\nport = 'port'\n[vars]\nport = 80\n";
        assert_eq!(errors_of("pods = '10.0.0.0/16'", role), Vec::<[String; 3]>::new());
        let help = "write a number from 0 to 32 after the /; the role r requires this";
        let what = "`pods` is a network with an impossible prefix: \"10.0.0.0/33\"";
        assert_eq!(errors_of("pods = '10.0.0.0/33'", role), wanted(what, "site.toml:3:8", help));
        let what = "`port` is not a port: \"80\"";
        let help = "write a number from 1 to 65535, without quotes; the role r requires this";
        assert_eq!(errors_of("pods = '10.0.0.0/16'\nr.port = '80'", role), wanted(what, "site.toml:4:10", help));
        // what an expression comes to has a type too
        assert_eq!(errors_of("pods = '10.0.0.0/16'\nr.port = '{{ 80 + 1 }}'", role), Vec::<[String; 3]>::new());
        let what = "there is no variable `pods`";
        assert_eq!(errors_of("pod = 1", role), wanted(what, "roles/r/role.toml:3:8", "did you mean `pod`?"));
    }

    #[test]
    fn a_wrong_entry_of_a_list_is_reported_at_its_place_with_the_allowed_values() {
        let role = "[types.levels]\ntype = 'list'\ndescription = 'what is logged'\nitems = { type = 'text', one_of = ['debug', 'info'] }\n[vars]\nlevels = ['info']\n";
        assert_eq!(errors_of("", role), Vec::<[String; 3]>::new());
        let what = "`levels[1]` is not one of the allowed values: \"inof\"";
        let help = "did you mean \"info\"? expected one of \"debug\", \"info\"; the role r requires this";
        assert_eq!(errors_of("r.levels = ['info',\n 'inof']", role), wanted(what, "site.toml:4:2", help));
        let secret = "[types.key]\ntype = 'text'\nmin = 100\n[vars]\nkey = \"{{ secret('k') }}\"\n";
        assert_eq!(errors_of("", secret)[0][0], "`key` is too small", "a secret is not shown");
    }

    #[test]
    fn a_failed_assertion_is_reported_at_the_variable_that_it_is_about() {
        let role = "[[assert]]\nthat = 'low < high'\nmessage = '{{ low }} is not below {{ high }}'\n";
        assert_eq!(errors_of("low = 1\nhigh = 2", role), Vec::<[String; 3]>::new());
        let help = "see `assert` in roles/r/role.toml";
        assert_eq!(errors_of("low = 3\nhigh = 2", role), wanted("3 is not below 2", "roles/r/role.toml:3:8", help));
        let about = format!("{role}about = 'high'\nhelp = 'above {{{{ low }}}}'\n");
        assert_eq!(errors_of("low = 3\nhigh = 2", &about), wanted("3 is not below 2", "site.toml:4:8", "above 3"));
        let each =
            "[[assert]]\nfor_each = 'all'\nthat = 'item < 3'\nmessage = '{{ item }} is too much'\nabout = 'all'\n";
        assert_eq!(errors_of("all = [1, 4, 5]", each)[0][0], "4 is too much");
        let what = "there is no variable `hgih`";
        let misspelt = about.replace("'high'", "'hgih'");
        assert_eq!(
            errors_of("low = 3\nhigh = 2", &misspelt),
            wanted(what, "roles/r/role.toml:5:9", "did you mean `high`?")
        );
    }
}
