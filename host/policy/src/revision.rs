//! A policy that may be used: what a swap replaces.

use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use landfall_core::text::Text;
use wasmtime::component::{Component, Linker};

use crate::abi::Descriptor;
use crate::abi::v0_1;
use crate::artifact;
use crate::engine::PolicyEngine;
use crate::fault::{Failure, FaultCode, problem};
use crate::guest::{Guest, Mold};
use crate::limits::Limits;
use crate::log::{Capture, Level, PolicyLog};
use crate::projection::Projection;
use crate::refusal::AdmissionError;
use crate::structure;
use crate::wasi;

/// What is to become a revision. Its bytes are taken for hostile.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// What the configuration calls the policy.
    pub name: Text,
    /// A component: as it is, or compressed with gzip or zstd.
    pub bytes: &'a [u8],
    /// Its settings, `{}` when it has none.
    pub settings_json: &'a str,
    /// What it may use.
    pub limits: Limits,
}

/// A component with its settings and its limits, admitted: it loads, describes itself, and takes
/// its settings. Immutable.
pub struct Revision {
    name: Text,
    digest: String,
    component_digest: String,
    descriptor: Descriptor,
    settings: String,
    decides_instances: bool,
    decides_services: bool,
    pub(crate) projection: Projection,
    pub(crate) mold: Mold,
    /// Whether the last work ended early because it failed too often, see `breaker`.
    pub(crate) tripped: AtomicBool,
}

// === impl Revision ===

impl Revision {
    /// Takes a candidate through every check there is short of real data. Compiling takes
    /// 0.1 s for a policy in Rust and 10 s for one in Python: call it where that is no harm.
    ///
    /// # Errors
    /// The first check that the candidate does not pass.
    // Signatures are to be checked after the digest, and compiling is to move to a child process
    // with limits of its own; both have their place between the stages below.
    pub fn admit(
        engine: &Arc<PolicyEngine>,
        candidate: Candidate<'_>,
    ) -> Result<Arc<Self>, AdmissionError> {
        shielded(|| Self::admitted(engine, candidate))
    }

    fn admitted(
        engine: &Arc<PolicyEngine>,
        candidate: Candidate<'_>,
    ) -> Result<Arc<Self>, AdmissionError> {
        let Candidate { name, bytes, settings_json, limits } = candidate;
        let bytes = artifact::unpacked(bytes)?;
        let component_digest = artifact::digest(&[&bytes]);
        let digest = artifact::digest(&[
            component_digest.as_bytes(),
            settings_json.as_bytes(),
            format!("{limits:?}").as_bytes(),
        ]);
        let outside = structure::examined(&bytes)?;
        outside.check()?;
        let component = Component::from_binary(engine.wasmtime(), &bytes)
            .map_err(|error| AdmissionError::Compile { problem: problem(&error) })?;
        let mold = mold(engine, &component, &name, limits)?;

        let stage = |stage| move |failure| AdmissionError::Call { stage, failure };
        let guest = mold
            .instantiate(None)
            .map_err(stage("instantiate"))?
            .map_err(|problem| AdmissionError::WorldMismatch { problem })?;
        let guest = mold
            .configure(guest, settings_json)
            .map_err(stage("configure"))?
            .map_err(|problems| AdmissionError::ConfigInvalid { problems })?;
        // Behind `configure`, for what a policy reads may follow from its settings.
        let (_, descriptor) = mold.describe(guest).map_err(stage("describe"))?;
        let (projection, unknown) = Projection::parse(descriptor.reads.as_deref());
        // The log has a bound of its own.
        for word in unknown {
            let line = format!(
                "reads names {word:?}, which this version of Landfall does not know, so nothing is \
                 sent for it; there are tags, meta, ext, mapping, and single keys as in meta/version"
            );
            mold.log.write(Level::Warn, &line, None);
        }
        Ok(Arc::new(Self {
            name,
            digest,
            component_digest,
            descriptor,
            settings: settings_json.to_owned(),
            decides_instances: outside.exports("instances"),
            decides_services: outside.exports("services"),
            projection,
            mold,
            tripped: AtomicBool::new(false),
        }))
    }

    /// What the configuration calls the policy.
    #[must_use]
    pub fn name(&self) -> &Text {
        &self.name
    }

    /// Names component, settings and limits: SHA-256 in hexadecimal.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Names the component alone, unpacked: SHA-256 in hexadecimal.
    #[must_use]
    pub fn component_digest(&self) -> &str {
        &self.component_digest
    }

    /// What the policy says of itself.
    #[must_use]
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// What it may use.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.mold.limits
    }

    /// Whether it decides instance by instance.
    #[must_use]
    pub fn decides_instances(&self) -> bool {
        self.decides_instances
    }

    /// Whether it decides what belongs to services as a whole.
    #[must_use]
    pub fn decides_services(&self) -> bool {
        self.decides_services
    }

    /// A fresh instance with its settings. Its lines go to `capture`, if there is one.
    pub(crate) fn guest(&self, capture: Option<Capture>) -> Result<Guest, Failure> {
        let guest = self
            .mold
            .instantiate(capture)?
            .map_err(|problem| Failure::new(FaultCode::Trap, problem))?;
        self.mold.configure(guest, &self.settings)?.map_err(|_| {
            Failure::new(
                FaultCode::PolicyError,
                "the policy refuses settings that it took before; it must answer equally to equal input",
            )
        })
    }
}

impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revision")
            .field("name", &self.name)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

/// Runs `f`, whose panic is an answer too: decompressors, parsers and the compiler are large and are
/// given what strangers wrote.
fn shielded<T>(f: impl FnOnce() -> Result<T, AdmissionError>) -> Result<T, AdmissionError> {
    // Nothing outlives a panic: what is admitted is made in there and returned whole.
    panic::catch_unwind(AssertUnwindSafe(f)).unwrap_or(Err(AdmissionError::HostPanic))
}

/// Links everything a policy may import.
fn mold(
    engine: &Arc<PolicyEngine>,
    component: &Component,
    name: &Text,
    limits: Limits,
) -> Result<Mold, AdmissionError> {
    let mut linker = Linker::new(engine.wasmtime());
    let pre = v0_1::link(&mut linker)
        .and_then(|()| wasi::link(&mut linker, engine.wasmtime(), component))
        .and_then(|()| linker.instantiate_pre(component))
        .map_err(|error| AdmissionError::WorldMismatch { problem: problem(&error) })?;
    let log = Arc::new(PolicyLog::new(Text::clone(name), limits.log_lines_per_minute_max));
    Ok(Mold { engine: Arc::clone(engine), pre, limits, log })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_refusal() {
        let refusal = shielded::<()>(|| panic!("a panic on purpose")).unwrap_err();
        assert_eq!(refusal.code(), "host_panic");
    }
}
