//! The ADS server, as istiod really speaks with it.
//!
//! istiod opens one stream and asks for all its types at once, each with a nonce that we never sent.
//! So the first request for a type on a stream is a question whatever its nonce, and every later
//! one an acknowledgement, which needs no answer. It is ready only once every type was answered, and
//! what is not in an answer is deleted there, so answers are held back until there is a complete
//! state to tell. Then each new state is sent to every stream in full.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::stream::{self, BoxStream, StreamExt as _};
use landfall_core::mesh::Kind;
use prost::Message as _;
use prost::bytes::{BufMut as _, Bytes};
use tokio::sync::watch;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{Service, http};
use tonic::server::{Grpc, StreamingService};
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::{debug, info, warn};

use super::proto::{DiscoveryRequest, ResponseHead};
use crate::api::GROUP;

/// The only method.
const STREAM: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
/// istiod's own configuration, which is not ours to give: it does without an answer, and some
/// versions do not survive an empty one.
const MESH_CONFIG: &str = "core/v1alpha1/MeshConfig";
/// Types that one stream may ask for; istiod has 16.
const TYPES_MAX: usize = 64;
/// A request names a type and a nonce.
const REQUEST_BYTES_MAX: usize = 1 << 20;

/// A state to serve.
#[derive(Clone, Debug)]
pub(super) struct Published {
    /// Grows with every state.
    pub(super) number: u64,
    /// The resources of each kind, encoded as part of an answer.
    pub(super) resources: BTreeMap<Kind, Encoded>,
}

/// The resources of a type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Encoded {
    /// The `resources` fields of an answer.
    pub(super) bytes: Bytes,
    /// Equal for equal resources.
    pub(super) version: String,
}

/// The states to serve; `None` until there is one.
pub(super) type States = watch::Receiver<Option<Arc<Published>>>;

/// The service; each stream has a clone.
#[derive(Clone, Debug)]
pub(super) struct Ads {
    states: States,
}

impl Published {
    /// The resources of a type, as `group/version/kind`. Versions differ by that of istiod, and the
    /// resources do not by theirs.
    fn of_type(&self, type_url: &str) -> Option<&Encoded> {
        let (group, version_kind) = type_url.split_once('/')?;
        let (_, kind) = version_kind.split_once('/')?;
        let mut kinds = self.resources.iter().filter(|(known, _)| known.as_str() == kind);
        kinds.next().filter(|_| group == GROUP).map(|(_, encoded)| encoded)
    }
}

impl Ads {
    pub(super) fn new(states: States) -> Self {
        Self { states }
    }
}

impl Service<http::Request<Body>> for Ads {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let ads = self.clone();
        Box::pin(async move {
            if request.uri().path() != STREAM {
                return Ok(Status::new(Code::Unimplemented, "this serves ADS, state of the world")
                    .into_http());
            }
            let mut grpc = Grpc::new(AdsCodec)
                .max_decoding_message_size(REQUEST_BYTES_MAX)
                .max_encoding_message_size(usize::MAX);
            Ok(grpc.streaming(ads, request).await)
        })
    }
}

impl StreamingService<DiscoveryRequest> for Ads {
    type Response = Answer;
    type ResponseStream = BoxStream<'static, Result<Answer, Status>>;
    type Future =
        Pin<Box<dyn Future<Output = Result<Response<Self::ResponseStream>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<DiscoveryRequest>>) -> Self::Future {
        let talk = Talk::new(request.into_inner(), self.states.clone());
        Box::pin(async move {
            let answers = stream::unfold(talk, |mut talk| async move {
                let answer = talk.next().await?;
                Some((answer, talk))
            });
            Ok(Response::new(answers.boxed()))
        })
    }
}

/// One stream.
struct Talk {
    requests: Streaming<DiscoveryRequest>,
    states: States,
    /// Who asks, as it says.
    node: String,
    /// The types that were asked for, with the version that was sent last.
    types: BTreeMap<String, Asked>,
    sent: u64,
}

/// A type that was asked for.
#[derive(Debug, Default)]
struct Asked {
    /// The version that was sent last; `None` before the first answer.
    version: Option<String>,
}

impl Talk {
    fn new(requests: Streaming<DiscoveryRequest>, mut states: States) -> Self {
        states.mark_changed();
        Self { requests, states, node: String::new(), types: BTreeMap::new(), sent: 0 }
    }

    /// The next answer, once there is one; `None` when the stream ended.
    async fn next(&mut self) -> Option<Result<Answer, Status>> {
        loop {
            if let Some(answer) = self.due() {
                return Some(Ok(answer));
            }
            tokio::select! {
                request = self.requests.next() => match request {
                    Some(Ok(request)) => {
                        if let Err(status) = self.take(request) {
                            return Some(Err(status));
                        }
                    }
                    Some(Err(status)) => {
                        debug!(node = self.node, error = %status, "Stream broken.");
                        return None;
                    }
                    None => return None,
                },
                changed = self.states.changed() => {
                    // The sink is gone: whoever asks comes again.
                    if changed.is_err() {
                        return Some(Err(Status::unavailable("stopping")));
                    }
                }
            }
        }
    }

    fn take(&mut self, request: DiscoveryRequest) -> Result<(), Status> {
        if let Some(node) = request.node
            && self.node != node.id
        {
            self.node = node.id;
            info!(node = self.node, "Serving a control plane.");
        }
        if let Some(error) = request.error_detail {
            warn!(
                node = self.node,
                type_url = request.type_url,
                error = error.message,
                "Control plane refuses what it was sent."
            );
        }
        if request.type_url == MESH_CONFIG || self.types.contains_key(&request.type_url) {
            return Ok(());
        }
        if self.types.len() >= TYPES_MAX {
            return Err(Status::resource_exhausted(format!("more than {TYPES_MAX} types")));
        }
        self.types.insert(request.type_url, Asked::default());
        Ok(())
    }

    /// An answer that is due: to a type of which something else was sent, or nothing.
    fn due(&mut self) -> Option<Answer> {
        let state = self.states.borrow_and_update().clone()?;
        let none = Encoded::default();
        for (type_url, asked) in &mut self.types {
            let resources = state.of_type(type_url).unwrap_or(&none);
            if asked.version.as_ref() == Some(&resources.version) {
                continue;
            }
            asked.version = Some(resources.version.clone());
            self.sent += 1;
            let head = ResponseHead {
                version_info: resources.version.clone(),
                type_url: type_url.clone(),
                nonce: self.sent.to_string(),
            };
            debug!(node = self.node, type_url, state = state.number, "Sending resources.");
            return Some(Answer { head, resources: resources.bytes.clone() });
        }
        None
    }
}

/// An answer: its head, and the resources that all streams share.
#[derive(Debug)]
pub(super) struct Answer {
    head: ResponseHead,
    resources: Bytes,
}

/// Writes answers without copying their resources together first.
#[derive(Debug, Default)]
struct AdsCodec;

impl Codec for AdsCodec {
    type Encode = Answer;
    type Decode = DiscoveryRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for AdsCodec {
    type Item = Answer;
    type Error = Status;

    fn encode(&mut self, item: Answer, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let head = item.head.encode_to_vec();
        out.reserve(head.len() + item.resources.len());
        out.put(head.as_slice());
        out.put(item.resources);
        Ok(())
    }
}

impl Decoder for AdsCodec {
    type Item = DiscoveryRequest;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<DiscoveryRequest>, Status> {
        let request = DiscoveryRequest::decode(bytes);
        request.map(Some).map_err(|error| Status::invalid_argument(error.to_string()))
    }
}
