//! istiod and one Envoy that it configures.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::cluster::Cluster;
use super::http::{Http, Reply};
use super::istiod::{self, Istiod};
use super::process::{Server, free_port, program, started};

/// A service mesh of one proxy.
#[derive(Debug)]
pub struct Mesh {
    /// Its control plane.
    pub istiod: Istiod,
    envoy: Server,
    admin: Http,
}

/// Of what istiod says, what the proxy asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    /// Everything, so that it listens on 127.0.0.1 at every port of a service.
    All,
    /// Clusters and their endpoints.
    Clusters,
}

impl Mesh {
    /// Starts istiod on `cluster`, and an Envoy, which listens on 127.0.0.1 at every port of a
    /// service.
    ///
    /// # Panics
    /// They do not start.
    #[must_use]
    pub fn start(cluster: &Cluster, folder: &Path) -> Self {
        Self::of(cluster, folder, istiod::Options::default())
    }

    /// The same of an istiod with these options.
    ///
    /// # Panics
    /// They do not start.
    #[must_use]
    pub fn of(cluster: &Cluster, folder: &Path, options: istiod::Options) -> Self {
        Self::with(cluster, folder, options, Asks::All)
    }

    /// The same of an Envoy that knows endpoints and listens nowhere, for another one that does is
    /// in its way.
    ///
    /// # Panics
    /// They do not start.
    #[must_use]
    pub fn beside(cluster: &Cluster, folder: &Path, options: istiod::Options) -> Self {
        Self::with(cluster, folder, options, Asks::Clusters)
    }

    fn with(cluster: &Cluster, folder: &Path, options: istiod::Options, asks: Asks) -> Self {
        let istiod = Istiod::start(cluster, folder, options);
        let (envoy, admin) = started("envoy", || envoy(folder, istiod.port(), asks));
        Self { istiod, envoy, admin }
    }

    /// The endpoints that Envoy has for a host, as `address:port`, in order.
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
        let mut endpoints: Vec<String> = of_host.collect();
        endpoints.sort();
        endpoints
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

fn envoy(folder: &Path, istiod_port: u16, asks: Asks) -> Result<(Server, Http), String> {
    let (admin, proxy) = (free_port(), free_port());
    let listeners = match asks {
        Asks::All => "lds_config: {ads: {}, resource_api_version: V3}",
        Asks::Clusters => "",
    };
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
  {listeners}
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
