//! Services of the mesh that have the names of each other's objects, so that none can wait for its
//! own to become free.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};

use crate::mesh::{Body, ObjectId, Tie};
use crate::plan::{Entries, Step};

/// The objects of such circles, each with the number of its circle. All of one change at once, or
/// none.
#[derive(Debug)]
pub(crate) struct Circles(BTreeMap<ObjectId, usize>);

impl Circles {
    /// Those among objects that go from one service to another.
    pub(crate) fn of(renames: &BTreeMap<ObjectId, (Tie, Tie)>, entries: &Entries) -> Self {
        let next = |id: &ObjectId| {
            let (loser, _) = renames.get(id)?;
            let successor = entries.get(loser)?;
            renames.get(successor).filter(|(_, winner)| winner == loser).map(|_| successor)
        };
        let mut circles = BTreeMap::new();
        // By where the walk began that came there first.
        let mut walked: BTreeMap<&ObjectId, &ObjectId> = BTreeMap::new();
        for (number, start) in renames.keys().enumerate() {
            let mut at = Some(start);
            while let Some(id) = at {
                at = match walked.entry(id) {
                    Entry::Vacant(unknown) => {
                        unknown.insert(start);
                        next(id)
                    }
                    Entry::Occupied(known) if *known.get() == start => {
                        let mut member = Some(id);
                        while let Some(id) = member
                            .filter(|id| circles.insert(ObjectId::clone(id), number).is_none())
                        {
                            member = next(id);
                        }
                        None
                    }
                    Entry::Occupied(_) => None,
                };
            }
        }
        Self(circles)
    }

    /// Whether an object is in one of them.
    pub(crate) fn has(&self, id: &ObjectId) -> bool {
        self.0.contains_key(id)
    }

    /// As many of `steps` as there is room for, and all of a circle of which one is among these;
    /// and the others.
    pub(crate) fn uncut<B: Body>(
        &self,
        mut steps: Vec<Step<B>>,
        room: usize,
    ) -> (Vec<Step<B>>, Vec<Step<B>>) {
        let begun = steps.iter().take(room).filter_map(|step| self.0.get(step.id()));
        let begun: BTreeSet<usize> = begun.copied().collect();
        let beyond = steps.split_off(room.min(steps.len())).into_iter();
        let is_begun =
            |step: &Step<B>| self.0.get(step.id()).is_some_and(|number| begun.contains(number));
        let (more, beyond): (Vec<_>, Vec<_>) = beyond.partition(is_begun);
        steps.extend(more);
        (steps, beyond)
    }

    /// Those of circles that are not all among `passed`.
    pub(crate) fn broken<'a>(
        &self,
        passed: impl Iterator<Item = &'a ObjectId>,
    ) -> BTreeSet<&ObjectId> {
        let mut missing: BTreeMap<usize, usize> = BTreeMap::new();
        for number in self.0.values() {
            *missing.entry(*number).or_default() += 1;
        }
        for number in passed.filter_map(|id| self.0.get(id)) {
            missing.entry(*number).and_modify(|count| *count -= 1);
        }
        let is_broken = |number: &usize| missing.get(number).is_some_and(|count| *count > 0);
        let broken = self.0.iter().filter(|(_, number)| is_broken(number));
        broken.map(|(id, _)| id).collect()
    }
}
