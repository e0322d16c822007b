//! Builds `perf_event_attr` for samples with user registers and stack.

use perf_event_open_sys::bindings as b;

/// The registers that are sampled, as a `PERF_SAMPLE_REGS_USER` mask.
///
/// x86_64 (`asm/perf_regs.h`): AX, BX, CX, DX, SI, DI, BP, SP, IP and R8 to R15. Unwinding needs no
/// flags and segments (and asking for DS to GS is an error).
#[cfg(target_arch = "x86_64")]
pub const USER_REGISTERS: u64 = 0x00ff_01ff;
/// aarch64 (`asm/perf_regs.h`): X0 to X29, LR, SP and PC.
#[cfg(target_arch = "aarch64")]
pub const USER_REGISTERS: u64 = 0x1_ffff_ffff;

/// What triggers samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockSource {
    /// The hardware's cycle counter, at a frequency that the kernel adapts to.
    Cycles,
    /// The high-resolution timer `cpu-clock`, at a fixed period of CPU time.
    CpuClock,
    /// Context switches: each n-th time that a thread is switched out.
    Switches,
}

/// How to sample.
#[derive(Debug, Clone)]
pub struct SamplingOptions {
    /// Samples per second and CPU; at least 1.
    pub frequency: u32,
    /// Take kernel call chains (requires perf_event_paranoid ≤ 1 or CAP_PERFMON).
    pub kernel_callchain: bool,
    /// Count user mode only: an unprivileged user may do no more at perf_event_paranoid = 2.
    pub exclude_kernel: bool,
    /// Bytes of user stack to copy with each sample: a multiple of 8, at most 65,528.
    pub stack_bytes: u32,
    /// Follow forked children as well as new threads.
    pub children: bool,
    /// Sample a thread each time that it has been switched out this many times, not by a clock.
    /// Each switch is then reported as [`crate::EventKind::Switch`] too.
    pub switches: Option<u64>,
}

/// The largest `sample_stack_user` that the kernel accepts: below 64 KiB, a multiple of 8.
pub(crate) const MAX_STACK_BYTES: u32 = 65_528;

/// Features that older kernels reject with EINVAL, in the order in which we drop them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Features {
    /// `PERF_FORMAT_LOST` (6.0).
    pub format_lost: bool,
    /// `inherit_thread` (5.13).
    pub inherit_thread: bool,
}

/// `sample_type` of the events of a sampler: the layout of all its records.
pub(crate) fn sample_type(source: ClockSource, kernel_callchain: bool) -> u64 {
    let mut t = b::PERF_SAMPLE_TID
        | b::PERF_SAMPLE_TIME
        | b::PERF_SAMPLE_REGS_USER
        | b::PERF_SAMPLE_STACK_USER;
    if source == ClockSource::Cycles {
        t |= b::PERF_SAMPLE_PERIOD;
    }
    if kernel_callchain {
        t |= b::PERF_SAMPLE_CALLCHAIN;
    }
    u64::from(t)
}

