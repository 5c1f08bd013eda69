//! Decides some instances of one service: the default mapping, then each policy in order.

use std::collections::HashMap;
use std::sync::Arc;

use landfall_core::decision::{DecidedService, Decision, DropReason, Fault, Outcome};
use landfall_core::defaults::Subject;
use landfall_core::finding::{Finding, FindingCode};
use landfall_core::mapping::{Address, Edit, Mapping, NO_PORT, Port, Verdict};
use landfall_core::name::Hostname;
use landfall_core::registry::{Instance, Locality, Service, ServiceId};
use landfall_core::text::{Interner, Text};

use crate::abi::{Item, ServiceFacts};
use crate::bench::Bench;
use crate::breaker::Breaker;
use crate::fault::{Failure, FaultCode, cut, is_transient, is_unasked};
use crate::findings::Findings;
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
    pub(crate) findings: Findings,
}

/// Places that one instance may be published at.
pub const MAPPINGS_PER_INSTANCE_MAX: usize = 64;
/// Memory that one policy's answer about an instance takes: 64 places of 500 bytes. With the number
/// of instances this bounds what a policy comes to over time, where each round changes little.
const INSTANCE_BYTES_MAX: usize = 32 << 10;
/// Of the reason of a drop, which is shown and counted.
const REASON_LEN_MAX: usize = 200;

/// The work on some instances of one service.
pub(crate) struct Chain<'a> {
    rules: &'a Rules,
    work: &'a Work,
    interner: Interner,
    findings: Findings,
    /// Host names that policies set and that are legal: the same few again and again.
    hosts: HashMap<Text, Hostname>,
}

/// An instance that is on its way, at one of its places.
#[derive(Debug)]
pub(crate) struct Live {
    /// The number of the instance among those asked for.
    pub(crate) slot: usize,
    pub(crate) mapping: Mapping,
}

