//! Gathers endpoints by namespace and host.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::sync::Arc;

use imbl::OrdMap;

use crate::decision::DecidedService;
use crate::finding::{Finding, FindingCode};
use crate::mapping::{Port, Protocol};
use crate::mesh::{Contribution, Endpoint, HostKey, MeshService};
use crate::name::PortName;
use crate::registry::ServiceId;

/// All services of the mesh.
pub type MeshServices = OrdMap<HostKey, Arc<MeshService>>;

/// A service of a registry that was decided anew, or is gone.
#[derive(Debug)]
pub struct Redecided<'a> {
    /// What stood before.
    pub before: Option<&'a DecidedService>,
    /// What stands now.
    pub now: Option<&'a DecidedService>,
}

/// What a service puts at a host now; `None` when nothing any more.
type Change = (Arc<ServiceId>, Option<Arc<[Endpoint]>>);

/// `services` with what the redecided ones put at hosts replaced, and the hosts that differ.
/// Never fails: what Istio cannot express is a finding of the service that it is about.
#[must_use]
pub fn group(
    mut services: MeshServices,
    redecided: &[Redecided<'_>],
) -> (MeshServices, BTreeSet<HostKey>) {
    let mut changes: BTreeMap<HostKey, Vec<Change>> = BTreeMap::new();
    for change in redecided {
        let mut before = change.before.map(DecidedService::endpoints).unwrap_or_default();
        if let Some(now) = change.now {
            for (host, endpoints) in now.endpoints() {
                if before.remove(&host).is_some_and(|old| old == endpoints) {
                    continue;
                }
                changes
                    .entry(host)
                    .or_default()
                    .push((Arc::clone(&now.id), Some(endpoints.into())));
            }
        }
        if let Some(gone) = change.before {
            for host in before.into_keys() {
                changes.entry(host).or_default().push((Arc::clone(&gone.id), None));
            }
        }
    }
    let mut touched = BTreeSet::new();
    for (host, changes) in changes {
        let old = services.get(&host);
        match regrouped(&host, old, changes) {
            None => {
                services.remove(&host);
            }
            Some(new) => {
                if old.is_some_and(|old| **old == new) {
                    continue;
                }
                services.insert(host.clone(), Arc::new(new));
            }
        }
        touched.insert(host);
    }
    (services, touched)
}

/// The service of `host` after `changes`; `None` when nobody is left.
fn regrouped(
    host: &HostKey,
    old: Option<&Arc<MeshService>>,
    changes: Vec<Change>,
) -> Option<MeshService> {
    let mut parts: BTreeMap<Arc<ServiceId>, Arc<[Endpoint]>> = old
        .into_iter()
        .flat_map(|service| &service.parts)
        .map(|part| (Arc::clone(&part.origin), Arc::clone(&part.endpoints)))
        .collect();
    for (origin, endpoints) in changes {
        match endpoints {
            Some(endpoints) => parts.insert(origin, endpoints),
            None => parts.remove(&origin),
        };
    }
    if parts.is_empty() {
        return None;
    }
    let parts: Vec<Contribution> =
        parts.into_iter().map(|(origin, endpoints)| Contribution { origin, endpoints }).collect();
    let mut new = gathered(host.clone(), parts);
    if let Some(old) = old {
        new.settings = Arc::clone(&old.settings);
    }
    Some(new)
}

/// A service of the mesh made of its parts, without settings.
#[must_use]
pub fn gathered(key: HostKey, parts: Vec<Contribution>) -> MeshService {
    let mut findings = Vec::new();
    if let [first, second, ..] = parts.as_slice()
        && first.origin.source == second.origin.source
    {
        findings.push(Finding::new(
            FindingCode::HostShared,
            &key,
            format!(
                "{} services of registries are published here, among them {} and {}. If that is \
                 not meant, give them hosts of their own by a policy or by defaults.host",
                parts.len(),
                first.origin,
                second.origin
            ),
        ));
    }
    let ports = joined_ports(&key, &parts, &mut findings);
    MeshService { key, ports, parts, settings: Arc::from([]), findings }
}

/// The ports of all endpoints joined by name, in the order of names.
///
/// A name with several numbers or protocols gets the one that most endpoints have, of equals the
/// lowest; endpoints keep the numbers they listen on. Of several names with one number the one
/// that more endpoints have keeps it and the others are left out: Istio takes each number once.
fn joined_ports(key: &HostKey, parts: &[Contribution], findings: &mut Vec<Finding>) -> Vec<Port> {
    let mut votes: BTreeMap<&PortName, BTreeMap<(NonZeroU16, Protocol), usize>> = BTreeMap::new();
    for endpoint in parts.iter().flat_map(|part| part.endpoints.iter()) {
        for port in endpoint.mapping.ports.iter() {
            let of_name = votes.entry(&port.name).or_default();
            *of_name.entry((port.number, port.protocol)).or_default() += 1;
        }
    }
    let mut by_number: BTreeMap<NonZeroU16, (usize, Port)> = BTreeMap::new();
    for (name, of_name) in votes {
        // `max_by_key` takes the last of equals, so the order is reversed to get the lowest.
        let Some((&(number, protocol), _)) = of_name.iter().rev().max_by_key(|&(_, count)| *count)
        else {
            continue;
        };
        if of_name.len() > 1 {
            findings.push(Finding::new(
                FindingCode::PortConflict,
                key,
                format!(
                    "port {name} has {} different numbers or protocols; clients dial {number}, \
                     which most endpoints have. Set one number by a policy",
                    of_name.len()
                ),
            ));
        }
        let endpoints: usize = of_name.values().sum();
        let port = Port { name: name.clone(), number, target: number, protocol };
        match by_number.get(&number) {
            Some((most, winner)) => {
                let (loser, port) = if endpoints > *most {
                    (winner.name.clone(), Some(port))
                } else {
                    (name.clone(), None)
                };
                findings.push(Finding::new(
                    FindingCode::PortConflict,
                    key,
                    format!(
                        "port number {number} has two names; {loser} was left out. Give the ports \
                         different numbers, or one name, by a policy"
                    ),
                ));
                if let Some(port) = port {
                    by_number.insert(number, (endpoints, port));
                }
            }
            None => {
                by_number.insert(number, (endpoints, port));
            }
        }
    }
    let mut ports: Vec<Port> = by_number.into_values().map(|(_, port)| port).collect();
    ports.sort();
    ports
}
