//! Istio's ServiceEntry and WorkloadEntry, as far as Landfall owns their fields.
//!
//! All fields of both specs are here, so that a field which somebody else added is seen and can
//! be put right. Of the metadata only what Landfall itself wrote is kept: others may add labels
//! and annotations of their own. Small by design, for 100,000 endpoints are held at once: no
//! maps, shared strings, and an IP address is not a string.

mod join;
mod origins;
mod parse;
mod place;
mod print;
mod spec;
mod wire;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use landfall_core::mapping::PORTS_MAX;
use landfall_core::mesh::{self, Kind, Spot, Stays};
use landfall_core::name::{self, Hostname};
use landfall_core::pairs::Pairs;
use landfall_core::text::Text;

pub use self::join::{ENDPOINTS_MAX, FRAME_LEN_MAX, LIST_LEN_MAX, OBJECT_LEN_MAX};
pub use self::origins::{ENDPOINT_ORIGINS_ANNOTATION, ORIGINS_ANNOTATION};
pub(crate) use self::origins::{endpoint_origins_text, origins_text};
pub(crate) use self::parse::{Metadata, object_of};
pub use self::parse::{ParseError, Read, from_json, from_yaml};
pub(crate) use self::print::Extra;
pub use self::print::{Manifest, PrintError, to_json, to_yaml};
pub(crate) use self::print::{endpoint_len, json_len, pairs_len, rfc3339, service_entry_len};
pub(crate) use self::spec::{ServiceEntryWire, WorkloadEntryWire};
pub(crate) use self::wire::{SpecOf, Wire, WireSpec, plural};
use crate::name::service_label;

/// The field manager of all writes.
pub const FIELD_MANAGER: &str = "landfall";
/// Which installation of Landfall an object belongs to.
pub const OWNER_LABEL: &str = "landfall.dev/owner";
/// Kubernetes' own label for the tool that manages an object.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY_LABEL`].
pub const MANAGED_BY: &str = "landfall";
/// What a ServiceEntry selects its WorkloadEntries by. Never a bare `app`: a Kubernetes Service
/// that selects it would take the endpoints too.
pub const SERVICE_LABEL: &str = "landfall.dev/service";
/// The sources that feed an object, with commas between.
pub const SOURCES_ANNOTATION: &str = "landfall.dev/sources";
/// Since when an object is kept without endpoints; RFC 3339 with milliseconds.
pub const REMOVED_AT_ANNOTATION: &str = "landfall.dev/removed-at";
/// Labels and annotations that no policy may set.
pub const RESERVED_PREFIX: &str = "landfall.dev/";

/// A resource as Landfall knows it.
pub type MeshObject = mesh::Object<Body>;

/// Whose objects are whose, where several installations share a sink. A legal label value,
/// independent of process life.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(Text);

/// The resource itself, without what identifies it and without bookkeeping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// Labels of the object besides the owner's mark.
    pub labels: Pairs,
    /// Annotations of the object besides the bookkeeping that `Object` itself holds.
    pub annotations: Pairs,
    /// What Istio reads.
    pub spec: Spec,
}

/// What Istio reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// A service of the mesh.
    ServiceEntry(ServiceEntry),
    /// An endpoint of its own.
    WorkloadEntry(WorkloadEntry),
}

/// `networking.istio.io` ServiceEntry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceEntry {
    /// Host names; the first is the service's own.
    pub hosts: Box<[Text]>,
    /// Virtual IP addresses, or CIDR blocks.
    pub addresses: Box<[Text]>,
    /// What clients dial.
    pub ports: Box<[ServicePort]>,
    /// In the mesh or outside.
    pub location: Location,
    /// How proxies find endpoints.
    pub resolution: Resolution,
    /// The endpoints, or what selects them.
    pub endpoints: Endpoints,
    /// Namespaces that see it; all when empty.
    pub export_to: Box<[Text]>,
    /// Names that its certificates carry.
    pub subject_alt_names: Box<[Text]>,
}

/// A port of a ServiceEntry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// What joins the ports of endpoints.
    pub name: Text,
    /// What clients dial.
    pub number: u32,
    /// One of Istio's protocols, or empty.
    pub protocol: Text,
    /// What endpoints listen on unless they say otherwise; 0 where it is `number`.
    pub target_port: u32,
}

