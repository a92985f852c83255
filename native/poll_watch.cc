// uv_poll, from one environment's loop to one JavaScript function.
#include "poll_watch.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "border.h"
#include "no_wait.h"
#include "system_failure.h"

namespace {

/// Calls to one listener before the loop has its turn.
constexpr int kCallsATurn = 16;

/// Times that a file is looked at before the loop is gone back to, which sleeps: a device that was answered
/// asks next in less time than falling asleep and waking take.
constexpr int kLooks = 8;

}  // namespace

/// libuv's part. It lives until libuv has closed it, which is later than the watch may live.
struct PollWatch::Handle {
  uv_poll_t poll;
  std::shared_ptr<Environment> environment;
  PollWatch* owner;
};

std::shared_ptr<PollWatch> PollWatch::Start(napi_env env, int fd, Mode mode, napi_value listener) {
  return std::shared_ptr<PollWatch>(
      new PollWatch(Environment::Of(env).shared_from_this(), fd, mode, listener));
}

PollWatch::PollWatch(std::shared_ptr<Environment> environment, int fd, Mode mode, napi_value listener)
    : Resource(environment, kWatch), fd_(fd), mode_(mode) {
  auto handle = std::make_unique<Handle>();
  handle->environment = std::move(environment);
  handle->owner = this;
  handle->poll.data = handle.get();
  // libuv makes the descriptor non-blocking. It may be a program's own (KVM's irqfd), whose way of reading is
  // not ours to change.
  const int flags = ::fcntl(fd, F_GETFL);
  const int refusal = uv_poll_init(handle->environment->loop(), &handle->poll, fd);
  if (flags >= 0 && (flags & O_NONBLOCK) == 0) ::fcntl(fd, F_SETFL, flags);
  if (refusal != 0) ThrowErrno("epoll_ctl", -refusal);
  handle_ = handle.release();
  handle_->environment->HandleOpened();
  uv_unref(reinterpret_cast<uv_handle_t*>(&handle_->poll));
  napi_create_reference(handle_->environment->env(), listener, 1, &listener_);
  const int event = mode == Mode::kWritable ? UV_WRITABLE : UV_READABLE;
  const int started = uv_poll_start(&handle_->poll, event, OnPoll);
  if (started != 0) {
    Stop();
    ThrowErrno("epoll_ctl", -started);
  }
}

void PollWatch::Stop() {
  Handle* handle = std::exchange(handle_, nullptr);
  if (handle == nullptr) return;
  Unregister();
  handle->owner = nullptr;
  uv_poll_stop(&handle->poll);
  uv_close(reinterpret_cast<uv_handle_t*>(&handle->poll), OnClosed);
  napi_delete_reference(environment().env(), std::exchange(listener_, nullptr));
}

void PollWatch::KeepLoopRunning(bool keeps) {
  if (handle_ == nullptr) return;
  auto* handle = reinterpret_cast<uv_handle_t*>(&handle_->poll);
  keeps ? uv_ref(handle) : uv_unref(handle);
}

void PollWatch::OnClosed(uv_handle_t* handle) {
  const std::unique_ptr<Handle> last(static_cast<Handle*>(handle->data));
  last->environment->HandleClosed();
}

void PollWatch::OnPoll(uv_poll_t* poll, int status, int) {
  PollWatch* owner = static_cast<Handle*>(poll->data)->owner;
  if (owner == nullptr) return;
  // The listener may drop everything that owns the watch.
  const std::shared_ptr<PollWatch> self = owner->shared_from_this();
  napi_handle_scope scope = nullptr;
  napi_open_handle_scope(self->environment().env(), &scope);
  self->CallListener();
  if (self->mode_ == Mode::kRequests) self->CallAgain();
  // The file is in error (POLLERR), and libuv has stopped polling. The listener was called, to find out by
  // reading.
  if (status < 0) self->Stop();
  napi_close_handle_scope(self->environment().env(), scope);
}

void PollWatch::CallListener() {
  if (mode_ != Mode::kCounter) return Call(0, nullptr);
  const int64_t count = TakeCounter(fd_);
  if (count <= 0) return;
  const napi_value argument = Number(environment().env(), count);
  Call(1, &argument);
}

void PollWatch::CallAgain() {
  for (int calls = 1; calls < kCallsATurn && CanBeReadSoon(); calls++) CallListener();
}

bool PollWatch::CanBeReadSoon() const {
  // The listener may have stopped the watch, whose descriptor is then closed.
  for (int looks = 0; looks < kLooks && !IsStopped(); looks++) {
    pollfd waiting{fd_, POLLIN, 0};
    if (::poll(&waiting, 1, 0) == 1) return (waiting.revents & POLLIN) != 0;
  }
  return false;
}

void PollWatch::Call(size_t count, const napi_value* arguments) {
  const napi_env env = environment().env();
  napi_value listener = nullptr;
  napi_value receiver = nullptr;
  napi_get_reference_value(env, listener_, &listener);
  napi_get_global(env, &receiver);
  // Runs the microtasks afterwards, as Node does after each of its own callbacks.
  if (napi_make_callback(env, nullptr, receiver, listener, count, arguments, nullptr) !=
      napi_pending_exception)
    return;
  napi_value exception = nullptr;
  if (napi_get_and_clear_last_exception(env, &exception) == napi_ok) napi_fatal_exception(env, exception);
}

namespace {

/// read() that does not sleep, whatever the flags of the file say: another program may have made it without
/// EFD_NONBLOCK, and may take the counter between our looking and our reading.
ssize_t ReadWithoutSleep(int fd, uint64_t& count) {
  const ssize_t size = ReadNoWait(fd, &count, sizeof count, -1);
  if (size >= 0 || (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL)) return size;
  // Linux before 5.8 has no such reading of eventfds.
  pollfd waiting{fd, POLLIN, 0};
  if (::poll(&waiting, 1, 0) == 1 && (waiting.revents & POLLIN) != 0) return ::read(fd, &count, sizeof count);
  errno = EAGAIN;
  return -1;
}

}  // namespace

int64_t TakeCounter(int fd) {
  if (fd < 0) return -EBADF;
  constexpr uint64_t kLargestExactDouble = (uint64_t{1} << 53) - 1;
  uint64_t count = 0;
  const ssize_t size = RetryInterrupted([&] { return ReadWithoutSleep(fd, count); });
  if (size < 0) return errno == EAGAIN ? 0 : -errno;
  return static_cast<int64_t>(std::min(count, kLargestExactDouble));
}
