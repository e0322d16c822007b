// Copies what would be gone when a sample of a Go program is read some milliseconds later: the
// goroutine's stack if the thread has left it for its system stack, and the goroutine's profiler
// labels. Runs right before the sample is written.
//
// It needs no kernel type information: it only reads user memory, at offsets that it is given.
//
// An event runs one program. If another one has to run at the same samples, this one calls it last.
// SPDX-License-Identifier: Apache-2.0 OR MIT

#include <linux/types.h>
#include <linux/bpf.h>
#include <linux/bpf_perf_event.h>
#include <bpf/bpf_helpers.h>

#define MAX_STACK 16384
#define MAX_SYSTEM_STACK 8192
#define MAX_LABELS 8
#define MAX_KEY 64
#define MAX_VALUE 128

enum { LABELS_ARE_A_MAP = 1, HAS_CGO = 2 };
enum { KIND_GOROUTINE = 1, KIND_SYSTEM_STACK = 2, KIND_LABELS = 3 };

// A thread: its `runtime.m`, and the offsets of fields in this Go version.
struct thread {
	__u64 m;
	__u64 procid;
	__u32 m_procid, m_g0, m_gsignal, m_curg, m_vdso_sp, m_vdso_pc;
	__u32 g_sched_sp, g_sched_pc, g_goid, g_labels;
	__u32 flags, padding;
};

#if defined(__TARGET_ARCH_arm64)
// The kernel's struct user_pt_regs, with which the context begins. The installed headers may be those
// of another architecture.
struct arm64_registers {
	__u64 regs[31], sp, pc, pstate;
};
#endif

struct goroutine {
	__u32 kind, tid;
	__u64 time;
	// The interrupted registers, which may be those of the kernel.
	__u64 pc, sp;
	__u64 g, goid, low, high;
	__u64 sched_sp, sched_pc, vdso_sp, vdso_pc;
	__u64 system_sp;
	__u64 labels;
	// The copied part of the stack; `stack_wanted` is its full length.
	__u64 stack_at, stack_len, stack_wanted;
	__u8 stack[MAX_STACK];
};

struct system_stack {
	__u32 kind, tid;
	__u64 time;
	__u64 at, len;
	__u8 stack[MAX_SYSTEM_STACK];
};

struct label {
	__u64 key_len, value_len;
	__u8 key[MAX_KEY], value[MAX_VALUE];
};

struct labels {
	__u32 kind, tid;
	__u64 time;
	// How many there are, and how many were copied.
	__u64 count, copied;
	struct label label[MAX_LABELS];
};

union scratch {
	struct goroutine goroutine;
	struct system_stack system;
	struct labels labels;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct thread);
} threads SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, union scratch);
} scratch SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20);
} captures SEC(".maps");

// Captures for which the ring had no space.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} lost SEC(".maps");

// The program that runs after this one, if there is one.
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} next SEC(".maps");

static __always_inline void emit(void *data, __u64 size)
{
	__u32 zero = 0;
	if (bpf_ringbuf_output(&captures, data, size, BPF_RB_NO_WAKEUP)) {
		__u64 *count = bpf_map_lookup_elem(&lost, &zero);
		if (count)
			__sync_fetch_and_add(count, 1);
	}
}

static __always_inline __u64 word(__u64 at)
{
	__u64 value = 0;
	bpf_probe_read_user(&value, sizeof(value), (void *)at);
	return value;
}

// Copies a Go string, as far as there is space.
static __always_inline __u64 text(__u8 *to, __u64 room, __u64 pointer, __u64 length)
{
	__u64 n = length;
	if (n > room)
		n = room;
	asm volatile("" : "+r"(n));
	if (n > room)
		return 0;
	if (n && bpf_probe_read_user(to, n, (void *)pointer))
		return ~0ULL;
	return length;
}

static __always_inline int add_label(struct labels *out, __u64 key_header, __u64 value_header)
{
	__u64 at = out->copied;
	__u64 key[2], value[2];
	if (at >= MAX_LABELS)
		return 0;
	struct label *label = &out->label[at & (MAX_LABELS - 1)];
	if (bpf_probe_read_user(key, sizeof(key), (void *)key_header) ||
	    bpf_probe_read_user(value, sizeof(value), (void *)value_header))
		return 0;
	label->key_len = text(label->key, MAX_KEY, key[0], key[1]);
	label->value_len = text(label->value, MAX_VALUE, value[0], value[1]);
	out->copied = at + 1;
	return 1;
}

// Go 1.24 and later: a slice of {key, value}. Before: a map, of which one bucket is read. A map of more
// than eight labels has several buckets; the record then only has their number.
static __always_inline void labels(struct labels *out, __u64 at, int is_map)
{
	__u64 array, tops = 0, header[4];
	out->copied = 0;
	out->count = 0;
	if (is_map) {
		__u64 map = word(at);
		if (!map || bpf_probe_read_user(header, sizeof(header), (void *)map))
			return;
		out->count = header[0];
		array = header[2];
		// B, the logarithm of the number of buckets; and the array before it grew.
		if (((header[1] >> 8) & 0xff) != 0 || header[3])
			return;
		tops = word(array);
	} else {
		if (bpf_probe_read_user(header, 16, (void *)at))
			return;
		array = header[0];
		out->count = header[1];
	}
	for (int i = 0; i < MAX_LABELS; i++) {
		if (is_map) {
			if (((tops >> (8 * i)) & 0xff) < 5)
				continue;
			if (!add_label(out, array + 8 + 16 * i, array + 136 + 16 * i))
				return;
		} else {
			if ((__u64)i >= out->count)
				return;
			if (!add_label(out, array + 32 * i, array + 32 * i + 16))
				return;
		}
	}
}

