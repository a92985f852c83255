// The border to JavaScript: how a C++ object becomes a JavaScript one, and how calls come in. Functions named
// Js… are called from JavaScript.
//
// Two ways in. A Method finds its object behind `this`, checked by type tag: right for most verbs. A bound
// function carries its object as callback data: it skips the look-ups, which cost more than the rest of a
// call, so the verbs of hot paths are made so.
#pragma once

#include <napi.h>

#include <initializer_list>
#include <memory>
#include <string>
#include <utility>

#include "environment.h"
#include "system_failure.h"

/// The bytes of a Uint8Array, valid until JavaScript runs again.
struct Bytes {
  void* data = nullptr;
  size_t length = 0;
};

inline napi_value Number(napi_env env, int64_t value) {
  napi_value result = nullptr;
  if (value == static_cast<int32_t>(value)) {
    napi_create_int32(env, static_cast<int32_t>(value), &result);
  } else {
    napi_create_int64(env, value, &result);
  }
  return result;
}

/// Two numbers as an array: what a verb says when one number is not enough.
inline napi_value Pair(napi_env env, napi_value first, napi_value second) {
  napi_value result = nullptr;
  napi_create_array_with_length(env, 2, &result);
  napi_set_element(env, result, 0, first);
  napi_set_element(env, result, 1, second);
  return result;
}

/// False when `value` is not a Uint8Array.
inline bool ReadBytes(napi_env env, napi_value value, Bytes& bytes) {
  bool is_typed_array = false;
  if (napi_is_typedarray(env, value, &is_typed_array) != napi_ok || !is_typed_array) return false;
  napi_typedarray_type type;
  return napi_get_typedarray_info(env, value, &type, &bytes.length, &bytes.data, nullptr, nullptr) ==
             napi_ok &&
         type == napi_uint8_array;
}

// JavaScript validates its arguments and makes the sentences; these insist, so that no value can make C++
// misbehave.

inline Napi::TypeError Misuse(Napi::Env env, const std::string& what) {
  return Napi::TypeError::New(env, what + " was expected");
}

inline Bytes BytesAt(const Napi::CallbackInfo& info, size_t index) {
  Bytes bytes;
  if (!ReadBytes(info.Env(), info[index], bytes)) throw Misuse(info.Env(), "a Uint8Array");
  return bytes;
}

inline int64_t IntegerAt(const Napi::CallbackInfo& info, size_t index) {
  if (!info[index].IsNumber()) throw Misuse(info.Env(), "a number");
  return info[index].As<Napi::Number>().Int64Value();
}

inline int64_t BigIntAt(const Napi::CallbackInfo& info, size_t index) {
  if (!info[index].IsBigInt()) throw Misuse(info.Env(), "a bigint");
  bool lossless = false;
  const int64_t value = info[index].As<Napi::BigInt>().Int64Value(&lossless);
  if (!lossless || value < 0) throw Misuse(info.Env(), "a bigint from 0 to 2^63-1");
  return value;
}

inline std::string StringAt(const Napi::CallbackInfo& info, size_t index) {
  if (!info[index].IsString()) throw Misuse(info.Env(), "a string");
  return info[index].As<Napi::String>().Utf8Value();
}

inline napi_value FunctionAt(const Napi::CallbackInfo& info, size_t index) {
  if (!info[index].IsFunction()) throw Misuse(info.Env(), "a function");
  return info[index];
}

/// Throws into JavaScript what was caught. That is refused while the environment is being ended (a worker
/// that is terminated): then nobody is there to be told, and the refusal must not become a C++ exception,
/// which would end the process.
inline void ThrowIntoJs(const Napi::Error& error) noexcept {
  try {
    error.ThrowAsJavaScriptException();
  } catch (...) {
  }
}

/// Runs a call from JavaScript. A SystemFailure is returned as `[-errno, syscall]`, for TypeScript to make
/// the error of; any other exception is thrown into JavaScript. None leaves it: above is C.
template <class Call>
napi_value Guarded(napi_env env, Call call) noexcept {
  try {
    return call();
  } catch (const SystemFailure& failure) {
    napi_value syscall = nullptr;
    napi_create_string_utf8(env, failure.syscall, NAPI_AUTO_LENGTH, &syscall);
    return Pair(env, Number(env, -failure.error), syscall);
  } catch (const Napi::Error& error) {
    ThrowIntoJs(error);
  } catch (const std::exception& error) {
    napi_throw_error(env, nullptr, error.what());
  } catch (...) {
  }
  return nullptr;
}

/// The object behind a JavaScript object of T's kind; throws a TypeError for any other object.
template <class T>
T& Unwrap(napi_env env, napi_value object) {
  const napi_type_tag tag = Environment::Of(env).TagOf(T::kKind);
  bool matches = false;
  void* data = nullptr;
  if (napi_check_object_type_tag(env, object, &tag, &matches) != napi_ok || !matches ||
      napi_unwrap(env, object, &data) != napi_ok) {
    throw Napi::TypeError::New(env, "Illegal invocation");
  }
  return **static_cast<std::shared_ptr<T>*>(data);
}

