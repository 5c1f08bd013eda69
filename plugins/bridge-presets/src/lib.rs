//! Publishes services as other bridges from a registry to Istio did, so that clients and routing rules find the hosts,
//! ports and labels that they know when Landfall takes a bridge's place.
//!
//! The README has what each bridge wrote, and where a preset differs and why; `settings` has the options, each bridge has
//! a module of its own, and `consul` has what those from Consul share.

mod bridge;
mod consul;
mod consul2istio;
mod eureka2istio;
mod istio_consul;
mod mapping;
mod registry_sync;
mod settings;
#[cfg(test)]
mod testing;

use landfall_policy::{
    Instance, InstancePolicy, MeshService, Policy, Problem, Service, ServicePolicy, Setting,
    Verdict,
};

use bridge::Bridge;
pub use settings::Settings;

/// The policy: one bridge, and the namespace that it wrote to.
#[derive(Debug)]
pub struct BridgePresets {
    /// `None` leaves the namespace that the mapping has.
    namespace: Option<String>,
    bridge: Bridge,
}

// === impl BridgePresets ===

impl Policy for BridgePresets {
    type Settings = Settings;
    const SCHEMA: Option<&'static str> = Some(include_str!("../settings.schema.json"));

    fn new(settings: Settings) -> Result<Self, Vec<Problem>> {
        let problems = settings.problems();
        if problems.is_empty() {
            let (namespace, bridge) = settings.into_bridge();
            Ok(Self { namespace, bridge })
        } else {
            Err(problems)
        }
    }

    fn reads(&self) -> Option<Vec<String>> {
        Some(self.bridge.reads().iter().map(|&field| field.to_owned()).collect())
    }
}

impl InstancePolicy for BridgePresets {
    fn decide(&self, service: &Service, instance: &Instance) -> Verdict {
        match self.bridge.publish(service, instance) {
            Ok(edits) => match &self.namespace {
                Some(namespace) => mapping::unweighted(edits.namespace(namespace), instance).into(),
                None => mapping::unweighted(edits, instance).into(),
            },
            Err(reason) => Verdict::drop(reason),
        }
    }
}

impl ServicePolicy for BridgePresets {
    fn decide_service(&self, service: &MeshService) -> Result<Vec<Setting>, String> {
        Ok(self.bridge.settings(service))
    }
}

landfall_policy::export!(BridgePresets, instances, services);

#[cfg(test)]
mod tests {
    use landfall_policy::testing;

    use super::*;

    #[test]
    fn only_what_a_bridge_looked_at_is_read() {
        let reads = |preset: &str| {
            let policy: BridgePresets =
                testing::configure(&format!(r#"{{"preset": "{preset}"}}"#)).unwrap();
            policy.reads().unwrap().join(" ")
        };
        assert_eq!(reads("registry-sync"), "ext/consul.node-address mapping");
        assert_eq!(reads("consul2istio"), "mapping meta/external meta/protocol tags");
        assert_eq!(reads("istio-consul"), "mapping meta/external meta/protocol tags");
        assert_eq!(reads("eureka2istio"), "ext/eureka.host-name mapping meta/asm-serviceentry");
    }
}
