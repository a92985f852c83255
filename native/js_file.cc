// The verbs of ordinary files that Node has not.
#include <fcntl.h>

#include "border.h"
#include "js_classes.h"

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

}  // namespace

void ExportFile(Napi::Object exports) { AddVerb<JsLockFile>(exports, "lockFile"); }
