//! When what is due.

use std::collections::{BTreeMap, BTreeSet};

use landfall_core::registry::ServiceKey;
use tokio::time::Instant;

/// Services by the time at which something is to be done with them, each once.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    order: BTreeSet<(Instant, ServiceKey)>,
    times: BTreeMap<ServiceKey, Instant>,
}

// === impl Schedule ===

impl Schedule {
    /// Has `key` be due at `at`, whatever was said before.
    pub(super) fn set(&mut self, key: &ServiceKey, at: Instant) {
        self.remove(key);
        self.times.insert(key.clone(), at);
        self.order.insert((at, key.clone()));
    }

    /// Has `key` be due at `at`, if not sooner.
    pub(super) fn set_by(&mut self, key: &ServiceKey, at: Instant) {
        if self.times.get(key).is_none_or(|known| at < *known) {
            self.set(key, at);
        }
    }

    pub(super) fn remove(&mut self, key: &ServiceKey) {
        if let Some(at) = self.times.remove(key) {
            self.order.remove(&(at, key.clone()));
        }
    }

    /// When the first one is due.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes the one out that has been due for longest.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<ServiceKey> {
        if self.next_at().is_none_or(|at| now < at) {
            return None;
        }
        let (_, key) = self.order.pop_first()?;
        self.times.remove(&key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_has_been_due_for_longest_is_first() {
        let key = |name: &str| ServiceKey { name: name.into(), ..ServiceKey::default() };
        let now = Instant::now();
        let at = |secs| now + Duration::from_secs(secs);
        let mut schedule = Schedule::default();
        schedule.set(&key("a"), at(3));
        schedule.set(&key("b"), at(1));
        schedule.set(&key("a"), at(2));
        schedule.set_by(&key("b"), at(5));
        assert_eq!(schedule.take_due(now), None);
        assert_eq!(schedule.take_due(at(9)), Some(key("b")));
        schedule.set(&key("c"), at(1));
        schedule.remove(&key("c"));
        assert_eq!(schedule.take_due(at(9)), Some(key("a")));
        assert_eq!((schedule.next_at(), schedule.take_due(at(9))), (None, None));
    }
}
