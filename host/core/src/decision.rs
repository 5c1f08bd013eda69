//! What was decided of each instance, kept beside it so that it is not decided again.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::Arc;

use crate::finding::Finding;
use crate::mapping::Mapping;
use crate::mesh::{Endpoint, HostKey};
use crate::registry::{Health, Instance, Service, ServiceId};
use crate::text::Text;

/// Names everything that a decision follows from besides the instance and its service: the
/// defaults and the chain of policies. Equal rules have equal marks.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RulesMark(pub Text);

/// A service with what was decided of each of its instances.
#[derive(Clone, Debug)]
pub struct DecidedService {
    /// Which service it is.
    pub id: Arc<ServiceId>,
    /// The facts that were decided on.
    pub service: Arc<Service>,
    /// The rules that decided.
    pub rules: RulesMark,
    /// One for each of `service.instances()`, in the same order.
    pub decisions: Vec<Decision>,
    /// What a person should know of it.
    pub findings: Vec<Finding>,
    /// How many more findings there are about each instance; `None` is the service itself.
    pub unlisted: BTreeMap<Option<Text>, usize>,
}

/// What was decided of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Where it is published, or why it is not.
    pub outcome: Outcome,
    /// Why the outcome is an older one: a policy failed on this instance. It is tried again when
    /// the instance, its service or the rules change, or, where that may help, after a while.
    pub fault: Option<Arc<Fault>>,
}

/// Where an instance is published, or why it is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// At these places; never none.
    Published(Arc<[Arc<Mapping>]>),
    /// Nowhere.
    Dropped(DropReason),
}

/// Why an instance is not published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// A policy said so.
    Policy {
        /// Which one.
        policy: Text,
        /// In its words.
        reason: Text,
    },
    /// Its health is not among those to publish.
    Health(Health),
    /// Its weight is zero, which for Istio would mean one.
    Weightless,
    /// It carries our own owner mark: somebody wrote into a registry what we had published.
    OwnExport,
    /// Something that publishing needs is missing.
    Obstacle(&'static str),
    /// A policy failed, and there is no earlier outcome to keep.
    Fault,
}

/// A policy failed on an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which policy.
    pub policy: Text,
    /// One of a closed set, such as `deadline`; fit for a metric label.
    pub code: &'static str,
    /// For the policy's author.
    pub message: String,
}

/// At how many hosts a policy may publish each instance without making it slower.
const HOSTS_LIKELY: usize = 4;

// === impl DecidedService ===

impl DecidedService {
    /// What this service puts at each host, in the order of instances.
    #[must_use]
    pub fn endpoints(&self) -> BTreeMap<HostKey, Vec<Endpoint>> {
        // Most go where one of the last few went, and then no key is made or looked for.
        let mut runs: Vec<(HostKey, Vec<Endpoint>)> = Vec::new();
        for (instance, decision) in self.service.instances().iter().zip(&self.decisions) {
            let Outcome::Published(mappings) = &decision.outcome else { continue };
            for (index, mapping) in mappings.iter().enumerate() {
                let Mapping { namespace, host, .. } = &**mapping;
                let endpoint = Endpoint {
                    instance: Arc::clone(instance),
                    mapping_index: u16::try_from(index).unwrap_or(u16::MAX),
                    mapping: Arc::clone(mapping),
                };
                let is_there =
                    |(key, _): &&mut (HostKey, _)| key.host == *host && key.namespace == *namespace;
                match runs.iter_mut().rev().take(HOSTS_LIKELY).find(is_there) {
                    Some((_, endpoints)) => endpoints.push(endpoint),
                    None => {
                        let key = HostKey { namespace: namespace.clone(), host: host.clone() };
                        runs.push((key, vec![endpoint]));
                    }
                }
            }
        }
        let mut hosts: BTreeMap<HostKey, Vec<Endpoint>> = BTreeMap::new();
        for (key, endpoints) in runs {
            match hosts.entry(key) {
                Entry::Vacant(vacant) => drop(vacant.insert(endpoints)),
                Entry::Occupied(mut known) => known.get_mut().extend(endpoints),
            }
        }
        hosts
    }

    /// The decision on the instance with this identifier.
    #[must_use]
    pub fn decision(&self, instance_id: &str) -> Option<(&Arc<Instance>, &Decision)> {
        let instances = self.service.instances();
        let index = instances.binary_search_by(|i| (*i.id).cmp(instance_id)).ok()?;
        Some((&instances[index], self.decisions.get(index)?))
    }

    /// The decision that still answers for `instance` of `service` under `rules`, if any does.
    #[must_use]
    pub fn kept(
        &self,
        service: &Service,
        instance: &Instance,
        rules: &RulesMark,
    ) -> Option<&Decision> {
        if self.rules != *rules || !self.service.same_facts(service) {
            return None;
        }
        let (known, decision) = self.decision(&instance.id)?;
        (**known == *instance).then_some(decision)
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy { policy, reason } => write!(f, "policy {policy}: {reason}"),
            Self::Health(health) => write!(f, "health is {}", health.as_str()),
            Self::Weightless => f.write_str("weight is 0"),
            Self::OwnExport => f.write_str(
                "its metadata has our owner mark: it is an export of what is published here already",
            ),
            Self::Obstacle(what) => f.write_str(what),
            Self::Fault => f.write_str("a policy failed and there is no earlier outcome to keep"),
        }
    }
}

impl std::error::Error for Fault {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "policy {} failed ({}): {}", self.policy, self.code, self.message)
    }
}
