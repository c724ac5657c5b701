//! A catalog as a picture: a box for each role with a line for each of its resources, in as many columns as make it about as wide
//! as a screen; what comes first stands further left, or further up.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::{Tie, roles, ties};
use crate::error::visible;
use crate::resolve::Catalog;

/// Sizes, in pixels.
const LINE: usize = 17;
const HEAD: usize = 24;
const GAP: usize = 18;
const GUTTER: usize = 90;
const MARGIN: usize = 24;
const TOP: usize = 76;
/// The width of a character.
const CHAR: f64 = 6.62;
/// The longest id that is shown whole, in characters.
const LONGEST: usize = 52;

/// Where a resource stands.
#[derive(Clone, Copy)]
struct Spot {
    column: usize,
    role: usize,
    left: usize,
    y: usize,
}

/// The whole picture.
pub(super) fn write(catalog: &Catalog) -> String {
    let ties = ties(catalog);
    let roles = ordered(catalog, &ties);
    let labels: Vec<String> = catalog.items.iter().map(|item| shortened(&visible(&item.id))).collect();
    let longest = labels.iter().map(|label| label.chars().count()).max().unwrap_or(0).max(24);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "small and positive"
    )]
    let width = (longest as f64 * CHAR) as usize + 24;
    let height = |items: &[usize]| HEAD + items.len() * LINE + 8 + GAP;
    let total: usize = roles.iter().map(|(_, items)| height(items)).sum();
    let columns = columns(total, width + GUTTER, roles.len());
    let (mut spots, mut boxes): (HashMap<usize, Spot>, Vec<String>) = (HashMap::new(), Vec::new());
    let (mut column, mut y, mut lowest, mut done) = (0, TOP, TOP, 0);
    for (number, (role, items)) in roles.iter().enumerate() {
        // on to the next column once this one has its share
        if y > TOP && column + 1 < columns && done + height(items) / 2 > total * (column + 1) / columns {
            (column, y) = (column + 1, TOP);
        }
        let left = MARGIN + GUTTER / 2 + column * (width + GUTTER);
        boxes.push(role_box(role, items, catalog, &labels, (left, y, width)));
        for (row, at) in items.iter().enumerate() {
            let y = y + HEAD + row * LINE + LINE / 2;
            spots.insert(*at, Spot { column, role: number, left, y });
        }
        done += height(items);
        y += height(items);
        lowest = lowest.max(y);
    }
    let (w, h) = (2 * MARGIN + (column + 1) * (width + GUTTER), lowest + MARGIN);
    let mut out = head(catalog, w, h);
    // what is less than a restart lies below
    for wanted in Tie::ALL {
        for (from, to, _) in ties.iter().filter(|(_, _, tie)| *tie == wanted) {
            let (Some(a), Some(b)) = (spots.get(from), spots.get(to)) else { continue };
            let title = match wanted {
                Tie::After => format!("{} after {}", catalog.items[*to].id, catalog.items[*from].id),
                Tie::Gate => format!("{} waits for {}", catalog.items[*to].id, catalog.items[*from].id),
                _ => format!("{} {}: {} changes", wanted.word(), catalog.items[*to].id, catalog.items[*from].id),
            };
            let (class, curve) = (wanted.word(), curve(*a, *b, width));
            let _ = writeln!(
                out,
                "<path class=\"{class}\" marker-end=\"url(#{class})\" d=\"{curve}\"><title>{}</title></path>",
                escaped(&title)
            );
        }
    }
    boxes.iter().for_each(|one| out.push_str(one));
    out.push_str("</svg>\n");
    out
}

/// The roles so that what others wait for comes first, as far as that goes.
fn ordered<'a>(catalog: &'a Catalog, ties: &[(usize, usize, Tie)]) -> Vec<(&'a str, Vec<usize>)> {
    let mut left = roles(catalog);
    let mut sorted: Vec<(&str, Vec<usize>)> = Vec::with_capacity(left.len());
    let role = |at: usize| &*catalog.items[at].role;
    while !left.is_empty() {
        // of several that wait for each other, the one that waits for least
        let waits = |name: &str| {
            let others = ties.iter().filter(|(from, to, _)| role(*to) == name && role(*from) != name);
            others.filter(|(from, ..)| left.iter().any(|(one, _)| *one == role(*from))).count()
        };
        let next = left.iter().enumerate().min_by_key(|(at, (name, _))| (waits(name), *at)).map_or(0, |(at, _)| at);
        sorted.push(left.remove(next));
    }
    sorted
}

/// How many columns make the picture about four to three.
fn columns(height: usize, width: usize, most: usize) -> usize {
    let fits = |count: &usize| count * width * 3 >= height / count * 4;
    (1..=most.max(1)).find(fits).unwrap_or(1)
}

fn role_box(
    role: &str,
    items: &[usize],
    catalog: &Catalog,
    labels: &[String],
    (left, y, width): (usize, usize, usize),
) -> String {
    let height = HEAD + items.len() * LINE + 8;
    let mut out = format!(
        "<rect class=\"role\" x=\"{left}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"6\"/>\n\
         <text class=\"name\" x=\"{}\" y=\"{}\">{}</text><text class=\"count\" x=\"{}\" y=\"{}\">{}</text>\n",
        left + 10,
        y + 16,
        escaped(&visible(role)),
        left + width - 10,
        y + 16,
        items.len(),
    );
    for (row, at) in items.iter().enumerate() {
        let (kind, key) = labels[*at].split_once(':').unwrap_or(("", &labels[*at]));
        let title = format!("{}\n{}", visible(&catalog.items[*at].id), visible(&catalog.items[*at].place.to_string()));
        let _ = writeln!(
            out,
            "<text class=\"item\" x=\"{}\" y=\"{}\"><title>{}</title><tspan class=\"kind\">{}:</tspan>{}</text>",
            left + 10,
            y + HEAD + row * LINE + 12,
            escaped(&title),
            escaped(kind),
            escaped(key)
        );
    }
    out
}

