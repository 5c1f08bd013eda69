//! `landfall plan`: what should be, or how the sinks differ from it.

use std::collections::BTreeSet;
use std::time::Duration;

use landfall_core::mesh::ObjectId;
use landfall_core::plan::Step;
use landfall_mesh::api::{self, ApiVersion, Body, MeshObject, Owner};
use similar::TextDiff;

use super::Ending;
use super::report::{Report, tell};
use super::sighted::{Sighted, sighted};
use crate::args::{PlanArgs, PlanOutput};
use crate::config::{self, Configuration};
use crate::once::{Once, gather, report};
use crate::sources::Needed;

/// Six lines of a usual terminal: the longest names of objects fit beside what is said of them. Names
/// in registries may be of any length; `--output yaml` has all of it.
pub(super) const LINE_CHARS_MAX: usize = 480;
/// Lines around a change in a diff.
const CONTEXT_LINES: usize = 3;

/// Prints the plan.
///
/// # Errors
/// Something cannot be read: the configuration, a source, a policy, a sink.
pub(crate) async fn plan(args: &PlanArgs) -> anyhow::Result<Ending> {
    let config = config::load(&args.once.config.config)?;
    let once = gather(&config, &Needed::All, args.once.timeout.0).await?;
    report(&once.line.findings());
    match args.output {
        PlanOutput::Yaml => {
            super::print(&manifests(&once, &config.owner)?)?;
            Ok(Ending::Done)
        }
        PlanOutput::Text => {
            let (text, differences) = steps(&config, &once, args.once.timeout.0).await?;
            super::print(&text)?;
            Ok(if args.exit_code && differences > 0 { Ending::Differs } else { Ending::Done })
        }
    }
}

/// Every desired resource as a YAML stream, in the order of their identifiers. Comments say which
/// sources may have more.
fn manifests(once: &Once, owner: &Owner) -> anyhow::Result<String> {
    let mut report = Report::default();
    once.notes().iter().for_each(|note| tell!(report, "# {note}"));
    for object in once.line.desired().values() {
        report.document(&api::to_yaml(object, owner, ApiVersion::V1)?);
    }
    Ok(report.into_text())
}

/// The steps against each sink as text, and how many objects differ from what is desired. Those
/// outside of what a sink watches are another sink's.
async fn steps(
    config: &Configuration,
    once: &Once,
    timeout: Duration,
) -> anyhow::Result<(String, usize)> {
    let mut report = Report::bounded(LINE_CHARS_MAX);
    once.notes().iter().for_each(|note| tell!(report, "{note}"));
    let mut count = 0;
    if config.sinks.is_empty() {
        tell!(report, "no sinks are configured; --output yaml prints the resources");
    }
    for sink in &config.sinks {
        let Sighted { name, line, due, contested } = sighted(sink, config, once, timeout).await?;
        let desired = once.line.desired();
        let listed: BTreeSet<&ObjectId> = due
            .steps
            .iter()
            .map(Step::id)
            .chain(line.held().iter().map(|held| &held.id))
            .chain(line.blocked())
            .collect();
        let waiting = line.unsettled().iter().filter(|id| !listed.contains(id)).count();
        let elsewhere =
            |id: &&ObjectId| line.unsettled().contains(id) || line.outside().contains(id);
        tell!(
            report,
            "sink {name}: {} to do, {} held, {} blocked, {} outside, {waiting} waiting, {} as they \
             should be",
            due.steps.len(),
            line.held().len(),
            line.blocked().len(),
            line.outside().len(),
            desired.len() - desired.keys().filter(elsewhere).count(),
        );
        for step in &due.steps {
            write_step(&mut report, step, &config.owner)?;
        }
        for held in line.held() {
            tell!(report, "held {} {}: {}", held.verb, held.id, held.why);
        }
        for id in line.blocked() {
            tell!(report, "blocked {id}: it is somebody else's object and is left alone");
        }
        for finding in &contested {
            tell!(report, "contested {}: {}", finding.subject, finding.message);
        }
        for id in line.outside() {
            tell!(report, "outside {id}: the sink does not watch its namespace");
        }
        count += listed.len() + waiting;
    }
    Ok((report.into_text(), count))
}

/// One step: what is done to which object, and the lines that differ.
fn write_step(report: &mut Report, step: &Step<Body>, owner: &Owner) -> anyhow::Result<()> {
    tell!(report, "{} {}", step.verb(), step.id());
    write_diff(report, step.from().map(|from| &**from), step.to().map(|to| &**to), owner)
}

/// The lines in which an object differs.
pub(super) fn write_diff(
    report: &mut Report,
    before: Option<&MeshObject>,
    after: Option<&MeshObject>,
    owner: &Owner,
) -> anyhow::Result<()> {
    let print = |object: Option<&MeshObject>| match object {
        Some(object) => api::to_yaml(object, owner, ApiVersion::V1),
        None => Ok(String::new()),
    };
    let (before, after) = (print(before)?, print(after)?);
    let diff = TextDiff::from_lines(&before, &after);
    for hunk in diff.unified_diff().context_radius(CONTEXT_LINES).iter_hunks() {
        for change in hunk.iter_changes() {
            tell!(report, "  {}{}", change.tag(), change.value().trim_end_matches('\n'));
        }
    }
    Ok(())
}
