//! Reads and edits the XML file of a firewall zone; everything else in the file stays unchanged.

use std::mem::discriminant;
use std::ops::Range;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use crate::host::port_range::PortRange;
use crate::host::rich_rule::{Part, RichRule, attribute};
use crate::host::zone::{Edit, Element, Settings, Target};
use crate::text::trailing;

/// A zone's file.
#[derive(Debug)]
pub struct ZoneFile {
    text: String,
    /// The zone's own element, without its children.
    zone: Node,
    /// The bytes of its start tag.
    tag: Range<usize>,
    children: Vec<Child>,
    /// The position of new children: before the end tag of the zone.
    end: usize,
}

/// An element in the zone.
#[derive(Debug)]
struct Child {
    node: Node,
    /// Its bytes in the text.
    span: Range<usize>,
}

/// An XML element without text, which firewalld's settings don't have.
#[derive(Debug, Default)]
struct Node {
    name: String,
    attributes: Vec<(String, String)>,
    children: Vec<Node>,
}

/// More than any element of a zone needs: dropping a node is recursive.
const DEEPEST: usize = 16;

impl Node {
    fn new(start: &BytesStart<'_>) -> Result<Self, String> {
        let mut node = Self { name: start.name().as_ref().to_owned(), ..Self::default() };
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|error| error.to_string())?;
            let value = attribute
                .normalized_value(quick_xml::XmlVersion::Implicit1_0)
                .map_err(|error| error.to_string())?
                .into_owned();
            node.attributes.push((attribute.key.as_ref().to_owned(), value));
        }
        Ok(node)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The element of a zone that it stands for; `None` for what is not managed.
    fn element(&self) -> Option<Element> {
        match self.name.as_str() {
            "service" => Some(Element::Service(self.get("name")?.to_owned())),
            "port" => PortRange::parse(self.get("port")?, self.get("protocol")?).map(Element::Port),
            "masquerade" => Some(Element::Masquerade),
            "forward" => Some(Element::Forward),
            "interface" => Some(Element::Interface(self.get("name")?.to_owned())),
            "source" => match (self.get("address"), self.get("mac"), self.get("ipset")) {
                (Some(text), ..) | (_, Some(text), _) => Some(Element::Source(text.to_owned())),
                (.., Some(ipset)) => Some(Element::Source(format!("ipset:{ipset}"))),
                _ => None,
            },
            "rule" => {
                let part = |node: &Node| Part {
                    name: node.name.clone(),
                    attributes: node.attributes.clone(),
                    limit: node.children.iter().find_map(|child| child.get("value")).map(str::to_owned),
                };
                let parts = self.children.iter().map(part).collect();
                let rule = RichRule::new(self.get("family").map(str::to_owned), self.get("priority"), parts);
                rule.ok().map(|rule| Element::Rule(rule.to_string()))
            }
            _ => None,
        }
    }
}

impl ZoneFile {
    /// Parses a zone's file; the error is what is wrong with it.
    pub fn parse(text: String) -> Result<Self, String> {
        // the reader doesn't count a byte order mark in its positions, and it can be dropped
        let text = text.trim_start_matches('\u{feff}').to_owned();
        let mut reader = Reader::from_str(&text);
        let mut open: Vec<(Node, usize)> = Vec::new();
        let mut children = Vec::new();
        let mut tag = 0..0;
        let mut end = None;
        loop {
            let start = position(&reader);
            let (opened, is_closed) = match reader.read_event().map_err(|error| error.to_string())? {
                Event::Start(opened) => (Some(Node::new(&opened)?), false),
                Event::Empty(opened) => (Some(Node::new(&opened)?), true),
                Event::End(_) => (None, true),
                Event::Eof => break,
                _ => continue,
            };
            let behind = position(&reader);
            if let Some(node) = opened {
                let is_outermost = open.is_empty();
                if is_outermost && end.is_some() {
                    return Err("it has content after </zone>".to_owned());
                }
                if is_outermost && node.name != "zone" {
                    return Err(format!("it starts with <{}> instead of <zone>", node.name));
                }
                if open.len() >= DEEPEST {
                    return Err(format!("its elements are nested more than {DEEPEST} deep"));
                }
                if is_outermost && is_closed {
                    // <zone/>: convert it, so that it has a place for children
                    let piece = |range: Range<usize>| text.get(range).unwrap_or_default();
                    let opened = piece(start..behind).trim_end_matches("/>").trim_end();
                    let (before, rest) = (piece(0..start), piece(behind..text.len()));
                    return Self::parse(format!("{before}{opened}>\n</zone>{rest}"));
                }
                if is_outermost {
                    tag = start..behind;
                }
                open.push((node, start));
            }
            if is_closed && let Some((node, from)) = open.pop() {
                let depth = open.len();
                match open.last_mut() {
                    None => end = Some((start, node)),
                    Some(_) if depth == 1 => children.push(Child { node, span: from..behind }),
                    Some((above, _)) => above.children.push(node),
                }
            }
        }
        match end {
            Some((end, zone)) => Ok(Self { text, zone, tag, children, end }),
            None => Err("it has no <zone>".to_owned()),
        }
    }

