//! Decides whether a measurement is wrong or only unlucky.
//!
//! A profile is a sample: its numbers deviate from the truth by chance, and a limit for them that is
//! both strict and never exceeded by chance does not exist for a fixed number of samples. A test
//! states instead a [`Rule`]: which systematic deviation is right, and which fault it must find.
//! Each round of measuring narrows what chance explains, until one of the two is excluded:
//!
//! ```text
//!   deviation - z0·sigma > tolerance    wrong: chance does not explain it
//!   deviation + z1·sigma < fault        right: a fault would have shown
//!   else                                another round
//! ```
//!
//! z0 and z1 are quantiles of the normal distribution for [`FALSE_ALARM`] and [`MISSED`], divided
//! among the comparisons and the rounds of a test (Bonferroni; Wald's sequential test of two simple
//! hypotheses would stop earlier, but demands that all rounds have the same distribution).

use std::collections::BTreeMap;

use crate::notes::note;

/// The probability that a test fails although the deviation is no more than its tolerance.
pub const FALSE_ALARM: f64 = 1e-5;
/// The probability that a test passes although the deviation is that of its fault; the power is
/// therefore 99.9%.
pub const MISSED: f64 = 1e-3;

/// What a test promises. All numbers are in the unit of its deviations: points for shares, 0.01 of
/// the truth for sums.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// The largest systematic deviation that is right.
    pub tolerance: f64,
    /// The smallest systematic deviation that the test must find.
    pub fault: f64,
    /// Rounds of measuring, at most. So many that they decide in any case.
    pub rounds: usize,
}

/// How far one measurement is from the truth.
#[derive(Debug, Clone, PartialEq)]
pub struct Deviation {
    /// What was measured; the rounds of a test are combined by it.
    pub what: String,
    /// Measured less true.
    pub off: f64,
    /// One standard deviation of what chance adds.
    pub sigma: f64,
}

impl Deviation {
    /// A share in points (0 to 100) of `total` independent samples. Where samples are spread evenly
    /// over the time, as those of CPU time are, chance adds less than this binomial deviation.
    #[must_use]
    pub fn share(what: &str, measured: f64, truth: f64, total: f64) -> Self {
        let p = (truth / 100.0).clamp(0.0, 1.0);
        // A share of nothing has samples by chance, too: at least the deviation of a single sample.
        let variance = f64::max(p * (1.0 - p), 1.0 / total) / total;
        Self { what: what.into(), off: measured - truth, sigma: 100.0 * variance.sqrt() }
    }

    /// A share in points of `total` samples that are spread evenly over a program that works in
    /// slices of `per_slice` samples. Only where a slice begins between two samples is random: a
    /// slice has one sample more or less (variance 1/4 at most).
    #[must_use]
    pub fn share_of_slices(
        what: &str,
        measured: f64,
        truth: f64,
        (total, per_slice): (f64, f64),
    ) -> Self {
        let binomial = Self::share(what, measured, truth, total);
        let sliced = 100.0 * (total / per_slice / 4.0).sqrt() / total;
        Self { sigma: binomial.sigma.min(sliced), ..binomial }
    }

    /// A sum as a share of the truth; `sigma` is relative, too: `(1.0 / samples).sqrt()` for
    /// independent samples of equal weight.
    #[must_use]
    pub fn ratio(what: &str, measured: f64, truth: f64, sigma: f64) -> Self {
        Self { what: what.into(), off: measured / truth - 1.0, sigma }
    }

    /// A sum of which the truth is only known to lie between two numbers: how far it is outside, as a
    /// share of the nearer one.
    #[must_use]
    pub fn between(what: &str, measured: f64, (least, most): (f64, f64), sigma: f64) -> Self {
        let off = measured / measured.clamp(least, most) - 1.0;
        Self { what: what.into(), off, sigma }
    }
}

/// What the rounds so far say.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// No comparison has a fault.
    Right,
    /// These deviate more than chance explains.
    Wrong(String),
    /// Either is possible for these.
    Open(String),
}

/// The combined rounds of one comparison, weighted by their precision.
#[derive(Debug, Clone, Copy, Default)]
struct Combined {
    /// Sum of 1/sigma².
    precision: f64,
    /// Sum of off/sigma².
    weighted: f64,
}

/// What a test has measured so far.
#[derive(Debug)]
pub struct Trial {
    rule: Rule,
    combined: BTreeMap<String, Combined>,
}

