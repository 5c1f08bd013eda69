//! One sink beside the line: what it holds, what it should hold, and which steps are due.
//!
//! Invariant: what differs stays in `unsettled` until it is seen to be equal, so that a step that
//! failed is planned again. Only when is remembered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use landfall_core::guard::{
    BUDGET_WINDOW, Evidence, GuardOptions, GuardSettings, GuardState, Held, HeldFor, guard,
};
use landfall_core::holdings::Holdings;
use landfall_core::mesh::ObjectId;
use landfall_core::moved::{Moved, Places};
use landfall_core::plan::{Desired, Entries, Mode, Observed, PlanOptions, Step, plan};
use landfall_core::text::Text;
use landfall_core::time::Time;
use landfall_mesh::api::Body;
use landfall_mesh::sink::Outcome;

use super::Round;
use crate::pause::grown;

/// How long a step that failed waits before it is planned again, the first time and at most: a
/// namespace that is missing, or a right, is there soon after somebody gives it, and 10,000
/// objects that wait for it cost 170 requests a second. Apply has its own, quicker retries for
/// what may pass; what reaches us lasts longer.
const RETRY_MIN: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// How many steps that fail in one way are listed, and in which time: one cause fails thousands.
const FAILURES_LISTED_MAX: usize = 20;
const FAILURES_PER: Duration = Duration::from_secs(60);
/// How long a plan stands that nothing happened to: what went a while ago leaves room in the budget,
/// of which nobody tells. As often as the daemon looks when nothing is due.
const PLAN_AGE_MAX: Duration = Duration::from_secs(5);

/// What is known of one sink.
#[derive(Debug)]
pub struct SinkLine {
    mode: Mode,
    /// Steps that are under way at most. What is beyond waits here, and is planned again if anything
    /// changes, so that what a sink writes is never older than the steps under way.
    steps_max: usize,
    /// The namespaces that the sink watches; all when empty. What it does not watch it could
    /// write, and then neither find again nor remove.
    namespaces: Vec<Text>,
    holdings: Holdings<Body>,
    /// Whether `holdings` are complete. Nothing is planned before.
    ready: bool,
    unsettled: BTreeSet<ObjectId>,
    in_flight: BTreeMap<ObjectId, Step<Body>>,
    failed: BTreeMap<ObjectId, Failed>,
    /// Whether a step was not tried since one was done.
    has_untried: bool,
    /// By how they failed: since when failures are counted, and how many were new since then.
    told_failures: BTreeMap<&'static str, (Time, usize)>,
    /// Steps that are not wanted any more, and that the sink may have done or do yet, until when.
    maybe_done: Vec<(Time, Step<Body>)>,
    /// When the budget took up last what the sink holds, at least while nothing is planned.
    taken_up: Option<Time>,
    guard: GuardState<Body>,
    held: Vec<Held>,
    /// How many steps were held for which reason when that was told last.
    told: BTreeMap<&'static str, usize>,
    blocked: BTreeSet<ObjectId>,
    /// Desired objects in namespaces that the sink does not watch.
    outside: BTreeSet<ObjectId>,
    /// The last plan, while nothing happened that another could follow from; or nothing but steps of
    /// it, while there are more.
    standing: Option<Standing>,
    /// How often steps were worked out.
    plans: u64,
}

/// By what a plan was made that stands.
#[derive(Debug)]
struct Standing {
    evidence: Evidence,
    guard: GuardSettings,
    grace: Duration,
    /// When it is to be made anew.
    until: Time,
    wake: Option<Time>,
    /// Steps that were let go as well and for which there was no room.
    next: VecDeque<Step<Body>>,
}

/// What is to be said of a step that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// Nothing: it failed so the time before, or too many did.
    Nothing,
    /// What failed, and why.
    All,
    /// That more fail in the same way.
    ThatThereAreMore,
}

