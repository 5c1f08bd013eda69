//! The subcommands that look once and end.

pub(crate) mod adopt;
pub(crate) mod check;
pub(crate) mod explain;
pub(crate) mod plan;
pub(crate) mod policy;
mod report;
mod sighted;
pub(crate) mod snapshot;

use std::io::Write;

use anyhow::Context;

/// What a subcommand ends with when nothing failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Exit code 0.
    Done,
    /// Exit code 2: there is a difference, and the caller asked to be told so.
    Differs,
}

/// Writes to standard output, which belongs to what was asked for. Names in registries are
/// anybody's, and must not speak to the terminal.
fn print(text: &str) -> anyhow::Result<()> {
    let speaks = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    let mut safe = String::with_capacity(text.len());
    for part in text.split_inclusive(speaks) {
        match part.chars().next_back().filter(|c| speaks(*c)) {
            Some(last) => {
                safe.push_str(&part[..part.len() - last.len_utf8()]);
                safe.extend(last.escape_default());
            }
            None => safe.push_str(part),
        }
    }
    let mut out = std::io::stdout().lock();
    out.write_all(safe.as_bytes())
        .and_then(|()| out.flush())
        .context("failed to write to standard output")
}
