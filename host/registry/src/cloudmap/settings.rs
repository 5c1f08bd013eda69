//! What a source of AWS Cloud Map is told.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;

/// The shortest [`CloudMapSettings::poll`] that makes sense: each service costs a request that AWS
/// charges for.
pub const POLL_MIN: Duration = Duration::from_secs(1);

/// The shortest [`CloudMapSettings::health_poll`] that makes sense: AWS charges for each of these
/// too, and the checks of Route 53 look every 10 s at most.
pub const HEALTH_POLL_MIN: Duration = Duration::from_secs(5);

/// The shortest [`CloudMapSettings::service_poll`] that makes sense: AWS names no rate for listing
/// services, so it is done sparingly.
pub const SERVICE_POLL_MIN: Duration = Duration::from_secs(5);

/// The shortest [`CloudMapSettings::resync`] that makes sense: 1,000 services are 1,000 requests.
pub const RESYNC_MIN: Duration = Duration::from_secs(30);

/// Which Cloud Map to watch, and how. [`CloudMapSettings::new`] has the defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudMapSettings {
    /// The region, such as `eu-central-1`.
    pub region: String,
    /// The namespaces to list, each by its name, its HTTP name or its identifier; all of the account
    /// when empty.
    pub namespaces: Vec<String>,
    /// Where to send requests instead of AWS' own address for the region.
    pub endpoint: Option<Url>,
    /// Where to send those that discover instances, if that is elsewhere. AWS has them at an address
    /// of its own, which begins with `data-`; none is put before the host of an address given here
    /// or in [`Self::endpoint`].
    pub data_endpoint: Option<Url>,
    /// A file of profiles with credentials, as `~/.aws/credentials`, to be used instead of the usual
    /// chain. It is read again when AWS refuses what it says.
    pub credentials_file: Option<PathBuf>,
    /// The role to assume, by its ARN, with the credentials that are found.
    pub role_arn: Option<String>,
    /// What the role's trust policy may ask for.
    pub external_id: Option<String>,
    /// How often to ask of each service whether instances came or went. At least [`POLL_MIN`] makes
    /// sense.
    pub poll: Duration,
    /// How often to read the instances of each service that has health checks. At least
    /// [`HEALTH_POLL_MIN`] makes sense.
    pub health_poll: Duration,
    /// How often to list namespaces and services. At least [`SERVICE_POLL_MIN`] makes sense.
    pub service_poll: Duration,
    /// How often to read the instances of every other service although nothing seems to have been
    /// missed. At least [`RESYNC_MIN`] makes sense.
    pub resync: Duration,
    /// How long everything must have been gone before that is believed.
    pub settle: Duration,
    /// How long an answer may take in full.
    pub timeout: Duration,
    /// The largest answer that is read, after decompression.
    pub body_bytes_max: usize,
}

// === impl CloudMapSettings ===

impl CloudMapSettings {
    /// Watches every namespace of the account in `region`.
    #[must_use]
    pub fn new(region: &str) -> Self {
        Self {
            region: region.to_owned(),
            namespaces: Vec::new(),
            endpoint: None,
            data_endpoint: None,
            credentials_file: None,
            role_arn: None,
            external_id: None,
            // With 1,000 services 100 requests a second, a thirtieth of what AWS allows an account.
            poll: Duration::from_secs(10),
            // With 1,000 services 17 requests a second, a sixtieth of what AWS allows an account.
            health_poll: Duration::from_secs(60),
            // A new service is rare, and it is not asked for by anybody yet.
            service_poll: Duration::from_secs(30),
            resync: Duration::from_secs(600),
            // As long as other registries of Landfall take to be believed that they are empty.
            settle: Duration::from_secs(90),
            timeout: Duration::from_secs(10),
            // 1,000 instances with 30 attributes of 255 and 1,024 letters each, which are AWS'
            // limits, are 38 MB.
            body_bytes_max: 64 << 20,
        }
    }
}
