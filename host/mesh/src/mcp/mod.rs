//! An MCP-over-xDS server as a sink: istiod asks it for ServiceEntries and WorkloadEntries, as it
//! would ask the Kubernetes API.
//!
//! The sink holds what it serves in a journal on disk and in memory. Steps change both, and each
//! call of [`McpSink::apply`] is one new state for whoever asks: never a part of it. After a restart
//! the last state is served at once; without a journal nothing is served until
//! [`McpSink::complete`], for istiod deletes what an answer does not have.

mod addresses;
mod encode;
mod journal;
mod proto;
mod server;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use imbl::OrdMap;
use landfall_core::mesh::{Kind, ObjectId};
use landfall_core::plan::Observed;
use landfall_core::text::with_causes;
use landfall_core::time::Time;
use prost::Message as _;
use prost::bytes::{Bytes, BytesMut};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tracing::{error, info, warn};

use self::addresses::Addresses;
pub use self::addresses::{AddressRange, RangeError};
pub use self::journal::JournalError;
use self::journal::{Change, Entry, Journal, Recovered};
use self::server::{Ads, Encoded, Published};
use crate::api::{self, MeshObject, Owner, Resolution, ServiceEntry};
use crate::kube::Observation;
use crate::sink::{Applied, Condition, Outcome, Step};

/// What the server needs to know.
#[derive(Clone, Debug)]
pub struct McpOptions {
    /// Where istiod finds it.
    pub listen: SocketAddr,
    /// The file that keeps what is served.
    pub journal: PathBuf,
    /// Virtual addresses to give; none without it.
    pub addresses: Option<AddressRange>,
    /// Certificate chain and key, PEM; plain text without it.
    pub tls: Option<TlsIdentity>,
    /// Whose objects are in the journal.
    pub owner: Owner,
}

/// What the server proves its name with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsIdentity {
    /// The certificate chain.
    pub cert_file: PathBuf,
    /// The private key.
    pub key_file: PathBuf,
}

/// The server cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum McpError {
    /// The address is taken, or not ours.
    #[error("failed to listen on {address} for control planes")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A file of the certificate cannot be read.
    #[error("failed to read {}", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Reading files ended early, which is a defect of Landfall.
    #[error("failed to read the journal and the certificate")]
    Ended {
        /// How.
        source: tokio::task::JoinError,
    },
    /// The certificate and the key do not make an identity.
    #[error("failed to use the certificate {} and its key", path.display())]
    Identity {
        /// The certificate.
        path: PathBuf,
        /// Why.
        source: tonic::transport::Error,
    },
}

/// Finds out that a control plane is gone whose connection was cut without a word.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// A thousand times what a chain of certificates has.
const PEM_BYTES_MAX: u64 = 1 << 20;
/// Streams of one connection; istiod has one.
const STREAMS_MAX: u32 = 16;

/// An MCP-over-xDS server. Serves until its token is cancelled.
pub struct McpSink {
    served: Mutex<Served>,
    states: watch::Sender<Option<Arc<Published>>>,
    observation: watch::Sender<Observation>,
    address: SocketAddr,
}

/// What is served.
struct Served {
    journal: Journal,
    entries: OrdMap<ObjectId, Entry>,
    /// Each as an answer has it.
    encoded: BTreeMap<ObjectId, Bytes>,
    addresses: Option<Addresses>,
    /// The number of the last state, and of the last that changed each type.
    number: u64,
    changed: BTreeMap<Kind, u64>,
}

impl McpSink {
    /// Reads the journal and begins to serve.
    ///
    /// # Errors
    /// See [`McpError`].
    pub async fn start(
        options: McpOptions,
        stop: CancellationToken,
    ) -> Result<Arc<Self>, McpError> {
        let McpOptions { listen, journal, addresses, tls, owner } = options;
        let read = move || Ok((tls_config(tls)?, Journal::open(journal, owner)?));
        let (tls, (journal, recovered)) = beside(read).await?;
        let mut builder = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .max_concurrent_streams(STREAMS_MAX);
        if let Some((config, path)) = tls {
            builder =
                builder.tls_config(config).map_err(|source| McpError::Identity { path, source })?;
        }
        let (sink, listener) = Self::recovered(journal, recovered, addresses, listen).await?;
        let ads = Ads::new(sink.states.subscribe());
        tokio::spawn(async move {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let stopped = stop.cancelled_owned();
            if let Err(error) = builder.serve_with_incoming_shutdown(ads, incoming, stopped).await {
                error!(error = %error, "The MCP server ended; restart Landfall.");
            }
        });
        Ok(sink)
    }

