//! What steps take from services of the mesh, and what comes in its place.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::holdings::{Holdings, reached};
use crate::mesh::{Body, Kind, Object, ObjectId, Tie};
use crate::moved::Places;
use crate::plan::Step;
use crate::spots::{Spots, Successor, add, common, subtract};

/// What clients would reach no more at one service of the mesh, and what they would reach besides.
#[derive(Debug)]
pub(crate) struct Loss<A> {
    /// By steps under way.
    pub(crate) under_way: Spots<A>,
    /// By steps that failed and wait to be tried again.
    pub(crate) failed: Spots<A>,
    /// By steps that are due.
    pub(crate) due: Spots<A>,
    /// By steps that would follow those that were begun.
    pub(crate) later: Spots<A>,
    /// What of these is let go whatever goes besides: clients reach it at another service.
    pub(crate) kept: Spots<A>,
    /// What comes with the very steps that take something away, or is there and only not reached.
    pub(crate) comes: Spots<A>,
    /// What is still to be made, and may be refused.
    pub(crate) pending: Spots<A>,
}

/// How far a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    UnderWay,
    Failed,
    Due,
}

/// Steps of one service of the mesh by their objects.
type Turns<'a, B> = BTreeMap<&'a ObjectId, Turn<'a, B>>;

/// What becomes of an object; `None` where the service does not have it then.
struct Turn<'a, B> {
    stage: Stage,
    to: Next<'a, B>,
    /// What it is to become in the end.
    wanted: Next<'a, B>,
}

/// An object, or none, where something becomes of it.
type Next<'a, B> = Option<&'a Arc<Object<B>>>;

/// What becomes of an object that a step is about; `None` where nothing does.
type Choice<'c, 'a, B> = dyn Fn(&ObjectId, &Turn<'a, B>) -> Option<Next<'a, B>> + 'c;

/// What is done to a sink, and what was begun before.
#[derive(Debug)]
pub(crate) struct Doings<'a, B> {
    pub(crate) due: &'a [Step<B>],
    pub(crate) under_way: &'a [&'a Step<B>],
    pub(crate) failed: &'a [&'a Step<B>],
}

impl<B: Body> Doings<'_, B> {
    /// What goes and comes by services of the mesh. `kept` are endpoints that steps take away and
    /// that clients reach at other services.
    pub(crate) fn losses(
        &self,
        places: &Places<'_, B>,
        kept: &BTreeMap<ObjectId, Spots<B::Address>>,
    ) -> BTreeMap<Tie, Loss<B::Address>> {
        let mut turns: BTreeMap<Tie, Turns<'_, B>> = BTreeMap::new();
        let under_way = self.under_way.iter().map(|step| (Stage::UnderWay, *step));
        let failed = self.failed.iter().map(|step| (Stage::Failed, *step));
        let due = self.due.iter().map(|step| (Stage::Due, step));
        for (stage, step) in under_way.chain(failed).chain(due) {
            if is_as_before(step) {
                continue;
            }
            let (loser, tie) = (step.loser(), step.tie());
            let id = step.id();
            let wanted = |tie: &Tie| places.desired(id).filter(|wanted| wanted.tie() == *tie);
            if loser != tie {
                let turn = Turn { stage, to: None, wanted: wanted(&loser) };
                turns.entry(loser).or_default().insert(id, turn);
            }
            let turn = Turn { stage, to: step.to(), wanted: wanted(&tie) };
            turns.entry(tie).or_default().insert(id, turn);
        }
        let mut losses: BTreeMap<Tie, Loss<B::Address>> = turns
            .into_iter()
            .filter_map(|(tie, turns)| {
                Some((Tie::clone(&tie), loss(&turns, places.holdings(), &tie)?))
            })
            .collect();
        for step in self.due {
            if let Some(kept) = kept.get(step.id())
                && let Some(loss) = losses.get_mut(&step.loser())
            {
                add(&mut loss.kept, kept);
            }
        }
        losses
    }
}

/// Whether clients reach the same before and after a step, whatever happens besides.
fn is_as_before<B: Body>(step: &Step<B>) -> bool {
    let Step::Update { from, to } = step else { return false };
    from.body.selects() == to.body.selects()
        && from.body.spots().eq(to.body.spots())
        && from.tie() == to.tie()
}

