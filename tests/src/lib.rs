//! What the tests of Landfall share: the program, the repository as text, hostile guests, a
//! daemon without its edges, and inputs made of arbitrary bytes.

pub mod binary;
pub mod conformance;
pub mod fake_cloudmap;
pub mod fake_consul;
pub mod fake_eureka;
pub mod fake_istiod;
pub mod fake_server;
pub mod fuzz;
pub mod hostile;
pub mod line;
pub mod markdown;
pub mod registries;
pub mod repository;
pub mod scene;
#[cfg(feature = "e2e")]
pub mod servers;
pub mod two_sources;
pub mod watchdog;
pub mod world;
