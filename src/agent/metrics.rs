//! `[metrics]`: the result of a run, as a file for node_exporter's textfile collector. It is written after every run, atomically.

use std::fmt::Write as _;

use jiff::Timestamp;

use crate::engine::Agent;
use crate::error::{Result, code};
use crate::host::root::Root;
use crate::status::vitals::{Ending, Vitals};
use crate::store::{LastRun, Pause};

/// The name of the file.
const FILE: &str = "kpull.prom";

/// What the metrics are computed from.
struct MetricsInput<'a> {
    site: &'a str,
    host: &'a str,
    run: &'a LastRun,
    vitals: Vitals,
    paused: usize,
    /// Whether the host stays on an earlier release.
    stays: bool,
}

/// The values of one metric, each with those of its labels.
type Samples<'a> = Vec<(Vec<&'a str>, f64)>;

/// What gives a metric its values.
type SamplesFn = for<'a> fn(&'a MetricsInput<'a>) -> Samples<'a>;

/// One metric.
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its type, as Prometheus calls it.
    pub kind: &'static str,
    /// Its description.
    pub help: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    samples: SamplesFn,
}

/// A value without labels.
fn one(value: f64) -> Samples<'static> {
    vec![(Vec::new(), value)]
}

/// A value without labels, if there is one.
fn maybe(value: Option<f64>) -> Samples<'static> {
    value.map_or_else(Vec::new, one)
}

/// A time in Prometheus's form.
fn seconds(time: Timestamp) -> f64 {
    count(time.as_millisecond()) / 1000.0
}

/// A count in Prometheus's form: exact up to 2^53.
#[allow(clippy::cast_precision_loss, reason = "no count here comes near")]
fn count(number: impl TryInto<i64>) -> f64 {
    number.try_into().unwrap_or(i64::MAX) as f64
}

/// A gauge without labels.
const fn gauge(name: &'static str, help: &'static str, samples: SamplesFn) -> Metric {
    Metric { name, kind: "gauge", help, labels: &[], samples }
}

impl Metric {
    const fn counter(self) -> Self {
        Self { kind: "counter", ..self }
    }

    const fn with_labels(self, labels: &'static [&'static str]) -> Self {
        Self { labels, ..self }
    }
}

/// Every metric, in the order of the file.
pub const METRICS: &[Metric] = &[
    gauge("kpull_info", "The host as its site knows it, and the version of kpull; always 1.", |input| {
        vec![(vec![input.site, input.host, env!("CARGO_PKG_VERSION")], 1.0)]
    })
    .with_labels(&["site", "host", "version"]),
    gauge("kpull_last_run_timestamp_seconds", "When the last run ended, since the epoch.", |input| {
        one(seconds(input.run.time))
    }),
    gauge("kpull_last_run_duration_seconds", "How long the last run took.", |input| {
        one((input.run.took * 1e6).round() / 1e6)
    }),
    gauge(
        "kpull_last_run_exit_code",
        "The exit code of the last run: 0 healthy, 1 an error, 3 unhealthy, 4 the release was refused.",
        |input| one(f64::from(input.run.exit)),
    ),
    gauge("kpull_last_success_timestamp_seconds", "When a run last succeeded, since the epoch.", |input| {
        maybe(input.run.good.map(seconds))
    }),
    gauge("kpull_last_run_changed_resources", "Resources that the last run changed.", |input| {
        one(count(input.run.changed))
    }),
    gauge(
        "kpull_last_run_drifted_resources",
        "Those of them that had drifted from a release that was applied before.",
        |input| one(count(input.run.drifted)),
    ),
    gauge("kpull_changed_resources_total", "Changes that all runs have made.", |input| {
        one(count(input.vitals.changed))
    })
    .counter(),
    gauge(
        "kpull_drifted_resources_total",
        "Those of them that corrected drift from a release that was applied before.",
        |input| one(count(input.vitals.drifted)),
    )
    .counter(),
    gauge("kpull_resources", "Resources that the release has for this host.", |input| {
        one(count(input.vitals.resources))
    }),
    gauge("kpull_held_resources", "Resources that are paused (kpull hold).", |input| one(count(input.paused))),
    gauge("kpull_release_serial", "The serial of the release that was applied last.", |input| {
        maybe(input.vitals.release.as_ref().map(|release| count(release.serial)))
    }),
    gauge("kpull_release_created_timestamp_seconds", "When that release was signed, since the epoch.", |input| {
        maybe(input.vitals.release.as_ref().map(|release| seconds(release.created)))
    }),
    gauge("kpull_release_expiry_timestamp_seconds", "When that release expires, since the epoch.", |input| {
        maybe(input.vitals.release.as_ref().map(|release| seconds(release.expires)))
    }),
    gauge(
        "kpull_release_held_back",
        "Whether the host stays on an earlier release, because a newer one failed or an operator rolled back.",
        |input| one(f64::from(u8::from(input.stays))),
    ),
    gauge("kpull_probe_success", "Whether a probe passed when it last ran.", |input| {
        let probes = input.vitals.probes.iter();
        probes.map(|(id, passed)| (vec![id.key()], f64::from(u8::from(*passed)))).collect()
    })
    .with_labels(&["probe"]),
    gauge(
        "kpull_certificate_expiry_timestamp_seconds",
        "When a certificate on this host expires, since the epoch.",
        |input| certificates(input, |ending| ending.end),
    )
    .with_labels(&["certificate"]),
    gauge(
        "kpull_certificate_renewal_timestamp_seconds",
        "When a certificate on this host is due for renewal, since the epoch.",
        |input| certificates(input, |ending| ending.renew),
    )
    .with_labels(&["certificate"]),
    gauge(
        "kpull_artifact_info",
        "An artifact that the release has for this host, and its version; always 1.",
        |input| {
            let artifacts = input.vitals.artifacts.iter();
            artifacts.map(|(name, version)| (vec![name.as_str(), version.as_str()], 1.0)).collect()
        },
    )
    .with_labels(&["artifact", "version"]),
];

/// A time of each certificate.
fn certificates<'a>(input: &'a MetricsInput<'_>, time: fn(&Ending) -> Timestamp) -> Samples<'a> {
    let certificates = input.vitals.certificates.iter();
    certificates.map(|(name, ending)| (vec![name.as_str()], seconds(time(ending)))).collect()
}

/// Writes this host's metrics after a run, if `[metrics]` is configured.
pub fn write(agent: &Agent<'_>, run: &LastRun) -> Result<()> {
    let Some(config) = &agent.config.metrics else { return Ok(()) };
    let input = MetricsInput {
        site: &agent.config.trust.site,
        host: &agent.name,
        run,
        vitals: Vitals::load(&agent.store).unwrap_or_default(),
        paused: Pause::now(&agent.store)?.len(),
        stays: agent.store.stay_on()?.is_some(),
    };
    Root::write_output(&config.dir, FILE, text(&input).as_bytes()).map_err(|why| {
        why.wrapped(code::FLEET, "can't write the metrics").or_help(
            "`dir` under [metrics] in kpull.toml is the directory that node_exporter reads: make it, or correct it",
        )
    })
}

/// The whole file.
fn text(input: &MetricsInput<'_>) -> String {
    let mut text = String::with_capacity(4096);
    for Metric { name, kind, help, labels, samples } in METRICS {
        let samples = samples(input);
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

/// A label's value with escapes.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_characters_in_a_label_are_escaped() {
        assert_eq!(escaped("a\"b\\c\nd"), r#"a\"b\\c\nd"#);
    }
}
