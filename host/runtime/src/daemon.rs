//! `landfall run`: the one task that owns the line, and the closed set of events that wake it.
//!
//! Level-triggered: an event says that something changed, never what. The round reads the newest
//! state of everything, so that events may be joined or come twice.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use landfall_core::mesh::ObjectId;
use landfall_core::pattern::Selector;
use landfall_core::text::Text;
use landfall_core::time::Time;
use landfall_mesh::kube::events::Note;
use landfall_mesh::sink::{Applied, Outcome};
use landfall_policy_host::Workers;
use landfall_policy_host::{AdmissionError, Revision};
use landfall_policy_host::{EngineSettings, PolicyEngine};
use landfall_policy_host::{Link, Rules};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::admin::Admin;
use crate::clock;
use crate::config::{self, ComponentOrigin, Configuration};
use crate::event::Event;
use crate::kubernetes::Clients;
use crate::line::sink::{SinkLine, SinkOptions};
use crate::line::{Line, RulesRefused};
use crate::metrics::Metrics;
use crate::once::{line_options, worker_count};
use crate::policies::{Offer, Offered, PolicyFeed, admit};
use crate::sinks::RunningSink;
use crate::sources::{self, RunningSource, RunningSources};
use crate::status::Status;
use crate::telemetry::{
    ConfigurationRefused, ConfigurationTaken, PolicyRefused, PolicyTaken, RoundDone, StepDone,
};

/// Rounds begin at least this far apart: the first change is taken up at once, the next ones
/// together. Far below the 100 ms that Istio waits for quiet itself.
const ROUND_SPACING: Duration = Duration::from_millis(20);
/// How long to sleep when nothing is due. Bounds what a lost wake-up costs.
const TICK: Duration = Duration::from_secs(5);
/// How long steps under way may take when stopping.
const STOP_WAIT: Duration = Duration::from_secs(5);
/// How often the configuration file is looked at.
const CONFIG_POLL: Duration = Duration::from_millis(500);
// When full, senders wait: each of them offers a newest state that does not go away.
const EVENTS_LEN: usize = 1024;

/// A policy between what is offered and what is at work.
struct PolicySlot {
    feed: PolicyFeed,
    /// At work; `None` until the first was admitted.
    revision: Option<Arc<Revision>>,
    /// Being compiled.
    admitting: bool,
    /// What was tried last, so that the same is not tried again.
    tried: Option<Arc<Offered>>,
}

struct Daemon {
    path: PathBuf,
    config: Configuration,
    events: mpsc::Sender<Event>,
    clients: Clients,
    engine: Arc<PolicyEngine>,
    sources: RunningSources,
    policies: Vec<PolicySlot>,
    sinks: Vec<(RunningSink, SinkLine)>,
    line: Line,
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
    )
    .await?;
    let workers = Workers::start(worker_count()).context("failed to start worker threads")?;
    let rules = Rules::new(config.defaults.clone(), Vec::new());
    let line = Line::new(workers, rules, line_options(&config));
    let mut daemon = Daemon {
        path: path.clone(),
        events: events.clone(),
        clients: Clients::default(),
        engine: PolicyEngine::start(EngineSettings::default())?,
        sources: RunningSources::new(),
        policies: Vec::new(),
        sinks: Vec::new(),
        line,
        status,
        metrics,
        config,
    };
    daemon.start_all().await?;
    tokio::spawn(watch_configuration(path, events, stop.clone()));
    daemon.serve(&mut inbox, &stop).await;
    drop(admin);
    Ok(())
}

impl Daemon {
    async fn start_all(&mut self) -> anyhow::Result<()> {
        for config in self.config.sources.clone() {
            self.start_source(RunningSource::start(config));
        }
        for config in self.config.policies.clone() {
            let feed = PolicyFeed::start(config, &self.clients).await?;
            let slot = self.policy_slot(feed);
            self.policies.push(slot);
        }
        self.update_waiting();
        for config in self.config.sinks.clone() {
            let sink = RunningSink::start(config, &self.config.owner, &self.clients).await?;
            self.start_sink(sink);
        }
        Ok(())
    }

