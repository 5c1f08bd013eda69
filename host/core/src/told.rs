//! What the log says already of something that fails again and again.

use std::time::Duration;

use crate::time::Time;

/// What was said last of one thing, such as a source.
#[derive(Debug, Default)]
pub struct Told {
    failure: Option<(&'static str, String)>,
    at: Option<Time>,
}

// What others say of an error may carry the time of day, so that each attempt fails otherwise. Soon
// enough for a person who looks whether a repair helped.
const AGAIN: Duration = Duration::from_secs(60);

impl Told {
    /// Whether it is to be said that the thing fails with this code and message, or that it does not.
    /// That then counts as said: another code or none is, and one that is known once its message is
    /// another, though not more often than every minute.
    pub fn takes(&mut self, failure: Option<(&'static str, &str)>, now: Time) -> bool {
        let known = self.failure.as_ref().map(|(code, message)| (*code, message.as_str()));
        let code = |failure: Option<(&'static str, &str)>| failure.map(|(code, _)| code);
        let is_recent = self.at.is_some_and(|at| now.since(at) < AGAIN);
        if known == failure || (code(known) == code(failure) && is_recent) {
            return false;
        }
        self.failure = failure.map(|(code, message)| (code, message.to_owned()));
        self.at = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_detail_is_said_at_most_once_a_minute() {
        let mut told = Told::default();
        let at = |secs: u64| Time::from_millis(secs * 1000);
        assert!(!told.takes(None, at(1)));
        assert!(told.takes(Some(("forbidden", "no role")), at(100)));
        assert!(!told.takes(Some(("forbidden", "no role")), at(1000)), "it is in the log");
        assert!(told.takes(Some(("forbidden", "half a role")), at(1001)));
        for secs in 1002..1061 {
            assert!(!told.takes(Some(("forbidden", &format!("at {secs}"))), at(secs)));
        }
        assert!(told.takes(Some(("forbidden", "at 1061")), at(1061)));
        assert!(told.takes(Some(("unreachable", "gone")), at(1062)), "another failure at once");
        assert!(told.takes(None, at(1063)));
        assert!(told.takes(Some(("unreachable", "gone")), at(1064)), "it began anew");
    }
}
