// sendmsg() and recvmsg() with their control messages.
#include "socket_message.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>

#include "system_failure.h"

namespace {

/// Room for the control message, aligned as its header.
struct ControlBuffer {
  explicit ControlBuffer(size_t descriptors)
      : words((CMSG_SPACE(descriptors * sizeof(int)) + sizeof(cmsghdr) - 1) / sizeof(cmsghdr)) {}
  void* data() { return words.data(); }
  size_t length() const { return words.size() * sizeof(cmsghdr); }

  std::vector<cmsghdr> words;
};

/// Takes the descriptors over before anything else can fail.
void TakeDescriptors(msghdr& message, std::vector<UniqueFd>& descriptors) {
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr; part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t index = 0; index < count; index++) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + index * sizeof(int), sizeof fd);
      descriptors.emplace_back(fd);
    }
  }
}

}  // namespace

ReceivedMessage ReceiveMessage(int socket, void* target, size_t length, size_t descriptors_last) {
  ReceivedMessage received;
  // Never reallocated between the system call and the taking over.
  received.descriptors.reserve(kDescriptorsLast + 1);
  ControlBuffer control(descriptors_last);
  iovec part{target, length};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  // Without room for descriptors the kernel closes those that come, and says so.
  message.msg_control = descriptors_last > 0 ? control.data() : nullptr;
  message.msg_controllen = descriptors_last > 0 ? CMSG_SPACE(descriptors_last * sizeof(int)) : 0;
  received.size =
      RetryInterrupted([&] { return ::recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC); });
  if (received.size < 0) {
    received.size = -errno;
    return received;
  }
  TakeDescriptors(message, received.descriptors);
  // Alignment may leave room for one more than was asked for.
  if ((message.msg_flags & MSG_CTRUNC) != 0 || received.descriptors.size() > descriptors_last) {
    received.descriptors.clear();
    received.size = -EMSGSIZE;
  }
  return received;
}

long SendMessage(int socket, const void* source, size_t length, const std::vector<int>& descriptors) {
  ControlBuffer control(descriptors.size());
  iovec part{const_cast<void*>(source), length};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!descriptors.empty()) {
    const size_t bytes = descriptors.size() * sizeof(int);
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(bytes);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(bytes);
    std::memcpy(CMSG_DATA(header), descriptors.data(), bytes);
  }
  return OrErrno(RetryInterrupted([&] { return ::sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL); }));
}
