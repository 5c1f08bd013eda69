//! One round of the line, for the subcommands that look once and end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use landfall_core::finding::Finding;
use landfall_core::registry::{SourceName, SourceState};
use landfall_policy_host::Workers;
use landfall_policy_host::{EngineSettings, PolicyEngine};
use landfall_policy_host::{Link, Rules};

use crate::config::Configuration;
use crate::kubernetes::Clients;
use crate::line::{Line, LineOptions};
use crate::policies::{PolicyFeed, admit};
use crate::sources::Needed;
use crate::{clock, sources};

/// Everything as it should be now.
#[derive(Debug)]
pub(crate) struct Once {
    /// After its first round.
    pub(crate) line: Line,
    /// The workers, for further questions.
    pub(crate) workers: Arc<Workers>,
    /// How to reach Kubernetes.
    pub(crate) clients: Clients,
    /// What sources offered.
    pub(crate) states: BTreeMap<SourceName, SourceState>,
}

// === impl Once ===

impl Once {
    /// Which sources are in doubt, and so may have more than is shown; a line each.
    #[must_use]
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for (name, state) in &self.states {
            let why = match &state.doubt {
                Some(doubt) => format!("{}: {}", doubt.code, doubt.message),
                None if state.snapshot.is_none() => "it has not answered yet".to_owned(),
                None => continue,
            };
            let what = match state.snapshot {
                Some(_) => "what it lists may be out of date or lack something",
                None => "nothing of what it lists is shown",
            };
            notes.push(format!("note: source {name} is in doubt, so {what} ({why})"));
        }
        notes
    }
}

/// How the line is set up for a configuration.
#[must_use]
pub(crate) fn line_options(config: &Configuration) -> LineOptions {
    LineOptions {
        render: landfall_mesh::render::RenderOptions {
            shape: config.resources.shape,
            location: config.resources.location,
            export_to: Arc::clone(&config.resources.export_to),
            ambient: config.resources.ambient,
            owner: Some(config.owner.clone()),
        },
        sharing: Arc::clone(&config.sharing),
        grace: config.grace,
    }
}

/// How many threads run policies.
#[must_use]
pub(crate) fn worker_count() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Reads every source and policy of `config` and runs one round.
///
/// # Errors
/// A needed source has no listing within `timeout`, or a policy cannot be loaded.
pub(crate) async fn gather(
    config: &Configuration,
    needed: &Needed,
    timeout: Duration,
) -> anyhow::Result<Once> {
    let clients = Clients::default();
    let running = sources::start(&config.sources);
    let rules = load_rules(config, &clients, timeout).await?;
    let states = sources::wait_complete(&running, needed, timeout).await?;
    let workers = Workers::start(worker_count()).context("failed to start worker threads")?;
    let mut line = Line::new(Arc::clone(&workers), rules, line_options(config));
    for (name, source) in &running {
        line.add_source(name.clone(), source.registry);
    }
    let line = tokio::task::block_in_place(|| {
        line.round(&states, clock::now());
        line
    });
    Ok(Once { line, workers, clients, states })
}

/// Loads every policy.
///
/// # Errors
/// One cannot be loaded; says which and why.
async fn load_rules(
    config: &Configuration,
    clients: &Clients,
    timeout: Duration,
) -> anyhow::Result<Arc<Rules>> {
    let mut links = Vec::new();
    if config.policies.is_empty() {
        return Ok(Rules::new(config.defaults.clone(), links));
    }
    let engine = PolicyEngine::start(EngineSettings::default())?;
    for policy in &config.policies {
        let name = &policy.name;
        let feed = PolicyFeed::start(policy.clone(), clients).await?;
        let offered = feed.offered(timeout).await?;
        let revision = tokio::task::block_in_place(|| admit(&engine, policy, &offered))
            .with_context(|| format!("failed to load policy {name}"))?;
        links.push(Link { revision, selector: policy.selector.clone() });
    }
    Ok(Rules::new(config.defaults.clone(), links))
}

/// Writes findings to standard error, each on a line.
pub(crate) fn report(findings: &[Finding]) {
    for finding in findings {
        tracing::warn!(
            code = finding.code.as_str(),
            subject = finding.subject,
            detail = finding.message,
            "Finding."
        );
    }
}
