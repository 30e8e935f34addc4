/*
 * Walk the stack of a sampled thread and copy what user space needs to name it.
 *
 * A perf event per thread runs `sample`, whose cookie says which entry of `threads` it is. It takes
 * the user registers and the isolate's words, follows frame pointers, and emits one record (abi.h)
 * into `ring`. Its loops are calls of bpf_loop, of whose bodies the verifier has soon seen all.
 *
 * No names and no policy: what is copied is data (struct plan). What the walk knows of stacks:
 *
 *   leaf   native code      copied raw, from rsp to the newest V8 frame
 *          V8 frames        a row and slots each, from the exit frame or rbp to the entry frame
 *   bridge native code      copied raw, from the entry frame to the exit frame it saved
 *          V8 frames        ...
 *   root   native code      copied raw, from the outermost entry frame to the end of the stack
 *
 * An exit frame that is pending (st->exit) is believed over the chain from rbp, which native code
 * may use for data: what the chain gave before is dropped unless it crossed an entry frame that
 * saved the very same exit (V8 before 9 leaves c_entry_fp set while nested JavaScript runs).
 *
 * Needs Linux 5.17: bpf_loop; bpf_get_attach_cookie, bpf_task_pt_regs 5.15; ring buffer 5.8.
 * It must not be re-entered on a CPU: the kernel skips perf_event programs that would be.
 */
#include "abi.h"

#define SEC(name) __attribute__((section(name), used))
#define INLINE static __attribute__((always_inline)) inline

#define STEPS 4 /* frames per round of a loop, */
#define WORDS 8 /* and words: to call its body takes as long as some words, or a third of a frame */
#define MIN_LEAF_BYTES 1024 /* of a leaf that is C called by V8 without an exit frame */
#define ENTRY_BYTES 128 /* below the fp of an entry frame: its slots, with room to spare */

struct pt_regs {
	u64 words[21];
};
#define REG_R15 0
#define REG_RBP 4
#define REG_R9 8
#define REG_RIP 16
#define REG_CS 17
#define REG_RSP 19

/* Source: include/uapi/linux/bpf.h, at v6.12. */
static void *(*map_lookup)(void *map, const void *key) = (void *)1;
static long (*map_update)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static long (*map_delete)(void *map, const void *key) = (void *)3;
static u64 (*ktime_get_ns)(void) = (void *)5;
static u32 (*get_prandom_u32)(void) = (void *)7;
static u32 (*get_smp_processor_id)(void) = (void *)8;
static long (*tail_call)(void *context, void *map, u32 index) = (void *)12;
static u64 (*get_current_task)(void) = (void *)35;
static long (*get_stack)(void *context, void *to, u32 size, u64 flags) = (void *)67;
static long (*probe_read_user)(void *to, u32 size, const void *from) = (void *)112;
static long (*probe_read_kernel)(void *to, u32 size, const void *from) = (void *)113;
static long (*ringbuf_output)(void *ring, void *from, u64 size, u64 flags) = (void *)130;
static void *(*get_current_task_btf)(void) = (void *)158;
static u64 (*get_attach_cookie)(void *context) = (void *)174;
static void *(*task_pt_regs)(void *task) = (void *)175;
static long (*loop)(u32 count, void *body, void *context, u64 flags) = (void *)181;

#define RING_NO_WAKEUP 1 /* user space polls */

/* Maps: the loader creates them and puts their descriptors here. */
extern u32 plans, threads, scratch, steps, ring, stats, naps, tasks, counts;

/* Keep the compiler from forgetting that a bound was checked, or from checking something else. */
#define OPAQUE(x) asm volatile("" : "+r"(x))

/* Read memory again. */
#define FRESH(x) (*(volatile __typeof__(x) *)&(x))

/* What a body of a loop is given. It returns 1 to end the loop. */
struct walk {
	struct scratch *st;
	struct plan *plan;
	u64 stack_end;
};

INLINE void count(u32 index)
{
	u64 *value = map_lookup(&stats, &index);
	if (value)
		*value += 1;
}

/* What an object leads to; 0 if `word` is not a pointer to one. */
INLINE u64 follow(struct plan *plan, u64 word)
{
	u64 found = 0;
	if ((word & plan->tag_mask) != plan->tag)
		return 0;
	if (probe_read_user(&found, 8, (void *)(word - plan->tag + plan->follow_word)))
		return 0;
	return found;
}

