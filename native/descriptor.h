// An open file and its verbs: everything that is asked of a descriptor, in order. Verbs return what the
// system call returned, or -errno.
#pragma once

#include <memory>
#include <utility>

#include "border.h"
#include "environment.h"
#include "poll_watch.h"
#include "request_queue.h"
#include "unique_fd.h"

/// How far a sequence of writes came.
struct WriteProgress {
  size_t completed = 0;
  /// Of the write that was refused; 0 when all succeeded, when it was stopped, or when a write took only a
  /// part of its record.
  int error = 0;
};

/// One write() for each record of `stride` bytes, until one is refused or cut short, or `stop()` says so.
template <class Stop, class Wrote>
WriteProgress WriteRecords(int fd, Bytes records, size_t stride, Stop stop, Wrote wrote) {
  const auto* record = static_cast<const char*>(records.data);
  WriteProgress progress;
  for (size_t left = records.length / stride; left > 0 && !stop(); left--, record += stride) {
    const ssize_t size = RetryInterrupted([&] { return ::write(fd, record, stride); });
    if (size < 0) progress.error = errno;
    if (size != static_cast<ssize_t>(stride)) return progress;
    wrote(++progress.completed);
  }
  return progress;
}

/// A request whose end is told to JavaScript by a promise.
class AsyncRequest : public Request {
 public:
  /// The value of the promise. Called once, on the loop's thread, after Run(); releases what it holds of
  /// JavaScript.
  virtual napi_value Result(napi_env env) = 0;
  napi_deferred deferred = nullptr;
};

/// Used on the environment's thread only; requests that sleep are carried out elsewhere, through the queue.
class Descriptor final : public Resource, public std::enable_shared_from_this<Descriptor> {
 public:
  static constexpr Kind kKind = Kind::kDescriptor;

  Descriptor(std::shared_ptr<Environment> environment, UniqueFd fd)
      : Resource(std::move(environment), kDescriptor), fd_(std::move(fd)) {}
  /// Reached when nobody closed it. The watch goes first: it must not outlive the descriptor's number.
  ~Descriptor() override { StopWatch(); }

  /// The descriptor, for a synchronous verb, when it is its turn. -1 after close: the kernel then answers
  /// EBADF.
  int Turn() {
    if (is_closed_) return -1;
    if (!queue_.IsIdle()) queue_.Drain(fd_);
    return fd_.get();
  }

  /// The same for a synchronous verb that moves no data to the file (ioctl, read): sequences of writes are
  /// long, and it does not wait for their end but comes between two of their records.
  class Visit {
   public:
    explicit Visit(Descriptor& descriptor) : queue_(descriptor.queue_) {
      is_between_ = !descriptor.is_closed_ && !queue_.IsIdle() && queue_.MayVisit();
      if (is_between_) queue_.BeginVisit();
      fd_ = is_between_ ? descriptor.fd_.get() : descriptor.Turn();
    }
    ~Visit() {
      if (is_between_) queue_.EndVisit();
    }
    Visit(const Visit&) = delete;
    Visit& operator=(const Visit&) = delete;
    int fd() const { return fd_; }

   private:
    RequestQueue& queue_;
    bool is_between_ = false;
    int fd_ = -1;
  };

  RequestQueue& queue() { return queue_; }
  int OwnedFd() const override { return number(); }

  /// The number, which asks the kernel nothing and so needs no turn. Valid until a close begins.
  int number() const { return is_closed_ ? -1 : fd_.get(); }

  /// Carries the request out on a thread of the pool. Returns its promise.
  napi_value Submit(napi_env env, std::shared_ptr<AsyncRequest> request);

  /// From now on every verb gets EBADF; what was asked before is still carried out, and then the descriptor
  /// is closed.
  void CloseNow();
  napi_value CloseLater(napi_env env);
  void CloseAtExit() override;

  /// The last synchronous ioctl that had bytes: see JsIoctlAgain.
  struct {
    uint32_t request = 0;
    void* argument = nullptr;
  } last_ioctl;
  /// Calls a listener when the file can be read; at most one.
  std::shared_ptr<PollWatch> watch;

 private:
  struct Turnstile;
  void Schedule(napi_env env);
  void Settle(napi_env env);
  void BeginClose();
  void StopWatch() {
    if (watch != nullptr) std::exchange(watch, nullptr)->Stop();
  }

  UniqueFd fd_;
  RequestQueue queue_;
  bool is_closed_ = false;
  bool is_scheduled_ = false;
};
