//! Gathers endpoints by namespace and host.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::sync::Arc;

use imbl::OrdMap;

use crate::decision::DecidedService;
use crate::finding::{Finding, FindingCode};
use crate::mapping::{Address, Port, Protocol};
use crate::mesh::{Contribution, Double, Doubles, Endpoint, HostKey, MeshService};
use crate::name::PortName;
use crate::registry::{ServiceId, SourceName};
use crate::sharing::{Sharing, SharingMode, SharingRule};

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
    sharing: &Sharing,
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
        match regrouped(&host, old, changes, sharing) {
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

/// `services` shared by other rules than they were, and the hosts that differ.
#[must_use]
pub fn regroup(mut services: MeshServices, sharing: &Sharing) -> (MeshServices, BTreeSet<HostKey>) {
    let mut touched = BTreeSet::new();
    for (host, old) in services.clone() {
        let rule = sharing.rule(&host.namespace, &host.host);
        if old.sharing == *rule {
            continue;
        }
        let mut new = gathered(host.clone(), old.offers.clone(), rule);
        new.settings = Arc::clone(&old.settings);
        services.insert(host.clone(), Arc::new(new));
        touched.insert(host);
    }
    (services, touched)
}

/// The service of `host` after `changes`; `None` when nobody is left.
fn regrouped(
    host: &HostKey,
    old: Option<&Arc<MeshService>>,
    changes: Vec<Change>,
    sharing: &Sharing,
) -> Option<MeshService> {
    let mut offers: BTreeMap<Arc<ServiceId>, Arc<[Endpoint]>> = old
        .into_iter()
        .flat_map(|service| &service.offers)
        .map(|offer| (Arc::clone(&offer.origin), Arc::clone(&offer.endpoints)))
        .collect();
    for (origin, endpoints) in changes {
        match endpoints {
            Some(endpoints) => offers.insert(origin, endpoints),
            None => offers.remove(&origin),
        };
    }
    if offers.is_empty() {
        return None;
    }
    let offers: Vec<Contribution> =
        offers.into_iter().map(|(origin, endpoints)| Contribution { origin, endpoints }).collect();
    let mut new = gathered(host.clone(), offers, sharing.rule(&host.namespace, &host.host));
    if let Some(old) = old {
        new.settings = Arc::clone(&old.settings);
    }
    Some(new)
}

/// Findings of one service of the mesh. Nobody reads more of them, and a policy that names ports
/// after instances makes one for each.
const FINDINGS_MAX: usize = 20;

/// The service of the mesh that `offers` make by `rule`, without settings.
#[must_use]
pub fn gathered(key: HostKey, offers: Vec<Contribution>, rule: &Arc<SharingRule>) -> MeshService {
    let (parts, doubles) = shared(rule, &offers);
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
    let (sharing, settings) = (Arc::clone(rule), Arc::from([]));
    MeshService { key, ports, parts, doubles, offers, sharing, settings, findings }
}

/// What of `offers` is published by `rule`, in the same order, and who else offers it.
fn shared(rule: &SharingRule, offers: &[Contribution]) -> (Vec<Contribution>, Doubles) {
    let mut sources: Vec<&SourceName> = offers.iter().map(|offer| &offer.origin.source).collect();
    sources.sort_by_key(|source| rule.rank(source));
    sources.dedup();
    match (rule.mode, &*sources) {
        (_, [] | [_]) => (offers.to_vec(), Doubles::new()),
        (SharingMode::First, [first, ..]) => {
            let of_first = offers.iter().filter(|offer| offer.origin.source == **first);
            (of_first.cloned().collect(), Doubles::new())
        }
        (SharingMode::Union | SharingMode::PreferLocal, _) => each_once(&sources, offers),
    }
}

/// `offers` without endpoints that an earlier one of `sources` has too. One source may well list an
/// instance twice, and means it then.
fn each_once(sources: &[&SourceName], offers: &[Contribution]) -> (Vec<Contribution>, Doubles) {
    let mut owners: BTreeMap<Place<'_>, (&SourceName, Vec<&Arc<ServiceId>>)> = BTreeMap::new();
    for source in sources {
        for offer in offers.iter().filter(|offer| offer.origin.source == **source) {
            for place in offer.endpoints.iter().filter_map(place) {
                let (owner, others) = owners.entry(place).or_insert((source, Vec::new()));
                if owner != source && others.last() != Some(&&offer.origin) {
                    others.push(&offer.origin);
                }
            }
        }
    }
    let mut shared = Vec::with_capacity(offers.len());
    let mut doubles = Doubles::new();
    for offer in offers {
        let Contribution { origin, endpoints } = offer;
        let mut own: Vec<&Endpoint> = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints.iter() {
            let (owner, others) = match place(endpoint).and_then(|place| owners.get(&place)) {
                Some((owner, others)) => (*owner, &**others),
                None => (&origin.source, &[][..]),
            };
            if *owner != origin.source {
                continue;
            }
            own.push(endpoint);
            if !others.is_empty() {
                let others = others.iter().copied().map(Arc::clone).collect();
                doubles.insert(Double::of(origin, endpoint), others);
            }
        }
        if own.len() == endpoints.len() {
            shared.push(offer.clone());
        } else if !own.is_empty() {
            let endpoints = own.into_iter().cloned().collect();
            shared.push(Contribution { origin: Arc::clone(origin), endpoints });
        }
    }
    (shared, doubles)
}

/// What makes two registrations one instance: where traffic to them ends.
type Place<'a> = (&'a Address, &'a str, BTreeSet<NonZeroU16>);

/// Where traffic to `endpoint` ends; `None` where it has no address.
fn place(endpoint: &Endpoint) -> Option<Place<'_>> {
    let mapping = &endpoint.mapping;
    let targets = mapping.ports.iter().map(|port| port.target).collect();
    Some((mapping.address.as_ref()?, &mapping.network, targets))
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
    use crate::testing::{contribution, endpoint, host_key};

    /// A service of `parts`, each as `source/service number number ..`: an endpoint for each number.
    fn made_of(parts: &[&str]) -> MeshService {
        let key = host_key();
        let parts = parts.iter().map(|part| contribution(&key, part)).collect();
        gathered(key, parts, &Arc::default())
    }

    fn findings(service: &MeshService) -> Vec<String> {
        service.findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn any_two_services_of_one_source_at_a_host_are_told() {
        let told = |parts: &[&str]| {
            let of_hosts = |text: &String| text.starts_with("host_shared");
            findings(&made_of(parts)).into_iter().filter(of_hosts).collect::<Vec<_>>()
        };
        assert_eq!(told(&["dc1/a 80", "dc2/a 81", "dc3/b 82"]), [""; 0]);
        for parts in [["dc1/a 80", "dc1/b 80", "dc2/c 81"], ["dc0/z 80", "dc1/a 81", "dc1/b 81"]] {
            let told = told(&parts);
            assert_eq!(told.len(), 1);
            assert!(told[0].contains("among them dc1/a and dc1/b."), "{told:?}");
        }
    }

    #[test]
    fn many_findings_are_cut_and_counted() {
        let key = host_key();
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
        let offers = vec![Contribution { origin, endpoints }];
        let service = gathered(key.clone(), offers, &Arc::default());
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

    /// Offers as `source/service port port ..`, each port an instance at one address.
    fn check_shared(rule: &SharingRule, offers: &[&str], want: &[&str]) {
        let key = host_key();
        let offers: Vec<Contribution> =
            offers.iter().map(|text| contribution(&key, text)).collect();
        let (shared, _) = shared(rule, &offers);
        let shared: Vec<String> = shared
            .iter()
            .map(|part| {
                let ids = part.endpoints.iter().map(|endpoint| &*endpoint.instance.id);
                std::iter::once(part.origin.to_string())
                    .chain(ids.map(str::to_owned))
                    .collect::<Vec<_>>()
                    .join(" ")
            })
            .collect();
        assert_eq!(shared, want);
    }

    fn rule(mode: SharingMode, precedence: &[&str]) -> SharingRule {
        let precedence = precedence.iter().map(|name| SourceName::parse(name).unwrap()).collect();
        SharingRule { mode, precedence, ..SharingRule::default() }
    }

    #[test]
    fn a_union_has_each_instance_once() {
        let union = rule(SharingMode::Union, &["new", "old"]);
        check_shared(&union, &["new/a 1 2", "old/a 3"], &["new/a 1 2", "old/a 3"]);
        check_shared(&union, &["new/a 1 2", "old/a 2 3"], &["new/a 1 2", "old/a 3"]);
        check_shared(&union, &["new/a 1", "old/a 1"], &["new/a 1"]);
        // The order of what is published is that of names, whatever the precedence is.
        let other = rule(SharingMode::Union, &["old"]);
        check_shared(&other, &["new/a 1 2", "old/a 2 3"], &["new/a 1", "old/a 2 3"]);
        check_shared(
            &rule(SharingMode::Union, &[]),
            &["a/x 1", "b/x 1", "c/x 2"],
            &["a/x 1", "c/x 2"],
        );
    }

    #[test]
    fn what_one_source_lists_twice_stays_twice() {
        let union = rule(SharingMode::Union, &["new"]);
        check_shared(&union, &["new/a 1 1", "new/b 1"], &["new/a 1 1", "new/b 1"]);
        check_shared(&union, &["new/a 1 1", "old/b 1 1 2"], &["new/a 1 1", "old/b 2"]);
    }

    #[test]
    fn the_first_has_a_host_alone() {
        let first = rule(SharingMode::First, &["new", "old"]);
        check_shared(&first, &["new/a 1", "new/b 2", "old/a 3"], &["new/a 1", "new/b 2"]);
        check_shared(&first, &["old/a 3"], &["old/a 3"]);
        check_shared(&first, &["other/a 1", "old/a 3"], &["old/a 3"]);
        check_shared(&first, &["other/a 1", "third/a 3"], &["other/a 1"]);
        check_shared(&first, &[], &[]);
    }
}