impl Trial {
    /// Nothing measured yet.
    #[must_use]
    pub const fn new(rule: Rule) -> Self {
        Self { rule, combined: BTreeMap::new() }
    }

    /// Adds a round.
    ///
    /// # Panics
    /// When a number is not finite: there were no samples.
    pub fn add(&mut self, deviations: Vec<Deviation>) {
        for Deviation { what, off, sigma } in deviations {
            assert!(off.is_finite() && sigma.is_finite(), "{what}: no samples");
            // What is exact still has the error of its last digit.
            let precision = sigma.max(1e-6 * self.rule.fault).powi(-2);
            let combined = self.combined.entry(what).or_default();
            combined.precision += precision;
            combined.weighted += precision * off;
        }
    }

    /// What all rounds together say.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let Rule { tolerance, fault, rounds } = self.rule;
        let tests = (rounds * self.combined.len()) as f64;
        // Either sign of the deviation counts.
        let (z0, z1) = (quantile(FALSE_ALARM / tests / 2.0), quantile(MISSED / tests));
        let (mut wrong, mut open) = (Vec::new(), Vec::new());
        for (what, combined) in &self.combined {
            let (off, sigma) =
                (combined.weighted / combined.precision, combined.precision.sqrt().recip());
            let text =
                format!("{what}: off by {off:.4}, of which chance explains {:.4}", z0 * sigma);
            if off.abs() - z0 * sigma > tolerance {
                wrong.push(text);
            } else if off.abs() + z1 * sigma >= fault {
                open.push(text);
            }
        }
        if !wrong.is_empty() {
            Verdict::Wrong(wrong.join("\n"))
        } else if open.is_empty() {
            Verdict::Right
        } else {
            Verdict::Open(open.join("\n"))
        }
    }
}

impl Rule {
    /// Measures in rounds until it is decided. Returns what the last round returned beside its
    /// deviations.
    ///
    /// # Panics
    /// When a deviation is wrong, or all rounds together cannot decide: then the test has too few.
    #[track_caller]
    pub fn check<T>(self, mut round: impl FnMut() -> (Vec<Deviation>, T)) -> T {
        let Self { tolerance, fault, rounds } = self;
        let mut trial = Trial::new(self);
        for done in 1.. {
            let (deviations, result) = round();
            trial.add(deviations);
            match trial.verdict() {
                Verdict::Right => return result,
                Verdict::Wrong(what) => {
                    panic!("wrong in round {done}, tolerance {tolerance}:\n{what}");
                }
                Verdict::Open(what) if done < rounds => {
                    note(&format!("undecided after round {done} of {rounds}: {what}"));
                }
                Verdict::Open(what) => panic!(
                    "undecided after all {done} rounds, tolerance {tolerance}, fault {fault}:\n{what}"
                ),
            }
        }
        unreachable!("the last round decides or fails")
    }
}

