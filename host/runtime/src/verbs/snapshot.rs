//! `landfall snapshot`: what a registry lists, in the format of the file source.

use anyhow::Context;

use crate::args::SnapshotArgs;
use crate::sources::Needed;
use crate::{config, sources};

/// Prints the listing of a source.
///
/// # Errors
/// It has no complete listing in time, it is in doubt, or it is not clear which source is meant.
pub(crate) async fn snapshot(args: &SnapshotArgs) -> anyhow::Result<()> {
    let mut config = config::load(&args.once.config.config)?;
    let names = config.sources.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(name) = &args.source {
        config.sources.retain(|source| source.name.as_str() == name);
        anyhow::ensure!(!config.sources.is_empty(), "there is no source {name:?}, only {names}");
    }
    anyhow::ensure!(config.sources.len() == 1, "choose one source by --source: {names}");
    let running = sources::start(&config.sources);
    let states = sources::wait_complete(&running, &Needed::All, args.once.timeout.0).await?;
    for (name, state) in &states {
        crate::once::report(&state.findings);
        if let Some(doubt) = &state.doubt {
            // Whoever replays it would take it for all there is.
            let why = format!("{}: {}", doubt.code, doubt.message);
            anyhow::bail!(
                "source {name} is in doubt, so its listing is not printed: it may be out of date \
                 or lack something ({why})"
            );
        }
        if let Some(snapshot) = &state.snapshot {
            let mut out = Vec::new();
            landfall_registry::file::write(snapshot, &mut out)
                .context("failed to write the listing as YAML")?;
            super::print(&String::from_utf8_lossy(&out))?;
        }
    }
    Ok(())
}
