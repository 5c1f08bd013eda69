//! From the file's types to the core's.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;
use std::sync::Arc;

use landfall_core::finding::{Finding, FindingCode};
use landfall_core::pairs::Pairs;
use landfall_core::registry::{
    Health, Instance, InstancePort, Locality, Service, ServiceKey, Snapshot,
};
use landfall_core::text::{Interner, Text};

use super::wire;

/// What one file lists.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) services: BTreeMap<ServiceKey, Arc<Service>>,
    pub(super) findings: Vec<Finding>,
}

/// Builds the [`Listing`] of one file.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    file: &'a str,
    texts: Interner,
    listing: Listing,
}

// === impl Reader ===

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a str) -> Self {
        Self { file, texts: Interner::default(), listing: Listing::default() }
    }

    pub(super) fn finish(self) -> Listing {
        self.listing
    }

    fn pairs(&mut self, map: &wire::Map) -> Pairs {
        map.0.iter().map(|(k, v)| (self.texts.text(k), self.texts.text(v))).collect()
    }

    /// The instance, or everything that is wrong with it.
    fn instance(&mut self, wire: &wire::Instance) -> Result<Instance, Vec<String>> {
        let mut problems = Vec::new();
        let address = wire.address.trim();
        if address.is_empty() {
            problems.push("its address is empty".to_owned());
        }
        let ports = self.ports(wire, &mut problems);
        let health = match wire.health.as_deref() {
            None => Health::Passing,
            Some(word) => Health::parse(word).unwrap_or_else(|| {
                let words = Health::ALL.map(Health::as_str).join(", ");
                problems.push(format!("health {word:?} is none of {words}"));
                Health::Unknown
            }),
        };
        let weight = wire.weight.unwrap_or(1);
        let weight = u32::try_from(weight).unwrap_or_else(|_| {
            problems.push(format!("weight {weight} is not between 0 and {}", u32::MAX));
            0
        });
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut tags: Vec<Text> = wire.tags.iter().map(|tag| self.texts.text(tag)).collect();
        tags.sort();
        tags.dedup();
        let locality = wire.locality.as_ref().map(|place| Locality {
            region: self.texts.text(&place.region),
            zone: self.texts.text(&place.zone),
            subzone: self.texts.text(&place.subzone),
        });
        Ok(Instance {
            id: Text::from(identifier(wire)),
            address: Text::from(address),
            ports,
            health,
            weight,
            tags,
            meta: self.pairs(&wire.meta),
            ext: self.pairs(&wire.ext),
            locality,
        })
    }

    fn ports(&mut self, wire: &wire::Instance, problems: &mut Vec<String>) -> Vec<InstancePort> {
        if wire.port.is_some() && !wire.ports.is_empty() {
            problems.push("it has both `port` and `ports`".to_owned());
        }
        let plain = wire.port.iter().map(|number| ("", *number, ""));
        let named = wire.ports.iter().map(|p| (p.name.as_str(), p.port, p.protocol.as_str()));
        let mut ports = Vec::with_capacity(wire.ports.len().max(1));
        for (name, number, protocol) in plain.chain(named) {
            match u16::try_from(number) {
                Ok(number) if number > 0 => ports.push(InstancePort {
                    name: self.texts.text(name),
                    number,
                    protocol: self.texts.text(protocol),
                }),
                _ => problems.push(format!("port {number} is not between 1 and 65535")),
            }
        }
        ports
    }
}

impl wire::Sink for Reader<'_> {
    fn service(&mut self, service: wire::Service) {
        let key = ServiceKey {
            datacenter: self.texts.text(&service.datacenter),
            partition: self.texts.text(&service.partition),
            group: self.texts.text(&service.group),
            name: Text::from(service.name.as_str()),
        };
        let mut instances = Vec::with_capacity(service.instances.len());
        for spanned in &service.instances {
            match self.instance(&spanned.value) {
                Ok(instance) => instances.push(Arc::new(instance)),
                Err(problems) => {
                    // JSON's reader knows no places.
                    let place = match (spanned.referenced.line(), spanned.referenced.column()) {
                        (0, _) => self.file.to_owned(),
                        (line, column) => format!("{}:{line}:{column}", self.file),
                    };
                    self.listing.findings.push(Finding::new(
                        FindingCode::MalformedInstance,
                        format_args!("{key}/{}", identifier(&spanned.value)),
                        format!("{place}: {}; it is left out", problems.join(" and ")),
                    ));
                }
            }
        }
        let (meta, ext) = (self.pairs(&service.meta), self.pairs(&service.ext));
        let (service, findings) = Service::new(key, meta, ext, instances);
        self.listing.findings.extend(findings);
        let findings = &mut self.listing.findings;
        insert(&mut self.listing.services, Arc::new(service), self.file, findings);
    }
}

