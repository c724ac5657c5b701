//! `[[setting]]`: one value in a configuration file that others write too, or its absence.

use serde_json::Value;

use crate::kind::edit::values::{Format, SettingEdit};
use crate::kind::edit::{EditedFile, FileEdit, Operation};
use crate::kind::prelude::*;

/// Fields of `[[setting]]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SettingFields {
    /// The file.
    path: AbsolutePath,
    /// The format of the file. Default: by its name: `.json`, `.yaml`, `.yml`, `.toml`, `.ini`, files in `/etc/systemd`, `/etc/default` and
    /// `/etc/sysconfig`.
    format: Option<Format>,
    /// The path to the value, as in TOML: `log-opts.max-size`, `Journal.Storage`, `servers.0.name`, `"a.b".c`.
    key: String,
    /// The value; text, a number or true/false in `ini` and `env`.
    value: Option<Value>,
    /// Whether the file has the value. Default: `present`.
    #[serde(default)]
    state: Presence,
    /// Whether to create a missing file (0644, or 0600 with a secret in it; root). Default: false, and a missing file is an error.
    #[serde(default)]
    create: bool,
    /// Whether to omit the value from diffs.
    #[serde(default)]
    sensitive: bool,
    /// Whether to write into the existing file instead of replacing it. Default: false.
    #[serde(default)]
    in_place: bool,
    /// A program with its arguments that must accept the new content before it replaces the old one, with `%s` for the path of a temporary
    /// file with that content. Default: no check.
    validate: Option<Vec<String>>,
}

impl Fields for SettingFields {
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let Some(format) = self.format.or_else(|| self.path.to_str().and_then(Format::of)) else {
            return Err(build.invalid("path", "the file name does not indicate the format: set `format`"));
        };
        let why = "a key is written as in TOML, like `log-opts.max-size` or `\"a.b\".c`";
        let parsed = toml_edit::Key::parse(&self.key).map_err(|_| build.invalid("key", why))?;
        let mut key: Vec<String> = parsed.iter().map(|part| part.get().to_owned()).collect();
        let is_bad = format == Format::Env && key.len() != 1;
        build.refuse_if(is_bad, "key", "a file of this format has no sections: write one name")?;
        let is_line =
            key.iter().all(|part| !part.is_empty() && !part.contains(['\n', '\r', '\0', '=', '[', ']', '#', ';']));
        build.refuse_if(format.is_of_texts() && !is_line, "key", "this can't be a key in a file of this format")?;
        if format == Format::Ini
            && let Some((name, section)) = key.split_last()
            && !section.is_empty()
        {
            key = vec![format!("[{}]", section.join(".")), name.clone()];
        }
        let is_present = self.state == Presence::Present;
        build.refuse_if(is_present != self.value.is_some(), "key", "set `value`, or `state = \"absent\"`")?;
        let value = match &self.value {
            Some(value) if format.is_of_texts() => {
                let text = match value {
                    Value::String(text) => text.clone(),
                    Value::Number(_) | Value::Bool(_) => value.to_string(),
                    _ => {
                        return Err(build.invalid("value", "in this format, a value is a text, a number or true/false"));
                    }
                };
                let is_bad = text.contains(['\n', '\r', '\0']) || (format == Format::Ini && text.trim() != text);
                build.refuse_if(is_bad, "value", "in this format, a value is one line without spaces around it")?;
                Some(Value::String(text))
            }
            other => other.clone(),
        };
        let (name, part) = (self.key, format!("setting:{}", key.join("\u{1f}")));
        let operation = Operation::Setting(SettingEdit { format, key, value });
        let file = EditedFile::of_role(self.path, self.in_place, self.sensitive, self.validate, build)?;
        Ok(vec![Box::new(FileEdit { kind: Self::NAME, file, name, part, operation, create: self.create })])
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn each_mistake_in_a_setting_has_its_field_and_reason() {
        for (fields, reason) in [
            ("path = '/etc/x.conf'\nkey = 'a'\nvalue = 1", "`path`: the file name does not indicate the format"),
            ("path = '/etc/x.json'\nkey = 'a b'\nvalue = 1", "`key`: a key is written as in TOML"),
            ("path = '/etc/x.json'\nkey = 'a'", "`key`: set `value`, or `state = \"absent\"`"),
            ("path = '/etc/x.json'\nkey = 'a'\nvalue = 1\nstate = 'absent'", "`key`: set `value`, or"),
            ("path = '/etc/default/grub'\nkey = 'a.b'\nvalue = 1", "`key`: a file of this format has no sections"),
            ("path = '/etc/x.ini'\nkey = '\"a=b\"'\nvalue = 1", "`key`: this can't be a key"),
            ("path = '/etc/x.ini'\nkey = 'a'\nvalue = [1]", "`value`: in this format, a value is a text"),
            ("path = '/etc/x.ini'\nkey = 'a'\nvalue = \"a\\nb\"", "`value`: in this format, a value is one line"),
        ] {
            let refusal = crate::kind::testing::refusal("setting", fields);
            assert!(refusal.starts_with(reason), "{fields}: {refusal}");
        }
    }

    #[test]
    fn settings_and_lines_that_contradict_each_other_are_found() {
        let error = |second: &str| {
            let first = "[[setting]]\npath = '/etc/default/x'\nkey = 'A'\nvalue = 'b'\n";
            crate::resolve::testing::catalog(&format!("{first}{second}"))
                .err()
                .map_or_else(String::new, |error| error.to_string())
        };
        let setting = |fields: &str| format!("[[setting]]\npath = '/etc/default/x'\n{fields}\n");
        assert_eq!(error(&setting("key = 'B'\nvalue = 'b'")), "");
        assert_ne!(error(&setting("key = 'A'\nvalue = 'c'")), "");
        let line = "[[line]]\npath = '/etc/default/x'\nregex = '^A='\nline = 'A=c'\n";
        assert!(error(line).contains("change the same part of `/etc/default/x`"), "{}", error(line));
        let inner = "[[setting]]\npath = '/etc/x.json'\nkey = 'a'\nvalue = 1\n[[setting]]\npath = '/etc/x.json'\nkey = 'a.b'\nvalue = 1\n";
        assert!(error(inner).contains("change the same part of `/etc/x.json`"), "{}", error(inner));
        assert_ne!(error("[[template]]\npath = '/etc/default/x'\ntemplate = 'x'\n"), "");
    }
}
