//! The words of Landfall as types, and the steps of its line that are pure.
//!
//! Invariant: nothing here does input or output, reads a clock or draws a random number. Time is
//! an argument. Equal input gives equal output, whatever the order it arrives in.
//!
//! The way of the data: a source publishes a [`registry::Snapshot`]; [`diff`] finds the services
//! that changed; policies turn each instance into [`mapping::Mapping`]s, kept as
//! [`decision::DecidedService`]; [`group`] gathers them by host into [`mesh::MeshService`]s, which
//! sources share by the rules of [`sharing`]; [`linger`] keeps hosts that lost their place but not
//! their instances; the mesh crate renders objects; [`plan`] says which steps make a sink equal to
//! them, and [`guard`] which of those steps must wait, for which it knows what [`moved`].

mod budget;
mod circles;
pub mod decision;
pub mod defaults;
pub mod diff;
mod evidence;
pub mod finding;
pub mod group;
pub mod guard;
mod held;
pub mod holdings;
pub mod linger;
mod losses;
pub mod mapping;
pub mod mesh;
pub mod moved;
pub mod name;
pub mod pairs;
pub mod pattern;
mod payers;
pub mod plan;
pub mod registry;
mod shapes;
pub mod sharing;
mod spots;
pub mod template;
#[cfg(test)]
mod testing;
pub mod text;
pub mod time;
pub mod told;
