//! What the line would be after a change: decided and grouped, and service policies asked. Nothing
//! is taken yet, so that new policies can be judged by it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use landfall_core::decision::{DecidedService, Fault};
use landfall_core::group::{MeshServices, Redecided, group, regroup};
use landfall_core::mesh::{HostKey, MeshService, Setting};
use landfall_core::pattern::Selector;
use landfall_core::registry::{Service, ServiceId, SourceName};
use landfall_core::sharing::Sharing;
use landfall_core::text::Text;
use landfall_policy_host::{Origin, Rules, Work, Workers};

use super::rehearsal::Rehearsed;

/// What the line would be after a change. Nothing is changed yet: persistent maps share what is
/// equal.
pub(super) struct Draft {
    pub(super) changes: Vec<DecidedChange>,
    pub(super) decided: DecidedServices,
    pub(super) services: MeshServices,
    pub(super) touched: BTreeSet<HostKey>,
    pub(super) answers: Vec<(HostKey, Answer)>,
}

/// The services of registries with what was decided of them.
pub(super) type DecidedServices = OrdMap<Arc<ServiceId>, Arc<DecidedService>>;

/// What service policies say of a host.
pub(super) type Answer = Result<Arc<[Setting]>, Arc<Fault>>;

pub(super) struct DecidedChange {
    pub(super) id: Arc<ServiceId>,
    pub(super) before: Option<Arc<DecidedService>>,
    pub(super) now: Option<Arc<DecidedService>>,
}

/// About which hosts service policies are asked.
#[derive(Debug)]
pub(super) enum Asked<'a> {
    /// Those whose endpoints, or the facts of whose origins, changed, and these.
    Touched(BTreeSet<HostKey>),
    /// All, for the policies changed, but for those of which nothing differs from this draft.
    All(Option<&'a Rehearsed>),
}

/// How a policy failed.
#[derive(Debug)]
pub struct Faulted {
    /// On how many instances or hosts.
    pub count: usize,
    /// The first of them, as `source/service/instance` or `namespace/host`.
    pub first: String,
    /// How it failed there.
    pub fault: Arc<Fault>,
}

/// Why new rules were not taken.
#[derive(Debug, thiserror::Error)]
pub enum RulesRefused {
    /// A policy failed.
    #[error(
        "policy {policy} failed on {count} instances or hosts, the first of them {first}; the \
         rules before stay at work"
    )]
    Failed {
        /// The policy that failed.
        policy: Text,
        /// On how many instances, or hosts.
        count: usize,
        /// The first of them, as `source/service/instance` or `namespace/host`.
        first: String,
        /// How it failed.
        #[source]
        fault: Arc<Fault>,
    },
    /// Landfall did, which is a defect.
    #[error("Landfall failed over them, see the log; the rules before stay at work. Report this")]
    Panicked,
}

impl RulesRefused {
    /// How, of a closed set.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Failed { fault, .. } => fault.code,
            Self::Panicked => "host_panic",
        }
    }
}

/// What is known, and what follows from it under the rules at work.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) workers: Arc<Workers>,
    /// The kind of registry of each source.
    pub(super) registries: BTreeMap<SourceName, &'static str>,
    /// Services that wait for a policy which is not there yet.
    pub(super) waiting: Vec<Selector>,
    /// How sources share hosts.
    pub(super) sharing: Arc<Sharing>,
    /// How they shared `services`.
    pub(super) shared_by: Arc<Sharing>,
    pub(super) decided: DecidedServices,
    pub(super) services: MeshServices,
}

/// Services decided anew; `None` when it is gone.
pub(super) type Redecisions = Vec<(Arc<ServiceId>, Option<Arc<DecidedService>>)>;

