//! What a registry and a change in it cost: requests while nothing happens, and requests and time
//! from one change among many services to the file that says so. The fakes count.
//!
//! Registries that are polled are not late by their poll: time counts from the question that brings
//! the change.

#![allow(clippy::unwrap_used, reason = "a failure ends the test")]
#![allow(clippy::disallowed_methods, reason = "what is promised of time is measured")]
#![allow(clippy::print_stdout, reason = "the figures are for people")]

use std::fs;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use landfall_core::registry::Health;
use landfall_tests::conformance::Facts;
use landfall_tests::fake_server::FakeRegistry as _;
use landfall_tests::registries::{CloudMapRegistry, ConsulRegistry, EurekaRegistry, Fake};
use landfall_tests::scene::{Scene, eager, until};

const LANDFALL: &str = env!("CARGO_BIN_EXE_landfall-under-test");
const CONNECTIONS: usize = 64;
/// What is promised.
const REQUESTS_MAX: usize = 3;
const AMONG_1_000: Size = Size {
    services: 1_000,
    samples: if cfg!(feature = "e2e") { 20 } else { 3 },
    written_max: Duration::from_millis(100),
};
const AMONG_10_000: Size =
    Size { services: 10_000, samples: 5, written_max: Duration::from_millis(1_500) };
/// What a change costs comes within this time; what comes later is the background's.
const AFTERMATH: Duration = Duration::from_millis(300);
/// A debug build writes ten thousand files meanwhile.
const COLD_MAX: Duration = Duration::from_secs(300);
/// How long nothing happens.
const IDLE: Duration = Duration::from_secs(3);

#[derive(Clone, Copy)]
struct Size {
    services: usize,
    samples: usize,
    /// Of the median.
    written_max: Duration,
}

/// A fake that says what a change has cost it.
trait Counted: Fake {
    /// All of this registered long ago.
    fn grow_old(&self) {}
    /// What was asked so far, a line each.
    fn lines(&self) -> Vec<String>;
    /// Whether this was asked because `service` changed.
    fn is_for(&self, line: &str, service: &str) -> bool;
    /// When the question came that brought the change of `service`, which was at `changed`.
    fn brought(&self, service: &str, changed: Instant) -> Instant;
    /// Whether this is asked while nothing happens.
    fn is_idle(&self, line: &str) -> bool;
    /// What it promises of a time without changes in which this was asked.
    fn check_idle(&self, asked: &[String], time: Duration, services: usize);
}

#[test]
fn one_change_among_a_thousand_services() {
    measure("consul", ConsulRegistry::new(CONNECTIONS), AMONG_1_000);
    measure("eureka", EurekaRegistry::start(), AMONG_1_000);
    measure("cloud map", CloudMapRegistry::new(100), AMONG_1_000);
}

#[test]
#[cfg_attr(not(feature = "e2e"), ignore = "takes minutes; make e2e runs it")]
fn one_change_among_ten_thousand_services_of_consul() {
    measure("consul", ConsulRegistry::new(CONNECTIONS), AMONG_10_000);
}

#[test]
#[cfg_attr(not(feature = "e2e"), ignore = "takes minutes; make e2e runs it")]
fn one_change_among_ten_thousand_services_of_eureka() {
    measure("eureka", EurekaRegistry::start(), AMONG_10_000);
}

#[test]
#[cfg_attr(not(feature = "e2e"), ignore = "takes minutes; make e2e runs it")]
fn one_change_among_ten_thousand_services_of_cloud_map() {
    measure("cloud map", CloudMapRegistry::new(100), AMONG_10_000);
}

/// One at a time, for what is measured is time.
fn measure(source: &str, mut registry: impl Counted, size: Size) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Size { services, samples, written_max } = size;
    for number in 0..services {
        (1..3).for_each(|n| put(&mut registry, number, n));
    }
    registry.grow_old();
    let mut config = registry.configured();
    if let Some(cloud_map) = config.get_mut("cloudMap") {
        // As by default.
        cloud_map["healthPoll"] = "60s".into();
        cloud_map["servicePoll"] = "30s".into();
    }
    let mut scene = Scene::new(LANDFALL, &config, &eager());
    let began = Instant::now();
    scene.start();
    while scene.resources() < services {
        assert!(began.elapsed() < COLD_MAX, "{} of {services} written", scene.resources());
        thread::sleep(Duration::from_millis(10));
    }
    println!(
        "{source}, {services} services: written from cold in {:.1?} with {} requests",
        began.elapsed(),
        registry.asked()
    );
    until_quiet(&registry);
    let (before, began) = (registry.lines().len(), Instant::now());
    thread::sleep(IDLE);
    let (asked, time) = (registry.lines().split_off(before), began.elapsed());
    println!(
        "{source}, {services} services: {} requests in {time:.1?} without a change",
        asked.len()
    );
    registry.check_idle(&asked, time, services);

    let mut times = Vec::new();
    let mut requests_max = 0;
    for sample in 0..samples {
        let number = sample * 37 % services;
        let name = service(number);
        let file = scene.out().join(format!("serviceentry-{name}.mesh.yaml"));
        let (before, changed) = (registry.lines().len(), Instant::now());
        put(&mut registry, number, 3);
        let address = address(number, 3);
        let is_written = || fs::read_to_string(&file).is_ok_and(|text| text.contains(&address));
        while !is_written() {
            assert!(changed.elapsed() < Duration::from_secs(60), "{name} is not written");
            thread::sleep(Duration::from_millis(1));
        }
        let written = Instant::now();
        times.push(written - registry.brought(&name, changed));
        thread::sleep(AFTERMATH);
        let asked = registry.lines().split_off(before);
        let own = asked.iter().filter(|line| registry.is_for(line, &name)).count();
        requests_max = requests_max.max(own);
        assert!(own <= REQUESTS_MAX, "{own} requests for one change: {asked:#?}");
    }
    times.sort();
    let median = times[times.len() / 2];
    println!(
        "{source}, one change among {services} services: written after {median:.1?} (median of \
         {samples}, {:.1?} to {:.1?}), at most {requests_max} requests",
        times[0],
        times[times.len() - 1]
    );
    // Elsewhere other tests may take the time.
    if cfg!(feature = "e2e") {
        assert!(median <= written_max, "{source}: {times:?}");
    }
}

