//! What goes into a call.
//!
//! The contract's lists are slices of borrowed pairs, and a registry's are shared strings. The
//! slices of a whole batch lie in one vector per type, filled first and cut afterwards, so that a
//! batch costs a handful of allocations however many instances it has.

use std::fmt::Write as _;
use std::ops::Range;

use landfall_core::mapping::{Address, Port, Protocol};
use landfall_core::pairs::Pairs;
use landfall_core::registry::Locality;

use super::model;
use crate::abi::{Item, MeshFacts, ServiceFacts};
use crate::projection::{Keys, Projection};

type Pair<'a> = (&'a str, &'a str);

/// The lists of a batch of instances.
pub(super) struct Batch<'a> {
    rows: Vec<Row>,
    pairs: Vec<Pair<'a>>,
    tags: Vec<&'a str>,
    ports: Vec<model::PortParam<'a>>,
    /// IP addresses, which are not kept as text.
    addresses: String,
}

/// Where an instance's lists lie.
#[derive(Default)]
struct Row {
    tags: Range<usize>,
    meta: Range<usize>,
    ext: Range<usize>,
    labels: Range<usize>,
    ports: Range<usize>,
    address: Range<usize>,
}

/// A service whose lists still lie in a vector.
pub(super) struct ServiceRow<'a> {
    facts: ServiceFacts<'a>,
    meta: Range<usize>,
    ext: Range<usize>,
}

// === impl Batch ===

impl<'a> Batch<'a> {
    /// Gathers the lists of `items`.
    pub(super) fn new(items: &[Item<'a>], projection: &Projection) -> Self {
        let mut batch = Self {
            rows: Vec::with_capacity(items.len()),
            pairs: Vec::new(),
            tags: Vec::new(),
            ports: Vec::new(),
            addresses: String::new(),
        };
        for item in items {
            let instance = item.instance;
            let mut row = Row::default();
            if projection.tags {
                let start = batch.tags.len();
                batch.tags.extend(instance.tags.iter().map(|tag| &**tag));
                row.tags = start..batch.tags.len();
            }
            row.meta = push_keys(&mut batch.pairs, &instance.meta, &projection.meta);
            row.ext = push_keys(&mut batch.pairs, &instance.ext, &projection.ext);
            if projection.mapping {
                let mapping = item.mapping;
                row.labels = push_pairs(&mut batch.pairs, &mapping.labels);
                let start = batch.ports.len();
                batch.ports.extend(mapping.ports.iter().map(port));
                row.ports = start..batch.ports.len();
                if let Some(Address::Ip(ip)) = &mapping.address {
                    let start = batch.addresses.len();
                    // Writing to a String does not fail.
                    let _ = write!(batch.addresses, "{ip}");
                    row.address = start..batch.addresses.len();
                }
            }
            batch.rows.push(row);
        }
        batch
    }

    /// The instances as the contract has them; `items` and `projection` are those the batch was
    /// made of.
    pub(super) fn instances<'b>(
        &'b self,
        items: &[Item<'b>],
        projection: &Projection,
    ) -> Vec<model::Instance<'b>> {
        let instances = items.iter().zip(&self.rows).map(|(item, row)| model::Instance {
            id: &item.instance.id,
            health: item.instance.health.as_str(),
            tags: projection.tags.then(|| &self.tags[row.tags.clone()]),
            meta: (projection.meta != Keys::None).then(|| &self.pairs[row.meta.clone()]),
            ext: (projection.ext != Keys::None).then(|| &self.pairs[row.ext.clone()]),
            mapping: projection.mapping.then(|| self.mapping(item, row)),
        });
        instances.collect()
    }

    fn mapping<'b>(&'b self, item: &Item<'b>, row: &Row) -> model::Mapping<'b> {
        let mapping = item.mapping;
        model::Mapping {
            host: mapping.host.as_str(),
            namespace: mapping.namespace.as_str(),
            address: match &mapping.address {
                None => "",
                Some(Address::Ip(_)) => &self.addresses[row.address.clone()],
                Some(Address::Dns(name)) => name.as_str(),
            },
            ports: &self.ports[row.ports.clone()],
            labels: &self.pairs[row.labels.clone()],
            locality: mapping.locality.as_ref().map(locality),
            weight: u32::from(mapping.weight.get()),
            network: &mapping.network,
            service_account: &mapping.service_account,
            ext: &[],
        }
    }
}

