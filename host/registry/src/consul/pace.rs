//! How often one query may be asked again.

use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;

// Consul spends about 0.065 µs on each byte of a summary (45 ms for 684 KB, measured on 1.22).
// Four times as much leaves three quarters of one of its cores to others, however fast things
// change.
const NANOS_PER_BYTE: u64 = 260;
// So many answers may follow one another at once: changes that come one by one are seen at once.
const BURST: u32 = 4;
// A query that returns sooner than this without anything new is pointless to ask again at once;
// Consul wakes blocking queries for reasons that do not show in their answers.
const POINTLESS: Duration = Duration::from_secs(1);

/// The pace of one query: a token bucket whose tokens cost what the answers cost.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    // When the bucket will be full again.
    full_at: Option<Instant>,
    gap: Duration,
    not_before: Option<Instant>,
    pointless: Backoff,
}

// === impl Pace ===

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            full_at: None,
            gap: Duration::ZERO,
            not_before: None,
            pointless: Backoff::new(Duration::from_millis(50), Duration::from_secs(15)),
        }
    }

    /// When it may be asked again.
    pub(super) fn ready_at(&self, now: Instant) -> Instant {
        let bucket = self.full_at.and_then(|full| full.checked_sub(self.gap * (BURST - 1)));
        bucket.max(self.not_before).unwrap_or(now)
    }

    /// The answer had `bytes`.
    pub(super) fn cost(&mut self, now: Instant, bytes: usize) {
        self.gap = Duration::from_nanos(NANOS_PER_BYTE.saturating_mul(bytes as u64));
        self.full_at = Some(self.full_at.unwrap_or(now).max(now) + self.gap);
    }

    /// A long poll that was begun at `asked` returned, with or without something new.
    pub(super) fn polled(&mut self, asked: Instant, now: Instant, news: bool) {
        if news || now.duration_since(asked) >= POINTLESS {
            self.pointless.succeeded();
        } else {
            self.pause(now);
        }
    }

    /// It failed, or was pointless.
    pub(super) fn pause(&mut self, now: Instant) {
        let pause = self.pointless.after_failure();
        self.hold_until(now + pause);
    }

    /// Nothing before `at`.
    pub(super) fn hold_until(&mut self, at: Instant) {
        self.not_before = self.not_before.max(Some(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_answers_at_once_then_as_often_as_they_cost() {
        let now = Instant::now();
        let mut pace = Pace::new();
        for _ in 0..3 {
            pace.cost(now, 1_000_000);
            assert!(pace.ready_at(now) <= now);
        }
        pace.cost(now, 1_000_000);
        assert_eq!(pace.ready_at(now), now + Duration::from_millis(260));
        pace.cost(now, 1_000_000);
        assert_eq!(pace.ready_at(now), now + Duration::from_millis(520));
    }

    #[test]
    fn a_query_that_returns_for_nothing_slows_down() {
        let mut now = Instant::now();
        let mut pace = Pace::new();
        for _ in 0..20 {
            pace.polled(now, now, false);
            now = pace.ready_at(now);
        }
        pace.polled(now, now, false);
        assert!(pace.ready_at(now) - now > Duration::from_secs(7));
        let later = now + Duration::from_secs(30);
        pace.polled(now, later, false);
        assert!(pace.ready_at(later) <= later);
    }
}
