//! Finds the addresses of runtime variables in the code that uses them (x86-64 only).
//!
//! Optimized Go code accesses package variables with RIP-relative operands. In a few small
//! functions it is clear which operand is which variable: verified on Go 1.21 to 1.27, plain, PIE,
//! cgo, GOAMD64=v3 and race builds. Unoptimized code differs, which the witnesses detect: other
//! functions that must refer to the same address.
//!
//! On arm64 the symbol table is the only source so far. So nothing is written there, and the state
//! of stripped programs cannot be found.

use gopclntab::LineTable;
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use image::{Arch, ElfImage, Svma};

use crate::{Source, Variable};

/// Bytes of a function that are decoded, more than any of them has (`selectgo` has 5 KiB).
const MAX_CODE: usize = 64 << 10;
/// `stkbucket` loads one of three addresses into a register, in the branches of one `if`: the code
/// from the first to the third is shorter than this many bytes.
const MAX_BRANCHES_SIZE: u64 = 64;

/// An instruction's RIP-relative reference to memory.
#[derive(Debug, Clone, Copy)]
struct Reference {
    at: u64,
    to: Svma,
    kind: Kind,
    /// The destination register of [`Kind::Address`].
    register: Register,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The address is loaded (`lea`).
    Address,
    /// This many bytes are read or written.
    Access(usize),
}

/// What a function's code says about the address of a variable. `None` for a witness that should
/// refer to the address but does not.
pub(crate) struct Claim {
    pub variable: Variable,
    pub source: Source,
    pub address: Option<Svma>,
}

/// Decodes known functions and identifies the variables that they refer to.
pub(crate) struct CodeReader<'a> {
    image: &'a ElfImage,
    table: &'a LineTable,
    functions: Vec<(&'static str, Vec<Reference>)>,
}

/// All functions that are decoded.
const FUNCTIONS: [&str; 18] = [
    "runtime.stkbucket",
    "runtime.mProf_FlushLocked",
    "runtime.mProf_Malloc",
    "runtime.mProf_Free",
    "runtime.allocmcache",
    "runtime.profilealloc",
    "runtime.blockevent",
    "runtime.chansend",
    "runtime.chanrecv",
    "runtime.semacquire1",
    "runtime.mutexevent",
    "sync.event",
    "runtime.allgadd",
    "runtime.mcommoninit",
    "runtime.preemptall",
    "runtime.procresize",
    "runtime.waitReason.String",
    "runtime.mProf_Flush",
];

impl<'a> CodeReader<'a> {
    pub(crate) fn new(image: &'a ElfImage, table: &'a LineTable) -> Self {
        let mut reader = Self { image, table, functions: Vec::new() };
        if image.arch() == Arch::X86_64 {
            // One pass over the line table finds all functions.
            for f in reader.table.functions() {
                let name = f.name();
                if let Some(known) = FUNCTIONS.iter().find(|known| **known == name) {
                    let references = reader.references(f.entry(), f.end());
                    reader.functions.push((known, references));
                }
            }
        }
        reader
    }

    fn references(&self, start: Svma, end: Svma) -> Vec<Reference> {
        let size = usize::try_from(end.0.saturating_sub(start.0)).unwrap_or(0).min(MAX_CODE);
        let Some(code) = self.image.bytes_at(start).and_then(|c| c.get(..size)) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        let mut instruction = Instruction::default();
        let mut decoder = Decoder::with_ip(64, code, start.0, DecoderOptions::NONE);
        while decoder.can_decode() {
            decoder.decode_out(&mut instruction);
            let memory =
                (0..instruction.op_count()).any(|i| instruction.op_kind(i) == OpKind::Memory);
            if !memory || !instruction.is_ip_rel_memory_operand() {
                continue;
            }
            let kind = match instruction.mnemonic() {
                Mnemonic::Lea => Kind::Address,
                _ => Kind::Access(instruction.memory_size().size()),
            };
            let to = Svma(instruction.ip_rel_memory_address());
            let register = instruction.op0_register();
            found.push(Reference { at: instruction.ip(), to, kind, register });
        }
        found
    }

    fn of(&self, function: &str) -> &[Reference] {
        self.functions.iter().find(|(name, _)| *name == function).map_or(&[], |(_, r)| r)
    }