/* Have the words around fp in st->chunk, of which st->window is their place; 0 if they cannot be
 * read. Frames are small and follow each other: one copy does for several. */
INLINE int load_window(struct scratch *st, u64 fp, u64 stack_end)
{
	u64 first = fp - WINDOW_BELOW;
	u64 at = first - st->chunk_start;
	if (at > CHUNK_BYTES - WINDOW_BYTES || at + WINDOW_BYTES > st->chunk_size) {
		u64 size = stack_end - first;
		if (size > CHUNK_BYTES)
			size = CHUNK_BYTES;
		if (size < WINDOW_BYTES)
			size = WINDOW_BYTES;
		OPAQUE(size);
		if (size > CHUNK_BYTES)
			return 0;
		st->chunk_start = first;
		st->chunk_size = size;
		if (probe_read_user(st->chunk, size, (void *)first)) {
			st->chunk_size = WINDOW_BYTES;
			if (probe_read_user(st->chunk, WINDOW_BYTES, (void *)first))
				st->chunk_size = 0;
		}
		at = 0;
	}
	st->window = at / 8;
	return FRESH(st->chunk_size) != 0;
}

INLINE u64 window_word(struct scratch *st, u32 index)
{
	u64 i = FRESH(st->window) + index;
	OPAQUE(i);
	if (i >= CHUNK_BYTES / 8)
		return 0;
	return st->chunk[i];
}

/* Remember a stretch of raw stack; 0 if there is no room for it. */
INLINE int add_piece(struct scratch *st, u64 first, u64 end)
{
	u64 i = st->header.pieces;
	OPAQUE(i);
	if (i >= MAX_PIECES)
		return 0;
	st->first[i] = first;
	st->end[i] = end;
	st->header.pieces = i + 1;
	return 1;
}

/* Take one frame. Returns 1 when the walk is over. */
INLINE int step(struct scratch *st, struct plan *plan, u64 stack_end)
{
	u64 fp = FRESH(st->fp), pc = FRESH(st->pc);
	u64 n = FRESH(st->header.frames);
	OPAQUE(n);
	if (n >= MAX_FRAMES) {
		st->header.flags |= TOO_DEEP;
		return 1;
	}
	int usable = fp > st->last && !(fp & 7) && fp < stack_end - 16;
	if (st->exit && (!usable || fp >= st->exit)) {
		if (!st->crossed)
			n = 0;
		if (fp != st->exit || !st->crossed)
			pc = 0;
		fp = st->exit;
		st->exit = 0;
		usable = 1;
	}
	if (!usable || !load_window(st, fp, stack_end)) {
		st->header.frames = n;
		if (!st->exit)
			return 1;
		st->fp = 0;
		return 0;
	}
	u64 marker = window_word(st, plan->marker_word);
	int is_entry = marker == plan->entry_markers[0] || marker == plan->entry_markers[1] ||
		       marker == plan->entry_markers[2] || marker == plan->entry_markers[3];
	u64 saved = 0;
	if (is_entry) {
#pragma unroll
		for (int i = 0; i < 4; i++) {
			u64 word = 0;
			if (!plan->saved_slots[i] || saved)
				continue;
			if (probe_read_user(&word, 8, (void *)(fp + (long)plan->saved_slots[i])))
				continue;
			saved = word;
		}
		/* Below a pending exit frame this is native code with a look-alike. */
		if (st->exit && saved != st->exit)
			is_entry = 0;
	}
	u64 words[5];
#pragma unroll
	for (int i = 0; i < 5; i++)
		words[i] = window_word(st, plan->words[i]);
	u64 identity = words[0], detail;
	if ((marker & plan->tag_mask) == plan->tag) {
		identity = follow(plan, words[1]);
		detail = words[3] & plan->detail_mask ? 0 : words[3];
	} else {
		identity = marker;
		detail = follow(plan, words[4]);
	}
	OPAQUE(n);
	if (n >= MAX_FRAMES)
		return 1;
	struct row *row = (struct row *)st->data + n;
	row->pc = pc;
	row->identity = identity;
	row->detail = detail;
	struct slots *slots = st->slots + n;
	slots->fp = fp;
#pragma unroll
	for (int i = 0; i < 5; i++)
		slots->words[i] = words[i];
	st->header.frames = n + 1;
	st->last = fp;
	if (!is_entry) {
		st->fp = window_word(st, WINDOW_BELOW / 8);
		st->pc = window_word(st, WINDOW_BELOW / 8 + 1);
		return 0;
	}
	if (!st->crossed && st->exit)
		st->leaf_end = 0;
	st->crossed = 1;
	int is_outermost = saved <= fp || saved >= stack_end;
	if (!add_piece(st, fp - ENTRY_BYTES, is_outermost ? stack_end : saved + WINDOW_BYTES - WINDOW_BELOW)) {
		st->header.flags |= TOO_DEEP;
		return 1;
	}
	if (is_outermost) {
		st->header.flags |= COMPLETE;
		return 1;
	}
	st->exit = 0;
	st->fp = saved;
	st->pc = 0;
	return 0;
}

