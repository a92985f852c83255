// The data path on the simulator: a device that loops, and one on a wire with another device and its driver at the far end.

import type { Backend } from '../../lib/backend/backend.js'
import { NetDriver } from '../../lib/drivers/net-driver.js'
import { openDevice } from '../../lib/open.js'
import {
  extraNetFeatures,
  networkDevice,
  pair,
  Simulator,
  type NetworkDevice,
  type NetworkDeviceOptions,
} from '../../lib/simulator/index.js'
import { netFeatureBits, transportFeatureBits } from '../../lib/uapi/virtio-features.js'
import { describeNetDatapath, type DatapathTarget, type Wire } from './net-datapath.js'
import { udpFrame, udpPayload } from './net-frames.js'

const path = '/dev/vhost-vdpa-0'
const farPath = '/dev/vhost-vdpa-9'
const mac = '52:54:11:22:33:10'
const port = 9999

const rings = {
  split: [],
  'split, event idx, in order': ['VIRTIO_F_RING_EVENT_IDX', 'VIRTIO_F_IN_ORDER'],
  packed: ['VIRTIO_F_RING_PACKED'],
  'packed, event idx': ['VIRTIO_F_RING_PACKED', 'VIRTIO_F_RING_EVENT_IDX'],
} as const satisfies Record<string, DatapathTarget['features']>

for (const [name, features] of Object.entries(rings)) {
  describeNetDatapath({
    name: `a looping simulated device, ${name}`,
    backend: () => {
      const simulator = new Simulator()
      simulator.add(networkDevice({ path, mac, moreFeatures: extraNetFeatures }))
      return simulator
    },
    path: () => path,
    features,
    far: 'loop',
    canSuspend: true,
  })
}

/** The device of a simulator that `wired` made, with its partner. */
const devices = new WeakMap<Backend, NetworkDevice>()

function wired(options: NetworkDeviceOptions): Backend {
  const simulator = new Simulator()
  const moreFeatures = [...extraNetFeatures, netFeatureBits.VIRTIO_NET_F_STATUS]
  moreFeatures.push(transportFeatureBits.VIRTIO_F_NOTIFICATION_DATA)
  const device = networkDevice({
    path,
    mac,
    moreFeatures,
    capabilities: { doorbell: true, suspend: false },
    ...options,
  })
  const far = networkDevice({ path: farPath, mac: '52:54:11:22:33:11' })
  pair(device, far)
  simulator.add(device)
  simulator.add(far)
  devices.set(simulator, device)
  return simulator
}

async function farEnd(backend: Backend): Promise<Wire> {
  const device = await openDevice(farPath, { backend, expect: 'net' })
  await device.negotiate(['VIRTIO_NET_F_MAC'])
  const driver = await NetDriver.start(device)
  await device.start()
  driver.kickReceive()
  const arrived: Uint8Array[] = []
  driver.onFrame((frame) => {
    const payload = udpPayload(frame, port)
    if (payload !== undefined) arrived.push(payload)
  })
  const macs = { from: '52:54:11:22:33:11', to: 'ff:ff:ff:ff:ff:ff' }
  return {
    ip: '192.0.2.1',
    port,
    arrived,
    send: (payload) => {
      driver.reclaim()
      driver.send(udpFrame(macs, { from: '192.0.2.1', to: '192.0.2.255' }, port, payload))
    },
    setLink: (isUp) => {
      devices.get(backend)?.changeConfig(6, Uint8Array.of(isUp ? 1 : 0, 0))
      return Promise.resolve()
    },
    close: () => void device.close(),
  }
}

describeNetDatapath({
  name: 'a simulated device on a wire, by doorbell',
  backend: () => wired({}),
  path: () => path,
  features: ['VIRTIO_NET_F_STATUS', 'VIRTIO_NET_F_MRG_RXBUF'],
  notifyBy: 'doorbell',
  far: farEnd,
  canSuspend: false,
})
describeNetDatapath({
  name: 'a simulated device on a wire, packed, by doorbell with NOTIFICATION_DATA, four pairs',
  backend: () => wired({ queuePairs: 4 }),
  path: () => path,
  features: [
    'VIRTIO_NET_F_STATUS',
    'VIRTIO_F_RING_PACKED',
    'VIRTIO_F_NOTIFICATION_DATA',
    'VIRTIO_NET_F_MQ',
    'VIRTIO_NET_F_CTRL_VQ',
  ],
  notifyBy: 'doorbell',
  pairs: 4,
  far: farEnd,
  canSuspend: false,
})
