//! The adapter for Consul that Istio had itself until 1.7. It wrote no resources: this is what it told Pilot.

use landfall_policy::{Edits, Instance, MeshService, Port, Service, Setting};

use crate::consul::{self, Spoken};
use crate::mapping;

/// The adapter.
#[derive(Debug)]
pub(crate) struct IstioConsul {
    /// What an instance speaks that does not say.
    pub(crate) default_protocol: &'static str,
    /// Whether the names of ports have their numbers behind them.
    pub(crate) numbers_ports: bool,
    /// That of the mesh: all services were taken to run as one account of it.
    pub(crate) trust_domain: String,
}

// === impl IstioConsul ===

impl IstioConsul {
    pub(crate) fn publish(&self, service: &Service, instance: &Instance) -> Edits {
        let host = format!("{}.service.consul", service.name);
        let edits = Edits::new().host(host).ports(self.ports(instance));
        let datacenter = Some(service.datacenter.as_str()).filter(|name| !name.is_empty());
        mapping::at(consul::labeled(edits, instance), datacenter, instance)
    }

    pub(crate) fn settings(&self, service: &MeshService) -> Vec<Setting> {
        let mut settings = consul::location(service);
        let account = format!("spiffe://{}/ns/default/sa/default", self.trust_domain);
        settings.push(Setting::SubjectAltName(account));
        settings
    }

    fn ports(&self, instance: &Instance) -> Vec<Port> {
        let spoken = Spoken::of(instance, self.default_protocol);
        let ports = consul::numbers(instance).into_iter().enumerate().map(|(index, number)| {
            // It knew of one port per instance. A second one cannot have the same name.
            let name = match spoken.name() {
                name if index == 0 && !self.numbers_ports => name,
                name => format!("{name}-{number}"),
            };
            Port::new(name, number, spoken.protocol)
        });
        ports.collect()
    }
}

#[cfg(test)]
mod tests {
    use landfall_policy::Verdict;

    use super::*;
    use crate::testing::{decide, listening, of_consul, settings};

    const PRESET: &str = r#"{"preset": "istio-consul"}"#;

    #[track_caller]
    fn check(settings: &str, instance: &Instance, ports: &[Port]) {
        let want = Edits::new()
            .host("web.service.consul")
            .ports(ports.to_vec())
            .locality("dc1", "", "")
            .namespace("default");
        let got = decide(settings, &of_consul("web"), instance);
        assert_eq!(got, Verdict::from(want), "{settings}");
    }

    #[test]
    fn a_port_is_named_by_its_protocol() {
        let older = r#"{"preset": "istio-consul", "defaultProtocol": "http"}"#;
        check(PRESET, &listening(&[8080]), &[Port::new("tcp", 8080, "tcp")]);
        check(older, &listening(&[8080]), &[Port::new("http", 8080, "http")]);
        for settings in [PRESET, older] {
            let instance = listening(&[8080]).with_meta("protocol", "thrift");
            check(settings, &instance, &[Port::new("thrift", 8080, "tcp")]);
        }
    }

    #[test]
    fn several_ports_have_names_of_their_own() {
        let ports = [Port::new("tcp", 8080, "tcp"), Port::new("tcp-9090", 9090, "tcp")];
        check(PRESET, &listening(&[9090, 8080]), &ports);
        let numbered = r#"{"preset": "istio-consul", "numberedPorts": true}"#;
        check(numbered, &listening(&[8080]), &[Port::new("tcp-8080", 8080, "tcp")]);
        check(PRESET, &listening(&[]), &[]);
    }

    #[test]
    fn tags_are_labels() {
        let instance = listening(&[8080]).with_tag("version|v1");
        let want = Edits::new()
            .host("web.service.consul")
            .ports([Port::new("tcp", 8080, "tcp")])
            .label("version", "v1")
            .namespace("default");
        let service = Service { datacenter: String::new(), ..of_consul("web") };
        assert_eq!(decide(PRESET, &service, &instance), Verdict::from(want));
    }

    #[test]
    fn all_services_run_as_one_account() {
        let want = [
            Setting::Location("internal".to_owned()),
            Setting::SubjectAltName("spiffe://td.example/ns/default/sa/default".to_owned()),
        ];
        let preset = r#"{"preset": "istio-consul", "trustDomain": "td.example"}"#;
        assert_eq!(settings(preset, &MeshService::new("web.service.consul")), want);
        let outside = MeshService::new("web").with_label("bridge-presets/external", "true");
        assert!(settings(PRESET, &outside).contains(&Setting::Resolution("none".to_owned())));
    }
}
