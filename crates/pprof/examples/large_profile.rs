//! Writes a large random profile for benchmarks of readers: 500,000 samples of 10 to 60 frames
//! out of 60,000 locations and 20,000 functions. 56 MB uncompressed.
//!
//! `cargo run --release -p exoprof-pprof --example large_profile -- OUT.pb`

use std::io::{BufWriter, Write as _};

use pprof::{FunctionSpec, Label, Line, LocationIndex, MappingSpec, ProfileBuilder, ValueType};

const SAMPLES: usize = 500_000;
const LOCATIONS: u64 = 60_000;
const FUNCTIONS: u64 = 20_000;

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % limit
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = std::env::args_os().nth(1).ok_or("usage: large_profile OUT.pb")?;
    let types = [("samples", "count"), ("cpu", "nanoseconds")];
    let types = types.map(|(kind, unit)| ValueType::new(kind, unit));
    let mut b = ProfileBuilder::new(types.to_vec());
    b.set_period(ValueType::new("cpu", "nanoseconds"), 10_000_000);
    let (start, limit) = (0x40_0000, 0x40_0000 + (LOCATIONS << 4));
    let mapping =
        b.mapping(MappingSpec { start, limit, file: "/bin/large", ..Default::default() })?;
    let mut functions = Vec::new();
    for n in 0..FUNCTIONS {
        let name = format!("package{}.function{n}", n % 100);
        let filename = format!("/src/package{}/file{}.go", n % 100, n % 1000);
        let spec =
            FunctionSpec { name: &name, system_name: &name, filename: &filename, start_line: 1 };
        functions.push(b.function(spec)?);
    }
    let mut chance = Random(1);
    let mut locations = Vec::new();
    for n in 0..LOCATIONS {
        let function = functions[chance.below(FUNCTIONS) as usize];
        let line = Line::new(function, chance.below(1000) as i64 + 1);
        locations.push(b.location(mapping, start + (n << 4), &[line])?);
    }
    for _ in 0..SAMPLES {
        let depth = 10 + chance.below(51);
        let stack: Vec<LocationIndex> =
            (0..depth).map(|_| locations[chance.below(LOCATIONS) as usize]).collect();
        let thread = format!("worker {}", chance.below(8));
        b.add_sample(&stack, &[1, 10_000_000], &[Label::text("thread", thread)])?;
    }
    let mut file = BufWriter::new(std::fs::File::create(out)?);
    file.write_all(&pprof::encode(&b.finish()))?;
    file.flush()?;
    Ok(())
}
