//! Where other hosts reach a unit.

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, Visitor};

use crate::host::port_range::PortRange;
use crate::host::zone::Traffic;
use crate::kind::prelude::*;

/// Where other hosts reach a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The ports, or the protocol.
    pub at: Traffic,
    /// The `[[certificate]]` of this host that is shown there.
    pub certificate: Option<String>,
    /// The TCP port that connections are passed on to, on the hosts that listen there.
    pub through: Option<u16>,
}

impl Listen {
    /// Whether a TCP connection to this port ends here.
    pub fn is_at(&self, port: u16) -> bool {
        matches!(&self.at, Traffic::Ports(range) if range.protocol == "tcp" && range.contains(port))
    }
}

/// [`Listen`] as a table.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    /// The ports: `2379/tcp`.
    port: PortRange,
    /// The `[[certificate]]` of this host that it presents there.
    certificate: Option<String>,
    /// The TCP port that it forwards connections to.
    through: Option<u16>,
}

/// Ports like `2379/tcp`, a protocol, or a table.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "it only describes the format")]
pub(super) enum TextOrTable {
    Text(String),
    Table(Table),
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Listen;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text like \"2379/tcp\", or a table with `port`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Listen, E> {
                let at = Traffic::try_from(text.to_owned()).map_err(E::custom)?;
                Ok(Listen { at, certificate: None, through: None })
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Listen, A::Error> {
                let table = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Listen { at: Traffic::Ports(table.port), certificate: table.certificate, through: table.through })
            }
        }

        deserializer.deserialize_any(Reader)
    }
}
