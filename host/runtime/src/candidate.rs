//! What is to be put to work, and is rehearsed first.

use std::sync::Arc;

use landfall_policy_host::Revision;

use crate::policies::Offered;
use crate::prepared::Prepared;

/// Something that is put to work once it answered for everything that is listed.
#[derive(Debug)]
pub(crate) enum Candidate {
    /// A revision of a policy.
    Policy {
        /// The serial number of the policy's slot.
        slot: u64,
        /// What it was made of.
        offered: Arc<Offered>,
        /// The revision.
        revision: Arc<Revision>,
    },
    /// A changed configuration.
    Configuration {
        /// The number of the reload.
        reload: u64,
        /// The configuration, with what is new in it.
        prepared: Box<Prepared>,
    },
}
