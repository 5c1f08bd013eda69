//! Spares an API server that does not answer, and everybody else the wait for it.

use std::time::Duration;

use tokio::time::Instant;

/// Whether the next step may be tried. After many without an answer only one at a time is, until
/// it gets one.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// Steps in a row that had no answer.
    silent: u32,
    /// When the next may be tried all the same.
    probe_at: Option<Instant>,
    /// What the last of them met with.
    message: String,
}

// So many steps in a row without an answer, and the rest need not be tried: they are planned
// again, and nobody waits an hour for 10,000 of them.
const SILENT_STEPS_MAX: u32 = 16;
// As often as failed steps are planned again.
const PROBE_PAUSE: Duration = Duration::from_secs(5);

// === impl Breaker ===

impl Breaker {
    /// Whether a step may be tried `now`, or else why not. A probe has until `until` to say how it
    /// ended.
    pub(super) fn admits(&mut self, now: Instant, until: Instant) -> Result<(), String> {
        if self.silent < SILENT_STEPS_MAX {
            return Ok(());
        }
        if self.probe_at.is_some_and(|at| now < at) {
            return Err(format!(
                "not tried: the API server does not answer others either: {}",
                self.message
            ));
        }
        self.probe_at = Some(until);
        Ok(())
    }

    /// A step had an answer, whichever.
    pub(super) fn answered(&mut self) {
        *self = Self::default();
    }

    /// A step had none, but met with `message`.
    pub(super) fn unanswered(&mut self, now: Instant, message: &str) {
        self.silent = self.silent.saturating_add(1);
        self.probe_at = Some(now + PROBE_PAUSE);
        message.clone_into(&mut self.message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_until_an_answer() {
        let mut breaker = Breaker::default();
        let begin = Instant::now();
        let after = |secs| begin + Duration::from_secs(secs);
        for _ in 0..SILENT_STEPS_MAX {
            assert!(breaker.admits(begin, after(60)).is_ok());
            breaker.unanswered(begin, "timed out");
        }
        let why = breaker.admits(after(4), after(64)).unwrap_err();
        assert!(why.ends_with("timed out"), "{why}");
        assert!(breaker.admits(after(5), after(65)).is_ok());
        assert!(breaker.admits(after(10), after(70)).is_err());
        // The probe's end was never said, such as when its round was given up.
        assert!(breaker.admits(after(65), after(125)).is_ok());
        breaker.unanswered(after(66), "timed out");
        assert!(breaker.admits(after(70), after(130)).is_err());
        assert!(breaker.admits(after(71), after(131)).is_ok());
        breaker.answered();
        assert!(breaker.admits(after(71), after(131)).is_ok());
        assert!(breaker.admits(after(71), after(131)).is_ok());
    }
}
