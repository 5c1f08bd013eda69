//! eureka2istio, of the Aeraki project.

use landfall_policy::{Edits, Instance, MeshService, Port, Service, Setting, names};

use crate::mapping;

/// What it looked at.
pub(crate) const READS: &[&str] = &["ext/eureka.host-name", "mapping", "meta/asm-serviceentry"];

/// The number at which clients find every service.
const PORT: u16 = 80;

/// Applications that it left out: Eureka, and itself.
const LEFT_OUT: [&str; 2] = ["eureka", "eureka2istio"];

/// The bridge.
#[derive(Debug)]
pub(crate) struct Eureka2Istio {
    /// Whether objects carry its labels and its annotation.
    pub(crate) labels_objects: bool,
}

// === impl Eureka2Istio ===

impl Eureka2Istio {
    /// An error is why the instance is not published.
    pub(crate) fn publish(
        &self,
        service: &Service,
        instance: &Instance,
    ) -> Result<Edits, &'static str> {
        if LEFT_OUT.iter().any(|name| name.eq_ignore_ascii_case(&service.name)) {
            return Err("the bridge left it out");
        }
        let own_name = instance.ext("eureka.host-name").unwrap_or_default();
        let said = instance.meta("asm-serviceentry");
        let host = match said.filter(|host| !host.is_empty()).unwrap_or(own_name) {
            "" => return Err("no host name"),
            host if is_host(host) => host.to_ascii_lowercase(),
            _ => return Err("its host name is none that Istio takes"),
        };
        let target = plain_port(instance).ok_or("no plain port")?;
        let mut edits =
            Edits::new().host(host).ports([Port { target, ..Port::new("http", PORT, "http") }]);
        let app = app(service);
        let labels = [
            ("asm-hostname", said),
            ("eureka-app", Some(app.as_str())),
            ("eurekaName", Some("eureka")),
            ("hostname", Some(own_name)),
        ];
        for (key, value) in labels {
            if let Some(value) = value.filter(|value| names::is_label_value(value)) {
                edits = edits.label(key, value);
            }
        }
        Ok(mapping::at(edits, None, instance))
    }

    pub(crate) fn settings(&self, service: &MeshService) -> Vec<Setting> {
        let name = format!("asm-{}", service.host.replace('.', "-"));
        let mut settings = vec![Setting::Location("internal".to_owned()), Setting::Name(name)];
        if self.labels_objects {
            let labels = [("manager", "asm"), ("registry", "spring-eureka")];
            settings.extend(labels.map(|(key, value)| Setting::Label((key.into(), value.into()))));
            let interface = |origin| Setting::Annotation(("interface".to_owned(), app(origin)));
            settings.extend(service.origins.first().map(interface));
        }
        settings
    }
}

/// An application as Eureka names it.
fn app(service: &Service) -> String {
    service.name.to_uppercase()
}

/// Where the instance speaks without TLS. The bridge took the number of a port that was not enabled too, where nobody
/// listens.
fn plain_port(instance: &Instance) -> Option<u16> {
    let ports = &instance.mapping.as_ref()?.ports;
    let http = ports.iter().find(|port| port.name == "http");
    http.or_else(|| ports.iter().find(|port| port.name != "https")).map(|port| port.target)
}

/// What the bridge took for a host name: upper case and a dot at the end are fine, addresses are not.
fn is_host(raw: &str) -> bool {
    let host = raw.strip_suffix('.').unwrap_or(raw).to_ascii_lowercase();
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    names::is_host(&host) && !host.rsplit('.').next().is_some_and(is_number)
}

#[cfg(test)]
mod tests {
    use landfall_policy::{Mapping, Verdict};

    use super::*;
    use crate::testing::{decide, settings};

    const PRESET: &str = r#"{"preset": "eureka2istio"}"#;

    fn orders() -> Service {
        Service { registry: "eureka".to_owned(), ..Service::new("orders") }
    }

    fn at_host(name: &str) -> Instance {
        let mapping = Mapping::new("orders.spring.mesh")
            .with_port(Port::new("https", 8443, "https"))
            .with_port(Port::new("http", 8080, "http"));
        Instance::new("orders-1").with_ext("eureka.host-name", name).with_mapping(mapping)
    }

    fn published(host: &str) -> Edits {
        Edits::new().host(host).ports([Port { target: 8080, ..Port::new("http", 80, "http") }])
    }

    #[test]
    fn each_host_name_is_a_host() {
        let want = published("orders-1.example.com")
            .label("eureka-app", "ORDERS")
            .label("eurekaName", "eureka")
            .label("hostname", "Orders-1.example.com")
            .namespace("istio-system");
        let got = decide(PRESET, &orders(), &at_host("Orders-1.example.com"));
        assert_eq!(got, Verdict::from(want));
    }

    #[test]
    fn metadata_names_another_host() {
        let want = published("orders.mesh.example")
            .label("asm-hostname", "orders.mesh.example")
            .label("eureka-app", "ORDERS")
            .label("eurekaName", "eureka")
            .label("hostname", "10.0.0.1")
            .namespace("mesh");
        let instance = at_host("10.0.0.1").with_meta("asm-serviceentry", "orders.mesh.example");
        let preset = r#"{"preset": "eureka2istio", "namespace": "mesh"}"#;
        assert_eq!(decide(preset, &orders(), &instance), Verdict::from(want));
    }

    #[test]
    fn what_cannot_be_a_label_is_left_out() {
        let name = "a".repeat(63) + ".example.com";
        let want = published(&name)
            .label("asm-hostname", "")
            .label("eureka-app", "ORDERS")
            .label("eurekaName", "eureka")
            .namespace("istio-system");
        let instance = at_host(&name).with_meta("asm-serviceentry", "");
        assert_eq!(decide(PRESET, &orders(), &instance), Verdict::from(want));
    }

    #[test]
    fn what_the_bridge_left_out_is_dropped() {
        let dropped =
            |service: &Service, instance: &Instance| match decide(PRESET, service, instance) {
                Verdict::Drop(reason) => reason,
                verdict => format!("{verdict:?}"),
            };
        let refused = "its host name is none that Istio takes";
        for name in ["10.0.0.1", "odd_name.example.com", "a..b", "*.example.com"] {
            assert_eq!(dropped(&orders(), &at_host(name)), refused, "{name}");
        }
        assert_eq!(dropped(&orders(), &Instance::new("1")), "no host name");
        assert_eq!(dropped(&Service::new("eureka2istio"), &at_host("a")), "the bridge left it out");
        let secure = Mapping::new("a").with_port(Port::new("https", 8443, "https"));
        assert_eq!(dropped(&orders(), &at_host("a").with_mapping(secure)), "no plain port");
    }

    #[test]
    fn objects_carry_its_labels_and_its_annotation() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let location = Setting::Location("internal".to_owned());
        let service = MeshService::new("orders.example.com").with_origin(orders());
        let name = Setting::Name("asm-orders-example-com".to_owned());
        let want = [
            location.clone(),
            name.clone(),
            Setting::Label(pair("manager", "asm")),
            Setting::Label(pair("registry", "spring-eureka")),
            Setting::Annotation(pair("interface", "ORDERS")),
        ];
        assert_eq!(settings(PRESET, &service), want);
        let plain = r#"{"preset": "eureka2istio", "objectLabels": false}"#;
        assert_eq!(settings(plain, &service), [location, name]);
    }
}
