//! Asks Cloud Map, as often as is due and allowed, and publishes what is known then.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use landfall_core::registry::ServiceKey;
use tokio::time::{Instant, sleep, sleep_until};

use super::client::{Catalog, Client, Discovered, Paces};
use super::convert::Info;
use super::error::CloudMapError;
use super::listing::{Absence, Listing};
use super::schedule::Schedule;
use super::settings::CloudMapSettings;
use crate::backoff::{Backoff, jittered};
use crate::trouble::Failure;
use crate::{Publisher, Trouble};

// To look for other credentials may be a request to AWS each time, and they rarely change.
const RENEW_GAP: Duration = Duration::from_secs(10);

/// Watches for ever.
pub(super) async fn run(settings: CloudMapSettings, out: &Publisher) -> Infallible {
    let paces = Arc::new(Paces::new());
    let mut backoff = Backoff::of_registry();
    let client = loop {
        match Client::new(&settings, Arc::clone(&paces), Arc::clone(out.metrics())).await {
            Ok(client) => break Arc::new(client),
            Err(error) => out.doubt((&error).into()),
        }
        sleep(backoff.after_failure()).await;
    };
    let mut watch = Watch::new(client, paces, settings, out, Instant::now());
    let mut asked = FuturesUnordered::new();
    loop {
        asked.extend(watch.questions(Instant::now()));
        let next_at = watch.next_at();
        tokio::select! {
            Some(answer) = asked.next() => watch.answered(answer, Instant::now()).await,
            // Always so where nothing is asked: the catalog is due at some time.
            () = sleep_until(next_at.unwrap_or_else(Instant::now)), if next_at.is_some() => (),
        }
    }
}

struct Watch<'a> {
    client: Arc<Client>,
    paces: Arc<Paces>,
    settings: CloudMapSettings,
    out: &'a Publisher,
    listing: Listing,
    reads: Lane,
    revisions: Lane,
    is_cataloging: bool,
    catalog_at: Instant,
    catalog_backoff: Backoff,
    /// Why there is no newer catalog.
    catalog_trouble: Option<Trouble>,
    is_cataloged: bool,
    /// Namespaces of the configuration that there are none of.
    no_namespaces: Vec<String>,
    is_listed: bool,
    /// Since when there have been no instances, before that is believed.
    empty_since: Option<Instant>,
    is_empty_believed: bool,
    renewed_at: Option<Instant>,
}

/// One kind of question, of which one is asked at a time.
struct Lane {
    is_asking: bool,
    schedule: Schedule,
    /// What is wrong with single services.
    failures: BTreeMap<ServiceKey, Failure>,
    /// Nothing is asked before, for nothing would be answered.
    not_before: Option<Instant>,
    backoff: Backoff,
}

enum Answer {
    Catalog(Result<Catalog, CloudMapError>),
    Read(ServiceKey, Result<Discovered, CloudMapError>),
    Revision(ServiceKey, Result<i64, CloudMapError>),
}

type Question = BoxFuture<'static, Answer>;

// === impl Watch ===

impl<'a> Watch<'a> {
    fn new(
        client: Arc<Client>,
        paces: Arc<Paces>,
        settings: CloudMapSettings,
        out: &'a Publisher,
        now: Instant,
    ) -> Self {
        Self {
            client,
            paces,
            settings,
            out,
            listing: Listing::default(),
            reads: Lane::new(),
            revisions: Lane::new(),
            is_cataloging: false,
            catalog_at: now,
            catalog_backoff: Backoff::of_registry(),
            catalog_trouble: None,
            is_cataloged: false,
            no_namespaces: Vec::new(),
            is_listed: false,
            empty_since: None,
            is_empty_believed: false,
            renewed_at: None,
        }
    }

    /// What is to be asked now.
    fn questions(&mut self, now: Instant) -> Vec<Question> {
        let mut questions: Vec<Question> = Vec::new();
        if !self.is_cataloging && self.catalog_at <= now {
            self.is_cataloging = true;
            let (client, wanted) = (Arc::clone(&self.client), self.settings.namespaces.clone());
            questions.push(async move { Answer::Catalog(client.catalog(&wanted).await) }.boxed());
        }
        if let Some((key, info)) = self.reads.begin(&self.listing, now) {
            let client = Arc::clone(&self.client);
            questions.push(async move { Answer::Read(key, client.instances(&info).await) }.boxed());
        }
        if let Some((key, info)) = self.revisions.begin(&self.listing, now) {
            let client = Arc::clone(&self.client);
            questions
                .push(async move { Answer::Revision(key, client.revision(&info).await) }.boxed());
        }
        questions
    }

    /// When there is something to ask again, if nothing is answered before.
    fn next_at(&self) -> Option<Instant> {
        let catalog_at = (!self.is_cataloging).then_some(self.catalog_at);
        [catalog_at, self.reads.next_at(), self.revisions.next_at()].into_iter().flatten().min()
    }

