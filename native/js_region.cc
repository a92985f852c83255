// Shared memory of a file as external ArrayBuffers, and when it may be unmapped.
//
// Other threads may be at work in a buffer (a read of Node's fs, its crypto), and keep V8's store of it
// alive, or only its object, which was detached. So the addresses end with the last of these, and only what
// lies there ends earlier: when the region is closed, empty pages take its place. When nobody closes the
// region, all ends after it and its buffers have been collected; and when it is held (mapped for DMA) then,
// it stays until the environment ends.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "border.h"
#include "bus_guard.h"
#include "js_classes.h"
#include "mapping.h"
#include "unique_fd.h"

namespace {

/// The addresses of a region. The region has a share, and each of its buffers until V8 needs it no more.
/// Unmapped when the last share goes, on the environment's thread.
class Pages {
 public:
  Pages(std::shared_ptr<Environment> environment, Mapping mapping)
      : environment_(std::move(environment)), mapping_(std::move(mapping)) {}
  ~Pages() {
    // Kept memory is a device's to write to, and nobody's to touch here: it needs no guard.
    if (mapping_.IsMapped() && is_held) environment_->KeepUntilExit(std::move(mapping_));
  }

  const Mapping& mapping() const { return mapping_; }
  void Vacate() {
    if (mapping_.Vacate()) guard_.reset();
  }
  /// False when there is no room for another guard.
  bool Guard() {
    guard_ = BusGuard::Start(mapping_.address(), mapping_.length());
    return guard_ != nullptr;
  }
  bool IsTorn() const { return guard_ != nullptr && guard_->IsTorn(); }

  bool is_held = false;

 private:
  std::shared_ptr<Environment> environment_;
  Mapping mapping_;
  // After the mapping, so that it ends before.
  std::unique_ptr<BusGuard> guard_;
};

/// Used on the environment's thread only.
class Region final : public Resource, public std::enable_shared_from_this<Region> {
 public:
  static constexpr Kind kKind = Kind::kRegion;

  Region(std::shared_ptr<Environment> environment, UniqueFd fd, Mapping mapping)
      : Resource(environment, kMemory),
        fd_(std::move(fd)),
        pages_(std::make_shared<Pages>(std::move(environment), std::move(mapping))) {}
  ~Region() override { DropReferences(); }

  const Mapping& mapping() const { return pages_->mapping(); }
  int fd() const { return fd_.get(); }
  int OwnedFd() const override { return fd_.get(); }
  bool Guard() { return pages_->Guard(); }
  bool IsTorn() const { return pages_ != nullptr && pages_->IsTorn(); }
  void SetHeld(bool is_held) {
    if (pages_ != nullptr) pages_->is_held = is_held;
  }

  /// An ArrayBuffer over a part of the mapping. Made once for each part: the caller keeps it.
  napi_value MakeBuffer(napi_env env, size_t offset, size_t length) {
    if (pages_ == nullptr || offset > mapping().length() || length > mapping().length() - offset)
      throw Misuse(env, "a part of an open region");
    auto* share = new std::shared_ptr<Pages>(pages_);
    auto finalize = [](napi_env, void*, void* hint) { delete static_cast<std::shared_ptr<Pages>*>(hint); };
    napi_value buffer = nullptr;
    const napi_status status = napi_create_external_arraybuffer(
        env, static_cast<char*>(mapping().address()) + offset, length, finalize, share, &buffer);
    if (status != napi_ok) {
      delete share;
      throw Napi::Error::New(env);
    }
    // Jobs of Node's pool work at the address while they keep the buffer, and not always V8's store of it. So
    // the addresses stay for both.
    auto* second = new std::shared_ptr<Pages>(pages_);
    auto forget = [](napi_env, void* data, void*) { delete static_cast<std::shared_ptr<Pages>*>(data); };
    if (napi_add_finalizer(env, buffer, second, forget, nullptr, nullptr) != napi_ok) {
      delete second;
      throw Napi::Error::New(env);
    }
    // Weak: a strong one would keep the buffer for ever.
    napi_ref reference = nullptr;
    if (napi_create_reference(env, buffer, 0, &reference) == napi_ok) buffers_.push_back(reference);
    return buffer;
  }

  /// Detaches the buffers, so that JavaScript sees nothing rather than memory that is gone, and gives the
  /// memory back. When somebody moved it to an ArrayBuffer of his own (`transfer()`), it is his until that
  /// one is collected.
  void Close() {
    if (pages_ == nullptr) return;
    fd_.Close();
    bool is_ours = true;
    for (const napi_ref reference : buffers_) is_ours = Detach(reference) && is_ours;
    DropReferences();
    pages_->is_held = false;
    if (is_ours) pages_->Vacate();
    pages_.reset();
    Unregister();
  }
  void CloseAtExit() override { Close(); }

