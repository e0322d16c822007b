// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Samples threads that wait, and threads that end the waits of others.
 *
 * A wait of length d lasts from switch-out to waking. It is sampled at switch-in with probability
 * min(1, d / rate), like the Go runtime does, and a sampled wait counts as max(d, rate). The stack is
 * taken a moment later, in the context of the thread on its way back to user mode, where perf can copy
 * registers and stack.
 *
 * For locks, every futex has the number n of its waiters and the sum of the times when they began to
 * wait. The waker of one of them is charged for the time that all have waited since the last charge,
 * n * now - sum, and the sum is reset. So every nanosecond of waiting is charged once, to the thread
 * that kept the others waiting.
 */
#include "kernel.h"
#include "waits.h"
#ifdef FOLLOW_CHAINS
#include "interpreter.h"
#endif

char LICENSE[] SEC("license") = "Dual MIT/GPL";

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct settings);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, u32);
	__type(value, u64);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(u32));
	__uint(value_size, sizeof(u32));
} events SEC(".maps");

/* The leaders of the followed processes, which the profiler sets by pidfd. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, u32);
} followed SEC(".maps");

/* thread.pending */
#define PENDING_WAIT 1u
#define PENDING_WOKEN 2u
#define PENDING_PLACE 4u /* the record has the place of the wait */

struct thread {
	u64 out;      /* when it was switched out to wait; 0: it is not waiting */
	u64 ready;    /* when it became runnable; 0: it is not runnable, or runs */
	u64 futex;    /* the futex that counts it as a waiter: address and FUTEX_SHARED; 0: none */
	u64 sp, ip;   /* of user mode at switch-out */
	s32 syscall;
	u32 state;
	u32 futex_op;
	u32 futex_value;
	u32 pending;
	struct record record;
};

/*
 * Created by the iterator and at a fork, outside of the scheduler's locks, under which no memory may
 * be allocated.
 */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct thread);
} threads SEC(".maps");

/* thread.futex: not private to the process. Addresses of futexes are multiples of four. */
#define FUTEX_SHARED 1ull

struct futex_key {
	u64 futex;
	u64 tgid; /* 0 if it is shared between processes */
};

struct futex {
	struct bpf_spin_lock lock;
	u32 waiters;
	u64 since_sum; /* sum over the waiters of when they began to wait, or of the last charge */
	u64 charged;   /* when the last charge was made */
};

/*
 * A futex without waiters stays: it will have some again, and deleting it here would race with a new
 * waiter. The profiler removes unused futexes when the table is full.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct futex_key);
	__type(value, struct futex);
} futexes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct waiting);
} scratch SEC(".maps");

static __always_inline void count(u32 key)
{
	u64 *n = bpf_map_lookup_elem(&counters, &key);
	if (n)
		*n += 1;
}

static __always_inline struct settings *get_settings(void)
{
	u32 key = 0;
	return bpf_map_lookup_elem(&settings, &key);
}

static __always_inline u32 state_of(struct task_struct *task)
{
	return task->__state;
}

/* Whether the tracepoint rseq_update is hit when the thread returns to user mode. */
static __always_inline bool has_rseq(struct task_struct *task)
{
	return bpf_core_field_exists(task->rseq) && task->rseq;
}

/* Returns true with probability min(1, d / rate), like the Go runtime. */
static __always_inline bool pick(u64 d, u64 rate)
{
	if (d >= rate)
		return true;
	/* Rates are up to 100 s; in steps of 64 ns the product does not overflow. */
	return ((u64)bpf_get_prandom_u32() * (rate >> 6) >> 32) < d >> 6;
}

/* The number of events that a sampled event of length d represents, in 1/1024. */
static __always_inline u64 weight(u64 d, u64 rate)
{
	if (d >= rate || !d)
		return 1024;
	return rate * 1024 / d;
}

/* Scales a part of a sampled event by its weight. */
static __always_inline u64 scaled(u64 part, u64 weight)
{
	return part * weight / 1024;
}

/* --- Interpreters ----------------------------------------------------------------------------- */

/* Follows the chain of the current task. Returns its time, or 0 if there is no interpreter. */
static __always_inline u64 chain_of(struct task_struct *current)
{
#ifdef FOLLOW_CHAINS
	struct settings *s = get_settings();
	if (!s)
		return 0;
	u32 pid = number_at(current->group_leader, s->pid_level);
	struct layout *layout = layout_of(pid);
	if (layout)
		return write_chain(layout, pid, number_at(current, s->pid_level),
				   THREAD_POINTER(current));
#endif
	return 0;
}