    async fn answered(&mut self, answer: Answer, now: Instant) {
        let failed = match answer {
            Answer::Catalog(answer) => {
                self.is_cataloging = false;
                match answer {
                    Ok(catalog) => {
                        self.cataloged(catalog, now);
                        None
                    }
                    Err(error) => {
                        self.catalog_at = now + self.catalog_backoff.after_failure();
                        self.catalog_trouble = Some((&error).into());
                        Some(error)
                    }
                }
            }
            Answer::Read(key, answer) => {
                self.reads.is_asking = false;
                self.read(&key, answer, now)
            }
            Answer::Revision(key, answer) => {
                self.revisions.is_asking = false;
                match answer {
                    // It went while this was asked.
                    _ if self.listing.info(&key).is_none() => {
                        self.revisions.forget(&key);
                        None
                    }
                    Ok(revision) if !self.listing.is_changed(&key, revision) => {
                        let was_failing = self.revisions.succeeded(&key);
                        self.revisions.schedule.set(&key, now + jittered(self.settings.poll));
                        if !was_failing {
                            return self.confirm();
                        }
                        None
                    }
                    Ok(_) => {
                        self.revisions.succeeded(&key);
                        self.reads.schedule.set_by(&key, now);
                        None
                    }
                    // To read it shows what became of it.
                    Err(CloudMapError::Missing { .. }) => {
                        self.reads.schedule.set_by(&key, now);
                        None
                    }
                    Err(error) => {
                        self.revisions.failed(&key, &error, now);
                        Some(error)
                    }
                }
            }
        };
        if let Some(error) = failed {
            self.empty_since = None;
            self.renew(&error, now).await;
        }
        self.publish(now);
    }

    fn cataloged(&mut self, catalog: Catalog, now: Instant) {
        self.catalog_backoff.succeeded();
        if self.catalog_trouble.take().is_some() {
            self.listing.nobody_answered(now);
            self.empty_since = None;
        }
        self.is_cataloged = true;
        self.catalog_at = now + jittered(self.settings.service_poll);
        if self.no_namespaces != catalog.missing {
            if !catalog.missing.is_empty() {
                self.out.metrics().count_error(NO_NAMESPACE);
            }
            self.no_namespaces.clone_from(&catalog.missing);
        }
        for key in self.listing.listed(catalog, now) {
            self.reads.schedule.set_by(&key, now);
        }
    }

    fn read(
        &mut self,
        key: &ServiceKey,
        answer: Result<Discovered, CloudMapError>,
        now: Instant,
    ) -> Option<CloudMapError> {
        let settle = self.settings.settle;
        let (absence, error) = match answer {
            Ok(discovered) => match self.listing.read(key, discovered, settle, now) {
                Ok(was_read) => {
                    self.reads.succeeded(key);
                    self.schedule(key, was_read, now);
                    return None;
                }
                Err(absence) => (absence, None),
            },
            Err(error @ CloudMapError::Missing { .. }) => {
                (self.listing.absent(key, settle, now), Some(error))
            }
            Err(error) => {
                self.listing.tried(key);
                self.reads.failed(key, &error, now);
                return Some(error);
            }
        };
        match (absence, error) {
            (Absence::Contradiction, Some(error)) => {
                self.catalog_soon(now);
                self.out.metrics().count_error(error.code());
                self.reads.failed(key, &error, now);
                return Some(error);
            }
            (Absence::Gone, _) => {
                self.reads.forget(key);
                self.revisions.forget(key);
            }
            (Absence::KeptUntil(until), _) => {
                self.reads.succeeded(key);
                self.reads.schedule.set(key, until);
                self.revisions.forget(key);
            }
            // It was deleted since it was listed, or made so lately that not all of AWS knows.
            (Absence::Unsure | Absence::Contradiction, _) => {
                self.catalog_soon(now);
                // After the catalog, which is to say which of the two.
                self.reads.schedule.set(key, now + 2 * self.settings.poll);
            }
        }
        None
    }

    /// Has services listed before it is due: they are not what the last listing says. However many
    /// are not, they are all in the next one.
    fn catalog_soon(&mut self, now: Instant) {
        self.catalog_at = self.catalog_at.min(now + self.settings.poll);
    }

    /// What was read is read again later. The first times are anywhere within the interval, so that
    /// what was read in one go at the start is not for ever after.
    fn schedule(&mut self, key: &ServiceKey, was_read: bool, now: Instant) {
        let is_checked = self.listing.info(key).is_some_and(|info| info.is_checked);
        let CloudMapSettings { poll, health_poll, resync, .. } = self.settings;
        let later = |period: Duration| match was_read {
            true => jittered(period),
            false => period.mul_f64(fastrand::f64()),
        };
        let read_in = later(if is_checked { health_poll } else { resync });
        self.reads.schedule.set(key, now + read_in);
        self.revisions.schedule.set(key, now + later(poll));
    }

