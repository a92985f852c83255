// The control plane's law on the simulator.

import { blockDevice, networkDevice, Simulator } from '../../lib/simulator/index.js'
import { describeControlPlane } from './control-plane.js'

const path = '/dev/vhost-vdpa-0'

for (const profile of ['strict', 'linux-6.12'] as const) {
  describeControlPlane({
    name: `the simulator's network device (${profile})`,
    backend: () => {
      const simulator = new Simulator({ profile })
      simulator.add(networkDevice({ path, mac: '02:11:22:33:44:55' }))
      return simulator
    },
    path: () => path,
    deviceId: 1,
    queues: 3,
    groups: 2,
    addressSpaces: 2,
    configSize: 24,
    doesPin: false,
    hasWindow: false,
  })
  describeControlPlane({
    name: `the simulator's block device (${profile})`,
    backend: () => {
      const simulator = new Simulator({ profile })
      simulator.add(blockDevice({ path }))
      return simulator
    },
    path: () => path,
    deviceId: 2,
    queues: 1,
    groups: 1,
    addressSpaces: 1,
    configSize: 96,
    doesPin: false,
    hasWindow: false,
  })
}
