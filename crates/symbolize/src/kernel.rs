//! Symbolizes kernel addresses using `/proc/kallsyms`.
//!
//! The list is read once, line by line, and not kept: it is only sorted within the kernel and
//! within each module, and has 120,000 lines. The kernel formats each line for every reader, which
//! takes longer than parsing it. So if all addresses are in the kernel's own text, reading ends
//! after the last of them.

use std::io::{self, BufRead};
use std::sync::Arc;

/// Limit of the length of a line, in bytes; `KSYM_NAME_LEN` is 512.
const MAX_LINE: usize = 2048;
/// Limit of the size of a function, in bytes. kallsyms has no sizes, and after the last symbol of a
/// module or of the kernel's text comes something else.
const MAX_FUNCTION: u64 = 1 << 20;
/// The name of the kernel's own text as a mapping, as perf and pprof write it.
pub const KERNEL: &str = "[kernel.kallsyms]";

/// A function of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelSymbol {
    /// Its name.
    pub name: Arc<str>,
    /// `[kernel.kallsyms]`, or the module in brackets: `[ext4]`, `[bpf]`.
    pub module: Arc<str>,
    /// Its start address.
    pub start: u64,
    /// Its end address: the start of the next symbol, or the largest size of a function.
    pub end: u64,
}

/// Why a kernel address has no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NoKernelSymbol {
    /// All addresses in the list are zero: `kernel.kptr_restrict` hides them from processes without
    /// CAP_SYSLOG.
    #[error("kernel addresses are hidden (kernel.kptr_restrict)")]
    KptrRestricted,
    /// The list is empty.
    #[error("no kernel symbols")]
    NoSymbols,
    /// No function contains the address.
    #[error("no kernel function covers the address")]
    NotCovered,
}

/// The result of [`resolve`].
#[derive(Debug)]
pub struct KernelNames {
    /// One result for each address, in the order of the addresses.
    pub names: Vec<Result<KernelSymbol, NoKernelSymbol>>,
    /// The address of `_stext`, the start of the kernel's text.
    pub stext: Option<u64>,
    /// The address of `_etext`, its end; `None` if reading ended before it.
    pub etext: Option<u64>,
    /// The number of malformed lines.
    pub malformed: u64,
}

/// The last symbol that starts between two adjacent addresses.
#[derive(Debug, Clone, Default)]
struct Nearest {
    start: u64,
    found: bool,
    /// Empty for a symbol that is not code.
    name: Vec<u8>,
    module: Vec<u8>,
    global: bool,
}

/// Finds the function of each address: the last one that starts at or before it. `kallsyms` has the
/// format of `/proc/kallsyms`.
///
/// # Errors
/// The error of reading the list.
pub fn resolve(kallsyms: impl BufRead, addresses: &[u64]) -> io::Result<KernelNames> {
    let mut sorted = addresses.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let mut pass = KallsymsPass {
        nearest: vec![Nearest::default(); sorted.len()],
        next: vec![u64::MAX; sorted.len()],
        sorted,
        stext: None,
        etext: None,
        malformed: 0,
        symbols: false,
        visible: false,
        last: Some(0),
    };
    pass.read(kallsyms)?;
    Ok(pass.finish(addresses))
}

struct KallsymsPass {
    sorted: Vec<u64>,
    nearest: Vec<Nearest>,
    /// The first symbol after each address and before the next address.
    next: Vec<u64>,
    stext: Option<u64>,
    etext: Option<u64>,
    malformed: u64,
    symbols: bool,
    visible: bool,
    /// The last address of the kernel itself; `None` if the addresses were out of order.
    last: Option<u64>,
}

