//! Pauses that grow.

use std::time::Duration;

/// `first`, doubled as often as something failed before, but not longer than `most`.
#[must_use]
pub(crate) fn grown(first: Duration, failures: u32, most: Duration) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(failures)).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit() {
        let secs =
            |failures| grown(Duration::from_secs(5), failures, Duration::from_secs(60)).as_secs();
        assert_eq!([0, 1, 3, 4, u32::MAX].map(secs), [5, 10, 40, 60, 60]);
    }
}
