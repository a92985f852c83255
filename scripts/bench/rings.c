// The baseline of rings.mjs: both sides of a split and of a packed virtqueue in one process, in C11, with the same algorithm, the same checks of the
// other side and the same loop. Usage: rings split|packed FRAMES. Prints one JSON line. Measures the rings; it is no driver.

#define _POSIX_C_SOURCE 200809L
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SIZE = 256, MASK = SIZE - 1, BATCH = 32, FRAME = 64 };
enum { F_NEXT = 1, F_WRITE = 2, F_INDIRECT = 4, F_AVAIL = 0x80, F_USED = 0x8000 };

struct descriptor {
  uint64_t addr;
  uint32_t len;
  uint16_t low; /* split: flags; packed: id */
  _Atomic uint16_t high; /* split: next; packed: flags */
};
struct available {
  _Atomic uint16_t flags, idx;
  uint16_t ring[SIZE];
  _Atomic uint16_t used_event;
};
struct used_element {
  uint32_t id, len;
};
struct used {
  _Atomic uint16_t flags, idx;
  struct used_element ring[SIZE];
  _Atomic uint16_t avail_event;
};
struct event {
  _Atomic uint16_t position, flags;
};
struct queue {
  struct descriptor desc[SIZE];
  struct available avail;
  struct used used;
  struct event driver_event, device_event;
};

struct segment {
  uint64_t addr;
  uint32_t len;
  bool writes;
};
struct chain {
  unsigned id, count, readable, slots;
  uint64_t readable_length, writable_length;
  uint64_t addr[SIZE];
  uint32_t len[SIZE];
};

struct driver {
  struct queue *q;
  struct chain staged;
  uint16_t next[SIZE], last[SIZE], slots[SIZE], free_ids[SIZE];
  int32_t token[SIZE];
  uint64_t writable[SIZE], sequence[SIZE];
  unsigned first_free, free_count, free_id_count;
  uint64_t committed, published, taken, used_seen;
  unsigned avail_at, avail_wrap, used_at, used_wrap, held_at, held_slots;
  int held_flags;
  uint32_t used_length;
};
struct device {
  struct queue *q;
  struct chain chain;
  int64_t writable[SIZE];
  uint16_t slots[SIZE], buffer_id[SIZE], free_entries[SIZE];
  unsigned free_entry_count;
  uint16_t loaded, avail_seen, completed, published;
  unsigned avail_at, avail_wrap, used_at, used_wrap, taken_slots, held_at, held_slots;
  int held_flags;
};

static void broken(const char *what) {
  fprintf(stderr, "ring broken: %s\n", what);
  exit(1);
}

static uint16_t acquire(_Atomic uint16_t *at) { return atomic_load_explicit(at, memory_order_acquire); }
static uint16_t plain(_Atomic uint16_t *at) { return atomic_load_explicit(at, memory_order_relaxed); }
static void put(_Atomic uint16_t *at, uint16_t value) { atomic_store_explicit(at, value, memory_order_relaxed); }
/* A release that is ordered with the load of the other side's wish, as in the rings under test. */
static void announce(_Atomic uint16_t *at, uint16_t value) { atomic_store_explicit(at, value, memory_order_seq_cst); }

static void chain_begin(struct chain *c) {
  c->count = c->readable = c->slots = 0;
  c->readable_length = c->writable_length = 0;
}

static void chain_add(struct chain *c, uint64_t addr, uint32_t len, bool writes) {
  if (c->count == SIZE) broken("too long");
  if (writes) {
    c->writable_length += len;
  } else {
    if (c->count != c->readable) broken("readable after writable");
    c->readable++;
    c->readable_length += len;
  }
  if (c->readable_length + c->writable_length > (uint64_t)1 << 32) broken("more than 2^32 bytes");
  if (addr + len < addr) broken("passes 2^64");
  c->addr[c->count] = addr;
  c->len[c->count++] = len;
}

/* ---- split ---- */

static void split_driver_commit(struct driver *d, int32_t token) {
  struct chain *c = &d->staged;
  if (c->count > d->free_count) broken("full");
  unsigned head = d->first_free, at = head;
  for (unsigned i = 0;; i++) {
    struct descriptor *to = &d->q->desc[at];
    to->addr = c->addr[i];
    to->len = c->len[i];
    to->low = i < c->readable ? 0 : F_WRITE;
    if (i == c->count - 1) break;
    to->low |= F_NEXT;
    at = d->next[at];
    put(&to->high, (uint16_t)at);
  }
  d->first_free = d->next[at];
  d->free_count -= c->count;
  d->token[head] = token;
  d->last[head] = (uint16_t)at;
  d->slots[head] = (uint16_t)c->count;
  d->writable[head] = c->writable_length;
  d->sequence[head] = d->committed;
  d->q->avail.ring[d->committed++ & MASK] = (uint16_t)head;
  chain_begin(c);
}

