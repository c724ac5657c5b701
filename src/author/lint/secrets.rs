//! Secrets that every user of the host or the cluster can read.

use std::borrow::Cow;

use serde_json::Value;
use zeroize::Zeroizing;

use crate::author::lint::{Host, Subject};
use crate::error::mask::forms;
use crate::error::{Error, error};
use crate::host::unit_files::DIRS;
use crate::kind::Item;
use crate::kind::file::File;
use crate::kind::kube_object::KubeObject;
use crate::kind::unit::Unit;
use crate::secret::placeholder;

/// The readers of unprotected content.
const USERS: &str = "every user of the host";
const UNIT: &str = "systemd shows the content of units to every user, whatever the mode of the file: pass the secret as a credential, with `credential` and `unit` in a [[secret]], or in an `EnvironmentFile=` with the mode 0600";

/// An error for each resource that exposes a secret, in plain or a common encoding, to unintended readers.
pub(super) fn lint(subject: &Subject<'_>) -> Vec<Error> {
    let mut errors = Vec::new();
    for host in &subject.hosts {
        for item in host.items.iter().filter(|item| item.is_secret) {
            errors.extend(shown(host, item).map(|Shown { secret, field, reader, help }| {
                let at = subject.place(item, &field);
                error!(LINT_SECRET, "the secret {secret} is in `{field}` of `{}`, which {reader} can read", item.id)
                    .at(at, "a secret is not allowed here")
                    .help(help)
            }));
        }
    }
    errors
}

/// An exposed secret.
struct Shown {
    secret: String,
    /// The field that contains it.
    field: String,
    /// Who can read it.
    reader: &'static str,
    help: &'static str,
}

/// The first exposed secret of a resource.
fn shown(host: &Host<'_>, item: &Item) -> Option<Shown> {
    let field = |names: &[&str]| {
        let is_set = |name: &&&str| item.fields.get(**name).is_some();
        names.iter().find(is_set).or(names.first()).map_or_else(String::new, |name| (*name).to_owned())
    };
    let of = |secret: Option<String>, field: String, reader, help| {
        secret.map(|secret| Shown { secret, field, reader, help })
    };
    // unit files are checked with their unit
    if let Some(file) = item.as_kind::<File>().filter(|_| item.about.kind != "unit-file") {
        let secret = || host.secret_in(&String::from_utf8_lossy(&file.content));
        if DIRS.iter().any(|dir| file.path.starts_with(dir)) {
            return of(secret(), field(&["content", "template"]), USERS, UNIT);
        }
        if file.wanted.is_for_all() {
            let help = "omit `mode`, which defaults to 0600, or set it to 0640 with the `group` that needs it";
            return of(secret(), "mode".to_owned(), USERS, help);
        }
    }
    if let Some(secret) = item.as_kind::<Unit>().and_then(|unit| unit.texts().find_map(|text| host.secret_in(text))) {
        return of(Some(secret), field(&["content", "template", "dropins"]), USERS, UNIT);
    }
    if let Some(object) = item.as_kind::<KubeObject>() {
        let secret = strings(&object.public()).into_iter().find_map(|text| host.secret_in(&text));
        let help = "move it to `data` or `stringData` of an object of the kind Secret, and refer to that";
        return of(secret, field(&["content", "template"]), "everyone with access to such objects", help);
    }
    let (hidden, help): (&[&str], _) = match item.about.kind {
        "command" => (&["env"], "pass it in `env`: other users can see the arguments of running programs"),
        "probe" => (&["http", "https", "expect", "expect_body"], "let the program read it from its own file"),
        "etcd_key" => (&["value"], "only the `value` of a key can contain a secret"),
        "line" => {
            (&["line"], "only `line` can contain a secret: write a `regex` that finds the line without the secret")
        }
        "user" => (&["password_hash"], "only the `password_hash` of a user can contain a secret"),
        "setting" => (&["value"], "only the `value` of a setting can contain a secret"),
        _ => (&["content"], "write it to a file with restricted access, as `[[secret]]` does"),
    };
    let mut open = item.fields.as_object().into_iter().flatten().filter(|(name, _)| !hidden.contains(&name.as_str()));
    open.find_map(|(name, value)| {
        of(strings(value).into_iter().find_map(|text| host.secret_in(&text)), name.clone(), USERS, help)
    })
}

