//! Services of the mesh, and the objects that stand for them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::finding::Finding;
use crate::mapping::{Mapping, Port};
use crate::name::{Hostname, Namespace};
use crate::pairs::Pairs;
use crate::registry::{Instance, ServiceId, SourceName};
use crate::sharing::{Ranks, SharingMode, SharingRule};
use crate::text::Text;
use crate::time::Time;

/// What makes endpoints one service of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostKey {
    /// The Kubernetes namespace of the resources.
    pub namespace: Namespace,
    /// The host name that clients use.
    pub host: Hostname,
}

/// All endpoints that share a namespace and a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshService {
    /// Namespace and host.
    pub key: HostKey,
    /// The service's ports in the order of their names; `target` is the number itself.
    pub ports: Vec<Port>,
    /// Who contributes, in order, and what.
    pub parts: Vec<Contribution>,
    /// Endpoints that other services would contribute too, and which.
    pub doubles: Doubles,
    /// Who would contribute, in order, and what: more than `parts` where sources share the host in
    /// another way than all together.
    pub offers: Vec<Contribution>,
    /// How sources share the host.
    pub sharing: Arc<SharingRule>,
    /// What service policies set.
    pub settings: Arc<[Setting]>,
    /// What a person should know of it.
    pub findings: Vec<Finding>,
}

/// The endpoints that one service of a registry puts at a host; never none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contribution {
    /// Which service of which source.
    pub origin: Arc<ServiceId>,
    /// In the order of instances.
    pub endpoints: Arc<[Endpoint]>,
}

/// Endpoints that several services have, with those that do not publish them.
pub type Doubles = BTreeMap<Double, Arc<[Arc<ServiceId>]>>;

/// Which endpoint of which service several have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Double {
    origin: Arc<ServiceId>,
    instance: Text,
    mapping_index: u16,
}

/// One instance at one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Whose it is.
    pub instance: Arc<Instance>,
    /// Which of the instance's mappings this is, for a policy may split it.
    pub mapping_index: u16,
    /// How it is published.
    pub mapping: Arc<Mapping>,
}

/// One setting of a ServiceEntry as a whole, as a service policy writes it: unchecked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// A host name besides the service's own.
    Alias(String),
    /// A virtual IP address.
    Address(String),
    /// `internal` or `external` to the mesh.
    Location(String),
    /// `static`, `dns`, `dns-round-robin` or `none`.
    Resolution(String),
    /// A namespace that sees the service; `.` is its own, `*` all.
    ExportTo(String),
    /// A name that the service's certificates carry.
    SubjectAltName(String),
    /// A label of the object.
    Label(String, String),
    /// An annotation of the object.
    Annotation(String, String),
    /// The name of the object.
    Name(String),
}

/// The kinds of resources that Landfall writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// An endpoint of its own. Before the ServiceEntry, so that a plan applies it first.
    WorkloadEntry,
    /// A service of the mesh.
    ServiceEntry,
}

/// What identifies an object in a sink.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// The resource's kind.
    pub kind: Kind,
    /// The Kubernetes namespace.
    pub namespace: Text,
    /// The object's name.
    pub name: Text,
}

/// A resource as it should be, or as a sink has it. What the pure steps must know of it stands
/// beside the body, which only the mesh crate looks into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object<B> {
    /// Which object it is.
    pub id: ObjectId,
    /// The sources that feed it, in order. Written down with the object, so that the guard knows
    /// them after a restart.
    pub sources: Arc<[SourceName]>,
    /// Since when it is kept without endpoints, waiting to be deleted.
    pub removal: Option<Time>,
    /// What is sent.
    pub body: Arc<B>,
}

/// What the pure steps ask of the body of an object.
pub trait Body: PartialEq + Sized {
    /// The address of an endpoint.
    type Address: Clone + fmt::Debug + Ord + 'static;

    /// Where traffic to its endpoints ends, in their order; of several it may end at one spot.
    fn spots(&self) -> impl Iterator<Item = Spot<Self::Address>>;

    /// The same without endpoints; `None` when it cannot be without, as a WorkloadEntry.
    fn without_endpoints(&self) -> Option<Self>;

    /// The services of registries, as [`ServiceId`] prints them, of which `other` has fewer
    /// endpoints, or does not say that they feed it; `None` among them where it is not known whose
    /// the endpoints are that `other` lacks.
    fn lessened_in<'a>(&'a self, other: &'a Self) -> BTreeSet<Option<&'a str>>;

    /// The same with everything of `older` that stays; `None` where the two do not go together.
    fn with_endpoints_of(&self, older: &Self, stays: &Stays<'_, Self::Address>) -> Option<Self>;

    /// Where traffic to its endpoints ends, by the services of registries that have them, as
    /// [`ServiceId`] prints these; `None` where it is not known whose they are.
    fn spots_by_origin(&self) -> Option<BTreeMap<&str, BTreeSet<Spot<Self::Address>>>>;

    /// The services of registries that feed it, as [`ServiceId`] prints them; `None` when they
    /// are not all known.
    fn origins(&self) -> Option<Vec<&str>>;

    /// What ties it to the other objects of its mesh service in its namespace; `None` when it
    /// stands for itself.
    fn tie(&self) -> Option<Text>;

    /// Whether its endpoints are objects of their own, which it selects.
    fn selects(&self) -> bool;

    /// The same for clients, too, that dial the ports of `theirs` and not yet those of `own`; `None`
    /// where it cannot say where it listens for them.
    fn dialed_at(&self, own: &Self, theirs: &Self) -> Option<Self>;

    /// The same, which those have too that feed `other`.
    fn with_origins_of(&self, other: &Self) -> Self;

    /// The addresses of its endpoints, in their order.
    fn addresses(&self) -> impl Iterator<Item = Self::Address> {
        self.spots().map(|spot| spot.address)
    }

    /// How many endpoints it holds.
    fn endpoint_count(&self) -> usize {
        self.spots().count()
    }

    /// Where traffic to its endpoints ends, each spot once.
    fn reached(&self) -> BTreeSet<Spot<Self::Address>> {
        self.spots().collect()
    }
}

/// Where traffic to an endpoint ends. Instances on one node have its address, and ports of their own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spot<A> {
    /// The address.
    pub address: A,
    /// The network that the address is of; empty where none is said.
    pub network: Text,
    /// The ports that tell it apart, in order. Instances at one address have none in common, but one
    /// instance may have some more or less of its own later.
    pub ports: Box<[u32]>,
}