template <class T, napi_value (*body)(T&, const Napi::CallbackInfo&)>
napi_value Method(napi_env env, napi_callback_info raw) {
  return Guarded(env, [&] {
    const Napi::CallbackInfo info(env, raw);
    return body(Unwrap<T>(env, info.This()), info);
  });
}

template <napi_value (*body)(const Napi::CallbackInfo&)>
napi_value Verb(napi_env env, napi_callback_info raw) {
  return Guarded(env, [&] { return body(Napi::CallbackInfo(env, raw)); });
}

/// Adds a function that stands for itself to the addon's exports.
template <napi_value (*body)(const Napi::CallbackInfo&)>
void AddVerb(Napi::Object exports, const char* name) {
  napi_value function = nullptr;
  if (napi_create_function(exports.Env(), name, NAPI_AUTO_LENGTH, Verb<body>, nullptr, &function) !=
      napi_ok) {
    throw Napi::Error::New(exports.Env());
  }
  exports.Set(name, function);
}

inline napi_property_descriptor Named(const char* name, napi_callback callback) {
  return {name, nullptr, callback, nullptr, nullptr, nullptr, napi_default, nullptr};
}

/// The JavaScript constructor of T's kind: wraps what New() hands it, and refuses to be called from
/// JavaScript.
template <class T>
napi_value JsConstruct(napi_env env, napi_callback_info raw) {
  return Guarded(env, [&]() -> napi_value {
    const Napi::CallbackInfo info(env, raw);
    Environment& environment = Environment::Of(env);
    auto* share = static_cast<std::shared_ptr<T>*>(std::exchange(environment.under_construction, nullptr));
    if (share == nullptr) throw Napi::TypeError::New(env, "Illegal constructor");
    auto finalize = [](napi_env, void* data, void*) { delete static_cast<std::shared_ptr<T>*>(data); };
    if (napi_wrap(env, info.This(), share, finalize, nullptr, nullptr) != napi_ok) {
      delete share;
      throw Napi::Error::New(env);
    }
    const napi_type_tag tag = environment.TagOf(T::kKind);
    if (napi_type_tag_object(env, info.This(), &tag) != napi_ok) throw Napi::Error::New(env);
    return info.This();
  });
}

template <class T>
void DefineClass(napi_env env, const char* name, std::initializer_list<napi_property_descriptor> methods) {
  napi_value constructor = nullptr;
  const napi_status status = napi_define_class(env, name, NAPI_AUTO_LENGTH, JsConstruct<T>, nullptr,
                                               methods.size(), methods.begin(), &constructor);
  if (status != napi_ok) throw Napi::Error::New(env);
  Environment::Of(env).SetConstructor(T::kKind, constructor);
}

/// A JavaScript object for `object`, which it shares until it is collected.
template <class T>
Napi::Object NewObject(napi_env env, const std::shared_ptr<T>& object) {
  Environment& environment = Environment::Of(env);
  environment.under_construction = new std::shared_ptr<T>(object);
  napi_value result = nullptr;
  const napi_status status = napi_new_instance(env, environment.Constructor(T::kKind), 0, nullptr, &result);
  // A constructor that was not run, because the thread is being terminated, took nothing over.
  delete static_cast<std::shared_ptr<T>*>(std::exchange(environment.under_construction, nullptr));
  if (status != napi_ok) throw Napi::Error::New(env);
  return Napi::Object(env, result);
}

/// Adds a bound function. It shares the object until the function is collected, so it may be kept apart from
/// the object.
template <class T>
void AddBound(Napi::Object target, const char* name, napi_callback callback,
              const std::shared_ptr<T>& object) {
  const napi_env env = target.Env();
  napi_value function = nullptr;
  if (napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, object.get(), &function) != napi_ok) {
    throw Napi::Error::New(env);
  }
  auto* share = new std::shared_ptr<T>(object);
  auto finalize = [](napi_env, void* data, void*) { delete static_cast<std::shared_ptr<T>*>(data); };
  if (napi_add_finalizer(env, function, share, finalize, nullptr, nullptr) != napi_ok) {
    delete share;
    throw Napi::Error::New(env);
  }
  target.Set(name, function);
}

/// The arguments of a bound function; those that are missing are `undefined`.
template <class T, size_t count>
struct BoundCall {
  napi_value arguments[count > 0 ? count : 1];
  T* self = nullptr;

  BoundCall(napi_env env, napi_callback_info info) {
    size_t size = count;
    void* data = nullptr;
    napi_get_cb_info(env, info, count > 0 ? &size : nullptr, count > 0 ? arguments : nullptr, nullptr, &data);
    self = static_cast<T*>(data);
  }
};
