//! What is promised of the watch over Cloud Map, on a fake that counts.

#![allow(clippy::unwrap_used, reason = "a failure ends the test")]
#![allow(clippy::print_stdout, reason = "what was counted is for who reads the log")]

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use landfall_core::registry::{Health, SourceState};
use landfall_registry::cloudmap::{CloudMap, CloudMapSettings};
use landfall_tests::conformance::Running;
use landfall_tests::fake_cloudmap::{ACCESS_KEY, FakeCloudMap, Fault, attributes};
use tempfile::NamedTempFile;
use tokio::time::{Instant, sleep};

const POLL: Duration = Duration::from_millis(200);
const SETTLE: Duration = Duration::from_secs(3);

/// A Cloud Map, and the file with the key that it knows.
struct World {
    map: FakeCloudMap,
    credentials: NamedTempFile,
}

impl World {
    /// With so many services of two instances each in one namespace.
    fn filled(services: usize) -> Self {
        let world = Self { map: FakeCloudMap::start(), credentials: NamedTempFile::new().unwrap() };
        world.write_key(ACCESS_KEY);
        for service in 0..services {
            (0..2).for_each(|n| world.put(service, n));
        }
        world
    }

    fn write_key(&self, key: &str) {
        let profile =
            format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = secret\n");
        fs::write(self.credentials.path(), profile).unwrap();
    }

    fn put(&self, service: usize, n: usize) {
        let address = format!("10.{}.{}.{n}", service / 250, service % 250);
        let (name, id) = (format!("s{service}"), format!("s{service}-{n}"));
        self.map.register("prod", &name, &id, attributes(&address, 8080));
    }

    fn settings(&self) -> CloudMapSettings {
        CloudMapSettings {
            endpoint: Some(self.map.url().parse().unwrap()),
            credentials_file: Some(self.credentials.path().to_owned()),
            poll: POLL,
            health_poll: Duration::from_secs(600),
            service_poll: POLL,
            settle: SETTLE,
            timeout: Duration::from_secs(5),
            ..CloudMapSettings::new("eu-central-1")
        }
    }

    fn start(&self) -> Running {
        start(self.settings())
    }

    fn count(&self, question: &str) -> usize {
        self.map.requests().iter().filter(|asked| asked.starts_with(question)).count()
    }
}

fn start(settings: CloudMapSettings) -> Running {
    Running::start(Box::new(CloudMap::new(settings)))
}

fn instances(state: &SourceState) -> usize {
    let services = state.snapshot.iter().flat_map(|snapshot| snapshot.services.values());
    services.map(|service| service.instances().len()).sum()
}

fn doubt(state: &SourceState) -> Option<&str> {
    state.doubt.as_ref().map(|doubt| doubt.code)
}

/// Waits until so many instances are listed, with this doubt.
async fn until_instances(running: &mut Running, count: usize, code: Option<&str>) {
    let what = format!("{count} instances are listed with doubt {code:?}");
    running.until(&what, |state| instances(state) == count && doubt(state) == code).await;
}

