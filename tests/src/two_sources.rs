//! Two sources that share hosts, through the whole line into a sink in memory.

#![allow(clippy::unwrap_used, reason = "part of tests: a failure is theirs")]
#![allow(clippy::missing_panics_doc, reason = "it panics where a test is written wrongly")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use landfall_core::defaults::Defaults;
use landfall_core::mesh::{Kind, Object, ObjectId};
use landfall_core::pairs::Pairs;
use landfall_core::pattern::Selector;
use landfall_core::plan::{Mode, Observed, Step};
use landfall_core::registry::{
    Doubt, Instance, InstancePort, Service, ServiceKey, Snapshot, SourceName, SourceState,
};
use landfall_core::sharing::{Sharing, SharingMode, SharingRule};
use landfall_core::template::Template;
use landfall_core::text::Text;
use landfall_core::time::Time;
use landfall_mesh::api::{
    Body, EndpointAddress, Endpoints, Resolution, ServiceEntry, Spec, WorkloadEntry,
};
use landfall_mesh::render::{RenderOptions, Shape};
use landfall_mesh::sink::Stuck;
use landfall_policy_host::{
    Candidate, EngineSettings, Limits, Link, PolicyEngine, Revision, Rules,
};
use landfall_runtime::line::LineOptions;
use landfall_runtime::line::sink::SinkLine;

use crate::hostile::hostile;
use crate::line::{DEFAULT, GRACE, World};
use crate::world;

/// Both shapes by name.
pub const SHAPES: [Shape; 2] = [Shape::Inline, Shape::WorkloadEntries];

/// What each of the two sources offers; `None` before it has listed anything.
pub type Offers = [Option<SourceState>; 2];

/// Where a client ends that dials the ports of a service, by the address of the endpoint that it is
/// led to.
pub type Reached = BTreeMap<String, BTreeMap<u32, u32>>;

/// Their names; the first one goes first.
#[must_use]
pub fn sources() -> [SourceName; 2] {
    ["new", "old"].map(|name| SourceName::parse(name).unwrap())
}

/// A listing as `service=1,2@http:9090+admin:9100 other=n3,4.b,5>6`: each number makes an address, one
/// behind an `n` a name; what follows a dot tells those at one address apart, and a number behind `>`
/// is where the instance is by now. `http:8080` where no port is named.
#[must_use]
pub fn listing(text: &str) -> SourceState {
    let mut snapshot = Snapshot::default();
    for service in text.split_whitespace() {
        let (name, list) = service.split_once('=').unwrap();
        let instances = list.split(',').map(|text| Arc::new(instance(text))).collect();
        let key = ServiceKey { name: Text::from(name), ..ServiceKey::default() };
        let (service, _) = Service::new(key.clone(), Pairs::default(), Pairs::default(), instances);
        snapshot.services.insert(key, Arc::new(service));
    }
    world::state(snapshot)
}

fn instance(text: &str) -> Instance {
    let (name, ports) = text.split_once('@').unwrap_or((text, "http:8080"));
    let address = match name.strip_prefix('n') {
        Some(_) => format!("{name}.example.com"),
        None => {
            let place = name.split('>').next_back().unwrap();
            let number = place.split('.').next().unwrap();
            let number: u16 = number.parse().unwrap();
            format!("10.0.{}.{}", number / 256, number % 256)
        }
    };
    let port = |text: &str| {
        let (name, number) = text.split_once(':').unwrap();
        let (name, number) = (Text::from(name), number.parse().unwrap());
        InstancePort { name, number, protocol: Text::from("http") }
    };
    Instance {
        ports: ports.split('+').map(port).collect(),
        ..Instance::new(name.split('>').next().unwrap(), address)
    }
}

/// The same listing of a source that is in doubt of it.
#[must_use]
pub fn in_doubt(state: SourceState) -> SourceState {
    let since = Time::from_millis(1_000_000);
    let doubt = Doubt { code: "unreachable", message: String::new(), since };
    SourceState { doubt: Some(doubt), ..state }
}

