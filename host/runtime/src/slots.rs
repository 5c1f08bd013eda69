//! Policies with what is offered for them and what of it is at work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use landfall_core::pattern::Selector;
use landfall_core::text::Text;
use landfall_policy_host::{Link, Revision, Rules};
use tokio_util::task::AbortOnDropHandle;

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
    /// On its way: being compiled or rehearsed.
    pub(crate) candidate: Option<Arc<Offered>>,
    /// What was tried last, so that the same is not tried again.
    pub(crate) tried: Option<Arc<Offered>>,
    /// Why nothing can be read of the origin, if so.
    pub(crate) unreadable: Option<String>,
    /// Why what was tried last is not at work, once that is known.
    pub(crate) refused: Option<String>,
    /// How often what was tried last was refused for what may pass.
    pub(crate) refusals: u32,
    /// Ends with another try.
    pub(crate) retry: Option<AbortOnDropHandle<()>>,
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
        Ok(Self {
            serial,
            feed,
            revision: None,
            candidate: None,
            tried: None,
            unreadable: None,
            refused: None,
            refusals: 0,
            retry: None,
        })
    }

    /// The policy's name.
    pub(crate) fn name(&self) -> &Text {
        &self.feed.config.name
    }
}

/// A slot, and the revision that is to be at work in it.
pub(crate) type Cast<'a> = (&'a PolicySlot, Option<&'a Arc<Revision>>);

/// The services that wait for a policy that was not admitted yet.
#[must_use]
pub(crate) fn waiting(cast: &[Cast<'_>]) -> Vec<Selector> {
    let without = cast.iter().filter(|(_, revision)| revision.is_none());
    without.map(|(slot, _)| slot.feed.config.selector.clone()).collect()
}

/// The rules that `config` and the revisions of `cast` make.
#[must_use]
pub(crate) fn rules(config: &Configuration, cast: &[Cast<'_>]) -> Arc<Rules> {
    let link = |(slot, revision): &Cast<'_>| {
        let revision = Arc::clone(revision.as_ref()?);
        Some(Link { revision, selector: slot.feed.config.selector.clone() })
    };
    Rules::new(config.defaults.clone(), cast.iter().filter_map(link).collect())
}
