//! The line: from snapshots to what sinks should hold. Every subcommand goes through it.
//!
//! Invariant: cost follows change. Only services that differ from the last round are decided,
//! only the hosts they touch are grouped and rendered, only the objects of those are planned.
//! Nothing here waits for anything but the workers; time is an argument.

mod again;
mod claims;
mod draft;
mod names;
mod published;
mod rehearsal;
pub mod sink;
mod undecided;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;
use landfall_core::decision::{DecidedService, DropReason, Fault, Outcome};
use landfall_core::diff::changed_services;
use landfall_core::finding::{Finding, FindingCode};
use landfall_core::group::MeshServices;
use landfall_core::guard::{Evidence, Trust};
use landfall_core::linger::{Change, Lingering};
use landfall_core::mesh::{HostKey, MeshService, ObjectId, Tie};
use landfall_core::pattern::Selector;
use landfall_core::plan::{Desired, Entries};
use landfall_core::registry::{Doubt, Service, ServiceId, Snapshot, SourceName, SourceState};
use landfall_core::sharing::{Ranks, Sharing};
use landfall_core::text::Text;
use landfall_core::time::Time;
use landfall_mesh::api::Body;
use landfall_mesh::render::{RenderOptions, given_name, render, service_entry_id};
use landfall_policy_host::{Rules, Workers};

use self::again::Again;
use self::claims::{Claim, Claims};
use self::draft::{Answer, Asked, DecidedChange, DecidedServices, Draft, Known, judge, note_fault};
pub use self::draft::{Faulted, RulesRefused};
use self::names::{Names, Wish};
use self::published::{is_published_in, moved_to};
pub use self::rehearsal::{Rehearsal, Rehearsed};
use self::undecided::Undecided;

/// The state of the line between rounds.
#[derive(Debug)]
pub struct Line {
    rules: Arc<Rules>,
    options: LineOptions,
    sources: BTreeMap<SourceName, SourceLine>,
    known: Known,
    lingering: Lingering,
    rendered: BTreeMap<HostKey, RenderedHost>,
    claims: Claims,
    names: Names,
    desired: Desired<Body>,
    entries: Entries,
    undecided: Undecided,
    again: Again,
    setting_faults: BTreeMap<HostKey, Arc<Fault>>,
    /// Services of the mesh that one source has alone.
    ranks: OrdMap<Tie, Ranks>,
    finding_counts: BTreeMap<FindingCode, usize>,
    /// Whether the next round renders everything anew.
    render_all: bool,
}

/// What the line needs of the configuration besides the rules.
#[derive(Clone, Debug)]
pub struct LineOptions {
    /// How objects are made.
    pub render: RenderOptions,
    /// How sources share hosts.
    pub sharing: Arc<Sharing>,
    /// How long a host that lost its place goes on answering.
    pub grace: Duration,
}

#[derive(Debug)]
struct SourceLine {
    /// As of the last round; `None` until the first complete listing.
    snapshot: Option<Snapshot>,
    /// Whether the source as it is configured now has given a complete listing.
    has_spoken: bool,
    /// Whether the configuration no longer has it: the next round takes its services out.
    is_removed: bool,
    doubt: Option<Doubt>,
    findings: Arc<[Finding]>,
}

#[derive(Debug)]
struct RenderedHost {
    objects: Vec<ObjectId>,
    findings: Vec<Finding>,
    /// What its objects have in common; `None` when there are none.
    tie: Option<Tie>,
}

/// What a round renders, as far as it was gone through.
#[derive(Debug, Default)]
struct Rendering {
    /// ServiceEntries that are wanted.
    entries: BTreeSet<ObjectId>,
    /// Objects that their hosts have no more, and where the endpoints moved that they had.
    gone: Vec<(ObjectId, BTreeSet<Tie>)>,
}

/// What a round changed.
#[derive(Debug, Default)]
pub struct Round {
    /// Objects whose desired state differs from before.
    pub changed: BTreeSet<ObjectId>,
    /// Of those, objects that are gone and whose endpoints moved, the grace time ago, to these
    /// services of the mesh.
    pub moved: BTreeMap<ObjectId, BTreeSet<Tie>>,
    /// Services decided anew.
    pub services: usize,
    /// Findings that were not there before.
    pub findings: Vec<Finding>,
    /// How policies failed that did not fail so before, by policy.
    pub faults: BTreeMap<Text, Faulted>,
    /// When to run the next round though nothing changes.
    pub wake: Option<Time>,
}

