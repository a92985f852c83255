// What a piece of DMA-able memory is, for everyone above the seam: bytes with a stable address, which nobody may free under a device.

import type { Releasable } from '../base/closeable.js'

/** Somebody's claim that a region must stay: a mapping for DMA. Closing the hold gives the claim up. */
export interface MemoryHold extends Releasable {
  /** What holds the memory, as a person would say it: `/dev/vhost-vdpa-0 asid 1 [0x1000, 0x1fff]`. */
  readonly holder: string
}

/** Who holds memory, where a fixed name would not do. Keep no strong reference to the region in it: a region that everybody forgot could not be reported. */
export interface MemoryHolder {
  /** Who it is and what it holds the memory for, now: `/dev/vhost-vdpa-0 asid 1 [0x1000, 0x1fff]`. */
  describe(): string
  /** Gives the memory up on the spot, as by unmapping it; throws when that is refused. Absent where it cannot. */
  letGo?(): void
}

/** How to free memory. */
export interface CloseMemoryOptions {
  /** Has every holder that can let go of the memory first: what is mapped is unmapped. Default false: while it is held it is not freed. */
  readonly unmap?: boolean
}

/** How to make memory. */
export interface AllocateOptions {
  /**
   * Bytes of the pages behind the memory: `Backend.pageSize` (default), or a huge page size that the system has (2 MiB, 1 GiB). RangeError for others,
   * ENOMEM when no huge pages are free.
   */
  readonly pageSize?: number
  /** A name for tools (the memfd's name). */
  readonly name?: string
}

/** How to take over memory that another program's file descriptor holds. */
export interface AdoptOptions {
  /** Bytes to map, all within the file (RangeError); rounded up to the file's pages. Where the file ends inside the last, what follows in it is nobody else's. */
  readonly length: number
  /** Where in the file the memory starts, in bytes; a multiple of the file's page size. Default 0. */
  readonly offset?: bigint
  /**
   * Demands that nobody can make the file shorter any more (F_SEAL_SHRINK, as memfd_create(2) files may be sealed): ERR_VDPA_NOT_SUPPORTED where somebody
   * can. Without it the memory is as good as its owner: once he has made the file shorter, whoever touches what is gone ends this process (SIGBUS), and
   * a device that it is mapped for writes nowhere. Default false, because many owners do not seal.
   */
  readonly sealed?: boolean
  /**
   * Has this process survive an owner who makes the file shorter: a page that is gone reads as zeroes and may be written when somebody here touches it, and
   * `isTorn` is true from then on. The kernel's own accesses (a device's, a system call's) fail as ever. Memory of huge pages is not guarded. Default false.
   */
  readonly guarded?: boolean
  /**
   * Only reads the file, which may be open for reading only. What this process writes to the region reaches nobody else, and hides what the owner writes to the
   * same page from then on. Such memory is not for devices. Default false.
   */
  readonly isReadOnly?: boolean
}

/**
 * Shared, file-backed, page-aligned memory at an address that is stable until `close()`. Only such memory is given to devices: the kernel
 * skips private memory without an error on some parents.
 */
export interface MemoryRegion extends Releasable {
  /** Bytes, a multiple of `pageSize`. */
  readonly length: number
  /** Bytes of the pages behind it: what it was allocated with, or what the adopted file has. */
  readonly pageSize: number
  /** The address in this process (`uaddr` of an IOTLB message); in a simulator, one of its own numbering. Throws ERR_VDPA_CLOSED after close. */
  readonly address: bigint
  /**
   * The whole region. `close()` detaches it: views then have length 0 and DataView and Atomics throw. ERR_VDPA_NOT_SUPPORTED for a region that one
   * ArrayBuffer cannot hold (more than 4 GiB on Node 20): see `view()`.
   */
  readonly buffer: ArrayBuffer
  /** The file behind it, for passing to another process; undefined in a simulator. Throws ERR_VDPA_CLOSED after close. */
  readonly fd: number | undefined
  /** Who holds it now, oldest first. */
  readonly holders: readonly string[]
  /** Of memory that was adopted with `guarded`: whether a page of it was gone when it was touched. Absent where there is no such guard. */
  readonly isTorn?: boolean
  /** Keeps the memory from being freed until the hold is closed. `holder` says who it is, for the refusal to free it. ERR_VDPA_CLOSED. */
  hold(holder: string | MemoryHolder): MemoryHold
  /**
   * The bytes [offset, offset + length) themselves, not a copy. In a region that has no single `buffer` they must lie between two multiples of 1 GiB.
   * RangeError; ERR_VDPA_CLOSED. `close()` detaches them as it does the buffer.
   */
  view(offset: number, length: number): Uint8Array
  /**
   * Frees the memory. What other threads are still at work on (a read of Node's own `fs`) is taken from them only when they are done, and is given
   * back at once all the same. Throws `ERR_VDPA_MEMORY_HELD`, naming the holders, while anybody holds it. With `unmap`, address spaces unmap it first, on the calling
   * thread; what refuses that is thrown, and the memory stays.
   */
  close(options?: CloseMemoryOptions): void
}