/* --- The waiters of a futex ----------------------------------------------------------------- */

static __always_inline bool waits_for_futex(s32 syscall, u32 op)
{
	if (syscall == SYS_FUTEX_WAIT)
		return true;
	if (syscall != SYS_FUTEX)
		return false;
	return op == FUTEX_WAIT || op == FUTEX_WAIT_BITSET || op == FUTEX_LOCK_PI ||
	       op == FUTEX_LOCK_PI2 || op == FUTEX_WAIT_REQUEUE_PI;
}

/*
 * While one CPU switches a thread out, another may wake it already, and the iterator may visit it. So
 * `futex` is only exchanged atomically: a futex counts the waiter before it is stored there, and
 * whoever takes it from there removes the waiter, once. A waiter that is never removed would charge
 * wakers for time that nobody waits.
 */
static __always_inline u64 exchange_futex(struct thread *t, u64 futex)
{
	/* Usually there is none, and atomic instructions are expensive. */
	if (!futex && !t->futex)
		return 0;
	return __sync_lock_test_and_set(&t->futex, futex);
}

static __always_inline void futex_key_of(struct futex_key *key, u64 futex, u32 tgid)
{
	key->futex = futex;
	key->tgid = futex & FUTEX_SHARED ? 0 : tgid;
}

/*
 * Lets waits count from the begin of the recording. Waiters are tracked from when they are first seen,
 * long before a recording begins. At the first event after the begin, all of them waited before it.
 */
static __always_inline void from_begin(struct futex *f, u64 begin, u64 now)
{
	if (f->charged >= begin || now < begin)
		return;
	f->since_sum = f->waiters * begin;
	f->charged = begin;
}

/* Adds a waiter. Returns false if the table has no space. */
static __always_inline bool futex_enter(u64 begin, u64 futex, u32 tgid, u64 now)
{
	struct futex_key key;
	futex_key_of(&key, futex, tgid);
	struct futex *f = bpf_map_lookup_elem(&futexes, &key);
	if (!f) {
		struct futex fresh = {};
		bpf_map_update_elem(&futexes, &key, &fresh, BPF_NOEXIST);
		f = bpf_map_lookup_elem(&futexes, &key);
		if (!f) {
			count(COUNT_UNTRACKED);
			return false;
		}
	}
	bpf_spin_lock(&f->lock);
	from_begin(f, begin, now);
	f->waiters += 1;
	f->since_sum += now;
	bpf_spin_unlock(&f->lock);
	return true;
}

/*
 * Removes a waiter that began to wait at `out`. With `charge`, returns the time that all waiters,
 * including this one, have waited since the last charge, and resets the sum for the others.
 */
static __always_inline u64 futex_leave(u64 begin, u64 futex, u32 tgid, u64 out, u64 now,
				       bool charge)
{
	struct futex_key key;
	u64 charged = 0;

	futex_key_of(&key, futex, tgid);
	struct futex *f = bpf_map_lookup_elem(&futexes, &key);
	if (!f)
		return 0;
	bpf_spin_lock(&f->lock);
	from_begin(f, begin, now);
	u64 n = f->waiters;
	if (n) {
		s64 all = (s64)(n * now - f->since_sum);
		u64 since = out > f->charged ? out : f->charged;
		n -= 1;
		f->waiters = n;
		if (charge) {
			charged = all > 0 ? (u64)all : 0;
			f->since_sum = n * now;
			f->charged = now;
		} else {
			f->since_sum -= since;
		}
		if (!n)
			f->since_sum = 0;
	}
	bpf_spin_unlock(&f->lock);
	return charged;
}

/* Removes the thread from the waiters of its futex, if any. */
static __always_inline void leave_any(struct settings *s, struct thread *t,
				      struct task_struct *task, u64 now)
{
	u64 futex = exchange_futex(t, 0);
	if (futex)
		futex_leave(s->begin, futex, task->tgid, t->out, now, false);
}

/* The thread waits from now on, for a futex unless it is 0. */
static __always_inline void wait_for(struct settings *s, struct thread *t,
				     struct task_struct *task, u64 futex, u64 now)
{
	if (futex && futex_enter(s->begin, futex, task->tgid, now)) {
		futex = exchange_futex(t, futex);
		if (futex)
			futex_leave(s->begin, futex, task->tgid, t->out, now, false);
	}
	/* From here on it can be woken; the exchange keeps the order. */
	t->out = now;
}

