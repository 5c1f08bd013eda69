//! `landfall explain`: the way of an instance through the line, from facts to resources.

use std::collections::BTreeSet;
use std::fmt::{self, Write};
use std::sync::Arc;

use landfall_core::decision::{DecidedService, Decision, Outcome};
use landfall_core::mapping::{Address, Edit, Mapping, Verdict};
use landfall_core::mesh::{Endpoint, HostKey, MeshService, ObjectId, Setting};
use landfall_core::registry::{Instance, ServiceId};
use landfall_core::text::Interner;
use landfall_mesh::api::{
    self, ApiVersion, EndpointAddress, Endpoints, MeshObject, Owner, Resolution, Spec,
    WorkloadEntry,
};
use landfall_mesh::render::workload_entry_id;
use landfall_policy_host::{Step, Work};

use crate::args::ExplainArgs;
use crate::config::{self, Configuration};
use crate::once::{Once, gather};
use crate::sources::Needed;

/// Full forms that are listed where a short one is not unique: as many as a person looks through.
const FORMS_MAX: usize = 10;

/// Prints what becomes of a host or an instance.
///
/// # Errors
/// Something cannot be read, or there is no such host or instance.
pub(crate) async fn explain(args: &ExplainArgs) -> anyhow::Result<()> {
    let config = config::load(&args.config.config)?;
    let needed = needed(&config, &args.subject);
    let once = gather(&config, &needed, args.wait.timeout.0).await?;
    let mut text = notes(&once);
    let found = matches(once.line.decided().values(), &args.subject);
    match found.as_slice() {
        [] => text.push_str(&explained_host(&once, &config.owner, &args.subject)?),
        [one] => text.push_str(&explained_instance(&once, &config.owner, one)?),
        several => anyhow::bail!("{}", Ambiguous { subject: &args.subject, several }),
    }
    super::print(&text)
}

/// An instance needs its own source only, so that it is explained though another one is down.
fn needed(config: &Configuration, subject: &str) -> Needed {
    let source = subject.split_once('/').map(|(source, _)| source);
    let configured = config.sources.iter().map(|source| &source.name);
    let named = configured.into_iter().find(|name| Some(name.as_str()) == source);
    named.map_or(Needed::All, |name| Needed::One(name.clone()))
}

/// Which sources are in doubt, and so may have more than is shown.
fn notes(once: &Once) -> String {
    let mut text = String::new();
    for (name, state) in &once.states {
        let why = match &state.doubt {
            Some(doubt) => format!("{}: {}", doubt.code, doubt.message),
            None if state.snapshot.is_none() => "it has not answered yet".to_owned(),
            None => continue,
        };
        let what = match state.snapshot {
            Some(_) => "what it lists may be out of date",
            None => "nothing of what it lists is shown",
        };
        let _ = writeln!(text, "note: source {name} is in doubt, so {what} ({why})");
    }
    text
}

/// An instance with what was decided of it.
struct Found<'a> {
    decided: &'a DecidedService,
    instance: &'a Instance,
    decision: &'a Decision,
}

/// The instances that `subject` names: in full, as they are printed, or else by source, service and
/// instance alone. Names and identifiers are free text and may have slashes, so only comparing tells.
fn matches<'a>(
    services: impl Iterator<Item = &'a Arc<DecidedService>>,
    subject: &str,
) -> Vec<Found<'a>> {
    let (mut full, mut short) = (Vec::new(), Vec::new());
    for decided in services {
        let find = |service: String| {
            let (instance, decision) = decided.decision(subject.strip_prefix(&service)?)?;
            Some(Found { decided, instance, decision })
        };
        let ServiceId { source, key } = &*decided.id;
        full.extend(find(format!("{}/", decided.id)));
        short.extend(find(format!("{source}/{}/", key.name)));
    }
    if full.is_empty() { short } else { full }
}

/// A subject that names several instances.
struct Ambiguous<'a> {
    subject: &'a str,
    several: &'a [Found<'a>],
}

