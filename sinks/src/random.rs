//! Reproducible randomness for jitter and for faults: SplitMix64, the same run for the same seed. Never for secrets.

/// A seeded sequence.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// Starts the sequence of a seed.
    pub(crate) const fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// Starts a sequence that differs in every process.
    pub(crate) fn from_entropy() -> Self {
        Self(uuid::Uuid::new_v4().as_u64_pair().0)
    }

    /// The next 64 bits.
    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 up to, not including, `end`; 0 where `end` is 0.
    pub(crate) const fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.next() % end }
    }

    /// True with the given probability, from 0.0 to 1.0.
    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        // 2^53 steps, what an f64 holds exactly.
        #[allow(clippy::cast_precision_loss, reason = "below 2^53 nothing is lost")]
        let unit = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        unit < probability
    }
}
