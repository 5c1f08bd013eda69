//! Growing, jittered pauses between attempts.

use std::time::Duration;

use tokio::time::Instant;

// Twice the longest pause of the sources.
const CALM: Duration = Duration::from_secs(60);

/// Pauses that double from `first` to `most`. Each is drawn between half of itself and itself, so
/// that many watchers of one registry that failed together do not return together.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

/// A time in which nothing is asked. It grows while what calls for it returns, and begins small
/// again after a calm time: not with the first success, or whoever is refused every other time
/// would go on as fast as ever.
#[derive(Debug)]
pub struct Hold {
    backoff: Backoff,
    until: Option<Instant>,
}

// === impl Backoff ===

impl Backoff {
    /// No failure yet.
    #[must_use]
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, failures: 0 }
    }

    /// For attempts to reach a registry again: short enough at first to be back soon after it was
    /// restarted, long enough at last to leave one alone that struggles.
    #[must_use]
    pub const fn of_registry() -> Self {
        Self::new(Duration::from_millis(200), Duration::from_secs(30))
    }

    /// Notes one more failure and returns how long to wait before the next attempt.
    pub fn after_failure(&mut self) -> Duration {
        let doubled = self.first.saturating_mul(1_u32 << self.failures.min(20));
        self.failures = self.failures.saturating_add(1);
        let pause = doubled.min(self.most);
        pause.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Forgets all failures.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// The failures since the last success.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

// === impl Hold ===

impl Hold {
    /// Nothing is held.
    #[must_use]
    pub const fn new(backoff: Backoff) -> Self {
        Self { backoff, until: None }
    }

    /// Until when nothing may be asked, if that is after `now`.
    #[must_use]
    pub fn until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| now < *until)
    }

    /// Holds for longer than the last time, and for `least`.
    pub fn again(&mut self, now: Instant, least: Duration) {
        if self.until.is_some_and(|until| now.saturating_duration_since(until) >= CALM) {
            self.backoff.succeeded();
        }
        let pause = self.backoff.after_failure().max(least);
        self.extend(now + pause);
    }

    /// Holds until `at`, if not for longer already.
    pub fn extend(&mut self, at: Instant) {
        self.until = self.until.max(Some(at));
    }
}

/// `period`, up to a tenth shorter or longer.
#[must_use]
pub fn jittered(period: Duration) -> Duration {
    period.mul_f64(0.9 + fastrand::f64() / 5.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_grows_until_it_is_calm() {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut hold = Hold::new(backoff);
        let mut now = Instant::now();
        for _ in 0..10 {
            hold.again(now, Duration::ZERO);
            // It seems to be over for a while, again and again.
            now = hold.until(now).unwrap() + Duration::from_secs(10);
            assert_eq!(hold.until(now), None);
        }
        hold.again(now, Duration::ZERO);
        assert!(hold.until(now).unwrap() >= now + Duration::from_millis(2500));
        now = hold.until(now).unwrap() + CALM;
        hold.again(now, Duration::ZERO);
        assert!(hold.until(now).unwrap() <= now + Duration::from_millis(100));
        hold.again(now, Duration::from_secs(7));
        assert_eq!(hold.until(now), Some(now + Duration::from_secs(7)));
    }

    #[test]
    fn pauses_grow_to_the_most_and_start_again_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        for want_ms in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            let pause = backoff.after_failure().as_millis();
            assert!((want_ms / 2..=want_ms).contains(&pause), "{pause} for {want_ms}");
        }
        for _ in 0..100 {
            assert!(backoff.after_failure() <= Duration::from_secs(5));
        }
        backoff.succeeded();
        assert!(backoff.after_failure() <= Duration::from_millis(100));
    }
}
