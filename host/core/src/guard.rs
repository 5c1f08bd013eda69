//! What may hold steps back: sources that have not spoken or are in doubt, services that are not
//! decided, and a budget for how much may go at once.
//!
//! Invariant: only steps that lose something are ever held, and what they do besides is done. One
//! exception: a host that one source has alone is left as it is while that source may still have
//! it, for what is published of others there would replace it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use imbl::{OrdMap, OrdSet};

pub use crate::budget::{BUDGET_WINDOW, GuardSettings};
use crate::budget::{Budget, Losses, Over, Scale};
use crate::counts::{Counts, shared, subtract};
use crate::mesh::{Body, Kind, Object, ObjectId, Stays, Tie};
use crate::moved::{Judged, Moved, Places, Stay, Waits};
use crate::plan::{Entries, Step, in_order};
use crate::registry::SourceName;
use crate::sharing::Ranks;
use crate::text::{OneLine, Text};
use crate::time::Time;

/// How far a configured source can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// No complete listing in this process's life yet.
    Silent,
    /// Its listing may be out of date, or lack what could not be read since it began.
    Doubtful,
    /// Its listing is current.
    Current,
}

/// What proves that something is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// What each configured source is worth.
    pub sources: BTreeMap<SourceName, Trust>,
    /// Services that are listed but not wholly decided in this process's life, as
    /// [`crate::registry::ServiceId`] prints them. What an earlier process published of them is
    /// not in what is desired.
    pub undecided: OrdSet<Text>,
    /// Services of the mesh that one source has alone, and who goes before and after it.
    pub ranks: OrdMap<Tie, Ranks>,
}

/// What the guard judges by.
#[derive(Debug)]
pub struct GuardOptions<'a, B> {
    /// What the sink holds and should hold.
    pub places: Places<'a, B>,
    /// Which ServiceEntries services are to have.
    pub entries: &'a Entries,
    /// Endpoints that the sink holds now.
    pub total_endpoints: usize,
    /// What proves that something is gone.
    pub evidence: &'a Evidence,
    /// How much may go at once.
    pub settings: &'a GuardSettings,
    /// How long a host goes on whose endpoints moved.
    pub grace: Duration,
    /// The services of the mesh of which a step is under way or waits to be tried again. Nobody asks
    /// while [`GuardState::weighs_losses`] says no.
    pub busy: &'a BTreeSet<Tie>,
    /// How many steps may pass; the others are to be planned again.
    pub steps_max: usize,
    /// The time now.
    pub now: Time,
}

