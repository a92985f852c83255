// The baseline of the disk row: 4 KiB random reads, 16 in flight, through a split ring of 256 by interrupt, in C. Prints reads a second.
// Usage: block PATH
#include "vdpa.h"
#include <linux/virtio_blk.h>
#include <sys/resource.h>

enum { kSize = 256, kInFlight = 16, kBytes = 4096, kAvailable = 0x1000, kUsed = 0x2000, kHeads = 0x3000, kData = 0x4000 };
enum { kMemory = kData + kInFlight * kBytes };
static const uint64_t kIova = 0x100000;

static unsigned char* at;
static int kick;
static int call;
static uint16_t published, available;
static uint32_t seed = 1, units;
static uint64_t total, rounds;

static void SetUp(int fd) {
  Negotiate(fd, 1ULL << 33 | 1ULL << 32 | 1ULL << 1 | 1ULL << 2);
  union {
    struct vhost_vdpa_config head;
    unsigned char bytes[sizeof(struct vhost_vdpa_config) + 8];
  } config = {.head = {.off = 0, .len = 8}};
  uint64_t capacity;
  Check(ioctl(fd, VHOST_VDPA_GET_CONFIG, &config) < 0, "config");
  memcpy(&capacity, config.bytes + sizeof(struct vhost_vdpa_config), 8);
  units = capacity / 8;

  at = Shared(kMemory);
  Message(fd, 0, VHOST_IOTLB_UPDATE, kIova, kMemory, at);
  SetUpRing(fd, 0, kIova, &kick, &call);
  SetStatus(fd, 15);
}

// Slot i has the descriptors 3i to 3i+2, a head of 64 bytes and 4 KiB of data.
static void Submit(unsigned slot) {
  struct vring_desc* descriptors = (struct vring_desc*)at;
  volatile uint16_t* ring = (volatile uint16_t*)(at + kAvailable);
  unsigned char* head = at + kHeads + slot * 64;
  seed = seed * 1664525 + 1013904223;
  struct virtio_blk_outhdr header = {.type = VIRTIO_BLK_T_IN, .sector = (uint64_t)((seed >> 8) % units) * 8};
  memcpy(head, &header, sizeof(header));
  head[16] = 0xff;
  uint16_t first = 3 * slot;
  uint64_t iova = kIova + kHeads + slot * 64;
  descriptors[first] = (struct vring_desc){iova, sizeof(header), VRING_DESC_F_NEXT, first + 1};
  descriptors[first + 1] = (struct vring_desc){
      kIova + kData + (uint64_t)slot * kBytes, kBytes, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, first + 2};
  descriptors[first + 2] = (struct vring_desc){iova + 16, 1, VRING_DESC_F_WRITE, 0};
  ring[2 + available++ % kSize] = first;
}

static void Publish(void) {
  if (available == published) return;
  __atomic_store_n((uint16_t*)(at + kAvailable + 2), available, __ATOMIC_RELEASE);
  published = available;
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  uint64_t one = 1;
  if ((*(volatile uint16_t*)(at + kUsed) & VRING_USED_F_NO_NOTIFY) == 0) Check(write(kick, &one, 8) != 8, "kick");
}

static void WantCalls(int wanted) {
  *(volatile uint16_t*)(at + kAvailable) = wanted ? 0 : VRING_AVAIL_F_NO_INTERRUPT;
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

// Reads until `end`; returns how many were answered.
static uint64_t Run(double end) {
  static uint16_t taken;
  const struct vring_used_elem* used = (struct vring_used_elem*)(at + kUsed + 4);
  uint64_t count = 0;
  for (;;) {
    uint16_t index = __atomic_load_n((uint16_t*)(at + kUsed + 2), __ATOMIC_ACQUIRE);
    if (index == taken) {
      WantCalls(1);
      if (__atomic_load_n((uint16_t*)(at + kUsed + 2), __ATOMIC_ACQUIRE) == taken) {
        struct pollfd wait = {call, POLLIN, 0};
        Check(poll(&wait, 1, 5000) != 1, "the device answers no more");
        uint64_t calls;
        Check(read(call, &calls, 8) != 8, "call");
      }
      WantCalls(0);
      if (Now() >= end) return count;
      continue;
    }
    for (; taken != index; taken++, count++, total++) {
      unsigned slot = used[taken % kSize].id / 3;
      Check(at[kHeads + slot * 64 + 16] != 0 || used[taken % kSize].len != kBytes + 1, "a read");
      Submit(slot);
    }
    rounds++;
    Publish();
  }
}

int main(int argc, char** argv) {
  Check(argc != 2, "usage: block PATH");
  int fd = open(argv[1], O_RDWR | O_CLOEXEC | O_NONBLOCK);
  Check(fd < 0, "open");
  SetUp(fd);
  for (unsigned slot = 0; slot < kInFlight; slot++) Submit(slot);
  Publish();
  Run(Now() + 2e9);
  double start = Now();
  uint64_t count = Run(start + 3e9);
  printf("%.0f\n", count / (Now() - start) * 1e9);
  if (getenv("BENCH_DETAILS")) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    fprintf(stderr, "user %.1f system %.1f us for each of %lu, %lu rounds\n", (usage.ru_utime.tv_sec * 1e6 + usage.ru_utime.tv_usec) / total,
            (usage.ru_stime.tv_sec * 1e6 + usage.ru_stime.tv_usec) / total, total, rounds);
  }
  return 0;
}
