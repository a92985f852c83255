// Placeholder: replaced by the table of sizes, offsets and numbers.
#pragma once
#include <napi.h>
Napi::Object AbiExports(Napi::Env env);
