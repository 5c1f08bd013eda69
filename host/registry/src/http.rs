//! HTTP as registries need it: several addresses of one cluster tried in turn, bodies bounded,
//! certificates and tokens read from files that may change.

use std::collections::hash_map::DefaultHasher;
use std::error::Error;
use std::fmt::Display;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use landfall_core::text::with_causes;
use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Client, Identity, StatusCode, Url};
use tokio::time::Instant;

use crate::metrics::SourceMetrics;

// An address that does not even take a connection must not use up the time for a whole answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
// A long poll is silent for minutes; this notices a peer that went without a word.
const KEEPALIVE: Duration = Duration::from_secs(15);
// Secrets change rarely, and reading a file for each of a thousand requests is waste.
const SECRET_AGE_MAX: Duration = Duration::from_secs(1);
// A hundred times what tokens and passwords have; the limit of headers is lower at most servers.
const SECRET_BYTES_MAX: u64 = 64 << 10;
// Four times the bundle that Debian has of all public authorities.
const PEM_BYTES_MAX: u64 = 1 << 20;
// Long enough for every limit that registries have, most of which look at seconds or a minute;
// whoever names more, by mistake or otherwise, is asked again after this. It also keeps a number
// of the registry's out of the arithmetic of time.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);
// Answers from this size on are parsed beside the threads that others wait for.
const PARSE_ASIDE_BYTES: usize = 256 << 10;
// How much of an error answer is told to a person.
const TOLD_BYTES_MAX: usize = 300;

/// Certificates of a registry, as PEM files. They are read again after a failure, so that renewed
/// ones are taken up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authorities to trust instead of those of the operating system.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate and those between it and its authority.
    pub client_cert_file: Option<PathBuf>,
    /// The client's private key.
    pub client_key_file: Option<PathBuf>,
}

/// Why a request has no answer. The address in it carries neither a user nor a password.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("failed to read {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{what} in {} is not usable: {problem}", path.display())]
    Pem { what: &'static str, path: PathBuf, problem: String },
    #[error("failed to set up a client: {0}")]
    Client(String),
    #[error("failed to reach {url}: {problem}")]
    Transport { url: String, problem: String },
    #[error("{url} did not answer in full within {} s", after.as_secs())]
    Timeout { url: String, after: Duration },
    #[error("{url} answered with more than {bytes_max} bytes")]
    TooLarge { url: String, bytes_max: usize },
    #[error("{url} answered {status}: {told}")]
    Status { url: String, status: StatusCode, told: String, retry_after: Option<Duration> },
}

/// One request; always a GET.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Segments of the path, not yet percent-encoded.
    pub(crate) path: Vec<String>,
    pub(crate) query: Vec<(&'static str, String)>,
    pub(crate) headers: HeaderMap,
    pub(crate) basic: Option<Basic>,
    /// For the whole answer.
    pub(crate) timeout: Duration,
    /// Worth it for large answers only: it costs the registry more than the wire saves.
    pub(crate) gzip: bool,
    /// Whether to try the other addresses too when one fails.
    pub(crate) every_address: bool,
}

/// A user and a password, for HTTP's own way to ask for them (RFC 7617).
#[derive(Clone, Debug)]
pub(crate) struct Basic {
    pub(crate) user: String,
    /// Never printed: it is marked as sensitive.
    pub(crate) password: HeaderValue,
}

/// A whole answer with a status of success.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Which of the cluster's addresses gave it.
    pub(crate) address: usize,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// The addresses of one cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    urls: Vec<Url>,
    tls: TlsFiles,
    connections_max: usize,
    body_bytes_max: usize,
    metrics: Arc<SourceMetrics>,
    // The address that answered last; the next request begins there.
    current: AtomicUsize,
    client: Mutex<Option<(u64, Client)>>,
}

