//! The configuration: read, checked as a whole, and turned into what the line works with.

mod resolve;
pub mod schema;
mod tree;
pub mod units;
pub mod wire;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use landfall_core::defaults::Defaults;
use landfall_core::guard::GuardSettings;
use landfall_core::pattern::Selector;
use landfall_core::plan::Mode;
use landfall_core::registry::SourceName;
use landfall_core::text::Text;
use landfall_mesh::api::Owner;
use landfall_mesh::render::Shape;
use landfall_policy_host::Limits;
use landfall_registry::Url;
use landfall_registry::eureka::EurekaLogin;

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
    /// Where resources go.
    pub sinks: Vec<SinkConfig>,
    /// The deletion budget.
    pub guard: GuardSettings,
    /// How long a host that lost its place goes on.
    pub grace: Duration,
    /// Where endpoints stand.
    pub shape: Shape,
    /// Whose objects are ours.
    pub owner: Owner,
    /// Where health, readiness and metrics are served.
    pub admin_listen: SocketAddr,
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
    Consul(Box<ConsulConfig>),
    /// Netflix Eureka.
    Eureka(Box<EurekaConfig>),
}

/// How to reach a Consul, and what to list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConsulConfig {
    /// Agents or servers, tried in turn; at least one.
    pub urls: Vec<Url>,
    /// Holds the ACL token.
    pub token_file: Option<PathBuf>,
    /// Certificate authorities to trust.
    pub ca_file: Option<PathBuf>,
    /// The client certificate.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// The agent's own when empty.
    pub datacenters: Vec<String>,
    /// The default one when empty.
    pub partitions: Vec<String>,
    /// The default one when empty.
    pub namespaces: Vec<String>,
    /// Whether proxies and gateways are listed.
    pub include_proxies: bool,
    /// Most connections to one agent; the source's own default when unset.
    pub connections_max: Option<u16>,
    /// How often all is read anew; the source's own default when unset.
    pub resync: Option<Duration>,
    /// Whether a listing that access rules made smaller is as it should be.
    pub partial_view: bool,
}

/// How to reach a Eureka, and how to read it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EurekaConfig {
    /// Servers, tried in turn; at least one, and none with a user in it.
    pub urls: Vec<Url>,
    /// Who to be.
    pub login: Option<EurekaLogin>,
    /// Certificate authorities to trust.
    pub ca_file: Option<PathBuf>,
    /// The client certificate.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// How often to ask what changed; the source's own default when unset.
    pub poll: Option<Duration>,
    /// How often all is read anew; the source's own default when unset.
    pub resync: Option<Duration>,
    /// Whether the name of the host goes before its IP address.
    pub prefer_hostname: bool,
    /// When a lease that is not renewed makes critical; never when unset.
    pub stale_after: Option<Duration>,
}

/// A policy to run.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyConfig {
    /// Unique among policies.
    pub name: Text,
    /// Where the component comes from.
    pub origin: ComponentOrigin,
    /// Its settings, unless those of the ConfigMap go before.
    pub settings: Option<serde_json::Value>,
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
    /// What it says is not legal.
    #[error("{}", Listed(path, problems))]
    Illegal {
        /// Which file.
        path: PathBuf,
        /// Everything that is wrong with it, in the order of the file.
        problems: Vec<Problem>,
    },
}

/// Reads and checks the configuration file at `path`.
///
/// # Errors
/// The file cannot be read, or says something illegal; then every problem is listed.
pub fn load(path: &Path) -> Result<Configuration, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
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
    drop_nulls(&mut document.value);
    let problems = schema::problems(&document);
    if !problems.is_empty() {
        return Err(problems);
    }
    // Cannot fail where the schema and the types agree; a test holds them together.
    let config: wire::Config = serde_json::from_value(document.value.clone())
        .map_err(|error| vec![document.problem("", error.to_string())])?;
    resolve::resolve(&document, &config, folder).map_err(|mut problems| {
        problems.sort();
        problems
    })
}

/// The settings of a policy as YAML, which JSON is a part of, as JSON.
///
/// # Errors
/// The text is not YAML; says where.
pub fn yaml_to_json(text: &str) -> Result<serde_json::Value, Problem> {
    Document::parse(text)
        .map(|document| document.value)
        .map_err(|error| Problem { position: error.position, message: error.message })
}

