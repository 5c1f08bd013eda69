//! One instance of a policy in a store of its own, and calls of it within its limits.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

use wasmtime::Store;
use wasmtime::component::InstancePre;

use crate::abi::v0_1::Abi;
use crate::abi::{Descriptor, Item, MeshFacts, Problem, ServiceFacts, Settings, Verdicts};
use crate::engine::{PolicyEngine, stop_when};
use crate::fault::{Failure, FaultCode, problem};
use crate::limits::{Budget, Limits, MemoryLimiter};
use crate::log::{Capture, PolicyLog};
use crate::projection::Projection;
use crate::state::State;

/// Warm stores are made anew after so many calls: guests leak.
const CALLS_MAX: u32 = 10_000;

/// An instance of a policy. A call that fails consumes it: after a trap a component cannot be
/// entered again, and after any other failure nobody knows what state it is in.
pub(crate) struct Guest {
    store: Store<State>,
    abi: Abi,
    calls: u32,
}

/// What making guests of one policy takes; shared by all workers.
pub(crate) struct Mold {
    pub(crate) engine: Arc<PolicyEngine>,
    pub(crate) pre: InstancePre<State>,
    pub(crate) limits: Limits,
    pub(crate) log: Arc<PolicyLog>,
}

// === impl Mold ===

impl Mold {
    /// A guest before `configure`. The inner error says which of its exports has another type than
    /// the contract; that shows only here, for functions are typed one by one. Its lines go to
    /// `capture`, if there is one.
    pub(crate) fn instantiate(
        &self,
        capture: Option<Capture>,
    ) -> Result<Result<Guest, String>, Failure> {
        let limiter = MemoryLimiter::new(&self.limits);
        let state = State::new(limiter, Arc::clone(&self.log), capture);
        let mut store = Store::new(self.engine.wasmtime(), state);
        store.limiter(|state| &mut state.limiter);
        stop_when(&mut store, |state, now| now >= state.deadline);
        let budget = self.configure_budget();
        // Start functions run here, so this is a call like any other.
        let instance =
            call(&self.engine, &mut store, &budget, |store| self.pre.instantiate(store))?;
        let abi = Abi::load(&self.pre, &mut store, &instance);
        Ok(abi.map(|abi| Guest { store, abi, calls: 0 }).map_err(|error| problem(&error)))
    }

    /// What the guest says of itself.
    pub(crate) fn describe(&self, mut guest: Guest) -> Result<(Guest, Descriptor), Failure> {
        let Guest { store, abi, .. } = &mut guest;
        let budget = self.configure_budget();
        let descriptor = call(&self.engine, store, &budget, |store| abi.describe(store))?;
        Ok((guest, descriptor))
    }

    /// Gives the guest its settings. The inner error is the guest's own.
    pub(crate) fn configure(
        &self,
        mut guest: Guest,
        settings: &str,
    ) -> Result<Result<Guest, Vec<Problem>>, Failure> {
        let Guest { store, abi, .. } = &mut guest;
        let budget = self.configure_budget();
        let answer = call(&self.engine, store, &budget, |store| abi.configure(store, settings))?;
        Ok(answer.map(|()| guest))
    }

    /// One verdict per item.
    pub(crate) fn decide(
        &self,
        slot: &mut Option<Guest>,
        service: ServiceFacts<'_>,
        items: &[Item<'_>],
        projection: &Projection,
    ) -> Result<Verdicts, Failure> {
        let verdicts = self.decided(slot, items.len(), |store, abi| {
            abi.decide(store, service, items, projection)
        })?;
        if verdicts.values.len() != items.len() {
            *slot = None;
            return Err(Failure::new(
                FaultCode::VerdictCount,
                format!(
                    "the policy returned {} verdicts for {} instances",
                    verdicts.values.len(),
                    items.len()
                ),
            ));
        }
        Ok(verdicts)
    }

    /// The settings of one service of the mesh.
    pub(crate) fn decide_service(
        &self,
        slot: &mut Option<Guest>,
        asked: MeshFacts<'_>,
    ) -> Result<Settings, Failure> {
        self.decided(slot, 1, |store, abi| abi.decide_service(store, asked))
    }

    fn decided<R>(
        &self,
        slot: &mut Option<Guest>,
        instances: usize,
        f: impl FnOnce(&mut Store<State>, &Abi) -> wasmtime::Result<Result<R, String>>,
    ) -> Result<R, Failure> {
        // Taken out and only put back when all is well.
        let Some(mut guest) = slot.take() else {
            return Err(Failure::new(FaultCode::Trap, "there is no instance of the policy"));
        };
        let budget = Budget {
            time: self.limits.time_max,
            output_bytes: self.limits.output_bytes(instances),
        };
        let Guest { store, abi, .. } = &mut guest;
        let answer = call(&self.engine, store, &budget, |store| f(store, abi))?
            .map_err(|text| Failure::new(FaultCode::PolicyError, text))?;
        guest.calls += 1;
        let state = guest.store.data();
        let is_full = state.limiter.is_nearly_full() || state.null.is_nearly_full();
        if guest.calls < CALLS_MAX && !is_full {
            *slot = Some(guest);
        }
        Ok(answer)
    }

    fn configure_budget(&self) -> Budget {
        Budget { time: self.limits.configure_time_max, output_bytes: self.limits.output_bytes(0) }
    }
}

// === impl Guest ===

impl Guest {
    /// Whether it decided anything yet.
    pub(crate) fn is_used(&self) -> bool {
        self.calls > 0
    }

    /// Sends the guest's lines to `capture`, or with `None` to the log again.
    pub(crate) fn set_capture(&mut self, capture: Option<Capture>) {
        self.store.data_mut().capture = capture;
    }
}

/// Runs `f`, which enters the guest, within `budget`.
fn call<R>(
    engine: &PolicyEngine,
    store: &mut Store<State>,
    budget: &Budget,
    f: impl FnOnce(&mut Store<State>) -> wasmtime::Result<R>,
) -> Result<R, Failure> {
    let running = engine.running();
    // The first look at the deadline is at the next tick.
    store.set_epoch_deadline(1);
    store.set_hostcall_fuel(budget.output_bytes);
    store.data_mut().begin_call(budget.time);
    // Whoever gets an error drops the store, so a panic half-way leaves nothing behind.
    let result = panic::catch_unwind(AssertUnwindSafe(|| f(store)));
    drop(running);
    let state = store.data_mut();
    state.end_call();
    let refused = state.limiter.take_refused();
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Failure::of_call(&error, budget, refused)),
        Err(_) => Err(Failure::host_panic()),
    }
}
