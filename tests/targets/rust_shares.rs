// For tests of shares and names of Rust code, with v0 and with legacy mangling: three functions
// take about 1/3 each of the CPU time; one is generic (two instances), one a trait method of a
// generic type. Names must be demangled and complete, including `<…>`.
use std::hint::black_box;

include!("truth.rs");

#[inline(never)]
fn generic_mix<T: Into<u64> + Copy, const K: u64>(seed: T, n: u64) -> u64 {
    let mut x: u64 = seed.into();
    for _ in 0..n {
        x = (x ^ (x >> 7)).wrapping_mul(6364136223846793005 + K);
    }
    x
}

trait Work {
    fn work(&self, n: u64) -> u64;
}

struct Holder<T>(T);

impl<T: Into<u64> + Copy> Work for Holder<T> {
    #[inline(never)]
    fn work(&self, n: u64) -> u64 {
        let mut x: u64 = self.0.into();
        for i in 0..n {
            x = x.wrapping_mul(3935559000370003845).rotate_left(5) ^ i;
        }
        x
    }
}

fn slice(index: usize) {
    const N: u64 = 1_500_000;
    match index {
        0 => black_box(generic_mix::<u32, 2>(black_box(7), N)),
        1 => black_box(generic_mix::<u8, 4>(black_box(9), N)),
        _ => black_box(black_box(Holder(3u16)).work(N)),
    };
}

fn main() {
    truth_run(&["generic_u32", "generic_u8", "holder"], slice);
}