/// What the instance is called: `id`, or `address:port` where it has none.
fn identifier(wire: &wire::Instance) -> String {
    if !wire.id.is_empty() {
        return wire.id.clone();
    }
    let address = wire.address.trim();
    match wire.port.or_else(|| wire.ports.first().map(|p| p.port)) {
        Some(port) if address.contains(':') && !address.starts_with('[') => {
            format!("[{address}]:{port}")
        }
        Some(port) => format!("{address}:{port}"),
        None => address.to_owned(),
    }
}

/// Joins the listings of files, in the order of their names, sharing with `previous` what did not
/// change. Of files that are `away` stands what no other lists.
pub(super) fn join(
    files: &BTreeMap<PathBuf, Arc<Listing>>,
    away: &BTreeMap<PathBuf, Arc<Listing>>,
    previous: Option<&Snapshot>,
) -> (Snapshot, Vec<Finding>) {
    let mut findings = Vec::new();
    let mut joined: BTreeMap<ServiceKey, Arc<Service>> = BTreeMap::new();
    for (file, listing) in files {
        let name = file.display().to_string();
        findings.extend(listing.findings.iter().cloned());
        for service in listing.services.values() {
            insert(&mut joined, Arc::clone(service), &name, &mut findings);
        }
    }
    for listing in away.values() {
        findings.extend(listing.findings.iter().cloned());
        listing.services.values().for_each(|service| stand_in(&mut joined, service));
    }
    // Begins with what is known and alters only what differs, so that the two maps share the rest.
    let mut services = previous.map(|known| known.services.clone()).unwrap_or_default();
    let gone: Vec<ServiceKey> =
        services.keys().filter(|key| !joined.contains_key(*key)).cloned().collect();
    for key in gone {
        services.remove(&key);
    }
    for (key, service) in joined {
        match services.get(&key) {
            Some(known) if Arc::ptr_eq(known, &service) => (),
            Some(known) => {
                let shared = Arc::unwrap_or_clone(service).sharing(known);
                if !Arc::ptr_eq(known, &shared) {
                    services.insert(key, shared);
                }
            }
            None => {
                services.insert(key, service);
            }
        }
    }
    (Snapshot { services }, findings)
}

/// Inserts what `service` has and nothing there does: it may be there under another file's name.
fn stand_in(services: &mut BTreeMap<ServiceKey, Arc<Service>>, service: &Arc<Service>) {
    let Some(there) = services.get_mut(&service.key) else {
        services.insert(service.key.clone(), Arc::clone(service));
        return;
    };
    let is_there = |id: &Text| there.instances().iter().any(|instance| instance.id == *id);
    let mut instances: Vec<Arc<Instance>> = there.instances().to_vec();
    instances.extend(service.instances().iter().filter(|one| !is_there(&one.id)).cloned());
    if instances.len() > there.instances().len() {
        let (meta, ext) = (there.meta.clone(), there.ext.clone());
        *there = Arc::new(Service::new(there.key.clone(), meta, ext, instances).0);
    }
}

/// Inserts `service`; one that is there already takes its instances too. What both say about the
/// service itself holds as first said.
fn insert(
    services: &mut BTreeMap<ServiceKey, Arc<Service>>,
    service: Arc<Service>,
    file: &str,
    findings: &mut Vec<Finding>,
) {
    let mut place = match services.entry(service.key.clone()) {
        Entry::Vacant(place) => {
            place.insert(service);
            return;
        }
        Entry::Occupied(place) => place,
    };
    let first = place.get();
    findings.push(Finding::new(
        FindingCode::ServiceTwice,
        &service.key,
        format!(
            "listed again in {file}; its instances were joined. List a service in one place, or \
             tell the places apart by group or datacenter"
        ),
    ));
    let both = |a: &Pairs, b: &Pairs| -> Pairs {
        b.iter().chain(a.iter()).map(|(k, v)| (Text::clone(k), Text::clone(v))).collect()
    };
    let instances = first.instances().iter().chain(service.instances()).cloned().collect();
    let (joined, duplicates) = Service::new(
        service.key.clone(),
        both(&first.meta, &service.meta),
        both(&first.ext, &service.ext),
        instances,
    );
    findings.extend(duplicates);
    place.insert(Arc::new(joined));
}
