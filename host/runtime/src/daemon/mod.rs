//! `landfall run`: the one task that owns the line, and the closed set of events that wake it.
//!
//! Level-triggered: what sources, sinks and files offer is a newest state, and its event says only
//! that it changed. The round reads the state of everything, so that such events may be joined, come
//! twice or be lost. What came of something that was begun here comes with its event.

mod candidates;
mod policies;
mod reload;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use landfall_core::finding::{Finding, FindingCode};
use landfall_core::guard::Trust;
use landfall_core::mesh::ObjectId;
use landfall_core::time::Time;
use landfall_mesh::sink::{Applied, Outcome};
use landfall_policy_host::{EngineSettings, PolicyEngine, Rules, Workers};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::candidates::Candidates;
use self::reload::Reloading;
use crate::admin::Admin;
use crate::clock;
use crate::config::{self, Configuration, SourceConfig};
use crate::event::Event;
use crate::kubernetes::Clients;
use crate::line::sink::{SinkLine, SinkOptions, Telling};
use crate::line::{Line, Round};
use crate::metrics::Metrics;
use crate::once::{line_options, worker_count};
use crate::policies::Compiler;
use crate::sinks::RunningSink;
use crate::slots::{Cast, PolicySlot, waiting};
use crate::sources::{self, RunningSource, RunningSources};
use crate::status::Status;
use crate::telemetry::{ConditionChanged, FindingsSeen, HeldChanged, RoundDone, StepDone};

/// Rounds begin at least this far apart: the first change is taken up at once, the next ones
/// together. Far below the 100 ms that Istio waits for quiet itself.
const ROUND_SPACING: Duration = Duration::from_millis(20);
/// How long to sleep when nothing is due. Bounds what a lost wake-up costs.
const TICK: Duration = Duration::from_secs(5);
/// How long steps under way may take when stopping.
const STOP_WAIT: Duration = Duration::from_secs(5);
// When full, senders wait: each of them offers a newest state that does not go away.
const EVENTS_LEN: usize = 1024;

struct Daemon {
    path: PathBuf,
    config: Configuration,
    events: mpsc::Sender<Event>,
    clients: Clients,
    sources: RunningSources,
    policies: Vec<PolicySlot>,
    sinks: Vec<(RunningSink, SinkLine)>,
    line: Line,
    workers: Arc<Workers>,
    compiler: Compiler,
    candidates: Candidates,
    reloading: Reloading,
    status: Arc<Status>,
    metrics: Arc<Metrics>,
}

/// Runs until `stop`.
///
/// # Errors
/// It cannot begin: the configuration is illegal, an address is taken, a source cannot be set up.
pub(crate) async fn run(path: PathBuf, stop: CancellationToken) -> anyhow::Result<()> {
    let config = config::load(&path)?;
    let (events, mut inbox) = mpsc::channel(EVENTS_LEN);
    let metrics = Arc::new(Metrics::default());
    let status = Arc::new(Status::default());
    let admin = Admin::start(
        config.admin_listen,
        Arc::clone(&status),
        Arc::clone(&metrics),
        events.clone(),
    )?;
    let workers = Workers::start(worker_count()).context("failed to start worker threads")?;
    let rules = Rules::new(config.defaults.clone(), Vec::new());
    let line = Line::new(Arc::clone(&workers), rules, line_options(&config));
    let mut daemon = Daemon {
        path: path.clone(),
        events: events.clone(),
        clients: Clients::default(),
        compiler: Compiler::new(PolicyEngine::start(EngineSettings::default())?, worker_count()),
        sources: RunningSources::new(),
        policies: Vec::new(),
        sinks: Vec::new(),
        line,
        workers,
        candidates: Candidates::default(),
        reloading: Reloading::default(),
        status,
        metrics,
        config,
    };
    // Before anything that takes long: until somebody listens SIGHUP ends the process.
    let hangup = signal(SignalKind::hangup()).context("failed to listen for SIGHUP")?;
    tokio::spawn(reload::heed_hangup(hangup, path.clone(), events.clone(), stop.clone()));
    daemon.start_all().await?;
    tokio::spawn(reload::watch(path, events, stop.clone()));
    daemon.serve(&mut inbox, &stop).await;
    drop(admin);
    Ok(())
}

impl Daemon {
    async fn start_all(&mut self) -> anyhow::Result<()> {
        for config in self.config.sources.clone() {
            self.start_source(config);
        }
        for config in self.config.policies.clone() {
            let slot = PolicySlot::start(config, &self.clients).await?;
            self.listen(&slot);
            self.policies.push(slot);
        }
        let cast: Vec<Cast<'_>> = self.policies.iter().map(|slot| (slot, None)).collect();
        self.line.set_waiting(waiting(&cast));
        for config in self.config.sinks.clone() {
            let sink = RunningSink::start(config, &self.config.owner, &self.clients).await?;
            sink.prepare().await;
            self.start_sink(sink);
        }
        Ok(())
    }

    /// Starts a source, in the place of the one of its name if there is one.
    fn start_source(&mut self, config: SourceConfig) {
        let name = config.name.clone();
        let before = self.sources.get(&name).map(|source| Arc::clone(&source.metrics));
        let source = RunningSource::start(config, before.unwrap_or_default());
        self.line.add_source(name.clone(), source.registry);
        forward(source.state.clone(), self.events.clone(), || Event::Source);
        self.sources.insert(name, source);
    }

    fn start_sink(&mut self, sink: RunningSink) {
        forward(sink.sighting(), self.events.clone(), || Event::Observed);
        let line = sink.new_line();
        self.sinks.push((sink, line));
    }

