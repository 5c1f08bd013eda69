//! What may hold steps back: sources that have not spoken or are in doubt, and a budget for how
//! much may go at once.
//!
//! Invariant: only steps that lose something are ever held.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::mesh::{Body, Object, ObjectId};
use crate::plan::Step;
use crate::registry::SourceName;
use crate::time::Time;

/// How far a configured source can be trusted. One that is not configured has no say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// No complete listing in this process's life yet.
    Silent,
    /// It has a complete listing, which may be out of date.
    Doubtful,
    /// Its listing is current.
    Current,
}

/// What each configured source is worth.
pub type Evidence = BTreeMap<SourceName, Trust>;

/// How much may go at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardSettings {
    /// Percent of all endpoints, 0 to 100, that may go within [`BUDGET_WINDOW`].
    pub removal_share_percent: u8,
    /// Fewer endpoints than this may always go.
    pub removal_min: usize,
    /// After this long what is held goes all the same.
    pub hold: Duration,
}

/// What is meant by "at once": a mass removal reaches us in many small changes.
pub const BUDGET_WINDOW: Duration = Duration::from_secs(60);

/// What the guard remembers of one sink.
#[derive(Clone, Debug, Default)]
pub struct GuardState {
    /// What was let go within the window. By object, so that a step that is tried again does not
    /// count twice.
    spent: BTreeMap<ObjectId, (Time, usize)>,
    held_since: Option<Time>,
    released: bool,
}

/// The guard's answer.
#[derive(Debug)]
pub struct Guarded<B> {
    /// Steps to apply, in order.
    pub steps: Vec<Step<B>>,
    /// Steps that wait, and why.
    pub held: Vec<Held>,
    /// When to ask again though nothing changes.
    pub wake: Option<Time>,
}

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
    /// The first complete listing of a source that fed the object.
    FirstListing(SourceName),
    /// The end of a source's doubt.
    EndOfDoubt(SourceName),
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

/// Holds back steps that lose something without evidence or beyond the budget. `total_endpoints`
/// is how many the sink holds now.
#[must_use]
pub fn guard<B: Body>(
    steps: Vec<Step<B>>,
    total_endpoints: usize,
    evidence: &Evidence,
    settings: &GuardSettings,
    state: &mut GuardState,
    now: Time,
) -> Guarded<B> {
    state.spent.retain(|_, (at, _)| now.since(*at) < BUDGET_WINDOW);
    let mut guarded = Guarded { steps: Vec::new(), held: Vec::new(), wake: None };
    let mut losing = Vec::new();
    let mut gains = 0;
    for step in steps {
        let (gain, _) = step.endpoint_change();
        match unproven(&step, evidence) {
            Some(why) => guarded.held.push(Held { id: step.id().clone(), verb: step.verb(), why }),
            None => {
                gains += gain;
                losing.push(step);
            }
        }
    }
    let losses: usize = losing.iter().map(|step| step.endpoint_change().1).sum();
    let spent: usize = state.spent.values().map(|(_, count)| count).sum();
    // What moves from one object to another, as when a service changes its shape, is not lost.
    let removals = losses.saturating_sub(gains) + spent;
    let total = total_endpoints + spent;
    let over = losses > gains
        && removals >= settings.removal_min
        && removals * 100 > total * usize::from(settings.removal_share_percent);
    let pass = if over {
        let since = *state.held_since.get_or_insert(now);
        let until = since.plus(settings.hold);
        let pass = state.released || until <= now;
        if !pass {
            guarded.wake = Some(until);
            let why = HeldFor::Budget { removals, total, until };
            for step in &losing {
                if step.endpoint_change().1 > 0 {
                    let (id, verb) = (step.id().clone(), step.verb());
                    guarded.held.push(Held { id, verb, why: why.clone() });
                }
            }
        }
        pass
    } else {
        state.held_since = None;
        state.released = false;
        true
    };
    for step in losing {
        let (_, loss) = step.endpoint_change();
        if loss > 0 && !pass {
            continue;
        }
        if loss > 0 {
            state.spent.insert(step.id().clone(), (now, loss));
        }
        guarded.steps.push(step);
    }
    guarded
}

/// What evidence `step` lacks, if any.
//
//  source       create   update, none lost   anything that loses
//  silent       pass     held                held
//  doubtful     pass     pass                held
//  current      pass     pass                pass
//
// An update is held for a silent source even where counts do not fall: the endpoints that the
// object has from that source are not in what is desired.
fn unproven<B: Body>(step: &Step<B>, evidence: &Evidence) -> Option<HeldFor> {
    let from: &Arc<Object<B>> = step.from()?;
    let loses = step.endpoint_change().1 > 0
        || step.to().is_none()
        || from.removal.is_none() && matches!(step, Step::Empty { .. });
    from.sources.iter().find_map(|source| match evidence.get(source) {
        Some(Trust::Silent) => Some(HeldFor::FirstListing(source.clone())),
        Some(Trust::Doubtful) if loses => Some(HeldFor::EndOfDoubt(source.clone())),
        Some(Trust::Doubtful | Trust::Current) | None => None,
    })
}

// === impl GuardState ===

impl GuardState {
    /// Lets go what the budget holds: an operator said so.
    pub fn release(&mut self) {
        self.released = self.held_since.is_some();
    }

    /// Since when the budget holds something.
    #[must_use]
    pub fn held_since(&self) -> Option<Time> {
        self.held_since
    }
}

impl fmt::Display for HeldFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstListing(source) => {
                write!(f, "source {source} has not delivered a complete listing yet")
            }
            Self::EndOfDoubt(source) => {
                write!(f, "source {source} is in doubt, its listing may be out of date")
            }
            Self::Budget { removals, total, .. } => write!(
                f,
                "{removals} of {total} endpoints would go at once, more than the guard allows"
            ),
        }
    }
}