    /// The settings of the zone.
    pub fn settings(&self) -> Settings {
        let elements = self.children.iter().filter_map(|child| child.node.element());
        let target = self.zone.get("target").map(Target::parse).unwrap_or_default();
        Settings { target, ..elements.collect() }
    }

    /// The file's text with another target.
    pub fn with_target(&self, target: Target) -> String {
        let others = self.zone.attributes.iter().filter(|(name, _)| name != "target");
        let target = target.in_file();
        let attributes = others
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .chain(target.as_deref().map(|text| ("target", text)));
        let attributes: String = attributes.map(|(name, value)| attribute(name, value)).collect();
        let piece = |range: Range<usize>| self.text.get(range).unwrap_or_default();
        let (before, behind) = (piece(0..self.tag.start), piece(self.tag.end..self.text.len()));
        format!("{before}<zone{attributes}>{behind}")
    }

    /// The file's text after some edits. Everything else keeps its place and form.
    pub fn edited(&self, edits: &[Edit]) -> String {
        let mut removed: Vec<&Child> = Vec::new();
        let mut new: Vec<Element> = Vec::new();
        let mut after = self.settings();
        let mut split_protocols = std::collections::BTreeSet::new();
        for edit in edits {
            after.make(edit);
            match edit {
                Edit::Add(element) => new.push(element.clone()),
                // this may remove a part of a range: all ranges of the protocol are written anew
                Edit::Remove(Element::Port(range)) => drop(split_protocols.insert(range.protocol.clone())),
                Edit::Remove(element) => {
                    let is_it = |other: &Element| other.normal() == element.normal();
                    new.retain(|added| !is_it(added));
                    removed
                        .extend(self.children.iter().filter(|child| child.node.element().as_ref().is_some_and(is_it)));
                }
            }
        }
        let is_split =
            |element: &Element| matches!(element, Element::Port(range) if split_protocols.contains(&range.protocol));
        removed.extend(self.children.iter().filter(|child| child.node.element().as_ref().is_some_and(is_split)));
        new.retain(|element| !is_split(element));
        new.extend(after.ports.iter().cloned().map(Element::Port).filter(is_split));
        self.rewrite(&removed, &new)
    }

    fn rewrite(&self, removed: &[&Child], new: &[Element]) -> String {
        // each new element comes after the last of its kind, as firewalld keeps them together
        let place_of = |element: &Element| {
            let is_alike =
                |child: &&Child| child.node.element().as_ref().map(discriminant) == Some(discriminant(element));
            let last = self.children.iter().rev().find(is_alike);
            last.map_or_else(|| self.line_of(&(self.end..self.end)).start, |child| self.line_of(&child.span).end)
        };
        let added = new.iter().map(|element| (place_of(element), to_xml(element))).map(|(at, xml)| (at..at, xml));
        let cuts = removed.iter().map(|child| (self.line_of(&child.span), String::new()));
        let mut changes: Vec<(Range<usize>, String)> = added.chain(cuts).collect();
        changes.sort_by_key(|(range, xml)| (range.start, xml.is_empty()));
        let (mut out, mut at) = (String::with_capacity(self.text.len() + 64 * new.len()), 0);
        for (range, xml) in changes {
            out.push_str(self.text.get(at..range.start).unwrap_or_default());
            if !xml.is_empty() && !out.ends_with('\n') {
                out.push('\n');
            }
            out.push_str(&xml);
            at = at.max(range.end);
        }
        out.push_str(self.text.get(at..).unwrap_or_default());
        out
    }

