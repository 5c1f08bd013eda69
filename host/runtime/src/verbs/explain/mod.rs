//! `landfall explain`: the way of an instance through the line, from facts to resources.

mod describe;
mod place;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use landfall_core::decision::{DecidedService, Decision, Outcome};
use landfall_core::mapping::Mapping;
use landfall_core::mesh::{Body as _, Endpoint, HostKey, ObjectId, Tie};
use landfall_core::registry::{Instance, ServiceId};
use landfall_core::text::with_causes;
use landfall_mesh::api::{self, ApiVersion, MeshObject, Owner};
use landfall_policy_host::Work;

use self::describe::{write_default, write_facts, write_outranked, write_settings, write_step};
use self::place::{At, places};
use super::report::{Report, tell};
use super::sighted::{Sighted, sighted};
use crate::args::ExplainArgs;
use crate::config::{self, Configuration};
use crate::once::{Once, gather};
use crate::sources::Needed;

/// Full forms that are listed where a short one is not unique: as many as a person looks through.
const FORMS_MAX: usize = 10;
/// Endpoints that are listed where a sink differs: the same.
const ENDPOINTS_MAX: usize = 10;

/// How long a sink is waited for: what it holds is not what was asked for first.
const SINK_WAIT: Duration = Duration::from_secs(5);

/// Prints what becomes of a host or an instance.
///
/// # Errors
/// Something cannot be read, or there is no such host or instance.
pub(crate) async fn explain(args: &ExplainArgs) -> anyhow::Result<()> {
    let config = config::load(&args.once.config.config)?;
    let timeout = args.once.timeout.0;
    let once = gather(&config, &needed(&config, &args.subject), timeout).await?;
    let mut report = Report::default();
    once.notes().iter().for_each(|note| tell!(report, "{note}"));
    let mut sinks = Vec::new();
    for sink in &config.sinks {
        match sighted(sink, &config, &once, timeout.min(SINK_WAIT)).await {
            Ok(sink) => sinks.push(sink),
            Err(error) => tell!(report, "note: {}", with_causes(&*error)),
        }
    }
    let scene = Scene { once: &once, owner: &config.owner, sinks: &sinks };
    let found = matches(once.line.decided().values(), &args.subject);
    match found.as_slice() {
        [] if scene.write_host(&mut report, &args.subject)? => {}
        [] if scene.write_former(&mut report, &args.subject) => {}
        [] => {
            let notes = report.into_text();
            anyhow::bail!("{notes}{}", Unknown { subject: &args.subject });
        }
        [one] => scene.write_instance(&mut report, one)?,
        several => anyhow::bail!("{}", Ambiguous { subject: &args.subject, several }),
    }
    super::print(&report.into_text())
}

/// An instance needs its own source only, so that it is explained though another one is down; a
/// host may be fed by any.
fn needed(config: &Configuration, subject: &str) -> Needed {
    let source = subject.split_once('/').map(|(source, _)| source);
    let configured = config.sources.iter().map(|source| &source.name);
    let named = configured.into_iter().find(|name| Some(name.as_str()) == source);
    named.map_or(Needed::None, |name| Needed::One(name.clone()))
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

/// A subject that nothing is known of.
struct Unknown<'a> {
    subject: &'a str,
}

impl fmt::Display for Unknown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is neither a host that is published nor an instance as SOURCE/SERVICE/INSTANCE; \
             `landfall plan --output yaml` lists the hosts, `landfall snapshot` the instances",
            self.subject
        )
    }
}

/// Everything that there is to tell.
struct Scene<'a> {
    once: &'a Once,
    owner: &'a Owner,
    sinks: &'a [Sighted],
}

