//! Requests, for code that waits for the answer.

use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

use reqwest::{Certificate, Client, Method, Response};
use serde_json::Value;
use tokio::runtime::Runtime;

/// Longer than any answer takes; shorter than anybody would wait.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A server that is spoken to over HTTP.
#[derive(Clone, Debug)]
pub struct Http {
    client: Client,
    base: String,
    headers: Vec<(&'static str, String)>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The body as text.
    pub body: String,
}

/// Runs `future` to its end.
///
/// # Panics
/// No runtime can be made.
pub fn block<F: Future>(future: F) -> F::Output {
    runtime().block_on(future)
}

/// Where requests run.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime")
    })
}

// === impl Http ===

impl Http {
    /// The server on this port of 127.0.0.1.
    ///
    /// # Panics
    /// No client can be made.
    #[must_use]
    pub fn plain(port: u16) -> Self {
        let client = Client::builder().no_proxy().build().expect("a client");
        Self { client, base: format!("http://127.0.0.1:{port}"), headers: Vec::new() }
    }

    /// The same over TLS, with these authorities, as PEM.
    ///
    /// # Panics
    /// They cannot be read.
    #[must_use]
    pub fn tls(port: u16, authorities: &[u8]) -> Self {
        let authorities = Certificate::from_pem_bundle(authorities).expect("certificates");
        let client =
            Client::builder().no_proxy().tls_certs_only(authorities).build().expect("a client");
        Self { client, base: format!("https://127.0.0.1:{port}"), headers: Vec::new() }
    }

    /// The same with a header more.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// Begins a request and waits for the head of its answer.
    ///
    /// # Errors
    /// No answer comes.
    pub async fn begin(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Response, String> {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = self.client.request(method, format!("{}{path}", self.base)).body(body);
        let own = self.headers.iter().map(|(name, value)| (*name, value.as_str()));
        for (name, value) in own.chain(headers.iter().copied()) {
            request = request.header(name, value);
        }
        request.send().await.map_err(|error| format!("{error:?}"))
    }

    /// A request, whose answer others may wait for too.
    ///
    /// # Errors
    /// No whole answer comes.
    pub async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Reply, String> {
        let whole = async {
            let response = self.begin(method, path, headers, body).await?;
            let status = response.status().as_u16();
            let body = response.text().await.map_err(|error| format!("{error:?}"))?;
            Ok(Reply { status, body })
        };
        let in_time = tokio::time::timeout(TIMEOUT, whole).await;
        in_time.unwrap_or_else(|_| Err(format!("no answer within {TIMEOUT:?}")))
    }

    /// A request.
    ///
    /// # Errors
    /// No whole answer comes.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> Result<Reply, String> {
        block(self.ask(method, path, headers, body.into()))
    }

    /// A GET.
    ///
    /// # Errors
    /// No whole answer comes.
    pub fn get(&self, path: &str) -> Result<Reply, String> {
        self.send("GET", path, &[], "")
    }

    /// Whether a GET is answered with 200.
    #[must_use]
    pub fn is_ok(&self, path: &str) -> bool {
        self.get(path).is_ok_and(|reply| reply.status == 200)
    }
}

// === impl Reply ===

impl Reply {
    /// The body as JSON.
    ///
    /// # Panics
    /// It is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.body))
    }
}
