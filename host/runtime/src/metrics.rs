//! What is counted, in OpenMetrics.

use std::sync::Mutex;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use landfall_core::guard::Trust;
use landfall_core::registry::SourceName;

use crate::line::Line;
use crate::line::sink::SinkLine;
use crate::sinks::RunningSink;
use crate::sources::RunningSources;

/// Every metric of the daemon. Labels are names from the configuration and closed sets.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    /// How long a round of the line computes, in seconds.
    pub(crate) round_seconds: Histogram,
    /// Services decided anew.
    pub(crate) decided_services: Counter,
    /// Steps by sink, verb and outcome.
    pub(crate) steps: Family<StepLabels, Counter>,
    /// New revisions of policies by what became of them.
    pub(crate) policy_swaps: Family<SwapLabels, Counter>,
    /// Configuration files read again by what became of them.
    pub(crate) reloads: Family<ReloadLabels, Counter>,
    /// Instances and hosts that policies failed on, by policy and code.
    pub(crate) policy_faults: Family<FaultLabels, Counter>,
    source_current: Family<SourceLabels, Gauge>,
    source_requests: Family<SourceLabels, Counter>,
    source_snapshots: Family<SourceLabels, Counter>,
    source_errors: Family<SourceErrorLabels, Counter>,
    services: Gauge,
    hosts: Gauge,
    lingering: Gauge,
    findings: Family<FindingLabels, Gauge>,
    undecided: Gauge,
    objects: Family<SinkLabels, Gauge>,
    held: Family<SinkLabels, Gauge>,
    blocked: Family<SinkLabels, Gauge>,
    contested: Family<SinkLabels, Gauge>,
    failed: Family<SinkLabels, Gauge>,
    in_flight: Family<SinkLabels, Gauge>,
}

/// Labels of a step.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct StepLabels {
    /// At which sink.
    pub(crate) sink: String,
    /// What was to be done.
    pub(crate) verb: &'static str,
    /// What became of it.
    pub(crate) outcome: &'static str,
}

/// Labels of a swap.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct SwapLabels {
    /// Which policy.
    pub(crate) policy: String,
    /// `taken`, or the stage that refused it.
    pub(crate) result: &'static str,
}

/// Labels of a reload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReloadLabels {
    /// `taken` or `refused`.
    pub(crate) result: &'static str,
}

