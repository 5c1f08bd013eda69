//! The daemon as whoever operates it meets it: signals, a folder that is taken, and what the log
//! says.

#![allow(clippy::unwrap_used, reason = "a failure ends the test")]
#![allow(clippy::disallowed_methods, reason = "what a daemon says is waited for")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use landfall_tests::binary::{Program, Running};
use landfall_tests::hostile::hostile;
use tempfile::TempDir;

const LANDFALL: &str = env!("CARGO_BIN_EXE_landfall-under-test");
/// A debug build compiles a policy before anything is said of it.
const WAIT_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

const ORDERS: &str = "\
services:
  - name: orders
    instances:
      - {id: orders-1, address: 10.0.0.1, ports: [{name: http, port: 80}]}
";
const FILE: &str = "{name: files, file: {path: registry}}";

struct Scene {
    folder: TempDir,
}

impl Scene {
    /// A folder with a registry of one service, which is published as `orders.mesh`.
    fn new() -> Self {
        let scene = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(scene.path("registry")).unwrap();
        scene.write("registry/orders.yaml", ORDERS);
        scene.configure("{service}.mesh", &[FILE], "");
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn configure(&self, host: &str, sources: &[&str], more: &str) {
        let sources = sources.join(", ");
        let text = format!(
            "admin: {{listen: \"127.0.0.1:0\"}}\nsources: [{sources}]\n\
             defaults: {{host: \"{host}\", namespace: mesh}}\nsinks: [{{files: {{path: out}}}}]\n\
             {more}"
        );
        self.write("landfall.yaml", &text);
    }

    fn program(&self) -> Program {
        Program::new(LANDFALL, self.folder.path())
    }

    fn start(&self) -> Running {
        self.program().start(&["run"]).unwrap()
    }

    fn until_published(&self, host: &str, running: &Running) {
        let file = self.path(&format!("out/mesh/serviceentry-{host}.yaml"));
        until(running, host, || file.exists());
    }
}

fn until(running: &Running, what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < WAIT_MAX, "no {what}: {}", running.log());
        std::thread::sleep(POLL);
    }
}

fn until_said(running: &Running, what: &str) {
    until(running, what, || running.log().contains(what));
}

