//! Configurations: see `tests/src/fuzz/configuration.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| landfall_tests::fuzz::configuration::run(bytes));