    /// The span with the blanks before it and the line break after it, if nothing else is on its lines.
    fn line_of(&self, span: &Range<usize>) -> Range<usize> {
        let (before, indent) = trailing(self.text.get(..span.start).unwrap_or_default(), |c| matches!(c, ' ' | '\t'));
        let starts_line = before.ends_with('\n');
        let indent = indent.len();
        let ends_line = self.text.get(span.end..).is_some_and(|behind| behind.starts_with('\n'));
        match (starts_line, ends_line) {
            (true, true) => span.start - indent..span.end + 1,
            (true, false) if span.is_empty() => span.start - indent..span.end,
            _ => span.clone(),
        }
    }
}

fn position(reader: &Reader<&[u8]>) -> usize {
    usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX)
}

/// An element as a line (a rule: several lines) of a zone's file.
fn to_xml(element: &Element) -> String {
    let (name, attributes) = match element {
        Element::Rule(rule) => return RichRule::parse(rule).map(|rule| rule.to_xml()).unwrap_or_default(),
        Element::Service(name) => ("service", attribute("name", name)),
        Element::Port(range) => ("port", attribute("port", &range.ports()) + &attribute("protocol", &range.protocol)),
        Element::Masquerade => ("masquerade", String::new()),
        Element::Forward => ("forward", String::new()),
        Element::Source(source) => match source.strip_prefix("ipset:") {
            Some(name) => ("source", attribute("ipset", name)),
            None => ("source", attribute("address", source)),
        },
        Element::Interface(name) => ("interface", attribute("name", name)),
    };
    format!("  <{name}{attributes}/>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<zone>\n  <short>Public</short>\n  \
        <service name=\"ssh\"/>\n  <!-- ours -->\n  <port port=\"80-90\" protocol=\"tcp\"/>\n  <future kind=\"new\">\n    \
        <x/>\n  </future>\n  <rule family=\"ipv4\">\n    <accept/>\n    <source address=\"10.0.0.1\"/>\n    \
        <log prefix=\"a &amp; b\"><limit value=\"1/m\"/></log>\n  </rule>\n  <forward/>\n</zone>\n";

    fn file(text: &str) -> ZoneFile {
        ZoneFile::parse(text.to_owned()).unwrap()
    }

    fn port(text: &str) -> Element {
        Element::Port(PortRange::try_from(text.to_owned()).unwrap())
    }

    fn texts(settings: &Settings) -> Vec<String> {
        settings.elements().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn settings_are_read_and_rules_get_their_normal_form() {
        let settings = file(PUBLIC).settings();
        let rule = "rule family=\"ipv4\" source address=\"10.0.0.1\" log prefix=\"a & b\" limit value=\"1/m\" accept";
        assert_eq!(texts(&settings), ["service ssh", "port 80-90/tcp", rule, "forward"]);
    }

    #[test]
    fn new_elements_stand_with_their_like_and_the_rest_stays_byte_for_byte() {
        let rule = "rule family=\"ipv4\" source address=\"10.0.0.2\" service name=\"http\" accept limit value=\"2/m\"";
        let text = file(PUBLIC).edited(&[
            Edit::Add(Element::Service("http".into())),
            Edit::Add(Element::Service("https".into())),
            Edit::Add(Element::Masquerade),
            Edit::Add(Element::Rule(rule.into())),
        ]);
        let wanted = PUBLIC
            .replace("\"ssh\"/>\n", "\"ssh\"/>\n  <service name=\"http\"/>\n  <service name=\"https\"/>\n")
            .replace(
                "  </rule>\n",
                "  </rule>\n  <rule family=\"ipv4\">\n    <source address=\"10.0.0.2\"/>\n    <service name=\"http\"/>\n    \
                 <accept>\n      <limit value=\"2/m\"/>\n    </accept>\n  </rule>\n",
            )
            .replace("</zone>", "  <masquerade/>\n</zone>");
        assert_eq!(text, wanted);
        assert!(texts(&file(&text).settings()).contains(&rule.to_owned()), "what was written is read back the same");
    }

    #[test]
    fn removing_an_element_removes_its_line() {
        let elements = file(PUBLIC).settings().elements();
        let going = elements.into_iter().filter(|element| matches!(element, Element::Service(_) | Element::Rule(_)));
        let text = file(PUBLIC).edited(&going.map(Edit::Remove).collect::<Vec<_>>());
        let start = PUBLIC.find("  <rule").unwrap();
        let end = PUBLIC.find("  <forward").unwrap();
        let wanted = format!("{}{}", &PUBLIC[..start], &PUBLIC[end..]).replace("  <service name=\"ssh\"/>\n", "");
        assert_eq!(text, wanted);
    }

    #[test]
    fn a_port_in_the_middle_of_a_range_splits_it() {
        let text =
            file(PUBLIC).edited(&[Edit::Remove(port("85/tcp")), Edit::Add(port("443/tcp")), Edit::Add(port("53/udp"))]);
        let settings = file(&text).settings();
        let ports: Vec<String> = settings.ports.iter().map(ToString::to_string).collect();
        assert_eq!(ports, ["80-84/tcp", "86-90/tcp", "443/tcp", "53/udp"]);
        assert_eq!(text.matches("<port").count(), 4);
    }

    #[test]
    fn an_empty_zone_and_one_on_a_single_line_can_be_edited() {
        let add = [Edit::Add(Element::Service("ssh".into()))];
        assert_eq!(
            file("<zone target=\"DROP\"/>\n").edited(&add),
            "<zone target=\"DROP\">\n  <service name=\"ssh\"/>\n</zone>\n"
        );
        let text = file("<zone><service name=\"a\"/></zone>").edited(&add);
        assert_eq!(texts(&file(&text).settings()), ["service a", "service ssh"]);
        let text = file("<zone><service name=\"a\"/></zone>").edited(&[Edit::Remove(Element::Service("a".into()))]);
        assert_eq!(text, "<zone></zone>");
    }

    #[test]
    fn a_target_is_changed_and_all_else_stays_byte_for_byte() {
        let text = file(PUBLIC).with_target(Target::Reject);
        assert_eq!(text, PUBLIC.replace("<zone>", "<zone target=\"%%REJECT%%\">"));
        assert_eq!(file(&text).settings().target, Target::Reject);
        assert_eq!(file(&text).with_target(Target::Default), PUBLIC);
        let old = "<zone  version='1' target='DROP' />\n";
        assert_eq!(file(old).with_target(Target::Accept), "<zone version=\"1\" target=\"ACCEPT\">\n</zone>\n");
    }

    #[test]
    fn a_source_is_found_however_it_is_written_and_a_set_is_one() {
        let text = "<zone>\n  <source address=\"10.0.0.0/255.255.0.0\"/>\n  <source ipset=\"nodes\"/>\n</zone>\n";
        let source = |text: &str| Element::Source(text.to_owned());
        assert_eq!(file(text).settings().without(&Settings::of(&source("10.0.0.0/16"))), [source("ipset:nodes")]);
        let rest = file(text).edited(&[Edit::Remove(source("10.0.0.0/16")), Edit::Add(source("ipset:b"))]);
        assert_eq!(rest, "<zone>\n  <source ipset=\"nodes\"/>\n  <source ipset=\"b\"/>\n</zone>\n");
    }

    #[test]
    fn edits_are_made_one_after_the_other() {
        let (add, remove) = (Edit::Add(Element::Masquerade), Edit::Remove(Element::Masquerade));
        let empty = file("<zone>\n</zone>\n");
        assert_eq!(empty.edited(&[add.clone(), remove.clone()]), "<zone>\n</zone>\n");
        assert_eq!(empty.edited(&[remove, add]), "<zone>\n  <masquerade/>\n</zone>\n");
    }

    #[test]
    fn byte_order_marks_move_nothing() {
        let edited =
            file("\u{feff}\u{feff}<zone>\n  <masquerade/>\n</zone>\n").edited(&[Edit::Remove(Element::Masquerade)]);
        assert_eq!(edited, "<zone>\n</zone>\n");
    }

    #[test]
    fn elements_without_end_are_refused_before_they_fill_the_stack() {
        let (open, close) = ("<a>".repeat(100_000), "</a>".repeat(100_000));
        let error = ZoneFile::parse(format!("<zone>{open}{close}</zone>")).unwrap_err();
        assert_eq!(error, "its elements are nested more than 16 deep");
        let error = ZoneFile::parse("<zone/>".repeat(100_000)).unwrap_err();
        assert_eq!(error, "it has content after </zone>");
    }

    #[test]
    fn what_is_no_zone_is_refused() {
        for (text, why) in [
            ("<policy/>", "it starts with <policy> instead of <zone>"),
            ("<policy></policy>", "it starts with <policy> instead of <zone>"),
            ("<zone/><zone/>", "it has content after </zone>"),
            ("<zone></zone><zone></zone>", "it has content after </zone>"),
            ("<zone><service></zone>", "ill-formed document: expected `</service>`, but `</zone>` was found"),
            ("", "it has no <zone>"),
        ] {
            assert_eq!(ZoneFile::parse(text.to_owned()).unwrap_err(), why, "{text}");
        }
    }
}
