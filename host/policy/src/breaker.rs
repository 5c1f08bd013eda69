//! Bounds what a policy may cost in one piece of work.
//!
//! A call that fails is halved until the instance that it fails on stands alone. When the policy
//! fails on every instance that would cost its time limit for each. So after some single instances
//! in a row, and no call that succeeded between, or after many failures in all, the rest of the
//! work is not tried, and the next work tries one instance first. And a policy that fails on nothing
//! but is slow stops at a time for all of its calls together, and one that answers at length at the
//! memory that all of its answers take.
//!
//! What a failure costs follows from the time it took, so replicas on machines that are not equally
//! busy may stop at different instances. They agree again when the rest is tried: what was not
//! tried has a fault code of its own, which says that trying again is worth it. What was over the
//! memory is not tried again, and about that they may go on to differ.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use landfall_core::decision::Fault;
use landfall_core::text::Text;

use crate::clock;
use crate::fault::{Failure, FaultCode};
use crate::revision::Revision;

/// One policy in one piece of work, shared by the workers.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    /// What single instances that failed have cost since a call succeeded.
    in_a_row: AtomicU64,
    /// What all calls that failed have cost.
    in_all: AtomicU64,
    /// What all calls have taken, on all workers, and the instances made for them.
    spent_nanos: AtomicU64,
    /// The memory that its answers take.
    answer_bytes: AtomicU64,
    open: OnceLock<Arc<Fault>>,
}

/// 8 calls that take all the time they may, or 1000 that trap at once.
const IN_A_ROW_MAX: u64 = 1000;
/// 160 calls that take all the time they may, which are 8 seconds unless the limit is another one,
/// or 20,000 that trap at once: a policy may fail on every second instance.
const IN_ALL_MAX: u64 = 20 * IN_A_ROW_MAX;
/// A call that takes all the time it may.
const WHOLE_TIME: u64 = IN_A_ROW_MAX / 8;

/// What a failed call costs: the share of its time limit that it took, with the fresh instance that
/// was made for it, which may take longer than the call. At least what it takes very roughly where
/// nothing else runs: a trap of a compiled policy some 30 µs, and memory has to be filled before it
/// is refused.
fn cost(code: FaultCode, took: Duration, time_max: Duration) -> u64 {
    let least = match code {
        FaultCode::Deadline => WHOLE_TIME,
        FaultCode::Memory | FaultCode::Output | FaultCode::Stack => IN_A_ROW_MAX / 100,
        FaultCode::Trap
        | FaultCode::VerdictCount
        | FaultCode::VerdictIllegal
        | FaultCode::PolicyError
        | FaultCode::HostPanic
        | FaultCode::Untried
        | FaultCode::TimeBudget
        | FaultCode::Volume
        | FaultCode::NoInstance => 1,
    };
    let share = took.as_nanos().saturating_mul(u128::from(WHOLE_TIME)) / time_max.as_nanos().max(1);
    u64::try_from(share).unwrap_or(u64::MAX).max(least)
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

    /// Makes a call of the policy, with all that belongs to it, and says how long it took. When
    /// that uses up the policy's time, this call's answer is the last.
    pub(crate) fn timed<R>(&self, revision: &Revision, call: impl FnOnce() -> R) -> (R, Duration) {
        let start = clock::now();
        let answer = call();
        let took = clock::now().saturating_duration_since(start);
        // A u64 holds five hundred years of nanoseconds.
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let spent = Duration::from_nanos(add(&self.spent_nanos, nanos));
        let max = revision.limits().work_time_max;
        if spent > max {
            let failure = Failure::new(
                FaultCode::TimeBudget,
                format!(
                    "the policy used up the {max:?} that it has for everything that is decided \
                     together, so the rest was not tried; that is done later. Have it read fewer \
                     fields, do less for each instance, or be for fewer services"
                ),
            );
            // It answers, if slowly, so the next work need not begin with a single instance.
            let _ = self.open.set(failure.into_fault(revision.name()));
        }
        (answer, took)
    }

    /// Makes room for what is kept of an answer. When there is none, neither this nor any further
    /// answer is taken.
    pub(crate) fn take(&self, revision: &Revision, bytes: usize) -> Result<(), Arc<Fault>> {
        let max = revision.limits().work_answer_bytes_max;
        if bytes == 0 || add(&self.answer_bytes, bytes as u64) <= max as u64 {
            return Ok(());
        }
        let failure = Failure::new(
            FaultCode::Volume,
            format!(
                "what the policy answered to everything that is decided together takes more than \
                 {max} bytes, so the rest was left out. Have it publish instances at fewer places, \
                 change less of them, or be for fewer services"
            ),
        );
        let fault = failure.into_fault(revision.name());
        // It answers, so the next work need not begin with a single instance.
        let _ = self.open.set(Arc::clone(&fault));
        Err(fault)
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

    /// A call failed whose instances are asked about once more.
    pub(crate) fn failed(&self, revision: &Revision, failure: &Failure, took: Duration) {
        let cost = cost(failure.code, took, revision.limits().time_max);
        if add(&self.in_all, cost) >= IN_ALL_MAX {
            self.trip(revision, &failure.clone().into_fault(revision.name()));
        }
    }

    /// A call of one instance failed. Returns what is the matter with that instance.
    pub(crate) fn failed_alone(
        &self,
        revision: &Revision,
        failure: Failure,
        took: Duration,
    ) -> Arc<Fault> {
        let cost = cost(failure.code, took, revision.limits().time_max);
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

/// What is added is bounded, so the sum does not wrap: a call ends soon after its limit, which is at
/// most a day, and a sum that is over its own limit ends the work.
fn add(sum: &AtomicU64, more: u64) -> u64 {
    sum.fetch_add(more, Ordering::Relaxed).saturating_add(more)
}

fn untried(fault: &Fault) -> Fault {
    let Fault { policy, code, message } = fault;
    Fault {
        policy: Text::clone(policy),
        code: FaultCode::Untried.as_str(),
        message: format!(
            "the policy failed so often ({code}: {message}) that the rest was not tried; that is \
             done later, and when an instance, its service or the policies change"
        ),
    }
}