impl Scene<'_> {
    /// The way of an instance.
    fn write_instance(&self, report: &mut Report, found: &Found<'_>) -> anyhow::Result<()> {
        let Found { decided, instance, decision } = found;
        let Once { line, workers, .. } = self.once;
        tell!(report, "{}/{}", decided.id, instance.id);
        write_facts(report, decided, instance);
        let work = Work {
            id: Arc::clone(&decided.id),
            registry: line.registry(&decided.id.source),
            service: Arc::clone(&decided.service),
            before: None,
        };
        write_default(report, self.once, decided, instance);
        for step in workers.trace(line.rules(), &work, &instance.id) {
            write_step(report, &step);
        }
        if let Some(fault) = &decision.fault {
            tell!(report, "{fault}");
        }
        let hosts: BTreeSet<HostKey> = match &decision.outcome {
            Outcome::Dropped(reason) => {
                tell!(report, "not published: {reason}");
                BTreeSet::new()
            }
            Outcome::Published(mappings) => mappings.iter().map(|m| host_of(m)).collect(),
        };
        let mut objects = BTreeSet::new();
        for host in &hosts {
            self.write_place(report, host, found, &mut objects);
        }
        let (of_service, of_instance) =
            (decided.id.to_string(), format!("{}/{}", decided.id, instance.id));
        for finding in &decided.findings {
            if finding.subject == of_instance || finding.subject == of_service {
                tell!(report, "finding: {finding}");
            }
        }
        for finding in hosts.iter().flat_map(|host| line.host_findings(host)) {
            tell!(report, "finding: {finding}");
        }
        self.write_objects(report, &objects)
    }

    /// Where the instance is published at `host`; adds the objects that it is in to `objects`.
    fn write_place(
        &self,
        report: &mut Report,
        host: &HostKey,
        found: &Found<'_>,
        objects: &mut BTreeSet<ObjectId>,
    ) {
        let Found { decided, instance, .. } = found;
        let line = &self.once.line;
        let Some(service) = line.services().get(host) else { return };
        write_settings(report, service);
        let rendered = line.objects(host);
        // The ServiceEntry is first.
        let Some(entry) = rendered.first().and_then(|id| line.desired().get(id)) else {
            self.write_nothing(report, host);
            return;
        };
        objects.insert(entry.id.clone());
        let is_kept_out = |sink: &Sighted| sink.keeps_out(&entry.id);
        let published = match self.sinks.is_empty() || !self.sinks.iter().all(is_kept_out) {
            true => "published in",
            false => "in no sink, though it belongs in",
        };
        let is_own = |(origin, endpoint): &(&Arc<ServiceId>, &Endpoint)| {
            **origin == decided.id && endpoint.instance.id == instance.id
        };
        let mut own = places(service, entry, rendered);
        own.retain(|place| is_own(&place.endpoint));
        if own.is_empty() {
            write_outranked(report, service, &decided.id.source);
        }
        for place in own {
            match place.at {
                At::Inline { index, count } => {
                    tell!(report, "{published} {}, endpoint {} of {count}", entry.id, index + 1);
                }
                At::Own(id) => {
                    tell!(report, "{published} {id}, which {} selects", entry.id);
                    objects.insert(id);
                }
                At::Unlisted => tell!(
                    report,
                    "{published} {}, which lists no endpoints: traffic goes where clients dial",
                    entry.id
                ),
                At::Nowhere => tell!(report, "left out of {}: see the findings below", entry.id),
            }
        }
    }

    /// Why nothing is made of a service of the mesh.
    fn write_nothing(&self, report: &mut Report, host: &HostKey) {
        if self.once.line.is_undecided(host) {
            tell!(
                report,
                "not written at {host}: a service policy fails on it, see the findings below; what \
                 is published there stays"
            );
        } else {
            tell!(report, "not published at {host}: see the findings below");
        }
    }

    /// The resources of a host, where their endpoints come from, and what is wrong with them. Says
    /// whether there is anything to tell.
    fn write_host(&self, report: &mut Report, subject: &str) -> anyhow::Result<bool> {
        let line = &self.once.line;
        let mut is_known = false;
        for (key, service) in line.services() {
            if key.host.as_str() != subject && key.to_string() != subject {
                continue;
            }
            is_known = true;
            tell!(report, "{} in namespace {}", key.host, key.namespace);
            for (origin, endpoint) in service.endpoints() {
                let address = endpoint.mapping.address.as_ref();
                let address = address.map_or_else(String::new, ToString::to_string);
                tell!(report, "  {address:<20} from {origin}/{}", endpoint.instance.id);
            }
            write_settings(report, service);
            let objects = line.objects(key);
            if objects.is_empty() {
                self.write_nothing(report, key);
            }
            for finding in line.host_findings(key) {
                tell!(report, "finding: {finding}");
            }
            self.write_objects(report, objects)?;
        }
        let wanted = line.desired().values();
        let held = self.sinks.iter().flat_map(|sink| sink.line.observed().ours.values());
        let ties: BTreeSet<Tie> = wanted
            .chain(held)
            .filter(|object| is_for(object, subject))
            .map(|object| object.tie())
            .collect();
        for sink in self.sinks {
            for object in sink.line.observed().ours.values() {
                if !ties.contains(&object.tie()) || line.desired().contains_key(&object.id) {
                    continue;
                }
                is_known = true;
                let standing = sink.standing(&object.id);
                let what = self.unwanted();
                tell!(report, "{what}, in sink {}: {standing}", sink.name);
                report.document(&api::to_yaml(object, self.owner, ApiVersion::V1)?);
            }
        }
        Ok(is_known)
    }

    /// What sinks hold of the service of an instance that is not listed, beside what should be there.
    /// Says whether there is anything to tell.
    fn write_former(&self, report: &mut Report, subject: &str) -> bool {
        let mut is_known = false;
        for sink in self.sinks {
            for object in sink.line.observed().ours.values() {
                let mut origins = object.body.origins().into_iter().flatten();
                let left_over = sink
                    .left_over(&object.id, self.once.line.desired().get(&object.id).map(|o| &**o));
                if left_over.is_empty() || !origins.any(|origin| is_of(subject, origin)) {
                    continue;
                }
                if !is_known {
                    tell!(
                        report,
                        "{subject} is not listed, and what sinks hold of its service does not say \
                         of which instances it is"
                    );
                }
                is_known = true;
                tell!(report, "sink {}: {}: {}", sink.name, object.id, sink.standing(&object.id));
                self.write_left_over(report, sink, &left_over);
            }
        }
        is_known
    }

    fn write_left_over(&self, report: &mut Report, sink: &Sighted, left_over: &[String]) {
        if !left_over.is_empty() {
            let (name, count) = (&sink.name, left_over.len());
            let (unwanted, list) = (self.unwanted(), listed(left_over));
            tell!(report, "sink {name} holds {count} endpoints of it, {unwanted}: {list}");
        }
    }

    /// What is said of what sinks hold and should not hold by what is listed.
    fn unwanted(&self) -> &'static str {
        let evidence = self.once.line.evidence();
        if !self.once.notes().is_empty() {
            "not known to be wanted, for what is listed is not known in full"
        } else if !evidence.undecided.is_empty() || !evidence.unanswered.is_empty() {
            "not known to be wanted, for policies have not decided all that is listed"
        } else {
            "not wanted any more"
        }
    }

    /// How objects stand in the sinks, and then each as it is sent, as a YAML document.
    fn write_objects<'a>(
        &self,
        report: &mut Report,
        ids: impl IntoIterator<Item = &'a ObjectId> + Copy,
    ) -> anyhow::Result<()> {
        for sink in self.sinks {
            for id in ids {
                tell!(report, "sink {}: {id}: {}", sink.name, sink.standing(id));
                let desired = self.once.line.desired().get(id).map(|object| &**object);
                self.write_left_over(report, sink, &sink.left_over(id, desired));
                let lacking = desired.map(|desired| sink.lacking(desired)).unwrap_or_default();
                if !lacking.is_empty()
                    && lacking.len() < desired.map_or(0, |desired| desired.body.endpoint_count())
                {
                    let (count, list) = (lacking.len(), listed(&lacking));
                    tell!(
                        report,
                        "sink {} does not hold {count} of its endpoints: {list}",
                        sink.name
                    );
                }
                for finding in sink.contested_of(id) {
                    tell!(report, "finding: {finding}");
                }
            }
        }
        for object in ids.into_iter().filter_map(|id| self.once.line.desired().get(id)) {
            report.document(&api::to_yaml(object, self.owner, ApiVersion::V1)?);
        }
        Ok(())
    }
}

