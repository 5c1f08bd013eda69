//! A Kubernetes control plane: etcd and kube-apiserver, with Istio's CRDs and our RBAC.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use serde_json::{Value, json};

use super::http::{Http, Reply, block};
use super::process::{Server, free_port, program, started, wait};
use super::watch::Watch;
use crate::repository;

const ADMIN: &str = "tok-admin";
const LANDFALL: &str = "tok-landfall";
/// The service account of deploy/rbac.yaml, with the groups that its own token would have.
const TOKENS: &str = "\
tok-admin,admin,1,\"system:masters\"
tok-landfall,system:serviceaccount:landfall-system:landfall,2,\"system:serviceaccounts,system:serviceaccounts:landfall-system\"
";
/// The CRDs without which there is nothing to write.
pub const OUR_CRDS: [&str; 2] =
    ["serviceentries.networking.istio.io", "workloadentries.networking.istio.io"];
const ESTABLISHED_MAX: Duration = Duration::from_secs(30);
/// Requests under way at once where there are thousands of them.
const CONCURRENCY: usize = 32;
const APPLY: [(&str, &str); 1] = [("content-type", "application/apply-patch+yaml")];
const MERGE: [(&str, &str); 1] = [("content-type", "application/merge-patch+json")];

/// A control plane.
#[derive(Debug)]
pub struct Cluster {
    /// The API with every right.
    pub admin: Http,
    apiserver: Server,
    etcd: Server,
    port: u16,
    folder: PathBuf,
}

// === impl Cluster ===

