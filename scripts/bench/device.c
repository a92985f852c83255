// The baseline of the device rows: the same system calls and the same ring in C. One trial a process; prints nanoseconds per operation.
// Usage: device status|group|maps|control PATH
#include "vdpa.h"

static double Status(int fd, int count) {
  uint8_t status = 0;
  double start = Now();
  for (int i = 0; i < count; i++) ioctl(fd, VHOST_VDPA_GET_STATUS, &status);
  return (Now() - start) / count;
}

static double Group(int fd, int count) {
  struct vhost_vring_state state = {2, 0};
  double start = Now();
  for (int i = 0; i < count; i++) ioctl(fd, VHOST_VDPA_GET_VRING_GROUP, &state);
  return (Now() - start) / count;
}

static double Maps(int fd, int rounds) {
  enum { kMaps = 2000 };
  char* at = Shared(kMaps * 4096UL);
  double start = Now();
  for (int round = 0; round < rounds; round++) {
    Message(fd, 0, VHOST_IOTLB_BATCH_BEGIN, 0, 0, NULL);
    for (int i = 0; i < kMaps; i++) Message(fd, 0, VHOST_IOTLB_UPDATE, 0x100000 + i * 8192UL, 4096, at + i * 4096UL);
    Message(fd, 0, VHOST_IOTLB_BATCH_END, 0, 0, NULL);
    Message(fd, 0, VHOST_IOTLB_BATCH_BEGIN, 0, 0, NULL);
    for (int i = 0; i < kMaps; i++) Message(fd, 0, VHOST_IOTLB_INVALIDATE, 0x100000 + i * 8192UL, 4096, NULL);
    Message(fd, 0, VHOST_IOTLB_BATCH_END, 0, 0, NULL);
  }
  return (Now() - start) / (rounds * 2.0 * kMaps);
}

// One command a time: descriptor 0 the command, 1 the acknowledgement; available at 0x1000, used at 0x2000, buffers at 0x3000.
static double Control(int fd, int count) {
  const uint64_t iova = 0x100000;
  unsigned char* at = Shared(0x4000);
  struct vring_desc* descriptors = (struct vring_desc*)at;
  volatile uint16_t* available = (volatile uint16_t*)(at + 0x1000);
  volatile uint16_t* used = (volatile uint16_t*)(at + 0x2000);
  struct vhost_vring_state group = {1, 1};
  int kick, call;
  Check(ioctl(fd, VHOST_VDPA_SET_GROUP_ASID, &group) < 0, "asid");
  Message(fd, 1, VHOST_IOTLB_UPDATE, iova, 0x4000, at);
  SetUpRing(fd, 2, iova, &kick, &call);
  SetStatus(fd, 15);
  const unsigned char command[8] = {1, 1, 2, 0x11, 0x22, 0x33, 0x44, 1};
  uint16_t next = 0;
  double start = Now();
  for (int i = 0; i < count; i++) {
    memcpy(at + 0x3000, command, sizeof(command));
    at[0x3100] = 0xff;
    descriptors[0] = (struct vring_desc){iova + 0x3000, sizeof(command), VRING_DESC_F_NEXT, 1};
    descriptors[1] = (struct vring_desc){iova + 0x3100, 1, VRING_DESC_F_WRITE, 0};
    available[2 + next % 256] = 0;
    __atomic_thread_fence(__ATOMIC_RELEASE);
    available[1] = ++next;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    uint64_t one = 1;
    if ((used[0] & VRING_USED_F_NO_NOTIFY) == 0) Check(write(kick, &one, 8) != 8, "kick");
    while (__atomic_load_n((uint16_t*)(at + 0x2002), __ATOMIC_ACQUIRE) != next) {
      struct pollfd wait = {call, POLLIN, 0};
      poll(&wait, 1, 1000);
      Check(read(call, &one, 8) < 0, "call");
    }
    Check(at[0x3100] != 0, "acknowledgement");
  }
  return (Now() - start) / count;
}

int main(int argc, char** argv) {
  Check(argc != 3, "usage: device TRIAL PATH");
  int fd = open(argv[2], O_RDWR | O_CLOEXEC | O_NONBLOCK);
  Check(fd < 0, "open");
  Negotiate(fd, 1ULL << 33 | 1ULL << 32 | 1ULL << 17 | 1ULL << 23 | 1ULL << 5);
  double result = 0;
  if (strcmp(argv[1], "status") == 0) result = Status(fd, 200000);
  if (strcmp(argv[1], "group") == 0) result = Group(fd, 200000);
  if (strcmp(argv[1], "maps") == 0) result = Maps(fd, 50);
  if (strcmp(argv[1], "control") == 0) result = Control(fd, 2000);
  printf("%.1f\n", result);
  return 0;
}
