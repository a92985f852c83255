// A virtqueue that this process drives itself: ring memory mapped into an address space, the driver's side of the ring, and its eventfds or doorbell.
// What travels through it is the business of control/ and drivers/.

import { checkInteger } from '../base/checks.js'
import { CloseStack, type Closeable } from '../base/closeable.js'
import { vdpaError } from '../base/errors.js'
import type { Doorbell, Eventfd, Subscription } from '../backend/backend.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import { RingMemory } from '../memory/ring-memory.js'
import { createDriverRing } from '../virtqueue/create.js'
import { areaSizes } from '../virtqueue/layout.js'
import type { DriverRing, DriverSnapshot } from '../virtqueue/virtqueue.js'
import type { AddressSpace } from './address-space.js'
import type { Vring } from './vring.js'

/** How the device is told that there is work: by eventfd, by writing its doorbell page, or by the page where the device has one. */
export type NotifyBy = 'eventfd' | 'doorbell' | 'auto'

/** How a queue that this process drives is made. */
export interface DeviceQueueOptions {
  /** The address space whose mappings the device uses for this queue: that of the queue's group. */
  readonly addressSpace: AddressSpace
  /** Descriptors; the smaller of 256 and the largest the queue allows by default. */
  readonly size?: number
  /** Bytes of buffer memory to map beside the ring; default 0. */
  readonly bufferBytes?: number
  /** `'eventfd'` by default. `'doorbell'` throws ERR_VDPA_NOT_SUPPORTED where the device has none, `'auto'` takes it where it has one. */
  readonly notifyBy?: NotifyBy
  /** The IOVA where ring and buffers are mapped; chosen from the top of the device's window by default. */
  readonly iova?: bigint
  /** Begins with the chains of a queue that was saved, in its memory: kick() tells the device of them once it runs. */
  readonly restore?: QueueSnapshot
  /** Descriptors a chain may have in an indirect table; 0 (default) makes all chains direct. Needs VIRTIO_F_RING_INDIRECT_DESC. */
  readonly indirectTableSize?: number
}

/** A stopped queue: its ring's state and the memory it lies in, which stays allocated. */
export interface QueueSnapshot {
  /** The driver's books: the chains that the device has not answered, and those that it has and nobody took. */
  readonly ring: DriverSnapshot
  /** Ring and buffers. */
  readonly memory: MemoryRegion
  /** Where `memory` was mapped, and will be again. */
  readonly iova: bigint
}

/** What the queue needs of the open device. */
export interface QueueHost {
  readonly path: string
  readonly allocate: (length: number, name: string) => MemoryRegion
  readonly eventfd: () => Eventfd
  readonly mapDoorbell: (index: number) => Doorbell | undefined
  readonly features: {
    readonly eventIdx: boolean
    readonly indirect: boolean
    readonly inOrder: boolean
    readonly notificationData: boolean
  }
}

const defaultSize = 256

/** Offsets of everything in the queue's memory. */
interface Layout {
  readonly driver: number
  readonly device: number
  readonly indirect: number
  readonly buffers: number
  readonly total: number
}

/**
 * A virtqueue driven from here: VdpaDevice.createQueue() makes it, with its memory mapped and its vring enabled. Add chains to `ring`, then publish().
 */
export class DeviceQueue implements Closeable {
  /** The virtqueue's number, from 0. */
  readonly index: number
  /** The same virtqueue as the kernel knows it. */
  readonly vring: Vring
  /** The driver's side of the ring. */
  readonly ring: DriverRing
  /** Where its memory is mapped. */
  readonly addressSpace: AddressSpace
  /** The buffers beside the ring. */
  readonly buffers: RingMemory
  /** IOVA of the first byte of `buffers`. */
  readonly buffersIova: bigint
  readonly #memory: MemoryRegion
  readonly #iova: bigint
  readonly #kick: Eventfd
  readonly #call: Eventfd
  readonly #doorbell: Doorbell | undefined
  readonly #hasNotificationData: boolean
  readonly #closing = new CloseStack()
  #isSaved = false
  #owesKick = false

