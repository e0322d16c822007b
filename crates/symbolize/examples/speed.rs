//! Measures how long a batch takes, and with a third argument also the look-up of kernel symbols:
//!
//! ```text
//! cargo run --release -p exoprof-symbolize --example speed -- /usr/bin/node 2000
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use image::{ElfImage, Svma};
use symbolize::{ImageSymbols, RootedFiles, find_debug_file};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = PathBuf::from(args.next().ok_or("usage: speed FILE [ADDRESSES]")?).canonicalize()?;
    let count: usize = args.next().map_or(Ok(2000), |n| n.parse())?;
    let image = Arc::new(ElfImage::open(&std::fs::File::open(&path)?)?);
    let text = image.section(".text").ok_or("no .text")?;
    let step = (text.size / count.max(1) as u64).max(1);
    let addresses: Vec<Svma> =
        (0..count as u64).map(|i| Svma(text.svma.0 + (i * step) % text.size)).collect();
    let found = find_debug_file(&image, &path, &RootedFiles::new("/"));
    let symbols = ImageSymbols::new(Arc::clone(&image), &found);
    println!("before: peak {}", peak());
    for round in ["cold", "warm", "warm"] {
        let start = Instant::now();
        let batch = symbols.resolve(&addresses);
        let took = start.elapsed();
        let named = batch.symbols.iter().flatten().count();
        let frames: usize = batch.symbols.iter().flatten().map(|s| s.frames.len()).sum();
        println!(
            "{round}: {took:?}, peak {}, {named} of {count} named, {frames} frames, {:?}",
            peak(),
            batch.losses
        );
    }
    if std::env::args().nth(3).is_none() {
        return Ok(());
    }
    let start = Instant::now();
    let list = std::fs::read("/proc/kallsyms")?;
    let read = start.elapsed();
    let wanted: Vec<u64> = (0..count as u64).map(|i| 0xffff_ffff_8100_0000 + i * 4096).collect();
    let start = Instant::now();
    let names = symbolize::kernel::resolve(&list[..], &wanted)?;
    let named = names.names.iter().flatten().count();
    println!(
        "kernel: read {read:?}, resolved {:?}, {named} named, {:?}",
        start.elapsed(),
        names.names.first()
    );
    Ok(())
}

/// The greatest resident memory of this process so far.
fn peak() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.unwrap_or("?").trim().to_owned()
}
