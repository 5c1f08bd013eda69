//! The messages on the wire, as far as they are used. Field numbers are from Envoy's
//! `envoy/service/discovery/v3/discovery.proto` and Istio's `mcp/v1alpha1` and
//! `networking/v1alpha3`; unknown fields are skipped, as protobuf has it.

use std::collections::BTreeMap;

use prost::Message;
use prost_types::{Any, Timestamp};

/// Where istiod finds the type of a ServiceEntry's body: v1alpha3 whatever version is asked for.
pub(super) const SERVICE_ENTRY_BODY: &str =
    "type.googleapis.com/istio.networking.v1alpha3.ServiceEntry";
/// The same for a WorkloadEntry.
pub(super) const WORKLOAD_ENTRY_BODY: &str =
    "type.googleapis.com/istio.networking.v1alpha3.WorkloadEntry";
/// What each resource of an answer is.
pub(super) const RESOURCE: &str = "type.googleapis.com/istio.mcp.v1alpha1.Resource";

/// `envoy.service.discovery.v3.DiscoveryRequest`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct DiscoveryRequest {
    #[prost(string, tag = "1")]
    pub(super) version_info: String,
    #[prost(message, optional, tag = "2")]
    pub(super) node: Option<Node>,
    #[prost(string, tag = "4")]
    pub(super) type_url: String,
    #[prost(string, tag = "5")]
    pub(super) response_nonce: String,
    #[prost(message, optional, tag = "6")]
    pub(super) error_detail: Option<Status>,
}

/// `envoy.config.core.v3.Node`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Node {
    #[prost(string, tag = "1")]
    pub(super) id: String,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Status {
    #[prost(int32, tag = "1")]
    pub(super) code: i32,
    #[prost(string, tag = "2")]
    pub(super) message: String,
}

/// `envoy.service.discovery.v3.DiscoveryResponse` without its resources, which are many and the
/// same for everybody; [`Resources`] has those. Joining the two texts joins the messages.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ResponseHead {
    #[prost(string, tag = "1")]
    pub(super) version_info: String,
    #[prost(string, tag = "4")]
    pub(super) type_url: String,
    #[prost(string, tag = "5")]
    pub(super) nonce: String,
}

/// The resources of a `DiscoveryResponse` alone.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Resources {
    #[prost(message, repeated, tag = "2")]
    pub(super) resources: Vec<Any>,
}

/// `istio.mcp.v1alpha1.Resource`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Resource {
    #[prost(message, optional, tag = "1")]
    pub(super) metadata: Option<Metadata>,
    #[prost(message, optional, tag = "2")]
    pub(super) body: Option<Any>,
}

/// `istio.mcp.v1alpha1.Metadata`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Metadata {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "2")]
    pub(super) create_time: Option<Timestamp>,
    #[prost(string, tag = "3")]
    pub(super) version: String,
    #[prost(btree_map = "string, string", tag = "4")]
    pub(super) labels: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "5")]
    pub(super) annotations: BTreeMap<String, String>,
}

/// `istio.networking.v1alpha3.ServiceEntry`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ServiceEntry {
    #[prost(string, repeated, tag = "1")]
    pub(super) hosts: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(super) addresses: Vec<String>,
    #[prost(message, repeated, tag = "3")]
    pub(super) ports: Vec<ServicePort>,
    #[prost(int32, tag = "4")]
    pub(super) location: i32,
    #[prost(int32, tag = "5")]
    pub(super) resolution: i32,
    #[prost(message, repeated, tag = "6")]
    pub(super) endpoints: Vec<WorkloadEntry>,
    #[prost(string, repeated, tag = "7")]
    pub(super) export_to: Vec<String>,
    #[prost(string, repeated, tag = "8")]
    pub(super) subject_alt_names: Vec<String>,
    #[prost(message, optional, tag = "9")]
    pub(super) workload_selector: Option<WorkloadSelector>,
}

/// `istio.networking.v1alpha3.ServicePort`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ServicePort {
    #[prost(uint32, tag = "1")]
    pub(super) number: u32,
    #[prost(string, tag = "2")]
    pub(super) protocol: String,
    #[prost(string, tag = "3")]
    pub(super) name: String,
    #[prost(uint32, tag = "4")]
    pub(super) target_port: u32,
}

/// `istio.networking.v1alpha3.WorkloadSelector`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct WorkloadSelector {
    #[prost(btree_map = "string, string", tag = "1")]
    pub(super) labels: BTreeMap<String, String>,
}

/// `istio.networking.v1alpha3.WorkloadEntry`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct WorkloadEntry {
    #[prost(string, tag = "1")]
    pub(super) address: String,
    #[prost(btree_map = "string, uint32", tag = "2")]
    pub(super) ports: BTreeMap<String, u32>,
    #[prost(btree_map = "string, string", tag = "3")]
    pub(super) labels: BTreeMap<String, String>,
    #[prost(string, tag = "4")]
    pub(super) network: String,
    #[prost(string, tag = "5")]
    pub(super) locality: String,
    #[prost(uint32, tag = "6")]
    pub(super) weight: u32,
    #[prost(string, tag = "7")]
    pub(super) service_account: String,
}
