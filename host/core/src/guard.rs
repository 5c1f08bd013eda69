//! What may hold steps back: sources that have not spoken or are in doubt, services that are not
//! decided, and a budget for how much may go at once.
//!
//! Invariant: only steps that lose something are ever held, and what they do besides is done. Two
//! exceptions: a host that one source has alone is left as it is while that source may still have
//! it, for what is published of others there would replace it; and an instance that is held is not
//! made a second time.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::sync::Arc;
use std::time::Duration;

pub use crate::budget::{BUDGET_WINDOW, GuardSettings};
use crate::budget::{Budget, Scale};
use crate::circles::Circles;
pub use crate::evidence::{Evidence, Lack, Trust};
use crate::evidence::{Proof, expected, is_handed_over, standing};
pub use crate::held::{Held, HeldFor};
use crate::holdings::Holdings;
use crate::losses::Doings;
use crate::mesh::{Body, Kind, Object, ObjectId, Spot, Stays, Tie};
use crate::moved::{Judged, Moved, Places, Stay};
use crate::plan::{Entries, Step, in_order};
use crate::registry::SourceName;
use crate::shapes::Shapes;
use crate::spots::{Spots, add};
use crate::text::Text;
use crate::time::Time;

/// What the guard judges by.
#[derive(Debug)]
pub struct GuardOptions<'a, B: Body> {
    /// What the sink holds and should hold.
    pub places: Places<'a, B>,
    /// Which ServiceEntries services are to have.
    pub entries: &'a Entries,
    /// What proves that something is gone.
    pub evidence: &'a Evidence,
    /// How much may go at once.
    pub settings: &'a GuardSettings,
    /// How long a host goes on whose endpoints moved.
    pub grace: Duration,
    /// Steps that are under way.
    pub under_way: &'a [&'a Step<B>],
    /// Steps that failed and wait to be tried again.
    pub failed: &'a [&'a Step<B>],
    /// How many steps may pass now.
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
pub struct Guarded<B: Body> {
    /// Steps to apply, in order.
    pub steps: Vec<Step<B>>,
    /// Those after them for which there is no room, where nothing is held and nothing takes anything
    /// away. They may follow unless something else happens meanwhile.
    pub next: Vec<Step<B>>,
    /// Steps that wait, and why.
    pub held: Vec<Held>,
    /// When to ask again though nothing changes.
    pub wake: Option<Time>,
    /// Which endpoints of each service of the mesh wait.
    waiting: BTreeMap<Tie, Spots<B::Address>>,
    steps_max: usize,
}

/// Holds back steps that lose something without evidence or beyond the budget.
#[must_use]
pub fn guard<B: Body>(
    steps: Vec<Step<B>>,
    options: &GuardOptions<'_, B>,
    state: &mut GuardState<B>,
) -> Guarded<B> {
    let mut guarded = Guarded::empty(options.steps_max);
    let steps = proven(steps, options, &mut guarded);
    // When it may go, what it has may have moved.
    let held = guarded.held.iter().map(|held| &held.id);
    state.moved.found_unwanted(held, &options.places);
    let (mut steps, circles) = after_renames(steps, options, &mut state.moved, &mut guarded);
    guarded.hold_selected(&mut steps, options);
    let steps = after_successors(steps, options, &mut guarded);
    let stay = Stay { grace: options.grace, hold: options.settings.hold, now: options.now };
    let Judged { waiting, kept } = state.moved.judge(&steps, &options.places, stay);
    let mut due = Vec::with_capacity(steps.len());
    for step in steps {
        match waiting.get(&step.loser()).filter(|_| step.takes_away()) {
            Some(waits) => guarded.hold(&step, HeldFor::from(*waits)),
            None => due.push(step),
        }
    }
    let unwritten = unwritten(options);
    // Who waits for another step takes nobody's turn, and nothing of the budget.
    let waits =
        |step: &Step<B>| step.must_follow(Kind::WorkloadEntry) && unwritten.contains(&step.loser());
    let due = due.into_iter().filter_map(|step| match waits(&step) {
        true => without_gone(&step, &options.places),
        false => Some(step),
    });
    let mut passed = within_budget(due.collect(), &kept, options, &mut state.budget, &mut guarded);
    guarded.hold_selected(&mut passed, options);
    guarded.hold_broken(&mut passed, &circles, options);
    let passed = guarded.dialing_what_is_there(passed, options);
    let room = options.steps_max.saturating_sub(guarded.steps.len());
    let (passed, beyond) = circles.uncut(passed, room);
    guarded.steps.extend(passed);
    let only_brings = |step: &Step<B>| !step.takes_away() && !is_selecting(step);
    if !beyond.is_empty()
        && guarded.held.is_empty()
        && options.begun().chain(&guarded.steps).all(only_brings)
    {
        guarded.next = beyond.into_iter().take_while(only_brings).collect();
    }
    // The harmless parts of held steps stand among the others.
    in_order(&mut guarded.steps);
    guarded
}

