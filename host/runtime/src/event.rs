//! The closed set of events that wake the line.

use std::sync::Arc;

use landfall_mesh::sink::Applied;
use landfall_policy_host::{AdmissionError, Revision};

use crate::candidate::Candidate;
use crate::line::{Rehearsed, RulesRefused};
use crate::policies::Offered;
use crate::prepared::Prepared;

/// What wakes the line.
#[derive(Debug)]
pub(crate) enum Event {
    /// A source published.
    Source,
    /// A policy's origin offers something else.
    Offer {
        /// The serial number of the policy's slot.
        slot: u64,
    },
    /// What a policy's origin offers was compiled and asked, or refused.
    Admitted {
        /// The serial number of the policy's slot.
        slot: u64,
        /// What was offered.
        offered: Arc<Offered>,
        /// What became of it.
        outcome: Result<Arc<Revision>, AdmissionError>,
    },
    /// What was refused for what may pass is due again.
    AdmitAgain {
        /// The serial number of the policy's slot.
        slot: u64,
    },
    /// A candidate answered for everything that is listed, or failed.
    Rehearsed {
        /// The candidate.
        candidate: Candidate,
        /// What it answered.
        outcome: Box<Result<Rehearsed, RulesRefused>>,
    },
    /// A sink was seen to be different.
    Observed,
    /// A step was applied or failed.
    Applied {
        /// The sink's serial number.
        sink: u64,
        /// What became of the step.
        applied: Applied,
    },
    /// The configuration file changed.
    Configuration,
    /// A configuration that was refused is due again.
    ConfigurationAgain,
    /// What of a changed configuration may take long is ready, or failed.
    Prepared {
        /// The number of the reload.
        reload: u64,
        /// What became of it.
        outcome: anyhow::Result<Box<Prepared>>,
    },
    /// An operator lets go what the deletion budget holds.
    Release,
}

impl From<(u64, Applied)> for Event {
    fn from((sink, applied): (u64, Applied)) -> Self {
        Self::Applied { sink, applied }
    }
}
