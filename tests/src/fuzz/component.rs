//! Components, as strangers hand them over: what is examined before the compiler is given anything.
//!
//! `cluster` takes some of them all the way. Here nothing is compiled, so that far more are seen.

use std::sync::OnceLock;

use landfall_policy_host::{AdmissionError, probe};

use super::draw::Draw;
use crate::hostile::{ALL, hostile};

/// Changes to a component: few, so that what is deep inside is reached.
const CHANGES_MAX: usize = 6;
/// What has a meaning of its own where a number is read: LEB128 of 0, 1, 127, 128, 2^32 - 1 and
/// 2^64 - 1, and one that does not end.
const NUMBERS: [&[u8]; 7] = [
    &[0],
    &[1],
    &[0x7f],
    &[0x80, 0x01],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0x80; 12],
];

/// The component, with what is no letter escaped.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    component(bytes).escape_ascii().to_string()
}

/// Examines the component that `bytes` stand for.
///
/// # Panics
/// It is refused for a reason that only compiling it or calling it can give.
pub fn run(bytes: &[u8]) {
    let Err(error) = probe::examined(&component(bytes)) else { return };
    let may = [
        "too_large",
        "inflate_failed",
        "not_a_component",
        "structure",
        "imports_denied",
        "world_mismatch",
    ];
    assert!(may.contains(&error.code()), "{error}");
    // It is told in a log, whatever the names in the component.
    if let AdmissionError::NotAComponent { problem } = &error {
        assert!(problem.len() < 10_000, "{problem}");
    }
}

/// One of the hostile guests, changed here and there.
fn component(bytes: &[u8]) -> Vec<u8> {
    static COMPONENTS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let components = COMPONENTS.get_or_init(|| ALL.iter().map(|g| hostile(g.name)).collect());
    let mut draw = Draw::new(bytes);
    let mut component = draw.one_of(components).clone();
    for _ in 0..draw.below(CHANGES_MAX) {
        if component.is_empty() {
            break;
        }
        let at = draw.below(component.len());
        match draw.below(5) {
            0 => component[at] = draw.byte(),
            1 => {
                let number = *draw.one_of(&NUMBERS);
                component.splice(at..at + 1, number.iter().copied());
            }
            2 => {
                component.remove(at);
            }
            // A part of it once more, such as a section.
            3 => {
                let end = at + draw.below((component.len() - at).min(200));
                let part = component[at..end].to_vec();
                component.splice(at..at, part);
            }
            _ => component.truncate(at),
        }
    }
    component
}
