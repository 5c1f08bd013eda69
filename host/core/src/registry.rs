//! What registries say: services, instances, complete listings, and how far to trust them.

use std::fmt;
use std::sync::Arc;

use imbl::OrdMap;

use crate::finding::{Finding, FindingCode};
use crate::pairs::Pairs;
use crate::text::Text;
use crate::time::Time;

/// The name of a source in the configuration: a DNS label, so that it may stand in host names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceName(Text);

/// What identifies a service within its registry. Free text, all of it; empty where the registry
/// has no such notion.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// Such as Consul's datacenter.
    pub datacenter: Text,
    /// Such as Consul's admin partition.
    pub partition: Text,
    /// The registry's own grouping of services, such as Consul's namespace.
    pub group: Text,
    /// The service's name.
    pub name: Text,
}

/// A service of one source. Printed as `source/name`, with what else tells it apart between.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId {
    /// The source that lists it.
    pub source: SourceName,
    /// Which of that source's services it is.
    pub key: ServiceKey,
}

/// One service and all of its instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Which service it is.
    pub key: ServiceKey,
    /// What its owners say about it.
    pub meta: Pairs,
    /// Facts only one kind of registry has.
    pub ext: Pairs,
    instances: Vec<Arc<Instance>>,
}

/// One instance of a service, as its registry has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Unique within the service. Never derived from address and port where the registry has an
    /// identifier of its own, for those change.
    pub id: Text,
    /// An IP address or a DNS name, as registered; may be anything.
    pub address: Text,
    /// Where it listens. Empty when the registry knows no port.
    pub ports: Vec<InstancePort>,
    /// The worst of its checks.
    pub health: Health,
    /// Its share of traffic; 0 takes none.
    pub weight: u32,
    /// Words its owners gave it, in order, each once.
    pub tags: Vec<Text>,
    /// What its owners say about it.
    pub meta: Pairs,
    /// Facts only one kind of registry has, such as `consul.node`.
    pub ext: Pairs,
    /// Where it runs.
    pub locality: Option<Locality>,
}

/// A port an instance listens on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InstancePort {
    /// May be empty: many registries name no ports.
    pub name: Text,
    /// 1 to 65535.
    pub number: u16,
    /// As the registry has it; may be empty.
    pub protocol: Text,
}

/// A place, from wide to narrow; what is unknown is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Locality {
    /// Such as `eu-central-1`.
    pub region: Text,
    /// Such as `eu-central-1a`.
    pub zone: Text,
    /// Such as a rack.
    pub subzone: Text,
}

/// The state of an instance, worst last but for `Unknown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Health {
    /// All checks pass, or there are none.
    Passing,
    /// Some check warns.
    Warning,
    /// Some check fails.
    Critical,
    /// Its operator took it out.
    Maintenance,
    /// The registry does not say.
    Unknown,
}

/// A complete listing of one registry at one moment. A listing that failed half-way is an `Err`
/// of the source, never a smaller `Snapshot`. Only what could not be read even once may be missing,
/// and a doubt stands beside the snapshot for as long as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// All services. A source that saw one of them change shares all others with the snapshot
    /// before, which is what keeps the cost of a change small.
    pub services: OrdMap<ServiceKey, Arc<Service>>,
}

/// What a source offers to the line: its last complete snapshot, and whether to trust that it is
/// current.
#[derive(Clone, Debug, Default)]
pub struct SourceState {
    /// The last complete listing; `None` until the first.
    pub snapshot: Option<Snapshot>,
    /// When `snapshot` was last known to be current.
    pub since: Time,
    /// Why the snapshot may be out of date, or lack what could not be read since the source began.
    /// While there is a doubt nothing is deleted.
    pub doubt: Option<Doubt>,
    /// What was wrong with single services and instances of the listing.
    pub findings: Arc<[Finding]>,
}

/// Why a source's snapshot may not be current.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// One of the source's closed set of error codes; fit for a metric label.
    pub code: &'static str,
    /// For a person, on one line: what was attempted, on what, and what to do.
    pub message: String,
    /// When it began.
    pub since: Time,
}

// === impl SourceName ===

