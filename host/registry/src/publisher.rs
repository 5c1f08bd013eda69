//! How a source tells what it knows, and how far to trust it.

use std::sync::{Arc, Mutex, PoisonError};

use landfall_core::finding::Finding;
use landfall_core::registry::{Doubt, Snapshot, SourceName, SourceState};
use landfall_core::text::OneLine;
use landfall_core::time::Time;
use landfall_core::told::Told;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::metrics::SourceMetrics;
use crate::trouble::Trouble;
use crate::{Clock, findings};

/// Publishes the state of one source. Only the newest state is kept: a reader that is busy skips
/// states and misses nothing, for each is complete.
#[derive(Debug)]
pub struct Publisher {
    source: SourceName,
    state: watch::Sender<SourceState>,
    metrics: Arc<SourceMetrics>,
    clock: Clock,
    /// What the log says of the doubt.
    told: Mutex<Told>,
}

// === impl Publisher ===

impl Publisher {
    /// A publisher that has published nothing, and where to read what it will.
    #[must_use]
    pub fn new(source: SourceName, clock: Clock) -> (Self, watch::Receiver<SourceState>) {
        let (state, reader) = watch::channel(SourceState::default());
        let told = Mutex::default();
        (Self { source, state, metrics: Arc::default(), clock, told }, reader)
    }

    /// The same, counting in `metrics`.
    #[must_use]
    pub fn with_metrics(self, metrics: Arc<SourceMetrics>) -> Self {
        Self { metrics, ..self }
    }

    /// The source's counters.
    #[must_use]
    pub fn metrics(&self) -> &Arc<SourceMetrics> {
        &self.metrics
    }

    /// Whose state it is.
    pub(crate) fn source(&self) -> &SourceName {
        &self.source
    }

    /// The wall clock's time.
    pub(crate) fn now(&self) -> Time {
        (self.clock)()
    }

    /// The registry lists exactly `snapshot`, now. Ends any doubt. Readers wake only when
    /// something differs.
    pub fn complete(&self, snapshot: Snapshot, findings: Vec<Finding>) {
        self.publish(snapshot, findings, None);
    }

    /// `snapshot` is newer than the last one but part of it may be out of date, as `trouble`
    /// says: some service could not be read and stands in it as it was, or is missing
    /// where it never could. Never a smaller listing than what is known.
    pub fn complete_in_doubt(&self, snapshot: Snapshot, findings: Vec<Finding>, trouble: Trouble) {
        self.publish(snapshot, findings, Some(trouble));
    }

    /// The last snapshot may be out of date, as `trouble` says. Readers find the newest message, but
    /// only another code wakes them: what a registry says of an error may carry the time of day, and
    /// each attempt would have everything looked at again.
    pub fn doubt(&self, trouble: Trouble) {
        let now = (self.clock)();
        self.state.send_if_modified(|state| self.set_doubt(state, Some(trouble), now));
    }

    /// The last snapshot is current, now. Ends any doubt. Without a snapshot it says nothing.
    pub fn confirmed(&self) {
        let now = (self.clock)();
        self.state.send_if_modified(|state| {
            if state.snapshot.is_none() {
                return false;
            }
            state.since = now;
            self.set_doubt(state, None, now)
        });
    }

    fn publish(&self, snapshot: Snapshot, findings: Vec<Finding>, trouble: Option<Trouble>) {
        let now = (self.clock)();
        let findings = findings::bounded(findings);
        self.state.send_if_modified(|state| {
            // The walk skips what the two share.
            let differs = state
                .snapshot
                .as_ref()
                .is_none_or(|before| before.services.diff(&snapshot.services).next().is_some());
            let found = *state.findings != *findings;
            if trouble.is_none() {
                state.since = now;
            }
            if differs {
                SnapshotPublished { source: &self.source, snapshot: &snapshot }.emit(&self.metrics);
                state.snapshot = Some(snapshot);
            }
            if found {
                FindingsChanged { source: &self.source, findings: &findings }.emit();
                state.findings = findings.into();
            }
            self.set_doubt(state, trouble, now) || differs || found
        });
    }

    /// Whether readers should look; the message may have changed all the same. One trouble turning
    /// into another does not begin a new doubt.
    fn set_doubt(&self, state: &mut SourceState, trouble: Option<Trouble>, now: Time) -> bool {
        let before = state.doubt.take();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match (before, trouble) {
            (None, None) => false,
            (Some(before), None) => {
                told.takes(None, now);
                DoubtEnded { source: &self.source, doubt: &before, now }.emit();
                true
            }
            (before, Some(Trouble { code, message })) => {
                let since = before.as_ref().map_or(now, |before| before.since);
                // It names what is anybody's, and repeats what registries answer.
                let doubt = Doubt { code, message: OneLine(&message).to_string(), since };
                let is_other = before.is_none_or(|before| before.code != code);
                if told.takes(Some((code, &doubt.message)), now) {
                    let is_listed = state.snapshot.is_some();
                    Doubted { source: &self.source, doubt: &doubt, is_listed }.emit();
                }
                state.doubt = Some(doubt);
                is_other
            }
        }
    }
}

