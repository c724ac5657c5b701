//! Types and assertions of a role's variables.

use std::net::IpAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

/// What a variable has to be, one that is `none` apart.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Type {
    /// A text.
    Text,
    /// A text, or a list or table of texts, of which each may have several lines in host_vars too.
    Lines,
    /// A whole number.
    Number,
    /// `true` or `false`.
    Bool,
    /// A list.
    List,
    /// A table.
    Map,
    /// An IP address.
    Address,
    /// A network in CIDR notation, by its first address.
    Network,
    /// The number of bits of a network's prefix.
    Prefix,
    /// The number of a port.
    Port,
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
                "neither a text nor a list or table of some",
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
            ("a network without a prefix", format!("write how many bits it has: {text}/16"))
        }
        Some(address) if address.parse::<IpAddr>().is_ok() => {
            let most = if address.contains(':') { 128 } else { 32 };
            ("a network with an impossible prefix", format!("write a number from 0 to {most} behind the /"))
        }
        _ => ("not a network", "write it like 10.0.0.0/16".to_owned()),
    })
}

/// `[[assert]]`: what has to be true wherever a host has the role.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Assert {
    /// An expression that has to be true.
    pub that: String,
    /// What is wrong when it is not.
    pub message: String,
    /// What to do then.
    pub help: Option<String>,
    /// The variable that is wrong then: the message points to where it is set. To this assertion when left out.
    pub about: Option<String>,
    /// An expression that is a list: it has to be true for each `item`.
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
        ] {
            assert_eq!((kind.refuse(&good), kind.refuse(&Value::Null)), (None, None), "{kind:?}");
            assert!(kind.refuse(&bad).is_some(), "{kind:?}");
        }
    }

    #[test]
    fn a_network_has_a_prefix_that_is_possible_and_is_named_by_its_first_address() {
        let told = |text: &str| Type::Network.refuse(&text.into()).map(|(what, help)| format!("{what}: {help}"));
        for (text, wanted) in [
            ("10.0.0.0", "a network without a prefix: write how many bits it has: 10.0.0.0/16"),
            ("10.0.0.0/33", "a network with an impossible prefix: write a number from 0 to 32 behind the /"),
            ("fd00::/129", "a network with an impossible prefix: write a number from 0 to 128 behind the /"),
            ("10.0.0.0/", "a network with an impossible prefix: write a number from 0 to 32 behind the /"),
            ("10.1.2.3/16", "an address in a network: write the network: 10.1.0.0/16"),
            ("pods", "not a network: write it like 10.0.0.0/16"),
            ("10.0.0/16", "not a network: write it like 10.0.0.0/16"),
        ] {
            assert_eq!(told(text).as_deref(), Some(wanted), "{text}");
        }
        assert_eq!((told("0.0.0.0/0"), told("fd00::/128")), (None, None));
    }
}
