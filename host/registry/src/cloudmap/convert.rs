//! From Cloud Map's types to the core's.
//!
//! # What a service and an instance become
//!
//! * A service is in the group of its namespace, by the name that the namespace has over HTTP: that
//!   one is its own within the account, where private DNS namespaces may share the other.
//! * The address is `AWS_INSTANCE_IPV4`, or else `AWS_INSTANCE_IPV6`, `AWS_INSTANCE_CNAME` or
//!   `AWS_ALIAS_DNS_NAME`. The last two are names of DNS. Of an instance that was registered by its
//!   `AWS_EC2_INSTANCE_ID` Cloud Map fills in the first itself.
//! * The port is `AWS_INSTANCE_PORT`. It has no name, and there is none where it was left out: a
//!   service's DNS settings have SRV records made of the instances' own ports, and an alias has none.
//! * `HEALTHY` passes and `UNHEALTHY` is critical. `UNKNOWN` is unknown; but in a service without
//!   health checks everybody passes, for there Cloud Map hands out all of them.
//! * The place is `AVAILABILITY_ZONE` and `REGION`, which ECS registers.
//! * Everything that was registered besides is metadata, and what is AWS' own is in `cloud-map.*`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use landfall_core::finding::{Finding, FindingCode};
use landfall_core::pairs::Pairs;
use landfall_core::registry::{Health, Instance, InstancePort, Locality, Service, ServiceKey};
use landfall_core::text::{Interner, Text};

use crate::amazon::region_of;

/// What AWS' own attributes begin with.
const RESERVED: &str = "AWS_";

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Namespace {
    pub(super) id: Text,
    pub(super) name: Text,
    /// By which its services are discovered.
    pub(super) http_name: Text,
}

/// A service, as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Info {
    pub(super) key: ServiceKey,
    pub(super) namespace: Arc<Namespace>,
    pub(super) id: Text,
    /// Whether it has health checks, of AWS or of its owner.
    pub(super) is_checked: bool,
}

/// An instance, as it is registered.
#[derive(Clone, Debug)]
pub(super) struct Registered {
    id: String,
    health: Option<String>,
    attributes: BTreeMap<String, String>,
}

// === impl Namespace ===

impl Namespace {
    /// Whether it is what somebody calls `name`.
    pub(super) fn is_called(&self, name: &str) -> bool {
        [&self.id, &self.name, &self.http_name].into_iter().any(|known| **known == *name)
    }
}

// === impl Info ===

impl Info {
    pub(super) fn new(namespace: Arc<Namespace>, id: &str, name: &str, is_checked: bool) -> Self {
        let key = ServiceKey {
            group: Text::clone(&namespace.http_name),
            name: Text::from(name),
            ..ServiceKey::default()
        };
        Self { key, namespace, id: Text::from(id), is_checked }
    }

    fn ext(&self) -> Pairs {
        let all = [
            ("cloud-map.namespace", &self.namespace.name),
            ("cloud-map.namespace-id", &self.namespace.id),
            ("cloud-map.service-id", &self.id),
        ];
        all.into_iter().map(|(key, value)| (Text::from(key), Text::clone(value))).collect()
    }
}

// === impl Registered ===

impl Registered {
    pub(super) fn new(
        id: Option<String>,
        health: Option<String>,
        attributes: Option<HashMap<String, String>>,
    ) -> Self {
        let attributes = attributes.unwrap_or_default().into_iter().collect();
        Self { id: id.unwrap_or_default(), health, attributes }
    }

