//! How many endpoints may go at once.
//!
//! Invariant: what counts is what clients reach, as the sink has it. Endpoints are told apart, not
//! counted: what comes to a service makes up for one that was there a minute before, and for none that
//! came within the minute, for it may be of the same change. What waits, waits for its own time; what was let go is that until it is gone or is back. Nothing is
//! concluded from it for others.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::counts::{Counts, add, shared, subtract, total};
use crate::holdings::{self, Holdings};
use crate::losses::Loss;
use crate::mesh::{Body, Tie};
use crate::payers::{Came, Debt, Payers, Rank, owe, retain};
use crate::plan::Step;
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
    /// Endpoints that came within the window and are there in nobody's place yet, in order.
    came: BTreeMap<A, Vec<Came>>,
    /// Endpoints that went within the window with none in their place, and when.
    gone: BTreeMap<A, Vec<(Time, usize)>>,
    /// Endpoints that are to go, as far as they do not simply go.
    waves: BTreeMap<A, Vec<Wave>>,
    /// Those that are to go, and those that wait for other reasons.
    outstanding: Counts<A>,
    /// When the first of what came and went did: before its window ends nothing is to be forgotten.
    oldest: Option<Time>,
}

/// Endpoints at one address that are to go since the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wave {
    count: usize,
    fate: Fate,
}

/// What becomes of endpoints that are to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Their time is over, or an operator said so, or clients reach them elsewhere, or others came in
    /// their place.
    LetGo,
    /// Others are to come in their place, and are not there since then.
    Awaiting(Time),
    /// They wait since then.
    Held(Time),
}

/// What the budget holds of one service of the mesh.
#[derive(Clone, Debug)]
pub(crate) struct Over<A> {
    /// Endpoints that wait.
    pub(crate) held: Counts<A>,
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
    fresh: Counts<A>,
    /// The same, where others are to come in their place that are not there.
    awaiting: Counts<A>,
}

type Unpaids<'a, A> = BTreeMap<&'a Tie, Unpaid<A>>;

/// Accounts as they were before they were judged.
type Before<'a, A> = BTreeMap<&'a Tie, Account<A>>;

// === impl Over ===

