// The request queue by itself, for ThreadSanitizer: one thread asks, as the event loop does, and a pool
// carries out. scripts/sanitize.mjs builds and runs it. Prints what went wrong and ends with 1, or says
// nothing and ends with 0.
#include <cstdio>
#include <thread>
#include <vector>

#include "../../native/request_queue.h"
#include "../../native/unique_fd.h"

namespace {

constexpr int kRounds = 200;
constexpr int kRequests = 20;

/// Appends its number to a list that has no lock of its own: only the queue keeps the threads apart.
class Append final : public Request {
 public:
  Append(std::vector<int>& list, int number) : list_(list), number_(number) {}
  void Run(UniqueFd&) override { list_.push_back(number_); }

 private:
  std::vector<int>& list_;
  const int number_;
};

bool RunRound(int round) {
  RequestQueue queue;
  UniqueFd fd;
  std::vector<int> list;
  std::vector<std::thread> pool;
  size_t finished = 0;
  for (int number = 0; number < kRequests; number++) {
    queue.Push(std::make_shared<Append>(list, number));
    pool.emplace_back([&] { queue.RunOne(fd); });
    if (number % 7 == round % 7) {
      if (!queue.IsIdle()) queue.Drain(fd);
      // A synchronous call: it is after everything that was asked, and may use what the queue guards.
      if (list.size() != static_cast<size_t>(number) + 1) return false;
    }
    finished += queue.TakeFinished().size();
  }
  if (round % 2 == 0) queue.Drain(fd);
  for (std::thread& thread : pool) thread.join();
  if (round % 2 == 1) queue.Drain(fd);
  finished += queue.TakeFinished().size();
  if (finished != kRequests || !queue.IsIdle()) return false;
  for (int number = 0; number < kRequests; number++) {
    if (list[static_cast<size_t>(number)] != number) return false;
  }
  return true;
}

/// What the end of an environment does: nothing that has not begun is begun any more.
bool RunAbandoned() {
  RequestQueue queue;
  UniqueFd fd;
  std::vector<int> list;
  for (int number = 0; number < kRequests; number++) queue.Push(std::make_shared<Append>(list, number));
  std::thread worker([&] { queue.RunOne(fd); });
  queue.Abandon();
  const size_t done = list.size();
  worker.join();
  return queue.IsIdle() && done <= 1 && list.size() <= 1;
}

}  // namespace

int main() {
  for (int round = 0; round < kRounds; round++) {
    if (!RunRound(round)) return std::printf("round %d: requests were lost or came out of order\n", round), 1;
    if (!RunAbandoned()) return std::printf("round %d: an abandoned queue went on\n", round), 1;
  }
  return 0;
}
