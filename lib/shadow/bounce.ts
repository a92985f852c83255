// Memory that the device can reach, in chunks, for bytes of the guest that it cannot. Who copies, and when, is the forwarder's business.

import type { Steps } from '../base/steps.js'
import type { AddressSpace } from '../device/address-space.js'
import type { VdpaDevice } from '../device/vdpa-device.js'
import type { MemoryRegion } from '../memory/memory-region.js'

/** Bytes of a chunk: the longest piece of a segment that is bounced. */
export const CHUNK_BYTES = 4096

/** Chunks of one region, which is mapped for the device. */
export class Bounce {
  readonly region: MemoryRegion
  readonly iova: bigint
  readonly #chunks: number
  readonly #free: Int32Array
  #freeCount: number

  constructor(region: MemoryRegion, iova: bigint) {
    this.region = region
    this.iova = iova
    this.#chunks = Math.floor(region.length / CHUNK_BYTES)
    this.#free = Int32Array.from({ length: this.#chunks }, (_, chunk) => this.#chunks - 1 - chunk)
    this.#freeCount = this.#chunks
  }

  /** A chunk, or -1 while there is none. */
  take(): number {
    return this.#freeCount === 0 ? -1 : (this.#free[--this.#freeCount] as number)
  }

  release(chunk: number): void {
    this.#free[this.#freeCount++] = chunk
  }

  /** Takes all of them back: nobody uses the memory any more. */
  releaseAll(): void {
    for (let chunk = 0; chunk < this.#chunks; chunk++) this.#free[chunk] = chunk
    this.#freeCount = this.#chunks
  }

  bytes(chunk: number, length: number): Uint8Array {
    return this.region.view(chunk * CHUNK_BYTES, length)
  }

  /** The device's address of a chunk. */
  iovaOf(chunk: number): bigint {
    return this.iova + BigInt(chunk * CHUNK_BYTES)
  }

  /** The device reaches the region no more, unless somebody else's mapping of it has taken the place of ours. */
  *unmapSteps(device: VdpaDevice, space: AddressSpace): Steps<void> {
    if (space.lookup(this.iova)?.region !== this.region) return
    // A device that is gone takes no messages: the memory is let go with its node.
    if (device.phase === 'lost') return
    yield* space.unmapSteps({ iova: this.iova, size: BigInt(this.region.length) })
  }
}
