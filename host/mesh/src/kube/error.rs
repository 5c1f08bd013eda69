//! What errors of the API mean: for one step, and for the sink as a whole.

use kube::Error;
use kube::core::Status;
use kube::runtime::watcher;
use landfall_core::text::with_causes;

use crate::sink::{Condition, Outcome};

/// How to go on after a failed request.
pub(super) enum Verdict {
    /// Ask again; after this many seconds if the server said so.
    Again { after_secs: Option<u32>, message: String },
    /// Asking again gives the same answer.
    Final(Outcome),
}

/// The code of a condition that the API server does not know what we want of it.
pub(super) const MISSING: &str = "kube_missing";

// The API server's answers name the rule that is broken; longer ones list all endpoints.
const MESSAGE_LEN_MAX: usize = 1024;

/// The HTTP status of an error, where the server answered.
pub(super) fn status_of(error: &Error) -> Option<u16> {
    match error {
        Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// Whether somebody answered, and be it that it cannot be done now.
pub(super) fn is_answer(error: &Error) -> bool {
    matches!(error, Error::Api(_) | Error::SerdeError(_))
}

/// The error with all its causes, within bounds.
pub(super) fn message_of(error: &dyn std::error::Error) -> String {
    cut(&with_causes(error))
}

pub(super) fn cut(message: &str) -> String {
    message.chars().take(MESSAGE_LEN_MAX).collect()
}

/// Whether the API server says that the object would be none that it takes.
pub(super) fn is_invalid(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == 422 && !is_other_uid(status))
}

/// Whether the object that is there has another `uid` than the one that was named, which is an
/// invalid value and not a conflict.
fn is_other_uid(status: &Status) -> bool {
    let mut causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 422 && causes.any(|cause| cause.field == "metadata.uid")
}

/// What a failed write means.
pub(super) fn verdict(error: &Error) -> Verdict {
    let Error::Api(status) = error else {
        return Verdict::Again { after_secs: None, message: message_of(error) };
    };
    let message = cut(&status.message);
    let after = status.details.as_ref().map(|d| d.retry_after_seconds).filter(|secs| *secs > 0);
    if is_other_uid(status) {
        return Verdict::Final(Outcome::Conflict(
            "the object was made anew by somebody".to_owned(),
        ));
    }
    Verdict::Final(match status.code {
        // Also where somebody before the API server says so. 500 too: an admission webhook that
        // does not answer ends so.
        408 | 429 | 500..=599 => return Verdict::Again { after_secs: after, message },
        401 => Outcome::Forbidden(format!("the credentials are not accepted: {message}")),
        403 => Outcome::Forbidden(message),
        404 => Outcome::NotFound(message),
        409 => Outcome::Conflict(message),
        status => Outcome::Refused { status, message },
    })
}

/// What a failed list or watch of `what` means for the sink.
pub(super) fn condition_of_watch(error: &watcher::Error, what: &str) -> Condition {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => condition(error, what),
        watcher::Error::WatchError(status) => Condition {
            code: "kube_watch",
            message: format!("the watch of {what} ended: {}", cut(&status.message)),
        },
        watcher::Error::NoResourceVersion => Condition {
            code: "kube_watch",
            message: format!("the API server gives no resourceVersion for {what}"),
        },
    }
}

/// What a failed request about `what` means for the sink.
pub(super) fn condition(error: &Error, what: &str) -> Condition {
    let (code, message) = match status_of(error) {
        Some(404) => (
            MISSING,
            format!(
                "the API server does not know {what}. Install Istio's CRDs, or remove this sink"
            ),
        ),
        Some(403) => (
            "kube_forbidden",
            format!(
                "the API server does not let us read {what}. Apply the rules in deploy/rbac.yaml: {}",
                message_of(error)
            ),
        ),
        Some(401) => (
            "kube_unauthorized",
            "the API server does not accept the credentials. Mend the kubeconfig or the service \
             account"
                .to_owned(),
        ),
        Some(_) => {
            ("kube_server", format!("the API server cannot list {what}: {}", message_of(error)))
        }
        None => {
            ("kube_unreachable", format!("the API server cannot be reached: {}", message_of(error)))
        }
    };
    Condition { code, message }
}
