//! Objects as the resources of an answer.

use std::collections::BTreeMap;
use std::net::IpAddr;

use landfall_core::name;
use landfall_core::pairs::Pairs;
use landfall_core::text::Text;
use prost::Message as _;
use prost_types::Any;

use super::journal::Entry;
use super::proto;
use crate::api::{self, Endpoints, Location, Resolution, ServiceEntry, Spec, WorkloadEntry};

/// The resource that istiod makes of an object.
pub(super) fn resource(entry: &Entry) -> Any {
    let Entry { object, created, address } = entry;
    let body = match &object.body.spec {
        Spec::ServiceEntry(entry) => Any {
            type_url: proto::SERVICE_ENTRY_BODY.to_owned(),
            value: service_entry(entry, *address).encode_to_vec(),
        },
        Spec::WorkloadEntry(entry) => Any {
            type_url: proto::WORKLOAD_ENTRY_BODY.to_owned(),
            value: workload_entry(entry).encode_to_vec(),
        },
    };
    let id = &object.id;
    let mut metadata = proto::Metadata {
        name: format!("{}/{}", id.namespace, id.name),
        create_time: created.parse().ok(),
        version: String::new(),
        labels: map(&object.body.labels),
        // Annotations are for people who look at an object, and nobody looks at these.
        annotations: BTreeMap::new(),
    };
    // istiod takes objects of equal versions for equal. What it looks at is all in there.
    let bytes = [metadata.encode_to_vec(), body.value.clone()].concat();
    metadata.version = name::content_digest(&bytes);
    let resource = proto::Resource { metadata: Some(metadata), body: Some(body) };
    Any { type_url: proto::RESOURCE.to_owned(), value: resource.encode_to_vec() }
}

fn service_entry(entry: &ServiceEntry, address: Option<IpAddr>) -> proto::ServiceEntry {
    let (endpoints, workload_selector) = match &entry.endpoints {
        Endpoints::Inline(list) => (list.iter().map(workload_entry).collect(), None),
        Endpoints::Selected(labels) => {
            (Vec::new(), Some(proto::WorkloadSelector { labels: map(labels) }))
        }
    };
    let mut addresses = texts(&entry.addresses);
    addresses.extend(address.map(|address| address.to_string()));
    proto::ServiceEntry {
        hosts: texts(&entry.hosts),
        addresses,
        ports: entry
            .ports
            .iter()
            .map(|port| proto::ServicePort {
                number: port.number,
                protocol: port.protocol.to_string(),
                name: port.name.to_string(),
                target_port: port.target_port,
            })
            .collect(),
        location: match entry.location {
            Location::MeshExternal => 0,
            Location::MeshInternal => 1,
        },
        resolution: match entry.resolution {
            Resolution::None => 0,
            Resolution::Static => 1,
            Resolution::Dns => 2,
            Resolution::DnsRoundRobin => 3,
            Resolution::DynamicDns => 4,
        },
        endpoints,
        export_to: texts(&entry.export_to),
        subject_alt_names: texts(&entry.subject_alt_names),
        workload_selector,
    }
}

fn workload_entry(entry: &WorkloadEntry) -> proto::WorkloadEntry {
    let api::WorkloadEntry { address, ports, labels, network, locality, weight, service_account } =
        entry;
    proto::WorkloadEntry {
        address: address.to_string(),
        ports: ports.iter().map(|(name, number)| (name.to_string(), *number)).collect(),
        labels: map(labels),
        network: network.to_string(),
        locality: locality.to_string(),
        weight: *weight,
        service_account: service_account.to_string(),
    }
}

fn texts(list: &[Text]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn map(pairs: &Pairs) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}
