//! Components before they are compiled: see `tests/src/fuzz/component.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| landfall_tests::fuzz::component::run(bytes));