impl Line {
    /// A line without sources yet.
    #[must_use]
    pub fn new(workers: Arc<Workers>, rules: Arc<Rules>, options: LineOptions) -> Self {
        let (sharing, shared_by) = (Arc::clone(&options.sharing), Arc::clone(&options.sharing));
        Self {
            rules,
            options,
            sources: BTreeMap::new(),
            known: Known {
                workers,
                registries: BTreeMap::new(),
                waiting: Vec::new(),
                sharing,
                shared_by,
                decided: DecidedServices::new(),
                services: MeshServices::new(),
            },
            lingering: Lingering::default(),
            rendered: BTreeMap::new(),
            claims: Claims::default(),
            names: Names::default(),
            desired: Desired::new(),
            entries: Entries::new(),
            undecided: Undecided::default(),
            again: Again::default(),
            setting_faults: BTreeMap::new(),
            ranks: OrdMap::new(),
            finding_counts: BTreeMap::new(),
            render_all: false,
        }
    }

    /// Replaces the options; the next round renders everything by them.
    pub fn set_options(&mut self, options: LineOptions) {
        if self.known.sharing != options.sharing {
            self.known.sharing = Arc::clone(&options.sharing);
        }
        self.options = options;
        self.render_all = true;
    }

    /// Takes a source out that the configuration no longer has; its services go with the next
    /// round.
    pub fn remove_source(&mut self, name: &SourceName) {
        if let Some(source) = self.sources.get_mut(name) {
            source.is_removed = true;
        }
    }

    /// Adds a source, or replaces the one of this name. Until its first complete listing nothing
    /// that a source of this name fed is removed.
    pub fn add_source(&mut self, name: SourceName, registry: &'static str) {
        // What the one before listed stays known, so that only what differs is decided.
        let before = self.sources.remove(&name);
        if let Some(before) = &before {
            count(&mut self.finding_counts, &before.findings, &[]);
        }
        let snapshot = before.and_then(|source| source.snapshot);
        self.known.registries.insert(name.clone(), registry);
        let source = SourceLine {
            snapshot,
            has_spoken: false,
            is_removed: false,
            doubt: None,
            findings: Arc::from([]),
        };
        self.sources.insert(name, source);
    }

    /// Says which services wait for a policy that could not be loaded yet: they keep what stands.
    pub fn set_waiting(&mut self, waiting: Vec<Selector>) {
        self.known.waiting = waiting;
    }

    /// Takes up what sources offer and works out what follows.
    pub fn round(&mut self, states: &BTreeMap<SourceName, SourceState>, now: Time) -> Round {
        let mut changes: Vec<(Arc<ServiceId>, Option<Arc<Service>>)> = Vec::new();
        let mut findings = Vec::new();
        for (name, line) in &mut self.sources {
            let nothing = Snapshot::default();
            let snapshot = if line.is_removed {
                &nothing
            } else {
                let Some(state) = states.get(name) else { continue };
                line.doubt.clone_from(&state.doubt);
                if !Arc::ptr_eq(&line.findings, &state.findings) {
                    count(&mut self.finding_counts, &line.findings, &state.findings);
                    findings.extend(appeared(&line.findings, &state.findings));
                    line.findings = Arc::clone(&state.findings);
                }
                let Some(snapshot) = &state.snapshot else { continue };
                line.has_spoken = true;
                snapshot
            };
            let before = line.snapshot.get_or_insert_with(Snapshot::default);
            changes.extend(
                changed_services(before, snapshot).into_iter().map(|(key, service)| {
                    (ServiceId { source: name.clone(), key }.into(), service)
                }),
            );
            *before = snapshot.clone();
        }
        self.forget_removed();
        let rules = Arc::clone(&self.rules);
        let changed: BTreeSet<Arc<ServiceId>> =
            changes.iter().map(|(id, _)| Arc::clone(id)).collect();
        let waiting = self.known.waiting_of(&changes);
        self.note_waiting(waiting);
        let mut redecided = self.known.decide(changes, &rules, None);
        let mut asked = Asked::Touched(BTreeSet::new());
        if let Some((services, hosts)) = self.again.take_due(now) {
            redecided.extend(self.known.decide_again(services, &changed, &rules));
            asked = Asked::Touched(hosts);
        }
        let draft = self.known.draft(redecided, &rules, asked);
        let mut round = self.settle(draft, now);
        round.findings.append(&mut findings);
        round
    }

