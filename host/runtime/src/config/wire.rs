//! The configuration file as it is written. Everything here is what a user sees: the schema, the
//! reference and the error messages come from these types and their comments.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::units::{Duration, Percent, Size};

/// Landfall's configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// The registries to watch.
    pub sources: Vec<Source>,
    /// How instances are published when no policy says otherwise.
    pub defaults: Defaults,
    /// Policies, in the order in which they see an instance.
    pub policies: Vec<Policy>,
    /// How sources share a host that several of them publish: the first rule that fits it holds.
    /// Without one all their endpoints are published.
    pub sharing: Vec<SharingRule>,
    /// Where resources go.
    pub sinks: Vec<Sink>,
    /// What holds removals back.
    pub guard: Guard,
    /// How resources are made.
    pub resources: Resources,
    /// Health, readiness and metrics over HTTP.
    pub admin: Admin,
    /// Names this installation among all that write to one cluster: objects carry it as their
    /// owner mark, so no two may share one. Needed with a kubernetes sink. 1 to 63 letters,
    /// digits, dashes, dots and underscores.
    pub owner: Option<String>,
}

/// A connection to one registry. Exactly one kind is set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    /// A DNS label; stands in host names and in logs.
    pub name: String,
    /// A file, or a folder of files, that lists services.
    #[serde(default)]
    pub file: Option<FileSource>,
    /// HashiCorp Consul.
    #[serde(default)]
    pub consul: Option<ConsulSource>,
    /// Netflix Eureka, such as Spring Cloud's.
    #[serde(default)]
    pub eureka: Option<EurekaSource>,
    /// AWS Cloud Map.
    #[serde(default)]
    pub cloud_map: Option<CloudMapSource>,
}

/// Services listed in files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileSource {
    /// A YAML or JSON file, or a folder of them. Relative to the configuration file.
    #[schemars(length(min = 1))]
    pub path: PathBuf,
}

/// HashiCorp Consul.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConsulSource {
    /// The HTTP API of an agent or server, such as `http://127.0.0.1:8500`.
    #[serde(default)]
    pub url: Option<String>,
    /// Several, tried in turn.
    #[serde(default)]
    pub urls: Vec<String>,
    /// A file that holds the ACL token; read again when it changes.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub token_file: Option<PathBuf>,
    /// PEM file of the certificate authorities to trust.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client certificate.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub cert_file: Option<PathBuf>,
    /// PEM file of the client certificate's key.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub key_file: Option<PathBuf>,
    /// The datacenters to list; the agent's own when empty.
    #[serde(default)]
    pub datacenters: Vec<String>,
    /// The admin partitions to list; the default one when empty.
    #[serde(default)]
    pub partitions: Vec<String>,
    /// The namespaces to list; the default one when empty.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// Whether sidecar proxies and gateways are listed too.
    #[serde(default)]
    pub include_proxies: bool,
    /// Most connections to one agent at a time. Consul allows 200 per client by default. Four for
    /// each datacenter, partition and namespace; with fewer their long polls take turns.
    #[serde(default)]
    #[schemars(range(min = 4, max = 10_000))]
    pub connections_max: Option<u16>,
    /// How often everything is read anew though nothing seems to have changed; `10s` or more.
    #[serde(default)]
    pub resync: Option<Duration>,
    /// Whether the token is meant to see a part of what there is. Otherwise a listing that access
    /// rules made smaller is a doubt, and nothing is removed meanwhile.
    #[serde(default)]
    pub partial_view: bool,
}

/// Netflix Eureka, such as Spring Cloud's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EurekaSource {
    /// A server with the path under which `apps` is found: `http://127.0.0.1:8761/eureka` for
    /// Spring Cloud's, one that ends in `/eureka/v2` for Netflix' own.
    #[serde(default)]
    pub url: Option<String>,
    /// Several that replicate to each other, tried in turn.
    #[serde(default)]
    pub urls: Vec<String>,
    /// The user to be; may stand in the addresses instead. `passwordFile` belongs to it.
    #[serde(default)]
    pub user: Option<String>,
    /// A file that holds the user's password; read again when it changes.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub password_file: Option<PathBuf>,
    /// PEM file of the certificate authorities to trust.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client certificate.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub cert_file: Option<PathBuf>,
    /// PEM file of the client certificate's key.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub key_file: Option<PathBuf>,
    /// How often to ask what changed; `1s` or more, 5s when left out.
    #[serde(default)]
    pub poll: Option<Duration>,
    /// How often everything is read anew though nothing seems to have been missed; `10s` or more,
    /// 10m when left out.
    #[serde(default)]
    pub resync: Option<Duration>,
    /// Whether instances are published by the names of their hosts and not by their IP addresses.
    #[serde(default)]
    pub prefer_hostname: bool,
    /// How long after the last renewal of its lease an instance counts as critical whatever its
    /// status says; `60s` or more, never when left out.
    #[serde(default)]
    pub stale_after: Option<Duration>,
}

