//! Inputs made of arbitrary bytes, and what has to hold whatever they are: no panic, and the
//! invariants of what was read.
//!
//! A target begins with legal seeds, for bytes of chance get no further than the first brace.
//! `tests/fuzz.rs` runs each target on bytes of chance, and `tests/fuzz` gives them to libFuzzer,
//! which looks for those that reach new code.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a broken invariant ends the case, and whoever runs it tells the input"
)]

pub mod cluster;
pub mod component;
pub mod configuration;
pub mod draw;
pub mod mutate;
pub mod registry;
pub mod verdicts;

/// Something that takes input from outside.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// What it is called.
    pub name: &'static str,
    /// The input that bytes stand for, as a person would read it.
    pub text: fn(&[u8]) -> String,
    /// Takes the input that bytes stand for; panics where an invariant is broken.
    pub run: fn(&[u8]),
}

/// Configurations.
pub const CONFIGURATION: Target =
    Target { name: "configuration", text: configuration::text, run: configuration::run };
/// Answers of registries.
pub const REGISTRY: Target = Target { name: "registry", text: registry::text, run: registry::run };
/// What policies say.
pub const VERDICTS: Target = Target { name: "verdicts", text: verdicts::text, run: verdicts::run };
/// Components before they are compiled.
pub const COMPONENT: Target =
    Target { name: "component", text: component::text, run: component::run };
/// What clusters hand over.
pub const CLUSTER: Target = Target { name: "cluster", text: cluster::text, run: cluster::run };

/// Fails unless `line` and `column` name a place in `text`, or the one just behind its end.
fn assert_within(text: &str, line: Option<u64>, column: Option<u64>, problem: &str) {
    let lines = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines = lines.split('\n').map(|line| line.chars().count() as u64);
    let place = line.zip(column).filter(|(line, column)| {
        let index = line.checked_sub(1).and_then(|index| usize::try_from(index).ok());
        let len = index.and_then(|index| lines.nth(index));
        // A text that ends with its line ends where the next one would begin.
        len.map_or(*column == 1 && lines.next().is_none(), |len| (1..=len + 1).contains(column))
    });
    assert!(place.is_some(), "{line:?}:{column:?} is no place in the text: {problem}");
}
