//! Carries the SDK's requests by the HTTP client that every source has.
//!
//! Invariant: what is read is bounded, in bytes and in time, and no address is asked that was not
//! given: neither a proxy of the environment nor where an answer sends us.

use std::error::Error;
use std::time::Duration;

use aws_sdk_servicediscovery::config::http::{HttpRequest, HttpResponse};
use aws_sdk_servicediscovery::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_servicediscovery::config::{
    ConfigBag, HttpClient, Intercept, RuntimeComponents, SharedHttpClient,
};
use aws_sdk_servicediscovery::error::{BoxError, ConnectorError};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_types::body::SdkBody;
use landfall_core::text::with_causes;

// An address that does not even take a connection must not use up the time for a whole answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
// One for each operation, and those of credentials.
const CONNECTIONS_MAX: usize = 8;
// Credentials are small and near; the SDK names a time of its own where it wants another.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

// How much of what AWS or the SDK says is told to a person.
const TOLD_CHARS_MAX: usize = 400;

/// What became of a request that has no answer. It is somewhere among the sources of what the SDK
/// says.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("failed to reach {host}: {problem}")]
    Transport { host: String, problem: String },
    #[error("{host} did not answer in full within {} s", after.as_secs())]
    Timeout { host: String, after: Duration },
    #[error("{host} answered with more than {bytes_max} bytes")]
    TooLarge { host: String, bytes_max: usize },
    #[error("the request cannot be sent: {0}")]
    Request(String),
}

#[derive(Clone, Debug)]
struct Connector {
    client: reqwest::Client,
    timeout: Duration,
    bytes_max: usize,
}

/// Takes `data-` away from before the host of an address that was configured. The SDK puts it there
/// for the operations that discover, whatever the address, and only AWS' own regional hosts have a
/// name with it.
#[derive(Debug)]
pub(super) struct PlainHost;

/// An HTTP client for the SDK.
pub(super) fn http_client(bytes_max: usize) -> Result<SharedHttpClient, Fault> {
    let client = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_max_idle_per_host(CONNECTIONS_MAX)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| Fault::Request(error.to_string()))?;
    Ok(SharedHttpClient::new(Connector { client, timeout: READ_TIMEOUT, bytes_max }))
}

// === impl Connector ===

impl HttpClient for Connector {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        _components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let timeout = settings.read_timeout().unwrap_or(self.timeout);
        SharedHttpConnector::new(Self { timeout, ..self.clone() })
    }
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let connector = self.clone();
        HttpConnectorFuture::new(async move {
            connector.answer(request).await.map_err(|fault| match fault {
                Fault::Transport { .. } => ConnectorError::io(fault.into()),
                Fault::Timeout { .. } => ConnectorError::timeout(fault.into()),
                Fault::TooLarge { .. } => ConnectorError::other(fault.into(), None),
                Fault::Request(_) => ConnectorError::user(fault.into()),
            })
        })
    }
}

impl Connector {
    async fn answer(&self, request: HttpRequest) -> Result<HttpResponse, Fault> {
        let unsent = |error: &dyn Error| Fault::Request(chain(error));
        let request = request.try_into_http1x().map_err(|error| unsent(&error))?;
        let request = request.map(|body| body.bytes().map(<[u8]>::to_vec).unwrap_or_default());
        let mut request = reqwest::Request::try_from(request).map_err(|error| unsent(&error))?;
        *request.timeout_mut() = Some(self.timeout);
        let host = request.url().host_str().unwrap_or_default().to_owned();
        let failed = |error: reqwest::Error| {
            let host = host.clone();
            if error.is_timeout() && !error.is_connect() {
                return Fault::Timeout { host, after: self.timeout };
            }
            Fault::Transport { host, problem: chain(&error.without_url()) }
        };
        let mut response = self.client.execute(request).await.map_err(failed)?;
        let (status, headers) =
            (response.status().as_u16(), std::mem::take(response.headers_mut()));
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > self.bytes_max {
                return Err(Fault::TooLarge { host, bytes_max: self.bytes_max });
            }
            body.extend_from_slice(&chunk);
        }
        let status = status.try_into().map_err(|error| unsent(&error))?;
        let mut answer = HttpResponse::new(status, SdkBody::from(body));
        for (name, value) in &headers {
            if let Ok(value) = value.to_str() {
                // What the SDK cannot hold says nothing that it reads.
                let _held =
                    answer.headers_mut().try_append(name.as_str().to_owned(), value.to_owned());
            }
        }
        Ok(answer)
    }
}

// === impl PlainHost ===

impl Intercept for PlainHost {
    fn name(&self) -> &'static str {
        "PlainHost"
    }

    // The host is part of what is signed.
    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request_mut();
        if let Some(plain) = plain(request.uri()) {
            request.set_uri(plain)?;
        }
        Ok(())
    }
}

/// `uri` without `data-` before a host that is not one of AWS' regional ones.
fn plain(uri: &str) -> Option<String> {
    let (scheme, rest) = uri.split_once("://")?;
    let host = rest.strip_prefix("data-")?;
    (!host.starts_with("servicediscovery")).then(|| format!("{scheme}://{host}"))
}

/// What `error` says, and what is behind it.
pub(super) fn chain(error: &dyn Error) -> String {
    short(&with_causes(error))
}

/// The beginning of `text`, without the end of its last sentence: what to do is told behind it.
pub(super) fn short(text: &str) -> String {
    text.trim_end_matches('.').chars().take(TOLD_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_short_and_ends_in_no_stop() {
        assert_eq!(short("refused.."), "refused");
        assert_eq!(short(&"é".repeat(1000)).chars().count(), TOLD_CHARS_MAX);
    }

    #[test]
    fn only_regional_hosts_keep_their_prefix() {
        assert_eq!(plain("http://data-127.0.0.1:5000/").unwrap(), "http://127.0.0.1:5000/");
        let vpce = "vpce-1.data-servicediscovery.eu-west-1.vpce.amazonaws.com/";
        assert_eq!(plain(&format!("https://data-{vpce}")).unwrap(), format!("https://{vpce}"));
        assert_eq!(plain("https://data-servicediscovery.eu-west-1.amazonaws.com/"), None);
        assert_eq!(plain("https://data-servicediscovery-fips.us-east-1.amazonaws.com/"), None);
        assert_eq!(plain("https://servicediscovery.eu-west-1.amazonaws.com/"), None);
    }
}
