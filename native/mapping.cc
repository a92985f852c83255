// mmap() and munmap().
#include "mapping.h"

#include <sys/mman.h>

#include "system_failure.h"

Mapping::Mapping(int fd, size_t length, off_t offset, int protection, bool is_private) {
  void* address = ::mmap(nullptr, length, protection, is_private ? MAP_PRIVATE : MAP_SHARED, fd, offset);
  if (address == MAP_FAILED) ThrowErrno("mmap");
  address_ = address;
  length_ = length;
}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  if (this != &other) {
    Unmap();
    address_ = std::exchange(other.address_, nullptr);
    length_ = std::exchange(other.length_, 0);
  }
  return *this;
}

bool Mapping::Vacate() {
  if (address_ == nullptr) return true;
  return ::mmap(address_, length_, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != MAP_FAILED;
}

void Mapping::Unmap() {
  if (address_ != nullptr) ::munmap(std::exchange(address_, nullptr), std::exchange(length_, 0));
}
