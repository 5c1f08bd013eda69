//! The program between a fake of a registry and a folder of resources. The folder is looked at all
//! the time, so that nothing that must stay can be gone for a moment unseen.
#![allow(clippy::unwrap_used, reason = "part of tests: a failure is theirs")]
#![allow(clippy::missing_panics_doc, reason = "what a machine lacks ends the test")]
#![allow(clippy::disallowed_methods, reason = "what a daemon does is waited for")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::binary::{Program, Running};

/// Longer than anything takes, also after the longest pause of a source that failed for a minute.
pub const WAIT_MAX: Duration = Duration::from_secs(90);
/// How often the folder is looked at. Shorter than any grace time, for which what is gone stays so.
const LOOK: Duration = Duration::from_millis(20);
/// The namespace of all resources.
const NAMESPACE: &str = "mesh";

/// Endpoints as `address:port`, by host. A host without any has an object without endpoints.
pub type Held = BTreeMap<String, BTreeSet<String>>;

/// A guard with which nothing but a want of evidence holds a removal back, and hardly a grace time.
#[must_use]
pub fn eager() -> Value {
    json!({"removalShare": "100%", "removalMin": 1_000_000, "hold": "1s", "grace": "1s"})
}

/// The program with its folder.
#[derive(Debug)]
pub struct Scene {
    folder: TempDir,
    program: Program,
    running: Option<Running>,
    watched: Arc<Watched>,
    watcher: Option<JoinHandle<()>>,
}

/// What the folder must hold, and what it did not.
#[derive(Debug, Default)]
struct Watched {
    must_stay: Mutex<BTreeSet<String>>,
    lost: Mutex<BTreeSet<String>>,
    is_over: AtomicBool,
}

/// The files of a folder, each read again only when it is another one.
#[derive(Debug, Default)]
struct Files(BTreeMap<PathBuf, (Stamp, String, BTreeSet<String>)>);

/// A file is written beside and renamed, so another content is another file.
type Stamp = (u64, i64, i64);

// === impl Scene ===

impl Scene {
    /// The program at `path`, which is to publish `source` as `SERVICE.mesh` into a folder.
    #[must_use]
    pub fn new(path: &str, source: &Value, guard: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut source = source.clone();
        source["name"] = "dc1".into();
        let config = json!({
            "admin": {"listen": "127.0.0.1:0"},
            "sources": [source],
            "defaults": {"host": "{service}.mesh", "namespace": NAMESPACE},
            "sinks": [{"files": {"path": "out"}}],
            "guard": guard,
        });
        fs::write(folder.path().join("landfall.yaml"), config.to_string()).unwrap();
        let program = Program::new(path, folder.path());
        let watched = Arc::new(Watched::default());
        let (seen, out) = (Arc::clone(&watched), folder.path().join("out").join(NAMESPACE));
        let watcher = Some(thread::spawn(move || seen.watch(&out)));
        Self { folder, program, running: None, watched, watcher }
    }

    /// Starts the program.
    pub fn start(&mut self) {
        self.running = Some(self.program.start(&["run"]).unwrap());
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(&mut self) {
        let status = self.running.take().unwrap().stop().unwrap();
        assert!(status.success(), "{status}");
    }

    /// Ends it without asking.
    pub fn kill(&mut self) {
        self.running = None;
    }

    /// What it said so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.running.as_ref().map(Running::log).unwrap_or_default()
    }

