// UNIX stream sockets as JavaScript calls them, and the files that come through them.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "border.h"
#include "js_classes.h"
#include "poll_watch.h"
#include "socket_message.h"
#include "unique_fd.h"

namespace {

/// A file that another process passed. Used on the environment's thread only.
class PassedFile final : public Resource, public std::enable_shared_from_this<PassedFile> {
 public:
  static constexpr Kind kKind = Kind::kFile;

  PassedFile(std::shared_ptr<Environment> environment, UniqueFd fd)
      : Resource(std::move(environment), kDescriptor), fd_(std::move(fd)) {}

  int OwnedFd() const override { return fd_.get(); }
  void Close() { fd_.Close(); }
  void CloseAtExit() override { Close(); }

 private:
  UniqueFd fd_;
};

/// A socket that listens, or one that is connected; the kernel refuses what the other is for. Used on the
/// environment's thread only, which it never has sleep.
class Socket final : public Resource, public std::enable_shared_from_this<Socket> {
 public:
  static constexpr Kind kKind = Kind::kSocket;

  Socket(std::shared_ptr<Environment> environment, UniqueFd fd)
      : Resource(std::move(environment), kDescriptor), fd_(std::move(fd)) {}
  ~Socket() override { Close(); }

  /// -1 after close: the kernel then answers EBADF.
  int fd() const { return fd_.get(); }
  int OwnedFd() const override { return fd_.get(); }

  void Close() {
    if (watch != nullptr) std::exchange(watch, nullptr)->Stop();
    fd_.Close();
  }
  void CloseAtExit() override { Close(); }

  std::shared_ptr<PollWatch> watch;

 private:
  UniqueFd fd_;
};

napi_value NewSocket(napi_env env, UniqueFd fd) {
  const int number = fd.get();
  const auto socket = std::make_shared<Socket>(Environment::Of(env).shared_from_this(), std::move(fd));
  Napi::Object object = NewObject(env, socket);
  object.Set("fd", Number(env, number));
  return object;
}

napi_value NewFile(napi_env env, UniqueFd fd) {
  const int number = fd.get();
  const auto file = std::make_shared<PassedFile>(Environment::Of(env).shared_from_this(), std::move(fd));
  Napi::Object object = NewObject(env, file);
  object.Set("fd", Number(env, number));
  return object;
}

UniqueFd NewStream() {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.IsOpen()) ThrowErrno("socket");
  return fd;
}

sockaddr_un AddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) ThrowErrno("bind", ENAMETOOLONG);
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

/// listen(path, backlog)
napi_value JsListen(const Napi::CallbackInfo& info) {
  const sockaddr_un address = AddressOf(StringAt(info, 0));
  const auto backlog = static_cast<int>(IntegerAt(info, 1));
  UniqueFd fd = NewStream();
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0) ThrowErrno("bind");
  if (::listen(fd.get(), backlog) < 0) {
    const int error = errno;
    ::unlink(address.sun_path);
    ThrowErrno("listen", error);
  }
  return NewSocket(info.Env(), std::move(fd));
}

/// connect(path): at once, or not at all. EAGAIN: the listener has no room for another.
napi_value JsConnect(const Napi::CallbackInfo& info) {
  const sockaddr_un address = AddressOf(StringAt(info, 0));
  UniqueFd fd = NewStream();
  if (RetryInterrupted([&] {
        return ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
      }) < 0)
    ThrowErrno("connect");
  return NewSocket(info.Env(), std::move(fd));
}

/// socketPair(): both ends
napi_value JsSocketPair(const Napi::CallbackInfo& info) {
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0) ThrowErrno("socketpair");
  UniqueFd first(fds[0]);
  UniqueFd second(fds[1]);
  napi_value one = NewSocket(info.Env(), std::move(first));
  return Pair(info.Env(), one, NewSocket(info.Env(), std::move(second)));
}

/// socketOf(fd): a duplicate of the caller's, which stays the caller's to close. Its flags are those of
/// everybody who has the file, and stay as they are: no verb here sleeps for the lack of O_NONBLOCK.
napi_value JsSocketOf(const Napi::CallbackInfo& info) {
  UniqueFd fd(::fcntl(static_cast<int>(IntegerAt(info, 0)), F_DUPFD_CLOEXEC, 0));
  if (!fd.IsOpen()) ThrowErrno("fcntl");
  int kind = 0;
  socklen_t length = sizeof kind;
  if (::getsockopt(fd.get(), SOL_SOCKET, SO_TYPE, &kind, &length) < 0) ThrowErrno("getsockopt");
  if (kind != SOCK_STREAM) ThrowErrno("getsockopt", EPROTOTYPE);
  return NewSocket(info.Env(), std::move(fd));
}

