// Two memories with the same bytes, mapped at the same addresses in two address spaces: where a queue's DMA goes is seen by which of them changes.

import type { VdpaDevice } from '../../../lib/device/vdpa-device.js'
import type { MemoryRegion } from '../../../lib/memory/memory-region.js'
import { RingMemory } from '../../../lib/memory/ring-memory.js'
import { createDriverRing } from '../../../lib/virtqueue/create.js'
import { AT, type Bench } from './bench.js'

const QUEUE_BYTES = 0x4000
const SIZE = 8
const [DRIVER_AT, DEVICE_AT, READABLE_AT, WRITABLE_AT] = [0x100, 0x200, 0x400, 0x1000]
const USED_INDEX_AT = DEVICE_AT + 2

/** Bytes of one buffer. */
export const BUFFER_BYTES = 0x800

/** Where the DMA of a queue went: the numbers of the spaces in which its used index moved, and its writable buffer changed. */
export interface Reach {
  readonly rings: readonly number[]
  readonly buffers: readonly number[]
}

/** What is put into one queue. */
export interface Chain {
  /** Bytes for the device to read; a function of the space, where they are to differ. */
  readonly readable: (space: number) => Uint8Array
  /** Bytes that it may write. */
  readonly writable: number
}

/** The queues of a device of which nobody knows yet where their DMA goes. Split rings. */
export class Twins {
  readonly #device: VdpaDevice
  readonly #memories: readonly MemoryRegion[]
  readonly #bench: Bench
  readonly #kicks = new Map<number, () => void>()

  /** A memory for each of the first two address spaces, with room for `queues`. */
  constructor(bench: Bench, device: VdpaDevice, queues: number) {
    this.#bench = bench
    this.#device = device
    const spaces = device.backendFeatures.has('VHOST_BACKEND_F_IOTLB_ASID') ? device.addressSpaceCount : 1
    this.#memories = Array.from({ length: Math.min(spaces, 2) }, () => bench.memory((queues * QUEUE_BYTES) / 0x1000))
  }

  async map(): Promise<void> {
    for (const [space, region] of this.#memories.entries())
      await this.#device.addressSpace(space).map({ iova: AT, region })
  }

  /** Sets a queue up before start(), with one chain in it, the same in every memory. */
  fill(index: number, { readable, writable }: Chain): void {
    const base = index * QUEUE_BYTES
    const iova = AT + BigInt(base)
    for (const [space, region] of this.#memories.entries()) {
      const area = (offset: number, length: number) => new RingMemory(region.buffer, base + offset, length)
      const bytes = readable(space)
      new Uint8Array(region.buffer).set(bytes, base + READABLE_AT)
      const ring = createDriverRing({
        format: 'split',
        size: SIZE,
        areas: { descriptor: area(0, 0x100), driver: area(DRIVER_AT, 0x100), device: area(DEVICE_AT, 0x100) },
      })
      ring.begin()
      if (bytes.length > 0) ring.pushAddress(iova + BigInt(READABLE_AT), bytes.length, false)
      if (writable > 0) ring.pushAddress(iova + BigInt(WRITABLE_AT), writable, true)
      ring.commit(0)
      ring.publish()
    }
    const kick = this.#bench.scene.eventfd()
    const call = this.#bench.scene.eventfd()
    const vring = this.#device.vring(index)
    const at = (offset: number) => iova + BigInt(offset)
    vring.setUp({
      size: SIZE,
      addresses: { descriptor: iova, driver: at(DRIVER_AT), device: at(DEVICE_AT) },
      kick,
      call,
    })
    vring.enable()
    this.#kicks.set(index, () => void kick.signal())
  }

  /** Kicks queues and gives the device time: until each has used its chain somewhere, or for as long as `patience` turns of the event loop. */
  async run(indexes: readonly number[], patience = 12_000): Promise<void> {
    for (const index of indexes) this.#kicks.get(index)?.()
    for (let turn = 0; turn < patience; turn++) {
      if (indexes.every((index) => this.reach(index).rings.length > 0)) return
      await new Promise((resolve) => setTimeout(resolve, turn < 20 ? 0 : 5))
    }
  }

  /** Where the DMA of a queue has gone. */
  reach(index: number): Reach {
    const base = index * QUEUE_BYTES
    const spaces = this.#memories.map((_, space) => space)
    const bytes = (space: number) => new Uint8Array(this.#memories[space]?.buffer ?? new ArrayBuffer(0))
    const writable = (space: number) => bytes(space).subarray(base + WRITABLE_AT, base + WRITABLE_AT + BUFFER_BYTES)
    return {
      rings: spaces.filter((space) => bytes(space)[base + USED_INDEX_AT] !== 0),
      buffers: spaces.filter((space) => writable(space).some((byte) => byte !== 0)),
    }
  }

  /** What the device wrote first into a queue's buffer in a space. */
  written(index: number, space: number): number | undefined {
    return new Uint8Array(this.#memories[space]?.buffer ?? new ArrayBuffer(0))[index * QUEUE_BYTES + WRITABLE_AT]
  }
}
