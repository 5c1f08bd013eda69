//! `landfall policy`: what a policy's author needs.

use anyhow::Context;
use landfall_policy_host::componentize::componentize;

use crate::args::{ComponentizeArgs, PolicyVerb};

/// Runs a subcommand of `policy`.
///
/// # Errors
/// See the subcommand.
pub(crate) fn policy(verb: &PolicyVerb) -> anyhow::Result<()> {
    match verb {
        PolicyVerb::Componentize(args) => componentized(args),
    }
}

/// Turns a core module into a component. The output appears whole or not at all, for a running
/// Landfall may watch it.
fn componentized(args: &ComponentizeArgs) -> anyhow::Result<()> {
    let (module, output) = (&args.module, &args.output);
    let core = std::fs::read(module)
        .with_context(|| format!("failed to read core module {}", module.display()))?;
    let component = componentize(&core)
        .with_context(|| format!("failed to make a component of {}", module.display()))?;
    let beside = output.with_extension("wasm.new");
    std::fs::write(&beside, &component)
        .and_then(|()| std::fs::rename(&beside, output))
        .with_context(|| format!("failed to write component {}", output.display()))?;
    super::print(&format!("{} ({} bytes)\n", output.display(), component.len()))
}
