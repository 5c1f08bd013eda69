//! What all sinks have in common: the outcome of a step, and what waits for one that failed.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use landfall_core::mesh::{Kind, ObjectId, Tie};
use landfall_core::plan;

use crate::api::{Body, MeshObject};

/// A step of a plan over our objects.
pub type Step = plan::Step<Body>;

/// What became of one step.
#[derive(Clone, Debug)]
pub struct Applied {
    /// Which object.
    pub id: ObjectId,
    /// What was to be done: `create`, `update`, `empty` or `delete`.
    pub verb: &'static str,
    /// What became of it.
    pub outcome: Outcome,
    /// How many attempts there were, each of one request or a few; 0 when it was not even tried.
    pub attempts: u32,
}

/// What became of one step. Only [`Outcome::Done`] changed the sink for certain.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The object is as the step wanted it; `None` where it wanted it gone.
    Done(Option<Arc<MeshObject>>),
    /// Something else is in the place, or the object is not the one the step was planned for.
    Conflict(String),
    /// The sink will never take it.
    Refused {
        /// The HTTP status, or 0.
        status: u16,
        /// In the sink's words.
        message: String,
    },
    /// We may not.
    Forbidden(String),
    /// The place does not exist: a namespace, a folder, the CRD.
    NotFound(String),
    /// The sink did not answer, or said it cannot now.
    Unavailable(String),
    /// It was not tried, for a step that it must follow failed. That one is tried again.
    Waits,
}

/// Why a sink cannot be used, or not in full. Heals by itself once the reason is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// One of a closed set; fit for a metric label.
    pub code: &'static str,
    /// What is so, and what to do about it.
    pub message: String,
}

/// The steps that failed, by kind of object and mesh service, so that those which must follow
/// them wait; see [`Step::must_follow`](plan::Step::must_follow).
#[derive(Debug, Default)]
pub struct Stuck {
    failed: BTreeSet<(Kind, Tie)>,
}

// === impl Stuck ===

impl Stuck {
    /// Takes up that `step` failed.
    pub fn note_failed(&mut self, step: &Step) {
        if step.leads() {
            self.failed.insert((step.id().kind, step.tie()));
        }
    }

    /// Why `step` must wait, if so.
    #[must_use]
    pub fn obstacle(&self, step: &Step) -> Option<Outcome> {
        let tie = step.loser();
        let waits = [Kind::ServiceEntry, Kind::WorkloadEntry]
            .into_iter()
            .any(|kind| self.failed.contains(&(kind, Tie::clone(&tie))) && step.must_follow(kind));
        waits.then_some(Outcome::Waits)
    }
}

impl Outcome {
    /// The code where it is not known whether the step was done.
    pub const UNAVAILABLE: &'static str = "unavailable";

    /// One of a closed set; fit for a metric label.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Done(_) => "done",
            Self::Conflict(_) => "conflict",
            Self::Refused { .. } => "refused",
            Self::Forbidden(_) => "forbidden",
            Self::NotFound(_) => "not_found",
            Self::Unavailable(_) => Self::UNAVAILABLE,
            Self::Waits => "waits",
        }
    }

    /// Whether the step is done.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self, Self::Done(_))
    }

    /// What went wrong; empty when nothing did.
    #[must_use]
    pub fn message(&self) -> &str {
        match self {
            Self::Done(_) => "",
            Self::Waits => "it waits for a step on the same service that failed",
            Self::Conflict(message)
            | Self::Refused { message, .. }
            | Self::Forbidden(message)
            | Self::NotFound(message)
            | Self::Unavailable(message) => message,
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