/// The services of the mesh of which a WorkloadEntry is being written, or could not be.
fn unwritten<B: Body>(options: &GuardOptions<'_, B>) -> BTreeSet<Tie> {
    let written = options.begun().filter(|step| step.id().kind == Kind::WorkloadEntry);
    written.filter(|step| step.leads()).map(Step::tie).collect()
}

/// Holds steps that take a ServiceEntry from a service of which the sink does not have the one that
/// it is to have under another name.
fn after_renames<B: Body>(
    steps: Vec<Step<B>>,
    options: &GuardOptions<'_, B>,
    moved: &mut Moved<B>,
    guarded: &mut Guarded<B>,
) -> (Vec<Step<B>>, Circles) {
    let renames: BTreeMap<ObjectId, (Tie, Tie)> = steps
        .iter()
        .filter(|step| matches!(step, Step::Update { .. }) && step.tie() != step.loser())
        .map(|step| (step.id().clone(), (step.loser(), step.tie())))
        .collect();
    let circles = Circles::of(&renames, options.entries);
    let mut due = Vec::with_capacity(steps.len());
    for step in steps {
        if let Some(successor) = step.successor(options.entries) {
            let there = options.places.held(successor, &step.loser());
            let has = |there| options.places.is_taken_over(&step, there);
            if there.is_some_and(has) || circles.has(step.id()) {
                moved.forget(step.id());
            } else {
                guarded.hold_whole(&step, HeldFor::Rename(successor.clone()));
                continue;
            }
        }
        due.push(step);
    }
    (due, circles)
}

/// Holds what WorkloadEntries take the place of that the sink does not have yet: those of other
/// services of registries, and inline endpoints where somebody else has the name.
fn after_successors<B: Body>(
    steps: Vec<Step<B>>,
    options: &GuardOptions<'_, B>,
    guarded: &mut Guarded<B>,
) -> Vec<Step<B>> {
    let all = options.begun().chain(&steps);
    let created: BTreeSet<ObjectId> =
        all.filter(|step| step.leads()).map(|step| step.id().clone()).collect();
    let waits = |step: &Step<B>| match (step.id().kind, step) {
        (Kind::WorkloadEntry, Step::Delete(_)) => {
            options.places.missing(step, is_handed_over(step, options.evidence))
        }
        _ if step.starts_selecting() => options.places.blocked(step, &created),
        _ => None,
    };
    let mut due = Vec::with_capacity(steps.len());
    for step in steps {
        match waits(&step) {
            Some(missing) => {
                guarded.hold_whole(&step, HeldFor::Rename(missing));
                due.extend(without_gone(&step, &options.places));
            }
            None => due.push(step),
        }
    }
    due
}

/// What is held of one service of the mesh.
struct Unproven<B: Body> {
    lack: Lack,
    has_workloads: bool,
    /// WorkloadEntries that would be deleted, by where they are; of each that stands for one that
    /// would be made once.
    deleted: BTreeMap<B::Address, Vec<Arc<Object<B>>>>,
}

