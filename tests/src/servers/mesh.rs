//! istiod and one Envoy that it configures.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::cluster::Cluster;
use super::http::{Http, Reply};
use super::process::{Server, free_port, program, started};

/// Without mutual TLS and tracing, for which there are no certificates and no collector. The
/// discovery address is never dialed. What is configured from where comes behind it.
const MESH_CONFIG: &str = r#"
enableAutoMtls: false
enableTracing: false
defaultConfig: {discoveryAddress: "127.0.0.1:15012"}
"#;

/// A service mesh of one proxy, which listens on 127.0.0.1 at every port of a service.
#[derive(Debug)]
pub struct Mesh {
    istiod: Server,
    envoy: Server,
    admin: Http,
    monitoring: Http,
}

/// Where istiod listens.
struct Ports {
    grpc: u16,
    monitoring: u16,
}

impl Mesh {
    /// Starts istiod on `cluster`, and an Envoy.
    ///
    /// # Panics
    /// They do not start.
    #[must_use]
    pub fn start(cluster: &Cluster, folder: &Path) -> Self {
        Self::of(cluster, folder, &[])
    }

    /// The same, where istiod takes its configuration from further sources too, such as
    /// `xds://127.0.0.1:18000`.
    ///
    /// # Panics
    /// They do not start.
    #[must_use]
    pub fn of(cluster: &Cluster, folder: &Path, sources: &[String]) -> Self {
        let sources = std::iter::once("k8s://").chain(sources.iter().map(String::as_str));
        let sources: Vec<String> =
            sources.map(|address| format!("{{address: \"{address}\"}}")).collect();
        let config = format!("{MESH_CONFIG}configSources: [{}]\n", sources.join(", "));
        fs::write(folder.join("mesh.yaml"), config).expect("a mesh configuration");
        let kubeconfig = cluster.admin_kubeconfig();
        let (istiod, ports) = started("istiod", || istiod(folder, &kubeconfig));
        let (envoy, admin) = started("envoy", || envoy(folder, ports.grpc));
        Self { istiod, envoy, admin, monitoring: Http::plain(ports.monitoring) }
    }

    /// How often istiod has sent each kind of thing to proxies so far: `cds`, `eds`, `lds`, `rds`.
    ///
    /// # Panics
    /// istiod does not answer.
    #[must_use]
    pub fn pushes(&self) -> BTreeMap<String, u64> {
        let text = self.monitoring.get("/metrics").expect("istiod's metrics").body;
        let lines = text.lines().filter_map(|line| line.strip_prefix("pilot_xds_pushes{type=\""));
        let pushes = lines.filter_map(|line| {
            let (kind, rest) = line.split_once('"')?;
            Some((kind.to_owned(), rest.rsplit(' ').next()?.parse::<u64>().ok()?))
        });
        pushes.collect()
    }

    /// The endpoints that Envoy has for a host, as `address:port`.
    ///
    /// # Panics
    /// Envoy does not answer.
    #[must_use]
    pub fn endpoints(&self, host: &str) -> Vec<String> {
        let text = self.admin.get("/clusters").expect("Envoy's clusters").body;
        let lines = text.lines().filter_map(|line| line.strip_suffix("::health_flags::healthy"));
        let of_host = lines.filter_map(|line| {
            // outbound|8081||orders.dc1.mesh::127.0.0.2:8081
            let (cluster, endpoint) = line.split_once("::")?;
            (cluster.rsplit('|').next() == Some(host)).then(|| endpoint.to_owned())
        });
        of_host.collect()
    }

    /// The ends of the servers' logs.
    #[must_use]
    pub fn tails(&self) -> String {
        format!("{}\n{}", self.istiod.tail(), self.envoy.tail())
    }
}

/// A request to a service, through Envoy.
///
/// # Errors
/// No answer comes.
pub fn request(host: &str, port: u16) -> Result<Reply, String> {
    Http::plain(port).send("GET", "/", &[("host", host)], "")
}

fn istiod(folder: &Path, kubeconfig: &Path) -> Result<(Server, Ports), String> {
    let (grpc, http, monitoring) = (free_port(), free_port(), free_port());
    let mut command = Command::new(program("LANDFALL_ISTIOD"));
    // Istio's own filters, which this Envoy does not have.
    command.env("PILOT_ENABLE_METADATA_EXCHANGE", "false");
    command.env("PILOT_ENABLE_ALPN_FILTER", "false");
    command.env("POD_NAME", "istiod-0").env("POD_NAMESPACE", "istio-system");
    command.arg("discovery").arg("--kubeconfig").arg(kubeconfig).arg("--registries=");
    command.arg("--meshConfig").arg(folder.join("mesh.yaml"));
    command.args(["--networksConfig", "/nonexistent"]);
    command.args(["--grpcAddr", &format!("127.0.0.1:{grpc}")]);
    command.args(["--httpAddr", &format!("127.0.0.1:{http}")]);
    command.args(["--httpsAddr", "", "--secureGRPCAddr", ""]);
    command.args(["--monitoringAddr", &format!("127.0.0.1:{monitoring}"), "--ctrlz_port", "0"]);
    let ready = Http::plain(http);
    let server = Server::start("istiod", command, folder).ready(|| ready.is_ok("/ready"))?;
    Ok((server, Ports { grpc, monitoring }))
}

fn envoy(folder: &Path, istiod_port: u16) -> Result<(Server, Http), String> {
    let (admin, proxy) = (free_port(), free_port());
    let config = format!(
        r#"
node:
  id: sidecar~127.0.0.1~probe.default~default.svc.cluster.local
  cluster: probe
  locality: {{region: r1, zone: z1}}
  metadata: {{NAMESPACE: default, INSTANCE_IPS: "127.0.0.1", ISTIO_VERSION: "1.30.0", INTERCEPTION_MODE: NONE, HTTP_PROXY_PORT: "{proxy}"}}
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}
dynamic_resources:
  ads_config:
    api_type: GRPC
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services: [{{envoy_grpc: {{cluster_name: xds}}}}]
  cds_config: {{ads: {{}}, resource_api_version: V3}}
  lds_config: {{ads: {{}}, resource_api_version: V3}}
static_resources:
  clusters:
  - name: xds
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: xds
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {istiod_port}}}}}}}}}]}}]
"#
    );
    let path = folder.join("envoy.yaml");
    fs::write(&path, config).expect("Envoy's configuration");
    let mut command = Command::new(program("LANDFALL_ENVOY"));
    command.arg("-c").arg(path).args(["--disable-hot-restart", "--concurrency", "1"]);
    let http = Http::plain(admin);
    // LIVE once clusters and listeners have come from istiod.
    let is_ready = || http.get("/ready").is_ok_and(|reply| reply.body.starts_with("LIVE"));
    let server = Server::start("envoy", command, folder).ready(is_ready)?;
    Ok((server, http))
}
