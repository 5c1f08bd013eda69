//! A registry that lost its past: its indexes went back, as they do when servers lose their data or
//! are restored, or it had no services when the watch began, when there was no index to compare
//! with. What such a registry lacks may only not have registered again yet.

use tokio::time::Instant;

use super::ScopeWatch;
use crate::consul::client::{ConsulError, ViewKind};
use crate::consul::tracked::Absence;
use crate::trouble::Trouble;

impl ScopeWatch {
    /// Notes the index of a view. False if it went back.
    ///
    /// Indexes outlive connections and listings: whoever is cut off while the registry loses its past
    /// learns of it by the first answer after.
    pub(super) fn goes_on(&mut self, kind: ViewKind, index: u64) -> bool {
        self.indexes.insert(kind, index).is_none_or(|known| known <= index)
    }

    /// Lists everything again. For a while what is missing then is no proof that it is gone.
    pub(super) fn lost_its_past(&mut self, now: Instant) {
        self.past_lost_until = Some(now + self.settle);
        self.indexes.clear();
        self.tracked.values_mut().for_each(|tracked| tracked.index = 0);
        self.list_again();
    }

    /// Takes a first listing without services for that of a registry that lost its past.
    pub(super) fn began_with(&mut self, services: usize, now: Instant) {
        if services == 0 && self.doubts_empty && !self.listed_once {
            self.past_lost_until = Some(now + self.settle);
            self.began_empty = true;
        }
    }

    pub(super) fn absence(&self, now: Instant) -> Absence {
        match self.past_lost_until {
            Some(until) if now < until => Absence::ProvesNothing,
            Some(_) | None => Absence::Counts,
        }
    }

    /// Has what is still missing read once more when its time is over: that answer counts.
    pub(super) fn end_absence(&mut self, now: Instant) {
        let Some(until) = self.past_lost_until else { return };
        if now < until {
            if self.began_empty || !self.kept.is_empty() {
                self.later(until);
            }
            return;
        }
        self.past_lost_until = None;
        self.began_empty = false;
        for name in &self.kept {
            let Some(tracked) = self.tracked.get_mut(name) else { continue };
            // Even if it has a long poll, which waits for a change. What fails is tried again anyway.
            if !tracked.wanted && tracked.failure.is_none() {
                tracked.wanted = true;
                self.urgent.push_back(name.clone());
            }
        }
    }

    /// Why there is a doubt while something missing is kept, or may be missing that nobody here
    /// knew.
    pub(super) fn absence_trouble(&self) -> Option<Trouble> {
        let attempt = || format!("list the services of {}", self.place);
        let (services, after) = (self.kept.len(), self.settle);
        if self.began_empty {
            return Some(Trouble::from(&ConsulError::Empty { attempt: attempt(), after }));
        }
        (services > 0)
            .then(|| Trouble::from(&ConsulError::Reset { attempt: attempt(), services, after }))
    }
}