impl fmt::Display for Ambiguous<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, several } = self;
        write!(f, "{subject:?} names {} instances; choose one of", several.len())?;
        for Found { decided, instance, .. } in several.iter().take(FORMS_MAX) {
            write!(f, "\n  {}/{}", decided.id, instance.id)?;
        }
        match several.len().saturating_sub(FORMS_MAX) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

/// The way of an instance.
fn explained_instance(once: &Once, owner: &Owner, found: &Found<'_>) -> anyhow::Result<String> {
    let Found { decided, instance, decision } = found;
    let mut text = String::new();
    let _ = writeln!(text, "{}/{}", decided.id, instance.id);
    write_facts(&mut text, decided, instance);
    let work = Work {
        id: Arc::clone(&decided.id),
        registry: once.line.registry(&decided.id.source),
        service: Arc::clone(&decided.service),
        before: None,
    };
    write_default(&mut text, once, decided, instance);
    for step in once.workers.trace(once.line.rules(), &work, &instance.id) {
        write_step(&mut text, &step);
    }
    let mut objects = BTreeSet::new();
    write_outcome(&mut text, once, found, &mut objects);
    let (of_service, of_instance) =
        (decided.id.to_string(), format!("{}/{}", decided.id, instance.id));
    for finding in &decided.findings {
        if finding.subject == of_instance || finding.subject == of_service {
            let _ = writeln!(text, "finding: {finding}");
        }
    }
    if let Outcome::Published(mappings) = &decision.outcome {
        let hosts: BTreeSet<HostKey> = mappings.iter().map(|mapping| host_of(mapping)).collect();
        for finding in hosts.iter().flat_map(|host| once.line.host_findings(host)) {
            let _ = writeln!(text, "finding: {finding}");
        }
    }
    write_objects(&mut text, once, owner, &objects)?;
    Ok(text)
}

fn host_of(mapping: &Mapping) -> HostKey {
    HostKey { namespace: mapping.namespace.clone(), host: mapping.host.clone() }
}

/// Objects as they are sent, each a YAML document.
fn write_objects<'a>(
    text: &mut String,
    once: &Once,
    owner: &Owner,
    ids: impl IntoIterator<Item = &'a ObjectId>,
) -> anyhow::Result<()> {
    for object in ids.into_iter().filter_map(|id| once.line.desired().get(id)) {
        text.push_str("---\n");
        text.push_str(&api::to_yaml(object, owner, ApiVersion::V1)?);
    }
    Ok(())
}

/// What service policies set of a service as a whole.
fn write_settings(text: &mut String, service: &MeshService) {
    if service.settings.is_empty() {
        return;
    }
    let _ = writeln!(text, "settings of {} by service policies", service.key);
    for setting in service.settings.iter() {
        let _ = match setting {
            Setting::Alias(host) => writeln!(text, "  alias {host}"),
            Setting::Address(address) => writeln!(text, "  address {address}"),
            Setting::Location(word) => writeln!(text, "  location {word}"),
            Setting::Resolution(word) => writeln!(text, "  resolution {word}"),
            Setting::ExportTo(namespace) => writeln!(text, "  exportTo {namespace}"),
            Setting::SubjectAltName(name) => writeln!(text, "  subjectAltName {name}"),
            Setting::Label(key, value) => writeln!(text, "  label {key}={value}"),
            Setting::Annotation(key, value) => writeln!(text, "  annotation {key}={value}"),
        };
    }
}

fn write_facts(text: &mut String, decided: &DecidedService, instance: &Instance) {
    let _ = writeln!(text, "facts");
    let _ = writeln!(text, "  health    {}", instance.health.as_str());
    let _ = writeln!(text, "  address   {}", instance.address);
    for port in &instance.ports {
        let _ = writeln!(text, "  port      {} {} {}", port.number, port.name, port.protocol);
    }
    let _ = writeln!(text, "  weight    {}", instance.weight);
    if !instance.tags.is_empty() {
        let _ = writeln!(text, "  tags      {}", instance.tags.join(", "));
    }
    if let Some(locality) = &instance.locality {
        let _ = writeln!(
            text,
            "  locality  {}/{}/{}",
            locality.region, locality.zone, locality.subzone
        );
    }
    for (what, pairs) in
        [("service", &decided.service.meta), ("meta", &instance.meta), ("ext", &instance.ext)]
    {
        for (key, value) in pairs.iter() {
            let _ = writeln!(text, "  {what:<9} {key}={value}");
        }
    }
}

