//! What can go wrong in a call of a policy.

use std::fmt::Write as _;
use std::sync::Arc;

use landfall_core::decision::Fault;
use landfall_core::text::Text;
use wasmtime::{Trap, WasmBacktrace};

use crate::limits::{self, Budget};

/// Why a call failed: a closed set, fit for a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultCode {
    /// The guest trapped: a panic, an exception nobody caught, a broken invariant.
    Trap,
    /// It took longer than it may.
    Deadline,
    /// It trapped after it was refused memory or table elements.
    Memory,
    /// It returned or logged more than it may.
    Output,
    /// It returned another number of verdicts than it was given instances.
    VerdictCount,
    /// A verdict sets something that has no legal form, or splits an instance too often.
    VerdictIllegal,
    /// It returned an error, which by the contract stands for a failed call.
    PolicyError,
    /// Landfall itself panicked while it called the policy or read its answer.
    HostPanic,
    /// It recursed too deeply.
    Stack,
    /// It was not asked: it had failed too often just before.
    Untried,
    /// It was not asked: its calls had used up their time, though each kept to its own limit.
    TimeBudget,
    /// It was not asked, or its answer not taken: all of its answers together come to more memory
    /// than they may.
    Volume,
    /// It was not asked: no instance of it could be made, though one was when it was admitted.
    NoInstance,
}

/// A call that failed. The store it was made in is not used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What kind of failure it is.
    pub code: FaultCode,
    /// For the policy's author.
    pub message: String,
}

/// A host function refuses to go on; becomes a trap of the guest.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(pub(crate) String);

/// The beginning of what wasmtime says when the fuel for host calls is used up; it has no type for
/// it. A test holds the two together.
const OUTPUT_EXHAUSTED: &str = "too much data is being copied between the host and the guest";

/// Frames of the guest that a message names.
const FRAMES_MAX: usize = 4;

/// A message is shown in findings, events and logs.
const MESSAGE_LEN_MAX: usize = 600;

// === impl FaultCode ===

impl FaultCode {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Trap,
        Self::Deadline,
        Self::Memory,
        Self::Output,
        Self::VerdictCount,
        Self::VerdictIllegal,
        Self::PolicyError,
        Self::HostPanic,
        Self::Stack,
        Self::Untried,
        Self::TimeBudget,
        Self::Volume,
        Self::NoInstance,
    ];

    /// The word for logs, metrics and documentation.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Deadline => "deadline",
            Self::Memory => "memory",
            Self::Output => "output",
            Self::VerdictCount => "verdict_count",
            Self::VerdictIllegal => "verdict_illegal",
            Self::PolicyError => "policy_error",
            Self::HostPanic => "host_panic",
            Self::Stack => "stack",
            Self::Untried => "untried",
            Self::TimeBudget => "time_budget",
            Self::Volume => "volume",
            Self::NoInstance => "no_instance",
        }
    }

    /// Whether asking again about the same instance may go better: the fault follows from how busy
    /// the machine was, from other instances, or from Landfall, and not from the policy and its
    /// input alone.
    ///
    /// `Volume` follows from other instances and is lasting all the same: with a new budget for each
    /// turn, what is kept would grow by one more budget each time.
    #[must_use]
    pub const fn is_transient(self) -> bool {
        match self {
            Self::Deadline
            | Self::HostPanic
            | Self::Untried
            | Self::TimeBudget
            | Self::NoInstance => true,
            Self::Trap
            | Self::Memory
            | Self::Output
            | Self::VerdictCount
            | Self::VerdictIllegal
            | Self::PolicyError
            | Self::Stack
            | Self::Volume => false,
        }
    }

    /// The code that this is the word of.
    fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == word)
    }
}

// === impl Failure ===

impl Failure {
    pub(crate) fn new(code: FaultCode, message: impl Into<String>) -> Self {
        let mut message = message.into();
        cut(&mut message, MESSAGE_LEN_MAX);
        Self { code, message }
    }

