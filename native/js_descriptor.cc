// The verbs of a descriptor as JavaScript calls them.
#include <fcntl.h>
#include <linux/ioctl.h>
#include <linux/netlink.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "descriptor.h"
#include "js_classes.h"
#include "requests.h"

namespace {

// ---- Hot verbs: bound functions

/// ioctl(request, bytes): the general form. Remembers where the bytes are.
napi_value JsIoctl(napi_env env, napi_callback_info info) {
  const BoundCall<Descriptor, 2> call(env, info);
  Descriptor& self = *call.self;
  uint32_t request = 0;
  Bytes argument;
  if (napi_get_value_uint32(env, call.arguments[0], &request) != napi_ok ||
      !ReadBytes(env, call.arguments[1], argument)) {
    napi_throw_type_error(env, nullptr, "a number and a Uint8Array were expected");
    return nullptr;
  }
  if (argument.length < _IOC_SIZE(request)) {
    napi_throw_range_error(env, nullptr, "fewer bytes than the request moves");
    return nullptr;
  }
  const Descriptor::Visit visit(self);
  self.last_ioctl = {request, argument.data};
  return Number(env, OrErrno(::ioctl(visit.fd(), request, argument.data)));
}

/// ioctlAgain(): the ioctl of the call before, without asking V8 what and where its arguments are, which
/// takes as long as a small ioctl on a slow machine. The caller, who holds the array, makes sure that it was
/// not detached.
napi_value JsIoctlAgain(napi_env env, napi_callback_info info) {
  Descriptor& self = *BoundCall<Descriptor, 0>(env, info).self;
  const Descriptor::Visit visit(self);
  return Number(env, OrErrno(::ioctl(visit.fd(), self.last_ioctl.request, self.last_ioctl.argument)));
}

/// write(bytes)
napi_value JsWrite(napi_env env, napi_callback_info info) {
  const BoundCall<Descriptor, 1> call(env, info);
  Bytes bytes;
  if (!ReadBytes(env, call.arguments[0], bytes)) {
    napi_throw_type_error(env, nullptr, "a Uint8Array was expected");
    return nullptr;
  }
  const int fd = call.self->Turn();
  return Number(env, OrErrno(RetryInterrupted([&] { return ::write(fd, bytes.data, bytes.length); })));
}

/// read(bytes)
napi_value JsRead(napi_env env, napi_callback_info info) {
  const BoundCall<Descriptor, 1> call(env, info);
  Bytes bytes;
  if (!ReadBytes(env, call.arguments[0], bytes)) {
    napi_throw_type_error(env, nullptr, "a Uint8Array was expected");
    return nullptr;
  }
  const Descriptor::Visit visit(*call.self);
  return Number(env, OrErrno(RetryInterrupted([&] { return ::read(visit.fd(), bytes.data, bytes.length); })));
}

// ---- Other verbs: methods

size_t StrideAt(const Napi::CallbackInfo& info, size_t index) {
  const int64_t stride = IntegerAt(info, index);
  if (stride <= 0) throw Misuse(info.Env(), "a positive stride");
  return static_cast<size_t>(stride);
}

/// ioctlValue(request, number)
napi_value JsIoctlValue(Descriptor& self, const Napi::CallbackInfo& info) {
  const auto request = static_cast<unsigned long>(IntegerAt(info, 0));
  const int64_t argument = IntegerAt(info, 1);
  const Descriptor::Visit visit(self);
  return Number(info.Env(), OrErrno(::ioctl(visit.fd(), request, argument)));
}

/// ioctlAsync(request, bytes or number): a promise of the result
napi_value JsIoctlAsync(Descriptor& self, const Napi::CallbackInfo& info) {
  const auto request = static_cast<unsigned long>(IntegerAt(info, 0));
  if (info[1].IsNumber()) {
    return self.Submit(info.Env(), std::make_shared<IoctlValueRequest>(request, IntegerAt(info, 1)));
  }
  const Bytes argument = BytesAt(info, 1);
  if (argument.length < _IOC_SIZE(request)) throw Misuse(info.Env(), "as many bytes as the request moves");
  return self.Submit(info.Env(), std::make_shared<IoctlBytesRequest>(info.Env(), request, info[1], argument));
}

/// writeEach(records, stride)
napi_value JsWriteEach(Descriptor& self, const Napi::CallbackInfo& info) {
  const Bytes records = BytesAt(info, 0);
  const size_t stride = StrideAt(info, 1);
  const WriteProgress progress = WriteRecords(
      self.Turn(), records, stride, [] { return false; }, [](size_t) {});
  return WriteEachResult(info.Env(), progress, records.length / stride);
}

/// One writeEachAsync under way, as JavaScript holds it: `{ done: Promise, written(): number, stop(): void
/// }`.
napi_value JsWritten(napi_env env, napi_callback_info info) {
  return Number(env, static_cast<int64_t>(BoundCall<WriteEachRequest, 0>(env, info).self->written()));
}

napi_value JsStop(napi_env env, napi_callback_info info) {
  BoundCall<WriteEachRequest, 0>(env, info).self->Stop();
  return nullptr;
}

napi_value JsWriteEachAsync(Descriptor& self, const Napi::CallbackInfo& info) {
  auto request = std::make_shared<WriteEachRequest>(self.queue(), BytesAt(info, 0), StrideAt(info, 1));
  Napi::Object writing = Napi::Object::New(info.Env());
  AddBound(writing, "written", JsWritten, request);
  AddBound(writing, "stop", JsStop, request);
  writing.Set("done", self.Submit(info.Env(), request));
  return writing;
}

/// canRead(): whether read() has any meaning for this file. A read of no buffers asks the kernel that and
/// reaches no driver.
napi_value JsCanRead(Descriptor& self, const Napi::CallbackInfo& info) {
  const iovec none{};
  return Napi::Boolean::New(info.Env(), ::readv(self.Turn(), &none, 0) == 0);
}

napi_value JsPread(Descriptor& self, const Napi::CallbackInfo& info) {
  const Bytes bytes = BytesAt(info, 0);
  const off_t offset = BigIntAt(info, 1);
  const Descriptor::Visit visit(self);
  return Number(
      info.Env(),
      OrErrno(RetryInterrupted([&] { return ::pread(visit.fd(), bytes.data, bytes.length, offset); })));
}

napi_value JsPwrite(Descriptor& self, const Napi::CallbackInfo& info) {
  const Bytes bytes = BytesAt(info, 0);
  const off_t offset = BigIntAt(info, 1);
  const int fd = self.Turn();
  return Number(info.Env(),
                OrErrno(RetryInterrupted([&] { return ::pwrite(fd, bytes.data, bytes.length, offset); })));
}

/// watch(listener)
napi_value JsWatch(Descriptor& self, const Napi::CallbackInfo& info) {
  const napi_value listener = FunctionAt(info, 0);
  if (self.number() < 0) ThrowErrno("epoll_ctl", EBADF);
  if (self.watch != nullptr && !self.watch->IsStopped()) ThrowErrno("epoll_ctl", EEXIST);
  self.watch = PollWatch::Start(info.Env(), self.number(), PollWatch::Mode::kRequests, listener);
  return NewObject(info.Env(), self.watch);
}

/// receive(): one datagram of the kernel, undefined when there is none, or -errno
napi_value JsReceive(Descriptor& self, const Napi::CallbackInfo& info) {
  const int fd = self.Turn();
  for (;;) {
    // The length first: a datagram that does not fit its buffer would lose its tail.
    const ssize_t length =
        RetryInterrupted([&] { return ::recv(fd, nullptr, 0, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT); });
    if (length < 0) return errno == EAGAIN ? info.Env().Undefined() : Number(info.Env(), -errno);
    std::vector<unsigned char> datagram(static_cast<size_t>(length));
    sockaddr_nl sender{};
    socklen_t sender_length = sizeof sender;
    const ssize_t size = RetryInterrupted([&] {
      return ::recvfrom(fd, datagram.data(), datagram.size(), MSG_DONTWAIT,
                        reinterpret_cast<sockaddr*>(&sender), &sender_length);
    });
    if (size < 0) return errno == EAGAIN ? info.Env().Undefined() : Number(info.Env(), -errno);
    // Any process may send to a netlink socket. Port 0 is the kernel.
    if (sender_length >= sizeof sender && sender.nl_family == AF_NETLINK && sender.nl_pid != 0) continue;
    auto buffer = Napi::ArrayBuffer::New(info.Env(), static_cast<size_t>(size));
    std::copy_n(datagram.data(), size, static_cast<unsigned char*>(buffer.Data()));
    return Napi::Uint8Array::New(info.Env(), static_cast<size_t>(size), buffer, 0);
  }
}

/// addMembership(group)
napi_value JsAddMembership(Descriptor& self, const Napi::CallbackInfo& info) {
  const auto group = static_cast<unsigned>(IntegerAt(info, 0));
  const int fd = self.Turn();
  return Number(info.Env(),
                OrErrno(::setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group)));
}

