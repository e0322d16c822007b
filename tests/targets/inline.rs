// For tests of inlined frames of Rust: two functions, one of them generic, and a method inlined
// into `hot`. The marks are explained in inline.c.
use std::hint::black_box;

include!("truth.rs");

struct Mixer {
    state: u64,
}

impl Mixer {
    #[inline(always)]
    fn step(&mut self, by: u64) { // @begin step
        self.state = (self.state ^ (self.state >> 7)).wrapping_mul(by);
    } // @end step
}

#[inline(always)]
fn many<T: Into<u64>>(mixer: &mut Mixer, by: T, n: u64) { // @begin many
    let by = by.into();
    let mut left = n;
    while left > 0 {
        mixer.step(by); // @call step
        left -= 1;
    }
} // @end many

#[inline(always)]
fn run(seed: u64, n: u64) -> u64 { // @begin run
    let mut mixer = Mixer { state: seed };
    many(&mut mixer, 2_862_933_555u32, n); // @call many
    mixer.state
} // @end run

#[inline(never)]
fn hot(n: u64) { // @begin hot
    let seed = black_box(n);
    let x = run(seed, n); // @call run
    black_box(x);
} // @end hot

#[inline(never)]
fn slice(_index: usize) { // @begin slice
    hot(black_box(1_500_000)); // @call hot
    black_box(());
} // @end slice

fn main() {
    truth_run(&["hot"], slice);
}
