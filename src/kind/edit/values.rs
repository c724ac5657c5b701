//! One value of a configuration file, or its absence.

use serde_json::{Map, Value};

use super::{Hunk, ini, json, toml, yaml};
use crate::kind::prelude::*;

/// How many places are tried to restore former lines.
const TRIES: usize = 256;

/// How a configuration file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `[Section]` and `Key=value`.
    Ini,
    /// `KEY=value`, quoted as in a shell.
    Env,
    /// JSON, also with comments.
    Json,
    /// YAML.
    Yaml,
    /// TOML.
    Toml,
}

impl Format {
    /// How a file with this path is written, if its name indicates this.
    pub(in crate::kind) fn of(path: &str) -> Option<Self> {
        let is_below = |dirs: &str| dirs.split(' ').any(|dir| path.starts_with(dir));
        let extension = path.rsplit('/').next().and_then(|name| name.rsplit_once('.')).map(|(_, extension)| extension);
        match extension {
            Some("json" | "jsonc") => Some(Self::Json),
            Some("yaml" | "yml") => Some(Self::Yaml),
            Some("toml") => Some(Self::Toml),
            Some("ini") => Some(Self::Ini),
            _ if is_below("/etc/systemd/ /usr/lib/systemd/") => Some(Self::Ini),
            _ if is_below("/etc/default/ /etc/sysconfig/ /etc/os-release /etc/environment") => Some(Self::Env),
            _ => None,
        }
    }

    /// Whether values are texts.
    pub(in crate::kind) fn is_of_texts(self) -> bool {
        matches!(self, Self::Ini | Self::Env)
    }

    /// The content of a file; tables only at the top.
    fn parse(self, text: &str) -> Result<Value, String> {
        let value = match self {
            Self::Ini | Self::Env => ini::parse(text, self == Self::Env),
            Self::Json => json::parse(text),
            Self::Yaml => yaml::parse(text),
            Self::Toml => toml::parse(text),
        }?;
        match value {
            Value::Null => Ok(Value::Object(Map::new())),
            Value::Object(_) => Ok(value),
            _ => Err("it has no keys".to_owned()),
        }
    }

    /// The text with another value at `key`, which is not checked.
    fn write(self, text: &str, key: &[String], value: Option<&Value>) -> Result<String, String> {
        match self {
            Self::Ini | Self::Env => ini::write(text, key, value, self == Self::Env),
            Self::Json => json::write(text, key, value),
            Self::Yaml => yaml::write(text, key, value),
            Self::Toml => toml::write(text, key, value),
        }
    }

    /// The text with another value at `key`, and nothing else changed.
    fn set(self, text: &str, key: &[String], value: Option<&Value>) -> Result<String, String> {
        let old = self.parse(text)?;
        if get(&old, key) == value {
            return Ok(text.to_owned());
        }
        check(&old, key, value.is_none())?;
        let new = self.write(text, key, value)?;
        match self.differs_only_in(&new, &old, key, value) {
            true => Ok(new),
            false => Err("changing this value would also change other content".to_owned()),
        }
    }

    /// Whether a text has the value at `key`, and everything else as in `old`.
    fn differs_only_in(self, text: &str, old: &Value, key: &[String], value: Option<&Value>) -> bool {
        self.parse(text).is_ok_and(|new| get(&new, key) == value && without(&new, key) == without(old, key))
    }
}

/// A value in a text; `None` for its absence.
#[derive(Debug)]
pub struct SettingEdit {
    pub(in crate::kind) format: Format,
    pub(in crate::kind) key: Vec<String>,
    pub(in crate::kind) value: Option<Value>,
}

impl SettingEdit {
    /// The text with the value, or without it.
    pub(super) fn edited(&self, text: &str) -> Result<String, String> {
        self.format.set(text, &self.key, self.value.as_ref())
    }

    /// What the edit will replace in a text. `with_lines` says whether its lines may be recorded.
    pub(super) fn former(&self, text: &str, with_lines: bool) -> Result<FormerSetting, String> {
        let Self { format, key, .. } = self;
        let value = get(&format.parse(text)?, key).cloned();
        let lines = match self.edited(text) {
            Ok(new) if with_lines => {
                let Hunk { at, old, new } = Hunk::between(text, &new);
                Some(FormerText { at, count: new.split_inclusive('\n').count(), text: old.to_owned() })
            }
            _ => None,
        };
        Ok(FormerSetting { format: *format, key: key.clone(), value, lines })
    }

    /// Whether one of two keys is inside the other.
    pub(super) fn contradicts(&self, other: &Self) -> bool {
        self.key != other.key && (self.key.starts_with(&other.key) || other.key.starts_with(&self.key))
    }

