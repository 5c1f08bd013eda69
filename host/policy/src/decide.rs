//! Cuts work into pieces for the workers, and joins what they decide.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use landfall_core::decision::{DecidedService, Decision, Fault, RulesMark};
use landfall_core::finding::{Finding, FindingCode};
use landfall_core::mesh::{MeshService, Setting};
use landfall_core::registry::ServiceId;
use landfall_core::text::Text;

use crate::breaker::Breaker;
use crate::chain::{self, Chain, Decided, FINDINGS_MAX, Work};
use crate::fault::{Failure, is_transient, is_unasked};
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
struct Plan {
    work: Work,
    /// What stands, by instance; `None` is to be decided.
    decisions: Vec<Option<Decision>>,
    /// The indices of those that are to be decided; those last that failed before.
    pending: Vec<u32>,
    /// How many of `pending` did not fail before.
    unsuspected: usize,
}

/// Which decisions stand while instance, service and rules are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stands {
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
    fn new(work: Work, mark: &RulesMark, stands: Stands) -> Self {
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

    fn joined(&self, decided: Vec<Decided>, mark: &RulesMark) -> DecidedService {
        let mut findings = Findings::default();
        findings.carry(self);
        let mut fresh = Vec::with_capacity(self.pending.len());
        for part in decided {
            fresh.extend(part.decisions);
            findings.all.extend(part.findings);
            findings.dropped += part.findings_dropped;
        }
        let mut decisions = self.decisions.clone();
        for (&index, decision) in self.pending.iter().zip(fresh) {
            decisions[index as usize] = Some(decision);
        }
        // Each has one by now.
        let decisions: Vec<Decision> = decisions.into_iter().flatten().collect();
        let Work { id, service, .. } = &self.work;
        findings.add_faults(&self.work, &decisions);
        DecidedService {
            id: Arc::clone(id),
            service: Arc::clone(service),
            rules: mark.clone(),
            decisions,
            findings: findings.bounded(id),
        }
    }
}

// === impl Stands ===

impl Stands {
    fn holds(self, decision: &Decision) -> bool {
        self == Self::All || !decision.fault.as_ref().is_some_and(|fault| is_transient(fault.code))
    }
}

/// The findings of one service.
#[derive(Default)]
struct Findings {
    all: Vec<Finding>,
    dropped: usize,
    /// Left out of an earlier listing, of which part still stands.
    carried: Option<Finding>,
}

/// How the finding begins that stands for those left out.
const MORE: &str = "and at least ";

// === impl Findings ===

impl Findings {
    /// Takes over what was found of the instances whose decisions stand.
    fn carry(&mut self, plan: &Plan) {
        let Some(before) = plan.work.before.as_deref() else { return };
        if before.findings.is_empty() || plan.pending.len() == plan.decisions.len() {
            return;
        }
        let subject = plan.work.id.to_string();
        let instances = plan.work.service.instances();
        for finding in &before.findings {
            // Those of faults are made from the decisions.
            if finding.code == FindingCode::PolicyFault {
                continue;
            }
            let instance =
                finding.subject.strip_prefix(&subject).and_then(|rest| rest.strip_prefix('/'));
            let stands = match instance {
                Some(id) => instances
                    .binary_search_by(|instance| (*instance.id).cmp(id))
                    .is_ok_and(|index| plan.decisions[index].is_some()),
                // What is about the service is found again when any of it is decided.
                None => plan.pending.is_empty(),
            };
            if finding.subject == subject && finding.message.starts_with(MORE) {
                self.carried = Some(finding.clone());
            } else if stands {
                self.all.push(finding.clone());
            }
        }
    }

    /// One for each way in which each policy fails.
    fn add_faults(&mut self, work: &Work, decisions: &[Decision]) {
        let mut faults: BTreeMap<(&str, &str, &str), (usize, &str)> = BTreeMap::new();
        for (instance, decision) in work.service.instances().iter().zip(decisions) {
            if let Some(fault) = &decision.fault {
                let Fault { policy, code, message } = &**fault;
                faults.entry((policy, code, message)).or_insert((0, &instance.id)).0 += 1;
            }
        }
        for ((policy, code, message), (count, first)) in faults {
            let verb = if is_unasked(code) { "was not asked about" } else { "failed on" };
            self.all.push(Finding::new(
                FindingCode::PolicyFault,
                &work.id,
                format!(
                    "policy {policy} {verb} {count} instances ({code}), the first of them {first}: \
                     {message}. They stay as they were last decided"
                ),
            ));
        }
    }

    /// In order, each once, and a last one for those beyond the bound.
    fn bounded(mut self, id: &ServiceId) -> Vec<Finding> {
        self.all.sort();
        self.all.dedup();
        let over = self.all.len().saturating_sub(FINDINGS_MAX);
        let left_out = self.dropped + over;
        self.all.truncate(FINDINGS_MAX);
        if left_out > 0 {
            let code = self.all.last().map_or(FindingCode::Refused, |last| last.code);
            let message =
                format!("{MORE}{left_out} more findings of this service, which are not listed");
            self.all.push(Finding::new(code, id, message));
        } else {
            self.all.extend(self.carried);
        }
        self.all
    }
}
