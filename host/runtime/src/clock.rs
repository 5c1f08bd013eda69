//! The one place that reads the clocks.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime};

use landfall_core::time::Time;

/// The time now, for whatever waits: the wall clock's when this was first asked, and from then on
/// as much later as time has passed. Whoever sets the wall clock neither delays nor hastens it.
#[allow(clippy::disallowed_methods, reason = "this is where the clocks are read")]
#[must_use]
pub(crate) fn now() -> Time {
    static BEGAN: OnceLock<(Time, Instant)> = OnceLock::new();
    let (began, since) = BEGAN.get_or_init(|| (wall(), Instant::now()));
    began.plus(since.elapsed())
}

/// The time that others know: for what is compared with their clocks, or read by people.
#[allow(clippy::disallowed_methods, reason = "this is where the clocks are read")]
#[must_use]
pub(crate) fn wall() -> Time {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Time::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
