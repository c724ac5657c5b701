//! The kinds of resources, one file each; the list below is the only place that names them all.
//!
//! A kind is a struct of [`Fields`] (what a role writes), which builds one or more [`Resource`]s: observed, compared with
//! the host, and changed.

mod build;
mod claim;
pub mod diff;
pub mod edit;
mod prelude;
pub mod prior_state;
mod resource;
#[cfg(test)]
pub mod testing;
pub mod validation;

use schemars::{JsonSchema, Schema, SchemaGenerator};

pub use self::build::{Build, Fields, Named, Presence};
pub use self::claim::Claim;
pub use self::resource::{About, Change, Effect, Item, Phase, Resource, Work};
pub use crate::document::ResourceId;
use crate::document::{Doc, fields};
use crate::error::Result;
pub use crate::host::Queries;
pub use crate::host::systemd::Trigger;
pub use crate::host::watched::WatchedInput;

/// One entry of the list of kinds.
#[derive(Debug)]
pub struct Kind {
    /// The kind's name in a role: `[[NAME]]`.
    pub name: &'static str,
    /// The names of its fields.
    pub fields: fn() -> &'static [&'static str],
    /// Its fields as a JSON Schema.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    /// Reads the fields with `read` and builds the resources.
    pub build: BuildFn,
}

/// Builds the resources of one entry in a role: the first argument turns the rendered entry into the kind's fields.
pub type BuildFn = fn(&Entry<'_>, &dyn Build) -> Result<Vec<Box<dyn Resource>>>;

/// One rendered entry of a role, not yet typed.
pub struct Entry<'a> {
    /// The file that contains it.
    pub doc: &'a Doc,
    /// Where in that file.
    pub path: &'a [String],
    /// Its rendered fields.
    pub value: serde_json::Value,
}

impl Entry<'_> {
    /// As a kind's fields.
    pub fn read<F: Fields>(&self) -> Result<F> {
        self.doc.read_at(self.path, self.value.clone())
    }
}

fn build_as<F: Fields>(entry: &Entry<'_>, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
    entry.read::<F>()?.build(build)
}

macro_rules! kinds {
    ($($module:ident::$fields:ident,)*) => {
        $(
            pub mod $module;

            impl Named for $module::$fields {
                const NAME: &'static str = stringify!($module);
            }
        )*
        /// Every kind.
        pub static KINDS: &[Kind] = &[$(Kind {
            name: <$module::$fields as Named>::NAME,
            fields: fields::names_of::<$module::$fields>,
            schema: <$module::$fields as JsonSchema>::json_schema,
            build: build_as::<$module::$fields>,
        }),*];
    };
}

kinds! {
    absent::AbsentFields,
    artifact::ArtifactFields,
    block::BlockFields,
    certificate::CertificateFields,
    checkout::CheckoutFields,
    command::CommandFields,
    directory::DirectoryFields,
    etcd_key::EtcdKeyFields,
    etcd_member::EtcdMemberFields,
    file::FileFields,
    filesystem::FilesystemFields,
    firewall::FirewallFields,
    group::GroupFields,
    kube_object::KubeObjectFields,
    line::LineFields,
    module::ModuleFields,
    mount::MountFields,
    nftables::NftablesFields,
    package::PackageFields,
    permissions::PermissionsFields,
    probe::ProbeFields,
    repository::RepositoryFields,
    secret::SecretFields,
    selinux::SelinuxFields,
    setting::SettingFields,
    slot::SlotFields,
    swap::SwapFields,
    symlink::SymlinkFields,
    sysctl::SysctlFields,
    system::SystemFields,
    template::TemplateFields,
    tree::TreeFields,
    unit::UnitFields,
    user::UserFields,
    validate::ValidateFields,
}

/// The kind with this name.
pub fn find(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}
