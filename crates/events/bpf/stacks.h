/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Structures shared with the profiler; crates/events/src/bpf/stacks.rs mirrors them. */
#ifndef EXOPROF_STACKS_H
#define EXOPROF_STACKS_H

#define PAGE_BYTES 4096
/* At most this much of a stack is copied. With its head it fits into the 32 KiB that the kernel
 * passes to a reader at once. */
#define STACK_BYTES (6 * PAGE_BYTES)

/* The process whose threads are copied. */
struct whose {
	u32 tgid;      /* in the reader's PID namespace, the only one whose tasks are listed */
	u32 pid_level; /* depth of that namespace */
};

/* copy_head.what */
#define THREAD_RUNS 0u       /* on a CPU before or after the copy: there is no copy */
#define THREAD_SAME 1u       /* it has not run since it was last copied */
#define THREAD_COPIED 2u
#define THREAD_OF_32_BITS 3u /* copied, registers of a 32-bit program */

struct copy_head {
	u32 tid;         /* in the reader's PID namespace */
	u32 what;
	u32 state;       /* the task's state (linux/sched.h) */
	s32 syscall;     /* the system call that it is in; negative: none */
	u32 stack_bytes;
	u32 unused;
	u64 switches;    /* how often it was switched out in total */
	u64 thread_pointer;
	u64 arguments[6]; /* of the system call */
	u64 registers[USER_REGISTERS];
};

struct copy {
	struct copy_head head;
	u8 stack[STACK_BYTES]; /* from the stack pointer on */
};

#endif
