// Placeholder: replaced by the table of sizes, offsets and numbers.
#include "abi.h"
Napi::Object AbiExports(Napi::Env env) { return Napi::Object::New(env); }