/// The first of `addresses`.
fn listed(addresses: &[String]) -> String {
    let (first, more) = addresses.split_at(addresses.len().min(ENDPOINTS_MAX));
    match more.len() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// Whether `subject` is an instance of a service, in full or by source, service and instance alone.
/// `origin` is the service in full.
fn is_of(subject: &str, origin: &str) -> bool {
    let of =
        |service: &str| subject.strip_prefix(service).is_some_and(|rest| rest.starts_with('/'));
    let short = || Some((origin.split_once('/')?.0, origin.rsplit_once('/')?.1));
    of(origin) || short().is_some_and(|(source, name)| of(&format!("{source}/{name}")))
}

fn host_of(mapping: &Mapping) -> HostKey {
    HostKey { namespace: mapping.namespace.clone(), host: mapping.host.clone() }
}

/// Whether an object in a sink is the ServiceEntry of the host that `subject` names, alone or with
/// its namespace.
fn is_for(object: &MeshObject, subject: &str) -> bool {
    let Some(host) = object.body.service_entry().and_then(|entry| entry.hosts.first()) else {
        return false;
    };
    let is_full = || subject.strip_prefix(&*object.id.namespace) == Some(&format!("/{host}"));
    **host == *subject || is_full()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use landfall_core::decision::{DropReason, RulesMark};
    use landfall_core::registry::{Service, ServiceKey, SourceName};
    use landfall_core::text::Text;

    use super::*;

    fn decided(datacenter: &str, group: &str, name: &str, instance: &str) -> Arc<DecidedService> {
        let key = ServiceKey {
            datacenter: Text::from(datacenter),
            partition: Text::default(),
            group: Text::from(group),
            name: Text::from(name),
        };
        let instance = Instance::new(instance, "10.0.0.1");
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
