//! Who makes up for endpoints that go: those that came.

use std::collections::BTreeMap;

use crate::mesh::Spot;
use crate::spots::Spots;
use crate::time::Time;

/// When an endpoint came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Came {
    /// With which reading.
    pub(crate) reading: u64,
    pub(crate) at: Time,
}

/// An endpoint in the place of which others are looked for.
#[derive(Debug)]
pub(crate) struct Debt<A> {
    pub(crate) rank: Rank,
    /// Whether it came within the window.
    pub(crate) is_recent: bool,
    pub(crate) spot: Spot<A>,
}

/// Whom others make up for first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// It may be on its way out.
    UnderWay,
    /// It will be tried again.
    Failed,
    /// It was not judged before.
    Fresh,
    /// It waits for others since then, which come with later readings than this.
    Awaiting(Time, u64),
    /// It waits since then.
    Held(Time),
}

/// Endpoints that may make up for others, by the reading with which they came.
#[derive(Debug)]
pub(crate) struct Payers<A> {
    by_spot: BTreeMap<Spot<A>, u64>,
    /// The same the other way round; none of them is empty.
    by_reading: BTreeMap<u64, Spots<A>>,
}

impl<A: Ord + Clone> Payers<A> {
    /// What came, but for those that go themselves.
    pub(crate) fn of(came: &BTreeMap<Spot<A>, Came>, lost: &Spots<A>) -> Self {
        let came = came.iter().filter(|(spot, _)| !lost.contains(*spot));
        came.map(|(spot, came)| (spot.clone(), came.reading)).collect()
    }

    /// These alone, whenever they came.
    pub(crate) fn these(spots: Spots<A>) -> Self {
        spots.into_iter().map(|spot| (spot, 0)).collect()
    }

    /// Takes out of `debts` those that others make up for, and returns them and the others. For each
    /// debt `first` says with which reading these may have come at the earliest; `None` where nobody
    /// will do. What is of the same instance comes first, and then what came last, which most likely
    /// came in its place.
    pub(crate) fn pay(
        mut self,
        debts: &mut Vec<Debt<A>>,
        first: impl Fn(&Debt<A>) -> Option<u64>,
    ) -> (Spots<A>, Spots<A>) {
        let (mut paid, mut spent) = (Spots::new(), Spots::new());
        for is_same in [true, false] {
            debts.retain(|debt| {
                let Some(first) = first(debt) else { return true };
                let payer = match is_same {
                    true => self.take_same(first, &debt.spot),
                    false => self.take_last(first),
                };
                let Some(payer) = payer else { return true };
                spent.insert(payer);
                paid.insert(debt.spot.clone());
                false
            });
        }
        (paid, spent)
    }

    fn take_same(&mut self, first: u64, spot: &Spot<A>) -> Option<Spot<A>> {
        let of_address = self.by_spot.range(Spot::first_at(spot.address.clone())..);
        let mut of_address = of_address.take_while(|(other, _)| other.address == spot.address);
        let (same, _) =
            of_address.find(|(other, reading)| **reading >= first && other.is_same(spot))?;
        let same = same.clone();
        self.take(&same);
        Some(same)
    }

    fn take_last(&mut self, first: u64) -> Option<Spot<A>> {
        let (reading, spots) = self.by_reading.last_key_value()?;
        let spot = spots.last().filter(|_| *reading >= first)?.clone();
        self.take(&spot);
        Some(spot)
    }

    fn take(&mut self, spot: &Spot<A>) {
        let Some(reading) = self.by_spot.remove(spot) else { return };
        if let Some(spots) = self.by_reading.get_mut(&reading) {
            spots.remove(spot);
            if spots.is_empty() {
                self.by_reading.remove(&reading);
            }
        }
    }
}

impl<A: Ord + Clone> FromIterator<(Spot<A>, u64)> for Payers<A> {
    fn from_iter<I: IntoIterator<Item = (Spot<A>, u64)>>(came: I) -> Self {
        let mut payers = Self { by_spot: BTreeMap::new(), by_reading: BTreeMap::new() };
        for (spot, reading) in came {
            payers.by_reading.entry(reading).or_default().insert(spot.clone());
            payers.by_spot.insert(spot, reading);
        }
        payers
    }
}