/// An object whose step failed.
#[derive(Debug)]
struct Failed {
    attempts: u32,
    /// How it failed last, of a closed set.
    code: &'static str,
    retry_at: Time,
    step: Step<Body>,
    /// Whether the sink may have done it all the same.
    may_be_done: bool,
}

/// Steps that are due now.
#[derive(Debug)]
pub struct Due {
    /// In the order to apply them.
    pub steps: Vec<Step<Body>>,
    /// Desired objects whose place a foreign one has since lately.
    pub blocked: Vec<ObjectId>,
    /// When to plan again though nothing changes.
    pub wake: Option<Time>,
}

/// How to plan.
#[derive(Clone, Copy, Debug)]
pub struct SinkOptions<'a> {
    /// What proves that something is gone.
    pub evidence: &'a Evidence,
    /// The deletion budget.
    pub guard: &'a GuardSettings,
    /// Which ServiceEntries services are to have.
    pub entries: &'a Entries,
    /// How long an object stays without endpoints.
    pub grace: Duration,
    /// The time now.
    pub now: Time,
}

impl SinkLine {
    /// A sink of which nothing is known yet, that watches `namespaces`, or all when there are none,
    /// and takes at most `steps_max` steps at once.
    #[must_use]
    pub fn new(mode: Mode, namespaces: Vec<Text>, steps_max: usize) -> Self {
        Self {
            mode,
            steps_max,
            namespaces,
            holdings: Holdings::default(),
            ready: false,
            unsettled: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            failed: BTreeMap::new(),
            has_untried: false,
            told_failures: BTreeMap::new(),
            maybe_done: Vec::new(),
            taken_up: None,
            guard: GuardState::default(),
            held: Vec::new(),
            told: BTreeMap::new(),
            blocked: BTreeSet::new(),
            outside: BTreeSet::new(),
            standing: None,
            plans: 0,
        }
    }

    /// Whether the sink was read completely.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Takes a complete reading of the sink. The walk skips what it shares with the reading
    /// before, so a sink hands out persistent maps and changes them in place.
    pub fn observe(&mut self, seen: &Observed<Body>, desired: &Desired<Body>, now: Time) {
        if !self.ready {
            self.unsettled.extend(desired.keys().cloned());
            self.guard.moved = Moved::inherited(seen);
            self.ready = true;
            self.standing = None;
        }
        let differ = self.holdings.observe(seen, now);
        if !differ.is_empty() {
            let is_wanted =
                |id| desired.get(id).is_some_and(|want| seen.ours.get(id) == Some(want));
            self.happened(differ.iter().all(is_wanted));
            self.unsettled.extend(differ);
        }
    }

    /// Takes up what a round of the line changed.
    pub fn desire(&mut self, round: &Round, now: Time) {
        if !round.changed.is_empty() || !round.moved.is_empty() {
            self.standing = None;
        }
        for id in &round.changed {
            self.give_up(id, now);
        }
        for (id, places) in &round.moved {
            self.guard.moved.end(id.clone(), places.clone(), now);
        }
        self.unsettled.extend(round.changed.iter().cloned());
    }

    /// Something happened: as it was planned, or otherwise. A plan of which there is more stands as
    /// long as only that happens that it brings about.
    fn happened(&mut self, as_planned: bool) {
        let has_next = self.standing.as_ref().is_some_and(|plan| !plan.next.is_empty());
        if !as_planned || !has_next {
            self.standing = None;
        }
    }

