//! The configured sinks at work: what each holds, and applying steps to it.

mod contested;
mod folder;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use landfall_core::finding::Finding;
use landfall_core::plan::Desired;
use landfall_core::text::Text;
use landfall_core::time::Time;
use landfall_core::told::Told;
use landfall_mesh::api::{ApiVersion, Body, Owner};
use landfall_mesh::files::FilesSink;
use landfall_mesh::kube::{KubeOptions, KubeSink, Observation};
use landfall_mesh::mcp::{self, McpOptions, McpSink};
use landfall_mesh::sink::{Applied, Condition, Step};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::contested::Contested;
use self::folder::{Folder, unfinished};
use crate::clock;
use crate::config::{KubeAccess, SinkConfig, SinkKind};
use crate::kubernetes::Clients;
use crate::line::sink::SinkLine;

/// Steps under way at most. An API server takes some 400 a second, so this is a second's work, of
/// which half is enough to keep it busy while the next half is planned.
const KUBE_STEPS_MAX: usize = 512;
/// A disk takes some 200 files a second that must survive a loss of power, so this is a third of
/// a second's work: what is written is hardly older than that, and stopping waits no longer.
const FILES_STEPS_MAX: usize = 64;
/// Each state is sent in full, so all that is due makes one.
const MCP_STEPS_MAX: usize = usize::MAX;

/// A sink at work. Stops when dropped; steps under way are finished.
#[derive(Debug)]
pub(crate) struct RunningSink {
    serial: u64,
    name: String,
    config: SinkConfig,
    sighting: watch::Receiver<Observation>,
    kind: Running,
    told: std::sync::Mutex<Told>,
    contested: std::sync::Mutex<Contested>,
    stop: CancellationToken,
}

#[derive(Clone, Debug)]
enum Running {
    Kubernetes(Arc<KubeSink>),
    Files(Arc<Folder>),
    Mcp(Arc<McpSink>),
    /// Of an MCP server only the journal, for another process may serve it.
    Journal,
}

/// Whether a sink is to be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Write,
    Look,
}

impl RunningSink {
    /// Starts the sink that `config` describes.
    ///
    /// # Errors
    /// There is no configuration for the Kubernetes API that it names; an MCP server cannot listen
    /// or read its journal.
    pub(crate) async fn start(
        config: SinkConfig,
        owner: &Owner,
        clients: &Clients,
    ) -> anyhow::Result<Self> {
        Self::open(config, owner, clients, Use::Write).await
    }

    /// The same for who looks and writes nothing, maybe beside another process that does.
    ///
    /// # Errors
    /// The same.
    pub(crate) async fn look(
        config: SinkConfig,
        owner: &Owner,
        clients: &Clients,
    ) -> anyhow::Result<Self> {
        Self::open(config, owner, clients, Use::Look).await
    }

    async fn open(
        config: SinkConfig,
        owner: &Owner,
        clients: &Clients,
        used: Use,
    ) -> anyhow::Result<Self> {
        // Tells apart what sinks report when a reload replaces one by an equal one.
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let stop = CancellationToken::new();
        let name = name_of(&config);
        let (kind, sighting) = match &config.kind {
            SinkKind::Kubernetes { access, namespaces } => {
                let client = clients
                    .get(access)
                    .await
                    .with_context(|| format!("failed to set up sink {name}"))?;
                let mut options = KubeOptions::new(owner.clone());
                options.namespaces = namespaces.iter().map(|n| Text::from(n.as_str())).collect();
                let sink = Arc::new(KubeSink::new(client, options));
                let sighting = sink.observation();
                let (watching, token) = (Arc::clone(&sink), stop.clone());
                tokio::spawn(async move { watching.run(token).await });
                (Running::Kubernetes(sink), sighting)
            }
            SinkKind::Files { path } => {
                let sink = FilesSink::new(path.clone(), owner.clone(), ApiVersion::V1);
                let folder = Folder::start(sink, used, stop.clone());
                let sighting = folder.sighting();
                (Running::Files(folder), sighting)
            }
            SinkKind::Mcp { listen, journal, addresses, tls } => {
                let failed = || format!("failed to set up sink {name}");
                if used == Use::Look {
                    let seen = mcp::look(journal.clone(), owner.clone()).await;
                    let seen = seen.with_context(failed)?;
                    (Running::Journal, watch::Sender::new(seen).subscribe())
                } else {
                    let options = McpOptions {
                        listen: *listen,
                        journal: journal.clone(),
                        addresses: *addresses,
                        tls: tls.clone(),
                        owner: owner.clone(),
                    };
                    let sink = McpSink::start(options, stop.clone()).await.with_context(failed)?;
                    let sighting = sink.observation();
                    (Running::Mcp(sink), sighting)
                }
            }
        };
        let (told, contested) = <_>::default();
        Ok(Self { serial, name, config, sighting, kind, told, contested, stop })
    }