/// A secret in a file, read again when it may have changed.
#[derive(Debug)]
pub(crate) struct SecretFile {
    /// Such as `the token`.
    what: &'static str,
    path: PathBuf,
    known: Mutex<Option<(Instant, HeaderValue)>>,
}

// === impl Cluster ===

impl Cluster {
    pub(crate) fn new(
        urls: Vec<Url>,
        tls: TlsFiles,
        connections_max: usize,
        body_bytes_max: usize,
        metrics: Arc<SourceMetrics>,
    ) -> Self {
        Self {
            urls,
            tls,
            connections_max,
            body_bytes_max,
            metrics,
            current: AtomicUsize::new(0),
            client: Mutex::new(None),
        }
    }

    /// Takes up certificates that changed. To be called after a failure, not for each request.
    pub(crate) fn renew(&self) -> Result<(), HttpError> {
        let pems = Pems::read(&self.tls)?;
        let hash = pems.hash();
        let mut known = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_none_or(|(known, _)| *known != hash) {
            *known = Some((hash, pems.client(&self.tls, self.connections_max)?));
        }
        Ok(())
    }

    /// Has the next request begin with the next address: what the current one answered is of no
    /// use.
    pub(crate) fn begin_with_next(&self) {
        let next = (self.current.load(Ordering::Relaxed) + 1) % self.urls.len().max(1);
        self.current.store(next, Ordering::Relaxed);
    }

    /// The answer of the first address that gives one; of those that do not, the last error.
    pub(crate) async fn get(&self, request: &Request) -> Result<Answer, HttpError> {
        let client = self.client()?;
        let first = self.current.load(Ordering::Relaxed);
        let attempts = if request.every_address { self.urls.len() } else { 1 };
        let mut last = None;
        for turn in 0..attempts {
            let index = (first + turn) % self.urls.len();
            match self.get_from(&client, index, request).await {
                Err(error) if error.is_worth_another_address() => last = Some(error),
                answer => {
                    self.current.store(index, Ordering::Relaxed);
                    return answer;
                }
            }
        }
        Err(last.unwrap_or_else(|| HttpError::Client("no address is configured".to_owned())))
    }

    fn client(&self) -> Result<Client, HttpError> {
        let known = || {
            let client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
            client.as_ref().map(|(_, client)| client.clone())
        };
        if let Some(client) = known() {
            return Ok(client);
        }
        self.renew()?;
        known().ok_or_else(|| HttpError::Client("none was made".to_owned()))
    }

    async fn get_from(
        &self,
        client: &Client,
        address: usize,
        request: &Request,
    ) -> Result<Answer, HttpError> {
        let mut url = self.urls[address].clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(&request.path);
        }
        if !request.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&request.query);
        }
        self.metrics.count_request();
        let mut builder = client.get(url.clone()).timeout(request.timeout);
        if !request.gzip {
            // Saying so by hand also keeps the client from asking for it.
            builder = builder.header(ACCEPT_ENCODING, "identity");
        }
        if let Some(Basic { user, password }) = &request.basic {
            builder = builder.basic_auth(user, Some(String::from_utf8_lossy(password.as_bytes())));
        }
        let told_url = without_login(url);
        let failed = |error| HttpError::of(error, &told_url, request.timeout);
        let mut response = builder.headers(request.headers.clone()).send().await.map_err(failed)?;
        let status = response.status();
        let headers = std::mem::take(response.headers_mut());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > self.body_bytes_max {
                let bytes_max = self.body_bytes_max;
                return Err(HttpError::TooLarge { url: told_url, bytes_max });
            }
            body.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            let told = told(&body);
            let retry_after = retry_after(&headers);
            return Err(HttpError::Status { url: told_url, status, told, retry_after });
        }
        Ok(Answer { address, headers, body })
    }
}

// === impl HttpError ===