/// accept(): a socket, undefined when nobody waits
napi_value JsAccept(Socket& self, const Napi::CallbackInfo& info) {
  UniqueFd fd(
      RetryInterrupted([&] { return ::accept4(self.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK); }));
  // Who waited may have gone before it was let in.
  if (!fd.IsOpen() && (errno == EAGAIN || errno == ECONNABORTED)) return info.Env().Undefined();
  if (!fd.IsOpen()) ThrowErrno("accept4");
  return NewSocket(info.Env(), std::move(fd));
}

/// receive(bytes, offset, length, descriptorsLast): the count of bytes, or [count, files] where files came;
/// -errno
napi_value JsReceive(Socket& self, const Napi::CallbackInfo& info) {
  const Bytes bytes = BytesAt(info, 0);
  const int64_t offset = IntegerAt(info, 1);
  const int64_t length = IntegerAt(info, 2);
  const int64_t last = IntegerAt(info, 3);
  const auto room = static_cast<int64_t>(bytes.length);
  if (offset < 0 || length <= 0 || offset > room || length > room - offset)
    throw Misuse(info.Env(), "a part of the bytes");
  if (last < 0 || last > static_cast<int64_t>(kDescriptorsLast))
    throw Misuse(info.Env(), "0 to 253 descriptors");
  ReceivedMessage received = ReceiveMessage(self.fd(), static_cast<char*>(bytes.data) + offset,
                                            static_cast<size_t>(length), static_cast<size_t>(last));
  if (received.descriptors.empty()) return Number(info.Env(), received.size);
  Napi::Array files = Napi::Array::New(info.Env(), received.descriptors.size());
  for (uint32_t index = 0; index < received.descriptors.size(); index++)
    files.Set(index, NewFile(info.Env(), std::move(received.descriptors[index])));
  return Pair(info.Env(), Number(info.Env(), received.size), files);
}

/// send(bytes, descriptors): the count of bytes, or -errno
napi_value JsSend(Socket& self, const Napi::CallbackInfo& info) {
  if (!info[1].IsArray()) throw Misuse(info.Env(), "an array");
  const auto array = info[1].As<Napi::Array>();
  if (array.Length() > kDescriptorsLast) throw Misuse(info.Env(), "at most 253 descriptors");
  std::vector<int> descriptors;
  for (uint32_t index = 0; index < array.Length(); index++) {
    const Napi::Value value = array.Get(index);
    if (!value.IsNumber()) throw Misuse(info.Env(), "a number");
    descriptors.push_back(value.As<Napi::Number>().Int32Value());
  }
  // After the array was read, whose elements may be getters: the bytes are valid until JavaScript runs again.
  const Bytes bytes = BytesAt(info, 0);
  return Number(info.Env(), SendMessage(self.fd(), bytes.data, bytes.length, descriptors));
}

/// watch(listener)
napi_value JsWatch(Socket& self, const Napi::CallbackInfo& info) {
  const napi_value listener = FunctionAt(info, 0);
  if (self.fd() < 0) ThrowErrno("epoll_ctl", EBADF);
  if (self.watch != nullptr && !self.watch->IsStopped()) ThrowErrno("epoll_ctl", EEXIST);
  self.watch = PollWatch::Start(info.Env(), self.fd(), PollWatch::Mode::kReadable, listener);
  return NewObject(info.Env(), self.watch);
}

napi_value JsClose(Socket& self, const Napi::CallbackInfo&) {
  self.Close();
  return nullptr;
}

napi_value JsFileClose(PassedFile& self, const Napi::CallbackInfo&) {
  self.Close();
  return nullptr;
}

}  // namespace

void ExportSocket(Napi::Env env, Napi::Object exports) {
  DefineClass<Socket>(env, "Socket",
                      {Named("accept", Method<Socket, JsAccept>), Named("receive", Method<Socket, JsReceive>),
                       Named("send", Method<Socket, JsSend>), Named("watch", Method<Socket, JsWatch>),
                       Named("close", Method<Socket, JsClose>)});
  DefineClass<PassedFile>(env, "PassedFile", {Named("close", Method<PassedFile, JsFileClose>)});
  AddVerb<JsListen>(exports, "listen");
  AddVerb<JsConnect>(exports, "connect");
  AddVerb<JsSocketPair>(exports, "socketPair");
  AddVerb<JsSocketOf>(exports, "socketOf");
}
