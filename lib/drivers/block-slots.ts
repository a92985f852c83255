// The memory of a block queue's requests: for each slot a header and a status in one cache line, and data. Addresses are split into halves once.

import type { RingMemory } from '../memory/ring-memory.js'
import type { DeviceQueue } from '../device/device-queue.js'
import { virtioBlkOutHdr } from '../uapi/virtio-blk.js'
import type { DriverRing } from '../virtqueue/virtqueue.js'

/** Bytes of a request's head (struct virtio_blk_outhdr): type, priority, sector. */
export const HEADER_BYTES = virtioBlkOutHdr.size
/** Header at 0, status at 16. */
const HEAD_STRIDE = 64
const STATUS_AT = 16
const UNANSWERED = 0xff
const TWO_32 = 0x1_0000_0000

/** Bytes that so many slots take. */
export function slotMemory(slots: number, slotBytes: number): number {
  return slots * (HEAD_STRIDE + slotBytes)
}

export class BlockSlots {
  /** The data of each slot. */
  readonly views: readonly Uint8Array[]
  // The status has the header's high half: heads are multiples of 64 and never cross 2^32.
  readonly headHigh: Uint32Array
  readonly headLow: Uint32Array
  readonly statusLow: Uint32Array
  readonly dataHigh: Uint32Array
  readonly dataLow: Uint32Array
  readonly #memory: RingMemory

  constructor(queue: DeviceQueue, slots: number, slotBytes: number) {
    this.#memory = queue.buffers
    const dataAt = slots * HEAD_STRIDE
    this.views = Array.from({ length: slots }, (_, slot) => queue.buffers.bytes(dataAt + slot * slotBytes, slotBytes))
    const high = (at: number) => Number((queue.buffersIova + BigInt(at)) >> 32n)
    const low = (at: number) => Number((queue.buffersIova + BigInt(at)) & 0xffff_ffffn)
    const column = (half: (at: number) => number, start: number, stride: number) =>
      Uint32Array.from({ length: slots }, (_, slot) => half(start + slot * stride))
    this.headHigh = column(high, 0, HEAD_STRIDE)
    this.headLow = column(low, 0, HEAD_STRIDE)
    this.statusLow = column(low, STATUS_AT, HEAD_STRIDE)
    this.dataHigh = column(high, dataAt, slotBytes)
    this.dataLow = column(low, dataAt, slotBytes)
  }

  /** Whether this is the memory of a queue. */
  isIn({ buffers }: DeviceQueue): boolean {
    return this.#memory.buffer === buffers.buffer
  }

  /** Writes a request's head, and a status that no device gives. */
  writeHeader(slot: number, type: number, sector: number): void {
    const memory = this.#memory
    const at = slot * HEAD_STRIDE
    memory.setU32(at, type)
    memory.setU32(at + 4, 0)
    memory.setU32(at + 8, sector >>> 0)
    memory.setU32(at + 12, sector < TWO_32 ? 0 : Math.floor(sector / TWO_32))
    memory.setU8(at + STATUS_AT, UNANSWERED)
  }

  /** Writes a status that no device gives. */
  forgetStatus(slot: number): void {
    this.#memory.setU8(slot * HEAD_STRIDE + STATUS_AT, UNANSWERED)
  }

  status(slot: number): number {
    return this.#memory.u8(slot * HEAD_STRIDE + STATUS_AT)
  }

  /** Adds the data to a chain in segments that are not longer than the device takes. */
  pushData(ring: DriverRing, slot: number, length: number, segmentBytes: number, deviceWrites: boolean): void {
    const high = this.dataHigh[slot] as number
    const start = this.dataLow[slot] as number
    for (let done = 0; done < length; done += segmentBytes) {
      const low = start + done
      const carry = low >= TWO_32 ? 1 : 0
      ring.push(high + carry, low - carry * TWO_32, Math.min(segmentBytes, length - done), deviceWrites)
    }
  }
}
