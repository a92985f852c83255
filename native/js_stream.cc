// One end of a stream of bytes that another program passed, as JavaScript calls it: a pipe, a stream socket
// or a file. Its flags are those of everybody who has it, and no verb sleeps whatever they say, but for a
// file's disk.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <utility>

#include "border.h"
#include "js_classes.h"
#include "no_wait.h"
#include "poll_watch.h"
#include "unique_fd.h"

namespace {

/// Used on the environment's thread only.
class Stream final : public Resource, public std::enable_shared_from_this<Stream> {
 public:
  static constexpr Kind kKind = Kind::kStream;

  enum class What { kPipe, kSocket, kFile };

  Stream(std::shared_ptr<Environment> environment, UniqueFd fd, What what)
      : Resource(std::move(environment), kDescriptor), fd_(std::move(fd)), what_(what) {}
  ~Stream() override { Close(); }

  /// -1 after close: the kernel then answers EBADF.
  int fd() const { return fd_.get(); }
  int OwnedFd() const override { return fd_.get(); }

  ssize_t Read(Bytes bytes) {
    if (what_ == What::kSocket) return ::recv(fd(), bytes.data, bytes.length, MSG_DONTWAIT);
    const ssize_t size = ReadNoWait(fd(), bytes.data, bytes.length, -1);
    return size >= 0 || !IsToBeAskedPlainly() ? size : ::read(fd(), bytes.data, bytes.length);
  }

  ssize_t Write(Bytes bytes) {
    if (what_ == What::kSocket) return ::send(fd(), bytes.data, bytes.length, MSG_DONTWAIT | MSG_NOSIGNAL);
    const ssize_t size = WriteNoWait(fd(), bytes.data, bytes.length);
    return size >= 0 || !IsToBeAskedPlainly() ? size : ::write(fd(), bytes.data, bytes.length);
  }

  void Close() {
    if (watch != nullptr) std::exchange(watch, nullptr)->Stop();
    fd_.Close();
  }
  void CloseAtExit() override { Close(); }

  std::shared_ptr<PollWatch> watch;

 private:
  /// Whether a refusal says only that this kernel cannot ask without waiting: pipes before Linux 6.4, and
  /// those with a name. These become non-blocking, for everybody who has this end. Of a file, what is not in
  /// memory is waited for.
  bool IsToBeAskedPlainly() const {
    if (what_ == What::kFile && errno == EAGAIN) return true;
    if (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL) return false;
    if (what_ == What::kFile) return true;
    const int flags = ::fcntl(fd(), F_GETFL);
    return flags >= 0 && ((flags & O_NONBLOCK) != 0 || ::fcntl(fd(), F_SETFL, flags | O_NONBLOCK) == 0);
  }

  UniqueFd fd_;
  const What what_;
};

Stream::What KindOf(int fd) {
  struct stat status {};
  if (::fstat(fd, &status) < 0) ThrowErrno("fstat");
  if (S_ISFIFO(status.st_mode)) return Stream::What::kPipe;
  if (S_ISREG(status.st_mode)) return Stream::What::kFile;
  if (!S_ISSOCK(status.st_mode)) ThrowErrno("fstat", EINVAL);
  int kind = 0;
  socklen_t length = sizeof kind;
  if (::getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &length) < 0) ThrowErrno("getsockopt");
  if (kind != SOCK_STREAM) ThrowErrno("getsockopt", EPROTOTYPE);
  return Stream::What::kSocket;
}

/// streamOf(fd): a duplicate of the caller's, which stays the caller's to close
napi_value JsStreamOf(const Napi::CallbackInfo& info) {
  UniqueFd fd(::fcntl(static_cast<int>(IntegerAt(info, 0)), F_DUPFD_CLOEXEC, 0));
  if (!fd.IsOpen()) ThrowErrno("fcntl");
  const int number = fd.get();
  const Stream::What what = KindOf(number);
  const auto stream =
      std::make_shared<Stream>(Environment::Of(info.Env()).shared_from_this(), std::move(fd), what);
  Napi::Object object = NewObject(info.Env(), stream);
  object.Set("fd", Number(info.Env(), number));
  object.Set("isPolled", Napi::Boolean::New(info.Env(), what != Stream::What::kFile));
  return object;
}

/// read(bytes): how many came, or -errno
napi_value JsRead(Stream& self, const Napi::CallbackInfo& info) {
  const Bytes bytes = BytesAt(info, 0);
  return Number(info.Env(), OrErrno(RetryInterrupted([&] { return self.Read(bytes); })));
}

/// write(bytes): how many went, or -errno
napi_value JsWrite(Stream& self, const Napi::CallbackInfo& info) {
  const Bytes bytes = BytesAt(info, 0);
  return Number(info.Env(), OrErrno(RetryInterrupted([&] { return self.Write(bytes); })));
}

/// watch(listener, isWritable)
napi_value JsWatch(Stream& self, const Napi::CallbackInfo& info) {
  const napi_value listener = FunctionAt(info, 0);
  const bool is_writable = info[1].IsBoolean() && info[1].As<Napi::Boolean>().Value();
  if (self.fd() < 0) ThrowErrno("epoll_ctl", EBADF);
  if (self.watch != nullptr && !self.watch->IsStopped()) ThrowErrno("epoll_ctl", EEXIST);
  const PollWatch::Mode mode = is_writable ? PollWatch::Mode::kWritable : PollWatch::Mode::kReadable;
  self.watch = PollWatch::Start(info.Env(), self.fd(), mode, listener);
  return NewObject(info.Env(), self.watch);
}

napi_value JsClose(Stream& self, const Napi::CallbackInfo&) {
  self.Close();
  return nullptr;
}

}  // namespace

void ExportStream(Napi::Env env, Napi::Object exports) {
  DefineClass<Stream>(env, "Stream",
                      {Named("read", Method<Stream, JsRead>), Named("write", Method<Stream, JsWrite>),
                       Named("watch", Method<Stream, JsWatch>), Named("close", Method<Stream, JsClose>)});
  AddVerb<JsStreamOf>(exports, "streamOf");
}
