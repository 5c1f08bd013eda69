//! From Consul's types to the core's.
//!
//! An instance is where its service's `Locality` says, or else its node's. A datacenter is no
//! region and none is made of it: locality load balancing would take the instances to be near each
//! other and far from all others, which nobody said. The metadata of nodes has no key for a place
//! that Consul documents; policies find all of it under `consul.node-meta.`.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use landfall_core::finding::{Finding, FindingCode};
use landfall_core::pairs::Pairs;
use landfall_core::registry::{Health, Instance, InstancePort, Locality, Service, ServiceKey};
use landfall_core::text::{Interner, Text};

use super::wire;
use super::{CONSUL_ITSELF, Kinds, Scope};

/// What an answer to `/v1/health/service/<name>` says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ServiceRead {
    /// `None` when there is no instance of a kind that is asked for.
    pub(super) service: Option<Arc<Service>>,
    /// What was wrong with single instances.
    pub(super) findings: Vec<Finding>,
    /// Entries in the answer, of every kind and malformed ones too.
    pub(super) entries: usize,
}

/// Reads an answer to `/v1/health/service/<name>`.
pub(super) fn service(
    body: &[u8],
    name: &str,
    scope: &Scope,
    kinds: Kinds,
) -> Result<ServiceRead, serde_json::Error> {
    let raw: Option<wire::RawList<'_>> = serde_json::from_slice(body)?;
    let raw = raw.unwrap_or_default();
    let entries = raw.len();
    let mut texts = Interner::default();
    let mut findings = Vec::new();
    let mut instances = Vec::with_capacity(entries);
    let mut key = None;
    for text in raw {
        let read = serde_json::from_str::<wire::Entry>(text.get())
            .map_err(|error| error.to_string())
            .and_then(|entry| {
                if !kinds.include(&entry.service.kind) {
                    return Ok(());
                }
                let instance = instance(&entry, &mut texts)?;
                key.get_or_insert_with(|| service_key(&entry, scope));
                instances.push(Arc::new(instance));
                Ok(())
            });
        if let Err(problem) = read {
            let known: wire::EntryName = serde_json::from_str(text.get()).unwrap_or_default();
            findings.push(Finding::new(
                FindingCode::MalformedInstance,
                format_args!("{name}/{}/{}", known.node.node, known.service.id),
                format!("{problem}; it is left out. Register it again with what Consul documents"),
            ));
        }
    }
    let service = key.map(|key| {
        let (service, found) = Service::new(key, Pairs::default(), Pairs::default(), instances);
        findings.extend(found);
        Arc::new(service)
    });
    findings.sort();
    Ok(ServiceRead { service, findings, entries })
}

/// What Consul's answers say about themselves wins: where the scope leaves the datacenter or the
/// namespace to the agent, only the answer knows it.
fn service_key(entry: &wire::Entry, scope: &Scope) -> ServiceKey {
    let said = |said: &str, asked: &Option<String>| match said {
        "" => Text::from(asked.as_deref().unwrap_or_default()),
        said => Text::from(said),
    };
    let partition = match entry.service.partition.as_str() {
        "" => &entry.node.partition,
        partition => partition,
    };
    ServiceKey {
        datacenter: said(&entry.node.datacenter, &scope.datacenter),
        partition: said(partition, &scope.partition),
        group: said(&entry.service.namespace, &scope.namespace),
        name: Text::from(entry.service.name.as_str()),
    }
}

fn instance(entry: &wire::Entry, texts: &mut Interner) -> Result<Instance, String> {
    let wire::Entry { node, service, checks } = entry;
    if node.node.is_empty() || service.id.is_empty() || service.name.is_empty() {
        return Err("it has no node, no ID or no name".to_owned());
    }
    // An instance without an address of its own is at its node's.
    let own = service.address.trim();
    let address = if own.is_empty() { node.address.trim() } else { own };
    if address.is_empty() {
        return Err("neither it nor its node has an address".to_owned());
    }
    let health = health(checks);
    let mut tags: Vec<Text> = service.tags.iter().map(|tag| texts.text(tag)).collect();
    tags.sort();
    tags.dedup();
    let places = [service.locality.as_ref(), node.locality.as_ref()];
    let said = |place: &&wire::Locality| !place.region.is_empty() || !place.zone.is_empty();
    let locality = places.into_iter().flatten().find(said).map(|place| Locality {
        region: texts.text(&place.region),
        zone: texts.text(&place.zone),
        subzone: texts.text(""),
    });
    Ok(Instance {
        // Consul keeps an ID unique within a node only.
        id: Text::from(format!("{}/{}", node.node, service.id)),
        address: texts.text(address),
        ports: ports(service, texts)?,
        health,
        weight: weight(service.weights.as_ref(), health)?,
        tags,
        meta: service.meta.iter().map(|(k, v)| (texts.text(k), texts.text(v))).collect(),
        ext: ext(node, service, texts),
        locality,
    })
}

fn ports(service: &wire::Service, texts: &mut Interner) -> Result<Vec<InstancePort>, String> {
    let mut port = |name: &str, number: i64| match u16::try_from(number) {
        Ok(number) if number > 0 => {
            Ok(InstancePort { name: texts.text(name), number, protocol: texts.text("") })
        }
        _ => Err(format!("port {number} is not between 1 and 65535")),
    };
    if service.ports.is_empty() {
        return match service.port {
            // Consul's way to say that there is none.
            0 => Ok(Vec::new()),
            number => Ok(vec![port("", number)?]),
        };
    }
    let mut ports: Vec<InstancePort> =
        service.ports.iter().map(|p| port(&p.name, p.port)).collect::<Result<_, _>>()?;
    ports.sort();
    Ok(ports)
}