/// A key without a value, as in `policies:`, is a key left out. The settings of policies are
/// theirs to read.
fn drop_nulls(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.iter_mut().filter(|(key, _)| *key != "config").for_each(|(_, v)| drop_nulls(v));
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
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
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(text: &str, want: Expect) {
        let seen = match parse(text, Path::new("")) {
            Ok(_) => "ok".to_owned(),
            Err(problems) => {
                problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
            }
        };
        want.assert_eq(&seen);
    }

    #[test]
    fn an_empty_file_is_a_legal_configuration() {
        check("", expect!["ok"]);
        check("policies:\nsources: []\n", expect!["ok"]);
    }

    #[test]
    fn every_problem_is_told_at_once_with_its_place() {
        check(
            r#"sorces: []
sources:
  - name: Not_Legal
    file: {path: a.yaml, pth: b}
  - name: twice
    file: {path: a.yaml}
    consul: {url: "http://127.0.0.1:8500"}
  - name: twice
guard: {removalShare: 20, grace: "30"}
sinks:
  - files: {path: out}
    mode: sink
"#,
            expect![[r#"
                1:1: unknown key "sorces"; did you mean "sources"?
                4:26: unknown key "pth"; did you mean "path"?
                9:9: "removalShare" must be of type string, but is 20
                9:27: "grace" is "30", which does not fit: A length of time, such as `50ms`, `30s`, `10m` or `1h`.
                12:5: "mode" is "sink", but must be one of sync, upsert-only, create-only"#]],
        );
        check(
            r#"sources:
  - name: Not_Legal
    file: {path: a.yaml}
  - name: twice
    file: {path: a.yaml}
    consul: {url: "127.0.0.1:8500"}
  - name: twice
defaults: {host: "{servce}.mesh", labels: {"a b": "x"}}
policies:
  - name: p
    component: {}
sinks:
  - {}
"#,
            expect![[r#"
                2:5: source name: "Not_Legal" is not a legal DNS label: labels consist of letters, digits and dashes
                4:5: a source is of one kind only: keep one of file, consul, eureka
                7:5: a source needs one of: file, consul, eureka
                7:5: the name "twice" is used twice in sources; each needs its own
                8:12: "servce" is not a variable; there are {service}, {source}, {group}, {datacenter}, {partition} and {meta.KEY}
                8:44: "a b" is not a legal label key in Kubernetes
                11:5: set one of: file, configMap
                13:5: a sink is of one kind: kubernetes or files"#]],
        );
    }

    #[test]
    fn reading_all_anew_must_not_fill_the_time() {
        let of = |resync: &str| {
            format!(
                "sources:\n  - name: a\n    consul: {{url: \"http://127.0.0.1:8500\", resync: {resync}}}\n"
            )
        };
        check(
            &of("0s"),
            expect![
                "3:44: resync is 0s; reading all anew takes a registry seconds, so set 10s or more"
            ],
        );
        check(
            &of("9999ms"),
            expect![
                "3:44: resync is 9999ms; reading all anew takes a registry seconds, so set 10s or more"
            ],
        );
        check(&of("10s"), expect!["ok"]);
    }

    #[test]
    fn a_login_of_eureka_is_whole_and_its_password_is_not_told() {
        let of =
            |eureka: &str| format!("sources:\n  - name: a\n    eureka: {{{eureka}, poll: 2s}}\n");
        check(&of("url: http://127.0.0.1:8761/eureka"), expect!["ok"]);
        check(&of("url: http://u@127.0.0.1:8761/eureka, passwordFile: p"), expect!["ok"]);
        check(
            &of("urls: [\"http://u:hush@a/eureka\", \"ftp://b\"], user: w, certFile: c"),
            expect![[r#"
                3:5: "ftp://b" is not an http:// or https:// address
                3:5: an address has a password in it; put it into passwordFile
                3:5: certFile and keyFile go together; set both or none
                3:5: the addresses and user name different users; name one
                3:5: user and passwordFile go together; set both or none"#]],
        );
        check(
            &of("passwordFile: p, resync: 1s, staleAfter: 30s"),
            expect![[r#"
            3:5: url is missing, such as http://127.0.0.1:8761/eureka
            3:5: user and passwordFile go together; set both or none
            3:31: resync is 1s; reading all anew takes a registry seconds, so set 10s or more
            3:43: staleAfter is 30s; instances renew their leases every 30s and may fail to once, so set 1m or more"#]],
        );
        check(
            &of("url: http://a%20b@h/eureka, user: \"a:b\""),
            expect![[r#"
            3:5: an address has a user with special letters; set user instead
            3:5: the addresses and user name different users; name one
            3:5: user and passwordFile go together; set both or none
            3:5: user has a colon, which HTTP takes for the end of the user's name"#]],
        );
    }

    #[test]
    fn what_is_not_yaml_is_told_with_its_place() {
        check("sources: [\n", expect!["1:10: unclosed bracket '[' at line 1, column 10"]);
        check(
            "sources:\n  - name: a\n name: b\n",
            expect![
                "3:2: while parsing a block mapping, did not find expected key at line 3, column 2"
            ],
        );
    }

    #[test]
    fn the_schema_and_the_types_agree_on_the_defaults() {
        let defaults = serde_json::to_string(&wire::Config::default()).unwrap();
        check(&defaults, expect!["ok"]);
    }
}
