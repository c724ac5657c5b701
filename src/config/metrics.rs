//! `[metrics]`.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

/// `[metrics]`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// The directory of node_exporter's textfile collector (`--collector.textfile.directory`).
    pub dir: PathBuf,
}
