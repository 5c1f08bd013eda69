//! Takes a changed configuration up while Landfall runs, or refuses it as a whole.
//!
//! What may take long or fail is prepared beside the line: policies are loaded, sinks connected.
//! Then the new policies answer for everything that is there, and only then anything is replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use landfall_core::registry::SourceName;
use landfall_core::text::Text;
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::Daemon;
use crate::clock;
use crate::config::{self, CONFIG_BYTES_MAX, Configuration, PolicyConfig};
use crate::event::Event;
use crate::once::line_options;
use crate::prepared::{Prepared, prepare};
use crate::slots::{PolicySlot, rules, waiting};
use crate::sources::RunningSource;
use crate::telemetry::{ConfigurationGone, ConfigurationRefused, ConfigurationTaken};

/// How often the configuration file is looked at.
const CONFIG_POLL: Duration = Duration::from_millis(250);
/// Looks at which a file that is written in place must be as before: half a second, so that an edit
/// is taken up within one.
const RESTED_LOOKS: u32 = 2;
/// How long a configuration waits that is legal but was refused, as for a ConfigMap that is not
/// there yet.
const TRY_AGAIN: Duration = Duration::from_secs(30);

/// The reload under way. A later one takes its place, so that what it was for is never taken up.
#[derive(Debug, Default)]
pub(super) struct Reloading {
    preparing: Option<Preparing>,
}

#[derive(Debug)]
struct Preparing {
    task: AbortHandle,
    outcome: oneshot::Receiver<anyhow::Result<Prepared>>,
}

impl Daemon {
    /// Begins to take a changed configuration file up.
    pub(super) fn reload(&mut self) {
        if let Some(preparing) = self.reloading.preparing.take() {
            preparing.task.abort();
        }
        let config = match config::load(&self.path) {
            Ok(config) if config == self.config => return,
            Ok(config) => config,
            Err(error) => return self.refuse_configuration(&error.into()),
        };
        if config.admin_listen != self.config.admin_listen || config.owner != self.config.owner {
            let why = "admin.listen and owner cannot change while Landfall runs; restart it";
            return self.refuse_configuration(&anyhow::anyhow!(why));
        }
        let is_known =
            |policy: &&PolicyConfig| self.policies.iter().any(|slot| slot.feed.config == **policy);
        let policies = config.policies.iter().filter(|policy| !is_known(policy)).cloned().collect();
        let with_sinks = config.sinks != self.config.sinks;
        let (engine, clients) = (Arc::clone(&self.engine), self.clients.clone());
        let events = self.events.clone();
        let (sender, outcome) = oneshot::channel();
        let task = tokio::spawn(async move {
            let outcome = prepare(config, policies, with_sinks, &engine, &clients).await;
            // Nobody listens any more when another reload took the place of this one.
            let _ = sender.send(outcome);
            let _ = events.send(Event::Prepared).await;
        });
        self.reloading.preparing = Some(Preparing { task: task.abort_handle(), outcome });
    }