    /// The line that it is, in a file of lines.
    pub(super) fn as_line(&self) -> Option<String> {
        match (&self.value, self.format.is_of_texts()) {
            (Some(Value::String(text)), true) => Some(format!("{}={text}", self.key.last()?)),
            _ => None,
        }
    }
}

/// The value that an edit replaces.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FormerSetting {
    format: Format,
    key: Vec<String>,
    /// The value; `None` if there was none.
    #[serde(default, deserialize_with = "some", skip_serializing_if = "Option::is_none")]
    value: Option<Value>,
    /// Its lines as they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lines: Option<FormerText>,
}

/// A value that is there, even if it is null.
fn some<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// Lines that an edit replaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FormerText {
    /// How many lines came before them.
    at: usize,
    /// How many lines replace them.
    count: usize,
    text: String,
}

impl FormerSetting {
    /// The text with the former value: with its former lines if these fit, otherwise only the value.
    pub(super) fn restored(&self, text: &str) -> Result<String, String> {
        let Self { format, key, value, lines } = self;
        let current = format.parse(text)?;
        if get(&current, key) == value.as_ref() {
            return Ok(text.to_owned());
        }
        if let Some(former) = lines {
            let all: Vec<&str> = text.split_inclusive('\n').collect();
            let mut places: Vec<usize> = (0..=all.len().saturating_sub(former.count)).collect();
            places.sort_by_key(|at| at.abs_diff(former.at));
            for at in places.into_iter().take(TRIES) {
                let (head, tail) = (all.get(..at), all.get(at.saturating_add(former.count)..));
                let tried = [&head.unwrap_or_default().concat(), &former.text, &tail.unwrap_or_default().concat()];
                let tried = tried.map(String::as_str).concat();
                if format.differs_only_in(&tried, &current, key, value.as_ref()) {
                    return Ok(tried);
                }
            }
        }
        format.set(text, key, value.as_ref())
    }

    /// Whether a text has no values.
    pub(super) fn is_void(&self, text: &str) -> bool {
        fn is_void(value: &Value) -> bool {
            value.is_null() || value.as_object().is_some_and(|map| map.values().all(is_void))
        }
        self.format.parse(text).is_ok_and(|value| is_void(&value))
    }
}

/// The value at a key.
fn get<'a>(value: &'a Value, key: &[String]) -> Option<&'a Value> {
    key.iter().try_fold(value, |value, part| match value {
        Value::Object(map) => map.get(part),
        Value::Array(list) => list.get(part.parse::<usize>().ok()?),
        _ => None,
    })
}

/// What a value is called in a message.
fn name(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a table",
    }
}

/// Refuses a key at which there can't be another value.
fn check(value: &Value, key: &[String], is_removal: bool) -> Result<(), String> {
    let mut value = value;
    for (at, part) in key.iter().enumerate() {
        let inner = match value {
            Value::Null => None,
            Value::Object(map) => map.get(part),
            Value::Array(_) if is_removal && at.saturating_add(1) == key.len() => {
                return Err("kpull can't remove an element of a list: set the whole list".to_owned());
            }
            Value::Array(list) => {
                let inner = part.parse::<usize>().ok().and_then(|at| list.get(at));
                Some(inner.ok_or_else(|| format!("a list of {} has no element `{part}`", list.len()))?)
            }
            other => return Err(format!("`{part}` can't be set: its parent is {}", name(other))),
        };
        let Some(inner) = inner else { return Ok(()) };
        value = inner;
    }
    Ok(())
}