impl Known {
    /// The kind of registry that a source watches.
    pub(super) fn registry(&self, source: &SourceName) -> &'static str {
        self.registries.get(source).copied().unwrap_or_default()
    }

    /// Whether a service waits for a policy: it is left as it is.
    pub(super) fn waits(&self, id: &ServiceId) -> bool {
        self.waiting.iter().any(|selector| selector.matches(id))
    }

    /// The services that wait for a policy and of which nothing was decided.
    pub(super) fn waiting_of(
        &self,
        services: &[(Arc<ServiceId>, Option<Arc<Service>>)],
    ) -> Vec<Arc<ServiceId>> {
        let waits = |id: &Arc<ServiceId>| self.waits(id) && !self.decided.contains_key(id);
        let there = services.iter().filter(|(id, service)| service.is_some() && waits(id));
        there.map(|(id, _)| Arc::clone(id)).collect()
    }

    /// Decides the changed services by `rules`, but for those that wait for a policy. What
    /// `rehearsed` has on a service answers for it where nothing differs.
    pub(super) fn decide(
        &self,
        changes: Vec<(Arc<ServiceId>, Option<Arc<Service>>)>,
        rules: &Arc<Rules>,
        rehearsed: Option<&DecidedServices>,
    ) -> Redecisions {
        let mut redecided = Redecisions::new();
        let mut work = Vec::new();
        for (id, service) in changes {
            let Some(service) = service else {
                redecided.push((id, None));
                continue;
            };
            if self.waits(&id) {
                continue;
            }
            let before = rehearsed.and_then(|rehearsed| rehearsed.get(&id));
            if let Some(before) = before
                && Arc::ptr_eq(&before.service, &service)
                && before.rules == *rules.mark()
            {
                redecided.push((id, Some(Arc::clone(before))));
                continue;
            }
            let before = before.or_else(|| self.decided.get(&id)).map(Arc::clone);
            let registry = self.registry(&id.source);
            work.push(Work { id, registry, service, before });
        }
        redecided.extend(shared(self.workers.decide(rules, work)));
        redecided
    }

    /// Decides services anew on which a policy failed for what may have passed by now, but for
    /// those that were just decided.
    pub(super) fn decide_again(
        &self,
        services: BTreeSet<Arc<ServiceId>>,
        changed: &BTreeSet<Arc<ServiceId>>,
        rules: &Arc<Rules>,
    ) -> Redecisions {
        let due = services.into_iter().filter(|id| !changed.contains(id));
        let work = due.filter_map(|id| {
            let before = self.decided.get(&id).map(Arc::clone)?;
            let registry = self.registry(&id.source);
            Some(Work { id, registry, service: Arc::clone(&before.service), before: Some(before) })
        });
        shared(self.workers.decide_again(rules, work.collect())).collect()
    }

    /// Groups what was redecided, and asks service policies about it.
    pub(super) fn draft(
        &self,
        redecided: Redecisions,
        rules: &Arc<Rules>,
        asked: Asked<'_>,
    ) -> Draft {
        let mut decided = self.decided.clone();
        let mut changes = Vec::with_capacity(redecided.len());
        for (id, now) in redecided {
            let before = match &now {
                Some(now) => decided.insert(Arc::clone(&id), Arc::clone(now)),
                None => decided.remove(&id),
            };
            changes.push(DecidedChange { id, before, now });
        }
        let rehearsed = match &asked {
            // Else it knows hosts that are shared otherwise.
            Asked::All(rehearsed) => rehearsed.filter(|r| Arc::ptr_eq(&r.sharing, &self.sharing)),
            Asked::Touched(_) => None,
        };
        let (services, touched) = match rehearsed {
            Some(rehearsed) => rehearsed.grouped(&decided, &self.services),
            None => self.grouped(&changes),
        };
        let mut draft = Draft { changes, decided, services, touched, answers: Vec::new() };
        self.ask_service_policies(&mut draft, rules, asked);
        draft
    }

    /// What `changes` make of the services of the mesh, and the hosts that differ.
    fn grouped(&self, changes: &[DecidedChange]) -> (MeshServices, BTreeSet<HostKey>) {
        let pairs: Vec<Redecided<'_>> = changes
            .iter()
            .map(|change| Redecided {
                before: change.before.as_deref(),
                now: change.now.as_deref(),
            })
            .collect();
        let (services, shared_anew) = match Arc::ptr_eq(&self.sharing, &self.shared_by) {
            true => (self.services.clone(), BTreeSet::new()),
            false => regroup(self.services.clone(), &self.sharing),
        };
        let (services, mut touched) = group(services, &pairs, &self.sharing);
        touched.extend(shared_anew);
        (services, touched)
    }

    /// Asks service policies about hosts and takes their answers up. Where one fails a host keeps
    /// the settings that it has.
    fn ask_service_policies(&self, draft: &mut Draft, rules: &Arc<Rules>, asked: Asked<'_>) {
        let has_policies = rules.links().iter().any(|link| link.revision.decides_services());
        let mut services: Vec<Arc<MeshService>> = Vec::new();
        let mut answers: Vec<(Arc<MeshService>, Answer)> = Vec::new();
        match asked {
            Asked::All(rehearsed) => {
                for service in draft.services.values().map(Arc::clone) {
                    match rehearsed.and_then(|rehearsed| rehearsed.answer(&service, draft)) {
                        Some(answer) => answers.push((service, answer)),
                        None => services.push(service),
                    }
                }
            }
            Asked::Touched(mut hosts) if has_policies => {
                hosts.extend(draft.touched.iter().cloned());
                hosts.extend(draft.hosts_with_other_facts());
                let touched = hosts.iter().filter_map(|host| draft.services.get(host));
                services.extend(touched.map(Arc::clone));
            }
            Asked::Touched(_) => return,
        }
        let origin = |id: &ServiceId| Origin {
            registry: self.registry(&id.source),
            service: draft.decided.get(id).map(|decided| Arc::clone(&decided.service)),
        };
        let asked = self.workers.settings(rules, services.clone(), &origin);
        answers.extend(services.into_iter().zip(asked));
        for (service, answer) in answers {
            if let Ok(settings) = &answer
                && *settings != service.settings
            {
                let mut changed = (*service).clone();
                changed.settings = Arc::clone(settings);
                draft.services.insert(service.key.clone(), Arc::new(changed));
                draft.touched.insert(service.key.clone());
            }
            draft.answers.push((service.key.clone(), answer));
        }
    }
}

