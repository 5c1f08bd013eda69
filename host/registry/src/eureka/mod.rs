//! Services registered in Eureka.
//!
//! # How they are watched
//!
//! Eureka tells nobody of changes; it is asked. `/apps` lists everything. `/apps/delta` lists what
//! changed in the last three minutes, with a digest of everything: how many instances are in each
//! state. So one small question every five seconds is enough: its answer is put into what is known,
//! and if the digest of that is the server's, what is known is what the server has. If it is not,
//! everything is read. A server behind a cache of 30 s, which is what Eureka comes with, has
//! nothing new in between; how soon a change is seen is then up to that cache.
//!
//! The digest says nothing of addresses, ports and metadata, so everything is read once in ten
//! minutes all the same. Changes are those of one server: after a failure, or when another one
//! answered, everything is read too. Some servers tell nobody what changed (403 or 404), and some
//! what does not lead to what they list; those are asked for everything every 30 s, as Eureka's own
//! clients do, and for changes again with the next full reading that is due.
//!
//! # What may remove something
//!
//! An instance is gone when a server says that it was deleted, which it does of those that
//! deregister and of those whose lease ends. One that is merely not listed any more may have been
//! forgotten: a server that starts without another to ask knows nobody, says so with status 200,
//! and learns within 30 s of whoever is there. But a server says of each instance when it took it
//! up. Where it says so of most instances as it did in its last full answer, it has not started
//! since, and what it does not list any more has left. This tells deregistrations also where a
//! server does not tell of changes (`disable-delta`), or told while nobody listened.
//!
//! Without that evidence such an instance is kept for 90 s, the length of a lease, or for its own
//! lease where that is longer, and there is a doubt meanwhile; so is everything when nothing at all
//! is listed, which is no evidence of anything, and a first listing without anything is none for as
//! long. These times begin anew when nobody answers in between. An answer that lists fewer
//! instances than its own digest counts is no answer, and an instance that cannot be read any more
//! stands as it was.
//!
//! Eureka keeps instances that died when many do at once (self preservation). `stale_after` is for
//! those: by its lease an instance that is `UP` and dead is critical and says `eureka.stale`; it is
//! not left out, so that policies may judge otherwise. It compares our clock with the server's, and
//! Eureka dates a renewal up to the length of a lease ahead.

mod client;
mod convert;
mod listing;
mod settings;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod watch;
mod wire;

use std::convert::Infallible;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

pub use self::client::EurekaError;
pub use self::settings::{EurekaLogin, EurekaSettings, POLL_MIN, RESYNC_MIN, STALE_AFTER_MIN};
use crate::{Publisher, Source};

/// The source.
#[derive(Debug)]
pub struct Eureka {
    settings: EurekaSettings,
}

// === impl Eureka ===

impl Eureka {
    /// A source of the Eureka that `settings` name.
    #[must_use]
    pub fn new(settings: EurekaSettings) -> Self {
        Self { settings }
    }
}

impl Source for Eureka {
    fn registry(&self) -> &'static str {
        "eureka"
    }

    fn watch(self: Box<Self>, out: Publisher) -> BoxFuture<'static, Infallible> {
        async move { watch::run(self.settings, &out).await }.boxed()
    }
}
