//! Starts the configured sources and hands out what they publish.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use landfall_core::registry::{Doubt, SourceName, SourceState};
use landfall_registry::cloudmap::{CloudMap, CloudMapSettings};
use landfall_registry::consul::{Consul, ConsulSettings, Kinds};
use landfall_registry::eureka::{Eureka, EurekaSettings};
use landfall_registry::file::{File, FileSettings};
use landfall_registry::{Publisher, Source, SourceMetrics, TlsFiles};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::config::{CloudMapConfig, ConsulConfig, EurekaConfig, SourceConfig, SourceKind};

/// A source at work. Stops when dropped.
#[derive(Debug)]
pub(crate) struct RunningSource {
    /// What it was made from.
    pub(crate) config: SourceConfig,
    /// The kind of registry.
    pub(crate) registry: &'static str,
    /// What it publishes.
    pub(crate) state: watch::Receiver<SourceState>,
    /// Its counters.
    pub(crate) metrics: Arc<SourceMetrics>,
    stop: CancellationToken,
    task: AbortHandle,
}

/// The sources at work, by name.
pub(crate) type RunningSources = BTreeMap<SourceName, RunningSource>;

impl RunningSource {
    /// Starts the source that `config` describes, which goes on counting in `metrics`.
    #[must_use]
    pub(crate) fn start(config: SourceConfig, metrics: Arc<SourceMetrics>) -> Self {
        let source: Box<dyn Source> = match &config.kind {
            SourceKind::File { path } => Box::new(File::new(FileSettings::new(path))),
            SourceKind::Consul(consul) => Box::new(Consul::new(consul_settings(consul))),
            SourceKind::Eureka(eureka) => Box::new(Eureka::new(eureka_settings(eureka))),
            SourceKind::CloudMap(map) => Box::new(CloudMap::new(cloud_map_settings(map))),
        };
        let (publisher, state) = Publisher::new(config.name.clone(), clock::wall);
        let publisher = publisher.with_metrics(Arc::clone(&metrics));
        let stop = CancellationToken::new();
        let registry = source.registry();
        let running = tokio::spawn(source.run(publisher, stop.clone()));
        let task = running.abort_handle();
        let (name, stopped) = (config.name.clone(), stop.clone());
        tokio::spawn(async move {
            // How it ended is in the log of the panic.
            let _ = running.await;
            if !stopped.is_cancelled() {
                SourceEnded { source: &name }.emit();
            }
        });
        Self { config, registry, state, metrics, stop, task }
    }
}

impl Drop for RunningSource {
    fn drop(&mut self) {
        self.stop.cancel();
        self.task.abort();
    }
}

fn consul_settings(config: &ConsulConfig) -> ConsulSettings {
    let mut settings = ConsulSettings::new(config.urls.clone());
    settings.token_file.clone_from(&config.token_file);
    settings.tls = TlsFiles {
        ca_file: config.ca_file.clone(),
        client_cert_file: config.cert_file.clone(),
        client_key_file: config.key_file.clone(),
    };
    settings.datacenters.clone_from(&config.datacenters);
    settings.partitions.clone_from(&config.partitions);
    settings.namespaces.clone_from(&config.namespaces);
    settings.kinds = Kinds { proxies: config.include_proxies, gateways: config.include_proxies };
    if let Some(connections) = config.connections_max {
        settings.connections_max = usize::from(connections);
    }
    if let Some(resync) = config.resync {
        settings.resync = resync;
    }
    settings.partial_view = config.partial_view;
    settings
}

fn eureka_settings(config: &EurekaConfig) -> EurekaSettings {
    let mut settings = EurekaSettings::new(config.urls.clone());
    settings.login.clone_from(&config.login);
    settings.tls = TlsFiles {
        ca_file: config.ca_file.clone(),
        client_cert_file: config.cert_file.clone(),
        client_key_file: config.key_file.clone(),
    };
    settings.poll = config.poll.unwrap_or(settings.poll);
    settings.resync = config.resync.unwrap_or(settings.resync);
    settings.prefer_hostname = config.prefer_hostname;
    settings.stale_after = config.stale_after;
    settings
}

