// What the addon exports, as TypeScript sees it. The other side of this border is native/js_*.cc; nobody outside this room calls it.

/** The refusal of a verb that makes something: the negative errno, and the system call. */
export type Refused = readonly [errno: number, syscall: string]

/** A negative number is -errno, throughout. */
export type Result = number

/** How far a sequence of writes came: all of it, or the count and the -errno of the refusal (0: a write took a part, or it was stopped). */
export type Written = number | readonly [completed: number, errno: number]

/** Verbs that make something. */
export interface NativeAddon {
  /** Bytes of an ordinary page. */
  readonly pageSize: number
  /** open(2) with O_RDWR, O_CLOEXEC and O_NONBLOCK. */
  open(path: string): NativeDescriptor | Refused
  /** The same on a thread of the pool. */
  openAsync(path: string): Promise<NativeDescriptor | Refused>
  /** The descriptor belongs to the addon from now on. -EBUSY when it does already, in this environment. */
  takeOver(fd: number): NativeDescriptor | Refused
  /** A datagram socket of AF_NETLINK, bound, non-blocking. */
  netlink(protocol: number): NativeDescriptor | Refused
  /** A new one, or a duplicate of the caller's. */
  eventfd(fd?: number): NativeEventfd | Refused
  /** `hugePage` is the logarithm of the page's size, 0 for ordinary pages. */
  allocate(name: string, length: number, hugePage: number): NativeRegion | Refused
  /**
   * A shared mapping of `length` bytes at `offset` of the file, through a duplicate of the fd. `isSealed`: only of a file that cannot be made shorter any
   * more (-EPERM, `F_GET_SEALS`) and is long enough (-ENXIO). `isGuarded`: pages that are gone read as zeroes (-ENOSPC: too many are guarded). `isPrivate`: what is written
   * stays in this process, and the fd may be open for reading only.
   */
  adopt(
    fd: number,
    length: number,
    offset: bigint,
    isSealed: boolean,
    isGuarded: boolean,
    isPrivate: boolean,
  ): NativeRegion | Refused
  /** A UNIX stream socket that listens at a path. */
  listen(path: string, backlog: number): NativeSocket | Refused
  /** One that is connected to who listens there. */
  connect(path: string): NativeSocket | Refused
  /** Both ends of a connection. */
  socketPair(): readonly [NativeSocket, NativeSocket] | Refused
  /** A duplicate of the caller's own; -EPROTOTYPE when it is no stream. */
  socketOf(fd: number): NativeSocket | Refused
  /** A duplicate of the caller's own: a pipe's end, a stream socket or a file; -EINVAL for another kind, -EPROTOTYPE for another socket. */
  streamOf(fd: number): NativeStream | Refused
  /** F_OFD_SETLK of a whole file: -EAGAIN where another open file has a lock that does not go with it. */
  lockFile(fd: number, isExclusive: boolean): Result
  /** preadv2(2) with RWF_NOWAIT: how many bytes of the file were in memory; -EAGAIN for none, -EOPNOTSUPP where the file system cannot tell. */
  readCached(fd: number, offset: number, bytes: Uint8Array): Result
  /** Sizes, offsets and numbers as the C compiler sees them. */
  abi(): Record<string, unknown>
}

/** An open file. Synchronous verbs wait for asynchronous ones that were asked before. After close every verb answers -EBADF. */
export interface NativeDescriptor {
  /** The number, which is nobody's after close. */
  readonly fd: number
  // Bound functions: they may be kept apart from the object.
  /** ioctl(2) with the address of the bytes. Nobody below looks whether they are enough for the request. */
  readonly ioctl: (request: number, argument: Uint8Array) => Result
  /** The last `ioctl` once more. Only while its argument is the same and attached. */
  readonly ioctlAgain: () => Result
  /** write(2). */
  readonly write: (bytes: Uint8Array) => Result
  /** read(2). */
  readonly read: (bytes: Uint8Array) => Result

  /** ioctl(2) with a number in the place of the address. */
  ioctlValue(request: number, argument: number): Result
  /** Either, on a thread of the pool, after what was asked before. */
  ioctlAsync(request: number, argument: Uint8Array | number): Promise<Result>
  /** One write(2) for each `stride` bytes, until one is refused or short. */
  writeEach(records: Uint8Array, stride: number): Written
  /** The same on a thread of the pool. */
  writeEachAsync(records: Uint8Array, stride: number): NativeWriting
  /** Whether the file has a read operation. */
  canRead(): boolean
  /** pread(2). */
  pread(bytes: Uint8Array, offset: bigint): Result
  /** pwrite(2). */
  pwrite(bytes: Uint8Array, offset: bigint): Result
  /** Calls back from libuv's poll whenever the file is readable; up to 16 times before other work has its turn, where more is read within microseconds. */
  watch(listener: () => void): NativeWatch | Refused
  /** Maps one page of the file at `offset`, for writing. */
  mapDoorbell(offset: bigint): NativeDoorbell | Refused
  /** One datagram from the kernel; undefined when there is none. */
  receive(): Uint8Array | undefined | Result
  /** NETLINK_ADD_MEMBERSHIP. */
  addMembership(group: number): Result
  /** close(2) on a thread of the pool, after what was asked before. */
  close(): Promise<Result>
  /** close(2) on this thread, after waiting for what was asked before. */
  closeSync(): void
}

