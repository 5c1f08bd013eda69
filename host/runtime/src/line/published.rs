//! Where endpoints are published, and whether they still are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use landfall_core::decision::{DecidedService, Outcome};
use landfall_core::mapping::Mapping;
use landfall_core::mesh::{Endpoint, HostKey, MeshService};
use landfall_core::registry::ServiceId;
use landfall_core::text::Text;

use super::draft::{DecidedChange, DecidedServices};

/// Whether an endpoint that was published somewhere still is the instance's, wherever that is
/// published now.
pub(super) fn is_published_in(decided: &DecidedServices) -> impl Fn(&ServiceId, &Endpoint) -> bool {
    |id, endpoint| {
        let known = decided.get(id).and_then(|service| service.decision(&endpoint.instance.id));
        known.is_some_and(|(instance, decision)| {
            matches!(decision.outcome, Outcome::Published(_))
                && instance.address == endpoint.instance.address
                && instance.ports == endpoint.instance.ports
        })
    }
}

/// Where the endpoints of a service of the mesh are published now, and were not before `changes`.
pub(super) fn moved_to(
    service: &MeshService,
    changes: &BTreeMap<&ServiceId, &DecidedChange>,
) -> BTreeSet<HostKey> {
    let hosts = |decided: Option<&DecidedService>, instance: &Text| -> BTreeSet<HostKey> {
        let decision = decided.and_then(|decided| decided.decision(instance));
        match decision.map(|(_, decision)| &decision.outcome) {
            Some(Outcome::Published(mappings)) => {
                let host = |mapping: &Arc<Mapping>| HostKey {
                    namespace: mapping.namespace.clone(),
                    host: mapping.host.clone(),
                };
                mappings.iter().map(host).collect()
            }
            Some(Outcome::Dropped(_)) | None => BTreeSet::new(),
        }
    };
    let mut places = BTreeSet::new();
    for (origin, endpoint) in service.endpoints() {
        let Some(change) = changes.get(&**origin) else { continue };
        let before = hosts(change.before.as_deref(), &endpoint.instance.id);
        let now = hosts(change.now.as_deref(), &endpoint.instance.id);
        places.extend(now.difference(&before).cloned());
    }
    places
}
