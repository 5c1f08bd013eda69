//! Keeps the observation current: finds out which API is served, lists, watches, and does so
//! again for as long as it takes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::stream::{self, BoxStream, FuturesUnordered, SelectAll, StreamExt as _};
use kube::api::WatchParams;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use landfall_core::mesh::Kind;
use landfall_core::text::{Interner, Text};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::backoff::{self, ShortBackoff};
use super::error::{MISSING, condition, condition_of_watch, status_of};
use super::store::Listing;
use super::wire::{Sighting, sight};
use super::{KubeSink, Observation, READ_TIMEOUT, WATCH_SECS};
use crate::api::{
    ApiVersion, GROUP, Owner, ServiceEntryWire, Wire, WireSpec, WorkloadEntryWire, plural,
};
use crate::sink::Condition;

/// What a watch says, read.
pub(super) enum News {
    /// A list is about to be asked for.
    Begin,
    Listed(Sighting),
    Complete,
    Changed(Sighting),
    Gone(Sighting),
    Failed(Failure),
    /// The stream ended in the middle, as when an API server restarts; it is taken up again.
    Broken(watcher::Error),
}

// A page of the largest objects is then 75 MB at worst, of usual ones 60 kB: deploy/ gives the
// process 512 MiB. 10,000 objects are 200 pages, which took 4 s from a kube-apiserver of 1.36 on
// two busy cores, where pages of 250 took 1 to 9 s.
pub(super) const PAGE_LEN: u32 = 50;
/// Why a scope is not watched.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    condition: Condition,
    /// Whether the API server says that there is no such kind.
    is_missing: bool,
    /// Whether nothing need be heard of it once it works again.
    heals_silently: bool,
}

/// What keeps which scopes from being watched.
#[derive(Debug, Default)]
struct Failing {
    scopes: BTreeMap<usize, (Failure, Instant)>,
}

// Until the CRDs are there, or a right is given: soon enough for a person who waits for it.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
// A watch that is taken up again says nothing until something changes, so that it would be given is
// asked besides. One that still fails says so at least this often: after the longest pause, and the longest wait for an answer.
const SILENCE: Duration = backoff::PAUSE_MAX.saturating_add(READ_TIMEOUT);
const TICK: Duration = Duration::from_secs(5);

