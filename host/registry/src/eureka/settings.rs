//! What a source of Eureka is told.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;

use crate::http::TlsFiles;

/// The shortest [`EurekaSettings::poll`] that makes sense: a server builds the answer anew once in
/// 30 s unless configured otherwise, and nobody looks at it more often than once a second.
pub const POLL_MIN: Duration = Duration::from_secs(1);

/// The shortest [`EurekaSettings::resync`] that makes sense: 10,000 services of ten instances are
/// 85 MB, and the reading should be over long before it begins again.
pub const RESYNC_MIN: Duration = Duration::from_secs(10);

/// The shortest [`EurekaSettings::stale_after`] that makes sense: instances renew their leases
/// every 30 s unless configured otherwise, and one renewal may be lost.
pub const STALE_AFTER_MIN: Duration = Duration::from_secs(60);

/// Which Eureka to watch, and how. [`EurekaSettings::new`] has the defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EurekaSettings {
    /// Addresses of servers that replicate to each other, tried in turn, each with the path under
    /// which `apps` is found: `/eureka` for Spring Cloud's servers, `/eureka/v2` for Netflix' own.
    /// At least one.
    pub urls: Vec<Url>,
    /// Who to be.
    pub login: Option<EurekaLogin>,
    /// Certificates, for addresses with `https`.
    pub tls: TlsFiles,
    /// How often to ask what changed. At least [`POLL_MIN`] makes sense.
    pub poll: Duration,
    /// How often to read everything where a server does not say what changed.
    pub poll_in_full: Duration,
    /// How often to read everything although nothing seems to have been missed. At least
    /// [`RESYNC_MIN`] makes sense.
    pub resync: Duration,
    /// How long an instance that a server may have forgotten is kept, or for its own lease where
    /// that is longer: by then it has registered again if it is there.
    pub settle: Duration,
    /// What a longer lease counts as: anybody registers any.
    pub lease_max: Duration,
    /// Whether the name of the host goes before its IP address.
    pub prefer_hostname: bool,
    /// How long after the last renewal of its lease an instance is taken to be dead, whatever its
    /// status says; never when unset. At least [`STALE_AFTER_MIN`] makes sense.
    pub stale_after: Option<Duration>,
    /// How long an answer may take in full.
    pub timeout: Duration,
    /// The largest answer that is read, after decompression.
    pub body_bytes_max: usize,
}

/// A user and a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EurekaLogin {
    /// The user's name; without a colon, which HTTP cannot tell from the one before the password.
    pub user: String,
    /// A file with the password; it is read again when it changes.
    pub password_file: PathBuf,
}

// === impl EurekaSettings ===

impl EurekaSettings {
    /// Watches the servers at `urls`.
    #[must_use]
    pub fn new(urls: Vec<Url>) -> Self {
        Self {
            urls,
            login: None,
            tls: TlsFiles::default(),
            // What changed is a small answer, mostly the same as before.
            poll: Duration::from_secs(5),
            // As often as Eureka's own clients read (`eureka.client.registryFetchIntervalSeconds`).
            poll_in_full: Duration::from_secs(30),
            resync: Duration::from_secs(600),
            // A lease, unless `eureka.instance.lease-expiration-duration-in-seconds` says otherwise.
            // An instance that is there tries to renew it three times in that time, is told that it
            // is not known, and registers again.
            settle: Duration::from_secs(90),
            lease_max: Duration::from_secs(600),
            prefer_hostname: false,
            stale_after: None,
            timeout: Duration::from_secs(30),
            // 300,000 instances of the 850 bytes that Spring Cloud's have.
            body_bytes_max: 256 << 20,
        }
    }
}
