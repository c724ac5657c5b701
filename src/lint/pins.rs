//! Pins that don't say how long their file is: a download of one can't be bounded, nor its space be asked for.

use crate::error::{Error, Result, counted};
use crate::lint::Subject;
use crate::site::{Doc, Pin, Site};

const FILE: &str = "artifacts.toml";

pub(super) fn lint(subject: &Subject<'_>) -> Vec<Error> {
    let complain = |(doc, arch, pin): (&Doc, &str, &Pin)| {
        let says = doc.value().get(&pin.name).and_then(|pins| pins.get(arch)?.get("size")).is_some();
        let url = pin.urls.first().map_or("URL", String::as_str);
        (!says).then(|| {
            Error::new(format!("the pin of {} ({arch}) has no size", pin.name))
                .at(doc.place(&[pin.name.clone(), arch.to_owned()]), "no `size` here")
                .help(format!(
                    "`kpull pin {url}` writes it; a file that can't be had now gets `size = \"unknown\"`"
                ))
        })
    };
    match sizeless(subject.site) {
        Ok((Some(doc), pins)) => pins.into_iter().filter_map(|(arch, pin)| complain((&doc, arch, pin))).collect(),
        Ok((None, _)) => Vec::new(),
        Err(error) => vec![error],
    }
}

/// What is to be told of pins that say of themselves that nobody knows their size.
pub fn unknown_sizes(site: &Site) -> Result<Option<String>> {
    let (_, pins) = sizeless(site)?;
    let Some((arch, pin)) = pins.first() else { return Ok(None) };
    Ok(Some(format!(
        "{FILE} does not know the size of {}, the first of which is {} ({arch}): `kpull pin URL` writes it",
        counted(pins.len(), "file"),
        pin.name
    )))
}

/// `artifacts.toml`, and the pins in it that have no number for a size, with their architectures.
fn sizeless(site: &Site) -> Result<(Option<Doc>, Vec<(&str, &Pin)>)> {
    let pins = site.artifacts.values().flat_map(|artifact| &artifact.pins);
    let pins = pins.filter(|(_, pin)| pin.size.is_none()).map(|(arch, pin)| (arch.as_str(), pin)).collect();
    Ok((site.files.doc(FILE)?, pins))
}
