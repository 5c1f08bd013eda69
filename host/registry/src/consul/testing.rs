//! The readers of Consul's answers, for tests of other crates that hand them hostile ones.

use std::sync::Arc;

use landfall_core::finding::Finding;
use landfall_core::registry::Service;
use landfall_core::text::Text;

use super::convert::{self, View};
use super::{Kinds, Scope};

const EVERY_KIND: Kinds = Kinds { proxies: true, gateways: true };

/// What an answer for one service says: the service, and what is wrong with single instances.
///
/// # Errors
/// The answer is no list.
pub fn service(
    body: &[u8],
    name: &str,
) -> Result<(Option<Arc<Service>>, Vec<Finding>), serde_json::Error> {
    let read = convert::service(body, name, &Scope::default(), EVERY_KIND)?;
    Ok((read.service, read.findings))
}

/// The services in an answer to `/v1/catalog/services`.
///
/// # Errors
/// The answer has another form.
pub fn names(body: &[u8]) -> Result<Vec<Text>, serde_json::Error> {
    convert::names_view(body).map(services)
}

/// The services in an answer to `/v1/internal/ui/services`.
///
/// # Errors
/// The answer has another form.
pub fn summary(body: &[u8]) -> Result<Vec<Text>, serde_json::Error> {
    convert::summary_view(body, EVERY_KIND).map(services)
}

/// The services in an answer to `/v1/health/state/any`.
///
/// # Errors
/// The answer has another form.
pub fn checks(body: &[u8]) -> Result<Vec<Text>, serde_json::Error> {
    convert::checks_view(body).map(services)
}

/// The names in an answer to `/v1/namespaces`.
///
/// # Errors
/// The answer has another form.
pub fn namespaces(body: &[u8]) -> Result<Vec<String>, serde_json::Error> {
    convert::namespaces(body)
}

fn services(view: View) -> Vec<Text> {
    view.into_keys().collect()
}
