//! How many endpoints may go at once.
//!
//! Invariant: what counts is what clients reach, as the sink has it. Endpoints are told apart, not
//! counted: what comes to a service makes up for one that was there a minute before, and for none that
//! came within the minute, for it may be of the same change. What waits, waits for its own time; what
//! was let go is that until it is gone or is back. Nothing is concluded from it for others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::holdings::{self, Holdings};
use crate::losses::Loss;
use crate::mesh::{Body, Spot, Tie};
use crate::payers::{Came, Debt, Payers, Rank};
use crate::plan::Step;
use crate::spots::{Spots, add, common, subtract, successors};
use crate::time::Time;

/// How much may go at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardSettings {
    /// Percent of all endpoints, 0 to 100, that may go within [`BUDGET_WINDOW`].
    pub removal_share_percent: u8,
    /// Fewer endpoints than this may always go.
    pub removal_min: usize,
    /// After this long what is held goes all the same.
    pub hold: Duration,
}

/// What is meant by "at once": a mass removal reaches us in many small changes.
pub const BUDGET_WINDOW: Duration = Duration::from_secs(60);

/// What the budget remembers of one sink.
#[derive(Clone, Debug)]
pub(crate) struct Budget<A> {
    services: BTreeMap<Tie, Account<A>>,
    /// How often it took up what the sink holds. What it finds together came at once.
    readings: u64,
}

/// What came to and went from one service of the mesh, and what is to go.
#[derive(Clone, Debug)]
struct Account<A> {
    /// Endpoints that came within the window and are there in nobody's place yet.
    came: BTreeMap<Spot<A>, Came>,
    /// Endpoints that went within the window with none in their place, and when.
    gone: BTreeMap<Spot<A>, Time>,
    /// Endpoints that are to go, as far as they do not simply go.
    fates: BTreeMap<Spot<A>, Fate>,
    /// Those that are to go, and those that wait for other reasons.
    outstanding: Spots<A>,
    /// When the first of what came and went did: before its window ends nothing is to be forgotten.
    oldest: Option<Time>,
}

/// What becomes of an endpoint that is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Its time is over, or an operator said so, or clients reach it elsewhere, or another one came in
    /// its place.
    LetGo,
    /// Others are to come in its place and are not there since then, which was after this reading.
    Awaiting(Time, u64),
    /// It waits since then.
    Held(Time),
}

/// What the budget holds of one service of the mesh.
#[derive(Clone, Debug)]
pub(crate) struct Over<A> {
    /// Endpoints that wait.
    pub(crate) held: Spots<A>,
    /// Whether all of them wait only for those that are to come in their place.
    pub(crate) is_awaiting: bool,
    /// Endpoints that would go, with those that went within the window.
    pub(crate) removals: usize,
    /// Endpoints there were.
    pub(crate) total: usize,
    /// When the first of them go all the same.
    pub(crate) until: Time,
}

/// What the budget judges by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale<'a> {
    /// Endpoints that clients reach now.
    pub(crate) endpoints: usize,
    pub(crate) settings: &'a GuardSettings,
    pub(crate) now: Time,
}

/// Endpoints of one service that go with none in their place.
#[derive(Debug)]
struct Unpaid<A> {
    /// By steps under way.
    going: usize,
    /// By steps that are due, and were not judged before.
    fresh: Spots<A>,
    /// The same, where others are to come in their place that are not there.
    awaiting: Spots<A>,
}

type Unpaids<'a, A> = BTreeMap<&'a Tie, Unpaid<A>>;

/// Accounts as they were before they were judged.
type Before<'a, A> = BTreeMap<&'a Tie, Account<A>>;

// === impl Over ===

