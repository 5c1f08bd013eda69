//! The reader of Cloud Map's answers, for tests of other crates that hand it hostile ones.

use std::sync::Arc;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_servicediscovery::config::http::{HttpRequest, HttpResponse};
use aws_sdk_servicediscovery::config::{
    Credentials, HttpClient, RuntimeComponents, SharedCredentialsProvider, SharedHttpClient,
};
use aws_sdk_servicediscovery::error::ConnectorError;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_types::body::SdkBody;
use landfall_core::finding::Finding;
use landfall_core::registry::Service;

use super::client::{Client, Paces};
use super::convert::{self, Info, Namespace};
use super::{CloudMapError, CloudMapSettings};

const OK: u16 = 200;

/// Answers everything with one body.
#[derive(Clone, Debug)]
struct Canned(Vec<u8>);

impl HttpClient for Canned {
    fn http_connector(
        &self,
        _settings: &HttpConnectorSettings,
        _components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Canned {
    fn call(&self, _request: HttpRequest) -> HttpConnectorFuture {
        let body = SdkBody::from(self.0.clone());
        let status = OK.try_into().map_err(|error: aws_smithy_runtime_api::http::HttpError| {
            ConnectorError::user(error.into())
        });
        HttpConnectorFuture::ready(status.map(|status| HttpResponse::new(status, body)))
    }
}

/// A service as `body` says it, which is the answer to a question for its instances, and what is
/// wrong with single ones.
///
/// # Errors
/// The answer has another form.
pub async fn discovered(body: Vec<u8>) -> Result<(Service, Vec<Finding>), CloudMapError> {
    let config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("eu-central-1"))
        .credentials_provider(SharedCredentialsProvider::new(Credentials::new(
            "key", "secret", None, None, "test",
        )))
        .http_client(SharedHttpClient::new(Canned(body)))
        .build();
    let settings = CloudMapSettings::new("eu-central-1");
    let client = Client::of(&config, &settings, Arc::new(Paces::new()), Arc::default());
    let name = |name: &str| name.into();
    let namespace =
        Namespace { id: name("ns-1"), name: name("prod"), http_name: name("prod.internal") };
    let info = Info::new(Arc::new(namespace), "srv-1", "orders", true);
    let discovered = client.instances(&info).await?;
    Ok(convert::service(&info, &discovered.instances, None))
}
