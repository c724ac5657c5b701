//! firewalld's rich rules: parsed in any form and written in firewalld's own, so that they can be compared.

use std::fmt;

use ipnet::IpNet;
use quick_xml::escape::escape;

use crate::host::address;
use crate::host::port_range::PortRange;

/// A rich rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RichRule {
    priority: i32,
    family: Option<String>,
    /// Source, destination, element, log, audit, action.
    parts: [Option<Part>; 6],
}

/// A part of a rule: a word with its attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The word: `source`, `port`, `accept`, …
    pub name: String,
    /// Its attributes; `invert` stands for `NOT`.
    pub attributes: Vec<(String, String)>,
    /// Its rate limit.
    pub limit: Option<String>,
}

/// The known parts: the word, its position in a rule, its attributes in firewalld's order.
const KNOWN: [(&str, usize, &[&str]); 18] = [
    ("source", 0, &["address", "mac", "ipset"]),
    ("destination", 1, &["address", "ipset"]),
    ("service", 2, &["name"]),
    ("port", 2, &["port", "protocol"]),
    ("protocol", 2, &["value"]),
    ("masquerade", 2, &[]),
    ("icmp-block", 2, &["name"]),
    ("icmp-type", 2, &["name"]),
    ("forward-port", 2, &["port", "protocol", "to-port", "to-addr"]),
    ("source-port", 2, &["port", "protocol"]),
    ("tcp-mss-clamp", 2, &["value"]),
    ("log", 3, &["prefix", "level"]),
    ("nflog", 3, &["group", "prefix", "queue-size"]),
    ("audit", 4, &[]),
    ("accept", 5, &[]),
    ("reject", 5, &["type"]),
    ("drop", 5, &[]),
    ("mark", 5, &["set"]),
];

