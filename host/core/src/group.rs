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

/// Findings of one service of the mesh. Nobody reads more of them, and a policy that names ports
/// after instances makes one for each.
const FINDINGS_MAX: usize = 20;

/// A service of the mesh made of its parts, without settings.
#[must_use]
pub fn gathered(key: HostKey, parts: Vec<Contribution>) -> MeshService {
    let mut findings = Vec::new();
    // Parts are in the order of their origins, so those of one source stand together.
    let of_one_source = |pair: &&[Contribution]| pair[0].origin.source == pair[1].origin.source;
    if let Some([first, second]) = parts.windows(2).find(of_one_source) {
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
    if findings.len() > FINDINGS_MAX {
        let more = findings.len() - FINDINGS_MAX;
        findings.truncate(FINDINGS_MAX);
        let message = format!("{more} more findings are not shown; mend these first");
        findings.push(Finding::new(FindingCode::PortConflict, &key, message));
    }
    MeshService { key, ports, parts, settings: Arc::from([]), findings }
}

/// The ports of all endpoints joined by name, in the order of names.
///
/// A name with several numbers or protocols gets the one that most endpoints have, of equals the
/// lowest; endpoints keep the numbers they listen on. Of several names with one number the one
/// that more endpoints have keeps it and the others are left out: Istio takes each number once.
///
/// Where every instance has a number of its own, as schedulers hand them out, the service's number
/// thus changes when the instance leaves whose number it is. To keep the number that was there
/// before would hide that until the next restart, for then nobody knows it. A number of the
/// protocol's own, such as 80, would come and go with the first endpoint that differs and could
/// serve one port only. So a policy has to say which number clients dial, and the finding says so.
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
        let endpoints: usize = of_name.values().sum();
        if of_name.len() > 1 {
            let (kinds, agreed) = (of_name.len(), of_name.values().max().copied().unwrap_or(0));
            let what = format!("port {name} has {kinds} different numbers or protocols");
            let message = if agreed * 2 > endpoints {
                format!(
                    "{what}; clients dial {number}, which most endpoints have. Set one number by a \
                     policy"
                )
            } else {
                format!(
                    "{what}, and most endpoints share none; clients dial {number} until an \
                     endpoint with it leaves, and then another. Set one number by a policy, and \
                     leave the target as it is registered"
                )
            };
            findings.push(Finding::new(FindingCode::PortConflict, key, message));
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::Mapping;
    use crate::name::{Hostname, Namespace};
    use crate::pairs::Pairs;
    use crate::registry::{Health, Instance, ServiceKey, SourceName};
    use crate::text::Text;

    /// A service of `parts`, each as `source/service number number ..`: an endpoint for each number.
    fn made_of(parts: &[&str]) -> MeshService {
        let key = HostKey {
            namespace: Namespace::parse("ns").unwrap(),
            host: Hostname::parse("a.mesh").unwrap(),
        };
        let parts = parts.iter().map(|part| contribution(&key, part)).collect();
        gathered(key, parts)
    }

    fn contribution(key: &HostKey, part: &str) -> Contribution {
        let mut words = part.split(' ');
        let (source, name) = words.next().unwrap().split_once('/').unwrap();
        let origin = ServiceId {
            source: SourceName::parse(source).unwrap(),
            key: ServiceKey { name: Text::from(name), ..ServiceKey::default() },
        };
        let endpoints = words.map(|number| endpoint(key, number.parse().unwrap())).collect();
        Contribution { origin: Arc::new(origin), endpoints }
    }

    fn endpoint(key: &HostKey, number: NonZeroU16) -> Endpoint {
        let empty = || Text::from("");
        let port = Port {
            name: PortName::legalize("http").name,
            number,
            target: number,
            protocol: Protocol::Http,
        };
        let mapping = Mapping {
            host: key.host.clone(),
            namespace: key.namespace.clone(),
            address: None,
            ports: Arc::from([port]),
            labels: Pairs::default(),
            locality: None,
            weight: NonZeroU16::MIN,
            network: empty(),
            service_account: empty(),
        };
        let instance = Instance {
            id: Text::from(number.to_string()),
            address: empty(),
            ports: Vec::new(),
            health: Health::Passing,
            weight: 1,
            tags: Vec::new(),
            meta: Pairs::default(),
            ext: Pairs::default(),
            locality: None,
        };
        Endpoint { instance: Arc::new(instance), part: 0, mapping: Arc::new(mapping) }
    }

    fn findings(service: &MeshService) -> Vec<String> {
        service.findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn any_two_services_of_one_source_at_a_host_are_told() {
        assert_eq!(findings(&made_of(&["dc1/a 80", "dc2/a 80", "dc3/b 80"])), Vec::<String>::new());
        for parts in [["dc1/a 80", "dc1/b 80", "dc2/c 80"], ["dc0/z 80", "dc1/a 80", "dc1/b 80"]] {
            let findings = findings(&made_of(&parts));
            assert_eq!(findings.len(), 1);
            assert!(findings[0].starts_with("host_shared"), "{findings:?}");
            assert!(findings[0].contains("among them dc1/a and dc1/b."), "{findings:?}");
        }
    }

    #[test]
    fn many_findings_are_cut_and_counted() {
        let key = HostKey {
            namespace: Namespace::parse("ns").unwrap(),
            host: Hostname::parse("a.mesh").unwrap(),
        };
        let named = |index: usize| {
            let mut endpoint = endpoint(&key, NonZeroU16::MAX);
            let mut mapping = (*endpoint.mapping).clone();
            let name = PortName::legalize(&format!("port-{index}")).name;
            mapping.ports = Arc::from([Port { name, ..mapping.ports[0].clone() }]);
            endpoint.mapping = Arc::new(mapping);
            endpoint
        };
        let origin = contribution(&key, "dc1/a").origin;
        let endpoints = (0..1000).map(named).collect();
        let service = gathered(key.clone(), vec![Contribution { origin, endpoints }]);
        assert_eq!(service.findings.len(), FINDINGS_MAX + 1);
        let last = &service.findings[FINDINGS_MAX].message;
        assert!(last.starts_with("979 more findings"), "{last}");
    }

    #[test]
    fn a_number_that_nobody_shares_is_told() {
        let number = |service: &MeshService| service.ports[0].number.get();
        let alike = made_of(&["dc1/a 8080 8080"]);
        assert_eq!((number(&alike), findings(&alike).len()), (8080, 0));
        let most = made_of(&["dc1/a 8080 9090 9090"]);
        assert_eq!(number(&most), 9090);
        assert!(findings(&most)[0].contains("which most endpoints have"), "{most:?}");
        let none = made_of(&["dc1/a 23001 24001 25001"]);
        assert_eq!(number(&none), 23001);
        assert!(findings(&none)[0].contains("most endpoints share none"), "{none:?}");
    }
}
