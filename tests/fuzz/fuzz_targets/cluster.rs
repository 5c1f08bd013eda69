//! What clusters hand over: see `tests/src/fuzz/cluster.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| landfall_tests::fuzz::cluster::run(bytes));
