//! Decides some instances of one service: the default mapping, then each policy in order.

use std::collections::HashMap;
use std::sync::Arc;

use landfall_core::decision::{DecidedService, Decision, DropReason, Fault, Outcome};
use landfall_core::defaults::Subject;
use landfall_core::finding::{Finding, FindingCode};
use landfall_core::mapping::{Edit, Mapping, NO_PORT, Verdict};
use landfall_core::name::Hostname;
use landfall_core::registry::{Instance, Service, ServiceId};
use landfall_core::text::{Interner, Text};

use crate::abi::{Item, ServiceFacts};
use crate::bench::Bench;
use crate::breaker::Breaker;
use crate::fault::{Failure, FaultCode, cut, is_unasked};
use crate::kept;
use crate::rules::{Link, Rules};

/// A service to decide anew.
#[derive(Clone, Debug)]
pub struct Work {
    /// Which service it is.
    pub id: Arc<ServiceId>,
    /// The kind of its registry, such as `consul`.
    pub registry: &'static str,
    /// The service as it is now.
    pub service: Arc<Service>,
    /// What was decided of it the last time.
    pub before: Option<Arc<DecidedService>>,
}

/// What was decided of some instances.
#[derive(Debug, Default)]
pub(crate) struct Decided {
    /// In the order in which they were asked for.
    pub(crate) decisions: Vec<Decision>,
    pub(crate) findings: Vec<Finding>,
    /// How many more there were.
    pub(crate) findings_dropped: usize,
}

/// Places that one instance may be published at.
pub const MAPPINGS_PER_INSTANCE_MAX: usize = 64;
/// Of the reason of a drop, which is shown and counted.
const REASON_LEN_MAX: usize = 200;
/// Of some instances together; the service has the same bound again.
pub(crate) const FINDINGS_MAX: usize = 100;

/// The work on some instances of one service.
pub(crate) struct Chain<'a> {
    rules: &'a Rules,
    work: &'a Work,
    interner: Interner,
    findings: Vec<Finding>,
    findings_dropped: usize,
    /// Host names that policies set and that are legal: the same few again and again.
    hosts: HashMap<Text, Hostname>,
}

/// An instance that is on its way, at one of its places.
#[derive(Debug)]
pub(crate) struct Live {
    /// The number of the instance among those asked for.
    slot: usize,
    pub(crate) mapping: Mapping,
}

/// Where an instance stands.
#[derive(Clone, Debug, Default)]
struct Slot {
    /// Set when no further policy is asked.
    decision: Option<Decision>,
    /// Why its first place is none any more.
    dropped: Option<DropReason>,
}

/// Decides the instances of `work` whose indices are `pending`.
pub(crate) fn decide(
    bench: &mut Bench,
    rules: &Rules,
    breakers: &[Breaker],
    work: &Work,
    pending: &[u32],
) -> Decided {
    let instances = work.service.instances();
    let pending: Vec<&Instance> =
        pending.iter().map(|&index| &*instances[index as usize]).collect();
    let mut chain = Chain::new(rules, work);
    let mut slots = vec![Slot::default(); pending.len()];
    let mut live = chain.defaults(&pending, &mut slots);
    for (link, breaker) in rules.links().iter().zip(breakers) {
        if live.is_empty() {
            break;
        }
        if link.revision.decides_instances() && link.matches(&work.id) {
            live = chain.pass(bench, link, breaker, &pending, live, &mut slots);
        }
    }
    chain.publish(&pending, live, slots)
}

impl<'a> Chain<'a> {
    pub(crate) fn new(rules: &'a Rules, work: &'a Work) -> Self {
        Self {
            rules,
            work,
            interner: Interner::default(),
            findings: Vec::new(),
            findings_dropped: 0,
            hosts: HashMap::new(),
        }
    }

