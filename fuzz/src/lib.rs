//! Hands libFuzzer's bytes to the targets, which live in `dispatch_sim::fuzz`
//! so that `cargo test` can call them too.

pub use {arbitrary, libfuzzer_sys};

/// The entry point of one target.
#[macro_export]
macro_rules! fuzz {
    ($target:path) => {
        $crate::libfuzzer_sys::fuzz_target!(|data: &[u8]| {
            let mut u = $crate::arbitrary::Unstructured::new(data);
            // Too few bytes are no finding.
            let _ = $target(&mut u);
        });
    };
}