 private:
  /// False when the memory is not in our buffer any more.
  bool Detach(napi_ref reference) {
    const napi_env env = environment().env();
    napi_value buffer = nullptr;
    if (napi_get_reference_value(env, reference, &buffer) != napi_ok || buffer == nullptr) return true;
    bool is_detached = false;
    napi_is_detached_arraybuffer(env, buffer, &is_detached);
    if (!is_detached) napi_detach_arraybuffer(env, buffer);
    return !is_detached;
  }

  void DropReferences() {
    for (const napi_ref reference : buffers_) napi_delete_reference(environment().env(), reference);
    buffers_.clear();
  }

  UniqueFd fd_;
  std::shared_ptr<Pages> pages_;
  std::vector<napi_ref> buffers_;
};

/// hold(whether): while it is held, nothing but close() unmaps it
napi_value JsHold(Region& self, const Napi::CallbackInfo& info) {
  self.SetHeld(info[0].ToBoolean());
  return nullptr;
}

/// isTorn(): whether guarded memory was gone when it was touched
napi_value JsIsTorn(Region& self, const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), self.IsTorn());
}

/// view(offset, length): an ArrayBuffer over a part
napi_value JsView(Region& self, const Napi::CallbackInfo& info) {
  const int64_t offset = IntegerAt(info, 0);
  const int64_t length = IntegerAt(info, 1);
  if (offset < 0 || length <= 0) throw Misuse(info.Env(), "a part of the region");
  return self.MakeBuffer(info.Env(), static_cast<size_t>(offset), static_cast<size_t>(length));
}

napi_value JsClose(Region& self, const Napi::CallbackInfo&) {
  self.Close();
  return nullptr;
}

napi_value NewRegion(napi_env env, UniqueFd fd, size_t length, off_t offset, bool is_guarded = false,
                     bool is_private = false) {
  Mapping mapping(fd.get(), length, offset, PROT_READ | PROT_WRITE, is_private);
  const auto region =
      std::make_shared<Region>(Environment::Of(env).shared_from_this(), std::move(fd), std::move(mapping));
  if (is_guarded && !region->Guard()) ThrowErrno("sigaction", ENOSPC);
  Napi::Object object = NewObject(env, region);
  const auto address = reinterpret_cast<uintptr_t>(region->mapping().address());
  object.Set("fd", Number(env, region->fd()));
  object.Set("address", Napi::BigInt::New(env, static_cast<uint64_t>(address)));
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

/// Refuses a file that somebody may make shorter: touching memory that is gone ends the program.
void InsistOnSeal(int fd, size_t length, off_t offset) {
  const int seals = ::fcntl(fd, F_GET_SEALS);
  // A file of a kind that has no seals is refused as one that has none.
  if (seals < 0 && errno != EINVAL) ThrowErrno("fcntl");
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) ThrowErrno("F_GET_SEALS", EPERM);
  // Looked at once it cannot change any more.
  struct stat status;
  if (::fstat(fd, &status) < 0) ThrowErrno("fstat");
  // The page that the file ends in is there as a whole.
  const off_t page = ::sysconf(_SC_PAGESIZE);
  const off_t end = (status.st_size + page - 1) / page * page;
  if (end < offset || static_cast<uint64_t>(end - offset) < length) ThrowErrno("fstat", ENXIO);
}

bool BooleanAt(const Napi::CallbackInfo& info, size_t index) {
  bool value = false;
  if (napi_get_value_bool(info.Env(), info[index], &value) != napi_ok) throw Misuse(info.Env(), "a boolean");
  return value;
}

/// adopt(fd, length, offset, sealed, guarded, private): memory of a file that is the caller's
napi_value JsAdopt(const Napi::CallbackInfo& info) {
  const size_t length = LengthAt(info, 1);
  const off_t offset = BigIntAt(info, 2);
  const bool is_sealed = BooleanAt(info, 3);
  const bool is_guarded = BooleanAt(info, 4);
  const bool is_private = BooleanAt(info, 5);
  UniqueFd fd(::fcntl(static_cast<int>(IntegerAt(info, 0)), F_DUPFD_CLOEXEC, 0));
  if (!fd.IsOpen()) ThrowErrno("fcntl");
  if (is_sealed) InsistOnSeal(fd.get(), length, offset);
  return NewRegion(info.Env(), std::move(fd), length, offset, is_guarded, is_private);
}

}  // namespace

void ExportRegion(Napi::Env env, Napi::Object exports) {
  DefineClass<Region>(env, "Region",
                      {Named("hold", Method<Region, JsHold>), Named("view", Method<Region, JsView>),
                       Named("isTorn", Method<Region, JsIsTorn>), Named("close", Method<Region, JsClose>)});
  AddVerb<JsAllocate>(exports, "allocate");
  AddVerb<JsAdopt>(exports, "adopt");
}