// === What happens ===

struct SnapshotPublished<'a> {
    source: &'a SourceName,
    snapshot: &'a Snapshot,
}

impl SnapshotPublished<'_> {
    fn emit(&self, metrics: &SourceMetrics) {
        metrics.count_snapshot();
        tracing::debug!(
            source = %self.source,
            services = self.snapshot.services.len(),
            "Registry listing changed."
        );
    }
}

struct FindingsChanged<'a> {
    source: &'a SourceName,
    findings: &'a [Finding],
}

impl FindingsChanged<'_> {
    fn emit(&self) {
        match self.findings {
            [] => info!(source = %self.source, "Registry listing has no findings any more."),
            [first, ..] => warn!(
                source = %self.source,
                findings = self.findings.len(),
                // As text, which is escaped in the log: names in registries are anybody's.
                first = first.to_string(),
                "Registry listing has findings."
            ),
        }
    }
}

struct Doubted<'a> {
    source: &'a SourceName,
    doubt: &'a Doubt,
    is_listed: bool,
}

impl Doubted<'_> {
    fn emit(&self) {
        let Doubt { code, message, .. } = self.doubt;
        if self.is_listed {
            warn!(
                source = %self.source,
                code,
                error = %message,
                "Registry in doubt; nothing that it lacks is removed."
            );
        } else {
            warn!(
                source = %self.source,
                code,
                error = %message,
                "Registry in doubt; nothing is listed yet."
            );
        }
    }
}

struct DoubtEnded<'a> {
    source: &'a SourceName,
    doubt: &'a Doubt,
    now: Time,
}

impl DoubtEnded<'_> {
    fn emit(&self) {
        let doubted_secs = self.now.since(self.doubt.since).as_secs();
        info!(
            source = %self.source,
            code = self.doubt.code,
            doubted_secs,
            "Registry no longer in doubt."
        );
    }
}

#[cfg(test)]
mod tests {
    use landfall_core::pairs::Pairs;
    use landfall_core::registry::{Service, ServiceKey};

    use super::*;

    fn publisher() -> (Publisher, watch::Receiver<SourceState>) {
        Publisher::new(SourceName::parse("dc1").unwrap(), || Time::from_millis(1000))
    }

    fn trouble(code: &'static str, message: &str) -> Trouble {
        Trouble { code, message: message.to_owned() }
    }

    fn snapshot(names: &[&str]) -> Snapshot {
        let service = |name: &&str| {
            let key = ServiceKey { name: (*name).into(), ..ServiceKey::default() };
            let (service, _) =
                Service::new(key.clone(), Pairs::default(), Pairs::default(), vec![]);
            (key, Arc::new(service))
        };
        Snapshot { services: names.iter().map(service).collect() }
    }

    #[test]
    fn equal_listings_wake_nobody() {
        let (out, mut reader) = publisher();
        out.complete(snapshot(&["a"]), vec![]);
        assert!(reader.has_changed().unwrap());
        reader.mark_unchanged();
        out.complete(snapshot(&["a"]), vec![]);
        out.confirmed();
        assert!(!reader.has_changed().unwrap());
        out.complete(snapshot(&["a", "b"]), vec![]);
        assert!(reader.has_changed().unwrap());
        assert_eq!(out.metrics().snapshots(), 2);
    }

    #[test]
    fn a_doubt_is_told_on_one_line() {
        let (out, reader) = publisher();
        out.doubt(trouble("refused", "service a\nsource dc2 \u{1b}[2Jrefused"));
        let message = reader.borrow().doubt.clone().unwrap().message;
        assert_eq!(message, r"service a\nsource dc2 \u{1b}[2Jrefused");
    }

    #[test]
    fn an_empty_first_listing_is_a_listing() {
        let (out, reader) = publisher();
        out.confirmed();
        assert_eq!(reader.borrow().snapshot, None);
        out.complete(Snapshot::default(), vec![]);
        assert_eq!(reader.borrow().snapshot, Some(Snapshot::default()));
    }

    #[test]
    fn doubt_keeps_the_listing_and_its_own_beginning() {
        let (out, mut reader) = publisher();
        out.complete(snapshot(&["a"]), vec![]);
        out.doubt(trouble("refused", "refused"));
        reader.mark_unchanged();
        out.doubt(trouble("refused", "refused at noon"));
        assert!(!reader.has_changed().unwrap());
        let message = reader.borrow().doubt.as_ref().map(|doubt| doubt.message.clone());
        assert_eq!(message.as_deref(), Some("refused at noon"));
        out.doubt(trouble("slow", "slow"));
        assert!(reader.has_changed().unwrap());
        {
            let state = reader.borrow();
            assert_eq!(state.snapshot, Some(snapshot(&["a"])));
            assert_eq!(state.doubt.as_ref().map(|d| d.code), Some("slow"));
        }
        out.confirmed();
        assert_eq!(reader.borrow().doubt, None);
    }
}
