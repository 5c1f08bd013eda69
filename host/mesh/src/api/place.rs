//! Where traffic to endpoints ends, which tells those on one node apart.

use std::collections::BTreeSet;

use landfall_core::mesh::Spot;
use landfall_core::text::Text;

use super::origins::Run;
use super::{Body, EndpointAddress, ServicePort, WorkloadEntry};

/// What makes two endpoints one. Only ports count that both services have: an endpoint is the same
/// where its service gets one more.
pub(super) type Place<'a> = (&'a EndpointAddress, &'a Text, BTreeSet<u32>);

/// One of two resources that are compared: what it has, and the ports that it has in common with
/// the other.
pub(super) struct Side<'a, 'b> {
    pub(super) runs: &'b [Run<'a>],
    common: Vec<&'a ServicePort>,
    ports: &'a [ServicePort],
}

/// Two resources that are compared.
pub(super) fn sides<'a, 'b>(
    one: (&'a Body, &'b [Run<'a>]),
    other: (&'a Body, &'b [Run<'a>]),
) -> (Side<'a, 'b>, Side<'a, 'b>) {
    let ports = |body: &'a Body| body.service_entry().map_or(&[][..], |entry| &entry.ports);
    let common = |own: &'a [ServicePort], other: &[ServicePort]| {
        let is_common = |port: &&ServicePort| other.iter().any(|known| known.name == port.name);
        own.iter().filter(is_common).collect()
    };
    let (own, theirs) = (ports(one.0), ports(other.0));
    (
        Side { runs: one.1, common: common(own, theirs), ports: own },
        Side { runs: other.1, common: common(theirs, own), ports: theirs },
    )
}

impl<'a> Side<'a, '_> {
    pub(super) fn place(&self, endpoint: &'a WorkloadEntry) -> Place<'a> {
        let ports = self.common.iter().map(|port| listens_at(endpoint, port)).collect();
        (&endpoint.address, &endpoint.network, ports)
    }

    pub(super) fn spot(&self, endpoint: &WorkloadEntry) -> Spot<EndpointAddress> {
        spot(endpoint, self.ports)
    }
}

/// Where traffic to `endpoint` ends: at the ports that it says, for it is not known of the others
/// whether it listens there. One that says none is where its service says.
pub(super) fn spot(endpoint: &WorkloadEntry, ports: &[ServicePort]) -> Spot<EndpointAddress> {
    let mut ports: Vec<u32> = match &*endpoint.ports {
        [] => ports.iter().map(target).collect(),
        said => said.iter().map(|(_, at)| *at).collect(),
    };
    ports.sort_unstable();
    ports.dedup();
    let WorkloadEntry { address, network, .. } = endpoint;
    let (address, network) = (address.clone(), Text::clone(network));
    Spot { address, network, ports: ports.into() }
}

/// Where `endpoint` listens for a port of its service.
pub(super) fn listens_at(endpoint: &WorkloadEntry, port: &ServicePort) -> u32 {
    let said = endpoint.ports.iter().find(|(name, _)| *name == port.name);
    said.map_or_else(|| target(port), |(_, at)| *at)
}

/// Where endpoints listen for a port that do not say it.
pub(super) fn target(port: &ServicePort) -> u32 {
    match port.target_port {
        0 => port.number,
        target => target,
    }
}
