// THE SEAM: what a process may ask of the operating system on our behalf. System calls, not methods of a device: request numbers and
// bytes go down, bytes and errnos come back, so every encoder above it runs in tests exactly as on hardware. Implementations
// (kernel, simulator) and decorators (recording, faulty) add nothing to it. The conformance suite in test/conformance checks the promises.

import type { Closeable, Releasable } from '../base/closeable.js'
import type { AdoptOptions, AllocateOptions, MemoryRegion } from '../memory/memory-region.js'
import type { UnixSockets } from './sockets.js'

/**
 * An operating system, or something that stands in for one.
 *
 * Every refused call throws a `VdpaError` with the errno; after `close()` every verb throws `ERR_VDPA_CLOSED`. Misuse is a TypeError or RangeError, before
 * the system is asked. Asynchronous forms never throw: they reject, with the same.
 */
export interface Backend {
  /** `'kernel'`, `'simulator'`, or a decorator's name around another: `'recording(simulator)'`. */
  readonly name: string
  /** Bytes a page; addresses and sizes for DMA are multiples of it. */
  readonly pageSize: number
  /** Opens a node for reading and writing, close-on-exec and non-blocking. Errors: ENOENT, EACCES, EBUSY, ENXIO … */
  open(path: string): Handle
  /** The same, off the event loop's thread: the open of a device's node resets the device, and may sleep. */
  openAsync(path: string): Promise<Handle>
  /**
   * Takes over an fd that somebody passed; the handle owns it from now on. `path` is used in sentences only. EBADF, and then there is nothing to close.
   * ERR_VDPA_STATE for a number that something of this backend in this thread owns already: two owners would close it twice.
   */
  openFd(fd: number, path?: string): Handle
  /**
   * Zeroed, shared, page-aligned memory (memfd), at an address that stays until it is closed. `length` in bytes, rounded up to pages, of
   * which those that nobody touches cost nothing. More than one ArrayBuffer can have (4 GiB on Node 20) is seen by `region.view()`. ENOMEM, EMFILE.
   */
  allocate(length: number, options?: AllocateOptions): MemoryRegion
  /**
   * Memory that another program's fd holds (a VMM's guest RAM, hugepages). The fd is duplicated and stays the caller's. EBADF, EACCES (not open for
   * reading and writing), ENODEV (no memory to map); ERR_VDPA_NOT_SUPPORTED where `options.sealed` demands a seal that is not there.
   */
  adopt(fd: number, options: AdoptOptions): MemoryRegion
  /**
   * Whether devices of this backend find the bytes of `region` at its address. A kernel's reach all memory of the operating system, whichever object allocated
   * or adopted it; a simulator's reach what it allocated, adopted or shares, because its addresses are numbers of its own. Optional: absent where any memory will do.
   * ERR_VDPA_CLOSED for a region that is closed.
   */
  reaches?(region: MemoryRegion): boolean
  /**
   * A new eventfd, or a wrapper of the caller's own (KVM's irqfd, ioeventfd), which then stays the caller's to close. EMFILE, EBADF; RangeError for an
   * fd of another kind.
   */
  eventfd(fd?: number): Eventfd
  /**
   * Opens a netlink socket of `protocol` (16 is NETLINK_GENERIC). Optional: absent where there is none. EPROTONOSUPPORT when the kernel lacks the
   * protocol.
   */
  netlink?(protocol: number): NetlinkSocket
  /** UNIX stream sockets whose messages carry descriptors. Optional: absent in the simulator. */
  readonly sockets?: UnixSockets
  /** RLIMIT_MEMLOCK (soft) and what the process has pinned now (VmPin), in bytes. `limit` is undefined when there is none, or where it is not known. */
  memlock(): { readonly limit: bigint | undefined; readonly pinned: bigint }
  /** Entries that one address space of a vhost-vdpa device may have (module parameter max_iotlb_entries); undefined where nobody says. */
  readonly iotlbEntryLimit?: number | undefined
}

/**
 * An open node. Requests on one handle are carried out in the order of asking: a synchronous call made while asynchronous ones are under way happens
 * after them. There is one exception: a synchronous `ioctl`, `read` or `pread` does not wait for the records of a `writeEachAsync` (they may be many), but
 * comes before, between or after them, as long as no other asynchronous call was made and is under way. Writes never overtake writes.
 */