SEC("loops/sample")
static long walk_on(u32 round, struct walk *walk)
{
	(void)round;
	struct scratch *st = walk->st;
	struct plan *plan = walk->plan;
	u64 stack_end = walk->stack_end;
	for (int i = 0; i < STEPS; i++)
		if (step(st, plan, stack_end))
			return 1;
	return 0;
}

/* The hash is in memory for the verifier's sake: see FRESH. */
INLINE void mix(struct scratch *st, u64 word)
{
	u64 hash = (FRESH(st->key) ^ word) * 0x9e3779b97f4a7c15ull;
	FRESH(st->key) = hash ^ hash >> 29;
}

INLINE int is_code(struct plan *plan, u64 word)
{
	return word - plan->code_starts[0] < plan->code_sizes[0] ||
	       word - plan->code_starts[1] < plan->code_sizes[1] ||
	       word - plan->code_starts[2] < plan->code_sizes[2] ||
	       word - plan->code_starts[3] < plan->code_sizes[3];
}

/* Take rows into the key; none is made of code where we know of none. */
SEC("loops/send")
static long mix_rows(u32 round, struct walk *walk)
{
	struct scratch *st = walk->st;
	struct plan *plan = walk->plan;
	for (int k = 0; k < STEPS; k++) {
		u64 i = STEPS * round + k;
		OPAQUE(i);
		if (i >= FRESH(st->header.frames) || i >= MAX_COUNTED_FRAMES)
			return 1;
		struct row *row = (struct row *)st->data + i;
		if (i && row->pc && !is_code(plan, row->pc)) {
			st->is_counted = 0;
			return 1;
		}
		mix(st, i ? row->pc : 0);
		mix(st, row->identity);
		mix(st, row->detail);
	}
	return 0;
}

/* Words of a record: [first, end), counted in bytes from its start. */
struct words {
	struct scratch *st;
	struct plan *plan;
	u64 first;
	u64 end;
};

INLINE long mix_words(u32 round, struct words *words, int only_addresses)
{
	struct scratch *st = words->st;
	struct plan *plan = words->plan;
	for (int i = 0; i < WORDS; i++) {
		u64 at = FRESH(words->first) + 8 * (WORDS * round + i);
		OPAQUE(at);
		if (at >= FRESH(words->end) || at > sizeof(struct header) + DATA_BYTES + MAX_PIECE_BYTES)
			return 1;
		u64 word = *(u64 *)((u8 *)st + (at & ~7ull));
		if (!only_addresses || is_code(plan, word))
			mix(st, word);
	}
	return 0;
}

SEC("loops/send")
static long mix_all(u32 round, struct words *words)
{
	return mix_words(round, words, 0);
}

/* Take only what may be return addresses. */
SEC("loops/send")
static long mix_addresses(u32 round, struct words *words)
{
	return mix_words(round, words, 1);
}

/* All that the names of a stack can depend on, as one number; 0: too large, or code where we know
 * of none. Of raw stack that is each word which may be a return address: other words differ from
 * sample to sample, and names do not follow from them. */
