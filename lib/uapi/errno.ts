// The errnos of Linux that this interface answers with: numbers, names and a short text each. Node's own table lacks some and names 95 otherwise.

const table = {
  EPERM: [1, 'operation not permitted'],
  ENOENT: [2, 'no such file or directory'],
  EINTR: [4, 'interrupted system call'],
  EIO: [5, 'input/output error'],
  ENXIO: [6, 'no such device or address'],
  E2BIG: [7, 'argument too long'],
  EBADF: [9, 'bad file descriptor'],
  EAGAIN: [11, 'nothing there now'],
  ENOMEM: [12, 'out of memory'],
  EACCES: [13, 'permission denied'],
  EFAULT: [14, 'bad address'],
  EBUSY: [16, 'device or resource busy'],
  EEXIST: [17, 'exists already'],
  ENODEV: [19, 'no such device'],
  ENOTDIR: [20, 'not a directory'],
  EISDIR: [21, 'is a directory'],
  EINVAL: [22, 'invalid argument'],
  ENFILE: [23, 'too many open files in the system'],
  EMFILE: [24, 'too many open files in the process'],
  ENOTTY: [25, 'the device does not know this request'],
  EFBIG: [27, 'file too large'],
  ENOSPC: [28, 'no space left'],
  ESPIPE: [29, 'the file has no position'],
  EROFS: [30, 'read-only file system'],
  EPIPE: [32, 'broken pipe'],
  ERANGE: [34, 'result out of range'],
  ENAMETOOLONG: [36, 'file name too long'],
  ENOSYS: [38, 'no such system call'],
  ELOOP: [40, 'too many symbolic links'],
  ENODATA: [61, 'no data there'],
  ETIME: [62, 'timer expired'],
  EPROTO: [71, 'protocol error'],
  EBADFD: [77, 'file descriptor in a bad state'],
  EMSGSIZE: [90, 'message too long'],
  EPROTONOSUPPORT: [93, 'protocol not supported'],
  EOPNOTSUPP: [95, 'operation not supported'],
  EAFNOSUPPORT: [97, 'address family not supported'],
  ENOBUFS: [105, 'no buffer space, or an index past the last'],
  ETIMEDOUT: [110, 'timed out'],
  EALREADY: [114, 'already under way'],
  EINPROGRESS: [115, 'now in progress'],
  ECANCELED: [125, 'canceled'],
  ENOIOCTLCMD: [515, 'no such request'],
  ENOTSUPP: [524, 'operation not supported (a number of the kernel that user space has no name for)'],
} as const

/** The name of an errno that this package knows. */
export type ErrnoName = keyof typeof table

/** Errno numbers (positive) by name. */
export const errno = Object.freeze(
  Object.fromEntries(Object.entries(table).map(([name, [number]]) => [name, number])),
) as {
  readonly [K in ErrnoName]: (typeof table)[K][0]
}

const byNumber = new Map<number, readonly [string, string]>(
  Object.entries(table).map(([name, [number, text]]) => [number, [name, text]]),
)

/** The name of a positive errno; `'ERRNO_<n>'` for one without a name here. */
export function errnoName(number: number): string {
  return byNumber.get(number)?.[0] ?? `ERRNO_${number}`
}

/** What the errno means, in a few words. */
export function errnoText(number: number): string {
  return byNumber.get(number)?.[1] ?? `errno ${number}`
}