/* Whether a thread is in a system call that wakes waiters of this futex. */
static __always_inline bool wakes(struct pt_regs *regs, u64 uaddr)
{
	s32 syscall = REGS_SYSCALL(regs);
	if (syscall == SYS_FUTEX_WAKE)
		return REGS_ARG0(regs) == uaddr;
	if (syscall != SYS_FUTEX)
		return false;
	u32 op = REGS_ARG1(regs) & FUTEX_OP_MASK;
	if (op == FUTEX_WAKE_OP)
		return REGS_ARG0(regs) == uaddr || REGS_ARG4(regs) == uaddr;
	return REGS_ARG0(regs) == uaddr &&
	       (op == FUTEX_WAKE || op == FUTEX_WAKE_BITSET || op == FUTEX_UNLOCK_PI ||
		op == FUTEX_REQUEUE || op == FUTEX_CMP_REQUEUE || op == FUTEX_CMP_REQUEUE_PI);
}

/* --- The scheduler's events ------------------------------------------------------------------ */

/* Stores where the thread waits, and returns the futex that it waits for, as in thread.futex. */
static __always_inline u64 describe(struct settings *s, struct thread *t, struct pt_regs *regs)
{
	u64 shared = 0;

	t->sp = REGS_SP(regs);
	t->ip = REGS_IP(regs);
	t->syscall = REGS_SYSCALL(regs);
	t->futex_op = 0;
	t->futex_value = 0;
	if (t->syscall == SYS_FUTEX) {
		u32 op = REGS_ARG1(regs);
		t->futex_op = op & FUTEX_OP_MASK;
		shared = op & FUTEX_PRIVATE ? 0 : FUTEX_SHARED;
		t->futex_value = REGS_ARG2(regs);
	} else if (t->syscall == SYS_FUTEX_WAIT) {
		t->futex_value = REGS_ARG1(regs);
	}
	/* In a futex system call it may also be stopped, or wait for a page. */
	if (!(t->state & TASK_INTERRUPTIBLE) || !waits_for_futex(t->syscall, t->futex_op))
		return 0;
	if (!(s->flags & WANT_MUTEX))
		return 0;
	return (REGS_ARG0(regs) & ~3ull) | shared;
}

static __always_inline void switched_out(struct settings *s, struct thread *t,
					 struct task_struct *task, bool preempted, u64 now)
{
	leave_any(s, t, task, now);
	t->out = 0;
	t->ready = 0;
	u32 state = state_of(task);
	if (state & TASK_DEAD)
		return;
	t->state = state;
	u64 futex = describe(s, t, (struct pt_regs *)bpf_task_pt_regs(task));
	if (preempted || !state) {
		t->state = 0;
		t->ready = now;
		return;
	}
	wait_for(s, t, task, futex, now);
}

/* Counts pending waits as lost if the thread has left their place without hitting the tracepoint. */
static __always_inline void lose_what_has_passed(struct thread *t)
{
	struct record_head *r = &t->record.head;
	if (!(t->pending & PENDING_PLACE) || (r->sp == t->sp && r->ip == t->ip))
		return;
	r->lost_ns += r->wait_ns + r->run_ns;
	r->lost_count += r->wait_count;
	r->wait_ns = r->wait_count = r->run_ns = 0;
	t->pending &= ~(PENDING_WAIT | PENDING_PLACE);
}

/*
 * Samples a wait and adds it to the record, which is written in the thread's own context. Returns
 * whether it is longer than what the record had: one system call can wait more than once, and a
 * debugger or another profiler may stop a thread at the end of a long wait.
 */
static __always_inline bool charge_wait(struct settings *s, struct thread *t, u64 wait, u64 run)
{
	u64 d = wait + run, rate = s->block_rate;
	if (s->flags & FUTEX_ONLY && (!wait || !waits_for_futex(t->syscall, t->futex_op)))
		return false;
	if (!d)
		return false;
	if (!pick(d, rate))
		return false;
	count(COUNT_PICKED);
	struct record_head *r = &t->record.head;
	u64 w = weight(d, rate), waited = scaled(wait, w);
	bool most = waited > r->wait_ns;
	r->wait_ns += waited;
	r->run_ns += scaled(run, w);
	/* Preemption is no contention. */
	if (wait)
		r->wait_count += w;
	t->pending |= PENDING_WAIT;
	return most;
}

