//! What the line would be after a change: decided and grouped, and service policies asked. Nothing
//! is taken yet, so that new policies can be judged by it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use landfall_core::decision::{DecidedService, Fault};
use landfall_core::group::{MeshServices, Redecided, group};
use landfall_core::mesh::{HostKey, MeshService, Setting};
use landfall_core::registry::{Service, ServiceId};
use landfall_core::text::Text;
use landfall_policy_host::{Origin, Rules, Work};

use super::{DecidedServices, Line};

/// What the line would be after a change. Nothing is changed yet: persistent maps share what is
/// equal.
pub(super) struct Draft {
    pub(super) changes: Vec<DecidedChange>,
    pub(super) decided: DecidedServices,
    pub(super) services: MeshServices,
    pub(super) touched: BTreeSet<HostKey>,
    pub(super) answers: Vec<(HostKey, Answer)>,
}

/// What service policies say of a host.
pub(super) type Answer = Result<Arc<[Setting]>, Arc<Fault>>;

pub(super) struct DecidedChange {
    pub(super) id: Arc<ServiceId>,
    pub(super) before: Option<Arc<DecidedService>>,
    pub(super) now: Option<Arc<DecidedService>>,
}

/// About which hosts service policies are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Those whose endpoints, or the facts of whose origins, changed, and these.
    Touched(BTreeSet<HostKey>),
    /// All: the policies changed.
    All,
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
#[error(
    "policy {policy} failed on {count} instances or hosts, the first of them {first}; the rules \
     before stay at work"
)]
pub struct RulesRefused {
    /// The policy that failed.
    pub policy: Text,
    /// On how many instances, or hosts.
    pub count: usize,
    /// The first of them, as `source/service/instance` or `namespace/host`.
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
    /// Decides the changed services by `rules`; those that wait for a policy are left as they are.
    pub(super) fn decide(
        &mut self,
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
            let before = self.decided.get(&id).map(Arc::clone);
            if self.waiting.iter().any(|selector| selector.matches(&id)) {
                if before.is_none() {
                    self.undecided.add_service(id);
                }
                continue;
            }
            let registry = self.registry(&id.source);
            work.push(Work { id, registry, service, before });
        }
        let decided = self.workers.decide(rules, work);
        gone.into_iter()
            .chain(decided.into_iter().map(|service| (Arc::clone(&service.id), Some(service))))
            .collect()
    }

    /// Decides services anew on which a policy failed for what may have passed by now, but for
    /// those that were just decided.
    pub(super) fn decide_again(
        &self,
        services: BTreeSet<Arc<ServiceId>>,
        changed: &BTreeSet<ServiceId>,
        rules: &Arc<Rules>,
    ) -> Vec<(Arc<ServiceId>, Option<DecidedService>)> {
        let due = services.into_iter().filter(|id| !changed.contains(&**id));
        let work = due.filter_map(|id| {
            let before = self.decided.get(&id).map(Arc::clone)?;
            let registry = self.registry(&id.source);
            Some(Work { id, registry, service: Arc::clone(&before.service), before: Some(before) })
        });
        let decided = self.workers.decide_again(rules, work.collect());
        decided.into_iter().map(|service| (Arc::clone(&service.id), Some(service))).collect()
    }

    /// Groups what was redecided, and asks service policies about it.
    pub(super) fn draft(
        &self,
        redecided: Vec<(Arc<ServiceId>, Option<DecidedService>)>,
        rules: &Arc<Rules>,
        asked: Asked,
    ) -> Draft {
        let mut decided = self.decided.clone();
        let mut changes = Vec::with_capacity(redecided.len());
        for (id, now) in redecided {
            let now = now.map(Arc::new);
            let before = match &now {
                Some(now) => decided.insert(Arc::clone(&id), Arc::clone(now)),
                None => decided.remove(&id),
            };
            changes.push(DecidedChange { id, before, now });
        }
        let pairs: Vec<Redecided<'_>> = changes
            .iter()
            .map(|change| Redecided {
                before: change.before.as_deref(),
                now: change.now.as_deref(),
            })
            .collect();
        let (services, touched) = group(self.services.clone(), &pairs);
        let mut draft = Draft { changes, decided, services, touched, answers: Vec::new() };
        self.ask_service_policies(&mut draft, rules, asked);
        draft
    }

    /// Asks service policies about hosts and takes their answers up. Where one fails a host keeps
    /// the settings that it has.
    fn ask_service_policies(&self, draft: &mut Draft, rules: &Arc<Rules>, asked: Asked) {
        let has_policies = rules.links().iter().any(|link| link.revision.decides_services());
        let services: Vec<Arc<MeshService>> = match asked {
            Asked::All => draft.services.values().map(Arc::clone).collect(),
            Asked::Touched(mut hosts) if has_policies => {
                hosts.extend(draft.touched.iter().cloned());
                hosts.extend(draft.hosts_with_other_facts());
                hosts.iter().filter_map(|host| draft.services.get(host)).map(Arc::clone).collect()
            }
            Asked::Touched(_) => return,
        };
        let answers = if has_policies {
            let origin = |id: &ServiceId| Origin {
                registry: self.registry(&id.source),
                service: draft.decided.get(id).map(|decided| Arc::clone(&decided.service)),
            };
            self.workers.settings(rules, services.clone(), &origin)
        } else {
            services.iter().map(|_| Ok(Arc::from([]))).collect()
        };
        for (service, answer) in services.into_iter().zip(answers) {
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
    let of_instances =
        draft.changes.iter().filter_map(|change| change.now.as_ref()).flat_map(|now| {
            let decided = now.service.instances().iter().zip(&now.decisions);
            decided.filter_map(|(instance, decision)| {
                let fault = decision.fault.as_ref()?;
                Some((fault, format!("{}/{}", now.id, instance.id)))
            })
        });
    let of_hosts = draft.answers.iter().filter_map(|(host, answer)| {
        let fault = answer.as_ref().err()?;
        Some((fault, host.to_string()))
    });
    let mut faults =
        of_instances.chain(of_hosts).filter(|(fault, _)| judged.contains(&fault.policy));
    let Some((fault, first)) = faults.next() else { return Ok(()) };
    let fault = Arc::clone(fault);
    let same_policy = faults.filter(|(other, _)| other.policy == fault.policy).count();
    Err(RulesRefused {
        policy: Text::clone(&fault.policy),
        count: 1 + same_policy,
        first,
        fault: FaultError(fault),
    })
}