/// What the guard remembers of one sink.
#[derive(Debug)]
pub struct GuardState<B: Body> {
    /// Objects whose endpoints moved.
    pub moved: Moved<B>,
    budget: Budget<B::Address>,
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
    steps_max: usize,
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
    /// The first complete listing of a source that fed the object, or may have.
    FirstListing(SourceName),
    /// The end of a source's doubt.
    EndOfDoubt(SourceName),
    /// A decision on a service that feeds the object.
    Decision(Text),
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

/// Holds back steps that lose something without evidence or beyond the budget.
#[must_use]
pub fn guard<B: Body>(
    steps: Vec<Step<B>>,
    options: &GuardOptions<'_, B>,
    state: &mut GuardState<B>,
) -> Guarded<B> {
    let mut guarded = Guarded::empty(options.steps_max);
    let standing = standing(&steps, options.evidence);
    let mut proven = Vec::with_capacity(steps.len());
    let mut entries: BTreeMap<Tie, HeldFor> = BTreeMap::new();
    let mut renamed = BTreeMap::new();
    for step in steps {
        if let Some(successor) = step.successor(options.entries) {
            let Some(there) = options.places.held(successor) else {
                guarded.hold_whole(&step, HeldFor::Rename(successor.clone()));
                continue;
            };
            state.moved.forget(step.id());
            renamed.insert(step.id().clone(), shared(step.lost(), &there.body.counts()));
        }
        if let Some(why) = standing.get(&step.tie()) {
            guarded.hold_whole(&step, why.clone());
            continue;
        }
        let proof = Proof::of(&step, options.evidence);
        match proof.lack(&step) {
            Some(why) => {
                guarded.hold_whole(&step, why.clone());
                if step.id().kind == Kind::ServiceEntry {
                    entries.insert(step.tie(), why);
                }
                let origin = |origin: Option<&str>| proof.lack_for(origin).is_some();
                proven.extend(part(&step, &Stays { origin: &origin, endpoint: &|_| true }));
            }
            None => proven.push(step),
        }
    }
    // What must follow a ServiceEntry that is held does not go, and counts for nothing.
    proven.retain(|step| match entries.get(&step.tie()) {
        Some(why) if step.must_follow(Kind::ServiceEntry) => {
            guarded.hold_whole(step, why.clone());
            false
        }
        Some(_) | None => true,
    });
    let stay = Stay { grace: options.grace, hold: options.settings.hold, now: options.now };
    let Judged { waiting, mut kept } = state.moved.judge(&proven, &options.places, stay);
    kept.extend(renamed);
    let mut due = Vec::with_capacity(proven.len());
    for step in proven {
        match waiting.get(&step.tie()).filter(|_| takes_away(&step)) {
            Some(waits) => guarded.hold(&step, HeldFor::from(*waits)),
            None => due.push(step),
        }
    }
    let scale = Scale {
        total: options.total_endpoints,
        settings: options.settings,
        busy: options.busy,
        now: options.now,
    };
    for step in due.iter().filter(|step| is_handed_over(step, options.evidence)) {
        kept.insert(step.id().clone(), step.lost());
    }
    for step in &due {
        let other_shape = options.places.in_other_shape(step, options.entries);
        if !other_shape.is_empty() {
            kept.entry(step.id().clone()).or_insert(other_shape);
        }
    }
    let losses = Losses::of(&due, &kept);
    let mut over = state.budget.judge(&losses, scale);
    for mut step in due {
        let mut takes = losses.of_object(step.id());
        if let Some(over) = over.get_mut(&step.tie())
            && let Some(held) = over.hold(&step, &takes)
        {
            guarded.hold_whole(&step, HeldFor::from(&*over));
            subtract(&mut takes, &held);
            let Some(part) = part_beside(&step, held) else { continue };
            step = part;
        }
        if guarded.steps.len() < options.steps_max {
            state.budget.begin(&step, takes);
            guarded.steps.push(step);
        }
    }
    // The harmless parts of held steps stand among the others.
    in_order(&mut guarded.steps);
    guarded
}

/// What of a held step is not held: an update with what `stays` beside what comes. Else a service
/// whose old endpoints are held would never get new ones, nor lose those that may go.
fn part<B: Body>(step: &Step<B>, stays: &Stays<'_, B::Address>) -> Option<Step<B>> {
    let (Step::Update { from, to } | Step::Empty { from, to }) = step else { return None };
    let body = to.body.with_endpoints_of(&from.body, stays)?;
    if body == *from.body {
        return None;
    }
    let mut sources: BTreeSet<&SourceName> = from.sources.iter().chain(to.sources.iter()).collect();
    if from.sources.is_empty() {
        // What stays may be of any.
        sources.clear();
    }
    let to = Object {
        id: to.id.clone(),
        sources: sources.into_iter().cloned().collect(),
        // It is not without endpoints.
        removal: None,
        body: Arc::new(body),
    };
    Some(Step::Update { from: Arc::clone(from), to: Arc::new(to) })
}

/// What of a step is not held, where these endpoints are.
fn part_beside<B: Body>(step: &Step<B>, held: Counts<B::Address>) -> Option<Step<B>> {
    let left = RefCell::new(held);
    let is_held = |address: &B::Address| match left.borrow_mut().get_mut(address) {
        Some(count) if *count > 0 => {
            *count -= 1;
            true
        }
        Some(_) | None => false,
    };
    part(step, &Stays { origin: &|_| true, endpoint: &is_held })
}

/// Whether a step takes an object or endpoints away. To clients a ServiceEntry that selects its
/// endpoints is as much as these.
fn takes_away<B: Body>(step: &Step<B>) -> bool {
    matches!(step, Step::Empty { .. } | Step::Delete(_)) || !step.lost().is_empty()
}

/// Services of the mesh that one source has alone, by what is listed now, and that another may have
/// of which that is not known, and what for they wait. Nothing of the one is put beside what is
/// there of the other.
fn standing<B: Body>(steps: &[Step<B>], evidence: &Evidence) -> BTreeMap<Tie, HeldFor> {
    if evidence.ranks.is_empty() {
        return BTreeMap::new();
    }
    let mut standing = BTreeMap::new();
    for step in steps {
        let (Some(from), Some(ranks)) = (step.from(), evidence.ranks.get(&step.tie())) else {
            continue;
        };
        let has_no_say = |name: &&SourceName| **name == ranks.winner || ranks.below.contains(name);
        if !from.sources.is_empty() && from.sources.iter().all(|name| has_no_say(&name)) {
            continue;
        }
        // Of one that is not configured it may be under an earlier name.
        let proof = Proof::of(step, evidence);
        let others = from.sources.iter().filter(|name| !has_no_say(name));
        let mut lacks = others.map(|name| proof.lack_for(Some(&format!("{name}/"))));
        let lack =
            if from.sources.is_empty() { proof.lack_for(None) } else { lacks.find_map(|l| l) };
        if let Some(why) = lack.or_else(|| undecided(from, evidence, true).map(HeldFor::Decision)) {
            standing.insert(step.tie(), why);
        }
    }
    standing
}

/// Whether a step gives a service of the mesh that one source has alone from another to it: what the
/// other had is replaced, whatever that was.
fn is_handed_over<B: Body>(step: &Step<B>, evidence: &Evidence) -> bool {
    let (Some(from), Some(ranks)) = (step.from(), evidence.ranks.get(&step.tie())) else {
        return false;
    };
    !from.sources.is_empty() && !from.sources.contains(&ranks.winner)
}

/// What evidence there is that what an object loses is gone.
//
//  source or service     create   keeps all of it   loses some of it, empties, deletes
//  silent or doubtful    pass     pass              held
//  undecided             pass     pass              held
//  current and decided   pass     pass              pass
//  outranked             pass     pass              pass
//
// An object that names no source, or one that is not configured, may be of any source under an
// earlier name. So it waits until all are current.
struct Proof<'a, B> {
    evidence: &'a Evidence,
    from: Option<Arc<Object<B>>>,
    /// That another source has the host alone is proof enough for these.
    outranked: Arc<[SourceName]>,
}

