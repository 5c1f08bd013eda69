//! Questions to Cloud Map, page by page, and their answers, judged.
//!
//! # How instances are read
//!
//! `DiscoverInstances` answers with all instances of a service and their health at once, up to 1,000
//! and in random order; it has no pages, so of more than 1,000 nobody knows which are missing. AWS
//! lets a service have 1,000, but whoever is told exactly as many cannot know. So where it answers
//! with 1,000 they are listed by `ListInstances`, 100 a page, with the pages of
//! `GetInstancesHealthStatus` beside it. `HealthStatus` is always `ALL`: without it AWS leaves out
//! instances that are not healthy unless none is (`HEALTHY_OR_ELSE_ALL`).
//!
//! No request is tried again here: whoever asks decides that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_sdk_servicediscovery::Client as Sdk;
use aws_sdk_servicediscovery::config::Builder;
use aws_sdk_servicediscovery::config::http::HttpResponse;
use aws_sdk_servicediscovery::config::retry::RetryConfig;
use aws_sdk_servicediscovery::error::{BuildError, ProvideErrorMetadata, SdkError};
use aws_sdk_servicediscovery::types::{
    HealthStatusFilter, NamespaceFilter, NamespaceFilterName, NamespaceSummary, ServiceFilter,
    ServiceFilterName, ServiceSummary,
};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout};

use super::connector::{self, PlainHost};
use super::convert::{Info, Namespace, Registered};
use super::error::CloudMapError;
use super::pace::{Operation, Pace};
use super::settings::CloudMapSettings;
use crate::metrics::SourceMetrics;

// The most that `DiscoverInstances` answers with.
const DISCOVERED_MAX: usize = 1000;
// The most that a page of a listing has.
const PAGE_MAX: i32 = 100;
// 100,000 of whatever is listed: AWS allows 50 namespaces, and few instances in each. When there
// are more, that is an error, for half a listing is none.
const PAGES_MAX: usize = 1000;
// What CloudTrail names as whoever assumed the role.
const SESSION_NAME: &str = "landfall";

/// All services, and the namespaces of the configuration that there are none of.
#[derive(Debug)]
pub(super) struct Catalog {
    /// In order, each once.
    pub(super) services: Vec<Info>,
    pub(super) missing: Vec<String>,
}

/// The instances of a service.
#[derive(Debug)]
pub(super) struct Discovered {
    /// Changes when instances come or go; it may go down (and says nothing of health).
    pub(super) revision: Option<i64>,
    pub(super) instances: Vec<Registered>,
}

/// What each operation has been asked for lately. It outlives a client, for AWS counts on.
#[derive(Debug)]
pub(super) struct Paces([Mutex<Pace>; Operation::ALL.len()]);

/// Asks.
#[derive(Debug)]
pub(super) struct Client {
    listing: Sdk,
    /// The same, at the address for what discovers.
    data: Sdk,
    paces: Arc<Paces>,
    timeout: Duration,
    metrics: Arc<SourceMetrics>,
}

// === impl Paces ===

impl Paces {
    pub(super) fn new() -> Self {
        Self(Operation::ALL.map(|operation| Mutex::new(Pace::of(operation))))
    }
}

// === impl Client ===