/// From one resource to another: inside of a role at its left, in a column at its right, else from box to box.
fn curve(a: Spot, b: Spot, width: usize) -> String {
    let (right_a, right_b) = (a.left + width, b.left + width);
    let far = a.y.abs_diff(b.y) / 6 + 10;
    if a.role == b.role {
        let bulge = a.left.saturating_sub(far.min(GUTTER / 2 - 4));
        return format!("M{},{} C{bulge},{} {bulge},{} {},{}", a.left, a.y, a.y, b.y, b.left, b.y);
    }
    if a.column == b.column {
        let bulge = right_a + far.min(GUTTER / 2 - 4);
        return format!("M{right_a},{} C{bulge},{} {bulge},{} {right_b},{}", a.y, a.y, b.y, b.y);
    }
    let (from, to, reach) = match a.column < b.column {
        true => (right_a, b.left, 1),
        false => (a.left, right_b, -1),
    };
    let bend = |x: usize, way: i64| i64::try_from(x).unwrap_or(0) + way * i64::try_from(GUTTER).unwrap_or(0) * 3 / 4;
    format!("M{from},{} C{},{} {},{} {to},{}", a.y, bend(from, reach), a.y, bend(to, -reach), b.y, b.y)
}

fn head(catalog: &Catalog, width: usize, height: usize) -> String {
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\">\n\
         <style>\n\
         text {{ font: 11px ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; fill: #0f172a }}\n\
         .title {{ font-size: 17px; font-weight: 600 }} .name {{ font-size: 13px; font-weight: 600 }}\n\
         .count {{ text-anchor: end; fill: #64748b }} .kind {{ fill: #64748b }}\n\
         .role {{ fill: #f8fafc; stroke: #cbd5e1 }} path {{ fill: none; stroke-width: 1.2 }} path:hover {{ stroke-width: 3 }}\n",
    );
    for tie in Tie::ALL {
        let dashes = if tie == Tie::After { "; opacity: .55" } else { "; stroke-dasharray: 5 3" };
        let _ = writeln!(out, "path.{} {{ stroke: {}{dashes} }}", tie.word(), tie.color());
    }
    out.push_str("</style>\n<defs>\n");
    for tie in Tie::ALL {
        let _ = writeln!(
            out,
            "<marker id=\"{}\" viewBox=\"0 0 6 6\" refX=\"6\" refY=\"3\" markerWidth=\"6\" markerHeight=\"6\" orient=\"auto\">\
             <polygon points=\"0,0 6,3 0,6\" fill=\"{}\"/></marker>",
            tie.word(),
            tie.color()
        );
    }
    let _ = write!(
        out,
        "</defs>\n<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text class=\"title\" x=\"{MARGIN}\" y=\"30\">{}</text>\n",
        escaped(&visible(&format!("{} of the site {}: {} resources", catalog.host, catalog.site, catalog.items.len())))
    );
    for (at, tie) in Tie::ALL.iter().enumerate() {
        let x = MARGIN + at * 130;
        let _ = writeln!(
            out,
            "<path class=\"{0}\" marker-end=\"url(#{0})\" d=\"M{x},50 H{1}\"/><text x=\"{2}\" y=\"54\">{0}</text>",
            tie.word(),
            x + 40,
            x + 48
        );
    }
    out
}

/// An id that is not longer than a column: what is left out is in its middle.
fn shortened(id: &str) -> String {
    let chars: Vec<char> = id.chars().collect();
    if chars.len() <= LONGEST {
        return id.to_owned();
    }
    let (head, tail) = (LONGEST / 2, LONGEST - LONGEST / 2 - 1);
    chars[..head].iter().chain(['…'].iter()).chain(&chars[chars.len() - tail..]).collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::testing::catalog;

    #[test]
    fn the_picture_is_xml_with_every_resource_and_every_tie_in_it() {
        let role = "[[file]]\npath = '/etc/a&b<c'\ncontent = ''\n[[symlink]]\npath = '/l'\ntarget = '/m'\nafter = ['file:/etc/a&b<c']\n\
                    [[unit]]\nname = 'x.service'\nenable = true\nrestart_when = ['file:/etc/a&b<c']\n";
        let text = write(&catalog(role).unwrap());
        let mut reader = quick_xml::Reader::from_str(&text);
        let (mut items, mut paths) = (0, 0);
        loop {
            match reader.read_event().unwrap() {
                quick_xml::events::Event::Eof => break,
                quick_xml::events::Event::Start(tag) => {
                    let attributes: Vec<_> = tag.attributes().map(Result::unwrap).collect();
                    items += usize::from(attributes.iter().any(|one| &*one.value == "item"));
                    paths += usize::from(tag.name().as_ref() == "path");
                }
                _ => {}
            }
        }
        assert_eq!((items, paths), (3, 2));
        assert!(text.contains("restart unit:x.service: file:/etc/a&amp;b&lt;c changes"), "{text}");
    }

    #[test]
    fn a_long_id_is_shortened_in_its_middle() {
        let short = shortened(&format!("file:/{}/end", "a".repeat(80)));
        assert_eq!(short.chars().count(), LONGEST);
        assert!(short.starts_with("file:/aaa") && short.ends_with("a/end"));
    }
}