static __always_inline __u64 copy(__u8 *to, __u64 room, __u64 from, __u64 end)
{
	__u64 n = end - from;
	if (end < from)
		return 0;
	if (n > room)
		n = room;
	asm volatile("" : "+r"(n));
	if (n > room)
		return 0;
	if (!n || !bpf_probe_read_user(to, n, (void *)from))
		return n;
	// A page is not in memory, and cannot be fetched here. Try the first one alone.
	n = 4096 - (from & 4095);
	return bpf_probe_read_user(to, n, (void *)from) ? 0 : n;
}

static __always_inline int on_signal_stack(struct thread *t, __u64 sp)
{
	__u64 gsignal = word(t->m + t->m_gsignal);
	return gsignal && sp >= word(gsignal) && sp < word(gsignal + 8);
}

static __always_inline void capture(struct bpf_perf_event_data *ctx)
{
	__u32 zero = 0, tid = (__u32)bpf_get_current_pid_tgid();
	struct thread *t = bpf_map_lookup_elem(&threads, &tid);
	if (!t)
		return;
	union scratch *s = bpf_map_lookup_elem(&scratch, &zero);
	if (!s)
		return;
	// The `m` of a thread that ended may belong to another thread by now.
	if (word(t->m + t->m_procid) != t->procid)
		return;
	struct goroutine *o = &s->goroutine;
	__u64 g = word(t->m + t->m_curg), g0 = word(t->m + t->m_g0);
	__u64 time = bpf_ktime_get_ns(), label_pointer, g0_high, system_sp;
	int in_kernel;
	o->kind = KIND_GOROUTINE;
	o->tid = tid;
	o->time = time;
#if defined(__TARGET_ARCH_arm64)
	o->pc = ((struct arm64_registers *)ctx)->pc;
	o->sp = ((struct arm64_registers *)ctx)->sp;
#else
	o->pc = ctx->regs.rip;
	o->sp = ctx->regs.rsp;
#endif
	in_kernel = (__s64)o->pc < 0;
	o->g = g;
	o->goid = o->low = o->high = o->sched_sp = o->sched_pc = o->vdso_sp = o->vdso_pc = 0;
	o->labels = o->stack_at = o->stack_len = o->stack_wanted = 0;
	o->system_sp = system_sp = g0 ? word(g0 + t->g_sched_sp) : 0;
	g0_high = g0 ? word(g0 + 8) : 0;
	if (g) {
		__u64 start;
		o->low = word(g);
		o->high = word(g + 8);
		o->goid = word(g + t->g_goid);
		o->sched_sp = word(g + t->g_sched_sp);
		o->sched_pc = word(g + t->g_sched_pc);
		o->vdso_sp = word(t->m + t->m_vdso_sp);
		o->vdso_pc = word(t->m + t->m_vdso_pc);
		o->labels = word(g + t->g_labels);
		start = o->sched_sp;
		if (o->vdso_sp > o->low && o->vdso_sp < o->high)
			start = o->vdso_sp;
		// A signal handler has a stack of its own, and may have interrupted any code.
		if (!in_kernel && on_signal_stack(t, o->sp)) {
			start = o->low + 8;
			if (o->high - o->low > MAX_STACK)
				start = o->high - MAX_STACK;
		}
		if ((in_kernel || o->sp < o->low || o->sp >= o->high) && start > o->low && start < o->high) {
			o->stack_at = start;
			o->stack_wanted = o->high - start;
			o->stack_len = copy(o->stack, MAX_STACK, start, o->high);
		}
	}
	label_pointer = o->labels;
	__u64 size = o->stack_len;
	if (size > MAX_STACK)
		size = 0;
	size += __builtin_offsetof(struct goroutine, stack);
	emit(o, size);
	// The frames of C code that called back into Go are on the thread's system stack.
	if (g && (t->flags & HAS_CGO) && system_sp && system_sp < g0_high) {
		struct system_stack *k = &s->system;
		k->kind = KIND_SYSTEM_STACK;
		k->tid = tid;
		k->time = time;
		k->at = system_sp;
		k->len = copy(k->stack, MAX_SYSTEM_STACK, system_sp, g0_high);
		size = k->len;
		if (size > MAX_SYSTEM_STACK)
			size = 0;
		if (size)
			emit(k, size + __builtin_offsetof(struct system_stack, stack));
	}
	if (label_pointer) {
		struct labels *l = &s->labels;
		l->kind = KIND_LABELS;
		l->tid = tid;
		l->time = time;
		labels(l, label_pointer, t->flags & LABELS_ARE_A_MAP);
		size = l->copied;
		if (size > MAX_LABELS)
			size = 0;
		emit(l, size * sizeof(struct label) + __builtin_offsetof(struct labels, label));
	}
}

SEC("perf_event")
int goroutine(struct bpf_perf_event_data *ctx)
{
	capture(ctx);
	bpf_tail_call(ctx, &next, 0);
	return 1;
}

// Only GPL-compatible programs may read user memory. The code itself is under this project's licence.
char LICENSE[] SEC("license") = "Dual MIT/GPL";
