//! Joins the crates: configuration, the line, the daemon, the admin server and the command line.

mod admin;
mod args;
mod bounded;
mod candidate;
mod clock;
pub mod config;
mod daemon;
mod event;
mod kubernetes;
pub mod line;
mod logging;
mod metrics;
mod once;
mod pause;
mod policies;
mod prepared;
mod regular;
mod sinks;
mod slots;
mod sources;
mod status;
mod telemetry;
mod verbs;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tokio_util::sync::CancellationToken;

use crate::args::{Cli, Verb};
use crate::config::ConfigError;
use crate::verbs::Ending;

const EXIT_DIFFERS: u8 = 2;
const EXIT_CONFIG: u8 = 3;

/// Runs the command line. Exit codes are in its help.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse().checked().unwrap_or_else(|error| error.exit());
    match start(&cli) {
        Ok(Ending::Done) => ExitCode::SUCCESS,
        Ok(Ending::Differs) => ExitCode::from(EXIT_DIFFERS),
        Err(error) => {
            // Standard error may be closed; there is nobody left to tell.
            let _ = writeln!(std::io::stderr(), "landfall: {error:#}");
            if error.is::<ConfigError>() { ExitCode::from(EXIT_CONFIG) } else { ExitCode::FAILURE }
        }
    }
}

fn start(cli: &Cli) -> anyhow::Result<Ending> {
    logging::start(&cli.log, cli.log_format)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the asynchronous runtime")?;
    runtime.block_on(dispatch(&cli.verb))
}

async fn dispatch(verb: &Verb) -> anyhow::Result<Ending> {
    match verb {
        Verb::Run(args) => daemon::run(args.config.clone(), stop_on_signal()?).await?,
        Verb::Plan(args) => return verbs::plan::plan(args).await,
        Verb::Adopt(args) => return verbs::adopt::adopt(args).await,
        Verb::Check(args) => verbs::check::check(args)?,
        Verb::Explain(args) => verbs::explain::explain(args).await?,
        Verb::Snapshot(args) => verbs::snapshot::snapshot(args).await?,
        Verb::Policy(verb) => verbs::policy::policy(verb)?,
    }
    Ok(Ending::Done)
}

/// A token that is cancelled by SIGTERM or SIGINT.
fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("Stopping.");
        token.cancel();
    });
    Ok(stop)
}
