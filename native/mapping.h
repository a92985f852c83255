// The one owner of a piece of mapped memory.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <utility>

/// Unmaps on destruction. Movable, not copyable; not thread-safe.
class Mapping {
 public:
  Mapping() = default;
  /// Maps `length` bytes of `fd` at `offset`, shared, or so that what is written here stays here. Throws
  /// SystemFailure.
  Mapping(int fd, size_t length, off_t offset, int protection, bool is_private = false);
  Mapping(Mapping&& other) noexcept
      : address_(std::exchange(other.address_, nullptr)), length_(std::exchange(other.length_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { Unmap(); }

  void* address() const { return address_; }
  size_t length() const { return length_; }
  bool IsMapped() const { return address_ != nullptr; }
  void Unmap();
  /// Gives the memory back and keeps the addresses, which read as zeroes and may be written from then on.
  /// False when that is refused, and all is as it was.
  bool Vacate();

 private:
  void* address_ = nullptr;
  size_t length_ = 0;
};
