//! What a sink holds, by services of the mesh, and what clients reach by it.
//!
//! Invariant: an endpoint counts once where clients reach it, whichever objects have it. So what a service
//! has stays the same while it changes its shape or the names of its objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use imbl::ordset::DiffItem as SetDiffItem;

use crate::mesh::{Body, Kind, Object, ObjectId, Tie};
use crate::plan::Observed;
use crate::spots::Spots;
use crate::text::Text;
use crate::time::Time;

/// What a sink holds.
#[derive(Debug)]
pub struct Holdings<B: Body> {
    observed: Observed<B>,
    /// Our objects by what ties them together, WorkloadEntries first.
    by_tie: ByTie<B>,
    /// What clients reached at services of the mesh of which something differs since that was taken
    /// up, and when it was first seen to.
    before: BTreeMap<Tie, Before<B::Address>>,
    /// Endpoints that clients reach, as of then.
    endpoints: usize,
    /// Whether anything was taken up.
    is_known: bool,
}

/// What clients reached before a reading.
#[derive(Debug)]
pub(crate) struct Before<A> {
    pub(crate) reached: Spots<A>,
    /// When the first difference was seen, and the last one.
    pub(crate) first: Time,
    pub(crate) last: Time,
}

type ByTie<B> = BTreeMap<(Tie, ObjectId), Arc<Object<B>>>;

impl<B: Body> Holdings<B> {
    /// Takes a complete reading, and returns the objects that differ from the last one, or are in our
    /// way now, or no more. The walk skips what the readings share.
    pub fn observe(&mut self, seen: &Observed<B>, now: Time) -> Vec<ObjectId> {
        let mut ids = Vec::new();
        for item in self.observed.ours.diff(&seen.ours) {
            let (id, old, new) = match item {
                DiffItem::Add(id, new) => (id, None, Some(new)),
                DiffItem::Update { old: (_, old), new: (id, new) } => (id, Some(old), Some(new)),
                DiffItem::Remove(id, old) => (id, Some(old), None),
            };
            ids.push(id.clone());
            let (old, new) = (old.map(|old| old.tie()), new.map(|new| (new.tie(), new)));
            for tie in old.iter().chain(new.as_ref().map(|(tie, _)| tie)) {
                if let Some(before) = self.before.get_mut(tie) {
                    before.last = now;
                } else {
                    let reached = reached(of(&self.by_tie, tie));
                    self.before.insert(tie.clone(), Before { reached, first: now, last: now });
                }
            }
            if let Some(tie) = old {
                self.by_tie.remove(&(tie, id.clone()));
            }
            if let Some((tie, object)) = new {
                self.by_tie.insert((tie, id.clone()), Arc::clone(object));
            }
        }
        for item in self.observed.foreign.diff(&seen.foreign) {
            let (SetDiffItem::Add(id) | SetDiffItem::Remove(id)) = item;
            ids.push(id.clone());
        }
        let (ours, foreign) = (seen.ours.clone(), seen.foreign.clone());
        self.observed = Observed { ours, foreign };
        ids
    }

    /// What clients reached before, at services of the mesh of which something differs since this was
    /// asked last. What is found first is no difference.
    pub(crate) fn take_before(&mut self) -> BTreeMap<Tie, Before<B::Address>> {
        let before = std::mem::take(&mut self.before);
        for (tie, Before { reached, .. }) in &before {
            self.endpoints = self.endpoints + self.reached(tie).len() - reached.len();
        }
        if std::mem::replace(&mut self.is_known, true) { before } else { BTreeMap::new() }
    }

    /// What the sink holds.
    #[must_use]
    pub fn observed(&self) -> &Observed<B> {
        &self.observed
    }

    /// Endpoints that clients reach.
    pub(crate) fn endpoints(&self) -> usize {
        self.endpoints
    }

    /// What clients reach at a service of the mesh.
    pub(crate) fn reached(&self, tie: &Tie) -> Spots<B::Address> {
        reached(self.of(tie))
    }

    /// The objects of a service of the mesh, WorkloadEntries first.
    pub(crate) fn of<'a>(&'a self, tie: &Tie) -> impl Iterator<Item = &'a Arc<Object<B>>> {
        of(&self.by_tie, tie)
    }

    /// All objects by services of the mesh, WorkloadEntries first.
    pub(crate) fn by_tie(&self) -> impl Iterator<Item = (&Tie, &Arc<Object<B>>)> {
        self.by_tie.iter().map(|((tie, _), object)| (tie, object))
    }
}

fn of<'a, B>(by_tie: &'a ByTie<B>, tie: &Tie) -> impl Iterator<Item = &'a Arc<Object<B>>> {
    let nothing = || Text::from("");
    let first = ObjectId { kind: Kind::WorkloadEntry, namespace: nothing(), name: nothing() };
    let tie = tie.clone();
    let from = by_tie.range((tie.clone(), first)..);
    from.take_while(move |((of, _), _)| *of == tie).map(|(_, object)| object)
}

/// What clients reach by the objects of a service of the mesh. WorkloadEntries are reached by a
/// ServiceEntry that selects them, or by one that is still to come.
pub(crate) fn reached<'a, B: Body + 'a>(
    objects: impl Iterator<Item = &'a Arc<Object<B>>>,
) -> Spots<B::Address> {
    let (mut reached, mut workloads) = (Spots::new(), Spots::new());
    let (mut has_entry, mut selects) = (false, false);
    for object in objects {
        if object.id.kind == Kind::WorkloadEntry {
            workloads.extend(object.body.spots());
            continue;
        }
        has_entry = true;
        selects |= object.body.selects();
        // Two ServiceEntries of a service, as while it gets another name, lead to the same.
        reached.extend(object.body.spots());
    }
    if selects || !has_entry {
        reached.append(&mut workloads);
    }
    reached
}

impl<B: Body> Default for Holdings<B> {
    fn default() -> Self {
        Self {
            observed: Observed::default(),
            by_tie: ByTie::new(),
            before: BTreeMap::new(),
            endpoints: 0,
            is_known: false,
        }
    }
}