impl Client {
    /// A client with the credentials that there are now. Asks nothing.
    pub(super) async fn new(
        settings: &CloudMapSettings,
        paces: Arc<Paces>,
        metrics: Arc<SourceMetrics>,
    ) -> Result<Self, CloudMapError> {
        let http = connector::http_client(settings.body_bytes_max).map_err(|fault| {
            let attempt = "set up a client".to_owned();
            CloudMapError::Settings { attempt, told: fault.to_string() }
        })?;
        let region = Region::new(settings.region.clone());
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .region(region.clone())
            .http_client(http.clone())
            .retry_config(RetryConfig::disabled());
        if let Some(file) = &settings.credentials_file {
            let files =
                EnvConfigFiles::builder().with_file(EnvConfigFileKind::Credentials, file).build();
            let provider = ProviderConfig::empty().with_region(Some(region)).with_http_client(http);
            let profiles = ProfileFileCredentialsProvider::builder()
                .configure(&provider)
                .profile_files(files.clone())
                .build();
            // Nothing else is read, for what else the user's own profiles say is of others.
            loader = loader.profile_files(files).credentials_provider(profiles);
        }
        let mut config = loader.load().await;
        if let Some(role) = &settings.role_arn {
            let mut assumed =
                AssumeRoleProvider::builder(role).session_name(SESSION_NAME).configure(&config);
            if let Some(id) = &settings.external_id {
                assumed = assumed.external_id(id);
            }
            let provider = assumed.build().await;
            let provider =
                aws_sdk_servicediscovery::config::SharedCredentialsProvider::new(provider);
            config = config.into_builder().credentials_provider(provider).build();
        }
        Ok(Self::of(&config, settings, paces, metrics))
    }

    /// A client that asks as `config` says.
    pub(super) fn of(
        config: &SdkConfig,
        settings: &CloudMapSettings,
        paces: Arc<Paces>,
        metrics: Arc<SourceMetrics>,
    ) -> Self {
        let sdk = |endpoint: Option<&reqwest::Url>| {
            let mut builder = Builder::from(config).interceptor(PlainHost);
            if let Some(endpoint) = endpoint {
                builder = builder.endpoint_url(endpoint.as_str());
            }
            Sdk::from_conf(builder.build())
        };
        let endpoint = settings.endpoint.as_ref();
        Self {
            listing: sdk(endpoint),
            data: sdk(settings.data_endpoint.as_ref().or(endpoint)),
            paces,
            timeout: settings.timeout,
            metrics,
        }
    }

    /// All services of the namespaces that are called as in `wanted`, or of all of the account.
    ///
    /// Namespaces that another account shares are not among them: AWS has them read as that
    /// account's, by a role in it.
    pub(super) async fn catalog(&self, wanted: &[String]) -> Result<Catalog, CloudMapError> {
        let all = self.namespaces().await?;
        let is_wanted = |namespace: &Namespace| {
            wanted.is_empty() || wanted.iter().any(|name| namespace.is_called(name))
        };
        let missing = wanted
            .iter()
            .filter(|name| !all.iter().any(|namespace| namespace.is_called(name)))
            .cloned()
            .collect();
        let mut services = Vec::new();
        for namespace in all.into_iter().filter(is_wanted) {
            self.services(&Arc::new(namespace), &mut services).await?;
        }
        // A page that is asked for while something is made or deleted may repeat what the last one
        // had.
        services.sort_by(|a: &Info, b: &Info| (&a.key, &a.id).cmp(&(&b.key, &b.id)));
        services.dedup_by(|next, kept| next.key == kept.key);
        Ok(Catalog { services, missing })
    }

    async fn namespaces(&self) -> Result<Vec<Namespace>, CloudMapError> {
        let operation = Operation::ListNamespaces;
        let attempt = || "list the namespaces".to_owned();
        let filter = NamespaceFilter::builder()
            .name(NamespaceFilterName::ResourceOwner)
            .values("SELF")
            .build()
            .map_err(|error| unbuilt(error, attempt()))?;
        let mut namespaces = Vec::new();
        let mut pages = Pages::default();
        loop {
            let asked = self
                .listing
                .list_namespaces()
                .max_results(PAGE_MAX)
                .filters(filter.clone())
                .set_next_token(pages.token.clone())
                .send();
            let page = self.ask(operation, attempt, asked).await?;
            let listed = page.namespaces.ok_or_else(|| lacking("Namespaces", attempt()))?;
            for summary in listed {
                namespaces.push(namespace(summary, attempt)?);
            }
            if !pages.go_on(page.next_token, attempt)? {
                return Ok(namespaces);
            }
        }
    }

