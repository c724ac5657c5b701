//! What a host would refuse, by its facts: an image, no package manager, an old firewalld.

use crate::error::{Error, Result};
use crate::host::firewalld_age::Age;
use crate::host::os::Image;
use crate::host::packages::{check_changeable, no_manager};
use crate::host::root::read_only;
use crate::kind::firewall::{Definition, Firewall};
use crate::kind::package::Package;
use crate::kind::{Claim, Item};
use crate::resolve::{Catalog, Facts, NO_PACKAGE_MANAGER};

/// What the host of a catalog would refuse with these facts.
pub fn lint<'a>(catalog: &'a Catalog, facts: &'a Facts) -> impl Iterator<Item = Error> + use<'a> {
    let firewalld = Age::of_facts(&facts.firewalld, &facts.os);
    catalog.items.iter().filter_map(move |item| {
        let error = check(item, facts, &firewalld).err()?;
        Some(error.at(item.place.clone(), format!("{} of the role {}", item.id, item.role)))
    })
}

fn check(item: &Item, facts: &Facts, firewalld: &Age) -> Result<()> {
    if let Some(package) = item.as_kind::<Package>() {
        return check_package(package, &item.about.key, facts);
    }
    if let Some(firewall) = item.as_kind::<Firewall>() {
        return firewall.check_age(firewalld);
    }
    if let Some(definition) = item.as_kind::<Definition>() {
        return definition.check_age(firewalld);
    }
    // a path to remove may not exist
    if item.about.kind == "absent" { Ok(()) } else { check_paths(item, facts.image) }
}

fn check_package(package: &Package, name: &str, facts: &Facts) -> Result<()> {
    if package.is_wanted() {
        check_changeable(facts.image, name)?;
    }
    if facts.package_manager == NO_PACKAGE_MANAGER && package.manager().is_none() { Err(no_manager()) } else { Ok(()) }
}

fn check_paths(item: &Item, image: Image) -> Result<()> {
    let mut kept = item.about.claims.iter().filter_map(Claim::any_path);
    match kept.find_map(|path| Some((path, image.read_only_above(path)?))) {
        Some((path, top)) => Err(read_only(path, top)),
        None => Ok(()),
    }
}
