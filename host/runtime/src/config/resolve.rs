//! From the configuration as written to what the line works with. Collects every problem.

mod sharing;
mod sinks;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use landfall_core::defaults::Defaults;
use landfall_core::guard::GuardSettings;
use landfall_core::name::{self, Hostname, Namespace};
use landfall_core::pattern::{Pattern, Selector};
use landfall_core::registry::{Health, SourceName};
use landfall_core::template::Template;
use landfall_core::text::Text;
use landfall_mesh::api::{Location, OWNER_LABEL};
use landfall_mesh::render::Shape;
use landfall_mesh::validate::LIST_LEN_MAX;
use landfall_policy_host::Limits;
use landfall_registry::consul::{self, ConsulSettings, Kinds};
use landfall_registry::eureka::{self, EurekaLogin, EurekaSettings};
use landfall_registry::{TlsFiles, Url};

use super::tree::{Document, child};
use super::{
    ComponentOrigin, ConfigMapOrigin, Configuration, KubeAccess, PolicyConfig, Problem,
    ResourceConfig, SourceConfig, SourceKind, units, wire,
};

const SOURCE_KINDS: &str = "file, consul, eureka, cloudMap";
/// One call delays everything that is decided in the same round, and the slowest language that is
/// known needs 70 ms for a full batch.
const POLICY_TIME_MAX: Duration = Duration::from_secs(5);
/// Each worker thread keeps one instance of each policy, and each may fill its memory.
const POLICY_MEMORY_MAX: u64 = 1 << 30;

/// What `document` says, of which `config` was read. Relative paths are taken from `folder`.
pub(super) fn resolve(
    document: &Document,
    config: &wire::Config,
    folder: &Path,
) -> Result<Configuration, Vec<Problem>> {
    let mut resolver = Resolver { document, folder, problems: Vec::new() };
    let sources = resolver.sources(&config.sources);
    let defaults = resolver.defaults(&config.defaults);
    let policies = resolver.policies(&config.policies);
    let sharing = Arc::new(resolver.sharing(&config.sharing, &sources));
    let sinks = resolver.sinks(&config.sinks);
    let owner = resolver.owner(config);
    let guard = GuardSettings {
        removal_share_percent: config.guard.removal_share.0,
        removal_min: config.guard.removal_min as usize,
        hold: config.guard.hold.0,
    };
    let resources = resolver.resources(&config.resources);
    let admin_listen =
        resolver.listen("/admin/listen", &config.admin.listen, "127.0.0.1:15080 or [::1]:15080");
    match (defaults, owner, admin_listen, resolver.problems) {
        (Some(defaults), Some(owner), Some(admin_listen), problems) if problems.is_empty() => {
            let own_mark = (Text::from(OWNER_LABEL), Text::from(owner.as_str()));
            let defaults = Defaults { own_mark: Some(own_mark), ..defaults };
            Ok(Configuration {
                sources,
                defaults,
                policies,
                sharing,
                sinks,
                guard,
                grace: config.guard.grace.0,
                resources,
                owner,
                admin_listen,
            })
        }
        (_, _, _, problems) => Err(problems),
    }
}

/// What the addresses of a registry are like.
pub(super) struct Addresses {
    pub(super) such_as: &'static str,
    /// The key for what must not stand in an address.
    pub(super) secret_key: &'static str,
    pub(super) may_name_user: bool,
}

const CONSUL: Addresses =
    Addresses { such_as: "http://127.0.0.1:8500", secret_key: "tokenFile", may_name_user: false };

const EUREKA: Addresses = Addresses {
    such_as: "http://127.0.0.1:8761/eureka",
    secret_key: "passwordFile",
    may_name_user: true,
};

pub(super) struct Resolver<'a> {
    document: &'a Document,
    folder: &'a Path,
    problems: Vec<Problem>,
}