impl<A: Ord + Clone> Over<A> {
    /// What waits of a step; `None` where nothing does. A step of an object without endpoints of its
    /// own, as a ServiceEntry that selects them, waits for theirs. Of several objects that have an
    /// endpoint one is enough.
    pub(crate) fn hold<B: Body<Address = A>>(&mut self, step: &Step<B>) -> Option<Spots<A>> {
        let held = common(step.lost(), &self.held);
        subtract(&mut self.held, &held);
        let is_bare = || step.from().is_some_and(|from| from.body.endpoint_count() == 0);
        let removes = matches!(step, Step::Empty { .. } | Step::Delete(_));
        (!held.is_empty() || removes && is_bare()).then_some(held)
    }
}

// === impl Budget ===

impl<A: Ord + Clone> Budget<A> {
    /// Takes up what clients reach now and did not before, and what no more.
    pub(crate) fn observed<B: Body<Address = A>>(&mut self, holdings: &mut Holdings<B>) {
        self.readings += 1;
        for (tie, before) in holdings.take_before() {
            let holdings::Before { reached: mut went, first, last } = before;
            let mut came = holdings.reached(&tie);
            let stays = common(came.clone(), &went);
            subtract(&mut came, &stays);
            subtract(&mut went, &stays);
            if !came.is_empty() || !went.is_empty() {
                let account = self.services.entry(tie).or_default();
                for (old, new) in successors(&went, &came) {
                    came.remove(&new);
                    went.remove(&old);
                    account.moved(&old, new);
                }
                account.came(came, Came { reading: self.readings, at: first });
                account.went(went, self.readings, last);
            }
        }
    }

    /// Lets go what is held now.
    pub(crate) fn release(&mut self) {
        let accounts = self.services.values_mut();
        accounts
            .flat_map(|account| account.fates.values_mut())
            .for_each(|fate| *fate = Fate::LetGo);
    }

    /// Takes up what would be lost, and says what of it waits. `besides` is what waits for other
    /// reasons; of services among `whole` a step is held whole where anything is.
    pub(crate) fn judge(
        &mut self,
        losses: &BTreeMap<Tie, Loss<A>>,
        besides: &BTreeMap<Tie, Spots<A>>,
        whole: &BTreeSet<Tie>,
        scale: Scale<'_>,
    ) -> BTreeMap<Tie, Over<A>> {
        let Scale { endpoints, settings, now } = scale;
        self.take_up(losses, besides, now);
        let known = |tie: &Tie| self.services.get(tie).cloned().unwrap_or_default();
        let before: Before<'_, A> = whole.iter().map(|tie| (tie, known(tie))).collect();
        let mut unpaid = self.unpaid(losses, whole);
        let gone: usize = self.services.values().map(|account| account.gone.len()).sum();
        // What is let go has another one in its place, or would be gone by now.
        let let_go = self.count(|fate| fate == Fate::LetGo);
        let endpoints = endpoints.saturating_sub(let_go) + gone;
        let is_over = |removals: usize| {
            removals >= settings.removal_min
                && removals * 100 > endpoints * usize::from(settings.removal_share_percent)
        };
        if is_over(self.at_once(&unpaid, gone, now).1) {
            self.hold_whole(losses, before, &mut unpaid);
        }
        let going: usize = unpaid.values().map(|unpaid| unpaid.going).sum();
        let fresh: usize = unpaid.values().map(|unpaid| unpaid.fresh.len()).sum();
        let (at_once, with_awaiting) = self.at_once(&unpaid, gone, now);
        let awaits = is_over(with_awaiting);
        let holds = is_over(at_once);
        for (tie, unpaid) in unpaid {
            let Some(account) = self.services.get_mut(tie) else { continue };
            if awaits {
                let fate = Fate::Awaiting(now, self.readings);
                account.fates.extend(unpaid.awaiting.into_iter().map(|spot| (spot, fate)));
            } else {
                account.fates.retain(|_, fate| !matches!(fate, Fate::Awaiting(..)));
            }
            if holds {
                account.fates.extend(unpaid.fresh.into_iter().map(|spot| (spot, Fate::Held(now))));
            }
        }
        let passing = if holds { 0 } else { fresh };
        let held = self.count(|fate| matches!(fate, Fate::Held(_)));
        let removals = held + passing + gone + going;
        if !is_over(removals) {
            for account in self.services.values_mut() {
                account.fates.retain(|_, fate| !matches!(fate, Fate::Held(_)));
            }
        }
        let accounts = self.services.iter_mut();
        let over = accounts.filter_map(|(tie, account)| {
            let (held, is_awaiting, until) = account.over(settings.hold, now)?;
            Some((tie.clone(), Over { held, is_awaiting, removals, total: endpoints, until }))
        });
        over.collect()
    }

