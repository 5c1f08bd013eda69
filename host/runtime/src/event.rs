//! The closed set of events that wake the line.

use std::sync::Arc;

use landfall_mesh::sink::Applied;
use landfall_policy_host::{AdmissionError, Revision};

use crate::policies::Offered;

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
    /// A candidate was compiled and asked, or refused.
    Admitted {
        /// The serial number of the policy's slot.
        slot: u64,
        /// What was offered.
        offered: Arc<Offered>,
        /// What became of it.
        outcome: Result<Arc<Revision>, AdmissionError>,
    },
    /// A candidate that was refused for what may pass is due again.
    AdmitAgain {
        /// The serial number of the policy's slot.
        slot: u64,
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
    /// A changed configuration is ready to be taken up, or cannot be.
    Prepared,
    /// An operator lets go what the deletion budget holds.
    Release,
}
