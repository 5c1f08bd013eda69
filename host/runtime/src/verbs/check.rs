//! `landfall check`: everything that is wrong with a configuration, or its JSON Schema.

use crate::args::CheckArgs;
use crate::config::{self, schema};

/// Checks, or prints the schema.
///
/// # Errors
/// The configuration is illegal; lists every problem.
pub(crate) fn check(args: &CheckArgs) -> anyhow::Result<()> {
    if args.schema {
        let mut schema = serde_json::to_string_pretty(&schema::json_schema())?;
        schema.push('\n');
        return super::print(&schema);
    }
    let config = config::load(&args.config.config)?;
    super::print(&format!(
        "{}: ok ({} sources, {} policies, {} sinks)\n",
        args.config.config.display(),
        config.sources.len(),
        config.policies.len(),
        config.sinks.len()
    ))
}
