//! A catalog for graphviz: a cluster for each role.

use std::fmt::Write as _;

use super::{Edge, edges, roles};
use crate::resolve::Catalog;

/// The whole graph.
pub(super) fn write(catalog: &Catalog) -> String {
    let mut out = format!(
        "digraph kpull {{\n  label = {};\n  rankdir = LR;\n  node [shape = box, fontname = \"sans-serif\", fontsize = 10];\n",
        quoted(&format!("{} of the site {}", catalog.host, catalog.site))
    );
    for (role, items) in roles(catalog) {
        let (cluster, label) = (quoted(&format!("cluster_{role}")), quoted(role));
        let _ = writeln!(out, "  subgraph {cluster} {{\n    label = {label};\n    color = \"#94a3b8\";");
        for at in items {
            let item = &catalog.items[at];
            let _ = writeln!(out, "    {} [tooltip = {}];", quoted(item.id.as_str()), quoted(&item.place.to_string()));
        }
        out.push_str("  }\n");
    }
    for (from, to, edge) in edges(catalog) {
        let (from, to) = (quoted(catalog.items[from].id.as_str()), quoted(catalog.items[to].id.as_str()));
        let color = edge.color();
        let _ = match edge {
            Edge::After => writeln!(out, "  {from} -> {to} [color = {color:?}];"),
            _ => writeln!(out, "  {from} -> {to} [color = {color:?}, style = dashed, label = {:?}];", edge.word()),
        };
    }
    out.push_str("}\n");
    out
}

/// A text as DOT quotes it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words, texts and signs of DOT; what is none of these ends the test.
    fn tokens(text: &str) -> Vec<String> {
        let (mut found, mut rest) = (Vec::new(), text.trim_start());
        while let Some(first) = rest.chars().next() {
            let length = match first {
                '"' => {
                    let mut is_escaped = false;
                    let end = rest[1..].find(|c| {
                        let ends = c == '"' && !is_escaped;
                        is_escaped = c == '\\' && !is_escaped;
                        ends
                    });
                    end.unwrap() + 2
                }
                '-' if rest.starts_with("->") => 2,
                '{' | '}' | '[' | ']' | ';' | '=' | ',' => 1,
                _ => rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap(),
            };
            assert!(length > 0, "{rest}");
            found.push(rest[..length].to_owned());
            rest = rest[length..].trim_start();
        }
        found
    }

    /// Reads statements up to the end of their block, as the grammar of DOT has them.
    fn statements(tokens: &mut std::iter::Peekable<std::vec::IntoIter<String>>, nodes: &mut Vec<String>) {
        let is_id = |token: &str| token.starts_with('"') || token.chars().all(|c| c.is_ascii_alphanumeric());
        loop {
            let first = tokens.next().unwrap();
            match first.as_str() {
                "}" => return,
                "subgraph" => {
                    assert!(is_id(&tokens.next().unwrap()));
                    assert_eq!(tokens.next().unwrap(), "{");
                    statements(tokens, nodes);
                    continue;
                }
                _ => assert!(is_id(&first), "{first}"),
            }
            let sign = tokens.peek().unwrap().clone();
            if sign == "=" || sign == "->" {
                tokens.next();
                assert!(is_id(&tokens.next().unwrap()));
            } else if first != "node" {
                nodes.push(first);
            }
            if tokens.peek().unwrap() == "[" {
                tokens.next();
                while tokens.peek().unwrap() != "]" {
                    assert!(is_id(&tokens.next().unwrap()));
                    assert_eq!(tokens.next().unwrap(), "=");
                    assert!(is_id(&tokens.next().unwrap()));
                    if tokens.peek().unwrap() == "," {
                        tokens.next();
                    }
                }
                tokens.next();
            }
            assert_eq!(tokens.next().unwrap(), ";");
        }
    }

    #[test]
    fn what_is_written_is_dot_whatever_resources_are_called() {
        let role = "[[file]]\npath = '/etc/a\"b\\'\ncontent = ''\n[[unit]]\nname = 'x.service'\nenable = true\n\
                    restart_when = ['file:/etc/a\"b\\']\n";
        let text = write(&crate::resolve::testing::catalog(role).unwrap());
        let mut tokens = tokens(&text).into_iter().peekable();
        assert_eq!(tokens.by_ref().take(3).collect::<Vec<_>>(), ["digraph", "kpull", "{"]);
        let mut nodes = Vec::new();
        statements(&mut tokens, &mut nodes);
        assert_eq!(tokens.next(), None);
        assert_eq!(nodes, ["\"file:/etc/a\\\"b\\\\\"", "\"unit:x.service\""]);
    }

    #[test]
    fn a_quoted_text_ends_where_it_should() {
        assert_eq!(quoted("a\"b\\"), "\"a\\\"b\\\\\"");
    }
}
