//! Whether the daemon is alive and ready, and if not, why.

use std::collections::BTreeMap;
use std::sync::Mutex;

use landfall_core::guard::Held;
use landfall_core::registry::{SourceName, SourceState};
use landfall_core::text::{OneLine, Text};
use landfall_core::time::Time;

use crate::clock;
use crate::line::Line;
use crate::line::sink::SinkLine;
use crate::sinks::RunningSink;

/// A line that ended no round for this long hangs: it ticks every five seconds.
const ROUND_AGE_MAX: std::time::Duration = std::time::Duration::from_secs(30);

/// What the admin server tells. Written by the line, read by requests.
#[derive(Debug, Default)]
pub(crate) struct Status {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    last_round: Option<Time>,
    /// What keeps it from being ready; empty when it is.
    unready: Vec<String>,
    /// What a person should know, a line each.
    report: Vec<String>,
    /// Whether the guard holds something for its budget.
    holds_for_budget: bool,
}

/// What became of what people last wrote.
pub(crate) struct SettingsState<'a> {
    /// Why the configuration as it stands is not at work, if so.
    pub(crate) configuration_refused: Option<&'a str>,
    /// By name.
    pub(crate) policies: Vec<(&'a Text, PolicyState<'a>)>,
}

/// The same of one policy.
pub(crate) struct PolicyState<'a> {
    /// Whether a revision of it is at work.
    pub(crate) is_loaded: bool,
    /// Why what is offered is not, if so.
    pub(crate) refused: Option<&'a str>,
}

/// Messages of several lines, each a sentence or a part of a list.
fn on_one_line(message: &str) -> String {
    let lines: Vec<String> = message.lines().map(|line| OneLine(line.trim()).to_string()).collect();
    lines.join(" ")
}

/// Enough to see what it is about; the count is a metric.
const SHOWN_MAX: usize = 20;

/// What is held, a line for each reason.
fn told_held(held: &[Held], now: Time) -> Vec<String> {
    let mut reasons: BTreeMap<(&str, String), Vec<&Held>> = BTreeMap::new();
    for one in held {
        reasons.entry((one.verb, one.why.to_string())).or_default().push(one);
    }
    let told = reasons.into_iter().map(|((verb, why), alike)| {
        let until = alike.iter().filter_map(|held| held.why.until()).max();
        let left = until.map(|until| format!("; for {} s at most", until.since(now).as_secs()));
        let others = match alike.len() - 1 {
            0 => String::new(),
            1 => " and another one".to_owned(),
            more => format!(" and {more} others"),
        };
        let id = alike.first().map(|held| held.id.to_string()).unwrap_or_default();
        format!("{verb} of {id}{others} held: {why}{}", left.unwrap_or_default())
    });
    told.collect()
}

