/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The few fields of kernel structures that the programs read. The loader takes their offsets from the
 * running kernel's BTF (CO-RE); bpf_core_field_exists tells whether a kernel has a field.
 */
#ifndef EXOPROF_KERNEL_H
#define EXOPROF_KERNEL_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

typedef __u8 u8;
typedef __u32 u32;
typedef __s32 s32;
typedef __u64 u64;
typedef __s64 s64;

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct upid {
	int nr;
	void *ns;
};

struct pid {
	struct upid numbers[1];
};

struct rseq;

#if defined(__TARGET_ARCH_x86)

struct thread_struct {
	unsigned long fsbase;
};
#define THREAD_POINTER(task) ((task)->thread.fsbase)

#else

struct uw_of_thread {
	unsigned long tp_value;
};

struct thread_struct {
	struct uw_of_thread uw;
};
#define THREAD_POINTER(task) ((task)->thread.uw.tp_value)

#endif

struct task_struct {
	unsigned int __state;
	int on_cpu;
	unsigned long nvcsw;
	unsigned long nivcsw;
	struct thread_struct thread;
	int pid;
	int tgid;
	struct task_struct *group_leader;
	struct pid *thread_pid;
	struct rseq *rseq;
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

#if defined(__TARGET_ARCH_x86)

struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip;
	unsigned long cs, flags, sp, ss;
};

#elif defined(__TARGET_ARCH_arm64)

struct pt_regs {
	u64 regs[31];
	u64 sp, pc, pstate;
	u64 orig_x0;
	s32 syscallno;
};

#else
#error "no such architecture"
#endif

#pragma clang attribute pop

/*
 * Access to the registers that a thread saved when it entered the kernel. In a system call they still
 * hold its arguments. copy_registers writes them in the order of perf's register numbers, like a
 * sample (USER_REGISTERS in attr.rs).
 */
#if defined(__TARGET_ARCH_x86)

#define USER_REGISTERS 17
#define SYS_FUTEX 202
#define REGS_SP(r) ((r)->sp)
#define REGS_IP(r) ((r)->ip)
#define REGS_SYSCALL(r) ((s32)(r)->orig_ax)
#define REGS_ARG0(r) ((r)->di)
#define REGS_ARG1(r) ((r)->si)
#define REGS_ARG2(r) ((r)->dx)
#define REGS_ARG3(r) ((r)->r10)
#define REGS_ARG4(r) ((r)->r8)
#define REGS_ARG5(r) ((r)->r9)
/* 32-bit programs have another code segment. */
#define REGS_OF_32_BITS(r) ((r)->cs == 0x23)

static __always_inline void copy_registers(u64 *out, struct pt_regs *r)
{
	out[0] = r->ax;
	out[1] = r->bx;
	out[2] = r->cx;
	out[3] = r->dx;
	out[4] = r->si;
	out[5] = r->di;
	out[6] = r->bp;
	out[7] = r->sp;
	out[8] = r->ip;
	out[9] = r->r8;
	out[10] = r->r9;
	out[11] = r->r10;
	out[12] = r->r11;
	out[13] = r->r12;
	out[14] = r->r13;
	out[15] = r->r14;
	out[16] = r->r15;
}

#else

#define USER_REGISTERS 33
#define SYS_FUTEX 98
#define REGS_SP(r) ((r)->sp)
#define REGS_IP(r) ((r)->pc)
#define REGS_SYSCALL(r) ((r)->syscallno)
/* x0 is overwritten by the result only on the way out. */
#define REGS_ARG0(r) ((r)->regs[0])
#define REGS_ARG1(r) ((r)->regs[1])
#define REGS_ARG2(r) ((r)->regs[2])
#define REGS_ARG3(r) ((r)->regs[3])
#define REGS_ARG4(r) ((r)->regs[4])
#define REGS_ARG5(r) ((r)->regs[5])
/* 32-bit programs run in another mode. */
#define REGS_OF_32_BITS(r) (((r)->pstate & 0x10) != 0)

static __always_inline void copy_registers(u64 *out, struct pt_regs *r)
{
#pragma unroll
	for (int i = 0; i < 31; i++)
		out[i] = r->regs[i];
	out[31] = r->sp;
	out[32] = r->pc;
}

#endif

/* A task's id in the PID namespace of this depth; 0 if it has none any more. */
static __always_inline u32 number_at(struct task_struct *task, u32 level)
{
	int number = 0;
	level &= 31;
	if (!level)
		return task->pid;
	struct pid *pid = task->thread_pid;
	if (!pid)
		return 0;
	void *at = (void *)__builtin_preserve_access_index(&pid->numbers[0]) +
		   level * bpf_core_type_size(struct upid);
	bpf_probe_read_kernel(&number, sizeof(number), at);
	return number;
}

/* The futex calls with an operation of their own, the same on all architectures (6.7). */
#define SYS_FUTEX_WAKE 454
#define SYS_FUTEX_WAIT 455

/* linux/futex.h */
#define FUTEX_OP_MASK 127
#define FUTEX_PRIVATE 128
#define FUTEX_WAIT 0
#define FUTEX_WAKE 1
#define FUTEX_REQUEUE 3
#define FUTEX_CMP_REQUEUE 4
#define FUTEX_WAKE_OP 5
#define FUTEX_LOCK_PI 6
#define FUTEX_UNLOCK_PI 7
#define FUTEX_WAIT_BITSET 9
#define FUTEX_WAKE_BITSET 10
#define FUTEX_WAIT_REQUEUE_PI 11
#define FUTEX_CMP_REQUEUE_PI 12
#define FUTEX_LOCK_PI2 13

/* linux/sched.h */
#define TASK_INTERRUPTIBLE 0x1
#define TASK_DEAD 0x80

#endif