/// The z of which a normal variable is above with this probability (below 1/2), by bisection.
fn quantile(probability: f64) -> f64 {
    let (mut low, mut high) = (0.0, 40.0);
    for _ in 0..100 {
        let z = (low + high) / 2.0;
        let above = libm::erfc(z / std::f64::consts::SQRT_2) / 2.0;
        if above > probability { low = z } else { high = z }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule { tolerance: 1.0, fault: 3.0, rounds: 16 };

    /// Deterministic normal variables: the sum of twelve uniform ones, less its mean.
    struct Normal(u64);

    impl Normal {
        fn next(&mut self) -> f64 {
            let uniform = || {
                self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (self.0 >> 11) as f64 / (1u64 << 53) as f64
            };
            std::iter::repeat_with(uniform).take(12).sum::<f64>() - 6.0
        }
    }

    /// Runs `times` tests of a measurement with this systematic deviation; returns how many were
    /// right, wrong and undecided, and the rounds of all.
    fn simulate(bias: f64, sigma: f64, times: usize) -> ([usize; 3], usize) {
        let (mut normal, mut counts, mut rounds) = (Normal(7), [0; 3], 0);
        for _ in 0..times {
            let mut trial = Trial::new(RULE);
            let mut last = 2;
            for _ in 0..RULE.rounds {
                rounds += 1;
                let off = bias + sigma * normal.next();
                trial.add(vec![Deviation { what: "x".into(), off, sigma }]);
                last = match trial.verdict() {
                    Verdict::Right => 0,
                    Verdict::Wrong(_) => 1,
                    Verdict::Open(_) => continue,
                };
                break;
            }
            counts[last] += 1;
        }
        (counts, rounds)
    }

    #[test]
    fn quantiles() {
        for (probability, z) in
            [(0.5, 0.0), (0.025, 1.959_964), (1e-5, 4.264_891), (1e-9, 5.997_807)]
        {
            assert!((quantile(probability) - z).abs() < 1e-5, "{probability}");
        }
    }

    #[test]
    fn a_right_measurement_never_fails() {
        // A false alarm is expected in 1 of 100,000 tests at the tolerance itself.
        for bias in [0.0, 0.5, -1.0, 1.0] {
            let ([_, wrong, open], _) = simulate(bias, 0.7, 20_000);
            assert!(wrong <= 2 && open == 0, "{bias}: {wrong} wrong, {open} undecided");
        }
    }

    #[test]
    fn a_fault_is_found() {
        for bias in [3.0, -3.0, 4.0, 10.0] {
            let ([right, _, open], _) = simulate(bias, 0.7, 20_000);
            assert!(right <= 20 && open == 0, "{bias}: {right} passed, {open} undecided");
        }
    }

    #[test]
    fn what_is_clear_takes_one_round() {
        for bias in [0.0, 5.0] {
            let (_, rounds) = simulate(bias, 0.3, 1000);
            assert!(rounds < 1010, "{bias}: {rounds} rounds of 1000 tests");
        }
    }

    #[test]
    fn rounds_are_combined_by_precision() {
        let mut trial = Trial::new(Rule { tolerance: 0.1, fault: 1.0, rounds: 2 });
        trial.add(vec![Deviation { what: "x".into(), off: 9.0, sigma: 100.0 }]);
        assert!(matches!(trial.verdict(), Verdict::Open(_)));
        trial.add(vec![Deviation { what: "x".into(), off: 0.05, sigma: 0.1 }]);
        assert_eq!(trial.verdict(), Verdict::Right);
    }

    /// One of several comparisons is enough, and all must be decided.
    #[test]
    fn each_comparison_counts() {
        let of = |what: &str, off| Deviation { what: what.into(), off, sigma: 0.01 };
        let mut trial = Trial::new(RULE);
        trial.add(vec![of("good", 0.0), of("bad", 4.0)]);
        assert!(matches!(trial.verdict(), Verdict::Wrong(what) if what.starts_with("bad: ")));
        let mut trial = Trial::new(RULE);
        trial.add(vec![of("good", 0.0), Deviation { sigma: 9.0, ..of("vague", 0.0) }]);
        assert!(matches!(trial.verdict(), Verdict::Open(what) if what.starts_with("vague: ")));
    }

    /// What deviates exactly, as without samples of chance, is decided at the tolerance.
    #[test]
    #[should_panic(expected = "wrong in round 1")]
    fn without_chance_the_tolerance_decides() {
        RULE.check(|| (vec![Deviation { what: "x".into(), off: 1.1, sigma: 0.0 }], ()));
    }

    #[test]
    #[should_panic(expected = "undecided after all 1 rounds")]
    fn too_few_rounds_are_a_fault_of_the_test() {
        Rule { rounds: 1, ..RULE }
            .check(|| (vec![Deviation { what: "x".into(), off: 0.0, sigma: 100.0 }], ()));
    }

    #[test]
    fn a_truth_with_two_bounds() {
        let off = |measured| Deviation::between("x", measured, (100.0, 200.0), 0.0).off;
        assert_eq!([100.0, 150.0, 200.0].map(off), [0.0; 3]);
        assert_eq!([90.0, 220.0].map(|m| (off(m) * 100.0).round()), [-10.0, 10.0]);
        assert!(off(f64::NAN).is_nan(), "no samples are no deviation of 0");
    }

    #[test]
    fn chance_of_shares() {
        let half = Deviation::share("x", 51.0, 50.0, 2500.0);
        assert!((half.sigma - 1.0).abs() < 1e-9 && (half.off - 1.0).abs() < 1e-9);
        // 3000 samples in slices of 4: 750 slices of one sample more or less.
        let sliced = Deviation::share_of_slices("x", 50.0, 50.0, (3000.0, 4.0));
        assert!((sliced.sigma - 0.456).abs() < 0.001, "{}", sliced.sigma);
        assert!(Deviation::share("x", 0.0, 0.0, 100.0).sigma > 0.5);
    }
}
