//! From the configuration as written to what the line works with. Collects every problem.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use landfall_core::defaults::Defaults;
use landfall_core::guard::GuardSettings;
use landfall_core::name;
use landfall_core::pattern::{Pattern, Selector};
use landfall_core::plan::Mode;
use landfall_core::registry::{Health, SourceName};
use landfall_core::template::Template;
use landfall_core::text::Text;
use landfall_mesh::api::Owner;
use landfall_mesh::render::Shape;
use landfall_policy_host::Limits;
use landfall_registry::Url;
use landfall_registry::eureka::EurekaLogin;
use landfall_registry::{consul, eureka};

use super::tree::{Document, child};
use super::{
    ComponentOrigin, ConfigMapOrigin, Configuration, ConsulConfig, EurekaConfig, KubeAccess,
    PolicyConfig, Problem, SinkConfig, SinkKind, SourceConfig, SourceKind, units, wire,
};

const OWNER_DEFAULT: &str = "default";
/// Comparing desired and observed costs memory for each sink.
const SINKS_MAX: usize = 16;

/// Relative paths are taken from `folder`.
pub(super) fn resolve(
    document: &Document,
    config: &wire::Config,
    folder: &Path,
) -> Result<Configuration, Vec<Problem>> {
    let mut resolver = Resolver { document, folder, problems: Vec::new() };
    let sources = resolver.sources(&config.sources);
    let defaults = resolver.defaults(&config.defaults);
    let policies = resolver.policies(&config.policies);
    let sinks = resolver.sinks(&config.sinks);
    let owner = config.owner.as_deref().unwrap_or(OWNER_DEFAULT);
    let owner = Owner::parse(owner);
    if let Err(error) = &owner {
        resolver.problem("/owner", format!("owner: {error}"));
    }
    let guard = GuardSettings {
        removal_share_percent: config.guard.removal_share.0,
        removal_min: config.guard.removal_min as usize,
        hold: config.guard.hold.0,
    };
    let shape = match config.resources.shape {
        wire::Shape::Auto => Shape::Auto,
        wire::Shape::Inline => Shape::Inline,
        wire::Shape::WorkloadEntries => Shape::WorkloadEntries,
    };
    match (defaults, owner, resolver.problems) {
        (Some(defaults), Ok(owner), problems) if problems.is_empty() => Ok(Configuration {
            sources,
            defaults,
            policies,
            sinks,
            guard,
            grace: config.guard.grace.0,
            shape,
            owner,
            admin_listen: config.admin.listen,
        }),
        (_, _, problems) => Err(problems),
    }
}

struct Resolver<'a> {
    document: &'a Document,
    folder: &'a Path,
    problems: Vec<Problem>,
}

