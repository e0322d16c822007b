/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Follows an interpreter's chain of frames at the moment of a sample.
 *
 * It runs in the context of the sampled thread, which is interrupted, so that the chain belongs to the
 * sampled stack. It only reads the words that `struct layout` leads to, and writes nothing into the
 * process.
 *
 *   head of interpreters -> interpreter -> its threads -> the one with our thread pointer
 *     -> [C frame ->] frame -> previous frame -> ...
 */
#ifndef EXOPROF_INTERPRETER_H
#define EXOPROF_INTERPRETER_H

#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

typedef __u8 u8;
typedef __u32 u32;
typedef __u64 u64;

/* A record, and the per-CPU buffer that it is made in, must stay below 32 KiB. */
#define MAX_FRAMES 1000
/* Interpreters and threads that are visited for one sample. */
#define MAX_THREADS 1024

/* A thread's frames are reached through a C frame on the stack (3.11, 3.12). */
#define THROUGH_C_FRAME 1
/*
 * The current frame of the previous C frame delimits the frames of a C frame (3.11). 3.11 also sets
 * a flag in the last frame of each C frame, but an instruction too late for a sample in between.
 */
#define ANCHORED_BY_C_FRAMES 2

#define STATUS_COMPLETE 0
#define STATUS_NO_THREAD 1
#define STATUS_UNREADABLE 2
#define STATUS_TOO_MANY 3

/* events::ChainLayout mirrors it. All but `head` and `thread_bias` are offsets. */
struct layout {
	u64 head;
	/* Added to the thread pointer to get what the interpreter calls the thread. */
	u64 thread_bias;
	u32 interpreter_next;
	u32 interpreter_threads;
	u32 thread_next;
	u32 thread_id;
	u32 thread_frame;
	u32 flags;
	u32 c_frame_current;
	u32 c_frame_previous;
	u32 frame_code;
	u32 frame_previous;
	u32 frame_instruction;
	/* The byte with the owner of the frame. */
	u32 frame_owner;
};

struct chain_frame {
	u64 address;
	u64 code;
	u64 instruction;
	/* The C frame that it belongs to; the owner in bits 56 to 63. */
	u64 anchor;
};

struct chain {
	u64 time;
	u32 pid;
	u32 tid;
	u32 status;
	u32 count;
	/* As large as the verifier's bound of the record's size: 24 | 1000 << 5 is below 24 + 1023 * 32. */
	struct chain_frame frames[1023];
};

struct walk {
	struct layout layout;
	/* Set while a chain is followed on this CPU: an interrupt may end a wait meanwhile. */
	u32 busy;
	u64 thread_pointer;
	u64 interpreter;
	u64 thread;
	u64 c_frame;
	/* The previous C frame, and its innermost frame. */
	u64 outer_c_frame;
	u64 outer_frame;
	u64 frame;
	u32 found;
	u32 fault;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, u32);
	__type(value, struct layout);
} LAYOUTS SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct walk);
} WALK SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct chain);
} CHAIN SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} CHAINS SEC(".maps");

/* Chains for which the ring had no space. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} LOST SEC(".maps");

static __always_inline int user_word(u64 *to, u64 at)
{
	return bpf_probe_read_user(to, sizeof(*to), (const void *)at);
}

/* Reads the C frame before the one that the walk is in. */
static __always_inline int look_at_outer(struct walk *w)
{
	w->outer_frame = 0;
	if (!(w->layout.flags & ANCHORED_BY_C_FRAMES))
		return 0;
	if (user_word(&w->outer_c_frame, w->c_frame + w->layout.c_frame_previous))
		return -1;
	/* The outermost C frame belongs to no call of the evaluation loop. */
	if (!w->outer_c_frame)
		return 0;
	return user_word(&w->outer_frame, w->outer_c_frame + w->layout.c_frame_current);
}

static long find_thread(u32 n, void *unused)
{
	u32 zero = 0;
	u64 id;
	struct walk *w = bpf_map_lookup_elem(&WALK, &zero);

	if (!w)
		return 1;
	if (!w->thread) {
		if (!w->interpreter ||
		    user_word(&w->interpreter, w->interpreter + w->layout.interpreter_next) ||
		    !w->interpreter ||
		    user_word(&w->thread, w->interpreter + w->layout.interpreter_threads))
			return 1;
		return 0;
	}
	if (user_word(&id, w->thread + w->layout.thread_id)) {
		w->fault = 1;
		return 1;
	}
	if (id == w->thread_pointer + w->layout.thread_bias) {
		w->found = 1;
		return 1;
	}
	if (user_word(&w->thread, w->thread + w->layout.thread_next)) {
		w->fault = 1;
		return 1;
	}
	return 0;
}

