// A network device and a disk on some ground behind a saboteur, and the witness of what is left of them: nothing, whatever was refused.

import { expect } from '@jest/globals'
import { FaultyBackend } from '../../lib/backend/faulty-backend.js'
import type { Backend } from '../../lib/backend/backend.js'
import type { ControlQueue } from '../../lib/control/control-queue.js'
import type { NetControlQueue } from '../../lib/control/net-control-queue.js'
import type { ShadowControlQueue } from '../../lib/control/shadow-queue.js'
import type { AddressSpace } from '../../lib/device/address-space.js'
import type { DeviceQueue } from '../../lib/device/device-queue.js'
import type { MemoryFollower } from '../../lib/device/memory-follower.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import type { BlockDriver } from '../../lib/drivers/block-driver.js'
import type { TakenSnapshot } from '../../lib/device/snapshot.js'
import type { NetDriver, NetDriverSnapshot } from '../../lib/drivers/net-driver.js'
import type { GuestMemory } from '../../lib/memory/guest-memory.js'
import type { ShadowQueue } from '../../lib/shadow/shadow-queue.js'
import type { VirtioIommu } from '../../lib/iommu/virtio-iommu.js'
import type { VhostNet } from '../../lib/vhost-net/vhost-net.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'

/** Turns of the event loop after which a promise counts as one that never settles. */
const TURNS = 3000
/** Looks, ten milliseconds apart, before a promise counts as one that nobody settles. */
const LOOKS = 1000

/** What a row's steps leave for its verb. */
export interface Things {
  net?: VdpaDevice<'net'>
  block?: VdpaDevice<'block'>
  queue?: DeviceQueue
  control?: NetControlQueue
  plain?: ControlQueue
  shadow?: ShadowControlQueue<AddressSpace>
  shadows?: readonly ShadowQueue[]
  driver?: NetDriver
  disk?: BlockDriver
  follower?: MemoryFollower
  table?: GuestMemory
  vhostNet?: VhostNet
  iommu?: VirtioIommu
  taken?: TakenSnapshot & { readonly driver: NetDriverSnapshot }
}

/** Where the devices stand: in a simulator, or in a kernel. */
export interface Ground {
  readonly backend: Backend
  readonly net: string
  readonly block: string
  /** Queue pairs of the network device that a driver uses, and queues of the disk. */
  readonly pairs: number
  readonly diskQueues: number
  /** The ranges that an address space has for the device; undefined where nobody can look. */
  readonly mapped?: (path: string) => readonly { readonly asid: number; readonly ranges: readonly string[] }[]
  /** Descriptors that are open, by what they are. */
  readonly descriptors: () => readonly string[]
}

export class SweepWorld {
  readonly ground: Ground
  readonly patience: number
  readonly backend: FaultyBackend
  readonly things: Things = {}
  readonly memory: MemoryRegion
  /** What was open before anything was done. */
  readonly #before: readonly string[]
  /** All memory that the package took; the program's own is apart. */
  readonly #taken: MemoryRegion[] = []
  /** What is waited for beside the verb. */
  readonly #waits: Promise<unknown>[] = []

  /** `patience`: milliseconds that a device has for a command; short, where some are never answered. */
  constructor(ground: Ground, patience = 50) {
    this.ground = ground
    this.patience = patience
    this.#before = ground.descriptors()
    this.memory = ground.backend.allocate(16 * 4096)
    this.backend = new FaultyBackend(ground.backend)
    const allocate = this.backend.allocate.bind(this.backend)
    this.backend.allocate = (...wish) => {
      const region = allocate(...wish)
      this.#taken.push(region)
      return region
    }
  }

  /** A promise that must have settled at the end, well or badly. */
  wait(promise: Promise<unknown>): void {
    this.#waits.push(promise.catch(() => undefined))
  }

  /** What must hold right after the verb: the kernel has nothing mapped that we do not know of. */
  checkMaps(): void {
    expect(this.unknownMaps()).toEqual([])
  }

  /** What the kernel has mapped and our books do not say: nothing, unless a verb is under way that maps. */
  unknownMaps(): string[] {
    const unknown: string[] = []
    for (const device of [this.things.net, this.things.block]) {
      if (device === undefined || device.isClosed) continue
      for (const { asid, ranges } of this.ground.mapped?.(device.path) ?? []) {
        const ours = device.addressSpace(asid).mappings.map(({ iova, size }) => showRange(iova, size))
        unknown.push(...ranges.filter((range) => !ours.includes(range)))
      }
    }
    return unknown
  }

  /** Closes the devices and counts what is left: descriptors, memory that is not freed, promises that nobody settled. */
  async leftovers(): Promise<string[]> {
    const { net, block, vhostNet } = this.things
    for (const device of [net, block, vhostNet])
      if (device !== undefined) await settled(device.close().catch(() => undefined))
    const left: string[] = []
    for (const region of this.#taken) if (!region.isClosed) left.push(`memory of ${region.length} bytes`)
    for (const [at, wait] of this.#waits.entries())
      await settled(wait).catch(() => left.push(`wait ${at} does not settle`))
    expect(this.memory.holders).toEqual([])
    this.memory.close()
    left.push(...beyond(this.ground.descriptors(), this.#before).map((what) => `${what} is open`))
    return left
  }
}

/** What is in `now` more often than in `before`. */
function beyond(now: readonly string[], before: readonly string[]): string[] {
  const rest = [...before]
  return now.filter((what) => {
    const at = rest.indexOf(what)
    if (at >= 0) rest.splice(at, 1)
    return at < 0
  })
}

function showRange(iova: bigint, size: bigint): string {
  return `[0x${iova.toString(16)}, 0x${(iova + size - 1n).toString(16)}]`
}

/** The promise, or a failure when it does not settle while the event loop turns. */
export async function settled<T>(promise: Promise<T>): Promise<T> {
  let isSettled = false
  const end = () => (isSettled = true)
  promise.then(end, end)
  for (let turn = 0; turn < TURNS && !isSettled; turn++) await new Promise((resolve) => setImmediate(resolve))
  // Threads of a busy machine may need longer than the event loop's turns: who is really left waiting is so for good.
  for (let look = 0; look < LOOKS && !isSettled; look++) await new Promise((resolve) => setTimeout(resolve, 10))
  if (!isSettled) throw new Error('a promise does not settle')
  return promise
}
