//! The one place of this crate that reads a clock. It times guests, and the minutes of their logs;
//! no decision depends on it but that a call took too long, or all calls together did.

use std::time::Instant;

#[expect(clippy::disallowed_methods, reason = "guests are limited in wall time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