    async fn services(
        &self,
        namespace: &Arc<Namespace>,
        services: &mut Vec<Info>,
    ) -> Result<(), CloudMapError> {
        let operation = Operation::ListServices;
        let attempt = || format!("list the services of namespace {}", namespace.http_name);
        let filter = ServiceFilter::builder()
            .name(ServiceFilterName::NamespaceId)
            .values(&*namespace.id)
            .build()
            .map_err(|error| unbuilt(error, attempt()))?;
        let mut pages = Pages::default();
        loop {
            // A page may have no service and there be more: AWS filters what it has taken.
            let asked = self
                .listing
                .list_services()
                .max_results(PAGE_MAX)
                .filters(filter.clone())
                .set_next_token(pages.token.clone())
                .send();
            let page = match self.ask(operation, attempt, asked).await {
                Ok(page) => page,
                // Deleted since it was listed, with all that was in it.
                Err(CloudMapError::Missing { .. }) => return Ok(()),
                Err(error) => return Err(error),
            };
            let listed = page.services.ok_or_else(|| lacking("Services", attempt()))?;
            for summary in listed {
                services.push(service(summary, namespace, attempt)?);
            }
            if !pages.go_on(page.next_token, attempt)? {
                return Ok(());
            }
        }
    }

    /// The revision of the instances of a service.
    pub(super) async fn revision(&self, info: &Info) -> Result<i64, CloudMapError> {
        let attempt = || format!("ask for the revision of service {}", info.key);
        let asked = self
            .data
            .discover_instances_revision()
            .namespace_name(&*info.namespace.http_name)
            .service_name(&*info.key.name)
            .send();
        let answer = self.ask(Operation::DiscoverInstancesRevision, attempt, asked).await?;
        answer.instances_revision.ok_or_else(|| lacking("InstancesRevision", attempt()))
    }

    /// All instances of a service.
    pub(super) async fn instances(&self, info: &Info) -> Result<Discovered, CloudMapError> {
        let attempt = || format!("discover the instances of service {}", info.key);
        let asked = self
            .data
            .discover_instances()
            .namespace_name(&*info.namespace.http_name)
            .service_name(&*info.key.name)
            .max_results(DISCOVERED_MAX as i32)
            .health_status(HealthStatusFilter::All)
            .send();
        let answer = self.ask(Operation::DiscoverInstances, attempt, asked).await?;
        let revision = answer.instances_revision;
        let listed = answer.instances.ok_or_else(|| lacking("Instances", attempt()))?;
        let instances = if listed.len() < DISCOVERED_MAX {
            let discovered = |one: aws_sdk_servicediscovery::types::HttpInstanceSummary| {
                let health = one.health_status.map(|health| health.as_str().to_owned());
                Registered::new(one.instance_id, health, one.attributes)
            };
            listed.into_iter().map(discovered).collect()
        } else {
            self.every_instance(info).await?
        };
        Ok(Discovered { revision, instances })
    }

    async fn every_instance(&self, info: &Info) -> Result<Vec<Registered>, CloudMapError> {
        let attempt = || format!("list the instances of service {}", info.key);
        let mut healths = self.healths(info).await?;
        let mut instances = Vec::new();
        let mut pages = Pages::default();
        loop {
            let asked = self
                .listing
                .list_instances()
                .service_id(&*info.id)
                .max_results(PAGE_MAX)
                .set_next_token(pages.token.clone())
                .send();
            let page = self.ask(Operation::ListInstances, attempt, asked).await?;
            let listed = page.instances.ok_or_else(|| lacking("Instances", attempt()))?;
            for one in listed {
                let health = one.id.as_ref().and_then(|id| healths.remove(id));
                instances.push(Registered::new(one.id, health, one.attributes));
            }
            if !pages.go_on(page.next_token, attempt)? {
                return Ok(instances);
            }
        }
    }

    async fn healths(&self, info: &Info) -> Result<BTreeMap<String, String>, CloudMapError> {
        let attempt = || format!("read the health of the instances of service {}", info.key);
        let mut healths = BTreeMap::new();
        if !info.is_checked {
            return Ok(healths);
        }
        let mut pages = Pages::default();
        loop {
            let asked = self
                .listing
                .get_instances_health_status()
                .service_id(&*info.id)
                .max_results(PAGE_MAX)
                .set_next_token(pages.token.clone())
                .send();
            let page = self.ask(Operation::GetInstancesHealthStatus, attempt, asked).await?;
            let listed = page.status.ok_or_else(|| lacking("Status", attempt()))?;
            healths.extend(listed.into_iter().map(|(id, health)| (id, health.as_str().to_owned())));
            if !pages.go_on(page.next_token, attempt)? {
                return Ok(healths);
            }
        }
    }

