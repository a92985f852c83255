#pragma once
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstdint>

/// preadv2() with RWF_NOWAIT, neither of which has a name in musl before 1.2.5: reads what is there, and does
/// not sleep. The offset goes as two longs; -1 is where the file is.
inline ssize_t ReadNoWait(int fd, void* data, size_t length, int64_t offset) {
  constexpr long kNoWait = 0x8;
  const iovec vector{data, length};
  return ::syscall(SYS_preadv2, fd, &vector, 1L, static_cast<long>(offset), offset < 0 ? -1L : 0L, kNoWait);
}
