//! Endpoints, each once wherever it is said.

use std::collections::BTreeSet;

use crate::mesh::Spot;

/// Where traffic to endpoints ends.
pub(crate) type Spots<A> = BTreeSet<Spot<A>>;

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

/// What of `spots` is among `others` too.
pub(crate) fn shared<A: Ord>(mut spots: Spots<A>, others: &Spots<A>) -> Spots<A> {
    spots.retain(|spot| others.contains(spot));
    spots
}
