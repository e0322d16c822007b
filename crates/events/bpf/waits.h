/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Structures shared with the profiler; crates/events/src/bpf/waits.rs mirrors them. */
#ifndef EXOPROF_WAITS_H
#define EXOPROF_WAITS_H

#define KERNEL_FRAMES 32

/* settings.flags */
#define WANT_BLOCK 1u    /* sample the threads that waited */
#define WANT_MUTEX 2u    /* sample those that ended others' waits for a futex */
#define FUTEX_ONLY 4u    /* block: waits for a futex only */
#define CHILDREN 8u      /* follow forked processes */
#define RUNNING 16u      /* sample; without it waits are only tracked */
#define SEEDING 32u      /* the iterator finds threads to follow; without it, it lists waits */

struct settings {
	u64 block_rate; /* mean nanoseconds of waiting between two samples */
	u64 mutex_rate;
	u64 begin;      /* waits count from here on, CLOCK_MONOTONIC nanoseconds */
	u32 flags;
	u32 pid_level;  /* depth of the reader's PID namespace */
};

/* record.kind */
#define RECORD_WAIT 1u   /* a thread's own waits, in its own context */
#define RECORD_WAKER 2u  /* a thread that ended waits for a futex, in its own context */

/* record.flags */
#define FLAG_STACK_CHANGED 1u /* the thread has run since: its stack is another one */
#define FLAG_WOKEN 2u         /* the wait that began at `out` ended with a RECORD_WAKER */

struct record_head {
	u32 kind;
	u32 flags;
	u32 tid;         /* the thread that waited, in the first PID namespace */
	s32 syscall;     /* that it waits in; negative: a page fault or preemption */
	u32 state;       /* the task's state while it waited (linux/sched.h) */
	u32 futex_op;
	u32 futex_value;
	s32 kernel_bytes;
	u64 out;         /* when the wait that is joined with a waker began */
	u64 wait_ns;     /* scaled up by the sampling rate */
	u64 wait_count;  /* in 1/1024 */
	u64 run_ns;      /* runnable, after waking or preemption */
	u64 lost_ns;     /* waits whose stack could not be taken */
	u64 lost_count;
	u64 chain;       /* the time that identifies the thread's chain of frames; 0: none */
	u64 sp;
	u64 ip;
};

struct record {
	struct record_head head;
	u64 kernel[KERNEL_FRAMES];
};

/* A wait that has not ended, as the iterator lists it. */
struct waiting {
	u32 tid;         /* in the reader's PID namespace */
	u32 tgid;
	u32 root_tid;    /* in the first PID namespace */
	s32 syscall;
	u32 state;
	u32 futex_op;
	u32 futex_value;
	s32 kernel_bytes;
	u64 out;
	u64 now;
	u64 thread_pointer;
	u64 registers[USER_REGISTERS];
	u64 kernel[KERNEL_FRAMES];
};

/* Keys of `counters`. */
#define COUNT_PICKED 0       /* waits that were sampled */
#define COUNT_EMITTED 1      /* records that were written */
#define COUNT_FAILED 2       /* records for which the ring had no space */
#define COUNT_WAKES_PICKED 3 /* wakings that were sampled */
#define COUNT_NO_RSEQ 4      /* sampled threads without restartable sequences */
#define COUNT_UNTRACKED 5    /* waits for a futex for which the table had no space */
#define COUNT_UNFOLLOWED 6   /* threads that could not be followed for lack of memory */
#define COUNTERS 7

#endif
