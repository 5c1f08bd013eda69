//! What policies write to Landfall's log.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use landfall_core::text::Text;
use tracing::{debug, error, info, trace, warn};

use crate::clock;
use crate::fault::cut;

/// A line's bytes; what is longer is cut.
const LINE_LEN_MAX: usize = 1 << 10;
/// Lines that are kept for the caller of one traced call.
const CAPTURED_LINES_MAX: usize = 200;
const MINUTE: Duration = Duration::from_secs(60);

/// How much a line matters, as in the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For the policy's author, in detail.
    Trace,
    /// For the policy's author.
    Debug,
    /// For the operator.
    Info,
    /// Something is off.
    Warn,
    /// Something is wrong.
    Error,
}

/// A line that a policy wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// How much it matters.
    pub level: Level,
    /// What it says, at most 1 KiB. As the policy wrote it: whoever shows it escapes what would move
    /// a terminal's cursor or begin another line.
    pub text: String,
}

/// The log of one policy, shared by all of its instances. A flood is cut off per minute.
pub(crate) struct PolicyLog {
    policy: Text,
    lines_per_minute_max: u32,
    minute: Mutex<Minute>,
}

/// A policy has written as many lines as it may in a minute.
#[derive(Debug)]
struct Flood<'a> {
    policy: &'a str,
    lines_per_minute_max: u32,
}

/// The lines of a policy that were not written.
#[derive(Debug)]
struct LinesDropped<'a> {
    policy: &'a str,
    lines: u64,
}

#[derive(Debug, Default)]
struct Minute {
    since: Option<Instant>,
    written: u32,
    dropped: u64,
}

/// The lines of one traced call. Shared with who traces, for a call that fails takes its store with
/// it, and then the lines matter most.
#[derive(Clone, Debug, Default)]
pub(crate) struct Capture(Arc<Mutex<Vec<LogLine>>>);

// === impl Level ===

impl Level {
    /// The word for logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for LogLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.level.as_str(), self.text)
    }
}

// === impl PolicyLog ===

impl PolicyLog {
    pub(crate) fn new(policy: Text, lines_per_minute_max: u32) -> Self {
        Self { policy, lines_per_minute_max, minute: Mutex::default() }
    }

    /// Writes one line, or counts it as dropped. With `capture` it goes there instead.
    pub(crate) fn write(&self, level: Level, line: &str, capture: Option<&Capture>) {
        if let Some(capture) = capture {
            capture.push(LogLine { level, text: within_limit(line) });
            return;
        }
        // Lines that nobody reads do not use up the minute.
        let enabled = match level {
            Level::Trace => tracing::enabled!(tracing::Level::TRACE),
            Level::Debug => tracing::enabled!(tracing::Level::DEBUG),
            Level::Info => tracing::enabled!(tracing::Level::INFO),
            Level::Warn => tracing::enabled!(tracing::Level::WARN),
            Level::Error => tracing::enabled!(tracing::Level::ERROR),
        };
        if !enabled || !self.admit(clock::now()) {
            return;
        }
        let (policy, line) = (&*self.policy, within_limit(line));
        match level {
            Level::Trace => trace!(policy, line, "Policy wrote."),
            Level::Debug => debug!(policy, line, "Policy wrote."),
            Level::Info => info!(policy, line, "Policy wrote."),
            Level::Warn => warn!(policy, line, "Policy wrote."),
            Level::Error => error!(policy, line, "Policy wrote."),
        }
    }

    fn admit(&self, now: Instant) -> bool {
        let mut minute = self.minute.lock().unwrap_or_else(PoisonError::into_inner);
        if minute.since.is_none_or(|since| now.saturating_duration_since(since) >= MINUTE) {
            if minute.dropped > 0 {
                LinesDropped { policy: &self.policy, lines: minute.dropped }.emit();
            }
            *minute = Minute { since: Some(now), ..Minute::default() };
        }
        if minute.written < self.lines_per_minute_max {
            minute.written += 1;
            return true;
        }
        // Told at once, for how many these are is known only when the minute is over, and nobody
        // looks before there is another line.
        if minute.dropped == 0 {
            let lines_per_minute_max = self.lines_per_minute_max;
            Flood { policy: &self.policy, lines_per_minute_max }.emit();
        }
        minute.dropped += 1;
        false
    }
}

impl fmt::Debug for PolicyLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyLog").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Drop for PolicyLog {
    fn drop(&mut self) {
        let minute = self.minute.get_mut().unwrap_or_else(PoisonError::into_inner);
        if minute.dropped > 0 {
            LinesDropped { policy: &self.policy, lines: minute.dropped }.emit();
        }
    }
}

// === impl Flood ===

impl Flood<'_> {
    fn emit(&self) {
        let Self { policy, lines_per_minute_max } = *self;
        warn!(
            policy,
            lines_per_minute_max, "Policy writes too many lines; dropping the rest of its minute."
        );
    }
}

// === impl LinesDropped ===

impl LinesDropped<'_> {
    fn emit(&self) {
        let Self { policy, lines } = *self;
        warn!(policy, lines, "Policy wrote too many lines; dropped so many of an earlier minute.");
    }
}

// === impl Capture ===

impl Capture {
    fn push(&self, line: LogLine) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() < CAPTURED_LINES_MAX {
            lines.push(line);
        }
    }

    /// The lines so far.
    pub(crate) fn take(&self) -> Vec<LogLine> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The line within its limit. It is a field of its event, so the log escapes it.
fn within_limit(line: &str) -> String {
    // More than fits by a character, so that it is seen to be cut.
    let mut text = line[..line.floor_char_boundary(LINE_LEN_MAX + 4)].to_owned();
    cut(&mut text, LINE_LEN_MAX);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_off_until_the_next_minute() {
        let log = PolicyLog::new("p".into(), 2);
        let start = clock::now();
        let written = |at| log.admit(start + Duration::from_secs(at));
        assert_eq!([0, 1, 2, 59, 60, 61].map(written), [true, true, false, false, true, true]);
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        let capture = Capture::default();
        PolicyLog::new("p".into(), 2).write(Level::Info, &"ü".repeat(5000), Some(&capture));
        let lines = capture.take();
        assert!(lines[0].text.len() <= LINE_LEN_MAX);
        assert!(lines[0].text.ends_with("ü..."));
    }

    #[test]
    fn a_line_is_left_as_it_is() {
        assert_eq!(within_limit("a\nb\x1b[2J\\n"), "a\nb\x1b[2J\\n");
    }
}