static __always_inline void switched_in(struct settings *s, struct thread *t,
					struct task_struct *task, u64 now)
{
	u64 out = t->out, ready = t->ready, wait = 0, run = 0;
	u32 before = t->pending;

	leave_any(s, t, task, now);
	t->out = 0;
	t->ready = 0;
	if (!(s->flags & RUNNING))
		return;
	if (out) {
		if (out < s->begin)
			out = s->begin;
		/* A waking that coincides with the switch is seen before it. */
		u64 end = ready > out && ready < now ? ready : now;
		if (end > out)
			wait = end - out;
		run = now - end;
	} else if (ready && now > ready) {
		run = now - (ready > s->begin ? ready : s->begin);
	}
	bool most = false;
	lose_what_has_passed(t);
	if (s->flags & WANT_BLOCK)
		most = charge_wait(s, t, wait, run);
	if (!t->pending)
		return;
	/* A new thread has none yet, but has not slept or missed the tracepoint either. */
	if ((wait || before & PENDING_PLACE) && !has_rseq(task))
		count(COUNT_NO_RSEQ);
	if (t->pending & PENDING_PLACE && !most)
		return;
	t->pending |= PENDING_PLACE;
	struct record_head *r = &t->record.head;
	r->sp = t->sp;
	r->ip = t->ip;
	r->syscall = t->syscall;
	r->state = t->state;
	r->futex_op = t->futex_op;
	r->futex_value = t->futex_value;
	r->kernel_bytes = bpf_get_task_stack(task, t->record.kernel, sizeof(t->record.kernel), 0);
}

SEC("tp_btf/sched_switch")
int BPF_PROG(on_switch, bool preempted, struct task_struct *prev, struct task_struct *next)
{
	struct settings *s = get_settings();
	if (!s)
		return 0;
	u64 now = 0;
	struct thread *t = bpf_task_storage_get(&threads, prev, 0, 0);
	if (t) {
		now = bpf_ktime_get_ns();
		switched_out(s, t, prev, preempted, now);
	}
	t = bpf_task_storage_get(&threads, next, 0, 0);
	if (t)
		switched_in(s, t, next, now ? now : bpf_ktime_get_ns());
	return 0;
}

/* Samples the waking thread, which is the current one. */
static __always_inline void charge_waker(void *ctx, struct settings *s, struct thread *t,
					 struct task_struct *waker, struct task_struct *woken,
					 u64 charge)
{
	u64 rate = s->mutex_rate;
	if (!charge)
		return;
	if (!pick(charge, rate))
		return;
	count(COUNT_WAKES_PICKED);
	u64 w = weight(charge, rate);
	struct record_head r = {};
	r.kind = RECORD_WAKER;
	r.tid = woken->pid;
	r.syscall = t->syscall;
	r.futex_op = t->futex_op;
	r.futex_value = t->futex_value;
	r.out = t->out;
	r.wait_ns = scaled(charge, w);
	r.wait_count = w;
	r.chain = chain_of(waker);
	if (bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &r, sizeof(r))) {
		count(COUNT_FAILED);
		return;
	}
	count(COUNT_EMITTED);
	/* The waiter's stack shows what kind of wait it was. */
	t->record.head.out = t->out;
	t->pending |= PENDING_WOKEN;
}

SEC("tp_btf/sched_waking")
int BPF_PROG(on_waking, struct task_struct *task)
{
	struct thread *t = bpf_task_storage_get(&threads, task, 0, 0);
	if (!t || !t->out || t->ready)
		return 0;
	struct settings *s = get_settings();
	if (!s)
		return 0;
	u64 now = bpf_ktime_get_ns();
	t->ready = now;
	u64 futex = exchange_futex(t, 0);
	if (!futex)
		return 0;
	struct task_struct *waker = bpf_get_current_task_btf();
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(waker);
	bool by_futex = wakes(regs, futex & ~FUTEX_SHARED);
	u64 charge = futex_leave(s->begin, futex, task->tgid, t->out, now, by_futex);
	/* Threads found by the iterator are tracked as waiters even without WANT_MUTEX. */
	if (by_futex && s->flags & RUNNING && s->flags & WANT_MUTEX)
		charge_waker(ctx, s, t, waker, task, charge);
	return 0;
}

/* --- In the thread's own context ------------------------------------------------------------- */

