// A guest with two queues of a network device: it has posted receive buffers, and sends nothing. Each queue may be shadowed.

import type { VdpaDevice } from '../../../lib/device/vdpa-device.js'
import { GuestMemory } from '../../../lib/memory/guest-memory.js'
import type { MemoryRegion } from '../../../lib/memory/memory-region.js'
import { ShadowQueue } from '../../../lib/shadow/shadow-queue.js'
import type { Simulator } from '../../../lib/simulator/index.js'
import { same } from './same.js'
import { SHADOWS } from './verbs.js'

const SIZE = 4
const BASE = 0x10_0000
const QUEUE_BYTES = 0x400
const [DRIVER_AT, DEVICE_AT, BUFFERS_AT] = [0x100, 0x200, 0x800] as const
/** Receive buffers that the guest has posted. */
const POSTED = 2

export class StillGuest {
  readonly memory: GuestMemory
  #shadows: readonly ShadowQueue[]
  #device: VdpaDevice
  readonly #region: MemoryRegion
  readonly #eventfds: readonly { close(): void }[]

  constructor(simulator: Simulator, device: VdpaDevice) {
    this.#device = device
    this.#region = simulator.allocate(4096)
    this.memory = new GuestMemory([{ address: BigInt(BASE), region: this.#region }])
    this.#post()
    const eventfds: { close(): void }[] = []
    this.#shadows = Array.from({ length: SHADOWS }, (_, index) => {
      const at = BigInt(BASE + index * QUEUE_BYTES)
      const [kick, call] = [simulator.eventfd(), simulator.eventfd()]
      eventfds.push(kick, call)
      const addresses = { descriptor: at, driver: at + BigInt(DRIVER_AT), device: at + BigInt(DEVICE_AT) }
      const guest = { memory: this.memory, size: SIZE, addresses, kick, call }
      return new ShadowQueue(device, { index, guest, space: device.addressSpace(0), patience: 0 })
    })
    this.#eventfds = eventfds
  }

  /** By index. */
  get shadows(): readonly ShadowQueue[] {
    return this.#shadows
  }

  /** Its queues are another device's from now on, or this one's anew. */
  moveTo(device: VdpaDevice, shadows: readonly ShadowQueue[]): void {
    this.#device = device
    this.#shadows = shadows
  }

  /** What the oracle knows of a queue. */
  get books(): { isShadowing: boolean; isServed: boolean; isClosed: boolean }[] {
    const device = this.#device
    const driven = device.drivenQueues.map(({ index }) => index)
    return this.shadows.map(({ index, isShadowing, isClosed }) => {
      const isServed = !device.isClosed && !driven.includes(index) && device.vring(index).isEnabled
      return { isShadowing, isServed, isClosed }
    })
  }

  /** Queues of the device that serve the guest, shadowed or by themselves. */
  get served(): number[] {
    return [...this.books.entries()].filter(([, one]) => one.isShadowing || one.isServed).map(([index]) => index)
  }

  /** What was posted is the guest's and the device's still: nothing came, and nothing went. Frees all of it. */
  end(): void {
    const view = new DataView(this.#region.buffer)
    same(
      this.shadows.map(({ index }) => view.getUint16(index * QUEUE_BYTES + DEVICE_AT + 2, true)),
      this.shadows.map(() => 0),
    )
    same(
      this.books.some(({ isShadowing }) => isShadowing),
      false,
    )
    for (const eventfd of this.#eventfds) eventfd.close()
    this.#region.close()
    same(this.#region.isClosed, true)
  }

  /** Buffers in the first queue: its descriptors, and the available ring (2.7.5, 2.7.6). */
  #post(): void {
    const view = new DataView(this.#region.buffer)
    for (let slot = 0; slot < POSTED; slot++) {
      view.setBigUint64(slot * 16, BigInt(BASE + BUFFERS_AT + slot * 0x100), true)
      view.setUint32(slot * 16 + 8, 0x100, true)
      view.setUint16(slot * 16 + 12, 2, true)
      view.setUint16(DRIVER_AT + 4 + 2 * slot, slot, true)
    }
    view.setUint16(DRIVER_AT + 2, POSTED, true)
  }
}
