//! Endpoints that are told apart by their addresses alone, of which several may be at one.

use std::collections::BTreeMap;

/// How many endpoints are at each address.
pub(crate) type Counts<A> = BTreeMap<A, usize>;

pub(crate) fn total<A>(counts: &Counts<A>) -> usize {
    counts.values().sum()
}

/// Adds `others` to `counts`.
pub(crate) fn add<A: Ord + Clone>(counts: &mut Counts<A>, others: &Counts<A>) {
    for (address, count) in others {
        *counts.entry(address.clone()).or_default() += count;
    }
}

/// Takes `others` away from `counts`.
pub(crate) fn subtract<A: Ord>(counts: &mut Counts<A>, others: &Counts<A>) {
    counts.retain(|address, count| {
        *count = count.saturating_sub(others.get(address).copied().unwrap_or_default());
        *count > 0
    });
}

/// What of `counts` is among `others` too.
pub(crate) fn shared<A: Ord>(mut counts: Counts<A>, others: &Counts<A>) -> Counts<A> {
    counts.retain(|address, count| {
        *count = (*count).min(others.get(address).copied().unwrap_or_default());
        *count > 0
    });
    counts
}
