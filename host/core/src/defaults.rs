//! The mapping of an instance before any policy.

use std::num::NonZeroU16;

use crate::decision::DropReason;
use crate::finding::{Finding, FindingCode};
use crate::mapping::{Address, Mapping, PORTS_MAX, Port, Protocol, note_altered, ports_by_name};
use crate::name::{self, Hostname, Namespace, PortName};
use crate::pairs::Pairs;
use crate::registry::{Health, Instance, Service, ServiceId};
use crate::template::Template;
use crate::text::{Interner, Text};

/// How instances are published when no policy says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// The host name.
    pub host: Template,
    /// The Kubernetes namespace.
    pub namespace: Template,
    /// Label keys, which are legal, and their values; a value that comes out empty is left out.
    pub labels: Vec<(Text, Template)>,
    /// The states of health that are published. Others are not even shown to policies.
    pub health: Vec<Health>,
    /// The key and value of metadata that whatever copies our objects into a registry takes along.
    /// An instance with it is one that we published, and would be published again for ever.
    pub own_mark: Option<(Text, Text)>,
}

/// What all instances of a service share, worked out once.
#[derive(Debug)]
pub struct ServiceDefaults<'a> {
    defaults: &'a Defaults,
    id: &'a ServiceId,
    service: &'a Service,
    host: Option<Hostname>,
    namespace: Option<Namespace>,
}

// === impl Defaults ===

impl Defaults {
    /// The defaults for the instances of one service.
    pub fn of_service<'a>(
        &'a self,
        id: &'a ServiceId,
        service: &'a Service,
        findings: &mut Vec<Finding>,
    ) -> ServiceDefaults<'a> {
        let mut of_service =
            ServiceDefaults { defaults: self, id, service, host: None, namespace: None };
        if !self.host.needs_instance() {
            of_service.host = Some(of_service.host(None, findings));
        }
        if !self.namespace.needs_instance() {
            of_service.namespace = Some(of_service.namespace(None, findings));
        }
        of_service
    }
}

// === impl ServiceDefaults ===

impl ServiceDefaults<'_> {
    /// The default mapping of `instance`, or why it is not published.
    ///
    /// # Errors
    /// Its health is not among those to publish, its weight is zero, or it is what we published.
    pub fn mapping(
        &self,
        instance: &Instance,
        interner: &mut Interner,
        findings: &mut Vec<Finding>,
    ) -> Result<Mapping, DropReason> {
        if let Some((key, value)) = &self.defaults.own_mark
            && [&instance.meta, &self.service.meta].iter().any(|meta| meta.get(key) == Some(value))
        {
            return Err(DropReason::OwnExport);
        }
        if !self.defaults.health.contains(&instance.health) {
            return Err(DropReason::Health(instance.health));
        }
        let weight = u16::try_from(instance.weight).unwrap_or(u16::MAX);
        let Some(weight) = NonZeroU16::new(weight) else { return Err(DropReason::Weightless) };
        let subject = Subject { id: self.id, instance };
        let address = match Address::parse(&instance.address) {
            Ok(address) => Some(address),
            Err(error) => {
                findings.push(Finding::new(
                    FindingCode::MalformedInstance,
                    &subject,
                    error.to_string(),
                ));
                None
            }
        };
        let host = match &self.host {
            Some(host) => host.clone(),
            None => self.host(Some(instance), findings),
        };
        let namespace = match &self.namespace {
            Some(namespace) => namespace.clone(),
            None => self.namespace(Some(instance), findings),
        };
        Ok(Mapping {
            host,
            namespace,
            address,
            ports: default_ports(instance, &subject, findings),
            labels: self.labels(instance, interner, &subject, findings),
            locality: instance.locality.clone(),
            weight,
            network: interner.text(""),
            service_account: interner.text(""),
        })
    }

    fn host(&self, instance: Option<&Instance>, findings: &mut Vec<Finding>) -> Hostname {
        let mut altered = false;
        let raw = self.defaults.host.host(self.id, self.service, instance, &mut altered);
        let mut legal = Hostname::legalize(&raw);
        legal.altered |= altered;
        note_altered("a name in host", &raw, &legal, self.id, findings);
        legal.name
    }

    fn namespace(&self, instance: Option<&Instance>, findings: &mut Vec<Finding>) -> Namespace {
        let raw = self.defaults.namespace.text(self.id, self.service, instance);
        let legal = Namespace::legalize(&raw);
        note_altered("namespace", &raw, &legal, self.id, findings);
        legal.name
    }

    fn labels(
        &self,
        instance: &Instance,
        interner: &mut Interner,
        subject: &Subject<'_>,
        findings: &mut Vec<Finding>,
    ) -> Pairs {
        let mut labels = Vec::new();
        for (key, template) in &self.defaults.labels {
            let raw = template.text(self.id, self.service, Some(instance));
            if raw.is_empty() {
                continue;
            }
            let value = name::label_value(&raw);
            note_altered("label value", &raw, &value, subject, findings);
            labels.push((Text::clone(key), interner.text(&value.name)));
        }
        labels.into_iter().collect()
    }
}