/// Options by which the sources share every host in this way.
#[must_use]
pub fn options(mode: SharingMode, shape: Shape) -> LineOptions {
    let precedence = sources().to_vec();
    let rule = SharingRule { mode, precedence, ..SharingRule::default() };
    let sharing = Sharing { otherwise: Arc::new(rule), ..Sharing::default() };
    let render = RenderOptions { shape, ..RenderOptions::default() };
    LineOptions { render, sharing: Arc::new(sharing), grace: GRACE }
}

/// A daemon of which the sources share every host in this way, at a sink that holds this.
#[must_use]
pub fn daemon(mode: SharingMode, shape: Shape, held: Observed<Body>) -> World {
    daemon_with(Vec::new(), mode, shape, held)
}

/// The same with policies.
#[must_use]
pub fn daemon_with(
    links: Vec<Link>,
    mode: SharingMode,
    shape: Shape,
    held: Observed<Body>,
) -> World {
    let defaults =
        Defaults { host: Template::parse("{service}.mesh").unwrap(), ..world::defaults() };
    World::of(&sources(), Rules::new(defaults, links), options(mode, shape), held, DEFAULT)
}

/// A union that has settled with what both list.
#[must_use]
pub fn settled(shape: Shape, new: &str, old: &str) -> World {
    let mut world = daemon(SharingMode::Union, shape, Observed::default());
    settle(&mut world, &[Some(listing(new)), Some(listing(old))]);
    world
}

/// A union that begins with what another one left.
#[must_use]
pub fn restarted(world: World, shape: Shape) -> World {
    daemon(SharingMode::Union, shape, world.held)
}

/// The same with hosts as `template` makes them, and policies.
#[must_use]
pub fn restarted_at(world: World, template: &str, links: Vec<Link>, shape: Shape) -> World {
    let options = options(SharingMode::Union, shape);
    let begun = World::of(&sources(), rules_at(template, links), options, world.held, DEFAULT);
    World { now: world.now, ..begun }
}

/// Rules by which hosts are as `template` makes them.
#[must_use]
pub fn rules_at(template: &str, links: Vec<Link>) -> Arc<Rules> {
    let host = Template::parse(template).unwrap();
    Rules::new(Defaults { host, ..world::defaults() }, links)
}

/// A policy that is one of the hostile guests.
#[must_use]
pub fn link(guest: &str) -> Link {
    let engine = PolicyEngine::start(EngineSettings::default()).unwrap();
    let candidate = Candidate {
        name: Text::from(guest),
        bytes: &hostile(guest),
        settings_json: "{}",
        limits: Limits { time_max: Duration::from_millis(500), ..Limits::default() },
    };
    Link { revision: Revision::admit(&engine, candidate).unwrap(), selector: Selector::default() }
}

/// A policy that gives all objects one name.
#[must_use]
pub fn named() -> Vec<Link> {
    vec![link("service-illegal")]
}

/// What the first one lists, and the other one nothing.
#[must_use]
pub fn first(text: &str) -> Offers {
    [Some(listing(text)), Some(listing(""))]
}

/// A listing of `service` with these numbers.
#[must_use]
pub fn numbers(service: &str, numbers: impl IntoIterator<Item = usize>) -> String {
    let numbers: Vec<String> = numbers.into_iter().map(|number| number.to_string()).collect();
    format!("{service}={}", numbers.join(","))
}

/// Some time goes by.
pub fn wait(world: &mut World, secs: u64) {
    world.now = world.now.plus(Duration::from_secs(secs));
}

/// From now on at most so many steps are under way at once.
pub fn limit_steps(world: &mut World, steps_max: usize) {
    world.sink = SinkLine::new(Mode::Sync, Vec::new(), steps_max);
}

/// The steps that follow from what is offered; each is still to be applied, or failed.
pub fn due(world: &mut World, offers: &Offers) -> Vec<Step<Body>> {
    let offered = sources().into_iter().zip(offers);
    let states: BTreeMap<SourceName, SourceState> =
        offered.filter_map(|(source, state)| Some((source, state.clone()?))).collect();
    let round = world.line.round(&states, world.now);
    world.due(&round)
}

/// The same, and they are applied.
pub fn round(world: &mut World, offers: &Offers) -> Vec<Step<Body>> {
    let steps = due(world, offers);
    for step in &steps {
        world.apply(step);
    }
    world.sink.observe(&world.held, world.line.desired(), world.now);
    steps
}

