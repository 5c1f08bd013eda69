//! What the catalogue-wide views tell: which services there are and which to read.

use std::mem;
use std::time::Duration;

use landfall_core::text::Text;
use tokio::time::Instant;

use super::{RevisionUse, ScopeWatch, Width};
use crate::consul::client::{Ask, ConsulError, Reply, ViewKind};
use crate::consul::convert::{View, is_listed_name};
use crate::consul::pace::Pace;
use crate::consul::sweep::Speed;
use crate::consul::tracked::Tracked;
use crate::trouble::Trouble;

// A changed service is read before the view is asked for again: Consul works 45 ms on the summary
// of 1,000 services, and the two would share its cores.
const REARM_PAUSE: Duration = Duration::from_millis(25);

// A view that can be done without and fails so often in a row is done without. Fewer may be a
// server that restarts, and going without costs Consul more.
const VIEW_FAILURES_MAX: u32 = 3;

/// A catalogue-wide view and what it last showed.
#[derive(Debug)]
pub(super) struct ViewWatch {
    kind: ViewKind,
    pub(super) shown: Option<View>,
    /// `None` when it must be read without waiting.
    index: Option<u64>,
    asked: Option<Instant>,
    /// In a row.
    failures: u32,
    pace: Pace,
}

impl ScopeWatch {
    pub(super) fn next_view(&mut self, now: Instant) -> Option<Ask> {
        if self.width == Width::Unknown && self.views.is_empty() {
            self.views.push(ViewWatch::new(ViewKind::Names));
        }
        for i in 0..self.views.len() {
            let view = &mut self.views[i];
            if view.asked.is_some() {
                continue;
            }
            let at = view.pace.ready_at(now);
            if at <= now {
                view.asked = Some(now);
                return Some(Ask::View { view: view.kind, index: view.index });
            }
            self.later(at);
        }
        None
    }

    pub(super) fn view_answered(
        &mut self,
        kind: ViewKind,
        asked_index: Option<u64>,
        answer: Result<Reply, ConsulError>,
        now: Instant,
    ) {
        let Some(at) = self.views.iter().position(|view| view.kind == kind) else { return };
        let watch = &mut self.views[at];
        let asked = watch.asked.take().unwrap_or(now);
        match answer {
            Ok(Reply::View { index, view, bytes, filtered }) => {
                if !self.goes_on(kind, index) {
                    self.lost_its_past(now);
                    return;
                }
                let watch = &mut self.views[at];
                let names = view.keys().filter(|name| is_listed_name(name)).count();
                if filtered && names == 0 && kind != ViewKind::Checks {
                    let attempt = format!("list the services of {}", self.place);
                    self.go_down(&ConsulError::Filtered { attempt }, now);
                    return;
                }
                self.suspects.clear();
                if filtered {
                    let attempt = format!("list the services of {}", self.place);
                    let error = ConsulError::Filtered { attempt };
                    self.view_troubles.insert(kind, Trouble::from(&error));
                } else {
                    self.view_troubles.remove(&kind);
                }
                let moved = asked_index != Some(index);
                watch.failures = 0;
                watch.index = Some(index);
                watch.pace.cost(now, bytes);
                if asked_index.is_some() {
                    watch.pace.polled(asked, now, moved);
                }
                watch.pace.hold_until(now + REARM_PAUSE);
                let shown = watch.shown.replace(view);
                self.confirmed = true;
                self.view_shown(at, shown, moved, now);
            }
            // Not an answer to this question; it cannot happen.
            Ok(_) => (),
            Err(ref error @ ConsulError::RateLimited { retry_after, .. }) => {
                // What it showed stands, to be compared with what it shows next.
                watch.index = None;
                self.view_troubles.insert(kind, error.into());
                self.limit(None, retry_after, now);
            }
            Err(_) if asked_index.is_some() => {
                // A broken long poll says nothing of the data; reading without waiting will.
                watch.index = None;
                watch.pace.pause(now);
            }
            Err(error) if kind.is_optional() && error.is_refusal() => {
                self.refused.insert(kind);
                self.list_again();
            }
            Err(error) if kind.is_optional() && !error.is_general() => {
                watch.failures += 1;
                if watch.failures >= VIEW_FAILURES_MAX {
                    self.refused.insert(kind);
                    self.list_again();
                } else {
                    watch.pace.pause(now);
                    self.view_troubles.insert(kind, Trouble::from(&error));
                }
            }
            Err(error) => self.go_down(&error, now),
        }
    }

