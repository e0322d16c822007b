use std::collections::HashMap;
use std::hint::black_box;

trait Step {
    fn step(&self, x: u64) -> u64;
}

struct Add<T>(T);

impl Step for Add<u64> {
    #[inline(never)]
    fn step(&self, x: u64) -> u64 {
        inner(x) + self.0
    }
}

#[inline(always)]
fn inner(x: u64) -> u64 {
    innermost(x).rotate_left(3) ^ innermost(x + 1)
}

#[inline(always)]
fn innermost(x: u64) -> u64 {
    black_box(x).wrapping_mul(31)
}

#[inline(never)]
fn generic<T: Step + ?Sized>(s: &T, n: u64) -> u64 {
    (0..n).map(|i| s.step(i)).filter(|x| x % 3 != 0).fold(0, |a, b| a ^ b)
}

fn main() {
    let mut m = HashMap::new();
    for i in 0..black_box(10u64) {
        *m.entry(i % 3).or_insert(0u64) += generic(&Add(i), 10) + generic::<dyn Step>(&Add(i), 3);
    }
    println!("{}", m.len());
}