napi_value JsCloseSync(Descriptor& self, const Napi::CallbackInfo&) {
  self.CloseNow();
  return nullptr;
}

napi_value JsClose(Descriptor& self, const Napi::CallbackInfo& info) { return self.CloseLater(info.Env()); }

// ---- Making descriptors

napi_value NewDescriptor(napi_env env, UniqueFd fd) {
  const int number = fd.get();
  const auto descriptor =
      std::make_shared<Descriptor>(Environment::Of(env).shared_from_this(), std::move(fd));
  Napi::Object object = NewObject(env, descriptor);
  object.Set("fd", Number(env, number));
  AddBound(object, "ioctl", JsIoctl, descriptor);
  AddBound(object, "ioctlAgain", JsIoctlAgain, descriptor);
  AddBound(object, "read", JsRead, descriptor);
  AddBound(object, "write", JsWrite, descriptor);
  return object;
}

/// One open(2) on its way through the pool.
struct Opening {
  explicit Opening(std::string where) : path(std::move(where)) {}

  const std::string path;
  UniqueFd fd;
  int error = 0;
  napi_deferred deferred = nullptr;
  napi_async_work work = nullptr;

  static UniqueFd Open(const std::string& path) {
    return UniqueFd(RetryInterrupted([&] { return ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK); }));
  }

  static void Execute(napi_env, void* data) {
    auto& self = *static_cast<Opening*>(data);
    self.fd = Open(self.path);
    if (!self.fd.IsOpen()) self.error = errno;
  }

  /// When the environment ends meanwhile nothing can be made of the descriptor, and it is closed.
  static void Complete(napi_env env, napi_status, void* data) {
    const std::unique_ptr<Opening> self(static_cast<Opening*>(data));
    napi_delete_async_work(env, self->work);
    const napi_value result = Guarded(env, [&]() -> napi_value {
      if (!self->fd.IsOpen()) throw SystemFailure{self->error, "open"};
      return NewDescriptor(env, std::move(self->fd));
    });
    if (result != nullptr) napi_resolve_deferred(env, self->deferred, result);
  }
};

