/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What the program and the profiler tell each other; crates/events/src/stacks.rs mirrors it. */
#ifndef EXOPROF_STACKS_H
#define EXOPROF_STACKS_H

#define PAGE_BYTES 4096
/* What is copied of a stack at most. With its head it fits into the 32 KiB that the kernel hands on
 * at once. */
#define STACK_BYTES (6 * PAGE_BYTES)

/* The process that is looked at. */
struct whose {
	u32 tgid;      /* in the reader's PID namespace, of which alone tasks are listed */
	u32 pid_level; /* that namespace's depth */
};

/* copy_head.what */
#define THREAD_RUNS 0u       /* on a CPU, before the copy or after it: there is no copy */
#define THREAD_SAME 1u       /* it has not run since it was copied */
#define THREAD_COPIED 2u
#define THREAD_OF_32_BITS 3u /* copied, registers of a 32-bit program */

struct copy_head {
	u32 tid;         /* in the reader's PID namespace */
	u32 what;
	u32 state;       /* the task's state (linux/sched.h) */
	s32 syscall;     /* that it is in; negative: none */
	u32 stack_bytes;
	u32 unused;
	u64 switches;    /* how often it was switched out in all */
	u64 thread_pointer;
	u64 arguments[6]; /* of the system call */
	u64 registers[USER_REGISTERS];
};

struct copy {
	struct copy_head head;
	u8 stack[STACK_BYTES]; /* from the stack pointer on */
};

#endif
