//! Verdicts: see `tests/src/fuzz/verdicts.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| landfall_tests::fuzz::verdicts::run(bytes));
