// One lock guards the queue; it is free while a request runs.
#include "request_queue.h"

#include <utility>

void RequestQueue::Push(std::shared_ptr<Request> request) {
  const std::lock_guard<std::mutex> lock(mutex_);
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

void RequestQueue::Abandon() {
  std::unique_lock<std::mutex> lock(mutex_);
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
  // Moved, so that the last share is never this thread's: requests end on the loop's thread.
  finished_.push_back(std::move(request));
  is_running_ = false;
  // Release: whoever sees the count fall to zero without the lock also sees what the request did.
  unfinished_.fetch_sub(1, std::memory_order_release);
  became_free_.notify_all();
}
