//! Watches one scope: decides what to ask next and what the answers mean. It asks nothing itself,
//! so that every order of answers can be tested without a network.

mod reset;
mod services;
#[cfg(test)]
mod tests;
mod views;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use landfall_core::finding::Finding;
use landfall_core::registry::{Service, ServiceKey};
use landfall_core::text::Text;
use tokio::time::Instant;

use self::views::ViewWatch;
use super::client::{Ask, ConsulError, Reply, ViewKind};
use super::pace::Pace;
use super::sweep::{Cause, Speed, Sweep};
use super::tracked::Tracked;
use super::{ConsulSettings, Scope};
use crate::backoff::{Backoff, Hold, jittered};
use crate::trouble::Trouble;

/// How many requests a scope may have under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// In all.
    pub(super) in_flight: usize,
    /// Long polls of single services.
    pub(super) polls: usize,
    /// Reads of single services, once everything has been listed.
    pub(super) reads: usize,
}

/// The state of the watch over one scope.
#[derive(Debug)]
pub(super) struct ScopeWatch {
    /// The scope, for messages.
    place: String,
    limits: Limits,
    resync: Duration,
    /// How long what is missing is kept once the registry lost its past.
    settle: Duration,
    width: Width,
    views: Vec<ViewWatch>,
    refused: BTreeSet<ViewKind>,
    /// What is wrong with views, until each answers as it should.
    view_troubles: BTreeMap<ViewKind, Trouble>,
    tracked: BTreeMap<Text, Tracked>,
    /// Services to read now; `wanted` is set on each.
    urgent: VecDeque<Text>,
    /// Services that must be read, or be tried in vain, before there is a listing.
    unread: BTreeSet<Text>,
    /// Services whose last read failed.
    failing: BTreeSet<Text>,
    /// Services whose last read failed as if it were about Consul, since Consul last answered.
    suspects: BTreeSet<Text>,
    /// The index that each view had last.
    indexes: BTreeMap<ViewKind, u64>,
    past_lost_until: Option<Instant>,
    /// Whether a first listing without services is a doubt.
    doubts_empty: bool,
    /// Whether the past counts as lost because the first listing had no services.
    began_empty: bool,
    /// Services that keep instances which the registry lacks since then.
    kept: BTreeSet<Text>,
    /// Services that changed lately, the latest last; at most as many as there are long polls.
    hot: VecDeque<Text>,
    sweep: Sweep,
    /// Over services whose instances may have traded their health.
    health_sweep: Sweep,
    revision: Option<(u64, u64)>,
    revision_use: RevisionUse,
    compare_again: bool,
    reads: usize,
    polls: usize,
    in_flight: usize,
    /// Questions asked so far.
    asked: u64,
    /// Before everything is listed anew.
    down: Hold,
    general: Option<Trouble>,
    /// Because Consul asks for fewer requests.
    limited: Hold,
    /// The service that was last refused for that reason.
    limited_by: Option<Text>,
    resync_at: Instant,
    /// Nothing that was asked in an earlier epoch matters any more.
    epoch: u64,
    listed_once: bool,
    confirmed: bool,
    findings: BTreeMap<Text, Vec<Finding>>,
    findings_changed: bool,
    changes: BTreeMap<ServiceKey, Option<Arc<Service>>>,
    wake_at: Option<Instant>,
}

/// How the services are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    /// It is not known how many there are.
    Unknown,
    /// Each has a long poll.
    Narrow,
    /// Views tell which to read.
    Wide,
}

/// What the revision that is being read is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RevisionUse {
    /// Nothing is being read.
    None,
    /// To know from where on changes count.
    Baseline { asked: bool },
    /// To find out whether a view woke for something that it does not show.
    Compare { asked: bool },
    /// To be the baseline of the sweep that begins with it.
    Sweep { asked: bool },
}

// === impl ScopeWatch: what the driver needs ===