INLINE u64 make_key(struct walk *walk)
{
	struct scratch *st = walk->st;
	u64 n = st->header.frames;
	u64 pieces_at = n * (sizeof(struct row) + sizeof(struct slots));
	u64 raw_bytes = st->offset - pieces_at;
	u64 *regs = st->header.regs;
	if (!n || n > MAX_COUNTED_FRAMES || raw_bytes > 8 * MAX_COUNTED_WORDS)
		return 0;
	if (st->in_kernel == 0 && !is_code(walk->plan, regs[REG_RIP]))
		return 0;
	st->key = st->header.thread;
	mix(st, regs[REG_RIP]);
	mix(st, st->slots[0].fp - regs[REG_RSP]);
	mix(st, st->header.flags);
	if (!st->leaf_end) {
		/* In V8's own code: the function that is being entered, and how far the interpreter is. */
		mix(st, st->header.followed[0]);
		mix(st, st->header.followed[1]);
		if (((struct row *)st->data)->detail) {
			mix(st, regs[REG_R9]);
			mix(st, regs[REG_R15]);
		}
		mix(st, st->slots[0].words[2]);
	}
	st->is_counted = 1;
	loop(MAX_COUNTED_FRAMES / STEPS, mix_rows, walk, 0);
	if (!FRESH(st->is_counted))
		return 0;
	u64 end = sizeof(struct header) + st->offset;
	struct words raw = { st, walk->plan, sizeof(struct header) + pieces_at, end };
	loop(MAX_COUNTED_WORDS / WORDS, mix_addresses, &raw, 0);
	struct words kernel = { st, walk->plan, end, end + st->header.kernel_bytes };
	loop(MAX_KERNEL_FRAMES / WORDS + 1, mix_all, &kernel, 0);
	u64 isolate_at = __builtin_offsetof(struct header, isolate);
	struct words isolate = { st, walk->plan, isolate_at, isolate_at + st->header.isolate_bytes };
	loop(2 * MAX_ISOLATE_BYTES / 8 / WORDS, mix_all, &isolate, 0);
	return FRESH(st->key) | 1;
}

/* Count a stack. Returns 1 if it has been sent before. */
INLINE int is_counted(u64 key)
{
	u64 *value = map_lookup(&counts, &key);
	if (value) {
		__sync_fetch_and_add(value, 1);
		return 1;
	}
	return 0;
}

/* Copy a piece, or, where a page of it was never touched, a part of it. What changes from piece to
 * piece is kept in memory, of which the verifier knows nothing. */
SEC("loops/sample")
static long copy_piece(u32 round, struct walk *walk)
{
	(void)round;
	struct scratch *st = walk->st;
	u64 stack_end = walk->stack_end;
	u64 i = FRESH(st->piece);
	u64 offset = FRESH(st->offset);
	if (i >= FRESH(st->wanted) || i >= MAX_PIECES)
		return 1;
	u64 first = st->first[i], end = st->end[i];
	if (end > stack_end)
		end = stack_end;
	u64 size = end > first ? (end - first) & ~7ull : 0;
	OPAQUE(size);
	if (size > MAX_PIECE_BYTES)
		size = MAX_PIECE_BYTES;
	OPAQUE(offset);
	if (offset > DATA_BYTES) {
		st->header.flags |= TOO_DEEP;
		return 1;
	}
	struct piece *piece = (struct piece *)(st->data + offset);
	st->piece = i + 1;
	if (probe_read_user(piece + 1, size, (void *)first)) {
		/* Go on page by page. What cannot be read is 0. */
		u64 page = PAGE_BYTES - (first & (PAGE_BYTES - 8));
		if (size > page) {
			size = page;
			st->first[i] = first + page;
			st->piece = i;
		}
		OPAQUE(size);
		if (size > PAGE_BYTES)
			return 1;
		probe_read_user(piece + 1, size, (void *)first);
	}
	piece->address = first;
	piece->size = size;
	st->offset = offset + sizeof(*piece) + size;
	st->header.pieces++;
	return 0;
}

