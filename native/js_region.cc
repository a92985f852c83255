// Shared memory of a file as one external ArrayBuffer, and when it may be unmapped.
//
// A mapping is wrapped once: V8 must not meet the same address twice. It ends when it is closed; when nobody
// closes it, it ends after both the region and its buffer have been collected; and when it is held (mapped
// for DMA) then, it stays until the environment ends.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <memory>
#include <string>

#include "border.h"
#include "js_classes.h"
#include "mapping.h"
#include "unique_fd.h"

namespace {

/// Used on the environment's thread only.
class Region final : public Resource, public std::enable_shared_from_this<Region> {
 public:
  static constexpr Kind kKind = Kind::kRegion;

  Region(std::shared_ptr<Environment> environment, UniqueFd fd, Mapping mapping)
      : Resource(std::move(environment), kMemory), fd_(std::move(fd)), mapping_(std::move(mapping)) {}
  ~Region() override {
    DropReference();
    if (mapping_.IsMapped() && is_held_) environment().KeepUntilExit(std::move(mapping_));
  }

  const Mapping& mapping() const { return mapping_; }
  int fd() const { return fd_.get(); }
  void SetHeld(bool is_held) { is_held_ = is_held; }

  /// The ArrayBuffer over the mapping, made once. It shares the region until it is collected or detached.
  napi_value MakeBuffer(napi_env env) {
    auto* share = new std::shared_ptr<Region>(shared_from_this());
    auto finalize = [](napi_env, void*, void* hint) { delete static_cast<std::shared_ptr<Region>*>(hint); };
    napi_value buffer = nullptr;
    const napi_status status = napi_create_external_arraybuffer(env, mapping_.address(), mapping_.length(),
                                                                finalize, share, &buffer);
    if (status != napi_ok) {
      delete share;
      throw Napi::Error::New(env);
    }
    // Weak: a strong one would keep the buffer for ever.
    napi_create_reference(env, buffer, 0, &buffer_);
    return buffer;
  }

  /// Detaches the buffer, so that JavaScript sees nothing rather than memory that is gone, and unmaps. When
  /// somebody moved the memory to an ArrayBuffer of his own (`transfer()`), it is his until that one is
  /// collected.
  void Close() {
    fd_.Close();
    const bool is_ours = DetachBuffer();
    DropReference();
    if (is_ours) mapping_.Unmap();
  }
  void CloseAtExit() override {
    Close();
    mapping_.Unmap();
  }

 private:
  /// False when the memory is not in our buffer any more.
  bool DetachBuffer() {
    const napi_env env = environment().env();
    napi_value buffer = nullptr;
    if (buffer_ == nullptr || napi_get_reference_value(env, buffer_, &buffer) != napi_ok || buffer == nullptr)
      return true;
    bool is_detached = false;
    napi_is_detached_arraybuffer(env, buffer, &is_detached);
    if (!is_detached) napi_detach_arraybuffer(env, buffer);
    return !is_detached;
  }

  void DropReference() {
    if (buffer_ != nullptr) napi_delete_reference(environment().env(), std::exchange(buffer_, nullptr));
  }

  UniqueFd fd_;
  Mapping mapping_;
  napi_ref buffer_ = nullptr;
  bool is_held_ = false;
};

/// hold(whether): while it is held, nothing but close() unmaps it
napi_value JsHold(Region& self, const Napi::CallbackInfo& info) {
  self.SetHeld(info[0].ToBoolean());
  return nullptr;
}

napi_value JsClose(Region& self, const Napi::CallbackInfo&) {
  self.Close();
  return nullptr;
}

napi_value NewRegion(napi_env env, UniqueFd fd, size_t length, off_t offset) {
  Mapping mapping(fd.get(), length, offset, PROT_READ | PROT_WRITE);
  const auto region =
      std::make_shared<Region>(Environment::Of(env).shared_from_this(), std::move(fd), std::move(mapping));
  Napi::Object object = NewObject(env, region);
  const auto address = reinterpret_cast<uintptr_t>(region->mapping().address());
  object.Set("fd", Number(env, region->fd()));
  object.Set("address", Napi::BigInt::New(env, static_cast<uint64_t>(address)));
  object.Set("buffer", region->MakeBuffer(env));
  return object;
}

size_t LengthAt(const Napi::CallbackInfo& info, size_t index) {
  const int64_t length = IntegerAt(info, index);
  if (length <= 0) throw Misuse(info.Env(), "a positive length");
  return static_cast<size_t>(length);
}

/// allocate(name, length, hugePageLog2 or 0): zeroed memory of a new file
napi_value JsAllocate(const Napi::CallbackInfo& info) {
  const std::string name = StringAt(info, 0);
  const size_t length = LengthAt(info, 1);
  const auto huge_page_log2 = static_cast<unsigned>(IntegerAt(info, 2));
  // memfd_create() takes the size of a huge page where mmap() does.
  const unsigned huge = huge_page_log2 == 0 ? 0 : MFD_HUGETLB | (huge_page_log2 << MAP_HUGE_SHIFT);
  UniqueFd fd(::memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING | huge));
  if (!fd.IsOpen()) ThrowErrno("memfd_create");
  if (::ftruncate(fd.get(), static_cast<off_t>(length)) < 0) ThrowErrno("ftruncate");
  // Another process that is given the file must not be able to make it shorter: touching memory that is gone
  // ends a program.
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) ThrowErrno("fcntl");
  return NewRegion(info.Env(), std::move(fd), length, 0);
}

/// adopt(fd, length, offset): memory of a file that is the caller's
napi_value JsAdopt(const Napi::CallbackInfo& info) {
  const size_t length = LengthAt(info, 1);
  const off_t offset = BigIntAt(info, 2);
  UniqueFd fd(::fcntl(static_cast<int>(IntegerAt(info, 0)), F_DUPFD_CLOEXEC, 0));
  if (!fd.IsOpen()) ThrowErrno("fcntl");
  return NewRegion(info.Env(), std::move(fd), length, offset);
}

}  // namespace

void ExportRegion(Napi::Env env, Napi::Object exports) {
  DefineClass<Region>(env, "Region",
                      {Named("hold", Method<Region, JsHold>), Named("close", Method<Region, JsClose>)});
  AddVerb<JsAllocate>(exports, "allocate");
  AddVerb<JsAdopt>(exports, "adopt");
}
