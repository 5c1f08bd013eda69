//! What happens, one struct each: a log line and a metric together.

use std::path::Path;
use std::time::Duration;

use landfall_core::finding::Finding;
use landfall_core::guard::{Held, HeldFor, Lack};
use landfall_core::text::Text;
use landfall_core::time::Time;
use landfall_mesh::sink::{Applied, Condition, Outcome};
use landfall_policy_host::Revision;
use tracing::{debug, error, info, warn};

use crate::line::sink::{SinkLine, Telling};
use crate::line::{Faulted, Line, Round};
use crate::metrics::{FaultLabels, Metrics, ReloadLabels, StepLabels, SwapLabels};
use crate::sinks::RunningSink;
use crate::sources::RunningSources;

/// A round of the line is over.
pub(crate) struct RoundDone<'a> {
    /// What it changed.
    pub(crate) round: &'a Round,
    /// How long it took.
    pub(crate) took: Duration,
    /// The line after it.
    pub(crate) line: &'a Line,
    /// The sources that fed it.
    pub(crate) sources: &'a RunningSources,
    /// The sinks after it.
    pub(crate) sinks: &'a [(RunningSink, SinkLine)],
}

/// A step was applied, or failed.
pub(crate) struct StepDone<'a> {
    /// At which sink.
    pub(crate) sink: &'a str,
    /// What became of it.
    pub(crate) applied: &'a Applied,
    /// What is to be said of it.
    pub(crate) telling: Telling,
}

/// Things came up that a person should know.
pub(crate) struct FindingsSeen<'a> {
    /// Those that were not there before.
    pub(crate) findings: &'a [Finding],
}

/// More findings of one round are counted in the log, not listed.
const FINDINGS_LISTED_MAX: usize = 50;

/// The guard holds something, or nothing any more.
pub(crate) struct HeldChanged<'a> {
    /// At which sink.
    pub(crate) sink: &'a str,
    /// For which reasons that is news; `None` when nothing is held any more.
    pub(crate) news: Option<Vec<&'static str>>,
    /// The steps that are held.
    pub(crate) held: &'a [Held],
    /// The time now.
    pub(crate) now: Time,
}

/// A sink cannot be used, or can be again.
pub(crate) struct ConditionChanged<'a> {
    /// Which sink.
    pub(crate) sink: &'a str,
    /// Why it cannot be used; `None` when it can.
    pub(crate) condition: Option<&'a Condition>,
}

/// A policy failed where it had not failed so before.
pub(crate) struct PolicyFaulted<'a> {
    /// Which policy.
    pub(crate) policy: &'a Text,
    /// How, and on what.
    pub(crate) faulted: &'a Faulted,
}

/// A policy's new revision is at work.
pub(crate) struct PolicyTaken<'a> {
    /// Which policy.
    pub(crate) policy: &'a Text,
    /// The revision.
    pub(crate) revision: &'a Revision,
}

/// What a policy's origin offers was refused.
pub(crate) struct PolicyRefused<'a> {
    /// Which policy.
    pub(crate) policy: &'a Text,
    /// Whether a revision of before is at work, and stays.
    pub(crate) is_at_work: bool,
    /// At which stage, of a closed set.
    pub(crate) code: &'static str,
    /// For the policy's author.
    pub(crate) message: &'a str,
}

/// A policy's origin offers again what was tried last.
pub(crate) struct PolicyReadable<'a> {
    /// Which policy.
    pub(crate) policy: &'a Text,
}

/// Somebody asked by SIGHUP to take the configuration file up.
pub(crate) struct ReloadAsked<'a> {
    /// The file.
    pub(crate) path: &'a Path,
}

/// The configuration file says what is at work already.
pub(crate) struct ConfigurationUnchanged<'a> {
    /// The file.
    pub(crate) path: &'a Path,
}

/// A changed configuration is at work.
pub(crate) struct ConfigurationTaken<'a> {
    /// The file.
    pub(crate) path: &'a Path,
}

/// A changed configuration was refused as a whole; the one before stays at work.
pub(crate) struct ConfigurationRefused<'a> {
    /// The file.
    pub(crate) path: &'a Path,
    /// Everything that is wrong with it.
    pub(crate) error: &'a anyhow::Error,
}

impl RoundDone<'_> {
    /// Logs and counts it.
    pub(crate) fn emit(&self, metrics: &Metrics) {
        metrics.round_seconds.observe(self.took.as_secs_f64());
        metrics.decided_services.inc_by(self.round.services as u64);
        metrics.set_line(self.line, self.sources, self.sinks);
        if self.round.services > 0 || !self.round.changed.is_empty() {
            debug!(
                services = self.round.services,
                objects = self.round.changed.len(),
                took_us = u64::try_from(self.took.as_micros()).unwrap_or(u64::MAX),
                "Round done."
            );
        }
    }
}

impl StepDone<'_> {
    /// Logs and counts it.
    pub(crate) fn emit(&self, metrics: &Metrics) {
        let Applied { id, verb, outcome, attempts } = self.applied;
        let labels = StepLabels { sink: self.sink.to_owned(), verb, outcome: outcome.code() };
        metrics.steps.get_or_create(&labels).inc();
        match outcome {
            Outcome::Done(_) => info!(sink = self.sink, object = %id, verb, attempts, "Applied."),
            Outcome::Waits => debug!(sink = self.sink, object = %id, verb, "Step waits."),
            _ if self.telling == Telling::All => {
                warn!(
                    sink = self.sink,
                    object = %id,
                    verb,
                    attempts,
                    code = outcome.code(),
                    error = outcome.message(),
                    "Step failed; it is tried again until it succeeds."
                );
            }
            _ if self.telling == Telling::ThatThereAreMore => {
                warn!(
                    sink = self.sink,
                    code = outcome.code(),
                    "More steps fail, and are not listed for a minute; /readyz counts them."
                );
            }
            _ => debug!(
                sink = self.sink,
                object = %id,
                code = outcome.code(),
                error = outcome.message(),
                "Step failed again."
            ),
        }
    }
}

