//! istiod, and what it says of what it holds.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::cluster::Cluster;
use super::http::Http;
use super::process::{Server, free_port, program, started};

/// What is different from one that reads a cluster and nothing else.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Further `configSources`.
    pub sources: Vec<Value>,
    /// Variables of its environment.
    pub variables: Vec<(&'static str, &'static str)>,
}

/// A control plane. Ends when dropped.
#[derive(Debug)]
pub struct Istiod {
    server: Server,
    start: Start,
    ports: Ports,
    http: Http,
    monitoring: Http,
}

/// All that it takes to start one.
#[derive(Debug)]
struct Start {
    folder: PathBuf,
    kubeconfig: PathBuf,
    variables: Vec<(&'static str, &'static str)>,
}

/// Where it listens.
#[derive(Clone, Copy, Debug)]
struct Ports {
    grpc: u16,
    http: u16,
    monitoring: u16,
}

// === impl Istiod ===

impl Istiod {
    /// Starts one on `cluster`.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn start(cluster: &Cluster, folder: &Path, options: Options) -> Self {
        let start = Start::new(cluster, folder, options);
        let (server, ports) = started("istiod", || {
            let ports = Ports::free();
            Ok((start.attempt(ports)?, ports))
        });
        let (http, monitoring) = (Http::plain(ports.http), Http::plain(ports.monitoring));
        Self { server, start, ports, http, monitoring }
    }

    /// Why none starts.
    ///
    /// # Panics
    /// It starts.
    #[must_use]
    pub fn refusal(cluster: &Cluster, folder: &Path, options: Options) -> String {
        match Start::new(cluster, folder, options).attempt(Ports::free()) {
            Ok(_) => panic!("istiod starts"),
            Err(problem) => problem,
        }
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// Starts it anew where it was.
    ///
    /// # Panics
    /// It does not start.
    pub fn start_anew(&mut self) {
        self.server = started("istiod", || self.start.attempt(self.ports));
    }

    /// Where proxies ask it.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.ports.grpc
    }

    /// How often it has sent each kind of thing to proxies so far: `cds`, `eds`, `lds`, `rds`.
    ///
    /// # Panics
    /// It does not answer.
    #[must_use]
    pub fn pushes(&self) -> BTreeMap<String, u64> {
        self.counts("pilot_xds_pushes")
    }

    /// How often it was told of each kind of change so far: `config`, `eds`, `svc`, `svcdelete`.
    ///
    /// # Panics
    /// It does not answer.
    #[must_use]
    pub fn updates(&self) -> BTreeMap<String, u64> {
        self.counts("pilot_inbound_updates")
    }

    /// A counter by its label `type`.
    fn counts(&self, name: &str) -> BTreeMap<String, u64> {
        let text = self.monitoring.get("/metrics").expect("istiod's metrics").body;
        let lines = text.lines().filter_map(|line| line.strip_prefix(name));
        let counts = lines.filter_map(|line| {
            let (kind, rest) = line.strip_prefix("{type=\"")?.split_once('"')?;
            Some((kind.to_owned(), rest.rsplit(' ').next()?.parse::<u64>().ok()?))
        });
        counts.collect()
    }

    /// What it says at `/debug/PAGE`.
    ///
    /// # Panics
    /// It does not answer.
    #[must_use]
    pub fn debug(&self, page: &str) -> Value {
        self.http.get(&format!("/debug/{page}")).expect("istiod's own view").json()
    }

    /// The endpoints in a namespace that it tells ambient proxies of, such as
    /// `orders.mesh network/10.0.0.1:80`, in order.
    ///
    /// # Panics
    /// It does not answer.
    #[must_use]
    pub fn ambient_endpoints(&self, namespace: &str) -> Vec<String> {
        let own = format!("{namespace}/");
        let mut endpoints = Vec::new();
        for workload in list(&self.debug("ambientz")["workloads"]) {
            let (network, address) = (word(&workload["network"]), word(&workload["addresses"][0]));
            let services = workload["services"].as_object().into_iter().flatten();
            for (service, ports) in services {
                let Some(host) = service.strip_prefix(&own) else { continue };
                let ports = list(&ports["ports"]).iter().map(|port| &port["targetPort"]);
                let address = unpack(address);
                endpoints.extend(ports.map(|port| format!("{host} {network}/{address}:{port}")));
            }
        }
        endpoints.sort();
        endpoints
    }

    /// The services in a namespace that it tells ambient proxies of: host, and name of the
    /// ServiceEntry that was preferred, in order.
    ///
    /// # Panics
    /// It does not answer.
    #[must_use]
    pub fn ambient_services(&self, namespace: &str) -> Vec<(String, String)> {
        let view = self.debug("ambientz");
        let own = list(&view["services"]).iter().filter(|one| one["namespace"] == namespace);
        let named =
            own.map(|one| (word(&one["hostname"]).to_owned(), word(&one["name"]).to_owned()));
        let mut services: Vec<_> = named.collect();
        services.sort();
        services
    }

    /// The lines of its log that have `part`.
    #[must_use]
    pub fn logged(&self, part: &str) -> Vec<String> {
        let log = self.server.log();
        log.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
    }

    /// The end of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        self.server.tail()
    }
}

