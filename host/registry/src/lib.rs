//! Service registries as sources of complete snapshots.
//!
//! One folder per registry: `mod` watches, `wire` has the registry's own types, `convert` turns
//! them into the words of the core.
//!
//! Invariant: a source publishes complete listings, or keeps its last one and says what is wrong.
//! An error, a refusal, an answer that access rules made smaller, a cluster without a leader and
//! half a listing are never deletions. What a source could not read even once is missing in its
//! first listing, which is in doubt until it has it. A source neither filters nor decides: what it
//! lists and what it leaves out is in its settings.

#![allow(
    clippy::result_large_err,
    reason = "an error is made once a request at most, and says much"
)]

pub mod backoff;
pub mod cloudmap;
pub mod consul;
pub mod eureka;
pub mod file;
pub mod metrics;
pub mod publisher;

mod amazon;
mod findings;
mod http;
mod trouble;

use std::convert::Infallible;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use landfall_core::time::Time;
use tokio_util::sync::CancellationToken;

pub use reqwest::Url;

pub use crate::http::TlsFiles;
pub use crate::metrics::SourceMetrics;
pub use crate::publisher::Publisher;
pub use crate::trouble::Trouble;

/// The wall clock. The runtime gives it; nothing here reads another.
pub type Clock = fn() -> Time;

/// One configured connection to one registry.
pub trait Source: Send + 'static {
    /// What kind of registry it is, as policies see it: `consul`, `file`, ...
    fn registry(&self) -> &'static str;

    /// Watches the registry for ever: whatever goes wrong is told through `out` and tried again.
    fn watch(self: Box<Self>, out: Publisher) -> BoxFuture<'static, Infallible>;

    /// Watches the registry until `stop`.
    fn run(self: Box<Self>, out: Publisher, stop: CancellationToken) -> BoxFuture<'static, ()> {
        let watching = self.watch(out);
        async move {
            let _stopped = stop.run_until_cancelled(watching).await;
        }
        .boxed()
    }
}