pub(crate) fn build(
    options: &SamplingOptions,
    source: ClockSource,
    features: Features,
    inherit: bool,
) -> b::perf_event_attr {
    let mut attr = with_stacks(sample_type(source, options.kernel_callchain), options.stack_bytes);
    let frequency = u64::from(options.frequency.max(1));
    match source {
        ClockSource::Cycles => {
            attr.type_ = b::PERF_TYPE_HARDWARE;
            attr.config = u64::from(b::PERF_COUNT_HW_CPU_CYCLES);
            attr.set_freq(1);
            attr.sample_freq = frequency;
        }
        ClockSource::CpuClock => {
            attr.type_ = b::PERF_TYPE_SOFTWARE;
            attr.config = u64::from(b::PERF_COUNT_SW_CPU_CLOCK);
            // A fixed period, not `freq`: the kernel's adaptation only blurs a clock.
            attr.sample_period = (1_000_000_000 / frequency).max(1);
        }
        ClockSource::Switches => {
            attr.type_ = b::PERF_TYPE_SOFTWARE;
            attr.config = u64::from(b::PERF_COUNT_SW_CONTEXT_SWITCHES);
            attr.sample_period = options.switches.unwrap_or(1).max(1);
            attr.set_context_switch(1);
        }
    }
    if features.format_lost {
        attr.read_format = u64::from(b::PERF_FORMAT_LOST);
    }
    attr.set_exclude_kernel(u64::from(options.exclude_kernel));
    attr.set_exclude_hv(1);
    attr.set_exclude_idle(1);
    attr.set_exclude_callchain_user(1);
    if inherit {
        attr.set_inherit(1);
        attr.set_inherit_thread(u64::from(!options.children && features.inherit_thread));
        // Not `inherit_stat`: at the exit of an inherited thread the kernel would write a READ
        // record from the CPU of the exit into the rings of all CPUs. If that races with a record
        // of the ring's own CPU, the ring is damaged or stuck for good.
    }
    record_side_band(&mut attr);
    attr
}

/// What all events have in common: user registers and stack in samples, and ids and times in all
/// records.
fn with_stacks(sample_type: u64, stack_bytes: u32) -> b::perf_event_attr {
    let mut attr =
        b::perf_event_attr { size: size_of::<b::perf_event_attr>() as u32, ..Default::default() };
    attr.sample_type = sample_type;
    attr.sample_regs_user = USER_REGISTERS;
    attr.sample_stack_user = stack_bytes.min(MAX_STACK_BYTES) & !7;
    attr.set_sample_id_all(1);
    attr.set_use_clockid(1);
    attr.clockid = libc::CLOCK_MONOTONIC;
    attr.set_watermark(1);
    // Never: we read the ring periodically, and a wake-up would interrupt the profiled thread.
    attr.wakeup_watermark = u32::MAX;
    attr
}

/// Makes the ring receive the records of thread and mapping changes.
fn record_side_band(attr: &mut b::perf_event_attr) {
    attr.set_mmap(1);
    attr.set_mmap2(1);
    attr.set_comm(1);
    attr.set_comm_exec(1);
    attr.set_task(1);
}

/// `sample_type` of the events that BPF programs write to.
pub(crate) const OUTPUT_SAMPLE_TYPE: u64 = (b::PERF_SAMPLE_TID
    | b::PERF_SAMPLE_TIME
    | b::PERF_SAMPLE_RAW
    | b::PERF_SAMPLE_REGS_USER
    | b::PERF_SAMPLE_STACK_USER) as u64;

/// An event of one CPU that BPF programs write samples to. With `side_band`, its ring also gets the
/// records of threads and mappings, in one order with the samples.
pub(crate) fn build_output(stack_bytes: u32, side_band: bool) -> b::perf_event_attr {
    let mut attr = with_stacks(OUTPUT_SAMPLE_TYPE, stack_bytes);
    attr.type_ = b::PERF_TYPE_SOFTWARE;
    attr.config = u64::from(b::PERF_COUNT_SW_BPF_OUTPUT);
    attr.sample_period = 1;
    if side_band {
        record_side_band(&mut attr);
    }
    attr
}

/// `sample_type` of tracepoint events.
pub(crate) const TRACEPOINT_SAMPLE_TYPE: u64 = (b::PERF_SAMPLE_TID
    | b::PERF_SAMPLE_TIME
    | b::PERF_SAMPLE_REGS_USER
    | b::PERF_SAMPLE_STACK_USER) as u64;

/// An event of one CPU that samples at each hit of a tracepoint, and records thread and mapping
/// changes.
pub(crate) fn build_tracepoint(id: u64, stack_bytes: u32) -> b::perf_event_attr {
    let mut attr = build_output(stack_bytes, true);
    attr.type_ = b::PERF_TYPE_TRACEPOINT;
    attr.config = id;
    attr.sample_type = TRACEPOINT_SAMPLE_TYPE;
    attr
}
