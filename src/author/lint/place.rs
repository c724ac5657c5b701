//! Finds the source of rendered text in the files of a site.

use crate::author::prelude::*;
use crate::resolve::layers;
use crate::text::around;

/// Where a flag of a role's command line is set: in the last layer with it in a table, or where it is written.
pub fn of_flag(site: &Site, host: &str, item: &Item, flag: &str) -> Place {
    for layer in layers(site, host, Some(&item.role)).iter().rev() {
        let Some(vars) = layer.get(&[]).and_then(|vars| vars.as_object()) else { continue };
        let mut tables = vars.iter().filter(|(_, table)| table.get(flag).is_some()).map(|(name, _)| name);
        if let Some(table) = tables.next() {
            let way = [table.clone(), flag.to_owned()];
            return layer.doc.key_place(&[layer.path.as_slice(), &way].concat());
        }
    }
    let long = of_word(site, item, &format!("--{flag}"));
    long.or_else(|| of_word(site, item, &format!("-{flag}"))).unwrap_or_else(|| item.place.clone())
}

/// Where a word of a resource is written in its role: in its entry, or in a template or file, preferring those named like the
/// resource.
pub fn of_word(site: &Site, item: &Item, word: &str) -> Option<Place> {
    if let Some(place) = in_entry(site, item, word) {
        return Some(place);
    }
    let key = item.about.key.as_str();
    let name = key.rsplit('/').next().unwrap_or(key);
    let mut files: Vec<(&str, &str)> = ["templates", "files"]
        .iter()
        .flat_map(|dir| {
            let prefix = format!("roles/{}/{dir}/", item.role);
            site.files.iter().filter(move |(path, _)| path.starts_with(&prefix))
        })
        .filter_map(|(path, content)| Some((path, std::str::from_utf8(content).ok()?)))
        .collect();
    files.sort_by_key(|(path, _)| !path.rsplit('/').next().is_some_and(|file| file.starts_with(name)));
    files.iter().find_map(|(path, text)| {
        let start = find(text, word)?;
        Some(Place { file: (*path).to_owned(), text: (*text).into(), span: start..start + word.len() })
    })
}

/// Where in a resource's entry in `role.toml` a word is written.
pub fn in_entry(site: &Site, item: &Item, word: &str) -> Option<Place> {
    let (role, place) = (site.roles.get(&*item.role)?, &item.place);
    let start = place.span.start;
    let starts = role.entries.iter().map(|entry| role.doc.place(&entry.path).span.start);
    let end = starts.filter(|other| *other > start).min().unwrap_or(place.text.len());
    let start = start + find(place.text.get(start..end)?, word)?;
    Some(Place { span: start..start + word.len(), ..place.clone() })
}

/// The position of a word in a text, not as part of another one.
fn find(text: &str, word: &str) -> Option<usize> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '@');
    let mut places = around(text, word);
    let (before, _) = places.find(|(before, behind)| !before.ends_with(is_part) && !behind.starts_with(is_part))?;
    Some(before.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_found_as_a_whole() {
        assert_eq!(find("After=xc.service c.service", "c.service"), Some(17));
        assert_eq!(find("After=c.services", "c.service"), None);
        assert_eq!(find("/usr/bin/a --x=1", "--x"), Some(11));
        assert_eq!(find("--xy --x-y", "--x"), None);
    }
}
