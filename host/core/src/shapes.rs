//! Endpoints that only go over from a ServiceEntry into WorkloadEntries, or back: nothing is lost by
//! that, whatever is known of the sources that have them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::evidence::{Evidence, Lack, Proof};
use crate::mesh::{Body, Kind, Object, Tie};
use crate::moved::Places;
use crate::plan::{Entries, Step};
use crate::spots::Spots;

/// What there is to be in the other shape, of each service of the mesh.
pub(crate) struct Shapes<'o, 'a, B: Body> {
    places: &'o Places<'a, B>,
    entries: &'o Entries,
    evidence: &'o Evidence,
    /// The endpoints that ServiceEntries are to have themselves, by who has them.
    inline: RefCell<BTreeMap<Tie, ByOrigin<'a, B>>>,
}

type ByOrigin<'a, B> = BTreeMap<&'a str, Spots<<B as Body>::Address>>;

impl<'o, 'a, B: Body> Shapes<'o, 'a, B> {
    pub(crate) fn new(
        places: &'o Places<'a, B>,
        entries: &'o Entries,
        evidence: &'o Evidence,
    ) -> Self {
        Self { places, entries, evidence, inline: RefCell::default() }
    }

    /// What is missing to prove that what a step takes away is gone, where it does not only get the
    /// other shape:
    ///
    /// ```text
    /// step                      takes nothing away that may be there, where
    /// WorkloadEntry is deleted  the ServiceEntry is to have the endpoint, of all that have it
    /// ServiceEntry selects      WorkloadEntries are to have all endpoints of a service of a registry
    /// ServiceEntry has them     so it is for each WorkloadEntry there
    /// ```
    ///
    /// That none goes before the other is there is seen to where steps wait for one another.
    pub(crate) fn lack(&self, step: &Step<B>) -> Option<Lack> {
        let proof = Proof::of(step, self.evidence);
        let mut lack = proof.lack(step, &|_| false)?;
        if step.starts_selecting()
            && let Some(spots) = step.from().and_then(|from| from.body.spots_by_origin())
        {
            let wanted = self.in_workloads(&step.tie());
            let is_kept = |(origin, spots): &(&str, Spots<B::Address>)| {
                wanted.get(origin).is_some_and(|wanted| spots.is_subset(wanted))
            };
            let kept = spots.into_iter().filter(is_kept).map(|(origin, _)| origin);
            let kept: BTreeSet<&str> = kept.collect();
            lack = proof.lack(step, &|origin| kept.contains(origin))?;
        }
        let is_kept = match step {
            Step::Delete(object) if object.id.kind == Kind::WorkloadEntry => self.is_inline(object),
            Step::Update { .. } if step.stops_selecting() && step.tie() == step.loser() => {
                let tie = step.tie();
                let mut deletions = self.places.leftover(&tie).map(Arc::clone).map(Step::Delete);
                deletions.all(|deletion| self.lack(&deletion).is_none())
            }
            _ => false,
        };
        (!is_kept).then_some(lack)
    }

    /// The endpoints that the service is to have in WorkloadEntries, by who has them.
    fn in_workloads(&self, tie: &Tie) -> ByOrigin<'a, B> {
        let mut all = ByOrigin::<B>::new();
        for workload in self.places.wanted_workloads(tie) {
            for (origin, spots) in workload.body.spots_by_origin().into_iter().flatten() {
                all.entry(origin).or_default().extend(spots);
            }
        }
        all
    }

    /// Whether the ServiceEntry of a WorkloadEntry is to have its endpoint, of all that have it.
    fn is_inline(&self, workload: &Object<B>) -> bool {
        let Some(spots) = workload.body.spots_by_origin() else { return false };
        let mut inline = self.inline.borrow_mut();
        let tie = workload.tie();
        let inline = inline.entry(tie).or_insert_with_key(|tie| {
            let entry = self.entries.get(tie).and_then(|entry| self.places.wanted(entry));
            let entry = entry.filter(|entry| entry.tie() == *tie && !entry.body.selects());
            entry.and_then(|entry| entry.body.spots_by_origin()).unwrap_or_default()
        });
        let has = |(origin, spots): (&str, Spots<B::Address>)| {
            inline.get(origin).is_some_and(|inline| spots.is_subset(inline))
        };
        !spots.is_empty() && spots.into_iter().all(has)
    }
}
