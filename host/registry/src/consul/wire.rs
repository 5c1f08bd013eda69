//! Consul's answers, as far as they are read. `convert` checks what they say.
//!
//! Go writes an empty list or map as `null` or leaves it out, so both are taken for empty.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Entries of a list, each still to be parsed: one that is malformed harms no other.
pub(super) type RawList<'a> = Vec<&'a RawValue>;

/// `/v1/catalog/services`: names with the union of their instances' tags.
pub(super) type Names = BTreeMap<String, Option<Vec<String>>>;

/// An entry of `/v1/health/service/<name>`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Entry {
    pub(super) node: Node,
    pub(super) service: Service,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) checks: Vec<Check>,
}

/// As little of an entry as tells which it is, for a finding about one that cannot be parsed.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct EntryName {
    pub(super) node: NodeName,
    pub(super) service: ServiceName,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct NodeName {
    pub(super) node: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ServiceName {
    #[serde(rename = "ID")]
    pub(super) id: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Node {
    pub(super) node: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) address: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) datacenter: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) partition: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) tagged_addresses: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) meta: BTreeMap<String, String>,
    pub(super) locality: Option<Locality>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Service {
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) kind: String,
    #[serde(rename = "ID")]
    pub(super) id: String,
    #[serde(rename = "Service")]
    pub(super) name: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) namespace: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) partition: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) tags: Vec<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) address: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) tagged_addresses: BTreeMap<String, TaggedAddress>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) meta: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) port: i64,
    // Several named ports, from Consul 1.22.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) ports: Vec<Port>,
    pub(super) weights: Option<Weights>,
    pub(super) locality: Option<Locality>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) proxy: Proxy,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) connect: Connect,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TaggedAddress {
    // Consul prints `Address`; its documentation shows `address`.
    #[serde(alias = "address", default, deserialize_with = "null_is_empty")]
    pub(super) address: String,
    #[serde(alias = "port", default, deserialize_with = "null_is_empty")]
    pub(super) port: i64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Port {
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) name: String,
    pub(super) port: i64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Weights {
    pub(super) passing: i64,
    pub(super) warning: i64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Locality {
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) region: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) zone: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Proxy {
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) destination_service_name: String,
    #[serde(rename = "DestinationServiceID", deserialize_with = "null_is_empty")]
    pub(super) destination_service_id: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Connect {
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) native: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Check {
    #[serde(rename = "CheckID", default, deserialize_with = "null_is_empty")]
    pub(super) id: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) status: String,
}

/// An entry of `/v1/internal/ui/services`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Summary {
    pub(super) name: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) kind: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) peer_name: String,
    pub(super) instance_count: u64,
    pub(super) checks_passing: u64,
    pub(super) checks_warning: u64,
    pub(super) checks_critical: u64,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) tags: Vec<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) nodes: Vec<String>,
}

/// An entry of `/v1/health/state/any`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct StateCheck {
    pub(super) node: String,
    #[serde(rename = "CheckID")]
    pub(super) id: String,
    pub(super) status: String,
    /// Empty for a check of the whole node.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) service_name: String,
    #[serde(rename = "ServiceID", default, deserialize_with = "null_is_empty")]
    pub(super) service_id: String,
}

/// An entry of `/v1/namespaces`, which only Consul Enterprise has.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Namespace {
    pub(super) name: String,
    // Set while it is being deleted.
    #[serde(default)]
    pub(super) deleted_at: Option<String>,
}

fn null_is_empty<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    de: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(de)?.unwrap_or_default())
}