    /// The steps that are due. They count as in flight until [`SinkLine::applied`] or
    /// [`SinkLine::failed`] was called for each.
    pub fn due(&mut self, desired: &Desired<Body>, options: SinkOptions<'_>) -> Due {
        // Planning goes over everything that is unsettled. While much is under way, each step that
        // ends would have it done again for one more.
        let taken_up = self.taken_up.get_or_insert(options.now);
        if self.ready && options.now.since(*taken_up) >= PLAN_AGE_MAX {
            // What came counts from about when it did, though nothing is planned for long.
            *taken_up = options.now;
            self.guard.observed(&mut self.holdings);
        }
        if !self.ready || self.in_flight.len() > self.steps_max / 2 {
            return Due { steps: Vec::new(), blocked: Vec::new(), wake: None };
        }
        let room = self.steps_max - self.in_flight.len();
        if let Some(due) = self.follow(room, &options) {
            return due;
        }
        self.plans += 1;
        self.leave_outside(desired);
        let scope: Vec<ObjectId> = self
            .unsettled
            .iter()
            .filter(|id| !self.in_flight.contains_key(id) && !self.waits(id, options.now))
            .cloned()
            .collect();
        let plan_options = PlanOptions {
            mode: self.mode,
            grace: options.grace,
            entries: options.entries,
            now: options.now,
        };
        let planned = plan(self.holdings.observed(), desired, &scope, plan_options);
        for id in &planned.settled {
            self.unsettled.remove(id);
            self.blocked.remove(id);
            self.give_up(id, options.now);
            self.guard.moved.forget(id);
        }
        for step in &planned.steps {
            self.blocked.remove(step.id());
        }
        let blocked: Vec<ObjectId> =
            planned.blocked.into_iter().filter(|id| self.blocked.insert(id.clone())).collect();
        self.guard.observed(&mut self.holdings);
        let waiting = self.failed.values().filter(|failed| failed.retry_at > options.now);
        let (maybe_done, undone): (Vec<&Failed>, Vec<&Failed>) =
            waiting.partition(|failed| failed.may_be_done);
        let in_flight = self.in_flight.values();
        let ours = &self.holdings.observed().ours;
        self.maybe_done
            .retain(|(until, step)| *until > options.now && ours.get(step.id()) == step.from());
        let given_up = self.maybe_done.iter().map(|(_, step)| step);
        let begun = in_flight.chain(maybe_done.into_iter().map(|failed| &failed.step));
        let under_way: Vec<&Step<Body>> = given_up.chain(begun).collect();
        let failed: Vec<&Step<Body>> = undone.into_iter().map(|failed| &failed.step).collect();
        let guard_options = GuardOptions {
            places: Places::new(desired, &self.holdings, &self.unsettled),
            entries: options.entries,
            evidence: options.evidence,
            settings: options.guard,
            grace: options.grace,
            under_way: &under_way,
            failed: &failed,
            steps_max: room,
            now: options.now,
        };
        let guarded = guard(planned.steps, &guard_options, &mut self.guard);
        // Of what was not planned, for a step of it is under way or waits to be tried again, it
        // holds what it held.
        let stays = |held: &Held| {
            self.unsettled.contains(&held.id) && scope.binary_search(&held.id).is_err()
        };
        self.held.retain(stays);
        self.held.extend(guarded.held);
        let steps = guarded.steps;
        self.begin(&steps);
        let retry = self.failed.values().map(|failed| failed.retry_at);
        let retry = retry.filter(|at| *at > options.now).min();
        let wake = [planned.wake, guarded.wake, retry].into_iter().flatten().min();
        let oldest = options.now.plus(PLAN_AGE_MAX);
        self.standing = Some(Standing {
            evidence: options.evidence.clone(),
            guard: *options.guard,
            grace: options.grace,
            until: wake.map_or(oldest, |wake| wake.min(oldest)),
            wake,
            next: guarded.next.into(),
        });
        Due { steps, blocked, wake }
    }

    /// What follows from the standing plan. `None` where another one is to be made.
    fn follow(&mut self, room: usize, options: &SinkOptions<'_>) -> Option<Due> {
        let standing = self.standing.as_mut().filter(|plan| plan.holds(options))?;
        let wake = standing.wake;
        let mut steps = Vec::new();
        if !standing.next.is_empty() {
            let ours = &self.holdings.observed().ours;
            // Somebody else may have done it, or a step that was given up.
            let is_due = |step: &Step<Body>| ours.get(step.id()) == step.from();
            let next = std::iter::from_fn(|| standing.next.pop_front());
            steps.extend(next.filter(is_due).take(room));
            if steps.is_empty() {
                return None;
            }
            self.guard.observed(&mut self.holdings);
            self.begin(&steps);
        }
        Some(Due { steps, blocked: Vec::new(), wake })
    }