impl Resolver<'_> {
    /// Notes that the value at `pointer` is not legal, unless it stands in for one that the schema
    /// missed already.
    pub(super) fn problem(&mut self, pointer: &str, message: impl Into<String>) {
        if !self.document.is_filled(pointer) {
            self.problems.push(self.document.problem(pointer, message));
        }
    }

    /// Notes that something is missing at `pointer`, unless it may be what the schema refused.
    pub(super) fn missing(&mut self, pointer: &str, message: impl Into<String>) {
        if self.document.is_whole(pointer) {
            self.problem(pointer, message);
        }
    }

    fn dns_label(&mut self, pointer: &str, what: &str, raw: &str) {
        if let Err(error) = name::check_dns_label(raw) {
            self.problem(pointer, format!("{what} {error}"));
        }
    }

    pub(super) fn path(&self, path: &Path) -> PathBuf {
        // Without what says nothing, so that one folder has one path.
        self.folder.join(path).components().filter(|part| *part != Component::CurDir).collect()
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
            let kind = self.source_kind(&at, source);
            if let (Ok(name), Some(kind)) = (name, kind) {
                resolved.push(SourceConfig { name, kind });
            }
        }
        resolved
    }

    fn source_kind(&mut self, at: &str, source: &wire::Source) -> Option<SourceKind> {
        let wire::Source { name: _, file, consul, eureka, cloud_map } = source;
        match (file, consul, eureka, cloud_map) {
            (Some(file), None, None, None) => {
                Some(SourceKind::File { path: self.path(&file.path) })
            }
            (None, Some(consul), None, None) => {
                Some(SourceKind::Consul(Box::new(self.consul(&child(at, "consul"), consul))))
            }
            (None, None, Some(eureka), None) => {
                Some(SourceKind::Eureka(Box::new(self.eureka(&child(at, "eureka"), eureka))))
            }
            (None, None, None, Some(map)) => {
                Some(SourceKind::CloudMap(Box::new(self.cloud_map(&child(at, "cloudMap"), map))))
            }
            (None, None, None, None) => {
                self.missing(at, format!("a source needs one of: {SOURCE_KINDS}"));
                None
            }
            _ => {
                // The last that is there: of two it is the second.
                let second = match (cloud_map, eureka) {
                    (Some(_), _) => "cloudMap",
                    (None, Some(_)) => "eureka",
                    (None, None) => "consul",
                };
                let message = format!("a source is of one kind only: keep one of {SOURCE_KINDS}");
                self.problem(&child(at, second), message);
                None
            }
        }
    }

    fn consul(&mut self, at: &str, consul: &wire::ConsulSource) -> ConsulSettings {
        let urls = self.urls(at, &consul.url, &consul.urls, &CONSUL);
        let urls = urls.into_iter().map(|(_, url)| url).collect();
        let why = "reading all anew takes a registry seconds";
        self.at_least(at, "resync", consul.resync, consul::RESYNC_MIN, why);
        let unset = ConsulSettings::new(urls);
        let proxies = consul.include_proxies;
        ConsulSettings {
            token_file: consul.token_file.as_deref().map(|path| self.path(path)),
            tls: self.tls(at, &consul.ca_file, &consul.cert_file, &consul.key_file),
            datacenters: consul.datacenters.clone(),
            partitions: consul.partitions.clone(),
            namespaces: consul.namespaces.clone(),
            kinds: Kinds { proxies, gateways: proxies },
            connections_max: consul.connections_max.map_or(unset.connections_max, usize::from),
            resync: consul.resync.map_or(unset.resync, |resync| resync.0),
            partial_view: consul.partial_view,
            ..unset
        }
    }

    fn eureka(&mut self, at: &str, eureka: &wire::EurekaSource) -> EurekaSettings {
        let mut urls = self.urls(at, &eureka.url, &eureka.urls, &EUREKA);
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
        for (pointer, url) in &mut urls {
            let in_url = url.username().to_owned();
            if in_url.contains('%') {
                let message = "an address has a user with special letters; set user instead";
                self.problem(pointer, message);
            }
            if !in_url.is_empty() && user.get_or_insert_with(|| in_url.clone()) != &in_url {
                self.problem(pointer, "the addresses and user name different users; name one");
            }
            // Only addresses without a host refuse, and those have none.
            let _taken = url.set_username("");
        }
        if user.as_ref().is_some_and(|user| user.contains(':')) {
            let message = "user has a colon, which HTTP takes for the end of the user's name";
            self.problem(&child(at, "user"), message);
        }
        let login = match (user, &eureka.password_file) {
            (Some(user), Some(file)) => Some(EurekaLogin { user, password_file: self.path(file) }),
            (None, None) => None,
            (one, _) => {
                let there = match one {
                    Some(_) if eureka.user.is_some() => "user",
                    Some(_) if eureka.url.is_some() => "url",
                    Some(_) => "urls",
                    None => "passwordFile",
                };
                self.lone(at, there, "user and passwordFile go together; set both or none");
                None
            }
        };
        let urls = urls.into_iter().map(|(_, url)| url).collect();
        let unset = EurekaSettings::new(urls);
        EurekaSettings {
            login,
            tls: self.tls(at, &eureka.ca_file, &eureka.cert_file, &eureka.key_file),
            poll: eureka.poll.map_or(unset.poll, |poll| poll.0),
            resync: eureka.resync.map_or(unset.resync, |resync| resync.0),
            prefer_hostname: eureka.prefer_hostname,
            stale_after: eureka.stale_after.map(|after| after.0),
            ..unset
        }
    }

    /// The addresses of a registry, and where each stands. None is repeated in what is said of it: messages are kept and
    /// shown, and a secret may stand in any part, most of all in one that is written wrongly.
    fn urls(
        &mut self,
        at: &str,
        one: &Option<String>,
        several: &[String],
        like: &Addresses,
    ) -> Vec<(String, Url)> {
        let mut urls = Vec::new();
        let of_one = one.iter().map(|raw| (child(at, "url"), raw));
        let list = several.iter().enumerate();
        let of_several = list.map(|(index, raw)| (format!("{at}/urls/{index}"), raw));
        for (pointer, raw) in of_one.chain(of_several) {
            let key = if pointer.ends_with("/url") { "url" } else { "urls" };
            let Some(url) = self.url(&pointer, key, raw, like) else { continue };
            urls.push((pointer, url));
        }
        if one.is_none() && several.is_empty() {
            self.missing(at, format!("url is missing, such as {}", like.such_as));
        }
        urls
    }

    /// One address, whose value stands at `pointer`.
    pub(super) fn url(
        &mut self,
        pointer: &str,
        key: &str,
        raw: &str,
        like: &Addresses,
    ) -> Option<Url> {
        let url = raw.parse::<Url>().ok();
        let Some(url) = url.filter(|url| matches!(url.scheme(), "http" | "https")) else {
            let message =
                format!("{key} is not an http:// or https:// address, such as {}", like.such_as);
            self.problem(pointer, message);
            return None;
        };
        let has_user = !url.username().is_empty() && !like.may_name_user;
        if has_user || url.password().is_some() {
            let what = if like.may_name_user { "a password" } else { "a user or a password" };
            self.problem(pointer, format!("{key} has {what} in it; use {}", like.secret_key));
        }
        if url.query().is_some() || url.fragment().is_some() {
            let message = format!(
                "{key} has a query or a fragment; take it out, and use {} if it is a secret",
                like.secret_key
            );
            self.problem(pointer, message);
        }
        Some(url)
    }

    fn tls(
        &mut self,
        at: &str,
        ca: &Option<PathBuf>,
        cert: &Option<PathBuf>,
        key: &Option<PathBuf>,
    ) -> TlsFiles {
        self.pair(at, cert, key);
        let [ca_file, client_cert_file, client_key_file] =
            [ca, cert, key].map(|file| file.as_deref().map(|path| self.path(path)));
        TlsFiles { ca_file, client_cert_file, client_key_file }
    }

    fn pair(&mut self, at: &str, cert: &Option<PathBuf>, key: &Option<PathBuf>) {
        let there = match (cert, key) {
            (Some(_), None) => "certFile",
            (None, Some(_)) => "keyFile",
            (None, None) | (Some(_), Some(_)) => return,
        };
        self.lone(at, there, "certFile and keyFile go together; set both or none");
    }

    /// Notes that the key `there` lacks another one beside it, unless that may be what the schema
    /// refused.
    fn lone(&mut self, at: &str, there: &str, message: &str) {
        if self.document.is_whole(at) {
            self.problem(&child(at, there), message);
        }
    }

    pub(super) fn at_least(
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
        if let Some(host) = &host
            && let Err(error) = Hostname::parse(&host.sample_host())
        {
            let message = format!(
                "\"host\" makes no legal host name of any service: {error}; write one such as \
                 {{service}}.{{source}}.mesh"
            );
            self.problem("/defaults/host", message);
        }
        let namespace = self.template("/defaults/namespace", &defaults.namespace);
        if let Some(namespace) = &namespace
            && let Err(error) = Namespace::parse(&namespace.sample())
        {
            let message = format!(
                "\"namespace\" makes no legal namespace of any service: {error}; write one such as \
                 mesh-registry"
            );
            self.problem("/defaults/namespace", message);
        }
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
        let (host, namespace) = (host?, namespace?);
        Some(Defaults { host, namespace, labels, health, own_mark: None })
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
                (Some(file), None) => Some(ComponentOrigin::File(self.path(file))),
                (None, Some(map)) => Some(ComponentOrigin::ConfigMap(ConfigMapOrigin {
                    namespace: map.namespace.clone(),
                    name: map.name.clone(),
                    key: map.key.clone(),
                    access: self.kube_access(map.kubeconfig.as_deref(), map.context.as_deref()),
                })),
                (None, None) => {
                    self.missing(&child(&at, "component"), "set one of: file, configMap");
                    None
                }
                (Some(_), Some(_)) => {
                    let second = child(&child(&at, "component"), "configMap");
                    self.problem(
                        &second,
                        "a component has one origin: keep one of file, configMap",
                    );
                    None
                }
            };
            let limits = self.limits(&child(&at, "limits"), &policy.limits);
            let Some(origin) = origin else { continue };
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

    fn limits(&mut self, at: &str, limits: &wire::Limits) -> Limits {
        let mut resolved = Limits::default();
        if let Some(memory) = limits.memory {
            if memory.0 > POLICY_MEMORY_MAX {
                let message = format!(
                    "memory is {memory}, but must be {} or less: each worker thread may use as much",
                    units::Size(POLICY_MEMORY_MAX)
                );
                self.problem(&child(at, "memory"), message);
            }
            resolved.memory_bytes_max = usize::try_from(memory.0).unwrap_or(usize::MAX);
        }
        if let Some(time) = limits.time {
            if time.0.is_zero() {
                self.problem(&child(at, "time"), "time is 0; no policy can answer in that");
            }
            if time.0 > POLICY_TIME_MAX {
                let message = format!(
                    "time is {time}, but must be {} or less: everything waits for the call, which \
                     decides at most 256 instances",
                    units::Duration(POLICY_TIME_MAX)
                );
                self.problem(&child(at, "time"), message);
            }
            resolved.time_max = time.0;
        }
        if let Some(lines) = limits.log_lines {
            resolved.log_lines_per_minute_max = lines;
        }
        resolved
    }

    fn resources(&mut self, resources: &wire::Resources) -> ResourceConfig {
        let shape = match resources.shape {
            wire::Shape::Auto => Shape::Auto,
            wire::Shape::Inline => Shape::Inline,
            wire::Shape::WorkloadEntries => Shape::WorkloadEntries,
        };
        let location = match resources.location {
            wire::Location::Internal => Location::MeshInternal,
            wire::Location::External => Location::MeshExternal,
        };
        self.export_to("/resources/exportTo", &resources.export_to);
        let export_to = resources.export_to.iter().map(|entry| Text::from(entry.as_str()));
        let export_to: Arc<[Text]> = export_to.collect();
        ResourceConfig { shape, location, export_to, ambient: resources.ambient }
    }

    /// Istio's rules for `exportTo`.
    fn export_to(&mut self, at: &str, entries: &[String]) {
        if entries.len() > LIST_LEN_MAX {
            let message = format!("{} namespaces; Istio takes {LIST_LEN_MAX}", entries.len());
            self.problem(at, message);
        }
        let mut seen = BTreeSet::new();
        for (index, entry) in entries.iter().enumerate() {
            let pointer = format!("{at}/{index}");
            if !matches!(entry.as_str(), "." | "*" | "~") && name::check_dns_label(entry).is_err() {
                let message = format!("{entry:?} is not a namespace, \".\", \"*\" or \"~\"");
                self.problem(&pointer, message);
            }
            if !seen.insert(entry.as_str()) {
                self.problem(&pointer, format!("{entry:?} stands twice in exportTo"));
            }
            if matches!(entry.as_str(), "*" | "~") && entries.len() > 1 {
                self.problem(&pointer, format!("{entry:?} must stand alone in exportTo"));
            }
        }
    }

    fn listen(&mut self, pointer: &str, raw: &str, such_as: &str) -> Option<SocketAddr> {
        let listen = raw.parse().ok();
        if listen.is_none() {
            let message = format!(
                "\"listen\" is {raw:?}, but must be an IP address and a port, such as {such_as}"
            );
            self.problem(pointer, message);
        }
        listen
    }

    fn kube_access(&self, kubeconfig: Option<&Path>, context: Option<&str>) -> KubeAccess {
        KubeAccess {
            kubeconfig: kubeconfig.map(|path| self.path(path)),
            context: context.map(str::to_owned),
        }
    }
}
