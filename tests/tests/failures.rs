//! What goes wrong between a registry and a sink, one table for every registry that is asked over
//! the network: the program as it is, a fake in front of it, and a folder behind it that is looked
//! at fifty times a second. Nothing that must stay is ever gone, and in the end nothing is left that
//! should be.
//!
//! Nothing but evidence holds a removal back here, unless a case says so. With the feature `e2e` a
//! minute is a minute.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failure ends the test")]
#![allow(clippy::disallowed_methods, reason = "what a daemon does is waited for")]
#![allow(clippy::print_stdout, reason = "what was counted is for who reads the log")]

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

use landfall_core::registry::Health;
use landfall_tests::conformance::{Break, Facts, ServiceBreak, facts};
use landfall_tests::registries::{CloudMapRegistry, ConsulRegistry, EurekaRegistry, Fake};
use landfall_tests::scene::{Held, Scene, eager, until};
use serde_json::{Value, json};

const LANDFALL: &str = env!("CARGO_BIN_EXE_landfall-under-test");
const MINUTE: Duration = Duration::from_secs(if cfg!(feature = "e2e") { 60 } else { 6 });
/// How long a mass removal waits. Cloud Map's health is read every five seconds.
const HOLD: Duration = Duration::from_secs(12);
/// As long as what goes wrong lasts otherwise. A removal would show after a grace time of a second.
const WRONG: Duration = Duration::from_secs(4);
/// A grace time and a round.
const PEACE: Duration = Duration::from_millis(1500);

