/*
 * What walk.bpf.c and src/jsspy/engines/ebpf.py tell each other: map values and records.
 *
 * All integers are little-endian and naturally aligned. Each structure is described once here and
 * once in Python; tests/unit/engines/test_abi.py compares every size and offset.
 */
#ifndef JSSPY_ABI_H
#define JSSPY_ABI_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int s32;
typedef unsigned long long u64;

#define MAX_FRAMES 2400 /* rows per record */
#define MAX_PIECES 32 /* raw copies per record: the leaf and 31 bridges between C++ and V8 */
#define MAX_PIECE_BYTES 32768 /* per raw copy */
#define MAX_KERNEL_FRAMES 127
#define RED_ZONE_BYTES 128
#define MAX_THREADS 4096
#define MAX_COUNTED 16384 /* stacks */
#define MAX_COUNTED_FRAMES 200 /* larger stacks are not counted but sent each time */
#define MAX_COUNTED_WORDS 600 /* of raw stack */
#define MAX_PLANS 256
#define WINDOW_BYTES 72 /* read around each fp: [fp - 40, fp + 32) */
#define WINDOW_BELOW 40
#define CHUNK_BYTES 1024 /* of the stack, copied at a time while walking */
#define MAX_ISOLATE_BYTES 256 /* per window of the isolate */

/* Value of the array `plans`: a CapturePlan. */
struct plan {
	u64 entry_markers[4]; /* unused ones repeat the first */
	u64 tag;
	u64 tag_mask;
	u64 detail_mask; /* the detail word counts if it has none of these bits */
	u32 isolate_start[2];
	u32 isolate_size[2]; /* at most MAX_ISOLATE_BYTES each */
	s32 exit_slots[4]; /* from the isolate, in the order in which they are believed; -1: unused */
	s32 saved_slots[4]; /* from the fp of an entry frame, likewise; 0: unused */
	u32 words[5]; /* marker, function, array, detail, target: index into the window */
	u32 marker_word; /* the word that tells entry frames, likewise */
	u32 follow_word; /* offset of the word that is read from a followed object */
	s32 follow_registers[2]; /* index into regs; -1: unused */
	u32 is_counting; /* send each stack once and count it from then on */
	u64 code_starts[4]; /* where code is; unused ones have no size */
	u64 code_sizes[4];
};
_Static_assert(sizeof(struct plan) == 208, "struct plan");

/* Value of the array `threads`; the index is the cookie of the thread's event. */
struct thread {
	u64 isolate; /* 0: none */
	u64 stack_end;
	u32 plan;
	u32 skip_mask; /* of switches: walk the stack if a random number has none of these bits */
	u64 period_ns; /* a nap as long as that is told of even if no stack was walked */
};
_Static_assert(sizeof(struct thread) == 32, "struct thread");

/* Value of the array `naps`, by thread: since when it does not run. Of the program. */
struct nap {
	u64 task; /* its task_struct, the key of `tasks`; 0: not met yet */
	u64 since_ns; /* 0: it runs */
	u32 switches; /* away from it, ever */
	u16 state; /* task state, or NAP_PREEMPTED, of the last switch */
	u16 is_walked; /* a record with the stack was made */
};
_Static_assert(sizeof(struct nap) == 24, "struct nap");

/* A record that says that a thread runs again. */
struct wake {
	u64 time_ns;
	u64 since_ns;
	u32 thread;
	u32 is_walked;
};
_Static_assert(sizeof(struct wake) == 24, "struct wake");

#define NAP_PREEMPTED 0x8000u /* it could have run on */
#define NAP_DEAD 0x80u /* TASK_DEAD; Source: include/linux/sched.h, at v6.12 */
#define SWITCH_COOKIE 0x10000u /* in the cookie of an event that counts switches */

/* A record is a header, `frames` rows, as many slots, `pieces` times a piece with its bytes, and
 * `kernel_bytes` of return addresses in the kernel, leaf first. */
struct header {
	u64 time_ns; /* CLOCK_MONOTONIC */
	u32 thread;
	u32 flags;
	u32 frames;
	u32 pieces;
	u32 kernel_bytes;
	u32 isolate_bytes; /* 0 if they could not be read */
	u64 key; /* in `counts`, where this stack is counted from now on; 0: it is not. If SWITCHED:
		  * of how many switches one was walked */
	u64 regs[21]; /* struct pt_regs */
	u64 followed[2]; /* what follow_registers lead to; 0: nothing */
	u8 isolate[2 * MAX_ISOLATE_BYTES]; /* both windows back to back */
	u8 red_zone[RED_ZONE_BYTES]; /* right below rsp */
};
_Static_assert(sizeof(struct header) == 40 + 168 + 16 + 512 + 128, "struct header");

#define COMPLETE 1u /* the walk ended at the outermost entry frame */
#define TOO_DEEP 2u /* more frames or bridges than a record holds */
#define RED_ZONE 4u /* the red zone could be read */
#define SWITCHED 8u /* taken as the thread left its CPU; the upper half is nap.state */

/* What a frame is, without what changes from call to call. */
struct row {
	u64 pc; /* a return address, but for the newest frame; 0: not known (bridges) */
	u64 identity; /* the marker, or what the function leads to (0: not readable) */
	u64 detail; /* the detail word; of frames with a marker: what the target leads to */
};
_Static_assert(sizeof(struct row) == 24, "struct row");

/* The words of that frame as they were. */
struct slots {
	u64 fp;
	u64 words[5]; /* as in struct plan */
};
_Static_assert(sizeof(struct slots) == 48, "struct slots");

/* A copy of [address, address + size) of the stack. size is a multiple of 8. */
struct piece {
	u64 address;
	u64 size;
};
_Static_assert(sizeof(struct piece) == 16, "struct piece");

/* Value of the array `scratch`, one per CPU: the record that is being made, and the walk. */
#define DATA_BYTES 262144 /* start of the last piece; rows and slots take 172,800 */
#define PAGE_BYTES 4096
struct scratch {
	struct header header;
	u8 data[DATA_BYTES + sizeof(struct piece) + MAX_PIECE_BYTES + PAGE_BYTES];
	struct slots slots[MAX_FRAMES];
	u64 chunk[CHUNK_BYTES / 8]; /* of the stack, from chunk_start on */
	u64 chunk_start;
	u64 chunk_size;
	u64 window; /* index in chunk of the words around the frame at hand */
	u64 fp; /* of the frame that comes next */
	u64 pc;
	u64 last; /* fp of the frame before */
	u64 exit; /* fp of the exit frame that comes next; 0: none */
	u64 leaf_end;
	u64 first[MAX_PIECES];
	u64 end[MAX_PIECES];
	u64 piece; /* that comes next */
	u64 wanted; /* pieces */
	u64 offset; /* in data, where it goes */
	u64 key; /* being made */
	u32 crossed;
	u32 in_kernel;
	u64 is_counted;
};
_Static_assert(sizeof(struct scratch) == 864 + 299024 + 115200 + 1024 + 24 + 40 + 512 + 16 + 32, "struct scratch");

/* Index of the program array `steps`. */
#define STEP_SEND 0u

/* Indexes of the per-CPU array `stats`. */
#define STAT_TICKS 0u /* the clock struck */
#define STAT_RING_FULL 1u /* no room for the record */
#define STAT_NO_USER 2u /* the thread has no user registers: it is ending */
#define STAT_COUNT 3u

#endif