impl<'a, B: Body> Proof<'a, B> {
    fn of(step: &Step<B>, evidence: &'a Evidence) -> Self {
        let ranks = evidence.ranks.get(&step.tie());
        let outranked = ranks.map_or_else(|| Arc::from([]), |ranks| Arc::clone(&ranks.below));
        Self { evidence, from: step.from().map(Arc::clone), outranked }
    }

    /// What is missing for all that `step` takes away.
    fn lack(&self, step: &Step<B>) -> Option<HeldFor> {
        match step {
            Step::Create(_) => None,
            Step::Update { from, to } => {
                let lessened = from.body.lessened_in(&to.body).into_iter();
                let mut unnamed = from.sources.iter().filter(|name| !to.sources.contains(name));
                lessened
                    .into_iter()
                    .find_map(|origin| self.lack_for(origin))
                    .or_else(|| unnamed.find_map(|source| self.lack_of(source)))
            }
            Step::Empty { .. } | Step::Delete(_) => self.lack_for(None),
        }
    }

    /// What is missing for what a service feeds it with; for anything in it where none is given.
    fn lack_for(&self, origin: Option<&str>) -> Option<HeldFor> {
        let from = self.from.as_ref()?;
        let source = origin.and_then(|origin| origin.split_once('/')).map(|(source, _)| source);
        let sources = from.sources.iter().filter(|name| source.is_none_or(|s| name.as_str() == s));
        let mut is_known = false;
        for source in sources {
            is_known =
                self.outranked.contains(source) || self.evidence.sources.contains_key(source);
            if let Some(why) = self.lack_of(source) {
                return Some(why);
            }
            if !is_known {
                break;
            }
        }
        if !is_known {
            let mut all = self.evidence.sources.iter();
            if let Some(why) = all.find_map(|(source, trust)| unsure(source, *trust)) {
                return Some(why);
            }
        }
        let undecided = match origin.filter(|_| is_known) {
            Some(origin) => self.evidence.undecided.get(origin).map(Text::clone),
            None => undecided(from, self.evidence, is_known),
        };
        undecided.map(HeldFor::Decision)
    }

    /// What is missing for all that a source fed it with, as far as that is configured.
    fn lack_of(&self, source: &SourceName) -> Option<HeldFor> {
        if self.outranked.contains(source) {
            return None;
        }
        unsure(source, *self.evidence.sources.get(source)?)
    }
}

