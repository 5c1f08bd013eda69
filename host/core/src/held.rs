//! Steps that wait, and for what.

use std::fmt;

use crate::budget::Over;
use crate::evidence::Lack;
use crate::mesh::ObjectId;
use crate::moved::Waits;
use crate::time::Time;

/// A step that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which object.
    pub id: ObjectId,
    /// Which step.
    pub verb: &'static str,
    /// For what.
    pub why: HeldFor,
}

/// What a held step waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeldFor {
    /// Evidence that something is gone.
    Evidence(Lack),
    /// The object that its service has under another name, which the sink does not hold.
    Rename(ObjectId),
    /// Clients of an object whose endpoints moved before this process began.
    Grace {
        /// When it goes.
        until: Time,
    },
    /// The place that the endpoints moved to: the sink does not have it, or not whole.
    Successor {
        /// When it goes all the same.
        until: Time,
    },
    /// Those that are to come in the place of what goes, and that the sink does not have.
    Replacement {
        /// When it goes all the same.
        until: Time,
    },
    /// Too much would go at once.
    Budget {
        /// Endpoints that would go, with those that went within the window.
        removals: usize,
        /// Endpoints there were.
        total: usize,
        /// When it goes all the same.
        until: Time,
    },
}

// === impl HeldFor ===

impl HeldFor {
    /// When it goes all the same, where time alone does that.
    #[must_use]
    pub const fn until(&self) -> Option<Time> {
        match self {
            Self::Evidence(_) | Self::Rename(_) => None,
            Self::Grace { until }
            | Self::Successor { until }
            | Self::Replacement { until }
            | Self::Budget { until, .. } => Some(*until),
        }
    }

    /// Whether an operator can let it go.
    #[must_use]
    pub const fn can_be_released(&self) -> bool {
        matches!(self, Self::Replacement { .. } | Self::Budget { .. })
    }

    /// The word for logs and metrics.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Evidence(lack) => lack.as_str(),
            Self::Rename(_) => "rename",
            Self::Grace { .. } => "grace",
            Self::Successor { .. } => "successor",
            Self::Replacement { .. } => "replacement",
            Self::Budget { .. } => "budget",
        }
    }
}

impl<A> From<&Over<A>> for HeldFor {
    fn from(over: &Over<A>) -> Self {
        let Over { is_awaiting, removals, total, until, .. } = *over;
        if is_awaiting {
            Self::Replacement { until }
        } else {
            Self::Budget { removals, total, until }
        }
    }
}

impl From<Waits> for HeldFor {
    fn from(waits: Waits) -> Self {
        match waits {
            Waits::Grace(until) => Self::Grace { until },
            Waits::Successor(until) => Self::Successor { until },
        }
    }
}

impl fmt::Display for HeldFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Evidence(lack) => lack.fmt(f),
            Self::Rename(id) => {
                write!(f, "its host is to have {id} instead, which the sink does not have yet")
            }
            Self::Grace { .. } => f.write_str(
                "its endpoints moved to another host, and clients have the grace time to follow",
            ),
            Self::Successor { .. } => {
                f.write_str("its endpoints moved to another host, which the sink does not have yet")
            }
            Self::Replacement { .. } => f.write_str(
                "others are to come in place of its endpoints, which the sink does not have yet",
            ),
            Self::Budget { removals, total, .. } => write!(
                f,
                "{removals} of {total} endpoints would go at once, more than the guard allows"
            ),
        }
    }
}
