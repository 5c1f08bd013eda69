//! What [`export!`](crate::export) expands to calls: the state of a configured policy and the way into it.
//! Not part of the documented interface; it is public only because the macro runs in the policy's crate.

use std::sync::OnceLock;

use crate::log::{self, Level};
use crate::{Descriptor, Policy, Problem, settings};

/// Where a component keeps its policy between `configure` and the calls after it.
#[derive(Debug)]
pub struct Slot<P>(OnceLock<P>);

// === impl Slot ===

impl<P: Policy> Slot<P> {
    /// A slot before `configure`.
    #[allow(
        clippy::new_without_default,
        reason = "a static needs a const function, which Default is not"
    )]
    #[must_use]
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    fn get(&self) -> Result<&P, String> {
        self.0.get().ok_or_else(|| "configure was not called, or refused its settings".to_owned())
    }
}

/// Answers `plugin.describe`.
pub fn describe<P: Policy>(slot: &Slot<P>, name: &str, version: &str) -> Descriptor {
    log_panics();
    Descriptor {
        name: name.to_owned(),
        version: version.to_owned(),
        // Landfall asks behind `configure`, when the answer may be narrower.
        reads: match slot.get() {
            Ok(policy) => policy.reads(),
            Err(_) => owned(P::READS),
        },
        schema: P::SCHEMA.map(str::to_owned),
        ext: None,
    }
}

/// Fields to read as the contract has them.
pub(crate) fn owned(fields: Option<&[&str]>) -> Option<Vec<String>> {
    fields.map(|fields| fields.iter().map(|&field| field.to_owned()).collect())
}

/// Answers `plugin.configure`.
///
/// # Errors
///
/// What is wrong with the settings, or that they have been taken before.
pub fn configure<P: Policy>(slot: &Slot<P>, json: &str) -> Result<(), Vec<Problem>> {
    log_panics();
    let policy = P::new(settings::parse(json)?)?;
    slot.0.set(policy).map_err(|_| vec![settings::problem("", "configure was called twice")])
}

/// Interface `instances`.
pub mod instances {
    use super::Slot;
    use crate::{Instance, InstancePolicy, Service, Verdict};

    /// Compiles only for what implements the trait.
    pub fn check<P: InstancePolicy>() {}

    /// Answers `instances.decide`.
    ///
    /// # Errors
    ///
    /// The policy's own, or that it has no settings yet.
    pub fn decide<P: InstancePolicy>(
        slot: &Slot<P>,
        service: &Service,
        items: &[Instance],
    ) -> Result<Vec<Verdict>, String> {
        slot.get()?.decide_all(service, items)
    }
}

/// Interface `services`.
pub mod services {
    use super::Slot;
    use crate::{MeshService, ServicePolicy, Setting};

    /// Compiles only for what implements the trait.
    pub fn check<P: ServicePolicy>() {}

    /// Answers `services.decide`.
    ///
    /// # Errors
    ///
    /// The policy's own, or that it has no settings yet.
    pub fn decide<P: ServicePolicy>(
        slot: &Slot<P>,
        service: &MeshService,
    ) -> Result<Vec<Setting>, String> {
        slot.get()?.decide_service(service)
    }
}

/// Has panics written to the log before they trap. Without it the host would only see an `unreachable`.
///
/// Natively the test harness already shows them.
fn log_panics() {
    if cfg!(target_family = "wasm") {
        std::panic::set_hook(Box::new(|panic| log::write(Level::Error, &panic.to_string())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Edits, Instance, InstancePolicy, Service, Verdict};

    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Prefix {
        prefix: String,
    }

    impl Policy for Prefix {
        type Settings = Self;
        const READS: Option<&'static [&'static str]> = Some(&["meta", "mapping"]);

        fn new(settings: Self) -> Result<Self, Vec<Problem>> {
            if settings.prefix.is_empty() {
                return Err(vec![settings::problem("/prefix", "must not be empty")]);
            }
            Ok(settings)
        }

        fn reads(&self) -> Option<Vec<String>> {
            Some(vec!["mapping".to_owned()])
        }
    }

    impl InstancePolicy for Prefix {
        fn decide(&self, service: &Service, _instance: &Instance) -> Verdict {
            Edits::new().host(format!("{}{}", self.prefix, service.name)).into()
        }
    }

    #[test]
    fn a_policy_decides_after_configure_and_not_before() {
        let slot: Slot<Prefix> = Slot::new();
        let (service, items) = (Service::new("pay"), [Instance::new("1"), Instance::new("2")]);
        assert!(instances::decide(&slot, &service, &items).unwrap_err().contains("configure"));

        configure(&slot, r#"{"prefix": "v2."}"#).unwrap();
        let verdicts = instances::decide(&slot, &service, &items).unwrap();
        assert_eq!(verdicts, vec![Verdict::from(Edits::new().host("v2.pay")); 2]);
    }

    #[test]
    fn what_is_read_may_follow_from_the_settings() {
        let slot: Slot<Prefix> = Slot::new();
        let reads = || describe(&slot, "prefix", "1.0.0").reads.unwrap();
        assert_eq!(reads(), ["meta", "mapping"]);
        configure(&slot, r#"{"prefix": "v2."}"#).unwrap();
        assert_eq!(reads(), ["mapping"]);
    }

    #[test]
    fn refused_settings_leave_the_slot_empty() {
        let slot: Slot<Prefix> = Slot::new();
        for (json, path) in
            [(r#"{"prefix": ""}"#, "/prefix"), (r#"{"prefix": "a", "x": 1}"#, "/x"), ("", "")]
        {
            let problems = configure(&slot, json).unwrap_err();
            assert_eq!(problems.len(), 1, "{json}");
            assert_eq!(problems[0].path, path, "{json}: {}", problems[0].message);
        }
        configure(&slot, r#"{"prefix": "v2."}"#).unwrap();
        assert_eq!(
            configure(&slot, r#"{"prefix": "v2."}"#).unwrap_err()[0].message,
            "configure was called twice"
        );
    }
}