    /// The view at `at` shows something; before it showed `before`.
    fn view_shown(&mut self, at: usize, before: Option<View>, moved: bool, now: Instant) {
        let (kind, first) = (self.views[at].kind, before.is_none());
        let view = self.views[at].shown.take().unwrap_or_default();
        let names = view.keys().filter(|name| is_listed_name(name)).count();
        if self.width == Width::Unknown {
            self.began_with(names, now);
            self.choose_width(names, view);
            return;
        }
        let changed = changed_names(&before.unwrap_or_default(), &view);
        if kind.lists_services() {
            self.set_listed(&view);
            if self.width == Width::Narrow && names > self.limits.polls {
                self.list_again();
                return;
            }
        }
        self.views[at].shown = Some(view);
        if first {
            return;
        }
        let of_nodes = kind == ViewKind::Checks && changed.iter().any(|name| name.is_empty());
        for name in &changed {
            self.want(name);
        }
        match (self.width, kind) {
            // Each service has its own long poll.
            (Width::Narrow | Width::Unknown, _) => (),
            // A check of a node counts for every service on it, and the view does not say which.
            (Width::Wide, ViewKind::Checks) if of_nodes => self.sweep.want(Speed::Brisk, now),
            (Width::Wide, ViewKind::Checks) => (),
            (Width::Wide, _) if !moved => (),
            // Beside what is shown something may have changed that is not: an edit in place, or a trade
            // of health, for which few services are to be read, mostly none.
            (Width::Wide, ViewKind::Summary) if !changed.is_empty() => {
                self.sweep.want(Speed::Slow, now);
                self.health_sweep.want(Speed::Brisk, now);
            }
            (Width::Wide, ViewKind::Summary) => self.compare_revision(),
            (Width::Wide, ViewKind::Names) => self.sweep.want(Speed::Brisk, now),
        }
    }

    fn choose_width(&mut self, names: usize, view: View) {
        let names_view = self.views.swap_remove(0);
        if names <= self.limits.polls {
            self.width = Width::Narrow;
            self.set_listed(&view);
            self.views = vec![ViewWatch { shown: Some(view), ..names_view }];
            self.want_unread();
            return;
        }
        self.width = Width::Wide;
        self.views = if self.refused.contains(&ViewKind::Summary) {
            self.set_listed(&view);
            let names_view = ViewWatch { shown: Some(view), ..names_view };
            let checks = (!self.refused.contains(&ViewKind::Checks))
                .then(|| ViewWatch::new(ViewKind::Checks));
            std::iter::once(names_view).chain(checks).collect()
        } else {
            self.revision_use = RevisionUse::Baseline { asked: false };
            vec![ViewWatch::new(ViewKind::Summary)]
        };
        self.want_unread();
    }

    /// Takes the list of services. One that is missing is read: only that may remove it.
    fn set_listed(&mut self, view: &View) {
        let mut again = Vec::new();
        for (name, tracked) in &mut self.tracked {
            tracked.listed = view.contains_key(name);
            let may_be_gone = !tracked.listed && !self.kept.contains(name);
            // One that came back between two answers may look as if it had always been there.
            let may_be_back = tracked.listed && tracked.entries == 0;
            if may_be_gone || may_be_back {
                again.push(Text::clone(name));
            }
        }
        for name in view.keys().filter(|name| is_listed_name(name)) {
            if !self.tracked.contains_key(name) {
                let tracked = Tracked { listed: true, ..Tracked::new() };
                self.tracked.insert(Text::clone(name), tracked);
                if !self.listed_once {
                    self.unread.insert(Text::clone(name));
                }
                again.push(Text::clone(name));
            }
        }
        for name in again {
            self.want(&name);
        }
    }

    fn want_unread(&mut self) {
        let unread: Vec<Text> = self.unread.iter().cloned().collect();
        for name in unread {
            self.want(&name);
        }
    }

    /// Has a service read soon, unless its own long poll will tell, or it is being retried.
    pub(super) fn want(&mut self, name: &Text) {
        let Some(tracked) = self.tracked.get_mut(name) else { return };
        let will_be_told = tracked.polling.is_some() || tracked.failure.is_some();
        if !tracked.wanted && (!will_be_told || self.unread.contains(name)) {
            tracked.wanted = true;
            self.urgent.push_back(Text::clone(name));
        }
    }

    /// Whether nothing tells of health: all that can be done is to read services over and over.
    fn is_blind(&self) -> bool {
        self.width == Width::Wide && self.views.iter().all(|view| view.kind == ViewKind::Names)
    }

    fn summary(&self) -> Option<&ViewWatch> {
        self.views.iter().find(|view| view.kind == ViewKind::Summary)
    }

