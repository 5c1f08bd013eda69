//! Landfall between real servers: Consul before it; kube-apiserver, istiod and Envoy behind it.
//!
//! One control plane serves all tests, each in a namespace and with an owner's mark of its own.
//! They run one after another, for what they measure is time. `make e2e` installs what they need.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "what is promised of time is measured")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the figures are for people")]

mod ambient;
mod cost;
mod doubt;
mod heal;
mod judged;
mod mutations;
mod owned;
mod planes;
mod pushes;
mod refused;
mod roads;
mod route;
mod swap;

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use landfall_tests::servers::cluster::{service_entries, workload_entries};
use landfall_tests::servers::daemon::Installation;
use landfall_tests::servers::{Cluster, Mesh, process};
use serde_json::{Value, json};

/// The program, with the features that the tests have.
const LANDFALL: &str = env!("CARGO_BIN_EXE_landfall-under-test");
/// Longer than anything takes that is not promised to be quick.
const LONG: Duration = Duration::from_secs(30);

/// What all tests share.
struct World {
    cluster: Cluster,
    /// Only while traffic is sent: it takes time from the others.
    mesh: Option<Mesh>,
    folder: PathBuf,
    /// Namespaces of the tests before, whose resources istiod need not carry any more.
    left: Vec<String>,
}

/// The world, for one test alone.
struct Lease(MutexGuard<'static, Option<World>>);

/// A test's place in the world: a namespace, a folder and an owner's mark of its own.
struct Place {
    name: &'static str,
    /// The namespace of the resources.
    namespace: String,
    installation: Installation,
    folder: PathBuf,
}

fn world() -> Lease {
    static WORLD: Mutex<Option<World>> = Mutex::new(None);
    let mut world = WORLD.lock().unwrap_or_else(PoisonError::into_inner);
    if world.is_none() {
        let folder = process::folder();
        let cluster = Cluster::start(&folder);
        *world = Some(World { cluster, mesh: None, folder, left: Vec::new() });
    }
    Lease(world)
}

// === impl Lease ===

impl Lease {
    fn world(&self) -> &World {
        self.0.as_ref().expect("made with the lease")
    }

    fn world_mut(&mut self) -> &mut World {
        self.0.as_mut().expect("made with the lease")
    }

    fn cluster(&self) -> &Cluster {
        &self.world().cluster
    }

    /// The mesh, started with its first use.
    fn start_mesh(&mut self) {
        let world = self.world_mut();
        if world.mesh.is_none() {
            world.mesh = Some(Mesh::start(&world.cluster, &world.folder));
        }
    }

    fn mesh(&self) -> &Mesh {
        self.world().mesh.as_ref().expect("start_mesh was called")
    }

    /// A place for the test with this name.
    fn place(&mut self, name: &'static str) -> Place {
        for namespace in std::mem::take(&mut self.world_mut().left) {
            self.cluster().delete(&service_entries(&namespace));
            self.cluster().delete(&workload_entries(&namespace));
        }
        let place = Place::new(name, &self.world().folder);
        self.cluster().open_namespace(&place.namespace);
        self.world_mut().left.push(place.namespace.clone());
        place
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if thread::panicking() {
            let world = self.world();
            eprintln!("{}", world.cluster.tails());
            if let Some(mesh) = &world.mesh {
                eprintln!("{}", mesh.tails());
            }
        }
    }
}

// === impl Place ===

impl Place {
    /// A place whose namespace does not exist yet, with a folder in `folder`.
    fn new(name: &'static str, folder: &Path) -> Self {
        // The harness of the tests has begun a line with the test's name.
        println!();
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        let installation = Installation::new(LANDFALL, &folder);
        Self { name, namespace: format!("e2e-{name}"), installation, folder }
    }

    /// A configuration with this source, which is called `dc1`, that writes to the cluster.
    fn config(&self, cluster: &Cluster, source: &Value) -> Value {
        let mut source = source.clone();
        source["name"] = "dc1".into();
        json!({
            "sources": [source],
            "defaults": {"host": "{service}.{source}.mesh", "namespace": self.namespace},
            "sinks": [{"kubernetes": {
                "kubeconfig": cluster.kubeconfig(),
                "namespaces": [self.namespace],
            }}],
            "owner": self.name,
        })
    }

    /// A source that lists these services from now on.
    fn registry(&self, services: &[Value]) -> Value {
        let (new, file) = (self.folder.join("registry.new"), self.folder.join("registry.yaml"));
        std::fs::write(&new, json!({"services": services}).to_string()).expect("a registry file");
        // Nobody reads half of it.
        std::fs::rename(new, &file).expect("a registry file");
        json!({"file": {"path": file}})
    }

    fn service_entries(&self) -> String {
        service_entries(&self.namespace)
    }

    fn workload_entries(&self) -> String {
        workload_entries(&self.namespace)
    }

    /// Says what a test found out.
    fn print(&self, what: impl fmt::Display) {
        println!("e2e {}: {what}", self.name);
    }
}

/// Where `make plugins` puts a component.
fn component_path(name: &str) -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
    cache.expect("a home").join(format!("landfall/plugins/{name}.wasm"))
}

/// The median of some times.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