    fn forget_removed(&mut self) {
        let counts = &mut self.finding_counts;
        let registries = &mut self.known.registries;
        self.sources.retain(|name, source| {
            if source.is_removed {
                count(counts, &source.findings, &[]);
                registries.remove(name);
            }
            !source.is_removed
        });
    }

    /// What is listed, to be decided by `rules` beside the line while services in `waiting` wait
    /// for a policy. The rules are refused where one of the policies in `judged` fails.
    #[must_use]
    pub fn rehearsal(
        &self,
        rules: Arc<Rules>,
        judged: BTreeSet<Text>,
        waiting: Vec<Selector>,
    ) -> Rehearsal {
        let known = Known { waiting, ..self.known.clone() };
        Rehearsal { rules, judged, known, options: None, listed: self.listed() }
    }

    fn listed(&self) -> Vec<(Arc<ServiceId>, Option<Arc<Service>>)> {
        self.sources
            .iter()
            .filter_map(|(name, line)| Some((name, line.snapshot.as_ref()?)))
            .flat_map(|(name, snapshot)| {
                snapshot.services.iter().map(move |(key, service)| {
                    let id = ServiceId { source: name.clone(), key: key.clone() };
                    (Arc::new(id), Some(Arc::clone(service)))
                })
            })
            .collect()
    }

    /// Takes rules that were rehearsed, and the options that go with them, after deciding what
    /// changed since, unless a policy that is judged fails on that: then everything stays as it is.
    ///
    /// # Errors
    /// A policy failed.
    pub fn take_rules(&mut self, rehearsed: Rehearsed, now: Time) -> Result<Round, RulesRefused> {
        let options = rehearsed.options.clone();
        let sharing = options.as_ref().map_or(&self.known.sharing, |_| &rehearsed.sharing);
        let known = Known {
            waiting: rehearsed.waiting.clone(),
            sharing: Arc::clone(sharing),
            ..self.known.clone()
        };
        let rules = Arc::clone(&rehearsed.rules);
        let mut listed = self.listed();
        let removed = listed.iter_mut().filter(|(id, _)| rehearsed.removed.contains(&id.source));
        removed.for_each(|(_, service)| *service = None);
        let waiting = known.waiting_of(&listed);
        let redecided = known.decide(listed, &rules, Some(&rehearsed.decided));
        let draft = known.draft(redecided, &rules, Asked::All(Some(&rehearsed)));
        judge(&draft, &rehearsed.judged)?;
        self.known = known;
        if let Some(options) = options {
            self.set_options(options);
        }
        self.note_waiting(waiting);
        self.rules = rules;
        for name in &rehearsed.removed {
            // Nothing of it is decided any more; should the source come back, all of it is new.
            if let Some(source) = self.sources.get_mut(name) {
                source.snapshot = None;
            }
        }
        Ok(self.settle(draft, now))
    }

    /// They keep what an earlier process published.
    fn note_waiting(&mut self, waiting: Vec<Arc<ServiceId>>) {
        waiting.into_iter().for_each(|id| self.undecided.add_service(id));
    }

