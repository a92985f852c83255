// One lock guards the queue; it is free while a request runs.
#include "request_queue.h"

#include <utility>

void RequestQueue::Push(std::shared_ptr<Request> request) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!request->MayPause()) unpausable_.fetch_add(1, std::memory_order_relaxed);
  waiting_.push_back(std::move(request));
  unfinished_.fetch_add(1, std::memory_order_relaxed);
}

void RequestQueue::RunOne(UniqueFd& fd) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (!is_running_ && !waiting_.empty()) RunFront(fd, lock);
}

void RequestQueue::Drain(UniqueFd& fd) {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    became_free_.wait(lock, [this] { return !is_running_; });
    if (waiting_.empty()) return;
    RunFront(fd, lock);
  }
}

void RequestQueue::BeginVisit() {
  std::unique_lock<std::mutex> lock(mutex_);
  is_visited_.store(true, std::memory_order_release);
  became_free_.wait(lock, [this] { return !is_running_ || is_paused_; });
}

void RequestQueue::EndVisit() {
  const std::lock_guard<std::mutex> lock(mutex_);
  is_visited_.store(false, std::memory_order_release);
  became_free_.notify_all();
}

void RequestQueue::WaitForVisitor() {
  std::unique_lock<std::mutex> lock(mutex_);
  is_paused_ = true;
  became_free_.notify_all();
  became_free_.wait(lock, [this] { return !is_visited_.load(std::memory_order_relaxed); });
  is_paused_ = false;
}

void RequestQueue::Abandon() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (const std::shared_ptr<Request>& request : waiting_) {
    if (!request->MayPause()) unpausable_.fetch_sub(1, std::memory_order_release);
  }
  unfinished_.fetch_sub(waiting_.size(), std::memory_order_release);
  waiting_.clear();
  became_free_.wait(lock, [this] { return !is_running_; });
}

std::vector<std::shared_ptr<Request>> RequestQueue::TakeFinished() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return std::exchange(finished_, {});
}

void RequestQueue::RunFront(UniqueFd& fd, std::unique_lock<std::mutex>& lock) {
  std::shared_ptr<Request> request = std::move(waiting_.front());
  waiting_.pop_front();
  is_running_ = true;
  lock.unlock();
  request->Run(fd);
  lock.lock();
  const bool may_pause = request->MayPause();
  // Moved, so that the last share is never this thread's: requests end on the loop's thread.
  finished_.push_back(std::move(request));
  is_running_ = false;
  // Release: whoever sees the count fall to zero without the lock also sees what the request did.
  if (!may_pause) unpausable_.fetch_sub(1, std::memory_order_release);
  unfinished_.fetch_sub(1, std::memory_order_release);
  became_free_.notify_all();
}
