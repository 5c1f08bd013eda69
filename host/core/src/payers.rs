//! Who makes up for endpoints that go: those that came.

use std::collections::BTreeMap;

use crate::counts::Counts;
use crate::time::Time;

/// Endpoints at one address that came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Came {
    /// With which reading, and when, they came.
    pub(crate) reading: u64,
    pub(crate) at: Time,
    pub(crate) count: usize,
}

/// Endpoints that others in their place are looked for.
pub(crate) struct Debt<A> {
    pub(crate) rank: Rank,
    /// Whether they came within the window.
    pub(crate) is_recent: bool,
    pub(crate) address: A,
    pub(crate) count: usize,
}

/// Whom what came makes up for first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// It may be on its way out.
    UnderWay,
    /// It will be tried again.
    Failed,
    /// It was not judged before.
    Fresh,
    /// It waits for others since then.
    Awaiting(Time),
    /// It waits since then.
    Held(Time),
}

/// How many came with which reading, and where, that may make up for others.
pub(crate) struct Payers<A> {
    left: BTreeMap<u64, Counts<A>>,
    /// Those that did.
    spent: BTreeMap<(u64, A), usize>,
}

// === impl Payers ===

impl<A: Ord + Clone> Payers<A> {
    /// What came, but for what goes itself: of several at an address those that came last.
    pub(crate) fn of(came: &BTreeMap<A, Vec<Came>>, lost: &Counts<A>) -> Self {
        let mut payers: BTreeMap<u64, Counts<A>> = BTreeMap::new();
        for (address, all) in came {
            let mut lost = lost.get(address).copied().unwrap_or_default();
            for came in all.iter().rev() {
                let goes = came.count.min(lost);
                lost -= goes;
                if came.count > goes {
                    let of_reading = payers.entry(came.reading).or_default();
                    of_reading.insert(address.clone(), came.count - goes);
                }
            }
        }
        Self { left: payers, spent: BTreeMap::new() }
    }

    /// Those that came with a reading or later pay for up to `count` endpoints. Returns for how many.
    pub(crate) fn pay(&mut self, first: u64, count: usize) -> usize {
        let mut due = count;
        while due > 0
            && let Some((&reading, payers)) = self.left.range_mut(first..).next()
        {
            let Some(mut payer) = payers.last_entry() else {
                self.left.remove(&reading);
                continue;
            };
            let paid = due.min(*payer.get());
            due -= paid;
            *self.spent.entry((reading, payer.key().clone())).or_default() += paid;
            *payer.get_mut() -= paid;
            if *payer.get() == 0 {
                payer.remove();
            }
        }
        count - due
    }

    /// Takes those that paid out of `came`.
    pub(crate) fn settle(self, came: &mut BTreeMap<A, Vec<Came>>) {
        for ((reading, address), paid) in self.spent {
            let mut left = paid;
            for came in came.get_mut(&address).into_iter().flatten() {
                if came.reading == reading {
                    let count = came.count.min(left);
                    came.count -= count;
                    left -= count;
                }
            }
        }
        retain(came, |came| came.count > 0);
    }
}

/// Others are looked for in the place of `count` endpoints. So many as `old` says were there before the
/// window.
pub(crate) fn owe<A: Clone>(
    debts: &mut Vec<Debt<A>>,
    rank: Rank,
    address: &A,
    count: usize,
    old: &mut usize,
) {
    let before = count.min(*old);
    *old -= before;
    for (is_recent, count) in [(false, before), (true, count - before)] {
        if count > 0 {
            debts.push(Debt { rank, is_recent, address: address.clone(), count });
        }
    }
}

/// Keeps what stays, and the addresses that have any.
pub(crate) fn retain<A: Ord, T>(lists: &mut BTreeMap<A, Vec<T>>, stays: impl Fn(&T) -> bool) {
    lists.retain(|_, list| {
        list.retain(&stays);
        !list.is_empty()
    });
}
