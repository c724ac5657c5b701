//! `[metrics]`: what a run came to, as a file for node_exporter's textfile collector. It is written after every run, whole or not at all.

use std::fmt::Write as _;

use jiff::Timestamp;

use crate::engine::Agent;
use crate::error::{Result, code};
use crate::host::root::Root;
use crate::status::vitals::{Vitals, bare};
use crate::store::{LastRun, Pause};

/// What the file is called.
const FILE: &str = "kpull.prom";

/// What all metrics are made of.
struct MetricsInput<'a> {
    site: &'a str,
    host: &'a str,
    run: &'a LastRun,
    vitals: Vitals,
    held: usize,
    /// Whether the host stays with an earlier release.
    stays: bool,
}

/// The values of one metric, each with those of its labels.
type Samples<'a> = Vec<(Vec<&'a str>, f64)>;

/// One metric.
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its type, as Prometheus calls it.
    pub kind: &'static str,
    /// What it is.
    pub help: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    samples: for<'a> fn(&'a MetricsInput<'a>) -> Samples<'a>,
}

/// A value without labels.
fn one(value: f64) -> Samples<'static> {
    vec![(Vec::new(), value)]
}

/// A value without labels, if there is one.
fn maybe(value: Option<f64>) -> Samples<'static> {
    value.map_or_else(Vec::new, one)
}

/// A time as Prometheus has it.
fn seconds(time: Timestamp) -> f64 {
    count(time.as_millisecond()) / 1000.0
}

/// A count as Prometheus has it: exact up to 2^53.
#[allow(clippy::cast_precision_loss, reason = "no count here comes near")]
fn count(number: impl TryInto<i64>) -> f64 {
    number.try_into().unwrap_or(i64::MAX) as f64
}

