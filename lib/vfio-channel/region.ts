// What both ends of a channel mean by a region: a file that is read and written at offsets, memory for DMA, and interrupts, as a VFIO device has them. The end that
// serves implements it; a transport does, too, and passes everything on.

import type { Eventfd } from '../backend/backend.js'
import type { Releasable } from '../base/closeable.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import { VFIO_REGION_SHIFT } from '../uapi/vhost-vfio.js'

/** Where messages are written to and read from. */
export const CONTROL_OFFSET = 0n
/** Where the doorbells lie, a page a queue. */
export const NOTIFY_OFFSET = 1n << VFIO_REGION_SHIFT
/** Queues that a notify region has room for. */
export const QUEUES_LAST = 0x1_0000

/** Memory that a client shows: a whole region, and where it begins in its file. */
export interface DmaMemory {
  readonly region: MemoryRegion
  /** Bytes from the beginning of the region's file. */
  readonly fileOffset: bigint
}

/** One end of a channel, as the other end uses it. Refusals are errors with an errno; ERR_VDPA_CLOSED after close. */
export interface ChannelRegion extends Releasable {
  /** Reads at an offset; returns how many bytes there were. EINVAL, EAGAIN (nothing is there). */
  pread(target: Uint8Array, offset: bigint): number
  /** Writes at an offset; returns how many bytes were taken. EINVAL. */
  pwrite(bytes: Uint8Array, offset: bigint): number
  /** pread() that waits for the far end on the event loop. Absent: nothing takes time. Calls are carried out in the order they are made. */
  preadAsync?(target: Uint8Array, offset: bigint): Promise<number>
  /** The same of pwrite(). */
  pwriteAsync?(bytes: Uint8Array, offset: bigint): Promise<number>
  /**
   * Shows memory at an address of the client's choice (VFIO_IOMMU_MAP_DMA): an IOVA, or the address in the client's process, as the protocol has it. EINVAL,
   * EEXIST (crosses memory that is there), ENOSPC.
   */
  mapDma(at: bigint, memory: DmaMemory): void
  /** Takes back what mapDma() showed at `at`. EINVAL where nothing begins there. */
  unmapDma(at: bigint): void
  /** Has a vector signal an eventfd, which is the region's to close from now on (VFIO_DEVICE_SET_IRQS); undefined takes it away. EINVAL. */
  setInterrupt(vector: number, eventfd: Eventfd | undefined): void
  /** Waits for what is under way, on this thread. Absent: nothing takes time. */
  finish?(): void
}

/** The queue whose doorbell lies at an offset; undefined for other offsets. */
export function doorbellAt(offset: bigint, pageSize: number): number | undefined {
  const at = offset - NOTIFY_OFFSET
  const page = BigInt(pageSize)
  return at >= 0n && at % page === 0n && at / page < QUEUES_LAST ? Number(at / page) : undefined
}

/** Where the doorbell of a queue lies. */
export function doorbellOffset(queue: number, pageSize: number): bigint {
  return NOTIFY_OFFSET + BigInt(queue * pageSize)
}