/// open(path)
napi_value JsOpen(const Napi::CallbackInfo& info) {
  const std::string path = StringAt(info, 0);
  UniqueFd fd = Opening::Open(path);
  if (!fd.IsOpen()) ThrowErrno("open");
  return NewDescriptor(info.Env(), std::move(fd));
}

/// openAsync(path): a promise of the same
napi_value JsOpenAsync(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  auto opening = std::make_unique<Opening>(StringAt(info, 0));
  napi_value promise = nullptr;
  if (napi_create_promise(env, &opening->deferred, &promise) != napi_ok) throw Napi::Error::New(env);
  napi_value name = nullptr;
  napi_create_string_utf8(env, "open", NAPI_AUTO_LENGTH, &name);
  if (napi_create_async_work(env, nullptr, name, Opening::Execute, Opening::Complete, opening.get(),
                             &opening->work) != napi_ok ||
      napi_queue_async_work(env, opening->work) != napi_ok) {
    throw Napi::Error::New(env);
  }
  opening.release();
  return promise;
}

/// takeOver(fd): the descriptor is ours from now on, also close-on-exec and non-blocking like those we open
/// ourselves
napi_value JsTakeOver(const Napi::CallbackInfo& info) {
  const int number = static_cast<int>(IntegerAt(info, 0));
  const int flags = ::fcntl(number, F_GETFL);
  if (flags < 0) ThrowErrno("fcntl");
  // Two owners would close it twice, the second time when the number is another file's.
  if (Environment::Of(info.Env()).Owns(number)) ThrowErrno("fcntl", EBUSY);
  UniqueFd fd(number);
  ::fcntl(number, F_SETFD, FD_CLOEXEC);
  ::fcntl(number, F_SETFL, flags | O_NONBLOCK);
  return NewDescriptor(info.Env(), std::move(fd));
}