/// AWS Cloud Map. Credentials are found as the AWS command line finds them: variables, profiles, a
/// web identity, the role of a pod, a task or an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CloudMapSource {
    /// The region, such as `eu-central-1`.
    pub region: String,
    /// The namespaces to list, by name, HTTP name or identifier; all of the account when empty.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// Where requests go instead of AWS' own address for the region, such as that of a VPC
    /// endpoint.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Where requests that discover instances go, if elsewhere: AWS has them at an address of its
    /// own, and so have VPC endpoints.
    #[serde(default)]
    pub data_endpoint: Option<String>,
    /// A file of profiles with credentials, used instead of those that are found.
    #[serde(default)]
    pub credentials_file: Option<PathBuf>,
    /// The ARN of a role to assume, such as one in the account that has the namespaces.
    #[serde(default)]
    pub role_arn: Option<String>,
    /// What the trust policy of the role asks for, if it does.
    #[serde(default)]
    pub external_id: Option<String>,
    /// How often each service is asked whether instances came or went, a request each; `1s` or
    /// more, 10s when left out.
    #[serde(default)]
    pub poll: Option<Duration>,
    /// How often the instances of each service with health checks are read, a request each; `5s`
    /// or more, 60s when left out.
    #[serde(default)]
    pub health_poll: Option<Duration>,
    /// How often namespaces and services are listed; `5s` or more, 30s when left out.
    #[serde(default)]
    pub service_poll: Option<Duration>,
    /// How often the instances of services without health checks are read though nothing seems to
    /// have been missed; `30s` or more, 10m when left out.
    #[serde(default)]
    pub resync: Option<Duration>,
}

/// How instances are published when no policy says otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Defaults {
    /// The host name. Variables: `{service}`, `{source}`, `{group}`, `{datacenter}`,
    /// `{partition}`, `{meta.KEY}`; each becomes one DNS label.
    pub host: String,
    /// The Kubernetes namespace of the resources; the same variables.
    pub namespace: String,
    /// Labels of endpoints; values may use the same variables, empty ones are left out.
    pub labels: BTreeMap<String, String>,
    /// The states of health that are published.
    pub health: Vec<Health>,
}

/// A state of health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// All checks pass.
    Passing,
    /// Some check warns.
    Warning,
    /// Some check fails.
    Critical,
    /// Its operator took it out.
    Maintenance,
    /// The registry does not say.
    Unknown,
}

/// A policy: a WebAssembly component with its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    /// A DNS label, unique among policies.
    pub name: String,
    /// Where the component comes from.
    pub component: Component,
    /// The policy's own settings. A ConfigMap's `settings.yaml` goes before them.
    #[serde(default)]
    pub config: Option<serde_json::Value>,
    /// Which services it decides; all when left out.
    #[serde(default, rename = "match")]
    pub matches: Match,
    /// What it may use.
    #[serde(default)]
    pub limits: Limits,
}

/// Where a component comes from. Exactly one is set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Component {
    /// A file: raw, gzip or zstd. Relative to the configuration file; watched for changes.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub file: Option<PathBuf>,
    /// A ConfigMap, watched through the Kubernetes API.
    #[serde(default)]
    pub config_map: Option<ConfigMapRef>,
}

/// A ConfigMap that holds a component, and its settings beside it as `data: settings.yaml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigMapRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The key of the component in `binaryData`. Left out: `policy.wasm`, `policy.wasm.gz` or
    /// `policy.wasm.zst`.
    #[serde(default)]
    pub key: Option<String>,
    /// The kubeconfig to read it with; in-cluster when left out.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context; its current one when left out.
    #[serde(default)]
    pub context: Option<String>,
}

/// Which services a policy decides. In patterns `*` stands for any text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Match {
    /// Patterns for source names; all when empty.
    pub sources: Vec<String>,
    /// Patterns for service names, or for `group/name`; all when empty.
    pub services: Vec<String>,
}

/// How sources share hosts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SharingRule {
    /// Patterns for host names, or for `namespace/host`, in which `*` stands for any text; all when
    /// empty.
    pub hosts: Vec<String>,
    /// Whose endpoints are published.
    pub mode: SharingMode,
    /// Sources, of which the earlier go before the later. Those that are not listed come after, in
    /// the order of `sources`.
    pub precedence: Vec<String>,
    /// By what the weights of a source's endpoints are multiplied, 1 to 65535, by its name; 1 when
    /// left out. The product is 65535 at most.
    pub weights: BTreeMap<String, u16>,
}