fn write_default(text: &mut String, once: &Once, decided: &DecidedService, instance: &Instance) {
    let defaults = once.line.rules().defaults();
    // What is wrong with the mapping is among the findings already.
    let ignored = &mut Vec::new();
    let of_service = defaults.of_service(&decided.id, &decided.service, ignored);
    let mapping = of_service.mapping(instance, &mut Interner::default(), &mut Vec::new());
    let _ = writeln!(text, "default mapping");
    match mapping {
        Ok(mapping) => write_mapping(text, &mapping),
        Err(reason) => {
            let _ = writeln!(text, "  dropped: {reason}");
        }
    }
}

fn write_step(text: &mut String, step: &Step) {
    let _ = writeln!(text, "policy {}, {} µs", step.policy, step.elapsed.as_micros());
    match &step.verdicts {
        Ok(verdicts) => verdicts.iter().for_each(|verdict| write_verdict(text, verdict)),
        Err(fault) => {
            let _ = writeln!(text, "  failed ({}): {}", fault.code, fault.message);
        }
    }
    for line in &step.log {
        let _ = writeln!(text, "  log: {}", line.text);
    }
    for mapping in &step.mappings {
        write_mapping(text, mapping);
    }
}

fn write_verdict(text: &mut String, verdict: &Verdict) {
    let edits = |text: &mut String, edits: &[Edit]| {
        for edit in edits {
            write_edit(text, edit);
        }
    };
    let _ = match verdict {
        Verdict::Keep => writeln!(text, "  verdict: keep"),
        Verdict::Drop(reason) => writeln!(text, "  verdict: drop: {reason}"),
        Verdict::Edit(list) => {
            let _ = writeln!(text, "  verdict: edit");
            edits(text, list);
            Ok(())
        }
        Verdict::Split(lists) => {
            for (index, list) in lists.iter().enumerate() {
                let _ = writeln!(text, "  verdict: split, {} of {}", index + 1, lists.len());
                edits(text, list);
            }
            Ok(())
        }
    };
}

fn write_edit(text: &mut String, edit: &Edit) {
    let _ = match edit {
        Edit::Host(host) => writeln!(text, "    host {host}"),
        Edit::Namespace(namespace) => writeln!(text, "    namespace {namespace}"),
        Edit::Address(address) => writeln!(text, "    address {address}"),
        Edit::Ports(ports) => {
            for port in ports {
                let _ = writeln!(
                    text,
                    "    port {} {} -> {} {}",
                    port.name, port.number, port.target, port.protocol
                );
            }
            Ok(())
        }
        Edit::Label(key, value) => writeln!(text, "    label {key}={value}"),
        Edit::RemoveLabel(key) => writeln!(text, "    without label {key}"),
        Edit::Locality(place) => {
            writeln!(text, "    locality {}/{}/{}", place.region, place.zone, place.subzone)
        }
        Edit::Weight(weight) => writeln!(text, "    weight {weight}"),
        Edit::Network(network) => writeln!(text, "    network {network}"),
        Edit::ServiceAccount(account) => writeln!(text, "    service account {account}"),
    };
}

fn write_mapping(text: &mut String, mapping: &Mapping) {
    let address = mapping.address.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
    let _ = write!(text, "  {} in {}: {address}", mapping.host, mapping.namespace);
    for port in mapping.ports.iter() {
        let _ = write!(text, " {}:{}", port.name, port.number);
        if port.target != port.number {
            let _ = write!(text, "->{}", port.target);
        }
    }
    for (key, value) in mapping.labels.iter() {
        let _ = write!(text, " {key}={value}");
    }
    text.push('\n');
}

