//! What the endpoints of a service look like to Istio.

use std::sync::Arc;

use landfall_core::finding::{Finding, FindingCode};
use landfall_core::mapping::{Address, LABELS_MAX, LOCALITY_LEN_MAX, PORTS_MAX, Port};
use landfall_core::mesh::{Endpoint, MeshService};
use landfall_core::pairs::Pairs;
use landfall_core::registry::{Locality, ServiceId};
use landfall_core::text::{Interner, Text};

use crate::api::{EndpointAddress, WorkloadEntry};

/// An endpoint on its way into an object.
pub(super) struct Placed<'a> {
    pub(super) origin: &'a Arc<ServiceId>,
    pub(super) endpoint: &'a Endpoint,
    pub(super) entry: WorkloadEntry,
}

/// The endpoints that have ports of the service, in its order.
pub(super) fn place<'a>(
    service: &'a MeshService,
    ports: &[Port],
    findings: &mut Vec<Finding>,
) -> Vec<Placed<'a>> {
    let mut placed = Vec::with_capacity(service.endpoint_count());
    let mut localities = Localities::default();
    let mut missing = Missing::default();
    for (origin, endpoint) in service.endpoints() {
        let mapping = &endpoint.mapping;
        let Some(address) = &mapping.address else { continue };
        let Some(targets) = targets(ports, &mapping.ports, &mut missing) else { continue };
        let entry = WorkloadEntry {
            address: match address {
                Address::Ip(ip) => EndpointAddress::Ip(*ip),
                Address::Dns(host) => EndpointAddress::Other(Text::clone(host.text())),
            },
            ports: targets,
            labels: endpoint_labels(&mapping.labels, &mut missing),
            network: Text::clone(&mapping.network),
            locality: localities.text(mapping.locality.as_ref()),
            // Istio takes none given as 1, which is what most have.
            weight: match service.sharing.weight(&origin.source, mapping.weight).get() {
                1 => 0,
                weight => u32::from(weight),
            },
            service_account: Text::clone(&mapping.service_account),
        };
        placed.push(Placed { origin, endpoint, entry });
    }
    missing.report(service, placed.len(), findings);
    localities.report(service, findings);
    placed
}

/// What endpoints do not have, or not all of.
#[derive(Default)]
struct Missing {
    endpoints: usize,
    /// The first one, as an example.
    port: Option<Text>,
    unpublished: usize,
    /// Endpoints with more ports or labels than fit.
    cut: usize,
}

impl Missing {
    fn report(&self, service: &MeshService, count: usize, findings: &mut Vec<Finding>) {
        if let Some(port) = &self.port {
            findings.push(Finding::new(
                FindingCode::EndpointConflict,
                &service.key,
                format!(
                    "{} of {count} endpoints do not have every port of the service, such as \
                     {port}; Istio sends its traffic to them all the same. Give them a host of \
                     their own by a policy",
                    self.endpoints
                ),
            ));
        }
        if self.unpublished > 0 {
            findings.push(Finding::new(
                FindingCode::EndpointConflict,
                &service.key,
                format!(
                    "{} endpoints have none of the service's ports and are not published. Name \
                     and number their ports like those of the others by a policy",
                    self.unpublished
                ),
            ));
        }
        if self.cut > 0 {
            findings.push(Finding::new(
                FindingCode::EndpointConflict,
                &service.key,
                format!(
                    "{} endpoints have more than {PORTS_MAX} ports of their own numbers, or more \
                     than {LABELS_MAX} labels; the rest of these is not published. Divide them by \
                     a policy",
                    self.cut
                ),
            ));
        }
    }
}

/// Where an endpoint listens for each service port, as far as it is not the port's own number;
/// `None` when it has none of them.
///
/// Ports join by name. A name that lost its number to another name joins that one: clients dial
/// numbers.
fn targets(ports: &[Port], own: &[Port], missing: &mut Missing) -> Option<Box<[(Text, u32)]>> {
    let mut targets = Vec::new();
    let mut lacking = None;
    let mut found = 0;
    let mut is_cut = false;
    for port in ports {
        let Some(mine) = own_port(port, own) else {
            lacking.get_or_insert(&port.name);
            continue;
        };
        found += 1;
        if mine.target == port.number {
            continue;
        }
        if targets.len() < PORTS_MAX {
            targets.push((Text::clone(port.name.text()), u32::from(mine.target.get())));
        } else {
            is_cut = true;
        }
    }
    missing.cut += usize::from(is_cut);
    if found == 0 {
        missing.unpublished += 1;
        return None;
    }
    if let Some(name) = lacking {
        missing.endpoints += 1;
        missing.port.get_or_insert_with(|| Text::clone(name.text()));
    }
    Some(targets.into())
}

/// What an endpoint has for a port of the service.
fn own_port<'a>(port: &Port, own: &'a [Port]) -> Option<&'a Port> {
    let of_name = own.binary_search_by(|p| p.name.cmp(&port.name)).ok().map(|at| &own[at]);
    of_name.or_else(|| own.iter().find(|p| p.number == port.number))
}

/// Where an endpoint listens for every service port that it has: an object of its own does not
/// change with the number of a port of the service, nor is it wrong until it is written. `None`
/// where it has more than fit.
pub(super) fn own_ports(ports: &[Port], own: &[Port]) -> Option<Box<[(Text, u32)]>> {
    let listens = ports.iter().filter_map(|port| {
        let mine = own_port(port, own)?;
        Some((Text::clone(port.name.text()), u32::from(mine.target.get())))
    });
    let listens: Vec<(Text, u32)> = listens.collect();
    (listens.len() <= PORTS_MAX).then(|| listens.into())
}

fn endpoint_labels(labels: &Pairs, missing: &mut Missing) -> Pairs {
    if labels.len() <= LABELS_MAX {
        return labels.clone();
    }
    missing.cut += 1;
    labels.iter().take(LABELS_MAX).map(|(k, v)| (Text::clone(k), Text::clone(v))).collect()
}

/// Prints localities, each once.
#[derive(Default)]
struct Localities {
    last: Option<(Locality, Text)>,
    interner: Interner,
    altered: usize,
}

impl Localities {
    fn text(&mut self, locality: Option<&Locality>) -> Text {
        let Some(locality) = locality else { return self.interner.text("") };
        match &self.last {
            Some((last, text)) if last == locality => Text::clone(text),
            Some(_) | None => {
                let text = self.print(locality);
                self.last = Some((locality.clone(), Text::clone(&text)));
                text
            }
        }
    }

    /// `region/zone/subzone`, as far as known.
    fn print(&mut self, locality: &Locality) -> Text {
        let parts = [&locality.region, &locality.zone, &locality.subzone];
        let known = parts.iter().rposition(|part| !part.is_empty()).map_or(0, |last| last + 1);
        // A slash within a part would shift those behind it.
        self.altered += usize::from(parts.iter().any(|part| part.contains('/')));
        let text = parts[..known].iter().map(|p| p.replace('/', "-")).collect::<Vec<_>>().join("/");
        if text.len() > LOCALITY_LEN_MAX {
            self.altered += 1;
            return self.interner.text("");
        }
        self.interner.text(&text)
    }

    fn report(&self, service: &MeshService, findings: &mut Vec<Finding>) {
        if self.altered > 0 {
            findings.push(Finding::new(
                FindingCode::NameAltered,
                &service.key,
                "a locality has slashes within its parts, which became dashes, or is too long and \
                 was left out",
            ));
        }
    }
}
