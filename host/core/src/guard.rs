//! What may hold steps back: sources that have not spoken or are in doubt, services that are not
//! decided, and a budget for how much may go at once.
//!
//! Invariant: only steps that lose something are ever held, and what they do besides is done. One
//! exception: a host that one source has alone is left as it is while that source may still have
//! it, for what is published of others there would replace it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use imbl::{OrdMap, OrdSet};

use crate::mesh::{Body, Object, ObjectId, Tie};
use crate::moved::{Judged, Moved, Places, Stay, Waits};
use crate::plan::{Step, in_order};
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

/// What the guard judges by.
#[derive(Debug)]
pub struct GuardOptions<'a, B> {
    /// What the sink holds and should hold.
    pub places: Places<'a, B>,
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
#[derive(Clone, Debug, Default)]
pub struct GuardState {
    /// Objects whose endpoints moved.
    pub moved: Moved,
    /// Endpoints that went within the window, the latest last.
    spent: VecDeque<(Time, usize)>,
    /// Endpoints that go by steps under way.
    under_way: BTreeMap<ObjectId, usize>,
    /// Services of the mesh whose losses the budget holds, or held and let go.
    losses: BTreeMap<Tie, Loss>,
}

/// What one service of the mesh would lose.
#[derive(Clone, Copy, Debug)]
struct Loss {
    /// Endpoints.
    count: usize,
    /// Since when it would lose so many.
    since: Time,
    /// Whether so many may go.
    is_let_go: bool,
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
    state: &mut GuardState,
) -> Guarded<B> {
    let mut guarded = Guarded::empty(options.steps_max);
    let standing = standing(&steps, options.evidence);
    let mut proven = Vec::with_capacity(steps.len());
    for step in steps {
        if let Some(why) = standing.get(&step.tie()) {
            guarded.hold_whole(&step, why.clone());
            continue;
        }
        let proof = Proof::of(&step, options.evidence);
        match proof.lack(&step) {
            Some(why) => {
                guarded.hold_whole(&step, why);
                let stays = |origin: Option<&str>| proof.lack_for(origin).is_some();
                proven.extend(without_loss(&step, &stays));
            }
            None => proven.push(step),
        }
    }
    let stay = Stay { grace: options.grace, hold: options.settings.hold, now: options.now };
    let Judged { waiting, kept } = state.moved.judge(&proven, &options.places, stay);
    let mut due = Vec::with_capacity(proven.len());
    for step in proven {
        match waiting.get(&step.tie()).filter(|_| takes_away(&step)) {
            Some(waits) => guarded.hold(&step, HeldFor::from(*waits)),
            None => due.push(step),
        }
    }
    let losses = Losses::of(&due, &kept);
    let over = state.over_budget(&losses, options);
    for step in due {
        if let Some(why) = over.get(&step.tie()).filter(|_| takes_away(&step)) {
            guarded.hold(&step, why.clone());
            continue;
        }
        if guarded.steps.len() >= options.steps_max {
            continue;
        }
        if let Some(loss) = losses.charged_to(&step) {
            state.under_way.insert(step.id().clone(), loss);
        }
        guarded.steps.push(step);
    }
    // The harmless parts of held steps stand among the others.
    in_order(&mut guarded.steps);
    guarded
}

/// What of a held step is not held: an update with the endpoints of services that `stays` picks
/// beside those that come. Else a service whose old endpoints are held would never get new ones, nor
/// lose those that are known to be gone.
fn without_loss<B: Body>(step: &Step<B>, stays: &dyn Fn(Option<&str>) -> bool) -> Option<Step<B>> {
    let (Step::Update { from, to } | Step::Empty { from, to }) = step else { return None };
    let body = to.body.with_endpoints_of(&from.body, stays)?;
    if body == *from.body {
        return None;
    }
    let sources: BTreeSet<&SourceName> = from.sources.iter().chain(to.sources.iter()).collect();
    let to = Object {
        id: to.id.clone(),
        sources: sources.into_iter().cloned().collect(),
        // It is not without endpoints.
        removal: None,
        body: Arc::new(body),
    };
    Some(Step::Update { from: Arc::clone(from), to: Arc::new(to) })
}

/// Whether a step takes an object or endpoints away. To clients a ServiceEntry that selects its
/// endpoints is as much as these.
fn takes_away<B: Body>(step: &Step<B>) -> bool {
    matches!(step, Step::Empty { .. } | Step::Delete(_)) || step.endpoint_change().1 > 0
}