impl KallsymsPass {
    /// Lines are parsed in the buffer; the kernel ends each read with a whole line.
    fn read(&mut self, mut input: impl BufRead) -> io::Result<()> {
        // The start of a line whose end is not in the buffer.
        let mut begun = Vec::new();
        loop {
            let mut rest = match input.fill_buf() {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            let length = rest.len();
            if length == 0 {
                self.line(&begun);
                return Ok(());
            }
            while let Some(end) = memchr::memchr(b'\n', rest) {
                let (line, behind) = (&rest[..end], &rest[end + 1..]);
                rest = behind;
                let complete = if begun.is_empty() {
                    self.line(line)
                } else {
                    begun.extend_from_slice(line);
                    let complete = self.line(&begun);
                    begun.clear();
                    complete
                };
                if complete {
                    return Ok(());
                }
            }
            begun.extend_from_slice(rest);
            input.consume(length);
            if begun.len() > MAX_LINE {
                self.line(&begun);
                begun.clear();
            }
        }
    }

    /// Takes in a line. Returns whether no more lines are needed.
    fn line(&mut self, line: &[u8]) -> bool {
        if line.is_empty() {
            return false;
        }
        match parse(line) {
            Some(parsed) if line.len() <= MAX_LINE => {
                self.add(&parsed);
                self.is_complete(&parsed)
            }
            _ => {
                self.malformed += 1;
                false
            }
        }
    }

    /// Whether no later line can be nearer to any of the addresses: the kernel's own symbols are
    /// sorted, and its text is contiguous, without modules in it.
    fn is_complete(&mut self, line: &KallsymsLine<'_>) -> bool {
        let in_order = line.module.is_empty() && self.last.is_some_and(|last| last <= line.address);
        self.last = in_order.then_some(line.address);
        let (Some(stext), true) = (self.stext, in_order) else { return false };
        let (first, last) = (self.sorted.first(), self.sorted.last());
        // Strictly after the last address, since aliases may follow.
        first.is_some_and(|&a| a >= stext) && last.is_some_and(|&a| a < line.address)
    }

    fn add(&mut self, line: &KallsymsLine<'_>) {
        self.symbols = true;
        if line.address == 0 {
            return;
        }
        self.visible |= line.kind != b'a' && line.kind != b'A';
        match line.name {
            b"_stext" => self.stext = Some(line.address),
            b"_etext" => self.etext = Some(line.address),
            _ => {}
        }
        let code = match line.kind {
            // These mark the end of code.
            _ if matches!(line.name, b"_etext" | b"_einittext") => false,
            b't' | b'T' | b'w' | b'W' | b'i' => true,
            // Absolute symbols are numbers; debugging symbols mark no memory.
            b'a' | b'A' | b'n' | b'N' | b'u' | b'U' => return,
            _ => false,
        };
        let i = self.sorted.partition_point(|&a| a < line.address);
        if let Some(next) = i.checked_sub(1).and_then(|i| self.next.get_mut(i)) {
            *next = line.address.min(*next);
        }
        let Some(near) = self.nearest.get_mut(i) else { return };
        let better = match (near.found, line.address.cmp(&near.start)) {
            (false, _) | (_, std::cmp::Ordering::Greater) => true,
            (_, std::cmp::Ordering::Less) => false,
            (_, std::cmp::Ordering::Equal) => {
                code && (near.name.is_empty() || rank(line.name, line.is_global()) < near.rank())
            }
        };
        if better {
            (near.start, near.found, near.global) = (line.address, true, line.is_global());
            near.name.clear();
            near.module.clear();
            if code {
                near.name.extend_from_slice(line.name);
                near.module.extend_from_slice(line.module);
            }
        }
    }

    fn finish(self, addresses: &[u64]) -> KernelNames {
        let Self { sorted, nearest, mut next, stext, etext, malformed, symbols, visible, .. } =
            self;
        for i in (1..next.len()).rev() {
            next[i - 1] = next[i].min(next[i - 1]);
        }
        let kernel: Arc<str> = KERNEL.into();
        let mut last: Option<Nearest> = None;
        let mut shared: Option<(u64, KernelSymbol)> = None;
        let mut found = Vec::with_capacity(sorted.len());
        for ((&address, near), next) in sorted.iter().zip(nearest).zip(next) {
            if near.found {
                last = Some(near);
            }
            let near = last.as_ref().filter(|n| !n.name.is_empty());
            let near = near.filter(|n| address - n.start < MAX_FUNCTION);
            // What follows the kernel's text is not a function of it.
            let ends = |n: &&Nearest| {
                etext.is_none_or(|e| !(n.module.is_empty() && n.start < e && address >= e))
            };
            let Some(near) = near.filter(ends) else {
                found.push(Err(match (symbols, visible) {
                    (false, _) => NoKernelSymbol::NoSymbols,
                    (true, false) => NoKernelSymbol::KptrRestricted,
                    (true, true) => NoKernelSymbol::NotCovered,
                }));
                continue;
            };
            let symbol = match &shared {
                Some((start, symbol)) if *start == near.start => symbol.clone(),
                _ => KernelSymbol {
                    name: String::from_utf8_lossy(&near.name).into(),
                    module: if near.module.is_empty() {
                        Arc::clone(&kernel)
                    } else {
                        String::from_utf8_lossy(&near.module).into()
                    },
                    start: near.start,
                    end: next.min(near.start.saturating_add(MAX_FUNCTION)),
                },
            };
            shared = Some((near.start, symbol.clone()));
            found.push(Ok(symbol));
        }
        let of = |a: &u64| match sorted.binary_search(a) {
            Ok(i) => found[i].clone(),
            Err(_) => Err(NoKernelSymbol::NotCovered),
        };
        let names = addresses.iter().map(of).collect();
        KernelNames { names, stext, etext, malformed }
    }
}

impl Nearest {
    fn rank(&self) -> (bool, bool, usize, usize, &[u8]) {
        rank(&self.name, self.global)
    }
}

/// Ranks names of the same address: the lowest one is used.
fn rank(name: &[u8], global: bool) -> (bool, bool, usize, usize, &[u8]) {
    let mark = matches!(name, b"_text" | b"_stext" | b"_sinittext");
    let underscores = name.iter().take_while(|&&c| c == b'_').count();
    (mark, !global, underscores, name.len(), name)
}

struct KallsymsLine<'a> {
    address: u64,
    kind: u8,
    name: &'a [u8],
    /// In brackets; empty for the kernel itself.
    module: &'a [u8],
}

impl KallsymsLine<'_> {
    fn is_global(&self) -> bool {
        self.kind.is_ascii_uppercase()
    }
}

/// `ffffffff81000000 T _stext` or `ffffffffc0000000 t init\t[ext4]` (kernel/kallsyms.c, s_show).
fn parse(line: &[u8]) -> Option<KallsymsLine<'_>> {
    let (digits, rest) = line.split_first_chunk::<16>()?;
    let (mut address, mut wrong) = (0u64, false);
    for &c in digits {
        wrong |= !matches!(c, b'0'..=b'9' | b'a'..=b'f');
        // Bit 6 is set in letters, whose low four bits are the value minus 9.
        address = address << 4 | u64::from((c & 15) + 9 * (c >> 6 & 1));
    }
    let [b' ', kind, b' ', rest @ ..] = rest else { return None };
    let end = memchr::memchr(b'\t', rest).unwrap_or(rest.len());
    let (name, module) = rest.split_at(end);
    let module = module.strip_prefix(b"\t").unwrap_or(module);
    if wrong || name.is_empty() || !kind.is_ascii_alphabetic() {
        return None;
    }
    Some(KallsymsLine { address, kind: *kind, name, module })
}
