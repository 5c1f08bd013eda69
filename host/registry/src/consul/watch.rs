//! Runs the watches over all scopes of a source: sends what they ask, hands them the answers, and
//! publishes what they found.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use futures_util::{FutureExt, future};
use landfall_core::finding::Finding;
use landfall_core::registry::Snapshot;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::client::{Ask, Client, ConsulError, Reply};
use super::scope::{Limits, ScopeWatch};
use super::{ConsulSettings, Scope};
use crate::{Publisher, Trouble};

// Namespaces come and go rarely, and Consul does not let us wait for them together with others.
const NAMESPACES_EVERY: Duration = Duration::from_secs(30);

/// Watches for ever.
pub(super) async fn run(settings: ConsulSettings, out: &Publisher) -> Infallible {
    let client = Arc::new(Client::new(settings.clone(), Arc::clone(out.metrics())));
    let mut watch = Watch::new(settings, client, out);
    loop {
        watch.ask_all();
        watch.publish();
        watch.hear().await;
    }
}

struct Watch<'a> {
    settings: ConsulSettings,
    client: Arc<Client>,
    budget: Arc<Budget>,
    out: &'a Publisher,
    scopes: BTreeMap<Scope, Running>,
    /// Failure to learn which scopes there are.
    roster_trouble: Option<Trouble>,
    /// Whether every place has told its scopes at least once.
    roster_known: bool,
    roster_at: Option<Instant>,
    in_flight: FuturesUnordered<BoxFuture<'static, Heard>>,
    snapshot: Snapshot,
    /// Whether scopes went, and their services and findings with them.
    scopes_went: bool,
    told: Option<Trouble>,
    published: bool,
    /// Why the first listing lacks scopes, until it has all of them.
    lacking: Option<Trouble>,
}

/// The requests that may be under way, over all scopes: each scope alone keeps to its share, but
/// no share is smaller than what a scope works with.
struct Budget {
    all: Semaphore,
    /// Of all, those that may be long polls. The others are for reads, which must not wait until
    /// nothing changes.
    polls: Semaphore,
}

struct Running {
    watch: ScopeWatch,
    epoch: Epoch,
}

/// Dropping it gives up what is under way.
struct Epoch {
    number: u64,
    token: CancellationToken,
    _guard: DropGuard,
}

enum Heard {
    Answer { scope: Scope, epoch: u64, ask: Ask, answer: Result<Reply, ConsulError> },
    GivenUp,
    Roster(Roster),
}

/// The namespaces of each place that is configured.
type Roster = Vec<(Scope, Result<Vec<String>, ConsulError>)>;

// === impl Watch ===

impl<'a> Watch<'a> {
    fn new(settings: ConsulSettings, client: Arc<Client>, out: &'a Publisher) -> Self {
        let mut watch = Self {
            budget: Arc::new(Budget::of(settings.connections_max)),
            settings,
            client,
            out,
            scopes: BTreeMap::new(),
            roster_trouble: None,
            roster_known: false,
            roster_at: None,
            in_flight: FuturesUnordered::new(),
            snapshot: Snapshot::default(),
            scopes_went: false,
            told: None,
            published: false,
            lacking: None,
        };
        if watch.settings.wants_all_namespaces() {
            watch.roster_at = Some(Instant::now());
        } else {
            watch.roster_known = true;
            watch.set_scopes(watch.settings.scopes(|_| Vec::new()), false);
        }
        watch
    }

    /// Watches exactly `scopes` from now on. Those that are not watched yet came into being while the
    /// source ran, if `came_since`.
    fn set_scopes(&mut self, scopes: Vec<Scope>, came_since: bool) {
        let now = Instant::now();
        let gone: Vec<Scope> =
            self.scopes.keys().filter(|known| !scopes.contains(known)).cloned().collect();
        for scope in gone {
            if let Some(running) = self.scopes.remove(&scope) {
                for key in running.watch.keys() {
                    self.snapshot.services.remove(key);
                }
                self.scopes_went = true;
            }
        }
        let in_flight = self.settings.connections_max / scopes.len().max(1);
        for scope in scopes {
            let running = self.scopes.entry(scope).or_insert_with_key(|scope| {
                let watch = ScopeWatch::new(scope, in_flight, &self.settings, now);
                let watch = if came_since { watch.without_past() } else { watch };
                Running { watch, epoch: Epoch::new(0) }
            });
            running.watch.set_in_flight(in_flight);
        }
    }