    async fn recovered(
        journal: Journal,
        recovered: Recovered,
        range: Option<AddressRange>,
        listen: SocketAddr,
    ) -> Result<(Arc<Self>, TcpListener), McpError> {
        let listened = |source| McpError::Listen { address: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(listened)?;
        let address = listener.local_addr().map_err(listened)?;
        let Recovered { entries, last_address, unreadable, .. } = recovered;
        if unreadable > 0 {
            warn!(
                lines = unreadable,
                "Lines of the journal cannot be read; what they say is written again."
            );
        }
        info!(%address, objects = entries.len(), "Serving MCP over xDS.");
        let given = entries.values().filter_map(|entry| entry.address);
        let mut served = Served {
            addresses: range.map(|range| Addresses::new(range, given, last_address)),
            journal,
            encoded: BTreeMap::new(),
            number: 0,
            changed: BTreeMap::new(),
            entries,
        };
        served.encoded =
            served.entries.iter().map(|(id, entry)| (id.clone(), encoded(entry))).collect();
        let ours = served.entries.iter().map(|(id, e)| (id.clone(), Arc::clone(&e.object)));
        let observed = Observed { ours: ours.collect(), ..Observed::default() };
        let (states, _) = watch::channel(None);
        let (observation, _) = watch::channel(Observation::whole(observed));
        let sink = Self { served: Mutex::new(served), states, observation, address };
        sink.publish(&sink.served());
        Ok((Arc::new(sink), listener))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it holds.
    #[must_use]
    pub fn observation(&self) -> watch::Receiver<Observation> {
        self.observation.subscribe()
    }

    /// Everything that is wanted is here: from now on it is served, though nothing was before. Where
    /// the journal cannot say so it is not, and is to be called again.
    pub fn complete(&self) {
        let mut served = self.served();
        if !served.journal.is_told() {
            let told = served.tell();
            self.note_use(told.as_ref().err());
            if told.is_ok() {
                self.publish(&served);
            }
        }
    }

    /// Takes up whether the journal could be written.
    fn note_use(&self, error: Option<&JournalError>) {
        let condition = error.map(|error| Condition {
            code: "mcp_journal",
            message: format!("{}. What is served stays as it is", with_causes(error)),
        });
        self.observation.send_if_modified(|seen| {
            let differs = seen.condition != condition;
            seen.condition = condition;
            differs
        });
    }

    /// Executes `steps` and serves the outcome as one state. New objects are dated `now`. Blocks,
    /// for the journal is on disk before anything is served.
    pub fn apply(&self, steps: &[Step], now: Time) -> Vec<Applied> {
        let mut served = self.served();
        let outcome = served.take(steps, now);
        self.note_use(outcome.as_ref().err());
        if outcome.is_ok() {
            // Changed in place, so that who compares walks only what changed.
            self.observation.send_modify(|seen| {
                for step in steps {
                    match step.to() {
                        Some(to) => seen.observed.ours.insert(step.id().clone(), Arc::clone(to)),
                        None => seen.observed.ours.remove(step.id()),
                    };
                }
            });
            self.publish(&served);
        }
        let one = |step: &Step| Applied {
            id: step.id().clone(),
            verb: step.verb(),
            outcome: match &outcome {
                Ok(()) => Outcome::Done(step.to().cloned()),
                Err(error) => Outcome::Unavailable(with_causes(error)),
            },
            attempts: 1,
        };
        steps.iter().map(one).collect()
    }

    fn served(&self) -> MutexGuard<'_, Served> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells control planes what there is, if it may be told.
    fn publish(&self, served: &Served) {
        if served.journal.is_told() {
            let before = self.states.borrow().clone();
            self.states.send_replace(Some(Arc::new(served.state(before.as_deref()))));
        }
    }
}

/// What a journal holds, for who only looks.
///
/// # Errors
/// It cannot be read.
pub async fn look(journal: PathBuf, owner: Owner) -> Result<Observation, McpError> {
    let (_, recovered) = beside(move || Ok(Journal::open(journal, owner)?)).await?;
    let ours = recovered.entries.into_iter().map(|(id, entry)| (id, entry.object)).collect();
    Ok(Observation::whole(Observed { ours, ..Observed::default() }))
}

impl Served {
    /// Has what there is told from now on.
    fn tell(&mut self) -> Result<(), JournalError> {
        let last = self.addresses.as_ref().and_then(Addresses::last);
        self.journal.tell(&self.entries, last)
    }

    /// Takes steps up, or none of them.
    fn take(&mut self, steps: &[Step], now: Time) -> Result<(), JournalError> {
        let mut entries = self.entries.clone();
        let mut changes = Vec::with_capacity(steps.len());
        for step in steps {
            let id = step.id();
            match step.to() {
                Some(object) => {
                    let entry = self.entry(entries.get(id), object, now);
                    changes.push(Change::Put(entry.clone()));
                    entries.insert(id.clone(), entry);
                }
                None => {
                    let gone = entries.remove(id).and_then(|entry| entry.address);
                    self.take_back(gone);
                    changes.push(Change::Gone(id.clone()));
                }
            }
        }
        let last = self.addresses.as_ref().and_then(Addresses::last);
        if let Err(error) = self.journal.append(&changes, &entries, last) {
            if let Some(addresses) = &mut self.addresses {
                addresses.reset(self.entries.values().filter_map(|entry| entry.address));
            }
            return Err(error);
        }
        self.number += 1;
        for change in &changes {
            let id = match change {
                Change::Put(entry) => {
                    self.encoded.insert(entry.object.id.clone(), encoded(entry));
                    &entry.object.id
                }
                Change::Gone(id) => {
                    self.encoded.remove(id);
                    id
                }
            };
            self.changed.insert(id.kind, self.number);
        }
        self.entries = entries;
        Ok(())
    }

    /// How an object is to be served.
    fn entry(&mut self, before: Option<&Entry>, object: &Arc<MeshObject>, now: Time) -> Entry {
        let created = before.map_or_else(|| api::rfc3339(now), |before| before.created.clone());
        let had = before.and_then(|before| before.address);
        let wants = object.body.service_entry().is_some_and(wants_address);
        let address = match &mut self.addresses {
            Some(addresses) if wants => {
                had.filter(|had| addresses.has(*had)).or_else(|| addresses.give())
            }
            Some(_) | None => None,
        };
        if address != had {
            self.take_back(had);
        }
        Entry { object: Arc::clone(object), created, address }
    }

    fn take_back(&mut self, address: Option<std::net::IpAddr>) {
        if let (Some(addresses), Some(address)) = (&mut self.addresses, address) {
            addresses.take_back(address);
        }
    }

    /// What is served now. Of a kind that did not change it is what was served `before`.
    fn state(&self, before: Option<&Published>) -> Published {
        let of_kind = |kind: Kind| {
            let version = self.changed.get(&kind).copied().unwrap_or_default().to_string();
            let known = before.and_then(|before| before.resources.get(&kind));
            if let Some(known) = known.filter(|known| known.version == version) {
                return known.clone();
            }
            let of_kind = || self.encoded.iter().filter(move |(id, _)| id.kind == kind);
            let mut bytes = BytesMut::with_capacity(of_kind().map(|(_, one)| one.len()).sum());
            of_kind().for_each(|(_, one)| bytes.extend_from_slice(one));
            Encoded { bytes: bytes.freeze(), version }
        };
        let kinds = [Kind::ServiceEntry, Kind::WorkloadEntry];
        let resources = kinds.into_iter().map(|kind| (kind, of_kind(kind))).collect();
        Published { number: self.number, resources }
    }
}

/// Whether istiod would give the service an address if it were in the Kubernetes API.
fn wants_address(entry: &ServiceEntry) -> bool {
    let is_wildcard = entry.hosts.iter().any(|host| host.starts_with('*'));
    entry.addresses.is_empty() && entry.resolution != Resolution::None && !is_wildcard
}

fn encoded(entry: &Entry) -> Bytes {
    let resource = encode::resource(entry);
    proto::Resources { resources: vec![resource] }.encode_to_vec().into()
}

/// What `read` makes of files, beside the threads that others wait for: a journal of 100,000 objects
/// takes seconds.
async fn beside<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, McpError> + Send + 'static,
) -> Result<T, McpError> {
    let ended = |error: tokio::task::JoinError| McpError::Ended { source: error };
    tokio::task::spawn_blocking(read).await.map_err(ended)?
}

/// What the server proves its name with, and the file with its certificate.
fn tls_config(tls: Option<TlsIdentity>) -> Result<Option<(ServerTlsConfig, PathBuf)>, McpError> {
    let Some(TlsIdentity { cert_file, key_file }) = tls else { return Ok(None) };
    let identity = Identity::from_pem(pem(&cert_file)?, pem(&key_file)?);
    Ok(Some((ServerTlsConfig::new().identity(identity), cert_file)))
}

/// All of a file, which must be a regular one: opening a pipe waits for somebody to write into it,
/// and a device may have no end.
fn pem(path: &Path) -> Result<Vec<u8>, McpError> {
    let failed = |source| McpError::Tls { path: path.to_owned(), source };
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(failed(io::Error::other("it is not a regular file")));
    }
    let mut pem = Vec::new();
    // One byte more than is allowed, to notice that there is more.
    let file = File::open(path).map_err(failed)?;
    file.take(PEM_BYTES_MAX + 1).read_to_end(&mut pem).map_err(failed)?;
    if pem.len() as u64 > PEM_BYTES_MAX {
        return Err(failed(io::Error::other(format!("it has more than {PEM_BYTES_MAX} bytes"))));
    }
    Ok(pem)
}

impl std::fmt::Debug for McpSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("McpSink").field("address", &self.address).finish_non_exhaustive()
    }
}
