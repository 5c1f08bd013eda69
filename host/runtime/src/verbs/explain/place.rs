//! Where an endpoint stands in the objects of its service.

use std::sync::Arc;

use landfall_core::mapping::Address;
use landfall_core::mesh::{Endpoint, MeshService, ObjectId};
use landfall_core::registry::ServiceId;
use landfall_mesh::api::{EndpointAddress, Endpoints, MeshObject, Resolution, Spec, WorkloadEntry};
use landfall_mesh::render::workload_entry_id;

/// An endpoint of a service, and where it stands in the service's objects.
pub(super) struct Place<'a> {
    pub(super) endpoint: (&'a Arc<ServiceId>, &'a Endpoint),
    pub(super) at: At,
}

pub(super) enum At {
    /// In the ServiceEntry.
    Inline { index: usize, count: usize },
    /// In a WorkloadEntry of its own.
    Own(ObjectId),
    /// The ServiceEntry has no endpoints on purpose.
    Unlisted,
    /// It could not be rendered.
    Nowhere,
}

/// Where each endpoint of `service` stands, of which `entry` and `rendered` were made.
pub(super) fn places<'a>(
    service: &'a MeshService,
    entry: &MeshObject,
    rendered: &[ObjectId],
) -> Vec<Place<'a>> {
    let Spec::ServiceEntry(spec) = &entry.body.spec else { return Vec::new() };
    // Endpoints are listed in the order of the service, with some left out.
    let mut listed = 0;
    let place = |endpoint: (&'a Arc<ServiceId>, &'a Endpoint)| {
        let at = match &spec.endpoints {
            Endpoints::Selected(_) => {
                let id = workload_entry_id(&service.key, endpoint.0, endpoint.1);
                if rendered.contains(&id) { At::Own(id) } else { At::Nowhere }
            }
            Endpoints::Inline(_) if spec.resolution == Resolution::None => At::Unlisted,
            Endpoints::Inline(entries) => match entries.get(listed) {
                Some(entry) if is_of(entry, endpoint.1) => {
                    listed += 1;
                    At::Inline { index: listed - 1, count: entries.len() }
                }
                Some(_) | None => At::Nowhere,
            },
        };
        Place { endpoint, at }
    };
    service.endpoints().map(place).collect()
}

/// Whether `entry` was made of `endpoint`.
fn is_of(entry: &WorkloadEntry, endpoint: &Endpoint) -> bool {
    let is_at = match (&entry.address, &endpoint.mapping.address) {
        (EndpointAddress::Ip(entry), Some(Address::Ip(ip))) => entry == ip,
        (EndpointAddress::Other(entry), Some(Address::Dns(host))) => entry == host.text(),
        (EndpointAddress::Ip(_) | EndpointAddress::Other(_), _) => false,
    };
    is_at && entry.labels.iter().all(|(key, value)| endpoint.mapping.labels.get(key) == Some(value))
}