/// What a source lacks to prove that something is gone.
fn unsure(source: &SourceName, trust: Trust) -> Option<HeldFor> {
    match trust {
        Trust::Silent => Some(HeldFor::FirstListing(source.clone())),
        Trust::Doubtful => Some(HeldFor::EndOfDoubt(source.clone())),
        Trust::Current => None,
    }
}

/// A service that feeds `object`, or may, and is not decided.
fn undecided<B: Body>(object: &Object<B>, evidence: &Evidence, is_known: bool) -> Option<Text> {
    let all = &evidence.undecided;
    if all.is_empty() {
        return None;
    }
    match object.body.origins() {
        Some(origins) if is_known => {
            origins.into_iter().find_map(|origin| all.get(origin).map(Text::clone))
        }
        // It is not known which services feed it.
        Some(_) | None => {
            let may_feed = |service: &&Text| {
                let of = |source: &SourceName| {
                    service.strip_prefix(source.as_str()).is_some_and(|rest| rest.starts_with('/'))
                };
                !is_known || object.sources.iter().any(of)
            };
            all.iter().find(may_feed).map(Text::clone)
        }
    }
}

// === impl GuardState ===

impl<B: Body> GuardState<B> {
    /// The step for `id` was applied: what it took counts for the length of the window.
    pub fn applied(&mut self, id: &ObjectId, now: Time) {
        self.budget.applied(id, now);
    }

    /// The step for `id` failed, and took nothing.
    pub fn failed(&mut self, id: &ObjectId) {
        self.budget.failed(id);
    }

    /// Whether the budget holds the loss of any service, or held and let it go.
    #[must_use]
    pub fn weighs_losses(&self) -> bool {
        self.budget.is_weighing()
    }

    /// Lets go what the budget holds now: an operator said so.
    pub fn release(&mut self) {
        self.budget.release();
    }
}

impl<B: Body> Default for GuardState<B> {
    fn default() -> Self {
        Self { moved: Moved::default(), budget: Budget::default() }
    }
}

// === impl Guarded ===

impl<B: Body> Guarded<B> {
    fn empty(steps_max: usize) -> Self {
        Self { steps: Vec::new(), held: Vec::new(), wake: None, steps_max }
    }

    /// Holds what a step takes away, and lets pass what it brings.
    fn hold(&mut self, step: &Step<B>, why: HeldFor) {
        self.hold_whole(step, why);
        if self.steps.len() < self.steps_max {
            let part = part(step, &Stays::all());
            self.steps.extend(part.filter(|part| part.lost().is_empty()));
        }
    }

    fn hold_whole(&mut self, step: &Step<B>, why: HeldFor) {
        if let HeldFor::Grace { until }
        | HeldFor::Successor { until }
        | HeldFor::Budget { until, .. } = why
        {
            self.wake = Some(self.wake.map_or(until, |known| known.min(until)));
        }
        self.held.push(Held { id: step.id().clone(), verb: step.verb(), why });
    }
}

impl HeldFor {
    /// The word for logs and metrics.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::FirstListing(_) => "first_listing",
            Self::EndOfDoubt(_) => "end_of_doubt",
            Self::Decision(_) => "decision",
            Self::Rename(_) => "rename",
            Self::Grace { .. } => "grace",
            Self::Successor { .. } => "successor",
            Self::Budget { .. } => "budget",
        }
    }
}

impl<A> From<&Over<A>> for HeldFor {
    fn from(over: &Over<A>) -> Self {
        Self::Budget { removals: over.removals, total: over.total, until: over.until }
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
            Self::FirstListing(source) => {
                write!(f, "source {source} has not delivered a complete listing yet")
            }
            Self::EndOfDoubt(source) => {
                write!(f, "source {source} is in doubt, it may have more than it lists")
            }
            Self::Decision(service) => write!(
                f,
                "a policy has not decided every instance of {} yet, so what is published of it \
                 stays",
                OneLine(service)
            ),
            Self::Rename(id) => {
                write!(f, "its host is to have {id} instead, which the sink does not have yet")
            }
            Self::Grace { .. } => f.write_str(
                "its endpoints moved to another host, and clients have the grace time to follow",
            ),
            Self::Successor { .. } => {
                f.write_str("its endpoints moved to another host, which the sink does not have yet")
            }
            Self::Budget { removals, total, .. } => write!(
                f,
                "{removals} of {total} endpoints would go at once, more than the guard allows"
            ),
        }
    }
}
