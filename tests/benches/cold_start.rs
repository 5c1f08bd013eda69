//! `make bench-e2e`: 10,000 services of ten instances in a real Consul, written to a real
//! kube-apiserver from cold, against a client that only sends the same server-side applies: once
//! before and once after, for the server takes the longer the more it holds.
//!
//! Prints how long each took, how many writes a second that is, and what Landfall needed for it.
//! Fails where a promise is missed: a minute, 1.4 times the client, no write after a restart.

#![allow(clippy::expect_used, clippy::panic, reason = "a failure ends the measurement")]
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "it measures time and says so")]

use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt as _};
use landfall_tests::servers::cluster::service_entries;
use landfall_tests::servers::consul::remote_instance;
use landfall_tests::servers::daemon::Installation;
use landfall_tests::servers::http::block;
use landfall_tests::servers::process::{folder, wait};
use landfall_tests::servers::{Cluster, Consul};
use serde_json::{Value, json};

const SERVICES: usize = 10_000;
const INSTANCES: usize = 10;
/// As many requests at once as Landfall has; more made the server no faster.
const CONCURRENCY: usize = 32;
const WRITTEN_MAX: Duration = Duration::from_secs(60);
const RATIO_MAX: f64 = 1.4;
/// Where a promise is missed the figures are still wanted.
const GIVE_UP: Duration = Duration::from_secs(300);
/// Long enough for a write that should not be.
const QUIET: Duration = Duration::from_secs(10);
/// Consul takes a snapshot of what was registered, on both cores for a second: it looks every 30 to
/// 60 s whether it should. None of those that are measured is to pay for that.
const CONSUL_SETTLED: Duration = Duration::from_secs(65);
/// The namespace that Landfall writes to, and those of the bare client.
const BRIDGED: &str = "mesh-registry";
const BARE: [&str; 2] = ["before", "after"];

fn main() {
    let folder = folder();
    let cluster = Cluster::bare(&folder);
    cluster.install_our_crds();
    cluster.install_rbac();
    [BRIDGED].into_iter().chain(BARE).for_each(|namespace| cluster.open_namespace(namespace));
    let consul_began = Instant::now();
    let consul = Consul::start(&folder);
    let began = Instant::now();
    let all: Vec<Value> = (0..SERVICES * INSTANCES).map(instance).collect();
    consul.register_remote(&all);
    println!("{} instances registered with Consul in {:.1?}", all.len(), began.elapsed());
    let installation = Installation::new(env!("CARGO_BIN_EXE_landfall-under-test"), &folder);
    installation.configure(&json!({
        "sources": [{
            "name": "dc1",
            "consul": {"url": format!("http://127.0.0.1:{}", consul.port)},
        }],
        "defaults": {"host": "{service}.{source}.mesh", "namespace": BRIDGED},
        "sinks": [{"kubernetes": {"kubeconfig": cluster.kubeconfig(), "namespaces": [BRIDGED]}}],
        "owner": "bench",
    }));

    std::thread::sleep(CONSUL_SETTLED.saturating_sub(consul_began.elapsed()));
    let desired = desired(&installation);
    let bare = |namespace| {
        let took = applied_bare(&cluster, &desired, namespace);
        let per_second = per_second(took);
        println!(
            "a bare client {namespace}: {SERVICES} applies in {took:.1?}, {per_second:.0} a second"
        );
        took
    };
    let before = bare(BARE[0]);

    let began = Instant::now();
    let landfall = installation.start();
    let held = || landfall.metric("landfall_sink_objects", &[]) as usize;
    let written = wait(GIVE_UP, || (held() == SERVICES).then(|| began.elapsed()));
    let written = written.unwrap_or_else(|| panic!("{} of {SERVICES} written", held()));
    println!(
        "Landfall from cold: {SERVICES} services in {written:.1?}, {:.0} writes a second; it computed \
         {:.1?} and held {} MB at most",
        per_second(written),
        landfall.cpu_time(),
        landfall.memory_max() >> 20
    );
    landfall.stop();
    let bare = (before + bare(BARE[1])) / 2;
    let ratio = written.as_secs_f64() / bare.as_secs_f64();
    println!("Landfall takes {ratio:.2} times as long as the bare client");

    let writes = cluster.writes("serviceentries");
    let landfall = installation.start().ready();
    std::thread::sleep(QUIET);
    let writes = cluster.writes("serviceentries") - writes;
    println!("restarted: {writes} writes within {QUIET:?} of being ready");
    landfall.stop();

    assert!(written <= WRITTEN_MAX, "{written:?}; {WRITTEN_MAX:?} is promised");
    assert!(ratio <= RATIO_MAX, "{ratio:.2} times the bare client; {RATIO_MAX} is promised");
    assert_eq!(writes, 0, "after a restart");
}

fn per_second(time: Duration) -> f64 {
    SERVICES as f64 / time.as_secs_f64()
}

/// Instance `number` of all.
fn instance(number: usize) -> Value {
    let (service, index) = (number / INSTANCES, number % INSTANCES);
    let address = format!("10.{}.{}.{}", service >> 8, service & 255, index + 1);
    // Far from each other, as on machines: a node has one instance of a service.
    let node = format!("node-{}", (service * 7 + index) % 1000);
    remote_instance(&node, &format!("s{service}-{index}"), &format!("s{service}"), &address, 8080)
}

/// What Landfall would write, as it would send it.
fn desired(installation: &Installation) -> Vec<Value> {
    let output = installation.run(&["plan", "--output", "yaml"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let documents = text.split("---\n").filter(|document| !document.is_empty());
    documents.map(|document| serde_saphyr::from_str(document).expect("YAML")).collect()
}

/// How long it takes to apply `objects` in this namespace, and nothing else.
fn applied_bare(cluster: &Cluster, objects: &[Value], namespace: &str) -> Duration {
    let api = cluster.as_landfall();
    let bodies: Vec<(String, Vec<u8>)> = objects
        .iter()
        .map(|object| {
            let mut object = object.clone();
            object["metadata"]["namespace"] = namespace.into();
            let name = object["metadata"]["name"].as_str().expect("a name");
            let path =
                format!("{}/{name}?fieldManager=bare&force=true", service_entries(namespace));
            (path, object.to_string().into_bytes())
        })
        .collect();
    let began = Instant::now();
    let apply = |(path, body): (String, Vec<u8>)| {
        let api = api.clone();
        async move {
            let headers = [("content-type", "application/apply-patch+yaml")];
            let reply = api.ask("PATCH", &path, &headers, body).await.expect("an answer");
            assert_eq!(reply.status, 201, "{}", reply.body);
        }
    };
    block(stream::iter(bodies).map(apply).buffer_unordered(CONCURRENCY).count());
    began.elapsed()
}
