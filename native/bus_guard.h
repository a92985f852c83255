// Memory of a file that somebody else may make shorter: touching what is gone raises SIGBUS, which ends the
// process. A guarded mapping gets a page of zeroes there instead, and remembers that it was torn.
#pragma once

#include <cstddef>
#include <memory>

/// Guards one mapping for as long as it lives. What a signal does is the process's affair and not an
/// environment's, so the table behind this class is the addon's only state of that kind.
class BusGuard {
 public:
  /// Null when all places are taken.
  static std::unique_ptr<BusGuard> Start(void* address, size_t length);
  ~BusGuard();
  BusGuard(const BusGuard&) = delete;
  BusGuard& operator=(const BusGuard&) = delete;

  /// Whether a page of the mapping was gone when it was touched, at any time.
  bool IsTorn() const;

 private:
  explicit BusGuard(size_t place) : place_(place) {}
  const size_t place_;
};
