//! How the parts of an instance's way are written down.

use std::fmt::Write as _;

use landfall_core::decision::DecidedService;
use landfall_core::mapping::{Edit, Mapping, Verdict};
use landfall_core::mesh::{MeshService, Setting};
use landfall_core::registry::{Instance, SourceName};
use landfall_core::sharing::SharingMode;
use landfall_core::text::Interner;
use landfall_policy_host::Step;

use crate::once::Once;
use crate::verbs::report::{Report, tell};

pub(super) fn write_facts(report: &mut Report, decided: &DecidedService, instance: &Instance) {
    tell!(report, "facts");
    tell!(report, "  health    {}", instance.health.as_str());
    tell!(report, "  address   {}", instance.address);
    for port in &instance.ports {
        tell!(report, "  port      {} {} {}", port.number, port.name, port.protocol);
    }
    tell!(report, "  weight    {}", instance.weight);
    if !instance.tags.is_empty() {
        tell!(report, "  tags      {}", instance.tags.join(", "));
    }
    if let Some(locality) = &instance.locality {
        tell!(report, "  locality  {}/{}/{}", locality.region, locality.zone, locality.subzone);
    }
    for (what, pairs) in
        [("service", &decided.service.meta), ("meta", &instance.meta), ("ext", &instance.ext)]
    {
        for (key, value) in pairs.iter() {
            tell!(report, "  {what:<9} {key}={value}");
        }
    }
}

pub(super) fn write_default(
    report: &mut Report,
    once: &Once,
    decided: &DecidedService,
    instance: &Instance,
) {
    let defaults = once.line.rules().defaults();
    // What is wrong with the mapping is among the findings already.
    let ignored = &mut Vec::new();
    let of_service = defaults.of_service(&decided.id, &decided.service, ignored);
    let mapping = of_service.mapping(instance, &mut Interner::default(), &mut Vec::new());
    tell!(report, "default mapping");
    match mapping {
        Ok(mapping) => write_mapping(report, &mapping),
        Err(reason) => {
            tell!(report, "  dropped: {reason}");
        }
    }
}

pub(super) fn write_step(report: &mut Report, step: &Step) {
    tell!(report, "policy {}, {} µs", step.policy, step.elapsed.as_micros());
    match &step.verdicts {
        Ok(verdicts) => verdicts.iter().for_each(|verdict| write_verdict(report, verdict)),
        Err(fault) => {
            tell!(report, "  failed ({}): {}", fault.code, fault.message);
        }
    }
    for line in &step.log {
        tell!(report, "  log: {}", line.text);
    }
    for mapping in &step.mappings {
        write_mapping(report, mapping);
    }
}

fn write_verdict(report: &mut Report, verdict: &Verdict) {
    let edits = |report: &mut Report, edits: &[Edit]| {
        for edit in edits {
            write_edit(report, edit);
        }
    };
    match verdict {
        Verdict::Keep => tell!(report, "  verdict: keep"),
        Verdict::Drop(reason) => tell!(report, "  verdict: drop: {reason}"),
        Verdict::Edit(list) => {
            tell!(report, "  verdict: edit");
            edits(report, list);
        }
        Verdict::Split(lists) => {
            for (index, list) in lists.iter().enumerate() {
                tell!(report, "  verdict: split, {} of {}", index + 1, lists.len());
                edits(report, list);
            }
        }
    }
}

fn write_edit(report: &mut Report, edit: &Edit) {
    match edit {
        Edit::Host(host) => tell!(report, "    host {host}"),
        Edit::Namespace(namespace) => tell!(report, "    namespace {namespace}"),
        Edit::Address(address) => tell!(report, "    address {address}"),
        Edit::Ports(ports) => {
            for port in ports {
                tell!(
                    report,
                    "    port {} {} -> {} {}",
                    port.name,
                    port.number,
                    port.target,
                    port.protocol
                );
            }
        }
        Edit::Label(key, value) => tell!(report, "    label {key}={value}"),
        Edit::RemoveLabel(key) => tell!(report, "    without label {key}"),
        Edit::Locality(place) => {
            tell!(report, "    locality {}/{}/{}", place.region, place.zone, place.subzone)
        }
        Edit::Weight(weight) => tell!(report, "    weight {weight}"),
        Edit::Network(network) => tell!(report, "    network {network}"),
        Edit::ServiceAccount(account) => tell!(report, "    service account {account}"),
    }
}

fn write_mapping(report: &mut Report, mapping: &Mapping) {
    let address = mapping.address.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
    let mut text = format!("  {} in {}: {address}", mapping.host, mapping.namespace);
    for port in mapping.ports.iter() {
        let _ = write!(text, " {}:{}", port.name, port.number);
        if port.target != port.number {
            let _ = write!(text, "->{}", port.target);
        }
    }
    for (key, value) in mapping.labels.iter() {
        let _ = write!(text, " {key}={value}");
    }
    tell!(report, "{text}");
}

/// What service policies set of a service as a whole.
pub(super) fn write_settings(report: &mut Report, service: &MeshService) {
    if service.settings.is_empty() {
        return;
    }
    tell!(report, "settings of {} by service policies", service.key);
    for setting in service.settings.iter() {
        match setting {
            Setting::Alias(host) => tell!(report, "  alias {host}"),
            Setting::Address(address) => tell!(report, "  address {address}"),
            Setting::Location(word) => tell!(report, "  location {word}"),
            Setting::Resolution(word) => tell!(report, "  resolution {word}"),
            Setting::ExportTo(namespace) => tell!(report, "  exportTo {namespace}"),
            Setting::SubjectAltName(name) => tell!(report, "  subjectAltName {name}"),
            Setting::Label(key, value) => tell!(report, "  label {key}={value}"),
            Setting::Annotation(key, value) => tell!(report, "  annotation {key}={value}"),
            Setting::Name(name) => tell!(report, "  name {name}"),
        }
    }
}

/// Why a host has an instance and does not publish it: the rule by which sources share it.
pub(super) fn write_outranked(report: &mut Report, service: &MeshService, source: &SourceName) {
    let key = &service.key;
    match (service.sharing.mode, service.parts.first()) {
        (SharingMode::First, Some(winner)) if winner.origin.source != *source => tell!(
            report,
            "left out of {key}: by the sharing rule source {} has it alone, and goes before {source}",
            winner.origin.source
        ),
        _ => tell!(
            report,
            "left out of {key}: another source that goes before {source} has the same instance, by \
             address, network and ports"
        ),
    }
}
