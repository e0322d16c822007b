/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Follows an interpreter's chain of frames at each sample of a perf event.
 *
 * The program is attached to the event. It runs in the interrupt that takes the sample, and leaves
 * the sample as it is.
 */
#include <bpf/bpf_core_read.h>

#include "interpreter.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

#if defined(__TARGET_ARCH_x86)
struct thread_struct {
	unsigned long fsbase;
};
#define THREAD_POINTER(task) BPF_CORE_READ(task, thread.fsbase)
#elif defined(__TARGET_ARCH_arm64)
struct user_words {
	unsigned long tp_value;
};
struct thread_struct {
	struct user_words uw;
};
#define THREAD_POINTER(task) BPF_CORE_READ(task, thread.uw.tp_value)
#endif

struct ns_common {
	unsigned int inum;
};

struct pid_namespace {
	struct ns_common ns;
};

struct upid {
	int nr;
	struct pid_namespace *ns;
};

struct pid {
	unsigned int level;
	struct upid numbers[1];
};

struct task_struct {
	struct thread_struct thread;
	struct pid *thread_pid;
	struct task_struct *group_leader;
};

#pragma clang attribute pop

/* Our own PID namespace: records must have its ids, as samples do. */
volatile const u64 NS_INO;
/* The kernel nests PID namespaces at most this deep. */
#define MAX_LEVELS 32

/* A task's id in our PID namespace; the task may be in a nested one. */
static __always_inline u32 number_of(struct task_struct *task)
{
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	u32 level = BPF_CORE_READ(pid, level);
	const void *numbers = __builtin_preserve_access_index(&pid->numbers[0]);
	struct upid u;

	for (u32 i = 0; i < MAX_LEVELS; i++) {
		if (i > level)
			break;
		if (bpf_probe_read_kernel(&u, sizeof(u), numbers + i * sizeof(u)))
			break;
		if (BPF_CORE_READ(u.ns, ns.inum) == NS_INO)
			return u.nr;
	}
	return 0;
}

SEC("perf_event")
int follow_interpreter(void *context)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	u32 pid = number_of(BPF_CORE_READ(task, group_leader));
	struct layout *layout = layout_of(pid);

	if (layout)
		write_chain(layout, pid, number_of(task), THREAD_POINTER(task));
	return 1;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