fn shared(
    decided: Vec<DecidedService>,
) -> impl Iterator<Item = (Arc<ServiceId>, Option<Arc<DecidedService>>)> {
    decided.into_iter().map(|service| (Arc::clone(&service.id), Some(Arc::new(service))))
}

// === impl DecidedChange ===

impl DecidedChange {
    /// Adds the faults that were not there before.
    pub(super) fn note_faults(&self, faults: &mut BTreeMap<Text, Faulted>) {
        let Some(now) = &self.now else { return };
        for (instance, decision) in now.service.instances().iter().zip(&now.decisions) {
            let Some(fault) = &decision.fault else { continue };
            let before = self.before.as_ref().and_then(|before| before.decision(&instance.id));
            if before.is_none_or(|(_, before)| before.fault.as_ref() != Some(fault)) {
                note_fault(faults, fault, || format!("{}/{}", now.id, instance.id));
            }
        }
    }
}

pub(super) fn note_fault(
    faults: &mut BTreeMap<Text, Faulted>,
    fault: &Arc<Fault>,
    subject: impl FnOnce() -> String,
) {
    if let Some(known) = faults.get_mut(&fault.policy) {
        known.count += 1;
        return;
    }
    let faulted = Faulted { count: 1, first: subject(), fault: Arc::clone(fault) };
    faults.insert(Text::clone(&fault.policy), faulted);
}

// === impl Draft ===

impl Draft {
    /// The hosts of services of which something else is said than before.
    fn hosts_with_other_facts(&self) -> impl Iterator<Item = HostKey> {
        self.changes
            .iter()
            .filter_map(|change| {
                let (before, now) = (change.before.as_ref()?, change.now.as_ref()?);
                (!now.service.same_facts(&before.service)).then(|| now.endpoints().into_keys())
            })
            .flatten()
    }
}

/// Refuses a draft if one of the policies in `judged` failed.
pub(super) fn judge(draft: &Draft, judged: &BTreeSet<Text>) -> Result<(), RulesRefused> {
    let mut faults = BTreeMap::new();
    for now in draft.changes.iter().filter_map(|change| change.now.as_ref()) {
        for (instance, decision) in now.service.instances().iter().zip(&now.decisions) {
            if let Some(fault) = &decision.fault {
                note_fault(&mut faults, fault, || format!("{}/{}", now.id, instance.id));
            }
        }
    }
    for (host, answer) in &draft.answers {
        if let Err(fault) = answer {
            note_fault(&mut faults, fault, || host.to_string());
        }
    }
    let first = faults.into_iter().find(|(policy, _)| judged.contains(policy));
    first.map_or(Ok(()), |(policy, Faulted { count, first, fault })| {
        Err(RulesRefused::Failed { policy, count, first, fault })
    })
}