/// What of an older body stays, though a new one lacks it: what both parts pick.
pub struct Stays<'a, A> {
    /// Picks services of registries as [`ServiceId`] prints them; `None` is one that is not known.
    pub origin: &'a dyn Fn(Option<&str>) -> bool,
    /// Picks endpoints; asked once for each that the new body lacks.
    pub endpoint: &'a dyn Fn(&Spot<A>) -> bool,
    /// Whether services that are picked may have what the new body says that others have.
    pub claims: bool,
}

/// What ties the objects of one mesh service together: a namespace, and a name in it.
pub type Tie = (Text, Text);

// === impl Spot ===

impl<A> Spot<A> {
    /// Comes before all at `address`.
    pub(crate) fn first_at(address: A) -> Self {
        Self { address, network: Text::from(""), ports: Box::default() }
    }
}

impl<A: PartialEq> Spot<A> {
    /// Whether both are of one instance.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.address == other.address
            && self.network == other.network
            && (self.ports == other.ports || self.ports.iter().any(|p| other.ports.contains(p)))
    }
}

// === impl Stays ===

impl<A> Stays<'static, A> {
    /// Everything stays.
    #[must_use]
    pub const fn all() -> Self {
        Self { origin: &|_| true, endpoint: &|_| true, claims: false }
    }
}

impl<A> fmt::Debug for Stays<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stays").finish_non_exhaustive()
    }
}

// === impl Object ===

impl<B: Body> Object<B> {
    /// What ties it to the other objects of its mesh service; one that stands for itself has its
    /// own kind and name there.
    #[must_use]
    pub fn tie(&self) -> Tie {
        let ObjectId { kind, namespace, name } = &self.id;
        let own = || Text::from(format!("{} {name}", kind.as_str()));
        (Text::clone(namespace), self.body.tie().unwrap_or_else(own))
    }
}

// === impl Double ===

impl Double {
    pub(crate) fn of(origin: &Arc<ServiceId>, endpoint: &Endpoint) -> Self {
        let instance = Text::clone(&endpoint.instance.id);
        Self { origin: Arc::clone(origin), instance, mapping_index: endpoint.mapping_index }
    }
}

// === impl MeshService ===

impl MeshService {
    /// All endpoints, in the order in which they are published.
    pub fn endpoints(&self) -> impl Iterator<Item = (&Arc<ServiceId>, &Endpoint)> {
        self.parts.iter().flat_map(|part| part.endpoints.iter().map(|e| (&part.origin, e)))
    }

    /// How many endpoints it has.
    #[must_use]
    pub fn endpoint_count(&self) -> usize {
        self.parts.iter().map(|part| part.endpoints.len()).sum()
    }

    /// The services of registries that feed it, in order: those that are published, and those that
    /// would be if another did not have the same.
    pub fn origins(&self) -> impl Iterator<Item = &Arc<ServiceId>> {
        let parts = if self.doubles.is_empty() { &self.parts } else { &self.offers };
        parts.iter().map(|part| &part.origin)
    }

    /// The sources that feed it, in order, each once.
    #[must_use]
    pub fn sources(&self) -> Arc<[SourceName]> {
        let mut sources: Vec<SourceName> =
            self.origins().map(|origin| origin.source.clone()).collect();
        sources.sort();
        sources.dedup();
        sources.into()
    }

    /// The services besides `origin` that have the same endpoint.
    #[must_use]
    pub fn doubles_of(&self, origin: &Arc<ServiceId>, endpoint: &Endpoint) -> &[Arc<ServiceId>] {
        if self.doubles.is_empty() {
            return &[];
        }
        let double = Double::of(origin, endpoint);
        self.doubles.get(&double).map_or(&[], |others| &**others)
    }

    /// Who goes before and after the source that has the host, where one has it alone.
    #[must_use]
    pub fn ranks(&self) -> Option<Ranks> {
        let winner = self.parts.first().filter(|_| self.sharing.mode == SharingMode::First)?;
        Some(self.sharing.ranks(&winner.origin.source))
    }

    /// The labels that every endpoint carries with the same value.
    #[must_use]
    pub fn common_labels(&self) -> Pairs {
        let mut endpoints = self.endpoints().map(|(_, endpoint)| &endpoint.mapping.labels);
        let Some(first) = endpoints.next() else { return Pairs::default() };
        let mut common: Vec<_> = first.as_slice().to_vec();
        for labels in endpoints {
            if labels != first {
                common.retain(|(key, value)| labels.get(key) == Some(value));
            }
        }
        common.into_iter().collect()
    }
}

// === impl Kind ===

impl Kind {
    /// As Kubernetes names it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WorkloadEntry => "WorkloadEntry",
            Self::ServiceEntry => "ServiceEntry",
        }
    }
}

impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.host)
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.as_str(), self.namespace, self.name)
    }
}