/// Where the instance is published, or why it is not; adds the objects that it is in to `objects`.
fn write_outcome(
    text: &mut String,
    once: &Once,
    found: &Found<'_>,
    objects: &mut BTreeSet<ObjectId>,
) {
    let Found { decided, instance, decision } = found;
    if let Some(fault) = &decision.fault {
        let _ = writeln!(text, "{fault}");
    }
    let mappings = match &decision.outcome {
        Outcome::Dropped(reason) => {
            let _ = writeln!(text, "not published: {reason}");
            return;
        }
        Outcome::Published(mappings) => mappings,
    };
    let hosts: BTreeSet<HostKey> = mappings.iter().map(|mapping| host_of(mapping)).collect();
    for host in &hosts {
        let Some(service) = once.line.services().get(host) else { continue };
        write_settings(text, service);
        let rendered = once.line.objects(host);
        // The ServiceEntry is first. Without it there is nothing; the findings say why.
        let Some(entry) = rendered.first().and_then(|id| once.line.desired().get(id)) else {
            let _ = writeln!(text, "not published at {host}: see the findings below");
            continue;
        };
        objects.insert(entry.id.clone());
        let is_own = |(origin, endpoint): &(&Arc<ServiceId>, &Endpoint)| {
            **origin == decided.id && endpoint.instance.id == instance.id
        };
        for place in places(service, entry, rendered).into_iter().filter(|p| is_own(&p.endpoint)) {
            let _ = match place.at {
                At::Inline { index, count } => {
                    writeln!(text, "published in {}, endpoint {} of {count}", entry.id, index + 1)
                }
                At::Own(id) => {
                    objects.insert(id.clone());
                    writeln!(text, "published in {id}, which {} selects", entry.id)
                }
                At::Unlisted => writeln!(
                    text,
                    "published in {}, which lists no endpoints: traffic goes where clients dial",
                    entry.id
                ),
                At::Nowhere => {
                    writeln!(text, "left out of {}: see the findings below", entry.id)
                }
            };
        }
    }
}

/// An endpoint of a service, and where it stands in the service's objects.
struct Place<'a> {
    endpoint: (&'a Arc<ServiceId>, &'a Endpoint),
    at: At,
}

enum At {
    /// In the ServiceEntry.
    Inline { index: usize, count: usize },
    /// In a WorkloadEntry of its own.
    Own(ObjectId),
    /// The ServiceEntry has no endpoints on purpose.
    Unlisted,
    /// It could not be rendered.
    Nowhere,
}

/// Where each endpoint of `service` stands, of which `entry` and `rendered` were made.
fn places<'a>(
    service: &'a MeshService,
    entry: &MeshObject,
    rendered: &[ObjectId],
) -> Vec<Place<'a>> {
    let Spec::ServiceEntry(spec) = &entry.body.spec else { return Vec::new() };
    // Endpoints are listed in the order of the service, with some left out.
    let mut listed = 0;
    let place = |endpoint: (&'a Arc<ServiceId>, &'a Endpoint)| {
        let at = match &spec.endpoints {
            Endpoints::Selected(_) => {
                let id = workload_entry_id(&service.key, endpoint.0, endpoint.1);
                if rendered.contains(&id) { At::Own(id) } else { At::Nowhere }
            }
            Endpoints::Inline(_) if spec.resolution == Resolution::None => At::Unlisted,
            Endpoints::Inline(entries) => match entries.get(listed) {
                Some(entry) if is_of(entry, endpoint.1) => {
                    listed += 1;
                    At::Inline { index: listed - 1, count: entries.len() }
                }
                Some(_) | None => At::Nowhere,
            },
        };
        Place { endpoint, at }
    };
    service.endpoints().map(place).collect()
}

/// Whether `entry` was made of `endpoint`.
fn is_of(entry: &WorkloadEntry, endpoint: &Endpoint) -> bool {
    let is_at = match (&entry.address, &endpoint.mapping.address) {
        (EndpointAddress::Ip(entry), Some(Address::Ip(ip))) => entry == ip,
        (EndpointAddress::Other(entry), Some(Address::Dns(host))) => entry == host.text(),
        (EndpointAddress::Ip(_) | EndpointAddress::Other(_), _) => false,
    };
    is_at && entry.labels.iter().all(|(key, value)| endpoint.mapping.labels.get(key) == Some(value))
}

