//! Takes a changed configuration up while Landfall runs, or refuses it as a whole.
//!
//! What may take long or fail is prepared beside the line: policies are loaded, sinks connected.
//! Then everything that is listed is decided by the new rules, and only then anything is replaced.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use landfall_core::registry::SourceName;
use landfall_core::text::Text;
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Daemon;
use crate::candidate::Candidate;
use crate::clock;
use crate::config::{
    self, CONFIG_BYTES_MAX, ConfigError, Configuration, PolicyConfig, SinkConfig, SinkKind,
};
use crate::event::Event;
use crate::line::{Rehearsed, RulesRefused};
use crate::pause::grown;
use crate::prepared::{Prepared, prepare};
use crate::regular;
use crate::slots::PolicySlot;
use crate::telemetry::{
    ConfigurationRefused, ConfigurationTaken, ConfigurationUnchanged, ReloadAsked,
};

/// How often the configuration file is looked at.
const CONFIG_POLL: Duration = Duration::from_millis(250);
/// Looks at which a file that is written in place must be as before: half a second, so that an edit
/// is taken up within one.
const RESTED_LOOKS: u32 = 2;
/// The same for one that was renamed into its place, and is whole.
const RESTED_LOOKS_OF_RENAMED: u32 = 1;
/// How long a configuration waits that is legal but was refused, as for a ConfigMap that is not
/// there yet: the first time, and at most.
const AGAIN_MIN: Duration = Duration::from_secs(5);
const AGAIN_MAX: Duration = Duration::from_secs(600);

/// The reload under way. A later one takes its place, so that what it was for is never taken up.
#[derive(Debug, Default)]
pub(super) struct Reloading {
    /// The number of the latest.
    number: u64,
    preparing: Option<AbortOnDropHandle<()>>,
    /// How often the configuration was refused as it stands.
    refusals: u32,
    /// Why it is not at work, once that is known.
    pub(super) refused: Option<String>,
    /// Ends with another try.
    retry: Option<AbortOnDropHandle<()>>,
}

impl Reloading {
    /// Whether none came after the one of this number.
    pub(super) fn is_latest(&self, number: u64) -> bool {
        self.number == number
    }
}

impl Daemon {
    /// Begins to take a changed configuration file up.
    pub(super) fn reload(&mut self) {
        self.reloading.refusals = 0;
        self.reload_again();
    }

    /// The same for one that was refused as it stands.
    pub(super) fn reload_again(&mut self) {
        let number = self.reloading.number + 1;
        let Reloading { refusals, refused, .. } = std::mem::take(&mut self.reloading);
        self.reloading = Reloading { number, refusals, refused, ..Reloading::default() };
        let config = match load_anew(&self.path) {
            Ok(config) if config == self.config => {
                self.reloading.refused = None;
                return ConfigurationUnchanged { path: &self.path }.emit();
            }
            Ok(config) => config,
            Err(error) => return self.refuse_configuration(&error.into()),
        };
        if config.admin_listen != self.config.admin_listen || config.owner != self.config.owner {
            let why = "admin.listen and owner cannot change while Landfall runs; restart it";
            return self.refuse_configuration(&anyhow::anyhow!(why));
        }
        let serves = |sink: &&SinkConfig| matches!(sink.kind, SinkKind::Mcp { .. });
        let (before, now) = (self.config.sinks.iter(), config.sinks.iter());
        if !before.filter(serves).eq(now.filter(serves)) {
            let why = "mcp sinks cannot change while Landfall runs; restart it";
            return self.refuse_configuration(&anyhow::anyhow!(why));
        }
        let is_known =
            |policy: &&PolicyConfig| self.policies.iter().any(|slot| slot.feed.config == **policy);
        let policies = config.policies.iter().filter(|policy| !is_known(policy)).cloned().collect();
        let runs = |sink: &&SinkConfig| self.sinks.iter().any(|(known, _)| known.config() == *sink);
        let sinks = config.sinks.iter().filter(|sink| !runs(sink)).cloned().collect();
        let (compiler, clients) = (self.compiler.clone(), self.clients.clone());
        let events = self.events.clone();
        let task = tokio::spawn(async move {
            let outcome = prepare(config, policies, sinks, &compiler, &clients).await.map(Box::new);
            // Closed only when the daemon stops.
            let _ = events.send(Event::Prepared { reload: number, outcome }).await;
        });
        self.reloading.preparing = Some(AbortOnDropHandle::new(task));
    }

    /// Has what was prepared rehearsed.
    pub(super) fn prepared(&mut self, reload: u64, outcome: anyhow::Result<Box<Prepared>>) {
        if !self.reloading.is_latest(reload) {
            return;
        }
        match outcome {
            Ok(prepared) => self.propose(Candidate::Configuration { reload, prepared }),
            Err(error) => self.reloaded(Err(error)),
        }
    }

