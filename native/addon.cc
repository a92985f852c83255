// The addon's table of contents: verbs of the operating system, and nothing of the subject that they are used
// for.
#include <napi.h>
#include <unistd.h>

#include "abi.h"
#include "border.h"
#include "environment.h"
#include "js_classes.h"

namespace {

/// abi(): sizes, offsets and numbers as the C compiler sees them
napi_value JsAbi(const Napi::CallbackInfo& info) { return AbiExports(info.Env()); }

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  Environment::Install(env);
  ExportDescriptor(env, exports);
  ExportDoorbell(env);
  ExportEventfd(env, exports);
  ExportFile(exports);
  ExportRegion(env, exports);
  ExportSocket(env, exports);
  ExportStream(env, exports);
  AddVerb<JsAbi>(exports, "abi");
  exports.Set("pageSize", Napi::Number::New(env, static_cast<double>(::sysconf(_SC_PAGESIZE))));
  return exports;
}

}  // namespace

NODE_API_MODULE(NODE_GYP_MODULE_NAME, Init)
