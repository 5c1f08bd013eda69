//! From Consul to an instance's own answer, and what becomes of it when Consul or the instance
//! goes.

use std::thread;
use std::time::{Duration, Instant};

use landfall_tests::servers::mesh::request;
use landfall_tests::servers::process::{free_port, wait};
use landfall_tests::servers::{Backend, Consul};
use serde_json::json;

use crate::{LONG, world};

#[test]
fn traffic_follows_the_registry() {
    let mut world = world();
    let place = world.place("route");
    world.start_mesh();
    let (cluster, mesh) = (world.cluster(), world.mesh());
    let mut consul = Consul::start(&place.folder);
    let port = free_port();
    let (one, two) = (Backend::start(2, port, "one"), Backend::start(3, port, "two"));
    // What deregisters from a Consul that was empty when Landfall started is kept for minutes.
    consul.register("known-1", "known", &one.ip(), free_port(), &json!({}));
    place.installation.configure(
        &place.config(
            cluster,
            &json!({"consul": {"url": format!("http://127.0.0.1:{}", consul.port)}}),
        ),
    );
    let landfall = place.installation.start().ready();
    let host = "orders.dc1.mesh";

    let began = Instant::now();
    consul.register("orders-1", "orders", &one.ip(), port, &json!({}));
    until_answered(host, port, "one");
    place
        .print(format_args!("registered at Consul → 200 from the instance: {:?}", began.elapsed()));

    let began = Instant::now();
    consul.register("orders-2", "orders", &two.ip(), port, &json!({}));
    until_answered(host, port, "two");
    place.print(format_args!("second instance → answers: {:?}", began.elapsed()));
    let both = [format!("{}:{port}", one.ip()), format!("{}:{port}", two.ip())];
    assert_eq!(mesh.endpoints(host), both);

    let began = Instant::now();
    consul.deregister("orders-1");
    let gone = wait(LONG, || (mesh.endpoints(host) == both[1..]).then_some(()));
    gone.unwrap_or_else(|| panic!("Envoy still has {:?}", mesh.endpoints(host)));
    place.print(format_args!("deregistered → gone from Envoy: {:?}", began.elapsed()));
    for _ in 0..10 {
        assert_eq!(request(host, port).expect("an answer").body, "two");
    }

    let watch = cluster.watch(&place.service_entries());
    consul.kill();
    let (began, mut answers) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(6) {
        let reply = request(host, port).expect("an answer");
        assert_eq!((reply.status, reply.body.as_str()), (200, "two"));
        answers += 1;
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(watch.count(), 0, "{:?}", watch.changes());
    let doubts = landfall.says(LONG, |report| report.contains("source dc1 in doubt"));
    assert!(doubts, "{}", landfall.readiness());
    place.print(format_args!("Consul killed → {answers} of {answers} requests answered, 0 writes"));
    landfall.stop();
}

#[test]
fn traffic_reaches_workload_entries() {
    let mut world = world();
    let place = world.place("workloads");
    world.start_mesh();
    let (cluster, mesh) = (world.cluster(), world.mesh());
    let consul = Consul::start(&place.folder);
    // Clients dial one port; the instances listen on others.
    let (port, target) = (free_port(), free_port());
    let (one, two) = (Backend::start(2, port, "one"), Backend::start(3, target, "two"));
    consul.register("pay-1", "pay", &one.ip(), port, &json!({}));
    consul.register("pay-2", "pay", &two.ip(), target, &json!({}));
    let url = format!("http://127.0.0.1:{}", consul.port);
    let mut config = place.config(cluster, &json!({"consul": {"url": url}}));
    config["resources"] = json!({"shape": "workload-entries"});
    place.installation.configure(&config);
    let landfall = place.installation.start().ready();
    let host = "pay.dc1.mesh";
    // Of two numbers for one port the service has the same whatever comes first.
    let dialed = port.min(target);
    until_answered(host, dialed, "one");
    until_answered(host, dialed, "two");
    assert_eq!(cluster.list(&place.workload_entries()).len(), 2);
    let began = Instant::now();
    consul.deregister("pay-1");
    let left = [format!("{}:{target}", two.ip())];
    let gone = wait(LONG, || (mesh.endpoints(host) == left).then_some(()));
    gone.unwrap_or_else(|| panic!("Envoy still has {:?}", mesh.endpoints(host)));
    place.print(format_args!("by WorkloadEntries: two instances on two ports answer; deregistered → gone from Envoy: {:?}", began.elapsed()));
    landfall.stop();
}

/// Waits until some request to the service is answered by this backend.
fn until_answered(host: &str, port: u16, name: &str) {
    let answered = wait(LONG, || {
        let reply = request(host, port).ok()?;
        (reply.status == 200 && reply.body == name).then_some(())
    });
    answered.unwrap_or_else(|| {
        panic!("{name} does not answer for {host}:{port}: {:?}", request(host, port))
    });
}
