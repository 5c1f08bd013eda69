//! One question to Consul and its answer, judged: what comes out as `Ok` is authoritative.

use std::sync::Arc;
use std::time::Duration;

use landfall_core::text::Text;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, HeaderName};

use super::convert::{self, ServiceRead, View, is_listed_name};
use super::{ConsulSettings, Scope};
use crate::http::{self, Answer, Cluster, HttpError, Request, SecretFile};
use crate::metrics::SourceMetrics;
use crate::trouble::Trouble;

const INDEX: HeaderName = HeaderName::from_static("x-consul-index");
const KNOWN_LEADER: HeaderName = HeaderName::from_static("x-consul-knownleader");
const LAST_CONTACT_MS: HeaderName = HeaderName::from_static("x-consul-lastcontact");
const FILTERED: HeaderName = HeaderName::from_static("x-consul-results-filtered-by-acls");
const BACKEND: HeaderName = HeaderName::from_static("x-consul-query-backend");
const TOKEN: HeaderName = HeaderName::from_static("x-consul-token");

/// The namespace that every partition has and nobody can delete.
const DEFAULT_NAMESPACE: &str = "default";

/// Why Consul gave no answer that may be relied on.
#[derive(Debug, thiserror::Error)]
pub enum ConsulError {
    /// No address took the request, or the connection broke.
    #[error("failed to {attempt}: {source}. Check that Consul runs there and can be reached")]
    Unreachable {
        /// What was asked for.
        attempt: String,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Some address took the request and did not answer in full.
    #[error("failed to {attempt}: {source}. Check the load of Consul")]
    Timeout {
        /// What was asked for.
        attempt: String,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The token, a certificate or a key cannot be used.
    #[error("failed to {attempt}: {source}. Mend the file that is named")]
    Credentials {
        /// What was asked for.
        attempt: String,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The token is unknown or may not do this.
    #[error(
        "failed to {attempt}: {told}. Give a token with node:read and service:read, or check \
         whether it has expired"
    )]
    Forbidden {
        /// What was asked for.
        attempt: String,
        /// What Consul said.
        told: String,
    },
    /// Consul asks for fewer requests.
    #[error("failed to {attempt}: {told}. Raise Consul's limits or lower connectionsMax")]
    RateLimited {
        /// What was asked for.
        attempt: String,
        /// What Consul said.
        told: String,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// Consul answered with an error.
    #[error("failed to {attempt}: {told}. Consul's log says more")]
    Status {
        /// What was asked for.
        attempt: String,
        /// The HTTP status.
        status: u16,
        /// What Consul said.
        told: String,
    },
    /// Nobody leads the cluster, so its answers are of the past.
    #[error("failed to {attempt}: Consul has no leader. Restore a majority of its servers")]
    NoLeader {
        /// What was asked for.
        attempt: String,
    },
    /// A server that lost touch with the leader answered.
    #[error(
        "failed to {attempt}: the server that answered is {lag_ms} ms behind its leader. Check \
         the network between Consul's servers"
    )]
    Lagging {
        /// What was asked for.
        attempt: String,
        /// How far behind.
        lag_ms: u64,
    },
    /// An answer is larger than what is read.
    #[error("failed to {attempt}: {source}, which is all that is read. Check what answers there")]
    TooLarge {
        /// What was asked for.
        attempt: String,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An answer is not what Consul documents.
    #[error("failed to {attempt}: the answer is malformed: {problem}. Check what answers there")]
    Malformed {
        /// What was asked for.
        attempt: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The token hides part of what was asked for.
    #[error(
        "failed to {attempt} in full: Consul's access rules hide part of it from the token. \
         Grant it node:read and service:read there, or set partialView if it is to see no more"
    )]
    Filtered {
        /// What was asked for.
        attempt: String,
    },
    /// The registry lost its past, and lacks what was listed before.
    #[error(
        "failed to {attempt} in full: Consul's indexes went back, so it lost its data or was \
         restored, and {services} services lack what was listed before. That is gone when it has \
         been missing for {} s. Check what became of Consul's servers",
        after.as_secs()
    )]
    Reset {
        /// What was asked for.
        attempt: String,
        /// How many services.
        services: usize,
        /// For how long it may be missing.
        after: Duration,
    },
    /// There was no service when the source began, and what there was before is not known.
    #[error(
        "failed to {attempt} in full: Consul listed none when Landfall started, as one does that \
         lost its data. That is believed {} s after the start. If it is intended, wait; otherwise \
         check what became of Consul's servers",
        after.as_secs()
    )]
    Empty {
        /// What was asked for.
        attempt: String,
        /// For how long what is missing may not have registered again yet.
        after: Duration,
    },
    /// Not even Consul's own servers are listed, which they always are. Who asks without a token
    /// is not told what access rules hide.
    #[error(
        "failed to {attempt}: Consul lists nothing, not even itself, so its access rules hide \
         everything. Name a token with node:read and service:read by tokenFile, or the namespace \
         by namespaces"
    )]
    NothingListed {
        /// What was asked for.
        attempt: String,
    },
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// A catalogue-wide view; with an index once it has changed, without at once.
    View { view: ViewKind, index: Option<u64> },
    /// How far the tables of services and of nodes have come.
    Revision,
    /// One service; `known` is the digest of the last answer, which is not parsed again.
    Service { name: Text, index: Option<u64>, known: Option<u64> },
}