/// Waits until what is asked after the start was asked.
fn until_quiet(registry: &impl Counted) {
    let mut before = 0;
    let is_quiet = || {
        let asked = registry.lines();
        let is_quiet = before > 0 && asked[before..].iter().all(|line| registry.is_idle(line));
        before = asked.len();
        thread::sleep(Duration::from_secs(1));
        is_quiet
    };
    until(is_quiet, || "it asks without end".to_owned());
}

fn service(number: usize) -> String {
    format!("s{number:05}")
}

fn address(number: usize, n: usize) -> String {
    format!("10.{}.{}.{n}", number / 250, number % 250)
}

fn put(registry: &mut impl Counted, number: usize, n: usize) {
    let name = service(number);
    let facts = Facts {
        address: address(number, n),
        port: 8080,
        health: Health::Passing,
        version: "v1".to_owned(),
    };
    registry.put(&name, &format!("{name}-{n}"), &facts);
}

impl Counted for ConsulRegistry {
    fn lines(&self) -> Vec<String> {
        self.consul.requests()
    }

    fn is_for(&self, line: &str, service: &str) -> bool {
        match line.strip_prefix("/v1/health/service/") {
            Some(rest) => rest.split('?').next() == Some(service),
            // A slow sweep over all services follows, which waits for nothing.
            None => line.contains("index="),
        }
    }

    fn brought(&self, _service: &str, changed: Instant) -> Instant {
        changed
    }

    fn is_idle(&self, line: &str) -> bool {
        line.contains("index=")
    }

    fn check_idle(&self, asked: &[String], _time: Duration, _services: usize) {
        let open = self.consul.waiting_max();
        println!("consul: at most {open} queries open at once");
        assert!(open <= CONNECTIONS, "{open}");
        assert!(asked.iter().all(|line| self.is_idle(line)), "{asked:#?}");
    }
}

impl Counted for EurekaRegistry {
    fn grow_old(&self) {
        // A server tells of changes for some minutes.
        self.eureka.lose_changes();
    }

    fn lines(&self) -> Vec<String> {
        self.eureka.requests()
    }

    fn is_for(&self, line: &str, _service: &str) -> bool {
        // A poll more or less may fall into the time that is looked at.
        line == "/eureka/apps" || line == "/eureka/apps/delta"
    }

    fn brought(&self, _service: &str, changed: Instant) -> Instant {
        self.eureka.last_asked().map_or(changed, Instant::from)
    }

    fn is_idle(&self, line: &str) -> bool {
        line == "/eureka/apps/delta"
    }

    fn check_idle(&self, asked: &[String], time: Duration, _services: usize) {
        // A pause is up to a tenth shorter than the poll of a second.
        let most = (time.as_secs_f64() / 0.9).ceil() as usize;
        assert!((1..=most).contains(&asked.len()), "{asked:?}");
        assert!(asked.iter().all(|line| self.is_idle(line)), "{asked:?}");
    }
}

impl Counted for CloudMapRegistry {
    fn lines(&self) -> Vec<String> {
        self.map.requests()
    }

    fn is_for(&self, line: &str, service: &str) -> bool {
        line.split_once('/').is_some_and(|(_, about)| about == service)
    }

    fn brought(&self, service: &str, changed: Instant) -> Instant {
        let about = format!("prod/{service}");
        let asked = self.map.asked_about("DiscoverInstancesRevision", &about);
        asked.map_or(changed, Instant::from).max(changed)
    }

    fn is_idle(&self, line: &str) -> bool {
        !line.starts_with("GetInstances")
    }

    fn check_idle(&self, asked: &[String], time: Duration, services: usize) {
        let revisions = asked.iter().filter(|line| line.starts_with("DiscoverInstancesRevision"));
        let (revisions, polls) = (revisions.count(), time.as_secs_f64() / 0.9);
        let most = self.map.most_in_a_second("DiscoverInstancesRevision");
        println!("cloud map: {revisions} revisions, at most {most} in a second");
        assert!(revisions as f64 <= (polls + 1.0) * services as f64, "{revisions}");
        assert_eq!(self.map.refused(), 0);
    }
}
