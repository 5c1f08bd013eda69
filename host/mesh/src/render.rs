//! Turns a service of the mesh into the objects that stand for it.
//!
//! Invariant: pure, and total: what Istio cannot take is left out and becomes a finding. Every
//! object passes [`validate`]. Endpoints stay in the order of the service, for istiod names them by
//! their index.

mod endpoints;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use landfall_core::finding::{Finding, FindingCode};
use landfall_core::mapping::Port;
use landfall_core::mesh::{Endpoint, HostKey, Kind, MeshService, Object, ObjectId, Tie};
use landfall_core::pairs::Pairs;
use landfall_core::registry::{ServiceId, SourceName};
use landfall_core::sharing::SharingMode;
use landfall_core::text::Text;

use crate::api::{
    self, Body, ENDPOINT_ORIGINS_ANNOTATION, EndpointAddress, Endpoints, Location, MeshObject,
    ORIGINS_ANNOTATION, OWNER_LABEL, Owner, Resolution, SERVICE_LABEL, ServiceEntry, ServicePort,
    Spec, endpoint_origins_text, origins_text,
};
use crate::name;
use crate::settings::{self, Settings};
use crate::validate::{
    ENDPOINTS_MAX, FRAME_LEN_MAX, LIST_LEN_MAX, OBJECT_LEN_MAX, Violation, validate,
};

use self::endpoints::{Placed, own_ports, place};

/// What holds for all services of a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderOptions {
    /// Where endpoints go.
    pub shape: Shape,
    /// Where services are unless a policy says otherwise.
    pub location: Location,
    /// Namespaces that see services unless a policy says otherwise; all when empty.
    pub export_to: Arc<[Text]>,
    /// Whether ambient proxies read the objects. They tell inline endpoints apart by address
    /// alone, and take one without a network to be in that of the one before, so instances that
    /// share an address get WorkloadEntries, and those of which some have a network.
    pub ambient: bool,
    /// Whose objects they will be. A ServiceEntry then selects WorkloadEntries of this owner only;
    /// without it those of every installation that publishes the same host in the namespace.
    pub owner: Option<Owner>,
}

/// Where endpoints go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// Inline while they fit, else into WorkloadEntries. Rendering knows no history, so a service
    /// at the limit turns with every endpoint that comes or goes there; one that lives near it
    /// wants a shape by name.
    #[default]
    Auto,
    /// Inline; what does not fit is left out.
    Inline,
    /// Into WorkloadEntries.
    WorkloadEntries,
}

/// The objects of a service.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// The ServiceEntry first, then its WorkloadEntries. Empty when Istio would refuse the
    /// ServiceEntry.
    pub objects: Vec<MeshObject>,
    /// What a person should know, besides the service's own findings.
    pub findings: Vec<Finding>,
}

/// How the finding begins of an object that is not written at all. Everything that Istio would
/// refuse should have been left out of it before.
pub const REFUSED_WHOLE: &str = "Istio would refuse it, so it is not written";
/// Has istiod give proxies the endpoints in order of nearness, by network and locality; others
/// serve while the nearer ones do not (`pilot/pkg/model/service.go`).
const TRAFFIC_DISTRIBUTION_ANNOTATION: &str = "networking.istio.io/traffic-distribution";