    /// Forgets what is over, and takes back what was judged of endpoints that are not to go any more.
    fn take_up(
        &mut self,
        losses: &BTreeMap<Tie, Loss<A>>,
        besides: &BTreeMap<Tie, Spots<A>>,
        now: Time,
    ) {
        for (tie, spots) in besides {
            let account = self.services.entry(tie.clone()).or_default();
            account.outstanding.clone_from(spots);
        }
        self.services.retain(|tie, account| {
            account.forget_old(now);
            if !besides.contains_key(tie) {
                account.outstanding.clear();
            }
            losses.contains_key(tie) || {
                account.shrink();
                besides.contains_key(tie) || !account.is_empty()
            }
        });
    }

    /// What has no others in its place.
    fn unpaid<'a>(
        &mut self,
        losses: &'a BTreeMap<Tie, Loss<A>>,
        whole: &BTreeSet<Tie>,
    ) -> Unpaids<'a, A> {
        let mut unpaid = Unpaids::new();
        for (tie, loss) in losses {
            if loss.takes_away() || self.services.contains_key(tie) {
                let account = self.services.entry(tie.clone()).or_default();
                unpaid.insert(tie, account.reconcile(loss, whole.contains(tie), false));
            }
        }
        unpaid
    }

    /// Judges services again of which a step will be held whole: what it would bring does not come
    /// either.
    fn hold_whole(
        &mut self,
        losses: &BTreeMap<Tie, Loss<A>>,
        before: Before<'_, A>,
        unpaid: &mut Unpaids<'_, A>,
    ) {
        for (tie, mut account) in before {
            let (Some(unpaid), Some(loss)) = (unpaid.get_mut(tie), losses.get(tie)) else {
                continue;
            };
            if !unpaid.fresh.is_empty() || !unpaid.awaiting.is_empty() {
                *unpaid = account.reconcile(loss, true, true);
                self.services.insert(tie.clone(), account);
            }
        }
    }

    /// How many would go at once, and how many with those that wait for others.
    fn at_once(&self, unpaid: &Unpaids<'_, A>, gone: usize, now: Time) -> (usize, usize) {
        let going: usize = unpaid.values().map(|unpaid| unpaid.going).sum();
        let fresh: usize = unpaid.values().map(|unpaid| unpaid.fresh.len()).sum();
        let awaiting: usize = unpaid.values().map(|unpaid| unpaid.awaiting.len()).sum();
        // What has waited for long is not "at once" with what comes now.
        let is_recent = |fate| matches!(fate, Fate::Held(at) if now.since(at) < BUDGET_WINDOW);
        let at_once = fresh + self.count(is_recent) + gone + going;
        let awaiting = awaiting + self.count(|fate| matches!(fate, Fate::Awaiting(..)));
        (at_once, at_once + awaiting)
    }

    fn count(&self, is_meant: impl Fn(Fate) -> bool) -> usize {
        let fates = self.services.values().flat_map(|account| account.fates.values());
        fates.filter(|fate| is_meant(**fate)).count()
    }
}

// === impl Account ===

impl<A: Ord + Clone> Account<A> {
    fn is_empty(&self) -> bool {
        self.came.is_empty() && self.gone.is_empty() && self.fates.is_empty()
    }

    /// An instance has other ports: whatever is known of it goes on.
    fn moved(&mut self, old: &Spot<A>, new: Spot<A>) {
        if let Some(came) = self.came.remove(old) {
            self.came.insert(new.clone(), came);
        }
        if let Some(fate) = self.fates.remove(old) {
            self.outstanding.insert(new.clone());
            self.fates.insert(new, fate);
        }
    }

