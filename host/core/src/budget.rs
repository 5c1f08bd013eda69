//! How many endpoints may go at once.
//!
//! Invariant: endpoints are told apart, not counted. What waits, waits for its own time; what was let
//! go, or replaced, is that until it is gone or is back. Nothing is concluded from it for others.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::counts::{Counts, add, shared, subtract};
use crate::mesh::{Body, ObjectId, Tie};
use crate::plan::Step;
use crate::time::Time;

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

/// What the budget remembers of one sink.
#[derive(Clone, Debug)]
pub(crate) struct Budget<A> {
    /// Endpoints that went within the window and did not come back, and when the last one did.
    spent: BTreeMap<(Tie, A), (Time, usize)>,
    /// Which endpoints came to services of the mesh within the window, and when, in whose place none
    /// went yet.
    came: BTreeMap<Tie, VecDeque<(Time, A, usize)>>,
    /// What steps under way take and bring.
    under_way: BTreeMap<ObjectId, UnderWay<A>>,
    /// What services of the mesh would lose, as far as it does not simply go.
    judged: BTreeMap<Tie, BTreeMap<A, Vec<Wave>>>,
}

/// What one step takes and brings.
#[derive(Clone, Debug)]
struct UnderWay<A> {
    tie: Tie,
    /// What it takes of that in whose place nothing came.
    takes: Counts<A>,
    /// What it takes of the rest.
    replaced: usize,
    /// What it brings of that which went before.
    brings: Counts<A>,
    /// What it brings of the rest.
    comes: Counts<A>,
}

/// Endpoints at one address that would go since the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wave {
    count: usize,
    fate: Fate,
}

/// What becomes of endpoints that are to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Others of the same service came in their place.
    Replaced,
    /// Their time is over, or an operator said so.
    LetGo,
    /// They wait since then.
    Held(Time),
}

/// What steps take from each service of the mesh.
pub(crate) struct Losses<A> {
    services: BTreeMap<Tie, Loss<A>>,
    /// What each object loses, and gains.
    objects: BTreeMap<ObjectId, Loss<A>>,
}

/// What one service of the mesh loses, and gains. Its objects are taken together, so that what goes
/// from one to another, as when it changes its shape, is neither. What comes to another service makes
/// up for nothing.
#[derive(Clone, Debug)]
pub(crate) struct Loss<A> {
    pub(crate) lost: Counts<A>,
    gained: Counts<A>,
}

/// What the budget holds of one service of the mesh.
#[derive(Clone, Debug)]
pub(crate) struct Over<A> {
    /// Endpoints that wait.
    pub(crate) held: Counts<A>,
    /// Endpoints that would go, with those that went within the window.
    pub(crate) removals: usize,
    /// Endpoints there were.
    pub(crate) total: usize,
    /// When the first of them go all the same.
    pub(crate) until: Time,
}

/// What of a service is there to be seen, for no step of it is under way or failed.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// What goes.
    losses: bool,
    /// What comes, too.
    all: bool,
}

/// What the budget judges by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale<'a> {
    /// Endpoints that the sink holds now.
    pub(crate) total: usize,
    pub(crate) settings: &'a GuardSettings,
    /// Services of which a step is under way or waits to be tried again: what they would lose is
    /// not all there to be seen.
    pub(crate) busy: &'a BTreeSet<Tie>,
    /// Those of which it is one that takes something away.
    pub(crate) losing: &'a BTreeSet<Tie>,
    pub(crate) now: Time,
}

// === impl Losses ===

impl<A: Ord + Clone> Losses<A> {
    /// `kept` are endpoints that steps take away and that the sink holds elsewhere.
    pub(crate) fn of<B: Body<Address = A>>(
        steps: &[Step<B>],
        kept: &BTreeMap<ObjectId, Counts<A>>,
    ) -> Self {
        let mut losses = Self { services: BTreeMap::new(), objects: BTreeMap::new() };
        for step in steps {
            let mut lost = step.lost();
            if let Some(kept) = kept.get(step.id()) {
                subtract(&mut lost, kept);
            }
            let gained = step.gained();
            add(&mut losses.services.entry(step.loser()).or_default().lost, &lost);
            add(&mut losses.services.entry(step.tie()).or_default().gained, &gained);
            if !lost.is_empty() || !gained.is_empty() {
                losses.objects.insert(step.id().clone(), Loss { lost, gained });
            }
        }
        for loss in losses.services.values_mut() {
            let moved = shared(loss.lost.clone(), &loss.gained);
            subtract(&mut loss.lost, &moved);
            subtract(&mut loss.gained, &moved);
        }
        losses
    }