/// The endpoints of a ServiceEntry, or what selects them. Istio takes one of both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoints {
    /// In the object itself. None is how a service without endpoints looks.
    Inline(Box<[WorkloadEntry]>),
    /// WorkloadEntries of the same namespace that carry these labels.
    Selected(Pairs),
}

/// `networking.istio.io` WorkloadEntry, and an inline endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkloadEntry {
    /// Where it is.
    pub address: EndpointAddress,
    /// Port names and what it listens on, in the order of names.
    pub ports: Box<[(Text, u32)]>,
    /// Its labels.
    pub labels: Pairs,
    /// The network it is in; may be empty.
    pub network: Text,
    /// `region/zone/subzone`; may be empty.
    pub locality: Text,
    /// Its share of traffic; 0 stands for none given, which Istio takes as 1.
    pub weight: u32,
    /// May be empty.
    pub service_account: Text,
}

/// The address of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndpointAddress {
    /// An IP address in its canonical text.
    Ip(IpAddr),
    /// Anything else: a DNS name, a socket's path, nothing at all.
    Other(Text),
}

/// Where a service is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Location {
    /// Outside: no mutual TLS. What Istio takes when nothing is given.
    #[default]
    MeshExternal,
    /// Part of the mesh.
    MeshInternal,
}

/// How proxies find the endpoints of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resolution {
    /// They do not: to the address that the client dialed. What Istio takes when nothing is given.
    #[default]
    None,
    /// From the addresses in the resource.
    Static,
    /// By resolving the addresses, or the hosts where there are none.
    Dns,
    /// By resolving one address, one connection at a time.
    DnsRoundRobin,
    /// By resolving the host of each request.
    DynamicDns,
}

/// The versions of Istio's networking API that Landfall writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ApiVersion {
    /// Istio 1.22 and later.
    #[default]
    V1,
    /// Earlier.
    V1Beta1,
}

/// The group of Istio's networking API.
pub const GROUP: &str = "networking.istio.io";

// === impl Owner ===

impl Owner {
    /// Takes a name that is legal as the value of a label, and not empty.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(raw: &str) -> Result<Self, name::NameError> {
        let legal = name::label_value(raw);
        if raw.is_empty() || legal.altered {
            return Err(name::NameError {
                what: "owner",
                name: raw.chars().take(300).collect(),
                problem: "it must be 1 to 63 letters, digits, dashes, dots and underscores, and \
                          begin and end with a letter or digit",
            });
        }
        Ok(Self(legal.name))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Body ===

impl Body {
    /// The kind of resource it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self.spec {
            Spec::ServiceEntry(_) => Kind::ServiceEntry,
            Spec::WorkloadEntry(_) => Kind::WorkloadEntry,
        }
    }

    /// The ServiceEntry that it is, if so.
    #[must_use]
    pub const fn service_entry(&self) -> Option<&ServiceEntry> {
        match &self.spec {
            Spec::ServiceEntry(entry) => Some(entry),
            Spec::WorkloadEntry(_) => None,
        }
    }

    /// The services of registries that feed it, each as a `ServiceId` prints; `None` when it does
    /// not say, or could not say all of them as they are.
    pub fn origins(&self) -> Option<impl Iterator<Item = &str>> {
        let text = self.annotations.get(ORIGINS_ANNOTATION)?;
        let is_whole = text.split('\n').all(|line| line.contains('/'));
        is_whole.then(|| text.split('\n'))
    }

    /// What ties a ServiceEntry and its WorkloadEntries to one service of the mesh within their
    /// namespace: the value of [`SERVICE_LABEL`]. `None` for an object that is not as we write it.
    #[must_use]
    pub fn service_label(&self) -> Option<Text> {
        match &self.spec {
            Spec::ServiceEntry(entry) => {
                Hostname::parse(entry.hosts.first()?).ok().map(|host| service_label(&host))
            }
            Spec::WorkloadEntry(_) => self.labels.get(SERVICE_LABEL).cloned(),
        }
    }
}

impl mesh::Body for Body {
    type Address = EndpointAddress;

    fn spots(&self) -> impl Iterator<Item = Spot<EndpointAddress>> {
        let (endpoints, ports): (&[WorkloadEntry], &[ServicePort]) = match &self.spec {
            Spec::WorkloadEntry(entry) => (std::slice::from_ref(entry), &[]),
            Spec::ServiceEntry(ServiceEntry {
                endpoints: Endpoints::Inline(list), ports, ..
            }) => (list, ports),
            Spec::ServiceEntry(ServiceEntry { endpoints: Endpoints::Selected(_), .. }) => {
                (&[], &[])
            }
        };
        endpoints.iter().map(|endpoint| place::spot(endpoint, ports))
    }

