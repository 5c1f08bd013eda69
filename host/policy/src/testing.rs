//! Guests, services and rules for the tests of this crate.

use std::sync::Arc;

use landfall_core::decision::{DecidedService, DropReason, Outcome};
use landfall_core::defaults::Defaults;
use landfall_core::pairs::Pairs;
use landfall_core::pattern::Selector;
use landfall_core::registry::{
    Health, Instance, InstancePort, Service, ServiceId, ServiceKey, SourceName,
};
use landfall_core::template::Template;

use crate::componentize::{componentize, embed};
use crate::{
    AdmissionError, Candidate, EngineSettings, Limits, Link, PolicyEngine, Revision, Rules, Work,
};

const CONTRACT: &str = include_str!("../../../wit/landfall.wit");
/// What the hostile guests of the tests crate share; says how it is used.
const PRELUDE: &str = include_str!("../../../tests/hostile/prelude.wat");
const EXPORTS: [(&str, &str); 5] = [
    ("cabi_realloc", "$alloc"),
    ("landfall:policy/plugin@0.1.0#describe", "$describe"),
    ("landfall:policy/plugin@0.1.0#configure", "$configure"),
    ("landfall:policy/instances@0.1.0#decide", "$decide"),
    ("cabi_post_landfall:policy/instances@0.1.0#decide", "$forget"),
];

/// A component of world `instance-policy` that does what `text` says, and is harmless otherwise.
pub(crate) fn component(text: &str) -> Vec<u8> {
    component_with(text, CONTRACT, "instance-policy")
}

/// The same for another world of another contract.
pub(crate) fn component_with(text: &str, contract: &str, world: &str) -> Vec<u8> {
    built("", text, contract, world)
}

/// The same with imports, which have to come first in a module.
pub(crate) fn component_after(imports: &str, text: &str, contract: &str) -> Vec<u8> {
    built(imports, text, contract, "instance-policy")
}

fn built(imports: &str, text: &str, contract: &str, world: &str) -> Vec<u8> {
    let mut module = format!("(module\n{imports}\n{PRELUDE}\n{text}\n");
    for (export, function) in EXPORTS {
        if !text.contains(&format!("{export:?}")) {
            module += &format!("(export {export:?} (func {function}))\n");
        }
    }
    let module = wat::parse_str(module + ")").unwrap();
    componentize(&embed(&module, contract, world).unwrap()).unwrap()
}

/// The contract with one more import in its world `instance-policy`, and the packages it needs.
pub(crate) fn contract_with(imports: &str, packages: &str) -> String {
    let world = "world instance-policy {";
    let (before, after) = CONTRACT.split_once(world).unwrap();
    format!("{before}{world}\n{imports}\n{after}\n{packages}")
}

/// One of the texts below `tests/hostile`.
pub(crate) fn hostile(name: &str) -> Vec<u8> {
    let path = format!("{}/../../tests/hostile/{name}.wat", env!("CARGO_MANIFEST_DIR"));
    component(&std::fs::read_to_string(path).unwrap())
}

/// A guest whose `decide` gives each instance the verdict with these flat parts.
pub(crate) fn verdict(case: u8, pointer: u32, len: u32, data: &str) -> Vec<u8> {
    component(&format!(
        r#"{data}
        (func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
          (call $all (local.get $call) (i32.const {case}) (i32.const {pointer}) (i32.const {len})))"#
    ))
}

/// An edit `host` of a text at an address, for data segments.
pub(crate) fn host_edit(at: u32, len: u32) -> String {
    let word = |n: u32| n.to_le_bytes().map(|b| format!("\\{b:02x}")).concat();
    format!("{}{}{}{}", word(0), word(at), word(len), "\\00".repeat(16))
}

pub(crate) fn engine() -> Arc<PolicyEngine> {
    PolicyEngine::start(EngineSettings::default()).unwrap()
}

pub(crate) fn admit(bytes: &[u8]) -> Result<Arc<Revision>, AdmissionError> {
    admit_within(bytes, Limits::default())
}

pub(crate) fn admit_within(bytes: &[u8], limits: Limits) -> Result<Arc<Revision>, AdmissionError> {
    Revision::admit(&engine(), Candidate { name: "p".into(), bytes, settings_json: "{}", limits })
}

pub(crate) fn defaults() -> Defaults {
    Defaults {
        host: Template::parse("{service}.{source}.mesh").unwrap(),
        namespace: Template::parse("mesh").unwrap(),
        labels: Vec::new(),
        health: vec![Health::Passing],
        own_mark: None,
    }
}

/// Rules of policies that are for everything.
pub(crate) fn rules(revisions: &[&Arc<Revision>]) -> Arc<Rules> {
    let links = revisions
        .iter()
        .map(|&revision| Link { revision: Arc::clone(revision), selector: Selector::default() })
        .collect();
    Rules::new(defaults(), links)
}

pub(crate) fn instance(id: &str) -> Arc<Instance> {
    instance_at(id, "10.0.0.1", 80)
}

pub(crate) fn instance_at(id: &str, address: &str, port: u16) -> Arc<Instance> {
    Arc::new(Instance {
        ports: vec![InstancePort { name: "http".into(), number: port, protocol: "http".into() }],
        tags: vec!["a".into()],
        meta: [("version", "v1")].into_iter().collect(),
        ..Instance::new(id, address)
    })
}

/// Service `pay` of source `dc1` with these instances.
pub(crate) fn work(ids: &[String], before: Option<DecidedService>) -> Work {
    work_of(ids.iter().map(|id| instance(id)).collect(), before)
}

pub(crate) fn work_of(instances: Vec<Arc<Instance>>, before: Option<DecidedService>) -> Work {
    let key = ServiceKey { name: "pay".into(), ..ServiceKey::default() };
    let (service, _) = Service::new(key.clone(), Pairs::default(), Pairs::default(), instances);
    Work {
        id: Arc::new(ServiceId { source: SourceName::parse("dc1").unwrap(), key }),
        registry: "consul",
        service: Arc::new(service),
        before: before.map(Arc::new),
    }
}

/// `i0`, `i1`, ...
pub(crate) fn ids(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("i{n}")).collect()
}

/// One line for each kind of outcome: how often, and what.
pub(crate) fn summary(decided: &DecidedService) -> String {
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    for decision in &decided.decisions {
        let outcome = match &decision.outcome {
            Outcome::Published(mappings) => {
                mappings.iter().map(|m| m.host.to_string()).collect::<Vec<_>>().join(" ")
            }
            Outcome::Dropped(DropReason::Fault) => "(nothing)".to_owned(),
            Outcome::Dropped(reason) => reason.to_string(),
        };
        let fault = decision.fault.as_ref().map_or(String::new(), |f| format!(" [{}]", f.code));
        *counts.entry(format!("{outcome}{fault}")).or_default() += 1;
    }
    let lines = counts.iter().map(|(outcome, count)| format!("{count} {outcome}"));
    lines.collect::<Vec<_>>().join("; ")
}