    /// Asks when it is time to, and while nobody else asks for the same operation.
    async fn ask<T, E>(
        &self,
        operation: Operation,
        attempt: impl Fn() -> String,
        asked: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, CloudMapError>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let mut pace = self.paces.0[operation as usize].lock().await;
        let now = Instant::now();
        let ready_at = pace.ready_at(now);
        if now < ready_at {
            sleep_until(ready_at).await;
        }
        pace.take(Instant::now());
        self.metrics.count_request();
        let answered = match timeout(self.timeout, asked).await {
            Ok(answered) => {
                answered.map_err(|error| CloudMapError::of(&error, operation, attempt()))
            }
            Err(_) => {
                let told = format!("no answer within {} s", self.timeout.as_secs_f64());
                Err(CloudMapError::Timeout { attempt: attempt(), told })
            }
        };
        if let Err(error) = &answered {
            if matches!(error, CloudMapError::RateLimited { .. }) {
                pace.refused(Instant::now());
            }
            // Whoever asks knows whether that is worth counting.
            if !matches!(error, CloudMapError::Missing { .. }) {
                self.metrics.count_error(error.code());
            }
        }
        answered
    }
}

// === Pages ===

/// How far a listing has been read.
#[derive(Debug, Default)]
struct Pages {
    read: usize,
    token: Option<String>,
}

impl Pages {
    /// Whether another page is to be asked for after one that said `next`.
    fn go_on(
        &mut self,
        next: Option<String>,
        attempt: impl Fn() -> String,
    ) -> Result<bool, CloudMapError> {
        let next = next.filter(|next| !next.is_empty());
        self.read += 1;
        if next.is_some() && next == self.token {
            let told = "a page is followed by itself".to_owned();
            return Err(CloudMapError::Malformed { attempt: attempt(), told });
        }
        if next.is_some() && self.read >= PAGES_MAX {
            let told = format!("there are more than {PAGES_MAX} pages");
            return Err(CloudMapError::TooLarge { attempt: attempt(), told });
        }
        self.token = next;
        Ok(self.token.is_some())
    }
}

// === What is listed ===

fn namespace(
    summary: NamespaceSummary,
    attempt: impl Fn() -> String,
) -> Result<Namespace, CloudMapError> {
    let id = summary.id.ok_or_else(|| lacking("Id", attempt()))?;
    let name = summary.name.ok_or_else(|| lacking("Name", attempt()))?;
    let http = summary.properties.and_then(|properties| properties.http_properties);
    let http_name = http.and_then(|http| http.http_name).filter(|http| !http.is_empty());
    Ok(Namespace {
        id: id.into(),
        http_name: http_name.as_deref().unwrap_or(&name).into(),
        name: name.into(),
    })
}

fn service(
    summary: ServiceSummary,
    namespace: &Arc<Namespace>,
    attempt: impl Fn() -> String,
) -> Result<Info, CloudMapError> {
    let id = summary.id.ok_or_else(|| lacking("Id", attempt()))?;
    let name = summary.name.ok_or_else(|| lacking("Name", attempt()))?;
    let is_checked =
        summary.health_check_config.is_some() || summary.health_check_custom_config.is_some();
    Ok(Info::new(Arc::clone(namespace), &id, &name, is_checked))
}

/// A list that is left out is not an empty one: AWS writes those.
fn lacking(field: &str, attempt: String) -> CloudMapError {
    CloudMapError::Malformed { attempt, told: format!("it has no {field}") }
}

fn unbuilt(error: BuildError, attempt: String) -> CloudMapError {
    CloudMapError::Settings { attempt, told: error.to_string() }
}
