//! What is worth deciding again though nothing changed: a policy failed on it for a reason that may
//! pass, such as a machine that was too busy.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use landfall_core::decision::{DecidedService, Fault};
use landfall_core::mesh::HostKey;
use landfall_core::registry::ServiceId;
use landfall_core::time::Time;
use landfall_policy_host::is_transient;

/// The first pause is long enough for a burst of load to pass. The longest leaves a policy that
/// never answers in time one turn in ten minutes.
const PAUSE_MIN: Duration = Duration::from_secs(30);
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// Services and hosts to decide again, and when.
#[derive(Debug, Default)]
pub(super) struct Again {
    services: BTreeSet<Arc<ServiceId>>,
    hosts: BTreeSet<HostKey>,
    due_at: Option<Time>,
    /// The pause before this turn, until a turn leaves nothing.
    pause: Option<Duration>,
    /// Whether something came that was not there at the last turn: it has not earned the pause.
    is_fresh: bool,
}

impl Again {
    /// Takes up what became of a service; `None` when it is gone.
    pub(super) fn note_service(&mut self, id: &Arc<ServiceId>, now: Option<&DecidedService>) {
        let is_worth_it = now.is_some_and(|service| {
            let mut faults =
                service.decisions.iter().filter_map(|decision| decision.fault.as_ref());
            faults.any(|fault| is_transient(fault.code))
        });
        if is_worth_it {
            self.is_fresh |= self.services.insert(Arc::clone(id));
        } else {
            self.services.remove(id);
        }
    }

    /// Takes up how a service policy failed on a host; `None` when it did not.
    pub(super) fn note_host(&mut self, host: &HostKey, fault: Option<&Arc<Fault>>) {
        if fault.is_some_and(|fault| is_transient(fault.code)) {
            self.is_fresh |= self.hosts.insert(host.clone());
        } else {
            self.hosts.remove(host);
        }
    }

    /// What is due now, if anything is.
    pub(super) fn take_due(
        &mut self,
        now: Time,
    ) -> Option<(BTreeSet<Arc<ServiceId>>, BTreeSet<HostKey>)> {
        self.due_at.take_if(|at| *at <= now)?;
        Some((self.services.clone(), self.hosts.clone()))
    }

    /// Sets the time of the next turn, after everything was noted.
    pub(super) fn schedule(&mut self, now: Time) {
        let is_fresh = std::mem::take(&mut self.is_fresh);
        if self.services.is_empty() && self.hosts.is_empty() {
            (self.due_at, self.pause) = (None, None);
        } else if self.due_at.is_none() {
            let pause = self.pause.map_or(PAUSE_MIN, |pause| (pause * 2).min(PAUSE_MAX));
            (self.due_at, self.pause) = (Some(now.plus(pause)), Some(pause));
        }
        if is_fresh {
            self.due_at = self.due_at.map(|at| at.min(now.plus(PAUSE_MIN)));
        }
    }

    /// When the next turn is.
    pub(super) fn due_at(&self) -> Option<Time> {
        self.due_at
    }
}