impl Cluster {
    /// A control plane with nothing in it.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn bare(folder: &Path) -> Self {
        write_keys(folder);
        let (etcd, etcd_port) = started("etcd", || etcd(folder));
        let (apiserver, port, admin) = started("kube-apiserver", || apiserver(folder, etcd_port));
        Self { admin, apiserver, etcd, port, folder: folder.to_owned() }
    }

    /// A control plane with Istio's CRDs, the namespaces that istiod and Landfall are in, and the
    /// rights of deploy/.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn start(folder: &Path) -> Self {
        let cluster = Self::bare(folder);
        cluster.install_crds(&[]);
        cluster.create_namespace("istio-system");
        cluster.install_rbac();
        cluster
    }

    /// Installs Istio's CRDs: these, or all if none is named.
    ///
    /// # Panics
    /// They are not taken.
    pub fn install_crds(&self, names: &[&str]) {
        let path = program("LANDFALL_ISTIO_CRDS");
        let text = fs::read_to_string(path).expect("Istio's CRDs");
        let mut installed = Vec::new();
        for document in text.split("\n---\n") {
            let Some(name) = document.lines().find_map(|line| line.strip_prefix("  name: ")) else {
                continue;
            };
            if names.is_empty() || names.contains(&name) {
                let path = format!("{CRDS}/{name}?fieldManager=e2e&force=true");
                let reply = self.admin.send("PATCH", &path, &APPLY, document);
                expect_taken(name, &reply);
                installed.push(name);
            }
        }
        for name in &installed {
            let established = wait(ESTABLISHED_MAX, || self.is_established(name).then_some(()));
            established.unwrap_or_else(|| panic!("{name} is not established"));
        }
        for plural in ["serviceentries", "workloadentries"] {
            let path = format!("/apis/networking.istio.io/v1/{plural}");
            let served = wait(ESTABLISHED_MAX, || self.admin.is_ok(&path).then_some(()));
            served.unwrap_or_else(|| panic!("{plural} are not served"));
        }
    }

    /// Installs those CRDs that Landfall writes.
    ///
    /// # Panics
    /// They are not taken.
    pub fn install_our_crds(&self) {
        self.install_crds(&OUR_CRDS);
    }

    fn is_established(&self, crd: &str) -> bool {
        let Ok(reply) = self.admin.get(&format!("{CRDS}/{crd}")) else { return false };
        let conditions = &reply.json()["status"]["conditions"];
        conditions.as_array().is_some_and(|conditions| {
            conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True")
        })
    }

    /// Gives Landfall the rights that deploy/ asks for.
    ///
    /// # Panics
    /// They are not taken.
    pub fn install_rbac(&self) {
        let text = &repository::file("deploy/rbac.yaml").text;
        let objects: Vec<Value> = serde_saphyr::from_multiple(text).expect("deploy/rbac.yaml");
        for object in &objects {
            self.apply(object);
        }
        let path = format!("{SERVICE_ENTRIES}?limit=1");
        let landfall = self.as_landfall();
        // The API server's own authorizer takes a moment; a CRD that is missing is not its concern.
        let allowed = wait(ESTABLISHED_MAX, || {
            landfall.get(&path).is_ok_and(|reply| reply.status != 403).then_some(())
        });
        allowed.expect("deploy/rbac.yaml lets Landfall list ServiceEntries");
    }

    /// Makes a namespace.
    ///
    /// # Panics
    /// It is not taken.
    pub fn create_namespace(&self, name: &str) {
        self.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
    }

    /// The API with Landfall's rights.
    ///
    /// # Panics
    /// The certificate of the API server is gone.
    #[must_use]
    pub fn as_landfall(&self) -> Http {
        client(&self.folder, self.port, LANDFALL)
    }

    /// A kubeconfig with Landfall's rights.
    ///
    /// # Panics
    /// It cannot be written.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.write_kubeconfig("landfall", LANDFALL)
    }

    /// A kubeconfig with every right.
    ///
    /// # Panics
    /// It cannot be written.
    #[must_use]
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.write_kubeconfig("admin", ADMIN)
    }

    fn write_kubeconfig(&self, name: &str, token: &str) -> PathBuf {
        let path = self.folder.join(format!("{name}.kubeconfig"));
        let server = format!("https://127.0.0.1:{}", self.port);
        let authority = self.folder.join("apiserver/apiserver.crt");
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority": authority}}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        });
        fs::write(&path, config.to_string()).expect("a kubeconfig");
        path
    }

    /// Applies an object, and takes what others set of it.
    ///
    /// # Panics
    /// It is refused.
    pub fn apply(&self, object: &Value) -> Value {
        let path = format!("{}?fieldManager=e2e&force=true", path_of(object));
        let reply = self.admin.send("PATCH", &path, &APPLY, object.to_string());
        expect_taken(&path, &reply)
    }

    /// Asks whether objects would be taken, and stores none. The answers are in their order.
    ///
    /// # Panics
    /// The API server does not answer.
    #[must_use]
    pub fn judge(&self, objects: &[Value]) -> Vec<Reply> {
        let ask = |object: &Value| {
            let path = format!("{}?fieldManager=e2e&force=true&dryRun=All", path_of(object));
            let (admin, body) = (self.admin.clone(), yaml_safe(&object.to_string()));
            async move { admin.ask("PATCH", &path, &APPLY, body).await.expect("an answer") }
        };
        block(stream::iter(objects.iter().map(ask)).buffered(CONCURRENCY).collect())
    }

    /// Changes an object by a merge patch, as `kubectl edit` would.
    ///
    /// # Panics
    /// It is refused.
    pub fn edit(&self, path: &str, patch: &Value) -> Value {
        let path = format!("{path}?fieldManager=kubectl-edit");
        expect_taken(&path, &self.admin.send("PATCH", &path, &MERGE, patch.to_string()))
    }

    /// An object; `None` when there is none.
    ///
    /// # Panics
    /// The API server does not answer.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<Value> {
        let reply = self.admin.get(path).expect("an answer");
        match reply.status {
            404 => None,
            _ => Some(expect_taken(path, &Ok(reply))),
        }
    }

    /// The objects at `path`.
    ///
    /// # Panics
    /// They cannot be listed.
    #[must_use]
    pub fn list(&self, path: &str) -> Vec<Value> {
        let list = expect_taken(path, &self.admin.get(path));
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// Deletes an object, or all in a collection.
    ///
    /// # Panics
    /// It is refused.
    pub fn delete(&self, path: &str) {
        expect_taken(path, &self.admin.send("DELETE", path, &[], ""));
    }

    /// What happens at `path` from now on.
    ///
    /// # Panics
    /// It cannot be watched.
    #[must_use]
    pub fn watch(&self, path: &str) -> Watch {
        let list = expect_taken(path, &self.admin.get(&format!("{path}?limit=1")));
        let version = list["metadata"]["resourceVersion"].as_str().expect("a version");
        Watch::start(self.admin.clone(), path, version)
    }

    /// How many requests the API server had that write a resource, or try to.
    ///
    /// # Panics
    /// The API server does not say.
    #[must_use]
    pub fn writes(&self, plural: &str) -> u64 {
        const METRIC: &str = "apiserver_request_total{";
        const READS: [&str; 3] = ["verb=\"GET\"", "verb=\"LIST\"", "verb=\"WATCH\""];
        let resource = format!("resource=\"{plural}\"");
        let text = self.admin.get("/metrics").expect("metrics").body;
        let lines =
            text.lines().filter(|line| line.starts_with(METRIC) && line.contains(&resource));
        let writes = lines.filter(|line| !READS.iter().any(|read| line.contains(read)));
        writes.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
    }

    /// The ends of the servers' logs.
    #[must_use]
    pub fn tails(&self) -> String {
        format!("{}\n{}", self.etcd.tail(), self.apiserver.tail())
    }
}

/// Where CRDs are.
pub const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const SERVICE_ENTRIES: &str = "/apis/networking.istio.io/v1/serviceentries";

/// Where the ServiceEntries of a namespace are.
#[must_use]
pub fn service_entries(namespace: &str) -> String {
    format!("/apis/networking.istio.io/v1/namespaces/{namespace}/serviceentries")
}

/// Where the WorkloadEntries of a namespace are.
#[must_use]
pub fn workload_entries(namespace: &str) -> String {
    format!("/apis/networking.istio.io/v1/namespaces/{namespace}/workloadentries")
}