    /// What of a step's losses and gains are those of services of the mesh.
    pub(crate) fn of_step<B: Body<Address = A>>(&self, step: &Step<B>) -> Loss<A> {
        let Some(Loss { lost, gained }) = self.objects.get(step.id()).cloned() else {
            return Loss::default();
        };
        let of = |tie: &Tie| self.services.get(tie);
        Loss {
            lost: of(&step.loser()).map(|loss| shared(lost, &loss.lost)).unwrap_or_default(),
            gained: of(&step.tie()).map(|loss| shared(gained, &loss.gained)).unwrap_or_default(),
        }
    }
}

// === impl Loss ===

impl<A> Default for Loss<A> {
    fn default() -> Self {
        Self { lost: Counts::new(), gained: Counts::new() }
    }
}

// === impl Over ===

impl<A: Ord + Clone> Over<A> {
    /// What waits of a step that takes `takes`; `None` where nothing does. A step of an object
    /// without endpoints of its own, as a ServiceEntry that selects them, waits for theirs.
    pub(crate) fn hold<B: Body<Address = A>>(
        &mut self,
        step: &Step<B>,
        takes: &Counts<A>,
    ) -> Option<Counts<A>> {
        let mut held = Counts::new();
        for (address, count) in takes {
            let Some(left) = self.held.get_mut(address) else { continue };
            let waits = (*left).min(*count);
            *left -= waits;
            if waits > 0 {
                held.insert(address.clone(), waits);
            }
        }
        let is_bare = || step.from().is_some_and(|from| from.body.endpoint_count() == 0);
        let removes = matches!(step, Step::Empty { .. } | Step::Delete(_));
        (!held.is_empty() || removes && is_bare()).then_some(held)
    }
}

// === impl Budget ===

impl<A: Ord + Clone> Budget<A> {
    /// Whether anything depends on which services are busy.
    pub(crate) fn is_weighing(&self) -> bool {
        !self.judged.is_empty()
    }

    /// Lets go what is held now.
    pub(crate) fn release(&mut self) {
        for wave in self.judged.values_mut().flat_map(BTreeMap::values_mut).flatten() {
            if let Fate::Held(_) = wave.fate {
                wave.fate = Fate::LetGo;
            }
        }
    }

    /// Takes up what would be lost, and says what of it waits.
    pub(crate) fn judge(&mut self, losses: &Losses<A>, scale: Scale<'_>) -> BTreeMap<Tie, Over<A>> {
        let Scale { total, settings, busy, losing, now } = scale;
        self.spent.retain(|_, (at, _)| now.since(*at) < BUDGET_WINDOW);
        let judged = &self.judged;
        self.came.retain(|tie, came| {
            let waves = judged.get(tie).into_iter().flat_map(BTreeMap::values).flatten();
            let replaced = waves.filter(|wave| wave.fate == Fate::Replaced);
            forget_old(came, replaced.map(|wave| wave.count).sum(), now);
            !came.is_empty()
        });
        self.judged.retain(|tie, _| losses.services.contains_key(tie) || busy.contains(tie));
        let mut fresh: BTreeMap<&Tie, Counts<A>> = BTreeMap::new();
        for (tie, loss) in &losses.services {
            let seen = Seen { losses: !losing.contains(tie), all: !busy.contains(tie) };
            let unjudged = self.reconcile(tie, loss, seen);
            if !unjudged.is_empty() {
                fresh.insert(tie, unjudged);
            }
        }
        let gone = self.spent.values().map(|(_, count)| count).sum::<usize>();
        let gains = losses.services.iter().flat_map(|(tie, loss)| {
            loss.gained.iter().map(move |(address, count)| ((tie, address), count))
        });
        let back = gains.filter_map(|((tie, address), count)| {
            let (_, spent) = self.spent.get(&(tie.clone(), address.clone()))?;
            Some(*count.min(spent))
        });
        let gone = gone - back.sum::<usize>();
        let going = self.under_way.values().flat_map(|step| step.takes.values()).sum::<usize>();
        let new: usize = fresh.values().flat_map(BTreeMap::values).sum();
        let held_since = |since: Duration| -> usize {
            let waves = self.judged.values().flat_map(BTreeMap::values).flatten();
            let held = |wave: &&Wave| matches!(wave.fate, Fate::Held(at) if now.since(at) < since);
            waves.filter(held).map(|wave| wave.count).sum()
        };
        let removals = new + held_since(Duration::MAX) + gone + going;
        let total = total + gone;
        let is_over = |removals: usize| {
            removals >= settings.removal_min
                && removals * 100 > total * usize::from(settings.removal_share_percent)
        };
        // What has waited for long is not "at once" with what comes now.
        if is_over(new + held_since(BUDGET_WINDOW) + gone + going) {
            for (tie, counts) in fresh {
                let waves = self.judged.entry(tie.clone()).or_default();
                for (address, count) in counts {
                    let wave = Wave { count, fate: Fate::Held(now) };
                    waves.entry(address).or_default().push(wave);
                }
            }
        }
        if !is_over(removals) {
            self.forget_held();
        }
        self.over(losses, settings.hold, removals, total, now)
    }

