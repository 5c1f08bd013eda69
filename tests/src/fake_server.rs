//! What the fakes of registries share: how they listen and stop, and bodies that are not as they
//! should be.
#![allow(clippy::expect_used, clippy::panic, reason = "part of tests: a failure is theirs")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use futures_util::stream;
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep};

// Connections of the time before may still be closing when a port is to be listened on again.
const PORT_WAIT_MAX: Duration = Duration::from_secs(10);

/// What every fake of a registry can do.
pub trait FakeRegistry {
    /// What answers for it.
    fn server(&self) -> &FakeServer;

    /// The same, to be changed.
    fn server_mut(&mut self) -> &mut FakeServer;

    /// How many requests there were so far.
    fn asked(&self) -> usize {
        self.server().traffic().asked
    }

    /// When the last request came.
    fn last_asked(&self) -> Option<Instant> {
        self.server().traffic().last
    }

    /// Answers so much later from now on, or at once again what is asked from now on.
    fn set_late(&self, late: Option<Duration>) {
        self.server().traffic().late = late;
    }

    /// Cuts every connection and takes no more.
    fn stop(&mut self) {
        self.server_mut().stop();
    }

    /// Whether it takes connections.
    fn is_listening(&self) -> bool {
        self.server().runtime.is_some()
    }

    /// Listens again after [`Self::stop`].
    ///
    /// # Panics
    /// The port was taken meanwhile.
    fn listen(&mut self) {
        self.server_mut().listen();
    }
}

/// A server at an address of its own, until it is dropped.
#[derive(Debug)]
pub struct FakeServer {
    address: SocketAddr,
    app: Router,
    traffic: Arc<Mutex<Traffic>>,
    // A runtime of its own: to shut it down is to cut every connection.
    runtime: Option<Runtime>,
}

/// What comes in.
#[derive(Debug, Default)]
struct Traffic {
    asked: usize,
    last: Option<Instant>,
    late: Option<Duration>,
}

// === impl FakeServer ===

impl FakeServer {
    /// Serves `app`.
    pub(crate) fn start(app: Router) -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let traffic = Arc::default();
        let app = app.layer(from_fn_with_state(Arc::clone(&traffic), pass));
        let mut server = Self { address: any, app, traffic, runtime: None };
        server.listen();
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    fn traffic(&self) -> MutexGuard<'_, Traffic> {
        lock(&self.traffic)
    }

    /// Listens, at the same address as before.
    fn listen(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let began = Instant::now();
        let listener = loop {
            match std::net::TcpListener::bind(self.address) {
                Ok(listener) => break listener,
                Err(error) if began.elapsed() > PORT_WAIT_MAX => {
                    panic!("a port to listen on: {error}")
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        listener.set_nonblocking(true).expect("a listener that does not block");
        self.address = listener.local_addr().expect("an address");
        let app = self.app.clone();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            axum::serve(listener, app).await
        });
        self.runtime = Some(runtime);
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn lock(traffic: &Mutex<Traffic>) -> MutexGuard<'_, Traffic> {
    traffic.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn pass(
    State(traffic): State<Arc<Mutex<Traffic>>>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let late = {
        let mut traffic = lock(&traffic);
        traffic.asked += 1;
        traffic.last = Some(Instant::now());
        traffic.late
    };
    if let Some(late) = late {
        sleep(late).await;
    }
    next.run(request).await
}

// === Answers ===

/// An answer with this status, or with 500 where that is none.
pub(crate) fn answer(status: u16, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

/// A body that comes a byte at a time, for ever.
pub(crate) fn endless() -> Body {
    let bytes = stream::unfold((), |()| async {
        sleep(Duration::from_millis(50)).await;
        Some((Ok::<_, std::io::Error>(Bytes::from_static(b" ")), ()))
    });
    Body::from_stream(bytes)
}

/// `body` with this many bytes more, which mean nothing in JSON.
pub(crate) fn padded(body: &str, bytes: usize) -> Body {
    Body::from(format!("{body}{}", " ".repeat(bytes)))
}

/// The first half of `body`; then the connection breaks.
pub(crate) fn cut(body: &str) -> Body {
    let half = Bytes::copy_from_slice(&body.as_bytes()[..body.len() / 2]);
    Body::from_stream(stream::iter([Ok(half), Err(std::io::Error::other("cut"))]))
}