impl KubeSink {
    /// Keeps the observation current until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => (),
            () = self.observe() => (),
        }
    }

    async fn observe(&self) {
        let mut delay = RETRY_MIN;
        loop {
            match served_version(&self.client).await {
                Ok(version) => {
                    delay = RETRY_MIN;
                    self.state.send_modify(|state| state.version = Some(version));
                    info!(
                        version = version.with_group(),
                        "Watching ServiceEntries and WorkloadEntries."
                    );
                    self.watch(version).await;
                }
                Err(condition) => self.say(Some(&condition)),
            }
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(RETRY_MAX);
        }
    }

    /// Watches until the API server serves another version, or none. That one of the kinds is not
    /// there, as when its CRD was not installed with the other, keeps nobody from watching the
    /// other.
    async fn watch(&self, version: ApiVersion) {
        let mut scopes: Vec<Scope> = Vec::new();
        let namespaces = &self.options.namespaces;
        let of_kind = |kind: Kind| -> Vec<Scope> {
            if namespaces.is_empty() {
                return vec![Scope { kind, namespace: None }];
            }
            namespaces.iter().map(|n| Scope { kind, namespace: Some(Text::clone(n)) }).collect()
        };
        scopes.extend(of_kind(Kind::ServiceEntry));
        scopes.extend(of_kind(Kind::WorkloadEntry));
        *self.listings() =
            scopes.iter().map(|scope| Listing::new(scope.kind, scope.namespace.clone())).collect();
        let mut failing = Failing::default();
        // Those of which the API server says that there is no such kind; their watches have ended.
        let mut missing: BTreeSet<usize> = BTreeSet::new();
        let watched = |(index, scope): (usize, &Scope)| {
            let news = scope.news(self.client.clone(), version, self.options.owner.clone());
            until_missing(news).map(move |news| (index, news)).boxed()
        };
        let mut all: SelectAll<_> = scopes.iter().enumerate().map(watched).collect();
        let mut probes = FuturesUnordered::new();
        let mut tick = tokio::time::interval(TICK);
        loop {
            let (index, news) = tokio::select! {
                Some(news) = all.next(), if !all.is_empty() => news,
                Some((index, asked_at, is_given)) = probes.next(), if !probes.is_empty() => {
                    if is_given && failing.works_since(index, asked_at) {
                        self.say(failing.first());
                    }
                    continue;
                }
                now = tick.tick() => {
                    if probes.is_empty() {
                        probes.extend(failing.silent().map(|index| self.probe(index, &scopes, version)));
                    }
                    if failing.expire(now) {
                        self.say(failing.first());
                    }
                    if !missing.is_empty() {
                        if !self.still_serves(version).await {
                            return;
                        }
                        let again = std::mem::take(&mut missing);
                        all.extend(
                            scopes.iter().enumerate().filter(|(i, _)| again.contains(i)).map(watched),
                        );
                    }
                    continue;
                }
            };
            match news {
                News::Failed(failure) => {
                    if failure.is_missing {
                        missing.insert(index);
                    }
                    failing.failed(index, failure, Instant::now());
                    self.say(failing.first());
                }
                News::Broken(error) => debug!(%error, "A watch ended and is started again."),
                // Nothing is known before the first page comes.
                News::Begin => self.begin(index),
                other => {
                    failing.works(index);
                    self.say(failing.first());
                    self.take(index, other);
                }
            }
        }
    }

    /// Asks for a watch of the scope at `index`, as the one that failed does in its own time. Says
    /// when that was, and whether one is given.
    async fn probe(
        &self,
        index: usize,
        scopes: &[Scope],
        version: ApiVersion,
    ) -> (usize, Instant, bool) {
        let asked_at = Instant::now();
        let from = self.listings().get(index).map(Listing::delivered).unwrap_or_default();
        let Some(scope) = scopes.get(index) else { return (index, asked_at, false) };
        let watch = scope.can_be_watched(self.client.clone(), version, from);
        let is_given = tokio::time::timeout(TICK, watch).await.unwrap_or_default();
        (index, asked_at, is_given)
    }

    /// Whether `version` is what the API server serves, as far as it says.
    async fn still_serves(&self, version: ApiVersion) -> bool {
        match tokio::time::timeout(TICK, served_version(&self.client)).await {
            Ok(Ok(served)) => served == version,
            Ok(Err(condition)) => condition.code != MISSING,
            // What answers slowly may answer the watches yet.
            Err(_) => true,
        }
    }

    fn begin(&self, index: usize) {
        if let Some(listing) = self.listings().get_mut(index) {
            listing.begin();
        }
    }

    /// Takes up news of the scope at `index`.
    pub(super) fn take(&self, index: usize, news: News) {
        let mut listings = self.listings();
        let Some(listing) = listings.get_mut(index) else { return };
        match news {
            News::Listed(sighting) => return listing.see(sighting),
            News::Complete => self.state.send_modify(|state| {
                listing.finish(state);
            }),
            News::Changed(sighting) => {
                listing.deliver(sighting.version());
                if !listing.has_ended(sighting.version()) {
                    self.state.send_modify(|state| state.take(sighting));
                }
            }
            News::Gone(sighting) => {
                listing.deliver_end(sighting.version());
                self.state.send_modify(|state| state.remove(&sighting));
            }
            News::Begin | News::Failed(_) | News::Broken(_) => return,
        }
        let ready = listings.iter().all(|listing| listing.done);
        self.state.send_if_modified(|state| {
            let changed = ready && !state.ready;
            state.ready |= ready;
            changed
        });
    }

    /// Publishes why what is known may be out of date, or that nothing stands against it.
    fn say(&self, condition: Option<&Condition>) {
        self.state.send_if_modified(|state| {
            if state.condition.as_ref() == condition {
                return false;
            }
            if let Some(condition) = condition {
                debug!(code = condition.code, error = %condition, "Kubernetes cannot be observed; keeping what is known.");
            }
            state.condition = condition.cloned();
            true
        });
    }
}

