//! Where policies come from: watches files and ConfigMaps and hands out candidates.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use landfall_core::text::Text;
use landfall_mesh::kube::configmap::{ConfigMap, ConfigMapRef, ConfigMapState};
use landfall_policy_host::{AdmissionError, Candidate, PACKED_BYTES_MAX, PolicyEngine, Revision};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use crate::config::{self, ComponentOrigin, PolicyConfig};
use crate::kubernetes::Clients;
use crate::regular;

/// How often a component's file is looked at. A change is taken up within a second of it.
const FILE_POLL: Duration = Duration::from_millis(250);

/// The keys a component may have in a ConfigMap, in the order of preference.
const COMPONENT_KEYS: [&str; 3] = ["policy.wasm", "policy.wasm.gz", "policy.wasm.zst"];
/// The key of the settings beside it.
const SETTINGS_KEY: &str = "settings.yaml";

/// What a policy's origin offers now.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Offer {
    /// Nothing was read yet.
    Pending,
    /// A component with its settings.
    Component(Arc<Offered>),
    /// Nothing usable.
    Nothing {
        /// Why.
        why: String,
        /// The ConfigMap that should have it, to tell its owner.
        config_map: Option<Arc<ConfigMap>>,
    },
}

/// A component with its settings. Equal when a policy made of it would be.
#[derive(Clone, Debug)]
pub(crate) struct Offered {
    /// As they stand in the file or ConfigMap: raw, gzip or zstd.
    pub(crate) bytes: Vec<u8>,
    /// The settings as JSON.
    pub(crate) settings_json: String,
    /// The ConfigMap it comes from, to tell its owner what becomes of it.
    pub(crate) config_map: Option<Arc<ConfigMap>>,
}

/// A policy whose origin is watched. Stops when dropped.
#[derive(Debug)]
pub(crate) struct PolicyFeed {
    /// What it was made from.
    pub(crate) config: PolicyConfig,
    /// What its origin offers.
    pub(crate) offer: watch::Receiver<Offer>,
    stop: CancellationToken,
}

impl PartialEq for Offered {
    fn eq(&self, other: &Self) -> bool {
        // Another annotation makes another ConfigMap, but no other policy.
        self.bytes == other.bytes && self.settings_json == other.settings_json
    }
}

impl PolicyFeed {
    /// Begins to watch.
    ///
    /// # Errors
    /// The Kubernetes API that it names cannot be reached by any configuration.
    pub(crate) async fn start(config: PolicyConfig, clients: &Clients) -> anyhow::Result<Self> {
        let (sender, offer) = watch::channel(Offer::Pending);
        let stop = CancellationToken::new();
        let settings = config.settings.clone();
        match &config.origin {
            ComponentOrigin::File(path) => {
                tokio::spawn(watch_file(path.clone(), settings, sender, stop.clone()));
            }
            ComponentOrigin::ConfigMap(origin) => {
                let client = clients.get(&origin.access).await.with_context(|| {
                    format!("failed to reach Kubernetes for policy {}", config.name)
                })?;
                let reference =
                    ConfigMapRef { namespace: origin.namespace.clone(), name: origin.name.clone() };
                let (state, watching) =
                    landfall_mesh::kube::configmap::watch(client, reference, stop.clone());
                tokio::spawn(watching);
                let key = origin.key.clone();
                tokio::spawn(watch_config_map(state, key, settings, sender, stop.clone()));
            }
        }
        Ok(Self { config, offer, stop })
    }

    /// Waits for a component.
    ///
    /// # Errors
    /// The origin offers none, or says nothing in time.
    pub(crate) async fn offered(&self, timeout: Duration) -> anyhow::Result<Arc<Offered>> {
        let name = &self.config.name;
        let mut offer = self.offer.clone();
        let seen = tokio::time::timeout(timeout, offer.wait_for(|o| *o != Offer::Pending)).await;
        match seen.ok().and_then(Result::ok).as_deref() {
            Some(Offer::Component(offered)) => Ok(Arc::clone(offered)),
            Some(Offer::Nothing { why, .. }) => {
                anyhow::bail!("failed to load policy {name}: {why}")
            }
            Some(Offer::Pending) | None => {
                anyhow::bail!("failed to load policy {name}: nothing was read in {timeout:?}")
            }
        }
    }
}

impl Drop for PolicyFeed {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Compiles components beside the threads that others wait for, a few at once: each takes memory.
#[derive(Clone, Debug)]
pub(crate) struct Compiler {
    engine: Arc<PolicyEngine>,
    turns: Arc<Semaphore>,
}

impl Compiler {
    /// Compiles so many at once.
    #[must_use]
    pub(crate) fn new(engine: Arc<PolicyEngine>, at_once: usize) -> Self {
        Self { engine, turns: Arc::new(Semaphore::new(at_once)) }
    }

