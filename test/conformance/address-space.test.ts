// Address spaces on the simulator: its two kinds of devices, and one that pins memory and reaches few addresses, as behind an IOMMU.

import { blockDevice, customDevice, networkDevice, Simulator } from '../../lib/simulator/index.js'
import { describeAddressSpace } from './address-space.js'

const path = '/dev/vhost-vdpa-0'
const common = { path: () => path, configSize: 0 }

for (const profile of ['strict', 'linux-6.12'] as const) {
  describeAddressSpace({
    ...common,
    name: `the simulator's network device (${profile})`,
    backend: () => {
      const simulator = new Simulator({ profile })
      simulator.add(networkDevice({ path, mac: '02:11:22:33:44:55' }))
      return simulator
    },
    deviceId: 1,
    queues: 3,
    groups: 2,
    addressSpaces: 2,
    doesPin: false,
    hasWindow: false,
  })
  describeAddressSpace({
    ...common,
    name: `the simulator's block device (${profile})`,
    backend: () => {
      const simulator = new Simulator({ profile })
      simulator.add(blockDevice({ path }))
      return simulator
    },
    deviceId: 2,
    queues: 1,
    groups: 1,
    addressSpaces: 1,
    doesPin: false,
    hasWindow: false,
  })
}
describeAddressSpace({
  ...common,
  name: "the simulator's device that pins memory",
  backend: () => {
    const simulator = new Simulator({ memlock: 8 * 2 ** 20 })
    simulator.add(
      customDevice({
        path,
        deviceId: 25,
        queues: 1,
        iovaRange: { first: 0n, last: 0xff_ffff_ffffn },
        capabilities: { pinsMemory: true },
      }),
    )
    return simulator
  },
  deviceId: 25,
  queues: 1,
  groups: 1,
  addressSpaces: 1,
  doesPin: true,
  hasWindow: true,
})
