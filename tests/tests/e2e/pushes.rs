//! What a change costs the proxies of a mesh: istiod sends the endpoints of one service anew, and
//! nothing else, wherever they stand.

use std::thread;
use std::time::Duration;

use landfall_tests::servers::Mesh;
use landfall_tests::servers::istiod::differing;
use landfall_tests::servers::process::wait;
use serde_json::{Value, json};

use crate::{LONG, Place, world};

const HOST: &str = "orders.dc1.mesh";
/// How long nothing may happen for it to be nothing.
const QUIET: Duration = Duration::from_secs(3);

#[test]
fn endpoints_in_a_service_entry_come_and_go_by_themselves() {
    come_and_go("inline", "inline");
}

#[test]
fn workload_entries_come_and_go_by_themselves() {
    come_and_go("selected", "workload-entries");
}

/// Has instances come, go and change, and counts what istiod pushes for that. One keeps the lowest
/// port, which is that of the service: another one of that would be more than a matter of endpoints.
fn come_and_go(name: &'static str, shape: &str) {
    let mut world = world();
    let place = world.place(name);
    let mut config = place.config(world.cluster(), &list(&place, &[instance(2, 7001)]));
    config["resources"] = json!({"shape": shape});
    place.installation.configure(&config);
    let landfall = place.installation.start().ready();
    let mesh = Mesh::start(world.cluster(), &place.folder);
    for (what, instances) in [
        ("one comes", vec![instance(2, 7001), instance(3, 7001)]),
        ("one changes its port", vec![instance(2, 7001), instance(3, 7002)]),
        ("one changes its address", vec![instance(2, 7001), instance(4, 7002)]),
        ("one goes", vec![instance(2, 7001)]),
        ("all go", vec![]),
        ("two come", vec![instance(2, 7001), instance(3, 7001)]),
    ] {
        // What came before has been pushed by then.
        thread::sleep(QUIET);
        let before = mesh.istiod.pushes();
        list(&place, &instances);
        let wanted: Vec<String> = instances.iter().map(endpoint).collect();
        let held = wait(LONG, || (mesh.endpoints(HOST) == wanted).then_some(()));
        held.unwrap_or_else(|| panic!("{what}: Envoy has {:?}", mesh.endpoints(HOST)));
        thread::sleep(QUIET);
        let pushed = differing(&before, mesh.istiod.pushes());
        // Two writes that are further apart than istiod waits are two pushes.
        let only = matches!(&pushed[..], [(kind, 1..=2)] if kind == "eds");
        assert!(only, "{what}: {pushed:?}");
        place.print(format_args!("{what} → {pushed:?}"));
    }
    landfall.stop();
}

fn list(place: &Place, instances: &[Value]) -> Value {
    let service = json!({"name": "orders", "instances": instances});
    place.registry(&[service])
}

fn instance(number: usize, port: u16) -> Value {
    json!({"address": format!("127.0.0.{number}"), "port": port})
}

fn endpoint(instance: &Value) -> String {
    format!("{}:{}", instance["address"].as_str().unwrap_or_default(), instance["port"])
}