export interface Handle extends Closeable {
  /** The path it was opened by. For a descriptor that came without one, what the backend knows: `'fd N'`, or the node's path in a simulator. */
  readonly path: string
  /** The descriptor, for passing on or for polling by others; throws ERR_VDPA_CLOSED after close. */
  readonly fd: number
  /** Whether the device behind the node is another program's, or this one's own (VDUSE); undefined where nobody says. */
  readonly isServedByProgram?: boolean | undefined
  /** One ioctl. The bytes of `argument` are updated in place; a number is passed as the value itself. Returns what the call returned. */
  ioctl(request: number, argument: Uint8Array | number): number
  /** The same, off the event loop's thread. `argument` must not be touched until it settles. */
  ioctlAsync(request: number, argument: Uint8Array | number): Promise<number>
  /** One write(); returns what the kernel returned. */
  write(bytes: Uint8Array): number
  /**
   * One write() for each record of `stride` bytes, in one native call, until one is refused. How far it came and what ended it are the answer, and never
   * thrown; only misuse (TypeError, RangeError) and ERR_VDPA_CLOSED are, before anything is asked.
   */
  writeEach(records: Uint8Array, stride: number): WriteEachOutcome
  /** The same off the event loop's thread, with progress, and an end between two records where `options.signal` says so (ERR_VDPA_CANCELED). */
  writeEachAsync(records: Uint8Array, stride: number, options?: WriteEachOptions): Promise<WriteEachOutcome>
  /** One read(); absent where the node cannot be read (vhost-vdpa). Returns bytes read. */
  read?(bytes: Uint8Array): number
  /**
   * Calls `listener` whenever the node can be read; absent on vhost-vdpa, which epoll refuses. One listener at a time (ERR_VDPA_STATE). Does not keep the process
   * alive unless `ref()` was called on the subscription.
   */
  onReadable?(listener: () => void): Subscription
  /** One pread64() at `offset`, 0..2^63-1; returns bytes read. Absent where the node cannot be read (vhost-vdpa). */
  pread?(bytes: Uint8Array, offset: bigint): number
  /** One pwrite64() at `offset`, 0..2^63-1; returns bytes written. Absent where the backend has none. */
  pwrite?(bytes: Uint8Array, offset: bigint): number
  /**
   * Maps the doorbell page at `offset` (queue index × page size), for writing; absent where the backend has none. Many devices refuse: errno 524
   * (ENOTSUPP) or ENXIO; EINVAL for a queue that is not there.
   */
  mapDoorbell?(offset: bigint): Doorbell
  /** Closes the node on a thread of its own (a device's last close may sleep). Twice is allowed. */
  close(): Promise<void>
  /** Closes the node on this thread, which waits for the asynchronous calls and for a `close()` that is under way. */
  closeSync(): void
}

/** What a long sequence of writes may be given. */
export interface WriteEachOptions {
  /** Stops between two records: `failure` is ERR_VDPA_CANCELED. Records that were written stay written. */
  readonly signal?: AbortSignal
  /** Called on the event loop now and then, and at the end, with the number of records written so far. What it throws ends the writing, and is the `failure`. */
  readonly onProgress?: (completed: number) => void
}

/** How a sequence of writes ended: how many records the system took, and what ended it before its end. */
export interface WriteEachOutcome {
  /** Whole records that the system took, a failure or not; undefined when that is not known: any of them may have been taken. */
  readonly completed: number | undefined
  /**
   * Why it ended: the refusal of the record after those (EIO where that was taken in part only), ERR_VDPA_CANCELED, or what `onProgress` threw, which may
   * come after the last record. Whoever threw may have thrown undefined: `'failure' in outcome` says whether there is one.
   */
  readonly failure?: unknown
}

/** The write-only page of a queue's doorbell: a function, not a buffer, because the page cannot be read. */
export interface Doorbell extends Releasable {
  /** Writes a 16-bit little-endian queue index. */
  ring16(value: number): void
  /** Writes the 32-bit form of VIRTIO_F_NOTIFICATION_DATA. */
  ring32(value: number): void
}

/** A counter that one side adds to and another waits for (eventfd(2)), without semaphore semantics, non-blocking. */
export interface Eventfd extends Releasable {
  /**
   * The descriptor, for vring and configuration requests or for another process; where the kernel backend wraps one of the caller's, that of a
   * duplicate. Throws ERR_VDPA_CLOSED after close.
   */
  readonly fd: number
  /**
   * Adds to the counter, 1..2^53-1; wakes the other side. Default 1. A counter without room for it (2^64-2 is its last value) stays as it is: whoever waits
   * for it is awake. Never sleeps, whatever the flags of the caller's own eventfd.
   */
  signal(count?: number): void
  /** Takes the counter: what was added since the last take, 0 when nothing. Counts above 2^53-1 are clamped. */
  take(): number
  /**
   * Calls `listener(count)` on the event loop after each wake-up, having taken the counter. One listener at a time (ERR_VDPA_STATE). Does not keep the
   * process alive unless `ref()` was called on the subscription.
   */
  onSignal(listener: (count: number) => void): Subscription
}

/** A listener that is being called. Closing it stops the calls. */
export interface Subscription extends Releasable {
  /** Keeps the process alive while the subscription is open. Returns itself. */
  ref(): this
  /** Lets the process end although the subscription is open, which is how it begins. Returns itself. */
  unref(): this
}

/** A datagram socket to the kernel; messages are whole netlink messages. */
export interface NetlinkSocket extends Closeable {
  /** The descriptor. Throws ERR_VDPA_CLOSED after close. */
  readonly fd: number
  /** Sends one datagram of whole netlink messages. Most refusals come back as a message (NLMSG_ERROR), not as an error. */
  send(message: Uint8Array): void
  /**
   * The same, off the event loop's thread: the kernel carries most requests out before it returns, and some sleep long. While one is under way receive()
   * gives nothing. Optional: where it is absent, nothing sleeps in send().
   */
  sendAsync?(message: Uint8Array): Promise<void>
  /** One datagram, or undefined when there is none now. ENOBUFS when messages were lost because nobody received them in time. */
  receive(): Uint8Array | undefined
  /** Calls `listener` whenever there is a datagram to receive. One listener at a time (ERR_VDPA_STATE). */
  onReadable(listener: () => void): Subscription
  /** Joins a multicast group by its number (from 1), which the generic netlink controller gives by name. */
  addMembership(group: number): void
}