    /// Endpoints came. Those that went before are back, and make up for nobody else.
    fn came(&mut self, spots: Spots<A>, came: Came) {
        for spot in spots {
            if self.gone.remove(&spot).is_none() {
                self.oldest = self.oldest.or(Some(came.at));
                self.came.insert(spot, came);
            }
        }
    }

    /// Endpoints went.
    fn went(&mut self, spots: Spots<A>, reading: u64, now: Time) {
        let mut debts = Vec::new();
        for spot in spots {
            let is_recent = self.came.remove(&spot).is_some();
            if self.fates.remove(&spot) != Some(Fate::LetGo) {
                debts.push(Debt { rank: Rank::UnderWay, is_recent, spot });
            }
        }
        if debts.is_empty() {
            return;
        }
        // Others can do with any.
        debts.sort_by_key(|debt| !debt.is_recent);
        let payers = Payers::of(&self.came, &Spots::new());
        // What came within the window is replaced by what comes with the same step alone: who came
        // before or after it may be of the same change.
        let (_, spent) =
            payers.pay(&mut debts, |debt| Some(if debt.is_recent { reading } else { 0 }));
        spent.iter().for_each(|spot| _ = self.came.remove(spot));
        if !debts.is_empty() {
            self.oldest = self.oldest.or(Some(now));
        }
        self.gone.extend(debts.into_iter().map(|debt| (debt.spot, now)));
    }

    /// Forgets what went before the window, and what came then.
    fn forget_old(&mut self, now: Time) {
        let is_old = |at: Time| now.since(at) >= BUDGET_WINDOW;
        if !self.oldest.is_some_and(is_old) {
            return;
        }
        self.gone.retain(|_, at| !is_old(*at));
        self.came.retain(|_, came| !is_old(came.at));
        let came = self.came.values().map(|came| came.at);
        self.oldest = came.chain(self.gone.values().copied()).min();
    }

    /// Takes back what was judged of endpoints that are not to go any more.
    fn shrink(&mut self) {
        let outstanding = &self.outstanding;
        self.fates.retain(|spot, _| outstanding.contains(spot));
    }

    /// Brings what was judged in line with what would be lost now, and returns what of that is new and
    /// has none in its place. Where a step is held whole (`is_held`), or will be for what waits
    /// already (`is_whole`), what it brings does not come.
    fn reconcile(&mut self, loss: &Loss<A>, is_whole: bool, is_held: bool) -> Unpaid<A> {
        let lost = loss.all();
        add(&mut self.outstanding, &lost);
        add(&mut self.outstanding, &loss.later);
        self.shrink();
        let kept = common(loss.kept.clone(), &lost);
        self.fates.extend(kept.into_iter().map(|spot| (spot, Fate::LetGo)));
        let mut debts = self.debts(loss);
        debts.sort_by_key(|debt| debt.rank);
        // What is back is no longer gone, and makes up for nothing else.
        let others = |spots: &Spots<A>| -> Spots<A> {
            spots.iter().filter(|spot| !self.gone.contains_key(*spot)).cloned().collect()
        };
        let (comes, mut pending) = (others(&loss.comes), others(&loss.pending).len());
        if is_whole {
            self.pay_by_came(&mut debts, &lost, pending);
        }
        let waits = debts.iter().any(|debt| debt.rank > Rank::Fresh);
        // What brings others in their place may be held, too.
        if !(is_held || is_whole && waits) {
            Payers::these(comes).pay(&mut debts, |_| Some(0));
        }
        if !is_whole {
            self.pay_by_came(&mut debts, &lost, pending);
        }
        // What waits for others waits on, as far as these are still to come.
        debts.sort_by_key(|debt| matches!(debt.rank, Rank::Fresh));
        self.fates.retain(|_, fate| *fate == Fate::LetGo);
        let mut unpaid = Unpaid { going: 0, fresh: Spots::new(), awaiting: Spots::new() };
        for Debt { rank, spot, .. } in debts {
            let may_await = !matches!(rank, Rank::Failed | Rank::Held(_));
            let awaits = may_await && pending > 0;
            pending -= usize::from(awaits);
            match rank {
                Rank::UnderWay => unpaid.going += 1,
                Rank::Failed => {}
                Rank::Awaiting(since, reading) if awaits => {
                    self.fates.insert(spot, Fate::Awaiting(since, reading));
                }
                Rank::Fresh if awaits => _ = unpaid.awaiting.insert(spot),
                Rank::Fresh | Rank::Awaiting(..) => _ = unpaid.fresh.insert(spot),
                Rank::Held(since) => _ = self.fates.insert(spot, Fate::Held(since)),
            }
        }
        unpaid
    }