impl FindingsSeen<'_> {
    /// Logs them; how many there are is a metric of the line.
    pub(crate) fn emit(&self) {
        let (listed, more) = self.findings.split_at(self.findings.len().min(FINDINGS_LISTED_MAX));
        for finding in listed {
            warn!(
                code = finding.code.as_str(),
                subject = finding.subject,
                detail = finding.message,
                "Finding."
            );
        }
        if !more.is_empty() {
            warn!(count = more.len(), "More findings; `landfall plan` lists them all.");
        }
    }
}

impl HeldChanged<'_> {
    /// Logs it; how many are held is a metric of the line.
    pub(crate) fn emit(&self) {
        let Some(news) = &self.news else {
            info!(sink = self.sink, "The guard holds nothing any more.");
            return;
        };
        for code in news {
            let of_code = self.held.iter().filter(|held| held.why.as_str() == *code);
            let of_code: Vec<&Held> = of_code.collect();
            let Some(Held { id: first, why, .. }) = of_code.first() else { continue };
            let (sink, steps) = (self.sink, of_code.len());
            // Each goes in its own time.
            let until = of_code.iter().filter_map(|held| held.why.until()).max();
            let for_secs = until.map(|until| until.since(self.now).as_secs());
            if matches!(why, HeldFor::Evidence(Lack::FirstListing(_))) {
                // So it is for a moment after every start; /readyz says for how long.
                info!(sink, steps, %first, %why, "The guard holds steps until sources have answered.");
            } else if why.can_be_released() {
                warn!(
                    sink, steps, %first, %why, for_secs,
                    "The guard holds removals. They go by themselves, the last of them after \
                     for_secs, or at once by POST /guard/release."
                );
            } else {
                warn!(
                    sink, steps, %first, %why, for_secs,
                    "The guard holds steps; /readyz lists them."
                );
            }
        }
    }
}

impl ConditionChanged<'_> {
    /// Logs it.
    pub(crate) fn emit(&self) {
        match self.condition {
            Some(Condition { code, message }) => {
                warn!(
                    sink = self.sink,
                    code,
                    error = message,
                    "Sink cannot be used; it is tried again."
                );
            }
            None => info!(sink = self.sink, "Sink can be used again."),
        }
    }
}

impl PolicyFaulted<'_> {
    /// Logs and counts it.
    pub(crate) fn emit(&self, metrics: &Metrics) {
        let Faulted { count, first, fault } = self.faulted;
        let labels = FaultLabels { policy: self.policy.to_string(), code: fault.code };
        metrics.policy_faults.get_or_create(&labels).inc_by(*count as u64);
        warn!(
            policy = %self.policy,
            code = fault.code,
            count,
            first,
            error = fault.message,
            "Policy failed; what it failed on stays as it was."
        );
    }
}

impl PolicyTaken<'_> {
    /// Logs and counts it.
    pub(crate) fn emit(&self, metrics: &Metrics) {
        let labels = SwapLabels { policy: self.policy.to_string(), result: "taken" };
        metrics.policy_swaps.get_or_create(&labels).inc();
        info!(policy = %self.policy, revision = self.revision.digest(), "Policy at work.");
    }
}

impl PolicyRefused<'_> {
    /// Logs and counts it.
    pub(crate) fn emit(&self, metrics: &Metrics) {
        let labels = SwapLabels { policy: self.policy.to_string(), result: self.code };
        metrics.policy_swaps.get_or_create(&labels).inc();
        let Self { policy, code, message: error, .. } = self;
        if self.is_at_work {
            warn!(%policy, code, error, "Policy refused; the one before stays at work.");
        } else {
            warn!(
                %policy,
                code,
                error,
                "Policy refused, and none was at work before; what is published of its services stays."
            );
        }
    }
}

impl PolicyReadable<'_> {
    /// Logs it.
    pub(crate) fn emit(&self) {
        info!(policy = %self.policy, "Policy can be read again; it is what was tried last.");
    }
}

impl ReloadAsked<'_> {
    /// Logs it.
    pub(crate) fn emit(&self) {
        info!(path = %self.path.display(), "Asked by SIGHUP to read the configuration.");
    }
}

impl ConfigurationUnchanged<'_> {
    /// Logs it. The first look at the file finds this too, of which nobody need hear.
    pub(crate) fn emit(&self) {
        debug!(path = %self.path.display(), "Configuration unchanged.");
    }
}

impl ConfigurationTaken<'_> {
    /// Logs and counts it.
    pub(crate) fn emit(&self, metrics: &Metrics) {
        metrics.reloads.get_or_create(&ReloadLabels { result: "taken" }).inc();
        info!(path = %self.path.display(), "Configuration taken up.");
    }
}

impl ConfigurationRefused<'_> {
    /// Logs and counts it.
    pub(crate) fn emit(&self, metrics: &Metrics) {
        metrics.reloads.get_or_create(&ReloadLabels { result: "refused" }).inc();
        error!(
            path = %self.path.display(),
            error = format!("{:#}", self.error),
            "Configuration refused; the one before stays at work."
        );
    }
}
