// A JavaScript function that is called when a descriptor can be read, or written.
#pragma once

#include <node_api.h>
#include <uv.h>

#include <memory>

#include "environment.h"

/// Lives on the environment's own loop, and does not keep it running unless told so. Whoever owns the
/// descriptor owns the watch, and stops it before the descriptor is closed. Used on the environment's thread
/// only.
class PollWatch final : public Resource, public std::enable_shared_from_this<PollWatch> {
 public:
  static constexpr Kind kKind = Kind::kWatch;

  /// What the listener is told.
  enum class Mode {
    kWritable,  ///< nothing: it writes by itself, and is called again as long as there is room
    kReadable,  ///< nothing: it reads by itself, and is called again as long as there is something to read
    kRequests,  ///< the same, where what it reads it answers, and the next request comes soon: it is called
                ///< some times before the loop has its turn
    kCounter,   ///< the counter of an eventfd, which the watch has taken
  };

  /// Throws SystemFailure: EPERM when the file cannot be polled, EEXIST when this loop polls the descriptor
  /// already.
  static std::shared_ptr<PollWatch> Start(napi_env env, int fd, Mode mode, napi_value listener);
  ~PollWatch() override { Stop(); }

  bool IsStopped() const { return handle_ == nullptr; }
  void Stop();
  /// Whether the loop goes on for this watch alone.
  void KeepLoopRunning(bool keeps);
  void CloseAtExit() override { Stop(); }

 private:
  struct Handle;
  PollWatch(std::shared_ptr<Environment> environment, int fd, Mode mode, napi_value listener);
  static void OnPoll(uv_poll_t* poll, int status, int events);
  static void OnClosed(uv_handle_t* handle);
  void CallListener();
  void CallAgain();
  bool CanBeReadSoon() const;
  void Call(size_t count, const napi_value* arguments);

  const int fd_;
  const Mode mode_;
  napi_ref listener_ = nullptr;
  Handle* handle_ = nullptr;
};

/// Reads an eventfd's counter and so sets it to zero. Returns 0 when it is zero, else at most 2^53-1, or
/// -errno.
int64_t TakeCounter(int fd);
