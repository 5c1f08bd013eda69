//! For a policy's own tests, natively: making a policy the way Landfall does.

use crate::{Policy, settings};

/// Makes a policy from its settings as JSON.
///
/// # Errors
///
/// What Landfall would show the operator, one `path: message` a line.
pub fn configure<P: Policy>(json: &str) -> Result<P, String> {
    settings::parse(json).and_then(P::new).map_err(|problems| {
        let lines: Vec<_> = problems
            .iter()
            .map(|problem| format!("{}: {}", problem.path, problem.message))
            .collect();
        lines.join("\n")
    })
}
