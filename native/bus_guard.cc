// The table of guarded mappings, and the handler of SIGBUS, which is there while the table has an entry.
#include "bus_guard.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>

namespace {

/// Read by the handler on whichever thread touched the memory, so each word is atomic. `first` is 0 where the
/// place is free; it is set last and cleared first.
struct Place {
  std::atomic<uintptr_t> first{0};
  std::atomic<size_t> length{0};
  std::atomic<bool> is_torn{false};
};

constexpr size_t kPlaces = 4096;
std::array<Place, kPlaces> places;
std::mutex mutex;
size_t used = 0;
struct sigaction previous;
std::atomic<size_t> page_bytes{4096};
/// Places beyond it were never used.
std::atomic<size_t> reach{0};

/// mmap() is no function that POSIX promises to signal handlers, but on Linux it is a plain system call.
bool Mend(uintptr_t address) {
  const size_t end = reach.load(std::memory_order_acquire);
  for (size_t index = 0; index < end; index++) {
    Place& place = places[index];
    const uintptr_t first = place.first.load(std::memory_order_acquire);
    if (first == 0 || address < first || address - first >= place.length.load(std::memory_order_acquire))
      continue;
    place.is_torn.store(true, std::memory_order_release);
    const size_t page = page_bytes.load(std::memory_order_relaxed);
    void* start = reinterpret_cast<void*>(address & ~(uintptr_t{page} - 1));
    return ::mmap(start, page, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != MAP_FAILED;
  }
  return false;
}

void OnBusError(int signal, siginfo_t* info, void* context) {
  const int saved = errno;
  const bool is_mended = info->si_code == BUS_ADRERR && Mend(reinterpret_cast<uintptr_t>(info->si_addr));
  errno = saved;
  if (is_mended) return;
  // Somebody else's: as if this handler were not there.
  if ((previous.sa_flags & SA_SIGINFO) != 0) return previous.sa_sigaction(signal, info, context);
  if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) return previous.sa_handler(signal);
  // The access is made again on return, and then ends the process.
  ::signal(signal, SIG_DFL);
}

void Install() {
  page_bytes.store(static_cast<size_t>(::sysconf(_SC_PAGESIZE)), std::memory_order_relaxed);
  struct sigaction action {};
  action.sa_sigaction = OnBusError;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  ::sigemptyset(&action.sa_mask);
  ::sigaction(SIGBUS, &action, &previous);
}

/// Where somebody put a handler over ours it stays, and ours behind it: it may call ours as long as the code
/// is there.
void Uninstall() {
  struct sigaction now {};
  ::sigaction(SIGBUS, nullptr, &now);
  if ((now.sa_flags & SA_SIGINFO) != 0 && now.sa_sigaction == OnBusError)
    ::sigaction(SIGBUS, &previous, nullptr);
}

}  // namespace

std::unique_ptr<BusGuard> BusGuard::Start(void* address, size_t length) {
  const std::lock_guard<std::mutex> lock(mutex);
  for (size_t index = 0; index < kPlaces; index++) {
    Place& place = places[index];
    if (place.first.load(std::memory_order_relaxed) != 0) continue;
    if (used++ == 0) Install();
    place.is_torn.store(false, std::memory_order_relaxed);
    place.length.store(length, std::memory_order_relaxed);
    place.first.store(reinterpret_cast<uintptr_t>(address), std::memory_order_release);
    if (reach.load(std::memory_order_relaxed) <= index) reach.store(index + 1, std::memory_order_release);
    return std::unique_ptr<BusGuard>(new BusGuard(index));
  }
  return nullptr;
}

BusGuard::~BusGuard() {
  const std::lock_guard<std::mutex> lock(mutex);
  places[place_].first.store(0, std::memory_order_release);
  if (--used == 0) Uninstall();
}

bool BusGuard::IsTorn() const { return places[place_].is_torn.load(std::memory_order_acquire); }