/// What was counted since, where that is anything.
#[must_use]
pub fn differing(before: &BTreeMap<String, u64>, now: BTreeMap<String, u64>) -> Vec<(String, u64)> {
    let since = now.into_iter().map(|(kind, count)| {
        let before = before.get(&kind).copied().unwrap_or_default();
        (kind, count - before)
    });
    since.filter(|(_, count)| *count > 0).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The text in a base64 text.
fn unpack(base64: &str) -> String {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for digit in base64.bytes().filter_map(digit) {
        bits = bits << 6 | u32::from(digit);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).expect("a byte"));
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

// === impl Start ===

impl Start {
    fn new(cluster: &Cluster, folder: &Path, options: Options) -> Self {
        let Options { mut sources, variables } = options;
        sources.insert(0, json!({"address": "k8s://"}));
        // Without mutual TLS and tracing, for which there are no certificates and no collector. The
        // discovery address is never dialed. YAML is JSON too.
        let config = json!({
            "enableAutoMtls": false,
            "enableTracing": false,
            "defaultConfig": {"discoveryAddress": "127.0.0.1:15012"},
            "configSources": sources,
        });
        fs::write(folder.join("mesh.yaml"), config.to_string()).expect("a mesh configuration");
        Self { folder: folder.to_owned(), kubeconfig: cluster.admin_kubeconfig(), variables }
    }

    fn attempt(&self, ports: Ports) -> Result<Server, String> {
        let address = |port: u16| format!("127.0.0.1:{port}");
        let mut command = Command::new(program("LANDFALL_ISTIOD"));
        // Istio's own filters, which this Envoy does not have.
        command.env("PILOT_ENABLE_METADATA_EXCHANGE", "false");
        command.env("PILOT_ENABLE_ALPN_FILTER", "false");
        command.env("POD_NAME", "istiod-0").env("POD_NAMESPACE", "istio-system");
        command.envs(self.variables.iter().copied());
        command.arg("discovery").arg("--kubeconfig").arg(&self.kubeconfig).arg("--registries=");
        command.arg("--meshConfig").arg(self.folder.join("mesh.yaml"));
        command.args(["--networksConfig", "/nonexistent"]);
        command.args(["--grpcAddr", &address(ports.grpc)]);
        command.args(["--httpAddr", &address(ports.http)]);
        command.args(["--httpsAddr", "", "--secureGRPCAddr", ""]);
        command.args(["--monitoringAddr", &address(ports.monitoring), "--ctrlz_port", "0"]);
        let ready = Http::plain(ports.http);
        Server::start("istiod", command, &self.folder).ready(|| ready.is_ok("/ready"))
    }
}

// === impl Ports ===

impl Ports {
    fn free() -> Self {
        Self { grpc: free_port(), http: free_port(), monitoring: free_port() }
    }
}
