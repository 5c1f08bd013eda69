//! The three roads into istiod: a server that it asks, a folder that it reads, and the Kubernetes
//! API.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use landfall_tests::fake_eureka;
use landfall_tests::servers::istiod::{self, differing};
use landfall_tests::servers::mesh::request;
use landfall_tests::servers::process::{free_port, wait};
use landfall_tests::servers::{Backend, Eureka, Landfall, Mesh};
use serde_json::{Value, json};

use crate::{LONG, Lease, Place, world};

/// How long nothing may happen for it to be nothing.
const QUIET: Duration = Duration::from_secs(5);

#[test]
fn a_control_plane_is_served() {
    let mut world = world();
    let place = world.place("mcp");
    let port = free_port();
    let sink = json!({"mcp": {
        "listen": format!("127.0.0.1:{port}"),
        "journal": "served.jsonl",
        "virtualAddresses": "240.241.0.0/16",
    }});
    let road = json!({"address": format!("xds://127.0.0.1:{port}")});
    travel(&world, &place, &json!({"sinks": [sink]}), Some(road));
}

#[test]
fn a_folder_is_read() {
    let mut world = world();
    let place = world.place("fs");
    let folder: PathBuf = place.folder.join("resources");
    let sink = json!({"files": {"path": folder}});
    let road = json!({"address": format!("fs://{}", folder.display())});
    travel(&world, &place, &json!({"sinks": [sink]}), Some(road));
}

#[test]
fn a_cluster_is_watched() {
    let mut world = world();
    let place = world.place("api");
    travel(&world, &place, &json!({}), None);
}

#[test]
fn a_cluster_is_watched_for_workload_entries() {
    let mut world = world();
    let place = world.place("entries");
    let shape = json!({"resources": {"shape": "workload-entries"}});
    travel(&world, &place, &shape, None);
    assert_eq!(world.cluster().list(&place.workload_entries()).len(), 2);
}

/// From Eureka over one road to an instance's own answer, and over a restart of Landfall.
fn travel(world: &Lease, place: &Place, settings: &Value, road: Option<Value>) {
    let eureka = Eureka::start(&place.folder, &[]);
    let service_port = free_port();
    let one = Backend::start(2, service_port, "one");
    let two = Backend::start(3, service_port, "two");
    // An empty Eureka is not believed for a while.
    register(&eureka, "one", &one);
    let mut config =
        place.config(world.cluster(), &json!({"eureka": {"url": eureka.url(), "poll": "1s"}}));
    for (key, value) in settings.as_object().expect("settings") {
        config[key] = value.clone();
    }
    place.installation.configure(&config);
    let mut landfall = place.installation.start();
    // istiod does not start without the server, nor without the folder.
    let mesh_folder = place.folder.join("mesh");
    std::fs::create_dir_all(&mesh_folder).unwrap();
    let sources = road.into_iter().collect();
    let options = istiod::Options { sources, ..istiod::Options::default() };
    let mesh = Mesh::of(world.cluster(), &mesh_folder, options);
    landfall = landfall.ready();

    let host = "orders.dc1.mesh";
    answered(&mesh, host, service_port, "one");
    let began = Instant::now();
    register(&eureka, "two", &two);
    answered(&mesh, host, service_port, "two");
    place.print(format_args!("registered at Eureka → 200 from it: {:?}", began.elapsed()));

    // A change of endpoints alone costs an EDS push, and nothing else.
    thread::sleep(QUIET);
    let before = mesh.istiod.pushes();
    let began = Instant::now();
    eureka.deregister("orders", "one");
    let left = [format!("{}:{service_port}", two.ip())];
    let gone = wait(LONG, || (mesh.endpoints(host) == left).then_some(()));
    gone.unwrap_or_else(|| panic!("Envoy still has {:?}", mesh.endpoints(host)));
    place.print(format_args!("deregistered → gone from Envoy: {:?}", began.elapsed()));
    thread::sleep(QUIET);
    assert_eq!(differing(&before, mesh.istiod.pushes()), [("eds".to_owned(), 1)]);

    // Killed and started anew: nobody notices.
    let before = mesh.istiod.pushes();
    landfall.kill();
    asked_for(QUIET, host, service_port);
    let landfall: Landfall = place.installation.start().ready();
    // istiod comes back after a pause that grew with the outage.
    asked_for(4 * QUIET, host, service_port);
    assert_eq!(differing(&before, mesh.istiod.pushes()), []);
    place.print("killed and started anew → every request answered, no push");

    let began = Instant::now();
    register(&eureka, "one", &one);
    answered(&mesh, host, service_port, "one");
    place.print(format_args!("registered again → 200: {:?}", began.elapsed()));
    landfall.stop();
}

fn register(eureka: &Eureka, id: &str, backend: &Backend) {
    let mut instance = fake_eureka::instance(id, &backend.ip(), backend.port());
    // Nobody renews it while the test runs.
    instance["leaseInfo"] = json!({"renewalIntervalInSecs": 30, "durationInSecs": 3600});
    eureka.register("orders", &instance);
}

/// Waits until some request to the service is answered by this backend.
fn answered(mesh: &Mesh, host: &str, port: u16, name: &str) {
    let answered = wait(LONG, || {
        let reply = request(host, port).ok()?;
        (reply.status == 200 && reply.body == name).then_some(())
    });
    answered.unwrap_or_else(|| {
        panic!("{name} does not answer for {host}:{port}; Envoy has {:?}", mesh.endpoints(host))
    });
}

/// Sends requests for a while, all of which must be answered.
fn asked_for(time: Duration, host: &str, port: u16) {
    let began = Instant::now();
    while began.elapsed() < time {
        let reply = request(host, port).expect("an answer");
        assert_eq!((reply.status, reply.body.as_str()), (200, "two"));
        thread::sleep(Duration::from_millis(20));
    }
}