impl ScopeWatch {
    /// A watch with at most `in_flight` requests under way.
    pub(super) fn new(
        scope: &Scope,
        in_flight: usize,
        settings: &ConsulSettings,
        now: Instant,
    ) -> Self {
        let ConsulSettings { resync, settle, .. } = *settings;
        Self {
            place: scope.to_string(),
            limits: Limits::of(in_flight),
            resync,
            settle,
            width: Width::Unknown,
            views: Vec::new(),
            refused: BTreeSet::new(),
            view_troubles: BTreeMap::new(),
            tracked: BTreeMap::new(),
            urgent: VecDeque::new(),
            unread: BTreeSet::new(),
            failing: BTreeSet::new(),
            suspects: BTreeSet::new(),
            indexes: BTreeMap::new(),
            past_lost_until: None,
            doubts_empty: true,
            began_empty: false,
            kept: BTreeSet::new(),
            hot: VecDeque::new(),
            sweep: Sweep::new(Cause::Change),
            health_sweep: Sweep::new(Cause::Suspicion),
            revision: None,
            revision_use: RevisionUse::None,
            compare_again: false,
            reads: 0,
            polls: 0,
            in_flight: 0,
            asked: 0,
            down: Hold::new(Backoff::of_registry()),
            general: None,
            limited: Hold::new(Backoff::of_registry()),
            limited_by: None,
            resync_at: now + jittered(resync),
            epoch: 0,
            listed_once: false,
            confirmed: false,
            findings: BTreeMap::new(),
            findings_changed: false,
            changes: BTreeMap::new(),
            wake_at: None,
        }
    }

    /// The same, for a scope that came into being while others were watched: it has no past that it
    /// could have lost.
    pub(super) fn without_past(self) -> Self {
        Self { doubts_empty: false, ..self }
    }

    /// From now on at most `in_flight` requests are under way.
    pub(super) fn set_in_flight(&mut self, in_flight: usize) {
        self.limits = Limits::of(in_flight);
    }

    /// Changes whenever everything that is under way should be given up.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether every service that can be read has been read at least once; there is a doubt for as
    /// long as there are others.
    pub(super) fn is_listed(&self) -> bool {
        self.listed_once
    }