impl RichRule {
    /// Parses a rule in any form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut words = shlex::split(text).ok_or("a quote is opened and never closed")?.into_iter();
        if words.next().as_deref() != Some("rule") {
            return Err("a rich rule starts with the word `rule`".to_owned());
        }
        let (mut family, mut priority) = (None, None);
        let mut parts: Vec<Part> = Vec::new();
        let mut in_limit = false;
        for word in words {
            match (word.split_once('='), parts.last_mut()) {
                (Some((_, "")) | Some(("", _)), _) => return Err(format!("`{word}` lacks a name or a value")),
                (Some(("family", value)), None) => family = Some(value.to_owned()),
                (Some(("priority", value)), None) => priority = Some(value.to_owned()),
                (Some((name, _)), None) => return Err(format!("`{name}` is outside of any element")),
                (Some(("value", value)), Some(part)) if in_limit => {
                    part.limit = Some(value.to_owned());
                    in_limit = false;
                }
                (Some((name, value)), Some(part)) => part.attributes.push((name.to_owned(), value.to_owned())),
                (None, Some(part)) if word.eq_ignore_ascii_case("not") => {
                    part.attributes.push(("invert".to_owned(), "True".to_owned()));
                }
                (None, Some(_)) if word == "limit" => in_limit = true,
                (None, _) => parts.push(Part { name: word, ..Part::default() }),
            }
        }
        if in_limit {
            return Err("`limit` lacks its `value`".to_owned());
        }
        Self::new(family, priority.as_deref(), parts)
    }

    /// Makes a rule from its parts, and checks them.
    pub fn new(family: Option<String>, priority: Option<&str>, parts: Vec<Part>) -> Result<Self, String> {
        let mut rule = Self { family, ..Self::default() };
        if let Some(family) = rule.family.as_deref().filter(|family| !matches!(*family, "ipv4" | "ipv6")) {
            return Err(format!("`{family}` is not a family: write `ipv4` or `ipv6`"));
        }
        if let Some(text) = priority {
            let number = text.parse().ok().filter(|number| (-32768..=32767).contains(number));
            let why = || format!("`{text}` is not a priority: it is a number from -32768 to 32767");
            rule.priority = number.ok_or_else(why)?;
        }
        for part in parts {
            let (place, part) = normal(part)?;
            if let Some(first) = rule.parts[place].replace(part) {
                return Err(format!("a rule can have only one element like `{}`", first.name));
            }
        }
        rule.check()?;
        Ok(rule)
    }

    /// Whether the parts fit together and firewalld accepts them.
    fn check(&self) -> Result<(), String> {
        let [source, destination, element, log, audit, action] = &self.parts;
        for part in [source, destination].into_iter().flatten() {
            let Some(address) = part.get("address") else { continue };
            let Some(family) = &self.family else {
                return Err("an address needs `family=\"ipv4\"` or `family=\"ipv6\"`".to_owned());
            };
            if !is_address(address, family) {
                return Err(format!("`{address}` is not an address or network of {family}"));
            }
        }
        if destination.is_some() && self.family.is_none() {
            return Err("a destination needs `family=\"ipv4\"` or `family=\"ipv6\"`".to_owned());
        }
        let is_whole = |name: &str| matches!(name, "icmp-block" | "forward-port" | "masquerade" | "tcp-mss-clamp");
        match element.as_ref().map(|part| part.name.as_str()) {
            Some(name) if is_whole(name) && action.is_some() => Err(format!("`{name}` can't have an action")),
            Some("forward-port") if self.family.is_none() => Err("`forward-port` needs a `family`".to_owned()),
            Some(name) if is_whole(name) => Ok(()),
            _ if action.is_none() && log.is_none() && audit.is_none() => {
                Err("it lacks an action: `accept`, `reject`, `drop` or `mark`".to_owned())
            }
            None if source.is_none() && destination.is_none() && self.priority == 0 => {
                Err("it has neither an address nor an element".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// The element that the rule accepts, if it accepts one.
    pub fn accepted(&self) -> Option<&Part> {
        let [_, _, element, _, _, action] = &self.parts;
        element.as_ref().filter(|_| action.as_ref().is_some_and(|action| action.name == "accept"))
    }

    /// The newest word in the rule, with the version of firewalld that introduced it; `None` if every supported version knows all words.
    pub fn newest_word(&self) -> Option<(&'static str, &'static str)> {
        let has = |name: &str| self.parts.iter().flatten().any(|part| part.name == name);
        match () {
            () if has("nflog") => Some(("nflog", "1.1")),
            () if has("tcp-mss-clamp") => Some(("tcp-mss-clamp", "1.0")),
            () if self.priority != 0 => Some(("priority", "0.7")),
            () if has("icmp-type") => Some(("icmp-type", "0.4.4.3")),
            () => None,
        }
    }

    /// The rule as XML, indented as a child of the zone.
    pub fn to_xml(&self) -> String {
        let mut xml = "  <rule".to_owned();
        if let Some(family) = &self.family {
            xml.push_str(&attribute("family", family));
        }
        if self.priority != 0 {
            xml.push_str(&attribute("priority", &self.priority.to_string()));
        }
        xml.push_str(">\n");
        for part in self.parts.iter().flatten() {
            let attributes: String = part.attributes.iter().map(|(name, value)| attribute(name, value)).collect();
            match &part.limit {
                None => xml.push_str(&format!("    <{}{attributes}/>\n", part.name)),
                Some(limit) => xml.push_str(&format!(
                    "    <{name}{attributes}>\n      <limit{}/>\n    </{name}>\n",
                    attribute("value", limit),
                    name = part.name
                )),
            }
        }
        xml.push_str("  </rule>\n");
        xml
    }
}

/// An XML attribute, with a space before it.
pub fn attribute(name: &str, value: &str) -> String {
    format!(" {name}=\"{}\"", escape(value))
}

impl Part {
    /// The value of an attribute.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// The normal form of a part, and its position in a rule.
fn normal(part: Part) -> Result<(usize, Part), String> {
    let Some((name, place, known)) = KNOWN.into_iter().find(|(name, ..)| *name == part.name) else {
        return Err(format!("`{}` is not a word of a rich rule", part.name));
    };
    let can_invert = place < 2;
    for (attribute, _) in &part.attributes {
        let is_known = known.contains(&attribute.as_str()) || can_invert && attribute == "invert";
        if !is_known {
            return Err(format!("`{name}` has no `{attribute}`"));
        }
    }
    let mut attributes: Vec<(String, String)> = Vec::new();
    for wanted in known {
        if let Some(value) = part.get(wanted) {
            check_value(value, *wanted == "set")?;
            attributes.push(((*wanted).to_owned(), normal_value(name, wanted, value)));
        }
    }
    let has = |wanted: &str| attributes.iter().any(|(name, _)| name == wanted);
    let is_complete = match name {
        "source" | "destination" => attributes.len() == 1,
        "forward-port" => has("port") && has("protocol") && (has("to-port") || has("to-addr")),
        "tcp-mss-clamp" | "log" | "nflog" | "reject" => true,
        _ => attributes.len() == known.len(),
    };
    if !is_complete {
        return Err(format!("`{name}` needs {} of: {}", if place < 2 { "one" } else { "all" }, known.join(", ")));
    }
    if matches!(name, "port" | "source-port" | "forward-port") {
        let (ports, protocol) = (part.get("port").unwrap_or_default(), part.get("protocol").unwrap_or_default());
        PortRange::try_from(format!("{ports}/{protocol}"))?;
    }
    if name == "tcp-mss-clamp" {
        // the default value
        attributes.retain(|(_, value)| value != "pmtu");
    }
    let is_not = |value: &str| ["yes", "true"].iter().any(|yes| value.eq_ignore_ascii_case(yes));
    if part.get("invert").is_some_and(is_not) {
        attributes.push(("invert".to_owned(), "True".to_owned()));
    }
    part.limit.as_deref().map_or(Ok(()), |limit| check_value(limit, false))?;
    if part.limit.is_some() && place < 3 {
        return Err(format!("`{name}` can't have a `limit`"));
    }
    Ok((place, Part { name: part.name, attributes, limit: part.limit.map(short_limit) }))
}

/// The normal form of a value: firewalld keeps addresses, ports and protocols as they are written.
fn normal_value(part: &str, attribute: &str, value: &str) -> String {
    match (part, attribute) {
        (_, "address" | "mac" | "to-addr") => address::normal(value),
        (_, "port" | "to-port") => match PortRange::parse(value, "tcp") {
            Some(range) => range.ports(),
            None => value.to_owned(),
        },
        ("protocol", _) => value.to_ascii_lowercase(),
        _ => value.to_owned(),
    }
}

/// Refuses what firewalld's own form of rules can't represent: it has no escapes, and no quotes around an `unquoted` value.
fn check_value(value: &str, unquoted: bool) -> Result<(), String> {
    let is_lost = |c: char| matches!(c, '"' | '\\') || c.is_control() || unquoted && (c == '\'' || c.is_whitespace());
    match value.is_empty() || value.contains(is_lost) {
        true => Err(format!(
            "`{value}` can't be in a rich rule: firewalld loses quotes, backslashes and control characters"
        )),
        false => Ok(()),
    }
}

/// `5/minute` as `5/m`.
fn short_limit(limit: String) -> String {
    match limit.split_once('/') {
        Some((rate, unit @ ("second" | "minute" | "hour" | "day"))) => format!("{rate}/{unit:.1}"),
        _ => limit,
    }
}

fn is_address(text: &str, family: &str) -> bool {
    match address::network(text) {
        Some(IpNet::V4(_)) => family == "ipv4",
        Some(IpNet::V6(_)) => family == "ipv6",
        None => false,
    }
}

/// The newest word in a rule, with the version of firewalld that introduced it.
pub fn newest_word(rule: &str) -> Option<(&'static str, &'static str)> {
    RichRule::parse(rule).ok()?.newest_word()
}

/// The normal form of a rule; an invalid one is returned unchanged.
pub fn normal_rule(text: &str) -> String {
    RichRule::parse(text).map_or_else(|_| text.to_owned(), |rule| rule.to_string())
}

impl fmt::Display for RichRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("rule")?;
        if self.priority != 0 {
            write!(f, " priority=\"{}\"", self.priority)?;
        }
        if let Some(family) = &self.family {
            write!(f, " family=\"{family}\"")?;
        }
        for part in self.parts.iter().flatten() {
            write!(f, " {}", part.name)?;
            if part.get("invert").is_some() {
                f.write_str(" NOT")?;
            }
            for (name, value) in part.attributes.iter().filter(|(name, _)| name != "invert") {
                match name.as_str() {
                    // the one attribute that firewalld doesn't quote
                    "set" => write!(f, " set={value}")?,
                    _ => write!(f, " {name}=\"{value}\"")?,
                }
            }
            if let Some(limit) = &part.limit {
                write!(f, " limit value=\"{limit}\"")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &str) -> String {
        RichRule::parse(text).unwrap().to_string()
    }

    #[test]
    fn a_rule_gets_firewalld_s_own_form() {
        for (written, form_of_firewalld) in [
            (
                "rule family=ipv4 port protocol=tcp port=2379-2380 source address=192.168.1.101 accept",
                "rule family=\"ipv4\" source address=\"192.168.1.101\" port port=\"2379-2380\" protocol=\"tcp\" accept",
            ),
            (
                "rule protocol value='vrrp' accept limit value=5/minute",
                "rule protocol value=\"vrrp\" accept limit value=\"5/m\"",
            ),
            (
                "rule family='ipv4' priority='-5' source not address='10.0.0.0/8' log prefix='no way' level=info drop",
                "rule priority=\"-5\" family=\"ipv4\" source NOT address=\"10.0.0.0/8\" log prefix=\"no way\" level=\"info\" drop",
            ),
            (
                "rule source mac=aa:bb:cc:dd:ee:ff mark set=1/0xf",
                "rule source mac=\"AA:BB:CC:DD:EE:FF\" mark set=1/0xf",
            ),
            (
                "rule family=ipv6 forward-port port=80 to-addr=::1 protocol=tcp to-port=8080",
                "rule family=\"ipv6\" forward-port port=\"80\" protocol=\"tcp\" to-port=\"8080\" to-addr=\"::1\"",
            ),
            ("rule tcp-mss-clamp value=pmtu", "rule tcp-mss-clamp"),
            ("rule service name=http audit accept", "rule service name=\"http\" audit accept"),
            (
                "rule family=ipv4 source address=10.0.3.4/255.255.0.0 destination address=10.1.0.1/32 port port=80-80 protocol=tcp accept",
                "rule family=\"ipv4\" source address=\"10.0.0.0/16\" destination address=\"10.1.0.1\" port port=\"80\" protocol=\"tcp\" accept",
            ),
            (
                "rule family=ipv6 source address=FD00:0::1/64 protocol value=VRRP accept",
                "rule family=\"ipv6\" source address=\"fd00::/64\" protocol value=\"vrrp\" accept",
            ),
        ] {
            assert_eq!(form(written), form_of_firewalld);
        }
    }

    #[test]
    fn a_rule_in_its_own_form_stays_as_it_is() {
        let text = "rule priority=\"3\" family=\"ipv4\" source address=\"10.1.2.0/24\" service name=\"http\" \
                    nflog group=\"2\" prefix=\"x\" queue-size=\"9\" limit value=\"1/s\" audit limit value=\"2/h\" reject type=\"tcp-reset\"";
        assert_eq!(form(text), text);
    }

    #[test]
    fn a_rule_that_firewalld_would_refuse_is_refused_with_the_reason() {
        let why = |text: &str| RichRule::parse(text).unwrap_err();
        assert_eq!(why("accept"), "a rich rule starts with the word `rule`");
        assert_eq!(
            why("rule source address=10.0.0.1 accept"),
            "an address needs `family=\"ipv4\"` or `family=\"ipv6\"`"
        );
        assert_eq!(
            why("rule family=ipv4 source address=192.168.1.102.2 accept"),
            "`192.168.1.102.2` is not an address or network of ipv4"
        );
        assert_eq!(why("rule service name=a"), "it lacks an action: `accept`, `reject`, `drop` or `mark`");
        assert_eq!(
            why("rule service name=a port port=1 protocol=tcp accept"),
            "a rule can have only one element like `service`"
        );
        assert_eq!(why("rule servce name=a accept"), "`servce` is not a word of a rich rule");
        assert_eq!(why("rule service port=1 accept"), "`service` has no `port`");
        assert_eq!(why("rule port port=1 accept"), "`port` needs all of: port, protocol");
        assert_eq!(why("rule service name=\"a accept"), "a quote is opened and never closed");
        assert!(why("rule port port=99999 protocol=tcp accept").contains("is not a port"));
        for value in [r#"'no "way"'"#, r"a\\b", "'a\tb'"] {
            assert!(why(&format!("rule service name=a log prefix={value} accept")).contains("can't be in a rich rule"));
        }
        assert!(why("rule service name=a mark set='1 2'").contains("can't be in a rich rule"));
        assert_eq!(why("rule accept"), "it has neither an address nor an element");
    }
}
