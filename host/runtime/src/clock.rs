//! The one place that reads the wall clock.

use std::time::SystemTime;

use landfall_core::time::Time;

/// The time now.
#[allow(clippy::disallowed_methods, reason = "this is where the clock is read")]
#[must_use]
pub(crate) fn now() -> Time {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Time::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
