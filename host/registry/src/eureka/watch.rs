//! Asks one thing after another, and publishes what is known then.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use landfall_core::registry::SourceName;
use tokio::time::{Instant, sleep};

use super::client::{Client, Delta, EurekaError};
use super::convert::Reading;
use super::listing::{Keep, Listing, Server};
use super::settings::EurekaSettings;
use crate::backoff::{Backoff, jittered};
use crate::{Publisher, Trouble};

// Servers answer from a cache of 30 s, and what they say of changes may be that much older than what
// they listed. With pauses of 10, 20 and 30 s between this many answers in a row it has been renewed
// twice; then this server's changes just do not lead to what it lists, and each costs a full answer.
const IN_VAIN_MAX: u32 = 4;
// Dead instances are to be found soon after they are dead, not at twice that age.
const STALE_LOOKS: u32 = 3;

/// Watches for ever.
pub(super) async fn run(settings: EurekaSettings, out: &Publisher) -> Infallible {
    let mut watch = Watch::new(settings, out);
    loop {
        let pause = watch.turn().await;
        sleep(pause).await;
    }
}

struct Watch<'a> {
    client: Client,
    settings: EurekaSettings,
    out: &'a Publisher,
    listing: Listing,
    is_listed: bool,
    /// The address that the last full answer is from.
    server: Option<usize>,
    deltas: Deltas,
    /// The last answer to what changed, which led to what the server has.
    known: Option<u64>,
    full_at: Instant,
    /// Since when nothing has been listed, before anything was.
    empty_since: Option<Instant>,
    /// Whether the last question had no answer.
    is_unanswered: bool,
    backoff: Backoff,
}

/// Whether the server is asked for what changed.
#[derive(Clone, Copy)]
enum Deltas {
    /// It is; so many answers in a row were of no use.
    Asked { in_vain: u32 },
    /// It does not tell. It is asked for everything, less often, until it may have learned.
    Off { until: Instant },
}

// === impl Watch ===

impl<'a> Watch<'a> {
    fn new(settings: EurekaSettings, out: &'a Publisher) -> Self {
        Self {
            client: Client::new(&settings, Arc::clone(out.metrics())),
            settings,
            out,
            listing: Listing::default(),
            is_listed: false,
            server: None,
            deltas: Deltas::Asked { in_vain: 0 },
            known: None,
            full_at: Instant::now(),
            empty_since: None,
            is_unanswered: false,
            backoff: Backoff::of_registry(),
        }
    }

    /// Asks once, and once more where the first answer was of no use. Returns how long to rest.
    async fn turn(&mut self) -> Duration {
        let now = Instant::now();
        if let Deltas::Off { until } = self.deltas
            && until <= now
        {
            self.deltas = Deltas::Asked { in_vain: 0 };
        }
        if self.full_at <= now || matches!(self.deltas, Deltas::Off { .. }) {
            return self.full().await;
        }
        // An answer to what changed is built when something does, so the leases in it may be old.
        let reading = Reading { stale_before: None, ..self.reading() };
        match self.client.delta(reading).await {
            Ok(delta) if Some(delta.address) == self.server => self.changed(delta).await,
            Ok(_) => self.full().await,
            Err(error @ EurekaError::RateLimited { .. }) => self.failed(&error),
            Err(error) => {
                let times = if error.is_refusal() { IN_VAIN_MAX } else { 1 };
                self.in_vain(times, &error.to_string());
                self.full().await
            }
        }
    }

    async fn changed(&mut self, delta: Delta) -> Duration {
        if self.known == Some(delta.digest) {
            // Whoever is missing is so still.
            if self.listing.missing() == 0 {
                self.out.confirmed();
            }
            return jittered(self.settings.poll);
        }
        self.listing.changes(delta.entries);
        if self.listing.hash() != delta.hash {
            self.in_vain(1, "its digest is not that of what its changes lead to");
            return self.full().await;
        }
        self.known = Some(delta.digest);
        self.deltas = Deltas::Asked { in_vain: 0 };
        self.publish();
        jittered(self.settings.poll)
    }

    /// What was told of changes was of no use, which counts for `times`.
    fn in_vain(&mut self, times: u32, why: &str) {
        if let Deltas::Asked { in_vain } = self.deltas {
            let in_vain = in_vain.saturating_add(times);
            self.deltas = if in_vain < IN_VAIN_MAX {
                Deltas::Asked { in_vain }
            } else {
                ChangesGivenUp { source: self.out.source(), why }.emit();
                Deltas::Off { until: Instant::now() + jittered(self.settings.resync) }
            };
        }
    }