    /// Makes a revision of what is offered, in its turn. That ends when the compiling does, and not
    /// when nobody waits for it any more.
    ///
    /// # Errors
    /// Compiling ended early, which is a defect of Landfall.
    pub(crate) async fn compile(
        &self,
        config: PolicyConfig,
        offered: Arc<Offered>,
    ) -> Result<Result<Arc<Revision>, AdmissionError>, JoinError> {
        // Nobody closes it.
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let engine = Arc::clone(&self.engine);
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            admit(&engine, &config, &offered)
        })
        .await
    }
}

/// Makes a revision of what is offered. Compiles, so it takes a while.
///
/// # Errors
/// The component or its settings are refused.
pub(crate) fn admit(
    engine: &Arc<PolicyEngine>,
    config: &PolicyConfig,
    offered: &Offered,
) -> Result<Arc<Revision>, AdmissionError> {
    Revision::admit(
        engine,
        Candidate {
            name: Text::clone(&config.name),
            bytes: &offered.bytes,
            settings_json: &offered.settings_json,
            limits: config.limits.clone(),
        },
    )
}

async fn watch_file(
    path: PathBuf,
    settings: Option<serde_json::Value>,
    sender: watch::Sender<Offer>,
    stop: CancellationToken,
) {
    let mut seen = None;
    loop {
        let stamp = file_stamp(&path).await;
        if seen.as_ref() != Some(&stamp) {
            let offer = read_file(&path, settings.as_ref()).await;
            // A file that changes while it is read is read again: its stamp will differ.
            send(&sender, offer);
            seen = Some(stamp);
        }
        tokio::select! {
            () = tokio::time::sleep(FILE_POLL) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// What changes when a file does: its inode when it is replaced, even by one that claims the same
/// age, else the time of the last change of anything about it.
#[derive(Debug, PartialEq, Eq)]
struct FileStamp {
    inode: u64,
    changed_at: (i64, i64),
    len: u64,
}

/// `None` while the file is not there.
async fn file_stamp(path: &Path) -> Option<FileStamp> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = tokio::fs::metadata(path).await.ok()?;
    let changed_at = (metadata.ctime(), metadata.ctime_nsec());
    Some(FileStamp { inode: metadata.ino(), changed_at, len: metadata.len() })
}

async fn read_file(path: &Path, settings: Option<&serde_json::Value>) -> Offer {
    // One byte more than a component may have is enough to have it refused.
    let read = regular::read(path, PACKED_BYTES_MAX as u64 + 1).await;
    match read.map(|(_, bytes)| bytes) {
        Ok(bytes) => Offer::Component(Arc::new(Offered {
            bytes,
            settings_json: settings_json(settings),
            config_map: None,
        })),
        Err(error) => {
            let why = format!("failed to read component {}: {error}", path.display());
            Offer::Nothing { why, config_map: None }
        }
    }
}

async fn watch_config_map(
    mut state: watch::Receiver<ConfigMapState>,
    key: Option<String>,
    settings: Option<serde_json::Value>,
    sender: watch::Sender<Offer>,
    stop: CancellationToken,
) {
    loop {
        let offer = offered_by(&state.borrow_and_update(), key.as_deref(), settings.as_ref());
        send(&sender, offer);
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}

fn offered_by(
    state: &ConfigMapState,
    key: Option<&str>,
    settings: Option<&serde_json::Value>,
) -> Offer {
    let nothing = |why: String, map: Option<&Arc<ConfigMap>>| Offer::Nothing {
        why,
        config_map: map.map(Arc::clone),
    };
    let map = match state {
        ConfigMapState::Pending => return Offer::Pending,
        ConfigMapState::Absent => {
            return nothing("the ConfigMap does not exist".to_owned(), None);
        }
        ConfigMapState::Unreadable(condition) => return nothing(condition.message.clone(), None),
        ConfigMapState::Present(map) => map,
    };
    let bytes = match key {
        Some(key) => map.binary_data.get(key),
        None => COMPONENT_KEYS.iter().find_map(|key| map.binary_data.get(*key)),
    };
    let Some(bytes) = bytes else {
        let wanted = key.map_or_else(|| COMPONENT_KEYS.join(", "), str::to_owned);
        return nothing(format!("the ConfigMap has no binaryData under {wanted}"), Some(map));
    };
    let settings_json = match map.data.get(SETTINGS_KEY) {
        None => settings_json(settings),
        Some(text) => match config::yaml_to_json(text) {
            Ok(value) => value.to_string(),
            Err(problem) => return nothing(format!("{SETTINGS_KEY}:{problem}"), Some(map)),
        },
    };
    Offer::Component(Arc::new(Offered {
        bytes: bytes.clone(),
        settings_json,
        config_map: Some(Arc::clone(map)),
    }))
}

fn settings_json(settings: Option<&serde_json::Value>) -> String {
    settings.map_or_else(|| "{}".to_owned(), serde_json::Value::to_string)
}

fn send(sender: &watch::Sender<Offer>, offer: Offer) {
    sender.send_if_modified(|known| {
        let differs = *known != offer;
        *known = offer;
        differs
    });
}
