//! The part of istiod that asks an MCP-over-xDS server, as it was seen to ask.
#![allow(clippy::expect_used, reason = "part of tests: a failure is theirs")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use prost::Message;
use prost_types::Any;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status, Streaming};

/// What istiod asks for, in this order and all at once.
pub const TYPES: [&str; 16] = [
    "core/v1alpha1/MeshConfig",
    "security.istio.io/v1/AuthorizationPolicy",
    "networking.istio.io/v1/DestinationRule",
    "networking.istio.io/v1alpha3/EnvoyFilter",
    "networking.istio.io/v1/Gateway",
    "security.istio.io/v1/PeerAuthentication",
    "networking.istio.io/v1beta1/ProxyConfig",
    "security.istio.io/v1/RequestAuthentication",
    "networking.istio.io/v1/ServiceEntry",
    "networking.istio.io/v1/Sidecar",
    "telemetry.istio.io/v1/Telemetry",
    "extensions.istio.io/v1alpha1/TrafficExtension",
    "networking.istio.io/v1/VirtualService",
    "extensions.istio.io/v1alpha1/WasmPlugin",
    "networking.istio.io/v1/WorkloadEntry",
    "networking.istio.io/v1/WorkloadGroup",
];

/// A control plane that is connected.
#[derive(Debug)]
pub struct FakeIstiod {
    requests: mpsc::Sender<DiscoveryRequest>,
    answers: Streaming<DiscoveryResponse>,
}

/// An answer, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The type that was asked for.
    pub type_url: String,
    /// What it is to be acknowledged by.
    pub nonce: String,
    /// Its size as it is sent.
    pub bytes: usize,
    /// Its resources by `namespace/name`.
    pub resources: BTreeMap<String, Served>,
}

/// A resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Seconds since 1970 at which it was made.
    pub created: i64,
    /// Equal as long as it is the same.
    pub version: String,
    /// The type of its body.
    pub body: String,
    /// Of a ServiceEntry: its hosts, virtual addresses, and the addresses of its endpoints.
    pub hosts: Vec<String>,
    /// See `hosts`.
    pub addresses: Vec<String>,
    /// See `hosts`.
    pub endpoints: Vec<String>,
}

impl FakeIstiod {
    /// Connects and asks for everything.
    ///
    /// # Errors
    /// Nobody serves there.
    pub async fn connect(server: SocketAddr) -> Result<Self, String> {
        let endpoint = Channel::from_shared(format!("http://{server}"));
        Self::through(endpoint.map_err(|error| error.to_string())?).await
    }

    /// The same over TLS, with a server that calls itself `localhost` and one authority, as PEM.
    ///
    /// # Errors
    /// Nobody serves there, or nobody who can prove that name.
    pub async fn connect_tls(server: SocketAddr, authority: &[u8]) -> Result<Self, String> {
        let authority = Certificate::from_pem(authority);
        let tls = ClientTlsConfig::new().ca_certificate(authority).domain_name("localhost");
        let endpoint = Channel::from_shared(format!("https://{server}"));
        let endpoint = endpoint.map_err(|error| error.to_string())?.tls_config(tls);
        Self::through(endpoint.map_err(|error| error.to_string())?).await
    }

    async fn through(endpoint: Endpoint) -> Result<Self, String> {
        let channel = endpoint.connect().await.map_err(|error| format!("{error:?}"))?;
        let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(usize::MAX);
        client.ready().await.map_err(|error| error.to_string())?;
        let (requests, mut asked) = mpsc::channel(64);
        for (index, type_url) in TYPES.iter().enumerate() {
            let node = Node { id: "sidecar~192.0.2.2~istiod-0.istio-system~x".to_owned() };
            let request = DiscoveryRequest {
                node: (index == 0).then_some(node),
                type_url: (*type_url).to_owned(),
                // Never empty, though nothing was answered yet.
                response_nonce: "2026-11-22 16:22:10.560023884 +0000 UTC m=+0.173798108".to_owned(),
                ..DiscoveryRequest::default()
            };
            requests.send(request).await.map_err(|error| error.to_string())?;
        }
        let outgoing = stream::poll_fn(move |context| asked.poll_recv(context));
        let path = PathAndQuery::from_static(
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
        );
        let answers = client.streaming(Request::new(outgoing), path, XdsCodec).await;
        let answers = answers.map_err(|error| error.to_string())?.into_inner();
        Ok(Self { requests, answers })
    }

