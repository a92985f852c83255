// The main job on the simulator, under both laws, and on a device without groups.

import { networkDevice, Simulator } from '../../lib/simulator/index.js'
import { describeMainJob } from './main-job.js'

for (const profile of ['strict', 'linux-6.12'] as const) {
  describeMainJob({
    name: `the simulator (${profile})`,
    backend: () => {
      const simulator = new Simulator({ profile })
      simulator.add(networkDevice({ path: '/dev/vhost-vdpa-0', mac: '00:11:22:33:44:55' }))
      return simulator
    },
    path: () => '/dev/vhost-vdpa-0',
    isLoopback: true,
    hasGroups: true,
    canSuspend: true,
  })
}
