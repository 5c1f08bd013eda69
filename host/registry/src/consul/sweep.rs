//! Reading services one after another although nothing says which of them changed.

use std::collections::VecDeque;
use std::time::Duration;

use landfall_core::text::Text;
use tokio::time::Instant;

// A slow sweep takes 1.6 % of one of Consul's cores (0.33 ms for each service of ten instances,
// measured on 1.22): 1,000 services in 20 s.
const SLOW_GAP: Duration = Duration::from_millis(20);
// Behind the change that asked for it, so that it delays no other and serves those that follow.
const SLOW_DELAY: Duration = Duration::from_secs(10);
// A sweep that is begun again and again for want of anything that tells of changes does so once a
// second at most: as often as health is checked where it is checked often.
const REST_MIN: Duration = Duration::from_secs(1);
// At least four fifths of the time there is no sweep: 1,000 services that never rest cost Consul
// 10 reads a second.
const REST: u32 = 4;

/// How much hurry there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Speed {
    /// What it looks for may not even exist.
    Slow,
    /// Something changed that no view shows.
    Brisk,
}

/// What a sweep is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Something changed.
    Change,
    /// Something may have changed; nothing would tell.
    Suspicion,
}

/// The sweep under way, and the one wanted after it.
#[derive(Debug)]
pub(super) struct Sweep {
    wanted: Option<(Speed, Instant)>,
    queue: VecDeque<Text>,
    speed: Speed,
    began: Option<Instant>,
    next_at: Option<Instant>,
    rest_until: Option<(Speed, Instant)>,
    cause: Cause,
}

// === impl Sweep ===

impl Sweep {
    pub(super) fn new(cause: Cause) -> Self {
        Self {
            wanted: None,
            queue: VecDeque::new(),
            speed: Speed::Slow,
            began: None,
            next_at: None,
            rest_until: None,
            cause,
        }
    }

    /// Asks for a sweep that begins after `now`. A hurried one takes the place of a slow one.
    pub(super) fn want(&mut self, speed: Speed, now: Instant) {
        let start = match speed {
            Speed::Slow => now + SLOW_DELAY,
            Speed::Brisk => now,
        };
        self.wanted = match self.wanted {
            Some((known, at)) if known >= speed => Some((known, at)),
            _ => Some((speed, start)),
        };
        if speed == Speed::Brisk && self.speed == Speed::Slow {
            self.queue.clear();
        }
    }

    /// Whether a sweep is wanted or under way.
    pub(super) fn is_busy(&self) -> bool {
        self.wanted.is_some() || !self.queue.is_empty()
    }

    /// When the wanted sweep should begin, if one is wanted and none is under way.
    pub(super) fn due_at(&self) -> Option<Instant> {
        if !self.queue.is_empty() {
            return None;
        }
        let (speed, at) = self.wanted?;
        // A hurried one does not wait until a slow one has rested.
        let rest = self.rest_until.filter(|(rested_from, _)| *rested_from >= speed);
        Some(rest.map_or(at, |(_, rest)| rest.max(at)))
    }

    /// Begins the wanted sweep over `names`.
    pub(super) fn begin(&mut self, names: impl Iterator<Item = Text>, now: Instant) {
        if let Some((speed, _)) = self.wanted.take() {
            self.queue = names.collect();
            self.speed = speed;
            self.began = Some(now);
            self.next_at = Some(now);
        }
    }

    /// When the next service may be read, while a sweep is under way.
    pub(super) fn next_at(&self) -> Option<Instant> {
        if self.queue.is_empty() { None } else { self.next_at }
    }

    /// The next service, unless `is_fresh` since the sweep began.
    pub(super) fn next(
        &mut self,
        now: Instant,
        mut is_fresh: impl FnMut(&Text, Instant) -> bool,
    ) -> Option<Text> {
        let began = self.began?;
        let found = loop {
            match self.queue.pop_front() {
                Some(name) if is_fresh(&name, began) => (),
                found => break found,
            }
        };
        if self.speed == Speed::Slow {
            self.next_at = Some(now + SLOW_GAP);
        }
        if self.queue.is_empty() {
            self.began = None;
            let rest = now.duration_since(began) * REST;
            let rest = match self.cause {
                Cause::Change => rest,
                Cause::Suspicion => rest.max(REST_MIN),
            };
            self.rest_until = Some((self.speed, now + rest));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> impl Iterator<Item = Text> {
        ["a", "b", "c"].into_iter().map(Text::from)
    }

    #[test]
    fn a_slow_sweep_waits_and_a_brisk_one_takes_its_place() {
        let now = Instant::now();
        let mut sweep = Sweep::new(Cause::Change);
        assert_eq!(sweep.due_at(), None);
        sweep.want(Speed::Slow, now);
        assert_eq!(sweep.due_at(), Some(now + SLOW_DELAY));
        sweep.begin(names(), now);
        assert_eq!(sweep.next(now, |name, _| &**name == "a").as_deref(), Some("b"));
        assert_eq!(sweep.next_at(), Some(now + SLOW_GAP));
        sweep.want(Speed::Brisk, now);
        assert_eq!(sweep.due_at(), Some(now));
        sweep.begin(names(), now);
        let second = now + Duration::from_secs(1);
        assert_eq!(sweep.next(now, |_, _| false).as_deref(), Some("a"));
        assert_eq!(sweep.next(now, |_, _| false).as_deref(), Some("b"));
        assert_eq!(sweep.next(second, |_, _| false).as_deref(), Some("c"));
        assert_eq!((sweep.due_at(), sweep.next_at()), (None, None));
        sweep.want(Speed::Brisk, second);
        assert_eq!(sweep.due_at(), Some(second + Duration::from_secs(4)));
    }

    #[test]
    fn a_mere_suspicion_rests_for_a_second_at_least() {
        let now = Instant::now();
        let mut sweep = Sweep::new(Cause::Suspicion);
        sweep.want(Speed::Brisk, now);
        sweep.begin(names(), now);
        while sweep.next(now, |_, _| false).is_some() {}
        assert!(!sweep.is_busy());
        sweep.want(Speed::Brisk, now);
        assert_eq!(sweep.due_at(), Some(now + REST_MIN));
    }
}