static __always_inline void emit(void *ctx, struct task_struct *current)
{
	struct thread *t = bpf_task_storage_get(&threads, current, 0, 0);
	if (!t || !t->pending)
		return;
	struct record_head *r = &t->record.head;
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(current);
	/* The kernel moves ip back to the instruction of a system call that it restarts. */
	u64 moved = r->ip - REGS_IP(regs);
	r->kind = RECORD_WAIT;
	r->flags = r->sp != REGS_SP(regs) || (moved && moved != 2 && moved != 4) ? FLAG_STACK_CHANGED : 0;
	if (t->pending & PENDING_WOKEN)
		r->flags |= FLAG_WOKEN;
	r->tid = current->pid;
	r->chain = r->flags & FLAG_STACK_CHANGED ? 0 : chain_of(current);
	t->pending = 0;
	if (bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &t->record, sizeof(t->record)))
		count(COUNT_FAILED);
	else
		count(COUNT_EMITTED);
	r->wait_ns = r->wait_count = r->run_ns = 0;
	r->lost_ns = r->lost_count = 0;
}

/* After a switch, on the way back to user mode; only threads with restartable sequences. */
SEC("tp_btf/rseq_update")
int BPF_PROG(on_rseq, struct task_struct *task)
{
	emit(ctx, task);
	return 0;
}

/* Every system call of the machine; only attached if there are threads without rseq. */
SEC("tp_btf/sys_exit")
int BPF_PROG(on_sys_exit)
{
	emit(ctx, bpf_get_current_task_btf());
	return 0;
}

/* --- New threads ------------------------------------------------------------------------------ */

SEC("tp_btf/sched_process_fork")
int BPF_PROG(on_fork, struct task_struct *parent, struct task_struct *child)
{
	struct settings *s = get_settings();
	if (!s || !bpf_task_storage_get(&threads, parent, 0, 0))
		return 0;
	if (parent->tgid != child->tgid && !(s->flags & CHILDREN))
		return 0;
	if (!bpf_task_storage_get(&threads, child, 0, BPF_LOCAL_STORAGE_GET_F_CREATE))
		count(COUNT_UNFOLLOWED);
	return 0;
}

static __always_inline void seed(struct settings *s, struct task_struct *task)
{
	if (!bpf_task_storage_get(&followed, task->group_leader, 0, 0))
		return;
	struct thread *t =
		bpf_task_storage_get(&threads, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!t) {
		count(COUNT_UNFOLLOWED);
		return;
	}
	u32 state = state_of(task);
	if (state & TASK_INTERRUPTIBLE && !has_rseq(task))
		count(COUNT_NO_RSEQ);
	if (!state || state & TASK_DEAD || task->on_cpu || t->out)
		return;
	/* It has been waiting already. A waker that comes first finds it not waiting yet. */
	u64 now = bpf_ktime_get_ns();
	t->state = state;
	u64 futex = describe(s, t, (struct pt_regs *)bpf_task_pt_regs(task));
	wait_for(s, t, task, futex, now);
}

static __always_inline void list(struct settings *s, struct seq_file *seq, struct task_struct *task)
{
	u32 key = 0;
	struct thread *t = bpf_task_storage_get(&threads, task, 0, 0);
	struct waiting *w = bpf_map_lookup_elem(&scratch, &key);
	if (!t || !w)
		return;
	u32 state = state_of(task);
	if (!t->out || !state || state & TASK_DEAD || task->on_cpu)
		return;
	w->tid = number_at(task, s->pid_level);
	w->tgid = number_at(task->group_leader, s->pid_level);
	w->root_tid = task->pid;
	w->syscall = t->syscall;
	w->state = t->state;
	w->futex_op = t->futex_op;
	w->futex_value = t->futex_value;
	w->out = t->out > s->begin ? t->out : s->begin;
	w->now = bpf_ktime_get_ns();
	w->thread_pointer = THREAD_POINTER(task);
	copy_registers(w->registers, (struct pt_regs *)bpf_task_pt_regs(task));
	w->kernel_bytes = bpf_get_task_stack(task, w->kernel, sizeof(w->kernel), 0);
	bpf_seq_write(seq, w, sizeof(*w));
}

SEC("iter/task")
int on_task(struct bpf_iter__task *ctx)
{
	struct settings *s = get_settings();
	struct task_struct *task = ctx->task;
	if (!s || !task)
		return 0;
	if (s->flags & SEEDING)
		seed(s, task);
	else
		list(s, ctx->meta->seq, task);
	return 0;
}
