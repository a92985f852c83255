// The one gate of errno inside the addon: a refused system call on its way to JavaScript, where it becomes an
// error with a sentence.
#pragma once

#include <cerrno>

/// Thrown by the verbs that make something. The hot verbs return -errno instead.
struct SystemFailure {
  int error;
  const char* syscall;
};

[[noreturn]] inline void ThrowErrno(const char* syscall, int error = errno) {
  throw SystemFailure{error, syscall};
}

/// What a system call returned, or -errno.
template <class Result>
Result OrErrno(Result result) {
  return result < 0 ? static_cast<Result>(-errno) : result;
}

/// Makes a system call again for as long as a signal interrupts it. Only for calls that did nothing when they
/// say EINTR.
template <class Call>
auto RetryInterrupted(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}