    /// Tells it apart from every other sink of this process.
    #[must_use]
    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    /// What it was made from.
    #[must_use]
    pub(crate) fn config(&self) -> &SinkConfig {
        &self.config
    }

    /// Its side of the line, of which nothing is known yet.
    #[must_use]
    pub(crate) fn new_line(&self) -> SinkLine {
        self.line_with(match &self.config.kind {
            SinkKind::Kubernetes { .. } => KUBE_STEPS_MAX,
            SinkKind::Files { .. } => FILES_STEPS_MAX,
            SinkKind::Mcp { .. } => MCP_STEPS_MAX,
        })
    }

    /// The same, for who looks once: all steps are due at once.
    #[must_use]
    pub(crate) fn new_look(&self) -> SinkLine {
        self.line_with(usize::MAX)
    }

    fn line_with(&self, steps_max: usize) -> SinkLine {
        let namespaces = match &self.config.kind {
            SinkKind::Kubernetes { namespaces, .. } => {
                namespaces.iter().map(|name| Text::from(name.as_str())).collect()
            }
            SinkKind::Files { .. } | SinkKind::Mcp { .. } => Vec::new(),
        };
        SinkLine::new(self.config.mode, namespaces, steps_max)
    }

    /// Makes ready what others expect before anything is written. What cannot be made is a
    /// condition once it is read.
    pub(crate) async fn prepare(&self) {
        if let Running::Files(folder) = &self.kind {
            folder.prepare(&self.name).await;
        }
    }

    /// Says that everything that is wanted is there, as far as the sink takes it: who asks a server
    /// may be told.
    pub(crate) fn complete(&self) {
        if let Running::Mcp(sink) = &self.kind {
            sink.complete();
        }
    }

    /// What a person should know of what is there, as far as it was not told before.
    pub(crate) fn take_findings(&self) -> Vec<Finding> {
        match &self.kind {
            Running::Files(folder) => folder.take_findings(),
            Running::Kubernetes(_) | Running::Mcp(_) | Running::Journal => Vec::new(),
        }
    }

    /// Findings about hosts of ours there that somebody else's ServiceEntry claims too, as far as
    /// they were not told before.
    pub(crate) fn take_contested(&self) -> Vec<Finding> {
        let seen = self.sighting.borrow();
        if !seen.ready {
            return Vec::new();
        }
        let contested = self.contested.lock();
        let news = contested.map(|mut c| c.take(&seen.observed.ours, &seen.foreign_hosts));
        // Whoever panicked left nothing that could be told.
        news.unwrap_or_default()
    }

    /// The first of them that stand, at most so many, as of when they were taken last.
    pub(crate) fn contested(&self, max: usize) -> Vec<Finding> {
        let contested = self.contested.lock();
        contested.map(|contested| contested.findings().take(max).collect()).unwrap_or_default()
    }

    /// How many hosts of ours they are about.
    pub(crate) fn contested_count(&self) -> usize {
        self.contested.lock().map(|contested| contested.len()).unwrap_or_default()
    }

    /// The same of hosts that `steps` would bring.
    pub(crate) fn contested_by(&self, steps: &[Step]) -> Vec<Finding> {
        let seen = self.sighting.borrow();
        let created = steps.iter().filter_map(|step| match step {
            Step::Create(object) => Some(object),
            Step::Update { .. } | Step::Empty { .. } | Step::Delete(_) => None,
        });
        let claims = created.flat_map(|object| {
            let hosts = contested::hosts_of(object).iter();
            hosts.filter_map(|host| {
                Some(contested::finding(host, &object.id, seen.foreign_claim(host)?))
            })
        });
        claims.collect()
    }

