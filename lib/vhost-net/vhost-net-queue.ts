// One queue of a vhost-net device: its memory, its ring, its eventfds. The device reaches all of it through translations that are asked for.

import { Failures } from '../base/failures.js'
import type { Range } from '../base/ranges.js'
import type { Backend, Eventfd, Subscription } from '../backend/backend.js'
import { layOut, type QueueLayout } from '../device/queue-layout.js'
import type { FrameQueue } from '../drivers/frame-buffers.js'
import type { WaitedQueue } from '../drivers/queue-waiters.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import { RingMemory } from '../memory/ring-memory.js'
import type { VringAddresses } from '../transport/vhost-vdpa.js'
import { createDriverRing } from '../virtqueue/create.js'
import { areaSizes } from '../virtqueue/layout.js'
import type { DriverRing } from '../virtqueue/virtqueue.js'

/** What a queue is made of. */
export interface QueueShape {
  readonly index: number
  /** Descriptors. */
  readonly size: number
  /** Bytes of all buffers. */
  readonly bufferBytes: number
  /** Where its memory begins for the device. */
  readonly iova: bigint
}

export class VhostNetQueue implements FrameQueue, WaitedQueue {
  readonly index: number
  readonly ring: DriverRing
  readonly buffers: RingMemory
  readonly buffersIova: bigint
  readonly memory: MemoryRegion
  readonly iova: bigint
  readonly kickEvents: Eventfd
  readonly callEvents: Eventfd
  readonly #layout: QueueLayout
  readonly #listeners: (() => void)[] = []
  #isClosed = false

  /** `memory` has `queueBytes()` at least, and is the queue's from now on. */
  constructor(backend: Pick<Backend, 'eventfd'>, memory: MemoryRegion, shape: QueueShape) {
    const { index, size, bufferBytes, iova } = shape
    const layout = layoutOf(shape)
    const areas = areaSizes('split', size)
    this.index = index
    this.memory = memory
    this.iova = iova
    this.#layout = layout
    this.ring = createDriverRing({
      format: 'split',
      size,
      areas: {
        descriptor: new RingMemory(memory.buffer, 0, areas.descriptor),
        driver: new RingMemory(memory.buffer, layout.driver, areas.driver),
        device: new RingMemory(memory.buffer, layout.device, areas.device),
      },
      features: {},
    })
    this.buffers = new RingMemory(memory.buffer, layout.buffers, bufferBytes)
    this.buffersIova = iova + BigInt(layout.buffers)
    this.kickEvents = backend.eventfd()
    try {
      this.callEvents = backend.eventfd()
    } catch (failure) {
      this.kickEvents.close()
      throw failure
    }
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  /** Where the three areas are for the device. */
  get addresses(): VringAddresses {
    const at = (offset: number) => this.iova + BigInt(offset)
    return { descriptor: this.iova, driver: at(this.#layout.driver), device: at(this.#layout.device) }
  }

  /** Where the used ring is for the device. */
  get usedRing(): Range {
    const first = this.addresses.device
    return { first, last: first + BigInt(areaSizes('split', this.ring.size).device) - 1n }
  }

  publish(): void {
    if (this.ring.publish()) this.kick()
  }

  kick(): void {
    if (!this.#isClosed) this.kickEvents.signal()
  }

  onCall(listener: (count: number) => void): Subscription {
    return this.callEvents.onSignal(listener)
  }

  onClose(listener: () => void): () => void {
    this.#listeners.push(listener)
    return () => void this.#listeners.splice(this.#listeners.lastIndexOf(listener), 1)
  }

  /** Once the device does not use it any more. */
  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    const failures = new Failures()
    for (const listener of [...this.#listeners].reverse()) failures.now(listener)
    failures.now(() => this.kickEvents.close())
    failures.now(() => this.callEvents.close())
    failures.now(() => this.memory.close())
    failures.throwMet(`closing queue ${this.index} met failures`)
  }
}

function layoutOf({ size, bufferBytes }: Pick<QueueShape, 'size' | 'bufferBytes'>): QueueLayout {
  return layOut({ format: 'split', size, bufferBytes, indirectTableSize: 0 })
}

/** Bytes of memory that a queue needs. */
export function queueBytes(shape: Pick<QueueShape, 'size' | 'bufferBytes'>): number {
  return layoutOf(shape).total
}
