//! Sends writes, and reads of a refusal what kube leaves out.

use kube::Error;
use kube::client::Body;
use kube::core::Status;
use kube::core::response::StatusDetails;
use serde::de::DeserializeOwned;

use super::KubeSink;

impl KubeSink {
    /// As `Client::request`, but a refusal also has the pause that the server asks for where it
    /// stands in a header alone: so do the protection of API servers against too many requests
    /// and the proxies before them.
    pub(super) async fn send<T: DeserializeOwned>(
        &self,
        request: http::Request<Vec<u8>>,
    ) -> Result<T, Error> {
        let answer = self.client.send(request.map(Body::from)).await?;
        let code = answer.status();
        if !code.is_client_error() && !code.is_server_error() {
            let body = answer.into_body().collect_bytes().await?;
            return serde_json::from_slice(&body).map_err(Error::SerdeError);
        }
        let after = answer.headers().get(http::header::RETRY_AFTER);
        // A date, which the header may have too, is what no API server sends.
        let after_secs = after.and_then(|after| after.to_str().ok()?.parse::<u32>().ok());
        let body = answer.into_body().collect_bytes().await?;
        let mut status: Status = serde_json::from_slice(&body).unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(&body);
            Status::failure(text.trim(), "Unknown").with_code(code.as_u16())
        });
        if let Some(secs) = after_secs {
            let details = status.details.get_or_insert_with(no_details);
            details.retry_after_seconds = details.retry_after_seconds.max(secs);
        }
        Err(Error::Api(status.boxed()))
    }
}

fn no_details() -> StatusDetails {
    StatusDetails {
        name: String::new(),
        group: String::new(),
        kind: String::new(),
        uid: String::new(),
        causes: Vec::new(),
        retry_after_seconds: 0,
    }
}
