//! What a store knows of its guest.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock;
use crate::fault::Refused;
use crate::limits::MemoryLimiter;
use crate::log::{Capture, Level, PolicyLog};

/// What a store knows of its guest.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) limiter: MemoryLimiter,
    pub(crate) null: Null,
    pub(crate) log: Arc<PolicyLog>,
    /// Where its lines go, if not to the log.
    pub(crate) capture: Option<Capture>,
    /// When the call that is under way is stopped.
    pub(crate) deadline: Instant,
}

/// The little that there is behind the empty WASI.
#[derive(Debug)]
pub(crate) struct Null {
    random: u64,
    handles: u32,
    printed: [Vec<u8>; 2],
    overflowed: bool,
}

/// What a guest can print to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// No longer limit is kept: an instant cannot lie arbitrarily far ahead.
const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// What one call prints; the rest is dropped.
const PRINTED_BYTES_MAX: usize = 64 << 10;
/// Handles to streams and timers a guest may hold: each takes memory of the host.
const HANDLES_MAX: u32 = 1000;
const RANDOM_BYTES_MAX: u64 = 64 << 10;
pub(crate) const RANDOM_SEED: u64 = 0x6c61_6e64_6661_6c6c;

// === impl State ===

impl State {
    pub(crate) fn new(
        limiter: MemoryLimiter,
        log: Arc<PolicyLog>,
        capture: Option<Capture>,
    ) -> Self {
        Self { limiter, null: Null::default(), log, capture, deadline: clock::now() }
    }

    /// Makes what a call sees independent of the calls before it.
    pub(crate) fn begin_call(&mut self, time_max: Duration) {
        self.deadline = clock::now() + time_max.min(A_DAY);
        self.null.random = RANDOM_SEED;
    }

    /// Hands on what the guest printed.
    pub(crate) fn end_call(&mut self) {
        self.null.flush(&self.log, self.capture.as_ref());
    }
}

// === impl Null ===

impl Default for Null {
    fn default() -> Self {
        Self {
            random: RANDOM_SEED,
            handles: 0,
            printed: [Vec::new(), Vec::new()],
            overflowed: false,
        }
    }
}

impl Null {
    fn flush(&mut self, log: &PolicyLog, capture: Option<&Capture>) {
        for (level, printed) in [Level::Info, Level::Warn].into_iter().zip(&mut self.printed) {
            if printed.is_empty() {
                continue;
            }
            for line in
                String::from_utf8_lossy(printed).lines().filter(|line| !line.trim().is_empty())
            {
                log.write(level, line, capture);
            }
            printed.clear();
            printed.shrink_to(1 << 10);
        }
        if std::mem::take(&mut self.overflowed) {
            log.write(Level::Warn, "(the rest of what this call printed was dropped)", capture);
        }
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    pub(crate) fn random_u64(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.random;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    pub(crate) fn random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        if len > RANDOM_BYTES_MAX {
            return Err(Refused(format!("the policy asked for {len} random bytes at once")).into());
        }
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < len {
            bytes.extend_from_slice(&self.random_u64().to_le_bytes());
        }
        bytes.truncate(usize::try_from(len).unwrap_or(0));
        Ok(bytes)
    }

    /// Counts one handle more.
    pub(crate) fn open_handle(&mut self) -> wasmtime::Result<()> {
        if self.handles >= HANDLES_MAX {
            return Err(Refused(format!("the policy holds more than {HANDLES_MAX} handles")).into());
        }
        self.handles += 1;
        Ok(())
    }

    /// Counts one handle less.
    pub(crate) fn close_handle(&mut self) {
        self.handles = self.handles.saturating_sub(1);
    }

    /// Whether so many handles are open that a fresh store is better: guests forget to close them.
    pub(crate) fn is_nearly_full(&self) -> bool {
        self.handles > HANDLES_MAX / 5 * 4
    }

    /// How many more bytes of what this call prints are kept.
    pub(crate) fn room(&self) -> usize {
        PRINTED_BYTES_MAX.saturating_sub(self.printed.iter().map(Vec::len).sum())
    }

    /// Keeps what was printed. `cut` tells that there was more.
    pub(crate) fn print(&mut self, stream: Stream, bytes: &[u8], cut: bool) {
        self.printed[stream as usize].extend_from_slice(bytes);
        self.overflowed |= cut;
    }
}