/* Put the slots, the pieces and the stack in the kernel behind the rows. Returns 1 if it failed. */
INLINE int complete(void *context, struct walk *walk)
{
	struct scratch *st = walk->st;
	u64 n = st->header.frames;
	OPAQUE(n);
	if (n > MAX_FRAMES)
		return 1;
	u64 rsp = st->header.regs[REG_RSP] & ~7ull;
	u64 leaf_end = st->leaf_end;
	if (!leaf_end) {
		/* No exit frame: raw up to the newest frame, or, where there is no chain, all of it. */
		u64 rbp_end = st->header.regs[REG_RBP] + WINDOW_BYTES - WINDOW_BELOW;
		leaf_end = rsp + MIN_LEAF_BYTES;
		if (!(st->header.flags & (COMPLETE | TOO_DEEP)))
			leaf_end = rsp + MAX_PIECE_BYTES;
		else if (rbp_end > leaf_end)
			leaf_end = rbp_end;
	}
	st->first[0] = rsp;
	st->end[0] = leaf_end;
	u64 offset = n * sizeof(struct row);
	OPAQUE(offset);
	if (offset > MAX_FRAMES * sizeof(struct row))
		return 1;
	probe_read_kernel(st->data + offset, n * sizeof(struct slots), st->slots);
	st->offset = n * (sizeof(struct row) + sizeof(struct slots));
	st->piece = 0;
	st->wanted = st->header.pieces;
	st->header.pieces = 0;
	loop(MAX_PIECES * (1 + MAX_PIECE_BYTES / PAGE_BYTES), copy_piece, walk, 0);
	offset = FRESH(st->offset);
	OPAQUE(offset);
	if (offset > DATA_BYTES + sizeof(struct piece) + MAX_PIECE_BYTES)
		return 1;
	long kernel = 0;
	if (st->in_kernel)
		kernel = get_stack(context, st->data + offset, 8 * MAX_KERNEL_FRAMES, 0);
	st->header.kernel_bytes = kernel < 0 ? 0 : kernel;
	return 0;
}

/* Send the record, or count it if it is as one that was sent. */
SEC("perf_event/send")
int send(void *context)
{
	(void)context;
	u32 cpu = get_smp_processor_id();
	struct scratch *st = map_lookup(&scratch, &cpu);
	if (!st)
		return 0;
	u32 index = st->header.thread;
	struct thread *thread = map_lookup(&threads, &index);
	if (!thread)
		return 0;
	index = thread->plan;
	struct plan *plan = map_lookup(&plans, &index);
	if (!plan)
		return 0;
	st->header.key = 0;
	if (st->header.flags & SWITCHED) {
		st->header.key = (u64)thread->skip_mask + 1;
	} else if (plan->is_counting) {
		struct walk walk = { st, plan, thread->stack_end };
		u64 key = make_key(&walk);
		if (key && is_counted(key))
			return 0;
		u64 none = 0;
		if (key && !map_update(&counts, &key, &none, 0))
			st->header.key = key;
	}
	u64 size = sizeof(struct header) + FRESH(st->offset) + st->header.kernel_bytes;
	OPAQUE(size);
	if (size > sizeof(struct header) + sizeof(st->data))
		return 0;
	if (ringbuf_output(&ring, st, size, RING_NO_WAKEUP)) {
		count(STAT_RING_FULL);
		u64 key = st->header.key;
		if (key)
			map_delete(&counts, &key);
	}
	return 0;
}

/* Note that the thread stops running. Returns 1 if its stack is to be walked. */
INLINE int begin_nap(struct nap *nap, u32 index, u64 now, u32 skip_mask)
{
	u64 task = get_current_task();
	if (nap->task != task) {
		/* From here on `switched` knows it. It saw this very switch before us, in vain. */
		nap->task = task;
		nap->state = 0;
		map_update(&tasks, &task, &index, 0);
	}
	nap->switches++;
	nap->since_ns = now;
	nap->is_walked = !(get_prandom_u32() & skip_mask);
	return nap->is_walked;
}

/* The tracepoint sched_switch, of all tasks: why one of ours stops, and when it runs again.
 * The arguments are those of its prototype; prev_state came with Linux 5.18. */
SEC("raw_tp/switched")
int switched(u64 *arguments)
{
	u64 task = arguments[1];
	u32 *index = map_lookup(&tasks, &task);
	if (index) {
		struct nap *nap = map_lookup(&naps, index);
		u32 state = arguments[3];
		if (nap)
			nap->state = arguments[0] || !state ? NAP_PREEMPTED : state & 0x7fff;
		if (state & NAP_DEAD)
			map_delete(&tasks, &task);
	}
	task = arguments[2];
	index = map_lookup(&tasks, &task);
	if (!index)
		return 0;
	struct nap *nap = map_lookup(&naps, index);
	if (!nap || !nap->since_ns)
		return 0;
	struct thread *thread = map_lookup(&threads, index);
	if (!thread)
		return 0;
	struct wake wake = { ktime_get_ns(), nap->since_ns, *index, nap->is_walked };
	nap->since_ns = 0;
	if (!wake.is_walked && wake.time_ns - wake.since_ns < thread->period_ns)
		return 0;
	if (ringbuf_output(&ring, &wake, sizeof(wake), RING_NO_WAKEUP))
		count(STAT_RING_FULL);
	return 0;
}