    /// Lets go what others came in place of. That is left for what `pending` others, which are still to
    /// come, will not do for.
    fn pay_by_came(&mut self, debts: &mut Vec<Debt<A>>, lost: &Spots<A>, pending: usize) {
        if debts.is_empty() || self.came.is_empty() {
            return;
        }
        let payers = Payers::of(&self.came, lost);
        let fresh = debts.iter().filter(|debt| debt.rank == Rank::Fresh);
        let awaiting: Spots<A> = fresh.take(pending).map(|debt| debt.spot.clone()).collect();
        let (paid, spent) = payers.pay(debts, |debt| match debt.rank {
            Rank::Fresh if awaiting.contains(&debt.spot) => None,
            // Those that it waits for came after it began to.
            Rank::Awaiting(_, reading) if debt.is_recent => Some(reading + 1),
            _ => (!debt.is_recent).then_some(0),
        });
        spent.iter().for_each(|spot| _ = self.came.remove(spot));
        // Others are there in their place for good, however long they take to go.
        self.fates.extend(paid.into_iter().map(|spot| (spot, Fate::LetGo)));
    }

    /// What would be lost, but for what is let go.
    fn debts(&self, loss: &Loss<A>) -> Vec<Debt<A>> {
        let mut ranks: BTreeMap<&Spot<A>, Rank> = BTreeMap::new();
        let by_stage = [
            (&loss.under_way, Rank::UnderWay),
            (&loss.failed, Rank::Failed),
            (&loss.due, Rank::Fresh),
        ];
        for (spots, rank) in by_stage {
            ranks.extend(spots.iter().map(|spot| (spot, rank)));
        }
        for (spot, fate) in &self.fates {
            match *fate {
                Fate::LetGo => _ = ranks.remove(spot),
                Fate::Awaiting(since, reading) => {
                    ranks.insert(spot, Rank::Awaiting(since, reading));
                }
                Fate::Held(since) => _ = ranks.insert(spot, Rank::Held(since)),
            }
        }
        let debt = |(spot, rank): (&Spot<A>, Rank)| {
            let is_recent = self.came.contains_key(spot);
            Debt { rank, is_recent, spot: spot.clone() }
        };
        ranks.into_iter().map(debt).collect()
    }

    /// What waits, whether only for others, and when the first of it goes, after letting go whose time
    /// is over.
    fn over(&mut self, hold: Duration, now: Time) -> Option<(Spots<A>, bool, Time)> {
        let (mut held, mut is_awaiting, mut first) = (Spots::new(), true, None);
        for (spot, fate) in &mut self.fates {
            let (Fate::Held(since) | Fate::Awaiting(since, _)) = *fate else { continue };
            let until = since.plus(hold);
            if until <= now {
                *fate = Fate::LetGo;
                continue;
            }
            is_awaiting &= matches!(fate, Fate::Awaiting(..));
            held.insert(spot.clone());
            first = first.into_iter().chain([until]).min();
        }
        Some((held, is_awaiting, first?))
    }
}

impl<A> Default for Budget<A> {
    fn default() -> Self {
        Self { services: BTreeMap::new(), readings: 0 }
    }
}

impl<A> Default for Account<A> {
    fn default() -> Self {
        let (came, gone, fates, outstanding) = Default::default();
        Self { came, gone, fates, outstanding, oldest: None }
    }
}