// === What it costs ===

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_services_cost_one_small_question_each_a_poll_within_what_aws_allows() {
    const SERVICES: usize = 1000;
    let poll = Duration::from_secs(4);
    let world = World::filled(SERVICES);
    let settings = world.settings();
    let service_poll = Duration::from_secs(30);
    let mut running = start(CloudMapSettings { poll, service_poll, ..settings });
    let began = Instant::now();
    until_instances(&mut running, 2 * SERVICES, None).await;
    println!("first listing of {SERVICES} services: {:?}", began.elapsed());
    assert_eq!(world.count("ListNamespaces"), 1);
    assert_eq!(world.count("ListServices"), SERVICES.div_ceil(100));
    // Each is first asked for within a poll.
    sleep(poll).await;
    let before = world.map.requests().len();
    let began = Instant::now();
    sleep(2 * poll).await;
    let asked = world.map.requests().split_off(before);
    let polls = began.elapsed().as_secs_f64() / poll.as_secs_f64();
    let mut revisions: BTreeMap<&str, usize> = BTreeMap::new();
    for question in &asked {
        if let Some(service) = question.strip_prefix("DiscoverInstancesRevision ") {
            *revisions.entry(service).or_default() += 1;
        }
    }
    let total: usize = revisions.values().sum();
    let reads = asked.iter().filter(|asked| asked.starts_with("DiscoverInstances ")).count();
    let most = world.map.most_in_a_second("DiscoverInstancesRevision");
    println!(
        "{SERVICES} idle services, {polls:.1} polls: {total} revisions, {reads} reads, at most \
         {most} revisions in a second, {} other questions",
        asked.len() - total - reads
    );
    // A pause is up to a tenth shorter than the poll. A busy machine may make it longer.
    let most_each = (polls / 0.9).ceil() as usize;
    assert!(revisions.values().all(|count| *count <= most_each), "{revisions:?}");
    assert!(total as f64 <= polls / 0.9 * SERVICES as f64, "{total}");
    assert!(total as f64 >= 0.5 * polls * SERVICES as f64, "{total}");
    // Each has a health check, which is looked at once in 600 s.
    assert!(reads <= SERVICES / 10, "{reads}");
    // Within a quarter of the quota and a burst, and spread over the poll: 250 each second.
    assert!(most <= 500, "{most}");
    assert!(world.map.most_in_a_second("DiscoverInstances") <= 250 + 26);
    assert_eq!(world.map.refused(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_costs_one_answer_with_instances() {
    let world = World::filled(20);
    let settings = world.settings();
    let mut running = start(CloudMapSettings { service_poll: Duration::from_secs(60), ..settings });
    until_instances(&mut running, 40, None).await;
    let reads = || world.count("DiscoverInstances prod/s7");
    let before = reads();
    world.put(7, 2);
    until_instances(&mut running, 41, None).await;
    sleep(3 * POLL).await;
    assert_eq!(reads(), before + 1);
    world.map.deregister("prod", "s7", "s7-2");
    until_instances(&mut running, 40, None).await;
    sleep(3 * POLL).await;
    let all = world.count("DiscoverInstances prod/");
    println!("one in, one out: {} answers with instances; {all} in all", reads() - before);
    assert_eq!(reads(), before + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_seen_though_it_moves_no_revision() {
    let world = World::filled(3);
    let settings = world.settings();
    let mut running = start(CloudMapSettings { health_poll: Duration::from_secs(1), ..settings });
    until_instances(&mut running, 6, None).await;
    world.map.set_health("prod", "s1", "s1-0", "UNHEALTHY");
    let critical = |state: &SourceState| {
        let mut services = state.snapshot.iter().flat_map(|s| s.services.values());
        services.any(|one| one.instances().iter().any(|i| i.health == Health::Critical))
    };
    running.until("it is critical", critical).await;
    // And when all are: who asks without saying what is told of those only that are healthy.
    world.map.set_health("prod", "s1", "s1-1", "UNHEALTHY");
    world.map.set_health("prod", "s1", "s1-0", "HEALTHY");
    sleep(Duration::from_secs(2)).await;
    until_instances(&mut running, 6, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn being_throttled_slows_the_questions_down_and_removes_nothing() {
    let world = World::filled(50);
    let mut running = world.start();
    until_instances(&mut running, 100, None).await;
    let throttled = Fault::Operation("DiscoverInstancesRevision", 400, "RequestLimitExceeded");
    world.map.set_fault(Some(throttled));
    until_instances(&mut running, 100, Some("cloud_map_rate_limited")).await;
    let before = world.count("DiscoverInstancesRevision");
    sleep(Duration::from_secs(4)).await;
    let asked = world.count("DiscoverInstancesRevision") - before;
    println!("throttled: {asked} revisions in 4 s, 1,000 otherwise");
    assert!(asked <= 12, "{asked}");
    // What is asked for in other ways goes on.
    world.put(50, 0);
    running.until("the others go on", |state| instances(state) == 101).await;
    world.map.set_fault(None);
    until_instances(&mut running, 101, None).await;
}

// === What is read ===

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_read_or_nothing_is() {
    let world = World::filled(7);
    world.map.set_page_max(2);
    for namespace in ["a", "b", "c", "z"] {
        world.map.create_namespace(namespace);
    }
    world.map.register("z", "last", "l1", attributes("10.9.0.1", 80));
    world.map.set_fault(Some(Fault::SecondPage(500, "InternalFailure")));
    let mut running = world.start();
    running.until_doubted().await;
    sleep(3 * POLL).await;
    assert_eq!(running.state.borrow().snapshot, None);
    world.map.set_fault(None);
    until_instances(&mut running, 15, None).await;
    for fault in [Fault::SecondPage(500, "InternalFailure"), Fault::NoFields] {
        world.map.set_fault(Some(fault));
        running.until_doubted().await;
        sleep(3 * POLL).await;
        assert_eq!(instances(&running.state.borrow()), 15);
        world.map.set_fault(None);
        until_instances(&mut running, 15, None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_instances_than_one_answer_has_are_listed_by_page() {
    let world = World::filled(1);
    for n in 0..1203_usize {
        let address = format!("10.1.{}.{}", n / 250, n % 250);
        world.map.register("prod", "large", &format!("i{n:04}"), attributes(&address, 80));
    }
    world.map.set_health("prod", "large", "i1200", "UNHEALTHY");
    let mut running = world.start();
    until_instances(&mut running, 1205, None).await;
    let critical: Vec<String> = {
        let state = running.state.borrow();
        let services = state.snapshot.iter().flat_map(|s| s.services.values());
        let all = services.flat_map(|service| service.instances().to_vec());
        all.filter(|one| one.health == Health::Critical).map(|one| one.id.to_string()).collect()
    };
    assert_eq!(critical, ["i1200"]);
    assert_eq!((world.count("ListInstances"), world.count("GetInstancesHealthStatus")), (13, 13));
    // Half of those pages are no listing, either.
    world.map.set_fault(Some(Fault::Operation("ListInstances", 500, "InternalFailure")));
    world.map.deregister("prod", "large", "i0000");
    until_instances(&mut running, 1205, Some("cloud_map_status")).await;
    world.map.set_fault(None);
    until_instances(&mut running, 1204, None).await;
}

// === What is removed ===

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_between_listing_and_reading_is_no_error() {
    let world = World::filled(4);
    let mut running = world.start();
    until_instances(&mut running, 8, None).await;
    // The listing is older than what is discovered.
    world.map.set_stale(true);
    world.map.delete_service("prod", "s2");
    sleep(POLL).await;
    assert_eq!(instances(&running.state.borrow()), 8);
    world.map.set_stale(false);
    until_instances(&mut running, 6, None).await;
    // As it is with a namespace, whose services nobody lists any more.
    world.map.register("other", "o", "o1", attributes("10.9.0.1", 80));
    until_instances(&mut running, 7, None).await;
    world.map.delete_namespace("other");
    until_instances(&mut running, 6, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_of_a_service_that_is_gone_by_then_is_no_doubt() {
    const REVISION: &str = "DiscoverInstancesRevision";
    const TIMEOUT: Duration = Duration::from_secs(2);
    let world = World::filled(2);
    let mut running = start(CloudMapSettings { timeout: TIMEOUT, ..world.settings() });
    until_instances(&mut running, 4, None).await;
    world.map.set_fault(Some(Fault::SilenceOn(REVISION)));
    let since = Instant::now();
    let asked = loop {
        let is_asked = |name: &&str| {
            let at = world.map.asked_about(REVISION, &format!("prod/{name}"));
            at.is_some_and(|at| at > since)
        };
        match ["s0", "s1"].into_iter().find(is_asked) {
            Some(name) => break name,
            None => sleep(POLL / 10).await,
        }
    };
    world.map.set_fault(None);
    world.map.delete_service("prod", asked);
    until_instances(&mut running, 2, None).await;
    // No answer comes to what was asked of it.
    sleep(TIMEOUT).await;
    until_instances(&mut running, 2, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_listed_and_cannot_be_discovered_stands_in_doubt() {
    let world = World::filled(4);
    let mut running = world.start();
    until_instances(&mut running, 8, None).await;
    world.map.set_stale(true);
    world.map.delete_service("prod", "s2");
    until_instances(&mut running, 8, Some("cloud_map_missing")).await;
    world.map.set_stale(false);
    until_instances(&mut running, 6, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_is_not_there_is_said_and_nothing_of_it_is_lost() {
    let world = World::filled(2);
    world.map.register("stage", "o", "o1", attributes("10.9.0.1", 80));
    world.map.register("unwanted", "u", "u1", attributes("10.9.0.2", 80));
    let of = |names: &[&str]| {
        let namespaces = names.iter().map(|&name| name.to_owned()).collect();
        start(CloudMapSettings { namespaces, ..world.settings() })
    };
    let mut alone = of(&["nowhere"]);
    let mut with_others = of(&["prod", "stage", "nowhere"]);
    alone.until_doubted().await;
    until_instances(&mut with_others, 5, Some("cloud_map_no_namespace")).await;
    sleep(SETTLE + 3 * POLL).await;
    {
        let state = alone.state.borrow();
        let message = &state.doubt.as_ref().unwrap().message;
        assert!(state.snapshot.is_none() && message.contains("namespace nowhere"), "{message}");
    }
    world.map.register("nowhere", "n", "n1", attributes("10.9.0.3", 80));
    until_instances(&mut alone, 1, None).await;
    until_instances(&mut with_others, 6, None).await;
    world.map.delete_namespace("nowhere");
    until_instances(&mut with_others, 6, Some("cloud_map_no_namespace")).await;
    until_instances(&mut alone, 1, Some("cloud_map_no_namespace")).await;
    // The others go on.
    world.map.deregister("stage", "o", "o1");
    until_instances(&mut with_others, 5, Some("cloud_map_no_namespace")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_that_are_all_gone_at_once_are_waited_for() {
    let world = World::filled(2);
    let mut running = world.start();
    until_instances(&mut running, 4, None).await;
    let began = Instant::now();
    for service in ["s0", "s1"] {
        (0..2).for_each(|n| {
            world.map.deregister("prod", service, &format!("{service}-{n}"));
        });
    }
    running.until("there is a doubt", |state| doubt(state) == Some("cloud_map_empty")).await;
    assert!(instances(&running.state.borrow()) > 0);
    until_instances(&mut running, 0, None).await;
    assert!(began.elapsed() >= SETTLE);
    // From nothing to something there is nothing to wait for, and one that leaves others is gone.
    (0..2).for_each(|service| world.put(service, 0));
    until_instances(&mut running, 2, None).await;
    world.map.deregister("prod", "s0", "s0-0");
    until_instances(&mut running, 1, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_first_listing_is_believed_after_a_while() {
    let world = World::filled(0);
    let began = Instant::now();
    let mut running = world.start();
    running.until_doubted().await;
    assert_eq!(running.state.borrow().snapshot, None);
    running.until("it is believed", |s| s.snapshot.is_some() && s.doubt.is_none()).await;
    assert!(began.elapsed() >= SETTLE);
}

// === Who asks ===

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_allowed_is_named_as_iam_has_it() {
    for operation in
        ["ListNamespaces", "ListServices", "DiscoverInstances", "DiscoverInstancesRevision"]
    {
        let world = World::filled(2);
        world.map.set_fault(Some(Fault::Operation(operation, 400, "AccessDeniedException")));
        let mut running = world.start();
        let named = |state: &SourceState| {
            let action = format!("servicediscovery:{operation} in IAM");
            state.doubt.as_ref().is_some_and(|doubt| {
                doubt.code == "cloud_map_forbidden" && doubt.message.contains(&action)
            })
        };
        running.until(operation, named).await;
        // Without revisions everything can be read all the same.
        let is_listed = operation == "DiscoverInstancesRevision";
        assert_eq!(running.state.borrow().snapshot.is_some(), is_listed, "{operation}");
        world.map.set_fault(None);
        until_instances(&mut running, 4, None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_discovers_goes_to_an_address_of_its_own_where_one_is_given() {
    let (listing, data) = (World::filled(2), World::filled(2));
    let data_endpoint = Some(data.map.url().parse().unwrap());
    let mut running = start(CloudMapSettings { data_endpoint, ..listing.settings() });
    until_instances(&mut running, 4, None).await;
    sleep(3 * POLL).await;
    assert!(listing.count("List") > 0 && data.count("DiscoverInstancesRevision") > 0);
    assert_eq!((listing.count("Discover"), data.count("List")), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_credentials_are_taken_up() {
    let world = World::filled(2);
    let mut running = world.start();
    until_instances(&mut running, 4, None).await;
    world.map.set_access_key("AKIANOTHER");
    until_instances(&mut running, 4, Some("cloud_map_credentials")).await;
    world.write_key("AKIANOTHER");
    until_instances(&mut running, 4, None).await;
    // None at all are said to be missing.
    fs::write(world.credentials.path(), "").unwrap();
    let mut fresh = world.start();
    let missing = |state: &SourceState| doubt(state) == Some("cloud_map_credentials");
    fresh.until("there are none", missing).await;
    let message = fresh.state.borrow().doubt.clone().unwrap().message;
    assert!(message.contains("Give the pod, task or instance a role"), "{message}");
}
