// The requests that are carried out off the loop's thread. They work on copies: whatever JavaScript does to
// its buffer meanwhile (detach, transfer, forget), the kernel never meets memory that is gone.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "descriptor.h"

/// An ioctl whose argument is a number.
class IoctlValueRequest final : public AsyncRequest {
 public:
  IoctlValueRequest(unsigned long request, int64_t argument) : request_(request), argument_(argument) {}
  void Run(UniqueFd& fd) override;
  napi_value Result(napi_env env) override;

 private:
  const unsigned long request_;
  const int64_t argument_;
  int result_ = 0;
};

/// An ioctl whose argument is bytes. They are copied back into the caller's array when it is done, if the
/// array is still there.
class IoctlBytesRequest final : public AsyncRequest {
 public:
  IoctlBytesRequest(napi_env env, unsigned long request, napi_value argument, Bytes bytes);
  void Run(UniqueFd& fd) override;
  napi_value Result(napi_env env) override;

 private:
  const unsigned long request_;
  std::vector<unsigned char> copy_;
  napi_ref argument_ = nullptr;
  int result_ = 0;
};

/// One write() for each record. Can be asked from the loop's thread how far it is, and to stop before the
/// next record.
class WriteEachRequest final : public AsyncRequest {
 public:
  WriteEachRequest(RequestQueue& queue, Bytes records, size_t stride);
  void Run(UniqueFd& fd) override;
  bool MayPause() const override { return true; }
  napi_value Result(napi_env env) override;

  size_t written() const { return written_.load(std::memory_order_relaxed); }
  void Stop() { is_stopped_.store(true, std::memory_order_relaxed); }

 private:
  /// Whose descriptor it writes to; the queue has it, so it is there while this runs.
  RequestQueue& queue_;
  std::vector<unsigned char> copy_;
  const size_t stride_;
  WriteProgress progress_;
  std::atomic<size_t> written_{0};
  std::atomic<bool> is_stopped_{false};
};

/// What both forms of writeEach return: the count when all were written, else `[count, -errno]`.
napi_value WriteEachResult(napi_env env, WriteProgress progress, size_t total);