/// What goes wrong, the guard that is there, and what then happens.
type Row = (&'static str, fn() -> Value, fn(&mut Case));

const TABLE: &[Row] = &[
    ("one service deregistered", eager, one_service_deregistered),
    ("200 with an empty list", eager, an_empty_list),
    ("unreachable for a minute", eager, unreachable_for_a_minute),
    ("500 for one service", eager, an_error_for_one_service),
    ("first answer after 5 s", eager, a_late_first_answer),
    ("all instances of one service unhealthy", eager, one_service_unhealthy),
    ("all instances unhealthy", careful, everything_unhealthy),
    ("two instances on different ports", eager, different_ports),
    ("odd names", eager, odd_names),
    ("an address that is a name", eager, an_address_that_is_a_name),
    ("restart", eager, restarts),
    ("one instance flapping for a minute", eager, flapping),
    ("another order", eager, another_order),
];

#[test]
fn consul() {
    run("consul", || Box::new(ConsulRegistry::new(64)));
}

#[test]
fn eureka() {
    run("eureka", || Box::new(EurekaRegistry::start()));
}

#[test]
fn cloud_map() {
    run("cloud map", || Box::new(CloudMapRegistry::new(100)));
}

/// What this table counts it sees.
#[test]
fn what_is_gone_though_it_had_to_stay_is_seen() {
    let mut case = Case::new(Box::new(ConsulRegistry::new(64)), &eager());
    case.registry.remove("c", "c-4");
    case.until_seen(&facts(4), false);
    case.put("c", "c-4", facts(4));
    case.until_held();
    assert_eq!(case.scene.lost(), BTreeSet::from([endpoint(&facts(4))]));
}

/// A guard that holds every removal for its time.
fn careful() -> Value {
    let hold = format!("{}s", HOLD.as_secs());
    json!({"removalShare": "1%", "removalMin": 0, "hold": hold, "grace": "1s"})
}

/// All cases at once, for each mostly waits.
fn run(source: &str, registry: fn() -> Box<dyn Fake>) {
    let failed: Vec<&str> = thread::scope(|scope| {
        let spawn = |(what, guard, case): &Row| {
            let (what, guard, case) = (*what, *guard, *case);
            let told = move || tell(source, what, registry(), &guard(), case);
            (what, scope.spawn(move || catch_unwind(AssertUnwindSafe(told))))
        };
        let cases: Vec<_> = TABLE.iter().map(spawn).collect();
        let ended = cases.into_iter().map(|(what, case)| (what, case.join().unwrap()));
        ended.filter(|(_, ended)| ended.is_err()).map(|(what, _)| what).collect()
    });
    assert!(failed.is_empty(), "{source}: {failed:?}");
}

fn tell(source: &str, what: &str, registry: Box<dyn Fake>, guard: &Value, case: fn(&mut Case)) {
    let began = Instant::now();
    let mut world = Case::new(registry, guard);
    case(&mut world);
    world.until_held();
    // And it stays so.
    thread::sleep(PEACE);
    assert_eq!(world.wrong(), None, "{source}, {what}");
    let lost = world.scene.lost();
    println!(
        "{source}, {what}: {} lost, 0 stale of {} endpoints; {} requests, {} deleted, {:.1?}",
        lost.len(),
        world.endpoints().len(),
        world.registry.asked(),
        world.scene.steps("delete"),
        began.elapsed()
    );
    assert!(lost.is_empty(), "{source}, {what}: gone though they had to stay: {lost:?}");
}

// === One case ===

struct Case {
    registry: Box<dyn Fake>,
    /// Instances by service and identifier.
    listed: BTreeMap<String, BTreeMap<String, Facts>>,
    scene: Scene,
}

impl Case {
    /// Four services of eight instances, all of which are published.
    fn new(registry: Box<dyn Fake>, guard: &Value) -> Self {
        let scene = Scene::new(LANDFALL, &registry.configured(), guard);
        let mut case = Self { registry, listed: BTreeMap::new(), scene };
        let services = ["a", "a", "b.x", "c", "d", "d", "d", "d"];
        for (n, service) in (1..).zip(services) {
            case.put(service, &format!("{service}-{n}"), facts(n));
        }
        case.scene.start();
        case.until_held();
        case
    }

    fn put(&mut self, service: &str, id: &str, facts: Facts) {
        if facts.health == Health::Critical {
            self.scene.let_go(&endpoint(&facts));
        }
        self.registry.put(service, id, &facts);
        self.listed.entry(service.to_owned()).or_default().insert(id.to_owned(), facts);
    }

    fn remove(&mut self, service: &str, id: &str) {
        self.forget(service, id);
        self.registry.remove(service, id);
    }

    /// What is there may go.
    fn forget(&mut self, service: &str, id: &str) {
        let instances = self.listed.get_mut(service).unwrap();
        self.scene.let_go(&endpoint(&instances.remove(id).unwrap()));
        if instances.is_empty() {
            self.listed.remove(service);
        }
    }

    fn set_health(&mut self, service: &str, health: Health) {
        for (id, facts) in self.listed[service].clone() {
            self.put(service, &id, Facts { health, ..facts });
        }
    }

    /// The endpoints that should be published, by service.
    fn wanted(&self) -> BTreeSet<BTreeSet<String>> {
        let healthy = self.listed.values().map(|instances| {
            let healthy = instances.values().filter(|facts| facts.health != Health::Critical);
            healthy.map(endpoint).collect()
        });
        healthy.filter(|endpoints: &BTreeSet<String>| !endpoints.is_empty()).collect()
    }

    fn endpoints(&self) -> BTreeSet<String> {
        self.wanted().into_iter().flatten().collect()
    }

    /// What the folder holds, where that is not what it should hold.
    fn wrong(&self) -> Option<Held> {
        let held = self.scene.held();
        let filled: BTreeSet<BTreeSet<String>> =
            held.values().filter(|endpoints| !endpoints.is_empty()).cloned().collect();
        let is_right = filled == self.wanted() && held.len() == filled.len();
        (!is_right).then_some(held)
    }

    /// Waits until the folder holds what it should, each service at a host of its own; from then on
    /// nothing of that may go.
    fn until_held(&mut self) {
        until(
            || self.wrong().is_none(),
            || {
                let (wanted, held) = (self.wanted(), self.scene.held());
                format!("wanted {wanted:#?}, held {held:#?}\n{}", self.scene.log())
            },
        );
        self.scene.protect(self.endpoints());
    }

    /// Waits until this endpoint is there, or is not.
    fn until_seen(&self, facts: &Facts, is_there: bool) {
        let wanted = endpoint(facts);
        let is_so = || self.scene.held().values().any(|held| held.contains(&wanted)) == is_there;
        until(is_so, || format!("{wanted} is there: {}\n{}", !is_there, self.scene.log()));
    }

    /// The host of a service that has this endpoint.
    fn host(&self, facts: &Facts) -> String {
        let held = self.scene.held();
        let mut hosts = held.iter().filter(|(_, held)| held.contains(&endpoint(facts)));
        hosts.next().map(|(host, _)| host.clone()).unwrap()
    }

    fn restart(&mut self) {
        let before = self.scene.stamps();
        self.scene.stop();
        self.scene.start();
        self.scene.until_said("200 OK");
        thread::sleep(PEACE);
        assert_eq!(self.scene.stamps(), before, "a restart wrote");
    }
}

fn endpoint(facts: &Facts) -> String {
    format!("{}:{}", facts.address, facts.port)
}

fn at(n: u8, address: &str, port: u16) -> Facts {
    Facts { address: address.to_owned(), port, ..facts(n) }
}

// === The cases ===

fn one_service_deregistered(case: &mut Case) {
    case.remove("c", "c-4");
    case.until_held();
    for n in 5..9 {
        case.remove("d", &format!("d-{n}"));
    }
    case.until_held();
    // A step is counted a moment after the file is gone.
    until(|| case.scene.steps("delete") == 2, || case.scene.ask("/metrics"));
}

/// Goes wrong as a whole; meanwhile something comes and something goes, which is seen afterwards.
fn broken_for(case: &mut Case, how: Break, time: Duration) {
    assert!(case.registry.break_down(how));
    case.put("e", "e-9", facts(9));
    case.scene.until_said("source dc1 in doubt");
    case.registry.remove("c", "c-4");
    let before = case.scene.stamps();
    thread::sleep(time);
    assert_eq!(case.scene.stamps(), before, "written in doubt");
    case.registry.mend();
    case.forget("c", "c-4");
}

fn an_empty_list(case: &mut Case) {
    broken_for(case, Break::Unsaid, WRONG);
}

fn unreachable_for_a_minute(case: &mut Case) {
    broken_for(case, Break::Unreachable, MINUTE);
}

/// Where services are read one by one the others go on.
fn an_error_for_one_service(case: &mut Case) {
    if !case.registry.break_service("b.x", ServiceBreak::Errors) {
        return broken_for(case, Break::Errors, WRONG);
    }
    case.registry.remove("b.x", "b.x-3");
    case.put("a", "a-10", facts(10));
    case.remove("c", "c-4");
    case.until_seen(&facts(10), true);
    case.scene.until_said("source dc1 in doubt");
    thread::sleep(WRONG);
    case.registry.mend();
    case.forget("b.x", "b.x-3");
}

fn a_late_first_answer(case: &mut Case) {
    const LATE: Duration = Duration::from_secs(5);
    case.scene.stop();
    case.registry.remove("c", "c-4");
    case.registry.set_late(Some(LATE));
    let (before, began) = (case.registry.asked(), Instant::now());
    case.scene.start();
    until(|| case.registry.asked() > before, || "nothing is asked".to_owned());
    case.registry.set_late(None);
    let held = case.scene.stamps();
    thread::sleep(LATE.saturating_sub(began.elapsed()));
    assert_eq!(case.scene.stamps(), held, "written before the first answer");
    case.forget("c", "c-4");
    case.scene.until_said("200 OK");
    assert!(began.elapsed() >= LATE, "ready before the first answer");
}

fn one_service_unhealthy(case: &mut Case) {
    case.set_health("d", Health::Critical);
    case.until_held();
    case.set_health("d", Health::Passing);
    case.until_held();
}

/// That is a mass removal: it waits for its time, and goes when it lasts.
fn everything_unhealthy(case: &mut Case) {
    let all: Vec<String> = case.listed.keys().cloned().collect();
    let (began, stay) = (Instant::now(), case.endpoints());
    for service in &all {
        case.set_health(service, Health::Critical);
    }
    case.scene.protect(stay);
    case.scene.until_said("endpoints would go at once");
    assert!(began.elapsed() < HOLD);
    // Those that recover in time are never gone.
    case.set_health("a", Health::Passing);
    let a: BTreeSet<String> = case.endpoints();
    thread::sleep(HOLD.saturating_sub(began.elapsed() + Duration::from_secs(1)));
    assert!(case.scene.lost().is_empty(), "{:?}", case.scene.lost());
    case.scene.protect(a);
    case.until_held();
    for service in &all {
        case.set_health(service, Health::Passing);
    }
}

fn different_ports(case: &mut Case) {
    case.put("p", "p-1", at(11, "10.0.1.1", 8080));
    case.put("p", "p-2", at(12, "10.0.1.2", 9090));
    case.put("q", "q-1", at(13, "10.0.1.3", 8080));
    case.put("q", "q-2", at(14, "10.0.1.3", 9090));
    case.until_held();
    case.remove("p", "p-1");
    case.remove("q", "q-2");
}

fn odd_names(case: &mut Case) {
    let long = "x".repeat(300);
    let names = ["Shop_Cart", "shop/cart", "shop-cart", "ünïcode shop", &long];
    for (n, name) in (20..).zip(names) {
        case.put(name, &format!("odd-{n}"), facts(n));
    }
    case.until_held();
    let hosts: BTreeSet<String> = (20..25).map(|n| case.host(&facts(n))).collect();
    assert_eq!(hosts.len(), names.len(), "{hosts:?}");
    for label in hosts.iter().flat_map(|host| host.split('.')) {
        let is_legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(label.len() <= 63 && label.chars().all(is_legal), "{hosts:?}");
    }
    case.restart();
    for (n, name) in (20..).zip(names) {
        case.remove(name, &format!("odd-{n}"));
    }
}

fn an_address_that_is_a_name(case: &mut Case) {
    let name = at(15, "db.example.com", 5432);
    case.put("db", "db-1", name.clone());
    case.until_held();
    let file = case.scene.out().join(format!("serviceentry-{}.yaml", case.host(&name)));
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains("resolution: DNS\n"), "{text}");
    case.restart();
    case.remove("db", "db-1");
}