impl Status {
    /// Takes the state after a round.
    pub(crate) fn update(
        &self,
        line: &Line,
        sources: &BTreeMap<SourceName, SourceState>,
        settings: &SettingsState<'_>,
        sinks: &[(RunningSink, SinkLine)],
    ) {
        let now = clock::now();
        let mut unready = Vec::new();
        let mut report = Vec::new();
        let evidence = line.evidence();
        for (name, trust) in evidence.sources {
            if !trust.has_listed() {
                unready.push(format!("source {name} has not delivered a complete listing yet"));
            }
        }
        for (name, source) in sources {
            if let Some(doubt) = &source.doubt {
                report.push(format!("source {name} in doubt ({}): {}", doubt.code, doubt.message));
            }
        }
        if let Some(why) = settings.configuration_refused {
            report.push(format!(
                "the configuration was refused and the last one stays: {}",
                on_one_line(why)
            ));
        }
        for (name, policy) in &settings.policies {
            if !policy.is_loaded {
                unready.push(format!("policy {name} is not loaded yet"));
            }
            if let Some(why) = policy.refused {
                report.push(format!(
                    "policy {name}: what is offered for it was refused: {}",
                    on_one_line(why)
                ));
            }
        }
        if let Some(first) = evidence.undecided.iter().next() {
            report.push(format!(
                "{} services are not wholly decided by a policy yet, the first of them {first}; \
                 what is published of them stays",
                evidence.undecided.len(),
                first = OneLine(first),
            ));
        }
        for (code, count) in line.finding_counts().iter().filter(|(_, count)| **count > 0) {
            report.push(format!("{count} findings {}; `landfall plan` lists them", code.as_str()));
        }
        for (sink, state) in sinks {
            if !state.is_ready() {
                unready.push(format!("sink {} was not read completely yet", sink.name()));
            }
            if let Some(condition) = sink.condition() {
                report.push(format!(
                    "sink {} ({}): {}",
                    sink.name(),
                    condition.code,
                    condition.message
                ));
            }
            let held = told_held(state.held(), now).into_iter().take(SHOWN_MAX);
            report.extend(held.map(|held| format!("sink {}: {held}", sink.name())));
            if state.failed_count() > 0 {
                report.push(format!(
                    "sink {}: the last step for {} objects failed and is tried again; the log says \
                     why",
                    sink.name(),
                    state.failed_count()
                ));
            }
            for id in state.outside().iter().take(SHOWN_MAX) {
                report.push(format!(
                    "sink {}: {id} is in a namespace that the sink does not watch and is not \
                     written; add it to the sink's namespaces, or map it elsewhere",
                    sink.name()
                ));
            }
            for id in state.blocked().iter().take(SHOWN_MAX) {
                report.push(format!(
                    "sink {}: {id} is somebody else's object and was left alone",
                    sink.name()
                ));
            }
            for finding in sink.contested(SHOWN_MAX) {
                let (subject, message) = (&finding.subject, &finding.message);
                report.push(format!("sink {}: {subject}: {message}", sink.name()));
            }
        }
        if let Ok(mut inner) = self.inner.lock() {
            inner.last_round = Some(now);
            inner.unready = unready;
            inner.report = report;
            inner.holds_for_budget = sinks
                .iter()
                .flat_map(|(_, state)| state.held())
                .any(|held| held.why.can_be_released());
        }
    }

    /// Whether the guard holds something that an operator can let go.
    #[must_use]
    pub(crate) fn holds_for_budget(&self) -> bool {
        self.inner.lock().is_ok_and(|inner| inner.holds_for_budget)
    }

    /// Why it is not alive, if so.
    #[must_use]
    pub(crate) fn hang(&self) -> Option<String> {
        let inner = self.inner.lock().ok()?;
        let age = clock::now().since(inner.last_round?);
        (age > ROUND_AGE_MAX).then(|| format!("no round for {} s", age.as_secs()))
    }

    /// What keeps it from being ready; empty when it is.
    #[must_use]
    pub(crate) fn unready(&self) -> Vec<String> {
        match self.inner.lock() {
            Ok(inner) if inner.last_round.is_none() => vec!["no round yet".to_owned()],
            Ok(inner) => inner.unready.clone(),
            Err(_) => vec!["the line failed".to_owned()],
        }
    }

    /// What a person should know, a line each.
    #[must_use]
    pub(crate) fn report(&self) -> Vec<String> {
        self.inner.lock().map(|inner| inner.report.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use landfall_core::guard::HeldFor;
    use landfall_core::mesh::{Kind, ObjectId};

    use super::*;

    #[test]
    fn what_is_held_for_one_reason_is_one_line() {
        let now = Time::from_millis(1_000_000);
        let budget = |secs| HeldFor::Budget {
            removals: 80,
            total: 100,
            until: now.plus(Duration::from_secs(secs)),
        };
        let held = |name: &str, why: HeldFor| Held {
            id: ObjectId {
                kind: Kind::WorkloadEntry,
                namespace: Text::from("mesh"),
                name: Text::from(name),
            },
            verb: "delete",
            why,
        };
        let successor = held("d", HeldFor::Successor { until: now });
        let all = [held("a", budget(20)), held("b", budget(30)), held("c", budget(10)), successor];
        assert_eq!(
            told_held(&all, now),
            [
                "delete of WorkloadEntry mesh/a and 2 others held: 80 of 100 endpoints would go at \
                 once, more than the guard allows; for 30 s at most",
                "delete of WorkloadEntry mesh/d held: its endpoints moved to another host, which \
                 the sink does not have yet; for 0 s at most",
            ]
        );
    }

    #[test]
    fn messages_of_several_lines_are_one() {
        assert_eq!(on_one_line("a:\n  * b\n  * c\u{7}\n"), r"a: * b * c\u{7}");
    }
}