    /// What its admin server answers; nothing while it does not listen.
    #[must_use]
    pub fn ask(&self, path: &str) -> String {
        let port = self.running.as_ref().and_then(Running::admin_port);
        let Some(mut stream) = port.and_then(|port| TcpStream::connect(("127.0.0.1", port)).ok())
        else {
            return String::new();
        };
        let mut answer = String::new();
        let head = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        // An answer that ends early is waited for again.
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    /// Waits until `/readyz` says this.
    pub fn until_said(&self, what: &str) {
        until(
            || self.ask("/readyz").contains(what),
            || format!("not said: {what}\n{}\n{}", self.ask("/readyz"), self.log()),
        );
    }

    /// How many steps of this kind it took.
    #[must_use]
    pub fn steps(&self, verb: &str) -> u64 {
        let text = self.ask("/metrics");
        let verb = format!("verb=\"{verb}\"");
        let lines = text.lines().filter(|line| line.starts_with("landfall_steps_total"));
        let fit = lines.filter(|line| line.contains(&verb) && line.contains("outcome=\"done\""));
        fit.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
    }

    /// What the folder holds.
    #[must_use]
    pub fn held(&self) -> Held {
        let mut files = Files::default();
        files.look(&self.out());
        files.held()
    }

    /// The folder of the resources.
    #[must_use]
    pub fn out(&self) -> PathBuf {
        self.folder.path().join("out").join(NAMESPACE)
    }

    /// How many resources there are.
    #[must_use]
    pub fn resources(&self) -> usize {
        // Before anything is written there is no folder.
        fs::read_dir(self.out()).map_or(0, Iterator::count)
    }

    /// Which file stands for each host. Equal as long as nothing is written.
    #[must_use]
    pub fn stamps(&self) -> BTreeMap<PathBuf, Stamp> {
        let mut files = Files::default();
        files.look(&self.out());
        files.0.into_iter().map(|(path, (stamp, ..))| (path, stamp)).collect()
    }

    /// From now on exactly these endpoints must not go, all of which are there.
    pub fn protect(&self, endpoints: BTreeSet<String>) {
        *lock(&self.watched.must_stay) = endpoints;
    }

    /// From now on this endpoint may go.
    pub fn let_go(&self, endpoint: &str) {
        lock(&self.watched.must_stay).remove(endpoint);
    }

    /// The endpoints that were gone at some moment, though they had to stay.
    #[must_use]
    pub fn lost(&self) -> BTreeSet<String> {
        lock(&self.watched.lost).clone()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.watched.is_over.store(true, Ordering::Relaxed);
        if let Some(watcher) = self.watcher.take() {
            // What made it panic was printed.
            let _ = watcher.join();
        }
    }
}

/// Waits until it is so.
pub fn until(mut is_so: impl FnMut() -> bool, failure: impl FnOnce() -> String) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < WAIT_MAX, "{}", failure());
        thread::sleep(LOOK);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Watched ===

impl Watched {
    fn watch(&self, out: &Path) {
        let mut files = Files::default();
        while !self.is_over.load(Ordering::Relaxed) {
            // What may go from now on may be gone already, and what must stay from now on may not
            // have been there when the look began.
            let before = lock(&self.must_stay).clone();
            if before.is_empty() {
                thread::sleep(LOOK);
                continue;
            }
            files.look(out);
            let there: BTreeSet<String> = files.held().into_values().flatten().collect();
            let must_stay = lock(&self.must_stay).clone();
            let lost = before.intersection(&must_stay).filter(|one| !there.contains(*one));
            lock(&self.lost).extend(lost.cloned());
            thread::sleep(LOOK);
        }
    }
}

// === impl Files ===

impl Files {
    fn look(&mut self, out: &Path) {
        // Before anything is written there is no folder.
        let listed = fs::read_dir(out).into_iter().flatten().flatten().map(|file| file.path());
        let is_resource = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.ends_with(".yaml") && !name.starts_with('.')
        };
        let mut now = BTreeMap::new();
        for path in listed.filter(is_resource) {
            // It may be gone, or replaced, since it was listed.
            let Ok(meta) = fs::metadata(&path) else { continue };
            let stamp = (meta.ino(), meta.mtime(), meta.mtime_nsec());
            let known = self.0.remove(&path).filter(|(known, ..)| *known == stamp);
            let read = || fs::read_to_string(&path).ok().map(|text| read(&text));
            let entry = known.or_else(|| read().map(|(host, ends)| (stamp, host, ends)));
            if let Some(entry) = entry {
                now.insert(path, entry);
            }
        }
        self.0 = now;
    }

    fn held(&self) -> Held {
        self.0.values().map(|(_, host, endpoints)| (host.clone(), endpoints.clone())).collect()
    }
}

/// The host of a ServiceEntry, and its endpoints.
fn read(text: &str) -> (String, BTreeSet<String>) {
    let object: Value = serde_saphyr::from_str(text).unwrap();
    assert_eq!(object["kind"], "ServiceEntry", "{text}");
    let spec = &object["spec"];
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut endpoints = BTreeSet::new();
    for endpoint in list(&spec["endpoints"]) {
        for port in list(&spec["ports"]) {
            let name = port["name"].as_str().unwrap_or_default();
            let own = [&endpoint["ports"][name], &port["targetPort"], &port["number"]];
            let number = own.into_iter().find_map(Value::as_u64).unwrap_or_default();
            let address = endpoint["address"].as_str().unwrap_or_default();
            endpoints.insert(format!("{address}:{number}"));
        }
    }
    (spec["hosts"][0].as_str().unwrap_or_default().to_owned(), endpoints)
}