    /// Why the listing may be out of date.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        if let Some(general) = &self.general {
            return Some(general.clone());
        }
        if let Some(trouble) = self.view_troubles.values().next() {
            return Some(trouble.clone());
        }
        let Some(name) = self.failing.first() else { return self.absence_trouble() };
        let failure = self.tracked.get(name)?.failure.as_ref()?;
        Some(failure.trouble.with_more(self.failing.len() - 1, "services"))
    }

    /// The services that changed since the last call; `None` for those that are gone.
    pub(super) fn take_changes(&mut self) -> BTreeMap<ServiceKey, Option<Arc<Service>>> {
        mem::take(&mut self.changes)
    }

    /// Whether findings changed since the last call.
    pub(super) fn take_findings_changed(&mut self) -> bool {
        mem::take(&mut self.findings_changed)
    }

    /// What is wrong with single instances.
    pub(super) fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.findings.values().flatten()
    }

    /// The services it lists, to remove them when the scope itself is gone.
    pub(super) fn keys(&self) -> impl Iterator<Item = &ServiceKey> {
        self.tracked.values().filter_map(|t| Some(&t.service.as_ref()?.key))
    }

    /// Whether Consul was heard since the last call and everything it listed is known.
    pub(super) fn take_confirmed(&mut self) -> bool {
        mem::take(&mut self.confirmed) && self.unread.is_empty() && self.trouble().is_none()
    }

    /// When [`Self::next_ask`] may have something although nothing was answered.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.wake_at
    }

    /// Whether the addresses and certificates should be looked at again: it was down and tries
    /// again now.
    pub(super) fn is_recovering(&self) -> bool {
        self.general.is_some()
    }

    /// Until when Consul asked for fewer requests, if that is after `now`. Every scope is of the
    /// same Consul.
    pub(super) fn limited_until(&self, now: Instant) -> Option<Instant> {
        self.limited.until(now)
    }

    /// Asks nothing before `at`.
    pub(super) fn hold_until(&mut self, at: Instant) {
        self.limited.extend(at);
    }

    /// What to ask now, if anything. To be called until it returns `None`.
    pub(super) fn next_ask(&mut self, now: Instant) -> Option<Ask> {
        self.wake_at = None;
        if let Some(until) = self.down.until(now).max(self.limited.until(now)) {
            self.later(until);
            return None;
        }
        if now >= self.resync_at {
            self.resync_at = now + jittered(self.resync);
            if self.refused.is_empty() {
                self.sweep.want(Speed::Slow, now);
            } else {
                // What was refused may be granted by now.
                self.refused.clear();
                self.list_again();
            }
        }
        self.later(self.resync_at);
        self.end_absence(now);
        self.suspect_health(now);
        if self.in_flight >= self.limits.in_flight {
            return None;
        }
        let ask = self
            .next_view(now)
            .or_else(|| self.next_revision(now))
            .or_else(|| self.next_read(now))
            .or_else(|| self.next_poll(now))?;
        self.in_flight += 1;
        self.asked += 1;
        Some(ask)
    }

    /// Takes the answer to something that was asked in this epoch.
    pub(super) fn answered(&mut self, ask: Ask, answer: Result<Reply, ConsulError>, now: Instant) {
        self.in_flight -= 1;
        match ask {
            Ask::View { view, index } => self.view_answered(view, index, answer, now),
            Ask::Revision => self.revision_answered(answer, now),
            Ask::Service { name, index, .. } => self.service_answered(&name, index, answer, now),
        }
        if self.unread.is_empty() && self.width != Width::Unknown && self.has_baselines() {
            // Where not a single one could be read there is nothing to tell.
            let mut all = self.tracked.values();
            self.listed_once |= self.tracked.is_empty() || all.any(|one| one.digest.is_some());
            self.general = None;
            let views = &self.views;
            self.view_troubles.retain(|kind, _| views.iter().any(|view| view.kind() == *kind));
        }
    }

    fn later(&mut self, at: Instant) {
        self.wake_at = Some(self.wake_at.map_or(at, |known| known.min(at)));
    }

    /// Whether changes from now on cannot be missed, so that reading services is worth it.
    fn has_baselines(&self) -> bool {
        let shown = self.views.iter().all(|view| view.shown.is_some());
        shown && !matches!(self.revision_use, RevisionUse::Baseline { .. })
    }

    // === Falling back ===

    /// Waits, then lists everything again.
    fn go_down(&mut self, error: &ConsulError, now: Instant) {
        self.list_again();
        self.refused.clear();
        self.down.again(now, Duration::ZERO);
        self.general = Some(error.into());
    }

    /// Asks nothing for a while, as Consul wants. What is known and what is under way stands.
    fn limit(&mut self, by: Option<&Text>, retry_after: Option<Duration>, now: Instant) {
        let least = retry_after.unwrap_or_default();
        // Requests that were under way together tell of one and the same limit. And one service
        // that is refused whenever it is asked for is no reason to leave the others unread for
        // longer and longer; it has a pause of its own.
        let is_known = self.limited.until(now).is_some();
        let is_alone = by.is_some() && self.limited_by.as_ref() == by;
        if is_known || is_alone {
            self.limited.extend(now + least);
        } else {
            self.limited.again(now, least);
        }
        self.limited_by = by.cloned();
    }

    /// Lists everything again. What is known stands until then.
    fn list_again(&mut self) {
        self.epoch += 1;
        self.width = Width::Unknown;
        self.views.clear();
        self.urgent.clear();
        self.hot.clear();
        self.suspects.clear();
        self.sweep = Sweep::new(Cause::Change);
        self.health_sweep = Sweep::new(Cause::Suspicion);
        self.revision = None;
        self.revision_use = RevisionUse::None;
        self.compare_again = false;
        (self.reads, self.polls, self.in_flight) = (0, 0, 0);
        self.unread = self.tracked.keys().cloned().collect();
        for tracked in self.tracked.values_mut() {
            (tracked.wanted, tracked.reading, tracked.polling) = (false, None, None);
            tracked.pace = Pace::new();
        }
    }
}

// === impl Limits ===

// Of the requests under way, so many at most read single services: more gain nothing (measured).
const READS_MAX: usize = 16;

// The most views that a scope waits on at once.
const VIEWS_MAX: usize = 2;

impl Limits {
    pub(super) fn of(in_flight: usize) -> Self {
        let in_flight = in_flight.max(super::CONNECTIONS_MIN);
        let reads = (in_flight / 4).clamp(1, READS_MAX);
        Self { in_flight, reads, polls: in_flight - reads - VIEWS_MAX }
    }

    /// Long polls of any kind.
    pub(super) fn long_polls(&self) -> usize {
        self.polls + VIEWS_MAX
    }
}
