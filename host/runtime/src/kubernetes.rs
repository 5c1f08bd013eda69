//! Connections to Kubernetes, one for each way of access that the configuration names.

use std::collections::BTreeMap;
use std::sync::Arc;

use landfall_mesh::kube::configmap::ConfigMap;
use landfall_mesh::kube::events::{EventPoster, Note, Subject};
use landfall_mesh::kube::{Client, ConnectError, Connection, connect};
use tokio::sync::{Mutex, Semaphore};

use crate::clock;
use crate::config::KubeAccess;

/// Clients by how they were asked for.
#[derive(Clone)]
pub(crate) struct Clients {
    known: Arc<Mutex<BTreeMap<KubeAccess, Reached>>>,
    /// Bounds the Events that wait for an API server which does not answer.
    posting: Arc<Semaphore>,
}

/// Events that wait or are being posted.
const POSTS_MAX: usize = 64;

#[derive(Clone)]
struct Reached {
    client: Client,
    poster: Arc<Mutex<EventPoster>>,
}

impl Clients {
    /// A client for `access`; nothing is sent yet.
    ///
    /// # Errors
    /// There is no such configuration.
    pub(crate) async fn get(&self, access: &KubeAccess) -> Result<Client, ConnectError> {
        Ok(self.reached(access).await?.client)
    }

    /// Tells the owner of a ConfigMap something, in the background: nothing waits for an Event,
    /// and one that cannot be posted is in the log all the same.
    pub(crate) fn post(&self, access: &KubeAccess, map: &ConfigMap, note: Note) {
        let subject = Subject {
            api_version: "v1".to_owned(),
            kind: "ConfigMap".to_owned(),
            namespace: map.reference.namespace.clone(),
            name: map.reference.name.clone(),
            uid: map.uid.clone(),
        };
        let Ok(permit) = Arc::clone(&self.posting).try_acquire_owned() else {
            tracing::warn!(
                namespace = subject.namespace,
                config_map = subject.name,
                "Event not posted: too many wait for the API server."
            );
            return;
        };
        let (clients, access) = (self.clone(), access.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let Ok(reached) = clients.reached(&access).await else { return };
            if let Err(error) =
                reached.poster.lock().await.post(&subject, note, clock::wall()).await
            {
                tracing::warn!(code = error.code, error = error.message, "Event not posted.");
            }
        });
    }

    async fn reached(&self, access: &KubeAccess) -> Result<Reached, ConnectError> {
        let mut known = self.known.lock().await;
        if let Some(reached) = known.get(access) {
            return Ok(reached.clone());
        }
        let connection =
            Connection { kubeconfig: access.kubeconfig.clone(), context: access.context.clone() };
        let client = connect(&connection).await?;
        let poster = Arc::new(Mutex::new(EventPoster::new(client.clone(), instance_name())));
        let reached = Reached { client, poster };
        known.insert(access.clone(), reached.clone());
        Ok(reached)
    }
}

impl Default for Clients {
    fn default() -> Self {
        Self { known: Arc::default(), posting: Arc::new(Semaphore::new(POSTS_MAX)) }
    }
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clients").finish_non_exhaustive()
    }
}

/// Who posts, as Events show it: the pod's name where there is one.
fn instance_name() -> String {
    std::env::var("HOSTNAME").unwrap_or_else(|_| "landfall".to_owned())
}
