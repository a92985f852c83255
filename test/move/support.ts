// Two network devices beside one another in a simulator, the first with a driver on it, and frames that go round through them.

import { NetControlQueue } from '../../lib/control/net-control-queue.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { NetDriver } from '../../lib/drivers/net-driver.js'
import type { Backend } from '../../lib/backend/backend.js'
import { FaultyBackend } from '../../lib/backend/faulty-backend.js'
import { openDevice } from '../../lib/open.js'
import { extraNetFeatures, networkDevice, Simulator, type NetworkDeviceOptions } from '../../lib/simulator/index.js'
import type { FeatureName } from '../drivers/features.js'
import { mac, numbered, numberOf } from '../drivers/support.js'

export const [A, B] = ['/dev/vhost-vdpa-0', '/dev/vhost-vdpa-1'] as const

export interface PairSetup {
  readonly features?: readonly FeatureName[]
  readonly source?: NetworkDeviceOptions
  readonly target?: NetworkDeviceOptions
}

export interface Pair {
  readonly simulator: Simulator
  readonly backend: FaultyBackend
  readonly models: readonly ReturnType<typeof networkDevice>[]
  readonly source: VdpaDevice<'net'>
  readonly target: VdpaDevice<'net'>
  readonly driver: NetDriver
  readonly control: NetControlQueue
}

/** The address that the driver has the device use. */
export const address = mac

/** A driver and a control queue in its own space on the first device, which runs; the second is open. */
export async function runPair({ features = [], source: from = {}, target: to = {} }: PairSetup = {}): Promise<Pair> {
  const simulator = new Simulator()
  const models = [from, to].map((shape, at) =>
    networkDevice({ path: at === 0 ? A : B, moreFeatures: extraNetFeatures, queuePairs: 2, ...shape }),
  )
  for (const model of models) simulator.add(model)
  const backend = new FaultyBackend(simulator)
  const source = await openDevice(A, { backend, expect: 'net' })
  const target = await openDevice(B, { backend, expect: 'net' })
  return { simulator, backend, models, target, ...(await startOn(source, features)) }
}

/** A driver and a control queue on a device. */
export async function startOn(source: VdpaDevice<'net'>, features: readonly FeatureName[]) {
  const base = ['VIRTIO_NET_F_MAC', 'VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_CTRL_MAC_ADDR'] as const
  await source.negotiate([...base, ...features], { optional: ['VIRTIO_NET_F_CTRL_RX', 'VIRTIO_NET_F_MQ'] })
  const controlIndex = source.controlQueueIndex ?? 0
  source.groups.assign(source.groups.of(controlIndex) ?? 0, 1)
  const control = await NetControlQueue.start(source, source.addressSpace(1))
  const pairs = source.features?.has('VIRTIO_NET_F_MQ') === true ? 2 : 1
  const driver = await NetDriver.start(source, { size: 16, pairs })
  await source.start()
  driver.kickReceive()
  await control.setMacAddress(mac)
  if (pairs === 2) await driver.usePairs(control)
  return { source, driver, control }
}

/** Sends `count` frames, and what comes back of all that was sent: their numbers, in order. */
export class Traffic {
  readonly seen: number[] = []
  #next = 0

  send(driver: NetDriver, count: number): void {
    for (let sent = 0; sent < count; sent++) if (driver.send(numbered(this.#next))) this.#next++
  }

  /** As send(), to a device that is broken: the driver is not asked whether it is. */
  sendDirectly(driver: NetDriver, count: number): void {
    for (let sent = 0; sent < count; sent++) if (isSent(driver, this.#next)) this.#next++
  }

  receive(driver: NetDriver): void {
    for (let pair = 0; pair < driver.activePairs; pair++)
      driver.receive((frame) => this.seen.push(numberOf(frame)), undefined, pair)
  }

  /** Waits until all has come back, or nothing comes any more. */
  async settle(driver: NetDriver, turns = 60): Promise<void> {
    for (let turn = 0; turn < turns && this.seen.length < this.#next; turn++) {
      await new Promise((resolve) => setImmediate(resolve))
      this.receive(driver)
    }
  }

  get sent(): number[] {
    return Array.from({ length: this.#next }, (_, number) => number)
  }
}

function isSent(driver: NetDriver, number: number): boolean {
  try {
    return driver.send(numbered(number))
  } catch {
    return false
  }
}

/** What of a simulated device runs: DRIVER_OK, and not suspended. */
export function runs(device: VdpaDevice): boolean {
  return !device.isClosed && device.state === 'running'
}

export type { Backend }
