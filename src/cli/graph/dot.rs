//! A catalog for graphviz: a cluster for each role.

use std::fmt::Write as _;

use super::{Tie, roles, ties};
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
            let _ = writeln!(out, "    {} [tooltip = {}];", quoted(&item.id), quoted(&item.place.to_string()));
        }
        out.push_str("  }\n");
    }
    for (from, to, tie) in ties(catalog) {
        let (from, to) = (quoted(&catalog.items[from].id), quoted(&catalog.items[to].id));
        let color = tie.color();
        let _ = match tie {
            Tie::After => writeln!(out, "  {from} -> {to} [color = {color:?}];"),
            _ => writeln!(out, "  {from} -> {to} [color = {color:?}, style = dashed, label = {:?}];", tie.word()),
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

    #[test]
    fn a_quoted_text_ends_where_it_should() {
        assert_eq!(quoted("a\"b\\"), "\"a\\\"b\\\\\"");
    }
}