// === impl Failing ===

impl Failing {
    fn failed(&mut self, scope: usize, failure: Failure, now: Instant) {
        self.scopes.insert(scope, (failure, now));
    }

    fn works(&mut self, scope: usize) {
        self.scopes.remove(&scope);
    }

    /// Those of which nothing need be heard once they work again.
    fn silent(&self) -> impl Iterator<Item = usize> {
        let silent = self.scopes.iter().filter(|(_, (failure, _))| failure.heals_silently);
        silent.map(|(scope, _)| *scope)
    }

    /// Takes up that a scope would work that was asked for at `asked_at`, unless it failed after.
    /// Says whether it was failing.
    fn works_since(&mut self, scope: usize, asked_at: Instant) -> bool {
        let is_past = self.scopes.get(&scope).is_some_and(|(_, at)| *at <= asked_at);
        is_past && self.scopes.remove(&scope).is_some()
    }

    /// Lets go what would have failed again by `now`. Says whether there was any.
    fn expire(&mut self, now: Instant) -> bool {
        let before = self.scopes.len();
        self.scopes.retain(|_, (failure, at)| {
            !failure.heals_silently || now.saturating_duration_since(*at) < SILENCE
        });
        self.scopes.len() < before
    }

    /// What is said of them: one at a time, and the same as long as it holds, however often the
    /// others fail meanwhile.
    fn first(&self) -> Option<&Condition> {
        self.scopes.values().next().map(|(failure, _)| &failure.condition)
    }
}

/// One kind in one namespace, or in all.
struct Scope {
    kind: Kind,
    namespace: Option<Text>,
}

impl Scope {
    fn news(&self, client: Client, version: ApiVersion, owner: Owner) -> BoxStream<'static, News> {
        match self.kind {
            Kind::ServiceEntry => self.news_of::<ServiceEntryWire>(client, version, owner),
            Kind::WorkloadEntry => self.news_of::<WorkloadEntryWire>(client, version, owner),
        }
    }

    /// Whether the API server gives a watch that begins after `from`.
    async fn can_be_watched(&self, client: Client, version: ApiVersion, from: u64) -> bool {
        // Nobody waits for what it says.
        let params = WatchParams::default().timeout(1);
        let from = from.to_string();
        match self.kind {
            Kind::ServiceEntry => {
                let api = self.api::<ServiceEntryWire>(client, version);
                api.watch(&params, &from).await.is_ok()
            }
            Kind::WorkloadEntry => {
                let api = self.api::<WorkloadEntryWire>(client, version);
                api.watch(&params, &from).await.is_ok()
            }
        }
    }

    fn api<S: WireSpec>(&self, client: Client, version: ApiVersion) -> Api<Wire<S>> {
        match &self.namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &version),
            None => Api::all_with(client, &version),
        }
    }

    fn news_of<S: WireSpec>(
        &self,
        client: Client,
        version: ApiVersion,
        owner: Owner,
    ) -> BoxStream<'static, News> {
        let api = self.api::<S>(client, version);
        let what = match &self.namespace {
            Some(namespace) => format!("{} of {GROUP} in namespace {namespace}", plural(S::KIND)),
            None => format!("{} of {GROUP}", plural(S::KIND)),
        };
        let config = watcher::Config::default().page_size(PAGE_LEN).timeout(WATCH_SECS);
        // Lives as long as one list, in which words repeat.
        let mut interner = Interner::default();
        let news =
            watcher(api, config).backoff(ShortBackoff::default()).map(move |event| match event {
                Ok(Event::Init) => {
                    interner = Interner::default();
                    News::Begin
                }
                Ok(Event::InitApply(wire)) => News::Listed(sight(wire, &owner, &mut interner)),
                Ok(Event::InitDone) => {
                    interner = Interner::default();
                    News::Complete
                }
                Ok(Event::Apply(wire)) => {
                    News::Changed(sight(wire, &owner, &mut Interner::default()))
                }
                Ok(Event::Delete(wire)) => {
                    News::Gone(sight(wire, &owner, &mut Interner::default()))
                }
                Err(error @ (watcher::Error::WatchFailed(_) | watcher::Error::WatchError(_))) => {
                    News::Broken(error)
                }
                Err(error) => News::Failed(Failure {
                    condition: condition_of_watch(&error, &what),
                    is_missing: is_missing(&error),
                    heals_silently: matches!(error, watcher::Error::WatchStartFailed(_)),
                }),
            });
        news.boxed()
    }
}

