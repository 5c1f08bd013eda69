//! Why a policy is refused.

use crate::abi::Problem;
use crate::fault::{Failure, FaultCode};
use crate::wasi::PACKAGES;

/// A candidate was refused. Nothing is changed by it.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// Too many bytes, packed or unpacked.
    #[error("failed to unpack the policy: {what} are {len} bytes or more; at most {max} are taken")]
    TooLarge {
        /// Which bytes.
        what: &'static str,
        /// How many there are at least.
        len: usize,
        /// How many there may be.
        max: usize,
    },
    /// Broken compression.
    #[error("failed to unpack the policy, which begins like gzip or zstd; pack it again")]
    Inflate {
        /// What the decompressor says.
        source: std::io::Error,
    },
    /// Something else, or half of it.
    #[error("failed to read the policy as a WebAssembly component: {problem}")]
    NotAComponent {
        /// What is wrong with it.
        problem: String,
    },
    /// It would take the compiler too long, or hold too much beside its memories.
    #[error(
        "failed to accept the policy's structure: {found} {what}, at most {max} are taken; what \
         toolchains make, built with optimization, stays below that"
    )]
    Structure {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        found: u64,
        /// How much there may be.
        max: u64,
    },
    /// It wants what no policy gets.
    #[error(
        "failed to link the policy: it imports {names}. A policy may import landfall:policy/log, and \
         version 0.2 of {}, in which there is nothing",
        PACKAGES.join(", ")
    )]
    ImportsDenied {
        /// The imports, by name.
        names: String,
    },
    /// It is for another contract.
    #[error(
        "failed to take the component for a policy: {problem}. Build it against this Landfall's landfall.wit"
    )]
    WorldMismatch {
        /// What does not fit.
        problem: String,
    },
    /// The compiler refuses it.
    #[error("failed to compile the policy: {problem}")]
    Compile {
        /// What the compiler says.
        problem: String,
    },
    /// Landfall itself fails on it.
    #[error(
        "failed to admit the policy: Landfall panicked over it; the panic is in its log. Please report it"
    )]
    HostPanic,
    /// It failed in one of its first calls.
    #[error("failed to {stage} the policy: {}", .failure.message)]
    Call {
        /// `instantiate`, `describe` or `configure`.
        stage: &'static str,
        /// How.
        failure: Failure,
    },
    /// It refuses its settings.
    #[error("failed to configure the policy: it refuses its settings{}", listed(.problems))]
    ConfigInvalid {
        /// Where and why; may be empty.
        problems: Vec<Problem>,
    },
}

/// Problems that a message lists.
const PROBLEMS_SHOWN_MAX: usize = 20;

fn listed(problems: &[Problem]) -> String {
    if problems.is_empty() {
        return " and does not say why".to_owned();
    }
    let shown = problems.iter().take(PROBLEMS_SHOWN_MAX).map(|Problem { path, message }| {
        let at = if path.is_empty() { "the settings" } else { path.as_str() };
        format!("{at}: {message}")
    });
    let more = problems.len().saturating_sub(PROBLEMS_SHOWN_MAX);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!(": {}{more}", shown.collect::<Vec<_>>().join("; "))
}

// === impl AdmissionError ===

impl AdmissionError {
    /// One of a closed set; fit for a metric label.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::Inflate { .. } => "inflate_failed",
            Self::NotAComponent { .. } => "not_a_component",
            Self::Structure { .. } => "structure",
            Self::ImportsDenied { .. } => "imports_denied",
            Self::WorldMismatch { .. } => "world_mismatch",
            Self::Compile { .. } => "compile_failed",
            Self::HostPanic => "host_panic",
            Self::Call { stage, failure } => match (failure.code, *stage) {
                (FaultCode::Deadline, _) => "deadline",
                (FaultCode::Memory, _) => "memory",
                (_, "describe") => "describe_failed",
                (_, "configure") => "configure_failed",
                _ => "instantiate_failed",
            },
            Self::ConfigInvalid { .. } => "config_invalid",
        }
    }

    /// What a policy has against its settings.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::ConfigInvalid { problems } => problems,
            _ => &[],
        }
    }
}