impl<A: Ord + Clone> Over<A> {
    /// What waits of a step; `None` where nothing does. A step of an object without endpoints of its
    /// own, as a ServiceEntry that selects them, waits for theirs.
    pub(crate) fn hold<B: Body<Address = A>>(&mut self, step: &Step<B>) -> Option<Counts<A>> {
        let held = shared(step.lost(), &self.held);
        for (address, count) in &held {
            if let Some(left) = self.held.get_mut(address) {
                *left = left.saturating_sub(*count);
            }
        }
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
            let holdings::Before { reached: before, first, last } = before;
            let mut came = holdings.reached(&tie);
            let stays = shared(came.clone(), &before);
            subtract(&mut came, &stays);
            let mut went = before.clone();
            subtract(&mut went, &stays);
            if !came.is_empty() || !went.is_empty() {
                let account = self.services.entry(tie).or_default();
                account.came(came, self.readings, first);
                account.went(&went, &before, self.readings, last);
            }
        }
    }

    /// Lets go what is held now.
    pub(crate) fn release(&mut self) {
        let accounts = self.services.values_mut();
        for wave in accounts.flat_map(|account| account.waves.values_mut()).flatten() {
            wave.fate = Fate::LetGo;
        }
    }

    /// Takes up what would be lost, and says what of it waits. `besides` is what waits for other
    /// reasons; of services among `whole` a step is held whole where anything is.
    pub(crate) fn judge(
        &mut self,
        losses: &BTreeMap<Tie, Loss<A>>,
        besides: &BTreeMap<Tie, Counts<A>>,
        whole: &BTreeSet<Tie>,
        scale: Scale<'_>,
    ) -> BTreeMap<Tie, Over<A>> {
        let Scale { endpoints, settings, now } = scale;
        self.take_up(losses, besides, now);
        let known = |tie: &Tie| self.services.get(tie).cloned().unwrap_or_default();
        let before: Before<'_, A> = whole.iter().map(|tie| (tie, known(tie))).collect();
        let mut unpaid = self.unpaid(losses, whole);
        let gone = self.services.values().flat_map(|account| account.gone.values()).flatten();
        let gone: usize = gone.map(|(_, count)| count).sum();
        let endpoints = endpoints + gone;
        let is_over = |removals: usize| {
            removals >= settings.removal_min
                && removals * 100 > endpoints * usize::from(settings.removal_share_percent)
        };
        if is_over(self.at_once(&unpaid, gone, now).1) {
            self.hold_whole(losses, before, &mut unpaid);
        }
        let going: usize = unpaid.values().map(|unpaid| unpaid.going).sum();
        let fresh: usize = unpaid.values().map(|unpaid| total(&unpaid.fresh)).sum();
        let (at_once, with_awaiting) = self.at_once(&unpaid, gone, now);
        let awaits = is_over(with_awaiting);
        let holds = is_over(at_once);
        for (tie, unpaid) in unpaid {
            let Some(account) = self.services.get_mut(tie) else { continue };
            if awaits {
                account.wait_all(unpaid.awaiting, Fate::Awaiting(now));
            } else {
                account.drop_waves(|fate| matches!(fate, Fate::Awaiting(_)));
            }
            if holds {
                account.wait_all(unpaid.fresh, Fate::Held(now));
            }
        }
        let passing = if holds { 0 } else { fresh };
        let held = self.count(|fate| matches!(fate, Fate::Held(_)));
        let removals = held + passing + gone + going;
        if !is_over(removals) {
            for account in self.services.values_mut() {
                account.drop_waves(|fate| matches!(fate, Fate::Held(_)));
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
        besides: &BTreeMap<Tie, Counts<A>>,
        now: Time,
    ) {
        for (tie, counts) in besides {
            let account = self.services.entry(tie.clone()).or_default();
            account.outstanding.clone_from(counts);
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
        let fresh: usize = unpaid.values().map(|unpaid| total(&unpaid.fresh)).sum();
        let awaiting: usize = unpaid.values().map(|unpaid| total(&unpaid.awaiting)).sum();
        // What has waited for long is not "at once" with what comes now.
        let is_recent = |fate| matches!(fate, Fate::Held(at) if now.since(at) < BUDGET_WINDOW);
        let at_once = fresh + self.count(is_recent) + gone + going;
        let awaiting = awaiting + self.count(|fate| matches!(fate, Fate::Awaiting(_)));
        (at_once, at_once + awaiting)
    }

    fn count(&self, is_meant: impl Fn(Fate) -> bool) -> usize {
        let accounts = self.services.values();
        let waves = accounts.flat_map(|account| account.waves.values()).flatten();
        waves.filter(|wave| is_meant(wave.fate)).map(|wave| wave.count).sum()
    }
}

// === impl Account ===

impl<A: Ord + Clone> Account<A> {
    fn is_empty(&self) -> bool {
        self.came.is_empty() && self.gone.is_empty() && self.waves.is_empty()
    }

    /// Endpoints came. Those that went before are back, and make up for nobody else.
    fn came(&mut self, came: Counts<A>, reading: u64, now: Time) {
        for (address, mut count) in came {
            for (_, gone) in self.gone.get_mut(&address).into_iter().flatten().rev() {
                let back = count.min(*gone);
                *gone -= back;
                count -= back;
            }
            if count > 0 {
                self.oldest = self.oldest.or(Some(now));
                self.came.entry(address).or_default().push(Came { reading, at: now, count });
            }
        }
        retain(&mut self.gone, |(_, count)| *count > 0);
    }

    /// Endpoints went of those that were there before.
    fn went(&mut self, went: &Counts<A>, before: &Counts<A>, reading: u64, now: Time) {
        let mut debts = Vec::new();
        let recent = self.recent(went, before);
        for (address, count) in went {
            let let_go = self.take_let_go(address, *count);
            let mut old = self.old_at(address, before).saturating_sub(let_go);
            owe(&mut debts, Rank::UnderWay, address, count - let_go, &mut old);
        }
        // Others can do with any.
        debts.sort_by_key(|debt| !debt.is_recent);
        let mut payers = Payers::of(&self.came, &recent);
        for debt in debts {
            // What came within the window is replaced by what comes with the same step alone: who came
            // before or after it may be of the same change.
            let from = if debt.is_recent { reading } else { 0 };
            let unpaid = debt.count - payers.pay(from, debt.count);
            if unpaid > 0 {
                self.oldest = self.oldest.or(Some(now));
                self.gone.entry(debt.address).or_default().push((now, unpaid));
            }
        }
        for (address, count) in &recent {
            let mut left = *count;
            for came in self.came.get_mut(address).into_iter().flatten().rev() {
                let goes = came.count.min(left);
                came.count -= goes;
                left -= goes;
            }
        }
        payers.settle(&mut self.came);
    }

    /// How many of those at an address were there before the window.
    fn old_at(&self, address: &A, there: &Counts<A>) -> usize {
        let came = self.came.get(address).into_iter().flatten().map(|came| came.count);
        there.get(address).copied().unwrap_or_default().saturating_sub(came.sum())
    }

    /// What of `lost` came within the window. Of several at an address those go first that were there
    /// before: a node has the new ones beside those that they replace.
    fn recent(&self, lost: &Counts<A>, there: &Counts<A>) -> Counts<A> {
        let came = lost.iter().filter(|(address, _)| self.came.contains_key(*address));
        let recent = came.map(|(address, count)| {
            (address.clone(), count.saturating_sub(self.old_at(address, there)))
        });
        recent.collect()
    }

    fn take_let_go(&mut self, address: &A, most: usize) -> usize {
        let mut left = most;
        for wave in self.waves.get_mut(address).into_iter().flatten() {
            if wave.fate == Fate::LetGo {
                let gone = wave.count.min(left);
                wave.count -= gone;
                left -= gone;
            }
        }
        most - left
    }

    /// Forgets what went before the window, and what came then.
    fn forget_old(&mut self, now: Time) {
        let is_old = |at: Time| now.since(at) >= BUDGET_WINDOW;
        if !self.oldest.is_some_and(is_old) {
            return;
        }
        retain(&mut self.gone, |(at, _)| !is_old(*at));
        retain(&mut self.came, |came| !is_old(came.at));
        let came = self.came.values().flatten().map(|came| came.at);
        self.oldest = came.chain(self.gone.values().flatten().map(|(at, _)| *at)).min();
    }

    fn let_go_at(&self, address: &A) -> usize {
        let waves = self.waves.get(address).into_iter().flatten();
        waves.filter(|wave| wave.fate == Fate::LetGo).map(|wave| wave.count).sum()
    }

    /// Takes back what was judged of endpoints that are not to go any more.
    fn shrink(&mut self) {
        let outstanding = &self.outstanding;
        self.waves.retain(|address, waves| {
            shrink(waves, outstanding.get(address).copied().unwrap_or_default());
            !waves.is_empty()
        });
    }

    /// Brings what was judged in line with what would be lost now, and returns what of that is new and
    /// has none in its place. Where a step is held whole (`is_held`), or will be for what waits
    /// already (`is_whole`), what it brings does not come.
    fn reconcile(&mut self, loss: &Loss<A>, is_whole: bool, is_held: bool) -> Unpaid<A> {
        let lost = loss.all();
        add(&mut self.outstanding, &lost);
        add(&mut self.outstanding, &loss.later);
        self.shrink();
        for (address, count) in shared(loss.kept.clone(), &lost) {
            self.let_go(address, count);
        }
        let mut payers = Payers::of(&self.came, &self.recent(&lost, &loss.there));
        let mut debts = self.debts(loss, &lost);
        debts.sort_by_key(|debt| debt.rank);
        for debt in &mut debts {
            if debt.is_recent {
                continue;
            }
            let paid = payers.pay(0, debt.count);
            debt.count -= paid;
            // Others are there in their place for good, however long they take to go.
            let known = self.let_go_at(&debt.address);
            self.let_go(debt.address.clone(), known + paid);
        }
        payers.settle(&mut self.came);
        // What is back is no longer gone, and makes up for nothing else.
        let others = |counts: &Counts<A>| -> usize {
            let others = counts.iter().filter(|(address, _)| !self.gone.contains_key(*address));
            others.map(|(_, count)| count).sum()
        };
        let mut pending = others(&loss.pending);
        let mut comes = others(&loss.comes);
        let waits = |debt: &Debt<A>| debt.rank > Rank::Fresh && debt.count > 0;
        if is_held || is_whole && debts.iter().any(waits) {
            // What brings others in their place is held, too.
            comes = 0;
        }
        for debt in &mut debts {
            let paid = debt.count.min(comes);
            comes -= paid;
            debt.count -= paid;
        }
        // What waits for others waits on, as far as these are still to come.
        debts.sort_by_key(|debt| matches!(debt.rank, Rank::Fresh));
        self.drop_waves(|fate| !matches!(fate, Fate::LetGo));
        let mut unpaid = Unpaid { going: 0, fresh: Counts::new(), awaiting: Counts::new() };
        for Debt { rank, address, count, .. } in debts {
            let awaits = match rank {
                Rank::Failed | Rank::Held(_) => 0,
                Rank::UnderWay | Rank::Fresh | Rank::Awaiting(_) => count.min(pending),
            };
            pending -= awaits;
            let rest = count - awaits;
            match rank {
                Rank::UnderWay => unpaid.going += count,
                Rank::Failed => {}
                Rank::Fresh => {
                    note(&mut unpaid.awaiting, &address, awaits);
                    note(&mut unpaid.fresh, &address, rest);
                }
                Rank::Awaiting(since) => {
                    self.wait(&address, awaits, Fate::Awaiting(since));
                    note(&mut unpaid.fresh, &address, rest);
                }
                Rank::Held(since) => self.wait(&address, rest, Fate::Held(since)),
            }
        }
        unpaid
    }

    /// What would be lost, but for what is let go.
    fn debts(&self, loss: &Loss<A>, lost: &Counts<A>) -> Vec<Debt<A>> {
        let mut debts = Vec::new();
        let waits = self.waves.keys().filter(|address| !lost.contains_key(*address));
        for address in lost.keys().chain(waits) {
            let all = lost.get(address).copied().unwrap_or_default();
            let let_go = self.let_go_at(address);
            let mut old = self.old_at(address, &loss.there).saturating_sub(let_go);
            let mut add = |rank, count| owe(&mut debts, rank, address, count, &mut old);
            let mut left = all.saturating_sub(let_go);
            let waves = || self.waves.get(address).into_iter().flatten();
            for Wave { count, fate } in waves().copied() {
                match fate {
                    Fate::Held(since) => add(Rank::Held(since), count),
                    Fate::Awaiting(since) => add(Rank::Awaiting(since), count),
                    Fate::LetGo => continue,
                }
                left = left.saturating_sub(count);
            }
            let mut take = |counts: &Counts<A>| {
                let count = counts.get(address).copied().unwrap_or_default().min(left);
                left -= count;
                count
            };
            add(Rank::Fresh, take(&loss.due));
            add(Rank::Failed, take(&loss.failed));
            add(Rank::UnderWay, take(&loss.under_way));
        }
        debts
    }

    /// Lets go so many of those at an address, whatever else there is.
    fn let_go(&mut self, address: A, count: usize) {
        let waves = self.waves.entry(address).or_default();
        let known = waves.iter().filter(|wave| wave.fate == Fate::LetGo).map(|wave| wave.count);
        let more = count.saturating_sub(known.sum());
        let mut left = more;
        for wave in waves.iter_mut().filter(|wave| wave.fate != Fate::LetGo) {
            let taken = wave.count.min(left);
            wave.count -= taken;
            left -= taken;
        }
        waves.push(Wave { count: more, fate: Fate::LetGo });
        waves.retain(|wave| wave.count > 0);
    }

    fn wait(&mut self, address: &A, count: usize, fate: Fate) {
        if count > 0 {
            self.waves.entry(address.clone()).or_default().push(Wave { count, fate });
        }
    }

    fn wait_all(&mut self, counts: Counts<A>, fate: Fate) {
        for (address, count) in counts {
            self.wait(&address, count, fate);
        }
    }

    fn drop_waves(&mut self, is_dropped: impl Fn(Fate) -> bool) {
        retain(&mut self.waves, |wave| !is_dropped(wave.fate));
    }

    /// What waits, whether only for others, and when the first of it goes, after letting go whose time
    /// is over.
    fn over(&mut self, hold: Duration, now: Time) -> Option<(Counts<A>, bool, Time)> {
        let (mut held, mut is_awaiting, mut first) = (Counts::new(), true, None);
        for (address, waves) in &mut self.waves {
            for wave in waves {
                let (Fate::Held(since) | Fate::Awaiting(since)) = wave.fate else { continue };
                let until = since.plus(hold);
                if until <= now {
                    wave.fate = Fate::LetGo;
                    continue;
                }
                is_awaiting &= matches!(wave.fate, Fate::Awaiting(_));
                note(&mut held, address, wave.count);
                first = first.into_iter().chain([until]).min();
            }
        }
        Some((held, is_awaiting, first?))
    }
}

fn note<A: Ord + Clone>(counts: &mut Counts<A>, address: &A, count: usize) {
    if count > 0 {
        *counts.entry(address.clone()).or_default() += count;
    }
}

/// Takes from `waves` what is beyond `count`: first what was free to go, then what waits for the
/// shortest time.
fn shrink(waves: &mut Vec<Wave>, count: usize) {
    let all: usize = waves.iter().map(|wave| wave.count).sum();
    let mut surplus = all.saturating_sub(count);
    waves.sort_by_key(|wave| match wave.fate {
        Fate::LetGo => None,
        Fate::Held(since) | Fate::Awaiting(since) => Some(Reverse(since)),
    });
    for wave in waves.iter_mut() {
        let gone = wave.count.min(surplus);
        surplus -= gone;
        wave.count -= gone;
    }
    waves.retain(|wave| wave.count > 0);
}

impl<A> Default for Budget<A> {
    fn default() -> Self {
        Self { services: BTreeMap::new(), readings: 0 }
    }
}

impl<A> Default for Account<A> {
    fn default() -> Self {
        let (came, gone, waves, outstanding) = Default::default();
        Self { came, gone, waves, outstanding, oldest: None }
    }
}