// === impl ServiceRow ===

impl<'a> ServiceRow<'a> {
    /// The service as the contract has it; its lists lie in `pairs`.
    pub(super) fn of(&self, pairs: &'a [Pair<'a>]) -> model::Service<'a> {
        let ServiceFacts { id, registry, .. } = self.facts;
        model::Service {
            source: id.source.as_str(),
            registry,
            datacenter: &id.key.datacenter,
            partition: &id.key.partition,
            group: &id.key.group,
            name: &id.key.name,
            meta: &pairs[self.meta.clone()],
            ext: &pairs[self.ext.clone()],
        }
    }
}

/// Adds the lists of a service to `pairs`.
pub(super) fn service<'a>(facts: ServiceFacts<'a>, pairs: &mut Vec<Pair<'a>>) -> ServiceRow<'a> {
    let (meta, ext) = facts.pairs();
    let meta = meta.map_or(0..0, |meta| push_pairs(pairs, meta));
    let ext = ext.map_or(0..0, |ext| push_pairs(pairs, ext));
    ServiceRow { facts, meta, ext }
}

/// Calls `f` with a service of the mesh as the contract has it.
pub(super) fn with_mesh_service<R>(
    asked: MeshFacts<'_>,
    f: impl FnOnce(model::MeshService<'_>) -> R,
) -> R {
    let MeshFacts { service: mesh, origins } = asked;
    let mut pairs = Vec::new();
    let rows: Vec<ServiceRow<'_>> =
        origins.iter().map(|&facts| service(facts, &mut pairs)).collect();
    let common = mesh.common_labels();
    let labels = push_pairs(&mut pairs, &common);
    let origins: Vec<model::Service<'_>> = rows.iter().map(|row| row.of(&pairs)).collect();
    let ports: Vec<model::PortParam<'_>> = mesh.ports.iter().map(port).collect();
    f(model::MeshService {
        host: mesh.key.host.as_str(),
        namespace: mesh.key.namespace.as_str(),
        ports: &ports,
        endpoints: u32::try_from(mesh.endpoint_count()).unwrap_or(u32::MAX),
        labels: &pairs[labels],
        origins: &origins,
        ext: &[],
    })
}

fn push_keys<'a>(to: &mut Vec<Pair<'a>>, pairs: &'a Pairs, keys: &Keys) -> Range<usize> {
    let start = to.len();
    match keys {
        Keys::None => (),
        Keys::All => return push_pairs(to, pairs),
        Keys::Some(keys) => {
            let pairs = pairs.as_slice();
            for key in keys {
                if let Ok(at) = pairs.binary_search_by(|(known, _)| known.cmp(key)) {
                    to.push((&pairs[at].0, &pairs[at].1));
                }
            }
        }
    }
    start..to.len()
}

fn push_pairs<'a>(to: &mut Vec<Pair<'a>>, pairs: &'a Pairs) -> Range<usize> {
    let start = to.len();
    to.extend(pairs.iter().map(|(key, value)| (&**key, &**value)));
    start..to.len()
}

fn port(port: &Port) -> model::PortParam<'_> {
    model::PortParam {
        name: port.name.as_str(),
        number: port.number.get(),
        target: port.target.get(),
        protocol: protocol_word(port.protocol),
    }
}

/// The contract writes protocols in lower case.
fn protocol_word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Auto => "",
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Grpc => "grpc",
        Protocol::GrpcWeb => "grpc-web",
        Protocol::Http => "http",
        Protocol::HttpProxy => "http_proxy",
        Protocol::Http2 => "http2",
        Protocol::Https => "https",
        Protocol::Tls => "tls",
        Protocol::Mongo => "mongo",
        Protocol::Redis => "redis",
        Protocol::Mysql => "mysql",
    }
}

fn locality(locality: &Locality) -> model::LocalityParam<'_> {
    model::LocalityParam {
        region: &locality.region,
        zone: &locality.zone,
        subzone: &locality.subzone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_for_a_protocol_can_be_sent_back() {
        for protocol in Protocol::ALL {
            assert_eq!(Protocol::parse(protocol_word(protocol)), Some(protocol));
        }
    }
}