/// Of the program, of the registry, and of both; asked or killed.
fn restarts(case: &mut Case) {
    case.restart();
    let before = case.scene.stamps();
    assert!(case.registry.restart());
    thread::sleep(WRONG);
    assert_eq!(case.scene.stamps(), before, "a restart of the registry wrote");
    case.put("e", "e-9", facts(9));
    case.until_held();
    // What a Consul lacks that lost its past is waited for longer than this lasts; a program that
    // starts knows of no such past.
    case.remove("b.x", "b.x-3");
    case.scene.kill();
    assert!(case.registry.restart());
    case.remove("c", "c-4");
    case.scene.start();
}

fn flapping(case: &mut Case) {
    let began = Instant::now();
    let mut times = 0;
    while began.elapsed() < MINUTE {
        case.remove("a", "a-2");
        thread::sleep(Duration::from_millis(50));
        case.put("a", "a-2", facts(2));
        thread::sleep(Duration::from_millis(50));
        times += 1;
    }
    let writes: u64 = ["create", "update", "empty"].iter().map(|verb| case.scene.steps(verb)).sum();
    println!("flapped {times} times: {writes} writes");
    assert!(writes <= 4 + 2 * times, "{writes}");
}

fn another_order(case: &mut Case) {
    let before = case.scene.stamps();
    assert!(case.registry.reorder());
    thread::sleep(WRONG);
    assert_eq!(case.scene.stamps(), before, "another order wrote");
    case.restart();
    // What is new is written, and what only moved is not.
    case.put("e", "e-9", facts(9));
    case.until_held();
    let mut after = case.scene.stamps();
    after.retain(|path, _| before.contains_key(path));
    assert_eq!(after, before);
}