/// Whose endpoints are published at a host that sources share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SharingMode {
    /// Those of all sources. An instance that several have, by address, network and ports, is
    /// published once, as the first of them in precedence has it.
    #[default]
    Union,
    /// Those of the first source in precedence that publishes any.
    First,
    /// As union, and proxies prefer endpoints of their own network and locality.
    PreferLocal,
}

/// What a policy may use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// All memory of one of its instances together, of which each worker thread has one; 64Mi when
    /// left out, at most 1Gi.
    pub memory: Option<Size>,
    /// Time for one call, which decides at most 256 instances; 50ms when left out, at most 5s.
    pub time: Option<Duration>,
    /// Lines it may log a minute; 200 when left out.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub log_lines: Option<u32>,
}

/// Where resources go. Exactly one kind is set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sink {
    /// The Kubernetes API.
    #[serde(default)]
    pub kubernetes: Option<KubernetesSink>,
    /// A folder.
    #[serde(default)]
    pub files: Option<FilesSink>,
    /// An MCP-over-xDS server, which istiod asks.
    #[serde(default)]
    pub mcp: Option<McpSink>,
    /// What may be done to it.
    #[serde(default)]
    pub mode: Mode,
}

/// What may be done to a sink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Everything.
    #[default]
    Sync,
    /// Resources are made and changed, never removed.
    UpsertOnly,
    /// Resources are made and then left alone.
    CreateOnly,
}

/// The Kubernetes API.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct KubernetesSink {
    /// In-cluster when left out, or else the user's own.
    #[schemars(length(min = 1))]
    pub kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context; its current one when left out.
    pub context: Option<String>,
    /// The namespaces to watch for resources; all when empty.
    pub namespaces: Vec<String>,
}

/// A folder of resource files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FilesSink {
    /// Relative to the configuration file; made when missing.
    #[schemars(length(min = 1))]
    pub path: PathBuf,
}

/// An MCP-over-xDS server: istiod has it among its `configSources` as `xds://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct McpSink {
    /// The IP address and port to listen on.
    pub listen: String,
    /// The file that keeps what is served, over restarts too. Relative to the configuration file;
    /// made when missing. Nobody else writes it.
    #[schemars(length(min = 1))]
    pub journal: PathBuf,
    /// A range of addresses such as 240.241.0.0/16, of which each service gets one of its own:
    /// istiod gives none to services that it is told of this way. None when left out.
    #[serde(default)]
    pub virtual_addresses: Option<String>,
    /// A PEM file with the server's certificate and the chain above it; plain text when left out.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub cert_file: Option<PathBuf>,
    /// A PEM file with its private key.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub key_file: Option<PathBuf>,
}

/// What holds removals back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Guard {
    /// When more than this share of all endpoints would go within a minute, it is held.
    pub removal_share: Percent,
    /// Fewer endpoints than this may always go.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub removal_min: u32,
    /// What is held goes all the same after this time.
    pub hold: Duration,
    /// How long a host that lost its place goes on answering, and then how long its resource
    /// stays without endpoints.
    pub grace: Duration,
}

/// How resources are made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Resources {
    /// Where endpoints stand.
    pub shape: Shape,
    /// Whether services are part of the mesh, unless a service policy says otherwise.
    pub location: Location,
    /// The namespaces that see services, unless a service policy says otherwise: names, or `.` for
    /// the resource's own; or alone `*` for all, or `~` for none. All when empty.
    pub export_to: Vec<String>,
    /// Whether ambient proxies read the resources. They tell the endpoints of a ServiceEntry apart
    /// by address alone, and take one without a network to be in another's, so instances that
    /// share an address become WorkloadEntries, and those of which only some have a network.
    pub ambient: bool,
}

/// Whether services are part of the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Location {
    /// They are: mutual TLS where endpoints have a proxy.
    #[default]
    Internal,
    /// They are not: no mutual TLS.
    External,
}

/// Where endpoints stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// In the ServiceEntry while they fit, else as WorkloadEntries.
    #[default]
    Auto,
    /// In the ServiceEntry; what does not fit is left out and reported.
    Inline,
    /// As WorkloadEntries, which a selector picks.
    WorkloadEntries,
}

/// Health, readiness and metrics over HTTP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Admin {
    /// The IP address and port to listen on, such as `127.0.0.1:15080` or `[::1]:15080`; port 0
    /// takes a free one.
    pub listen: String,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            host: "{service}.{source}.mesh".to_owned(),
            namespace: "mesh-registry".to_owned(),
            labels: BTreeMap::new(),
            health: vec![Health::Passing, Health::Warning, Health::Unknown],
        }
    }
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            removal_share: Percent(20),
            removal_min: 10,
            hold: Duration(std::time::Duration::from_secs(600)),
            grace: Duration(std::time::Duration::from_secs(30)),
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: "127.0.0.1:15080".to_owned() }
    }
}
