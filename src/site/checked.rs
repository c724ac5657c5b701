//! Types and assertions of a role's variables.

use std::net::IpAddr;

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::document::fields::{AbsolutePath, HumanDuration, Mode};
use crate::error::nearest;
use crate::template::filters::matches_whole;
use crate::text::display_as_serialized;

/// The type of a variable; `none` is always valid.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
#[schemars(transform = with_aliases)]
pub enum Type {
    /// A text.
    #[serde(alias = "string")]
    Text,
    /// A text, or a list or table of texts, each of which can also have several lines in host_vars.
    Lines,
    /// A whole number.
    #[serde(alias = "integer")]
    Number,
    /// `true` or `false`.
    #[serde(alias = "boolean")]
    Bool,
    /// A list.
    List,
    /// A table.
    #[serde(alias = "table")]
    Map,
    /// An IP address.
    Address,
    /// A network in CIDR notation, by its first address.
    #[serde(alias = "cidr")]
    Network,
    /// The number of bits of a network's prefix.
    Prefix,
    /// The number of a port.
    Port,
    /// A duration, such as `90s`.
    Duration,
    /// An absolute path.
    Path,
    /// Permission bits, such as `0644`.
    Mode,
}

display_as_serialized!(Type);

/// What a variable has to be: the name of a type, or a table with more conditions.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Definition(pub Rules);

/// A type with further conditions: `[types.NAME]`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// The type.
    #[serde(rename = "type")]
    pub kind: Type,
    /// What the variable is for, in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The allowed values. Default: any of the type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub one_of: Option<Vec<Value>>,
    /// The minimum: of a number, or of the length of a text, a list or a table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<i64>,
    /// The maximum: of a number, or of the length of a text, a list or a table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<i64>,
    /// A regular expression that the whole text must match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// The type of each entry of a list or table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "entries")]
    pub items: Option<Box<Definition>>,
}

impl<'de> Deserialize<'de> for Definition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Definition;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("the name of a type, or a table with `type`")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Definition, E> {
                let kind = Type::deserialize(StrDeserializer::new(name))?;
                let (description, one_of, pattern, items) = (None, None, None, None);
                Ok(Definition(Rules { kind, description, one_of, min: None, max: None, pattern, items }))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Definition, A::Error> {
                Rules::deserialize(MapAccessDeserializer::new(map)).map(Definition)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for Definition {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Definition".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [Type::json_schema(generator), Rules::json_schema(generator)] })
    }
}

/// The schema of `items`. It is not described any deeper, because a schema for editors has no references.
fn entries(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "object"] })
}

/// Adds the other names of types to their schema.
fn with_aliases(schema: &mut Schema) {
    if let Some(names) = schema.get_mut("oneOf").and_then(Value::as_array_mut) {
        let other = ["string", "integer", "boolean", "table", "cidr"];
        names.push(serde_json::json!({ "description": "Aliases of text, number, bool, map and network.", "type": "string", "enum": other }));
    }
}

/// Why a value does not fit its definition.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Where in the value: keys of tables, positions in lists.
    pub path: Vec<String>,
    /// What it is.
    pub what: String,
    /// What to write instead.
    pub help: String,
}

impl Definition {
    /// Why a value does not fit.
    pub fn refuse(&self, value: &Value) -> Option<Refusal> {
        let rules = &self.0;
        let refusal = |what: &str, help: String| Some(Refusal { path: Vec::new(), what: what.to_owned(), help });
        if let Some((what, help)) = rules.kind.refuse(value) {
            return refusal(what, help);
        }
        if value.is_null() {
            return None;
        }
        if let Some(known) = rules.one_of.as_ref().filter(|known| !known.contains(value)) {
            let texts: Vec<&str> = known.iter().filter_map(Value::as_str).collect();
            let near = value.as_str().and_then(|text| nearest(text, texts.iter().copied()));
            let list = known.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let near = near.map(|near| format!("did you mean {near:?}? ")).unwrap_or_default();
            return refusal("not one of the allowed values", format!("{near}expected one of {list}"));
        }
        let (size, unit) = size_of(value);
        if let Some(min) = rules.min.filter(|min| size < *min) {
            return refusal("too small", format!("write at least {min}{unit}"));
        }
        if let Some(max) = rules.max.filter(|max| size > *max) {
            return refusal("too large", format!("write at most {max}{unit}"));
        }
        if let (Some(pattern), Some(text)) = (&rules.pattern, value.as_str())
            && !matches_whole(pattern, text).unwrap_or(false)
        {
            return refusal("not in the required form", format!("the whole text must match `{pattern}`"));
        }
        let items = rules.items.as_ref()?;
        let each = |(key, value): (String, &Value)| {
            items.refuse(value).map(|refusal| Refusal { path: [vec![key], refusal.path].concat(), ..refusal })
        };
        match value {
            Value::Array(list) => list.iter().enumerate().map(|(at, one)| (at.to_string(), one)).find_map(each),
            Value::Object(map) => map.iter().map(|(key, one)| (key.clone(), one)).find_map(each),
            _ => None,
        }
    }

