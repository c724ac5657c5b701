//! Pseudorandom numbers that differ between hosts and are the same in each simulation.

/// xorshift64*.
pub struct Chance(u64);

impl Chance {
    /// The generator of one host.
    pub fn of(host: usize) -> Self {
        Self((host as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Returns a number from 0 to `most`.
    pub fn up_to(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % (most + 1)
    }
}
