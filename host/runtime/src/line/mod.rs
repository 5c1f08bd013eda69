//! The line: from snapshots to what sinks should hold. Every subcommand goes through it.
//!
//! Invariant: cost follows change. Only services that differ from the last round are decided,
//! only the hosts they touch are grouped and rendered, only the objects of those are planned.
//! Nothing here waits for anything but the workers; time is an argument.

pub mod sink;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;
use landfall_core::decision::{DecidedService, DropReason, Fault, Outcome};
use landfall_core::diff::changed_services;
use landfall_core::finding::{Finding, FindingCode};
use landfall_core::group::{MeshServices, Redecided, group};
use landfall_core::guard::{Evidence, Trust};
use landfall_core::linger::Lingering;
use landfall_core::mesh::{HostKey, MeshService, ObjectId};
use landfall_core::pattern::Selector;
use landfall_core::plan::Desired;
use landfall_core::registry::{Doubt, Service, ServiceId, Snapshot, SourceName, SourceState};
use landfall_core::text::Text;
use landfall_core::time::Time;
use landfall_mesh::api::Body;
use landfall_mesh::render::{RenderOptions, render};
use landfall_policy_host::{Origin, Rules, Work, Workers};

/// The state of the line between rounds.
#[derive(Debug)]
pub struct Line {
    workers: Arc<Workers>,
    rules: Arc<Rules>,
    /// Services that wait for a policy which is not there yet.
    waiting: Vec<Selector>,
    options: LineOptions,
    sources: BTreeMap<SourceName, SourceLine>,
    decided: OrdMap<Arc<ServiceId>, Arc<DecidedService>>,
    services: MeshServices,
    lingering: Lingering,
    rendered: BTreeMap<HostKey, RenderedHost>,
    desired: Desired<Body>,
    /// Services whose instances a policy failed on without an earlier outcome to keep.
    missing: BTreeSet<Arc<ServiceId>>,
    setting_faults: BTreeMap<HostKey, Arc<Fault>>,
    /// Sources that the configuration no longer has; the next round takes them out.
    removed: BTreeSet<SourceName>,
    /// Whether the next round renders everything anew.
    render_all: bool,
}

/// What the line needs of the configuration besides the rules.
#[derive(Clone, Debug)]
pub struct LineOptions {
    /// How objects are made.
    pub render: RenderOptions,
    /// How long a host that lost its place goes on answering.
    pub grace: Duration,
}

#[derive(Debug)]
struct SourceLine {
    registry: &'static str,
    /// As of the last round; `None` until the first complete listing.
    snapshot: Option<Snapshot>,
    doubt: Option<Doubt>,
    findings: Arc<[Finding]>,
}

#[derive(Debug)]
struct RenderedHost {
    objects: Vec<ObjectId>,
    findings: Vec<Finding>,
}

/// What a round changed.
#[derive(Debug, Default)]
pub struct Round {
    /// Objects whose desired state differs from before.
    pub changed: BTreeSet<ObjectId>,
    /// Services decided anew.
    pub services: usize,
    /// When to run the next round though nothing changes.
    pub wake: Option<Time>,
}

/// Why new rules were not taken.
#[derive(Debug, thiserror::Error)]
#[error(
    "policy {policy} failed on {instances} instances, the first of them {first}; the rules before \
     stay at work"
)]
pub struct RulesRefused {
    /// The policy that failed.
    pub policy: Text,
    /// On how many instances.
    pub instances: usize,
    /// The first of them, as `source/service/instance`.
    pub first: String,
    /// How it failed.
    #[source]
    pub fault: FaultError,
}

/// A fault as the source of an error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct FaultError(pub Arc<Fault>);

impl Line {
    /// A line without sources yet.
    #[must_use]
    pub fn new(workers: Arc<Workers>, rules: Arc<Rules>, options: LineOptions) -> Self {
        Self {
            workers,
            rules,
            waiting: Vec::new(),
            options,
            sources: BTreeMap::new(),
            decided: OrdMap::new(),
            services: MeshServices::new(),
            lingering: Lingering::default(),
            rendered: BTreeMap::new(),
            desired: Desired::new(),
            missing: BTreeSet::new(),
            setting_faults: BTreeMap::new(),
            removed: BTreeSet::new(),
            render_all: false,
        }
    }