    /// References to writable data, in the order of the code.
    fn data<'r>(&'r self, function: &str) -> impl Iterator<Item = &'r Reference> {
        self.of(function).iter().filter(|r| self.is_data(r.to))
    }

    fn is_data(&self, address: Svma) -> bool {
        self.image
            .segments()
            .iter()
            .any(|s| s.writable && address >= s.svma && address.0 - s.svma.0 < s.memory_size)
    }

    fn first(&self, function: &str, kind: Kind) -> Option<Svma> {
        self.data(function).find(|r| r.kind == kind).map(|r| r.to)
    }

    fn refers(&self, function: &str, to: Svma) -> bool {
        self.data(function).any(|r| r.to == to)
    }

    /// The claims of all functions.
    pub(crate) fn claims(&self) -> Vec<Claim> {
        let mut claims = Vec::new();
        self.rates(&mut claims);
        self.buckets(&mut claims);
        self.scheduler(&mut claims);
        claims
    }

    /// Adds the claim of `function`, and those of the witnesses that the program contains.
    fn add(
        &self,
        claims: &mut Vec<Claim>,
        variable: Variable,
        function: &'static str,
        address: Option<Svma>,
        witnesses: &[&'static str],
    ) {
        if self.of(function).is_empty() {
            return;
        }
        claims.push(Claim { variable, source: Source::Code(function), address });
        for witness in witnesses.iter().filter(|w| !self.of(w).is_empty()) {
            let address = address.filter(|a| self.refers(witness, *a));
            claims.push(Claim { variable, source: Source::Code(witness), address });
        }
    }

    fn rates(&self, claims: &mut Vec<Claim>) {
        let word = Kind::Access(8);
        // profilealloc also reads mcache0, so it is only the witness.
        let rate = self.first("runtime.allocmcache", word);
        let witness = ["runtime.profilealloc"];
        self.add(claims, Variable::MemProfileRate, "runtime.allocmcache", rate, &witness);

        let rate = self.first("runtime.blockevent", word);
        let witness = ["runtime.semacquire1", "runtime.chansend", "runtime.chanrecv"];
        self.add(claims, Variable::BlockProfileRate, "runtime.blockevent", rate, &witness);

        // A program contains one of these: until 1.24 mutexevent is inlined into its only caller,
        // sync.event (by linkname).
        let function = ["runtime.mutexevent", "sync.event"];
        if let Some(function) = function.into_iter().find(|f| !self.of(f).is_empty()) {
            let rate = self.first(function, word);
            let witness = ["runtime.semacquire1"];
            self.add(claims, Variable::MutexProfileRate, function, rate, &witness);
        }
    }

    fn buckets(&self, claims: &mut Vec<Claim>) {
        let loads: Vec<&Reference> =
            self.data("runtime.stkbucket").filter(|r| r.kind == Kind::Address).collect();
        // if memProfile {&mbuckets} else if mutexProfile {&xbuckets} else {&bbuckets}
        let branches = loads.windows(3).find(|w| {
            let same_register = w.iter().all(|r| r.register == w[0].register);
            let distinct = w[0].to != w[1].to && w[1].to != w[2].to && w[0].to != w[2].to;
            same_register && distinct && w[2].at - w[0].at < MAX_BRANCHES_SIZE
        });
        let branch = |i: usize| branches.map(|w| w[i].to);
        let (function, flush) = ("runtime.stkbucket", ["runtime.mProf_FlushLocked"]);
        self.add(claims, Variable::Mbuckets, function, branch(0), &flush);
        self.add(claims, Variable::Xbuckets, function, branch(1), &[]);
        self.add(claims, Variable::Bbuckets, function, branch(2), &[]);

        let function = "runtime.mProf_Malloc";
        let cycle = self
            .data(function)
            .find(|r| r.kind == Kind::Access(4) && self.refers("runtime.mProf_Free", r.to));
        let witness = ["runtime.mProf_Free", "runtime.mProf_Flush"];
        self.add(claims, Variable::MProfCycle, function, cycle.map(|r| r.to), &witness);
        let locks = self.first(function, Kind::Address);
        let witness = ["runtime.mProf_Free"];
        self.add(claims, Variable::ProfMemFutureLock, function, locks, &witness);
    }

    fn scheduler(&self, claims: &mut Vec<Claim>) {
        // allgs = append(allgs, gp) reads pointer, length and capacity.
        let function = "runtime.allgadd";
        let read = |to: Svma| self.data(function).any(|r| r.to == to && r.kind == Kind::Access(8));
        let slice = |r: &&Reference| {
            r.kind == Kind::Access(8)
                && read(Svma(r.to.0.wrapping_add(8)))
                && read(Svma(r.to.0.wrapping_add(16)))
        };
        let allgs = self.data(function).find(slice).map(|r| r.to);
        self.add(claims, Variable::Allgs, function, allgs, &[]);
        // if &allgs[0] != allgptr { … }
        let allgptr = allgs.and_then(|base| {
            let outside = |r: &&Reference| r.to < base || r.to.0 > base.0 + 16;
            self.data(function).filter(outside).find(|r| r.kind == Kind::Access(8)).map(|r| r.to)
        });
        self.add(claims, Variable::Allgptr, function, allgptr, &[]);

        // mp.alllink = allm; atomicstorep(&allm, mp): one read, two address loads.
        let function = "runtime.mcommoninit";
        let count =
            |to: Svma, kind| self.data(function).filter(|r| r.to == to && r.kind == kind).count();
        let allm = self
            .data(function)
            .find(|r| count(r.to, Kind::Access(8)) >= 1 && count(r.to, Kind::Address) >= 2);
        self.add(claims, Variable::Allm, function, allm.map(|r| r.to), &[]);

        // for _, pp := range allp
        let function = "runtime.preemptall";
        let allp = self
            .first(function, Kind::Access(8))
            .filter(|a| self.refers(function, Svma(a.0.wrapping_add(8))));
        self.add(claims, Variable::Allp, function, allp, &["runtime.procresize"]);

        let function = "runtime.waitReason.String";
        let strings = self.of(function).iter().rev().find(|r| r.kind == Kind::Address);
        self.add(claims, Variable::WaitReasonStrings, function, strings.map(|r| r.to), &[]);
    }
}
