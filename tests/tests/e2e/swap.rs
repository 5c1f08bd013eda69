//! Policies that come and change through a ConfigMap while traffic flows.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use landfall_tests::servers::mesh::request;
use landfall_tests::servers::process::{free_port, wait};
use landfall_tests::servers::{Backend, Cluster, Consul};
use serde_json::{Value, json};

use crate::{LONG, Place, component_path, world};

/// How long an old host goes on answering in this test.
const GRACE: Duration = Duration::from_secs(6);
const CONFIG_MAP: &str = "/api/v1/namespaces/landfall-system/configmaps/e2e-swap";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/landfall-system/events";

#[test]
fn a_policy_is_swapped_without_losing_a_request() {
    let mut world = world();
    let place = world.place("swap");
    world.start_mesh();
    let cluster = world.cluster();
    let consul = Consul::start(&place.folder);
    let port = free_port();
    let (one, two) = (Backend::start(2, port, "one"), Backend::start(3, port, "two"));
    consul.register("orders-1", "orders", &one.ip(), port, &json!({"version": "v1"}));
    consul.register("orders-2", "orders", &two.ip(), port, &json!({"version": "v2"}));
    put_policy(cluster, &component("relabel"), Some(&host_rule("{service}.first.mesh")));
    let url = format!("http://127.0.0.1:{}", consul.port);
    let mut config = place.config(cluster, &json!({"consul": {"url": url}}));
    config["guard"] = json!({"grace": format!("{}s", GRACE.as_secs())});
    // The second says that all ports are HTTP, or Envoy could not tell hosts of one port apart.
    config["policies"] = json!([
        {"name": "swapped", "component": {"configMap": {
            "namespace": "landfall-system", "name": "e2e-swap", "kubeconfig": cluster.kubeconfig(),
        }}},
        {"name": "http", "component": {"file": component_path("relabel")}, "config": {
            "rules": [{"set": {"ports": [{"protocol": "http"}]}}],
        }},
    ]);
    place.installation.configure(&config);
    let landfall = place.installation.start().ready();
    until_answered("orders.first.mesh", port);

    // Other settings, the same component.
    let loops = Loop::start("orders.first.mesh", port);
    let began = Instant::now();
    put_policy(cluster, &component("relabel"), Some(&host_rule("{service}.second.mesh")));
    until_answered("orders.second.mesh", port);
    place.print(format_args!("settings swapped → new host answers: {:?}", began.elapsed()));
    let requests = loops.all_answered(began + GRACE - Duration::from_secs(1));
    place.print(format_args!("old host during grace: {requests} requests, none lost"));
    until_gone(&place, cluster, "orders.first.mesh", began);

    // Another component.
    let loops = Loop::start("orders.second.mesh", port);
    let began = Instant::now();
    put_policy(cluster, &component("canary"), None);
    until_answered("orders.dc1.mesh", port);
    place.print(format_args!("component swapped → new host answers: {:?}", began.elapsed()));
    until_answered("v2.orders.dc1.mesh", port);
    for _ in 0..10 {
        let reply = request("v2.orders.dc1.mesh", port).expect("an answer");
        assert_eq!(reply.body, "two", "only the instance of version v2 is behind its host");
    }
    let requests = loops.all_answered(began + GRACE - Duration::from_secs(1));
    place.print(format_args!("old host during grace: {requests} requests, none lost"));
    until_gone(&place, cluster, "orders.second.mesh", began);

    // What is broken.
    let watch = cluster.watch(&place.service_entries());
    for (what, component, settings) in [
        ("a component that is none", b"\0asm but nothing else".to_vec(), None),
        ("settings that it refuses", component("canary"), Some(json!({"versionHost": true}))),
    ] {
        let (began, before) = (Instant::now(), refusals(cluster).len());
        put_policy(cluster, &component, settings.as_ref());
        let event = wait(LONG, || refusals(cluster).get(before).cloned());
        let event = event.unwrap_or_else(|| panic!("{what}: no Event on the ConfigMap"));
        let note = event["note"].as_str().unwrap_or_default();
        place.print(format_args!("{what} → Event after {:?}: {note}", began.elapsed()));
        thread::sleep(Duration::from_secs(2));
        assert_eq!(watch.count(), 0, "{what}: {:?}", watch.changes());
        let reply = request("orders.dc1.mesh", port).expect("an answer");
        assert_eq!(reply.status, 200, "{what}");
    }
    landfall.stop();
}

