//! How often each of AWS' operations may be asked for.

use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::{Backoff, Hold};

/// The operations of Cloud Map that are used. AWS counts each by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    ListNamespaces,
    ListServices,
    ListInstances,
    GetInstancesHealthStatus,
    DiscoverInstances,
    DiscoverInstancesRevision,
}

/// What is asked for in one operation: a token bucket. Whoever has it asks; nobody else does
/// meanwhile.
#[derive(Debug)]
pub(super) struct Pace {
    gap: Duration,
    burst: u32,
    /// When the bucket will be full again.
    full_at: Option<Instant>,
    /// AWS asked for fewer requests.
    hold: Hold,
}

// === impl Operation ===

impl Operation {
    pub(super) const ALL: [Self; 6] = [
        Self::ListNamespaces,
        Self::ListServices,
        Self::ListInstances,
        Self::GetInstancesHealthStatus,
        Self::DiscoverInstances,
        Self::DiscoverInstancesRevision,
    ];

    /// Its name, with which IAM allows it too.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::ListNamespaces => "ListNamespaces",
            Self::ListServices => "ListServices",
            Self::ListInstances => "ListInstances",
            Self::GetInstancesHealthStatus => "GetInstancesHealthStatus",
            Self::DiscoverInstances => "DiscoverInstances",
            Self::DiscoverInstancesRevision => "DiscoverInstancesRevision",
        }
    }

    /// How many are asked for in a second at most. Where AWS publishes a rate for an account ("AWS
    /// Cloud Map service quotas") it is a quarter of it, for others of the account ask too. For the
    /// rest it publishes none.
    const fn per_second(self) -> u32 {
        match self {
            Self::ListNamespaces
            | Self::ListServices
            | Self::ListInstances
            | Self::GetInstancesHealthStatus => 5,
            // Of 1,000.
            Self::DiscoverInstances => 250,
            // Of 3,000.
            Self::DiscoverInstancesRevision => 750,
        }
    }
}

// === impl Pace ===

impl Pace {
    pub(super) const fn of(operation: Operation) -> Self {
        let per_second = operation.per_second();
        Self {
            gap: Duration::from_nanos(1_000_000_000 / per_second as u64),
            // What fits into a tenth of a second, so that a late timer costs nothing, and a few of
            // those that are asked for page by page.
            burst: if per_second / 10 > 5 { per_second / 10 } else { 5 },
            full_at: None,
            hold: Hold::new(Backoff::new(Duration::from_millis(500), Duration::from_secs(30))),
        }
    }

    /// When the next one may be asked for.
    pub(super) fn ready_at(&self, now: Instant) -> Instant {
        let bucket = self.full_at.and_then(|full| full.checked_sub(self.gap * (self.burst - 1)));
        bucket.max(self.hold.until(now)).unwrap_or(now)
    }

    /// One is asked for.
    pub(super) fn take(&mut self, now: Instant) {
        self.full_at = Some(self.full_at.unwrap_or(now).max(now) + self.gap);
    }

    /// AWS refused one for there being too many.
    pub(super) fn refused(&mut self, now: Instant) {
        self.hold.again(now, Duration::ZERO);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_has_more_than_a_quarter_of_what_aws_allows_and_a_burst() {
        for (operation, aws) in
            [(Operation::DiscoverInstances, 1000), (Operation::DiscoverInstancesRevision, 3000)]
        {
            let mut pace = Pace::of(operation);
            let began = Instant::now();
            let mut now = began;
            let mut asked = 0;
            while now < began + Duration::from_secs(1) {
                pace.take(now);
                asked += 1;
                now = pace.ready_at(now).max(now);
            }
            assert!(asked <= aws / 4 + aws / 40 + 1, "{operation:?}: {asked}");
            assert!(asked >= aws / 4, "{operation:?}: {asked}");
        }
    }

    #[test]
    fn a_refusal_holds_the_operation() {
        let now = Instant::now();
        let mut pace = Pace::of(Operation::DiscoverInstances);
        assert_eq!(pace.ready_at(now), now);
        pace.refused(now);
        let first = pace.ready_at(now);
        assert!(first >= now + Duration::from_millis(250), "{:?}", first - now);
        pace.refused(first);
        assert!(pace.ready_at(first) >= first + Duration::from_millis(500));
    }
}
