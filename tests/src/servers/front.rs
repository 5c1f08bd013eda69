//! Stands before an API server and refuses writes as API servers do. Speaks plain HTTP.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, Response};
use futures_util::stream;
use serde_json::{Value, json};

use super::http::Http;
use crate::fake_server::{self, FakeServer};

/// More than any object has.
const BODY_BYTES_MAX: usize = 4 << 20;

/// A server in front of another one.
#[derive(Debug)]
pub struct Front {
    server: FakeServer,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    behind: Http,
    writes: Mutex<Writes>,
}

#[derive(Debug, Default)]
struct Writes {
    status: Option<u16>,
    refused: usize,
}

// === impl Front ===

impl Front {
    /// Hands everything over to the server `behind`, with the rights that it has.
    #[must_use]
    pub fn start(behind: Http) -> Self {
        let shared = Arc::new(Shared { behind, writes: Mutex::default() });
        let app = Router::new().fallback(pass).with_state(Arc::clone(&shared));
        Self { server: FakeServer::start(app), shared }
    }

    /// A kubeconfig that leads here.
    #[must_use]
    pub fn kubeconfig(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": self.server.url()}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        })
    }

    /// Answers writes with this status from now on.
    pub fn refuse_writes(&self, status: Option<u16>) {
        self.shared.writes.lock().unwrap_or_else(PoisonError::into_inner).status = status;
    }

    /// How many writes were refused so far.
    #[must_use]
    pub fn refused(&self) -> usize {
        self.shared.writes.lock().unwrap_or_else(PoisonError::into_inner).refused
    }
}

impl Shared {
    /// The status to refuse a request with, if it is to be.
    fn refusal(&self, method: &Method) -> Option<u16> {
        let mut writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        let status = writes.status.filter(|_| method != Method::GET)?;
        writes.refused += 1;
        Some(status)
    }
}

async fn pass(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    if let Some(status) = shared.refusal(request.method()) {
        let body = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status,
            "message": "made up",
        });
        let mut response = fake_server::answer(status, body.to_string());
        response.headers_mut().insert("content-type", "application/json".parse().expect("a value"));
        if status == 429 {
            response.headers_mut().insert("retry-after", "1".parse().expect("a value"));
        }
        return response;
    }
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let header = |name: &'static str| Some((name, head.headers.get(name)?.to_str().ok()?));
    let headers: Vec<_> = ["accept", "content-type"].into_iter().filter_map(header).collect();
    let body = to_bytes(body, BODY_BYTES_MAX).await.expect("a body").to_vec();
    let answer = shared.behind.begin(head.method.as_str(), &path, &headers, body).await;
    let Ok(answer) = answer else { return fake_server::answer(502, "nobody is behind") };
    let (status, kind) = (answer.status().as_u16(), answer.headers().get("content-type").cloned());
    // A watch has no end.
    let bytes = stream::unfold(answer, |mut answer| async {
        let chunk: Option<Result<Bytes, _>> = answer.chunk().await.transpose();
        chunk.map(|chunk| (chunk, answer))
    });
    let mut response = fake_server::answer(status, Body::from_stream(bytes));
    if let Some(kind) = kind {
        response.headers_mut().insert("content-type", kind);
    }
    response
}
