//! Reads the bytes of code next to an address of an image.

use image::{ElfImage, Svma};

/// The code before an address: `most` bytes, or fewer near the start of its segment.
pub(crate) fn code_before(image: &ElfImage, pc: Svma, most: u32) -> &[u8] {
    let of = |n: u32| image.bytes_at(Svma(pc.0.checked_sub(n.into())?))?.get(..n as usize);
    let (mut best, mut too_much) = match of(most) {
        Some(code) => return code,
        None => (&[][..], most),
    };
    while let n @ 1.. = (too_much - best.len() as u32) / 2 {
        let n = best.len() as u32 + n;
        match of(n) {
            Some(code) => best = code,
            None => too_much = n,
        }
    }
    best
}

/// The code before an address and from it on, up to 16 bytes each.
pub(crate) fn code_around(image: &ElfImage, pc: Svma) -> (&[u8], &[u8]) {
    let at = image.bytes_at(pc).unwrap_or_default();
    // Fewer bytes if the address is near the start of its segment.
    let before = (1..=16)
        .rev()
        .find_map(|n| image.bytes_at(Svma(pc.0.checked_sub(n)?))?.get(..usize::try_from(n).ok()?));
    (before.unwrap_or_default(), &at[..at.len().min(16)])
}