/// The news up to the one that there is no such kind: should it come back, nothing of what was
/// known of it holds.
fn until_missing(news: BoxStream<'static, News>) -> BoxStream<'static, News> {
    stream::unfold(Some(news), |news| async {
        let mut news = news?;
        let next = news.next().await?;
        let goes_on = !matches!(&next, News::Failed(failure) if failure.is_missing);
        Some((next, goes_on.then_some(news)))
    })
    .boxed()
}

fn is_missing(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) => {
            status_of(error) == Some(404)
        }
        _ => false,
    }
}

/// The version of Istio's API to use: the newest that is served.
async fn served_version(client: &Client) -> Result<ApiVersion, Condition> {
    let groups = match client.list_api_groups().await {
        Ok(groups) => groups,
        // Whoever may read the resources but not what there is: the usual version, then.
        Err(error) if status_of(&error) == Some(403) => return Ok(ApiVersion::V1),
        Err(error) => return Err(condition(&error, "its own API groups")),
    };
    let served: BTreeSet<String> = groups
        .groups
        .into_iter()
        .filter(|group| group.name == GROUP)
        .flat_map(|group| group.versions)
        .map(|version| version.version)
        .collect();
    [ApiVersion::V1, ApiVersion::V1Beta1]
        .into_iter()
        .find(|version| served.contains(version.as_str()))
        .ok_or_else(|| Condition {
            code: MISSING,
            message: format!(
                "the API server knows neither v1 nor v1beta1 of {GROUP}. Install Istio's CRDs, or \
                 remove this sink"
            ),
        })
}

impl Observation {
    /// The version of Istio's API that is served; the usual one until it is known.
    pub(super) fn api_version(&self) -> ApiVersion {
        self.version.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: &'static str, heals_silently: bool) -> Failure {
        let condition = Condition { code, message: String::new() };
        Failure { condition, is_missing: false, heals_silently }
    }

    #[test]
    fn one_condition_stands_while_several_scopes_fail() {
        let mut failing = Failing::default();
        let begin = Instant::now();
        let said = |failing: &Failing| failing.first().map(|condition| condition.code);
        failing.failed(1, failure("kube_forbidden", false), begin);
        failing.failed(0, failure("kube_unreachable", true), begin);
        failing.failed(1, failure("kube_forbidden", false), begin);
        assert_eq!(said(&failing), Some("kube_unreachable"));
        // A watch that was taken up says nothing, a list does.
        assert!(!failing.expire(begin + SILENCE / 2));
        assert!(failing.expire(begin + SILENCE));
        assert_eq!(said(&failing), Some("kube_forbidden"));
        assert!(!failing.expire(begin + 10 * SILENCE));
        failing.works(1);
        assert_eq!(said(&failing), None);
    }
}
