//! Mutates fuzzing inputs.

/// Pseudo-random numbers by xorshift64*: equal seeds give equal sequences.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `n`; 0 if `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((self.next() >> 16) % n.max(1) as u64) as usize
    }
}

/// Numbers that often break parsers.
pub const NUMBERS: &[u64] = &[
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fff0,
    0xffff_ffff,
    1 << 40,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 8,
    u64::MAX,
];

/// Makes a valid input from another one; `None` where that has no use.
pub type Remake = fn(&mut Random, &[u8]) -> Option<Vec<u8>>;

/// Makes new inputs from existing ones.
pub struct Mutator {
    random: Random,
}

impl Mutator {
    pub fn new(random: Random) -> Self {
        Self { random }
    }

    /// The next input: bytes of the queue with changes, or what `remake` makes of them.
    pub fn next(&mut self, queue: &[Vec<u8>], max_len: usize, remake: Option<Remake>) -> Vec<u8> {
        let mut input = queue[self.random.below(queue.len())].clone();
        if let Some(remake) = remake
            && self.random.below(5) > 0
            && let Some(made) = remake(&mut self.random, &input)
            && made.len() <= max_len
        {
            return made;
        }
        let other = &queue[self.random.below(queue.len())];
        // Mostly one or two changes: parsers reject inputs with many changes early.
        for _ in 0..=self.random.below(4) * self.random.below(4) {
            self.change(&mut input, other);
        }
        input.truncate(max_len);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        let r = &mut self.random;
        if input.is_empty() {
            input.extend_from_slice(&r.next().to_le_bytes());
        }
        let at = r.below(input.len());
        match r.below(10) {
            0 => input[at] ^= 1 << r.below(8),
            1 => input[at] = r.next() as u8,
            2 => input[at] = input[at].wrapping_add(1).wrapping_sub(2 * (r.below(2) as u8)),
            3 | 4 => {
                let width = 1 << r.below(4);
                let number = NUMBERS[r.below(NUMBERS.len())].to_le_bytes();
                let end = (at + width).min(input.len());
                input[at..end].copy_from_slice(&number[..end - at]);
            }
            5 => {
                let (from, len) = span(r, input.len(), 256);
                let part = input[from..from + len].to_vec();
                let end = (at + len).min(input.len());
                input[at..end].copy_from_slice(&part[..end - at]);
            }
            6 => {
                let (from, len) = span(r, input.len(), 64);
                input.drain(from..from + len);
            }
            7 => {
                let (from, len) = span(r, other.len(), 64);
                input.splice(at..at, other[from..from + len].iter().copied());
            }
            8 => {
                let (from, len) = span(r, other.len(), 1024);
                let end = (at + len).min(input.len());
                input[at..end].copy_from_slice(&other[from..from + (end - at)]);
            }
            _ if r.below(8) == 0 => input.truncate(at),
            _ => {
                let fill = [0, 0xff, r.next() as u8][r.below(3)];
                let end = (at + 1 + r.below(16)).min(input.len());
                input[at..end].fill(fill);
            }
        }
    }
}

/// A random position and a length of at most `most` that fit into `len`.
fn span(r: &mut Random, len: usize, most: usize) -> (usize, usize) {
    let from = r.below(len);
    (from, (1 + r.below(most)).min(len - from))
}