/// Consul's own order: maintenance before critical before warning before passing.
fn health(checks: &[wire::Check]) -> Health {
    let of_check = |check: &wire::Check| {
        if check.id == "_node_maintenance" || check.id.starts_with("_service_maintenance:") {
            return Health::Maintenance;
        }
        match check.status.as_str() {
            "passing" => Health::Passing,
            "warning" => Health::Warning,
            "critical" => Health::Critical,
            _ => Health::Unknown,
        }
    };
    // A word that is not known hides neither a failure nor the lack of one.
    let severity = |health: &Health| match health {
        Health::Passing => 0,
        Health::Unknown => 1,
        Health::Warning => 2,
        Health::Critical => 3,
        Health::Maintenance => 4,
    };
    checks.iter().map(of_check).max_by_key(severity).unwrap_or(Health::Passing)
}

fn weight(weights: Option<&wire::Weights>, health: Health) -> Result<u32, String> {
    let weight = match (weights, health) {
        (None, _) => 1,
        (Some(weights), Health::Warning) => weights.warning,
        (Some(weights), _) => weights.passing,
    };
    u32::try_from(weight).map_err(|_| format!("weight {weight} is below zero or too large"))
}

fn ext(node: &wire::Node, service: &wire::Service, texts: &mut Interner) -> Pairs {
    let mut pairs: Vec<(Text, Text)> = Vec::new();
    let mut add = |key: &str, value: &str| {
        if !value.is_empty() {
            pairs.push((texts.text(key), texts.text(value)));
        }
    };
    add("consul.node", &node.node);
    add("consul.node-address", &node.address);
    add("consul.kind", &service.kind);
    add("consul.destination", &service.proxy.destination_service_name);
    add("consul.destination-id", &service.proxy.destination_service_id);
    if service.connect.native {
        add("consul.connect-native", "true");
    }
    for (tag, at) in &service.tagged_addresses {
        let value = match at.port {
            0 => at.address.clone(),
            port if at.address.contains(':') => format!("[{}]:{port}", at.address),
            port => format!("{}:{port}", at.address),
        };
        add(&format!("consul.tagged.{tag}"), &value);
    }
    for (tag, address) in &node.tagged_addresses {
        // Consul fills in the address itself where nobody gave another.
        if *address != node.address {
            add(&format!("consul.node-tagged.{tag}"), address);
        }
    }
    for (key, value) in &node.meta {
        // Consul's own, the same on every node, such as its version.
        if !key.starts_with("consul-") {
            add(&format!("consul.node-meta.{key}"), value);
        }
    }
    pairs.into_iter().collect()
}

// === Views: what a catalogue-wide answer shows of each service ===

/// What is shown of each service.
pub(super) type View = std::collections::BTreeMap<Text, Shown>;

/// What a view shows of one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    /// Changes when what is shown changes.
    pub(super) digest: u64,
    /// Whether instances can trade their health without a trace: the view counts checks by state,
    /// and not all of them pass.
    pub(super) hides_health: bool,
}

/// Whether a service of this name can be asked for: a path takes some for folders. Consul itself
/// is not listed.
pub(super) fn is_listed_name(name: &Text) -> bool {
    !matches!(&**name, CONSUL_ITSELF | "" | "." | "..")
}

/// Reads `/v1/catalog/services`.
pub(super) fn names_view(body: &[u8]) -> Result<View, serde_json::Error> {
    let names: wire::Names = serde_json::from_slice(body)?;
    let view = names.into_iter().map(|(name, tags)| {
        let mut tags = tags.unwrap_or_default();
        tags.sort();
        (Text::from(name), Shown { digest: digest(&tags), hides_health: false })
    });
    Ok(view.collect())
}

/// Reads `/v1/internal/ui/services`.
pub(super) fn summary_view(body: &[u8], kinds: Kinds) -> Result<View, serde_json::Error> {
    let summaries: Option<Vec<wire::Summary>> = serde_json::from_slice(body)?;
    let mut view = View::new();
    for mut summary in summaries.unwrap_or_default() {
        // Without instances it is only named by another's configuration; with a peer it is
        // another cluster's.
        let listed = summary.instance_count > 0 && summary.peer_name.is_empty();
        if !listed || !kinds.include(&summary.kind) {
            continue;
        }
        summary.tags.sort();
        summary.nodes.sort();
        let shown = digest(&(
            summary.instance_count,
            [summary.checks_passing, summary.checks_warning, summary.checks_critical],
            &summary.tags,
            &summary.nodes,
        ));
        let hides_health = summary.checks_warning > 0 || summary.checks_critical > 0;
        view.insert(Text::from(summary.name), Shown { digest: shown, hides_health });
    }
    Ok(view)
}

/// Reads `/v1/health/state/any`. Checks of whole nodes stand under the empty name.
pub(super) fn checks_view(body: &[u8]) -> Result<View, serde_json::Error> {
    let checks: Option<Vec<wire::StateCheck>> = serde_json::from_slice(body)?;
    let mut view = View::new();
    for check in checks.unwrap_or_default() {
        let one = digest(&(&check.node, &check.service_id, &check.id, &check.status));
        let shown: &mut Shown = view.entry(Text::from(check.service_name)).or_default();
        // A sum, for the order of checks means nothing.
        shown.digest = shown.digest.wrapping_add(one);
    }
    Ok(view)
}

/// Reads `/v1/namespaces`.
pub(super) fn namespaces(body: &[u8]) -> Result<Vec<String>, serde_json::Error> {
    let all: Vec<wire::Namespace> = serde_json::from_slice(body)?;
    Ok(all.into_iter().filter(|n| n.deleted_at.is_none()).map(|n| n.name).collect())
}

pub(super) fn digest(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
