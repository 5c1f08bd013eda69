//! Services of the mesh for tests, written in one line each.

use std::num::NonZeroU16;
use std::sync::Arc;

use crate::mapping::{Address, Mapping, Port, Protocol};
use crate::mesh::{Contribution, Endpoint, HostKey};
use crate::name::{Hostname, Namespace, PortName};
use crate::pairs::Pairs;
use crate::registry::{Instance, ServiceId, ServiceKey, SourceName};
use crate::text::Text;

pub(crate) fn host_key() -> HostKey {
    HostKey { namespace: Namespace::parse("ns").unwrap(), host: Hostname::parse("a.mesh").unwrap() }
}

/// What a service puts at a host, as `source/service number number ..`: an endpoint for each number.
pub(crate) fn contribution(key: &HostKey, text: &str) -> Contribution {
    let mut words = text.split(' ');
    let (source, name) = words.next().unwrap().split_once('/').unwrap();
    let origin = ServiceId {
        source: SourceName::parse(source).unwrap(),
        key: ServiceKey { name: Text::from(name), ..ServiceKey::default() },
    };
    let endpoints = words.map(|number| endpoint(key, number.parse().unwrap())).collect();
    Contribution { origin: Arc::new(origin), endpoints }
}

/// An instance that listens on `number`, which is its name too.
pub(crate) fn endpoint(key: &HostKey, number: NonZeroU16) -> Endpoint {
    let empty = || Text::from("");
    let port = Port {
        name: PortName::legalize("http").name,
        number,
        target: number,
        protocol: Protocol::Http,
    };
    let mapping = Mapping {
        host: key.host.clone(),
        namespace: key.namespace.clone(),
        address: Some(Address::parse("10.0.0.1").unwrap()),
        ports: Arc::from([port]),
        labels: Pairs::default(),
        locality: None,
        weight: NonZeroU16::MIN,
        network: empty(),
        service_account: empty(),
    };
    let instance = Instance::new(number.to_string(), empty());
    Endpoint { instance: Arc::new(instance), mapping_index: 0, mapping: Arc::new(mapping) }
}
