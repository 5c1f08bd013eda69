//! Single services: when each is read or waited for, and what the answer changes.

use std::sync::Arc;
use std::time::Duration;

use landfall_core::finding::Finding;
use landfall_core::registry::Service;
use landfall_core::text::Text;
use tokio::time::Instant;

use super::{ScopeWatch, Width};
use crate::consul::client::{Ask, ConsulError, Reply, Trust};
use crate::consul::convert::ServiceRead;
use crate::consul::tracked::{Applied, Begun, Tracked};

// How long a service that changed keeps a long poll of its own.
const HOT_FOR: Duration = Duration::from_secs(600);
// So many services that fail one after another, with no answer between, tell of Consul and not of
// themselves: two may be broken by one cause of their own, such as their names.
const SUSPECTS_MAX: usize = 3;
// Reading 1,000 services over 16 to 32 connections takes 0.33 s, over more no less (measured).
const LISTING_READS_MAX: usize = 32;

impl ScopeWatch {
    pub(super) fn next_read(&mut self, now: Instant) -> Option<Ask> {
        if !self.has_baselines() {
            return None;
        }
        let views = self.views.len();
        let listing =
            (self.limits.in_flight - views.min(self.limits.in_flight - 1)).min(LISTING_READS_MAX);
        let reads_max = if self.unread.is_empty() { self.limits.reads } else { listing };
        if self.reads >= reads_max {
            return None;
        }
        let name =
            self.next_urgent().or_else(|| self.next_retry(now)).or_else(|| self.next_swept(now))?;
        let number = self.asked + 1;
        let tracked = self.tracked.get_mut(&name)?;
        tracked.wanted = false;
        tracked.reading = Some(Begun { at: now, number });
        self.reads += 1;
        Some(Ask::Service { name, index: None, known: tracked.digest })
    }

    fn next_urgent(&mut self) -> Option<Text> {
        // One that is being read is read again when that is done: see `service_answered`.
        while let Some(name) = self.urgent.pop_front() {
            let Some(tracked) = self.tracked.get(&name) else { continue };
            if tracked.wanted && tracked.reading.is_none() {
                return Some(name);
            }
        }
        None
    }

    fn next_retry(&mut self, now: Instant) -> Option<Text> {
        let mut due: Option<(Instant, Text)> = None;
        for name in &self.failing {
            let Some(tracked) = self.tracked.get(name) else { continue };
            let Some(failure) = &tracked.failure else { continue };
            let sooner = due.as_ref().is_none_or(|(at, _)| failure.retry_at < *at);
            if tracked.reading.is_none() && sooner {
                due = Some((failure.retry_at, Text::clone(name)));
            }
        }
        let (at, name) = due?;
        if at <= now {
            return Some(name);
        }
        self.later(at);
        None
    }

    fn next_swept(&mut self, now: Instant) -> Option<Text> {
        let tracked = &self.tracked;
        let mut again = Vec::new();
        let mut later = None;
        let mut found = None;
        for sweep in [&mut self.sweep, &mut self.health_sweep] {
            match sweep.next_at() {
                Some(at) if at <= now => {
                    found = sweep.next(now, |name, began| {
                        let Some(tracked) = tracked.get(name) else { return true };
                        if tracked.reading.is_some_and(|read| read.at <= began) {
                            // Its answer may be of before what the sweep looks for.
                            again.push(Text::clone(name));
                        }
                        tracked.reading.is_some()
                            || tracked.failure.is_some()
                            || tracked.read_at.is_some_and(|at| at > began)
                    });
                    if found.is_none() {
                        // It ended by skipping the rest, and whoever looks for the next one to
                        // begin has been here already.
                        later = later.into_iter().chain(sweep.due_at()).min();
                    }
                }
                Some(at) => later = later.into_iter().chain([at]).min(),
                None => (),
            }
            if found.is_some() {
                break;
            }
        }
        for name in again {
            self.want(&name);
        }
        if let Some(at) = later {
            self.later(at);
        }
        found
    }

    pub(super) fn next_poll(&mut self, now: Instant) -> Option<Ask> {
        if self.polls >= self.limits.polls || !self.unread.is_empty() {
            return None;
        }
        let mut later = None;
        let mut ready = |tracked: &Tracked| {
            if !tracked.may_be_polled() {
                return false;
            }
            let at = tracked.pace.ready_at(now);
            if at > now {
                later = Some(later.map_or(at, |known: Instant| known.min(at)));
            }
            at <= now
        };
        let found = match self.width {
            Width::Unknown => None,
            Width::Narrow => self.tracked.iter().find(|(_, t)| ready(t)).map(|(name, _)| name),
            Width::Wide => {
                let tracked = &self.tracked;
                self.hot.iter().rev().find(|name| tracked.get(*name).is_some_and(&mut ready))
            }
        };
        let found = found.cloned();
        if let Some(at) = later {
            self.later(at);
        }
        let name = found?;
        let number = self.asked + 1;
        let tracked = self.tracked.get_mut(&name)?;
        tracked.polling = Some(Begun { at: now, number });
        self.polls += 1;
        Some(Ask::Service { name, index: Some(tracked.index), known: tracked.digest })
    }