    fn begin(&mut self, steps: &[Step<Body>]) {
        self.in_flight.extend(steps.iter().map(|step| (step.id().clone(), step.clone())));
    }

    /// Leaves out what would be written where the sink does not look.
    fn leave_outside(&mut self, desired: &Desired<Body>) {
        if self.namespaces.is_empty() {
            return;
        }
        let namespaces = &self.namespaces;
        let outside: Vec<ObjectId> =
            self.unsettled.extract_if(.., |id| !namespaces.contains(&id.namespace)).collect();
        for id in outside {
            self.guard.moved.forget(&id);
            if desired.contains_key(&id) {
                self.outside.insert(id);
            } else {
                self.outside.remove(&id);
            }
        }
    }

    fn give_up(&mut self, id: &ObjectId, now: Time) {
        let failed = self.failed.remove(id).filter(|failed| failed.may_be_done);
        let until = now.plus(BUDGET_WINDOW);
        self.maybe_done.extend(failed.map(|failed| (until, failed.step)));
    }

    fn waits(&self, id: &ObjectId, now: Time) -> bool {
        self.failed.get(id).is_some_and(|failed| failed.retry_at > now)
    }

    /// Notes that the step for `id` was applied. What the sink holds now is in its next reading.
    pub fn applied(&mut self, id: &ObjectId) {
        self.happened(true);
        self.in_flight.remove(id);
        self.failed.remove(id);
        if std::mem::take(&mut self.has_untried) {
            self.retry_unavailable();
        }
    }

    /// Notes that the step for `id` failed with `code`; it is planned again after a while, which
    /// grows. Says how much is to be said of it.
    pub fn failed(&mut self, id: &ObjectId, code: &'static str, now: Time) -> Telling {
        let may_be_done = code == Outcome::UNAVAILABLE;
        let is_news = self.note_failed(id, code, may_be_done, now);
        if is_news { self.telling(code, now) } else { Telling::Nothing }
    }

    /// Notes that the step for `id` was not even tried, for the sink did not take others. It is planned
    /// again as soon as that takes one.
    pub fn untried(&mut self, id: &ObjectId, now: Time) {
        let may_be_done = self.failed.get(id).is_some_and(|before| before.may_be_done);
        self.note_failed(id, Outcome::UNAVAILABLE, may_be_done, now);
        self.has_untried = true;
    }

    /// Says whether it did not fail so the time before.
    fn note_failed(
        &mut self,
        id: &ObjectId,
        code: &'static str,
        may_be_done: bool,
        now: Time,
    ) -> bool {
        let Some(step) = self.in_flight.remove(id) else { return false };
        self.standing = None;
        let before = self.failed.get(id);
        let is_news = before.is_none_or(|before| before.code != code);
        let attempts = before.map_or(0, |before| before.attempts);
        let retry_at = now.plus(grown(RETRY_MIN, attempts, RETRY_MAX));
        let attempts = attempts.saturating_add(1);
        let failed = Failed { attempts, code, retry_at, step, may_be_done };
        self.failed.insert(id.clone(), failed);
        is_news
    }

