// What each request does on its thread, and what it answers.
#include "requests.h"

#include <sys/ioctl.h>

#include <cstring>

void IoctlValueRequest::Run(UniqueFd& fd) { result_ = OrErrno(::ioctl(fd.get(), request_, argument_)); }

napi_value IoctlValueRequest::Result(napi_env env) { return Number(env, result_); }

IoctlBytesRequest::IoctlBytesRequest(napi_env env, unsigned long request, napi_value argument, Bytes bytes)
    : request_(request),
      copy_(static_cast<unsigned char*>(bytes.data), static_cast<unsigned char*>(bytes.data) + bytes.length) {
  napi_create_reference(env, argument, 1, &argument_);
}

void IoctlBytesRequest::Run(UniqueFd& fd) { result_ = OrErrno(::ioctl(fd.get(), request_, copy_.data())); }

napi_value IoctlBytesRequest::Result(napi_env env) {
  napi_value argument = nullptr;
  Bytes bytes;
  napi_get_reference_value(env, argument_, &argument);
  napi_delete_reference(env, argument_);
  if (ReadBytes(env, argument, bytes) && bytes.length == copy_.size() && bytes.length > 0) {
    std::memcpy(bytes.data, copy_.data(), copy_.size());
  }
  return Number(env, result_);
}

WriteEachRequest::WriteEachRequest(RequestQueue& queue, Bytes records, size_t stride)
    : queue_(queue),
      copy_(static_cast<unsigned char*>(records.data),
            static_cast<unsigned char*>(records.data) + records.length),
      stride_(stride) {}

void WriteEachRequest::Run(UniqueFd& fd) {
  progress_ = WriteRecords(
      fd.get(), {copy_.data(), copy_.size()}, stride_,
      [this] {
        queue_.LetVisitorsIn();
        return is_stopped_.load(std::memory_order_relaxed);
      },
      [this](size_t completed) { written_.store(completed, std::memory_order_relaxed); });
}

napi_value WriteEachRequest::Result(napi_env env) {
  return WriteEachResult(env, progress_, copy_.size() / stride_);
}

napi_value WriteEachResult(napi_env env, WriteProgress progress, size_t total) {
  const napi_value completed = Number(env, static_cast<int64_t>(progress.completed));
  return progress.completed == total ? completed : Pair(env, completed, Number(env, -progress.error));
}