/// The catalogue-wide views. What each shows and costs is told in `watch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ViewKind {
    /// `/v1/catalog/services`.
    Names,
    /// `/v1/internal/ui/services`.
    Summary,
    /// `/v1/health/state/any`.
    Checks,
}

/// What came back.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    View { index: u64, view: View, bytes: usize, filtered: bool },
    Revision { services: u64, nodes: u64 },
    Service { index: u64, digest: u64, bytes: usize, read: Option<ServiceRead>, trust: Trust },
}

/// How far an answer proves that something is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// Entirely.
    Full,
    /// It comes from a view that the agent keeps up to date by itself and that tells neither
    /// what access rules hide nor whether there is a leader: a smaller answer must be asked for
    /// once more.
    Streamed,
    /// Access rules hide something.
    Filtered,
}

/// Asks.
#[derive(Debug)]
pub(super) struct Client {
    cluster: Cluster,
    token: Option<SecretFile>,
    settings: ConsulSettings,
    metrics: Arc<SourceMetrics>,
}

// === impl Ask ===

impl Ask {
    /// Whether it is a long poll.
    pub(super) const fn waits(&self) -> bool {
        matches!(self, Self::View { index: Some(_), .. } | Self::Service { index: Some(_), .. })
    }
}

// === impl Client ===

impl Client {
    pub(super) fn new(settings: ConsulSettings, metrics: Arc<SourceMetrics>) -> Self {
        let cluster = Cluster::new(
            settings.urls.clone(),
            settings.tls.clone(),
            settings.connections_max,
            settings.body_bytes_max,
            Arc::clone(&metrics),
        );
        let token = settings.token_file.clone().map(|path| SecretFile::new("the token", path));
        Self { cluster, token, settings, metrics }
    }

    /// Takes up certificates that changed.
    pub(super) fn renew(&self) {
        // If they cannot be read, the next request says so.
        let _told_later = self.cluster.renew();
    }

    /// Asks in `scope`.
    pub(super) async fn ask(&self, scope: &Scope, ask: &Ask) -> Result<Reply, ConsulError> {
        let answered = self.ask_uncounted(scope, ask).await;
        if let Err(error) = &answered {
            self.metrics.count_error(error.code());
        }
        answered
    }

    async fn ask_uncounted(&self, scope: &Scope, ask: &Ask) -> Result<Reply, ConsulError> {
        match ask {
            Ask::View { view, index } => self.view(scope, *view, *index).await,
            Ask::Revision => self.revision(scope).await,
            Ask::Service { name, index, known } => self.service(scope, name, *index, *known).await,
        }
    }