    /// How much is to be said of one more failure: a cause may make many steps fail.
    fn telling(&mut self, code: &'static str, now: Time) -> Telling {
        let (since, count) = self.told_failures.entry(code).or_insert((now, 0));
        if now.since(*since) >= FAILURES_PER {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        match *count {
            ..=FAILURES_LISTED_MAX => Telling::All,
            count if count == FAILURES_LISTED_MAX + 1 => Telling::ThatThereAreMore,
            _ => Telling::Nothing,
        }
    }

    /// Has steps that failed for a sink that could not be used tried again at once: it can be by now.
    pub fn retry_unavailable(&mut self) {
        let unavailable = self.failed.values_mut().filter(|f| f.code == Outcome::UNAVAILABLE);
        for failed in unavailable {
            failed.retry_at = Time::default();
            self.standing = None;
        }
    }

    /// Notes that the step for `id` was not tried, for another one on its service failed. It is planned
    /// again with what is known of that one.
    pub fn waited(&mut self, id: &ObjectId) {
        self.standing = None;
        self.in_flight.remove(id);
    }

    /// Lets go what the deletion budget holds.
    pub fn release(&mut self) {
        self.standing = None;
        self.guard.release();
        self.held.retain(|held| !held.why.can_be_released());
    }

    /// Steps that wait, and for what.
    #[must_use]
    pub fn held(&self) -> &[Held] {
        &self.held
    }

    /// For which reasons steps are held that a person should be told of: those that are new, or
    /// hold twice as many as when they were told last. `None` when nothing is held any more.
    pub fn take_held_news(&mut self) -> Option<Vec<&'static str>> {
        let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
        // While something is under way, it may be what another waits for.
        let waits = |held: &&Held| {
            self.in_flight.is_empty() || !matches!(held.why, HeldFor::Replacement { .. })
        };
        for held in self.held.iter().filter(waits) {
            *counts.entry(held.why.as_str()).or_default() += 1;
        }
        let told_before = self.told.len();
        if self.in_flight.is_empty() {
            self.told.retain(|code, _| counts.contains_key(code));
        }
        if counts.is_empty() {
            // Of what is under way it is not known whether it will be held.
            if !self.in_flight.is_empty() {
                return Some(Vec::new());
            }
            return (told_before == 0).then(Vec::new);
        }
        let is_news = |(code, count): &(&'static str, usize)| {
            self.told.get(code).is_none_or(|told| *count >= told * 2)
        };
        let news: Vec<(&'static str, usize)> = counts.into_iter().filter(is_news).collect();
        self.told.extend(news.iter().copied());
        Some(news.into_iter().map(|(code, _)| code).collect())
    }

    /// Desired objects whose place a foreign one has.
    #[must_use]
    pub fn blocked(&self) -> &BTreeSet<ObjectId> {
        &self.blocked
    }

    /// Desired objects in namespaces that the sink does not watch; they are not written.
    #[must_use]
    pub fn outside(&self) -> &BTreeSet<ObjectId> {
        &self.outside
    }

    /// How many objects wait because their step failed.
    #[must_use]
    pub fn failed_count(&self) -> usize {
        self.failed.len()
    }

    /// Objects that are not as they should be, but for those outside.
    #[must_use]
    pub fn unsettled(&self) -> &BTreeSet<ObjectId> {
        &self.unsettled
    }

    /// Whether everything is as it should be and no step is under way.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.ready && self.unsettled.is_empty() && self.in_flight.is_empty()
    }

    /// Whether no step is under way and none failed. Something may be held.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.ready && self.in_flight.is_empty() && self.failed.is_empty()
    }

    /// How many steps are under way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// How often steps were worked out so far: what is held takes long to go over.
    #[must_use]
    pub fn plans(&self) -> u64 {
        self.plans
    }

    /// What the sink holds, as of its last reading.
    #[must_use]
    pub fn observed(&self) -> &Observed<Body> {
        self.holdings.observed()
    }

    /// How many objects of ours the sink holds.
    #[must_use]
    pub fn object_count(&self) -> usize {
        self.holdings.observed().ours.len()
    }
}

impl Standing {
    /// Whether the same would follow again.
    fn holds(&self, options: &SinkOptions<'_>) -> bool {
        options.now < self.until
            && self.evidence == *options.evidence
            && self.guard == *options.guard
            && self.grace == options.grace
    }
}
