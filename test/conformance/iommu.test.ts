// The IOMMU's suite on the simulator.

import { networkDevice, Simulator } from '../../lib/simulator/index.js'
import { describeIommu } from './iommu.js'

const NET = '/dev/vhost-vdpa-0'

for (const profile of [undefined, 'linux-6.12'] as const) {
  describeIommu({
    name: profile === undefined ? 'a simulated network device' : `a network device as of ${profile}`,
    backend: () => {
      const simulator = new Simulator(profile === undefined ? {} : { profile })
      simulator.add(networkDevice({ path: NET, mac: '00:11:22:33:44:55' }))
      return simulator
    },
    path: () => NET,
  })
}
