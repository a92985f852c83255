// Declares what abi.cc has: the kernel's headers as the C++ compiler sees them.
#pragma once

#include <napi.h>

/// `{ structs: { name: { size, align, fields: { name: [offset, size] } } }, requests: { name: number },
/// constants: { name: number } }`. What the headers at hand are too old to know is absent.
Napi::Object AbiExports(Napi::Env env);