/// Holds what steps take away of which it is not proven that it is gone, what would stand beside
/// that a second time, and the ServiceEntry that selects it.
fn proven<B: Body>(
    steps: Vec<Step<B>>,
    options: &GuardOptions<'_, B>,
    guarded: &mut Guarded<B>,
) -> Vec<Step<B>> {
    let evidence = options.evidence;
    let standing = standing(&steps, evidence);
    let shapes = Shapes::new(&options.places, options.entries, evidence);
    let mut proven = Vec::with_capacity(steps.len());
    let mut unproven: BTreeMap<Tie, Unproven<B>> = BTreeMap::new();
    for step in steps {
        let unanswered = || evidence.unanswered.get(&step.loser()).map(Text::clone);
        let is_new = || options.places.holdings().of(&step.tie()).next().is_none();
        let whole = standing.get(&step.tie()).cloned();
        let whole = whole.or_else(|| unanswered().map(Lack::Answer));
        let whole = whole.or_else(|| expected(&step.tie(), evidence).filter(|_| is_new()));
        if let Some(lack) = whole {
            guarded.hold_whole(&step, HeldFor::Evidence(lack));
            continue;
        }
        let Some(lack) = shapes.lack(&step) else {
            proven.push(step);
            continue;
        };
        let proof = Proof::of(&step, evidence);
        guarded.hold_whole(&step, HeldFor::Evidence(lack.clone()));
        let origin = |origin: Option<&str>| proof.lack_for(origin).is_some();
        proven.extend(part(&step, &Stays { origin: &origin, endpoint: &|_| true, claims: true }));
        unproven.entry(step.loser()).or_insert_with(|| Unproven::new(lack)).note(&step);
    }
    // A WorkloadEntry is selected whether or not a step of it is due now.
    for service in proven.iter().filter(|step| unselects(step)).map(Step::loser) {
        let deletions = options.places.leftover(&service).map(Arc::clone).map(Step::Delete);
        let lack = { deletions }.find_map(|step| shapes.lack(&step));
        if let Some(lack) = lack {
            let held = unproven.entry(service).or_insert_with(|| Unproven::new(lack));
            held.has_workloads = true;
        }
    }
    let mut due = Vec::with_capacity(proven.len());
    for step in proven {
        let Some(held) = unproven.get_mut(&step.loser()) else {
            due.push(step);
            continue;
        };
        let why = HeldFor::Evidence(held.lack.clone());
        if let Step::Create(double) = &step
            && let Some(stands) = held.take_double(double)
        {
            guarded.hold_whole(&step, why);
            due.extend(with_origins(&stands, double));
        } else if is_selecting(&step) && held.has_workloads {
            guarded.hold_whole(&step, why);
            due.extend(part(&step, &Stays::all()));
        } else {
            due.push(step);
        }
    }
    due
}

/// Whether a step changes a ServiceEntry that selects its endpoints.
fn is_selecting<B: Body>(step: &Step<B>) -> bool {
    step.from().is_some_and(|from| from.body.selects())
}

/// Whether endpoints are selected by a ServiceEntry before the step, and by none after it.
fn unselects<B: Body>(step: &Step<B>) -> bool {
    let goes_on = |to: &Arc<Object<B>>| to.body.selects() && step.tie() == step.loser();
    is_selecting(step) && !step.to().is_some_and(goes_on)
}

/// What says in `held`, which would be deleted, that the services have it too of which `double`
/// would make another.
fn with_origins<B: Body>(held: &Arc<Object<B>>, double: &Object<B>) -> Option<Step<B>> {
    let sources: BTreeSet<&SourceName> = held.sources.iter().chain(double.sources.iter()).collect();
    let to = Object {
        id: held.id.clone(),
        sources: sources.into_iter().cloned().collect(),
        removal: held.removal,
        body: Arc::new(held.body.with_origins_of(&double.body)),
    };
    (to != **held).then(|| Step::Update { from: Arc::clone(held), to: Arc::new(to) })
}

/// Passes what may go within the budget. `kept` are endpoints that steps take away and that clients
/// reach where they moved.
fn within_budget<B: Body>(
    steps: Vec<Step<B>>,
    kept: &BTreeMap<ObjectId, Spots<B::Address>>,
    options: &GuardOptions<'_, B>,
    budget: &mut Budget<B::Address>,
    guarded: &mut Guarded<B>,
) -> Vec<Step<B>> {
    let GuardOptions { under_way, failed, settings, now, .. } = *options;
    let holdings = options.places.holdings();
    let losses = Doings { due: &steps, under_way, failed }.losses(&options.places, kept);
    let scale = Scale { endpoints: holdings.endpoints(), settings, now };
    let selecting = steps.iter().filter(|step| is_selecting(step));
    let whole: BTreeSet<Tie> = selecting.map(Step::loser).collect();
    // What waits for a name or for other steps is not to go by that.
    let besides = guarded.waiting.iter().map(|(tie, spots)| {
        (tie.clone(), options.places.leaving(tie, options.entries.get(tie), spots))
    });
    let besides = besides.filter(|(_, spots)| !spots.is_empty()).collect();
    let mut over = budget.judge(&losses, &besides, &whole, scale);
    let mut passed = Vec::with_capacity(steps.len());
    for step in steps {
        let Some(over) = over.get_mut(&step.loser()) else {
            passed.push(step);
            continue;
        };
        let why = HeldFor::from(&*over);
        if is_selecting(&step) {
            guarded.hold_whole(&step, why);
            passed.extend(part(&step, &Stays::all()));
        } else if let Some(held) = over.hold(&step) {
            guarded.hold_whole(&step, why);
            passed.extend(part_beside(&step, held));
        } else {
            passed.push(step);
        }
    }
    passed
}