/// The resources of a host, where their endpoints come from, and what is wrong with them.
fn explained_host(once: &Once, owner: &Owner, subject: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    for (key, service) in once.line.services() {
        if key.host.as_str() != subject && key.to_string() != subject {
            continue;
        }
        let _ = writeln!(text, "{} in namespace {}", key.host, key.namespace);
        for (origin, endpoint) in service.endpoints() {
            let address = endpoint.mapping.address.as_ref();
            let address = address.map_or_else(String::new, ToString::to_string);
            let _ = writeln!(text, "  {address:<20} from {origin}/{}", endpoint.instance.id);
        }
        write_settings(&mut text, service);
        let objects = once.line.objects(key);
        if objects.is_empty() {
            let _ = writeln!(text, "not published: see the findings below");
        }
        for finding in once.line.host_findings(key) {
            let _ = writeln!(text, "finding: {finding}");
        }
        write_objects(&mut text, once, owner, objects)?;
    }
    anyhow::ensure!(
        !text.is_empty(),
        "{subject:?} is neither a host that is published nor an instance as \
         SOURCE/SERVICE/INSTANCE; `landfall plan --output yaml` lists the hosts, \
         `landfall snapshot` the instances"
    );
    Ok(text)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use landfall_core::decision::{DropReason, RulesMark};
    use landfall_core::registry::{Health, Service, ServiceKey, SourceName};
    use landfall_core::text::Text;

    use super::*;

    fn decided(datacenter: &str, group: &str, name: &str, instance: &str) -> Arc<DecidedService> {
        let key = ServiceKey {
            datacenter: Text::from(datacenter),
            partition: Text::default(),
            group: Text::from(group),
            name: Text::from(name),
        };
        let instance = Instance {
            id: Text::from(instance),
            address: Text::from("10.0.0.1"),
            ports: Vec::new(),
            health: Health::Passing,
            weight: 1,
            tags: Vec::new(),
            meta: landfall_core::pairs::Pairs::default(),
            ext: landfall_core::pairs::Pairs::default(),
            locality: None,
        };
        let (meta, ext) = Default::default();
        let (service, _) = Service::new(key.clone(), meta, ext, vec![Arc::new(instance)]);
        let id = ServiceId { source: SourceName::parse("dc1").unwrap(), key };
        let outcome = Outcome::Dropped(DropReason::Weightless);
        Arc::new(DecidedService {
            id: Arc::new(id),
            service: Arc::new(service),
            rules: RulesMark::default(),
            decisions: vec![Decision { outcome, fault: None }],
            findings: Vec::new(),
            unlisted: std::collections::BTreeMap::new(),
        })
    }

    fn check(subject: &str, want: Expect) {
        let services = [
            decided("eu", "", "pay", "node/pay-1"),
            decided("us", "", "pay", "node/pay-1"),
            decided("us", "shop", "cart", "node/cart-1"),
            decided("", "", "cart", "eu"),
            decided("", "", "node", "cart-1"),
        ];
        let found = matches(services.iter(), subject);
        want.assert_eq(&match found.as_slice() {
            [one] => format!("{}/{}", one.decided.id, one.instance.id),
            several => Ambiguous { subject, several }.to_string(),
        });
    }

    #[test]
    fn an_instance_is_named_in_full_or_in_short() {
        check("dc1/us/shop/cart/node/cart-1", expect!["dc1/us/shop/cart/node/cart-1"]);
        check("dc1/cart/node/cart-1", expect!["dc1/us/shop/cart/node/cart-1"]);
        check("dc1/eu/pay/node/pay-1", expect!["dc1/eu/pay/node/pay-1"]);
        check(
            "dc1/pay/node/pay-1",
            expect![[r#"
            "dc1/pay/node/pay-1" names 2 instances; choose one of
              dc1/eu/pay/node/pay-1
              dc1/us/pay/node/pay-1"#]],
        );
        check("dc1/node/cart-1", expect!["dc1/node/cart-1"]);
        check("dc1/pay/pay-1", expect![[r#""dc1/pay/pay-1" names 0 instances; choose one of"#]]);
    }
}
