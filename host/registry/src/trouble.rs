//! What is wrong with a source, or with a part of it, and when that is tried again.

use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;

/// Why something may be out of date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// One of the source's closed set of codes.
    pub code: &'static str,
    /// What was attempted, on what, and what to do. The same for as long as the trouble is the
    /// same, or every attempt wakes those who read it.
    pub message: String,
}

/// Why the last attempt to read a part of a registry failed. It grows with every further one.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) trouble: Trouble,
    pub(crate) retry_at: Instant,
    backoff: Backoff,
}

// === impl Trouble ===

impl Trouble {
    /// This trouble with one thing, and some other trouble with `more`, which are called `what`.
    pub(crate) fn with_more(&self, more: usize, what: &str) -> Self {
        let message = match more {
            0 => self.message.clone(),
            more => format!("{} ({more} more {what} are in doubt)", self.message),
        };
        Self { code: self.code, message }
    }
}

// === impl Failure ===

impl Failure {
    /// One more failure, after `before` if that was not the first. It is tried again after a pause
    /// that is longer each time.
    pub(crate) fn after(before: Option<Self>, trouble: Trouble, now: Instant) -> Self {
        let mut backoff = before.map_or_else(Backoff::of_registry, |before| before.backoff);
        let pause: Duration = backoff.after_failure();
        Self { trouble, retry_at: now + pause, backoff }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_again_and_again_is_tried_less_and_less_often() {
        let now = Instant::now();
        let trouble = || Trouble { code: "c", message: "m".to_owned() };
        let mut failure = Failure::after(None, trouble(), now);
        assert!(failure.retry_at <= now + Duration::from_millis(200));
        for _ in 0..10 {
            failure = Failure::after(Some(failure), trouble(), now);
        }
        assert!(failure.retry_at >= now + Duration::from_secs(15));
        assert_eq!(failure.trouble.with_more(0, "services"), trouble());
        let more = failure.trouble.with_more(2, "services");
        assert_eq!(more.message, "m (2 more services are in doubt)");
    }
}