static long follow(u32 n, void *unused)
{
	u32 zero = 0, count;
	u8 owner = 0;
	struct walk *w = bpf_map_lookup_elem(&WALK, &zero);
	struct chain *r = bpf_map_lookup_elem(&CHAIN, &zero);
	struct chain_frame *f;
	u64 at;

	if (!w || !r || !w->frame)
		return 1;
	count = r->count;
	if (count >= MAX_FRAMES) {
		r->status = STATUS_TOO_MANY;
		return 1;
	}
	f = &r->frames[count];
	at = w->frame;
	f->address = at;
	if (user_word(&f->code, at + w->layout.frame_code) ||
	    user_word(&f->instruction, at + w->layout.frame_instruction) ||
	    user_word(&w->frame, at + w->layout.frame_previous)) {
		r->status = STATUS_UNREADABLE;
		return 1;
	}
	if (w->layout.frame_owner)
		bpf_probe_read_user(&owner, 1, (const void *)(at + w->layout.frame_owner));
	f->anchor = w->c_frame | ((u64)owner << 56);
	r->count = count + 1;
	if (w->frame && w->frame == w->outer_frame) {
		w->c_frame = w->outer_c_frame;
		if (look_at_outer(w)) {
			r->status = STATUS_UNREADABLE;
			return 1;
		}
	}
	return 0;
}

static __always_inline u32 walk(struct walk *w, struct chain *r)
{
	w->interpreter = 0;
	w->thread = 0;
	w->c_frame = 0;
	w->frame = 0;
	w->found = 0;
	w->fault = 0;
	if (user_word(&w->interpreter, w->layout.head))
		return STATUS_UNREADABLE;
	if (!w->interpreter)
		return STATUS_NO_THREAD;
	if (user_word(&w->thread, w->interpreter + w->layout.interpreter_threads))
		return STATUS_UNREADABLE;
	bpf_loop(MAX_THREADS, find_thread, NULL, 0);
	if (w->fault)
		return STATUS_UNREADABLE;
	if (!w->found)
		return STATUS_NO_THREAD;
	if (user_word(&w->frame, w->thread + w->layout.thread_frame))
		return STATUS_UNREADABLE;
	if (w->layout.flags & THROUGH_C_FRAME) {
		w->c_frame = w->frame;
		if (!w->c_frame || user_word(&w->frame, w->c_frame + w->layout.c_frame_current))
			return STATUS_UNREADABLE;
	}
	if (look_at_outer(w))
		return STATUS_UNREADABLE;
	r->status = STATUS_COMPLETE;
	/* One more, to detect that there are too many. */
	bpf_loop(MAX_FRAMES + 1, follow, NULL, 0);
	return r->status;
}

/* Where the frames of a process are; NULL if it is no interpreter. */
static __always_inline struct layout *layout_of(u32 pid)
{
	return bpf_map_lookup_elem(&LAYOUTS, &pid);
}

static __always_inline void lose_chain(void)
{
	u32 zero = 0;
	u64 *lost = bpf_map_lookup_elem(&LOST, &zero);

	if (lost)
		*lost += 1;
}

/*
 * Writes the current thread's chain. Returns the time that identifies it, also if the ring had no
 * space.
 */
static __always_inline u64 write_chain(struct layout *layout, u32 pid, u32 tid,
				       u64 thread_pointer)
{
	struct chain *r;
	struct walk *w;
	u32 zero = 0, count;
	u64 size, time;

	w = bpf_map_lookup_elem(&WALK, &zero);
	r = bpf_map_lookup_elem(&CHAIN, &zero);
	if (!w || !r)
		return 0;
	if (w->busy) {
		lose_chain();
		return bpf_ktime_get_ns();
	}
	w->busy = 1;
	w->layout = *layout;
	w->thread_pointer = thread_pointer;
	r->pid = pid;
	r->tid = tid;
	r->count = 0;
	r->status = walk(w, r);
	count = r->count;
	if (count > MAX_FRAMES)
		count = MAX_FRAMES;
	size = sizeof(*r) - sizeof(r->frames) + (u64)count * sizeof(struct chain_frame);
	/* Close to the sample that comes next: a thousand frames take a while. */
	time = bpf_ktime_get_ns();
	r->time = time;
	if (bpf_ringbuf_output(&CHAINS, r, size, BPF_RB_NO_WAKEUP))
		lose_chain();
	w->busy = 0;
	return time;
}

#endif