    pub(super) fn service_answered(
        &mut self,
        name: &Text,
        asked_index: Option<u64>,
        answer: Result<Reply, ConsulError>,
        now: Instant,
    ) {
        let polled = asked_index.is_some();
        if polled {
            self.polls -= 1;
        } else {
            self.reads -= 1;
        }
        let Some(tracked) = self.tracked.get_mut(name) else { return };
        let begun = if polled { tracked.polling.take() } else { tracked.reading.take() };
        let begun = begun.unwrap_or(Begun { at: now, number: self.asked });
        match answer {
            Ok(Reply::Service { index, digest, bytes, read, trust }) => {
                self.suspects.clear();
                tracked.pace.cost(now, bytes);
                if asked_index.is_some_and(|asked_index| index < asked_index) {
                    // The service's past was lost or restored; what holds now is read anew.
                    self.want(name);
                } else {
                    if polled {
                        tracked.pace.polled(begun.at, now, read.is_some());
                    }
                    let same_as = read.is_none().then_some(digest);
                    if tracked.is_overtaken(index, begun, same_as) {
                        self.want(name);
                    } else {
                        tracked.read_at = Some(begun.at);
                        self.take_service(name, index, digest, read, trust, now);
                    }
                }
            }
            Ok(_) => (),
            Err(ref error @ ConsulError::RateLimited { retry_after, .. }) => {
                self.service_failed(name, error, now);
                self.limit(Some(name), retry_after, now);
            }
            Err(_) if polled => {
                // A broken long poll says nothing of the data; reading without waiting will.
                tracked.pace.pause(now);
                self.want(name);
            }
            Err(error) => {
                if error.is_general() {
                    self.suspects.insert(Text::clone(name));
                }
                if self.suspects.len() >= SUSPECTS_MAX {
                    self.go_down(&error, now);
                } else {
                    self.service_failed(name, &error, now);
                }
            }
        }
        self.read_again_if_wanted(name);
    }

    /// The service stands as it was and is tried again, after a pause that grows.
    fn service_failed(&mut self, name: &Text, error: &ConsulError, now: Instant) {
        if let Some(tracked) = self.tracked.get_mut(name) {
            tracked.failed(error, now);
            self.failing.insert(Text::clone(name));
            // It does not keep the others waiting; there is a doubt for as long as it fails.
            self.unread.remove(name);
        }
    }

    fn read_again_if_wanted(&mut self, name: &Text) {
        if let Some(tracked) = self.tracked.get(name)
            && tracked.wanted
            && tracked.reading.is_none()
            && !self.urgent.contains(name)
        {
            self.urgent.push_back(Text::clone(name));
        }
    }

    fn take_service(
        &mut self,
        name: &Text,
        index: u64,
        digest: u64,
        read: Option<ServiceRead>,
        trust: Trust,
        now: Instant,
    ) {
        let absence = self.absence(now);
        let Some(tracked) = self.tracked.get_mut(name) else { return };
        // What is gone went at an index that is above all that were seen while it was there. (An
        // answer that lacks nothing may well go back: a stream has indexes of its own.)
        let loses = |read: &ServiceRead| tracked.loses_instances(read.service.as_deref());
        let goes_back = index < tracked.index && read.as_ref().is_some_and(loses);
        if goes_back && trust == Trust::Full {
            self.lost_its_past(now);
            return;
        }
        let first = tracked.digest.is_none();
        let applied = tracked.apply(index, digest, read, trust, absence);
        if matches!(applied, Applied::Same | Applied::Changed { .. }) {
            tracked.taken = self.asked;
        }
        if applied == Applied::Unproven {
            self.want(name);
            return;
        }
        let hidden = trust == Trust::Filtered;
        if hidden {
            let attempt = format!("read service {name} of {}", self.place);
            tracked.failed(&ConsulError::Filtered { attempt }, now);
            self.failing.insert(Text::clone(name));
        } else {
            tracked.failure = None;
            self.failing.remove(name);
        }
        self.unread.remove(name);
        if let Applied::Changed { before, findings, keeps } = applied {
            let now_is = tracked.service.clone();
            if keeps {
                self.kept.insert(Text::clone(name));
            } else {
                self.kept.remove(name);
            }
            if !first {
                tracked.changed_at = Some(now);
                self.make_hot(name);
            }
            self.note_change(before, now_is);
            self.note_findings(name, findings);
        }
        self.forget_if_gone(name, now);
    }

    fn note_change(&mut self, before: Option<Arc<Service>>, now_is: Option<Arc<Service>>) {
        let same = match (&before, &now_is) {
            (Some(before), Some(now_is)) => Arc::ptr_eq(before, now_is),
            (None, None) => true,
            _ => false,
        };
        if same {
            return;
        }
        if let Some(before) = before {
            self.changes.insert(before.key.clone(), None);
        }
        if let Some(now_is) = now_is {
            self.changes.insert(now_is.key.clone(), Some(now_is));
        }
    }

    fn note_findings(&mut self, name: &Text, findings: Vec<Finding>) {
        let known = if findings.is_empty() {
            self.findings.remove(name).unwrap_or_default()
        } else {
            self.findings.insert(Text::clone(name), findings.clone()).unwrap_or_default()
        };
        self.findings_changed |= known != findings;
    }

    fn make_hot(&mut self, name: &Text) {
        self.hot.retain(|known| known != name);
        self.hot.push_back(Text::clone(name));
        if self.hot.len() > self.limits.polls {
            self.hot.pop_front();
        }
    }

    /// Drops what neither the list nor its own answer has, and what is no longer hot.
    fn forget_if_gone(&mut self, name: &Text, now: Instant) {
        let Some(tracked) = self.tracked.get(name) else { return };
        let cold = tracked.changed_at.is_none_or(|at| now.duration_since(at) > HOT_FOR);
        let busy = tracked.reading.is_some() || tracked.polling.is_some() || tracked.wanted;
        let gone =
            !tracked.listed && tracked.service.is_none() && tracked.failure.is_none() && !busy;
        if cold || gone {
            self.hot.retain(|known| known != name);
        }
        if gone {
            self.tracked.remove(name);
        }
    }
}
