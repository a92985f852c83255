// The baseline of interval-map.mjs: what a C++ program uses for the same job, std::map keyed by the first address and searched with
// lower_bound. Prints one JSON object: nanoseconds per operation, resident bytes per mapping, and a checksum that both programs must agree on.

#include <malloc.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <map>
#include <utility>
#include <vector>

namespace {

struct Target {
  uint64_t last;
  uint64_t uaddr;
  uint32_t perm;
  uint32_t object;
};

using Map = std::map<uint64_t, Target>;

// The same generator and the same shuffle as in interval-map.mjs.
class Random {
 public:
  explicit Random(uint32_t seed) : state_(seed) {}
  uint32_t Next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 17;
    state_ ^= state_ << 5;
    return state_;
  }

 private:
  uint32_t state_;
};

std::vector<uint32_t> Order(uint32_t count, bool random, uint32_t seed) {
  std::vector<uint32_t> order(count);
  for (uint32_t i = 0; i < count; i++) order[i] = i;
  if (!random) return order;
  Random next(seed);
  for (uint32_t i = count - 1; i > 0; i--) std::swap(order[i], order[next.Next() % (i + 1)]);
  return order;
}

// Which mappings are looked up. Drawn anew each time: a processor learns a short list that repeats.
std::vector<uint32_t> Probes(uint32_t length, uint32_t count, bool random) {
  std::vector<uint32_t> probes(length);
  Random next(2);
  for (uint32_t n = 0; n < length; n++) probes[n] = random ? next.Next() % count : n % count;
  return probes;
}

uint64_t FirstOf(uint32_t i) { return 0x100000000ULL + static_cast<uint64_t>(i) * 4096; }

bool Insert(Map& map, uint64_t first, const Target& target) {
  auto next = map.lower_bound(first);
  if (next != map.end() && next->first <= target.last) return false;
  if (next != map.begin() && std::prev(next)->second.last >= first) return false;
  map.emplace_hint(next, first, target);
  return true;
}

const Map::value_type* Find(const Map& map, uint64_t address) {
  auto at = map.lower_bound(address);
  if (at != map.end() && at->first == address) return &*at;
  if (at == map.begin()) return nullptr;
  --at;
  return at->second.last >= address ? &*at : nullptr;
}

bool Remove(Map& map, uint64_t first, uint64_t last) {
  auto at = map.lower_bound(first);
  if (at == map.end() || at->first != first || at->second.last != last) return false;
  map.erase(at);
  return true;
}

template <typename Body>
double NanosecondsEach(uint64_t count, Body body) {
  auto start = std::chrono::steady_clock::now();
  body();
  auto end = std::chrono::steady_clock::now();
  return std::chrono::duration<double, std::nano>(end - start).count() / static_cast<double>(count);
}

}  // namespace

// interval-map <count> <ordered|random> <lookups>
int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const uint32_t count = static_cast<uint32_t>(std::atol(argv[1]));
  const bool random = argv[2][0] == 'r';
  const uint32_t lookups = static_cast<uint32_t>(std::atol(argv[3]));
  const auto inserts = Order(count, random, 1);
  const auto probes = Probes(lookups, count, random);
  const auto removes = Order(count, random, 3);

  Map map;
  uint64_t checksum = 0;
  const auto before = mallinfo2();
  const double insert = NanosecondsEach(count, [&] {
    for (uint32_t i : inserts) {
      const uint64_t first = FirstOf(i);
      checksum += Insert(map, first, {first + 4095, 0x7f0000000000ULL + first, 1 + i % 3, i % 1000});
    }
  });
  const auto after = mallinfo2();
  const auto look_up_all = [&] {
    for (uint32_t n = 0; n < lookups; n++) {
      const auto* found = Find(map, FirstOf(probes[n]) + (n & 0xfff));
      if (found != nullptr) checksum += (found->second.uaddr & 0xffffffff) + found->second.perm;
    }
  };
  look_up_all();
  const double find = NanosecondsEach(lookups, look_up_all);
  const double remove = NanosecondsEach(count, [&] {
    for (uint32_t i : removes) {
      const uint64_t first = FirstOf(i);
      checksum += Remove(map, first, first + 4095);
    }
  });
  if (!map.empty()) return 1;
  const double bytes = static_cast<double>(after.uordblks - before.uordblks) / count;
  std::printf("{\"insert\":%.3f,\"find\":%.3f,\"remove\":%.3f,\"bytes\":%.1f,\"checksum\":\"%llu\"}\n", insert, find, remove,
              bytes, static_cast<unsigned long long>(checksum));
  return 0;
}
