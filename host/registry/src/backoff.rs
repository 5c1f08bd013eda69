//! Growing, jittered pauses between attempts.

use std::time::Duration;

/// Pauses that double from `first` to `most`. Each is drawn between half of itself and itself, so
/// that many watchers of one registry that failed together do not return together.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

// === impl Backoff ===

impl Backoff {
    /// No failure yet.
    #[must_use]
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, failures: 0 }
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

/// `period`, up to a tenth shorter or longer.
#[must_use]
pub fn jittered(period: Duration) -> Duration {
    period.mul_f64(0.9 + fastrand::f64() / 5.0)
}

#[cfg(test)]
mod tests {
    use super::*;

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