/// A copy without the value at a key, and without the tables above it that are empty then.
fn without(value: &Value, key: &[String]) -> Value {
    let Some((part, rest)) = key.split_first() else { return Value::Null };
    let mut copy = value.clone();
    match &mut copy {
        Value::Object(map) => {
            if let Some(inner) = map.get_mut(part) {
                *inner = without(inner, rest);
                if inner.is_null() || inner.as_object().is_some_and(Map::is_empty) {
                    map.shift_remove(part);
                }
            }
        }
        Value::Array(list) => {
            if let Some(inner) = part.parse::<usize>().ok().and_then(|at| list.get_mut(at)) {
                *inner = without(inner, rest);
            }
        }
        _ => {}
    }
    copy
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ALL: [Format; 5] = [Format::Ini, Format::Env, Format::Json, Format::Yaml, Format::Toml];

    fn key(key: &str) -> Vec<String> {
        toml_edit::Key::parse(key).unwrap().iter().map(|part| part.get().to_owned()).collect()
    }

    fn edit(format: Format, at: &str, value: Option<Value>) -> SettingEdit {
        SettingEdit { format, key: key(at), value }
    }

    /// The text with a value, after it was undone to the last byte.
    #[track_caller]
    fn set(format: Format, text: &str, at: &str, value: impl Into<Option<Value>>) -> String {
        let edit = edit(format, at, value.into());
        let new = edit.edited(text).unwrap();
        assert_eq!(edit.edited(&new).unwrap(), new, "again");
        for with_lines in [true, false] {
            let former = edit.former(text, with_lines).unwrap();
            let former: FormerSetting = serde_json::from_str(&serde_json::to_string(&former).unwrap()).unwrap();
            let back = former.restored(&new).unwrap();
            if with_lines {
                assert_eq!(back, text, "back from:\n{new}");
            }
            let old = format.parse(text).unwrap();
            assert!(format.differs_only_in(&back, &old, &edit.key, get(&old, &edit.key)), "{back}");
            assert_eq!(former.restored(&back).unwrap(), back, "back again");
        }
        new
    }

    fn why(format: Format, text: &str, at: &str, value: impl Into<Option<Value>>) -> String {
        edit(format, at, value.into()).edited(text).unwrap_err()
    }

    #[test]
    fn a_value_of_a_section_is_changed_added_and_removed() {
        let text = "# x\n[Journal]\n#Storage=auto\nCompress=yes\n\n[Other]\nCompress = no\n";
        let new = |at: &str, value: Option<&str>| set(Format::Ini, text, at, value.map(Value::from));
        let journal = "\"[Journal]\"";
        assert_eq!(new(&format!("{journal}.Compress"), Some("no")), text.replace("Compress=yes", "Compress=no"));
        assert_eq!(new(&format!("{journal}.Storage"), Some("x")), text.replace("auto\n", "auto\nStorage=x\n"));
        assert_eq!(new(&format!("{journal}.Seal"), Some("x")), text.replace("=yes\n", "=yes\nSeal=x\n"));
        assert_eq!(new("\"[Other]\".Compress", Some("x")), text.replace("= no", "= x"));
        assert_eq!(new("\"[Other]\".Compress", None), text.replace("Compress = no\n", ""));
        assert_eq!(new("\"[New]\".a", Some("x")), format!("{text}\n[New]\na=x\n"));
        assert_eq!(new("top", Some("x")), text.replace("[Journal]", "top=x\n[Journal]"));
        assert_eq!(set(Format::Ini, "a = 1", "b", json!("2")), "a = 1\nb = 2\n");
        assert_eq!(set(Format::Ini, "a", "a", json!("2")), "a=2");
        assert_eq!(set(Format::Ini, "a=", "a", json!("2")), "a=2");
    }

    #[test]
    fn a_value_for_a_shell_is_quoted_and_compared_without_its_quotes() {
        let text =
            "# GRUB\nGRUB_TIMEOUT=5\nexport GRUB_CMDLINE_LINUX=\"quiet\"\n#GRUB_DISABLE_OS_PROBER=false\nA='b'\n";
        let new = |at: &str, value: &str| set(Format::Env, text, at, json!(value));
        assert_eq!(new("GRUB_TIMEOUT", "0"), text.replace("=5", "=0"));
        assert_eq!(new("GRUB_CMDLINE_LINUX", "quiet splash"), text.replace("\"quiet\"", "\"quiet splash\""));
        assert_eq!(new("A", "a $b"), text.replace("'b'", "'a $b'"));
        assert_eq!(new("A", "b"), text);
        assert_eq!(
            new("GRUB_DISABLE_OS_PROBER", "true"),
            text.replace("false\n", "false\nGRUB_DISABLE_OS_PROBER=true\n")
        );
        assert_eq!(set(Format::Env, text, "A", None), text.replace("A='b'\n", ""));
    }

    #[test]
    fn a_value_in_json_is_changed_added_and_removed() {
        let text = "{\n  // logs\n  \"log-driver\": \"json-file\",\n  \"log-opts\": {\n    \"max-size\": \"10m\"\n  },\n  \
                    \"dns\": [\"10.0.0.1\", \"10.0.0.2\"]\n}\n";
        let new = |at: &str, value: Option<Value>| set(Format::Json, text, at, value);
        assert_eq!(new("log-opts.max-size", Some(json!("50m"))), text.replace("10m", "50m"));
        assert_eq!(new("dns.1", Some(json!("10.0.0.9"))), text.replace("10.0.0.2", "10.0.0.9"));
        assert_eq!(new("log-opts.max-file", Some(json!(3))), text.replace("10m\"", "10m\",\n    \"max-file\": 3"));
        assert_eq!(new("live-restore", Some(json!(true))), text.replace("0.2\"]", "0.2\"],\n  \"live-restore\": true"));
        assert_eq!(new("log-driver", None), text.replace("  \"log-driver\": \"json-file\",\n", ""));
        assert_eq!(set(Format::Json, "", "a.b", json!(1)), "{\n  \"a\": {\n    \"b\": 1\n  }\n}\n");
        assert_eq!(set(Format::Json, "{}", "a", json!([1])), "{\n  \"a\": [1]\n}");
        assert_eq!(set(Format::Json, "{\"a\":1}", "b", json!(2)), "{\n  \"a\":1,\n  \"b\": 2\n}");
    }

    #[test]
    fn a_value_in_yaml_is_changed_added_and_removed() {
        let text = "# net\nnetwork:\n  version: 2   # always\n  ethernets:\n    eth0:\n      addresses:\n      - \
                    10.0.0.1/24\n      dhcp4: no\n  flow: {a: 1, b: [x, y]}\n  note: |\n    two\n    lines\n  empty:\n\
                    renderer: 'networkd'\n";
        let new = |at: &str, value: Option<Value>| set(Format::Yaml, text, at, value);
        assert_eq!(new("network.version", Some(json!(3))), text.replace("2   #", "3   #"));
        assert_eq!(new("renderer", Some(json!("yes"))), text.replace("'networkd'", "\"yes\""));
        assert_eq!(new("renderer", Some(json!("a b: c"))), text.replace("'networkd'", "\"a b: c\""));
        assert_eq!(new("network.flow.b.1", Some(json!("z"))), text.replace("x, y", "x, z"));
        assert_eq!(new("network.flow.c", Some(json!(2))), text.replace("y]}", "y], c: 2}"));
        assert_eq!(new("network.flow.a", None), text.replace("a: 1, ", ""));
        assert_eq!(new("network.ethernets.eth0.addresses.0", Some(json!("x"))), text.replace("10.0.0.1/24", "x"));
        assert_eq!(
            new("network.ethernets.eth0.addresses", Some(json!(["x", "y"]))),
            text.replace("addresses:\n      - 10.0.0.1/24", "addresses: [x, \"y\"]")
        );
        assert_eq!(
            new("network.ethernets.eth0.mtu", Some(json!(9000))),
            text.replace("dhcp4: no\n", "dhcp4: no\n      mtu: 9000\n")
        );
        assert_eq!(new("network.ethernets.eth0.dhcp4", None), text.replace("      dhcp4: no\n", ""));
        assert_eq!(new("network.note", Some(json!("one"))), text.replace("|\n    two\n    lines", "one"));
        assert_eq!(new("network.empty", Some(json!(1))), text.replace("empty:", "empty: 1"));
        assert_eq!(new("network.empty.x.y", Some(json!(1))), text.replace("empty:", "empty: {x: {\"y\": 1}}"));
        assert_eq!(new("new.deep", Some(json!("x"))), format!("{text}new:\n  deep: x\n"));
        assert_eq!(
            new("network.ethernets.eth1.mtu", Some(json!(1))),
            text.replace("  flow:", "    eth1:\n      mtu: 1\n  flow:")
        );
        let in_list = set(Format::Yaml, "a:\n- x: 1\n- y\n", "a.0.new.deep", json!(1));
        assert_eq!(in_list, "a:\n- x: 1\n  new:\n    deep: 1\n- y\n");
        assert_eq!(set(Format::Yaml, "", "a.b", json!(1)), "a:\n  b: 1\n");
        assert_eq!(set(Format::Yaml, "# only\n", "a", json!({"x": null})), "# only\na: {x: null}\n");
        assert_eq!(set(Format::Yaml, "a: 1", "b", json!(2)), "a: 1\nb: 2\n");
        assert_eq!(set(Format::Yaml, "a:\n  b: 1\nc: 2\n", "a.b", None), "a: {}\nc: 2\n");
    }

    #[test]
    fn a_value_in_toml_is_changed_added_and_removed() {
        let text = "# c\nversion = 2 # two\n\n[plugins.cri] # cri\n# above\nsandbox = 'a'\nlist = [1, 2]\ninline = { a = 1, \
                    b = 2 }\n\n# last\n[debug]\nlevel = \"info\"\n";
        let new = |at: &str, value: Option<Value>| set(Format::Toml, text, at, value);
        assert_eq!(new("version", Some(json!(3))), text.replace("2 # two", "3 # two"));
        assert_eq!(new("plugins.cri.sandbox", Some(json!("b"))), text.replace("'a'", "\"b\""));
        assert_eq!(new("plugins.cri.sandbox", None), text.replace("sandbox = 'a'\n", ""));
        assert_eq!(new("plugins.cri.list.1", Some(json!(3))), text.replace("[1, 2]", "[1, 3]"));
        assert_eq!(new("plugins.cri.inline.b", Some(json!(3))), text.replace("b = 2", "b = 3"));
        assert_eq!(new("plugins.cri.new", Some(json!(true))), text.replace("b = 2 }\n", "b = 2 }\nnew = true\n"));
        assert_eq!(new("x.y", Some(json!(1))), format!("{text}\n[x]\ny = 1\n"));
        assert_eq!(set(Format::Toml, "", "a.b", json!(1)), "[a]\nb = 1\n");
    }

    #[test]
    fn what_cannot_be_changed_alone_is_refused() {
        for (format, text, at, reason) in [
            (Format::Ini, "a=1\na=2\n", "a", "`a` occurs 2 times: remove all but one, or write a [[block]]"),
            (Format::Ini, "a=1 \\\n 2\n", "a", "the value of `a` has several lines"),
            (Format::Ini, "a=1\n  2\n", "a", "the value of `a` has several lines"),
            (Format::Ini, "[a\n", "a", "line 1 is not a section: it has no `]` at its end"),
            (Format::Ini, "a=1\rb=2\n", "a", "it has line breaks of several kinds"),
            (Format::Env, "[a]\n", "a", "line 1 is not KEY=value: is it `ini`?"),
            (Format::Env, "b=1\na='1\n2'\n", "a", "a quote in line 2 is not closed there"),
            (Format::Json, "{\n\"a\": }", "a", "it is not JSON, from line 2"),
            (Format::Json, "[1]", "a", "it has no keys"),
            (Format::Json, "{\"a\": 1}", "a.b", "`b` can't be set: its parent is a number"),
            (Format::Json, "{\"a\": [1]}", "a.1", "a list of 1 has no element `1`"),
            (Format::Json, "{\"a\": 1, \"a\": 2}", "a", "changing this value would also change other content"),
            (Format::Yaml, "b: 1\na: [\n", "a", "it is not one YAML document of values, from line 2"),
            (Format::Yaml, "a: &x 1\nb: *x\n", "a", "changing this value would also change other content"),
            (Format::Toml, "a = 1\nb = \n", "a", "it is not TOML, from line 2"),
            (Format::Toml, "[a]\nb = 1\n", "a", "`a` is a table in the file: name the keys in it"),
        ] {
            assert_eq!(why(format, text, at, json!("x")), reason, "{text}");
        }
        let list = why(Format::Yaml, "a: [1, 2]\n", "a.0", None);
        assert_eq!(list, "kpull can't remove an element of a list: set the whole list");
        assert!(why(Format::Yaml, "a: 1\n---\na: 2\n", "a", json!("x")).starts_with("it is not one YAML document"));
    }

    #[test]
    fn a_former_value_returns_beside_what_others_changed() {
        for (format, text, new, back) in [
            (Format::Ini, "# c\na = 1\n", "x=0\n# d\na = 2\nz=0\n", "x=0\n# d\na = 1\nz=0\n"),
            (Format::Json, "{\n \"a\": 1 // c\n}\n", "{\"x\": 0, \"a\": 2}\n", "{\"x\": 0, \"a\": 1}\n"),
            (Format::Yaml, "a: 0x1 # c\n", "# new\nx: 0\na: 2\n", "# new\nx: 0\na: 0x1 # c\n"),
            (Format::Toml, "a = 0x1 # c\n", "x = 0\na = 2\n", "x = 0\na = 0x1 # c\n"),
        ] {
            let value = if format == Format::Ini { json!("2") } else { json!(2) };
            let former = edit(format, "a", Some(value)).former(text, true).unwrap();
            assert_eq!(former.restored(new).unwrap(), back);
        }
    }

    #[test]
    fn two_new_values_of_one_section_go_in_any_order() {
        for format in ALL {
            let section = if format == Format::Ini { "\"[s]\"" } else { "s" };
            let at = |name: &str| if format == Format::Env { name.to_owned() } else { format!("{section}.{name}") };
            let (a, b) = (edit(format, &at("a"), Some(json!("1"))), edit(format, &at("b"), Some(json!("2"))));
            let former = [a.former("", true).unwrap(), b.former("", true).unwrap()];
            for order in [[0, 1], [1, 0]] {
                let text = b.edited(&a.edited("").unwrap()).unwrap();
                let text = order.iter().fold(text, |text, at| former[*at].restored(&text).unwrap());
                assert!(former[0].is_void(&text), "{format:?}: {text}");
            }
        }
    }
}