/// All strings and keys in a value.
fn strings(value: &Value) -> Vec<Cow<'_, str>> {
    let (mut found, mut left) = (Vec::new(), vec![value]);
    while let Some(value) = left.pop() {
        match value {
            Value::String(text) => found.push(text.into()),
            Value::Array(items) => left.extend(items),
            Value::Object(map) => {
                found.extend(map.keys().map(Cow::from));
                left.extend(map.values());
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    found
}

impl Host<'_> {
    /// The name of a secret in a text: its placeholder in one of the redacted [`forms`], ignoring case.
    fn secret_in(&self, text: &str) -> Option<String> {
        let small = text.to_lowercase();
        let is_form = |form: &Zeroizing<String>| small.contains(&form.to_lowercase());
        let is_in = |name: &&String| forms(placeholder(name).as_bytes()).iter().any(is_form);
        self.secrets.iter().find(is_in).cloned()
    }
}

#[cfg(test)]
mod tests {
    use crate::author::lint::testing::{found, reported};

    fn found_in(role: &str) -> Vec<(String, String, String)> {
        let all = found(&[("roles/r/role.toml", &format!("summary = 'x'\n{role}"))]);
        all.into_iter().filter(|(what, ..)| what.starts_with("the secret ")).collect()
    }

    #[test]
    fn a_secret_in_a_file_that_everyone_can_read_is_reported_with_its_mode() {
        let file =
            |mode: &str| format!("[[file]]\npath = '/etc/app'\ncontent = \"a = {{{{ secret('db') }}}}\"\n{mode}");
        assert_eq!(
            found_in(&file("mode = '0644'\n")),
            [reported(
                "the secret db is in `mode` of `file:/etc/app`, which every user of the host can read",
                "roles/r/role.toml:5:1",
                "omit `mode`, which defaults to 0600, or set it to 0640 with the `group` that needs it"
            )]
        );
        for good in ["", "mode = '0640'\n", "mode = '0600'\n"] {
            assert_eq!(found_in(&file(good)), [], "{good}");
        }
        let count = |role: &str| found_in(role).len();
        assert_eq!(count("[[secret]]\nname = 'db'\npath = '/etc/app'\nmode = '0604'\n"), 1);
        let dropin = "[[file]]\npath = '/etc/systemd/system/a.service.d/b.conf'\ncontent = \"P={{ secret('db') }}\"\n";
        assert_eq!(count(dropin), 1, "whatever its mode");
        // what is made of a secret and does not give it away
        assert_eq!(count(&file("mode = '0644'\n").replace("secret('db')", "secret('db') | length")), 0);
    }

    #[test]
    fn a_secret_in_a_unit_a_command_line_or_an_account_is_reported() {
        let unit = |text: &str| format!("[[unit]]\nname = 'a.service'\n{text}");
        let command = |text: &str| format!("[[command]]\nname = 'x'\ncreates = '/x'\n{text}");
        let encoded = |filter: &str| command(&format!("run = ['x', \"{{{{ {filter} }}}}\"]"));
        for (role, field) in [
            (unit("content = \"[Service]\\nExecStart=/bin/x -p {{ secret('db') }}\""), "content"),
            (unit("dropins = { 'x.conf' = \"[Service]\\nEnvironment=P={{ secret('db') }}\" }"), "dropins"),
            (command("run = ['curl', \"-ume:{{ secret('db') }}\"]"), "run"),
            (command("run = ['x']\nunless = ['mysql', \"-p{{ secret('db') }}\"]"), "unless"),
            ("[[user]]\nname = 'bob'\ncomment = \"{{ secret('db') }}\"".to_owned(), "comment"),
            ("[[sysctl]]\nname = 'kernel.hostname'\nvalue = \"{{ secret('db') }}\"".to_owned(), "value"),
            ("[[probe]]\nname = 'x'\ncommand = ['x', \"{{ secret('db') }}\"]".to_owned(), "command"),
            (encoded("secret('db') | b64encode"), "run"),
            (encoded("('a:' ~ secret('db')) | b64encode"), "run"),
            (encoded("('ab:' ~ secret('db') ~ ':c') | b64encode"), "run"),
            (encoded("('abc:' ~ secret('db')) | b64encode"), "run"),
            (encoded("secret('db') | urlencode"), "run"),
            (encoded("secret('db') | upper"), "run"),
        ] {
            let found = found_in(&role);
            assert_eq!(found.len(), 1, "{role}: {found:?}");
            assert!(found[0].0.starts_with(&format!("the secret db is in `{field}` of ")), "{role}: {found:?}");
        }
        assert_eq!(found_in(&command("run = ['x']\nenv = { P = \"{{ secret('db') }}\" }")), []);
        assert_eq!(found_in("[[user]]\nname = 'bob'\npassword_hash = \"{{ secret('db') }}\""), []);
        assert_eq!(found_in("[[secret]]\nname = 'db'\ncredential = 'db'\nunit = 'a.service'\n"), []);
    }

    #[test]
    fn a_secret_in_an_object_of_a_cluster_is_in_the_data_of_a_secret() {
        let found_in = |kind: &str, rest: &str| {
            let text = format!("apiVersion: v1\nkind: {kind}\nmetadata:\n  name: x\n  namespace: default\n{rest}");
            let access = "server = 'https://a'\nca = '/a'\nclient_cert = '/b'\nclient_key = '/c'\n";
            found_in(&format!("[[kube_object]]\ncontent = '''\n{text}'''\n{access}"))
        };
        let data = "data:\n  p: \"{{ secret(\"db\") }}\"\n";
        assert_eq!(found_in("Secret", &data.replace("data", "stringData")), []);
        for (kind, rest) in [("ConfigMap", data), ("Secret", "  labels:\n    p: \"{{ secret(\"db\") }}\"\n")] {
            let found = found_in(kind, rest);
            assert_eq!(found.len(), 1, "{kind}: {found:?}");
            assert!(found[0].0.ends_with("which everyone with access to such objects can read"), "{found:?}");
        }
    }
}
