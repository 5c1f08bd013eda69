//! Istio resources: render, validate, observe, apply.
//!
//! [`render`] turns a service of the mesh into the objects that stand for it, and never lets one
//! out that [`validate`] refuses. [`api`] has the objects' types and how they look on the wire.
//! [`files`] and [`kube`] are sinks: they say what is there and execute the steps of a plan.
//!
//! Invariant: what does not carry our owner mark is never changed and never deleted. Applying
//! makes no choice: it retries and reports.

pub mod api;
pub mod files;
pub mod kube;
pub mod mcp;
pub mod render;
pub mod sink;
pub mod validate;

mod durable;
mod name;
mod settings;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
