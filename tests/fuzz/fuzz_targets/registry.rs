//! Answers of registries: see `tests/src/fuzz/registry.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| landfall_tests::fuzz::registry::run(bytes));
