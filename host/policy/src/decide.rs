//! Cuts work into pieces for the workers, and joins what they decide.

use std::ops::Range;
use std::sync::Arc;

use landfall_core::decision::{DecidedService, Decision, Fault, RulesMark};
use landfall_core::mesh::{MeshService, Setting};
use landfall_core::registry::ServiceId;
use landfall_core::text::Text;

use crate::breaker::Breaker;
use crate::chain::{self, Chain, Decided, Work};
use crate::fault::{Failure, is_transient, is_unasked};
use crate::findings::Findings;
use crate::pool::Workers;
use crate::rules::Rules;
use crate::services::{self, MeshWork, Origin};
use crate::trace::{self, Step};

/// Instances that are decided together. Batches of calls are cut from it.
const PIECE_INSTANCES_MAX: usize = 256;
/// What a worker takes at a time: enough that handing out costs little, and little enough that all
/// workers end at about the same time.
const TASK_INSTANCES: usize = 512;
const TASK_SERVICES: usize = 64;

/// What becomes of one service.
pub(crate) struct Plan {
    work: Work,
    /// What stands, by instance; `None` is to be decided.
    decisions: Vec<Option<Decision>>,
    /// The indices of those that are to be decided; those last that failed before.
    pub(crate) pending: Vec<u32>,
    /// How many of `pending` did not fail before.
    unsuspected: usize,
}

/// Which decisions stand while instance, service and rules are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stands {
    All,
    /// Those without a transient fault.
    Lasting,
}

/// Some of a service's pending instances.
#[derive(Clone)]
struct Piece {
    plan: usize,
    pending: Range<usize>,
}

impl Workers {
    /// Decides services: what was decided of an instance before answers for it while instance,
    /// service and rules are equal; the others pass the defaults and the policies. Ends with a
    /// decision for each instance, in the order of `work`.
    ///
    /// Blocks until done, so do not call it on a thread that serves anything else.
    #[must_use]
    pub fn decide(&self, rules: &Arc<Rules>, work: Vec<Work>) -> Vec<DecidedService> {
        self.decide_with(rules, work, Stands::All)
    }

    /// The same, but what was decided of an instance before answers for it only if there was no
    /// fault, or one that trying again does not mend, see [`is_transient`].
    /// What was not tried before is tried first, so that an instance that fails again and again
    /// keeps no other waiting.
    ///
    /// Blocks until done, so do not call it on a thread that serves anything else.
    #[must_use]
    pub fn decide_again(&self, rules: &Arc<Rules>, work: Vec<Work>) -> Vec<DecidedService> {
        self.decide_with(rules, work, Stands::Lasting)
    }

    fn decide_with(
        &self,
        rules: &Arc<Rules>,
        work: Vec<Work>,
        stands: Stands,
    ) -> Vec<DecidedService> {
        let plans: Arc<[Plan]> =
            work.into_iter().map(|work| Plan::new(work, rules.mark(), stands)).collect();
        let tasks: Arc<[Vec<Piece>]> = tasks(&plans).into();
        let breakers: Arc<[Breaker]> = rules.links().iter().map(|_| Breaker::default()).collect();
        let prepare = {
            let rules = Arc::clone(rules);
            move |bench: &mut crate::bench::Bench| bench.prepare(&rules)
        };
        let results = self.run(tasks.len(), prepare, {
            let (rules, plans, tasks) = (Arc::clone(rules), Arc::clone(&plans), Arc::clone(&tasks));
            move |bench, number| {
                let pieces = tasks[number].iter().map(|piece| {
                    let plan = &plans[piece.plan];
                    chain::decide(
                        bench,
                        &rules,
                        &breakers,
                        &plan.work,
                        &plan.pending[piece.pending.clone()],
                    )
                });
                pieces.collect::<Vec<Decided>>()
            }
        });
        let mut decided: Vec<Vec<Decided>> = plans.iter().map(|_| Vec::new()).collect();
        for (pieces, results) in tasks.iter().zip(results) {
            let results = results.unwrap_or_else(|| panicked(rules, &plans, pieces));
            for (piece, result) in pieces.iter().zip(results) {
                decided[piece.plan].push(result);
            }
        }
        plans
            .iter()
            .zip(decided)
            .map(|(plan, decided)| plan.joined(decided, rules.mark()))
            .collect()
    }

