//! A catalog as a Mermaid flowchart: a subgraph for each role.

use std::fmt::Write as _;

use super::{Edge, edges, roles};
use crate::resolve::Catalog;

/// The whole chart.
pub(super) fn write(catalog: &Catalog) -> String {
    let mut out = String::from("flowchart LR\n");
    for (number, (role, items)) in roles(catalog).into_iter().enumerate() {
        let _ = writeln!(out, "  subgraph r{number} [{}]", quoted(role));
        for at in items {
            let _ = writeln!(out, "    n{at}[{}]", quoted(catalog.items[at].id.as_str()));
        }
        out.push_str("  end\n");
    }
    for (from, to, edge) in edges(catalog) {
        let _ = match edge {
            Edge::After => writeln!(out, "  n{from} --> n{to}"),
            _ => writeln!(out, "  n{from} -. {} .-> n{to}", edge.word()),
        };
    }
    out
}

/// A text as Mermaid quotes it: everything that could end the text or be read as Markdown is the number of its character.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || " /.:-@".contains(c);
    let shown = text.chars().fold(String::new(), |mut shown, c| {
        let _ = if plain(c) { write!(shown, "{c}") } else { write!(shown, "#{};", u32::from(c)) };
        shown
    });
    format!("\"{shown}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_has_a_subgraph_for_each_role_and_an_arrow_for_each_edge() {
        let role = "[[file]]\npath = '/etc/a\"b#_'\ncontent = ''\n[[unit]]\nname = 'x.service'\nenable = true\n\
                    restart_when = ['file:/etc/a\"b#_']\n";
        let text = write(&crate::resolve::testing::catalog(role).unwrap());
        assert_eq!(
            text,
            "flowchart LR\n  subgraph r0 [\"r\"]\n    n0[\"file:/etc/a#34;b#35;#95;\"]\n    n1[\"unit:x.service\"]\n  end\n  \
             n0 -. restart .-> n1\n"
        );
    }
}