    pub(crate) fn service(&self) -> ServiceFacts<'a> {
        let Work { id, registry, service, .. } = self.work;
        ServiceFacts { id, registry, service: Some(service) }
    }

    fn defaults(&mut self, pending: &[&Instance], slots: &mut [Slot]) -> Vec<Live> {
        let Work { id, service, .. } = self.work;
        let defaults = self.rules.defaults().of_service(id, service, &mut self.findings);
        let mut live = Vec::with_capacity(pending.len());
        for (slot, instance) in pending.iter().enumerate() {
            match defaults.mapping(instance, &mut self.interner, &mut self.findings) {
                Ok(mapping) => live.push(Live { slot, mapping }),
                Err(reason) => slots[slot].decision = Some(settled(Outcome::Dropped(reason))),
            }
            self.bound_findings();
        }
        live
    }

    /// Asks one policy about everything that is on its way.
    fn pass(
        &mut self,
        bench: &mut Bench,
        link: &Link,
        breaker: &Breaker,
        pending: &[&Instance],
        live: Vec<Live>,
        slots: &mut [Slot],
    ) -> Vec<Live> {
        let items: Vec<Item<'_>> =
            live.iter().map(|l| Item { instance: pending[l.slot], mapping: &l.mapping }).collect();
        let answers = self.ask(bench, link, breaker, &items);
        let mut next = Vec::with_capacity(live.len());
        for (at, answer) in live.into_iter().zip(answers) {
            let slot = &mut slots[at.slot];
            if slot.decision.is_some() {
                continue;
            }
            let instance = pending[at.slot];
            let policy = link.revision.name();
            // Behind the places of other instances stand those of this one.
            let taken = next.iter().rev().take_while(|l: &&Live| l.slot == at.slot).count();
            let result = answer.and_then(|verdict| {
                self.apply(policy, instance, &at.mapping, verdict)
                    .and_then(|placed| within_bound(placed, taken))
                    .map_err(|failure| failure.into_fault(policy))
            });
            match result {
                Ok(Placed::Same) => next.push(at),
                Ok(Placed::At(mappings)) => {
                    next.extend(
                        mappings.into_iter().map(|mapping| Live { slot: at.slot, mapping }),
                    );
                }
                Ok(Placed::Nowhere(reason)) => {
                    slot.dropped.get_or_insert(reason);
                }
                Err(fault) => {
                    slot.decision = Some(self.kept(instance, fault));
                    next.truncate(next.len() - taken);
                }
            }
        }
        next
    }

    /// The answers to `items`, in order. A call that fails is halved until the instance that it
    /// fails on stands alone.
    fn ask(
        &mut self,
        bench: &mut Bench,
        link: &Link,
        breaker: &Breaker,
        items: &[Item<'_>],
    ) -> Vec<Result<Verdict, Arc<Fault>>> {
        let revision = &link.revision;
        let mut answers = Vec::with_capacity(items.len());
        for batch in items.chunks(revision.limits().batch_instances_max.max(1)) {
            // A stack of what is still to be asked, the next on top.
            let mut rest = vec![batch];
            while let Some(asked) = rest.pop() {
                if let Some(fault) = breaker.open() {
                    answers.extend(asked.iter().map(|_| Err(Arc::clone(fault))));
                    continue;
                }
                if asked.len() > 1 && breaker.is_wary(revision) {
                    let (first, others) = asked.split_at(1);
                    rest.extend([others, first]);
                    continue;
                }
                let is_used = bench.is_used(revision);
                let service = self.service();
                let (answer, took) =
                    breaker.timed(revision, || bench.decide(revision, service, asked));
                match answer {
                    Ok(verdicts) => {
                        breaker.succeeded(revision);
                        self.note_unknown(revision.name(), &verdicts.unknown);
                        answers.extend(verdicts.values.into_iter().map(|verdict| {
                            verdict.map_err(|name| Failure::from(name).into_fault(revision.name()))
                        }));
                    }
                    Err(failure) if asked.len() > 1 => {
                        breaker.failed(revision, &failure, took);
                        let (left, right) = asked.split_at(asked.len() / 2);
                        rest.extend([right, left]);
                    }
                    // What the store went through before may be to blame, and the instance is not.
                    Err(failure) if is_used && failure.may_follow_from_history() => {
                        breaker.failed(revision, &failure, took);
                        rest.push(asked);
                    }
                    Err(failure) => {
                        let fault = breaker.failed_alone(revision, failure, took);
                        answers.extend(asked.iter().map(|_| Err(Arc::clone(&fault))));
                    }
                }
            }
        }
        answers
    }

    /// Where `verdict` puts an instance that was at `mapping`.
    pub(crate) fn apply(
        &mut self,
        policy: &Text,
        instance: &Instance,
        mapping: &Mapping,
        verdict: Verdict,
    ) -> Result<Placed, Failure> {
        match verdict {
            Verdict::Keep => Ok(Placed::Same),
            Verdict::Drop(mut reason) => {
                if reason.len() > REASON_LEN_MAX {
                    let mut short = reason.to_string();
                    cut(&mut short, REASON_LEN_MAX);
                    reason = self.interner.text(&short);
                }
                Ok(Placed::Nowhere(DropReason::Policy { policy: Text::clone(policy), reason }))
            }
            Verdict::Edit(edits) => Ok(Placed::At(vec![self.edited(instance, mapping, &edits)?])),
            Verdict::Split(lists) if lists.is_empty() => {
                let reason = self.interner.text("split into no place at all");
                Ok(Placed::Nowhere(DropReason::Policy { policy: Text::clone(policy), reason }))
            }
            Verdict::Split(lists) => {
                let lists = lists.iter().take(MAPPINGS_PER_INSTANCE_MAX + 1);
                let mappings: Result<_, Failure> =
                    lists.map(|edits| self.edited(instance, mapping, edits)).collect();
                Ok(Placed::At(mappings?))
            }
        }
    }

    fn edited(
        &mut self,
        instance: &Instance,
        mapping: &Mapping,
        edits: &[Edit],
    ) -> Result<Mapping, Failure> {
        let subject = Subject { id: &self.work.id, instance };
        let host = edits.iter().rev().find_map(|edit| match edit {
            Edit::Host(host) => Some(host.as_str()),
            _ => None,
        });
        // Begun with the host that comes out of it, a mapping is not checked for a legal one again.
        let with_host;
        let known = host.and_then(|host| self.hosts.get(host));
        let begun = match known {
            Some(known) => {
                with_host = Mapping { host: known.clone(), ..mapping.clone() };
                &with_host
            }
            None => mapping,
        };
        let edited = begun
            .edited(edits, &subject, &mut self.interner, &mut self.findings)
            .map_err(|error| Failure::new(FaultCode::VerdictIllegal, error.to_string()))?;
        if known.is_none()
            && let Some(host) = host
            && edited.host.as_str() == host
        {
            self.hosts.insert(Text::from(host), edited.host.clone());
        }
        self.bound_findings();
        Ok(edited)
    }

    /// The decision on an instance that a policy failed on.
    pub(crate) fn kept(&self, instance: &Instance, fault: Arc<Fault>) -> Decision {
        let outcome = kept::outcome(self.work.before.as_deref(), instance);
        let fault = self.earlier(instance, &fault).unwrap_or(fault);
        Decision { outcome, fault: Some(fault) }
    }

    /// What the same policies failed with on the same instance the last time, if they were not even
    /// asked about it this time. To leave it untried says nothing new, and would make it look as if
    /// nothing were known against it.
    fn earlier(&self, instance: &Instance, fault: &Fault) -> Option<Arc<Fault>> {
        let before = self.work.before.as_ref().filter(|_| is_unasked(fault.code))?;
        let (old, decision) = before.decision(&instance.id)?;
        let earlier = decision.fault.as_ref().filter(|earlier| !is_unasked(earlier.code))?;
        (before.rules == *self.rules.mark() && **old == *instance).then(|| Arc::clone(earlier))
    }

    fn publish(mut self, pending: &[&Instance], live: Vec<Live>, slots: Vec<Slot>) -> Decided {
        let mut decisions = Vec::with_capacity(slots.len());
        let mut last: Option<Arc<[Arc<Mapping>]>> = None;
        let mut live = live.into_iter().peekable();
        for ((number, slot), instance) in slots.into_iter().enumerate().zip(pending) {
            let mut places: Vec<Mapping> = Vec::new();
            while let Some(at) = live.next_if(|at| at.slot == number) {
                places.push(at.mapping);
            }
            decisions.push(slot.decision.unwrap_or_else(|| {
                let outcome = published(places, slot.dropped, last.as_deref().unwrap_or_default());
                match &outcome {
                    Outcome::Published(mappings) => last = Some(Arc::clone(mappings)),
                    // Many registries name no ports, so this is not seen in the registry.
                    Outcome::Dropped(DropReason::Obstacle(NO_PORT)) => {
                        self.findings.push(Finding::new(
                            FindingCode::MalformedInstance,
                            Subject { id: &self.work.id, instance },
                            "it has no port, so it is not published. Register one, or set one by \
                             a policy",
                        ));
                    }
                    Outcome::Dropped(_) => {}
                }
                settled(outcome)
            }));
            self.bound_findings();
        }
        Decided { decisions, findings: self.findings, findings_dropped: self.findings_dropped }
    }

    pub(crate) fn note_unknown(&mut self, policy: &Text, unknown: &[String]) {
        for name in unknown {
            self.findings.push(Finding::new(
                FindingCode::Refused,
                &self.work.id,
                format!("policy {policy} sets {name:?}, which this version of Landfall does not know; it was left out"),
            ));
        }
        self.bound_findings();
    }

    fn bound_findings(&mut self) {
        let over = self.findings.len().saturating_sub(FINDINGS_MAX);
        self.findings_dropped += over;
        self.findings.truncate(FINDINGS_MAX);
    }
}

