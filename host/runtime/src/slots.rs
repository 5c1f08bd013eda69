//! Policies with what is offered for them and what of it is at work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use landfall_core::pattern::Selector;
use landfall_core::text::Text;
use landfall_policy_host::{Link, Revision, Rules};

use crate::config::{Configuration, PolicyConfig};
use crate::kubernetes::Clients;
use crate::policies::{Offered, PolicyFeed};

/// A policy between what is offered and what is at work.
#[derive(Debug)]
pub(crate) struct PolicySlot {
    /// Tells it apart from another of the same name that a reload put in its place.
    pub(crate) serial: u64,
    /// What its origin offers.
    pub(crate) feed: PolicyFeed,
    /// At work; `None` until the first was admitted.
    pub(crate) revision: Option<Arc<Revision>>,
    /// Being compiled.
    pub(crate) admitting: bool,
    /// What was tried last, so that the same is not tried again.
    pub(crate) tried: Option<Arc<Offered>>,
}

impl PolicySlot {
    /// Begins to watch the policy's origin.
    ///
    /// # Errors
    /// The Kubernetes API that it names cannot be reached by any configuration.
    pub(crate) async fn start(config: PolicyConfig, clients: &Clients) -> anyhow::Result<Self> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let feed = PolicyFeed::start(config, clients).await?;
        Ok(Self { serial, feed, revision: None, admitting: false, tried: None })
    }

    /// The policy's name.
    pub(crate) fn name(&self) -> &Text {
        &self.feed.config.name
    }
}

/// The services that wait for a policy that was not admitted yet.
#[must_use]
pub(crate) fn waiting<'a>(slots: impl IntoIterator<Item = &'a PolicySlot>) -> Vec<Selector> {
    let without = slots.into_iter().filter(|slot| slot.revision.is_none());
    without.map(|slot| slot.feed.selector()).collect()
}

/// The rules that `config` and the revisions of `slots` make.
#[must_use]
pub(crate) fn rules<'a>(
    config: &Configuration,
    slots: impl IntoIterator<Item = &'a PolicySlot>,
) -> Arc<Rules> {
    let link = |slot: &PolicySlot| {
        let revision = Arc::clone(slot.revision.as_ref()?);
        let Selector { sources, services } = slot.feed.selector();
        Some(Link { revision, sources, services })
    };
    Rules::new(config.defaults.clone(), slots.into_iter().filter_map(link).collect())
}
