//! The program over a registry of files and a folder of resources.

#![allow(clippy::unwrap_used, reason = "a failure ends the test")]
#![allow(clippy::disallowed_methods, reason = "what is promised of time is measured")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use landfall_tests::binary::Program;
use landfall_tests::hostile::hostile;
use tempfile::TempDir;

const LANDFALL: &str = env!("CARGO_BIN_EXE_landfall-under-test");
/// A debug build compiles a policy before anything is written.
const WAIT_MAX: Duration = Duration::from_secs(60);

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
        "admin: {{listen: \"127.0.0.1:0\"}}\nsources:\n{sources}defaults: {{host: \"{host}\", namespace: mesh}}\n\
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
        let published = scene.wait_until(|out| out.len() >= 2);
        assert!(published.is_some(), "{}", running.log());
        running.stop().unwrap();
        scene
    }

    /// The resources by the names of their files.
    fn out(&self) -> BTreeMap<String, String> {
        let Ok(files) = fs::read_dir(self.folder.path().join("out/mesh")) else {
            return BTreeMap::new();
        };
        let named = files.flatten().filter_map(|file| {
            let text = fs::read_to_string(file.path()).ok()?;
            Some((file.file_name().into_string().ok()?, text))
        });
        named.filter(|(name, _)| !name.starts_with('.')).collect()
    }

    /// Waits until the resources are so, and says how long it took; `None` when it takes too long.
    fn wait_until(&self, are_so: impl Fn(&BTreeMap<String, String>) -> bool) -> Option<Duration> {
        let began = Instant::now();
        while began.elapsed() < WAIT_MAX {
            if are_so(&self.out()) {
                return Some(began.elapsed());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
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

const GONE: &str = "  - {name: gone, file: {path: nowhere.yaml}}\n";
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
fn what_a_sink_holds_beside_what_is_listed_is_explained() {
    let scene = Scene::published();
    let list = |numbers: std::ops::Range<u8>| {
        let mut text = "services:\n  - name: many\n    instances:\n".to_owned();
        for n in numbers {
            let port = "ports: [{name: http, port: 80}]";
            writeln!(text, "      - {{id: i-{n}, address: 10.0.0.{n}, {port}}}").unwrap();
        }
        text
    };
    scene.write("registry.yaml", &list(1..31));
    let running = scene.program().start(&["run"]).unwrap();
    let all = scene.wait_until(|out| out.values().any(|text| text.contains("10.0.0.30")));
    assert!(all.is_some(), "{}", running.log());
    running.stop().unwrap();
    scene.write("registry.yaml", &list(18..32));
    let held = "sink files:out: ServiceEntry mesh/many.mesh: held update: ";
    let left_over = "sink files:out holds 17 endpoints of it, not wanted any more: 10.0.0.1, \
                     10.0.0.10, 10.0.0.11, 10.0.0.12, 10.0.0.13, 10.0.0.14, 10.0.0.15, 10.0.0.16, \
                     10.0.0.17, 10.0.0.2 and 7 more\n";
    let (text, _) = scene.run(&["explain", "many.mesh"]);
    assert!(text.contains(held) && text.contains(left_over), "{text}");
    let lacking = "sink files:out does not hold 1 of its endpoints: 10.0.0.31\n";
    assert!(text.contains(lacking), "{text}");
    // An instance that nothing is known of but that its service is published.
    let (text, succeeded) = scene.run(&["explain", "dc1/many/i-1"]);
    assert!(succeeded && text.starts_with("dc1/many/i-1 is not listed"), "{text}");
    assert!(text.contains(held) && text.contains(left_over), "{text}");
    let (_, succeeded) = scene.run(&["explain", "dc1/any/i-1"]);
    assert!(!succeeded);
}

#[test]
fn what_somebody_else_keeps_out_is_not_said_to_be_published() {
    let scene = Scene::published();
    let theirs = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: \
                  orders.moved, namespace: mesh}\nspec: {hosts: [a.b], resolution: STATIC}\n";
    scene.write("out/mesh/serviceentry-orders.moved.yaml", theirs);
    scene.write("landfall.yaml", &config("{service}.moved", FILE));
    let (text, _) = scene.run(&["explain", "dc1/orders/orders-1"]);
    let place =
        "\nin no sink, though it belongs in ServiceEntry mesh/orders.moved, endpoint 1 of 1\n";
    assert!(text.contains(place), "{text}");
    assert!(text.contains("somebody else's object stands there"), "{text}");
    let (text, _) = scene.run(&["explain", "dc1/pay/pay-1"]);
    assert!(
        text.contains("\npublished in ServiceEntry mesh/pay.moved, endpoint 1 of 1\n"),
        "{text}"
    );
}

#[test]
fn a_host_is_explained_while_a_source_is_down() {
    let scene = Scene::published();
    let sources = format!("{FILE}{GONE}");
    scene.write("landfall.yaml", &config("{service}.mesh", &sources));
    let (text, succeeded) = scene.run(&["explain", "orders.mesh"]);
    assert!(succeeded, "{text}");
    assert!(text.contains("note: source gone is in doubt, so nothing of what it lists"), "{text}");
    assert!(text.contains("orders.mesh in namespace mesh\n  10.0.0.1"), "{text}");
    // What a source publishes that does not answer is not taken for unwanted.
    scene.write("landfall.yaml", &config("{service}.mesh", GONE));
    let (text, succeeded) = scene.run(&["explain", "orders.mesh"]);
    assert!(succeeded, "{text}");
    assert!(text.contains("not known to be wanted"), "{text}");
    assert!(!text.contains("not wanted any more"), "{text}");
    let (text, succeeded) = scene.run(&["explain", "nothing.mesh"]);
    assert!(!succeeded);
    assert!(text.contains("source gone"), "it may be there: {text}");
    assert!(text.contains("\"nothing.mesh\" is neither a host"), "{text}");
}

#[test]
fn what_is_registered_forges_no_line() {
    let scene = Scene::published();
    let (text, _) = scene.run(&["explain", "dc1/orders/orders-1"]);
    assert!(text.contains("  meta      note=a\\nfinding: forged\n"), "{text}");
    assert!(!text.lines().any(|line| line.starts_with("finding:")), "{text}");
}

/// A registry of so many services.
fn many(count: usize) -> String {
    let mut text = String::from("services:\n");
    for index in 0..count {
        let _ = write!(
            text,
            "  - name: service-{index}\n    instances:\n      - {{id: one, address: 10.0.1.{}, \
             port: 80}}\n",
            1 + index % 250
        );
    }
    text
}

#[test]
fn a_plan_shows_all_steps() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene { folder };
    scene.write("registry.yaml", &many(200));
    scene.write("landfall.yaml", &config("{service}.mesh", FILE));
    let (text, _) = scene.run(&["plan"]);
    let head = "sink files:out: 200 to do, 0 held, 0 blocked, 0 outside, 0 waiting, 0 as they";
    assert!(text.contains(head), "{}", text.lines().next().unwrap_or_default());
    assert_eq!(text.lines().filter(|line| line.starts_with("create ")).count(), 200);
}

#[test]
fn only_what_is_in_a_cluster_is_adopted() {
    let scene = Scene::published();
    let (text, succeeded) = scene.run(&["adopt", "--name", "mesh/orders.mesh", "--yes"]);
    assert!(!succeeded && text.contains("and sink files:out is none"), "{text}");
    let (text, _) = scene.run(&["adopt", "--selector", "a=b", "--sink", "kubernetes"]);
    assert!(text.contains("there is no sink \"kubernetes\"; there are: files:out"), "{text}");
    for args in [&["adopt"][..], &["adopt", "--yes"], &["adopt", "--selector", "!a", "--yes"]] {
        assert_eq!(scene.program().run(args).unwrap().status.code(), Some(2), "{args:?}");
    }
    let several = "  - kubernetes: {context: a}\n  - kubernetes: {context: b, namespaces: [c]}\n";
    scene.write("landfall.yaml", &(config("{service}.mesh", FILE) + several + "owner: me\n"));
    let (text, _) = scene.run(&["adopt", "--selector", "a=b"]);
    assert!(text.contains("choose with --sink: kubernetes:a, kubernetes:b/c"), "{text}");
}

#[test]
fn a_slow_candidate_keeps_nobody_waiting() {
    let scene = Scene { folder: tempfile::tempdir().unwrap() };
    scene.write("registry.yaml", &many(1000));
    fs::write(scene.folder.path().join("policy.wasm"), hostile("harmless")).unwrap();
    // Each call may take long, for the machine may be busy.
    let policies = "policies:\n  - {name: p, component: {file: policy.wasm}, limits: {time: 2s}}\n";
    scene.write("landfall.yaml", &(config("{service}.mesh", FILE) + policies));
    let running = scene.program().start(&["run"]).unwrap();
    assert!(scene.wait_until(|out| out.len() == 1000).is_some(), "{}", running.log());

    fs::write(scene.folder.path().join("new.wasm"), hostile("slow-decide")).unwrap();
    let place = |name| scene.folder.path().join(name);
    fs::rename(place("new.wasm"), place("policy.wasm")).unwrap();
    let began = Instant::now();
    let told = |running: &landfall_tests::binary::Running| {
        let log = running.log();
        log.matches("Policy at work").count() + log.matches("Policy refused").count()
    };
    let mut changes = 0;
    let mut slowest = Duration::ZERO;
    while told(&running) < 2 && began.elapsed() < WAIT_MAX {
        changes += 1;
        let text = many(1000).replacen("10.0.1.1,", &format!("10.9.0.{},", changes % 250), 1);
        scene.write("registry.new", &text);
        fs::rename(place("registry.new"), place("registry.yaml")).unwrap();
        let address = format!("10.9.0.{}\"", changes % 250);
        let name = "serviceentry-service-0.mesh.yaml";
        let is_there = |out: &BTreeMap<String, String>| {
            out.iter().any(|(file, text)| file.ends_with(name) && text.contains(&address))
        };
        let took = scene.wait_until(is_there);
        slowest = slowest.max(took.unwrap());
    }
    let judged_in = began.elapsed();
    assert!(judged_in > Duration::from_secs(2), "{judged_in:?} is not slow");
    assert!(slowest * 2 < judged_in, "{slowest:?} of {judged_in:?}");
}

#[test]
fn connections_that_say_nothing_keep_nobody_out() {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;
    let scene = Scene { folder: tempfile::tempdir().unwrap() };
    scene.write("registry.yaml", REGISTRY);
    scene.write("landfall.yaml", &config("{service}.mesh", FILE));
    let running = scene.program().start(&["run"]).unwrap();
    assert!(scene.wait_until(|out| out.len() == 2).is_some(), "{}", running.log());
    let log = running.log();
    let port = log.split("address=127.0.0.1:").nth(1).unwrap();
    let port: u16 = port.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
    let silent: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.write_all(b"GET /hea").unwrap();
            stream
        })
        .collect();
    let open = fs::read_dir(format!("/proc/{}/fd", running.id())).unwrap().count();
    assert!(open < 150, "{open} file descriptors");
    // Those go when their time is over, and the next ones wait for that.
    let mut asked = TcpStream::connect(("127.0.0.1", port)).unwrap();
    asked.set_read_timeout(Some(WAIT_MAX)).unwrap();
    asked.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    let _ = asked.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
    drop(silent);
}