    /// Takes a draft: lingers and renders what it touched.
    fn settle(&mut self, draft: Draft, now: Time) -> Round {
        let Draft { changes, decided, services, mut touched, answers } = draft;
        let mut round = Round { services: changes.len(), ..Round::default() };
        let redecided: BTreeSet<Arc<ServiceId>> =
            changes.iter().map(|change| Arc::clone(&change.id)).collect();
        for change in &changes {
            self.note_decided(change, &mut round);
        }
        self.known.decided = decided;
        self.known.shared_by = Arc::clone(&self.known.sharing);
        let services_before = std::mem::replace(&mut self.known.services, services);
        for (host, answer) in answers {
            let is_new = !services_before.contains_key(&host);
            self.note_answer(host, answer, is_new, &mut touched, &mut round);
        }
        let changed = changes.iter().map(|change| (&*change.id, change)).collect();
        let advanced = self.lingering.advance(
            &Change {
                before: &services_before,
                now: &self.known.services,
                touched: &touched,
                redecided: &redecided,
            },
            is_published_in(&self.known.decided),
            |service| moved_to(service, &changed),
            self.options.grace,
            now,
        );
        for host in &touched {
            let findings = |services: &MeshServices| -> Vec<Finding> {
                services.get(host).map(|service| service.findings.clone()).unwrap_or_default()
            };
            let (before, now) = (findings(&services_before), findings(&self.known.services));
            count(&mut self.finding_counts, &before, &now);
            round.findings.extend(appeared(&before, &now));
            if !self.known.services.contains_key(host) {
                self.undecided.remove_host(host);
                self.again.note_host(host, None);
                if let Some(fault) = self.setting_faults.remove(host) {
                    count(&mut self.finding_counts, &[setting_finding(host, &fault)], &[]);
                }
            }
        }
        touched.extend(advanced.differ);
        if std::mem::take(&mut self.render_all) {
            touched.extend(self.rendered.keys().cloned());
        }
        let renamed: Vec<HostKey> = touched.iter().flat_map(|host| self.note_name(host)).collect();
        touched.extend(renamed);
        let mut rendering = Rendering::default();
        for host in &touched {
            let moved_to = advanced.ended.get(host).map(|places| &**places);
            self.render_host(host, &mut round, moved_to, &mut rendering);
        }
        // Another host may have the name by now.
        let Rendering { entries, gone } = rendering;
        for (id, places) in gone.into_iter().filter(|(id, _)| !entries.contains(id)) {
            self.desired.remove(&id);
            if !places.is_empty() {
                round.moved.insert(id.clone(), places);
            }
            round.changed.insert(id);
        }
        self.again.schedule(now);
        round.wake = [self.lingering.wake(), self.again.due_at()].into_iter().flatten().min();
        round
    }

    /// Takes up what became of one service of a registry.
    fn note_decided(&mut self, change: &DecidedChange, round: &mut Round) {
        let DecidedChange { id, before, now } = change;
        change.note_faults(&mut round.faults);
        match now {
            // An instance that came later is not among what an earlier process published.
            Some(now) if lacks_outcome(now) => {
                if before.is_none() {
                    self.undecided.add_service(Arc::clone(id));
                }
            }
            Some(_) | None => self.undecided.remove_service(id),
        }
        self.again.note_service(id, now.as_deref());
        let of = |service: &Option<Arc<DecidedService>>| -> Vec<Finding> {
            service.as_ref().map(|service| service.findings.clone()).unwrap_or_default()
        };
        let (before, now) = (of(before), of(now));
        count(&mut self.finding_counts, &before, &now);
        round.findings.extend(appeared(&before, &now));
    }

    /// Takes up what service policies say of `host`. One that is new and was never answered for is
    /// not rendered, for its settings may be what keeps others from seeing it.
    fn note_answer(
        &mut self,
        host: HostKey,
        answer: Answer,
        is_new: bool,
        touched: &mut BTreeSet<HostKey>,
        round: &mut Round,
    ) {
        let finding = |fault: &Arc<Fault>| setting_finding(&host, fault);
        let before: Vec<Finding> =
            self.setting_faults.get(&host).map(finding).into_iter().collect();
        let now: Vec<Finding> = answer.as_ref().err().map(finding).into_iter().collect();
        count(&mut self.finding_counts, &before, &now);
        round.findings.extend(appeared(&before, &now));
        if let Err(fault) = &answer
            && self.setting_faults.get(&host) != Some(fault)
        {
            note_fault(&mut round.faults, fault, || host.to_string());
        }
        self.again.note_host(&host, answer.as_ref().err());
        match answer {
            Ok(_) => {
                self.setting_faults.remove(&host);
                if self.undecided.remove_host(&host) {
                    touched.insert(host);
                }
            }
            Err(fault) => {
                if (is_new || self.undecided.has_host(&host))
                    && let Some(service) = self.known.services.get(&host)
                {
                    let origins = service.offers.iter().map(|offer| Arc::clone(&offer.origin));
                    self.undecided.set_host(host.clone(), origins.collect());
                }
                self.setting_faults.insert(host, fault);
            }
        }
    }

