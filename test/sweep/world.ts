// A network device and a disk on a simulator behind a saboteur, and the witness of what is left of them: nothing, whatever was refused.

import { expect } from '@jest/globals'
import { FaultyBackend } from '../../lib/backend/faulty-backend.js'
import type { NetControlQueue } from '../../lib/control/net-control-queue.js'
import type { ShadowControlQueue } from '../../lib/control/shadow-queue.js'
import type { AddressSpace } from '../../lib/device/address-space.js'
import type { DeviceQueue } from '../../lib/device/device-queue.js'
import type { MemoryFollower } from '../../lib/device/memory-follower.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import type { BlockDriver } from '../../lib/drivers/block-driver.js'
import type { NetDriver } from '../../lib/drivers/net-driver.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'
import {
  blockDevice,
  extraNetFeatures,
  networkDevice,
  Simulator,
  type ModelDevice,
  type SimulatorOptions,
} from '../../lib/simulator/index.js'

export const NET = '/dev/vhost-vdpa-0'
export const BLOCK = '/dev/vhost-vdpa-1'
/** Turns of the event loop after which a promise counts as one that never settles. */
const TURNS = 3000

/** What a row's steps leave for its verb. */
export interface Things {
  net?: VdpaDevice<'net'>
  block?: VdpaDevice<'block'>
  queue?: DeviceQueue
  control?: NetControlQueue
  shadow?: ShadowControlQueue<AddressSpace>
  driver?: NetDriver
  disk?: BlockDriver
  follower?: MemoryFollower
}

export class SweepWorld {
  readonly simulator: Simulator
  readonly backend: FaultyBackend
  readonly netModel: ModelDevice
  readonly things: Things = {}
  readonly memory: MemoryRegion
  /** All memory that the package took; the program's own is apart. */
  readonly #taken: MemoryRegion[] = []
  /** What is waited for beside the verb. */
  readonly #waits: Promise<unknown>[] = []

  constructor(options: SimulatorOptions = {}) {
    const simulator = (this.simulator = new Simulator(options))
    this.netModel = networkDevice({ path: NET, moreFeatures: extraNetFeatures, queuePairs: 2 })
    simulator.add(this.netModel)
    simulator.add(blockDevice({ path: BLOCK, capacity: 64, queues: 2 }))
    this.memory = simulator.allocate(16 * 4096)
    this.backend = new FaultyBackend(simulator)
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
    for (const device of [this.things.net, this.things.block]) {
      if (device === undefined || device.isClosed) continue
      for (const space of this.simulator.dump(device.path).addressSpaces) {
        const ours = device.addressSpace(space.asid).mappings.map(({ iova, size }) => showRange(iova, size))
        expect(ours).toEqual(expect.arrayContaining(space.mappings.map(({ range }) => range)))
      }
    }
  }

  /** Closes both devices and counts what is left: descriptors, memory that is not freed, promises that nobody settled. */
  async leftovers(): Promise<string[]> {
    const { net, block } = this.things
    for (const device of [net, block]) if (device !== undefined) await settled(device.close().catch(() => undefined))
    const left = this.simulator.descriptors.map(String)
    for (const region of this.#taken) if (!region.isClosed) left.push(`memory of ${region.length} bytes`)
    for (const path of [NET, BLOCK]) if (this.simulator.dump(path).isOpen) left.push(`${path} is open`)
    for (const [at, wait] of this.#waits.entries())
      await settled(wait).catch(() => left.push(`wait ${at} does not settle`))
    expect(this.memory.holders).toEqual([])
    this.memory.close()
    return left
  }
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
  if (!isSettled) throw new Error('a promise does not settle')
  return promise
}
