//! The system's randomness, from a seed.
//!
//! Hash maps, TLS and the host's own seeds all ask the C library for random
//! bytes. This file stands in for its `getrandom`: a thread with a seed is
//! given a stream of its own, every other thread what the kernel says.

use std::cell::RefCell;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng};
use rustix::rand::GetRandomFlags;

thread_local! {
    static STREAM: RefCell<Option<ChaCha8Rng>> = const { RefCell::new(None) };
}

/// From now on this thread's randomness grows from `seed`.
pub(super) fn seed_this_thread(seed: u64) {
    STREAM.with_borrow_mut(|stream| *stream = Some(ChaCha8Rng::seed_from_u64(seed)));
}

fn seeded(bytes: &mut [u8]) -> bool {
    // Without the thread-local (at the thread's end) nothing is decided any more.
    let filled = STREAM.try_with(|stream| {
        let mut stream = stream.try_borrow_mut().ok()?;
        stream.as_mut()?.fill_bytes(bytes);
        Some(())
    });
    matches!(filled, Ok(Some(())))
}

/// Takes the place of the C library's function of this name (getrandom(2)).
///
/// # Safety
/// `buffer` must be valid for writes of `length` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, flags: u32) -> isize {
    if buffer.is_null() || length == 0 {
        return 0;
    }
    // SAFETY: the caller's promise. The bytes are set to zero first, because a
    // slice of memory that was never written is no slice.
    let bytes = unsafe {
        buffer.write_bytes(0, length);
        std::slice::from_raw_parts_mut(buffer, length)
    };
    if seeded(bytes) {
        return isize::try_from(length).unwrap_or(isize::MAX);
    }
    let asked = GetRandomFlags::from_bits_retain(flags);
    let written = rustix::rand::getrandom(&mut *bytes, asked)
        // An older kernel knows fewer flags, and every kernel none.
        .or_else(|_| rustix::rand::getrandom(bytes, GetRandomFlags::empty()));
    // Callers that get less than they asked for ask again.
    isize::try_from(written.unwrap_or(0)).unwrap_or(isize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::{BuildHasher, RandomState};

    fn hash_in_a_thread(seed: Option<u64>) -> u64 {
        let hash = move || {
            if let Some(seed) = seed {
                seed_this_thread(seed);
            }
            RandomState::new().hash_one("x")
        };
        std::thread::spawn(hash).join().unwrap()
    }

    #[test]
    fn hash_maps_of_a_seeded_thread_repeat_and_others_do_not() {
        assert_eq!(hash_in_a_thread(Some(7)), hash_in_a_thread(Some(7)));
        assert_ne!(hash_in_a_thread(Some(7)), hash_in_a_thread(Some(8)));
        assert_ne!(hash_in_a_thread(None), hash_in_a_thread(None));
    }
}
