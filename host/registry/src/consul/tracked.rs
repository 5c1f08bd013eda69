//! What is known of one service of a scope, and how an answer changes it.

use std::sync::Arc;

use landfall_core::finding::Finding;
use landfall_core::registry::{Health, Service};
use landfall_core::text::Text;
use tokio::time::Instant;

use super::client::{ConsulError, Trust};
use super::convert::ServiceRead;
use super::pace::Pace;
use crate::trouble::Failure;

/// One service.
#[derive(Debug)]
pub(super) struct Tracked {
    /// As last read; `None` when it has no instance that is listed.
    pub(super) service: Option<Arc<Service>>,
    /// Entries in the last answer, those left out too.
    pub(super) entries: usize,
    /// Of the last answer that was taken; 0 when the registry's indexes began anew.
    pub(super) index: u64,
    /// How many questions had been asked when that answer was taken.
    pub(super) taken: u64,
    /// Of the last answer that was taken, to skip equal ones. `None` too for one that lacked
    /// instances which are kept: the same answer may mean more later.
    pub(super) digest: Option<u64>,
    /// When the last read that succeeded was begun.
    pub(super) read_at: Option<Instant>,
    /// Whether the last list of services has it.
    pub(super) listed: bool,
    /// Whether it must be read now.
    pub(super) wanted: bool,
    /// The read that is under way.
    pub(super) reading: Option<Begun>,
    /// The long poll that is under way.
    pub(super) polling: Option<Begun>,
    /// When it last changed, other than by being read for the first time.
    pub(super) changed_at: Option<Instant>,
    pub(super) pace: Pace,
    /// Why the last read was not good.
    pub(super) failure: Option<Failure>,
}

/// When a question was asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    pub(super) at: Instant,
    /// How many questions had been asked by then, this one too.
    pub(super) number: u64,
}

/// What it means that instances are not in an answer that is to be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absence {
    /// They are gone.
    Counts,
    /// They may not have registered again yet.
    ProvesNothing,
}

/// What an answer did.
#[derive(Debug, PartialEq)]
pub(super) enum Applied {
    /// Nothing differs.
    Same,
    /// What it was before is replaced.
    /// With `keeps`, instances are kept that the answer lacks.
    Changed { before: Option<Arc<Service>>, findings: Vec<Finding>, keeps: bool },
    /// Instances are missing in it, and it is no proof that they are gone. Ask again.
    Unproven,
    /// As `Unproven`, and asking again will not help.
    Hidden,
}

// === impl Tracked ===

impl Tracked {
    pub(super) fn new() -> Self {
        Self {
            service: None,
            entries: 0,
            index: 0,
            taken: 0,
            digest: None,
            read_at: None,
            listed: false,
            wanted: false,
            reading: None,
            polling: None,
            changed_at: None,
            pace: Pace::new(),
            failure: None,
        }
    }

    /// Whether a long poll may wait for its next change. One of a service without entries would
    /// return at once, again and again (hashicorp/consul#3712).
    pub(super) fn may_be_polled(&self) -> bool {
        self.listed
            && self.entries > 0
            && self.index > 0
            && !self.wanted
            && self.reading.is_none()
            && self.polling.is_none()
            && self.failure.is_none()
    }

    /// Whether every instance passes its checks, as last read.
    pub(super) fn is_well(&self) -> bool {
        let instances = self.service.iter().flat_map(|service| service.instances());
        instances.map(|instance| instance.health).all(|health| health == Health::Passing)
    }

    /// Whether an answer with `index` to the question `begun`, of which `same_as` is the digest if
    /// it has nothing new, may be older than what is known: an answer that was asked for before
    /// the known one came, and is of an earlier index. One that was asked for later is not, even
    /// if its index is lower: then the registry's indexes began anew.
    pub(super) fn is_overtaken(&self, index: u64, begun: Begun, same_as: Option<u64>) -> bool {
        let asked_before = begun.number <= self.taken;
        let is_older = asked_before && index < self.index;
        // What it is said to equal is no longer what is known.
        let equals_the_past = same_as.is_some() && same_as != self.digest;
        is_older || equals_the_past
    }

    /// Takes an answer. `read` is `None` for one that equals the last.
    ///
    /// ```text
    /// instances missing   trust      then
    /// no                  any        taken
    /// yes                 full       taken: they are gone, or kept where `absence` proves nothing
    /// yes                 streamed   not taken; read again without waiting, which is not streamed
    /// yes                 filtered   not taken: access rules may hide them
    /// ```
    pub(super) fn apply(
        &mut self,
        index: u64,
        digest: u64,
        read: Option<ServiceRead>,
        trust: Trust,
        absence: Absence,
    ) -> Applied {
        let Some(read) = read else {
            self.index = index;
            return Applied::Same;
        };
        let loses = self.loses_instances(read.service.as_deref());
        if trust != Trust::Full && loses {
            return if trust == Trust::Streamed { Applied::Unproven } else { Applied::Hidden };
        }
        let keeps = loses && absence == Absence::ProvesNothing;
        self.index = index;
        self.digest = (!keeps).then_some(digest);
        self.entries = read.entries;
        let listed = if keeps { self.with_missing(read.service) } else { read.service };
        let now = match (listed, &self.service) {
            (Some(service), Some(known)) => Some(Arc::unwrap_or_clone(service).sharing(known)),
            (service, _) => service,
        };
        let before = std::mem::replace(&mut self.service, now);
        Applied::Changed { before, findings: read.findings, keeps }
    }

    /// Notes a failure; the next attempt is its to time.
    pub(super) fn failed(&mut self, error: &ConsulError, now: Instant) {
        self.failure = Some(Failure::after(self.failure.take(), error.into(), now));
    }

    /// What is listed `now`, with the known instances that it lacks.
    fn with_missing(&self, now: Option<Arc<Service>>) -> Option<Arc<Service>> {
        let (Some(known), Some(now)) = (&self.service, &now) else {
            return now.or_else(|| self.service.clone());
        };
        let missing = known.instances().iter().filter(|known| now.instance(&known.id).is_none());
        let all = now.instances().iter().chain(missing).cloned().collect();
        // Their identifiers differ, so there is nothing to find.
        let (all, _none) = Service::new(now.key.clone(), now.meta.clone(), now.ext.clone(), all);
        Some(Arc::new(all))
    }

    pub(super) fn loses_instances(&self, now: Option<&Service>) -> bool {
        let Some(known) = &self.service else { return false };
        let stays = |id: &Text| now.is_some_and(|now| now.instance(id).is_some());
        !known.instances().iter().all(|instance| stays(&instance.id))
    }
}