    fn start_source(&mut self, source: RunningSource) {
        let name = source.config.name.clone();
        self.line.add_source(name.clone(), source.registry);
        forward(source.state.clone(), self.events.clone(), || Event::Source);
        self.sources.insert(name, source);
    }

    fn policy_slot(&self, feed: PolicyFeed) -> PolicySlot {
        let name = Text::clone(&feed.config.name);
        forward(feed.offer.clone(), self.events.clone(), move || Event::Offer(Text::clone(&name)));
        PolicySlot { feed, revision: None, admitting: false, tried: None }
    }

    fn start_sink(&mut self, sink: RunningSink) {
        forward(sink.sighting(), self.events.clone(), || Event::Observed);
        let line = SinkLine::new(sink.config().mode);
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
                self.handle(event).await;
                next = inbox.try_recv().ok();
            }
            last_round = Instant::now();
            let due = tokio::task::block_in_place(|| self.round());
            wake = Instant::now() + due;
        }
        self.finish(inbox).await;
    }

    /// Waits for the steps under way.
    async fn finish(&mut self, inbox: &mut mpsc::Receiver<Event>) {
        self.sources.clear();
        let deadline = Instant::now() + STOP_WAIT;
        while self.sinks.iter().any(|(_, line)| line.in_flight() > 0) {
            match tokio::time::timeout_at(deadline, inbox.recv()).await {
                Ok(Some(Event::Applied { sink, applied })) => self.applied(sink, &applied),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Source | Event::Observed => {}
            Event::Offer(policy) => self.consider(&policy),
            Event::Admitted { policy, offered, outcome } => {
                self.admitted(&policy, &offered, outcome);
            }
            Event::Applied { sink, applied } => self.applied(sink, &applied),
            Event::Configuration => self.reload().await,
            Event::Release => self.sinks.iter_mut().for_each(|(_, line)| line.release()),
        }
    }

    /// One round: from what sources offer to steps under way. Returns how long nothing is due.
    fn round(&mut self) -> Duration {
        let began = Instant::now();
        let now = clock::now();
        let round = self.line.round(&sources::states(&self.sources), now);
        let mut wake = round.wake;
        self.spread(&round.changed, now, &mut wake);
        self.status.update(&self.line, &self.sources, &self.policy_states(), &self.sinks);
        RoundDone { round: &round, took: began.elapsed(), line: &self.line, sinks: &self.sinks }
            .emit(&self.metrics);
        wake.map_or(TICK, |wake| wake.since(now).min(TICK))
    }

    /// Tells sinks what changed and sends the steps that are due.
    fn spread(&mut self, changed: &BTreeSet<ObjectId>, now: Time, wake: &mut Option<Time>) {
        let evidence = self.line.evidence();
        let desired = self.line.desired();
        for (sink, line) in &mut self.sinks {
            sink.take_sighting(line, desired);
            line.desire(changed);
            let options = SinkOptions {
                evidence: &evidence,
                guard: &self.config.guard,
                grace: self.config.grace,
                now,
            };
            let due = line.due(desired, options);
            *wake = [*wake, due.wake].into_iter().flatten().min();
            if !due.steps.is_empty() {
                sink.apply(due.steps, self.events.clone());
            }
        }
    }

    fn applied(&mut self, serial: u64, applied: &Applied) {
        // A sink that a reload replaced may still report.
        let Some((sink, line)) = self.sinks.iter_mut().find(|(sink, _)| sink.serial() == serial)
        else {
            return;
        };
        StepDone { sink: sink.name(), applied }.emit(&self.metrics);
        match &applied.outcome {
            Outcome::Done(_) => line.applied(&applied.id),
            Outcome::Conflict(_)
            | Outcome::Refused { .. }
            | Outcome::Forbidden(_)
            | Outcome::NotFound(_)
            | Outcome::Unavailable(_) => line.failed(&applied.id, clock::now()),
        }
    }

    // === policies ===

    /// Compiles what a policy's origin offers, unless it was tried before.
    fn consider(&mut self, policy: &Text) {
        let Some(slot) = self.policies.iter_mut().find(|s| s.feed.config.name == *policy) else {
            return;
        };
        let offered = match &*slot.feed.offer.borrow() {
            Offer::Pending => return,
            Offer::Nothing(why) => {
                PolicyRefused { policy, code: "not_readable", message: why }.emit(&self.metrics);
                return;
            }
            Offer::Component(offered) => Arc::clone(offered),
        };
        if slot.admitting || slot.tried.as_ref() == Some(&offered) {
            return;
        }
        slot.admitting = true;
        slot.tried = Some(Arc::clone(&offered));
        let (engine, config) = (Arc::clone(&self.engine), slot.feed.config.clone());
        let (events, policy) = (self.events.clone(), Text::clone(policy));
        tokio::task::spawn_blocking(move || {
            let outcome = admit(&engine, &config, &offered);
            // Closed only when the daemon stops.
            let _ = events.blocking_send(Event::Admitted { policy, offered, outcome });
        });
    }

    /// Takes a revision up, if it answers for everything that is there.
    fn admitted(
        &mut self,
        policy: &Text,
        offered: &Offered,
        outcome: Result<Arc<Revision>, AdmissionError>,
    ) {
        let Some(index) = self.policies.iter().position(|s| s.feed.config.name == *policy) else {
            return;
        };
        self.policies[index].admitting = false;
        let revision = match outcome {
            Ok(revision) => revision,
            Err(error) => {
                let message = crate::error_chain(&error);
                self.refuse(policy, offered, error.code(), &message);
                self.consider(policy);
                return;
            }
        };
        let first = self.policies[index].revision.is_none();
        let before = self.policies[index].revision.replace(Arc::clone(&revision));
        match tokio::task::block_in_place(|| self.take_rules((!first).then_some(policy))) {
            Ok(()) => {
                PolicyTaken { policy, revision: &revision }.emit(&self.metrics);
                let message = format!("revision {} is at work", revision.digest());
                let note = Note { warning: false, reason: "PolicyTaken", message };
                self.tell(policy, offered, note);
            }
            Err(refused) => {
                self.policies[index].revision = before;
                let message = crate::error_chain(&refused);
                self.refuse(policy, offered, refused.fault.0.code, &message);
            }
        }
        self.consider(policy);
    }

    /// Puts the revisions of all slots to work.
    fn take_rules(&mut self, judged: Option<&Text>) -> Result<(), RulesRefused> {
        let links = self
            .policies
            .iter()
            .filter_map(|slot| {
                let revision = Arc::clone(slot.revision.as_ref()?);
                let Selector { sources, services } = slot.feed.selector();
                Some(Link { revision, sources, services })
            })
            .collect();
        let rules = Rules::new(self.config.defaults.clone(), links);
        self.update_waiting();
        let now = clock::now();
        let round = self.line.change_rules(&rules, judged, now)?;
        self.spread(&round.changed, now, &mut None);
        Ok(())
    }

    fn update_waiting(&mut self) {
        let waiting = self
            .policies
            .iter()
            .filter(|slot| slot.revision.is_none())
            .map(|slot| slot.feed.selector())
            .collect();
        self.line.set_waiting(waiting);
    }

    fn refuse(&self, policy: &Text, offered: &Offered, code: &'static str, message: &str) {
        PolicyRefused { policy, code, message }.emit(&self.metrics);
        let note = Note { warning: true, reason: "PolicyRefused", message: message.to_owned() };
        self.tell(policy, offered, note);
    }

    /// Tells the owner of a ConfigMap what became of it.
    fn tell(&self, policy: &Text, offered: &Offered, note: Note) {
        let slot = self.policies.iter().find(|slot| slot.feed.config.name == *policy);
        if let Some(map) = &offered.config_map
            && let Some(ComponentOrigin::ConfigMap(origin)) = slot.map(|s| &s.feed.config.origin)
        {
            self.clients.post(&origin.access, map, note);
        }
    }

    fn policy_states(&self) -> Vec<(Text, bool)> {
        self.policies
            .iter()
            .map(|slot| (Text::clone(&slot.feed.config.name), slot.revision.is_some()))
            .collect()
    }

    // === configuration ===

    /// Takes a changed configuration file up, or keeps the old one as a whole.
    async fn reload(&mut self) {
        let changed = match config::load(&self.path) {
            Ok(config) if config == self.config => return,
            Ok(config) => self.switch(config).await,
            Err(error) => Err(error.into()),
        };
        match changed {
            Ok(()) => ConfigurationTaken { path: &self.path }.emit(&self.metrics),
            Err(error) => {
                ConfigurationRefused { path: &self.path, error: &error }.emit(&self.metrics);
            }
        }
    }

    /// Replaces what differs. Everything that can fail is made before anything is replaced.
    async fn switch(&mut self, config: Configuration) -> anyhow::Result<()> {
        anyhow::ensure!(
            config.admin_listen == self.config.admin_listen && config.owner == self.config.owner,
            "admin.listen and owner cannot change while Landfall runs; restart it"
        );
        let mut new_sources = Vec::new();
        for source in &config.sources {
            if self.sources.get(&source.name).is_none_or(|known| known.config != *source) {
                new_sources.push(RunningSource::start(source.clone()));
            }
        }
        let mut slots = Vec::new();
        for policy in &config.policies {
            if !self.policies.iter().any(|slot| slot.feed.config == *policy) {
                slots.push(self.prepared_slot(policy.clone()).await?);
            }
        }
        let mut new_sinks = None;
        if config.sinks != self.config.sinks {
            let mut sinks = Vec::new();
            for sink in &config.sinks {
                sinks.push(RunningSink::start(sink.clone(), &config.owner, &self.clients).await?);
            }
            new_sinks = Some(sinks);
        }

        let mut known: BTreeMap<Text, PolicySlot> = std::mem::take(&mut self.policies)
            .into_iter()
            .map(|slot| (Text::clone(&slot.feed.config.name), slot))
            .collect();
        for slot in slots {
            known.insert(Text::clone(&slot.feed.config.name), slot);
        }
        self.policies =
            config.policies.iter().filter_map(|policy| known.remove(&policy.name)).collect();
        for name in self.sources.keys() {
            if !config.sources.iter().any(|source| source.name == *name) {
                self.line.remove_source(name);
            }
        }
        self.sources.retain(|name, _| config.sources.iter().any(|source| source.name == *name));
        self.line.set_options(line_options(&config));
        self.config = config;
        for source in new_sources {
            self.start_source(source);
        }
        if let Some(sinks) = new_sinks {
            self.sinks.clear();
            for sink in sinks {
                self.start_sink(sink);
            }
        }
        // No policy is judged here: each new one was admitted, and all are meant together.
        tokio::task::block_in_place(|| self.take_rules(None))?;
        for slot in &self.policies {
            // Its offer may have come before anybody listened.
            let _ = self.events.try_send(Event::Offer(Text::clone(&slot.feed.config.name)));
        }
        Ok(())
    }

    /// A policy of a new configuration, admitted before anything else changes.
    async fn prepared_slot(&self, config: config::PolicyConfig) -> anyhow::Result<PolicySlot> {
        const OFFER_WAIT: Duration = Duration::from_secs(10);
        let feed = PolicyFeed::start(config, &self.clients).await?;
        let mut slot = self.policy_slot(feed);
        let offered = slot.feed.offered(OFFER_WAIT).await?;
        let revision =
            tokio::task::block_in_place(|| admit(&self.engine, &slot.feed.config, &offered))
                .with_context(|| format!("failed to load policy {}", slot.feed.config.name))?;
        slot.revision = Some(revision);
        slot.tried = Some(offered);
        Ok(slot)
    }
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

async fn watch_configuration(path: PathBuf, events: mpsc::Sender<Event>, stop: CancellationToken) {
    let mut seen = tokio::fs::read(&path).await.ok();
    loop {
        tokio::select! {
            () = tokio::time::sleep(CONFIG_POLL) => {}
            () = stop.cancelled() => return,
        }
        // Small, so that comparing it whole is the simplest way to miss nothing.
        let now = tokio::fs::read(&path).await.ok();
        if now.is_some() && now != seen {
            seen = now;
            if events.send(Event::Configuration).await.is_err() {
                return;
            }
        }
    }
}