    /// Sends everything that the scopes ask.
    fn ask_all(&mut self) {
        let now = Instant::now();
        if self.roster_at.is_some_and(|at| at <= now) {
            self.roster_at = None;
            let (settings, client) = (self.settings.clone(), Arc::clone(&self.client));
            let budget = Arc::clone(&self.budget);
            let asking = async move {
                let _taken = budget.take(false).await;
                Heard::Roster(roster(&settings, &client).await)
            };
            self.in_flight.push(asking.boxed());
        }
        for (scope, running) in &mut self.scopes {
            loop {
                let asked = running.watch.next_ask(now);
                if running.watch.epoch() != running.epoch.number {
                    running.epoch = Epoch::new(running.watch.epoch());
                }
                let Some(ask) = asked else { break };
                if running.watch.is_recovering() && matches!(ask, Ask::View { index: None, .. }) {
                    self.client.renew();
                }
                let (client, scope) = (Arc::clone(&self.client), scope.clone());
                let (epoch, token) = (running.epoch.number, running.epoch.token.clone());
                let budget = Arc::clone(&self.budget);
                self.in_flight.push(
                    async move {
                        let asking = async {
                            let _taken = budget.take(ask.waits()).await;
                            client.ask(&scope, &ask).await
                        };
                        match token.run_until_cancelled(asking).await {
                            Some(answer) => Heard::Answer { scope, epoch, ask, answer },
                            None => Heard::GivenUp,
                        }
                    }
                    .boxed(),
                );
            }
        }
    }

    /// Waits for an answer or until a scope has something to ask; then takes all answers that are
    /// there, so that they are published together.
    async fn hear(&mut self) {
        let scopes = self.scopes.values().filter_map(|running| running.watch.wake_at());
        let wake_at = scopes.chain(self.roster_at).min();
        let woken = async {
            match wake_at {
                Some(at) => sleep_until(at).await,
                None => future::pending().await,
            }
        };
        let nothing_asked = self.in_flight.is_empty();
        let mut heard = tokio::select! {
            heard = self.in_flight.next(), if !nothing_asked => heard,
            () = woken => None,
        };
        while let Some(one) = heard {
            self.take(one);
            heard = self.in_flight.next().now_or_never().flatten();
        }
    }

    fn take(&mut self, heard: Heard) {
        match heard {
            Heard::GivenUp => (),
            Heard::Answer { scope, epoch, ask, answer } => {
                let now = Instant::now();
                let Some(running) = self.scopes.get_mut(&scope) else { return };
                if epoch == running.epoch.number && epoch == running.watch.epoch() {
                    running.watch.answered(ask, answer, now);
                }
                // Whoever limits us does not know of scopes.
                if let Some(until) = running.watch.limited_until(now) {
                    self.scopes.values_mut().for_each(|other| other.watch.hold_until(until));
                }
            }
            Heard::Roster(roster) => self.take_roster(&roster),
        }
    }

    fn take_roster(&mut self, roster: &Roster) {
        let errors = || roster.iter().filter_map(|(_, names)| names.as_ref().err());
        let pauses = errors().filter_map(|error| match error {
            ConsulError::RateLimited { retry_after, .. } => *retry_after,
            _ => None,
        });
        self.roster_at = Some(Instant::now() + pauses.fold(NAMESPACES_EVERY, Duration::max));
        self.roster_trouble = errors().next().map(Trouble::from);
        let was_known = self.roster_known;
        self.roster_known |= self.roster_trouble.is_none();
        let scopes = self.settings.scopes(|place| {
            match roster.iter().find(|(known, _)| known == place) {
                Some((_, Ok(names))) => names.clone(),
                // What is known of a place that does not tell stands.
                _ => self.namespaces_of(place),
            }
        });
        self.set_scopes(scopes, was_known);
    }

