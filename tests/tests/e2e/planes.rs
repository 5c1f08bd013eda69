//! Several control planes that ask one Landfall, over TLS.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use landfall_tests::servers::istiod::{Options, differing};
use landfall_tests::servers::mesh::request;
use landfall_tests::servers::process::{free_port, wait};
use landfall_tests::servers::{Backend, Istiod, Mesh, certificates};
use serde_json::{Value, json};

use crate::{LONG, Place, world};

const HOST: &str = "orders.dc1.mesh";
/// How long nothing may happen for it to be nothing.
const QUIET: Duration = Duration::from_secs(5);

#[test]
fn several_control_planes_are_served_over_tls() {
    let mut world = world();
    let place = world.place("planes");
    let cluster = world.cluster();
    certificates::make(&place.folder);
    let service_port = free_port();
    let backends = [2, 3, 4].map(|host| Backend::start(host, service_port, &host.to_string()));
    let endpoints = backends.each_ref().map(|b| format!("{}:{}", b.ip(), b.port()));
    let listen = format!("127.0.0.1:{}", free_port());
    let mut config = place.config(cluster, &list(&place, &backends[..1]));
    config["sinks"] = json!([{"mcp": {
        "listen": listen, "journal": "served.jsonl", "certFile": "server.pem", "keyFile": "server.key",
    }}]);
    place.installation.configure(&config);
    let landfall = place.installation.start().ready();
    let read = |name: &str| fs::read_to_string(place.folder.join(name)).expect("an authority");
    let known = json!({"mode": "SIMPLE", "caCertificates": read("ca.pem"), "sni": "localhost"});
    let source =
        |settings: &Value| json!({"address": format!("xds://{listen}"), "tlsSettings": settings});

    // Neither another authority will do, nor another name, nor plain text, which is what istiod
    // speaks in the modes that it has not implemented.
    let with = |key: &str, value: &str| {
        let mut settings = known.clone();
        settings[key] = value.into();
        settings
    };
    for (what, settings, told) in [
        ("another authority", with("caCertificates", &read("other.pem")), "unknown authority"),
        ("another name", with("sni", "landfall"), "not landfall"),
        ("plain text", with("mode", "DISABLE"), "MCP: failed running"),
        ("mutual TLS", with("mode", "MUTUAL"), "MCP: failed running"),
    ] {
        let folder = folder(&place, "refused");
        let refusal = Istiod::refusal(cluster, &folder, options("istiod-2", source(&settings)));
        assert!(refusal.contains(told), "{what}: {refusal}");
        place.print(format_args!("{what} → istiod does not start"));
    }

    let one = Mesh::of(cluster, &folder(&place, "one"), options("istiod-0", source(&known)));
    let mut two =
        Mesh::beside(cluster, &folder(&place, "two"), options("istiod-1", source(&known)));
    until_known(&one, &endpoints[..1]);
    until_known(&two, &endpoints[..1]);
    let answered =
        wait(LONG, || request(HOST, service_port).is_ok_and(|r| r.body == "2").then_some(()));
    assert!(answered.is_some(), "{:?}", request(HOST, service_port));
    let began = Instant::now();
    list(&place, &backends[..2]);
    until_known(&one, &endpoints[..2]);
    until_known(&two, &endpoints[..2]);
    place.print(format_args!("registered → known to both meshes: {:?}", began.elapsed()));

    // One is away while something changes, and comes back.
    two.istiod.kill();
    list(&place, &backends);
    until_known(&one, &endpoints);
    thread::sleep(QUIET);
    assert_eq!(two.endpoints(HOST), endpoints[..2]);
    let journal = place.folder.join("served.jsonl");
    let (pushes, updates) = (one.istiod.pushes(), one.istiod.updates());
    let served = fs::read(&journal).expect("a journal");
    let began = Instant::now();
    two.istiod.start_anew();
    until_known(&two, &endpoints);
    place.print(format_args!(
        "killed, and started anew → knows everything again: {:?}",
        began.elapsed()
    ));
    thread::sleep(QUIET);
    assert_eq!(differing(&pushes, one.istiod.pushes()), []);
    assert_eq!(differing(&updates, one.istiod.updates()), []);
    assert!(fs::read(&journal).expect("a journal") == served, "something was written");
    let held = service_entries(&one.istiod, &place);
    assert_eq!(held.len(), 1, "{held:?}");
    assert_eq!(service_entries(&two.istiod, &place), held);
    place.print("meanwhile at the other → no update, no push, nothing written; both hold the same");

    let began = Instant::now();
    list(&place, &backends[1..]);
    until_known(&one, &endpoints[1..]);
    until_known(&two, &endpoints[1..]);
    place.print(format_args!("deregistered → gone from both meshes: {:?}", began.elapsed()));
    landfall.stop();
}

fn options(pod: &'static str, source: Value) -> Options {
    Options { sources: vec![source], variables: vec![("POD_NAME", pod)] }
}

fn folder(place: &Place, name: &str) -> PathBuf {
    let folder = place.folder.join(name);
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

fn list(place: &Place, backends: &[Backend]) -> Value {
    let instance = |backend: &Backend| json!({"address": backend.ip(), "port": backend.port()});
    let instances: Vec<Value> = backends.iter().map(instance).collect();
    let service = json!({"name": "orders", "instances": instances});
    place.registry(&[service])
}

fn until_known(mesh: &Mesh, endpoints: &[String]) {
    let known = wait(LONG, || (mesh.endpoints(HOST) == endpoints).then_some(()));
    known.unwrap_or_else(|| panic!("wanted {endpoints:?}, Envoy has {:?}", mesh.endpoints(HOST)));
}

/// What istiod holds of ours.
fn service_entries(istiod: &Istiod, place: &Place) -> Vec<Value> {
    let mut all = istiod.debug("configz").as_array().cloned().unwrap_or_default();
    all.retain(|o| {
        o["kind"] == "ServiceEntry" && o["metadata"]["namespace"] == place.namespace.as_str()
    });
    all
}