/// Labels of a policy's failures.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct FaultLabels {
    /// Which policy.
    pub(crate) policy: String,
    /// How it failed.
    pub(crate) code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceErrorLabels {
    source: String,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabels {
    source: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FindingLabels {
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SinkLabels {
    sink: String,
}

impl Default for Metrics {
    fn default() -> Self {
        // From 50 µs, what one change costs, to 1.6 s, beyond what everything anew costs.
        let round_seconds = Histogram::new(exponential_buckets(50e-6, 2.0, 16));
        let metrics = Self {
            registry: Mutex::new(Registry::with_prefix("landfall")),
            round_seconds,
            decided_services: Counter::default(),
            steps: Family::default(),
            policy_swaps: Family::default(),
            reloads: Family::default(),
            policy_faults: Family::default(),
            source_current: Family::default(),
            source_requests: Family::default(),
            source_snapshots: Family::default(),
            source_errors: Family::default(),
            services: Gauge::default(),
            hosts: Gauge::default(),
            lingering: Gauge::default(),
            findings: Family::default(),
            undecided: Gauge::default(),
            objects: Family::default(),
            held: Family::default(),
            blocked: Family::default(),
            contested: Family::default(),
            failed: Family::default(),
            in_flight: Family::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&self) {
        let Ok(mut registry) = self.registry.lock() else { return };
        let r = &mut *registry;
        r.register(
            "round_seconds",
            "Computing of one round of the line",
            self.round_seconds.clone(),
        );
        r.register("services_decided", "Services decided anew", self.decided_services.clone());
        r.register("steps", "Steps by sink, verb and outcome", self.steps.clone());
        r.register("policy_swaps", "New revisions of policies", self.policy_swaps.clone());
        r.register("config_reloads", "Changed configuration files", self.reloads.clone());
        r.register(
            "source_current",
            "1 while a source's listing is complete and current",
            self.source_current.clone(),
        );
        r.register(
            "policy_faults",
            "Instances and hosts that policies failed on, by code",
            self.policy_faults.clone(),
        );
        r.register("source_requests", "Requests to registries", self.source_requests.clone());
        r.register("source_snapshots", "Listings that differed", self.source_snapshots.clone());
        r.register("source_errors", "Failed requests by code", self.source_errors.clone());
        r.register("services", "Services of registries", self.services.clone());
        r.register("hosts", "Services of the mesh", self.hosts.clone());
        r.register("hosts_lingering", "Hosts in their grace time", self.lingering.clone());
        r.register("findings", "Findings by kind, as they stand", self.findings.clone());
        r.register(
            "services_undecided",
            "Services that a policy has not decided in this process's life",
            self.undecided.clone(),
        );
        r.register("sink_objects", "Objects of ours in a sink", self.objects.clone());
        r.register("sink_steps_held", "Steps that the guard holds", self.held.clone());
        r.register("sink_objects_blocked", "Places taken by foreign objects", self.blocked.clone());
        r.register(
            "sink_hosts_contested",
            "Hosts of ours that foreign objects claim too",
            self.contested.clone(),
        );
        r.register("sink_objects_failed", "Objects whose last step failed", self.failed.clone());
        r.register("sink_steps_in_flight", "Steps under way", self.in_flight.clone());
    }

    /// Forgets what was said of a source that is no more; what was counted stays.
    pub(crate) fn forget_source(&self, source: &SourceName) {
        self.source_current.remove(&SourceLabels { source: source.to_string() });
    }

    /// The same for a sink.
    pub(crate) fn forget_sink(&self, sink: &str) {
        let labels = SinkLabels { sink: sink.to_owned() };
        let counts = [&self.objects, &self.held, &self.blocked, &self.contested];
        for gauges in counts.into_iter().chain([&self.failed, &self.in_flight]) {
            gauges.remove(&labels);
        }
    }

    /// Brings the gauges up to date.
    pub(crate) fn set_line(
        &self,
        line: &Line,
        sources: &RunningSources,
        sinks: &[(RunningSink, SinkLine)],
    ) {
        for (name, source) in sources {
            let labels = SourceLabels { source: name.to_string() };
            raise(&self.source_requests.get_or_create(&labels), source.metrics.requests());
            raise(&self.source_snapshots.get_or_create(&labels), source.metrics.snapshots());
            for (code, errors) in source.metrics.errors() {
                let labels = SourceErrorLabels { source: name.to_string(), code };
                raise(&self.source_errors.get_or_create(&labels), errors);
            }
        }
        let evidence = line.evidence();
        for (source, trust) in evidence.sources {
            let current = i64::from(trust == Trust::Current);
            let labels = SourceLabels { source: source.to_string() };
            self.source_current.get_or_create(&labels).set(current);
        }
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.services.set(count(line.decided().len()));
        self.hosts.set(count(line.services().len()));
        self.lingering.set(count(line.lingering()));
        self.undecided.set(count(evidence.undecided.len()));
        for (code, findings) in line.finding_counts() {
            let labels = FindingLabels { code: code.as_str() };
            self.findings.get_or_create(&labels).set(count(*findings));
        }
        for (sink, state) in sinks {
            let labels = SinkLabels { sink: sink.name().to_owned() };
            self.objects.get_or_create(&labels).set(count(state.object_count()));
            self.held.get_or_create(&labels).set(count(state.held().len()));
            self.blocked.get_or_create(&labels).set(count(state.blocked().len()));
            self.contested.get_or_create(&labels).set(count(sink.contested_count()));
            self.failed.get_or_create(&labels).set(count(state.failed_count()));
            self.in_flight.get_or_create(&labels).set(count(state.in_flight()));
        }
    }

    /// All metrics as text.
    ///
    /// # Errors
    /// Never in practice: writing to a string does not fail.
    pub(crate) fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        if let Ok(registry) = self.registry.lock() {
            text::encode(&mut out, &registry)?;
        }
        Ok(out)
    }
}

/// Brings a counter up to what a source counted itself.
fn raise(counter: &Counter, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}