SEC("perf_event/sample")
int sample(struct pt_regs *context)
{
	u32 cpu = get_smp_processor_id();
	struct scratch *st = map_lookup(&scratch, &cpu);
	if (!st)
		return 0;
	u32 cookie = get_attach_cookie(context);
	u32 index = cookie & (SWITCH_COOKIE - 1);
	struct thread *thread = map_lookup(&threads, &index);
	if (!thread)
		return 0;
	u64 now = ktime_get_ns();
	u32 flags = 0;
	if (cookie & SWITCH_COOKIE) {
		struct nap *nap = map_lookup(&naps, &index);
		if (!nap || !begin_nap(nap, index, now, thread->skip_mask))
			return 0;
		flags = SWITCHED | (u32)nap->state << 16;
	} else {
		count(STAT_TICKS);
	}
	st->header.time_ns = now;
	st->header.thread = index;
	index = thread->plan;
	struct plan *plan = map_lookup(&plans, &index);
	if (!plan)
		return 0;
	st->in_kernel = (context->words[REG_CS] & 3) != 3;
	if (st->in_kernel) {
		void *regs = (void *)task_pt_regs(get_current_task_btf());
		probe_read_kernel(st->header.regs, sizeof(st->header.regs), regs);
		if ((st->header.regs[REG_CS] & 3) != 3) {
			count(STAT_NO_USER);
			return 0;
		}
	} else {
#pragma unroll
		for (int i = 0; i < 21; i++)
			st->header.regs[i] = context->words[i];
	}
	u64 isolate = thread->isolate;
	u64 stack_end = thread->stack_end;
	u64 rsp = st->header.regs[REG_RSP];
	st->header.flags = flags;
	void *below = (void *)((rsp & ~7ull) - RED_ZONE_BYTES);
	if (!probe_read_user(st->header.red_zone, RED_ZONE_BYTES, below))
		st->header.flags |= RED_ZONE;
	st->header.frames = 0;
	st->header.isolate_bytes = 0;
	st->exit = 0;
	if (isolate) {
		u64 size = plan->isolate_size[0], more = plan->isolate_size[1];
		OPAQUE(size);
		OPAQUE(more);
		if (size > MAX_ISOLATE_BYTES || more > MAX_ISOLATE_BYTES)
			return 0;
		void *from = (void *)(isolate + plan->isolate_start[0]);
		if (!probe_read_user(st->header.isolate, size, from)) {
			from = (void *)(isolate + plan->isolate_start[1]);
			if (!more || !probe_read_user(st->header.isolate + size, more, from))
				st->header.isolate_bytes = size + more;
		}
#pragma unroll
		for (int i = 0; i < 4; i++) {
			u64 word = 0;
			if (plan->exit_slots[i] < 0 || st->exit)
				continue;
			from = (void *)(isolate + (long)plan->exit_slots[i]);
			if (probe_read_user(&word, 8, from))
				continue;
			st->exit = word;
		}
		if (st->exit <= rsp || st->exit >= stack_end)
			st->exit = 0;
	}
#pragma unroll
	for (int i = 0; i < 2; i++) {
		u64 which = plan->follow_registers[i];
		OPAQUE(which);
		st->header.followed[i] = which < 21 ? follow(plan, st->header.regs[which]) : 0;
	}
	st->leaf_end = st->exit ? st->exit + WINDOW_BYTES - WINDOW_BELOW : 0;
	st->fp = st->header.regs[REG_RBP];
	st->pc = st->header.regs[REG_RIP];
	st->last = rsp - 1;
	st->crossed = 0;
	st->chunk_size = 0;
	st->header.pieces = 1;
	struct walk walk = { st, plan, stack_end };
	loop(MAX_FRAMES / STEPS + 1, walk_on, &walk, 0);
	if (!complete(context, &walk))
		tail_call(context, &steps, STEP_SEND);
	return 0;
}

/* Compared with its own numbers by who loads this object: it may be an old one. */
SEC("abi") const u32 abi_[] = { sizeof(struct header), sizeof(struct scratch), sizeof(struct plan) };

/* The helpers for stacks and for reading are for programs under the GPL; this file, and only this
 * file, may be used under it as well as under the project's licence. */
SEC("license") char license_[] = "Dual MIT/GPL";
