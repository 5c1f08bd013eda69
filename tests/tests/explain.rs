//! `landfall explain` and `landfall plan` over a registry of files and a folder of resources.

#![allow(clippy::unwrap_used, reason = "a failure ends the test")]

use std::fs;
use std::time::Duration;

use landfall_tests::binary::Program;
use tempfile::TempDir;

const LANDFALL: &str = env!("CARGO_BIN_EXE_landfall-under-test");

const REGISTRY: &str = "\
services:
  - name: orders
    instances:
      - {id: orders-1, address: 10.0.0.1, ports: [{name: http, port: 80}], meta: {note: \"a\\nfinding: forged\"}}
  - name: pay
    instances:
      - {id: pay-1, address: 10.0.0.2, ports: [{name: http, port: 80}]}
";

fn config(host: &str, sources: &str) -> String {
    format!(
        "sources:\n{sources}defaults: {{host: \"{host}\", namespace: mesh}}\n\
         sinks:\n  - files: {{path: out}}\n"
    )
}

struct Scene {
    folder: TempDir,
}

impl Scene {
    /// A folder in which both services are published as `SERVICE.mesh`.
    fn published() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let scene = Self { folder };
        scene.write("registry.yaml", REGISTRY);
        scene.write("landfall.yaml", &config("{service}.mesh", FILE));
        let running = scene.program().start(&["run"]).unwrap();
        let entries = scene.folder.path().join("out/mesh");
        for _ in 0..2000 {
            let count = fs::read_dir(&entries).map_or(0, |files| files.flatten().count());
            if count >= 2 {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        running.stop().unwrap();
        scene
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn program(&self) -> Program {
        Program::new(LANDFALL, self.folder.path())
    }

    /// What a command prints, and whether it succeeds.
    fn run(&self, args: &[&str]) -> (String, bool) {
        let output = self.program().run(args).unwrap();
        let text = [output.stdout, output.stderr].concat();
        (String::from_utf8(text).unwrap(), output.status.success())
    }
}

const FILE: &str = "  - {name: dc1, file: {path: registry.yaml}}\n";

#[test]
fn a_host_is_explained_with_what_sinks_hold_of_it() {
    let scene = Scene::published();
    let (text, _) = scene.run(&["explain", "orders.mesh"]);
    assert!(text.contains("orders.mesh in namespace mesh\n  10.0.0.1"), "{text}");
    assert!(text.contains(": as it should be\n"), "{text}");

    // Published elsewhere from now on: the old host waits for its clients.
    scene.write("landfall.yaml", &config("{service}.moved", FILE));
    let (text, _) = scene.run(&["explain", "orders.moved"]);
    assert!(text.contains(": create is due\n"), "{text}");
    let (text, _) = scene.run(&["explain", "orders.mesh"]);
    let held = "not wanted any more, in sink files:out: held empty: its endpoints moved";
    assert!(text.contains(held), "{text}");
    assert!(text.contains("address: \"10.0.0.1\"\n"), "as it is there: {text}");
}

#[test]
fn a_host_is_explained_while_a_source_is_down() {
    let scene = Scene::published();
    let sources = format!("{FILE}  - {{name: gone, file: {{path: nowhere.yaml}}}}\n");
    scene.write("landfall.yaml", &config("{service}.mesh", &sources));
    let (text, succeeded) = scene.run(&["explain", "orders.mesh"]);
    assert!(succeeded, "{text}");
    assert!(text.contains("note: source gone is in doubt, so nothing of what it lists"), "{text}");
    assert!(text.contains("orders.mesh in namespace mesh\n  10.0.0.1"), "{text}");
    let (text, succeeded) = scene.run(&["explain", "nothing.mesh"]);
    assert!(!succeeded);
    assert!(text.contains("source gone"), "it may be there: {text}");
    assert!(text.contains("\"nothing.mesh\" is neither a host"), "{text}");
}

#[test]
fn what_is_registered_forges_no_line() {
    let scene = Scene::published();
    let (text, _) = scene.run(&["explain", "dc1/orders/orders-1"]);
    assert!(text.contains("  meta      note=a\\u{a}finding: forged\n"), "{text}");
    assert!(!text.lines().any(|line| line.starts_with("finding:")), "{text}");
}