/// The objects that stand for `service`.
#[must_use]
pub fn render(service: &MeshService, options: &RenderOptions) -> Rendered {
    let mut findings = Vec::new();
    let settings = settings::read(service, &mut findings);
    let ports = service.ports.get(..LIST_LEN_MAX).unwrap_or(&service.ports);
    if ports.len() < service.ports.len() {
        refused(
            service,
            &format!("{} ports; only the first {LIST_LEN_MAX} fit", service.ports.len()),
            &mut findings,
        );
    }
    let mut placed = place(service, ports, &mut findings);
    let resolution = resolution(service, &settings, &placed, &mut findings);
    if resolution == Resolution::None {
        // Traffic goes where the client dialed; Istio takes no endpoints then.
        placed.clear();
    }
    let mut entry = ServiceEntry {
        hosts: hosts(service, &settings, ports, resolution, &mut findings),
        addresses: addresses(service, &settings, resolution, &mut findings),
        ports: ports.iter().map(service_port).collect(),
        location: settings.location.unwrap_or(options.location),
        resolution,
        endpoints: Endpoints::default(),
        export_to: export_to(service, &settings, options),
        subject_alt_names: settings.subject_alt_names.into(),
    };
    let mut annotations = settings.annotations;
    if service.sharing.mode == SharingMode::PreferLocal {
        prefer_local(service, &placed, &mut annotations, &mut findings);
    }
    let origins = service.origins().map(|origin| &**origin);
    annotations.push((Text::from(ORIGINS_ANNOTATION), origins_text(origins)));
    let labels: Pairs = settings.labels.into_iter().collect();
    let mut annotations: Pairs = annotations.into_iter().collect();
    // Room for endpoints: what the object takes without them. Of fewer less is to be said.
    let mut whose = endpoint_origins(service, &placed);
    let used = api::service_entry_len(&entry)
        + api::pairs_len(&labels)
        + api::pairs_len(&annotations)
        + api::pairs_len(&whose);
    let room = OBJECT_LEN_MAX.saturating_sub(used + FRAME_LEN_MAX);
    let fit = fitting(&placed, room);
    let mut workload_entries = Vec::new();
    if is_selected(&entry, &placed, fit, options) {
        let label = name::service_label(&service.key.host);
        let labels: Pairs =
            [(Text::from(SERVICE_LABEL), Text::clone(&label))].into_iter().collect();
        workload_entries = workloads(service, ports, placed, &labels);
        entry.endpoints = Endpoints::Selected(selector(label, options.owner.as_ref()));
    } else {
        let all = placed.len();
        if options.ambient {
            leave_out_astray(service, &mut placed, &mut findings);
        }
        let fit = fitting(&placed, room);
        if fit < placed.len() {
            refused(
                service,
                &format!("{} endpoints; only the first {fit} fit inline", placed.len()),
                &mut findings,
            );
            placed.truncate(fit);
        }
        if placed.len() < all {
            whose = endpoint_origins(service, &placed);
        }
        if !whose.is_empty() {
            let both = annotations.iter().chain(whose.iter());
            annotations = both.map(|(key, value)| (Text::clone(key), Text::clone(value))).collect();
        }
        entry.endpoints = Endpoints::Inline(placed.into_iter().map(|place| place.entry).collect());
    }
    let body = Body { labels, annotations, spec: Spec::ServiceEntry(entry) };
    let mut id = service_entry_id(&service.key);
    if let Some(name) = settings.name {
        id.name = name;
    }
    let object = Object { id, sources: service.sources(), removal: None, body: Arc::new(body) };
    let mut objects = Vec::with_capacity(1 + workload_entries.len());
    if keep(object, &mut objects, &mut findings) {
        for object in workload_entries {
            keep(object, &mut objects, &mut findings);
        }
    }
    Rendered { objects, findings }
}

/// Takes `object` up, unless Istio would refuse it.
fn keep(object: MeshObject, objects: &mut Vec<MeshObject>, findings: &mut Vec<Finding>) -> bool {
    match validate(&object) {
        Ok(()) => {
            objects.push(object);
            true
        }
        Err(violations) => {
            let list: Vec<String> = violations.iter().map(Violation::to_string).collect();
            findings.push(Finding::new(
                FindingCode::Refused,
                &object.id,
                format!("{REFUSED_WHOLE}: {}", list.join("; ")),
            ));
            false
        }
    }
}

// === parts of a ServiceEntry ===

fn service_port(port: &Port) -> ServicePort {
    ServicePort {
        name: Text::clone(port.name.text()),
        number: u32::from(port.number.get()),
        protocol: Text::from(port.protocol.as_str()),
        // Each endpoint says where it listens itself.
        target_port: 0,
    }
}

