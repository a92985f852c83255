// The one owner of a file descriptor's number. It makes no other system call than close().
#pragma once

#include <unistd.h>

#include <utility>

/// Takes ownership of a descriptor and closes it once. Movable, not copyable; not thread-safe.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.Release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) {
      Close();
      fd_ = other.Release();
    }
    return *this;
  }
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd() { Close(); }

  int get() const { return fd_; }
  bool IsOpen() const { return fd_ >= 0; }
  int Release() { return std::exchange(fd_, -1); }

  /// Forgets the number before it closes it: once close() has begun, the number may be another file's. Linux
  /// closes it even where close() reports an error, so a retry would close somebody else's file.
  void Close() {
    const int fd = Release();
    if (fd >= 0) ::close(fd);
  }

 private:
  int fd_ = -1;
};