/// Services of the mesh that a source may have alone of which that is not known, and what for they
/// wait: it fed them before, and would take them over from whoever has them by what is listed now.
fn standing<B: Body>(steps: &[Step<B>], evidence: &Evidence) -> BTreeMap<Tie, HeldFor> {
    if evidence.ranks.is_empty() {
        return BTreeMap::new();
    }
    let mut standing = BTreeMap::new();
    for step in steps {
        let (Some(from), Some(ranks)) = (step.from(), evidence.ranks.get(&step.tie())) else {
            continue;
        };
        let fed = from.sources.iter().filter(|source| ranks.above.contains(source));
        let mut unsure = fed.filter_map(|source| unsure(source, *evidence.sources.get(source)?));
        if let Some(why) = unsure.next() {
            standing.insert(step.tie(), why);
        }
    }
    standing
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
                from.body.lessened_in(&to.body).into_iter().find_map(|origin| self.lack_for(origin))
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
            is_known = true;
            if self.outranked.contains(source) {
                continue;
            }
            match self.evidence.sources.get(source) {
                Some(trust) => {
                    if let Some(why) = unsure(source, *trust) {
                        return Some(why);
                    }
                }
                None => {
                    is_known = false;
                    break;
                }
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

/// What steps lose. Objects of one mesh service are taken together, so that what goes from one
/// to another, as when a service changes its shape, and what is replaced by something else at the
/// same service is not lost. What comes to another service makes up for nothing.
struct Losses {
    net: BTreeMap<Tie, usize>,
    /// The object that stands for the losses of its service.
    first: BTreeMap<Tie, ObjectId>,
}

impl Losses {
    /// `kept` are endpoints that steps take away and that the sink holds elsewhere.
    fn of<B: Body>(steps: &[Step<B>], kept: &BTreeMap<ObjectId, usize>) -> Self {
        let mut changes: BTreeMap<Tie, (usize, usize)> = BTreeMap::new();
        let mut first = BTreeMap::new();
        for step in steps {
            let (gain, loss) = step.endpoint_change();
            let loss = loss.saturating_sub(kept.get(step.id()).copied().unwrap_or_default());
            let sum = changes.entry(step.tie()).or_default();
            *sum = (sum.0 + gain, sum.1 + loss);
            if loss > 0 {
                first.entry(step.tie()).or_insert_with(|| step.id().clone());
            }
        }
        let net = changes
            .into_iter()
            .filter_map(|(tie, (gain, loss))| Some((tie, loss.checked_sub(gain)?)))
            .filter(|(_, net)| *net > 0)
            .collect();
        Self { net, first }
    }

    /// The loss of a whole service, for the first of its steps that loses something.
    fn charged_to<B: Body>(&self, step: &Step<B>) -> Option<usize> {
        let tie = step.tie();
        self.first.get(&tie).filter(|id| *id == step.id()).and_then(|_| self.net.get(&tie)).copied()
    }
}

// === impl GuardState ===

impl GuardState {
    /// The step for `id` was applied: what it took counts for the length of the window.
    pub fn applied(&mut self, id: &ObjectId, now: Time) {
        if let Some(loss) = self.under_way.remove(id) {
            self.spent.push_back((now, loss));
        }
    }

    /// The step for `id` failed, and took nothing.
    pub fn failed(&mut self, id: &ObjectId) {
        self.under_way.remove(id);
    }

    /// Whether the budget holds the loss of any service, or held and let it go.
    #[must_use]
    pub fn weighs_losses(&self) -> bool {
        !self.losses.is_empty()
    }

    /// Lets go what the budget holds now: an operator said so.
    pub fn release(&mut self) {
        self.losses.values_mut().for_each(|loss| loss.is_let_go = true);
    }

    /// The services of the mesh that may not lose what they would lose now, and why.
    ///
    /// Each waits for its own time, which begins anew when it would lose more: what was held a while
    /// ago, or let go, says nothing of what is to go besides.
    fn over_budget<B>(
        &mut self,
        losses: &Losses,
        options: &GuardOptions<'_, B>,
    ) -> BTreeMap<Tie, HeldFor> {
        let GuardOptions { settings, now, .. } = options;
        while self.spent.front().is_some_and(|(at, _)| now.since(*at) >= BUDGET_WINDOW) {
            self.spent.pop_front();
        }
        // What was let go may have failed, and comes again.
        self.losses.retain(|tie, _| losses.net.contains_key(tie) || options.busy.contains(tie));
        let may_go = |tie: &Tie, count: usize| {
            let known = self.losses.get(tie);
            known.is_some_and(|loss| loss.is_let_go && count <= loss.count)
        };
        let bound: Vec<(&Tie, usize)> = losses
            .net
            .iter()
            .map(|(tie, count)| (tie, *count))
            .filter(|(tie, count)| !may_go(tie, *count))
            .collect();
        let spent: usize = self.spent.iter().map(|(_, count)| count).sum();
        let under_way: usize = self.under_way.values().sum();
        let removals = bound.iter().map(|(_, count)| count).sum::<usize>() + spent + under_way;
        let total = options.total_endpoints + spent;
        let is_over = removals >= settings.removal_min
            && removals * 100 > total * usize::from(settings.removal_share_percent);
        let mut over = BTreeMap::new();
        for (tie, count) in bound {
            if !is_over {
                self.losses.remove(tie);
                continue;
            }
            let fresh = Loss { count, since: *now, is_let_go: false };
            let loss = self.losses.entry(tie.clone()).or_insert(fresh);
            if count > loss.count {
                *loss = fresh;
            }
            let until = loss.since.plus(settings.hold);
            if until <= *now {
                loss.is_let_go = true;
            } else {
                over.insert(tie.clone(), HeldFor::Budget { removals, total, until });
            }
        }
        over
    }
}

// === impl Guarded ===

impl<B: Body> Guarded<B> {
    fn empty(steps_max: usize) -> Self {
        Self { steps: Vec::new(), held: Vec::new(), wake: None, steps_max }
    }

    fn hold(&mut self, step: &Step<B>, why: HeldFor) {
        if let HeldFor::Grace { until }
        | HeldFor::Successor { until }
        | HeldFor::Budget { until, .. } = why
        {
            self.wake = Some(self.wake.map_or(until, |known| known.min(until)));
        }
        self.hold_whole(step, why);
        if self.steps.len() < self.steps_max {
            self.steps.extend(without_loss(step, &|_| true));
        }
    }

    fn hold_whole(&mut self, step: &Step<B>, why: HeldFor) {
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
            Self::Grace { .. } => "grace",
            Self::Successor { .. } => "successor",
            Self::Budget { .. } => "budget",
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
