// One message of a stream socket with the descriptors that came with it: sendmsg() and recvmsg() with
// SCM_RIGHTS. Every descriptor that arrives is owned at once, or closed.
#pragma once

#include <cstddef>
#include <vector>

#include "unique_fd.h"

/// The most descriptors that the kernel passes in one message (SCM_MAX_FD).
constexpr size_t kDescriptorsLast = 253;

/// What one recvmsg() gave.
struct ReceivedMessage {
  /// Bytes; 0 at the end of the stream, or -errno. -EMSGSIZE: descriptors were lost on the way, because there
  /// were more than were allowed or than this process may have open. All that did come are closed then.
  long size = 0;
  std::vector<UniqueFd> descriptors;
};

/// Reads at most `length` bytes, and `descriptors_last` descriptors that came with the first of them. Does
/// not sleep.
ReceivedMessage ReceiveMessage(int socket, void* target, size_t length, size_t descriptors_last);

/// Sends at most `length` bytes with copies of the descriptors, which go with the first byte. Does not sleep,
/// and raises no SIGPIPE. Returns how many bytes were sent, or -errno: then no descriptor was.
long SendMessage(int socket, const void* source, size_t length, const std::vector<int>& descriptors);
