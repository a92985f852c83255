// An eventfd and its verbs as JavaScript calls them.
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <cstdio>
#include <memory>
#include <string>
#include <utility>

#include "border.h"
#include "js_classes.h"
#include "poll_watch.h"
#include "unique_fd.h"

namespace {

/// Used on the environment's thread only.
class Eventfd final : public Resource, public std::enable_shared_from_this<Eventfd> {
 public:
  static constexpr Kind kKind = Kind::kEventfd;

  Eventfd(std::shared_ptr<Environment> environment, UniqueFd fd, bool is_shared)
      : Resource(std::move(environment), kDescriptor), fd_(std::move(fd)), is_shared_(is_shared) {}

  ~Eventfd() override { Close(); }

  int fd() const { return fd_.get(); }
  int OwnedFd() const override { return fd_.get(); }

  /// A counter that has no room is as much of a signal as there can be: whoever waits for it is awake.
  int Signal(uint64_t count) {
    if (MayBlock() && !HasRoom(count)) return fd_.IsOpen() ? 0 : -EBADF;
    const ssize_t size = RetryInterrupted([&] { return ::write(fd_.get(), &count, sizeof count); });
    return size < 0 && errno != EAGAIN ? -errno : 0;
  }

  int64_t Take() { return TakeCounter(fd_.get()); }

  void Close() {
    if (watch != nullptr) std::exchange(watch, nullptr)->Stop();
    fd_.Close();
  }
  void CloseAtExit() override { Close(); }

  std::shared_ptr<PollWatch> watch;

 private:
  /// Asked each time: who shares the file may take O_NONBLOCK away at any moment.
  bool MayBlock() const {
    const int flags = is_shared_ ? ::fcntl(fd_.get(), F_GETFL) : O_NONBLOCK;
    return flags >= 0 && (flags & O_NONBLOCK) == 0;
  }

  /// For an eventfd that another program made without EFD_NONBLOCK: the loop's thread must not sleep in it.
  /// poll() says whether 1 can be added; how much more, only /proc does.
  bool HasRoom(uint64_t count) const {
    pollfd waiting{fd_.get(), POLLOUT, 0};
    if (::poll(&waiting, 1, 0) != 1 || (waiting.revents & POLLOUT) == 0) return false;
    return count == 1 || count <= kLargest - Counter();
  }

  /// The counter as it is; the largest, so that nothing is added, where it is not told.
  uint64_t Counter() const {
    const std::string path = "/proc/self/fdinfo/" + std::to_string(fd_.get());
    const std::unique_ptr<FILE, int (*)(FILE*)> file(::fopen(path.c_str(), "re"), ::fclose);
    char line[128];
    while (file != nullptr && ::fgets(line, sizeof line, file.get()) != nullptr) {
      unsigned long long counter = 0;
      if (::sscanf(line, "eventfd-count: %llx", &counter) == 1) return counter;
    }
    return kLargest;
  }

  static constexpr uint64_t kLargest = 0xfffffffffffffffe;

  UniqueFd fd_;
  const bool is_shared_;
};

/// signal(count), bound: a queue's kick
napi_value JsSignal(napi_env env, napi_callback_info info) {
  const BoundCall<Eventfd, 1> call(env, info);
  int64_t count = 0;
  napi_get_value_int64(env, call.arguments[0], &count);
  return Number(env, call.self->Signal(static_cast<uint64_t>(count)));
}

/// take(), bound: 0 when nothing was added
napi_value JsTake(napi_env env, napi_callback_info info) {
  return Number(env, BoundCall<Eventfd, 0>(env, info).self->Take());
}

/// watch(listener)
napi_value JsWatch(Eventfd& self, const Napi::CallbackInfo& info) {
  const napi_value listener = FunctionAt(info, 0);
  if (self.fd() < 0) ThrowErrno("epoll_ctl", EBADF);
  if (self.watch != nullptr && !self.watch->IsStopped()) ThrowErrno("epoll_ctl", EEXIST);
  self.watch = PollWatch::Start(info.Env(), self.fd(), PollWatch::Mode::kCounter, listener);
  return NewObject(info.Env(), self.watch);
}

napi_value JsClose(Eventfd& self, const Napi::CallbackInfo&) {
  self.Close();
  return nullptr;
}

/// eventfd(): a new one. eventfd(fd): a duplicate of the caller's, which stays the caller's to close.
napi_value JsEventfd(const Napi::CallbackInfo& info) {
  const bool is_new = info[0].IsUndefined();
  UniqueFd fd(is_new ? ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
                     : ::fcntl(static_cast<int>(IntegerAt(info, 0)), F_DUPFD_CLOEXEC, 0));
  if (!fd.IsOpen()) ThrowErrno(is_new ? "eventfd2" : "fcntl");
  const int number = fd.get();
  const auto eventfd =
      std::make_shared<Eventfd>(Environment::Of(info.Env()).shared_from_this(), std::move(fd), !is_new);
  Napi::Object object = NewObject(info.Env(), eventfd);
  object.Set("fd", Number(info.Env(), number));
  AddBound(object, "signal", JsSignal, eventfd);
  AddBound(object, "take", JsTake, eventfd);
  return object;
}

}  // namespace

void ExportEventfd(Napi::Env env, Napi::Object exports) {
  DefineClass<Eventfd>(env, "Eventfd",
                       {Named("watch", Method<Eventfd, JsWatch>), Named("close", Method<Eventfd, JsClose>)});
  AddVerb<JsEventfd>(exports, "eventfd");
}
