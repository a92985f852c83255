#pragma once
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstdint>

/// RWF_NOWAIT, which has no name in musl before 1.2.5, as the verbs here.
constexpr long kNoWait = 0x8;

/// preadv2(): reads what is there, and does not sleep. The offset goes as two longs; -1 is where the file is.
inline ssize_t ReadNoWait(int fd, void* data, size_t length, int64_t offset) {
  const iovec vector{data, length};
  return ::syscall(SYS_preadv2, fd, &vector, 1L, static_cast<long>(offset), offset < 0 ? -1L : 0L, kNoWait);
}

/// pwritev2() where the file is: writes what there is room for, and does not sleep.
inline ssize_t WriteNoWait(int fd, void* data, size_t length) {
  const iovec vector{data, length};
  return ::syscall(SYS_pwritev2, fd, &vector, 1L, -1L, -1L, kNoWait);
}
