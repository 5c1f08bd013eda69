//! Asks policies about services of the mesh as a whole.

use std::sync::Arc;

use landfall_core::decision::Fault;
use landfall_core::mesh::{MeshService, Setting};
use landfall_core::registry::{Service, ServiceId};

use crate::abi::{MeshFacts, ServiceFacts, Settings};
use crate::bench::Bench;
use crate::breaker::Breaker;
use crate::fault::{Failure, FaultCode};
use crate::log::Level;
use crate::revision::Revision;
use crate::rules::Rules;

/// What the caller knows of a service that contributes to one of the mesh.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The kind of its registry, such as `consul`.
    pub registry: &'static str,
    /// Its facts; `None` when it is gone from its registry.
    pub service: Option<Arc<Service>>,
}

/// A service of the mesh with what is known of its origins, in the order of its parts.
pub(crate) struct MeshWork {
    pub(crate) service: Arc<MeshService>,
    pub(crate) origins: Vec<(Arc<ServiceId>, Origin)>,
}

/// Settings of one service, by all policies together.
const SETTINGS_MAX: usize = 1000;

/// The settings that the policies give this service, in their order.
pub(crate) fn settings(
    bench: &mut Bench,
    rules: &Rules,
    breakers: &[Breaker],
    work: &MeshWork,
) -> Result<Arc<[Setting]>, Arc<Fault>> {
    let origins: Vec<ServiceFacts<'_>> = work
        .origins
        .iter()
        .map(|(id, origin)| ServiceFacts {
            id,
            registry: origin.registry,
            service: origin.service.as_deref(),
        })
        .collect();
    let asked = MeshFacts { service: &work.service, origins: &origins };
    let mut settings = Vec::new();
    for (link, breaker) in rules.links().iter().zip(breakers) {
        let revision = &link.revision;
        if !revision.decides_services() || !origins.iter().any(|origin| link.matches(origin.id)) {
            continue;
        }
        if let Some(fault) = breaker.open() {
            return Err(Arc::clone(fault));
        }
        let answer = ask(bench, revision, breaker, asked)?;
        for name in &answer.unknown {
            let line = format!(
                "setting {name:?} is not known to this version of Landfall and was left out"
            );
            revision.mold.log.write(Level::Warn, &line, None);
        }
        breaker.take(revision, answer.values.iter().map(bytes).sum())?;
        settings.extend(answer.values);
        if settings.len() > SETTINGS_MAX {
            let message =
                format!("the policies give one service more than {SETTINGS_MAX} settings");
            return Err(
                Failure::new(FaultCode::VerdictIllegal, message).into_fault(revision.name())
            );
        }
    }
    Ok(settings.into())
}

/// The memory that a setting takes.
fn bytes(setting: &Setting) -> usize {
    let texts = match setting {
        Setting::Label(key, value) | Setting::Annotation(key, value) => key.len() + value.len(),
        Setting::Alias(text)
        | Setting::Address(text)
        | Setting::Location(text)
        | Setting::Resolution(text)
        | Setting::ExportTo(text)
        | Setting::SubjectAltName(text)
        | Setting::Name(text) => text.len(),
    };
    size_of::<Setting>() + texts
}

/// Asks one policy, and if it fails a second time on a fresh store: what the first one went through
/// before may be to blame.
fn ask(
    bench: &mut Bench,
    revision: &Arc<Revision>,
    breaker: &Breaker,
    asked: MeshFacts<'_>,
) -> Result<Settings, Arc<Fault>> {
    // Ends with the second turn, for a call that fails loses its store.
    loop {
        let is_used = bench.is_used(revision);
        let (answer, took) = breaker.timed(revision, || bench.decide_service(revision, asked));
        match answer {
            Ok(answer) => {
                breaker.succeeded(revision);
                return Ok(answer);
            }
            Err(failure) if is_used && failure.may_follow_from_history() => {
                breaker.failed(revision, &failure, took);
            }
            Err(failure) => return Err(breaker.failed_alone(revision, failure, took)),
        }
    }
}
