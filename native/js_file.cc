// The verbs of ordinary files that Node has not.
#include <fcntl.h>

#include "border.h"
#include "js_classes.h"
#include "no_wait.h"

namespace {

/// lockFile(fd, isExclusive): locks the whole file, without waiting. The lock belongs to the open file, and
/// goes with its last descriptor.
napi_value JsLockFile(const Napi::CallbackInfo& info) {
  struct flock lock {};
  lock.l_type = info[1].ToBoolean().Value() ? F_WRLCK : F_RDLCK;
  lock.l_whence = SEEK_SET;
  const int fd = static_cast<int>(IntegerAt(info, 0));
  return Number(info.Env(), OrErrno(::fcntl(fd, F_OFD_SETLK, &lock)));
}

/// readCached(fd, offset, bytes): preadv2(RWF_NOWAIT). Bytes of the file that are in memory, and -EAGAIN for
/// others.
napi_value JsReadCached(const Napi::CallbackInfo& info) {
  const int fd = static_cast<int>(IntegerAt(info, 0));
  const int64_t offset = IntegerAt(info, 1);
  const Bytes bytes = BytesAt(info, 2);
  if (fd < 0) return Number(info.Env(), -EBADF);
  if (offset < 0) return Number(info.Env(), -EINVAL);
  const ssize_t size = RetryInterrupted([&] { return ReadNoWait(fd, bytes.data, bytes.length, offset); });
  return Number(info.Env(), OrErrno(size));
}

}  // namespace

void ExportFile(Napi::Object exports) {
  AddVerb<JsLockFile>(exports, "lockFile");
  AddVerb<JsReadCached>(exports, "readCached");
}
