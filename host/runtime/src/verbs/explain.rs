//! `landfall explain`: the way of an instance through the line, from facts to resources.

use std::fmt::Write;
use std::sync::Arc;

use landfall_core::decision::{DecidedService, Decision, Outcome};
use landfall_core::mapping::{Edit, Mapping, Verdict};
use landfall_core::mesh::MeshService;
use landfall_core::registry::{Instance, ServiceId};
use landfall_core::text::Interner;
use landfall_mesh::api::{self, ApiVersion, Owner};
use landfall_policy_host::{Step, Work};

use crate::args::ExplainArgs;
use crate::config;
use crate::once::{Once, gather};

/// Prints what becomes of a host or an instance.
///
/// # Errors
/// Something cannot be read, or there is no such host or instance.
pub(crate) async fn explain(args: &ExplainArgs) -> anyhow::Result<()> {
    let config = config::load(&args.config.config)?;
    let once = gather(&config, args.wait.timeout.0).await?;
    let text = match explained_instance(&once, &args.subject) {
        Some(text) => text,
        None => explained_host(&once, &config.owner, &args.subject)?,
    };
    super::print(&text)
}

/// The way of the instance that `subject` names as `SOURCE/SERVICE/INSTANCE`, if it names one.
fn explained_instance(once: &Once, subject: &str) -> Option<String> {
    let (decided, instance, decision) = once.line.decided().values().find_map(|decided| {
        let instance_id = subject.strip_prefix(&format!("{}/", decided.id))?;
        let (instance, decision) = decided.decision(instance_id)?;
        Some((decided, instance, decision))
    })?;
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
    write_outcome(&mut text, once, &decided.id, instance, decision);
    for finding in &decided.findings {
        if finding.subject.ends_with(&*instance.id) || finding.subject == decided.id.to_string() {
            let _ = writeln!(text, "finding: {finding}");
        }
    }
    Some(text)
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

fn write_outcome(
    text: &mut String,
    once: &Once,
    id: &ServiceId,
    instance: &Instance,
    decision: &Decision,
) {
    if let Some(fault) = &decision.fault {
        let _ = writeln!(text, "{fault}");
    }
    match &decision.outcome {
        Outcome::Dropped(reason) => {
            let _ = writeln!(text, "not published: {reason}");
        }
        Outcome::Published(mappings) => {
            for mapping in mappings.iter() {
                let host = landfall_core::mesh::HostKey {
                    namespace: mapping.namespace.clone(),
                    host: mapping.host.clone(),
                };
                let Some(service) = once.line.services().get(&host) else { continue };
                let place = place(service, id, instance);
                for object in once.line.objects(&host).iter().take(1) {
                    let _ = writeln!(text, "published in {object}, {place}");
                }
            }
        }
    }
}

/// Which of the service's endpoints an instance is.
fn place(service: &MeshService, id: &ServiceId, instance: &Instance) -> String {
    let position = service
        .endpoints()
        .position(|(origin, endpoint)| **origin == *id && endpoint.instance.id == instance.id);
    let count = service.endpoint_count();
    position.map_or_else(
        || format!("one of {count} endpoints"),
        |index| format!("endpoint {} of {count}", index + 1),
    )
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
        for finding in &service.findings {
            let _ = writeln!(text, "finding: {finding}");
        }
        for id in once.line.objects(key) {
            if let Some(object) = once.line.desired().get(id) {
                text.push_str("---\n");
                text.push_str(&api::to_yaml(object, owner, ApiVersion::V1)?);
            }
        }
    }
    anyhow::ensure!(
        !text.is_empty(),
        "{subject:?} is neither a host that is published nor an instance as \
         SOURCE/SERVICE/INSTANCE; `landfall plan --output yaml` lists the hosts, \
         `landfall snapshot` the instances"
    );
    Ok(text)
}