/// What the admin server says of `path`.
fn get(running: &Running, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", running.admin_port().unwrap())).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A connection that stays open breaks at some time, perhaps while its next request is on its way.
#[test]
fn an_answer_says_that_its_connection_ends() {
    let scene = Scene::new();
    let running = scene.start();
    until(&running, "admin server", || running.admin_port().is_some());
    let kept = "HTTP/1.0\r\nconnection: keep-alive";
    for (path, version) in [
        ("/healthz", "HTTP/1.1"),
        ("/readyz", "HTTP/1.1"),
        ("/metrics", "HTTP/1.1"),
        ("/none", "HTTP/1.1"),
        ("/healthz", kept),
    ] {
        let began = Instant::now();
        let mut stream = TcpStream::connect(("127.0.0.1", running.admin_port().unwrap())).unwrap();
        write!(stream, "GET {path} {version}\r\nhost: a\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(!answer.contains("keep-alive"), "{path}: {answer}");
        let is_said = answer.contains("\r\nconnection: close\r\n");
        assert!(is_said || version == kept, "{path}: {answer}");
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{path} ends after {:?}",
            began.elapsed()
        );
    }
    assert!(running.stop().unwrap().success());
}

#[test]
fn a_hangup_has_the_configuration_read() {
    let scene = Scene::new();
    let mut running = scene.start();
    scene.until_published("orders.mesh", &running);
    scene.configure("{service}.renamed", &[FILE], "");
    running.signal("HUP").unwrap();
    scene.until_published("orders.renamed", &running);
    assert_eq!(running.ended().unwrap(), None);
    // What is no file is not waited for.
    fs::remove_file(scene.path("landfall.yaml")).unwrap();
    let pipe = Command::new("mkfifo").arg(scene.path("landfall.yaml")).status();
    assert!(pipe.unwrap().success());
    running.signal("HUP").unwrap();
    until(&running, "second request", || running.log().matches("Asked by SIGHUP").count() == 2);
    until_said(&running, "it is not a regular file");
    assert!(running.stop().unwrap().success());
}

#[test]
fn a_source_that_goes_with_the_rules_is_not_published_by_the_new_ones() {
    let scene = Scene::new();
    let running = scene.start();
    scene.until_published("orders.mesh", &running);
    let other = FILE.replace("files", "other");
    scene.configure("{service}.{source}.mesh", &[&other], "");
    scene.until_published("orders.other.mesh", &running);
    assert!(!running.log().contains("orders.files.mesh"), "{}", running.log());
    assert!(running.stop().unwrap().success());
}

#[test]
fn who_reads_the_log_no_more_keeps_nobody_from_stopping() {
    let scene = Scene::new();
    let mut command = Command::new(LANDFALL);
    command.current_dir(scene.folder.path()).args(["run", "-c", "landfall.yaml"]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    // Its end closes the pipe.
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut first).unwrap();
    let began = Instant::now();
    let published = scene.path("out/mesh/serviceentry-orders.mesh.yaml");
    let mut is_asked = false;
    while child.try_wait().unwrap().is_none() && began.elapsed() < WAIT_MAX {
        if published.exists() && !is_asked {
            let kill = format!("kill -TERM {}", child.id());
            is_asked = Command::new("sh").args(["-c", &kill]).status().unwrap().success();
        }
        std::thread::sleep(POLL);
    }
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn a_policy_is_said_to_be_refused_beside_what_stands() {
    let scene = Scene::new();
    scene.write("policy.wasm", "no component");
    let policies = "policies: [{name: p, component: {file: policy.wasm}, limits: {time: 5s}}]\n";
    scene.configure("{service}.mesh", &[FILE], policies);
    let running = scene.start();
    until_said(&running, "Policy refused, and none was at work before");
    let replace = |bytes: &[u8]| {
        fs::write(scene.path("new.wasm"), bytes).unwrap();
        fs::rename(scene.path("new.wasm"), scene.path("policy.wasm")).unwrap();
    };
    replace(&hostile("harmless"));
    until_said(&running, "Policy at work");
    assert!(!running.log().contains("the one before stays"), "{}", running.log());
    replace(b"no component either");
    until_said(&running, "Policy refused; the one before stays at work");
}

#[test]
fn two_daemons_do_not_fight_over_a_folder() {
    let scene = Scene::new();
    let first = scene.start();
    scene.until_published("orders.mesh", &first);
    let second = scene.start();
    until_said(&second, "files_locked");
    assert!(second.log().contains("another Landfall with owner default writes to"));
    // Who only looks needs no lock.
    let plan = scene.program().run(&["plan", "--exit-code"]).unwrap();
    assert!(plan.status.success(), "{plan:?}");
    assert!(first.stop().unwrap().success());
    scene.write("registry/pay.yaml", &ORDERS.replace("orders", "pay"));
    scene.until_published("pay.mesh", &second);
    assert!(second.log().contains("Sink can be used again"), "{}", second.log());
}

#[test]
fn what_keeps_a_source_from_beginning_is_said() {
    let scene = Scene::new();
    scene.write("registry/broken.yaml", "services:\n  - name: [\n");
    let pipe = Command::new("mkfifo").arg(scene.path("token")).status();
    assert!(pipe.unwrap().success());
    scene.write("whole.yaml", &ORDERS.replace("orders", "pay"));
    let whole = "{name: whole, file: {path: whole.yaml}}";
    let consul = "{name: dc1, consul: {url: \"http://127.0.0.1:1\", tokenFile: token}}";
    scene.configure("{service}.mesh", &[FILE, whole, consul], "");
    let running = scene.start();
    // Neither keeps another one waiting, and one file of a folder no other.
    scene.until_published("pay.mesh", &running);
    scene.until_published("orders.mesh", &running);
    until_said(&running, "source=files code=\"file_syntax\"");
    assert!(running.log().contains("broken.yaml"), "{}", running.log());
    until_said(&running, "token: it is not a regular file");
    assert!(running.stop().unwrap().success());
}

#[test]
fn a_broken_file_at_the_start_has_nothing_removed_and_no_other_file_wait() {
    let scene = Scene::new();
    scene.write("registry/pay.yaml", &ORDERS.replace("orders", "pay"));
    let first = scene.start();
    ["orders.mesh", "pay.mesh"].iter().for_each(|host| scene.until_published(host, &first));
    assert!(first.stop().unwrap().success());
    scene.write("registry/pay.yaml", "services:\n  - name: [\n");
    let second = scene.start();
    until_said(&second, "source=files code=\"file_syntax\"");
    scene.write("registry/orders.yaml", &ORDERS.replace("orders", "cart"));
    scene.until_published("cart.mesh", &second);
    for host in ["orders.mesh", "pay.mesh"] {
        let file = scene.path(&format!("out/mesh/serviceentry-{host}.yaml"));
        assert!(file.exists(), "{host}: {}", second.log());
    }
    assert!(second.stop().unwrap().success());
}

#[test]
fn a_source_that_gets_another_name_loses_nothing() {
    let scene = Scene::new();
    let running = scene.start();
    scene.until_published("orders.mesh", &running);
    let file = scene.path("out/mesh/serviceentry-orders.mesh.yaml");
    for turn in 0..4 {
        let name = format!("name{turn}");
        scene.configure(
            "{service}.mesh",
            &[&FILE.replace("name: files", &format!("name: {name}"))],
            "",
        );
        until(&running, &name, || {
            let text = fs::read_to_string(&file).unwrap_or_default();
            assert!(text.contains("10.0.0.1"), "{name}: {text}");
            text.contains(&name)
        });
    }
    assert!(running.stop().unwrap().success());
}

#[test]
fn a_control_plane_is_told_nothing_while_a_source_is_in_doubt_and_nothing_was_told_before() {
    let scene = Scene::new();
    scene.write("registry/broken.yaml", "services:\n  - name: [\n");
    scene.configure("{service}.mesh", &[FILE], "");
    let text = fs::read_to_string(scene.path("landfall.yaml")).unwrap();
    let sink = "{mcp: {listen: \"127.0.0.1:0\", journal: served.jsonl}}";
    scene.write("landfall.yaml", &text.replace("{files: {path: out}}", sink));
    let running = scene.start();
    until_said(&running, "source=files code=\"file_syntax\"");
    let served = || fs::read_to_string(scene.path("served.jsonl")).unwrap_or_default();
    until(&running, "what can be served", || served().contains("orders.mesh"));
    // Longer than a round that nothing wakes takes to come.
    std::thread::sleep(Duration::from_secs(6));
    assert!(!served().contains("\"told\""), "{}", served());
    scene.write("registry/broken.yaml", "services: []\n");
    until(&running, "state that is told", || served().contains("\"told\""));
    assert!(running.stop().unwrap().success());
}

#[test]
fn who_else_claims_a_host_in_a_folder_is_told() {
    let scene = Scene::new();
    let running = scene.start();
    scene.until_published("orders.mesh", &running);
    let ours = fs::read_to_string(scene.path("out/mesh/serviceentry-orders.mesh.yaml")).unwrap();
    let theirs =
        ours.replace("name: orders.mesh", "name: theirs").replace("landfall.dev/owner", "a");
    scene.write("out/theirs.yaml", &theirs);
    let ready = || get(&running, "/readyz");
    let told = "host orders.mesh is claimed by ServiceEntry mesh/theirs too";
    until(&running, "claim", || ready().contains(told));
    fs::remove_file(scene.path("out/theirs.yaml")).unwrap();
    until(&running, "end of the claim", || !ready().contains("claimed"));
    assert!(running.stop().unwrap().success());
}

#[test]
fn what_is_refused_is_said_until_it_is_mended() {
    let scene = Scene::new();
    let policies = "policies: [{name: p, component: {file: policy.wasm}, limits: {time: 2s}}]";
    let put = |bytes: &[u8]| {
        fs::write(scene.path("new.wasm"), bytes).unwrap();
        fs::rename(scene.path("new.wasm"), scene.path("policy.wasm")).unwrap();
    };
    put(&hostile("harmless"));
    scene.configure("{service}.mesh", &[FILE], policies);
    let running = scene.start();
    scene.until_published("orders.mesh", &running);
    let ready = || get(&running, "/readyz");
    let until_ready = |what: &str, is_so: &dyn Fn(&str) -> bool| {
        until(&running, what, || is_so(&ready()));
    };
    put(b"no component");
    until_ready("refusal of the policy", &|said| {
        said.contains("200") && said.contains("policy p: what is offered for it was refused: ")
    });
    put(&hostile("harmless"));
    until_ready("policy that is mended", &|said| !said.contains("refused"));
    fs::rename(scene.path("policy.wasm"), scene.path("elsewhere.wasm")).unwrap();
    until_ready("missing policy", &|said| said.contains("policy p: ") && said.contains("No such"));
    fs::rename(scene.path("elsewhere.wasm"), scene.path("policy.wasm")).unwrap();
    until_ready("policy that is back as it was", &|said| !said.contains("refused"));
    scene.write("landfall.yaml", "sources: many");
    until_ready("refusal of the configuration", &|said| {
        said.contains("200")
            && said.contains("the configuration was refused and the last one stays")
    });
    scene.configure("{service}.mesh", &[FILE], policies);
    until_ready("configuration that is mended", &|said| !said.contains("refused"));
    let configuration = fs::read(scene.path("landfall.yaml")).unwrap();
    fs::remove_file(scene.path("landfall.yaml")).unwrap();
    until_ready("missing configuration", &|said| said.contains("No such file"));
    fs::write(scene.path("landfall.yaml"), configuration).unwrap();
    until_ready("configuration that is back", &|said| !said.contains("refused"));
    assert!(running.stop().unwrap().success());
}
