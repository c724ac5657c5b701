//! Pins that don't say how long their file is: a download of one can't be bounded, nor its space be asked for.

use crate::author::lint::Subject;
use crate::document::{Doc, Pin};
use crate::error::{Error, code, counted};
use crate::site::Site;

const FILE: &str = "artifacts.toml";

pub(super) fn lint(subject: &Subject<'_>) -> Vec<Error> {
    let complain = |(doc, arch, pin): (&Doc, &str, &Pin)| {
        let says = doc.value().get(&pin.name).and_then(|pins| pins.get(arch)?.get("size")).is_some();
        let url = pin.urls.first().map_or("URL", String::as_str);
        (!says).then(|| {
            Error::new(code::PIN, format!("the pin of {} ({arch}) has no size", pin.name))
                .at(doc.place(&[pin.name.clone(), arch.to_owned()]), "no `size` here")
                .help(format!("`kpull pin {url}` writes it; a file that can't be had now gets `size = \"unknown\"`"))
        })
    };
    match subject.site.files.doc(FILE) {
        Ok(Some(doc)) => sizeless(subject.site).filter_map(|(arch, pin)| complain((&doc, arch, pin))).collect(),
        Ok(None) => Vec::new(),
        Err(error) => vec![error],
    }
}

/// What is to be told of pins that say of themselves that nobody knows their size.
pub fn unknown_sizes(site: &Site) -> Option<String> {
    let (arch, pin) = sizeless(site).next()?;
    let count = counted(sizeless(site).count(), "file");
    Some(format!(
        "{FILE} does not know the size of {count}, the first of which is {} ({arch}): `kpull pin URL` writes it",
        pin.name
    ))
}

/// The pins that have no number for a size, with their architectures.
fn sizeless(site: &Site) -> impl Iterator<Item = (&str, &Pin)> {
    let pins = site.artifacts.values().flat_map(|artifact| &artifact.pins);
    pins.filter(|(_, pin)| pin.size.is_none()).map(|(arch, pin)| (arch.as_str(), pin))
}
