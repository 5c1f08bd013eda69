//! Services registered in Consul.
//!
//! # How they are watched
//!
//! Consul tells of changes by blocking queries: a question with the index of the last answer is
//! answered once the index has moved. The only question that names what changed is that for one
//! service (`/v1/health/service/<name>`), but each waits on a connection of its own, and an agent
//! takes 200 from one client. So the way depends on how many services a scope (a datacenter,
//! partition and namespace) has:
//!
//! * **Narrow**: as many services as there are connections, or fewer. Each has a long poll of its
//!   own; one more waits on the list of names. A change is seen in about 5 ms and costs the one
//!   request that waits for the next.
//! * **Wide**: more. One long poll waits on the summary that Consul's own UI shows
//!   (`/v1/internal/ui/services`), which wakes for every change and shows of each service its
//!   nodes, tags and counts of instances and of checks by state. Services that differ are read,
//!   and keep a long poll of their own for a while, for what changed will change again.
//!
//! What the summary does not show is an instance edited in place (address, port, metadata). If it
//! wakes and nothing differs, the indexes of the tables of services and nodes tell whether that
//! is what happened; if so, all services are read at once (a brisk sweep, at most a fifth of the
//! time). Else a check wrote its output, which does not matter, or two instances of one service
//! traded their health, which leaves the counts as they are. Services of which every check passes
//! before and after cannot hide that; the others are read, at most a fifth of the time and once a
//! second. If it wakes and something differs, a trade may hide behind that, so those are read then
//! too; and so may an edit, so all services are read one after another (a slow sweep, 50 a second, a
//! fifth of the time at most too). So a trade takes about a second at most until it is seen where
//! few checks fail, an edit in place about the time to read all services, and an edit in the very
//! moment of another change may take a hundred times that.
//!
//! The summary is internal to Consul. Where it is refused (403, 404, or too large), or fails three
//! times in a row, the list of names and the state of all checks (`/v1/health/state/any`) stand
//! in: the first wakes for registrations and edits without saying whose, which costs a brisk
//! sweep; the second wakes for checks and says whose. Where that is refused too, nothing tells of
//! health, and services are read over and over, at most a fifth of the time and once a second.
//!
//! Answers are priced by their size ([`pace`]), so that a large Consul that never rests is not
//! asked more often than it can stand.
//!
//! # What may remove something
//!
//! A view only says what to read. A service or an instance is gone when the answer for that very
//! service, status 200, from a cluster with a leader, not made smaller by access rules, lacks it.
//! Everything else leaves what is known and raises a doubt. Consul says when it hides something,
//! but only to who has a token. To others everything just looks empty; so where even Consul itself
//! is not listed, nothing is believed. Rules that take only some services away from everybody
//! without a token cannot be told from deregistrations: give Landfall a token. A view of which
//! rules hide a part is a doubt too, unless `partial_view` says that it is meant so: after a
//! restart nobody would miss what a narrowed token no longer shows.
//!
//! Servers that lost their data or were restored answer with indexes below those of before, and what
//! they lack may only not have registered again yet. So where a view goes back, or a service that
//! lost instances, whether or not anybody was connected meanwhile, what is missing is kept for three
//! minutes or until it is listed again, in doubt; what is new is listed. Whoever starts after the
//! loss has no index to compare with: a first listing without any service counts as a loss too. One
//! with some is believed.
//!
//! A read that fails is tried again by itself; the service stands as it was, in doubt. One that
//! could not be read since the source began is missing in the first listing, and so is a datacenter,
//! partition or namespace among several, which does not keep what can be read from being told: in
//! doubt nothing is removed. When Consul asks for fewer requests (429, 503), nothing is asked for a
//! while, longer each time until a minute was calm; what is known and what waits stands. Only when a
//! view fails, or three services one after another without an answer between, all is given up and
//! listed anew, from whichever address answers.

mod client;
mod convert;
mod pace;
mod scope;
mod settings;
mod sweep;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod tracked;
mod watch;
mod wire;

use std::convert::Infallible;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

pub use self::client::ConsulError;
use self::settings::Scope;
pub use self::settings::{CONNECTIONS_MIN, ConsulSettings, Kinds, RESYNC_MIN};
use crate::{Publisher, Source};

/// The name under which Consul's servers register themselves, in the default namespace of the
/// default partition of every datacenter.
const CONSUL_ITSELF: &str = "consul";

/// The source.
#[derive(Debug)]
pub struct Consul {
    settings: ConsulSettings,
}

// === impl Consul ===

impl Consul {
    /// A source of the Consul that `settings` name.
    #[must_use]
    pub fn new(settings: ConsulSettings) -> Self {
        Self { settings }
    }
}

impl Source for Consul {
    fn registry(&self) -> &'static str {
        "consul"
    }

    fn watch(self: Box<Self>, out: Publisher) -> BoxFuture<'static, Infallible> {
        async move { watch::run(self.settings, &out).await }.boxed()
    }
}
