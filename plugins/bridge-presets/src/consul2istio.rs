//! consul2istio, of the Aeraki project.

use landfall_policy::{Edits, Instance, MeshService, Port, Service, Setting};

use crate::consul::{self, Spoken};
use crate::mapping;

/// The port that it gave every service, so that clients need not know where instances listen.
const DEFAULT_PORT: u16 = 80;

/// The bridge.
#[derive(Debug)]
pub(crate) struct Consul2Istio {
    /// What stands behind the names of services; nothing if empty.
    pub(crate) fqdn: String,
    /// Whether services have [`DEFAULT_PORT`] besides their own.
    pub(crate) has_default_port: bool,
    /// Whether objects carry its labels.
    pub(crate) labels_objects: bool,
}

// === impl Consul2Istio ===

impl Consul2Istio {
    pub(crate) fn publish(&self, service: &Service, instance: &Instance) -> Edits {
        let host = match self.fqdn.as_str() {
            "" => service.name.clone(),
            fqdn => format!("{}.{fqdn}", service.name),
        };
        let edits = Edits::new().host(host).ports(self.ports(instance));
        let datacenter = Some(service.datacenter.as_str()).filter(|name| !name.is_empty());
        mapping::at(consul::labeled(edits, instance), datacenter, instance)
    }

    pub(crate) fn settings(&self, service: &MeshService) -> Vec<Setting> {
        let mut settings = consul::location(service);
        if self.labels_objects {
            let labels = [("manager", "Aeraki"), ("registry", "consul")];
            settings.extend(labels.map(|(key, value)| Setting::Label((key.into(), value.into()))));
        }
        settings
    }

    /// None where Consul has none: the bridge wrote port 0, which Istio refuses.
    fn ports(&self, instance: &Instance) -> Vec<Port> {
        let mut numbers = consul::numbers(instance);
        let Some(&first) = numbers.first() else { return Vec::new() };
        let mut ports = Vec::with_capacity(numbers.len() + 1);
        if self.has_default_port {
            // It stands in for one of its own number, of whatever protocol that is.
            let target = if numbers.remove(&DEFAULT_PORT) { DEFAULT_PORT } else { first };
            let name = format!("tcp-{DEFAULT_PORT}");
            ports.push(Port { target, ..Port::new(name, DEFAULT_PORT, "tcp") });
        }
        let spoken = Spoken::of(instance, "tcp");
        let own = numbers.into_iter().map(|number| {
            Port::new(format!("{}-{number}", spoken.name()), number, spoken.protocol)
        });
        ports.extend(own);
        ports
    }
}

#[cfg(test)]
mod tests {
    use landfall_policy::Verdict;

    use super::*;
    use crate::testing::{decide, listening, of_consul, settings};

    const PRESET: &str = r#"{"preset": "consul2istio"}"#;
    const WITHOUT_DEFAULT_PORT: &str =
        r#"{"preset": "consul2istio", "enableDefaultPort": false, "fqdn": "service.consul"}"#;

    fn default_port(target: u16) -> Port {
        Port { target, ..Port::new("tcp-80", 80, "tcp") }
    }

    #[track_caller]
    fn check(settings: &str, instance: &Instance, want: Edits) {
        let got = decide(settings, &of_consul("web"), instance);
        assert_eq!(got, Verdict::from(want), "{settings}");
    }

    #[test]
    fn a_port_is_named_by_protocol_and_number() {
        for (protocol, name, spoken) in [
            ("", "tcp-8080", "tcp"),
            ("http", "http-8080", "http"),
            ("GRPC", "GRPC-8080", "grpc"),
            ("thrift", "thrift-8080", "tcp"),
        ] {
            let instance = listening(&[8080]).with_meta("protocol", protocol);
            let ports = [default_port(8080), Port::new(name, 8080, spoken)];
            let want = Edits::new()
                .host("web")
                .ports(ports.clone())
                .locality("dc1", "", "")
                .namespace("istio-system");
            check(PRESET, &instance, want);
            let want = Edits::new()
                .host("web.service.consul")
                .ports(ports.into_iter().skip(1))
                .locality("dc1", "", "")
                .namespace("istio-system");
            check(WITHOUT_DEFAULT_PORT, &instance, want);
        }
    }

    #[test]
    fn tags_are_labels() {
        let instance = listening(&[8080]).with_tag("version|v1").with_tag("blue");
        let want = Edits::new()
            .host("web")
            .ports([default_port(8080), Port::new("tcp-8080", 8080, "tcp")])
            .label("version", "v1")
            .locality("dc1", "", "")
            .namespace("mesh");
        check(r#"{"preset": "consul2istio", "namespace": "mesh"}"#, &instance, want);
    }

    #[test]
    fn the_default_port_stands_in_for_one_of_its_number() {
        let bridge = |has_default_port| Consul2Istio {
            fqdn: String::new(),
            has_default_port,
            labels_objects: true,
        };
        let web = listening(&[80]).with_meta("protocol", "http");
        assert_eq!(bridge(true).ports(&web), [default_port(80)]);
        assert_eq!(bridge(false).ports(&web), [Port::new("http-80", 80, "http")]);
        let several = [
            default_port(8080),
            Port::new("tcp-8080", 8080, "tcp"),
            Port::new("tcp-9090", 9090, "tcp"),
        ];
        assert_eq!(bridge(true).ports(&listening(&[9090, 8080])), several);
        assert_eq!(bridge(true).ports(&listening(&[])), [], "an instance without a port has none");
    }

    #[test]
    fn objects_carry_its_labels() {
        let label = |key: &str, value: &str| Setting::Label((key.to_owned(), value.to_owned()));
        let location = Setting::Location("internal".to_owned());
        let service = MeshService::new("web");
        let want = [location.clone(), label("manager", "Aeraki"), label("registry", "consul")];
        assert_eq!(settings(PRESET, &service), want);
        let plain = r#"{"preset": "consul2istio", "objectLabels": false}"#;
        assert_eq!(settings(plain, &service), [location]);
    }
}
