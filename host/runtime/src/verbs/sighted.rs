//! What sinks hold, and what is due there, looked at once.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context;
use landfall_core::finding::Finding;
use landfall_core::mesh::{Body as _, ObjectId};
use landfall_mesh::api::MeshObject;

use crate::clock;
use crate::config::{Configuration, SinkConfig};
use crate::line::sink::{Due, SinkLine, SinkOptions};
use crate::once::{Once, report};
use crate::sinks::RunningSink;

/// A sink, and what is due there.
pub(super) struct Sighted {
    /// For people.
    pub(super) name: String,
    /// What it holds.
    pub(super) line: SinkLine,
    /// What is due.
    pub(super) due: Due,
    /// Hosts there, or due there, that somebody else claims too.
    pub(super) contested: Vec<Finding>,
}

/// Reads a sink and plans its steps.
///
/// # Errors
/// It cannot be read in time.
pub(super) async fn sighted(
    sink: &SinkConfig,
    config: &Configuration,
    once: &Once,
    timeout: Duration,
) -> anyhow::Result<Sighted> {
    let running = RunningSink::look(sink.clone(), &config.owner, &once.clients).await?;
    let name = running.name().to_owned();
    running.wait_ready(timeout).await.with_context(|| format!("failed to read sink {name}"))?;
    let mut line = running.new_look();
    let desired = once.line.desired();
    let now = clock::now();
    running.take_sighting(&mut line, desired, now);
    let options = SinkOptions {
        evidence: &once.line.evidence(),
        guard: &config.guard,
        entries: once.line.entries(),
        grace: config.grace,
        now,
    };
    let due = line.due(desired, options);
    report(&running.take_findings());
    let mut contested = running.take_contested();
    contested.extend(running.contested_by(&due.steps));
    Ok(Sighted { name, line, due, contested })
}

impl Sighted {
    /// What of an object's hosts somebody else claims too.
    pub(super) fn contested_of(&self, id: &ObjectId) -> impl Iterator<Item = &Finding> {
        let subject = id.to_string();
        self.contested.iter().filter(move |finding| finding.subject == subject)
    }

    /// The endpoints of one of our objects there that `desired`, what it should be, does not have.
    pub(super) fn left_over(&self, id: &ObjectId, desired: Option<&MeshObject>) -> Vec<String> {
        missing(self.line.observed().ours.get(id).map(|object| &**object), desired)
    }

    /// The endpoints of `desired` that are not there yet.
    pub(super) fn lacking(&self, desired: &MeshObject) -> Vec<String> {
        missing(Some(desired), self.line.observed().ours.get(&desired.id).map(|object| &**object))
    }

    /// Whether an object can never come there as it is.
    pub(super) fn keeps_out(&self, id: &ObjectId) -> bool {
        self.line.blocked().contains(id) || self.line.outside().contains(id)
    }

    /// What becomes of an object, for a person.
    pub(super) fn standing(&self, id: &ObjectId) -> String {
        if let Some(held) = self.line.held().iter().find(|held| held.id == *id) {
            return format!("held {}: {}", held.verb, held.why);
        }
        if let Some(step) = self.due.steps.iter().find(|step| step.id() == id) {
            return format!("{} is due", step.verb());
        }
        if self.line.blocked().contains(id) {
            return "somebody else's object stands there and is left alone".to_owned();
        }
        if self.line.outside().contains(id) {
            return "not written: the sink does not watch its namespace".to_owned();
        }
        let there = self.line.observed().ours.get(id);
        if there.is_some_and(|object| object.removal.is_some()) {
            return "has no endpoints and goes when the grace time is over".to_owned();
        }
        if self.line.unsettled().contains(id) {
            return "waits for other resources of its service".to_owned();
        }
        let word = if there.is_some() { "as it should be" } else { "not there" };
        word.to_owned()
    }
}

/// The addresses of `object`'s endpoints that `other` does not have, in their order.
fn missing(object: Option<&MeshObject>, other: Option<&MeshObject>) -> Vec<String> {
    let other: BTreeSet<_> = other.iter().flat_map(|other| other.body.spots()).collect();
    let own = object.iter().flat_map(|object| object.body.spots());
    own.filter(|spot| !other.contains(spot)).map(|spot| spot.address.to_string()).collect()
}