    /// Replaces the options; the next round renders everything by them.
    pub fn set_options(&mut self, options: LineOptions) {
        self.options = options;
        self.render_all = true;
    }

    /// Takes a source out that the configuration no longer has; its services go with the next
    /// round.
    pub fn remove_source(&mut self, name: &SourceName) {
        self.sources.remove(name);
        self.removed.insert(name.clone());
    }

    /// Adds a source; until its first complete listing nothing that it fed is removed.
    pub fn add_source(&mut self, name: SourceName, registry: &'static str) {
        self.removed.remove(&name);
        self.sources.entry(name).or_insert(SourceLine {
            registry,
            snapshot: None,
            doubt: None,
            findings: Arc::from([]),
        });
    }

    /// Says which services wait for a policy that could not be loaded yet: they keep what stands.
    pub fn set_waiting(&mut self, waiting: Vec<Selector>) {
        self.waiting = waiting;
    }

    /// Takes up what sources offer and works out what follows.
    pub fn round(&mut self, states: &BTreeMap<SourceName, SourceState>, now: Time) -> Round {
        let mut changes: Vec<(ServiceId, Option<Arc<Service>>)> = Vec::new();
        for (name, line) in &mut self.sources {
            let Some(state) = states.get(name) else { continue };
            line.doubt.clone_from(&state.doubt);
            line.findings = Arc::clone(&state.findings);
            let Some(snapshot) = &state.snapshot else { continue };
            let before = line.snapshot.get_or_insert_with(Snapshot::default);
            changes.extend(
                changed_services(before, snapshot)
                    .into_iter()
                    .map(|(key, service)| (ServiceId { source: name.clone(), key }, service)),
            );
            *before = snapshot.clone();
        }
        changes.extend(self.removals());
        let redecided = self.decide(changes, &Arc::clone(&self.rules));
        self.settle(redecided, now)
    }

    /// The services of sources that were removed.
    fn removals(&mut self) -> Vec<(ServiceId, Option<Arc<Service>>)> {
        let removed = std::mem::take(&mut self.removed);
        if removed.is_empty() {
            return Vec::new();
        }
        let ids = self.decided.keys().filter(|id| removed.contains(&id.source));
        ids.map(|id| (ServiceId::clone(id), None)).collect()
    }

    /// Decides everything by `rules` and takes them, unless `policy`, when named, failed on any
    /// instance: then everything stays as it is.
    ///
    /// # Errors
    /// The policy failed.
    pub fn change_rules(
        &mut self,
        rules: &Arc<Rules>,
        policy: Option<&Text>,
        now: Time,
    ) -> Result<Round, RulesRefused> {
        let all = self
            .sources
            .iter()
            .filter_map(|(name, line)| Some((name, line.snapshot.as_ref()?)))
            .flat_map(|(name, snapshot)| {
                snapshot.services.iter().map(move |(key, service)| {
                    let id = ServiceId { source: name.clone(), key: key.clone() };
                    (id, Some(Arc::clone(service)))
                })
            })
            .collect();
        let redecided = self.decide(all, rules);
        if let Some(policy) = policy {
            refuse_faults(&redecided, policy)?;
        }
        self.rules = Arc::clone(rules);
        Ok(self.settle(redecided, now))
    }

    /// Decides the changed services by `rules`; those that wait for a policy are left as they are.
    fn decide(
        &self,
        changes: Vec<(ServiceId, Option<Arc<Service>>)>,
        rules: &Arc<Rules>,
    ) -> Vec<(Arc<ServiceId>, Option<DecidedService>)> {
        let mut gone = Vec::new();
        let mut work = Vec::new();
        for (id, service) in changes {
            let id = Arc::new(id);
            let Some(service) = service else {
                gone.push((id, None));
                continue;
            };
            if self.waiting.iter().any(|selector| selector.matches(&id)) {
                continue;
            }
            let registry = self.sources.get(&id.source).map_or("", |source| source.registry);
            let before = self.decided.get(&id).map(Arc::clone);
            work.push(Work { id, registry, service, before });
        }
        let decided = self.workers.decide(rules, work);
        gone.into_iter()
            .chain(decided.into_iter().map(|service| (Arc::clone(&service.id), Some(service))))
            .collect()
    }