    /// Looks for other credentials where those that there are were of no use.
    async fn renew(&mut self, error: &CloudMapError, now: Instant) {
        let is_soon = |at: Instant| now.saturating_duration_since(at) < RENEW_GAP;
        if !error.is_of_credentials() || self.renewed_at.is_some_and(is_soon) {
            return;
        }
        self.renewed_at = Some(now);
        let (paces, metrics) = (Arc::clone(&self.paces), Arc::clone(self.out.metrics()));
        // If none can be made, the one there is goes on saying why.
        if let Ok(client) = Client::new(&self.settings, paces, metrics).await {
            self.client = Arc::new(client);
        }
    }

    // === What is published ===

    /// An answer said that nothing changed.
    fn confirm(&self) {
        if self.is_listed && self.empty_since.is_none() && self.trouble().is_none() {
            self.out.confirmed();
        }
    }

    fn publish(&mut self, now: Instant) {
        let trouble = self.trouble();
        let is_ready = self.is_listed || (self.is_cataloged && self.listing.is_tried());
        if !is_ready {
            trouble.into_iter().for_each(|trouble| self.out.doubt(trouble));
            return;
        }
        let snapshot = self.listing.snapshot().clone();
        let is_empty = snapshot.services.is_empty();
        if is_empty && !self.is_empty_believed {
            if let Some(trouble) = trouble {
                self.out.doubt(trouble);
                return;
            }
            let since = *self.empty_since.get_or_insert_with(|| {
                self.out.metrics().count_error(EMPTY);
                now
            });
            if now.saturating_duration_since(since) < self.settings.settle {
                self.catalog_at = self.catalog_at.min(since + self.settings.settle);
                self.out.doubt(self.empty("no instances"));
                return;
            }
        }
        self.empty_since = None;
        self.is_empty_believed = is_empty;
        self.is_listed = true;
        let findings = self.listing.findings();
        match trouble {
            None => self.out.complete(snapshot, findings),
            Some(trouble) => self.out.complete_in_doubt(snapshot, findings, trouble),
        }
    }

    fn trouble(&self) -> Option<Trouble> {
        if let Some(trouble) = &self.catalog_trouble {
            return Some(trouble.clone());
        }
        if let [first, ..] = &*self.no_namespaces {
            return Some(self.no_namespace(first));
        }
        if self.listing.missing() > 0 {
            return Some(self.empty("nothing of what it listed before"));
        }
        let failing = self.reads.failures.len() + self.revisions.failures.len();
        let mut failures = self.reads.failures.values().chain(self.revisions.failures.values());
        failures.next().map(|failure| failure.trouble.with_more(failing - 1, "services"))
    }

    fn no_namespace(&self, name: &str) -> Trouble {
        let message = format!(
            "failed to list namespace {name}: the account has none in {} with that name, HTTP name \
             or identifier; what was known of it stands. Check namespaces and region, and of which \
             account the credentials are",
            self.settings.region
        );
        Trouble { code: NO_NAMESPACE, message }
    }

    fn empty(&self, what: &str) -> Trouble {
        let message = format!(
            "Cloud Map lists {what}, as another account or region would; {} for {} s. If this is \
             intended, wait; otherwise check region and endpoint, and of which account the \
             credentials are",
            if self.is_listed { "keeping the last ones" } else { "waiting for some" },
            self.settings.settle.as_secs()
        );
        Trouble { code: EMPTY, message }
    }
}

/// The code of a doubt: nothing is listed.
const EMPTY: &str = "cloud_map_empty";
/// The code of a doubt: a namespace of the configuration is not there.
const NO_NAMESPACE: &str = "cloud_map_no_namespace";

// === impl Lane ===

impl Lane {
    fn new() -> Self {
        Self {
            is_asking: false,
            schedule: Schedule::default(),
            failures: BTreeMap::new(),
            not_before: None,
            backoff: Backoff::of_registry(),
        }
    }

    /// The service that is to be asked for now, if any is known by what was scheduled.
    fn begin(&mut self, listing: &Listing, now: Instant) -> Option<(ServiceKey, Arc<Info>)> {
        if self.is_asking || self.not_before.is_some_and(|at| now < at) {
            return None;
        }
        let key = self.schedule.take_due(now)?;
        let info = listing.info(&key)?;
        self.is_asking = true;
        Some((key, info))
    }

    fn next_at(&self) -> Option<Instant> {
        let at = self.schedule.next_at().filter(|_| !self.is_asking)?;
        Some(self.not_before.map_or(at, |not_before| not_before.max(at)))
    }

    /// Whether it had failed before.
    fn succeeded(&mut self, key: &ServiceKey) -> bool {
        self.not_before = None;
        self.backoff.succeeded();
        self.failures.remove(key).is_some()
    }

    fn failed(&mut self, key: &ServiceKey, error: &CloudMapError, now: Instant) {
        if error.is_of_everything() {
            self.not_before = Some(now + self.backoff.after_failure());
        }
        let failure = Failure::after(self.failures.remove(key), error.into(), now);
        self.schedule.set(key, failure.retry_at);
        self.failures.insert(key.clone(), failure);
    }

    fn forget(&mut self, key: &ServiceKey) {
        self.schedule.remove(key);
        self.failures.remove(key);
    }
}