/// What of a held step is not held: an update with what `stays` beside what comes. Else a service
/// whose old endpoints are held would never get new ones, nor lose those that may go.
fn part<B: Body>(step: &Step<B>, stays: &Stays<'_, B::Address>) -> Option<Step<B>> {
    let (Step::Update { from, to } | Step::Empty { from, to }) = step else { return None };
    if from.tie() != to.tie() {
        // Another service is to have the name.
        return None;
    }
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

/// What of a step that waits for WorkloadEntries takes away for good, where none of these are to
/// have other endpoints: one that is never written would have clients sent to the dead for ever.
fn without_gone<B: Body>(step: &Step<B>, places: &Places<'_, B>) -> Option<Step<B>> {
    let Step::Update { from, .. } = step else { return None };
    if !step.starts_selecting() {
        return None;
    }
    let wanted = places.in_workloads(&step.tie());
    let has: BTreeSet<B::Address> = from.body.addresses().collect();
    if !wanted.is_subset(&has) {
        return None;
    }
    let is_wanted = |spot: &Spot<B::Address>| wanted.contains(&spot.address);
    let stays = Stays { origin: &|_| true, endpoint: &is_wanted, claims: false };
    let body = from.body.without_endpoints()?.with_endpoints_of(&from.body, &stays)?;
    let to = Object {
        id: from.id.clone(),
        sources: Arc::clone(&from.sources),
        removal: None,
        body: Arc::new(body),
    };
    (to != **from).then(|| Step::Update { from: Arc::clone(from), to: Arc::new(to) })
}

/// What of a step is not held, where these endpoints are.
fn part_beside<B: Body>(step: &Step<B>, held: Spots<B::Address>) -> Option<Step<B>> {
    let left = RefCell::new(held);
    // Where several of its endpoints are one, one of them is enough.
    let is_held = |spot: &Spot<B::Address>| left.borrow_mut().remove(spot);
    part(step, &Stays { origin: &|_| true, endpoint: &is_held, claims: false })
}

// === impl Unproven ===

impl<B: Body> Unproven<B> {
    fn new(lack: Lack) -> Self {
        Self { lack, has_workloads: false, deleted: BTreeMap::new() }
    }

    fn note(&mut self, step: &Step<B>) {
        if step.id().kind != Kind::WorkloadEntry {
            return;
        }
        self.has_workloads = true;
        if let Step::Delete(object) = step {
            for address in object.body.addresses() {
                self.deleted.entry(address).or_default().push(Arc::clone(object));
            }
        }
    }

    /// One that is held of the same instance: several services have it, and the one after which that
    /// is named may have it still. It stands for no other then.
    fn take_double(&mut self, object: &Object<B>) -> Option<Arc<Object<B>>> {
        if object.id.kind != Kind::WorkloadEntry {
            return None;
        }
        let of_address = self.deleted.get_mut(&object.body.addresses().next()?)?;
        let at = of_address.iter().position(|held| is_double(object, held))?;
        Some(of_address.swap_remove(at))
    }
}

/// Whether two WorkloadEntries at one address are of one instance.
fn is_double<B: Body>(object: &Object<B>, held: &Object<B>) -> bool {
    let (Some(new), Some(known)) = (object.body.origins(), held.body.origins()) else {
        return false;
    };
    // What one source lists twice is two.
    let is_of_others = object.sources.iter().all(|source| !held.sources.contains(source));
    let is_known = new.iter().any(|origin| known.contains(origin));
    (is_known || is_of_others) && object.body.spots().eq(held.body.spots())
}

// === impl GuardOptions ===

impl<B: Body> GuardOptions<'_, B> {
    /// Steps that were begun: under way, or to be tried again.
    fn begun(&self) -> impl Iterator<Item = &Step<B>> {
        self.under_way.iter().chain(self.failed).copied()
    }
}

// === impl GuardState ===

impl<B: Body> GuardState<B> {
    /// Takes up what the sink holds now.
    pub fn observed(&mut self, holdings: &mut Holdings<B>) {
        self.budget.observed(holdings);
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
        let (steps, next, held, waiting) = Default::default();
        Self { steps, next, held, wake: None, waiting, steps_max }
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
        if let Some(until) = why.until() {
            self.wake = Some(self.wake.map_or(until, |known| known.min(until)));
        }
        let lost = step.lost();
        if !lost.is_empty() {
            add(self.waiting.entry(step.loser()).or_default(), &lost);
        }
        self.held.push(Held { id: step.id().clone(), verb: step.verb(), why });
    }

