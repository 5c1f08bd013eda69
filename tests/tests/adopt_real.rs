//! `landfall adopt` against a real kube-apiserver, with what consul2istio wrote and the rights of
//! `deploy/rbac.yaml`. `make e2e` installs what it needs.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use landfall_mesh::api::{Owner, from_json};
use landfall_mesh::kube::adopt::{Selection, Whose};
use landfall_mesh::kube::{Connection, KubeOptions, KubeSink, connect};
use landfall_tests::binary::Program;
use landfall_tests::hostile::hostile;
use landfall_tests::repository::component;
use landfall_tests::servers::cluster::service_entries;
use landfall_tests::servers::http::block;
use landfall_tests::servers::{Cluster, process};
use serde_json::{Value, json};
use tempfile::TempDir;

const LANDFALL: &str = env!("CARGO_BIN_EXE_landfall-under-test");
const PATIENCE: Duration = Duration::from_secs(60);
const NAMESPACE: &str = "istio-system";
const REGISTRY: &str = include_str!("../fixtures/bridges/consul.yaml");
const WRITTEN: &str = include_str!("../fixtures/bridges/consul2istio.yaml");
const SELECTOR: [&str; 3] = ["adopt", "--selector", "manager=Aeraki,registry=consul"];

/// A cluster with what the bridge wrote, and a Landfall that is to take its place.
struct Scene {
    server: Cluster,
    folder: TempDir,
}

#[test]
fn what_a_bridge_wrote_is_adopted() {
    let scene = Scene::new();
    let wanted = scene.wanted();
    for document in serde_saphyr::from_multiple::<Value>(WRITTEN).unwrap() {
        scene.write(document);
    }
    // One is written as Landfall would, one has an owner and a field that nobody wants.
    let mut equal = wanted["torn"].clone();
    equal["metadata"] = json!({
        "name": "torn",
        "namespace": NAMESPACE,
        "labels": {"manager": "Aeraki", "registry": "consul"},
    });
    scene.server.delete(&path("torn"));
    scene.write(equal);
    let owner = json!({"apiVersion": "a.b/v1", "kind": "Bridge", "name": "b", "uid": "1-2"});
    let edit = json!({
        "metadata": {"ownerReferences": [owner]},
        "spec": {"addresses": ["10.0.0.1"], "exportTo": ["*"]},
    });
    scene.server.edit(&path("web"), &edit);
    // One is another Landfall's, and one was not selected.
    let other = json!({"metadata": {"labels": {"landfall.dev/owner": "other"}}});
    scene.server.edit(&path("legacy"), &other);
    let mut by_hand = wanted["odd-name-qo5r4jdg"].clone();
    by_hand["metadata"] = json!({"name": "odd-name-qo5r4jdg", "namespace": NAMESPACE});
    scene.write(by_hand);
    let before = scene.objects();

    let (text, code) = scene.run(&SELECTOR);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("equal ServiceEntry istio-system/torn: only our mark is added"),
        "{text}"
    );
    assert!(text.contains("update ServiceEntry istio-system/web\n"), "{text}");
    assert!(text.contains("\n  -  addresses:\n  -  - \"10.0.0.1\"\n"), "{text}");
    assert!(text.contains("\n  without its owner Bridge b, "), "{text}");
    assert!(text.contains("not wanted: ServiceEntry istio-system/consul is left alone"), "{text}");
    let refused =
        "refused ServiceEntry istio-system/legacy: it is of another Landfall (owner other)";
    assert!(text.contains(refused), "{text}");
    assert!(!text.contains("odd-name"), "{text}");
    assert_eq!(scene.objects(), before, "nothing is written without --yes");
    let with_code = [&SELECTOR[..], &["--exit-code"]].concat();
    assert_eq!(scene.run(&with_code).1, Some(2));

    let (text, code) = scene.run(&[&SELECTOR[..], &["--yes"]].concat());
    assert_eq!(code, Some(1), "one was refused: {text}");
    let after = scene.objects();
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (name, object) in &after {
        let (old, new) = (&before[name]["metadata"], &object["metadata"]);
        for field in ["uid", "creationTimestamp"] {
            assert_eq!(old[field], new[field], "{name} is made anew");
        }
        let is_adopted = new["labels"]["landfall.dev/owner"] == "home";
        let is_left = ["consul", "legacy", "odd-name-qo5r4jdg"].contains(&name.as_str());
        assert_eq!(is_adopted, !is_left, "{name}");
        if is_left {
            assert_eq!(before[name], *object);
        } else {
            assert_eq!(new["labels"]["manager"], "Aeraki");
            assert_eq!(object["spec"], wanted[name]["spec"], "{name}");
        }
    }
    assert_eq!(before["torn"]["metadata"]["generation"], after["torn"]["metadata"]["generation"]);
    assert!(after["web"]["metadata"]["ownerReferences"].is_null());
    let (text, _) = scene.run(&SELECTOR);
    assert!(text.contains("already ours: ServiceEntry istio-system/web is left alone"), "{text}");

    // The daemon makes what is missing, and writes none of those.
    let running = scene.program().start(&["run"]).unwrap();
    let is_made = || scene.server.get(&path("outside")).map(drop);
    process::wait(PATIENCE, is_made).unwrap_or_else(|| panic!("{}", running.log()));
    std::thread::sleep(Duration::from_secs(2));
    running.stop().unwrap();
    let mut last = scene.objects();
    last.retain(|name, _| after.contains_key(name));
    assert_eq!(last, after);
}