impl HttpError {
    fn of(error: reqwest::Error, url: &str, after: Duration) -> Self {
        if error.is_timeout() && !error.is_connect() {
            return Self::Timeout { url: url.to_owned(), after };
        }
        // The client's own text names the address again and leaves out the cause.
        let problem = with_causes(&error.without_url());
        Self::Transport { url: url.to_owned(), problem }
    }

    /// Whether another member of the cluster may do better.
    fn is_worth_another_address(&self) -> bool {
        match self {
            Self::Transport { .. } | Self::Timeout { .. } => true,
            Self::Status { status, .. } => status.is_server_error(),
            Self::File { .. } | Self::Pem { .. } | Self::Client(_) | Self::TooLarge { .. } => false,
        }
    }
}

// === impl SecretFile ===

impl SecretFile {
    pub(crate) fn new(what: &'static str, path: PathBuf) -> Self {
        Self { what, path, known: Mutex::new(None) }
    }

    /// The secret as a header's value, which is never logged.
    pub(crate) fn header(&self) -> Result<HeaderValue, HttpError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((read_at, value)) = &*known
            && read_at.elapsed() < SECRET_AGE_MAX
        {
            return Ok(value.clone());
        }
        let bytes = read_small(&self.path, SECRET_BYTES_MAX)?;
        let value = self.parse(&bytes)?;
        *known = Some((Instant::now(), value.clone()));
        Ok(value)
    }

    fn parse(&self, bytes: &[u8]) -> Result<HeaderValue, HttpError> {
        let unusable = |problem: &str| HttpError::Pem {
            what: self.what,
            path: self.path.clone(),
            problem: problem.to_owned(),
        };
        let trimmed = bytes.trim_ascii();
        if trimmed.is_empty() {
            // Going on without it would be going on as somebody else, who sees less.
            return Err(unusable("the file is empty"));
        }
        let mut value = HeaderValue::from_bytes(trimmed)
            .map_err(|_| unusable("it has characters that a header cannot carry"))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

// === Certificates ===

struct Pems {
    ca: Option<Vec<u8>>,
    identity: Option<Vec<u8>>,
}

impl Pems {
    fn read(files: &TlsFiles) -> Result<Self, HttpError> {
        let read = |path: &Option<PathBuf>| {
            path.as_deref().map(|path| read_small(path, PEM_BYTES_MAX)).transpose()
        };
        let identity = match (read(&files.client_cert_file)?, read(&files.client_key_file)?) {
            (Some(mut cert), Some(key)) => {
                cert.push(b'\n');
                cert.extend_from_slice(&key);
                Some(cert)
            }
            // One without the other is refused by `client`.
            (cert, key) => cert.or(key),
        };
        Ok(Self { ca: read(&files.ca_file)?, identity })
    }

    fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.ca.hash(&mut hasher);
        self.identity.hash(&mut hasher);
        hasher.finish()
    }

    fn client(&self, files: &TlsFiles, connections_max: usize) -> Result<Client, HttpError> {
        let unusable = |what, path: &Option<PathBuf>, error: reqwest::Error| HttpError::Pem {
            what,
            path: path.clone().unwrap_or_default(),
            problem: error.source().map_or_else(|| error.to_string(), ToString::to_string),
        };
        let mut builder = Client::builder()
            .user_agent(concat!("landfall/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(KEEPALIVE)
            .http2_keep_alive_interval(KEEPALIVE)
            .pool_max_idle_per_host(connections_max)
            // What is configured is what is asked, whatever the environment says of proxies.
            .no_proxy()
            // A registry that sends us elsewhere would be sent our token.
            .redirect(reqwest::redirect::Policy::none());
        if let Some(ca) = &self.ca {
            let certs = Certificate::from_pem_bundle(ca)
                .map_err(|error| unusable("the authority's certificate", &files.ca_file, error))?;
            builder = builder.tls_certs_only(certs);
        }
        if let Some(pem) = &self.identity {
            let identity = Identity::from_pem(pem).map_err(|error| {
                unusable("the client's certificate", &files.client_cert_file, error)
            })?;
            builder = builder.identity(identity);
        }
        builder.build().map_err(|error| HttpError::Client(error.to_string()))
    }
}

/// What `parse` makes of a body of that many bytes, or what is wrong with it.
pub(crate) async fn parsed<T: Send + 'static, E: Display + Send + 'static>(
    bytes: usize,
    parse: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, String> {
    let parsed = if bytes < PARSE_ASIDE_BYTES {
        parse()
    } else {
        // A reader that panics is a defect here; it is told as any other malformed answer.
        tokio::task::spawn_blocking(parse).await.map_err(|error| error.to_string())?
    };
    parsed.map_err(|error| error.to_string())
}

/// All of a file, or an error: half a bundle is one that trusts fewer.
fn read_small(path: &Path, bytes_max: u64) -> Result<Vec<u8>, HttpError> {
    let failed = |source| HttpError::File { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    // Opening a pipe waits for somebody to write into it, and a device may have no end.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        let problem = "it is not a regular file";
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, problem)));
    }
    let file = fs::File::open(path).map_err(failed)?;
    // One byte more than is allowed, to notice that there is more.
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > bytes_max {
        let problem = format!("it has more than {bytes_max} bytes");
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, problem)));
    }
    Ok(bytes)
}

