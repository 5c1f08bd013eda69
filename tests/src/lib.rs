//! What the tests of Landfall share: the program, the repository as text, and hostile guests.

pub mod binary;
pub mod conformance;
pub mod fake_consul;
pub mod hostile;
pub mod markdown;
pub mod repository;
#[cfg(feature = "e2e")]
pub mod servers;
pub mod world;
