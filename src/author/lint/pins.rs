//! Pins without a size: their download can't be limited, and its space can't be checked in advance.

use crate::author::lint::Subject;
use crate::document::{Doc, Pin};
use crate::error::{Error, counted, error};
use crate::site::Site;

const FILE: &str = "artifacts.toml";

pub(super) fn lint(subject: &Subject<'_>) -> Vec<Error> {
    let complain = |(doc, arch, pin): (&Doc, &str, &Pin)| {
        let says = doc.value().get(&pin.name).and_then(|pins| pins.get(arch)?.get("size")).is_some();
        let url = pin.urls.first().map_or("URL", String::as_str);
        (!says).then(|| {
            error!(PIN, "the pin of {} ({arch}) has no size", pin.name)
                .at(doc.place(&[pin.name.clone(), arch.to_owned()]), "no `size` here")
                .help(format!(
                    "`kpull pin {url}` adds it; for a file that is not available now, set `size = \"unknown\"`"
                ))
        })
    };
    match subject.site.files.doc(FILE) {
        Ok(Some(doc)) => sizeless(subject.site).filter_map(|(arch, pin)| complain((&doc, arch, pin))).collect(),
        Ok(None) => Vec::new(),
        Err(error) => vec![error],
    }
}

/// The warning for pins with an unknown size.
pub fn unknown_sizes(site: &Site) -> Option<String> {
    let (arch, pin) = sizeless(site).next()?;
    let count = counted(sizeless(site).count(), "file");
    Some(format!("{FILE} lacks the size of {count}, first {} ({arch}): `kpull pin URL` adds it", pin.name))
}

/// The pins without a size, with their architectures.
fn sizeless(site: &Site) -> impl Iterator<Item = (&str, &Pin)> {
    let pins = site.artifacts.values().flat_map(|artifact| &artifact.pins);
    pins.filter(|(_, pin)| pin.size.is_none()).map(|(arch, pin)| (arch.as_str(), pin))
}
