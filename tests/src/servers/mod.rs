//! The real servers of the end-to-end tests: how each is started, when it is ready, how it ends.
//!
//! `tests/servers/RECIPES.md` has what is worth knowing besides. Everything listens on loopback, on ports
//! that were free, and keeps its files in a folder that is thrown away. What goes wrong here ends
//! the test: there is nothing to be tested then.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "only tests call it, and a test that cannot make its world should stop"
)]
#![allow(clippy::disallowed_methods, reason = "what is promised of time is measured")]
#![allow(clippy::print_stderr, reason = "the logs of servers belong to a test's failure")]

pub mod backend;
pub mod certificates;
pub mod cluster;
pub mod consul;
pub mod daemon;
pub mod eureka;
pub mod front;
pub mod http;
pub mod istiod;
pub mod judge;
pub mod mesh;
pub mod moto;
pub mod process;
pub mod proxy;
pub mod watch;

pub use self::backend::Backend;
pub use self::cluster::Cluster;
pub use self::consul::Consul;
pub use self::daemon::Landfall;
pub use self::eureka::Eureka;
pub use self::front::Front;
pub use self::http::{Http, Reply};
pub use self::istiod::Istiod;
pub use self::judge::{Judgment, judge};
pub use self::mesh::Mesh;
pub use self::moto::Moto;
pub use self::proxy::{Fault, Proxy};
pub use self::watch::{Change, Watch};
