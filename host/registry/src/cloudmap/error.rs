//! Why Cloud Map gave no answer that may be relied on.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_servicediscovery::config::http::HttpResponse;
use aws_sdk_servicediscovery::error::{ProvideErrorMetadata, SdkError};

use super::connector::{Fault, chain, short};
use super::pace::Operation;
use crate::trouble::Trouble;

/// Why Cloud Map gave no answer that may be relied on.
#[derive(Debug, thiserror::Error)]
pub enum CloudMapError {
    /// The address took no request, or the connection broke.
    #[error(
        "failed to {attempt}: {told}. Check the region, the endpoint, and the way out of the network"
    )]
    Unreachable {
        /// What was asked for.
        attempt: String,
        /// What went wrong.
        told: String,
    },
    /// The address took the request and did not answer in full.
    #[error("failed to {attempt}: {told}. Check the endpoint, and the way out of the network")]
    Timeout {
        /// What was asked for.
        attempt: String,
        /// What went wrong.
        told: String,
    },
    /// There are no credentials, or AWS does not know them.
    #[error(
        "failed to {attempt}: {told}. Give the pod, task or instance a role, or set the variables or \
         profiles that the AWS command line reads; and check its clock"
    )]
    Credentials {
        /// What was asked for.
        attempt: String,
        /// What went wrong.
        told: String,
    },
    /// The credentials do not allow this.
    #[error("failed to {attempt}: {told}. Allow the action servicediscovery:{action} in IAM")]
    Forbidden {
        /// What was asked for.
        attempt: String,
        /// The action of IAM that is not allowed.
        action: &'static str,
        /// What AWS said.
        told: String,
    },
    /// AWS asks for fewer requests.
    #[error(
        "failed to {attempt}: {told}. Poll less often, list fewer namespaces, or have AWS raise the \
         account's quota of {action}"
    )]
    RateLimited {
        /// What was asked for.
        attempt: String,
        /// Whose quota is used up.
        action: &'static str,
        /// What AWS said.
        told: String,
    },
    /// There is no such namespace or service.
    #[error("failed to {attempt}: {told}. Check whether it was deleted")]
    Missing {
        /// What was asked for.
        attempt: String,
        /// What AWS said.
        told: String,
    },
    /// AWS answered with an error.
    #[error("failed to {attempt}: {told}. Check the endpoint; AWS' Health Dashboard may say more")]
    Status {
        /// What was asked for.
        attempt: String,
        /// The HTTP status.
        status: u16,
        /// What AWS said.
        told: String,
    },
    /// An answer is larger than what is read.
    #[error("failed to {attempt}: {told}, which is all that is read. Check what answers there")]
    TooLarge {
        /// What was asked for.
        attempt: String,
        /// What went wrong.
        told: String,
    },
    /// An answer is not what AWS documents.
    #[error("failed to {attempt}: the answer is malformed: {told}. Check what answers there")]
    Malformed {
        /// What was asked for.
        attempt: String,
        /// What is wrong with it.
        told: String,
    },
    /// The request could not be made from what is configured.
    #[error("failed to {attempt}: {told}. Check region, endpoint and roleArn")]
    Settings {
        /// What was asked for.
        attempt: String,
        /// What went wrong.
        told: String,
    },
}

// === impl CloudMapError ===

impl CloudMapError {
    /// Judges what the SDK says of a request.
    pub(super) fn of<E>(
        error: &SdkError<E, HttpResponse>,
        operation: Operation,
        attempt: String,
    ) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        // Nothing was sent without credentials, whatever kept them from us.
        if let Some(error) = find::<CredentialsError>(error) {
            return Self::Credentials { attempt, told: chain(error) };
        }
        if let Some(fault) = find::<Fault>(error) {
            let told = fault.to_string();
            return match fault {
                Fault::Transport { .. } => Self::Unreachable { attempt, told },
                Fault::Timeout { .. } => Self::Timeout { attempt, told },
                Fault::TooLarge { .. } => Self::TooLarge { attempt, told },
                Fault::Request(_) => Self::Settings { attempt, told },
            };
        }
        match error {
            SdkError::ServiceError(answer) => {
                let status = answer.raw().status().as_u16();
                Self::said(answer.err(), status, operation, attempt)
            }
            SdkError::TimeoutError(_) => Self::Timeout { attempt, told: chain(error) },
            SdkError::ResponseError(_) => Self::Malformed { attempt, told: chain(error) },
            _ => Self::Settings { attempt, told: chain(error) },
        }
    }

    /// Judges what AWS says.
    fn said(
        error: &impl ProvideErrorMetadata,
        status: u16,
        operation: Operation,
        attempt: String,
    ) -> Self {
        let action = operation.as_str();
        let code = error.code().unwrap_or_default();
        let message = error.message().unwrap_or("nothing more is said");
        let name = if code.is_empty() { "an error" } else { code };
        let told = short(&format!("{status} {name}: {message}"));
        match code {
            "NamespaceNotFound" | "ServiceNotFound" | "ResourceNotFoundException" => {
                Self::Missing { attempt, told }
            }
            "RequestLimitExceeded"
            | "ThrottlingException"
            | "Throttling"
            | "ThrottledException"
            | "TooManyRequestsException"
            | "RequestThrottled"
            | "SlowDown" => Self::RateLimited { attempt, action, told },
            "AccessDeniedException"
            | "AccessDenied"
            | "UnauthorizedOperation"
            | "NotAuthorized" => Self::Forbidden { attempt, action, told },
            "UnrecognizedClientException"
            | "InvalidClientTokenId"
            | "InvalidSignatureException"
            | "SignatureDoesNotMatch"
            | "IncompleteSignature"
            | "MissingAuthenticationToken"
            | "MissingAuthenticationTokenException"
            | "ExpiredToken"
            | "ExpiredTokenException"
            | "RequestExpired" => Self::Credentials { attempt, told },
            // Of what stands between us and AWS, and of AWS where it says nothing more.
            _ => match status {
                401 | 403 => Self::Forbidden { attempt, action, told },
                429 => Self::RateLimited { attempt, action, told },
                status => Self::Status { attempt, status, told },
            },
        }
    }

    /// One of a closed set, for metrics and documentation.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "cloud_map_unreachable",
            Self::Timeout { .. } => "cloud_map_timeout",
            Self::Credentials { .. } => "cloud_map_credentials",
            Self::Forbidden { .. } => "cloud_map_forbidden",
            Self::RateLimited { .. } => "cloud_map_rate_limited",
            Self::Missing { .. } => "cloud_map_missing",
            Self::Status { .. } => "cloud_map_status",
            Self::TooLarge { .. } => "cloud_map_too_large",
            Self::Malformed { .. } => "cloud_map_malformed",
            Self::Settings { .. } => "cloud_map_settings",
        }
    }

    /// Whether nothing else that is asked now would have a better answer.
    pub(super) const fn is_of_everything(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Timeout { .. }
                | Self::Credentials { .. }
                | Self::Settings { .. }
        )
    }

    /// Whether other credentials may do better.
    pub(super) const fn is_of_credentials(&self) -> bool {
        matches!(self, Self::Credentials { .. } | Self::Forbidden { .. })
    }
}

impl From<&CloudMapError> for Trouble {
    fn from(error: &CloudMapError) -> Self {
        Self { code: error.code(), message: error.to_string() }
    }
}

/// The first of this type among an error and what is behind it.
fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}