    /// What is to be rendered at `host`, and whether that is a service or what lingers there.
    fn at(&self, host: &HostKey) -> Option<(&Arc<MeshService>, bool)> {
        let service = self.known.services.get(host).filter(|_| !self.undecided.has_host(host));
        let service = service.map(|service| (service, true));
        service.or_else(|| Some((self.lingering.get(host)?, false)))
    }

    /// Takes up under which name the object of `host` is to be, and returns hosts whose objects get
    /// other names by that.
    fn note_name(&mut self, host: &HostKey) -> Vec<HostKey> {
        let wish = self
            .at(host)
            .map(|(service, is_current)| Wish { given: given_name(service), is_current });
        self.names.set(host, &service_entry_id(host).name, wish)
    }

    /// Renders the service at `host`, or what lingers there, and notes what differs. `moved_to` is
    /// where the endpoints moved that what is gone had.
    fn render_host(
        &mut self,
        host: &HostKey,
        round: &mut Round,
        moved_to: Option<&BTreeSet<HostKey>>,
        rendering: &mut Rendering,
    ) {
        let old = self.rendered.remove(host);
        if let Some(tie) = old.as_ref().and_then(|old| old.tie.as_ref()) {
            self.ranks.remove(tie);
            self.entries.remove(tie);
        }
        let (objects_before, findings_before) =
            old.map_or_else(Default::default, |rendered| (rendered.objects, rendered.findings));
        let mut gone: BTreeSet<ObjectId> = objects_before.into_iter().collect();
        let mut findings = Vec::new();
        let mut claim = None;
        // What lingers gives way to whoever has the name by now.
        if let Some((service, is_current)) = self.at(host) {
            let mut rendered = render(service, &self.options.render);
            let mut objects = Vec::with_capacity(rendered.objects.len());
            let ranks = if is_current { service.ranks() } else { None };
            if let Some(entry) = rendered.objects.first_mut()
                && let Some(taken) = self.names.taken_from(host)
            {
                rendered.findings.push(names::finding(host, taken));
                entry.id = service_entry_id(host);
            }
            let tie = rendered.objects.first().map(|entry| {
                let tie = entry.tie();
                rendering.entries.insert(entry.id.clone());
                self.entries.insert(Tie::clone(&tie), entry.id.clone());
                tie
            });
            if let (Some(tie), Some(ranks)) = (&tie, ranks) {
                self.ranks.insert(Tie::clone(tie), ranks);
            }
            for object in rendered.objects {
                gone.remove(&object.id);
                objects.push(object.id.clone());
                if is_current && let Some(entry) = object.body.service_entry() {
                    claim = Some(Claim::of(entry, &object.id.namespace));
                }
                let known = self.desired.get(&object.id);
                if known.is_none_or(|known| **known != object) {
                    round.changed.insert(object.id.clone());
                    self.desired.insert(object.id.clone(), Arc::new(object));
                }
            }
            findings.clone_from(&rendered.findings);
            let rendered = RenderedHost { objects, findings: rendered.findings, tie };
            self.rendered.insert(host.clone(), rendered);
        }
        count(&mut self.finding_counts, &findings_before, &findings);
        round.findings.extend(appeared(&findings_before, &findings));
        let claims = self.claims.set(host, claim);
        count(&mut self.finding_counts, &claims.before, &claims.now);
        round.findings.extend(appeared(&claims.before, &claims.now));
        let places = moved_to.into_iter().flatten();
        let places: BTreeSet<Tie> = places.filter_map(|host| self.tie(host)).collect();
        rendering.gone.extend(gone.into_iter().map(|id| (id, places.clone())));
    }

    /// What the objects of `host` have in common.
    fn tie(&self, host: &HostKey) -> Option<Tie> {
        Some(self.desired.get(self.objects(host).first()?)?.tie())
    }

    /// What sinks should hold.
    #[must_use]
    pub fn desired(&self) -> &Desired<Body> {
        &self.desired
    }

    /// Which ServiceEntries services are to have.
    #[must_use]
    pub fn entries(&self) -> &Entries {
        &self.entries
    }

