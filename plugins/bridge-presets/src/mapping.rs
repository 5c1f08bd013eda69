//! What is in a mapping that a bridge did not write, and goes.

use landfall_policy::{Edits, Instance};

/// The edits with this region, and nothing narrower, in place of the mapping's locality.
pub(crate) fn at(edits: Edits, region: Option<&str>, instance: &Instance) -> Edits {
    let is_placed = instance.mapping.as_ref().is_some_and(|mapping| mapping.locality.is_some());
    match region {
        Some(region) => edits.locality(region, "", ""),
        // The contract has no other way to take one away.
        None if is_placed => edits.locality("", "", ""),
        None => edits,
    }
}

/// The edits with the weight of an instance that has none: no bridge knew of weights.
pub(crate) fn unweighted(edits: Edits, instance: &Instance) -> Edits {
    let is_weighted = instance.mapping.as_ref().is_some_and(|mapping| mapping.weight != 1);
    if is_weighted { edits.weight(1) } else { edits }
}