/// Every metric, in the order of the file.
pub const METRICS: &[Metric] = &[
    Metric {
        name: "kpull_info",
        kind: "gauge",
        help: "The host as its site knows it, and the version of kpull; always 1.",
        labels: &["site", "host", "version"],
        samples: |world| vec![(vec![world.site, world.host, env!("CARGO_PKG_VERSION")], 1.0)],
    },
    Metric {
        name: "kpull_last_run_timestamp_seconds",
        kind: "gauge",
        help: "When the last run ended, since the epoch.",
        labels: &[],
        samples: |world| one(seconds(world.run.time)),
    },
    Metric {
        name: "kpull_last_run_duration_seconds",
        kind: "gauge",
        help: "How long the last run took.",
        labels: &[],
        samples: |world| one((world.run.took * 1e6).round() / 1e6),
    },
    Metric {
        name: "kpull_last_run_exit_code",
        kind: "gauge",
        help: "The exit code of the last run: 0 well, 1 an error, 3 not healthy, 4 the release was refused.",
        labels: &[],
        samples: |world| one(f64::from(world.run.exit)),
    },
    Metric {
        name: "kpull_last_success_timestamp_seconds",
        kind: "gauge",
        help: "When a run has ended well last, since the epoch.",
        labels: &[],
        samples: |world| maybe(world.run.good.map(seconds)),
    },
    Metric {
        name: "kpull_last_run_changed_resources",
        kind: "gauge",
        help: "Resources that the last run changed.",
        labels: &[],
        samples: |world| one(count(world.run.changed)),
    },
    Metric {
        name: "kpull_last_run_drifted_resources",
        kind: "gauge",
        help: "Those of them that had moved away from a release that was applied before.",
        labels: &[],
        samples: |world| one(count(world.run.drifted)),
    },
    Metric {
        name: "kpull_changed_resources_total",
        kind: "counter",
        help: "Changes that all runs have made.",
        labels: &[],
        samples: |world| one(count(world.vitals.changed)),
    },
    Metric {
        name: "kpull_drifted_resources_total",
        kind: "counter",
        help: "Those of them that mended what had moved away from a release that was applied before.",
        labels: &[],
        samples: |world| one(count(world.vitals.drifted)),
    },
    Metric {
        name: "kpull_resources",
        kind: "gauge",
        help: "Resources that the release has for this host.",
        labels: &[],
        samples: |world| one(count(world.vitals.resources)),
    },
    Metric {
        name: "kpull_held_resources",
        kind: "gauge",
        help: "Resources that are left alone for a while (kpull hold).",
        labels: &[],
        samples: |world| one(count(world.held)),
    },
    Metric {
        name: "kpull_release_serial",
        kind: "gauge",
        help: "The serial of the release that was applied last.",
        labels: &[],
        samples: |world| maybe(world.vitals.release.as_ref().map(|release| count(release.serial))),
    },
    Metric {
        name: "kpull_release_created_timestamp_seconds",
        kind: "gauge",
        help: "When that release was signed, since the epoch.",
        labels: &[],
        samples: |world| maybe(world.vitals.release.as_ref().map(|release| seconds(release.created))),
    },
    Metric {
        name: "kpull_release_expiry_timestamp_seconds",
        kind: "gauge",
        help: "Until when that release is good, since the epoch.",
        labels: &[],
        samples: |world| maybe(world.vitals.release.as_ref().map(|release| seconds(release.expires))),
    },
    Metric {
        name: "kpull_release_held_back",
        kind: "gauge",
        help: "Whether the host stays with an earlier release, since a newer one was not good for it or somebody said so.",
        labels: &[],
        samples: |world| one(f64::from(u8::from(world.stays))),
    },
    Metric {
        name: "kpull_probe_success",
        kind: "gauge",
        help: "Whether a probe passed when it was last waited for.",
        labels: &["probe"],
        samples: |world| {
            let probes = world.vitals.probes.iter();
            probes.map(|(id, passed)| (vec![bare(id, "probe:")], f64::from(u8::from(*passed)))).collect()
        },
    },
    Metric {
        name: "kpull_certificate_expiry_timestamp_seconds",
        kind: "gauge",
        help: "Until when a certificate on this host is good, since the epoch.",
        labels: &["certificate"],
        samples: |world| {
            let certificates = world.vitals.certificates.iter();
            certificates.map(|(name, ending)| (vec![name.as_str()], seconds(ending.end))).collect()
        },
    },
    Metric {
        name: "kpull_certificate_renewal_timestamp_seconds",
        kind: "gauge",
        help: "From when on a certificate on this host has to be renewed, since the epoch.",
        labels: &["certificate"],
        samples: |world| {
            let certificates = world.vitals.certificates.iter();
            certificates.map(|(name, ending)| (vec![name.as_str()], seconds(ending.renew))).collect()
        },
    },
    Metric {
        name: "kpull_artifact_info",
        kind: "gauge",
        help: "An artifact that the release has for this host, and its version; always 1.",
        labels: &["artifact", "version"],
        samples: |world| {
            let artifacts = world.vitals.artifacts.iter();
            artifacts.map(|(name, version)| (vec![name.as_str(), version.as_str()], 1.0)).collect()
        },
    },
];

/// Writes this host's metrics after a run, if it is to.
pub fn write(agent: &Agent<'_>, run: &LastRun) -> Result<()> {
    let Some(config) = &agent.config.metrics else { return Ok(()) };
    let world = MetricsInput {
        site: &agent.config.trust.site,
        host: &agent.name,
        run,
        vitals: Vitals::load(&agent.store).unwrap_or_default(),
        held: Pause::now(&agent.store)?.len(),
        stays: agent.store.hold()?.is_some(),
    };
    Root::write_output(&config.dir, FILE, text(&world).as_bytes()).map_err(|why| {
        why.wrapped(code::FLEET, "can't write the metrics").or_help(
            "`dir` under [metrics] in kpull.toml is the directory that node_exporter reads: make it, or correct it",
        )
    })
}

/// The whole file.
fn text(world: &MetricsInput<'_>) -> String {
    let mut text = String::with_capacity(4096);
    for Metric { name, kind, help, labels, samples } in METRICS {
        let samples = samples(world);
        if samples.is_empty() {
            continue;
        }
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (values, value) in samples {
            let pairs: Vec<String> =
                labels.iter().zip(values).map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
            let pairs = if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) };
            let _ = writeln!(text, "{name}{pairs} {value}");
        }
    }
    text
}

/// A label's value as it is written.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_label_must_not_have_is_written_with_an_escape() {
        assert_eq!(escaped("a\"b\\c\nd"), r#"a\"b\\c\nd"#);
    }
}