  private constructor(parts: {
    vring: Vring
    ring: DriverRing
    options: DeviceQueueOptions
    layout: Layout
    memory: MemoryRegion
    iova: bigint
    kick: Eventfd
    call: Eventfd
    doorbell: Doorbell | undefined
    hasNotificationData: boolean
  }) {
    this.index = parts.vring.index
    this.vring = parts.vring
    this.ring = parts.ring
    this.addressSpace = parts.options.addressSpace
    this.#memory = parts.memory
    this.#iova = parts.iova
    this.buffers = new RingMemory(parts.memory.buffer, parts.layout.buffers, parts.options.bufferBytes ?? 0)
    this.buffersIova = parts.iova + BigInt(parts.layout.buffers)
    this.#kick = parts.kick
    this.#call = parts.call
    this.#doorbell = parts.doorbell
    this.#hasNotificationData = parts.hasNotificationData
  }

  /** Allocates, maps, builds the ring, sets the vring up and enables it. On failure nothing is left. The device must not be running. */
  static async create(host: QueueHost, vring: Vring, options: DeviceQueueOptions): Promise<DeviceQueue> {
    const size = options.size ?? options.restore?.ring.size ?? Math.min(defaultSize, vring.maxSize)
    checkInteger(size, 'size', 1, vring.maxSize)
    checkInteger(options.bufferBytes ?? 0, 'bufferBytes', 0, 2 ** 31)
    const undo = new CloseStack()
    try {
      const layout = layOut(vring, size, options)
      const memory = options.restore?.memory ?? host.allocate(layout.total, `queue ${vring.index} of ${host.path}`)
      if (options.restore === undefined) undo.push(() => memory.close())
      const wantedIova = options.restore?.iova ?? options.iova
      const iova = await options.addressSpace.mapRegion(memory, wantedIova === undefined ? {} : { iova: wantedIova })
      undo.push(() => options.addressSpace.unmap({ iova, size: BigInt(memory.length) }))
      const ring = makeRing(host, vring, { size, layout, memory, iova }, options)
      const [kick, call] = [host.eventfd(), host.eventfd()]
      undo.push(() => kick.close())
      undo.push(() => call.close())
      const doorbell =
        options.notifyBy === 'doorbell' || options.notifyBy === 'auto' ? host.mapDoorbell(vring.index) : undefined
      if (doorbell !== undefined) undo.push(() => doorbell.close())
      if (doorbell === undefined && options.notifyBy === 'doorbell') {
        throw vdpaError('ERR_VDPA_NOT_SUPPORTED', `queue ${vring.index} has no doorbell page`, { path: host.path })
      }
      const at = (offset: number) => iova + BigInt(offset)
      vring.setUp({
        size,
        addresses: { descriptor: iova, driver: at(layout.driver), device: at(layout.device) },
        kick,
        call,
      })
      vring.enable()
      const { notificationData: hasNotificationData } = host.features
      const queue = new DeviceQueue({
        vring,
        ring,
        options,
        layout,
        memory,
        iova,
        kick,
        call,
        doorbell,
        hasNotificationData,
      })
      queue.#closing.push(() => {
        if (!queue.#isSaved) memory.close()
      })
      const mapped = { iova, size: BigInt(memory.length) }
      queue.#closing.push({
        now: () => {
          if (!options.addressSpace.isClosed) options.addressSpace.unmapSync(mapped)
        },
        later: async () => {
          if (!options.addressSpace.isClosed) await options.addressSpace.unmap(mapped)
        },
      })
      for (const owned of [kick, call, doorbell]) if (owned !== undefined) queue.#closing.push(() => owned.close())
      return queue
    } catch (failure) {
      await undo.close().catch(() => undefined)
      throw failure
    }
  }

  /** True from close() on. */
  get isClosed(): boolean {
    return this.#closing.isClosed
  }

  /** Calls `listener` when the queue begins to close, its memory still there. Returns a function that takes the listener off. */
  onClose(listener: () => void): () => void {
    return this.#closing.push(listener)
  }

  /** The descriptor of the eventfd by which the driver kicks, for who kicks in its place. */
  get kickFd(): number {
    return this.#kick.fd
  }

  /** The descriptor of the eventfd by which the device interrupts, for who waits in its place. */
  get callFd(): number {
    return this.#call.fd
  }

  /** Tells the device that there is work, unless it does not want to be told: the usual end of adding buffers. */
  publish(): void {
    if (this.ring.publish() || this.#owesKick) this.kick()
  }

  /** Tells the device that there is work. */
  kick(): void {
    // Until the device was told: one that asks for notifications by position (EVENT_IDX) never asks again for a position that was passed.
    this.#owesKick = true
    if (this.#doorbell === undefined) this.#kick.signal()
    else if (this.#hasNotificationData) this.#doorbell.ring32(this.ring.notificationData(this.index))
    else this.#doorbell.ring16(this.index)
    this.#owesKick = false
  }

  /** Calls `listener` when the device interrupts. One listener at a time; does not keep the process alive unless ref() is called. */
  onCall(listener: () => void): Subscription {
    return this.#call.onSignal(listener)
  }

  /** Interrupts since the last time, for programs that poll. */
  takeCalls(): number {
    return this.#call.take()
  }

  /**
   * Saves the queue of a stopped device and closes it; pass the snapshot to createQueue() to go on. What is in flight is what this side has not got back; where
   * the device says that it stands is not asked. The memory stays, and is the caller's to close when no queue is made of it. ERR_VDPA_STATE while the device runs.
   */
  async save(): Promise<QueueSnapshot> {
    this.vring.checkStopped('saving a queue')
    const snapshot = { ring: this.ring.save(), memory: this.#memory, iova: this.#iova }
    this.#isSaved = true
    await this.close()
    return snapshot
  }

  /** Closes eventfds and doorbell, unmaps and frees the memory. The device must be stopped; VdpaDevice.close() and reset() see to it. */
  close(): Promise<void> {
    return this.#closing.close()
  }

  /** close() on the calling thread. */
  closeSync(): void {
    this.#closing.closeSync()
  }

  /** close() */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

function layOut(vring: Vring, size: number, options: DeviceQueueOptions): Layout {
  const areas = areaSizes(vring.format, size)
  const driver = areas.descriptor
  const device = align(driver + areas.driver, 4)
  const indirect = align(device + areas.device, 16)
  const buffers = align(indirect + size * 16 * (options.indirectTableSize ?? 0), 64)
  return { driver, device, indirect, buffers, total: buffers + (options.bufferBytes ?? 0) }
}

function align(value: number, alignment: number): number {
  return Math.ceil(value / alignment) * alignment
}

interface RingPlace {
  readonly size: number
  readonly layout: Layout
  readonly memory: MemoryRegion
  readonly iova: bigint
}

function makeRing(
  host: QueueHost,
  vring: Vring,
  { size, layout, memory, iova }: RingPlace,
  options: DeviceQueueOptions,
): DriverRing {
  const areas = areaSizes(vring.format, size)
  const { eventIdx, indirect, inOrder } = host.features
  const tableSize = options.indirectTableSize ?? 0
  return createDriverRing({
    format: vring.format,
    size,
    areas: {
      descriptor: new RingMemory(memory.buffer, 0, areas.descriptor),
      driver: new RingMemory(memory.buffer, layout.driver, areas.driver),
      device: new RingMemory(memory.buffer, layout.device, areas.device),
    },
    features: { eventIdx, indirect, inOrder },
    ...(options.restore === undefined ? {} : { snapshot: options.restore.ring }),
    ...(tableSize === 0 || !indirect
      ? {}
      : {
          indirect: {
            memory: new RingMemory(memory.buffer, layout.indirect, size * 16 * tableSize),
            iova: iova + BigInt(layout.indirect),
            tableSize,
          },
        }),
  })
}
