// A page of a device that is written and never read.
#include <endian.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <memory>

#include "border.h"
#include "descriptor.h"
#include "js_classes.h"
#include "mapping.h"

namespace {

/// Used on the environment's thread only.
class Doorbell final : public Resource, public std::enable_shared_from_this<Doorbell> {
 public:
  static constexpr Kind kKind = Kind::kDoorbell;

  Doorbell(std::shared_ptr<Environment> environment, Mapping page)
      : Resource(std::move(environment), kMemory), page_(std::move(page)) {}

  /// One store of one width, little-endian. 0, or -EBADF after close.
  template <class Word>
  int Ring(Word value) {
    if (!page_.IsMapped()) return -EBADF;
    // The device must see what was written to the ring before it sees this. The fence orders memory; on arm64
    // a store to a device needs a barrier of the outer shareable domain besides.
    std::atomic_thread_fence(std::memory_order_seq_cst);
#if defined(__aarch64__)
    asm volatile("dmb oshst" ::: "memory");
#endif
    *static_cast<volatile Word*>(page_.address()) = LittleEndian(value);
    return 0;
  }

  void Close() { page_.Unmap(); }
  void CloseAtExit() override { Close(); }

 private:
  static uint16_t LittleEndian(uint16_t value) { return htole16(value); }
  static uint32_t LittleEndian(uint32_t value) { return htole32(value); }

  Mapping page_;
};

template <class Word>
napi_value JsRing(napi_env env, napi_callback_info info) {
  const BoundCall<Doorbell, 1> call(env, info);
  uint32_t value = 0;
  napi_get_value_uint32(env, call.arguments[0], &value);
  return Number(env, call.self->Ring(static_cast<Word>(value)));
}

napi_value JsClose(Doorbell& self, const Napi::CallbackInfo&) {
  self.Close();
  return nullptr;
}

}  // namespace

napi_value JsMapDoorbell(Descriptor& self, const Napi::CallbackInfo& info) {
  const off_t offset = BigIntAt(info, 0);
  // Writing only: drivers refuse to map a doorbell that could be read.
  Mapping page(self.Turn(), static_cast<size_t>(::sysconf(_SC_PAGESIZE)), offset, PROT_WRITE);
  const auto doorbell =
      std::make_shared<Doorbell>(Environment::Of(info.Env()).shared_from_this(), std::move(page));
  Napi::Object object = NewObject(info.Env(), doorbell);
  AddBound(object, "ring16", JsRing<uint16_t>, doorbell);
  AddBound(object, "ring32", JsRing<uint32_t>, doorbell);
  return object;
}

void ExportDoorbell(Napi::Env env) {
  DefineClass<Doorbell>(env, "Doorbell", {Named("close", Method<Doorbell, JsClose>)});
}