/// netlink(protocol): a socket bound to a port that the kernel chooses
napi_value JsNetlink(const Napi::CallbackInfo& info) {
  const int protocol = static_cast<int>(IntegerAt(info, 0));
  UniqueFd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol));
  if (!fd.IsOpen()) ThrowErrno("socket");
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0) ThrowErrno("bind");
  // The kernel then says why it refused, in words, and does not repeat the request. Older kernels do neither.
  const int on = 1;
  ::setsockopt(fd.get(), SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on);
  ::setsockopt(fd.get(), SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on);
  return NewDescriptor(info.Env(), std::move(fd));
}

// ---- The watch that JavaScript holds

napi_value JsWatchClose(PollWatch& self, const Napi::CallbackInfo&) {
  self.Stop();
  return nullptr;
}

napi_value JsWatchIsClosed(PollWatch& self, const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), self.IsStopped());
}

napi_value JsWatchKeepRunning(PollWatch& self, const Napi::CallbackInfo& info) {
  self.KeepLoopRunning(info[0].ToBoolean());
  return nullptr;
}

}  // namespace

void ExportDescriptor(Napi::Env env, Napi::Object exports) {
  DefineClass<Descriptor>(
      env, "Descriptor",
      {Named("ioctlValue", Method<Descriptor, JsIoctlValue>),
       Named("ioctlAsync", Method<Descriptor, JsIoctlAsync>),
       Named("writeEach", Method<Descriptor, JsWriteEach>),
       Named("writeEachAsync", Method<Descriptor, JsWriteEachAsync>),
       Named("canRead", Method<Descriptor, JsCanRead>), Named("pread", Method<Descriptor, JsPread>),
       Named("pwrite", Method<Descriptor, JsPwrite>), Named("watch", Method<Descriptor, JsWatch>),
       Named("mapDoorbell", Method<Descriptor, JsMapDoorbell>),
       Named("receive", Method<Descriptor, JsReceive>),
       Named("addMembership", Method<Descriptor, JsAddMembership>),
       Named("close", Method<Descriptor, JsClose>), Named("closeSync", Method<Descriptor, JsCloseSync>)});
  DefineClass<PollWatch>(
      env, "Watch",
      {Named("close", Method<PollWatch, JsWatchClose>), Named("isClosed", Method<PollWatch, JsWatchIsClosed>),
       Named("keepRunning", Method<PollWatch, JsWatchKeepRunning>)});
  AddVerb<JsOpen>(exports, "open");
  AddVerb<JsOpenAsync>(exports, "openAsync");
  AddVerb<JsTakeOver>(exports, "takeOver");
  AddVerb<JsNetlink>(exports, "netlink");
}