    /// The field of the definition that is a mistake, and why.
    pub fn mistake(&self) -> Option<(&'static str, String)> {
        let Rules { kind, one_of, min, max, pattern, items, .. } = &self.0;
        if let (Some(min), Some(max)) = (min, max)
            && min > max
        {
            return Some(("max", format!("it is less than `min`, {min}")));
        }
        if (min.is_some() || max.is_some())
            && matches!(kind, Type::Bool | Type::Address | Type::Network | Type::Duration | Type::Mode)
        {
            let field = if min.is_some() { "min" } else { "max" };
            return Some((field, format!("a variable of the type `{kind}` has no minimum or maximum")));
        }
        if let Some(pattern) = pattern {
            if !matches!(kind, Type::Text | Type::Path) {
                return Some(("pattern", format!("only a text can have this, and the type is `{kind}`")));
            }
            if let Err(why) = matches_whole(pattern, "") {
                return Some(("pattern", why));
            }
        }
        if let Some((wrong, (what, help))) =
            one_of.iter().flatten().find_map(|value| Some((value, kind.refuse(value)?)))
        {
            return Some(("one_of", format!("{wrong} is {what}: {help}")));
        }
        let items = items.as_ref()?;
        if !matches!(kind, Type::List | Type::Map) {
            return Some(("items", format!("only a list or a table has entries, and the type is `{kind}`")));
        }
        items.mistake().map(|(field, why)| ("items", format!("`{field}`: {why}")))
    }