    fn origins(&self) -> Option<Vec<&str>> {
        Self::origins(self).map(Iterator::collect)
    }

    fn tie(&self) -> Option<Text> {
        self.service_label()
    }

    fn spots_by_origin(&self) -> Option<BTreeMap<&str, BTreeSet<Spot<EndpointAddress>>>> {
        origins::spots_by_origin(self)
    }

    fn lessened_in<'a>(&'a self, other: &'a Self) -> BTreeSet<Option<&'a str>> {
        origins::lessened(self, other)
    }

    fn with_endpoints_of(&self, older: &Self, stays: &Stays<'_, EndpointAddress>) -> Option<Self> {
        join::joined(self, older, stays)
    }

    fn selects(&self) -> bool {
        let entry = self.service_entry();
        entry.is_some_and(|entry| matches!(entry.endpoints, Endpoints::Selected(_)))
    }

    fn dialed_at(&self, own: &Self, theirs: &Self) -> Option<Self> {
        let Spec::WorkloadEntry(entry) = &self.spec else { return None };
        let (own, theirs) = (own.service_entry()?, theirs.service_entry()?);
        let theirs = join::dialed(entry, &own.ports, &theirs.ports)?.ports;
        let both = theirs.iter().chain(&entry.ports).cloned();
        let both: BTreeMap<Text, u32> = both.collect();
        let entry = WorkloadEntry { ports: both.into_iter().collect(), ..entry.clone() };
        (entry.ports.len() <= PORTS_MAX)
            .then(|| Self { spec: Spec::WorkloadEntry(entry), ..self.clone() })
    }

    fn with_origins_of(&self, other: &Self) -> Self {
        let annotations = origins::with_those_of(&self.annotations, &other.annotations);
        Self { annotations, ..self.clone() }
    }

    fn without_endpoints(&self) -> Option<Self> {
        let Spec::ServiceEntry(entry) = &self.spec else { return None };
        if entry.hosts.is_empty() {
            // It could not be read, see `SpecOf`, and nothing would take it as it is.
            return None;
        }
        let mut entry = entry.clone();
        if let Endpoints::Inline(list) = &mut entry.endpoints {
            *list = Box::default();
            // Without endpoints a proxy would resolve the host itself and send traffic there.
            if matches!(entry.resolution, Resolution::Dns | Resolution::DnsRoundRobin) {
                entry.resolution = Resolution::Static;
            }
        }
        let annotations = origins::without_endpoints(&self.annotations);
        Some(Self { annotations, spec: Spec::ServiceEntry(entry), ..self.clone() })
    }
}

// === impl Endpoints ===

impl Default for Endpoints {
    fn default() -> Self {
        Self::Inline(Box::default())
    }
}

// === impl EndpointAddress ===

impl EndpointAddress {
    /// The address that prints as `raw`.
    #[must_use]
    pub fn of(raw: &str) -> Self {
        match raw.parse::<IpAddr>() {
            // Only the canonical text, or what is read would not print as it was.
            Ok(ip) if ip.to_string() == raw => Self::Ip(ip),
            _ => Self::Other(Text::from(raw)),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Other(text) if text.is_empty())
    }
}

impl Default for EndpointAddress {
    fn default() -> Self {
        Self::Other(Text::default())
    }
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Other(text) => f.write_str(text),
        }
    }
}

// === impl Location ===

impl Location {
    /// As Istio spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MeshExternal => "MESH_EXTERNAL",
            Self::MeshInternal => "MESH_INTERNAL",
        }
    }
}

// === impl Resolution ===

impl Resolution {
    /// As Istio spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Static => "STATIC",
            Self::Dns => "DNS",
            Self::DnsRoundRobin => "DNS_ROUND_ROBIN",
            Self::DynamicDns => "DYNAMIC_DNS",
        }
    }
}

// === impl ApiVersion ===

impl ApiVersion {
    /// The version without its group.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V1Beta1 => "v1beta1",
        }
    }

    /// Group and version, as objects carry it.
    #[must_use]
    pub const fn with_group(self) -> &'static str {
        match self {
            Self::V1 => "networking.istio.io/v1",
            Self::V1Beta1 => "networking.istio.io/v1beta1",
        }
    }
}
