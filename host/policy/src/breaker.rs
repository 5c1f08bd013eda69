//! Bounds what a policy that fails may cost.
//!
//! A call that fails is halved until the instance that it fails on stands alone. When the policy
//! fails on every instance that would cost its time limit for each. So after some single instances
//! in a row, and no call that succeeded between, or after many failures in all, the rest of the
//! work is not tried, and the next work tries one instance first. How many they are depends on what
//! a failure costs and not on a clock, so that two replicas agree.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use landfall_core::decision::Fault;
use landfall_core::text::Text;

use crate::fault::{Failure, FaultCode};
use crate::revision::Revision;

/// One policy in one piece of work, shared by the workers.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    /// What single instances that failed have cost since a call succeeded.
    in_a_row: AtomicU32,
    /// What all calls that failed have cost.
    in_all: AtomicU32,
    open: OnceLock<Arc<Fault>>,
}

/// 8 loops, or 1000 traps.
const IN_A_ROW_MAX: u32 = 1000;
/// 160 loops, which are 8 seconds, or 20,000 traps: a policy may fail on every second instance.
const IN_ALL_MAX: u32 = 20 * IN_A_ROW_MAX;

/// What a failed call costs, very roughly. A trap of a compiled policy takes some 30 µs with the
/// fresh instance after it; memory has to be filled before it is refused; a loop takes 50 ms.
const fn cost(code: FaultCode) -> u32 {
    match code {
        FaultCode::Deadline => IN_A_ROW_MAX / 8,
        FaultCode::Memory | FaultCode::Output | FaultCode::Stack => IN_A_ROW_MAX / 100,
        FaultCode::Trap
        | FaultCode::VerdictCount
        | FaultCode::VerdictIllegal
        | FaultCode::PolicyError
        | FaultCode::HostPanic => 1,
    }
}

// === impl Breaker ===

impl Breaker {
    /// Why nothing more is tried.
    pub(crate) fn open(&self) -> Option<&Arc<Fault>> {
        self.open.get()
    }

    /// Whether to ask about one instance before asking about many.
    pub(crate) fn is_wary(&self, revision: &Revision) -> bool {
        revision.tripped.load(Ordering::Relaxed)
    }

    /// A call succeeded.
    pub(crate) fn succeeded(&self, revision: &Revision) {
        // Looked at first: workers share these, and writing takes them from each other's caches.
        if self.in_a_row.load(Ordering::Relaxed) != 0 {
            self.in_a_row.store(0, Ordering::Relaxed);
        }
        if revision.tripped.load(Ordering::Relaxed) && self.open().is_none() {
            revision.tripped.store(false, Ordering::Relaxed);
        }
    }

    /// A call of several instances failed.
    pub(crate) fn failed(&self, revision: &Revision, failure: &Failure) {
        if add(&self.in_all, cost(failure.code)) >= IN_ALL_MAX {
            self.trip(revision, &failure.clone().into_fault(revision.name()));
        }
    }

    /// A call of one instance failed. Returns what is the matter with that instance.
    pub(crate) fn failed_alone(&self, revision: &Revision, failure: Failure) -> Arc<Fault> {
        let cost = cost(failure.code);
        let in_a_row = add(&self.in_a_row, cost);
        let in_all = add(&self.in_all, cost);
        let fault = failure.into_fault(revision.name());
        if in_a_row >= IN_A_ROW_MAX || in_all >= IN_ALL_MAX || self.is_wary(revision) {
            self.trip(revision, &fault);
        }
        fault
    }

    fn trip(&self, revision: &Revision, fault: &Fault) {
        revision.tripped.store(true, Ordering::Relaxed);
        // Of several workers that get here the first is as good as any other.
        let _ = self.open.set(Arc::new(untried(fault)));
    }
}

fn add(sum: &AtomicU32, cost: u32) -> u32 {
    sum.fetch_add(cost, Ordering::Relaxed).saturating_add(cost)
}

fn untried(fault: &Fault) -> Fault {
    let Fault { policy, code, message } = fault;
    Fault {
        policy: Text::clone(policy),
        code,
        message: format!(
            "{message} (it failed so often that the rest was not tried; that is done when an \
             instance, its service or the policies change)"
        ),
    }
}
