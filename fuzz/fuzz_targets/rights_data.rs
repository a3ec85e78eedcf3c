//! Fuzz target: see `rights_data` in the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| keyward_fuzz::rights_data(data));
