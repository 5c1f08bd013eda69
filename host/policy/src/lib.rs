//! Runs policies: WebAssembly components that decide how a registry's instances are published.
//!
//! Invariant: a policy can fail its own instances and nothing else. It cannot end the process,
//! outlive its time limit, use more memory than it may, or see anything but what a call hands it.
//!
//! The way of a policy: [`Revision::admit`] unpacks, examines, compiles and configures a component;
//! [`Link`]s put revisions in order and say which services they are for; [`Rules`] are the links
//! with the defaults; [`Workers::decide`] passes instances through them on threads of its own, each
//! of which keeps a warm instance of every policy (`bench`). A call (`guest`) that fails loses its
//! store, and its batch is halved until the instance that it fails on stands alone (`chain`).

mod abi;
mod artifact;
mod bench;
mod breaker;
mod chain;
mod clock;
pub mod componentize;
mod decide;
mod engine;
mod fault;
mod findings;
mod guest;
mod kept;
mod limits;
mod log;
mod pool;
#[cfg(any(test, feature = "testing"))]
pub mod probe;
mod projection;
mod refusal;
mod revision;
mod rules;
mod services;
mod state;
mod structure;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod trace;
mod wasi;

pub use abi::{Descriptor, Problem};
pub use artifact::PACKED_BYTES_MAX;
pub use chain::{MAPPINGS_PER_INSTANCE_MAX, Work};
pub use engine::{AddressSpace, EngineError, EngineSettings, PolicyEngine};
pub use fault::{Failure, FaultCode, is_transient};
pub use limits::Limits;
pub use log::{Level, LogLine};
pub use pool::Workers;
pub use refusal::AdmissionError;
pub use revision::{Candidate, Revision};
pub use rules::{Link, Rules};
pub use services::Origin;
pub use trace::Step;
