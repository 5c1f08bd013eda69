//! Pauses between attempts to list and watch.

use std::time::Duration;

use kube::runtime::utils::{Backoff, ResetTimerBackoff};
use kube::runtime::watcher::DefaultBackoff;

/// kube's own back-off, with shorter pauses at the end and one more condition for beginning anew.
///
/// kube's watcher announces that it is about to list, and its back-off takes that for a success:
/// a list that always fails would be asked for every second for ever. Here only time without a
/// failure is a success, which a list that fails late has too; its pauses need not grow.
pub(super) struct ShortBackoff(ResetTimerBackoff<DefaultBackoff>);

/// The longest pause. kube's own may last a minute.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(30);
// From one failure to the next: the longest pause, and as much again of what worked.
const QUIET: Duration = Duration::from_secs(60);

// === impl ShortBackoff ===

impl Default for ShortBackoff {
    fn default() -> Self {
        Self(ResetTimerBackoff::new(DefaultBackoff::default(), QUIET))
    }
}

impl Iterator for ShortBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.0.next()?.min(PAUSE_MAX))
    }
}

impl Backoff for ShortBackoff {
    fn reset(&mut self) {
        // See above: only time does.
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt as _, stream};
    use kube::runtime::WatchStreamExt as _;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_announced_and_fails_is_asked_for_less_and_less() {
        // As a list that always fails looks like.
        let events = stream::iter([Ok("list"), Err("failed")]).cycle().take(40);
        let begin = Instant::now();
        let count = events.backoff(ShortBackoff::default()).count().await;
        let pauses = (begin.elapsed().as_secs(), count);
        // 20 failures, of which the last has nobody to wait for it, and of which the first six
        // grow from 0.8 s.
        assert!(pauses.0 > 13 * 30 && pauses.0 < 20 * 30 && pauses.1 == 40, "{pauses:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_worked_for_a_while_begins_anew() {
        let mut backoff = ShortBackoff::default();
        let longest = backoff.by_ref().take(10).last().unwrap();
        assert_eq!(longest, PAUSE_MAX);
        tokio::time::advance(QUIET + Duration::from_secs(1)).await;
        assert!(backoff.next().unwrap() < Duration::from_secs(2));
    }
}