static bool split_driver_publish(struct driver *d) {
  if (d->committed == d->published) return false;
  d->published = d->committed;
  announce(&d->q->avail.idx, (uint16_t)d->published);
  return (atomic_load(&d->q->used.flags) & 1) == 0;
}

static int32_t split_driver_take(struct driver *d) {
  if (d->taken == d->used_seen) {
    uint16_t ahead = (uint16_t)(acquire(&d->q->used.idx) - d->taken);
    if (ahead > d->published - d->taken) broken("used index");
    d->used_seen = d->taken + ahead;
    if (ahead == 0) return -1;
  }
  struct used_element e = d->q->used.ring[d->taken & MASK];
  if (e.id >= SIZE || d->token[e.id] < 0 || d->sequence[e.id] >= d->published) broken("used id");
  if (e.len > d->writable[e.id]) broken("used length");
  d->used_length = e.len;
  int32_t token = d->token[e.id];
  d->next[d->last[e.id]] = (uint16_t)d->first_free;
  d->first_free = e.id;
  d->free_count += d->slots[e.id];
  d->token[e.id] = -1;
  d->taken++;
  return token;
}

static bool split_device_next(struct device *v) {
  if (v->loaded == v->avail_seen) {
    uint16_t index = acquire(&v->q->avail.idx), ahead = (uint16_t)(index - v->published);
    if (ahead > SIZE || ahead < (uint16_t)(v->loaded - v->published)) broken("available index");
    v->avail_seen = index;
    if (index == v->loaded) return false;
  }
  unsigned head = v->q->avail.ring[v->loaded & MASK], at = head;
  if (head >= SIZE || v->writable[head] >= 0) broken("head");
  chain_begin(&v->chain);
  v->chain.id = head;
  for (;;) {
    struct descriptor *from = &v->q->desc[at];
    uint64_t addr = from->addr;
    uint32_t len = from->len;
    uint16_t flags = from->low, next = plain(&from->high);
    if (flags & F_INDIRECT) broken("indirect");
    chain_add(&v->chain, addr, len, (flags & F_WRITE) != 0);
    v->chain.slots++;
    if (!(flags & F_NEXT)) break;
    if ((at = next) >= SIZE) broken("next");
  }
  v->writable[head] = (int64_t)v->chain.writable_length;
  v->loaded++;
  return true;
}

static void split_device_complete(struct device *v, unsigned id, uint32_t written) {
  if (id >= SIZE || v->writable[id] < 0 || written > v->writable[id]) broken("own mistake");
  v->q->used.ring[v->completed++ & MASK] = (struct used_element){id, written};
  v->writable[id] = -1;
}

static bool split_device_publish(struct device *v) {
  if (v->completed == v->published) return false;
  v->published = v->completed;
  announce(&v->q->used.idx, v->published);
  return (atomic_load(&v->q->avail.flags) & 1) == 0;
}

/* ---- packed ---- */

static void packed_driver_commit(struct driver *d, int32_t token) {
  struct chain *c = &d->staged;
  if (c->count > d->free_count) broken("full");
  unsigned id = d->free_ids[--d->free_id_count];
  for (unsigned i = 0; i < c->count; i++) {
    struct descriptor *to = &d->q->desc[d->avail_at];
    uint16_t flags = (uint16_t)((i < c->readable ? 0 : F_WRITE) | (i == c->count - 1 ? 0 : F_NEXT) | (d->avail_wrap ? F_AVAIL : F_USED));
    to->addr = c->addr[i];
    to->len = c->len[i];
    to->low = (uint16_t)id;
    if (d->held_flags < 0) {
      d->held_flags = flags;
      d->held_at = d->avail_at;
    } else {
      put(&to->high, flags);
    }
    if (++d->avail_at == SIZE) {
      d->avail_at = 0;
      d->avail_wrap ^= 1;
    }
  }
  d->held_slots += c->count;
  d->free_count -= c->count;
  d->token[id] = token;
  d->slots[id] = (uint16_t)c->count;
  d->writable[id] = c->writable_length;
  d->sequence[id] = d->committed++;
  chain_begin(c);
}

static bool packed_driver_publish(struct driver *d) {
  if (d->held_flags < 0) return false;
  uint16_t flags = (uint16_t)d->held_flags;
  d->published = d->committed;
  d->held_flags = -1;
  d->held_slots = 0;
  announce(&d->q->desc[d->held_at].high, flags);
  return (atomic_load(&d->q->device_event.flags) & 3) != 1;
}