impl SourceName {
    /// Parses a DNS label: lower-case letters, digits and inner dashes, at most 63.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(raw: &str) -> Result<Self, crate::name::NameError> {
        crate::name::check_dns_label(raw)?;
        Ok(Self(Text::from(raw)))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, shared.
    #[must_use]
    pub fn text(&self) -> &Text {
        &self.0
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl ServiceKey ===

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.datacenter, &self.partition, &self.group] {
            if !part.is_empty() {
                write!(f, "{part}/")?;
            }
        }
        f.write_str(&self.name)
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.source, self.key)
    }
}

// === impl Service ===

impl Service {
    /// A service with its instances in the order of their identifiers. Of several with one
    /// identifier the first in the order of their contents is kept and a finding says so, so that
    /// the result does not depend on the order in which a registry lists them.
    #[must_use]
    pub fn new(
        key: ServiceKey,
        meta: Pairs,
        ext: Pairs,
        mut instances: Vec<Arc<Instance>>,
    ) -> (Self, Vec<Finding>) {
        instances.sort_by(|a, b| (&a.id, a.sort_key()).cmp(&(&b.id, b.sort_key())));
        let mut findings = Vec::new();
        instances.dedup_by(|next, kept| {
            let same = next.id == kept.id;
            if same && next != kept {
                findings.push(duplicate(&key, kept));
            }
            same
        });
        instances.shrink_to_fit();
        (Self { key, meta, ext, instances }, findings)
    }

    /// All instances, in the order of their identifiers.
    #[must_use]
    pub fn instances(&self) -> &[Arc<Instance>] {
        &self.instances
    }

    /// The instance with this identifier.
    #[must_use]
    pub fn instance(&self, id: &str) -> Option<&Arc<Instance>> {
        let index = self.instances.binary_search_by(|i| (*i.id).cmp(id)).ok()?;
        Some(&self.instances[index])
    }

    /// This service with every instance that equals one of `previous` replaced by that one, and
    /// `previous` itself when nothing differs. A source calls it with each fresh answer; sharing
    /// is what lets every later step skip what did not change.
    #[must_use]
    pub fn sharing(mut self, previous: &Arc<Self>) -> Arc<Self> {
        for instance in &mut self.instances {
            if let Some(known) = previous.instance(&instance.id)
                && known == instance
            {
                *instance = Arc::clone(known);
            }
        }
        if self == **previous { Arc::clone(previous) } else { Arc::new(self) }
    }

    /// Whether what a policy is told of the service itself is the same.
    #[must_use]
    pub fn same_facts(&self, other: &Self) -> bool {
        self.key == other.key && self.meta == other.meta && self.ext == other.ext
    }
}

fn duplicate(key: &ServiceKey, kept: &Instance) -> Finding {
    let message = format!(
        "registered more than once with different facts; kept the one at {}. Give each instance \
         an identifier of its own",
        kept.address
    );
    Finding::new(FindingCode::DuplicateInstance, format_args!("{key}/{}", kept.id), message)
}

// === impl Instance ===

impl Instance {
    /// An instance that passes its checks and takes its share, and of which nothing else is known.
    #[must_use]
    pub fn new(id: impl Into<Text>, address: impl Into<Text>) -> Self {
        Self {
            id: id.into(),
            address: address.into(),
            ports: Vec::new(),
            health: Health::Passing,
            weight: 1,
            tags: Vec::new(),
            meta: Pairs::default(),
            ext: Pairs::default(),
            locality: None,
        }
    }

    /// Makes duplicates comparable, see [`Service::new`].
    fn sort_key(&self) -> impl Ord + '_ {
        // Every field but the identifier: two that differ must not be in an order of chance.
        let Self { id: _, address, ports, health, weight, tags, meta, ext, locality } = self;
        (address, ports, health, weight, tags, meta, ext, locality)
    }
}

// === impl Health ===

impl Health {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Passing, Self::Warning, Self::Critical, Self::Maintenance, Self::Unknown];

    /// The word used in the contract, in files and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Maintenance => "maintenance",
            Self::Unknown => "unknown",
        }
    }

    /// The health that `word` names.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|health| health.as_str() == word)
    }
}
