//! Endpoints, each once wherever it is said.

use std::collections::BTreeSet;

use crate::mesh::Spot;

/// Where traffic to endpoints ends.
pub(crate) type Spots<A> = BTreeSet<Spot<A>>;

/// Where an instance was, and where it is.
pub(crate) type Successor<A> = (Spot<A>, Spot<A>);

/// Adds `others` to `spots`.
pub(crate) fn add<A: Ord + Clone>(spots: &mut Spots<A>, others: &Spots<A>) {
    spots.extend(others.iter().cloned());
}

/// Takes `others` away from `spots`.
pub(crate) fn subtract<A: Ord>(spots: &mut Spots<A>, others: &Spots<A>) {
    // Whoever takes few of many pays for the few.
    if others.len() < spots.len() {
        others.iter().for_each(|spot| _ = spots.remove(spot));
    } else {
        spots.retain(|spot| !others.contains(spot));
    }
}

/// What of `old` is of the same instances as what of `new`, each once.
pub(crate) fn successors<A: Ord + Clone>(old: &Spots<A>, new: &Spots<A>) -> Vec<Successor<A>> {
    let mut left = new.clone();
    let pairs = old.iter().filter_map(|old| Some((old.clone(), take_same(&mut left, old)?)));
    pairs.collect()
}

/// Takes out one that is of the same instance.
fn take_same<A: Ord + Clone>(spots: &mut Spots<A>, spot: &Spot<A>) -> Option<Spot<A>> {
    let at_address = spots.range(Spot::first_at(spot.address.clone())..);
    let mut at_address = at_address.take_while(|other| other.address == spot.address);
    let same = at_address.find(|other| other.is_same(spot))?.clone();
    spots.take(&same)
}

/// What of `spots` is among `others` too.
pub(crate) fn common<A: Ord>(mut spots: Spots<A>, others: &Spots<A>) -> Spots<A> {
    spots.retain(|spot| others.contains(spot));
    spots
}
