//! What of a changed configuration may take long or fail, made ready before anything is replaced.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use crate::config::{Configuration, PolicyConfig, SinkConfig};
use crate::kubernetes::Clients;
use crate::policies::Compiler;
use crate::sinks::RunningSink;
use crate::slots::PolicySlot;

/// How long a policy's origin may take to offer something.
const OFFER_WAIT: Duration = Duration::from_secs(10);

/// A configuration, with what is new in it and can fail.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The configuration.
    pub(crate) config: Configuration,
    /// Policies that are new or configured otherwise, each admitted.
    pub(crate) policies: Vec<PolicySlot>,
    /// Sinks that are new or configured otherwise, each connected.
    pub(crate) sinks: Vec<RunningSink>,
}

/// Prepares a configuration, of which `policies` and `sinks` are new.
///
/// # Errors
/// A policy cannot be loaded, or a sink cannot be set up.
pub(crate) async fn prepare(
    config: Configuration,
    policies: Vec<PolicyConfig>,
    sinks: Vec<SinkConfig>,
    compiler: &Compiler,
    clients: &Clients,
) -> anyhow::Result<Prepared> {
    let mut slots = Vec::new();
    for policy in policies {
        slots.push(prepared_slot(policy, compiler, clients).await?);
    }
    let mut started = Vec::new();
    for sink in sinks {
        let sink = RunningSink::start(sink, &config.owner, clients).await?;
        sink.prepare().await;
        started.push(sink);
    }
    Ok(Prepared { config, policies: slots, sinks: started })
}

/// A policy of a new configuration, admitted.
async fn prepared_slot(
    config: PolicyConfig,
    compiler: &Compiler,
    clients: &Clients,
) -> anyhow::Result<PolicySlot> {
    let mut slot = PolicySlot::start(config, clients).await?;
    let offered = slot.feed.offered(OFFER_WAIT).await?;
    let revision = compiler
        .compile(slot.feed.config.clone(), Arc::clone(&offered))
        .await
        .context("compiling ended early")?
        .with_context(|| format!("failed to load policy {}", slot.name()))?;
    slot.revision = Some(revision);
    slot.tried = Some(offered);
    Ok(slot)
}
