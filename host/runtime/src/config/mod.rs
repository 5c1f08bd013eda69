//! The configuration: read, checked as a whole, and turned into what the line works with.

mod cloud_map;
mod resolve;
pub mod schema;
mod tree;
pub mod units;
pub mod wire;

use std::fmt;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use landfall_core::defaults::Defaults;
use landfall_core::guard::GuardSettings;
use landfall_core::pattern::Selector;
use landfall_core::plan::Mode;
use landfall_core::registry::SourceName;
use landfall_core::sharing::Sharing;
use landfall_core::text::Text;
use landfall_mesh::api::{Location, Owner};
use landfall_mesh::mcp::{AddressRange, TlsIdentity};
use landfall_mesh::render::Shape;
use landfall_policy_host::Limits;
use landfall_registry::cloudmap::CloudMapSettings;
use landfall_registry::consul::ConsulSettings;
use landfall_registry::eureka::EurekaSettings;
use serde_json::Value;

use self::tree::{Document, Position};

/// A configuration that is legal as a whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Configuration {
    /// The registries to watch.
    pub sources: Vec<SourceConfig>,
    /// The mapping before any policy.
    pub defaults: Defaults,
    /// In the order in which they see an instance.
    pub policies: Vec<PolicyConfig>,
    /// How sources share hosts.
    pub sharing: Arc<Sharing>,
    /// Where resources go.
    pub sinks: Vec<SinkConfig>,
    /// The deletion budget.
    pub guard: GuardSettings,
    /// How long a host that lost its place goes on.
    pub grace: Duration,
    /// How resources are made.
    pub resources: ResourceConfig,
    /// Whose objects are ours.
    pub owner: Owner,
    /// Where health, readiness and metrics are served.
    pub admin_listen: SocketAddr,
}

/// How resources are made.
#[derive(Clone, Debug, PartialEq)]
pub struct ResourceConfig {
    /// Where endpoints stand.
    pub shape: Shape,
    /// Where services are unless a policy says otherwise.
    pub location: Location,
    /// What Istio takes for `exportTo`, unless a policy says otherwise; all namespaces when empty.
    pub export_to: Arc<[Text]>,
    /// Whether ambient proxies read the resources.
    pub ambient: bool,
}

/// A registry to watch.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceConfig {
    /// Its name.
    pub name: SourceName,
    /// What it is.
    pub kind: SourceKind,
}

/// The kinds of registries.
#[derive(Clone, Debug, PartialEq)]
pub enum SourceKind {
    /// Files.
    File {
        /// A file or a folder.
        path: PathBuf,
    },
    /// HashiCorp Consul.
    Consul(Box<ConsulSettings>),
    /// Netflix Eureka.
    Eureka(Box<EurekaSettings>),
    /// AWS Cloud Map.
    CloudMap(Box<CloudMapSettings>),
}

/// A policy to run.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyConfig {
    /// Unique among policies.
    pub name: Text,
    /// Where the component comes from.
    pub origin: ComponentOrigin,
    /// Its settings, unless those of the ConfigMap go before.
    pub settings: Option<Value>,
    /// Which services it decides.
    pub selector: Selector,
    /// What it may use.
    pub limits: Limits,
}

/// Where a component comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum ComponentOrigin {
    /// A file.
    File(PathBuf),
    /// A ConfigMap.
    ConfigMap(ConfigMapOrigin),
}

/// A ConfigMap with a component.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigMapOrigin {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The component's key; the usual ones when unset.
    pub key: Option<String>,
    /// How to reach the API.
    pub access: KubeAccess,
}

/// How to reach a Kubernetes API.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct KubeAccess {
    /// In-cluster, or else the user's own, when unset.
    pub kubeconfig: Option<PathBuf>,
    /// The current one when unset.
    pub context: Option<String>,
}

/// Where resources go.
#[derive(Clone, Debug, PartialEq)]
pub struct SinkConfig {
    /// What it is.
    pub kind: SinkKind,
    /// What may be done to it.
    pub mode: Mode,
}