    /// Groups, lingers and renders what was redecided.
    fn settle(
        &mut self,
        redecided: Vec<(Arc<ServiceId>, Option<DecidedService>)>,
        now: Time,
    ) -> Round {
        let services = redecided.len();
        let mut before = Vec::with_capacity(services);
        let mut after = Vec::with_capacity(services);
        for (id, decided) in redecided {
            let old = match decided {
                Some(decided) => {
                    let decided = Arc::new(decided);
                    if lacks_outcome(&decided) {
                        self.missing.insert(Arc::clone(&id));
                    } else {
                        self.missing.remove(&id);
                    }
                    after.push(Some(Arc::clone(&decided)));
                    self.decided.insert(id, decided)
                }
                None => {
                    self.missing.remove(&id);
                    after.push(None);
                    self.decided.remove(&id)
                }
            };
            before.push(old);
        }
        let pairs: Vec<Redecided<'_>> = before
            .iter()
            .zip(&after)
            .map(|(before, now)| Redecided { before: before.as_deref(), now: now.as_deref() })
            .collect();
        let old_services = self.services.clone();
        let (services_now, mut touched) = group(old_services.clone(), &pairs);
        self.services = services_now;
        self.apply_settings(&touched);
        let decided = &self.decided;
        let published = |id: &ServiceId, instance_id: &str| {
            decided
                .get(id)
                .and_then(|service| service.decision(instance_id))
                .is_some_and(|(_, d)| matches!(d.outcome, Outcome::Published(_)))
        };
        let differ = self.lingering.advance(
            &old_services,
            &self.services,
            &touched,
            |id, endpoint| published(id, &endpoint.instance.id),
            self.options.grace,
            now,
        );
        touched.extend(differ);
        if std::mem::take(&mut self.render_all) {
            touched.extend(self.rendered.keys().cloned());
        }
        let mut changed = BTreeSet::new();
        for host in touched {
            self.render_host(&host, &mut changed);
        }
        Round { changed, services, wake: self.lingering.wake() }
    }

    /// Asks service policies about the touched hosts. One that fails leaves the settings as they
    /// were.
    fn apply_settings(&mut self, touched: &BTreeSet<HostKey>) {
        if !self.rules.links().iter().any(|link| link.revision.decides_services()) {
            return;
        }
        let services: Vec<Arc<MeshService>> =
            touched.iter().filter_map(|host| self.services.get(host)).map(Arc::clone).collect();
        let origin = |id: &ServiceId| Origin {
            registry: self.registry(&id.source),
            service: self.decided.get(id).map(|decided| Arc::clone(&decided.service)),
        };
        let answers = self.workers.settings(&self.rules, services.clone(), &origin);
        for (service, answer) in services.into_iter().zip(answers) {
            match answer {
                Ok(settings) => {
                    self.setting_faults.remove(&service.key);
                    if settings != service.settings {
                        let mut changed = (*service).clone();
                        changed.settings = settings;
                        self.services.insert(service.key.clone(), Arc::new(changed));
                    }
                }
                Err(fault) => {
                    self.setting_faults.insert(service.key.clone(), fault);
                }
            }
        }
    }

    /// Renders the service at `host`, or what lingers there, and notes the objects that differ.
    fn render_host(&mut self, host: &HostKey, changed: &mut BTreeSet<ObjectId>) {
        let service = self.services.get(host).or_else(|| self.lingering.get(host));
        let old = self.rendered.remove(host);
        let mut gone: BTreeSet<ObjectId> =
            old.into_iter().flat_map(|rendered| rendered.objects).collect();
        if let Some(service) = service {
            let rendered = render(service, &self.options.render);
            let mut objects = Vec::with_capacity(rendered.objects.len());
            for object in rendered.objects {
                gone.remove(&object.id);
                objects.push(object.id.clone());
                let known = self.desired.get(&object.id);
                if known.is_none_or(|known| **known != object) {
                    changed.insert(object.id.clone());
                    self.desired.insert(object.id.clone(), Arc::new(object));
                }
            }
            let rendered = RenderedHost { objects, findings: rendered.findings };
            self.rendered.insert(host.clone(), rendered);
        }
        for id in gone {
            self.desired.remove(&id);
            changed.insert(id);
        }
    }