    /// Takes up what was prepared, if it is there.
    pub(super) fn prepared(&mut self) {
        let preparing = self.reloading.preparing.as_mut();
        let Some(outcome) = preparing.and_then(|preparing| preparing.outcome.try_recv().ok())
        else {
            return;
        };
        self.reloading.preparing = None;
        let switched =
            outcome.and_then(|prepared| tokio::task::block_in_place(|| self.switch(prepared)));
        match switched {
            Ok(()) => ConfigurationTaken { path: &self.path }.emit(&self.metrics),
            Err(error) => {
                self.refuse_configuration(&error);
                let events = self.events.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(TRY_AGAIN).await;
                    // Closed only when the daemon stops.
                    let _ = events.send(Event::Configuration).await;
                });
            }
        }
    }

    fn refuse_configuration(&self, error: &anyhow::Error) {
        ConfigurationRefused { path: &self.path, error }.emit(&self.metrics);
    }

    /// Replaces what differs, if every new policy answers for everything that is there.
    fn switch(&mut self, prepared: Prepared) -> anyhow::Result<()> {
        let Prepared { config, policies: new, sinks } = prepared;
        let judged: BTreeSet<Text> = new.iter().map(|slot| Text::clone(slot.name())).collect();
        let policies: Vec<&PolicySlot> = config
            .policies
            .iter()
            .filter_map(|policy| {
                let is_of = |slot: &&PolicySlot| slot.feed.config == *policy;
                new.iter().find(is_of).or_else(|| self.policies.iter().find(is_of))
            })
            .collect();
        let rules = rules(&config, policies.iter().copied());
        self.line.set_waiting(waiting(policies.iter().copied()));
        let now = clock::now();
        let round = match self.line.change_rules(&rules, &judged, now) {
            Ok(round) => round,
            Err(refused) => {
                self.update_waiting();
                return Err(refused.into());
            }
        };
        // From here on nothing fails.
        new.iter().for_each(|slot| self.listen(slot));
        let mut known: BTreeMap<Text, PolicySlot> = BTreeMap::new();
        for slot in std::mem::take(&mut self.policies).into_iter().chain(new) {
            known.insert(Text::clone(slot.name()), slot);
        }
        self.policies =
            config.policies.iter().filter_map(|policy| known.remove(&policy.name)).collect();
        self.replace_sources(&config);
        self.line.set_options(line_options(&config));
        self.config = config;
        if let Some(sinks) = sinks {
            self.sinks.clear();
            sinks.into_iter().for_each(|sink| self.start_sink(sink));
        }
        self.spread(&round, now);
        Ok(())
    }

    fn replace_sources(&mut self, config: &Configuration) {
        let is_configured =
            |name: &SourceName| config.sources.iter().any(|source| source.name == *name);
        for name in self.sources.keys().filter(|name| !is_configured(name)) {
            self.line.remove_source(name);
        }
        self.sources.retain(|name, _| is_configured(name));
        for source in &config.sources {
            if self.sources.get(&source.name).is_none_or(|known| known.config != *source) {
                self.start_source(RunningSource::start(source.clone()));
            }
        }
    }
}

/// What the configuration file is at one moment.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    inode: u64,
    /// One byte more than is read from it is enough to have it refused.
    bytes: Vec<u8>,
}

async fn look(path: &Path) -> std::io::Result<Look> {
    let metadata = tokio::fs::metadata(path).await?;
    // Opening a pipe waits for somebody to write into it.
    if !metadata.is_file() {
        return Err(std::io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    let file = tokio::fs::File::open(path).await?;
    file.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes).await?;
    Ok(Look { inode: metadata.ino(), bytes })
}

/// Tells when the configuration file changes, and once in the beginning: it may have changed since
/// it was loaded. A file that was put in the place of another is whole. One that is written in place
/// may be half of itself, and half of a configuration may be legal, so it must rest first.
pub(super) async fn watch(path: PathBuf, events: mpsc::Sender<Event>, stop: CancellationToken) {
    let mut told: Option<Look> = None;
    let mut last: Option<Look> = None;
    let mut rested = 0;
    loop {
        match look(&path).await {
            Ok(now) => {
                rested = if last.as_ref() == Some(&now) { rested + 1 } else { 0 };
                let replaced = told.as_ref().is_none_or(|told| told.inode != now.inode);
                let differs = told.as_ref().is_none_or(|told| told.bytes != now.bytes);
                if differs && (replaced || rested >= RESTED_LOOKS) {
                    if events.send(Event::Configuration).await.is_err() {
                        return;
                    }
                    told = Some(Look { inode: now.inode, bytes: now.bytes.clone() });
                }
                last = Some(now);
            }
            Err(error) if last.is_some() => {
                ConfigurationGone { path: &path, error: &error }.emit();
                last = None;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(CONFIG_POLL) => {}
            () = stop.cancelled() => return,
        }
    }
}