    async fn full(&mut self) -> Duration {
        let full = match self.client.full(self.reading()).await {
            Ok(full) => full,
            Err(error) => return self.failed(&error),
        };
        let now = Instant::now();
        self.backoff.succeeded();
        if std::mem::take(&mut self.is_unanswered) {
            // Only a server that is there can be registered with. What lasted before says nothing.
            self.listing.nobody_answered(now);
            self.empty_since = None;
        }
        let is_empty = full.entries.is_empty();
        if is_empty && !self.is_listed && !self.is_settled(now) {
            self.out.doubt(self.empty());
            self.client.begin_with_next();
            return jittered(self.settings.poll);
        }
        let server = if self.server == Some(full.address) {
            Server::Same
        } else {
            // It may well tell of changes where the last one did not.
            self.deltas = Deltas::Asked { in_vain: 0 };
            Server::Another
        };
        let missing_before = self.listing.missing();
        let keep = Keep { least: self.settings.settle, most: self.settings.lease_max };
        self.listing.full(full.entries, &full.twice, keep, server, now);
        self.server = Some(full.address);
        self.known = None;
        self.full_at = now + jittered(self.full_every());
        if let Some(until) = self.listing.missing_until() {
            self.full_at = self.full_at.min(until);
            if missing_before == 0 {
                self.out.metrics().count_error(if is_empty { EMPTY } else { FORGOTTEN });
            }
            if is_empty {
                // Another server may remember.
                self.client.begin_with_next();
                self.full_at = now;
            }
        }
        self.publish();
        jittered(self.pause())
    }

    /// How long to rest after a full answer: the longer, the more of them there were instead of
    /// small ones.
    fn pause(&self) -> Duration {
        let EurekaSettings { poll, poll_in_full, .. } = self.settings;
        let most = poll_in_full.max(poll);
        match self.deltas {
            Deltas::Asked { in_vain } => {
                poll.saturating_mul(1 << in_vain.min(IN_VAIN_MAX)).min(most)
            }
            Deltas::Off { .. } => most,
        }
    }

    /// Whether it has been empty for so long that it may be believed.
    fn is_settled(&mut self, now: Instant) -> bool {
        let since = *self.empty_since.get_or_insert(now);
        now.saturating_duration_since(since) >= self.settings.settle
    }

    fn full_every(&self) -> Duration {
        let stale = self.settings.stale_after.map(|age| age / STALE_LOOKS);
        stale.map_or(self.settings.resync, |look| look.min(self.settings.resync))
    }

    fn reading(&self) -> Reading {
        let stale_before = self.settings.stale_after.map(|age| self.out.now().minus(age));
        Reading { prefer_hostname: self.settings.prefer_hostname, stale_before }
    }

    /// Keeps what is known, and says why. Everything is asked for next.
    fn failed(&mut self, error: &EurekaError) -> Duration {
        self.out.doubt(error.into());
        self.is_unanswered = true;
        self.client.renew();
        if error.is_of_one_server() {
            self.client.begin_with_next();
        }
        self.deltas = Deltas::Asked { in_vain: 0 };
        self.full_at = Instant::now();
        self.backoff.after_failure().max(error.retry_after().unwrap_or_default())
    }

    fn publish(&mut self) {
        self.is_listed = true;
        let snapshot = self.listing.snapshot().clone();
        let findings = self.listing.findings();
        let trouble = match self.listing.missing() {
            0 => return self.out.complete(snapshot, findings),
            _ if self.listing.is_empty() => self.empty(),
            missing => self.forgotten(missing),
        };
        self.out.complete_in_doubt(snapshot, findings, trouble);
    }

    fn empty(&self) -> Trouble {
        let message = format!(
            "Eureka lists no instances, as a server does that has just started; {} for {} s or \
             their own lease. If this is intended, wait; otherwise check whether Eureka restarted",
            if self.is_listed { "keeping the last ones" } else { "waiting for some" },
            self.settings.settle.as_secs()
        );
        Trouble { code: EMPTY, message }
    }

    fn forgotten(&self, missing: usize) -> Trouble {
        let message = format!(
            "Eureka lists {missing} instances less and does not say that they left; keeping them \
             for {} s or their own lease. If this is intended, wait; otherwise check whether a \
             server of Eureka restarted or lost touch with the others",
            self.settings.settle.as_secs()
        );
        Trouble { code: FORGOTTEN, message }
    }
}

/// The code of a doubt: nothing is listed.
const EMPTY: &str = "eureka_empty";
/// The code of a doubt: less is listed, for no reason that was told.
const FORGOTTEN: &str = "eureka_forgotten";

// === What happens ===

struct ChangesGivenUp<'a> {
    source: &'a SourceName,
    why: &'a str,
}

impl ChangesGivenUp<'_> {
    fn emit(&self) {
        tracing::info!(
            source = %self.source,
            reason = %self.why,
            "Eureka does not tell of changes; reading everything, less often."
        );
    }
}
