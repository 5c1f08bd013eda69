//! What the commands that look once make of a registry of which a part cannot be read.

#![allow(clippy::unwrap_used, reason = "a failure ends the test")]

use std::fs;
use std::process::Output;

use landfall_tests::binary::Program;
use landfall_tests::fake_consul::{FakeConsul, Fault, entry};

const LANDFALL: &str = env!("CARGO_BIN_EXE_landfall-under-test");

/// A Consul of two services, one of which cannot be read, and a program that is to read it.
struct Scene {
    consul: FakeConsul,
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let consul = FakeConsul::start();
        consul.register(entry("n1", "pay", "pay-1", "10.0.0.1", 80));
        consul.register(entry("n1", "cart", "cart-1", "10.0.0.2", 80));
        consul.set_fault(Some(Fault::Only("health/service/cart".to_owned(), 500)));
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "sources: [{{name: dc1, consul: {{url: \"{}\"}}}}]\nsinks: [{{files: {{path: out}}}}]\n",
            consul.url()
        );
        fs::write(folder.path().join("landfall.yaml"), config).unwrap();
        Self { consul, folder }
    }

    fn run(&self, args: &[&str]) -> Output {
        Program::new(LANDFALL, self.folder.path()).run(args).unwrap()
    }
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_from_a_part_of_a_registry_says_so() {
    let scene = Scene::new();
    let note = "note: source dc1 is in doubt, so what it lists may be out of date or lack something \
                (consul_status: failed to read service cart";
    for (args, begins) in [(&["plan"][..], note), (&["plan", "-o", "yaml"], &format!("# {note}"))] {
        let text = printed(&scene.run(args));
        assert!(text.starts_with(begins), "{args:?}: {text}");
        assert!(text.contains("pay") && !text.contains("10.0.0.2"), "{args:?}: {text}");
    }
    scene.consul.set_fault(None);
    let text = printed(&scene.run(&["plan", "-o", "yaml"]));
    assert!(text.starts_with("---\n") && text.contains("10.0.0.2"), "{text}");
}

#[test]
fn a_broken_file_of_a_folder_is_told_by_a_plan_and_refused_by_a_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    fs::create_dir(folder.path().join("registry")).unwrap();
    let pay = "services: [{name: pay, instances: [{address: 10.0.0.1, port: 80}]}]\n";
    write("registry/pay.yaml", pay);
    write("registry/cart.yaml", "services: [\n");
    let sources = "sources: [{name: dc1, file: {path: registry}}]\n";
    write("landfall.yaml", &format!("{sources}sinks: [{{files: {{path: out}}}}]\n"));
    let run = |args: &[&str]| Program::new(LANDFALL, folder.path()).run(args).unwrap();
    let plan = printed(&run(&["plan"]));
    assert!(plan.starts_with("note: source dc1 is in doubt"), "{plan}");
    assert!(plan.contains("cart.yaml:1:11: ") && plan.contains("pay"), "{plan}");
    let output = run(&["snapshot"]);
    assert_eq!((output.status.code(), &*output.stdout), (Some(1), &b""[..]), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_registry_is_not_recorded_as_all_of_it() {
    let scene = Scene::new();
    let output = scene.run(&["snapshot"]);
    assert_eq!((output.status.code(), &*output.stdout), (Some(1), &b""[..]), "{output:?}");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("source dc1 is in doubt, so its listing is not printed"), "{told}");
    scene.consul.set_fault(None);
    assert!(printed(&scene.run(&["snapshot"])).contains("name: cart"));
}
