//! One question to Eureka and its answer, judged.

use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue};

use super::convert::{self, Entry, Key, Reading};
use super::settings::EurekaSettings;
use crate::http::{self, Answer, Basic, Cluster, HttpError, Request, SecretFile};
use crate::metrics::SourceMetrics;
use crate::trouble::Trouble;

/// What is attempted.
const FULL: &str = "list all applications";
const DELTA: &str = "read what changed";

/// Why Eureka gave no answer that may be relied on.
#[derive(Debug, thiserror::Error)]
pub enum EurekaError {
    /// No address took the request, or the connection broke.
    #[error("failed to {attempt}: {source}. Check that Eureka runs there and can be reached")]
    Unreachable {
        /// What was asked for.
        attempt: &'static str,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Some address took the request and did not answer in full.
    #[error("failed to {attempt}: {source}. Check the load of Eureka")]
    Timeout {
        /// What was asked for.
        attempt: &'static str,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The password, a certificate or a key cannot be used.
    #[error("failed to {attempt}: {source}. Mend the file that is named")]
    Credentials {
        /// What was asked for.
        attempt: &'static str,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The user is unknown or may not do this, or the server is not ready to be asked.
    #[error(
        "failed to {attempt}: {told}. Check user and passwordFile; without any, a server that \
         found no other one when it started answers so for five minutes"
    )]
    Forbidden {
        /// What was asked for.
        attempt: &'static str,
        /// What Eureka said.
        told: String,
    },
    /// Eureka asks for fewer requests.
    #[error("failed to {attempt}: {told}. Raise Eureka's limits or poll less often")]
    RateLimited {
        /// What was asked for.
        attempt: &'static str,
        /// What Eureka said.
        told: String,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// There is nothing at that address.
    #[error(
        "failed to {attempt}: {told}. Check the path of the address: it mostly ends in /eureka or \
         in /eureka/v2"
    )]
    Missing {
        /// What was asked for.
        attempt: &'static str,
        /// What was said.
        told: String,
    },
    /// Eureka answered with an error.
    #[error("failed to {attempt}: {told}. Eureka's log says more")]
    Status {
        /// What was asked for.
        attempt: &'static str,
        /// The HTTP status.
        status: u16,
        /// What Eureka said.
        told: String,
    },
    /// An answer is larger than what is read.
    #[error("failed to {attempt}: {source}, which is all that is read. Check what answers there")]
    TooLarge {
        /// What was asked for.
        attempt: &'static str,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An answer is not what Eureka documents.
    #[error("failed to {attempt}: the answer is malformed: {problem}. Check what answers there")]
    Malformed {
        /// What was asked for.
        attempt: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// An answer lists fewer instances than it says there are.
    #[error(
        "failed to {attempt} in full: {listed} instances are listed and the digest {hash} counts \
         {counted}. Check what stands between Landfall and Eureka"
    )]
    Incomplete {
        /// What was asked for.
        attempt: &'static str,
        /// As many as are listed.
        listed: usize,
        /// As many as there are.
        counted: usize,
        /// What says so.
        hash: String,
    },
}

/// All that is registered.
#[derive(Debug)]
pub(super) struct Full {
    /// The address that listed it.
    pub(super) address: usize,
    pub(super) entries: Vec<Entry>,
    pub(super) twice: Vec<Key>,
}

/// What changed lately.
#[derive(Debug)]
pub(super) struct Delta {
    /// The address that told.
    pub(super) address: usize,
    /// Of the whole answer: while it is the same there is nothing new.
    pub(super) digest: u64,
    /// The server's digest of all that is registered. Empty when nothing is.
    pub(super) hash: String,
    pub(super) entries: Vec<Entry>,
}

/// Asks.
#[derive(Debug)]
pub(super) struct Client {
    cluster: Cluster,
    login: Option<(String, SecretFile)>,
    timeout: Duration,
    metrics: Arc<SourceMetrics>,
}

// === impl Client ===

impl Client {
    pub(super) fn new(settings: &EurekaSettings, metrics: Arc<SourceMetrics>) -> Self {
        let cluster = Cluster::new(
            settings.urls.clone(),
            settings.tls.clone(),
            // There is one request at a time.
            1,
            settings.body_bytes_max,
            Arc::clone(&metrics),
        );
        let login = settings.login.clone();
        let login =
            login.map(|login| (login.user, SecretFile::new("the password", login.password_file)));
        Self { cluster, login, timeout: settings.timeout, metrics }
    }

    /// Takes up certificates that changed.
    pub(super) fn renew(&self) {
        // If they cannot be read, the next request says so.
        let _told_later = self.cluster.renew();
    }

    /// Has the next full answer come from another server, if there are several.
    pub(super) fn begin_with_next(&self) {
        self.cluster.begin_with_next();
    }

    /// All that is registered, from the first server that tells.
    pub(super) async fn full(&self, reading: Reading) -> Result<Full, EurekaError> {
        self.counted(async {
            let attempt = FULL;
            let (address, _, read) = self.get(attempt, &["apps"], true, reading).await?;
            let counted = read.hash.as_deref().and_then(convert::counted).unwrap_or_default();
            let listed = read.entries.len() + read.twice.len();
            if counted > listed {
                let hash = read.hash.unwrap_or_default();
                return Err(EurekaError::Incomplete { attempt, listed, counted, hash });
            }
            Ok(Full { address, entries: read.entries, twice: read.twice })
        })
        .await
    }

