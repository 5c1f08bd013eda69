//! What the tests of all presets do: decide, and compare with everything that comes of it.

use landfall_policy::{
    Instance, InstancePolicy, Mapping, MeshService, Service, ServicePolicy, Setting, Verdict,
    testing,
};

use crate::BridgePresets;

/// What a policy with these settings says of the instance.
#[track_caller]
pub(crate) fn decide(settings: &str, service: &Service, instance: &Instance) -> Verdict {
    let policy: BridgePresets = testing::configure(settings).unwrap();
    policy.decide(service, instance)
}

/// What a policy with these settings sets for the service.
#[track_caller]
pub(crate) fn settings(settings: &str, service: &MeshService) -> Vec<Setting> {
    let policy: BridgePresets = testing::configure(settings).unwrap();
    policy.decide_service(service).unwrap()
}

/// A service of Consul's datacenter dc1.
pub(crate) fn of_consul(name: &str) -> Service {
    Service { registry: "consul".to_owned(), datacenter: "dc1".to_owned(), ..Service::new(name) }
}

/// An instance at 10.0.0.1 on a node at 10.255.0.1 that listens on these ports, as Landfall maps it by itself.
pub(crate) fn listening(numbers: &[u16]) -> Instance {
    let port = |&number| landfall_policy::Port::new(format!("p{number}"), number, "");
    let mapping =
        Mapping { ports: numbers.iter().map(port).collect(), ..Mapping::new("web.dc1.mesh") };
    Instance::new("node-1/web-1")
        .with_ext("consul.node-address", "10.255.0.1")
        .with_mapping(mapping)
}
