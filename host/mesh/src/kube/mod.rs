//! The Kubernetes API as a sink.
//!
//! [`KubeSink::run`] watches all ServiceEntries and WorkloadEntries and publishes what there is
//! as an [`Observation`]; [`KubeSink::apply`] executes the steps of a plan, by server-side apply
//! under one field manager. What was written is part of the observation at once, so that a plan
//! made before the watch catches up does not write it again.
//!
//! Ours is what carries the owner's labels and was written by our field manager. Everything else
//! is foreign and never touched: creating refuses to take over what is there, changing and deleting
//! name the `uid` and the `resourceVersion` of what they mean. What a person selected becomes ours by
//! [`KubeSink::adopt`].

pub mod adopt;
mod apply;
mod backoff;
mod breaker;
pub mod configmap;
mod error;
pub mod events;
#[cfg(test)]
mod fake;
mod observe;
mod send;
mod store;
#[cfg(test)]
mod tests;
mod wire;

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use landfall_core::text::Text;
use tokio::sync::{Semaphore, watch};
use tracing::warn;

use crate::api::Owner;

use self::breaker::Breaker;
use self::store::Listing;
pub use self::store::Observation;

/// How to reach a Kubernetes API server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// A kubeconfig file. Without one: `KUBECONFIG`, `~/.kube/config`, or the cluster the process
    /// runs in.
    pub kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig; its current one if not given.
    pub context: Option<String>,
}

/// What holds for all objects of a sink.
#[derive(Clone, Debug)]
pub struct KubeOptions {
    /// Whose objects are ours.
    pub owner: Owner,
    /// The namespaces to watch; all of the cluster when empty.
    pub namespaces: Vec<Text>,
    /// How many writes are under way at once, of all calls together.
    pub concurrency: usize,
}

/// The Kubernetes API as a sink.
pub struct KubeSink {
    client: Client,
    options: KubeOptions,
    // The lock of the state is that of the channel. No lock is held while anything waits, and
    // `listings` is taken before the state's.
    listings: Mutex<Vec<Listing>>,
    state: watch::Sender<Observation>,
    // For all calls of `apply` together: there are several at once, one of each round that had
    // steps.
    writes: Semaphore,
    breaker: Mutex<Breaker>,
}

/// An API server cannot be addressed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig file cannot be used.
    #[error("failed to read kubeconfig {}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<kube::config::KubeconfigError>,
    },
    /// The user's own kubeconfig cannot be used, or does not have the context.
    #[error(
        "failed to find context {context:?} in the kubeconfig that KUBECONFIG names, or else in ~/.kube/config"
    )]
    Context {
        /// The context.
        context: String,
        /// Why.
        source: Box<kube::config::KubeconfigError>,
    },
    /// There is neither a kubeconfig nor a cluster around the process.
    #[error(
        "failed to find a Kubernetes cluster: no kubeconfig is given or found, and the process does not run in a Pod"
    )]
    Infer {
        /// Why.
        source: Box<kube::config::InferConfigError>,
    },
    /// The client cannot be made of it, such as for a certificate that cannot be read.
    #[error("failed to prepare the connection to {server}")]
    Client {
        /// The API server.
        server: String,
        /// Why.
        source: Box<kube::Error>,
    },
}

// A cluster's own network answers within milliseconds; a lost packet or two is 3 s.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
// API servers give up a request after 60 s of their own accord (`--request-timeout`). Whoever is
// silent for longer is gone, such as a connection that a firewall dropped without a word.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
// A watch may rightly be silent, so it ends before that and is taken up where it was: one request
// a minute for each kind and namespace. kube waits 5 s longer than this for the end.
const WATCH_SECS: u32 = 50;

/// A client for the cluster that `connection` names.
///
/// # Errors
/// The configuration cannot be read or is incomplete. Nothing is sent yet.
pub async fn connect(connection: &Connection) -> Result<Client, ConnectError> {
    let options =
        KubeConfigOptions { context: connection.context.clone(), ..KubeConfigOptions::default() };
    let config = match &connection.kubeconfig {
        Some(path) => {
            let failed =
                |source| ConnectError::Kubeconfig { path: path.clone(), source: Box::new(source) };
            // Opening a pipe waits for somebody to write into it. What is not there is told below.
            if fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
                let problem = io::Error::other("it is not a regular file");
                return Err(failed(KubeconfigError::ReadConfig(problem, path.clone())));
            }
            let kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
            kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(failed)?
        }
        None if options.context.is_some() => kube::Config::from_kubeconfig(&options)
            .await
            .map_err(|source| ConnectError::Context {
                context: connection.context.clone().unwrap_or_default(),
                source: Box::new(source),
            })?,
        None => kube::Config::infer()
            .await
            .map_err(|source| ConnectError::Infer { source: Box::new(source) })?,
    };
    let server = config.cluster_url.to_string();
    if config.accept_invalid_certs {
        warn!(
            server,
            "The kubeconfig has the API server's certificate accepted, whoever it is of."
        );
    }
    client_of(config).map_err(|source| ConnectError::Client { server, source: Box::new(source) })
}

/// A client that waits for nothing without end and asks for nothing twice by itself.
fn client_of(mut config: kube::Config) -> Result<Client, kube::Error> {
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    // A connection that lay idle for a while has its full time for the next answer.
    config.reset_reader_on_write = true;
    // kube would ask up to 15 times, for minutes, and say nothing. Writes are tried again by
    // `apply`, lists and watches by `observe`; both report why.
    config.default_retry = false;
    Client::try_from(config)
}

// === impl KubeSink ===

impl KubeSink {
    /// A sink behind `client`. Nothing is sent yet.
    #[must_use]
    pub fn new(client: Client, options: KubeOptions) -> Self {
        let state = watch::Sender::new(Observation::default());
        let writes = Semaphore::new(options.concurrency.clamp(1, Semaphore::MAX_PERMITS));
        let (listings, breaker) = (Mutex::default(), Mutex::default());
        Self { client, options, listings, state, writes, breaker }
    }

    /// What there is, as far as known; see [`Observation::ready`].
    #[must_use]
    pub fn observation(&self) -> watch::Receiver<Observation> {
        self.state.subscribe()
    }

    fn listings(&self) -> MutexGuard<'_, Vec<Listing>> {
        // Whoever panicked left a list that is begun anew at worst.
        self.listings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        // Whoever panicked left a count that is too low at worst.
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for KubeSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the client, which has credentials, nor all that is observed.
        f.debug_struct("KubeSink").field("options", &self.options).finish_non_exhaustive()
    }
}

// === impl KubeOptions ===

impl KubeOptions {
    /// The whole cluster, and 32 writes at once.
    #[must_use]
    pub fn new(owner: Owner) -> Self {
        Self { owner, namespaces: Vec::new(), concurrency: 32 }
    }
}

// === impl ConnectError ===

impl ConnectError {
    /// One of a closed set; fit for a metric label.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Kubeconfig { .. } | Self::Context { .. } => "kube_config",
            Self::Infer { .. } => "kube_infer",
            Self::Client { .. } => "kube_client",
        }
    }
}