//  endpoints   asked for         resolution
//  any DNS     -, dns            DNS (addresses that are IPs are fine in it)
//  all IP      -, static         STATIC
//  none        -, static, dns..  STATIC, or proxies would resolve the host itself
//  all IP      dns               DNS
//  one         dns-round-robin   DNS_ROUND_ROBIN
//  any         none              NONE, and no endpoints
//  else                          refused; as if nothing were asked for
fn resolution(
    service: &MeshService,
    settings: &Settings,
    placed: &[Placed<'_>],
    findings: &mut Vec<Finding>,
) -> Resolution {
    let named = placed.iter().any(|p| matches!(p.entry.address, EndpointAddress::Other(_)));
    let natural = if named { Resolution::Dns } else { Resolution::Static };
    match settings.resolution {
        None => natural,
        Some(Resolution::None) => Resolution::None,
        Some(_) if placed.is_empty() => Resolution::Static,
        Some(Resolution::Static) if named => {
            let why = "resolution static is not taken: an endpoint's address is a DNS name";
            settings::refuse(service, &why, findings);
            natural
        }
        Some(Resolution::DnsRoundRobin) if placed.len() > 1 => {
            let why = "resolution dns-round-robin is not taken: there is more than one endpoint";
            settings::refuse(service, &why, findings);
            natural
        }
        Some(asked) => asked,
    }
}

fn hosts(
    service: &MeshService,
    settings: &Settings,
    ports: &[Port],
    resolution: Resolution,
    findings: &mut Vec<Finding>,
) -> Box<[Text]> {
    let mut hosts = vec![Text::clone(service.key.host.text())];
    let told_apart = ports.iter().all(|port| port.protocol.is_http() || port.protocol.is_tls());
    if settings.aliases.is_empty() || told_apart || resolution == Resolution::None {
        hosts.extend(settings.aliases.iter().cloned());
    } else {
        let why = "aliases are not taken: a port's protocol is neither HTTP nor TLS, so hosts \
                   cannot be told apart";
        settings::refuse(service, &why, findings);
    }
    hosts.into()
}

fn addresses(
    service: &MeshService,
    settings: &Settings,
    resolution: Resolution,
    findings: &mut Vec<Finding>,
) -> Box<[Text]> {
    let takes_blocks = matches!(resolution, Resolution::None | Resolution::Static);
    let (taken, blocks): (Vec<Text>, Vec<Text>) =
        settings.addresses.iter().cloned().partition(|a| takes_blocks || !a.contains('/'));
    if !blocks.is_empty() {
        let why = "CIDR blocks as addresses are not taken: an endpoint's address is a DNS name";
        settings::refuse(service, &why, findings);
    }
    taken.into()
}

fn export_to(service: &MeshService, settings: &Settings, options: &RenderOptions) -> Box<[Text]> {
    if !settings.export_to.is_empty() {
        return settings.export_to.as_slice().into();
    }
    let mut seen = BTreeSet::new();
    let own = service.key.namespace.as_str();
    // Istio takes "." and the namespace's own name for one entry, given twice.
    options
        .export_to
        .iter()
        .filter(|entry| seen.insert(if &***entry == own { "." } else { &***entry }))
        .cloned()
        .collect()
}

/// Has proxies prefer endpoints that are near to them, unless a policy has said what they prefer.
fn prefer_local(
    service: &MeshService,
    placed: &[Placed<'_>],
    annotations: &mut Vec<(Text, Text)>,
    findings: &mut Vec<Finding>,
) {
    if annotations.iter().any(|(key, _)| **key == *TRAFFIC_DISTRIBUTION_ANNOTATION) {
        return;
    }
    annotations.push((TRAFFIC_DISTRIBUTION_ANNOTATION.into(), "PreferClose".into()));
    let lost = placed.iter().filter(|place| place.entry.locality.is_empty()).count();
    if lost > 0 {
        findings.push(Finding::new(
            FindingCode::EndpointConflict,
            &service.key,
            format!(
                "clients are to prefer what is near to them, but {lost} of {} endpoints have no \
                 locality and are far from everybody. Set it by a policy",
                placed.len()
            ),
        ));
    }
}

/// The annotation that says which services have each of the inline endpoints; none where that goes
/// without saying.
fn endpoint_origins(service: &MeshService, placed: &[Placed<'_>]) -> Pairs {
    let places: BTreeMap<&ServiceId, usize> =
        service.origins().enumerate().map(|(place, origin)| (&**origin, place)).collect();
    let of_each = placed.iter().take(ENDPOINTS_MAX).map(|Placed { origin, endpoint, .. }| {
        let origins = std::iter::once(*origin).chain(service.doubles_of(origin, endpoint));
        origins.filter_map(|origin| places.get(&**origin).copied()).collect()
    });
    let text = endpoint_origins_text(places.len(), of_each);
    text.into_iter().map(|text| (Text::from(ENDPOINT_ORIGINS_ANNOTATION), text)).collect()
}

// === shape ===

/// How many of `placed` fit inline into `room` bytes.
fn fitting(placed: &[Placed<'_>], room: usize) -> usize {
    let mut used = "\"endpoints\":[],".len();
    let fits = |place: &&Placed<'_>| {
        used += api::endpoint_len(&place.entry) + 1;
        used <= room
    };
    placed.iter().take(ENDPOINTS_MAX).take_while(fits).count()
}

fn is_selected(
    entry: &ServiceEntry,
    placed: &[Placed<'_>],
    fit: usize,
    options: &RenderOptions,
) -> bool {
    let wanted = match options.shape {
        Shape::Inline => false,
        Shape::WorkloadEntries => true,
        Shape::Auto => {
            let is_unclear = || share_address(placed) || is_astray(placed).any(|astray| astray);
            fit < placed.len() || (options.ambient && is_unclear())
        }
    };
    // Istio wants every host to be resolvable where a DNS service has no inline endpoints.
    let resolvable = entry.resolution == Resolution::Static
        || !entry.hosts.iter().any(|host| host.starts_with('*'));
    wanted && resolvable && !placed.is_empty()
}

fn share_address(placed: &[Placed<'_>]) -> bool {
    let mut seen = BTreeSet::new();
    placed.iter().any(|place| match &place.endpoint.mapping.address {
        Some(address) => !seen.insert(address),
        None => false,
    })
}

/// Of each endpoint, whether an ambient proxy would look for it in the network of another: istiod
/// goes through inline endpoints and forgets to forget the last one's network
/// (`serviceEntryWorkloadBuilder` in `ambient/workloads.go` of Istio 1.32-dev).
fn is_astray(placed: &[Placed<'_>]) -> impl Iterator<Item = bool> {
    let mut has_network = false;
    placed.iter().map(move |place| {
        let own = !place.entry.network.is_empty();
        has_network |= own;
        has_network && !own
    })
}

/// Leaves out inline endpoints that an ambient proxy would look for in another network, where some
/// other machine may have their address.
fn leave_out_astray(
    service: &MeshService,
    placed: &mut Vec<Placed<'_>>,
    findings: &mut Vec<Finding>,
) {
    let astray: Vec<bool> = is_astray(placed).collect();
    let count = astray.iter().filter(|astray| **astray).count();
    if count == 0 {
        return;
    }
    let mut astray = astray.into_iter();
    placed.retain(|_| !astray.next().unwrap_or(false));
    findings.push(Finding::new(
        FindingCode::EndpointConflict,
        &service.key,
        format!(
            "{count} endpoints have no network while others have one; ambient proxies would look \
             for them in the network of another, so they are left out. Give all of them a network \
             by a policy, or set resources.shape to auto or workload-entries"
        ),
    ));
}

/// The labels by which a ServiceEntry selects its WorkloadEntries. All of ours carry their owner,
/// and in a namespace that two installations share both may publish the host.
fn selector(label: Text, owner: Option<&Owner>) -> Pairs {
    let owner = owner.map(|owner| (Text::from(OWNER_LABEL), Text::from(owner.as_str())));
    [(Text::from(SERVICE_LABEL), label)].into_iter().chain(owner).collect()
}

fn workloads(
    service: &MeshService,
    ports: &[Port],
    placed: Vec<Placed<'_>>,
    labels: &Pairs,
) -> Vec<MeshObject> {
    let mut objects = Vec::with_capacity(placed.len());
    let mut last: Option<(Vec<&Arc<ServiceId>>, Fed)> = None;
    for Placed { origin, endpoint, mut entry } in placed {
        entry.ports = own_ports(ports, &endpoint.mapping.ports).unwrap_or(entry.ports);
        let doubles = service.doubles_of(origin, endpoint);
        let origins: Vec<&Arc<ServiceId>> = std::iter::once(origin).chain(doubles).collect();
        let Fed { annotations, sources } = match &last {
            Some((known, fed)) if *known == origins => fed.clone(),
            Some(_) | None => {
                let fed = Fed::by(&origins);
                last = Some((origins, fed.clone()));
                fed
            }
        };
        let body = Body { labels: labels.clone(), annotations, spec: Spec::WorkloadEntry(entry) };
        objects.push(Object {
            id: workload_entry_id(&service.key, origin, endpoint),
            sources,
            removal: None,
            body: Arc::new(body),
        });
    }
    objects
}

/// What a WorkloadEntry says of the services that feed it.
#[derive(Clone)]
struct Fed {
    annotations: Pairs,
    sources: Arc<[SourceName]>,
}

impl Fed {
    fn by(origins: &[&Arc<ServiceId>]) -> Self {
        let text = origins_text(origins.iter().map(|origin| &***origin));
        let sources: BTreeSet<&SourceName> = origins.iter().map(|origin| &origin.source).collect();
        Self {
            annotations: [(Text::from(ORIGINS_ANNOTATION), text)].into_iter().collect(),
            sources: sources.into_iter().cloned().collect(),
        }
    }
}

/// Which WorkloadEntry stands for `endpoint` at `host`, where endpoints are not inline.
#[must_use]
pub fn workload_entry_id(host: &HostKey, origin: &ServiceId, endpoint: &Endpoint) -> ObjectId {
    let name = name::workload_entry_name(&host.host, origin, endpoint);
    ObjectId { kind: Kind::WorkloadEntry, namespace: Text::clone(host.namespace.text()), name }
}

/// The ServiceEntry of `host`, unless policies give it another name.
#[must_use]
pub fn service_entry_id(host: &HostKey) -> ObjectId {
    let name = name::service_entry_name(&host.host);
    let namespace = Text::clone(host.namespace.text());
    ObjectId { kind: Kind::ServiceEntry, namespace, name }
}

/// What ties the objects of `host` together.
#[must_use]
pub fn tie(host: &HostKey) -> Tie {
    (Text::clone(host.namespace.text()), name::service_label(&host.host))
}

/// The name that policies give the ServiceEntry of `service`, made legal. Another service may have
/// it, so [`render`]'s is only what was asked for.
#[must_use]
pub fn given_name(service: &MeshService) -> Option<Text> {
    settings::name(service).map(|(_, name)| name.name)
}

fn refused(service: &MeshService, what: &str, findings: &mut Vec<Finding>) {
    findings.push(Finding::new(
        FindingCode::Refused,
        &service.key,
        format!("it has {what}. The rest is not published; divide it by a policy"),
    ));
}

impl Default for RenderOptions {
    fn default() -> Self {
        Self {
            shape: Shape::Auto,
            location: Location::MeshInternal,
            export_to: Arc::from([]),
            ambient: false,
            owner: None,
        }
    }
}

#[cfg(test)]
mod tests;
