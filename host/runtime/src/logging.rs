//! Sets the log up: to standard error, for standard output belongs to what commands print.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;

/// Modules of the Kubernetes client, and all crates of the AWS SDK, that log the errors which they
/// return. A filter takes a target by how it begins.
const QUIET: &str = "kube_runtime::watcher=off,kube_client::client=off,aws_=off";

/// Starts logging.
///
/// # Errors
/// `filter` is not one, or logging was started before.
pub(crate) fn start(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = filtering(filter)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        // It would be told to the same standard error, and panic where nobody reads that any more.
        .log_internal_errors(false);
    let started = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("failed to start logging: {error}"))
}

/// What `filter` says, and no more of those clients than is asked for by name: they tell a failure
/// once for every attempt and not of which cluster or account, and each is a condition of a sink, a
/// policy or a source that is told with its name.
fn filtering(filter: &str) -> anyhow::Result<EnvFilter> {
    let wanted = format!("{QUIET},{filter}");
    EnvFilter::try_new(wanted).with_context(|| {
        format!("{filter:?} is not a log filter, such as info or landfall_runtime=debug")
    })
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(filter: &str) -> String {
        let written = Written::default();
        let out = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filtering(filter).unwrap())
            // A time may have any digits.
            .without_time()
            .with_writer(move || out.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(target: "kube_runtime::watcher", "watch list error with 403");
            tracing::error!(target: "kube_client::client::builder", "failed with status 403");
            tracing::warn!(target: "aws_config::imds::region", "failed with status 403");
            tracing::warn!(target: "aws_config::meta::credentials", "none gave any: 403");
            tracing::warn!(target: "aws_sdk_sts::operation", "failed with status 403");
            tracing::warn!(target: "aws_smithy_runtime::client::identity", "not resolved: 403");
            tracing::warn!(target: "kube_client::client", "eof in poll: 403");
            tracing::warn!("ours");
        });
        String::from_utf8(written.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn clients_tell_their_failures_to_us() {
        let said = logged("info");
        assert!(said.contains("ours"), "{said}");
        assert!(!said.contains("403"), "{said}");
        let asked = logged("info,kube_runtime::watcher=warn,kube_client::client::builder=error");
        assert_eq!(asked.matches("403").count(), 2, "{asked}");
        let asked = logged("info,aws_smithy_runtime=warn");
        assert_eq!(asked.matches("403").count(), 1, "{asked}");
        assert_eq!(logged("off"), "");
        assert!(filtering("a=b=c").is_err());
    }
}