/// Where an instance stands.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slot {
    /// Set when no further policy is asked.
    decision: Option<Decision>,
    /// Why its first place is none any more.
    dropped: Option<DropReason>,
    /// The memory that the answer takes of the policy that is being asked.
    bytes: usize,
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
            findings: Findings::default(),
            hosts: HashMap::new(),
        }
    }

    pub(crate) fn service(&self) -> ServiceFacts<'a> {
        let Work { id, registry, service, .. } = self.work;
        ServiceFacts { id, registry, service: Some(service) }
    }

    /// Where the defaults put instances.
    pub(crate) fn defaults(&mut self, pending: &[&Instance], slots: &mut [Slot]) -> Vec<Live> {
        let Work { id, service, .. } = self.work;
        let defaults = self.rules.defaults().of_service(id, service, &mut self.findings.listed);
        let mut live = Vec::with_capacity(pending.len());
        for (slot, instance) in pending.iter().enumerate() {
            match defaults.mapping(instance, &mut self.interner, &mut self.findings.listed) {
                Ok(mapping) => live.push(Live { slot, mapping }),
                Err(reason) => slots[slot].decision = Some(settled(Outcome::Dropped(reason))),
            }
            self.findings.bound(Some(&instance.id));
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
        let revision = &link.revision;
        let mut room = |bytes| breaker.take(revision, bytes);
        self.take(revision.name(), pending, live, slots, answers, &mut room)
    }

    /// Takes one policy's answers to everything that is on its way. `room` says whether there is any
    /// for so many bytes.
    pub(crate) fn take(
        &mut self,
        policy: &Text,
        pending: &[&Instance],
        live: Vec<Live>,
        slots: &mut [Slot],
        answers: Vec<Result<Verdict, Arc<Fault>>>,
        room: &mut dyn FnMut(usize) -> Result<(), Arc<Fault>>,
    ) -> Vec<Live> {
        for slot in &mut *slots {
            slot.bytes = 0;
        }
        let mut next = Vec::with_capacity(live.len());
        for (at, answer) in live.into_iter().zip(answers) {
            let slot = &mut slots[at.slot];
            if slot.decision.is_some() {
                continue;
            }
            let instance = pending[at.slot];
            // Behind the places of other instances stand those of this one.
            let taken = next.iter().rev().take_while(|l: &&Live| l.slot == at.slot).count();
            let findings = self.findings.listed.len();
            let result = answer.and_then(|verdict| {
                let placed = self
                    .apply(policy, instance, &at.mapping, verdict)
                    .and_then(|placed| check_places(taken + placed.places()).map(|()| placed))
                    .map_err(|failure| failure.into_fault(policy))?;
                let bytes = placed.bytes(&at.mapping) + bytes_of(&self.findings.listed[findings..]);
                slot.bytes += bytes;
                if slot.bytes > INSTANCE_BYTES_MAX {
                    return Err(too_long(policy));
                }
                room(bytes).map(|()| placed)
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
                        for (index, name) in &verdicts.unknown {
                            self.note_unknown(revision.name(), asked[*index].instance, name);
                        }
                        answers.extend(verdicts.values.into_iter().map(|verdict| {
                            verdict.map_err(|name| Failure::from(name).into_fault(revision.name()))
                        }));
                    }
                    // That there is no instance to ask says nothing of what it would be asked.
                    Err(failure) if failure.code == FaultCode::NoInstance => {
                        let fault = breaker.failed_alone(revision, failure, took);
                        answers.extend(asked.iter().map(|_| Err(Arc::clone(&fault))));
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
        let edited = begun.edited(edits, &subject, &mut self.interner, &mut self.findings.listed);
        self.findings.bound(Some(&instance.id));
        let edited =
            edited.map_err(|error| Failure::new(FaultCode::VerdictIllegal, error.to_string()))?;
        if known.is_none()
            && let Some(host) = host
            && edited.host.as_str() == host
        {
            self.hosts.insert(Text::from(host), edited.host.clone());
        }
        Ok(edited)
    }

    /// The decision on an instance that a policy failed on.
    pub(crate) fn kept(&self, instance: &Instance, fault: Arc<Fault>) -> Decision {
        let outcome = kept::outcome(self.work.before.as_deref(), instance);
        let fault = self.earlier(instance, &fault).unwrap_or(fault);
        Decision { outcome, fault: Some(fault) }
    }

    /// What the same policy failed with on the same facts the last time, if it was not even asked
    /// this time. To leave it untried says nothing new, and would make it look as if nothing were
    /// known against it. What was left out for good is not tried again for an old fault's sake.
    fn earlier(&self, instance: &Instance, fault: &Fault) -> Option<Arc<Fault>> {
        let says_nothing = is_unasked(fault.code) && is_transient(fault.code);
        let before = self.work.before.as_ref().filter(|_| says_nothing)?;
        let decision = before.kept(&self.work.service, instance, self.rules.mark())?;
        let is_same =
            |earlier: &&Arc<Fault>| earlier.policy == fault.policy && !is_unasked(earlier.code);
        decision.fault.as_ref().filter(is_same).map(Arc::clone)
    }

    /// The decisions, once every policy was asked.
    pub(crate) fn publish(
        mut self,
        pending: &[&Instance],
        live: Vec<Live>,
        slots: Vec<Slot>,
    ) -> Decided {
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
                        self.findings.listed.push(Finding::new(
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
            self.findings.bound(Some(&instance.id));
        }
        Decided { decisions, findings: self.findings }
    }

    fn note_unknown(&mut self, policy: &Text, instance: &Instance, name: &str) {
        self.findings.listed.push(Finding::new(
            FindingCode::Refused,
            Subject { id: &self.work.id, instance },
            format!("policy {policy} sets {name:?}, which this version of Landfall does not know; it was left out"),
        ));
        self.findings.bound(Some(&instance.id));
    }
}

/// What a verdict makes of one place.
#[derive(Debug)]
pub(crate) enum Placed {
    Same,
    At(Vec<Mapping>),
    Nowhere(DropReason),
}

impl Placed {
    /// How many places these are.
    pub(crate) fn places(&self) -> usize {
        match self {
            Self::Same => 1,
            Self::At(mappings) => mappings.len(),
            Self::Nowhere(_) => 0,
        }
    }

    /// The memory that this takes and `before` does not.
    fn bytes(&self, before: &Mapping) -> usize {
        match self {
            Self::Same => 0,
            Self::At(mappings) => mappings.iter().map(|mapping| added_bytes(mapping, before)).sum(),
            // Short, and mostly the same one.
            Self::Nowhere(_) => 0,
        }
    }
}

/// The memory that a mapping takes and the one that it was made of does not. Texts that it may share
/// with other instances are counted as if it did not.
fn added_bytes(mapping: &Mapping, before: &Mapping) -> usize {
    let Mapping {
        host,
        namespace,
        address,
        ports,
        labels,
        locality,
        weight: _,
        network,
        service_account,
    } = mapping;
    let mut bytes = size_of::<Mapping>() + host.as_str().len() + namespace.as_str().len();
    bytes += network.len() + service_account.len();
    if let Some(Address::Dns(name)) = address {
        bytes += name.as_str().len();
    }
    if let Some(Locality { region, zone, subzone }) = locality {
        bytes += region.len() + zone.len() + subzone.len();
    }
    if !Arc::ptr_eq(ports, &before.ports) {
        let of_port = |port: &Port| size_of::<Port>() + port.name.as_str().len();
        bytes += ports.iter().map(of_port).sum::<usize>();
    }
    if !std::ptr::eq(labels.as_slice(), before.labels.as_slice()) {
        let of_label =
            |(key, value): (&Text, &Text)| size_of::<[Text; 2]>() + key.len() + value.len();
        bytes += labels.iter().map(of_label).sum::<usize>();
    }
    bytes
}

fn bytes_of(findings: &[Finding]) -> usize {
    findings.iter().map(|f| size_of::<Finding>() + f.subject.len() + f.message.len()).sum()
}

fn too_long(policy: &Text) -> Arc<Fault> {
    Failure::new(
        FaultCode::VerdictIllegal,
        format!("the verdicts make more than {INSTANCE_BYTES_MAX} bytes of one instance"),
    )
    .into_fault(policy)
}

/// Whether an instance may be at so many places.
pub(crate) fn check_places(count: usize) -> Result<(), Failure> {
    if count > MAPPINGS_PER_INSTANCE_MAX {
        return Err(Failure::new(
            FaultCode::VerdictIllegal,
            format!("the verdicts put an instance at more than {MAPPINGS_PER_INSTANCE_MAX} places"),
        ));
    }
    Ok(())
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
