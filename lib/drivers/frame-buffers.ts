// The buffers of one data queue: as many as its ring has descriptors, of one size, one after the other. Buffer i is token i in the ring. It knows no
// header.

import { rangeError } from '../base/checks.js'
import type { DeviceQueue } from '../device/device-queue.js'
import type { RingMemory } from '../memory/ring-memory.js'

const CACHE_LINE_BYTES = 64

/**
 * Bytes from one buffer to the next: an odd number of cache lines. Were it a power of two, the beginnings of all buffers, where headers and short
 * frames are, would share a few sets of the cache and evict each other.
 */
export function frameBufferStride(bufferBytes: number): number {
  return (Math.ceil(bufferBytes / CACHE_LINE_BYTES) | 1) * CACHE_LINE_BYTES
}

/** What buffers need of their queue: a device's, or one of vhost-net. */
export type FrameQueue = Pick<DeviceQueue, 'ring' | 'buffers' | 'buffersIova' | 'isClosed' | 'publish' | 'kick'>

/** Buffers that travel through a queue and come back to be used again. Nothing allocates in steady state but views of lengths that were not seen before. */
export class FrameBuffers {
  readonly queue: FrameQueue
  /** All buffers. */
  readonly memory: RingMemory
  /** The same, as bytes. */
  readonly bytes: Uint8Array
  /** Bytes of each. */
  readonly bufferBytes: number
  readonly #stride: number
  // IOVA of each buffer, in halves.
  readonly #iovaHigh: Uint32Array
  readonly #iovaLow: Uint32Array
  // The view of each buffer that was shown last, and what it is of.
  readonly #views: (Uint8Array | undefined)[]
  readonly #viewLengths: Int32Array
  readonly #viewOffsets: Int32Array

  constructor(queue: FrameQueue, bufferBytes: number) {
    this.queue = queue
    this.memory = queue.buffers
    this.bytes = queue.buffers.bytes()
    this.bufferBytes = bufferBytes
    this.#stride = frameBufferStride(bufferBytes)
    const iovas = Array.from({ length: queue.ring.size }, (_, index) => queue.buffersIova + BigInt(this.at(index)))
    this.#iovaHigh = Uint32Array.from(iovas, (iova) => Number(iova >> 32n))
    this.#iovaLow = Uint32Array.from(iovas, (iova) => Number(iova & 0xffff_ffffn))
    this.#views = new Array<Uint8Array | undefined>(queue.ring.size).fill(undefined)
    this.#viewLengths = new Int32Array(queue.ring.size)
    this.#viewOffsets = new Int32Array(queue.ring.size)
  }

  /** Where buffer `index` begins in `memory`. */
  at(index: number): number {
    return index * this.#stride
  }

  /** Puts buffer `index` into the ring, `length` bytes of it. */
  add(index: number, length: number, deviceWrites: boolean): void {
    const { ring } = this.queue
    ring.begin()
    ring.push(this.#iovaHigh[index] as number, this.#iovaLow[index] as number, length, deviceWrites)
    ring.commit(index)
  }

  /** `length` bytes of buffer `index` from `offset` on. The view of the last time is used again when it fits: frames are often of one length. */
  view(index: number, offset: number, length: number): Uint8Array {
    const last = this.#views[index]
    if (last !== undefined && this.#viewLengths[index] === length && this.#viewOffsets[index] === offset) return last
    const from = this.at(index) + offset
    const view = this.bytes.subarray(from, from + length)
    this.#views[index] = view
    this.#viewLengths[index] = length
    this.#viewOffsets[index] = offset
    return view
  }

  /** The buffers that are not in the ring. RangeError where a buffer is there twice, or one that is none. */
  idle(): number[] {
    const { chains, used } = this.queue.ring.save()
    const busy = new Set<number>()
    for (const { token } of [...chains, ...used]) {
      // A snapshot may have been to another place and back.
      if (token >= this.queue.ring.size || busy.has(token))
        throw rangeError(
          'restore.ring',
          `a ring in which each of the ${this.queue.ring.size} buffers is once at most`,
          token,
        )
      busy.add(token)
    }
    return Array.from({ length: this.queue.ring.size }, (_, index) => index).filter((index) => !busy.has(index))
  }
}