    async fn view(
        &self,
        scope: &Scope,
        view: ViewKind,
        index: Option<u64>,
    ) -> Result<Reply, ConsulError> {
        let kinds = self.settings.kinds;
        let attempt = || format!("read {} of {scope}", view.what());
        let answer = self.get(scope, view.path(), index, true, &attempt).await?;
        let (index, filtered) = (index_of(&answer), is_filtered(&answer));
        let may_be_partial = self.settings.partial_view;
        let bytes = answer.body.len();
        let parse = move || match view {
            ViewKind::Names => convert::names_view(&answer.body),
            ViewKind::Summary => convert::summary_view(&answer.body, kinds),
            ViewKind::Checks => convert::checks_view(&answer.body),
        };
        let parsed = http::parsed(bytes, parse).await;
        let shown = parsed.map_err(|problem| malformed(attempt(), problem))?;
        if shown.is_empty() && !filtered && view.lists_services() && scope.lists_consul() {
            return Err(ConsulError::NothingListed { attempt: attempt() });
        }
        // A token that may see a part sees some of it.
        let filtered = filtered && !(may_be_partial && shown.keys().any(is_listed_name));
        Ok(Reply::View { index, view: shown, bytes, filtered })
    }

    async fn revision(&self, scope: &Scope) -> Result<Reply, ConsulError> {
        let attempt = || format!("read the revision of {scope}");
        let services = self.get(scope, ViewKind::Names.path(), None, true, &attempt).await?;
        // The filter leaves an empty list; the index is that of the whole table all the same.
        // Not so for services: there a filter makes Consul join every node to every service.
        let filter = ("filter", r#"Node == """#.to_owned());
        let mut request = self.request(scope, &["catalog", "nodes"], None, &attempt)?;
        request.query.push(filter);
        let nodes = self.judged(&request, &attempt).await?;
        Ok(Reply::Revision { services: index_of(&services), nodes: index_of(&nodes) })
    }

    async fn service(
        &self,
        scope: &Scope,
        name: &str,
        index: Option<u64>,
        known: Option<u64>,
    ) -> Result<Reply, ConsulError> {
        let attempt = || format!("read service {name} of {scope}");
        let path = ["health", "service", name];
        let answer = self.get(scope, &path, index, false, &attempt).await?;
        let digest = convert::digest(&answer.body);
        let filtered = is_filtered(&answer);
        let read = if known == Some(digest) && !filtered {
            None
        } else {
            let read = convert::service(&answer.body, name, scope, self.settings.kinds);
            Some(read.map_err(|error| malformed(attempt(), error))?)
        };
        let some = read.as_ref().is_some_and(|read| read.entries > 0);
        let trust = if filtered && !(some && self.settings.partial_view) {
            Trust::Filtered
        } else if is_streamed(&answer) {
            Trust::Streamed
        } else {
            Trust::Full
        };
        if read.as_ref().is_some_and(|read| read.entries == 0) && trust == Trust::Full {
            self.assure_rights(scope).await?;
        }
        let (index, bytes) = (index_of(&answer), answer.body.len());
        Ok(Reply::Service { index, digest, bytes, read, trust })
    }

    /// Who asks without a token is not told that it lost its rights, and older Consul tells nobody:
    /// everything just looks empty. So before a service is believed to be gone, something else
    /// must be there.
    async fn assure_rights(&self, scope: &Scope) -> Result<(), ConsulError> {
        if !scope.lists_consul() {
            return Ok(());
        }
        let attempt = || format!("read Consul's own servers in {scope}");
        let path = ["health", "service", super::CONSUL_ITSELF];
        let own = self.get(scope, &path, None, false, &attempt).await?;
        let own = convert::service(&own.body, super::CONSUL_ITSELF, scope, self.settings.kinds);
        if own.is_ok_and(|own| own.entries > 0) {
            return Ok(());
        }
        // The rules may show the services that matter and not Consul's own.
        self.view(scope, ViewKind::Names, None).await.map(drop)
    }

    /// The namespaces of the partition that `scope` names. A list without the default one, which
    /// every partition has, was made smaller by access rules.
    pub(super) async fn namespaces(&self, scope: &Scope) -> Result<Vec<String>, ConsulError> {
        let attempt = || format!("list the namespaces of {scope} (Consul Enterprise)");
        let answered = async {
            let answer = self.get(scope, &["namespaces"], None, false, &attempt).await?;
            if is_filtered(&answer) && !self.settings.partial_view {
                return Err(ConsulError::Filtered { attempt: attempt() });
            }
            let names =
                convert::namespaces(&answer.body).map_err(|error| malformed(attempt(), error))?;
            let may_be_partial = self.settings.partial_view && !names.is_empty();
            if !may_be_partial && !names.iter().any(|name| name == DEFAULT_NAMESPACE) {
                return Err(ConsulError::Filtered { attempt: attempt() });
            }
            Ok(names)
        };
        let answered = answered.await;
        if let Err(error) = &answered {
            self.metrics.count_error(error.code());
        }
        answered
    }

    async fn get(
        &self,
        scope: &Scope,
        path: &[&str],
        index: Option<u64>,
        gzip: bool,
        attempt: &(impl Fn() -> String + Sync),
    ) -> Result<Answer, ConsulError> {
        let mut request = self.request(scope, path, index, attempt)?;
        request.gzip = gzip;
        self.judged(&request, attempt).await
    }

    fn request(
        &self,
        scope: &Scope,
        path: &[&str],
        index: Option<u64>,
        attempt: &impl Fn() -> String,
    ) -> Result<Request, ConsulError> {
        let ConsulSettings { wait, timeout, stale, .. } = self.settings;
        let mut query = Vec::new();
        let asked =
            [("dc", &scope.datacenter), ("partition", &scope.partition), ("ns", &scope.namespace)];
        for (key, value) in asked {
            if let Some(value) = value {
                query.push((key, value.clone()));
            }
        }
        if stale {
            query.push(("stale", String::new()));
        }
        let mut headers = HeaderMap::new();
        if let Some(token) = &self.token {
            let token = token.header().map_err(|error| error_of(error, attempt()))?;
            headers.insert(TOKEN, token);
        }
        if let Some(index) = index {
            query.push(("index", index.to_string()));
            query.push(("wait", format!("{}ms", wait.as_millis())));
        }
        Ok(Request {
            path: ["v1"].iter().chain(path).map(|&segment| segment.to_owned()).collect(),
            query,
            headers,
            basic: None,
            // Consul adds up to a sixteenth to the wait so that clients do not all return at once.
            timeout: index.map_or(timeout, |_| wait + wait / 16 + timeout),
            gzip: false,
            // A broken long poll says nothing of the data; the read that follows tries them all.
            every_address: index.is_none(),
        })
    }

    /// The answer, if it may be relied on.
    async fn judged(
        &self,
        request: &Request,
        attempt: &(impl Fn() -> String + Sync),
    ) -> Result<Answer, ConsulError> {
        let answer = self.cluster.get(request).await.map_err(|error| error_of(error, attempt()))?;
        // An agent's own view of a service says "false" whatever is the case (seen on 1.22).
        let knows_leader = http::flag(&answer.headers, &KNOWN_LEADER) != Some(false);
        if !knows_leader && !is_streamed(&answer) {
            return Err(ConsulError::NoLeader { attempt: attempt() });
        }
        let lag_ms = http::number(&answer.headers, &LAST_CONTACT_MS).unwrap_or(0);
        if Duration::from_millis(lag_ms) > self.settings.stale_max {
            return Err(ConsulError::Lagging { attempt: attempt(), lag_ms });
        }
        Ok(answer)
    }
}

/// At least 1: waiting on 0 would not wait, see "Implementation Details" of Consul's page on
/// blocking queries.
fn index_of(answer: &Answer) -> u64 {
    http::number(&answer.headers, &INDEX).unwrap_or(0).max(1)
}

/// Whether the answer is a view that the agent keeps up to date from a stream of events. Long
/// polls of single services mostly are, from Consul 1.10 on.
fn is_streamed(answer: &Answer) -> bool {
    answer.headers.get(BACKEND).is_some_and(|backend| backend == "streaming")
}

fn is_filtered(answer: &Answer) -> bool {
    http::flag(&answer.headers, &FILTERED) == Some(true)
}

fn malformed(attempt: String, problem: impl std::fmt::Display) -> ConsulError {
    ConsulError::Malformed { attempt, problem: problem.to_string() }
}

fn error_of(error: HttpError, attempt: String) -> ConsulError {
    let told = error.to_string();
    match error {
        HttpError::File { .. } | HttpError::Pem { .. } | HttpError::Client(_) => {
            ConsulError::Credentials { attempt, source: error.into() }
        }
        HttpError::Transport { .. } => ConsulError::Unreachable { attempt, source: error.into() },
        HttpError::Timeout { .. } => ConsulError::Timeout { attempt, source: error.into() },
        HttpError::TooLarge { .. } => ConsulError::TooLarge { attempt, source: error.into() },
        HttpError::Status { status, retry_after, .. } => match status {
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => {
                ConsulError::Forbidden { attempt, told }
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                ConsulError::RateLimited { attempt, told, retry_after }
            }
            _ if told.contains("No cluster leader") => ConsulError::NoLeader { attempt },
            status => ConsulError::Status { attempt, status: status.as_u16(), told },
        },
    }
}

// === impl ConsulError ===

impl ConsulError {
    /// One of a closed set, for metrics and documentation.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "consul_unreachable",
            Self::Timeout { .. } => "consul_timeout",
            Self::Credentials { .. } => "consul_credentials",
            Self::Forbidden { .. } => "consul_forbidden",
            Self::RateLimited { .. } => "consul_rate_limited",
            Self::Status { .. } => "consul_status",
            Self::NoLeader { .. } => "consul_no_leader",
            Self::Lagging { .. } => "consul_lagging",
            Self::TooLarge { .. } => "consul_too_large",
            Self::Malformed { .. } => "consul_malformed",
            Self::Filtered { .. } => "consul_filtered",
            Self::Reset { .. } => "consul_reset",
            Self::Empty { .. } => "consul_empty",
            Self::NothingListed { .. } => "consul_nothing_listed",
        }
    }

    /// Whether every other request is likely to fail in the same way.
    pub(super) const fn is_general(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Credentials { .. }
            | Self::Forbidden { .. }
            | Self::RateLimited { .. }
            | Self::NoLeader { .. }
            | Self::Lagging { .. }
            | Self::NothingListed { .. } => true,
            Self::Timeout { .. }
            | Self::Status { .. }
            | Self::TooLarge { .. }
            | Self::Malformed { .. }
            | Self::Filtered { .. }
            | Self::Reset { .. }
            | Self::Empty { .. } => false,
        }
    }
}

impl From<&ConsulError> for Trouble {
    fn from(error: &ConsulError) -> Self {
        Self { code: error.code(), message: error.to_string() }
    }
}

// === impl ViewKind ===

impl ViewKind {
    /// Whether a service that it does not show may be gone.
    pub(super) const fn lists_services(self) -> bool {
        matches!(self, Self::Names | Self::Summary)
    }

    const fn path(self) -> &'static [&'static str] {
        match self {
            Self::Names => &["catalog", "services"],
            Self::Summary => &["internal", "ui", "services"],
            Self::Checks => &["health", "state", "any"],
        }
    }

    const fn what(self) -> &'static str {
        match self {
            Self::Names => "the list of services",
            Self::Summary => "the summary of services",
            Self::Checks => "the checks of all services",
        }
    }
}