/** A sequence of writes under way. */
export interface NativeWriting {
  /** How far it came, when it ended. */
  readonly done: Promise<Written>
  /** Records written so far, read while it runs. */
  readonly written: () => number
  /** Stops before the next record. */
  readonly stop: () => void
}

/** A listener on a poll. */
export interface NativeWatch {
  /** No call comes after it. */
  close(): void
  /** True after its own close, and after that of what it watches. */
  isClosed(): boolean
  /** Whether it keeps the process alive; at first it does not. */
  keepRunning(keeps: boolean): void
}

/** An eventfd(2). No verb blocks, whatever the flags of the caller's own; after close they answer -EBADF. */
export interface NativeEventfd {
  /** The number, that of the duplicate for an eventfd of the caller's; nobody's after close. */
  readonly fd: number
  /** Adds to the counter, or leaves it when it has no room. */
  readonly signal: (count: number) => Result
  /** Takes the counter; 0 when nothing was added. */
  readonly take: () => Result
  /** Takes the counter and calls back with it whenever it is not 0. */
  watch(listener: (count: number) => void): NativeWatch | Refused
  /** Closes the descriptor, or the duplicate of the caller's. */
  close(): void
}

/** A UNIX stream socket. No verb sleeps; after close they answer -EBADF. */
export interface NativeSocket {
  /** The number, which is nobody's after close. */
  readonly fd: number
  /** accept4(2); undefined when nobody waits. */
  accept(): NativeSocket | undefined | Refused
  /** recvmsg(2) into a part of the bytes, with at most so many descriptors; -EMSGSIZE when some were lost. */
  receive(
    bytes: Uint8Array,
    offset: number,
    length: number,
    descriptorsLast: number,
  ): Result | readonly [count: number, files: readonly NativePassedFile[]]
  /** sendmsg(2) with copies of descriptors. */
  send(bytes: Uint8Array, descriptors: readonly number[]): Result
  /** Calls back from libuv's poll whenever the socket is readable. */
  watch(listener: () => void): NativeWatch | Refused
  /** close(2). */
  close(): void
}

/** One end of a stream of bytes. Nothing but a file's disk is waited for; after close the verbs answer -EBADF. */
export interface NativeStream {
  /** The number, which is nobody's after close. */
  readonly fd: number
  /** Whether it can be watched: all but files can. */
  readonly isPolled: boolean
  /** preadv2(2) or recv(2), without waiting; -EAGAIN when there is nothing now. */
  read(bytes: Uint8Array): Result
  /** pwritev2(2) or send(2), without waiting; -EAGAIN when there is no room now. */
  write(bytes: Uint8Array): Result
  /** Calls back from libuv's poll whenever it is readable, or writable. */
  watch(listener: () => void, isWritable: boolean): NativeWatch | Refused
  /** close(2). */
  close(): void
}

/** A descriptor that came through a socket. */
export interface NativePassedFile {
  /** The number, which is nobody's after close. */
  readonly fd: number
  /** close(2). */
  close(): void
}

/** A shared mapping, and the file behind it. */
export interface NativeRegion {
  /** The file's number, which is nobody's after close. */
  readonly fd: number
  /** Where it is mapped; nothing is there after close. */
  readonly address: bigint
  /** A part of the mapping as an ArrayBuffer; detached by close. Each part is to be asked for once. */
  view(offset: number, length: number): ArrayBuffer
  /** Whether a page of guarded memory was gone when somebody touched it. */
  isTorn(): boolean
  /** While it is held, only close() unmaps it, and not the garbage collector. */
  hold(isHeld: boolean): void
  /** Detaches the buffers, gives the memory back, closes the file. The addresses go when no thread of Node is at work there. */
  close(): void
}

/** A page that is mapped for writing. */
export interface NativeDoorbell {
  /** One 16-bit store, little-endian; -EBADF after close. */
  readonly ring16: (value: number) => Result
  /** One 32-bit store, little-endian; -EBADF after close. */
  readonly ring32: (value: number) => Result
  /** Unmaps the page. */
  close(): void
}

/** Whether a verb that makes something was refused. */
export function isRefused<T extends object>(made: T | Refused): made is Refused {
  return Array.isArray(made)
}
