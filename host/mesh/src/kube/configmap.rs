//! Watches one ConfigMap: how policies come into a cluster.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use futures_util::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::ConfigMap as Wire;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use landfall_core::time::Time;
use landfall_core::told::Told;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::WATCH_SECS;
use super::backoff::ShortBackoff;
use super::error::condition_of_watch;
use crate::sink::Condition;

/// Which ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigMapRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What is known of a ConfigMap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ConfigMapState {
    /// The API server has not said yet.
    #[default]
    Pending,
    /// It is not there.
    Absent,
    /// It was never read, and why. Once read, the last state stands while it cannot be read.
    Unreadable(Condition),
    /// It is there.
    Present(Arc<ConfigMap>),
}

/// What is in a ConfigMap; Kubernetes allows 1 MiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigMap {
    /// Which it is.
    pub reference: ConfigMapRef,
    /// Texts by key.
    pub data: BTreeMap<String, String>,
    /// Bytes by key.
    pub binary_data: BTreeMap<String, Vec<u8>>,
    /// Which object it is; another one of the same name has another.
    pub uid: String,
    /// Which state of it.
    pub resource_version: String,
}

/// Watches a ConfigMap: what is known of it, and the work to be done for that, which goes on
/// until `stop` or until nobody listens.
pub fn watch(
    client: Client,
    reference: ConfigMapRef,
    stop: CancellationToken,
) -> (watch::Receiver<ConfigMapState>, impl Future<Output = ()> + Send + 'static) {
    let (sender, receiver) = watch::channel(ConfigMapState::Pending);
    let watching = async move {
        tokio::select! {
            () = stop.cancelled() => (),
            () = sender.closed() => (),
            () = keep_current(client, reference, &sender) => (),
        }
    };
    (receiver, watching)
}

async fn keep_current(
    client: Client,
    reference: ConfigMapRef,
    sender: &watch::Sender<ConfigMapState>,
) {
    let api: Api<Wire> = Api::namespaced(client, &reference.namespace);
    let config = watcher::Config::default()
        .fields(&format!("metadata.name={}", reference.name))
        .timeout(WATCH_SECS);
    let events = watcher(api, config).backoff(ShortBackoff::default());
    pin_mut!(events);
    let what = format!("ConfigMap {}/{}", reference.namespace, reference.name);
    let mut listed = None;
    let mut told = Told::default();
    let began = Instant::now();
    while let Some(event) = events.next().await {
        let state = match event {
            Ok(Event::Init) => {
                listed = None;
                continue;
            }
            Ok(Event::InitApply(map)) => {
                listed = Some(map);
                continue;
            }
            Ok(Event::InitDone) => {
                listed.take().map_or(ConfigMapState::Absent, |map| present(&reference, map))
            }
            Ok(Event::Apply(map)) => present(&reference, map),
            Ok(Event::Delete(_)) => ConfigMapState::Absent,
            // The stream broke and is taken up again; only if that fails there is something to say.
            Err(watcher::Error::WatchFailed(_) | watcher::Error::WatchError(_)) => continue,
            Err(error) => {
                let condition = condition_of_watch(&error, &what);
                // Told counts from anywhere.
                let now = Time::default().plus(began.elapsed());
                if told.takes(Some((condition.code, &condition.message)), now) {
                    warn!(code = condition.code, error = %condition, "ConfigMap cannot be watched; keeping what is known.");
                } else {
                    debug!(code = condition.code, error = %condition, "ConfigMap still cannot be watched.");
                }
                match &*sender.borrow() {
                    ConfigMapState::Pending | ConfigMapState::Unreadable(_) => (),
                    ConfigMapState::Absent | ConfigMapState::Present(_) => continue,
                }
                ConfigMapState::Unreadable(condition)
            }
        };
        if !matches!(state, ConfigMapState::Unreadable(_)) {
            told = Told::default();
        }
        sender.send_if_modified(|known| {
            let differs = *known != state;
            *known = state;
            differs
        });
    }
}

fn present(reference: &ConfigMapRef, map: Wire) -> ConfigMapState {
    let binary = map.binary_data.unwrap_or_default();
    ConfigMapState::Present(Arc::new(ConfigMap {
        reference: reference.clone(),
        data: map.data.unwrap_or_default(),
        binary_data: binary.into_iter().map(|(key, bytes)| (key, bytes.0)).collect(),
        uid: map.metadata.uid.unwrap_or_default(),
        resource_version: map.metadata.resource_version.unwrap_or_default(),
    }))
}