    /// What sinks should hold.
    #[must_use]
    pub fn desired(&self) -> &Desired<Body> {
        &self.desired
    }

    /// How far each source can be trusted. One is doubtful, too, while some of its services wait
    /// for a policy, or a policy failed on them without an earlier outcome: what was published of
    /// them before this process began is then not in what is desired.
    #[must_use]
    pub fn evidence(&self) -> Evidence {
        let missing: BTreeSet<&SourceName> = self.missing.iter().map(|id| &id.source).collect();
        self.sources
            .iter()
            .map(|(name, source)| {
                let waits = !self.waiting.is_empty();
                let trust = match (&source.snapshot, &source.doubt) {
                    (None, _) => Trust::Silent,
                    (Some(_), Some(_)) => Trust::Doubtful,
                    (Some(_), None) if waits || missing.contains(name) => Trust::Doubtful,
                    (Some(_), None) => Trust::Current,
                };
                (name.clone(), trust)
            })
            .collect()
    }

    /// Why sources are in doubt, by name.
    pub fn doubts(&self) -> impl Iterator<Item = (&SourceName, &Doubt)> {
        self.sources.iter().filter_map(|(name, source)| Some((name, source.doubt.as_ref()?)))
    }

    /// Every service that was decided.
    #[must_use]
    pub fn decided(&self) -> &OrdMap<Arc<ServiceId>, Arc<DecidedService>> {
        &self.decided
    }

    /// The services of the mesh.
    #[must_use]
    pub fn services(&self) -> &MeshServices {
        &self.services
    }

    /// The objects that stand for `host`.
    #[must_use]
    pub fn objects(&self, host: &HostKey) -> &[ObjectId] {
        self.rendered.get(host).map_or(&[], |rendered| &rendered.objects)
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
        self.sources.get(source).map_or("", |source| source.registry)
    }

    /// Everything that a person should know, in order.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let of_sources = self.sources.values().flat_map(|source| source.findings.iter().cloned());
        let of_services =
            self.decided.values().flat_map(|decided| decided.findings.iter().cloned());
        let of_hosts = self.services.values().flat_map(|service| service.findings.iter().cloned());
        let of_objects = self.rendered.values().flat_map(|host| host.findings.iter().cloned());
        let of_settings = self
            .setting_faults
            .iter()
            .map(|(host, fault)| Finding::new(FindingCode::PolicyFault, host, fault.to_string()));
        let mut all: Vec<Finding> = of_sources
            .chain(of_services)
            .chain(of_hosts)
            .chain(of_objects)
            .chain(of_settings)
            .collect();
        all.sort();
        all.dedup();
        all
    }
}

fn refuse_faults(
    redecided: &[(Arc<ServiceId>, Option<DecidedService>)],
    policy: &Text,
) -> Result<(), RulesRefused> {
    let mut first = None;
    let mut instances = 0;
    for (id, decided) in redecided {
        let Some(decided) = decided else { continue };
        for (instance, decision) in decided.service.instances().iter().zip(&decided.decisions) {
            let Some(fault) = decision.fault.as_ref().filter(|f| f.policy == *policy) else {
                continue;
            };
            instances += 1;
            first.get_or_insert_with(|| (format!("{id}/{}", instance.id), Arc::clone(fault)));
        }
    }
    match first {
        None => Ok(()),
        Some((first, fault)) => Err(RulesRefused {
            policy: Text::clone(policy),
            instances,
            first,
            fault: FaultError(fault),
        }),
    }
}

fn lacks_outcome(decided: &DecidedService) -> bool {
    let dropped = |outcome: &Outcome| matches!(outcome, Outcome::Dropped(DropReason::Fault));
    decided.decisions.iter().any(|decision| decision.fault.is_some() && dropped(&decision.outcome))
}