    /// The definition in words: `port`, `number, 1 to 10`, `list of address`.
    pub fn words(&self) -> String {
        let Rules { kind, one_of, min, max, pattern, items, .. } = &self.0;
        let mut words = kind.to_string();
        if let Some(items) = items {
            words += &format!(" of {}", items.words());
        }
        if let Some(values) = one_of {
            words += &format!(", one of {}", values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
        }
        words += &match (min, max) {
            (Some(min), Some(max)) => format!(", {min} to {max}"),
            (Some(1), None) if !matches!(kind, Type::Number | Type::Port | Type::Prefix) => ", not empty".to_owned(),
            (Some(min), None) => format!(", at least {min}"),
            (None, Some(max)) => format!(", at most {max}"),
            (None, None) => String::new(),
        };
        if let Some(pattern) = pattern {
            words += &format!(", as `{pattern}`");
        }
        words
    }
}

/// The number that `min` and `max` are about, and its unit.
fn size_of(value: &Value) -> (i64, &'static str) {
    let length = |length: usize| i64::try_from(length).unwrap_or(i64::MAX);
    match value {
        Value::String(text) => (length(text.chars().count()), " characters"),
        Value::Array(list) => (length(list.len()), " entries"),
        Value::Object(map) => (length(map.len()), " entries"),
        other => (other.as_i64().unwrap_or(i64::MAX), ""),
    }
}

impl Type {
    /// Why a value is not of this type, and what to write instead.
    pub fn refuse(self, value: &Value) -> Option<(&'static str, String)> {
        let text = value.as_str().unwrap_or_default();
        let number_to = |most: u64| value.as_u64().is_some_and(|number| number <= most);
        let (is_right, what, help) = match self {
            _ if value.is_null() => return None,
            Self::Text => (value.is_string(), "not a text", "put it in quotes"),
            Self::Lines => (
                value.is_string() || value.is_array() || value.is_object(),
                "not a text, or a list or table of texts",
                "put it in quotes",
            ),
            Self::Number => (value.is_i64() || value.is_u64(), "not a number", "write a whole number, without quotes"),
            Self::Bool => (value.is_boolean(), "neither true nor false", "write `true` or `false`, without quotes"),
            Self::List => (value.is_array(), "not a list", "write it in brackets: `[…]`"),
            Self::Map => (value.is_object(), "not a table", "write it as a table, or in braces: `{ … }`"),
            Self::Address => {
                (text.parse::<IpAddr>().is_ok(), "not an IP address", "write it like 10.0.0.1, without a prefix")
            }
            Self::Prefix => {
                (number_to(128), "not the length of a prefix", "write a number from 0 to 32, or to 128 with IPv6")
            }
            Self::Port => (
                number_to(65535) && value != &Value::from(0),
                "not a port",
                "write a number from 1 to 65535, without quotes",
            ),
            Self::Duration => (
                HumanDuration::try_from(text.to_owned()).is_ok(),
                "not a duration",
                "write it like \"90s\", \"2m\" or \"500ms\"",
            ),
            Self::Path => (
                AbsolutePath::try_from(text.to_owned()).is_ok(),
                "not an absolute path",
                "write it from the root, without `.`, `..`, double slashes or a trailing slash",
            ),
            Self::Mode => (
                Mode::try_from(text.to_owned()).is_ok(),
                "not a mode",
                "write three or four octal digits in quotes, like \"0644\"",
            ),
            Self::Network => return not_network(text),
        };
        (!is_right).then(|| (what, help.to_owned()))
    }
}

fn not_network(text: &str) -> Option<(&'static str, String)> {
    if let Ok(network) = text.parse::<IpNet>() {
        let is_first = network.addr() == network.network();
        return (!is_first).then(|| ("an address in a network", format!("write the network: {}", network.trunc())));
    }
    Some(match text.split_once('/').map(|(address, _)| address) {
        None if text.parse::<IpAddr>().is_ok() => {
            ("a network without a prefix", format!("write it with its prefix length: {text}/16"))
        }
        Some(address) if address.parse::<IpAddr>().is_ok() => {
            let most = if address.contains(':') { 128 } else { 32 };
            ("a network with an impossible prefix", format!("write a number from 0 to {most} after the /"))
        }
        _ => ("not a network", "write it like 10.0.0.0/16".to_owned()),
    })
}

/// `[facts.NAME]`: a custom fact that the role reads.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CustomFact {
    /// Its type, as under `[types]`. Default: any.
    #[serde(rename = "type")]
    pub kind: Option<Definition>,
    /// Its meaning, in a sentence.
    pub description: Option<String>,
    /// Its value on hosts that don't have it yet, and for `kpull check`. Without a default, the role must not use it there.
    pub default: Option<Value>,
}