#[test]
fn nothing_is_lost_or_overwritten_by_adopting() {
    let scene = Scene::new();
    let wanted = scene.wanted();
    for document in serde_saphyr::from_multiple::<Value>(WRITTEN).unwrap() {
        scene.write(document);
    }
    // What changed after it was shown is left alone.
    let connection =
        Connection { kubeconfig: Some(scene.server.admin_kubeconfig()), context: None };
    let selection = Selection::Name(NAMESPACE.into(), "web".into());
    let (sink, found) = block(async {
        let client = connect(&connection).await.unwrap();
        let sink = Arc::new(KubeSink::new(client, KubeOptions::new(Owner::parse("home").unwrap())));
        let found = sink.find(&selection).await.unwrap();
        (sink, found)
    });
    let [found] = &found[..] else { panic!("{found:?}") };
    assert_eq!((&found.whose, found.is_readable), (&Whose::Foreign, true));
    let edited = scene.server.edit(&path("web"), &json!({"spec": {"addresses": ["10.0.0.9"]}}));
    let to = Arc::new(from_json(wanted["web"].clone()).unwrap().object);
    let outcome = block(sink.adopt(found, &to));
    assert_eq!(outcome.code(), "conflict", "{outcome:?}");
    assert_eq!(scene.server.get(&path("web")).unwrap(), edited);

    // While a policy has not decided all that may feed it, nothing of it goes.
    let more = json!({"spec": {"endpoints": [{"address": "10.7.7.7"}]}});
    scene.server.edit(&path("thrift"), &more);
    let folder = scene.folder.path();
    let poison = "    instances:\n      - {id: poison, address: 10.8.8.8, port: 80}\n";
    let (head, tail) = REGISTRY.split_once("  - name: thrift\n").unwrap();
    let registry =
        format!("{head}  - name: thrift\n{}", tail.replacen("    instances:\n", poison, 1));
    fs::write(folder.join("registry.yaml"), registry).unwrap();
    fs::write(folder.join("trap.wasm"), hostile("trap-on-poison")).unwrap();
    let config = fs::read_to_string(folder.join("landfall.yaml")).unwrap();
    let trap = "  - {name: trap, component: {file: trap.wasm}, limits: {time: 2s}}\nsinks:\n";
    fs::write(folder.join("landfall.yaml"), config.replacen("sinks:\n", trap, 1)).unwrap();
    let names = ["thrift", "orders", "nowhere"].map(|name| format!("{NAMESPACE}/{name}"));
    let names = names.iter().flat_map(|name| ["--name", name.as_str()]);
    let args: Vec<&str> = ["adopt", "--yes"].into_iter().chain(names).collect();
    let before = scene.objects();
    let (text, code) = scene.run(&args);
    assert_eq!(code, Some(1), "{text}");
    let held =
        "refused ServiceEntry istio-system/thrift: it would lose something, and a policy has";
    assert!(text.contains(held), "{text}");
    assert!(text.contains("adopted ServiceEntry istio-system/orders"), "{text}");
    assert!(text.contains("nothing is selected by istio-system/nowhere"), "{text}");
    assert_eq!(scene.objects()["thrift"], before["thrift"]);
}

// === impl Scene ===

impl Scene {
    fn new() -> Self {
        let server = Cluster::start(&process::folder());
        server.open_namespace(NAMESPACE);
        let folder = tempfile::tempdir().unwrap();
        let component = component("bridge-presets");
        let config = format!(
            "owner: home\n\
             admin: {{listen: \"127.0.0.1:0\"}}\n\
             sources:\n  - {{name: dc1, file: {{path: registry.yaml}}}}\n\
             defaults: {{health: [passing, warning, critical, maintenance, unknown]}}\n\
             policies:\n  - {{name: bridge, component: {{file: {}}}, config: {{preset: consul2istio}}, limits: {{time: 2s}}}}\n\
             sinks:\n  - kubernetes: {{kubeconfig: {}}}\n",
            json!(component),
            json!(server.kubeconfig()),
        );
        fs::write(folder.path().join("landfall.yaml"), config).unwrap();
        fs::write(folder.path().join("registry.yaml"), REGISTRY).unwrap();
        Self { server, folder }
    }

    fn program(&self) -> Program {
        Program::new(LANDFALL, self.folder.path())
    }

    /// What a command prints, and how it ends.
    fn run(&self, args: &[&str]) -> (String, Option<i32>) {
        let output = self.program().run(args).unwrap();
        let text = [output.stdout, output.stderr].concat();
        (String::from_utf8(text).unwrap(), output.status.code())
    }

    /// What Landfall would write, by name.
    fn wanted(&self) -> BTreeMap<String, Value> {
        let output = self.program().run(&["plan", "--output", "yaml"]).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        by_name(serde_saphyr::from_multiple(&text).unwrap())
    }

    /// Makes an object as the bridge did, which knew no server-side apply.
    fn write(&self, mut object: Value) {
        object["apiVersion"] = "networking.istio.io/v1".into();
        object["kind"] = "ServiceEntry".into();
        let folder = format!("{}?fieldManager=consul2istio", service_entries(NAMESPACE));
        let headers = [("content-type", "application/json")];
        let reply = self.server.admin.send("POST", &folder, &headers, object.to_string()).unwrap();
        assert_eq!(reply.status, 201, "{}", reply.body);
    }

    fn objects(&self) -> BTreeMap<String, Value> {
        by_name(self.server.list(&service_entries(NAMESPACE)))
    }
}

fn by_name(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap().to_owned();
    objects.into_iter().map(|object| (name(&object), object)).collect()
}

fn path(name: &str) -> String {
    format!("{}/{name}", service_entries(NAMESPACE))
}
