// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Copies the registers of all threads of a process and the tops of their stacks without stopping
 * them.
 *
 * A thread that is on no CPU has its registers on its kernel stack, and does not change its user
 * stack. So a copy is consistent if the thread was on no CPU before and after it, and the scheduler's
 * counts of switches are the same.
 */
#include "kernel.h"
#include "stacks.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct whose);
} whose SEC(".maps");

/* There is one reader at a time, and the iterator visits one thread after the other. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct copy);
} scratch SEC(".maps");

/* The count of switches at which a thread was last copied, plus one. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, u64);
} copied SEC(".maps");

struct look {
	bool runs;
	u64 switches;
};

/* Keeps reads before it in order with reads after it, on every architecture. */
static __always_inline void in_order(void)
{
	u64 word = 0;
	__sync_fetch_and_add(&word, 1);
	asm volatile("" ::: "memory");
}

/*
 * In this order: a thread that is on no CPU has counted the switch that took it off. A thread that
 * runs between two looks is on a CPU at the second one, or the counts differ.
 */
static __always_inline void look_at(struct task_struct *task, struct look *look)
{
	in_order();
	look->runs = task->on_cpu;
	in_order();
	look->switches = task->nvcsw + task->nivcsw;
	in_order();
}

static __always_inline void copy_call(struct copy_head *h, struct pt_regs *regs)
{
	h->syscall = REGS_SYSCALL(regs);
	h->arguments[0] = REGS_ARG0(regs);
	h->arguments[1] = REGS_ARG1(regs);
	h->arguments[2] = REGS_ARG2(regs);
	h->arguments[3] = REGS_ARG3(regs);
	h->arguments[4] = REGS_ARG4(regs);
	h->arguments[5] = REGS_ARG5(regs);
}

/* Page by page: a read that includes a missing page copies nothing. */
static __always_inline u32 copy_pages(struct copy *c, struct task_struct *task, u64 at)
{
	u32 got = 0;

	for (int i = 0; i < STACK_BYTES / PAGE_BYTES; i++) {
		u32 n = PAGE_BYTES - (at & (PAGE_BYTES - 1));
		if (got > STACK_BYTES - PAGE_BYTES)
			break;
		if (bpf_copy_from_user_task(&c->stack[got], n, (void *)at, task, 0))
			break;
		got += n;
		at += n;
	}
	return got;
}

SEC("iter.s/task")
int copy_stacks(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	u32 key = 0, got = 0;
	struct look before, after;

	if (!task)
		return 0;
	struct whose *w = bpf_map_lookup_elem(&whose, &key);
	struct copy *c = bpf_map_lookup_elem(&scratch, &key);
	if (!w || !c || number_at(task->group_leader, w->pid_level) != w->tgid)
		return 0;
	struct copy_head *h = &c->head;
	h->state = task->__state;
	if (h->state & TASK_DEAD)
		return 0;
	look_at(task, &before);
	u64 *at_copy = bpf_task_storage_get(&copied, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	h->tid = number_at(task, w->pid_level);
	h->switches = before.switches;
	if (before.runs) {
		h->what = THREAD_RUNS;
	} else if (at_copy && *at_copy == before.switches + 1) {
		h->what = THREAD_SAME;
	} else {
		struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(task);
		h->what = REGS_OF_32_BITS(regs) ? THREAD_OF_32_BITS : THREAD_COPIED;
		h->state = task->__state;
		h->thread_pointer = THREAD_POINTER(task);
		copy_registers(h->registers, regs);
		copy_call(h, regs);
		got = copy_pages(c, task, REGS_SP(regs));
		look_at(task, &after);
		if (after.runs || after.switches != before.switches) {
			h->what = THREAD_RUNS;
			got = 0;
		}
	}
	if (got > STACK_BYTES)
		got = STACK_BYTES;
	h->stack_bytes = got;
	/* If the reader's buffer is full, the thread is visited again. */
	if (!bpf_seq_write(ctx->meta->seq, c, sizeof(*h) + got) && at_copy && h->what != THREAD_RUNS)
		*at_copy = before.switches + 1;
	return 0;
}
