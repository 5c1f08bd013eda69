//! Health, readiness and metrics over HTTP, and the release of what the guard holds.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::info;

use crate::bounded::{Bounded, Peer};
use crate::event::Event;
use crate::metrics::Metrics;
use crate::status::Status;

/// The admin server. Stops when dropped.
#[derive(Debug)]
pub(crate) struct Admin {
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Shared {
    status: Arc<Status>,
    metrics: Arc<Metrics>,
    events: mpsc::Sender<Event>,
}

impl Admin {
    /// Listens on `address`.
    ///
    /// # Errors
    /// The address is taken or not ours.
    pub(crate) fn start(
        address: SocketAddr,
        status: Arc<Status>,
        metrics: Arc<Metrics>,
        events: mpsc::Sender<Event>,
    ) -> anyhow::Result<Self> {
        let listener = Bounded::bind(address).with_context(|| {
            format!("failed to listen on {address} for health and metrics; set admin.listen")
        })?;
        let bound = listener.local_addr().context("failed to read the admin address")?;
        info!(address = %bound, "Serving health and metrics.");
        let router = Router::new()
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics_text))
            .route("/guard/release", post(release))
            .with_state(Shared { status, metrics, events });
        Ok(Self { task: tokio::spawn(listener.serve(router)) })
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn healthz(State(shared): State<Shared>) -> Response {
    match shared.status.hang() {
        None => "ok\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

/// Ready or not, what a person should know follows.
async fn readyz(State(shared): State<Shared>) -> Response {
    let unready = shared.status.unready();
    let (code, first) = if unready.is_empty() {
        (StatusCode::OK, "ready".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, unready.join("\n"))
    };
    let mut body = first;
    for line in shared.status.report() {
        body.push('\n');
        body.push_str(&line);
    }
    body.push('\n');
    (code, body).into_response()
}

async fn metrics_text(State(shared): State<Shared>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match shared.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Lets go what the deletion budget holds. For who is on the same machine or in the same pod only,
/// whatever address is served, and not for pages in a browser: this disarms the guard.
async fn release(
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    State(shared): State<Shared>,
    headers: HeaderMap,
) -> Response {
    if !peer.ip().to_canonical().is_loopback() || headers.contains_key(header::ORIGIN) {
        let told = "only taken from the same machine or pod: use kubectl exec or port-forward\n";
        return (StatusCode::FORBIDDEN, told).into_response();
    }
    if !shared.status.holds_for_budget() {
        let told = "the guard holds nothing for its budget; /readyz says what it waits for\n";
        return (StatusCode::CONFLICT, told).into_response();
    }
    match shared.events.send(Event::Release).await {
        Ok(()) => "released\n".into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response(),
    }
}