    /// Brings what was judged of a service in line with what it would lose now, and returns what of
    /// that is new. As many as the service gains, and as came before without one that went, are
    /// replaced: of those that are new, and then of those that wait. Where not all is seen that goes,
    /// nothing is taken to be back.
    fn reconcile(&mut self, tie: &Tie, loss: &Loss<A>, seen: Seen) -> Counts<A> {
        let waves = self.judged.entry(tie.clone()).or_default();
        if seen.losses {
            waves.retain(|address, waves| {
                shrink(waves, loss.lost.get(address).copied().unwrap_or_default());
                !waves.is_empty()
            });
        }
        let came = self.came.get(tie).into_iter().flatten();
        // What came makes up for others and not for itself.
        let came = came.map(|(_, address, count)| {
            count.saturating_sub(loss.lost.get(address).copied().unwrap_or_default())
        });
        // What comes back is no longer spent, and makes up for nothing else.
        let is_back = |address: &A| self.spent.contains_key(&(tie.clone(), address.clone()));
        let gained = loss.gained.iter().filter(|(address, _)| !is_back(address));
        let comes = gained.map(|(_, count)| count).sum::<usize>() + came.sum::<usize>();
        let replaced = waves.values().flatten().filter(|wave| wave.fate == Fate::Replaced);
        let replaced: usize = replaced.map(|wave| wave.count).sum();
        if seen.all {
            // What was to come in their place failed.
            let mut surplus = replaced.saturating_sub(comes);
            waves.retain(|_, waves| {
                for wave in waves.iter_mut().filter(|wave| wave.fate == Fate::Replaced) {
                    let count = wave.count.min(surplus);
                    wave.count -= count;
                    surplus -= count;
                }
                waves.retain(|wave| wave.count > 0);
                !waves.is_empty()
            });
        }
        let mut replacing = comes.saturating_sub(replaced);
        let mut fresh = Counts::new();
        for (address, lost) in &loss.lost {
            let judged: usize =
                waves.get(address).into_iter().flatten().map(|wave| wave.count).sum();
            let unjudged = lost.saturating_sub(judged);
            let replaced = unjudged.min(replacing);
            replacing -= replaced;
            if replaced > 0 {
                let wave = Wave { count: replaced, fate: Fate::Replaced };
                waves.entry(address.clone()).or_default().push(wave);
            }
            if unjudged > replaced {
                fresh.insert(address.clone(), unjudged - replaced);
            }
        }
        let mut held: Vec<&mut Wave> = waves
            .values_mut()
            .flatten()
            .filter(|wave| matches!(wave.fate, Fate::Held(_)) && wave.count <= replacing)
            .collect();
        held.sort_by_key(|wave| match wave.fate {
            Fate::Held(since) => Some(since),
            Fate::Replaced | Fate::LetGo => None,
        });
        for wave in held {
            if wave.count <= replacing {
                replacing -= wave.count;
                wave.fate = Fate::Replaced;
            }
        }
        if waves.is_empty() {
            self.judged.remove(tie);
        }
        fresh
    }

    fn forget_held(&mut self) {
        self.judged.retain(|_, waves| {
            waves.retain(|_, waves| {
                waves.retain(|wave| !matches!(wave.fate, Fate::Held(_)));
                !waves.is_empty()
            });
            !waves.is_empty()
        });
    }

    /// What waits, after letting go whose time is over. What would not be lost any more is not let
    /// go for another time.
    fn over(
        &mut self,
        losses: &Losses<A>,
        hold: Duration,
        removals: usize,
        total: usize,
        now: Time,
    ) -> BTreeMap<Tie, Over<A>> {
        let mut over = BTreeMap::new();
        for (tie, waves) in &mut self.judged {
            let (mut held, mut first) = (Counts::new(), None);
            let lost = losses.services.get(tie).map(|loss| &loss.lost);
            for (address, waves) in waves {
                let is_lost = lost.is_some_and(|lost| lost.contains_key(address));
                let is_over =
                    |wave: &Wave| matches!(wave.fate, Fate::Held(since) if since.plus(hold) <= now);
                waves.retain(|wave| is_lost || !is_over(wave));
                for wave in waves {
                    let Fate::Held(since) = wave.fate else { continue };
                    let until = since.plus(hold);
                    if until <= now {
                        wave.fate = Fate::LetGo;
                        continue;
                    }
                    *held.entry(address.clone()).or_default() += wave.count;
                    first = first.into_iter().chain([until]).min();
                }
            }
            if let Some(until) = first {
                over.insert(tie.clone(), Over { held, removals, total, until });
            }
        }
        over
    }

