//! Hands bytes of chance to everything that takes input from outside, for a while.
//!
//! `LANDFALL_FUZZ_SECONDS` says how long, a minute for each if unset. `LANDFALL_FUZZ_SEED` repeats
//! the cases of an earlier run, whose seed is in its output, and `LANDFALL_FUZZ_CASE` the single
//! one whose bytes are in a file.

#![allow(clippy::expect_used, clippy::panic, reason = "a helper of a test fails the test")]
#![expect(clippy::disallowed_methods, reason = "a run ends by the clock")]
#![expect(clippy::print_stdout, reason = "seed and count are for who runs it with --nocapture")]

use std::collections::hash_map::RandomState;
use std::env;
use std::fs;
use std::hash::BuildHasher;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use landfall_mesh::testing::Dice;
use landfall_tests::fuzz::{CLUSTER, COMPONENT, CONFIGURATION, REGISTRY, Target, VERDICTS};

/// Enough for every choice that a generator makes but the longest lists.
const BYTES_MAX: u64 = 600;
/// No input takes this long twice in a row to be read or refused, however busy the machine.
const CASE_TIME_MAX: Duration = Duration::from_secs(10);

#[test]
fn configurations_are_taken_or_refused() {
    run(CONFIGURATION);
}

#[test]
fn answers_of_registries_are_taken_or_refused() {
    run(REGISTRY);
}

#[test]
fn verdicts_become_what_istio_takes() {
    run(VERDICTS);
}

#[test]
fn components_are_examined_or_refused() {
    run(COMPONENT);
}

#[test]
fn what_clusters_hand_over_is_taken_or_refused() {
    run(CLUSTER);
}

fn run(target: Target) {
    if let Ok(path) = env::var("LANDFALL_FUZZ_CASE") {
        let bytes = fs::read(path).expect("the file of the case");
        println!("{}: {}", target.name, (target.text)(&bytes));
        return (target.run)(&bytes);
    }
    let seconds = number("LANDFALL_FUZZ_SECONDS").unwrap_or(60);
    let seed = number("LANDFALL_FUZZ_SEED").unwrap_or_else(|| RandomState::new().hash_one(0));
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{}", target.name));
    println!("{}: LANDFALL_FUZZ_SEED={seed}; the case is in {}", target.name, path.display());
    let mut dice = Dice::new(seed);
    let (begin, mut cases, mut slowest) = (Instant::now(), 0_u64, Duration::ZERO);
    while begin.elapsed() < Duration::from_secs(seconds) {
        let len = 1 + dice.below(BYTES_MAX);
        let bytes: Vec<u8> = (0..len).map(|_| dice.below(256) as u8).collect();
        // Before it runs, for nothing can be told after the stack overflowed.
        fs::write(&path, &bytes).expect("the folder for temporary files takes a file");
        let case = Instant::now();
        let mut outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(&bytes)));
        let mut taken = case.elapsed();
        if outcome.is_ok() && taken > CASE_TIME_MAX {
            let again = Instant::now();
            outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(&bytes)));
            taken = again.elapsed();
        }
        if outcome.is_err() || taken > CASE_TIME_MAX {
            let text = (target.text)(&bytes);
            fs::write(path.with_extension("txt"), &text).expect("the folder takes another file");
            panic!(
                "{} fails after {taken:?} on the bytes in {} (LANDFALL_FUZZ_SEED={seed}), which \
                 stand for:\n{text}",
                target.name,
                path.display()
            );
        }
        slowest = slowest.max(taken);
        cases += 1;
    }
    // What is left over is a case that failed.
    drop(fs::remove_file(&path));
    println!("{}: {cases} cases in {seconds} s; the slowest took {slowest:?}", target.name);
}

/// What a variable of the environment says.
fn number(name: &str) -> Option<u64> {
    let value = env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is {value:?}, which is no number")))
}
