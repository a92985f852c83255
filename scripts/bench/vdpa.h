// What the baselines of the device rows share: the system calls that bring a vhost-vdpa device and a split ring up. Any failure ends the program.
#pragma once
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/vhost.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static void Check(int failed, const char* what) {
  if (failed) {
    perror(what);
    exit(1);
  }
}

// Nanoseconds.
static double Now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e9 + t.tv_nsec;
}

static void SetStatus(int fd, uint8_t status) { Check(ioctl(fd, VHOST_VDPA_SET_STATUS, &status) < 0, "status"); }

static void* Shared(size_t bytes) {
  int fd = memfd_create("bench", MFD_CLOEXEC);
  Check(fd < 0 || ftruncate(fd, bytes) < 0, "memfd");
  void* at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
  Check(at == MAP_FAILED, "mmap");
  return at;
}

static void Message(int fd, uint32_t asid, uint8_t type, uint64_t iova, uint64_t size, void* at) {
  struct vhost_msg_v2 message = {0};
  message.type = VHOST_IOTLB_MSG_V2;
  message.asid = asid;
  message.iotlb.iova = iova;
  message.iotlb.size = size;
  message.iotlb.uaddr = (uint64_t)(uintptr_t)at;
  message.iotlb.perm = type == VHOST_IOTLB_UPDATE ? VHOST_ACCESS_RW : 0;
  message.iotlb.type = type;
  Check(write(fd, &message, sizeof(message)) < 0, "iotlb");
}

static void Negotiate(int fd, uint64_t features) {
  uint64_t backend = 0xe;
  Check(ioctl(fd, VHOST_SET_OWNER) < 0, "owner");
  Check(ioctl(fd, VHOST_SET_BACKEND_FEATURES, &backend) < 0, "backend features");
  SetStatus(fd, 3);
  Check(ioctl(fd, VHOST_SET_FEATURES, &features) < 0, "features");
  SetStatus(fd, 11);
}

// A split ring of 256 descriptors at `iova`, the available ring 0x1000 and the used ring 0x2000 behind it, with new eventfds.
static void SetUpRing(int fd, uint32_t queue, uint64_t iova, int* kick, int* call) {
  struct vhost_vring_state num = {queue, 256}, base = {queue, 0}, enable = {queue, 1};
  struct vhost_vring_addr addresses = {queue, 0, iova, iova + 0x2000, iova + 0x1000, 0};
  *kick = eventfd(0, EFD_CLOEXEC);
  *call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  struct vhost_vring_file kick_file = {queue, *kick}, call_file = {queue, *call};
  Check(ioctl(fd, VHOST_SET_VRING_NUM, &num) < 0 || ioctl(fd, VHOST_SET_VRING_BASE, &base) < 0 ||
            ioctl(fd, VHOST_SET_VRING_ADDR, &addresses) < 0 || ioctl(fd, VHOST_SET_VRING_KICK, &kick_file) < 0 ||
            ioctl(fd, VHOST_SET_VRING_CALL, &call_file) < 0 || ioctl(fd, VHOST_VDPA_SET_VRING_ENABLE, &enable) < 0,
        "vring");
}