    /// The next answer, which is acknowledged; `None` when none comes within `limit`.
    ///
    /// # Panics
    /// The stream broke, or the answer cannot be read.
    pub async fn next(&mut self, limit: Duration) -> Option<Answer> {
        let response = timeout(limit, self.answers.next()).await.ok()?;
        let response = response.expect("the stream goes on").expect("an answer");
        let acknowledged = DiscoveryRequest {
            version_info: response.version_info.clone(),
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DiscoveryRequest::default()
        };
        self.requests.send(acknowledged).await.expect("the stream goes on");
        let bytes = response.encoded_len();
        let resources = response.resources.iter().map(read).collect();
        let DiscoveryResponse { type_url, nonce, .. } = response;
        Some(Answer { type_url, nonce, bytes, resources })
    }

    /// The answers that come until none comes for `quiet`, the last of each type.
    ///
    /// # Panics
    /// The stream broke.
    pub async fn all(&mut self, quiet: Duration) -> BTreeMap<String, Answer> {
        let mut all = BTreeMap::new();
        while let Some(answer) = self.next(quiet).await {
            all.insert(answer.type_url.clone(), answer);
        }
        all
    }
}

fn read(any: &Any) -> (String, Served) {
    assert_eq!(any.type_url, "type.googleapis.com/istio.mcp.v1alpha1.Resource");
    let resource = Resource::decode(any.value.as_slice()).expect("a resource");
    let metadata = resource.metadata.expect("metadata");
    let body = resource.body.expect("a body");
    let entry = ServiceEntry::decode(body.value.as_slice()).unwrap_or_default();
    let served = Served {
        created: metadata.create_time.expect("a time").seconds,
        version: metadata.version,
        body: body.type_url,
        hosts: entry.hosts,
        addresses: entry.addresses,
        endpoints: entry.endpoints.into_iter().map(|endpoint| endpoint.address).collect(),
    };
    (metadata.name, served)
}

// === What is on the wire, as far as it is looked at ===

#[derive(Clone, PartialEq, Message)]
struct DiscoveryRequest {
    #[prost(string, tag = "1")]
    version_info: String,
    #[prost(message, optional, tag = "2")]
    node: Option<Node>,
    #[prost(string, tag = "4")]
    type_url: String,
    #[prost(string, tag = "5")]
    response_nonce: String,
}

#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct DiscoveryResponse {
    #[prost(string, tag = "1")]
    version_info: String,
    #[prost(message, repeated, tag = "2")]
    resources: Vec<Any>,
    #[prost(string, tag = "4")]
    type_url: String,
    #[prost(string, tag = "5")]
    nonce: String,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Metadata>,
    #[prost(message, optional, tag = "2")]
    body: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    create_time: Option<prost_types::Timestamp>,
    #[prost(string, tag = "3")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct ServiceEntry {
    #[prost(string, repeated, tag = "1")]
    hosts: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    addresses: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    endpoints: Vec<WorkloadEntry>,
}

#[derive(Clone, PartialEq, Message)]
struct WorkloadEntry {
    #[prost(string, tag = "1")]
    address: String,
}

#[derive(Debug, Default)]
struct XdsCodec;

impl Codec for XdsCodec {
    type Encode = DiscoveryRequest;
    type Decode = DiscoveryResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for XdsCodec {
    type Item = DiscoveryRequest;
    type Error = Status;

    fn encode(&mut self, item: DiscoveryRequest, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(out).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for XdsCodec {
    type Item = DiscoveryResponse;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<DiscoveryResponse>, Status> {
        let response = DiscoveryResponse::decode(bytes);
        response.map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