    async fn serve(&mut self, inbox: &mut mpsc::Receiver<Event>, stop: &CancellationToken) {
        let mut wake = Instant::now();
        let mut last_round = Instant::now();
        loop {
            let first = tokio::select! {
                event = inbox.recv() => event,
                () = tokio::time::sleep_until(wake) => None,
                () = stop.cancelled() => break,
            };
            if first.is_some() {
                tokio::time::sleep_until(last_round + ROUND_SPACING).await;
            }
            let mut next = first;
            while let Some(event) = next {
                self.handle(event);
                next = inbox.try_recv().ok();
            }
            last_round = Instant::now();
            let due = tokio::task::block_in_place(|| self.round());
            wake = Instant::now() + due;
        }
        self.finish(inbox).await;
    }

    /// Waits for the requests under way; steps that wait for their turn are not begun any more.
    async fn finish(&mut self, inbox: &mut mpsc::Receiver<Event>) {
        self.sources.clear();
        self.sinks.iter().for_each(|(sink, _)| sink.stop());
        let deadline = Instant::now() + STOP_WAIT;
        while self.sinks.iter().any(|(_, line)| line.in_flight() > 0) {
            match tokio::time::timeout_at(deadline, inbox.recv()).await {
                Ok(Some(Event::Applied { sink, applied })) => self.applied(sink, &applied),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Source | Event::Observed => {}
            Event::Offer { slot } => self.consider(slot),
            Event::Admitted { slot, offered, outcome } => self.admitted(slot, offered, outcome),
            Event::AdmitAgain { slot } => self.admit_again(slot),
            Event::Applied { sink, applied } => self.applied(sink, &applied),
            Event::Rehearsed { candidate, outcome } => self.rehearsed(candidate, *outcome),
            Event::Configuration => self.reload(),
            Event::ConfigurationAgain => self.reload_again(),
            Event::Prepared { reload, outcome } => self.prepared(reload, outcome),
            Event::Release => self.sinks.iter_mut().for_each(|(_, line)| line.release()),
        }
    }

    /// One round: from what sources offer to steps under way. Returns how long nothing is due.
    fn round(&mut self) -> Duration {
        let began = Instant::now();
        let now = clock::now();
        let states = sources::states(&self.sources);
        let round = self.line.round(&states, now);
        let wake = self.spread(&round, now);
        self.status.update(&self.line, &states, &self.settings_state(), &self.sinks);
        RoundDone {
            round: &round,
            took: began.elapsed(),
            line: &self.line,
            sources: &self.sources,
            sinks: &self.sinks,
        }
        .emit(&self.metrics);
        wake.map_or(TICK, |wake| wake.since(now).min(TICK))
    }

    /// Tells sinks what a round changed and sends the steps that are due. Says when something is
    /// due next.
    fn spread(&mut self, round: &Round, now: Time) -> Option<Time> {
        FindingsSeen { findings: &round.findings }.emit();
        self.tell_faults(&round.faults);
        let evidence = self.line.evidence();
        let is_whole = self.policies.iter().all(|slot| slot.revision.is_some())
            && evidence.sources.values().all(|trust| *trust == Trust::Current);
        let desired = self.line.desired();
        let mut wake = round.wake;
        for (sink, line) in &mut self.sinks {
            FindingsSeen { findings: &sink.take_findings() }.emit();
            if let Some(condition) = sink.take_condition_change(now) {
                ConditionChanged { sink: sink.name(), condition: condition.as_ref() }.emit();
                if condition.is_none() {
                    line.retry_unavailable();
                }
            }
            FindingsSeen { findings: &sink.take_contested() }.emit();
            sink.take_sighting(line, desired, now);
            line.desire(round, now);
            let options = SinkOptions {
                evidence: &evidence,
                guard: &self.config.guard,
                entries: self.line.entries(),
                grace: self.config.grace,
                now,
            };
            let due = line.due(desired, options);
            let news = line.take_held_news();
            HeldChanged { sink: sink.name(), news, held: line.held(), now }.emit();
            FindingsSeen { findings: &taken(&due.blocked) }.emit();
            wake = [wake, due.wake].into_iter().flatten().min();
            if is_whole && due.steps.is_empty() && line.is_at_rest() {
                sink.complete();
            }
            if !due.steps.is_empty() {
                sink.apply(due.steps, self.events.clone());
            }
        }
        wake
    }

    fn applied(&mut self, serial: u64, applied: &Applied) {
        // A sink that a reload replaced may still report.
        let Some((sink, line)) = self.sinks.iter_mut().find(|(sink, _)| sink.serial() == serial)
        else {
            return;
        };
        let now = clock::now();
        let telling = match &applied.outcome {
            Outcome::Done(_) => {
                line.applied(&applied.id);
                Telling::All
            }
            Outcome::Waits => {
                line.waited(&applied.id);
                Telling::Nothing
            }
            Outcome::Unavailable(_) if applied.attempts == 0 => {
                line.untried(&applied.id, now);
                Telling::Nothing
            }
            outcome => line.failed(&applied.id, outcome.code(), now),
        };
        StepDone { sink: sink.name(), applied, telling }.emit(&self.metrics);
    }
}

/// Findings about objects of somebody else that stand where ours should be.
fn taken(blocked: &[ObjectId]) -> Vec<Finding> {
    let message = "somebody else's object stands here and is left alone; remove it, or map the \
                   service to another host or namespace";
    blocked.iter().map(|id| Finding::new(FindingCode::ForeignObject, id, message)).collect()
}

/// Sends an event for each change of `state`, and one for what is there already.
fn forward<T: Send + Sync + 'static>(
    mut state: tokio::sync::watch::Receiver<T>,
    events: mpsc::Sender<Event>,
    event: impl Fn() -> Event + Send + 'static,
) {
    tokio::spawn(async move {
        loop {
            if events.send(event()).await.is_err() || state.changed().await.is_err() {
                return;
            }
        }
    });
}
