// The conformance suites of the control plane and of the data path on devices behind a channel: nothing above the seam may tell the difference.

import { extraNetFeatures, networkDevice, Simulator, blockDevice } from '../../lib/simulator/index.js'
import type { DeviceOps } from '../../lib/models/device-ops.js'
import { ChannelBackend } from '../../lib/vfio-channel/channel-backend.js'
import { openFarEnd } from '../../lib/vfio-channel/far-end.js'
import { TodayServer } from '../../lib/vfio-channel/today-server.js'
import { describeControlPlane } from '../conformance/control-plane.js'
import { describeNetDatapath } from '../conformance/net-datapath.js'

const path = '/dev/vhost-vdpa-0'
const mac = '52:54:11:22:33:10'

function behindChannel(device: DeviceOps): ChannelBackend {
  const far = new Simulator()
  far.add(device)
  return new ChannelBackend(new Simulator(), (node) => ({ region: new TodayServer(openFarEnd(far, node)) }))
}

describeControlPlane({
  name: 'a network device behind a channel',
  backend: () => behindChannel(networkDevice({ path, mac: '02:11:22:33:44:55' })),
  path: () => path,
  deviceId: 1,
  queues: 3,
  groups: 2,
  addressSpaces: 2,
  configSize: 24,
  doesPin: false,
  hasWindow: false,
  passesNothing: 'a channel is opened by its name: pass the name',
})

describeControlPlane({
  name: 'a disk behind a channel',
  backend: () => behindChannel(blockDevice({ path })),
  path: () => path,
  deviceId: 2,
  queues: 1,
  groups: 1,
  addressSpaces: 1,
  configSize: 96,
  doesPin: false,
  hasWindow: false,
  passesNothing: 'a channel is opened by its name: pass the name',
})

for (const [name, features] of [
  ['split', []],
  ['packed, event idx', ['VIRTIO_F_RING_PACKED', 'VIRTIO_F_RING_EVENT_IDX']],
] as const)
  describeNetDatapath({
    name: `a looping device behind a channel, ${name}`,
    backend: () => behindChannel(networkDevice({ path, mac, moreFeatures: extraNetFeatures })),
    path: () => path,
    features,
    far: 'loop',
    canSuspend: true,
  })