static int32_t packed_driver_take(struct driver *d) {
  struct descriptor *from = &d->q->desc[d->used_at];
  uint16_t flags = acquire(&from->high);
  if ((flags & (F_AVAIL | F_USED)) != (d->used_wrap ? F_AVAIL | F_USED : 0)) return -1;
  uint32_t len = from->len;
  unsigned id = from->low;
  if (id >= SIZE || d->token[id] < 0 || d->sequence[id] >= d->published) broken("used id");
  if (len > d->writable[id]) broken("used length");
  d->used_length = len;
  int32_t token = d->token[id];
  d->free_ids[d->free_id_count++] = (uint16_t)id;
  d->token[id] = -1;
  d->free_count += d->slots[id];
  d->taken++;
  d->used_at += d->slots[id];
  if (d->used_at >= SIZE) {
    d->used_at -= SIZE;
    d->used_wrap ^= 1;
  }
  return token;
}

static bool packed_device_next(struct device *v) {
  unsigned at = v->avail_at, owner = v->avail_wrap ? F_AVAIL : F_USED;
  uint16_t flags = acquire(&v->q->desc[at].high);
  if ((flags & (F_AVAIL | F_USED)) != owner) return false;
  if (flags & F_INDIRECT) broken("indirect");
  chain_begin(&v->chain);
  uint16_t buffer_id;
  for (;;) {
    struct descriptor *from = &v->q->desc[at];
    if (v->taken_slots + v->chain.slots == SIZE) broken("list too long");
    v->chain.slots++;
    chain_add(&v->chain, from->addr, from->len, (flags & F_WRITE) != 0);
    if (!(flags & F_NEXT)) {
      buffer_id = from->low;
      break;
    }
    if (++at == SIZE) {
      at = 0;
      owner ^= F_AVAIL | F_USED;
    }
    flags = plain(&v->q->desc[at].high);
    if ((flags & (F_AVAIL | F_USED)) != owner || (flags & F_INDIRECT)) broken("list");
  }
  unsigned entry = v->free_entries[--v->free_entry_count];
  v->chain.id = entry;
  v->buffer_id[entry] = buffer_id;
  v->slots[entry] = (uint16_t)v->chain.slots;
  v->writable[entry] = (int64_t)v->chain.writable_length;
  v->taken_slots += v->chain.slots;
  v->avail_at += v->chain.slots;
  if (v->avail_at >= SIZE) {
    v->avail_at -= SIZE;
    v->avail_wrap ^= 1;
  }
  return true;
}

static void packed_device_complete(struct device *v, unsigned id, uint32_t written) {
  if (id >= SIZE || v->writable[id] < 0 || written > v->writable[id]) broken("own mistake");
  struct descriptor *to = &v->q->desc[v->used_at];
  uint16_t flags = (uint16_t)((v->used_wrap ? F_AVAIL | F_USED : 0) | (written ? F_WRITE : 0));
  to->len = written;
  to->low = v->buffer_id[id];
  if (v->held_flags < 0) {
    v->held_flags = flags;
    v->held_at = v->used_at;
  } else {
    put(&to->high, flags);
  }
  v->held_slots += v->slots[id];
  v->used_at += v->slots[id];
  if (v->used_at >= SIZE) {
    v->used_at -= SIZE;
    v->used_wrap ^= 1;
  }
  v->free_entries[v->free_entry_count++] = (uint16_t)id;
  v->writable[id] = -1;
}

static bool packed_device_publish(struct device *v) {
  if (v->held_flags < 0) return false;
  uint16_t flags = (uint16_t)v->held_flags;
  v->taken_slots -= v->held_slots;
  v->held_flags = -1;
  v->held_slots = 0;
  announce(&v->q->desc[v->held_at].high, flags);
  return (atomic_load(&v->q->driver_event.flags) & 3) != 1;
}

/* ---- the loop ---- */

static void *make(size_t bytes) {
  void *memory = aligned_alloc(64, (bytes + 63) & ~(size_t)63);
  if (memory == NULL) exit(1);
  memset(memory, 0, bytes);
  return memory;
}

static struct driver *make_driver(struct queue *q) {
  struct driver *d = make(sizeof *d);
  d->q = q;
  for (unsigned i = 0; i < SIZE; i++) {
    d->next[i] = (i + 1) & MASK;
    d->token[i] = -1;
    d->free_ids[d->free_id_count++] = (uint16_t)(SIZE - 1 - i);
  }
  d->free_count = SIZE;
  d->avail_wrap = d->used_wrap = 1;
  d->held_flags = -1;
  return d;
}

