//! Starts the configured sources and hands out what they publish.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use landfall_core::registry::{Doubt, SourceName, SourceState};
use landfall_registry::cloudmap::CloudMap;
use landfall_registry::consul::Consul;
use landfall_registry::eureka::Eureka;
use landfall_registry::file::{File, FileSettings};
use landfall_registry::{Publisher, Source, SourceMetrics};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::config::{SourceConfig, SourceKind};

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
        let source: Box<dyn Source> = match config.kind.clone() {
            SourceKind::File { path } => Box::new(File::new(FileSettings::new(path))),
            SourceKind::Consul(settings) => Box::new(Consul::new(*settings)),
            SourceKind::Eureka(settings) => Box::new(Eureka::new(*settings)),
            SourceKind::CloudMap(settings) => Box::new(CloudMap::new(*settings)),
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
