// What the addon exports, as TypeScript sees it. The other side of this border is native/js_*.cc; nobody outside this room calls it.

/** The refusal of a verb that makes something: the negative errno, and the system call. */
export type Refused = readonly [errno: number, syscall: string]

/** A negative number is -errno, throughout. */
export type Result = number

/** How far a sequence of writes came: all of it, or the count and the -errno of the refusal (0: a write took a part, or it was stopped). */
export type Written = number | readonly [completed: number, errno: number]

export interface NativeAddon {
  readonly pageSize: number
  open(path: string): NativeDescriptor | Refused
  /** The descriptor belongs to the addon from now on. */
  takeOver(fd: number): NativeDescriptor | Refused
  netlink(protocol: number): NativeDescriptor | Refused
  /** A new one, or a duplicate of the caller's. */
  eventfd(fd?: number): NativeEventfd | Refused
  /** `hugePage` is the logarithm of the page's size, 0 for ordinary pages. */
  allocate(name: string, length: number, hugePage: number): NativeRegion | Refused
  adopt(fd: number, length: number, offset: bigint): NativeRegion | Refused
  /** Sizes, offsets and numbers as the C compiler sees them. */
  abi(): Record<string, unknown>
}

/** An open file. Synchronous verbs wait for asynchronous ones that were asked before. After close every verb answers -EBADF. */
export interface NativeDescriptor {
  readonly fd: number
  // Bound functions: they may be kept apart from the object.
  readonly ioctl: (request: number, argument: Uint8Array) => Result
  /** The last `ioctl` once more. Only while its argument is the same and attached. */
  readonly ioctlAgain: () => Result
  readonly write: (bytes: Uint8Array) => Result

  ioctlValue(request: number, argument: number): Result
  ioctlAsync(request: number, argument: Uint8Array | number): Promise<Result>
  writeEach(records: Uint8Array, stride: number): Written
  writeEachAsync(records: Uint8Array, stride: number): NativeWriting
  canRead(): boolean
  read(bytes: Uint8Array): Result
  pread(bytes: Uint8Array, offset: bigint): Result
  pwrite(bytes: Uint8Array, offset: bigint): Result
  watch(listener: () => void): NativeWatch | Refused
  mapDoorbell(offset: bigint): NativeDoorbell | Refused
  receive(): Uint8Array | undefined | Result
  addMembership(group: number): Result
  close(): Promise<Result>
  closeSync(): void
}

export interface NativeWriting {
  readonly done: Promise<Written>
  readonly written: () => number
  /** Stops before the next record. */
  readonly stop: () => void
}

export interface NativeWatch {
  close(): void
  isClosed(): boolean
  keepRunning(keeps: boolean): void
}

export interface NativeEventfd {
  readonly fd: number
  readonly signal: (count: number) => Result
  readonly take: () => Result
  watch(listener: (count: number) => void): NativeWatch | Refused
  close(): void
}

export interface NativeRegion {
  readonly fd: number
  readonly address: bigint
  readonly buffer: ArrayBuffer
  /** While it is held, only close() unmaps it, and not the garbage collector. */
  hold(isHeld: boolean): void
  close(): void
}

export interface NativeDoorbell {
  readonly ring16: (value: number) => Result
  readonly ring32: (value: number) => Result
  close(): void
}

export function isRefused<T extends object>(made: T | Refused): made is Refused {
  return Array.isArray(made)
}