static struct device *make_device(struct queue *q) {
  struct device *v = make(sizeof *v);
  v->q = q;
  for (unsigned i = 0; i < SIZE; i++) {
    v->writable[i] = -1;
    v->free_entries[v->free_entry_count++] = (uint16_t)(SIZE - 1 - i);
  }
  v->avail_wrap = v->used_wrap = 1;
  v->held_flags = -1;
  return v;
}

/* One body for both formats, with the calls filled in, so that the compiler can inline them. */
#define LOOP(name, commit, dpublish, take, next, complete, vpublish)                                                     \
  static uint64_t name(struct driver *td, struct device *tv, struct driver *rd, struct device *rv, uint8_t *memory,      \
                       uint64_t frames) {                                                                                \
    uint64_t sum = 0, kicks = 0;                                                                                         \
    for (uint64_t done = 0; done < frames; done += BATCH) {                                                              \
      for (unsigned i = 0; i < BATCH; i++) {                                                                             \
        unsigned token = (unsigned)(done + i) & MASK;                                                                    \
        uint32_t *frame = (uint32_t *)(memory + token * FRAME);                                                          \
        for (unsigned w = 0; w < FRAME / 4; w++) frame[w] = (uint32_t)(done + i + w);                                    \
        chain_begin(&td->staged);                                                                                        \
        chain_add(&td->staged, token * FRAME, FRAME, false);                                                             \
        commit(td, (int32_t)token);                                                                                      \
      }                                                                                                                  \
      kicks += dpublish(td);                                                                                             \
      while (next(tv)) {                                                                                                 \
        if (!next(rv)) broken("no receive buffer");                                                                      \
        if (tv->chain.readable_length > rv->chain.writable_length) broken("frame too long");                             \
        memcpy(memory + rv->chain.addr[0], memory + tv->chain.addr[0], tv->chain.len[0]);                                \
        complete(tv, tv->chain.id, 0);                                                                                   \
        complete(rv, rv->chain.id, (uint32_t)tv->chain.readable_length);                                                 \
      }                                                                                                                  \
      kicks += vpublish(tv);                                                                                             \
      kicks += vpublish(rv);                                                                                             \
      for (int32_t token; (token = take(rd)) >= 0;) {                                                                    \
        sum += rd->used_length + *(uint32_t *)(memory + (SIZE + token) * FRAME);                                         \
        chain_begin(&rd->staged);                                                                                        \
        chain_add(&rd->staged, (uint64_t)(SIZE + token) * FRAME, FRAME, true);                                           \
        commit(rd, token);                                                                                               \
      }                                                                                                                  \
      kicks += dpublish(rd);                                                                                             \
      while (take(td) >= 0) sum++;                                                                                       \
    }                                                                                                                    \
    return sum + (kicks & 0);                                                                                            \
  }

LOOP(run_split, split_driver_commit, split_driver_publish, split_driver_take, split_device_next, split_device_complete, split_device_publish)
LOOP(run_packed, packed_driver_commit, packed_driver_publish, packed_driver_take, packed_device_next, packed_device_complete, packed_device_publish)

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  bool packed = strcmp(argv[1], "packed") == 0;
  uint64_t frames = strtoull(argv[2], NULL, 10);
  struct queue *tq = make(sizeof *tq), *rq = make(sizeof *rq);
  struct driver *td = make_driver(tq), *rd = make_driver(rq);
  struct device *tv = make_device(tq), *rv = make_device(rq);
  uint8_t *memory = make(2 * SIZE * FRAME);
  for (unsigned token = 0; token < SIZE; token++) {
    chain_begin(&rd->staged);
    chain_add(&rd->staged, (uint64_t)(SIZE + token) * FRAME, FRAME, true);
    if (packed) packed_driver_commit(rd, (int32_t)token);
    else split_driver_commit(rd, (int32_t)token);
  }
  if (packed) packed_driver_publish(rd);
  else split_driver_publish(rd);
  (packed ? run_packed : run_split)(td, tv, rd, rv, memory, frames / 4);
  struct timespec from, to;
  clock_gettime(CLOCK_MONOTONIC, &from);
  uint64_t sum = (packed ? run_packed : run_split)(td, tv, rd, rv, memory, frames);
  clock_gettime(CLOCK_MONOTONIC, &to);
  double seconds = (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) / 1e9;
  printf("{\"perSecond\":%.0f,\"sum\":%llu}\n", (double)frames / seconds, (unsigned long long)sum);
  return 0;
}
