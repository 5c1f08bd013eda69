//! Hosts that lost their place but not their instances.
//!
//! When a policy publishes instances under another host, clients of the old one need a while to
//! follow. The old host goes on answering for the grace time, with those of its endpoints that
//! are still published elsewhere. An instance that left its registry, or that a policy dropped,
//! leaves at once.

use std::collections::BTreeSet;
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
    /// Of those, hosts whose time is over: what they had is published elsewhere.
    pub ended: BTreeSet<HostKey>,
}

impl Lingering {
    /// Takes up the hosts of `change` that are gone, lets go those whose time is over or that
    /// came back, and forgets endpoints that are published nowhere any more.
    pub fn advance(
        &mut self,
        change: &Change<'_>,
        published: impl Fn(&ServiceId, &Endpoint) -> bool,
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
                let linger = Linger { service: Arc::clone(service), until: time.plus(grace) };
                self.hosts.insert(key.clone(), linger);
                differ.insert(key.clone());
            }
        }
        let mut ended = BTreeSet::new();
        let mut left = Vec::new();
        for (key, linger) in &self.hosts {
            if linger.until <= time {
                ended.insert(key.clone());
            } else if linger.service.parts.iter().any(|part| redecided.contains(&part.origin)) {
                let remaining = remaining(&linger.service, &published);
                if remaining.as_ref().is_none_or(|service| **service != *linger.service) {
                    left.push((key.clone(), linger.until, remaining));
                }
            }
        }
        for key in &ended {
            self.hosts.remove(key);
        }
        differ.extend(ended.iter().cloned());
        for (key, until, remaining) in left {
            match remaining {
                Some(service) => self.hosts.insert(key.clone(), Linger { service, until }),
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