    /// The ServiceEntries that services of the mesh keep for now, under whichever name, and why.
    fn kept<'a>(&self, places: &Places<'a, B>) -> BTreeMap<Tie, (&'a Object<B>, HeldFor)> {
        let entries = self.held.iter().filter(|held| held.id.kind == Kind::ServiceEntry);
        let kept = entries.filter_map(|held| Some((places.there(&held.id)?, held.why.clone())));
        kept.map(|(entry, why)| (entry.tie(), (entry, why))).collect()
    }

    /// Holds the deletion of WorkloadEntries that a ServiceEntry selects and is to have itself, where
    /// none of the steps sees to that: it is held, or a step of it is under way or failed.
    fn hold_selected(&mut self, steps: &mut Vec<Step<B>>, options: &GuardOptions<'_, B>) {
        let turning = steps.iter().filter(|step| step.stops_selecting());
        let turning: BTreeSet<Tie> = turning.map(Step::tie).collect();
        let places = &options.places;
        let kept = self.kept(places);
        let selected = |tie: &Tie| {
            let entry = options.entries.get(tie).filter(|_| !turning.contains(tie))?;
            let wants = places.wanted(entry).filter(|wants| !wants.body.selects())?;
            let (has, why) = match kept.get(tie) {
                Some((has, why)) => (*has, Some(why.clone())),
                None => (places.held(entry, tie)?, None),
            };
            let inline = || -> BTreeSet<B::Address> { wants.body.addresses().collect() };
            has.body.selects().then(|| (inline(), why))
        };
        let mut services = BTreeMap::new();
        steps.retain(|step| {
            if !step.must_follow(Kind::ServiceEntry) {
                return true;
            }
            let service = match services.entry(step.tie()) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unknown) => {
                    let selected = selected(unknown.key());
                    unknown.insert(selected)
                }
            };
            let Some((inline, why)) = service else { return true };
            let waits = step.lost().iter().any(|spot| inline.contains(&spot.address));
            if let Some(why) = why.as_ref().filter(|_| waits) {
                self.hold_whole(step, why.clone());
            }
            !waits
        });
    }

    /// Holds what is left of circles of names of which a step is held.
    fn hold_broken(
        &mut self,
        passed: &mut Vec<Step<B>>,
        circles: &Circles,
        options: &GuardOptions<'_, B>,
    ) {
        let broken = circles.broken(passed.iter().map(Step::id));
        passed.retain(|step| {
            let successor = step.successor(options.entries).filter(|_| broken.contains(step.id()));
            if let Some(successor) = successor {
                self.hold_whole(step, HeldFor::Rename(successor.clone()));
            }
            successor.is_none()
        });
    }

    /// Has WorkloadEntries say besides where they listen for the ports that clients dial as long as
    /// their ServiceEntry is not as it should be, and leaves out those that do already.
    fn dialing_what_is_there(
        &self,
        mut passed: Vec<Step<B>>,
        options: &GuardOptions<'_, B>,
    ) -> Vec<Step<B>> {
        let places = &options.places;
        let changing = passed.iter().filter(|step| step.id().kind == Kind::ServiceEntry);
        let changing = changing.filter_map(|step| places.there(step.id()));
        let mut changing: BTreeMap<Tie, &Object<B>> =
            changing.map(|entry| (entry.tie(), entry)).collect();
        changing.extend(self.kept(places).into_iter().map(|(tie, (entry, _))| (tie, entry)));
        let besides = |step: &Step<B>| {
            let to = step.to().filter(|to| to.id.kind == Kind::WorkloadEntry)?;
            let tie = to.tie();
            let entry = options.entries.get(&tie)?;
            let has = changing.get(&tie).copied().or_else(|| places.held(entry, &tie))?;
            let wants = places.wanted(entry).filter(|wants| wants.body != has.body)?;
            let body = has.body.selects().then(|| to.body.dialed_at(&wants.body, &has.body))??;
            let (id, sources) = (to.id.clone(), Arc::clone(&to.sources));
            Some(Arc::new(Object { id, sources, removal: to.removal, body: Arc::new(body) }))
        };
        passed.retain_mut(|step| {
            let Some(besides) = besides(step) else { return true };
            match step {
                Step::Update { from, .. } if *from == besides => return false,
                Step::Update { to, .. } | Step::Create(to) => *to = besides,
                Step::Empty { .. } | Step::Delete(_) => (),
            }
            true
        });
        passed
    }
}
