// The baseline of the row of misses: /dev/vhost-net in front of a tap device, one frame at a time, all
// translations gone before each, and each miss answered with the 64 bytes around it. Prints misses answered a
// second. Usage: misses TAP
#define _GNU_SOURCE
#include <linux/if.h>
#include <linux/if_tun.h>

#include "vdpa.h"

enum { kFrame = 1514, kHeader = 12, kGranule = 64, kBytes = 0x4000 };
static const uint64_t kIova = 1ULL << 32;

static int OpenTap(const char* name) {
  int tap = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
  struct ifreq request = {0};
  int header = kHeader;
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  Check(tap < 0 || ioctl(tap, TUNSETIFF, &request) < 0 || ioctl(tap, TUNSETVNETHDRSZ, &header) < 0, "tap");
  return tap;
}

static void SetUp(int fd, int queue, int* kick, int* call) {
  struct vhost_vring_state num = {queue, 1}, base = {queue, 0};
  struct vhost_vring_addr addresses = {queue, 0, kIova, kIova + 0x2000, kIova + 0x1000, 0};
  *kick = eventfd(0, EFD_CLOEXEC);
  *call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  struct vhost_vring_file kick_file = {queue, *kick}, call_file = {queue, *call};
  Check(ioctl(fd, VHOST_SET_VRING_NUM, &num) < 0 || ioctl(fd, VHOST_SET_VRING_BASE, &base) < 0 ||
            ioctl(fd, VHOST_SET_VRING_ADDR, &addresses) < 0 ||
            ioctl(fd, VHOST_SET_VRING_KICK, &kick_file) < 0 ||
            ioctl(fd, VHOST_SET_VRING_CALL, &call_file) < 0,
        "vring");
}

// One miss that was read, answered; 0 when there is none.
static int Answer(int fd, char* at) {
  struct vhost_msg_v2 miss;
  if (read(fd, &miss, sizeof(miss)) != sizeof(miss)) return 0;
  uint64_t from = (miss.iotlb.iova - kIova) & ~(uint64_t)(kGranule - 1);
  Message(fd, 0, VHOST_IOTLB_UPDATE, kIova + from, kGranule, at + from);
  return 1;
}

int main(int argc, char** argv) {
  Check(argc != 2, "usage: misses TAP");
  int tap = OpenTap(argv[1]);
  char up[100];
  snprintf(up, sizeof(up), "ip link set %s up", argv[1]);
  Check(system(up) != 0, "ip");
  int fd = open("/dev/vhost-net", O_RDWR | O_CLOEXEC | O_NONBLOCK);
  uint64_t features = 1ULL << 32 | 1ULL << 33, backend = 1ULL << VHOST_BACKEND_F_IOTLB_MSG_V2;
  struct vhost_memory none = {0};
  Check(fd < 0 || ioctl(fd, VHOST_SET_OWNER) < 0 || ioctl(fd, VHOST_SET_BACKEND_FEATURES, &backend) < 0 ||
            ioctl(fd, VHOST_SET_FEATURES, &features) < 0 || ioctl(fd, VHOST_SET_MEM_TABLE, &none) < 0,
        "vhost-net");
  char* at = Shared(kBytes);
  int kick, call;
  SetUp(fd, 1, &kick, &call);
  Message(fd, 0, VHOST_IOTLB_UPDATE, kIova + 0x2000, 0x1000, at + 0x2000);
  struct vhost_vring_file start = {1, tap};
  Check(ioctl(fd, VHOST_NET_SET_BACKEND, &start) < 0, "backend");
  *(struct vring_desc*)at = (struct vring_desc){kIova + 0x3000, kHeader + kFrame, 0, 0};
  volatile uint16_t* available = (volatile uint16_t*)(at + 0x1000);
  memset(at + 0x3000 + kHeader, 0xff, 6);
  uint16_t next = 0;
  uint64_t misses = 0, one = 1;
  double begin = Now(), seconds = 0;
  for (int isWarm = 0; seconds < 4;) {
    Message(fd, 0, VHOST_IOTLB_INVALIDATE, 0, 1ULL << 63, NULL);
    Message(fd, 0, VHOST_IOTLB_INVALIDATE, 1ULL << 63, 1ULL << 63, NULL);
    available[2] = 0;
    __atomic_thread_fence(__ATOMIC_RELEASE);
    available[1] = ++next;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    Check(write(kick, &one, 8) != 8, "kick");
    while (__atomic_load_n((uint16_t*)(at + 0x2002), __ATOMIC_ACQUIRE) != next) {
      struct pollfd wait[2] = {{fd, POLLIN, 0}, {call, POLLIN, 0}};
      poll(wait, 2, 1000);
      if (wait[1].revents & POLLIN) Check(read(call, &one, 8) < 0, "call");
      one = 1;
      if (wait[0].revents & POLLIN) misses += Answer(fd, at);
    }
    seconds = (Now() - begin) / 1e9;
    if (isWarm || seconds < 1) continue;
    isWarm = 1;
    begin = Now();
    misses = 0;
    seconds = 0;
  }
  printf("%.1f\n", misses / seconds);
  return 0;
}
