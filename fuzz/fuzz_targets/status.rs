#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kpull_fuzz::status(data));
