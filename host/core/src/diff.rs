//! Which services changed between two snapshots. The walk skips what the two share.

use std::sync::Arc;

use imbl::ordmap::DiffItem;

use crate::registry::{Service, ServiceKey, Snapshot};

/// The services that differ, in order, as they are now; `None` for those that are gone.
#[must_use]
pub fn changed_services(
    before: &Snapshot,
    now: &Snapshot,
) -> Vec<(ServiceKey, Option<Arc<Service>>)> {
    before
        .services
        .diff(&now.services)
        .map(|item| match item {
            DiffItem::Add(key, service) | DiffItem::Update { new: (key, service), .. } => {
                (key.clone(), Some(Arc::clone(service)))
            }
            DiffItem::Remove(key, _) => (key.clone(), None),
        })
        .collect()
}