/// `None` where the service is new.
fn loss<'a, B: Body>(
    turns: &Turns<'a, B>,
    holdings: &'a Holdings<B>,
    tie: &Tie,
) -> Option<Loss<B::Address>> {
    let objects: Vec<&Arc<Object<B>>> = holdings.of(tie).collect();
    if objects.is_empty() {
        return None;
    }
    let there: BTreeSet<&ObjectId> = objects.iter().map(|object| &object.id).collect();
    let after = |of: &Choice<'_, 'a, B>| {
        let next = |id: &ObjectId| turns.get(id).and_then(|turn| of(id, turn));
        let stay = objects.iter().copied();
        let stay = stay.filter_map(|object| next(&object.id).unwrap_or(Some(object)));
        let come = turns.iter().filter(|(id, _)| !there.contains(**id));
        reached(stay.chain(come.filter_map(|(id, turn)| of(id, turn)?)))
    };
    let by = |last: Stage| after(&|_, turn| (turn.stage <= last).then_some(turn.to));
    let now = reached(objects.iter().copied());
    let missing = |spots: &Spots<B::Address>| {
        let mut missing = now.clone();
        subtract(&mut missing, spots);
        missing
    };
    let has = |stage: Stage| turns.values().any(|turn| turn.stage == stage);
    let under_way = if has(Stage::UnderWay) { missing(&by(Stage::UnderWay)) } else { Spots::new() };
    let mut failed =
        if has(Stage::Failed) { missing(&by(Stage::Failed)) } else { under_way.clone() };
    let last = by(Stage::Due);
    let mut due = missing(&last);
    let mut later = Spots::new();
    if has(Stage::UnderWay) || has(Stage::Failed) {
        later = missing(&after(&|_, turn| match turn.stage {
            Stage::UnderWay | Stage::Failed => Some(turn.wanted),
            Stage::Due => Some(turn.to),
        }));
        subtract(&mut later, &due);
    }
    subtract(&mut due, &failed);
    subtract(&mut failed, &under_way);
    if has(Stage::UnderWay) || has(Stage::Failed) {
        // What was begun may never be done, and what is due by itself takes all the same.
        let alone = after(&|_, turn| (turn.stage == Stage::Due).then_some(turn.to));
        due.extend(missing(&alone));
    }
    // A WorkloadEntry that is somewhere else by the step makes up for itself alone, where nothing is
    // yet: held, it would do so for another one again and again.
    let mut elsewhere = Spots::new();
    for turn in turns.values().filter(|turn| turn.stage == Stage::Due) {
        for (was, is) in turn.to.map(|to| replaced(&objects, to)).unwrap_or_default() {
            if !now.contains(&is) && elsewhere.insert(is) {
                due.remove(&was);
            }
        }
    }
    // A WorkloadEntry may be refused while others are deleted.
    let is_made = |id: &ObjectId| id.kind == Kind::WorkloadEntry && !there.contains(id);
    let mut comes = after(&|id, turn| (!is_made(id)).then_some(turn.to));
    subtract(&mut comes, &now);
    subtract(&mut comes, &elsewhere);
    let mut pending = last;
    subtract(&mut pending, &now);
    subtract(&mut pending, &elsewhere);
    let comes = common(comes, &pending);
    subtract(&mut pending, &comes);
    Some(Loss { under_way, failed, due, later, kept: Spots::new(), comes, pending })
}

/// Where the WorkloadEntry `to` was and is not any more, and where it is instead.
fn replaced<B: Body>(objects: &[&Arc<Object<B>>], to: &Object<B>) -> Vec<Successor<B::Address>> {
    let found = objects.binary_search_by(|object| object.id.cmp(&to.id));
    let Some(at) = found.ok().filter(|_| to.id.kind == Kind::WorkloadEntry) else {
        return Vec::new();
    };
    let (was, is) = (objects[at].body.reached(), to.body.reached());
    was.difference(&is).cloned().zip(is.difference(&was).cloned()).collect()
}

impl<A: Ord + Clone> Loss<A> {
    pub(crate) fn takes_away(&self) -> bool {
        [&self.under_way, &self.failed, &self.due, &self.later]
            .iter()
            .any(|spots| !spots.is_empty())
    }

    /// All that clients would reach no more.
    pub(crate) fn all(&self) -> Spots<A> {
        let mut all = self.under_way.clone();
        add(&mut all, &self.failed);
        add(&mut all, &self.due);
        all
    }
}