fn without_login(mut url: Url) -> String {
    // Only addresses without a host refuse, and those have neither.
    let _kept = (url.set_username(""), url.set_password(None));
    url.into()
}

/// The beginning of an error answer, on one line.
fn told(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(TOLD_BYTES_MAX)]);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// How long the registry asks to be left alone, within bounds. A date is not understood: the pause
/// is then ours to choose.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let asked_for = Duration::from_secs(number(headers, &RETRY_AFTER)?);
    Some(asked_for.min(RETRY_AFTER_MAX))
}

/// The number in a header.
pub(crate) fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// Whether a header says `true` or `false`.
pub(crate) fn flag(headers: &HeaderMap, name: &HeaderName) -> Option<bool> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle.pem");
        fs::write(&path, vec![b'x'; 300_000]).unwrap();
        assert_eq!(read_small(&path, PEM_BYTES_MAX).unwrap().len(), 300_000);
        assert_eq!(read_small(&path, 300_000).unwrap().len(), 300_000);
        let error = read_small(&path, SECRET_BYTES_MAX).unwrap_err().to_string();
        assert!(error.ends_with("bundle.pem: it has more than 65536 bytes"), "{error}");
    }

    #[test]
    fn what_may_never_end_is_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let (pipe, link) = (folder.path().join("pipe"), folder.path().join("link"));
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        std::os::unix::fs::symlink(&pipe, &link).unwrap();
        for path in [pipe.as_path(), &link, Path::new("/dev/zero"), folder.path()] {
            let error = SecretFile::new("the token", path.to_owned()).header().unwrap_err();
            let error = error.to_string();
            assert!(error.ends_with(": it is not a regular file"), "{error}");
        }
        let file = folder.path().join("file");
        fs::write(&file, "hush\n").unwrap();
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(SecretFile::new("the token", link).header().unwrap(), "hush");
    }

    #[test]
    fn no_login_is_told() {
        let url = |raw: &str| without_login(raw.parse().unwrap());
        assert_eq!(url("https://user:hush@consul:8500/v1"), "https://consul:8500/v1");
    }

    #[test]
    fn no_registry_asks_to_be_left_alone_for_ever() {
        let of = |value: &str| {
            let value = HeaderValue::from_str(value).unwrap();
            retry_after(&[(RETRY_AFTER, value)].into_iter().collect())
        };
        assert_eq!(of("7"), Some(Duration::from_secs(7)));
        assert_eq!(of("18446744073709551615"), Some(RETRY_AFTER_MAX));
        assert_eq!(of("Wed, 21 Oct 2026 07:28:00 GMT"), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