    /// The namespaces of `place` that are watched.
    fn namespaces_of(&self, place: &Scope) -> Vec<String> {
        let is_there = |scope: &&Scope| {
            scope.datacenter == place.datacenter && scope.partition == place.partition
        };
        self.scopes.keys().filter(is_there).filter_map(|scope| scope.namespace.clone()).collect()
    }

    /// Tells what is known now, if it differs from what was told.
    fn publish(&mut self) {
        let is_listed = |running: &Running| running.watch.is_listed();
        let is_whole = self.roster_known && self.scopes.values().all(is_listed);
        if is_whole {
            self.lacking = None;
        }
        let trouble = self.trouble().or_else(|| self.lacking.clone());
        if !self.published && !is_whole {
            // A part of the first listing is told, in doubt, once nothing is missing in it but
            // what cannot be read just now: one lost datacenter must not keep the others silent.
            let fails = |running: &Running| running.watch.trouble().is_some();
            let mut scopes = self.scopes.values();
            if !scopes.clone().any(is_listed) || !scopes.all(|one| is_listed(one) || fails(one)) {
                if let Some(trouble) = trouble.clone().filter(|_| self.told != trouble) {
                    self.out.doubt(trouble);
                }
                self.told = trouble;
                return;
            }
            self.lacking.clone_from(&trouble);
        }
        let mut changed = !self.published || self.told != trouble || self.scopes_went;
        let mut confirmed = true;
        // A namespace that is new has its part of the listing once that is complete.
        for running in self.scopes.values_mut().filter(|running| running.watch.is_listed()) {
            for (key, service) in running.watch.take_changes() {
                changed = true;
                match service {
                    Some(service) => self.snapshot.services.insert(key, service),
                    None => self.snapshot.services.remove(&key),
                };
            }
            changed |= running.watch.take_findings_changed();
            confirmed &= running.watch.take_confirmed();
        }
        if changed {
            let findings: Vec<Finding> = self
                .scopes
                .values()
                .flat_map(|running| running.watch.findings())
                .cloned()
                .collect();
            let snapshot = self.snapshot.clone();
            match trouble.clone() {
                None => self.out.complete(snapshot, findings),
                Some(trouble) => self.out.complete_in_doubt(snapshot, findings, trouble),
            }
        } else if confirmed && trouble.is_none() {
            self.out.confirmed();
        }
        self.scopes_went = false;
        self.published = true;
        self.told = trouble;
    }

    fn trouble(&self) -> Option<Trouble> {
        let scopes = || self.scopes.values().find_map(|running| running.watch.trouble());
        self.roster_trouble.clone().or_else(scopes)
    }
}

// === impl Budget ===

impl Budget {
    fn of(connections_max: usize) -> Self {
        let limits = Limits::of(connections_max);
        let [all, polls] = [limits.in_flight, limits.long_polls()].map(Semaphore::new);
        Self { all, polls }
    }

    /// Waits until one more request may be under way; it may for as long as the permits live.
    /// Those that wait longest are first.
    async fn take(&self, waits: bool) -> [Option<SemaphorePermit<'_>>; 2] {
        // Nobody closes them, so there always is a permit at last.
        let poll = if waits { self.polls.acquire().await.ok() } else { None };
        [poll, self.all.acquire().await.ok()]
    }
}

// === impl Epoch ===

impl Epoch {
    fn new(number: u64) -> Self {
        let token = CancellationToken::new();
        Self { number, _guard: token.clone().drop_guard(), token }
    }
}

/// Asks every place for its namespaces.
async fn roster(settings: &ConsulSettings, client: &Client) -> Roster {
    let mut places = settings.clone();
    places.namespaces.clear();
    let mut found = Vec::new();
    for place in places.scopes(|_| Vec::new()) {
        let names = client.namespaces(&place).await;
        found.push((place, names));
    }
    found
}