    /// The cluster that it is, if it is one.
    #[must_use]
    pub(crate) fn cluster(&self) -> Option<&KubeSink> {
        match &self.kind {
            Running::Kubernetes(sink) => Some(sink),
            Running::Files(_) | Running::Mcp(_) | Running::Journal => None,
        }
    }

    /// Begins no further step; those under way are finished.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// For logs and metrics.
    #[must_use]
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What it holds.
    #[must_use]
    pub(crate) fn sighting(&self) -> watch::Receiver<Observation> {
        self.sighting.clone()
    }

    /// Why it cannot be used, or not in full.
    #[must_use]
    pub(crate) fn condition(&self) -> Option<Condition> {
        self.sighting.borrow().condition.clone()
    }

    /// Whether it can be used, if there is something to tell of that.
    pub(crate) fn take_condition_change(&self, now: Time) -> Option<Option<Condition>> {
        let condition = self.condition();
        let mut told = self.told.lock().ok()?;
        let failure = condition.as_ref().map(|condition| (condition.code, &*condition.message));
        told.takes(failure, now).then_some(condition)
    }

    /// Hands what it holds to its side of the line.
    pub(crate) fn take_sighting(&self, line: &mut SinkLine, desired: &Desired<Body>, now: Time) {
        let seen = self.sighting.borrow();
        if seen.ready {
            line.observe(&seen.observed, desired, now);
        }
    }

    /// Waits until it was read completely.
    ///
    /// # Errors
    /// It was not in time; says why where that is known.
    pub(crate) async fn wait_ready(&self, timeout: Duration) -> anyhow::Result<()> {
        let mut sighting = self.sighting.clone();
        let ready = sighting.wait_for(|seen| seen.ready);
        if tokio::time::timeout(timeout, ready).await.is_ok_and(|seen| seen.is_ok()) {
            return Ok(());
        }
        match self.condition() {
            Some(condition) => anyhow::bail!("{} ({})", condition.message, condition.code),
            None => anyhow::bail!("it was not read completely within {timeout:?}"),
        }
    }

    /// Applies `steps` in the background and reports each, with the sink's serial number.
    pub(crate) fn apply<E>(&self, steps: Vec<Step>, events: mpsc::Sender<E>)
    where
        E: From<(u64, Applied)> + Send + 'static,
    {
        let (kind, serial) = (self.kind.clone(), self.serial);
        let stop = self.stop.clone();
        let report = async move |applied| {
            // Closed only when the daemon stops.
            let _ = events.send(E::from((serial, applied))).await;
        };
        tokio::spawn(async move {
            match kind {
                Running::Kubernetes(sink) => sink.apply(&steps, &stop, report).await,
                Running::Files(folder) => {
                    for applied in folder.apply(steps).await {
                        report(applied).await;
                    }
                }
                Running::Mcp(sink) => {
                    let unfinished: Vec<Applied> = steps.iter().map(unfinished).collect();
                    let now = clock::wall();
                    let done = tokio::task::spawn_blocking(move || sink.apply(&steps, now));
                    // A panic of the writer is the only way to an error.
                    for applied in done.await.unwrap_or(unfinished) {
                        report(applied).await;
                    }
                }
                // Who looks applies nothing.
                Running::Journal => {}
            }
        });
    }
}

/// The name of a sink, which no other has: together these say where it writes.
/// For logs and metrics, and for who chooses one.
#[must_use]
pub(crate) fn name_of(config: &SinkConfig) -> String {
    match &config.kind {
        SinkKind::Kubernetes { access, namespaces } => kubernetes_name(access, namespaces),
        SinkKind::Files { path } => format!("files:{}", path.display()),
        SinkKind::Mcp { listen, .. } => format!("mcp:{listen}"),
    }
}

fn kubernetes_name(access: &KubeAccess, namespaces: &[String]) -> String {
    let KubeAccess { kubeconfig, context } = access;
    let mut name = String::from("kubernetes");
    if let Some(kubeconfig) = kubeconfig {
        name = format!("{name}:{}", kubeconfig.display());
    }
    if let Some(context) = context {
        name = format!("{name}:{context}");
    }
    if !namespaces.is_empty() {
        name = format!("{name}/{}", namespaces.join(","));
    }
    name
}

impl Drop for RunningSink {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