    /// What proves that something is gone.
    #[must_use]
    pub fn evidence(&self) -> Evidence {
        let trust = |source: &SourceLine| match (source.has_spoken, &source.doubt) {
            (false, None) => Trust::Unheard,
            (false, Some(_)) => Trust::Silent,
            (true, Some(_)) => Trust::Doubtful,
            (true, None) => Trust::Current,
        };
        Evidence {
            // What went with the configuration proves nothing any more.
            sources: self
                .sources
                .iter()
                .filter(|(_, line)| !line.is_removed)
                .map(|(name, line)| (name.clone(), trust(line)))
                .collect(),
            undecided: self.undecided.printed().clone(),
            unanswered: self.undecided.unanswered().clone(),
            ranks: self.ranks.clone(),
        }
    }

    /// Every service that was decided.
    #[must_use]
    pub fn decided(&self) -> &OrdMap<Arc<ServiceId>, Arc<DecidedService>> {
        &self.known.decided
    }

    /// The services of the mesh.
    #[must_use]
    pub fn services(&self) -> &MeshServices {
        &self.known.services
    }

    /// The objects that stand for `host`.
    #[must_use]
    pub fn objects(&self, host: &HostKey) -> &[ObjectId] {
        self.rendered.get(host).map_or(&[], |rendered| &rendered.objects)
    }

    /// Whether nothing is made of `host`, though there is a service, because a service policy fails
    /// on it; what an earlier process published there stays.
    #[must_use]
    pub fn is_undecided(&self, host: &HostKey) -> bool {
        self.undecided.has_host(host)
    }

    /// What a person should know of `host` and of the objects that stand for it, in order.
    #[must_use]
    pub fn host_findings(&self, host: &HostKey) -> Vec<Finding> {
        let of_service =
            self.known.services.get(host).into_iter().flat_map(|s| s.findings.iter().cloned());
        let of_objects =
            self.rendered.get(host).into_iter().flat_map(|r| r.findings.iter().cloned());
        let of_settings = self.setting_faults.get(host).map(|fault| setting_finding(host, fault));
        let of_names = self.claims.of_host(host);
        let mut findings: Vec<Finding> =
            of_service.chain(of_objects).chain(of_settings).chain(of_names).collect();
        findings.sort();
        findings.dedup();
        findings
    }

    /// How many hosts are in their grace time.
    #[must_use]
    pub fn lingering(&self) -> usize {
        self.lingering.len()
    }

    /// The rules at work.
    #[must_use]
    pub fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// The kind of registry that a source watches.
    #[must_use]
    pub fn registry(&self, source: &SourceName) -> &'static str {
        self.known.registry(source)
    }

    /// How many findings there are of each kind.
    #[must_use]
    pub fn finding_counts(&self) -> &BTreeMap<FindingCode, usize> {
        &self.finding_counts
    }

    /// Everything that a person should know, in order. Walks everything: for who looks once.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let of_sources = self.sources.values().flat_map(|source| source.findings.iter().cloned());
        let of_services =
            self.known.decided.values().flat_map(|decided| decided.findings.iter().cloned());
        let of_hosts =
            self.known.services.values().flat_map(|service| service.findings.iter().cloned());
        let of_objects = self.rendered.values().flat_map(|host| host.findings.iter().cloned());
        let of_settings =
            self.setting_faults.iter().map(|(host, fault)| setting_finding(host, fault));
        let mut all: Vec<Finding> = of_sources
            .chain(of_services)
            .chain(of_hosts)
            .chain(of_objects)
            .chain(of_settings)
            .chain(self.claims.findings())
            .collect();
        all.sort();
        all.dedup();
        all
    }
}

fn lacks_outcome(decided: &DecidedService) -> bool {
    let dropped = |outcome: &Outcome| matches!(outcome, Outcome::Dropped(DropReason::Fault));
    decided.decisions.iter().any(|decision| decision.fault.is_some() && dropped(&decision.outcome))
}

fn setting_finding(host: &HostKey, fault: &Arc<Fault>) -> Finding {
    Finding::new(FindingCode::PolicyFault, host, fault.to_string())
}

/// Replaces findings in the counts.
fn count(counts: &mut BTreeMap<FindingCode, usize>, before: &[Finding], now: &[Finding]) {
    for finding in before {
        if let Some(count) = counts.get_mut(&finding.code) {
            *count -= 1;
        }
    }
    for finding in now {
        *counts.entry(finding.code).or_default() += 1;
    }
}

/// The findings that were not there before.
fn appeared(before: &[Finding], now: &[Finding]) -> impl Iterator<Item = Finding> {
    now.iter().filter(|finding| !before.contains(finding)).cloned()
}
