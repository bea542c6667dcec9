//! Bytes that a fuzzer or a property test chose, taken from the front as numbers.

/// What is left of them. When nothing is left every number is 0.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl Input<'_> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub fn half(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub fn word(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// Below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::from(self.byte()) % limit
    }

    /// Where positions begin: at 0, and a little before 32 and 64 bits end. Position `u64::MAX`
    /// itself is out of reach of any session, as its publish word would be 0.
    pub fn start(&mut self) -> u64 {
        let choice = self.byte();
        let line = u64::from(choice >> 2);
        match choice & 3 {
            0 => line,
            1 => (1 << 32) - 40 + line,
            2 => (1 << 63) - 40 + line,
            // No input is long enough to use up 2^17 lines.
            _ => u64::MAX - (1 << 17) + line,
        }
    }

    /// A number near what matters: small, one of `marks` or next to it, or any.
    pub fn near(&mut self, marks: &[u64]) -> u64 {
        let choice = self.byte();
        let near = u64::from(choice >> 5).wrapping_sub(3);
        match usize::from(choice & 31) {
            at if at < marks.len() => marks[at].wrapping_add(near),
            31 => self.word(),
            30 => u64::MAX.wrapping_sub(u64::from(self.byte())),
            29 => u64::from(self.half()) << 16,
            small => small as u64,
        }
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let taken = N.min(self.0.len());
        out[..taken].copy_from_slice(&self.0[..taken]);
        self.0 = &self.0[taken..];
        out
    }
}
