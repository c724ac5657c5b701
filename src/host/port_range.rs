//! Ports of a transport protocol.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A port or range of ports, written as `443/tcp` or `2379-2380/tcp`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    /// `tcp`, `udp`, `sctp` or `dccp`.
    pub protocol: String,
    pub(super) first: u16,
    pub(super) last: u16,
}

impl PortRange {
    /// Parses firewalld's two texts; `None` if kpull doesn't support them (a port by name).
    pub fn parse(ports: &str, protocol: &str) -> Option<Self> {
        let number = |text: &str| text.parse::<u16>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        let (first, last) = match ports.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(ports)?, number(ports)?),
        };
        let is_known = matches!(protocol, "tcp" | "udp" | "sctp" | "dccp");
        (is_known && first <= last && first > 0).then(|| Self { protocol: protocol.to_owned(), first, last })
    }

    /// Whether the range has the port, regardless of the protocol.
    pub fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// The ports without the protocol, as firewalld writes them.
    pub fn ports(&self) -> String {
        if self.first == self.last { self.first.to_string() } else { format!("{}-{}", self.first, self.last) }
    }
}

impl TryFrom<String> for PortRange {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.split_once('/').and_then(|(ports, protocol)| Self::parse(ports, protocol)).ok_or_else(|| {
            format!(
                "`{text}` is not a port: write it like \"443/tcp\" or \"2379-2380/tcp\", with 1 to 65535 and tcp, udp, \
                 sctp or dccp"
            )
        })
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> Self {
        range.to_string()
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ports(), self.protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_has_a_number_and_a_protocol() {
        let range = |text: &str| PortRange::try_from(text.to_owned()).unwrap().to_string();
        assert_eq!(range("2379-2380/tcp"), "2379-2380/tcp");
        assert_eq!(range("53-53/udp"), "53/udp");
        for bad in [
            "",
            "/tcp",
            "80-/tcp",
            "443",
            "443/icmp",
            "0/tcp",
            "65536/tcp",
            "2380-2379/tcp",
            "a/tcp",
            "+1/tcp",
            "1-2-3/tcp",
            "1 /tcp",
        ] {
            let why = PortRange::try_from(bad.to_owned()).unwrap_err();
            assert!(why.starts_with(&format!("`{bad}` is not a port: ")), "{why}");
        }
    }
}
