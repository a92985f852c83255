// A network device of the simulator with a driver on it, and devices that lie to their driver.

import { NetControlQueue } from '../../lib/control/net-control-queue.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { NetDriver, type NetDriverOptions } from '../../lib/drivers/net-driver.js'
import { DeviceQueue as ModelQueue } from '../../lib/models/device-queue.js'
import { openDevice } from '../../lib/open.js'
import {
  customDevice,
  DEFAULT_NET_FEATURES,
  extraNetFeatures,
  networkDevice,
  Simulator,
  type ModelDevice,
  type NetworkDeviceOptions,
} from '../../lib/simulator/index.js'
import { featureBits, type FeatureName } from './features.js'

export const path = '/dev/vhost-vdpa-0'
export const mac = '02:11:22:33:44:55'

export interface Setup extends NetDriverOptions {
  readonly features?: readonly FeatureName[]
  readonly device?: NetworkDeviceOptions
  readonly hasControl?: boolean
  readonly simulator?: Simulator
}

export interface Running {
  readonly simulator: Simulator
  readonly device: VdpaDevice<'net'>
  readonly driver: NetDriver
  readonly control: NetControlQueue | undefined
}

/** A driver on a looping device that offers everything the model has; the device runs. */
export async function run({ features = [], device: shape = {}, hasControl, ...rest }: Setup = {}): Promise<Running> {
  const { simulator = new Simulator(), ...options } = rest
  simulator.add(networkDevice({ path, mac, moreFeatures: extraNetFeatures, ...shape }))
  return start(simulator, features, hasControl === true, options)
}

/** A driver on a device of two queues that does with each chain what `serve` does; it offers every feature named. */
export async function runHostile(
  features: readonly FeatureName[],
  serve: (queue: ModelQueue) => boolean,
  options: NetDriverOptions = {},
): Promise<Running> {
  const simulator = new Simulator()
  const offered = featureBits(features) | DEFAULT_NET_FEATURES
  const device: ModelDevice = customDevice({
    path,
    deviceId: 1,
    queues: 2,
    features: offered,
    config: new Uint8Array(24),
    onKick: (chain) => {
      if (!(chain instanceof ModelQueue)) throw new Error('not a queue')
      return serve(chain)
    },
  })
  simulator.add(device)
  return start(simulator, features, false, options)
}

async function start(
  simulator: Simulator,
  features: readonly FeatureName[],
  hasControl: boolean,
  options: NetDriverOptions,
): Promise<Running> {
  const device = await openDevice(path, { backend: simulator, expect: 'net' })
  const wish: FeatureName[] = ['VIRTIO_NET_F_MAC', ...features]
  if (hasControl) wish.push('VIRTIO_NET_F_CTRL_VQ')
  await device.negotiate(wish)
  const driver = await NetDriver.start(device, options)
  const control = hasControl ? await NetControlQueue.start(device, device.addressSpace(0)) : undefined
  await device.start()
  driver.kickReceive()
  return { simulator, device, driver, control }
}

/** A frame to the device's own address that carries a number, filled with its low byte. */
export function numbered(number: number, length = 64): Uint8Array {
  const frame = new Uint8Array(length).fill(number & 0xff)
  frame.set(mac.split(':').map((part) => parseInt(part, 16)))
  frame.set([0x02, 0x99, 0x99, 0x99, 0x99, 0x02, 0x88, 0xb5], 6)
  new DataView(frame.buffer).setUint32(14, number)
  return frame
}

/** The number that a frame carries. */
export function numberOf(frame: Uint8Array): number {
  return new DataView(frame.buffer, frame.byteOffset, frame.byteLength).getUint32(14)
}