    /// What changed lately, from the server that told last. Another one's changes are not those
    /// that what is known lacks.
    pub(super) async fn delta(&self, reading: Reading) -> Result<Delta, EurekaError> {
        self.counted(async {
            let attempt = DELTA;
            let (address, digest, read) =
                self.get(attempt, &["apps", "delta"], false, reading).await?;
            let Some(hash) = read.hash else {
                let problem = "it has no apps__hashcode".to_owned();
                return Err(EurekaError::Malformed { attempt, problem });
            };
            Ok(Delta { address, digest, hash, entries: read.entries })
        })
        .await
    }

    async fn counted<T>(
        &self,
        asking: impl Future<Output = Result<T, EurekaError>>,
    ) -> Result<T, EurekaError> {
        let answered = asking.await;
        // A server that does not tell of changes is as somebody wanted it.
        if let Err(error) = &answered
            && !(error.attempt() == DELTA && error.is_refusal())
        {
            self.metrics.count_error(error.code());
        }
        answered
    }

    async fn get(
        &self,
        attempt: &'static str,
        path: &[&str],
        every_address: bool,
        reading: Reading,
    ) -> Result<(usize, u64, convert::Read), EurekaError> {
        let failed = |error| error_of(error, attempt);
        let basic = match &self.login {
            None => None,
            Some((user, password)) => {
                let password = password.header().map_err(failed)?;
                Some(Basic { user: user.clone(), password })
            }
        };
        let request = Request {
            path: path.iter().map(|&segment| segment.to_owned()).collect(),
            query: Vec::new(),
            // XML otherwise.
            headers: [(ACCEPT, HeaderValue::from_static("application/json"))]
                .into_iter()
                .collect::<HeaderMap>(),
            basic,
            timeout: self.timeout,
            // Eureka keeps its answers compressed beside the plain ones.
            gzip: true,
            every_address,
        };
        let Answer { address, body, .. } = self.cluster.get(&request).await.map_err(failed)?;
        let (digest, bytes) = (convert::digest(&body), body.len());
        let parse = move || convert::answer(&body, reading);
        let read = http::parsed(bytes, parse).await;
        let read = read.map_err(|problem| EurekaError::Malformed { attempt, problem })?;
        Ok((address, digest, read))
    }
}

fn error_of(error: HttpError, attempt: &'static str) -> EurekaError {
    let told = error.to_string();
    match error {
        HttpError::File { .. } | HttpError::Pem { .. } | HttpError::Client(_) => {
            EurekaError::Credentials { attempt, source: error.into() }
        }
        HttpError::Transport { .. } => EurekaError::Unreachable { attempt, source: error.into() },
        HttpError::Timeout { .. } => EurekaError::Timeout { attempt, source: error.into() },
        HttpError::TooLarge { .. } => EurekaError::TooLarge { attempt, source: error.into() },
        HttpError::Status { status, retry_after, .. } => match status {
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => {
                EurekaError::Forbidden { attempt, told }
            }
            StatusCode::NOT_FOUND => EurekaError::Missing { attempt, told },
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                EurekaError::RateLimited { attempt, told, retry_after }
            }
            status => EurekaError::Status { attempt, status: status.as_u16(), told },
        },
    }
}

// === impl EurekaError ===

impl EurekaError {
    /// One of a closed set, for metrics and documentation.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "eureka_unreachable",
            Self::Timeout { .. } => "eureka_timeout",
            Self::Credentials { .. } => "eureka_credentials",
            Self::Forbidden { .. } => "eureka_forbidden",
            Self::RateLimited { .. } => "eureka_rate_limited",
            Self::Missing { .. } => "eureka_missing",
            Self::Status { .. } => "eureka_status",
            Self::TooLarge { .. } => "eureka_too_large",
            Self::Malformed { .. } => "eureka_malformed",
            Self::Incomplete { .. } => "eureka_incomplete",
        }
    }

    const fn attempt(&self) -> &'static str {
        match self {
            Self::Unreachable { attempt, .. }
            | Self::Timeout { attempt, .. }
            | Self::Credentials { attempt, .. }
            | Self::Forbidden { attempt, .. }
            | Self::RateLimited { attempt, .. }
            | Self::Missing { attempt, .. }
            | Self::Status { attempt, .. }
            | Self::TooLarge { attempt, .. }
            | Self::Malformed { attempt, .. }
            | Self::Incomplete { attempt, .. } => attempt,
        }
    }

    /// Whether a server says so that tells nobody what changed, only what there is.
    pub(super) const fn is_refusal(&self) -> bool {
        matches!(self, Self::Forbidden { .. } | Self::Missing { .. })
    }

    /// Whether no other server was asked, which may do better. Where none takes a request or all
    /// fail at it, all were.
    pub(super) const fn is_of_one_server(&self) -> bool {
        matches!(
            self,
            Self::Forbidden { .. }
                | Self::Missing { .. }
                | Self::TooLarge { .. }
                | Self::Malformed { .. }
                | Self::Incomplete { .. }
        )
    }

    /// How long to ask nothing, where that is said.
    pub(super) const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

impl From<&EurekaError> for Trouble {
    fn from(error: &EurekaError) -> Self {
        Self { code: error.code(), message: error.to_string() }
    }
}