/// The kinds of sinks.
#[derive(Clone, Debug, PartialEq)]
pub enum SinkKind {
    /// The Kubernetes API.
    Kubernetes {
        /// How to reach it.
        access: KubeAccess,
        /// The namespaces to watch; all when empty.
        namespaces: Vec<String>,
    },
    /// A folder.
    Files {
        /// Made when missing.
        path: PathBuf,
    },
    /// An MCP-over-xDS server.
    Mcp {
        /// Where it listens.
        listen: SocketAddr,
        /// The file that keeps what is served.
        journal: PathBuf,
        /// Virtual addresses to give.
        addresses: Option<AddressRange>,
        /// What it proves its name with; plain text without.
        tls: Option<TlsIdentity>,
    },
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    position: Position,
    message: String,
}

/// A configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("failed to read configuration {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is larger than any configuration.
    #[error(
        "configuration {path} has more than {CONFIG_BYTES_MAX} bytes, which no configuration needs; \
         is it the right file?"
    )]
    TooLarge {
        /// Which file.
        path: PathBuf,
    },
    /// What it says is not legal.
    #[error("{}", Listed(path, problems))]
    Illegal {
        /// Which file.
        path: PathBuf,
        /// Everything that is wrong with it, in the order of the file.
        problems: Vec<Problem>,
    },
}

/// The largest configuration that is read. A ConfigMap holds no more.
pub const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// Reads and checks the configuration file at `path`.
///
/// # Errors
/// The file cannot be read, is too large, or says something illegal; then every problem is listed.
pub fn load(path: &Path) -> Result<Configuration, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > CONFIG_BYTES_MAX {
        return Err(ConfigError::TooLarge { path: path.to_owned() });
    }
    let text = String::from_utf8(bytes).map_err(|error| failed(std::io::Error::other(error)))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    parse(&text, folder)
        .map_err(|problems| ConfigError::Illegal { path: path.to_owned(), problems })
}

/// Checks the text of a configuration; relative paths are taken from `folder`.
///
/// # Errors
/// Every problem, in the order of the text.
pub fn parse(text: &str, folder: &Path) -> Result<Configuration, Vec<Problem>> {
    let mut document = Document::parse(text)
        .map_err(|error| vec![Problem { position: error.position, message: error.message }])?;
    tidy(&mut document.value);
    let (document, mut problems) = schema::checked(document);
    match serde_json::from_value::<wire::Config>(document.value.clone()) {
        Ok(config) => match resolve::resolve(&document, &config, folder) {
            Ok(resolved) if problems.is_empty() => return Ok(resolved),
            Ok(_) => {}
            Err(more) => problems.extend(more),
        },
        // Cannot be where the schema and the types agree; a test holds them together.
        Err(error) => problems.push(document.problem("", error.to_string())),
    }
    problems.sort();
    problems.dedup();
    Err(problems)
}

/// The settings of a policy as YAML, which JSON is a part of, as JSON.
///
/// # Errors
/// The text is not YAML; says where.
pub fn yaml_to_json(text: &str) -> Result<Value, Problem> {
    Document::parse(text)
        .map(|document| document.value)
        .map_err(|error| Problem { position: error.position, message: error.message })
}

/// A key without a value, as in `policies:`, is a key left out, and `5.0` is the integer 5, as it
/// is for JSON Schema. The settings of policies are theirs to read.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.iter_mut().filter(|(key, _)| *key != "config").for_each(|(_, v)| tidy(v));
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Number(number) => {
            if number.is_f64()
                && let Some(integer) = number.as_f64().and_then(integer)
            {
                *number = integer.into();
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// The integer that `number` is, if it is one and small enough to be meant as one.
fn integer(number: f64) -> Option<i64> {
    // Printing is exact, and parsing refuses what is no integer.
    number.to_string().parse().ok()
}

/// Of `known` the one most like `word`, if any is like it.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Above this likeness people recognize a slip of the finger; below it a hint misleads.
    const LIKENESS_MIN: f64 = 0.75;
    known
        .map(|known| (strsim::jaro_winkler(&word.to_lowercase(), &known.to_lowercase()), known))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

impl Document {
    fn problem(&self, pointer: &str, message: impl Into<String>) -> Problem {
        Problem { position: self.position(pointer), message: message.into() }
    }
}

/// Problems as `file:line:column: message`, a line each.
struct Listed<'a>(&'a Path, &'a [Problem]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.1.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:{problem}", self.0.display())?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.position.line, self.position.column, self.message)
    }
}

#[cfg(test)]
mod tests;
