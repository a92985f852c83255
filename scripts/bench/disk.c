// The reader of the rows of a disk that a program serves: disk PATH DEPTH WARM SECONDS. 4 KiB at random places, past the page cache, DEPTH of them in flight (asked for by
// the kernel's own aio, so on one thread). Prints how many came a second, after WARM seconds that do not count.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { kBytes = 4096, kMost = 256 };

static void Fail(const char *what) {
  perror(what);
  exit(1);
}

static double Now(void) {
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return at.tv_sec + at.tv_nsec / 1e9;
}

static uint64_t blocks;
static uint32_t seed = 1;

/** Asks for another block into the buffer that the request has. */
static void Ask(aio_context_t context, struct iocb *request) {
  seed = seed * 1664525 + 1013904223;
  request->aio_offset = (seed >> 8) % blocks * kBytes;
  if (syscall(SYS_io_submit, context, 1, &request) != 1) Fail("io_submit");
}

int main(int count, char **words) {
  if (count != 5) return 2;
  const int depth = atoi(words[2]);
  if (depth < 1 || depth > kMost) return 2;
  const int fd = open(words[1], O_RDONLY | O_DIRECT);
  if (fd < 0) Fail(words[1]);
  uint64_t bytes;
  if (ioctl(fd, BLKGETSIZE64, &bytes) != 0) Fail("BLKGETSIZE64");
  blocks = bytes / kBytes;
  if (blocks == 0) {
    fprintf(stderr, "%s is empty\n", words[1]);
    return 1;
  }
  aio_context_t context = 0;
  if (syscall(SYS_io_setup, depth, &context) != 0) Fail("io_setup");
  static struct iocb requests[kMost];
  for (int at = 0; at < depth; at++) {
    requests[at].aio_data = at;
    requests[at].aio_lio_opcode = IOCB_CMD_PREAD;
    requests[at].aio_fildes = fd;
    requests[at].aio_buf = (uintptr_t)aligned_alloc(kBytes, kBytes);
    requests[at].aio_nbytes = kBytes;
    Ask(context, &requests[at]);
  }
  const double start = Now() + atof(words[3]);
  const double end = start + atof(words[4]);
  long reads = 0;
  double first = 0;
  double now;
  do {
    struct io_event events[kMost];
    const long came = syscall(SYS_io_getevents, context, 1, depth, events, NULL);
    if (came < 1) Fail("io_getevents");
    now = Now();
    if (now >= start) {
      if (first == 0) first = now;
      else reads += came;
    }
    for (long at = 0; at < came; at++) {
      if (events[at].res != kBytes) {
        fprintf(stderr, "a read came back with %lld\n", (long long)events[at].res);
        return 1;
      }
      Ask(context, &requests[events[at].data]);
    }
  } while (now < end);
  printf("%.1f\n", reads / (now - first));
  return 0;
}