impl Resolver<'_> {
    fn problem(&mut self, pointer: &str, message: impl Into<String>) {
        self.problems.push(self.document.problem(pointer, message));
    }

    fn dns_label(&mut self, pointer: &str, what: &str, raw: &str) {
        if let Err(error) = name::check_dns_label(raw) {
            self.problem(pointer, format!("{what} {error}"));
        }
    }

    fn path(&self, path: &Path) -> PathBuf {
        self.folder.join(path)
    }

    fn unique<'a>(&mut self, list: &str, names: impl Iterator<Item = &'a str>) {
        let mut seen = BTreeSet::new();
        for (index, name) in names.enumerate() {
            if !seen.insert(name) {
                self.problem(
                    &format!("/{list}/{index}/name"),
                    format!("the name {name:?} is used twice in {list}; each needs its own"),
                );
            }
        }
    }

    fn sources(&mut self, sources: &[wire::Source]) -> Vec<SourceConfig> {
        self.unique("sources", sources.iter().map(|source| source.name.as_str()));
        let mut resolved = Vec::new();
        for (index, source) in sources.iter().enumerate() {
            let at = format!("/sources/{index}");
            let name = SourceName::parse(&source.name);
            if let Err(error) = &name {
                self.problem(&child(&at, "name"), format!("source name: {error}"));
            }
            let kind = match (&source.file, &source.consul, &source.eureka) {
                (Some(file), None, None) => Some(SourceKind::File { path: self.path(&file.path) }),
                (None, Some(consul), None) => {
                    Some(SourceKind::Consul(Box::new(self.consul(&child(&at, "consul"), consul))))
                }
                (None, None, Some(eureka)) => {
                    Some(SourceKind::Eureka(Box::new(self.eureka(&child(&at, "eureka"), eureka))))
                }
                (None, None, None) => {
                    self.problem(&at, "a source needs one of: file, consul, eureka");
                    None
                }
                _ => {
                    self.problem(
                        &at,
                        "a source is of one kind only: keep one of file, consul, eureka",
                    );
                    None
                }
            };
            if let (Ok(name), Some(kind)) = (name, kind) {
                resolved.push(SourceConfig { name, kind });
            }
        }
        resolved
    }

    fn consul(&mut self, at: &str, consul: &wire::ConsulSource) -> ConsulConfig {
        let urls = self.urls(at, &consul.url, &consul.urls, "http://127.0.0.1:8500");
        self.pair(at, &consul.cert_file, &consul.key_file);
        let why = "reading all anew takes a registry seconds";
        self.at_least(at, "resync", consul.resync, consul::RESYNC_MIN, why);
        ConsulConfig {
            urls,
            token_file: consul.token_file.as_deref().map(|path| self.path(path)),
            ca_file: consul.ca_file.as_deref().map(|path| self.path(path)),
            cert_file: consul.cert_file.as_deref().map(|path| self.path(path)),
            key_file: consul.key_file.as_deref().map(|path| self.path(path)),
            datacenters: consul.datacenters.clone(),
            partitions: consul.partitions.clone(),
            namespaces: consul.namespaces.clone(),
            include_proxies: consul.include_proxies,
            connections_max: consul.connections_max,
            resync: consul.resync.map(|resync| resync.0),
            partial_view: consul.partial_view,
        }
    }

    fn eureka(&mut self, at: &str, eureka: &wire::EurekaSource) -> EurekaConfig {
        let mut urls = self.urls(at, &eureka.url, &eureka.urls, "http://127.0.0.1:8761/eureka");
        self.pair(at, &eureka.cert_file, &eureka.key_file);
        let bounds = [
            ("poll", eureka.poll, eureka::POLL_MIN, "what a server tells is older than that"),
            (
                "resync",
                eureka.resync,
                eureka::RESYNC_MIN,
                "reading all anew takes a registry seconds",
            ),
            (
                "staleAfter",
                eureka.stale_after,
                eureka::STALE_AFTER_MIN,
                "instances renew their leases every 30s and may fail to once",
            ),
        ];
        for (key, given, least, why) in bounds {
            self.at_least(at, key, given, least, why);
        }
        let mut user = eureka.user.clone();
        for url in &mut urls {
            let in_url = url.username().to_owned();
            if in_url.contains('%') {
                self.problem(at, "an address has a user with special letters; set user instead");
            }
            if !in_url.is_empty() && user.get_or_insert_with(|| in_url.clone()) != &in_url {
                self.problem(at, "the addresses and user name different users; name one");
            }
            if url.password().is_some() {
                // It is not repeated: messages are kept and shown.
                self.problem(at, "an address has a password in it; put it into passwordFile");
            }
            // Only addresses without a host refuse, and those have neither.
            let _taken = (url.set_username(""), url.set_password(None));
        }
        if user.as_ref().is_some_and(|user| user.contains(':')) {
            self.problem(at, "user has a colon, which HTTP takes for the end of the user's name");
        }
        let login = match (user, &eureka.password_file) {
            (Some(user), Some(file)) => Some(EurekaLogin { user, password_file: self.path(file) }),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                self.problem(at, "user and passwordFile go together; set both or none");
                None
            }
        };
        EurekaConfig {
            urls,
            login,
            ca_file: eureka.ca_file.as_deref().map(|path| self.path(path)),
            cert_file: eureka.cert_file.as_deref().map(|path| self.path(path)),
            key_file: eureka.key_file.as_deref().map(|path| self.path(path)),
            poll: eureka.poll.map(|poll| poll.0),
            resync: eureka.resync.map(|resync| resync.0),
            prefer_hostname: eureka.prefer_hostname,
            stale_after: eureka.stale_after.map(|after| after.0),
        }
    }

    /// The addresses of a registry; `such_as` is what one looks like.
    fn urls(
        &mut self,
        at: &str,
        one: &Option<String>,
        several: &[String],
        such_as: &str,
    ) -> Vec<Url> {
        let mut urls = Vec::new();
        for raw in one.iter().chain(several) {
            match raw.parse::<Url>() {
                Ok(url) if matches!(url.scheme(), "http" | "https") => urls.push(url),
                Ok(_) | Err(_) => {
                    self.problem(at, format!("{raw:?} is not an http:// or https:// address"));
                }
            }
        }
        if one.is_none() && several.is_empty() {
            self.problem(at, format!("url is missing, such as {such_as}"));
        }
        urls
    }

    fn pair(&mut self, at: &str, cert: &Option<PathBuf>, key: &Option<PathBuf>) {
        if cert.is_some() != key.is_some() {
            self.problem(at, "certFile and keyFile go together; set both or none");
        }
    }

    fn at_least(
        &mut self,
        at: &str,
        key: &str,
        given: Option<units::Duration>,
        least: Duration,
        why: &str,
    ) {
        if let Some(given) = given
            && given.0 < least
        {
            let least = units::Duration(least);
            self.problem(
                &child(at, key),
                format!("{key} is {given}; {why}, so set {least} or more"),
            );
        }
    }

    fn defaults(&mut self, defaults: &wire::Defaults) -> Option<Defaults> {
        let host = self.template("/defaults/host", &defaults.host);
        let namespace = self.template("/defaults/namespace", &defaults.namespace);
        let mut labels = Vec::new();
        for (key, value) in &defaults.labels {
            let pointer = child("/defaults/labels", key);
            let legal = name::label_key(key);
            if legal.altered {
                self.problem(&pointer, format!("{key:?} is not a legal label key in Kubernetes"));
            }
            if let Some(value) = self.template(&pointer, value) {
                labels.push((legal.name, value));
            }
        }
        let health = defaults
            .health
            .iter()
            .map(|health| match health {
                wire::Health::Passing => Health::Passing,
                wire::Health::Warning => Health::Warning,
                wire::Health::Critical => Health::Critical,
                wire::Health::Maintenance => Health::Maintenance,
                wire::Health::Unknown => Health::Unknown,
            })
            .collect();
        Some(Defaults { host: host?, namespace: namespace?, labels, health })
    }

    fn template(&mut self, pointer: &str, raw: &str) -> Option<Template> {
        match Template::parse(raw) {
            Ok(template) => Some(template),
            Err(error) => {
                self.problem(pointer, error.to_string());
                None
            }
        }
    }

    fn policies(&mut self, policies: &[wire::Policy]) -> Vec<PolicyConfig> {
        self.unique("policies", policies.iter().map(|policy| policy.name.as_str()));
        let mut resolved = Vec::new();
        for (index, policy) in policies.iter().enumerate() {
            let at = format!("/policies/{index}");
            self.dns_label(&child(&at, "name"), "policy name", &policy.name);
            let origin = match (&policy.component.file, &policy.component.config_map) {
                (Some(file), None) => ComponentOrigin::File(self.path(file)),
                (None, Some(map)) => ComponentOrigin::ConfigMap(ConfigMapOrigin {
                    namespace: map.namespace.clone(),
                    name: map.name.clone(),
                    key: map.key.clone(),
                    access: self.kube_access(map.kubeconfig.as_deref(), map.context.as_deref()),
                }),
                (None, None) | (Some(_), Some(_)) => {
                    self.problem(&child(&at, "component"), "set one of: file, configMap");
                    continue;
                }
            };
            let mut limits = Limits::default();
            if let Some(memory) = policy.limits.memory {
                limits.memory_bytes_max = usize::try_from(memory.0).unwrap_or(usize::MAX);
            }
            if let Some(time) = policy.limits.time {
                limits.time_max = time.0;
                if time.0.is_zero() {
                    self.problem(&child(&at, "limits"), "time is 0; no policy can answer in that");
                }
            }
            if let Some(lines) = policy.limits.log_lines {
                limits.log_lines_per_minute_max = lines;
            }
            let patterns = |raw: &[String]| raw.iter().map(Pattern::new).collect();
            resolved.push(PolicyConfig {
                name: Text::from(policy.name.as_str()),
                origin,
                settings: policy.config.clone(),
                selector: Selector {
                    sources: patterns(&policy.matches.sources),
                    services: patterns(&policy.matches.services),
                },
                limits,
            });
        }
        resolved
    }

    fn kube_access(&self, kubeconfig: Option<&Path>, context: Option<&str>) -> KubeAccess {
        KubeAccess {
            kubeconfig: kubeconfig.map(|path| self.path(path)),
            context: context.map(str::to_owned),
        }
    }

    fn sinks(&mut self, sinks: &[wire::Sink]) -> Vec<SinkConfig> {
        if sinks.len() > SINKS_MAX {
            self.problem("/sinks", format!("{} sinks; at most {SINKS_MAX} fit", sinks.len()));
        }
        let mut resolved = Vec::new();
        for (index, sink) in sinks.iter().enumerate() {
            let kind = match (&sink.kubernetes, &sink.files) {
                (Some(kubernetes), None) => SinkKind::Kubernetes {
                    access: self.kube_access(
                        kubernetes.kubeconfig.as_deref(),
                        kubernetes.context.as_deref(),
                    ),
                    namespaces: kubernetes.namespaces.clone(),
                },
                (None, Some(files)) => SinkKind::Files { path: self.path(&files.path) },
                (None, None) | (Some(_), Some(_)) => {
                    self.problem(
                        &format!("/sinks/{index}"),
                        "a sink is of one kind: kubernetes or files",
                    );
                    continue;
                }
            };
            let mode = match sink.mode {
                wire::Mode::Sync => Mode::Sync,
                wire::Mode::UpsertOnly => Mode::UpsertOnly,
                wire::Mode::CreateOnly => Mode::CreateOnly,
            };
            resolved.push(SinkConfig { kind, mode });
        }
        resolved
    }
}