fn cloud_map_settings(config: &CloudMapConfig) -> CloudMapSettings {
    let mut settings = CloudMapSettings::new(&config.region);
    settings.namespaces.clone_from(&config.namespaces);
    settings.endpoint.clone_from(&config.endpoint);
    settings.data_endpoint.clone_from(&config.data_endpoint);
    settings.credentials_file.clone_from(&config.credentials_file);
    settings.role_arn.clone_from(&config.role_arn);
    settings.external_id.clone_from(&config.external_id);
    settings.poll = config.poll.unwrap_or(settings.poll);
    settings.health_poll = config.health_poll.unwrap_or(settings.health_poll);
    settings.service_poll = config.service_poll.unwrap_or(settings.service_poll);
    settings.resync = config.resync.unwrap_or(settings.resync);
    settings
}

/// Starts all of them.
#[must_use]
pub(crate) fn start(configs: &[SourceConfig]) -> RunningSources {
    configs
        .iter()
        .map(|config| (config.name.clone(), RunningSource::start(config.clone(), Arc::default())))
        .collect()
}

/// How long a source that lists something in doubt is waited for: what passes by itself, such as a
/// service that failed once, mostly does within the first few attempts again.
const DOUBT_WAIT: Duration = Duration::from_secs(5);

/// What every source offers now. One whose task ended, which is a defect of Landfall, is in doubt.
#[must_use]
pub(crate) fn states(sources: &RunningSources) -> BTreeMap<SourceName, SourceState> {
    let state = |source: &RunningSource| {
        let mut state = source.state.borrow().clone();
        if source.task.is_finished() {
            state.doubt.get_or_insert_with(|| Doubt {
                code: "source_ended",
                message: "the source ended early; restart Landfall and report this, with its log"
                    .to_owned(),
                since: clock::wall(),
            });
        }
        state
    };
    sources.iter().map(|(name, source)| (name.clone(), state(source))).collect()
}

/// Which sources must have a complete listing before anything is said. The others are waited for
/// until they are in doubt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Needed {
    /// All of them.
    All,
    /// This one.
    One(SourceName),
    /// None.
    None,
}

/// Waits until the needed sources have a listing, and a little longer for one that is not in doubt;
/// where none is needed, as little for each.
///
/// # Errors
/// One had none in time; says why it is in doubt.
pub(crate) async fn wait_complete(
    sources: &RunningSources,
    needed: &Needed,
    timeout: Duration,
) -> anyhow::Result<BTreeMap<SourceName, SourceState>> {
    let deadline = tokio::time::Instant::now() + timeout;
    for (name, source) in sources {
        let is_needed = match needed {
            Needed::All => true,
            Needed::One(needed) => needed == name,
            Needed::None => false,
        };
        let mut state = source.state.clone();
        let complete = state
            .wait_for(|state| state.snapshot.is_some() || (!is_needed && state.doubt.is_some()));
        let outcome = tokio::time::timeout_at(deadline, complete).await.map(|seen| seen.is_ok());
        if is_needed && outcome != Ok(true) {
            let doubt = states(sources).remove(name).and_then(|state| state.doubt);
            let why = doubt.map_or_else(
                || "it has not answered yet".to_owned(),
                |doubt| format!("{}: {}", doubt.code, doubt.message),
            );
            anyhow::bail!("source {name} gave no complete listing within {timeout:?}: {why}");
        }
        // Where none is needed each may have what was asked for.
        if is_needed || *needed == Needed::None {
            let until = deadline.min(tokio::time::Instant::now() + DOUBT_WAIT);
            let sure = state.wait_for(|state| state.snapshot.is_some() && state.doubt.is_none());
            // Whoever asked is told of the doubt, and judges.
            let _in_doubt = tokio::time::timeout_at(until, sure).await;
        }
    }
    Ok(states(sources))
}

// === What happens ===

/// A source's task ended though nobody stopped it, which is a defect of Landfall.
struct SourceEnded<'a> {
    source: &'a SourceName,
}

impl SourceEnded<'_> {
    fn emit(&self) {
        tracing::error!(
            source = %self.source,
            "Source ended early; its last listing stands until Landfall is restarted. Report this."
        );
    }
}
