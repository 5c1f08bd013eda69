//! What is published stays while nobody can say that it is gone, and while nothing changes.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use landfall_tests::servers::consul::{READER, remote_instance};
use landfall_tests::servers::process::wait;
use landfall_tests::servers::{Cluster, Consul, Fault, Landfall, Proxy, Watch};
use serde_json::{Value, json};

use crate::{LONG, Place, world};

const SERVICES: usize = 30;
/// How long nothing may happen. A removal would show after a grace time of one second.
const WATCHED: Duration = Duration::from_secs(4);
/// Consul does not tell a waiting client that its token lost its rights; the client asks anew after
/// at most a minute.
const TOLD_MAX: Duration = Duration::from_secs(70);

/// Nothing but evidence holds a removal back: no budget, and hardly a grace time.
fn eager() -> Value {
    json!({"removalShare": "100%", "removalMin": 1_000_000, "hold": "1s", "grace": "1s"})
}

#[test]
fn a_restart_writes_nothing() {
    let mut world = world();
    let place = world.place("restart");
    let cluster = world.cluster();
    let services: Vec<Value> = (0..SERVICES).map(service).collect();
    let mut config = place.config(cluster, &place.registry(&services));
    config["guard"] = eager();
    // Both shapes of resources.
    config["resources"] = json!({"shape": "workload-entries"});
    place.installation.configure(&config);
    let objects = SERVICES * 3;
    until_written(place.installation.start(), objects).stop();

    let watches =
        [cluster.watch(&place.service_entries()), cluster.watch(&place.workload_entries())];
    let before = all_writes(cluster);
    let landfall = until_written(place.installation.start(), objects);
    nothing_happens(&place, &watches, "restart");
    place.print(format_args!(
        "restart: {} writes of {objects} objects",
        all_writes(cluster) - before
    ));
    assert_eq!(all_writes(cluster), before, "requests that write");

    // The same, in another order.
    let mut turned: Vec<Value> = services.into_iter().rev().collect();
    for service in &mut turned {
        service["instances"].as_array_mut().expect("instances").reverse();
    }
    place.registry(&turned);
    nothing_happens(&place, &watches, "another order");
    assert_eq!(all_writes(cluster), before, "requests that write");
    landfall.stop();
    place.installation.start().ready().stop();
    nothing_happens(&place, &watches, "restart with another order");
    place.print(format_args!("another order: {} writes", all_writes(cluster) - before));
    assert_eq!(all_writes(cluster), before, "requests that write");
}

#[test]
fn doubt_deletes_nothing() {
    let mut world = world();
    let place = world.place("doubt");
    let cluster = world.cluster();
    let consul = Consul::guarded(&place.folder);
    let proxy = Proxy::start(consul.port);
    let all: Vec<Value> = (0..SERVICES).map(|n| instance(n, 1)).collect();
    consul.register_remote(&all);
    let token = place.folder.join("token");
    fs::write(&token, READER).expect("a token file");
    let source = json!({"consul": {"url": proxy.url(), "tokenFile": token}});
    let mut config = place.config(cluster, &source);
    config["guard"] = eager();
    place.installation.configure(&config);
    let landfall = until_written(place.installation.start(), SERVICES);
    let watches = [cluster.watch(&place.service_entries())];
    let break_it = |fault: &Broken| match fault {
        Broken::Proxy(_, fault) => proxy.set(fault.clone()),
        Broken::Rules => {
            consul.revoke();
            // Consul tells a waiting client nothing of its rules until something changes.
            consul.register_remote(&[instance(SERVICES - 1, 9)]);
        }
    };
    let mend_it = || {
        proxy.set(Fault::None);
        consul.deregister_remote("node-1", &format!("{}-9", name(SERVICES - 1)));
        consul.grant();
    };

    // While it runs.
    for (number, fault) in faults().iter().enumerate() {
        let seen = counts(&watches);
        break_it(fault);
        is_doubted(&landfall, fault.name());
        thread::sleep(WATCHED);
        nothing_happened(&place, &watches, &seen, fault.name());
        let began = Instant::now();
        mend_it();
        let seen = watches[0].count();
        consul.register_remote(&[instance(number, 2)]);
        let host = format!("{}.dc1.mesh", name(number));
        let change = watches[0].wait(seen, LONG, |change| change.name == host);
        assert!(change.is_some(), "{}: no change comes through after it", fault.name());
        place.print(format_args!(
            "{}: 0 writes, and {:?} to recover",
            fault.name(),
            began.elapsed()
        ));
    }
    landfall.stop();

    // From the start.
    for fault in faults() {
        let seen = counts(&watches);
        break_it(&fault);
        let landfall = place.installation.start();
        is_doubted(&landfall, fault.name());
        thread::sleep(WATCHED);
        nothing_happened(&place, &watches, &seen, fault.name());
        drop(landfall);
        mend_it();
        place.print(format_args!("{} from the start: 0 writes", fault.name()));
    }
    let slow = Duration::from_secs(2);
    proxy.set(Fault::Slow(slow));
    let began = Instant::now();
    let landfall = place.installation.start().ready();
    let took = began.elapsed();
    assert!(took >= slow, "it was ready after {took:?}, before the first answer");
    nothing_happens(&place, &watches, "slow first answer");
    place.print(format_args!("first listing complete after {took:?}: 0 writes"));
    landfall.stop();
    proxy.set(Fault::None);

    // Without a token Consul says of nothing that it hides it.
    let source = json!({"consul": {"url": proxy.url()}});
    let mut config = place.config(cluster, &source);
    config["guard"] = eager();
    place.installation.configure(&config);
    let landfall = place.installation.start();
    nothing_happens(&place, &watches, "no token");
    place.print(format_args!("no token from the start: 0 writes; {}", landfall.readiness().trim()));
}

