//! What becomes of an instance that a policy fails on: stale beats missing, and both beat wrong.

use std::sync::Arc;

use landfall_core::decision::{DecidedService, DropReason, Outcome};
use landfall_core::mapping::{Address, Mapping};
use landfall_core::registry::Instance;

/// The last good outcome of `instance`, as far as it is still true of where the instance is now.
pub(crate) fn outcome(before: Option<&DecidedService>, instance: &Instance) -> Outcome {
    match before.and_then(|before| before.decision(&instance.id)) {
        Some((old, decision)) => match &decision.outcome {
            Outcome::Published(mappings) => {
                moved(mappings, old, instance).unwrap_or(Outcome::Dropped(DropReason::Fault))
            }
            // A policy's word holds until it says another. The other reasons follow from what the
            // instance was, such as its health then.
            Outcome::Dropped(reason @ DropReason::Policy { .. }) => {
                Outcome::Dropped(reason.clone())
            }
            Outcome::Dropped(_) => Outcome::Dropped(DropReason::Fault),
        },
        None => Outcome::Dropped(DropReason::Fault),
    }
}

/// Where the mappings of `old` put `new`. At the old address another workload may listen by now, so
/// what cannot be put right is left out; `None` when nothing is left.
fn moved(mappings: &Arc<[Arc<Mapping>]>, old: &Instance, new: &Instance) -> Option<Outcome> {
    // The policy may have given ports any name and number, so which is which cannot be told.
    if listens(old) != listens(new) {
        return None;
    }
    if old.address == new.address {
        return Some(Outcome::Published(Arc::clone(mappings)));
    }
    let from = Address::parse(&old.address).ok()?;
    let to = Address::parse(&new.address).ok()?;
    let at = |mapping: &Arc<Mapping>| {
        // An address that is not the instance's own may have been made of it.
        (mapping.address.as_ref() == Some(&from))
            .then(|| Arc::new(Mapping { address: Some(to.clone()), ..Mapping::clone(mapping) }))
    };
    let mappings: Vec<Arc<Mapping>> = mappings.iter().filter_map(at).collect();
    (!mappings.is_empty()).then(|| Outcome::Published(mappings.into()))
}

/// The names and numbers of an instance's ports. Registries list them in any order.
fn listens(instance: &Instance) -> Vec<(&str, u16)> {
    let mut ports: Vec<(&str, u16)> =
        instance.ports.iter().map(|port| (&*port.name, port.number)).collect();
    ports.sort_unstable();
    ports
}