/// The registry's ports under the numbers they listen on. A port without a name is called after
/// its protocol, or `default`; further ones get their number behind it.
fn default_ports(
    instance: &Instance,
    subject: &Subject<'_>,
    findings: &mut Vec<Finding>,
) -> std::sync::Arc<[Port]> {
    let mut ports: Vec<Port> = Vec::with_capacity(instance.ports.len());
    for port in &instance.ports {
        let Some(number) = NonZeroU16::new(port.number) else { continue };
        let protocol = Protocol::parse(&port.protocol).unwrap_or_default();
        let name = if port.name.is_empty() {
            let plain = match protocol.as_str() {
                "" => "default".to_owned(),
                word => word.to_ascii_lowercase().replace('_', "-"),
            };
            let taken = ports.iter().any(|p| p.name.as_str() == plain);
            PortName::legalize(&if taken { format!("{plain}-{number}") } else { plain })
        } else {
            PortName::legalize(&port.name)
        };
        note_altered("port name", &port.name, &name, subject, findings);
        ports.push(Port { name: name.name, number, target: number, protocol });
    }
    let ports = ports_by_name(ports, subject, findings);
    let Some(first) = ports.get(..PORTS_MAX).filter(|first| first.len() < ports.len()) else {
        return ports;
    };
    findings.push(Finding::new(
        FindingCode::MalformedInstance,
        subject,
        format!(
            "it has {} ports, of which only the first {PORTS_MAX} in the order of their names are \
             published: an endpoint has no more in Istio. Choose some by a policy, or divide it",
            ports.len()
        ),
    ));
    first.into()
}

/// An instance as findings name it: `source/service/instance`.
#[derive(Debug)]
pub struct Subject<'a> {
    /// Its service.
    pub id: &'a ServiceId,
    /// The instance.
    pub instance: &'a Instance,
}

impl std::fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.id, self.instance.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{InstancePort, ServiceKey, SourceName};

    #[test]
    fn ports_beyond_what_an_endpoint_takes_are_told() {
        let port = |number: u16| InstancePort {
            name: format!("p{number:03}").into(),
            number,
            protocol: "tcp".into(),
        };
        let of = |count: u16| {
            let id = ServiceId {
                source: SourceName::parse("dc1").unwrap(),
                key: ServiceKey { name: "pay".into(), ..ServiceKey::default() },
            };
            let instance = Instance {
                ports: (1..=count).map(port).collect(),
                ..Instance::new("i", "10.0.0.1")
            };
            let mut findings = Vec::new();
            let subject = Subject { id: &id, instance: &instance };
            let ports = default_ports(&instance, &subject, &mut findings);
            (ports.len(), findings.len())
        };
        assert_eq!(of(128), (128, 0));
        assert_eq!(of(129), (128, 1));
    }
}
