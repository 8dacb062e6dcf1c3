//! What came of an input, in eight bytes.

use postcard::ser_flavors::Flavor;
use xxhash_rust::xxh3::Xxh3;

use crate::io::Effect;

/// Digests effects without keeping their bytes: a request's body may have
/// megabytes. Replay uses it as the recorder does.
pub struct Digest {
    hasher: Xxh3,
    /// Collects the small writes, of which postcard makes many.
    small: [u8; 128],
    used: usize,
}

impl Default for Digest {
    fn default() -> Self {
        Digest {
            hasher: Xxh3::new(),
            small: [0; 128],
            used: 0,
        }
    }
}

impl core::fmt::Debug for Digest {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Digest")
    }
}

impl Digest {
    /// Adds an effect.
    pub fn effect(&mut self, effect: &Effect) {
        // An effect that postcard cannot express is digested as far as it
        // could: the same bytes in every run.
        let _ = postcard::serialize_with_flavor(effect, Digested(self));
    }

    /// The digest of what was added since the last call.
    pub fn take(&mut self) -> u64 {
        self.flush();
        let digest = self.hasher.digest();
        self.hasher.reset();
        digest
    }

    fn flush(&mut self) {
        self.hasher.update(&self.small[..self.used]);
        self.used = 0;
    }
}

struct Digested<'d>(&'d mut Digest);

impl Flavor for Digested<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        if self.0.used == self.0.small.len() {
            self.0.flush();
        }
        self.0.small[self.0.used] = byte;
        self.0.used += 1;
        Ok(())
    }
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        if self.0.used + bytes.len() > self.0.small.len() {
            self.0.flush();
        }
        match self.0.small.get_mut(self.0.used..self.0.used + bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.0.used += bytes.len();
            }
            None => self.0.hasher.update(bytes),
        }
        Ok(())
    }
    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}