/// `[[assert]]`: a condition that must be true on every host with the role.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Assert {
    /// An expression that must be true.
    pub that: String,
    /// The message if it is false.
    pub message: String,
    /// How to correct the variables.
    pub help: Option<String>,
    /// The variable that is wrong: the message points to the place that sets it. Default: this assertion.
    pub about: Option<String>,
    /// An expression whose result is a list: the assertion must be true for each `item`.
    pub for_each: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_type_reports_what_is_wrong_with_a_value_and_what_to_write() {
        for (kind, good, bad) in [
            (Type::Text, json!("x"), json!(1)),
            (Type::Lines, json!("x\ny"), json!(1)),
            (Type::Number, json!(-1), json!("1")),
            (Type::Bool, json!(false), json!("false")),
            (Type::List, json!([1]), json!("1")),
            (Type::Map, json!({"a": 1}), json!(["a"])),
            (Type::Address, json!("fd00::1"), json!("10.0.0.1/24")),
            (Type::Network, json!("10.0.0.0/16"), json!(10)),
            (Type::Prefix, json!(32), json!(129)),
            (Type::Port, json!(65535), json!(0)),
            (Type::Duration, json!("90s"), json!("90")),
            (Type::Path, json!("/etc/x"), json!("etc/x")),
            (Type::Mode, json!("0644"), json!(644)),
        ] {
            assert_eq!((kind.refuse(&good), kind.refuse(&Value::Null)), (None, None), "{kind:?}");
            assert!(kind.refuse(&bad).is_some(), "{kind:?}");
        }
    }

    #[test]
    fn a_definition_refuses_what_is_outside_its_conditions_and_says_where_in_the_value() {
        let reported = |rules: Value, value: Value| {
            let definition: Definition = serde_json::from_value(rules).unwrap();
            assert_eq!(definition.mistake(), None);
            definition.refuse(&value).map(|one| format!("{}: {}: {}", one.path.join("."), one.what, one.help))
        };
        let level = json!({ "type": "string", "one_of": ["debug", "info"] });
        assert_eq!(reported(level.clone(), json!("info")), None);
        let wanted = ": not one of the allowed values: did you mean \"info\"? expected one of \"debug\", \"info\"";
        assert_eq!(reported(level, json!("inof")).as_deref(), Some(wanted));
        let workers = json!({ "type": "integer", "min": 1, "max": 64 });
        assert_eq!(reported(workers.clone(), json!(64)), None);
        assert_eq!(reported(workers.clone(), json!(0)).as_deref(), Some(": too small: write at least 1"));
        assert_eq!(reported(workers, json!(65)).as_deref(), Some(": too large: write at most 64"));
        let names = json!({ "type": "list", "min": 1, "items": { "type": "text", "pattern": "[a-z]+" } });
        assert_eq!(reported(names.clone(), json!(["a", "bc"])), None);
        assert_eq!(reported(names.clone(), json!([])).as_deref(), Some(": too small: write at least 1 entries"));
        let wanted = "1: not in the required form: the whole text must match `[a-z]+`";
        assert_eq!(reported(names, json!(["a", "a1"])).as_deref(), Some(wanted));
        let ports = json!({ "type": "table", "items": "port" });
        let wanted = "web: not a port: write a number from 1 to 65535, without quotes";
        assert_eq!(reported(ports, json!({ "web": "80" })).as_deref(), Some(wanted));
    }

    #[test]
    fn a_definition_that_makes_no_sense_is_a_mistake() {
        for (rules, wanted) in [
            (json!({ "type": "number", "min": 2, "max": 1 }), ("max", "it is less than `min`, 2")),
            (json!({ "type": "bool", "min": 2 }), ("min", "a variable of the type `bool` has no minimum or maximum")),
            (
                json!({ "type": "port", "pattern": "x" }),
                ("pattern", "only a text can have this, and the type is `port`"),
            ),
            (
                json!({ "type": "port", "items": "text" }),
                ("items", "only a list or a table has entries, and the type is `port`"),
            ),
            (json!({ "type": "text", "one_of": ["a", 1] }), ("one_of", "1 is not a text: put it in quotes")),
        ] {
            let definition: Definition = serde_json::from_value(rules).unwrap();
            assert_eq!(definition.mistake(), Some((wanted.0, wanted.1.to_owned())));
        }
        let broken: Definition = serde_json::from_value(json!({ "type": "text", "pattern": "(" })).unwrap();
        assert_eq!(broken.mistake().unwrap().0, "pattern");
    }

    #[test]
    fn a_network_has_a_prefix_that_is_possible_and_is_named_by_its_first_address() {
        let reported = |text: &str| Type::Network.refuse(&text.into()).map(|(what, help)| format!("{what}: {help}"));
        for (text, wanted) in [
            ("10.0.0.0", "a network without a prefix: write it with its prefix length: 10.0.0.0/16"),
            ("10.0.0.0/33", "a network with an impossible prefix: write a number from 0 to 32 after the /"),
            ("fd00::/129", "a network with an impossible prefix: write a number from 0 to 128 after the /"),
            ("10.0.0.0/", "a network with an impossible prefix: write a number from 0 to 32 after the /"),
            ("10.1.2.3/16", "an address in a network: write the network: 10.1.0.0/16"),
            ("pods", "not a network: write it like 10.0.0.0/16"),
            ("10.0.0/16", "not a network: write it like 10.0.0.0/16"),
        ] {
            assert_eq!(reported(text).as_deref(), Some(wanted), "{text}");
        }
        assert_eq!((reported("0.0.0.0/0"), reported("fd00::/128")), (None, None));
    }
}