    /// The settings that policies give services of the mesh, in the order of `services`; a policy
    /// is for a service if it is for one of its origins. `origin` says what is known of an origin.
    ///
    /// Blocks until done, so do not call it on a thread that serves anything else.
    #[must_use]
    pub fn settings(
        &self,
        rules: &Arc<Rules>,
        services: Vec<Arc<MeshService>>,
        origin: &dyn Fn(&ServiceId) -> Origin,
    ) -> Vec<Result<Arc<[Setting]>, Arc<Fault>>> {
        let works: Arc<[MeshWork]> = services
            .into_iter()
            .map(|service| {
                let origins = service.parts.iter();
                let origins =
                    origins.map(|part| (Arc::clone(&part.origin), origin(&part.origin))).collect();
                MeshWork { service, origins }
            })
            .collect();
        if !rules.links().iter().any(|link| link.revision.decides_services()) {
            return works.iter().map(|_| Ok(Arc::from([]))).collect();
        }
        let breakers: Arc<[Breaker]> = rules.links().iter().map(|_| Breaker::default()).collect();
        let count = works.len();
        let prepare = {
            let rules = Arc::clone(rules);
            move |bench: &mut crate::bench::Bench| bench.prepare(&rules)
        };
        let results = self.run(count.div_ceil(TASK_SERVICES), prepare, {
            let rules = Arc::clone(rules);
            move |bench, number| {
                let end = (number * TASK_SERVICES + TASK_SERVICES).min(count);
                let of_task = &works[number * TASK_SERVICES..end];
                of_task
                    .iter()
                    .map(|work| services::settings(bench, &rules, &breakers, work))
                    .collect::<Vec<_>>()
            }
        });
        let mut settings = Vec::with_capacity(count);
        for (number, results) in results.into_iter().enumerate() {
            let expected = TASK_SERVICES.min(count - number * TASK_SERVICES);
            let panicked = || {
                let fault = Failure::host_panic().into_fault(&Text::from("landfall"));
                std::iter::repeat_with(|| Err(Arc::clone(&fault))).take(expected).collect()
            };
            settings.extend(results.unwrap_or_else(panicked));
        }
        settings
    }

    /// Follows one instance of `work` through the policies, one call each, as it would be decided
    /// anew. Ends with the policy that drops it or fails on it.
    ///
    /// Blocks until done, so do not call it on a thread that serves anything else.
    #[must_use]
    pub fn trace(&self, rules: &Arc<Rules>, work: &Work, instance_id: &str) -> Vec<Step> {
        let (rules, work, id) = (Arc::clone(rules), work.clone(), Text::from(instance_id));
        let steps = self.run(1, |_| (), move |bench, _| trace::trace(bench, &rules, &work, &id));
        steps.into_iter().flatten().flatten().collect()
    }
}

/// Pieces in tasks of about equal size.
fn tasks(plans: &[Plan]) -> Vec<Vec<Piece>> {
    let mut tasks = Vec::new();
    let mut task = Vec::new();
    let mut instances = 0;
    let unsuspected = plans.iter().map(|plan| 0..plan.unsuspected).enumerate();
    let suspects = plans.iter().map(|plan| plan.unsuspected..plan.pending.len()).enumerate();
    // Work may end early where it fails, so what failed before comes behind everything else.
    for (number, Range { mut start, end: all }) in unsuspected.chain(suspects) {
        while start < all {
            let end = all.min(start + PIECE_INSTANCES_MAX);
            instances += end - start;
            task.push(Piece { plan: number, pending: start..end });
            if instances >= TASK_INSTANCES {
                tasks.push(std::mem::take(&mut task));
                instances = 0;
            }
            start = end;
        }
    }
    if !task.is_empty() {
        tasks.push(task);
    }
    tasks
}