    /// What `error` of a call says. `refused` is the limit, if the guest was refused to grow in the
    /// call.
    pub(crate) fn of_call(
        error: &wasmtime::Error,
        budget: &Budget,
        refused: Option<limits::Refused>,
    ) -> Self {
        let root = error.root_cause().to_string();
        if root.starts_with(OUTPUT_EXHAUSTED) {
            return Self::new(
                FaultCode::Output,
                format!(
                    "the policy returned or logged more than the {} bytes that this call may",
                    budget.output_bytes
                ),
            );
        }
        let (code, mut message) = match (error.downcast_ref::<Trap>(), refused) {
            (Some(Trap::Interrupt), _) => (
                FaultCode::Deadline,
                format!("the call ran into its time limit of {:?}", budget.time),
            ),
            (Some(Trap::StackOverflow), _) => {
                (FaultCode::Stack, "the policy recursed too deeply".to_owned())
            }
            (_, Some(limit)) => (
                FaultCode::Memory,
                format!("the policy reached its {limit}, then ended with: {root}"),
            ),
            (_, None) => (FaultCode::Trap, root),
        };
        if let Some(frames) = error.downcast_ref::<WasmBacktrace>().and_then(frames) {
            // Writing to a String does not fail.
            let _ = write!(message, " (in {frames})");
        }
        Self::new(code, message)
    }

    /// Whether a fresh store is worth a second call at once: guests leak. One that took too long is
    /// tried again later anyway, and costs most.
    pub(crate) fn may_follow_from_history(&self) -> bool {
        self.code != FaultCode::Deadline
    }

    /// No instance could be made of a policy of which one was made before. It gets nothing but its
    /// settings, which are the same, so it is not to blame: memory or address space are short, or the
    /// machine was too busy for its time limit.
    pub(crate) fn no_instance(why: &Self) -> Self {
        Self::new(
            FaultCode::NoInstance,
            format!(
                "no instance of the policy could be made ({}: {}); is Landfall short of memory or \
                 address space?",
                why.code.as_str(),
                why.message
            ),
        )
    }

    pub(crate) fn host_panic() -> Self {
        Self::new(
            FaultCode::HostPanic,
            "Landfall panicked while it worked on this; the panic is in its log. Please report it",
        )
    }

    pub(crate) fn into_fault(self, policy: &Text) -> Arc<Fault> {
        let Self { code, message } = self;
        Arc::new(Fault { policy: Text::clone(policy), code: code.as_str(), message })
    }
}

/// Whether asking again about an instance with a fault of this code may go better, see
/// [`FaultCode::is_transient`]. A word that is no code of this crate is not transient.
#[must_use]
pub fn is_transient(code: &str) -> bool {
    FaultCode::parse(code).is_some_and(FaultCode::is_transient)
}

/// Whether a fault of this code says nothing of the instance: the policy was not asked about it, or
/// nobody looked at its answer.
pub(crate) fn is_unasked(code: &str) -> bool {
    matches!(
        FaultCode::parse(code),
        Some(
            FaultCode::Untried | FaultCode::TimeBudget | FaultCode::Volume | FaultCode::NoInstance
        )
    )
}

/// The guest's innermost named functions, `a < b < c`.
fn frames(backtrace: &WasmBacktrace) -> Option<String> {
    let names: Vec<&str> =
        backtrace.frames().iter().filter_map(|frame| frame.func_name()).take(FRAMES_MAX).collect();
    (!names.is_empty()).then(|| names.join(" < "))
}

/// Shortens `text` to at most `len_max` bytes, between characters.
pub(crate) fn cut(text: &mut String, len_max: usize) {
    if text.len() > len_max {
        text.truncate(text.floor_char_boundary(len_max.saturating_sub(3)));
        text.push_str("...");
    }
}

/// An error of wasmtime's with its causes, in one line.
pub(crate) fn problem(error: &wasmtime::Error) -> String {
    let mut text = error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ");
    cut(&mut text, MESSAGE_LEN_MAX);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_whether_to_try_again() {
        let transient =
            FaultCode::ALL.map(FaultCode::as_str).into_iter().filter(|c| is_transient(c));
        let want = ["deadline", "host_panic", "untried", "time_budget", "no_instance"];
        assert_eq!(transient.collect::<Vec<_>>(), want);
        assert!(!is_transient("") && !is_transient("of another version"));
    }
}