    /// What is said in an attribute, if anything.
    fn said(&self, key: &str) -> Option<&str> {
        self.attributes.get(key).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    fn instance(&self, is_checked: bool, texts: &mut Interner) -> Result<Instance, String> {
        let id = self.id.trim();
        if id.is_empty() {
            return Err("it has no identifier".to_owned());
        }
        let (v4, v6) = (self.said("AWS_INSTANCE_IPV4"), self.said("AWS_INSTANCE_IPV6"));
        let (cname, alias) = (self.said("AWS_INSTANCE_CNAME"), self.said("AWS_ALIAS_DNS_NAME"));
        let ec2 = self.said("AWS_EC2_INSTANCE_ID");
        let Some(address) = v4.or(v6).or(cname).or(alias) else {
            return Err(match ec2 {
                Some(ec2) => format!("Cloud Map knows no address of the EC2 instance {ec2}"),
                None => "it has none of AWS_INSTANCE_IPV4, AWS_INSTANCE_IPV6, \
                         AWS_INSTANCE_CNAME and AWS_ALIAS_DNS_NAME"
                    .to_owned(),
            });
        };
        let ports = match self.said("AWS_INSTANCE_PORT") {
            None => Vec::new(),
            Some(said) => match said.parse() {
                Ok(number) if number > 0 => {
                    vec![InstancePort { name: Text::default(), number, protocol: Text::default() }]
                }
                _ => return Err(format!("port {said:?} is not between 1 and 65535")),
            },
        };
        let health = self.health.as_deref().unwrap_or_default();
        let ext = [
            ("cloud-map.health", Some(health).filter(|health| !health.is_empty())),
            ("cloud-map.ipv6", v4.and(v6)),
            ("cloud-map.cname", cname),
            ("cloud-map.alias", alias),
            ("cloud-map.ec2-instance-id", ec2),
        ];
        let ext = ext.into_iter().filter_map(|(key, value)| Some((key, value?)));
        let own = self.attributes.iter().filter(|(key, _)| !key.starts_with(RESERVED));
        Ok(Instance {
            id: Text::from(id),
            address: texts.text(address),
            ports,
            health: match health {
                _ if !is_checked => Health::Passing,
                "HEALTHY" => Health::Passing,
                "UNHEALTHY" => Health::Critical,
                _ => Health::Unknown,
            },
            weight: 1,
            tags: Vec::new(),
            meta: own.map(|(key, value)| (texts.text(key), texts.text(value))).collect(),
            ext: ext.map(|(key, value)| (texts.text(key), texts.text(value))).collect(),
            locality: self.locality(texts),
        })
    }

    fn locality(&self, texts: &mut Interner) -> Option<Locality> {
        let zone = self.said("AVAILABILITY_ZONE").unwrap_or_default();
        let region = self.said("REGION").unwrap_or_else(|| region_of(zone));
        if zone.is_empty() && region.is_empty() {
            return None;
        }
        let [region, zone, subzone] = [region, zone, ""].map(|part| texts.text(part));
        Some(Locality { region, zone, subzone })
    }
}

/// The service with its instances, and what is wrong with single ones. One that cannot be read any
/// more stands as it was `before`: an upgrade that writes one attribute otherwise must not empty the
/// service.
pub(super) fn service(
    info: &Info,
    registered: &[Registered],
    before: Option<&Arc<Service>>,
) -> (Service, Vec<Finding>) {
    let mut texts = Interner::default();
    let mut findings = Vec::new();
    let mut instances = Vec::with_capacity(registered.len());
    for one in registered {
        match one.instance(info.is_checked, &mut texts) {
            Ok(instance) => instances.push(Arc::new(instance)),
            Err(problem) => {
                let known = before.and_then(|before| before.instance(one.id.trim()));
                let so = match known {
                    Some(_) => "its last legal registration stands",
                    None => "it is left out",
                };
                instances.extend(known.cloned());
                findings.push(Finding::new(
                    FindingCode::MalformedInstance,
                    format_args!("{}/{}", info.key, one.id),
                    format!("{problem}; {so}. Register it again as AWS documents"),
                ));
            }
        }
    }
    let (service, twice) = Service::new(info.key.clone(), Pairs::default(), info.ext(), instances);
    findings.extend(twice);
    (service, findings)
}
