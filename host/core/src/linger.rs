//! Hosts that lost their place but not their instances.
//!
//! When a policy publishes instances under another host, clients of the old one need a while to
//! follow. The old host goes on answering for the grace time, with those of its endpoints that
//! are still published elsewhere. An instance that left its registry, or that a policy dropped,
//! leaves at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;

use crate::group::{MeshServices, gathered};
use crate::mesh::{Contribution, Endpoint, HostKey, MeshService};
use crate::registry::ServiceId;
use crate::time::Time;

/// The hosts that go on for a while.
#[derive(Clone, Debug, Default)]
pub struct Lingering {
    hosts: OrdMap<HostKey, Linger>,
}

#[derive(Clone, Debug)]
struct Linger {
    service: Arc<MeshService>,
    /// Where its endpoints moved.
    places: Arc<BTreeSet<HostKey>>,
    until: Time,
}

/// What happened to services of the mesh.
#[derive(Debug)]
pub struct Change<'a> {
    /// The services as they were.
    pub before: &'a MeshServices,
    /// The services as they are.
    pub now: &'a MeshServices,
    /// The hosts that differ between the two.
    pub touched: &'a BTreeSet<HostKey>,
    /// The services of registries that were decided anew, or are gone.
    pub redecided: &'a BTreeSet<Arc<ServiceId>>,
}

/// What changed among the hosts that linger.
#[derive(Debug, Default)]
pub struct Advanced {
    /// Hosts that linger in another way than before, or no more.
    pub differ: BTreeSet<HostKey>,
    /// Of those, hosts whose time is over, and where the endpoints moved that they had. Nowhere where
    /// these were published there all the time.
    pub ended: BTreeMap<HostKey, Arc<BTreeSet<HostKey>>>,
}

impl Lingering {
    /// Takes up the hosts of `change` that are gone, of which `moved_to` says where their endpoints
    /// are that were not there before, lets go those whose time is over or that
    /// came back, and forgets endpoints that are published nowhere any more.
    pub fn advance(
        &mut self,
        change: &Change<'_>,
        published: impl Fn(&ServiceId, &Endpoint) -> bool,
        moved_to: impl Fn(&MeshService) -> BTreeSet<HostKey>,
        grace: Duration,
        time: Time,
    ) -> Advanced {
        let Change { before, now, touched, redecided } = change;
        let mut differ = BTreeSet::new();
        for key in *touched {
            if now.contains_key(key) {
                if self.hosts.remove(key).is_some() {
                    differ.insert(key.clone());
                }
            } else if let Some(service) = before.get(key)
                && !grace.is_zero()
            {
                let places = Arc::new(moved_to(service));
                let until = time.plus(grace);
                let linger = Linger { service: Arc::clone(service), places, until };
                self.hosts.insert(key.clone(), linger);
                differ.insert(key.clone());
            }
        }
        let mut ended = BTreeMap::new();
        let mut left = Vec::new();
        for (key, linger) in &self.hosts {
            if linger.until <= time {
                ended.insert(key.clone(), Arc::clone(&linger.places));
            } else if linger.service.parts.iter().any(|part| redecided.contains(&part.origin)) {
                let remaining = remaining(&linger.service, &published);
                if remaining.as_ref().is_none_or(|service| **service != *linger.service) {
                    left.push((key.clone(), linger.clone(), remaining));
                }
            }
        }
        for key in ended.keys() {
            self.hosts.remove(key);
        }
        differ.extend(ended.keys().cloned());
        for (key, linger, remaining) in left {
            match remaining {
                Some(service) => self.hosts.insert(key.clone(), Linger { service, ..linger }),
                None => self.hosts.remove(&key),
            };
            differ.insert(key);
        }
        Advanced { differ, ended }
    }

    /// The service that lingers at `key`.
    #[must_use]
    pub fn get(&self, key: &HostKey) -> Option<&Arc<MeshService>> {
        self.hosts.get(key).map(|linger| &linger.service)
    }

    /// When the next host's time is over.
    #[must_use]
    pub fn wake(&self) -> Option<Time> {
        self.hosts.values().map(|linger| linger.until).min()
    }

    /// How many hosts linger.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// Whether none lingers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }
}

/// `service` with the endpoints that are still published; `None` when none is.
fn remaining(
    service: &Arc<MeshService>,
    published: impl Fn(&ServiceId, &Endpoint) -> bool,
) -> Option<Arc<MeshService>> {
    if service.endpoints().all(|(origin, endpoint)| published(origin, endpoint)) {
        return Some(Arc::clone(service));
    }
    let parts: Vec<Contribution> = service
        .parts
        .iter()
        .filter_map(|part| {
            let endpoints: Arc<[Endpoint]> = part
                .endpoints
                .iter()
                .filter(|endpoint| published(&part.origin, endpoint))
                .cloned()
                .collect();
            (!endpoints.is_empty())
                .then(|| Contribution { origin: Arc::clone(&part.origin), endpoints })
        })
        .collect();
    if parts.is_empty() {
        return None;
    }
    let mut left = gathered(service.key.clone(), parts, &service.sharing);
    // The ports stay as they were: taking one away would cost clients more than an endpoint.
    left.ports.clone_from(&service.ports);
    left.settings = Arc::clone(&service.settings);
    Some(Arc::new(left))
}