/// Where an object is.
///
/// # Panics
/// It is of a kind that no test needs.
#[must_use]
pub fn path_of(object: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let kind = word(&object["kind"]);
    let (name, namespace) = (&object["metadata"]["name"], &object["metadata"]["namespace"]);
    let (name, namespace) = (escaped(&word(name)), escaped(&word(namespace)));
    let version = word(&object["apiVersion"]);
    let root = if version.contains('/') { "/apis" } else { "/api" };
    let plural = match kind.as_str() {
        "Namespace" => "namespaces",
        "ServiceAccount" => "serviceaccounts",
        "ConfigMap" => "configmaps",
        "ClusterRole" => "clusterroles",
        "ClusterRoleBinding" => "clusterrolebindings",
        "Role" => "roles",
        "RoleBinding" => "rolebindings",
        "ServiceEntry" => "serviceentries",
        "WorkloadEntry" => "workloadentries",
        _ => panic!("where are objects of kind {kind:?}?"),
    };
    if namespace.is_empty() {
        format!("{root}/{version}/{plural}/{name}")
    } else {
        format!("{root}/{version}/namespaces/{namespace}/{plural}/{name}")
    }
}

/// `text` as a segment of a path.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// JSON that is YAML too. The API server reads what is applied as YAML, which takes some characters
/// by their numbers only, and others for the ends of lines.
#[must_use]
pub fn yaml_safe(json: &str) -> Vec<u8> {
    let mut safe = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '\u{7f}'..='\u{9f}'
            | '\u{2028}'
            | '\u{2029}'
            | '\u{feff}'
            | '\u{fffe}'
            | '\u{ffff}' => {
                safe.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            _ => safe.push(character),
        }
    }
    safe.into_bytes()
}

fn expect_taken(what: &str, reply: &Result<Reply, String>) -> Value {
    match reply {
        Ok(reply) if reply.status < 300 => reply.json(),
        Ok(reply) => panic!("{what}: {} {}", reply.status, reply.body),
        Err(problem) => panic!("{what}: {problem}"),
    }
}

// === the servers ===

fn write_keys(folder: &Path) {
    let (private, public) = (folder.join("sa.key"), folder.join("sa.pub"));
    let openssl = |arguments: &[&str], files: &[&Path]| {
        let output = Command::new("openssl").args(arguments).args(files).output();
        let output = output.expect("openssl; install it");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    openssl(&["genpkey", "-algorithm", "RSA", "-out"], &[&private]);
    let arguments = ["pkey", "-pubout", "-in", &private.display().to_string(), "-out"];
    openssl(&arguments, &[&public]);
    fs::write(folder.join("tokens.csv"), TOKENS).expect("a file of tokens");
}

fn etcd(folder: &Path) -> Result<(Server, u16), String> {
    let (port, peer) = (free_port(), free_port());
    let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
    let mut command = Command::new(program("LANDFALL_ETCD"));
    command.arg("--name=default");
    command.arg(format!("--data-dir={}", folder.join(format!("etcd-{port}")).display()));
    command.arg(format!("--listen-client-urls={client}"));
    command.arg(format!("--advertise-client-urls={client}"));
    command.arg(format!("--listen-peer-urls={peer}"));
    command.arg(format!("--initial-advertise-peer-urls={peer}"));
    command.arg(format!("--initial-cluster=default={peer}"));
    command.args(["--logger=zap", "--log-outputs=stderr", "--log-level=warn"]);
    let http = Http::plain(port);
    let is_ready =
        || http.get("/health").is_ok_and(|reply| reply.body.contains("\"health\":\"true\""));
    let server = Server::start("etcd", command, folder).ready(is_ready)?;
    Ok((server, port))
}

fn apiserver(folder: &Path, etcd_port: u16) -> Result<(Server, u16, Http), String> {
    let port = free_port();
    let file = |name: &str| folder.join(name).display().to_string();
    let mut command = Command::new(program("LANDFALL_KUBE_APISERVER"));
    command.arg(format!("--etcd-servers=http://127.0.0.1:{etcd_port}"));
    command.arg(format!("--cert-dir={}", file("apiserver")));
    command.arg(format!("--secure-port={port}"));
    command.args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"]);
    command.arg("--service-cluster-ip-range=10.0.0.0/24");
    command.arg("--authorization-mode=RBAC");
    command.arg(format!("--token-auth-file={}", file("tokens.csv")));
    command.arg("--disable-admission-plugins=ServiceAccount");
    command.arg("--service-account-issuer=https://landfall.test");
    command.arg(format!("--service-account-key-file={}", file("sa.pub")));
    command.arg(format!("--service-account-signing-key-file={}", file("sa.key")));
    command.arg("--allow-privileged=true");
    let mut admin = None;
    // Its certificate is there once it listens.
    let is_ready = || {
        if admin.is_none() && std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            admin = Some(client(folder, port, ADMIN));
        }
        admin.as_ref().is_some_and(|admin| admin.is_ok("/readyz"))
    };
    let server = Server::start("kube-apiserver", command, folder).ready(is_ready)?;
    Ok((server, port, admin.expect("made before it was ready")))
}

fn client(folder: &Path, port: u16, token: &str) -> Http {
    let authority = fs::read(folder.join("apiserver/apiserver.crt")).expect("a certificate");
    Http::tls(port, &authority).with("authorization", &format!("Bearer {token}"))
}
