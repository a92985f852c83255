// How requests get to the pool and their answers back, and how a descriptor ends.
#include "descriptor.h"

#include <utility>

namespace {

/// The last request of all.
class CloseRequest final : public AsyncRequest {
 public:
  void Run(UniqueFd& fd) override { fd.Close(); }
  napi_value Result(napi_env env) override { return Number(env, 0); }
};

}  // namespace

/// One visit to the pool. It carries out one request, so that the answer is not kept waiting for the requests
/// behind it.
struct Descriptor::Turnstile {
  std::shared_ptr<Descriptor> descriptor;
  napi_async_work work = nullptr;

  static void Execute(napi_env, void* data) {
    Descriptor& descriptor = *static_cast<Turnstile*>(data)->descriptor;
    descriptor.queue_.RunOne(descriptor.fd_);
  }

  static void Complete(napi_env env, napi_status, void* data) {
    const std::unique_ptr<Turnstile> self(static_cast<Turnstile*>(data));
    napi_delete_async_work(env, self->work);
    self->descriptor->is_scheduled_ = false;
    self->descriptor->Settle(env);
    if (!self->descriptor->queue_.IsIdle()) self->descriptor->Schedule(env);
  }
};

napi_value Descriptor::Submit(napi_env env, std::shared_ptr<AsyncRequest> request) {
  napi_value promise = nullptr;
  if (napi_create_promise(env, &request->deferred, &promise) != napi_ok) throw Napi::Error::New(env);
  queue_.Push(std::move(request));
  if (!is_scheduled_) Schedule(env);
  return promise;
}

void Descriptor::Schedule(napi_env env) {
  auto turnstile = std::make_unique<Turnstile>();
  turnstile->descriptor = shared_from_this();
  napi_value name = nullptr;
  napi_create_string_utf8(env, "request", NAPI_AUTO_LENGTH, &name);
  napi_status status = napi_create_async_work(env, nullptr, name, Turnstile::Execute, Turnstile::Complete,
                                              turnstile.get(), &turnstile->work);
  if (status == napi_ok) status = napi_queue_async_work(env, turnstile->work);
  // Refused only while the environment ends; the cleanup hook then abandons the queue.
  if (status != napi_ok) return;
  is_scheduled_ = true;
  turnstile.release();
}

void Descriptor::Settle(napi_env env) {
  for (const std::shared_ptr<Request>& finished : queue_.TakeFinished()) {
    auto& request = static_cast<AsyncRequest&>(*finished);
    const napi_value result = request.Result(env);
    // No value: JavaScript does not run any more, and nobody waits.
    if (result != nullptr) napi_resolve_deferred(env, request.deferred, result);
  }
}

void Descriptor::BeginClose() {
  is_closed_ = true;
  last_ioctl = {};
  StopWatch();
}

void Descriptor::CloseNow() {
  if (!is_closed_) BeginClose();
  queue_.Drain(fd_);
  fd_.Close();
  Unregister();
}

napi_value Descriptor::CloseLater(napi_env env) {
  BeginClose();
  return Submit(env, std::make_shared<CloseRequest>());
}

void Descriptor::CloseAtExit() {
  BeginClose();
  queue_.Abandon();
  fd_.Close();
}