/// A policy that gives services this host.
fn host_rule(host: &str) -> Value {
    json!({"rules": [{"set": {"host": host}}]})
}

fn component(name: &str) -> Vec<u8> {
    let path = component_path(name);
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}. Run: make plugins", path.display()))
}

/// Puts a component and its settings into the ConfigMap, in one write.
fn put_policy(cluster: &Cluster, component: &[u8], settings: Option<&Value>) {
    let mut map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "e2e-swap", "namespace": "landfall-system"},
        "binaryData": {"policy.wasm": base64(component)},
    });
    if let Some(settings) = settings {
        map["data"]["settings.yaml"] = settings.to_string().into();
    }
    cluster.apply(&map);
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let at = (bits >> (18 - 6 * digit)) & 63;
            text.push(if digit <= group.len() { char::from(DIGITS[at as usize]) } else { '=' });
        }
    }
    text
}

/// What Landfall has to say against the ConfigMap.
fn refusals(cluster: &Cluster) -> Vec<Value> {
    let name = CONFIG_MAP.rsplit('/').next().expect("a name");
    let mut events = cluster.list(EVENTS);
    events.retain(|e| e["regarding"]["kind"] == "ConfigMap" && e["regarding"]["name"] == name);
    events.retain(|event| event["type"] == "Warning");
    events.sort_by_key(|event| event["eventTime"].to_string());
    events
}

fn until_answered(host: &str, port: u16) {
    let answered = wait(LONG, || request(host, port).is_ok_and(|r| r.status == 200).then_some(()));
    answered.unwrap_or_else(|| panic!("{host}: {:?}", request(host, port)));
}

/// Waits until the object of a host that lost its place is deleted.
fn until_gone(place: &Place, cluster: &Cluster, host: &str, began: Instant) {
    let path = format!("{}/{host}", place.service_entries());
    let gone = wait(3 * GRACE, || cluster.get(&path).is_none().then_some(()));
    gone.unwrap_or_else(|| panic!("{host} is still there: {:?}", cluster.get(&path)));
    let took = began.elapsed();
    assert!(took >= GRACE, "{host} went after {took:?}, within its grace time");
    place.print(format_args!("old host's ServiceEntry deleted after {took:?}"));
}

/// Sends requests to a host, one after another, until it is told to stop.
struct Loop {
    stopped: Arc<AtomicBool>,
    thread: thread::JoinHandle<Result<usize, String>>,
}

impl Loop {
    fn start(host: &'static str, port: u16) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&stopped);
        let thread = thread::spawn(move || {
            let mut requests = 0;
            while !over.load(Ordering::Relaxed) {
                let reply = request(host, port);
                match reply {
                    Ok(reply) if reply.status == 200 => requests += 1,
                    other => return Err(format!("request {requests} to {host}: {other:?}")),
                }
                thread::sleep(Duration::from_millis(5));
            }
            Ok(requests)
        });
        Self { stopped, thread }
    }

    /// Stops at `end` and says how many requests there were.
    fn all_answered(self, end: Instant) -> usize {
        thread::sleep(end.saturating_duration_since(Instant::now()));
        self.stopped.store(true, Ordering::Relaxed);
        let outcome = self.thread.join().expect("no panic");
        outcome.unwrap_or_else(|lost| panic!("a request was lost: {lost}"))
    }
}
