//! `landfall plan`: what should be, or how the sinks differ from it.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use anyhow::Context;
use landfall_core::mesh::ObjectId;
use landfall_core::plan::Step;
use landfall_mesh::api::{self, ApiVersion, Body, MeshObject, Owner};
use similar::TextDiff;

use super::Ending;
use crate::args::{PlanArgs, PlanOutput};
use crate::clock;
use crate::config::{self, Configuration};
use crate::line::sink::SinkOptions;
use crate::once::{Once, gather, report};
use crate::sinks::RunningSink;
use crate::sources::Needed;

/// Lines around a change in a diff.
const CONTEXT_LINES: usize = 3;

/// Prints the plan.
///
/// # Errors
/// Something cannot be read: the configuration, a source, a policy, a sink.
pub(crate) async fn plan(args: &PlanArgs) -> anyhow::Result<Ending> {
    let config = config::load(&args.config.config)?;
    let once = gather(&config, &Needed::All, args.wait.timeout.0).await?;
    report(&once.line.findings());
    match args.output {
        PlanOutput::Yaml => {
            super::print(&manifests(&once, &config.owner)?)?;
            Ok(Ending::Done)
        }
        PlanOutput::Text => {
            let (text, differences) = steps(&config, &once, args.wait.timeout.0).await?;
            super::print(&text)?;
            Ok(if args.exit_code && differences > 0 { Ending::Differs } else { Ending::Done })
        }
    }
}

/// Every desired resource as a YAML stream, in the order of their identifiers. Comments say which
/// sources may have more.
fn manifests(once: &Once, owner: &Owner) -> anyhow::Result<String> {
    let mut text: String = once.notes().iter().map(|note| format!("# {note}\n")).collect();
    for object in once.line.desired().values() {
        text.push_str("---\n");
        text.push_str(&api::to_yaml(object, owner, ApiVersion::V1)?);
    }
    Ok(text)
}

/// The steps against each sink as text, and how many objects differ from what is desired. Those
/// outside of what a sink watches are another sink's.
async fn steps(
    config: &Configuration,
    once: &Once,
    timeout: Duration,
) -> anyhow::Result<(String, usize)> {
    let mut text: String = once.notes().iter().map(|note| format!("{note}\n")).collect();
    let mut count = 0;
    if config.sinks.is_empty() {
        text.push_str("no sinks are configured; --output yaml prints the resources\n");
    }
    for sink in &config.sinks {
        let running = RunningSink::start(sink.clone(), &config.owner, &once.clients).await?;
        let name = running.name().to_owned();
        running.wait_ready(timeout).await.with_context(|| format!("failed to read sink {name}"))?;
        let mut line = running.new_line();
        let desired = once.line.desired();
        running.take_sighting(&mut line, desired);
        let options = SinkOptions {
            evidence: &once.line.evidence(),
            guard: &config.guard,
            grace: config.grace,
            now: clock::now(),
        };
        let due = line.due(desired, options);
        let differing: BTreeSet<&ObjectId> = due
            .steps
            .iter()
            .map(Step::id)
            .chain(line.held().iter().map(|held| &held.id))
            .chain(line.blocked())
            .collect();
        let elsewhere = |id: &&ObjectId| differing.contains(id) || line.outside().contains(*id);
        let _ = writeln!(
            text,
            "sink {name}: {} to do, {} held, {} blocked, {} outside, {} as they should be",
            due.steps.len(),
            line.held().len(),
            line.blocked().len(),
            line.outside().len(),
            desired.len() - desired.keys().filter(elsewhere).count(),
        );
        for step in &due.steps {
            write_step(&mut text, step, &config.owner)?;
        }
        for held in line.held() {
            let _ = writeln!(text, "held {} {}: {}", held.verb, held.id, held.why);
        }
        for id in line.blocked() {
            write_blocked(&mut text, id);
        }
        for id in line.outside() {
            let _ = writeln!(text, "outside {id}: the sink does not watch its namespace");
        }
        count += differing.len();
    }
    Ok((text, count))
}

fn write_blocked(text: &mut String, id: &ObjectId) {
    let _ = writeln!(text, "blocked {id}: it is somebody else's object and is left alone");
}

/// One step: what is done to which object, and the lines that differ.
fn write_step(text: &mut String, step: &Step<Body>, owner: &Owner) -> anyhow::Result<()> {
    let _ = writeln!(text, "{} {}", step.verb(), step.id());
    let print = |object: Option<&std::sync::Arc<MeshObject>>| match object {
        Some(object) => api::to_yaml(object, owner, ApiVersion::V1),
        None => Ok(String::new()),
    };
    let (before, after) = (print(step.from())?, print(step.to())?);
    let diff = TextDiff::from_lines(&before, &after);
    for hunk in diff.unified_diff().context_radius(CONTEXT_LINES).iter_hunks() {
        for change in hunk.iter_changes() {
            let _ = write!(text, "  {}{change}", change.tag());
        }
    }
    Ok(())
}
