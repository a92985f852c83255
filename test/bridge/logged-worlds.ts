// Simulated devices behind bridges, for front ends that log: what each test of them begins and ends with.

import { afterEach, expect } from '@jest/globals'
import { FaultyBackend } from '../../lib/backend/faulty-backend'
import type { KernelBackend } from '../../lib/kernel/kernel-backend'
import { openDevice } from '../../lib/open'
import { bridgeVhostUser } from '../../lib/serve'
import {
  blockDevice,
  networkDevice,
  Simulator,
  type BlockDeviceOptions,
  type NetworkDeviceOptions,
} from '../../lib/simulator'
import { bit } from '../../lib/base/bits'
import { netFeatureBits as net, transportFeatureBits as transport } from '../../lib/uapi/virtio-features'
import type { BackendFeature } from '../../lib/uapi/vhost-types'
import { ownFolder } from '../own-folder'
import { FrontEndLog } from './logged-guest'

export const packed = bit(transport.VIRTIO_F_RING_PACKED)
export const eventIdx = bit(transport.VIRTIO_F_RING_EVENT_IDX)
const moreFeatures = [transport.VIRTIO_F_RING_PACKED, transport.VIRTIO_F_RING_EVENT_IDX]
export const STATUS = bit(16)
/** What rings may be like: the features that are not taken, and the shape that follows. */
export const kinds = [
  ['split', 'split', packed | eventIdx],
  ['split, EVENT_IDX', 'split', packed],
  ['packed', 'packed', eventIdx],
  ['packed, EVENT_IDX', 'packed', 0n],
] as const

/** For a suite: what is begun here ends after each test, and nothing is open then. */
export function loggedWorlds(backend: () => KernelBackend) {
  const logs: FrontEndLog[] = []
  afterEach(() => {
    for (const log of logs.splice(0)) log.region.close()
  })
  const { begin, file } = ownFolder(backend)
  const newLog = (bytes?: number) => {
    const log = new FrontEndLog(backend(), bytes)
    logs.push(log)
    return log
  }
  const disk = async (options: BlockDeviceOptions = {}, backendFeatures?: readonly BackendFeature[]) => {
    const simulator = new Simulator()
    const content = new Uint8Array(32_768).map((_, index) => index >> 9)
    const model = blockDevice({ capacity: 64, content, moreFeatures, ...options })
    const device = await openDevice(simulator.add(model), {
      backend: simulator,
      expect: 'block',
      ...(backendFeatures && { backendFeatures }),
    })
    const bridge = await bridgeVhostUser(device, { socket: file('socket') })
    const end = async () => {
      await bridge.close()
      if (!device.isClosed) expect([device.state, device.addressSpace(0).size]).toEqual(['claimed', 0])
      await device.close()
      expect(simulator.descriptors).toEqual([])
    }
    return { simulator, model, device, bridge, [Symbol.asyncDispose]: end }
  }
  const network = async (options: NetworkDeviceOptions = {}) => {
    const simulator = new Simulator()
    const faults = Object.assign(new FaultyBackend(simulator), { share: simulator.share.bind(simulator) })
    const more = [net.VIRTIO_NET_F_CTRL_RX, net.VIRTIO_NET_F_CTRL_VLAN, ...moreFeatures]
    const model = networkDevice({ mac: '02:00:00:00:00:01', queuePairs: 2, moreFeatures: more, ...options })
    const device = await openDevice(simulator.add(model), { backend: faults, expect: 'net' })
    const bridge = await bridgeVhostUser(device, { socket: file('net') })
    const end = async () => {
      await bridge.close()
      if (!device.isClosed) expect([device.state, device.addressSpace(0).size]).toEqual(['claimed', 0])
      await device.close()
      expect(simulator.descriptors).toEqual([])
    }
    return { simulator, faults, model, device, bridge, [Symbol.asyncDispose]: end }
  }
  return { begin, newLog, disk, network, file }
}
