// The order of requests on one descriptor: none overtakes another, whichever thread carries it out. It knows
// no JavaScript.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

class UniqueFd;

/// A request that somebody waits for.
class Request {
 public:
  virtual ~Request() = default;
  /// Makes the system calls, on any thread.
  virtual void Run(UniqueFd& fd) = 0;
  /// True for a sequence of calls that a visitor may come between.
  virtual bool MayPause() const { return false; }
};

/// First come, first served. Requests enter on the loop's thread alone. They are carried out one at a time,
/// by a thread of the pool (RunOne) or by the loop's thread (Drain): when a synchronous call must wait for
/// its turn it does not wait for a free thread of the pool, but does what is waiting itself. So it waits for
/// at most one system call that another thread is in, and cannot deadlock.
///
/// A sequence that may pause is long. A visitor does not wait for its end, but comes between two of its
/// calls.
class RequestQueue {
 public:
  void Push(std::shared_ptr<Request> request);

  /// True when everything pushed has been carried out. Cheap: hot verbs ask it first. Once the loop's thread
  /// has seen true, it may use the descriptor itself until it pushes again.
  bool IsIdle() const { return unfinished_.load(std::memory_order_acquire) == 0; }

  /// Carries out the oldest request, unless another thread is at it or there is none. Called by threads of
  /// the pool.
  void RunOne(UniqueFd& fd);

  /// Returns when everything pushed so far has been carried out. Called on the loop's thread.
  void Drain(UniqueFd& fd);

  /// True when nothing but sequences that may pause is left to carry out. Asked on the loop's thread.
  bool MayVisit() const { return unpausable_.load(std::memory_order_acquire) == 0; }

  /// Stops the sequences between two calls, for as long as the visit lasts. On the loop's thread, while
  /// MayVisit().
  void BeginVisit();
  void EndVisit();

  /// Called by a running sequence before each of its calls: waits while there is a visitor.
  void LetVisitorsIn() {
    if (is_visited_.load(std::memory_order_acquire)) WaitForVisitor();
  }

  /// Drops what has not begun and waits for what has. Called on the loop's thread, when the environment ends.
  void Abandon();

  /// What was carried out since the last time, in order.
  std::vector<std::shared_ptr<Request>> TakeFinished();

 private:
  void RunFront(UniqueFd& fd, std::unique_lock<std::mutex>& lock);
  void WaitForVisitor();

  std::mutex mutex_;
  std::condition_variable became_free_;
  std::deque<std::shared_ptr<Request>> waiting_;
  std::vector<std::shared_ptr<Request>> finished_;
  bool is_running_ = false;
  /// Whether what is running waits for a visitor.
  bool is_paused_ = false;
  std::atomic<bool> is_visited_{false};
  /// Of the unfinished ones, those that may not pause.
  std::atomic<size_t> unpausable_{0};
  std::atomic<size_t> unfinished_{0};
};
