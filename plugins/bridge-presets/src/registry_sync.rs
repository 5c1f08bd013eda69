//! registry-sync, which was istio-cloud-map before, from Consul and AWS Cloud Map.

use landfall_policy::{Edits, Instance, MeshService, Port, Service, Setting};

use crate::{consul, mapping};

/// What it looked at.
pub(crate) const READS: &[&str] = &["ext/consul.node-address", "mapping"];

/// The registry whose services are named `service.namespace`.
const CLOUD_MAP: &str = "cloud-map";

/// The bridge.
#[derive(Debug)]
pub(crate) struct RegistrySync {
    /// Whether an instance is at its node's address, whatever address it registered itself.
    pub(crate) at_node: bool,
    /// Whether the names of ports have their numbers behind them.
    pub(crate) numbers_ports: bool,
}

// === impl RegistrySync ===

impl RegistrySync {
    pub(crate) fn publish(&self, service: &Service, instance: &Instance) -> Edits {
        let mut edits = Edits::new().host(host(service)).ports(self.ports(instance));
        if let Some(node) = instance.ext("consul.node-address").filter(|_| self.at_node) {
            edits = edits.address(node);
        }
        mapping::at(edits, None, instance)
    }

    pub(crate) fn settings(&self, service: &MeshService) -> Vec<Setting> {
        let is_cloud_map = service.origins.first().is_some_and(|o| o.registry == CLOUD_MAP);
        let registry = if is_cloud_map { "cloudmap" } else { "consul" };
        let name = Setting::Name(format!("{registry}-{}", service.host));
        vec![Setting::Location("external".to_owned()), name]
    }

    /// One that registered no port is taken to listen where the web does.
    fn ports(&self, instance: &Instance) -> Vec<Port> {
        let mut numbers = consul::numbers(instance);
        if numbers.is_empty() {
            numbers.extend([80, 443]);
        }
        let mut is_taken = self.numbers_ports;
        let ports = numbers.into_iter().map(|number| match number {
            80 => Port::new("http", number, "http"),
            443 => Port::new("https", number, "https"),
            // It knew of one port per instance. A second one cannot have the same name.
            _ if is_taken => Port::new(format!("tcp-{number}"), number, "tcp"),
            _ => {
                is_taken = true;
                Port::new("tcp", number, "tcp")
            }
        });
        ports.collect()
    }
}

fn host(service: &Service) -> String {
    if service.registry == CLOUD_MAP && !service.group.is_empty() {
        format!("{}.{}", service.name, service.group)
    } else {
        service.name.clone()
    }
}

#[cfg(test)]
mod tests {
    use landfall_policy::{Locality, Mapping, MeshService, Verdict};

    use super::*;
    use crate::testing::{decide, listening, of_consul, settings};

    const PRESET: &str = r#"{"preset": "registry-sync"}"#;

    #[track_caller]
    fn check(settings: &str, instance: &Instance, want: Edits) {
        let got = decide(settings, &of_consul("web"), instance);
        assert_eq!(got, Verdict::from(want), "{settings}");
    }

    #[test]
    fn a_port_is_named_by_its_number() {
        for (number, name) in [(80, "http"), (443, "https"), (8080, "tcp")] {
            let want = Edits::new()
                .host("web")
                .ports([Port::new(name, number, name)])
                .address("10.255.0.1");
            check(PRESET, &listening(&[number]), want);
        }
    }

    #[test]
    fn without_a_port_there_are_two() {
        let ports = [Port::new("http", 80, "http"), Port::new("https", 443, "https")];
        check(PRESET, &listening(&[]), Edits::new().host("web").ports(ports).address("10.255.0.1"));
    }

    #[test]
    fn several_ports_have_names_of_their_own() {
        let ports = [
            Port::new("http", 80, "http"),
            Port::new("tcp", 8080, "tcp"),
            Port::new("tcp-9090", 9090, "tcp"),
        ];
        let want = Edits::new().host("web").ports(ports).address("10.255.0.1");
        check(PRESET, &listening(&[9090, 80, 8080]), want);
        let ports = [Port::new("http", 80, "http"), Port::new("tcp-8080", 8080, "tcp")];
        let want = Edits::new().host("web").ports(ports).address("10.255.0.1");
        let numbered = r#"{"preset": "registry-sync", "numberedPorts": true}"#;
        check(numbered, &listening(&[80, 8080]), want);
    }

    #[test]
    fn the_instances_own_address_can_stay() {
        let settings =
            r#"{"preset": "registry-sync", "address": "service", "namespace": "bridged"}"#;
        let ports = [Port::new("tcp", 8080, "tcp")];
        let want = Edits::new().host("web").ports(ports).namespace("bridged");
        check(settings, &listening(&[8080]), want.clone());
        // A registry without nodes.
        let instance = Instance { ext: None, ..listening(&[8080]) };
        check(r#"{"preset": "registry-sync", "namespace": "bridged"}"#, &instance, want);
    }

    #[test]
    fn places_and_weights_go() {
        let placed = Mapping {
            weight: 10,
            ..Mapping::new("web.dc1.mesh").with_locality(Locality {
                region: "eu".to_owned(),
                zone: String::new(),
                subzone: String::new(),
            })
        };
        let instance = Instance::new("1").with_mapping(placed.with_port(Port::new("p", 80, "")));
        let ports = [Port::new("http", 80, "http")];
        let want = Edits::new().host("web").ports(ports).locality("", "", "").weight(1);
        check(PRESET, &instance, want);
    }

    #[test]
    fn cloud_map_has_its_namespace_in_the_host() {
        let service = |registry: &str| Service {
            registry: registry.to_owned(),
            group: "demo.example".to_owned(),
            ..Service::new("web")
        };
        assert_eq!(host(&service("cloud-map")), "web.demo.example");
        assert_eq!(host(&service("consul")), "web", "Consul's namespace is not");
    }

    #[test]
    fn services_are_external() {
        let name = Setting::Name("consul-web".to_owned());
        let want = [Setting::Location("external".to_owned()), name];
        assert_eq!(settings(PRESET, &MeshService::new("web")), want);
    }

    #[test]
    fn objects_are_named_by_registry_and_host() {
        let name = |registry: &str, host: &str| {
            let origin = Service { registry: registry.to_owned(), ..Service::new("web") };
            settings(PRESET, &MeshService::new(host).with_origin(origin)).pop()
        };
        let want = |name: &str| Some(Setting::Name(name.to_owned()));
        assert_eq!(name("consul", "web"), want("consul-web"));
        assert_eq!(name("cloud-map", "web.demo.example"), want("cloudmap-web.demo.example"));
    }
}