#[test]
fn a_mass_removal_is_held_until_it_is_released() {
    let mut world = world();
    let place = world.place("guard");
    let cluster = world.cluster();
    let consul = Consul::start(&place.folder);
    let all: Vec<Value> = (0..SERVICES).map(|n| instance(n, 1)).collect();
    consul.register_remote(&all);
    let url = format!("http://127.0.0.1:{}", consul.port);
    let mut config = place.config(cluster, &json!({"consul": {"url": url}}));
    // By default a fifth of all endpoints may go at once, and fewer than ten always.
    config["guard"] = json!({"grace": "1s"});
    place.installation.configure(&config);
    let landfall = until_written(place.installation.start(), SERVICES);
    consul.deregister_node("node-1");
    let told = landfall.says(LONG, |report| report.contains("endpoints would go at once"));
    assert!(told, "{}", landfall.readiness());
    thread::sleep(WATCHED);
    let left = with_endpoints(cluster, &place);
    place.print(format_args!(
        "{SERVICES} of {SERVICES} instances gone at once → {left} kept and told"
    ));
    assert!(left > SERVICES - 10, "only {left} of {SERVICES} were kept");
    let began = Instant::now();
    let reply = landfall.admin.send("POST", "/guard/release", &[], "").expect("an answer");
    assert_eq!(reply.status, 200, "{}", reply.body);
    let gone = wait(LONG, || cluster.list(&place.service_entries()).is_empty().then_some(()));
    gone.unwrap_or_else(|| panic!("still there: {}", landfall.readiness()));
    place.print(format_args!("released → all deleted after {:?}", began.elapsed()));
    landfall.stop();
}

/// How many ServiceEntries have endpoints.
fn with_endpoints(cluster: &Cluster, place: &Place) -> usize {
    let entries = cluster.list(&place.service_entries());
    entries.iter().filter(|entry| entry["spec"]["endpoints"].is_array()).count()
}

/// What goes wrong with a registry.
enum Broken {
    Proxy(&'static str, Fault),
    /// The token may read nothing any more.
    Rules,
}

impl Broken {
    fn name(&self) -> &'static str {
        match self {
            Self::Proxy(name, _) => name,
            Self::Rules => "empty because of access rules",
        }
    }
}

fn faults() -> [Broken; 3] {
    [
        Broken::Proxy("registry down", Fault::Down),
        Broken::Proxy("registry answers 500", Fault::Status(500)),
        Broken::Rules,
    ]
}

/// Waits until the sink holds so many objects.
fn until_written(landfall: Landfall, objects: usize) -> Landfall {
    let count = || landfall.metric("landfall_sink_objects", &[]);
    let written = wait(LONG, || (count() == objects as u64).then_some(()));
    written.unwrap_or_else(|| panic!("{} of {objects} objects: {}", count(), landfall.readiness()));
    landfall
}

/// Waits until Landfall says that it does not trust the registry.
fn is_doubted(landfall: &Landfall, what: &str) {
    let doubted = landfall.says(TOLD_MAX, |report| report.contains("source dc1 in doubt"));
    assert!(doubted, "{what}: {}", landfall.readiness());
}

fn nothing_happens(place: &Place, watches: &[Watch], what: &str) {
    let seen = counts(watches);
    thread::sleep(WATCHED);
    nothing_happened(place, watches, &seen, what);
}

/// How many changes each has seen.
fn counts(watches: &[Watch]) -> Vec<usize> {
    watches.iter().map(Watch::count).collect()
}

/// Nothing was written since the watches had `seen` so many changes.
fn nothing_happened(place: &Place, watches: &[Watch], seen: &[usize], what: &str) {
    for (watch, seen) in watches.iter().zip(seen) {
        let changes = watch.changes().split_off(*seen);
        let told: Vec<_> = changes.iter().map(|c| (&c.verb, &c.name)).take(5).collect();
        assert!(
            changes.is_empty(),
            "{} {what}: {} writes, such as {told:?}",
            place.name,
            changes.len()
        );
    }
}

fn all_writes(cluster: &Cluster) -> u64 {
    cluster.writes("serviceentries") + cluster.writes("workloadentries")
}

fn name(number: usize) -> String {
    format!("service-{number:02}")
}

fn instance(number: usize, index: usize) -> Value {
    let name = name(number);
    let address = format!("10.0.{index}.{}", number + 1);
    remote_instance("node-1", &format!("{name}-{index}"), &name, &address, 8080)
}

/// A service of two instances in a registry file.
fn service(number: usize) -> Value {
    let instance = |index: usize| json!({"id": format!("i{index}"), "address": format!("10.1.{index}.{}", number + 1), "port": 80});
    json!({"name": name(number), "instances": [instance(1), instance(2)]})
}