    /// Notes that a step is begun, and what it takes and brings. What comes to a service that is new
    /// comes in nothing's place.
    pub(crate) fn begin<B: Body<Address = A>>(
        &mut self,
        step: &Step<B>,
        loss: Loss<A>,
        is_new: bool,
    ) {
        let Loss { lost: mut takes, gained } = loss;
        let tie = step.loser();
        let mut replaced = 0;
        // What was let go, or replaced, is not counted against others.
        if let Some(waves) = self.judged.get(&tie) {
            takes.retain(|address, count| {
                let waves = || waves.get(address).into_iter().flatten();
                let of = |is_it: fn(Fate) -> bool| -> usize {
                    waves().filter(|wave| is_it(wave.fate)).map(|wave| wave.count).sum()
                };
                replaced += of(|fate| fate == Fate::Replaced).min(*count);
                *count = count.saturating_sub(of(|fate| !matches!(fate, Fate::Held(_))));
                *count > 0
            });
        }
        let gained = if tie == step.tie() { shared(step.gained(), &gained) } else { Counts::new() };
        let (brings, mut comes): (Counts<A>, Counts<A>) = gained
            .into_iter()
            .partition(|(address, _)| self.spent.contains_key(&(tie.clone(), address.clone())));
        if is_new {
            comes.clear();
        }
        if replaced > 0 || [&takes, &brings, &comes].into_iter().any(|some| !some.is_empty()) {
            let under_way = UnderWay { tie, takes, replaced, brings, comes };
            self.under_way.insert(step.id().clone(), under_way);
        }
    }

    /// The step for `id` was applied.
    pub(crate) fn applied(&mut self, id: &ObjectId, now: Time) {
        let Some(under_way) = self.under_way.remove(id) else { return };
        let UnderWay { tie, takes, replaced, brings, comes } = under_way;
        for (address, count) in takes {
            let spent = self.spent.entry((tie.clone(), address)).or_insert((now, 0));
            *spent = (now, spent.1 + count);
        }
        for (address, count) in brings {
            let key = (tie.clone(), address);
            if let Some((_, spent)) = self.spent.get_mut(&key) {
                *spent = spent.saturating_sub(count);
                if *spent == 0 {
                    self.spent.remove(&key);
                }
            }
        }
        if replaced > 0 || !comes.is_empty() {
            let came = self.came.entry(tie).or_default();
            came.extend(comes.into_iter().map(|(address, count)| (now, address, count)));
            spend(came, replaced);
        }
    }

    /// The step for `id` failed, and took nothing.
    pub(crate) fn failed(&mut self, id: &ObjectId) {
        self.under_way.remove(id);
    }
}

impl<A> Default for Budget<A> {
    fn default() -> Self {
        Self {
            spent: BTreeMap::new(),
            came: BTreeMap::new(),
            under_way: BTreeMap::new(),
            judged: BTreeMap::new(),
        }
    }
}

/// Takes from `came` as many as went in their place, the oldest first.
fn spend<A>(came: &mut VecDeque<(Time, A, usize)>, mut replaced: usize) {
    while replaced > 0
        && let Some((.., count)) = came.front_mut()
    {
        let went = replaced.min(*count);
        *count -= went;
        replaced -= went;
        if *count == 0 {
            came.pop_front();
        }
    }
}

/// Takes from `came` what came before the window, but for those in whose place others are still to go.
fn forget_old<A>(came: &mut VecDeque<(Time, A, usize)>, replaced: usize, now: Time) {
    let is_old = |at: Time| now.since(at) >= BUDGET_WINDOW;
    let recent = came.iter().filter(|(at, ..)| !is_old(*at)).map(|(.., count)| count);
    let mut due = replaced.saturating_sub(recent.sum());
    for (_, _, count) in came.iter_mut().rev().filter(|(at, ..)| is_old(*at)) {
        *count = (*count).min(due);
        due -= *count;
    }
    came.retain(|(.., count)| *count > 0);
}

/// Takes from `waves` what is beyond `count`: first what was free to go, then what waits for the
/// shortest time.
fn shrink(waves: &mut Vec<Wave>, count: usize) {
    let all: usize = waves.iter().map(|wave| wave.count).sum();
    let mut surplus = all.saturating_sub(count);
    waves.sort_by_key(|wave| match wave.fate {
        Fate::Replaced | Fate::LetGo => None,
        Fate::Held(since) => Some(Reverse(since)),
    });
    for wave in waves.iter_mut() {
        let gone = wave.count.min(surplus);
        surplus -= gone;
        wave.count -= gone;
    }
    waves.retain(|wave| wave.count > 0);
}