/// What a verdict makes of one place.
#[derive(Debug)]
pub(crate) enum Placed {
    Same,
    At(Vec<Mapping>),
    Nowhere(DropReason),
}

fn within_bound(placed: Placed, taken: usize) -> Result<Placed, Failure> {
    let count = match &placed {
        Placed::Same => 1,
        Placed::At(mappings) => mappings.len(),
        Placed::Nowhere(_) => 0,
    };
    if taken + count > MAPPINGS_PER_INSTANCE_MAX {
        return Err(Failure::new(
            FaultCode::VerdictIllegal,
            format!("the verdicts put an instance at more than {MAPPINGS_PER_INSTANCE_MAX} places"),
        ));
    }
    Ok(placed)
}

/// The outcome of an instance that every policy was asked about. What equals the instance before is
/// shared with it: `last` are the places of that one.
pub(crate) fn published(
    places: Vec<Mapping>,
    dropped: Option<DropReason>,
    last: &[Arc<Mapping>],
) -> Outcome {
    let mut obstacle = None;
    let mut mappings: Vec<Arc<Mapping>> = Vec::with_capacity(places.len());
    for mut mapping in places {
        if let Some(what) = mapping.obstacle() {
            obstacle.get_or_insert(what);
            continue;
        }
        let same_place = |other: &Arc<Mapping>| {
            other.host == mapping.host
                && other.namespace == mapping.namespace
                && other.address == mapping.address
                && other.ports == mapping.ports
        };
        if mappings.iter().any(same_place) {
            continue;
        }
        if let Some(like) = last.get(mappings.len()) {
            share(&mut mapping, like);
        }
        mappings.push(Arc::new(mapping));
    }
    if !mappings.is_empty() {
        return Outcome::Published(mappings.into());
    }
    let reason = match obstacle {
        Some(what) => DropReason::Obstacle(what),
        // A place that is gone was dropped by a policy, so there is a reason.
        None => dropped.unwrap_or(DropReason::Obstacle("no place to publish it at")),
    };
    Outcome::Dropped(reason)
}

fn share(mapping: &mut Mapping, like: &Mapping) {
    if mapping.host == like.host {
        mapping.host = like.host.clone();
    }
    if mapping.namespace == like.namespace {
        mapping.namespace = like.namespace.clone();
    }
    if mapping.ports == like.ports {
        mapping.ports = Arc::clone(&like.ports);
    }
    if mapping.labels == like.labels {
        mapping.labels = like.labels.clone();
    }
    if mapping.network == like.network {
        mapping.network = Text::clone(&like.network);
    }
    if mapping.service_account == like.service_account {
        mapping.service_account = Text::clone(&like.service_account);
    }
}

fn settled(outcome: Outcome) -> Decision {
    Decision { outcome, fault: None }
}
