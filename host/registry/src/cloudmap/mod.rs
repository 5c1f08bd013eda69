//! Services registered in AWS Cloud Map.
//!
//! # How they are watched
//!
//! Cloud Map tells nobody of changes; it is asked, and each question costs money and counts against
//! a rate that the whole account shares. Namespaces and their services are listed every 30 s. Each
//! service is asked for its revision every 10 s (`DiscoverInstancesRevision`), which is a number
//! that changes when an instance comes or goes, and its instances are read when it did
//! (`DiscoverInstances`).
//! The revision does not change with the health of an instance, so services with health checks are
//! also read every minute, and the others every ten, although nothing seems to have been missed. So
//! 1,000 services with health checks cost 100 small questions and 17 larger ones a second.
//!
//! Of each operation one is asked for at a time, at a pace that is a quarter of the rate that AWS
//! publishes for an account, and more slowly after AWS refused one. What is due is spread over its
//! interval. [`client`] says how more instances are read than one answer has.
//!
//! # What may remove something
//!
//! An answer with the instances of a service is all of them. A service is gone when the listing
//! lacks it and nothing is discovered of it, either; the listing alone is no evidence, nor is the
//! discovery, for each may be older than the other. Where the listing has nothing at all of what it
//! had before, as that of another account or region has not, what is known is kept for 90 s, with a
//! doubt, and so it is when no service has any instance. A first listing without instances is
//! believed after as long. Times begin anew when nobody answers in between. A namespace that is
//! named in the configuration and is not there is a doubt for as long as it is so, and what was
//! known of it stands.
//!
//! An error, a refusal, a throttled request and a page that does not come are never a smaller
//! listing. A service that cannot be read stands as it was while the others go on, and an instance
//! that cannot be read any more does too.

mod client;
mod connector;
mod convert;
mod error;
mod listing;
mod pace;
mod schedule;
mod settings;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod watch;

use std::convert::Infallible;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

pub use self::error::CloudMapError;
pub use self::settings::{
    CloudMapSettings, HEALTH_POLL_MIN, POLL_MIN, RESYNC_MIN, SERVICE_POLL_MIN,
};
use crate::{Publisher, Source};

/// The source.
#[derive(Debug)]
pub struct CloudMap {
    settings: CloudMapSettings,
}

// === impl CloudMap ===

impl CloudMap {
    /// A source of the Cloud Map that `settings` name.
    #[must_use]
    pub fn new(settings: CloudMapSettings) -> Self {
        Self { settings }
    }
}

impl Source for CloudMap {
    fn registry(&self) -> &'static str {
        "cloud-map"
    }

    fn watch(self: Box<Self>, out: Publisher) -> BoxFuture<'static, Infallible> {
        async move { watch::run(self.settings, &out).await }.boxed()
    }
}