/// The same, and the sink refuses some steps, and with them those that must follow them.
pub fn refusing(world: &mut World, offers: &Offers, refused: impl Fn(&Step<Body>) -> bool) {
    let mut stuck = Stuck::default();
    for step in due(world, offers) {
        let waits = stuck.obstacle(&step).is_some();
        if !waits && !refused(&step) {
            world.apply(&step);
            continue;
        }
        stuck.note_failed(&step);
        match waits {
            true => world.sink.waited(step.id()),
            false => _ = world.sink.failed(step.id(), "refused", world.now),
        }
    }
    world.sink.observe(&world.held, world.line.desired(), world.now);
}

/// For which reasons steps are held, each once.
#[must_use]
pub fn held_for(world: &World) -> BTreeSet<&'static str> {
    world.sink.held().iter().map(|held| held.why.as_str()).collect()
}

/// Whether a step makes an object.
#[must_use]
pub fn is_create(step: &Step<Body>) -> bool {
    matches!(step, Step::Create(_))
}

/// Rounds until nothing is due, through all grace times.
pub fn settle(world: &mut World, offers: &Offers) {
    for _ in 0..4 {
        round(world, offers);
        world.now = world.now.plus(GRACE);
    }
    assert!(round(world, offers).is_empty(), "planning again gives no step");
    assert_eq!(world.held.ours, *world.line.desired());
}

/// What clients reach at a host.
#[must_use]
pub fn at(world: &World, host: &str) -> Reached {
    reached(world).remove(host).unwrap_or_default()
}

/// What clients reach by what the sink holds, by host.
#[must_use]
pub fn reached(world: &World) -> BTreeMap<String, Reached> {
    let objects = || world.held.ours.values();
    let mut hosts: BTreeMap<String, Reached> = BTreeMap::new();
    for entry in objects().filter_map(|object| object.body.service_entry()) {
        let host = entry.hosts[0].strip_suffix(".mesh").unwrap().to_owned();
        let endpoints: Vec<&WorkloadEntry> = match &entry.endpoints {
            Endpoints::Inline(list) => list.iter().collect(),
            Endpoints::Selected(labels) => objects()
                .filter(|object| labels.iter().all(|(k, v)| object.body.labels.get(k) == Some(v)))
                .filter_map(|object| match &object.body.spec {
                    Spec::WorkloadEntry(endpoint) => Some(endpoint),
                    Spec::ServiceEntry(_) => None,
                })
                .collect(),
        };
        let is_resolved = |endpoint: &&WorkloadEntry| {
            entry.resolution == Resolution::Dns
                || matches!(endpoint.address, EndpointAddress::Ip(_))
        };
        let reached = hosts.entry(host).or_default();
        for endpoint in endpoints.into_iter().filter(is_resolved) {
            reached.insert(endpoint.address.to_string(), dialed(entry, endpoint));
        }
    }
    hosts
}

/// What clients reach at any host.
#[must_use]
pub fn everywhere(world: &World) -> BTreeSet<String> {
    reached(world).into_values().flat_map(BTreeMap::into_keys).collect()
}

/// The WorkloadEntries that the sink holds.
#[must_use]
pub fn workload_ids(world: &World) -> Vec<ObjectId> {
    world.held.ours.keys().filter(|id| id.kind == Kind::WorkloadEntry).cloned().collect()
}

/// Each ServiceEntry gets the name of the next one.
pub fn exchange_names(world: &mut World) {
    let entries = world.held.ours.iter().filter(|(id, _)| id.kind == Kind::ServiceEntry);
    let entries: Vec<_> = entries.map(|(id, object)| (id.clone(), Arc::clone(object))).collect();
    for (at, (_, object)) in entries.iter().enumerate() {
        let (id, _) = &entries[(at + 1) % entries.len()];
        let object = Object { id: id.clone(), ..Object::clone(object) };
        world.held.ours.insert(id.clone(), Arc::new(object));
    }
}

fn dialed(entry: &ServiceEntry, endpoint: &WorkloadEntry) -> BTreeMap<u32, u32> {
    let target = |name: &Text, number: u32| {
        let said = endpoint.ports.iter().find(|(known, _)| known == name);
        said.map_or(number, |(_, at)| *at)
    };
    entry.ports.iter().map(|port| (port.number, target(&port.name, port.number))).collect()
}