    /// Begins to read the services whose instances may have traded their health, if that is due.
    pub(super) fn suspect_health(&mut self, now: Instant) {
        let blind = self.is_blind();
        if blind && self.unread.is_empty() && !self.health_sweep.is_busy() {
            self.health_sweep.want(Speed::Brisk, now);
        }
        let Some(at) = self.health_sweep.due_at() else { return };
        if now < at {
            self.later(at);
            return;
        }
        let shown = self.summary().and_then(|view| view.shown.as_ref());
        let hides_health = |name: &Text| {
            shown.and_then(|shown| shown.get(name)).is_some_and(|shown| shown.hides_health)
        };
        // Of which all is well as far as it was read, and all is well as far as is shown, it is.
        // One that is waited for tells by itself, and one that is wanted is read anyway.
        let names: Vec<Text> = self
            .tracked
            .iter()
            .filter(|(_, tracked)| tracked.polling.is_none() && !tracked.wanted)
            .filter(|(name, tracked)| blind || hides_health(name) || !tracked.is_well())
            .map(|(name, _)| Text::clone(name))
            .collect();
        self.health_sweep.begin(names.into_iter(), now);
    }

    // === Revisions and sweeps ===

    fn compare_revision(&mut self) {
        match self.revision_use {
            RevisionUse::None => self.revision_use = RevisionUse::Compare { asked: false },
            // The one that is under way may have been read before what woke the view.
            _ => self.compare_again = true,
        }
    }

    pub(super) fn next_revision(&mut self, now: Instant) -> Option<Ask> {
        if self.revision_use == RevisionUse::None
            && self.unread.is_empty()
            && let Some(at) = self.sweep.due_at()
        {
            if now < at {
                self.later(at);
            } else if self.summary().is_some() {
                self.revision_use = RevisionUse::Sweep { asked: false };
            } else {
                // Nothing will be compared with the revision.
                self.begin_sweep(now);
            }
        }
        match &mut self.revision_use {
            RevisionUse::Baseline { asked }
            | RevisionUse::Compare { asked }
            | RevisionUse::Sweep { asked }
                if !*asked =>
            {
                *asked = true;
                Some(Ask::Revision)
            }
            _ => None,
        }
    }

    pub(super) fn revision_answered(&mut self, answer: Result<Reply, ConsulError>, now: Instant) {
        let used = mem::replace(&mut self.revision_use, RevisionUse::None);
        let revision = match answer {
            Ok(Reply::Revision { services, .. }) if !self.goes_on(ViewKind::Names, services) => {
                self.lost_its_past(now);
                return;
            }
            Ok(Reply::Revision { services, nodes }) => Some((services, nodes)),
            Err(ConsulError::RateLimited { retry_after, .. }) => {
                self.revision_use = used.unasked();
                self.limit(None, retry_after, now);
                return;
            }
            Err(error) if error.is_general() => {
                self.go_down(&error, now);
                return;
            }
            // Without it every wake looks as if something had changed that is not shown.
            _ => None,
        };
        match used {
            RevisionUse::None => (),
            RevisionUse::Baseline { .. } => self.revision = revision,
            // The sweep that is wanted reads the revision again when it begins.
            // Checks wrote their output, or instances of one service traded their health.
            RevisionUse::Compare { .. } if revision.is_some() && revision == self.revision => {
                self.health_sweep.want(Speed::Brisk, now);
            }
            RevisionUse::Compare { .. } => self.sweep.want(Speed::Brisk, now),
            RevisionUse::Sweep { .. } => {
                // All that is older is seen by the sweep that begins now.
                self.revision = revision;
                self.begin_sweep(now);
            }
        }
        if mem::take(&mut self.compare_again) {
            self.compare_revision();
        }
    }

    fn begin_sweep(&mut self, now: Instant) {
        let names: Vec<Text> = self.tracked.keys().cloned().collect();
        self.sweep.begin(names.into_iter(), now);
    }
}

// === impl RevisionUse ===

impl RevisionUse {
    /// The same, to be read anew.
    const fn unasked(self) -> Self {
        match self {
            Self::None => Self::None,
            Self::Baseline { .. } => Self::Baseline { asked: false },
            Self::Compare { .. } => Self::Compare { asked: false },
            Self::Sweep { .. } => Self::Sweep { asked: false },
        }
    }
}

// === impl ViewWatch ===

impl ViewWatch {
    fn new(kind: ViewKind) -> Self {
        Self { kind, shown: None, index: None, asked: None, failures: 0, pace: Pace::new() }
    }

    pub(super) fn kind(&self) -> ViewKind {
        self.kind
    }
}

// === impl ViewKind ===

impl ViewKind {
    /// Whether a scope can be watched without it, if slower.
    const fn is_optional(self) -> bool {
        matches!(self, Self::Summary | Self::Checks)
    }
}

// === impl ConsulError ===

impl ConsulError {
    /// Whether asking again will not help: the question itself is refused, unknown or answered
    /// with more than is read.
    const fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Forbidden { .. } | Self::TooLarge { .. } | Self::Status { status: 404, .. }
        )
    }
}

/// The names whose entries differ.
fn changed_names(before: &View, now: &View) -> Vec<Text> {
    let gone = before.keys().filter(|name| !now.contains_key(*name));
    let other = now.iter().filter(|(name, shown)| before.get(*name) != Some(shown));
    gone.chain(other.map(|(name, _)| name)).cloned().collect()
}
