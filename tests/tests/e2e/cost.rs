//! What one change costs among 1,000 services: time, writes, and requests to Consul.

use std::thread;
use std::time::{Duration, Instant};

use landfall_tests::servers::consul::remote_instance;
use landfall_tests::servers::process::wait;
use landfall_tests::servers::proxy::Asked;
use landfall_tests::servers::{Consul, Proxy};
use serde_json::{Value, json};

use crate::{LONG, Place, median, world};

const SERVICES: usize = 1000;
const SAMPLES: usize = 20;
/// What is promised.
const WRITTEN_MAX: Duration = Duration::from_millis(100);
const REQUESTS_MAX: usize = 3;
/// What a change costs comes within this time; what comes later is the background's.
const AFTERMATH: Duration = Duration::from_millis(500);

#[test]
fn one_change_is_written_within_100_ms() {
    let mut world = world();
    let place = world.place("cost");
    let cluster = world.cluster();
    let consul = Consul::start(&place.folder);
    let all: Vec<Value> = (0..SERVICES).map(|n| instance(n, 1)).collect();
    consul.register_remote(&all);
    let proxy = Proxy::start(consul.port);
    place.installation.configure(&place.config(cluster, &json!({"consul": {"url": proxy.url()}})));
    let began = Instant::now();
    let landfall = place.installation.start().ready();
    let sink = "landfall_sink_objects";
    let written = wait(LONG, || (landfall.metric(sink, &[]) == SERVICES as u64).then_some(()));
    written.unwrap_or_else(|| panic!("{} of {SERVICES} written", landfall.metric(sink, &[])));
    place.print(format_args!("{SERVICES} services written from cold in {:?}", began.elapsed()));
    let asked = proxy.asked().len();
    place.print(format_args!("{asked} requests to Consul for the first listing"));

    let watch = cluster.watch(&place.service_entries());
    let writes_before = cluster.writes("serviceentries");
    let mut times = Vec::new();
    let (mut most, mut swept) = (0, 0);
    for sample in 0..SAMPLES {
        // Nothing else is under way at the first one, so that every request is seen to be its.
        let quiet = sample == 0;
        if quiet {
            assert!(proxy.is_quiet(Duration::from_secs(1), LONG), "Consul is asked without end");
        }
        let number = sample * 37 % SERVICES;
        let (name, host) = (service(number), format!("{}.dc1.mesh", service(number)));
        let (seen, before) = (watch.count(), proxy.asked().len());
        let began = Instant::now();
        consul.register_remote(&[instance(number, 2)]);
        let change = watch.wait(seen, LONG, |change| change.name == host);
        let change = change.unwrap_or_else(|| panic!("{host} is not written"));
        let endpoints = change.object["spec"]["endpoints"].as_array().map(Vec::len);
        assert_eq!(endpoints, Some(2), "{}", change.object);
        times.push(change.at.saturating_duration_since(began));
        thread::sleep(AFTERMATH);
        let changes = watch.changes();
        assert_eq!(changes.len(), seen + 1, "more than one write: {:?}", &changes[seen..]);
        let asked = proxy.asked().split_off(before);
        let own = asked.iter().filter(|asked| quiet || is_for(asked, &name)).count();
        assert!(own <= REQUESTS_MAX, "{own} requests to Consul for one change: {asked:#?}");
        most = most.max(own);
        swept += asked.len() - own;
    }
    let writes = cluster.writes("serviceentries") - writes_before;
    report(&place, &times, most, writes);
    place.print(format_args!("besides, {swept} requests of the slow sweep over all services"));
    assert_eq!(writes, SAMPLES as u64, "requests that write, for {SAMPLES} changes");
    let median = median(times);
    assert!(median <= WRITTEN_MAX, "the median is {median:?}");
    landfall.stop();
}

fn report(place: &Place, times: &[Duration], requests: usize, writes: u64) {
    let (least, most) = (times.iter().min(), times.iter().max());
    let median = median(times.to_vec());
    place.print(format_args!(
        "one instance among {SERVICES} services → written: median {median:?} of {SAMPLES}, {:?} to {:?}",
        least.copied().unwrap_or_default(),
        most.copied().unwrap_or_default()
    ));
    place.print(format_args!(
        "{writes} writes for {SAMPLES} changes, at most {requests} requests to Consul for each"
    ));
}

/// Whether a request is for this change, and not one of the slow sweep that begins two seconds after
/// it: that reads one service after another, in search of edits that Consul does not tell of.
fn is_for(asked: &Asked, service: &str) -> bool {
    match asked.path.strip_prefix("/v1/health/service/") {
        Some(rest) => rest.split('?').next() == Some(service),
        // The state of the catalog that the sweep begins with is read without waiting.
        None => asked.path.contains("index="),
    }
}

fn service(number: usize) -> String {
    format!("service-{number:04}")
}

fn instance(number: usize, index: usize) -> Value {
    let name = service(number);
    let address = format!("10.{index}.{}.{}", number / 250, number % 250 + 1);
    let node = format!("node-{}", number % 50);
    remote_instance(&node, &format!("{name}-{index}"), &name, &address, 8080)
}