/// The results of a task in which the host panicked outside of any call.
fn panicked(rules: &Rules, plans: &[Plan], pieces: &[Piece]) -> Vec<Decided> {
    let fault = Failure::host_panic().into_fault(&Text::from("landfall"));
    let of_piece = |piece: &Piece| {
        let plan = &plans[piece.plan];
        let chain = Chain::new(rules, &plan.work);
        let instances = plan.work.service.instances();
        let pending = plan.pending[piece.pending.clone()].iter();
        let decisions = pending
            .map(|&index| chain.kept(&instances[index as usize], Arc::clone(&fault)))
            .collect();
        Decided { decisions, ..Decided::default() }
    };
    pieces.iter().map(of_piece).collect()
}

// === impl Plan ===

impl Plan {
    /// Finds out which instances were decided under equal rules and facts. Both lists are in the
    /// order of identifiers, so one walk is enough.
    pub(crate) fn new(work: Work, mark: &RulesMark, stands: Stands) -> Self {
        let before = work
            .before
            .as_deref()
            .filter(|before| before.rules == *mark && before.service.same_facts(&work.service));
        let mut known = before
            .map(|before| before.service.instances().iter().zip(&before.decisions))
            .into_iter()
            .flatten()
            .peekable();
        let instances = work.service.instances();
        let mut decisions = Vec::with_capacity(instances.len());
        let mut pending = Vec::new();
        let mut suspects = Vec::new();
        for (index, instance) in instances.iter().enumerate() {
            while known.next_if(|(other, _)| other.id < instance.id).is_some() {}
            let kept = known.next_if(|(other, _)| other.id == instance.id);
            let equal = kept.filter(|(other, _)| *other == instance).map(|(_, decision)| decision);
            let decision = equal.filter(|decision| stands.holds(decision)).cloned();
            if decision.is_none() {
                // Services have fewer instances than fit: each takes more than a byte.
                let index = u32::try_from(index).unwrap_or(u32::MAX);
                let fault = equal.and_then(|decision| decision.fault.as_ref());
                let failed = fault.is_some_and(|fault| !is_unasked(fault.code));
                if failed { &mut suspects } else { &mut pending }.push(index);
            }
            decisions.push(decision);
        }
        let unsuspected = pending.len();
        pending.append(&mut suspects);
        Self { work, decisions, pending, unsuspected }
    }

    pub(crate) fn joined(&self, decided: Vec<Decided>, mark: &RulesMark) -> DecidedService {
        let mut findings = Findings::default();
        let Work { id, service, before, .. } = &self.work;
        if let Some(before) = before {
            let stands = |instance: &str| {
                let found = service.instances().binary_search_by(|i| (*i.id).cmp(instance));
                found.is_ok_and(|index| self.decisions[index].is_some())
            };
            findings.carry(before, stands, !self.pending.is_empty());
        }
        let mut fresh = Vec::with_capacity(self.pending.len());
        for part in decided {
            fresh.extend(part.decisions);
            findings.extend(part.findings);
        }
        let mut decisions = self.decisions.clone();
        for (&index, decision) in self.pending.iter().zip(fresh) {
            decisions[index as usize] = Some(decision);
        }
        // Each has one by now.
        let decisions: Vec<Decision> = decisions.into_iter().flatten().collect();
        findings.add_faults(id, service, &decisions);
        let (findings, unlisted) = findings.bounded(id);
        DecidedService {
            id: Arc::clone(id),
            service: Arc::clone(service),
            rules: mark.clone(),
            decisions,
            findings,
            unlisted,
        }
    }
}

// === impl Stands ===

impl Stands {
    fn holds(self, decision: &Decision) -> bool {
        self == Self::All || !decision.fault.as_ref().is_some_and(|fault| is_transient(fault.code))
    }
}