    /// Says what became of a reload, and tries it again later where it failed: it is legal.
    pub(super) fn reloaded(&mut self, outcome: anyhow::Result<()>) {
        let Err(error) = outcome else {
            self.reloading.refused = None;
            ConfigurationTaken { path: &self.path }.emit(&self.metrics);
            return;
        };
        self.refuse_configuration(&error);
        let pause = grown(AGAIN_MIN, self.reloading.refusals, AGAIN_MAX);
        self.reloading.refusals = self.reloading.refusals.saturating_add(1);
        let events = self.events.clone();
        self.reloading.retry = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            // Closed only when the daemon stops.
            let _ = events.send(Event::ConfigurationAgain).await;
        })));
    }

    fn refuse_configuration(&mut self, error: &anyhow::Error) {
        self.reloading.refused = Some(format!("{error:#}"));
        ConfigurationRefused { path: &self.path, error }.emit(&self.metrics);
    }

    /// Replaces what differs. Whatever fails does so before anything is replaced.
    pub(super) fn switch(
        &mut self,
        prepared: Prepared,
        rehearsed: Rehearsed,
    ) -> Result<(), RulesRefused> {
        let now = clock::now();
        let Prepared { config, policies: new, sinks } = prepared;
        let removed = self.removed_sources(&config).cloned().collect();
        let rehearsed = rehearsed.without(removed);
        let round = tokio::task::block_in_place(|| self.line.take_rules(rehearsed, now))?;
        new.iter().for_each(|slot| self.listen(slot));
        let mut known: BTreeMap<Text, PolicySlot> = BTreeMap::new();
        for slot in std::mem::take(&mut self.policies).into_iter().chain(new) {
            known.insert(Text::clone(slot.name()), slot);
        }
        self.policies =
            config.policies.iter().filter_map(|policy| known.remove(&policy.name)).collect();
        self.replace_sources(&config);
        let metrics = &self.metrics;
        self.sinks.retain(|(sink, _)| {
            let stays = config.sinks.contains(sink.config());
            if !stays {
                metrics.forget_sink(sink.name());
            }
            stays
        });
        sinks.into_iter().for_each(|sink| self.start_sink(sink));
        self.config = config;
        self.spread(&round, now);
        Ok(())
    }

    /// The sources that run and that `config` does not have.
    fn removed_sources<'a>(
        &'a self,
        config: &'a Configuration,
    ) -> impl Iterator<Item = &'a SourceName> + 'a {
        let is_configured =
            |name: &SourceName| config.sources.iter().any(|source| source.name == *name);
        self.sources.keys().filter(move |name| !is_configured(name))
    }

    fn replace_sources(&mut self, config: &Configuration) {
        let removed: Vec<SourceName> = self.removed_sources(config).cloned().collect();
        for name in &removed {
            self.line.remove_source(name);
            self.metrics.forget_source(name);
            self.sources.remove(name);
        }
        for source in &config.sources {
            if self.sources.get(&source.name).is_none_or(|known| known.config != *source) {
                self.start_source(source.clone());
            }
        }
    }
}

/// What the configuration file is at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Look {
    inode: u64,
    /// Whether it was given a name, or a right, after it was written last.
    is_renamed: bool,
    /// One byte more than is read from it is enough to have it refused.
    bytes: Vec<u8>,
}

fn load_anew(path: &Path) -> Result<Configuration, ConfigError> {
    let checked = fs::metadata(path).and_then(|metadata| regular::check(&metadata));
    checked.map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    config::load(path)
}

async fn look(path: &Path) -> io::Result<Look> {
    let (metadata, bytes) = regular::read(path, CONFIG_BYTES_MAX + 1).await?;
    let written = (metadata.mtime(), metadata.mtime_nsec());
    let is_renamed = (metadata.ctime(), metadata.ctime_nsec()) > written;
    Ok(Look { inode: metadata.ino(), is_renamed, bytes })
}

/// Tells whenever somebody asks by SIGHUP, as of daemons is asked, to take the configuration file up:
/// at once, as it is then, and also where it is what was refused before.
pub(super) async fn heed_hangup(
    mut hangup: Signal,
    path: PathBuf,
    events: mpsc::Sender<Event>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            asked = hangup.recv() => if asked.is_none() { return },
            () = stop.cancelled() => return,
        }
        ReloadAsked { path: &path }.emit();
        if events.send(Event::Configuration).await.is_err() {
            return;
        }
    }
}

/// Tells when the configuration file changes, is gone or is back, and once in the beginning: it may
/// have changed since it was loaded. One that is being written may be half of itself, and half of a
/// configuration may be legal, so it must rest first; and so must one that is gone, for its place may
/// be taken by another.
pub(super) async fn watch(path: PathBuf, events: mpsc::Sender<Event>, stop: CancellationToken) {
    let mut told: Option<Look> = None;
    let mut last: Option<Look> = None;
    let mut rested = 0;
    let mut missed = 0;
    loop {
        match look(&path).await {
            Ok(now) => {
                missed = 0;
                rested = if last.as_ref() == Some(&now) { rested + 1 } else { 0 };
                let is_another = told.as_ref().is_none_or(|told| told.inode != now.inode);
                let differs = told.as_ref().is_none_or(|told| told.bytes != now.bytes);
                let looks = match is_another && now.is_renamed {
                    true => RESTED_LOOKS_OF_RENAMED,
                    false => RESTED_LOOKS,
                };
                if differs && rested >= looks {
                    if events.send(Event::Configuration).await.is_err() {
                        return;
                    }
                    told = Some(now.clone());
                }
                last = Some(now);
            }
            Err(_) if told.is_some() => {
                missed += 1;
                if missed == RESTED_LOOKS {
                    // Loading it says why.
                    if events.send(Event::Configuration).await.is_err() {
                        return;
                    }
                    (told, last) = (None, None);
                }
            }
            Err(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(CONFIG_POLL) => {}
            () = stop.cancelled() => return,
        }
    }
}
