//! The specs on the wire: printing straight from our types, reading through maps.

use std::collections::BTreeMap;

use landfall_core::pairs::Pairs;
use landfall_core::text::{Interner, Text};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::{
    EndpointAddress, Endpoints, Location, Resolution, ServiceEntry, ServicePort, WorkloadEntry,
};

// === print ===

impl Serialize for ServiceEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("hosts", &self.hosts)?;
        if !self.addresses.is_empty() {
            map.serialize_entry("addresses", &self.addresses)?;
        }
        if !self.ports.is_empty() {
            map.serialize_entry("ports", &self.ports)?;
        }
        map.serialize_entry("location", self.location.as_str())?;
        map.serialize_entry("resolution", self.resolution.as_str())?;
        match &self.endpoints {
            // NONE, and a selector beside it, forbid even an empty list.
            Endpoints::Inline(list) if list.is_empty() => (),
            Endpoints::Inline(list) => map.serialize_entry("endpoints", list)?,
            Endpoints::Selected(labels) => {
                map.serialize_entry("workloadSelector", &Selector { labels })?;
            }
        }
        if !self.export_to.is_empty() {
            map.serialize_entry("exportTo", &self.export_to)?;
        }
        if !self.subject_alt_names.is_empty() {
            map.serialize_entry("subjectAltNames", &self.subject_alt_names)?;
        }
        map.end()
    }
}

impl Serialize for ServicePort {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", &self.name)?;
        map.serialize_entry("number", &self.number)?;
        if !self.protocol.is_empty() {
            map.serialize_entry("protocol", &self.protocol)?;
        }
        if self.target_port != 0 {
            map.serialize_entry("targetPort", &self.target_port)?;
        }
        map.end()
    }
}

impl Serialize for WorkloadEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if !self.address.is_empty() {
            map.serialize_entry("address", &self.address)?;
        }
        if !self.ports.is_empty() {
            map.serialize_entry("ports", &Numbers(&self.ports))?;
        }
        if !self.labels.is_empty() {
            map.serialize_entry("labels", &PairsMap(&self.labels))?;
        }
        if !self.network.is_empty() {
            map.serialize_entry("network", &self.network)?;
        }
        if !self.locality.is_empty() {
            map.serialize_entry("locality", &self.locality)?;
        }
        if self.weight != 0 {
            map.serialize_entry("weight", &self.weight)?;
        }
        if !self.service_account.is_empty() {
            map.serialize_entry("serviceAccount", &self.service_account)?;
        }
        map.end()
    }
}

impl Serialize for EndpointAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

struct Selector<'a> {
    labels: &'a Pairs,
}

impl Serialize for Selector<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if !self.labels.is_empty() {
            map.serialize_entry("labels", &PairsMap(self.labels))?;
        }
        map.end()
    }
}

struct PairsMap<'a>(&'a Pairs);

impl Serialize for PairsMap<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in self.0.iter() {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

struct Numbers<'a>(&'a [(Text, u32)]);

impl Serialize for Numbers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

// === read ===

/// A ServiceEntry's spec as the API server gives it.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ServiceEntryWire {
    hosts: Vec<String>,
    addresses: Vec<String>,
    ports: Vec<ServicePortWire>,
    location: LocationWire,
    resolution: ResolutionWire,
    endpoints: Vec<WorkloadEntryWire>,
    workload_selector: Option<SelectorWire>,
    export_to: Vec<String>,
    subject_alt_names: Vec<String>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServicePortWire {
    name: String,
    number: u32,
    protocol: String,
    target_port: u32,
}

/// A WorkloadEntry's spec, or an inline endpoint, as the API server gives it.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct WorkloadEntryWire {
    address: String,
    ports: BTreeMap<String, u32>,
    labels: BTreeMap<String, String>,
    network: String,
    locality: String,
    weight: u32,
    service_account: String,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default)]
struct SelectorWire {
    labels: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum LocationWire {
    #[default]
    MeshExternal,
    MeshInternal,
}

#[derive(Clone, Copy, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum ResolutionWire {
    #[default]
    None,
    Static,
    Dns,
    DnsRoundRobin,
    DynamicDns,
}

impl ServiceEntryWire {
    pub(crate) fn into_spec(self, interner: &mut Interner) -> ServiceEntry {
        let endpoints = match self.workload_selector {
            // Both at once cannot be stored; should it be, the selector is what Istio follows.
            Some(selector) => Endpoints::Selected(pairs(selector.labels, interner)),
            None => {
                let mut list: Vec<WorkloadEntry> = Vec::with_capacity(self.endpoints.len());
                for wire in self.endpoints {
                    let mut endpoint = wire.into_spec(interner);
                    // Endpoints of a service mostly have equal labels: one allocation for all.
                    if let Some(last) = list.last()
                        && last.labels == endpoint.labels
                    {
                        endpoint.labels = last.labels.clone();
                    }
                    list.push(endpoint);
                }
                Endpoints::Inline(list.into())
            }
        };
        ServiceEntry {
            hosts: texts(&self.hosts, interner),
            addresses: texts(&self.addresses, interner),
            ports: self
                .ports
                .iter()
                .map(|port| ServicePort {
                    name: interner.text(&port.name),
                    number: port.number,
                    protocol: interner.text(&port.protocol),
                    target_port: port.target_port,
                })
                .collect(),
            location: match self.location {
                LocationWire::MeshExternal => Location::MeshExternal,
                LocationWire::MeshInternal => Location::MeshInternal,
            },
            resolution: match self.resolution {
                ResolutionWire::None => Resolution::None,
                ResolutionWire::Static => Resolution::Static,
                ResolutionWire::Dns => Resolution::Dns,
                ResolutionWire::DnsRoundRobin => Resolution::DnsRoundRobin,
                ResolutionWire::DynamicDns => Resolution::DynamicDns,
            },
            endpoints,
            export_to: texts(&self.export_to, interner),
            subject_alt_names: texts(&self.subject_alt_names, interner),
        }
    }

    pub(crate) fn into_hosts(self) -> Box<[Text]> {
        self.hosts.into_iter().map(Text::from).collect()
    }
}

impl WorkloadEntryWire {
    pub(crate) fn into_spec(self, interner: &mut Interner) -> WorkloadEntry {
        WorkloadEntry {
            address: EndpointAddress::of(&self.address),
            ports: self.ports.iter().map(|(name, n)| (interner.text(name), *n)).collect(),
            labels: pairs(self.labels, interner),
            network: interner.text(&self.network),
            locality: interner.text(&self.locality),
            weight: self.weight,
            service_account: interner.text(&self.service_account),
        }
    }
}

fn pairs(map: BTreeMap<String, String>, interner: &mut Interner) -> Pairs {
    map.iter().map(|(key, value)| (interner.text(key), interner.text(value))).collect()
}

fn texts(list: &[String], interner: &mut Interner) -> Box<[Text]> {
    list.iter().map(|text| interner.text(text)).collect()
}
